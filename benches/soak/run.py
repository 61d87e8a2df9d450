#!/usr/bin/env python3
"""Mixed load with faults on both sides, for minutes; every request is accounted for, and nothing stays behind.

    benches/soak/run.py [--minutes 10] [--clients 48] [--seed 1] [--seawall PATH] [--write]

Two apps (app.py), one of which is SIGKILLed and started again at random; clients (clients.py) that do what a seed
decides. At the end the metrics must be what the clients saw, gauges and file descriptors be back where they were, and
memory be flat. Exit code 1 and every broken promise if not; `--write` puts the figures into benches/README.md.
"""

import argparse
import asyncio
import os
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from clients import Clients, Tally  # noqa: E402

README = HERE.parent / "README.md"
CONFIG = """\
workers: 2
listeners: [{{ address: "127.0.0.1:{port}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
upstreams:
  app:
    endpoints: ["http://127.0.0.1:{steady}", "http://127.0.0.1:{mortal}"]
    timeouts: {{ head: 1s, idle: 3s, keep_alive: 1s }}
    retry: {{ budget_percent: 100 }}
    slow_start: 1s
routes: [{{ upstream: app }}]
clients: {{ head_timeout: 3s, body_timeout: 3s }}
shutdown: {{ drain: 2s }}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def fetch(port, path):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


class Metrics:
    def __init__(self, port):
        self.lines = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", fetch(port, "/metrics"), re.MULTILINE)

    def by(self, name, label, **only):
        found = Counter()
        for known, labels, value in self.lines:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if known == name and all(labels.get(key) == wanted for key, wanted in only.items()):
                found[labels.get(label)] += int(float(value))
        return Counter({key: count for key, count in found.items() if count})

    def total(self, name, **only):
        return sum(self.by(name, None, **only).values())


class Proxy:
    """The seawall under test, seen from outside: /proc and its metrics."""

    def __init__(self, binary, directory, steady, mortal):
        self.port, self.admin = free_port(), free_port()
        config = directory / "seawall.yaml"
        config.write_text(CONFIG.format(port=self.port, admin=self.admin, steady=steady, mortal=mortal))
        self.log = directory / "seawall.log"
        with self.log.open("wb") as sink:
            self.child = subprocess.Popen([binary, "-c", config], stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        wait_for_port(self.port)
        wait_for_port(self.admin)

    def files(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def threads(self):
        return len(os.listdir(f"/proc/{self.child.pid}/task"))

    def memory_kib(self):
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.child.pid}/status").read_text())[1])

    def metrics(self):
        return Metrics(self.admin)


def wait_for_port(port):
    limit = time.monotonic() + 20
    while time.monotonic() < limit:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    sys.exit(f"nobody listens on port {port}")


class Mortal:
    """An app that is SIGKILLed and started again."""

    def __init__(self, port):
        self.port, self.kills, self.child = port, 0, None
        self.start()

    def start(self):
        argv = [sys.executable, HERE / "app.py", str(self.port)]
        self.child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        wait_for_port(self.port)

    def kill(self):
        self.child.kill()
        self.child.wait()
        self.kills += 1

    async def live(self, decide, is_over):
        while not is_over():
            await asyncio.sleep(decide.uniform(1, 4))
            self.kill()
            await asyncio.sleep(decide.uniform(0.1, 1))
            await asyncio.to_thread(self.start)


def settled(what, goal, seconds=15):
    """What is measured once it is `goal`, or at the end of its time."""
    limit = time.monotonic() + seconds
    while (seen := what()) != goal and time.monotonic() < limit:
        time.sleep(0.1)
    return seen


GAUGES = {
    "requests in flight": ("seawall_requests_in_flight", {}),
    "WebSockets": ("seawall_websocket_sessions", {}),
    "connections of clients": ("seawall_client_connections", {}),
    "connections to the app": ("seawall_upstream_connections", {}),
    "requests that wait": ("seawall_upstream_pending_requests", {}),
}


def gauges(proxy):
    metrics = proxy.metrics()
    return {what: metrics.total(name, **only) for what, (name, only) in GAUGES.items()}


def account(metrics, tally):
    """Where the metrics are not what the clients saw: requests that clients left may count, or not."""
    wrong = []

    def between(what, measured, seen, unsure):
        if not seen <= measured <= seen + unsure:
            wrong.append(f"{what}: the metrics say {measured}, the clients {seen} and {unsure} that they left")

    requests = metrics.by("seawall_requests_total", "status")
    between("requests", sum(requests.values()), sum(tally.sure.values()), tally.unsure)
    for status in set(requests) | {str(status) for status in tally.sure}:
        between(f"requests answered {status}", requests[status], tally.sure[int(status)], tally.unsure)
    failures = {"protocol": "http"}
    named = sum(count for outcome, count in tally.outcomes.items() if outcome.endswith("named"))
    normalized = metrics.total("seawall_failures_total", outcome="normalized", phase="websocket")
    normalized = metrics.total("seawall_failures_total", outcome="normalized") - normalized
    between("failures that became an answer", normalized, named, tally.unsure)
    aborted = metrics.total("seawall_failures_total", outcome="aborted", **failures)
    between("failures that cut an answer off", aborted, tally.outcomes["cut off"], tally.unsure)
    closes = metrics.by("seawall_websocket_closes_total", "code")
    for code in set(closes) | {str(code) for code in tally.closes}:
        between(f"WebSockets closed with {code}", closes[code], tally.closes[int(code)], tally.unsure_sockets)
    if metrics.total("seawall_failures_total", kind="proxy_internal_error"):
        wrong.append("seawall was itself at fault")
    return wrong


def soak(binary, seconds, clients=48, seed=1):
    """Runs it; (figures, broken promises)."""
    with tempfile.TemporaryDirectory() as name:
        return _soak(binary, seconds, clients, seed, Path(name))


def _soak(binary, seconds, clients, seed, directory):
    tally, memory = Tally(), []
    steady, mortal = Mortal(free_port()), Mortal(free_port())
    proxy = Proxy(binary, directory, steady.port, mortal.port)
    try:
        fetch(proxy.port, "/ok/1")
        nothing = dict.fromkeys(GAUGES, 0)
        settled(lambda: gauges(proxy), nothing)
        # The request above is none of theirs.
        tally.sure[200] += 1
        files, threads, at_start = proxy.files(), proxy.threads(), proxy.memory_kib()
        end = time.monotonic() + seconds

        def is_over():
            return time.monotonic() >= end

        async def watch():
            while not is_over():
                memory.append(proxy.memory_kib())
                await asyncio.sleep(min(1, seconds / 40))

        async def everything():
            tasks = [Clients(proxy.port, random.Random(f"{seed}/{at}"), tally).run(is_over) for at in range(clients)]
            await asyncio.gather(mortal.live(random.Random(seed), is_over), watch(), *tasks)

        asyncio.run(everything())
        left = settled(lambda: gauges(proxy), nothing)
        files_after = settled(proxy.files, files)
        wrong = list(tally.wrong[:50])
        wrong += [f"{what}: {count} at the end" for what, count in left.items() if count]
        # A counter may follow a client's last byte by a moment.
        if found := settled(lambda: account(proxy.metrics(), tally), [], 5):
            wrong += found
        if files_after != files:
            wrong.append(f"file descriptors: {files} at the start, {files_after} at the end")
        if proxy.threads() != threads:
            wrong.append(f"threads: {threads} at the start, {proxy.threads()} at the end")
        # Pools and allocator fill in the first third; from then on nothing may grow.
        third = len(memory) // 3
        middle, last = (sorted(part)[len(part) // 2] for part in (memory[third : 2 * third], memory[2 * third :]))
        if last > middle * 1.1 + 4096:
            wrong.append(f"memory: {middle} KiB in the second third, {last} KiB in the last one")
        proxy.child.terminate()
        if proxy.child.wait(15) != 0:
            wrong.append(f"seawall ended with {proxy.child.returncode}")
        if "panicked" in proxy.log.read_text(errors="replace"):
            wrong.append("seawall panicked")
    finally:
        for process in (proxy, steady, mortal):
            if process.child.poll() is None:
                process.child.kill()
                process.child.wait()
    figures = {
        "seconds": seconds, "clients": clients, "seed": seed, "requests": sum(tally.sure.values()) + tally.unsure,
        "left by their clients": tally.unsure, "WebSockets": tally.sure[101], "kills": mortal.kills,
        "faults": tally.faults, "outcomes": tally.outcomes, "closes": tally.closes,
        "memory": (at_start, middle, last), "files": (files, files_after),
    }  # fmt: skip
    return figures, wrong


def table(figures):
    faults = [f"| {name.replace('_', ' ')} | {count:,} |" for name, count in sorted(figures["faults"].items())]
    outcomes = [f"| {name} | {count:,} |" for name, count in sorted(figures["outcomes"].items())]
    closes = [f"| closed with {code} | {count:,} |" for code, count in sorted(figures["closes"].items())]
    start, middle, last = (kib / 1024 for kib in figures["memory"])
    return "\n".join([
        f"{figures['seconds'] / 60:.0f} minutes, {figures['clients']} clients at a time, seed {figures['seed']}: "
        f"{figures['requests']:,} requests, {figures['WebSockets']:,} of them WebSockets, {figures['left by their clients']:,} "
        f"left by their clients; {figures['kills']} times an app was SIGKILLed and started again. Each request is accounted "
        "for, no promise was broken.",
        "",
        "| fault | injected |", "| --- | --- |", *faults, "",
        "| what clients got | |", "| --- | --- |", *outcomes, *closes, "",
        "| | at the start | second third, median | last third, median | after |", "| --- | --- | --- | --- | --- |",
        f"| memory, MiB | {start:.1f} | {middle:.1f} | {last:.1f} | |",
        f"| file descriptors | {figures['files'][0]} | | | {figures['files'][1]} |",
    ])  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=48)
    parser.add_argument("--seed", type=int, default=1)
    default = HERE.parents[1] / "target/release/seawall"
    parser.add_argument("--seawall", type=Path, default=Path(os.environ.get("SEAWALL_BIN", default)))
    parser.add_argument("--write", action="store_true", help="put the figures into benches/README.md")
    arguments = parser.parse_args()
    figures, wrong = soak(arguments.seawall.resolve(), arguments.minutes * 60, arguments.clients, arguments.seed)
    text = table(figures)
    print(text)
    if wrong:
        sys.exit("\n".join(["", f"{len(wrong)} broken promises:", *wrong]))
    if arguments.write:
        begin, end = "<!-- begin: soak -->", "<!-- end: soak -->"
        before, _, rest = README.read_text().partition(begin)
        README.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
