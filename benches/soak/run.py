#!/usr/bin/env python3
"""A soak test: minutes of mixed load with faults on both sides, and a ledger of every request.

    tests/.venv/bin/python benches/soak/run.py --minutes 10 --write benches/README.md

Ends with exit code 1 and a list of what did not hold. The same seed draws the same load; what meets what is up to time.
"""

import argparse
import asyncio
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "tests/real")]

import report  # noqa: E402
from clients import Clients  # noqa: E402
from support import http1  # noqa: E402
from support.metrics import Metrics  # noqa: E402
from support.processes import Processes, free_port, listens  # noqa: E402
from support.waiting import until  # noqa: E402
from tally import Tally  # noqa: E402
from upstream import Upstream  # noqa: E402

# Times are short, so that hangs end soon and idle connections are gone when the files are counted.
CONFIG = """\
workers: 2
listeners: [{{ address: "127.0.0.1:{port}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
upstreams:
  origin:
    endpoints: ["http://127.0.0.1:{origin}"]
    timeouts: {{ head: 1s, idle: 1s, keep_alive: 2s }}
    ejection: {{ consecutive_failures: 0 }}
  down:
    endpoints: ["http://127.0.0.1:{down}"]
    ejection: {{ consecutive_failures: 0 }}
  app:
    endpoints: ["http://127.0.0.1:{app}"]
    timeouts: {{ head: 10s, keep_alive: 2s }}
routes:
  - {{ path: /h/*, upstream: origin }}
  - {{ path: /down/*, upstream: down }}
  - {{ path: /app/*, upstream: app }}
"""


# The load pauses after each part, so that memory can be compared at rest: what it is under load is what the load is.
PARTS, PARTS_OF_A_SHORT_RUN = 5, 2
# Seconds until nothing is open that was not at the start: keep_alive, and a sweep each second.
KEPT = 3.5


class Seawall:
    """The proxy under test, and what /proc and /metrics say of it."""

    def __init__(self, binary, processes, directory, config=CONFIG, **ports):
        self.port, self.admin = free_port(), free_port()
        file = directory / "soak.yaml"
        file.write_text(config.format(port=self.port, admin=self.admin, **ports))
        self.process = processes.start("seawall", [binary, "-c", file])
        self.process.wait_for_port(self.port).wait_for_port(self.admin)

    def metrics(self):
        return Metrics(http1.operate(self.admin, "/metrics").content.decode())

    def files(self):
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self):
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def memory(self):
        """Resident bytes."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")


class App:
    """uvicorn, SIGKILLed and started again, as long as the load lasts."""

    def __init__(self, processes, port, seed):
        self.processes, self.port, self.random = processes, port, random.Random(f"{seed} app")
        self.killed = 0

    def start(self):
        argv = [sys.executable, "-m", "uvicorn", "--app-dir", HERE, "--host", "127.0.0.1", "--port", self.port]
        argv += ["--ws", "websockets-sansio", "--no-access-log", "app:app"]
        self.process = self.processes.start("uvicorn", argv)

    async def live_and_die(self):
        while True:
            await asyncio.sleep(self.random.uniform(2, 6))
            self.process.kill()
            self.killed += 1
            await asyncio.sleep(self.random.uniform(0, 0.5))
            self.start()
            while not await asyncio.to_thread(listens, self.port):
                await asyncio.sleep(0.05)


async def sample(seawall, samples):
    began = time.monotonic()
    while True:
        samples.append((time.monotonic() - began, seawall.memory(), seawall.files()))
        await asyncio.sleep(0.5)


async def rest(seawall):
    """The memory without load, once idle connections are closed."""
    await asyncio.sleep(KEPT)
    return seawall.memory()


async def soak(options, directory):
    processes = Processes(directory)
    tally, samples = Tally(), []
    origin = Upstream()
    await origin.start()
    try:
        app = App(processes, free_port(), options.seed)
        app.start()
        seawall = Seawall(options.seawall, processes, directory, origin=origin.port, down=free_port(), app=app.port)
        await asyncio.to_thread(app.process.wait_for_port, app.port)
        await asyncio.to_thread(seawall.metrics)
        start = until(lambda: {"files": seawall.files(), "threads": seawall.threads(), "memory": seawall.memory()}, "it runs")
        beside = [asyncio.ensure_future(app.live_and_die()), asyncio.ensure_future(sample(seawall, samples))]
        clients = Clients(seawall.port, origin, tally, options.seed)
        began = time.monotonic()
        rests = []
        parts = PARTS if options.minutes >= 1 else PARTS_OF_A_SHORT_RUN
        for part in range(parts):
            await clients.run(options.clients, options.seconds / parts, part)
            rests.append(await rest(seawall))
        seconds = time.monotonic() - began
        for task in beside:
            task.cancel()
        tally.injected["app server: SIGKILL and restart"] = app.killed
        result = report.Result(options, tally, start, samples, rests, seconds)
        await asyncio.to_thread(result.settle, seawall)
        assert seawall.process.terminate() == 0, "seawall ends in order"
        if "panicked at" in seawall.process.text():
            tally.wrong("a panic: see the log")
        return result
    finally:
        origin.stop()
        processes.end()


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1, help="how long the load lasts")
    parser.add_argument("--clients", type=int, default=48, help="clients at a time")
    parser.add_argument("--seed", default="1")
    parser.add_argument("--seawall", default=os.environ.get("SEAWALL_BIN") or ROOT / "target/release/seawall")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the tables between their marks in this file")
    options = parser.parse_args(arguments)
    options.seconds = options.minutes * 60
    directory = Path(tempfile.mkdtemp(prefix="seawall-soak-"))
    # A test runner's ^C or timeout ends what was started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(2))
    result = asyncio.run(soak(options, directory))
    print(result.markdown())
    wrong = result.wrong()
    for line in wrong:
        print("WRONG:", line)
    if wrong:
        print("the logs are in", directory)
        return 1
    shutil.rmtree(directory)
    if options.write:
        report.write(options.write, "soak", result.markdown())
    print("Every request is accounted for.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
