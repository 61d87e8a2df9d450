#!/usr/bin/env python3
"""The user-space instructions of a request, counted by callgrind: seawall, nginx and HAProxy.

    benches/peers/instructions.py [--scenario NAME]… [--proxy NAME]… [--write benches/README.md] [--seawall PATH]

The scenarios are those of run.py. Each proxy runs twice, for few requests and for many, over eight connections (in
`close`, which h2load does not survive, for a short and for a long time by wrk). What the second run counts more belongs
to the requests that it had more. The number repeats to a percent whatever else the machine does: it is the alarm for a
change that costs something, and says nothing of caches and of the kernel. Peers that close connections behind a failing
upstream are left out there. About six minutes.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import peers
import scenarios
from load import STREAMS, Load
from programs import ROOT, install, tool
from report import marks, write

MARK = "instructions"
PROXIES = ("nginx", "haproxy", "seawall")
FEW, MANY = 2_000, 12_000
CONNECTIONS = 8


class Counted:
    """A proxy under callgrind."""

    def __init__(self, directory):
        self.directory = directory

    def wrap(self, name):
        files = self.directory / f"callgrind.{name}.%p"
        return [tool("valgrind"), "--tool=callgrind", f"--callgrind-out-file={files}"]

    def take(self, name):
        """What all its processes have counted; they have ended."""
        total = 0
        for file in self.directory.glob(f"callgrind.{name}.*"):
            counted = re.search(r"^(?:summary|totals): (\d+)", file.read_text(), re.MULTILINE)
            total += int(counted.group(1)) if counted else 0
            file.unlink()
        return total


def ask(stage, load, scenario, name, port, most):
    """So many requests, or seconds of them: how many answers there were."""
    if scenario.close:
        return load.most(scenario, name, port, 1 if most <= FEW else 4)[0]
    url = f"http{'s' if scenario.tls else ''}://127.0.0.1:{port}{scenario.path}"
    argv = [tool("h2load"), f"-n{most}", f"-c{CONNECTIONS}"]
    argv += [f"-m{STREAMS}"] if scenario.http2 else ["--h1"]
    if scenario.content:
        content = stage.directory / "content"
        content.write_bytes(b"x" * scenario.content)
        argv += ["-d", content]
    for line in scenario.fields:
        argv += ["-H", line]
    output = load.pinned([*argv, url], 300)
    answered, failed = re.search(r"status codes: (\d+) 2xx, \d+ 3xx, \d+ 4xx, (\d+) 5xx", output).groups()
    if int(failed if scenario.fails else answered) != most:
        sys.exit(f"{scenario.name}, {name}: errors must be zero: {output}")
    return most


def count(stage, load, counted, scenario, name):
    """Instructions per request."""
    runs = []
    # A large answer is worth many small ones.
    share = 10 if scenario.app == "1m" else 1
    for most in (FEW // share, MANY // share):
        stage.names = [name]
        ((server, port),) = stage.servers(scenario).values()
        answers = ask(stage, load, scenario, name, port, most)
        stage.stop(server)
        runs.append((answers, counted.take(name)))
    (few, less), (many, more) = runs
    return (more - less) / (many - few)


def parse():
    names = [each.name for each in scenarios.ALL]
    parser = argparse.ArgumentParser(description="instructions of a request, by callgrind")
    parser.add_argument("--scenario", action="append", choices=names, metavar="NAME", help=f"{', '.join(names)}; all")
    parser.add_argument("--proxy", action="append", choices=PROXIES, metavar="NAME", help=f"{', '.join(PROXIES)}; all")
    parser.add_argument("--write", type=Path, help=f"a file with the marks `{MARK}`")
    parser.add_argument("--seawall", type=Path, default=os.environ.get("SEAWALL_BIN", ROOT / "target/release/seawall"))
    arguments = parser.parse_args()
    arguments.proxy = arguments.proxy or list(PROXIES)
    arguments.scenario = [each for each in scenarios.ALL if each.name in (arguments.scenario or names)]
    arguments.workers, arguments.envoy = 1, None
    if not arguments.seawall.exists():
        sys.exit(f"{arguments.seawall} is missing: cargo build --release")
    if arguments.write:
        marks(arguments.write, MARK)
    return arguments


def main():
    arguments = parse()
    cores = peers.Cores(1)
    install("nginx", "haproxy", "wrk", "h2load", "openssl", "taskset", "valgrind")
    with tempfile.TemporaryDirectory(prefix="seawall-bench-") as folder:
        # nginx gives up root: its worker must reach its folders, and leave its count there.
        os.chmod(folder, 0o777)
        directory = Path(folder)
        counted = Counted(directory)
        load = Load(directory, cores, CONNECTIONS)
        stage = peers.Stage(directory, cores, arguments, counted.wrap)
        lines = [f"| own instructions | {' | '.join(stage.labels[name] for name in arguments.proxy)} | ÷ best peer |"]
        lines.append("| --- " * (len(arguments.proxy) + 2) + "|")
        try:
            stage.open()
            for scenario in arguments.scenario:
                found = {}
                for name in arguments.proxy:
                    if scenario.fails and name == "haproxy":
                        continue
                    found[name] = count(stage, load, counted, scenario, name)
                    print(f"{scenario.name} {name} {found[name]:,.0f}", file=sys.stderr)
                least = min((count for name, count in found.items() if name != "seawall"), default=None)
                ratio = f"{found['seawall'] / least:.2f}" if least and "seawall" in found else "–"
                cells = [f"{found[name]:,.0f}" if name in found else "–" for name in arguments.proxy]
                lines.append(f"| {scenario.title} | {' | '.join(cells)} | {ratio} |")
        finally:
            stage.stop()
    print("\n".join(lines))
    if arguments.write:
        write(arguments.write, MARK, lines)


if __name__ == "__main__":
    main()
