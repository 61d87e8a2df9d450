"""The load: as many requests as go (wrk, and h2load for HTTP/2), and a fixed rate of them (pace.py).

h2load speaks HTTP/1.1 too, but in version 1.52 it does not survive a server that closes connections. Neither keeps a
fixed rate and measures from when a request was due, hence pace.py. An answer that is not what the scenario wants, or a
socket error, ends the run: errors must be zero. One thing is allowed, to peers in front of a failing upstream: to close
connections without an answer. Clients send such a request again; it is counted, and the report tells it.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

from peers import PEERS
from programs import tool

PACE = Path(__file__).with_name("pace.py")
# Of h2load: 64 requests at a time, as wrk has with its 64 connections.
STREAMS = 4


class Load:
    def __init__(self, directory, cores, connections):
        self.directory, self.cores, self.connections = directory, cores, connections

    def pinned(self, argv, seconds):
        argv = [tool("taskset"), "--cpu-list", self.cores.load, *map(str, argv)]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 60)
        except subprocess.TimeoutExpired:
            sys.exit(f"{argv[3]} did not end")
        if done.returncode:
            sys.exit(f"{argv[3]}: {done.stderr[-1000:]}{done.stdout[-1000:]}")
        return done.stdout

    def most(self, scenario, name, port, seconds):
        """As many requests as go: (answers, answers/s, requests that got no answer)."""
        url = f"http{'s' if scenario.tls else ''}://127.0.0.1:{port}{scenario.path}"
        return (self.h2load if scenario.http2 else self.wrk)(scenario, name, url, seconds)

    def wrk(self, scenario, name, url, seconds):
        argv = [tool("wrk"), f"-t{self.cores.threads}", f"-c{self.connections}", f"-d{seconds}s", "--timeout", "30s"]
        if scenario.content:
            script = self.directory / "post.lua"
            script.write_text(f'wrk.method = "POST"\nwrk.body = string.rep("x", {scenario.content})\n')
            argv += ["-s", script]
        for line in (*scenario.fields, *(["Connection: close"] if scenario.close else [])):
            argv += ["-H", line]
        output = self.pinned([*argv, url], seconds)
        count = int(re.search(r"(\d+) requests in", output).group(1))
        rate = float(re.search(r"Requests/sec:\s*([\d.]+)", output).group(1))
        bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
        connect, read, write, late = map(int, errors.groups()) if errors else (0, 0, 0, 0)
        closed = read + write if scenario.fails and name in PEERS else 0
        wrong = connect + read + write + late - closed
        if wrong or not count or (int(bad.group(1)) if bad else 0) != (count if scenario.fails else 0):
            sys.exit(f"{scenario.name}, {name}: errors must be zero: {output}")
        return count, rate, closed

    def h2load(self, scenario, name, url, seconds):
        clients = max(1, self.connections // STREAMS)
        argv = [tool("h2load"), f"-t{self.cores.threads}", f"-c{clients}", f"-m{STREAMS}", f"-D{seconds}"]
        output = self.pinned([*argv, url], seconds)
        rate = float(re.search(r"finished in [^,]*, ([\d.]+) req/s", output).group(1))
        done, failed, errors, late = map(
            int, re.search(r"(\d+) done, \d+ succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output).groups()
        )
        good = int(re.search(r"status codes: (\d+) 2xx", output).group(1))
        if failed or errors or late or good < done or not done:
            sys.exit(f"{scenario.name}, {name}: errors must be zero: {output}")
        return done, rate, 0

    def paced(self, scenario, port, seconds):
        """The scenario's fixed rate: p50, p99 and p99.9 in µs, None where there are too few answers to tell."""
        wanted = {"port": port, "seconds": seconds, "path": scenario.path}
        for key in ("rate", "content", "tls", "http2", "close", "fields", "fails"):
            wanted[key] = getattr(scenario, key)
        times = sorted(json.loads(self.pinned([sys.executable, PACE, json.dumps(wanted)], seconds)))
        places = [(int(len(times) * share), share) for share in (0.5, 0.99, 0.999)]
        return tuple(times[place] if len(times) * (1 - share) >= 1 else None for place, share in places)
