#!/usr/bin/env python3
"""Healthy requests beside 1,000 slow clients and 1,000 stalled upstreams, and without them, by turns.

    tests/.venv/bin/python benches/soak/slow.py --write benches/README.md

A third of the slow clients sends a byte of its head a second, a third a byte of its content, a third reads 1 KiB of its
answer a second. A stalled upstream has read its request and does not answer. Ends with exit code 1 if the healthy
requests' p99 is more than twice as long beside them.
"""

import argparse
import asyncio
import multiprocessing
import os
import resource
import socket
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(HERE), str(ROOT / "tests/real")]

import report  # noqa: E402
import wire  # noqa: E402
from run import Seawall  # noqa: E402
from support.processes import Processes  # noqa: E402

CONFIG = """\
workers: 1
listeners: [{{ address: "127.0.0.1:{port}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
clients: {{ head_timeout: 5m, body_timeout: 5m }}
upstreams:
  app:
    endpoints: ["http://127.0.0.1:{origin}"]
  slow:
    endpoints: ["http://127.0.0.1:{slow}"]
    timeouts: {{ head: 5m, idle: 5m }}
    limits: {{ connections: 4096, pending: 4096 }}
routes:
  - {{ path: /slow/*, upstream: slow }}
  - {{ upstream: app }}
"""
SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\nContent-Type: text/plain\r\n\r\n" + b"x" * 22
PIECE = bytes(1 << 14)
LARGE = 256 * len(PIECE)


class Origin(asyncio.Protocol):
    """Answers small, large or never, by the path; as cheap as Python can."""

    def connection_made(self, transport):
        self.transport, self.begun, self.left, self.paused = transport, b"", 0, False

    def data_received(self, data):
        self.begun += data
        while b"\r\n\r\n" in self.begun and not self.begun.startswith((b"GET /slow/stall", b"POST ")):
            head, _, self.begun = self.begun.partition(b"\r\n\r\n")
            if head.startswith(b"GET /slow/large"):
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % LARGE)
                self.left = LARGE
                self.resume_writing()
            else:
                self.transport.write(SMALL)

    def pause_writing(self):
        self.paused = True

    def resume_writing(self):
        self.paused = False
        while self.left and not self.paused:
            self.left -= len(PIECE)
            self.transport.write(PIECE)


def serve(pipe):
    """A process of its own: the upstream."""
    raise_limit()

    async def main():
        server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", 0, backlog=4096)
        pipe.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def crowd(pipe, port, count):
    """A process of its own: the slow clients, and those who wait for stalled upstreams."""
    raise_limit()

    async def main():
        steps = [head_by_bytes, content_by_bytes, reads_slowly]
        each = [steps[number % 3](port) for number in range(count)] + [waits(port) for _ in range(count)]
        running = [asyncio.ensure_future(one) for one in each]
        ended, _ = await asyncio.wait(running, timeout=5, return_when=asyncio.FIRST_COMPLETED)
        pipe.send(len(running) - len(ended))
        stopped = asyncio.ensure_future(asyncio.to_thread(pipe.recv))
        ended, _ = await asyncio.wait([stopped, *running], return_when=asyncio.FIRST_COMPLETED)
        lost = sum(one.done() for one in running)
        for one in running:
            one.cancel()
        pipe.send(lost)

    asyncio.run(main())


async def by_bytes(stream, data):
    for byte in data:
        await stream.send(bytes([byte]))
        await asyncio.sleep(1)


async def head_by_bytes(port):
    stream = await wire.connect(port)
    await by_bytes(stream, b"GET /slow/ HTTP/1.1\r\nHost: slow.example\r\nCookie: " + b"x" * 1000)


async def content_by_bytes(port):
    stream = await wire.connect(port)
    await stream.send(b"POST /slow/ HTTP/1.1\r\nHost: slow.example\r\nContent-Length: 1000\r\n\r\n")
    await by_bytes(stream, bytes(999))


async def reads_slowly(port):
    # A bare socket: asyncio's streams read ahead.
    loop = asyncio.get_running_loop()
    taken = socket.socket()
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    taken.setblocking(False)
    await loop.sock_connect(taken, ("127.0.0.1", port))
    await loop.sock_sendall(taken, b"GET /slow/large HTTP/1.1\r\nHost: slow.example\r\n\r\n")
    while await loop.sock_recv(taken, 1024):
        await asyncio.sleep(1)


async def waits(port):
    stream = await wire.connect(port)
    await stream.send(b"GET /slow/stall HTTP/1.1\r\nHost: slow.example\r\n\r\n")
    await stream.reader.read(1)


async def healthy(port, seconds, rate):
    """Requests when they are due, over 16 connections; seconds of each, from when it was due."""
    streams = asyncio.Queue()
    for _ in range(16):
        streams.put_nowait(await wire.connect(port))
    took, running = [], set()

    async def one(due):
        stream = await streams.get()
        await stream.send(b"GET / HTTP/1.1\r\nHost: healthy.example\r\n\r\n")
        answer = await wire.read_answer(stream.reader)
        took.append(time.perf_counter() - due)
        streams.put_nowait(stream)
        assert (answer.status, answer.complete, len(answer.content)) == (200, True, 22)

    began = time.perf_counter()
    for number in range(int(seconds * rate)):
        due = began + number / rate
        # The loop's own timer is a millisecond coarse; what is due is never sent early.
        await asyncio.sleep(max(0, due - time.perf_counter()))
        task = asyncio.ensure_future(one(max(due, time.perf_counter())))
        running.add(task)
        task.add_done_callback(running.discard)
    await asyncio.gather(*running)
    while not streams.empty():
        streams.get_nowait().close()
    return sorted(took)


def raise_limit():
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def started(target, *arguments):
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=target, args=(there, *arguments), daemon=True)
    process.start()
    return process, here


def percentiles(took):
    return {share: 1e6 * took[min(len(took) - 1, int(share / 100 * len(took)))] for share in (50, 99, 99.9)}


def rounds(options, seawall):
    rows = {"alone": [], "beside them": []}
    with_them = {"memory": [], "files": []}
    asyncio.run(healthy(seawall.port, 1, options.rate))
    for _ in range(options.rounds):
        rows["alone"].append(percentiles(asyncio.run(healthy(seawall.port, options.seconds, options.rate))))
        process, pipe = started(crowd, seawall.port, options.count)
        there = pipe.recv()
        assert there == 2 * options.count, f"{2 * options.count - there} of them have ended already"
        # Their first second is over; each has a connection, and half of them one more to the upstream.
        files, memory = seawall.files(), seawall.memory()
        assert files > 2 * options.count + options.count, f"{files} files"
        rows["beside them"].append(percentiles(asyncio.run(healthy(seawall.port, options.seconds, options.rate))))
        with_them["files"].append(files)
        with_them["memory"].append(memory)
        pipe.send("stop")
        lost = pipe.recv()
        process.join(10)
        assert lost == 0, f"{lost} of the slow ones were ended"
        limit = time.monotonic() + 10
        while seawall.files() > 100 and time.monotonic() < limit:
            time.sleep(0.05)
        assert seawall.files() <= 100, "their files are closed"
    return rows, with_them


def markdown(options, rows, with_them):
    name = "{:,.0f} / {:,.0f} / {:,.0f}".format
    lines = [
        f"{options.rounds} rounds by turns, {options.seconds:g} s each, {options.rate:,} healthy requests/s; "
        f"{options.count:,} slow clients and {options.count:,} stalled upstreams; one worker.",
        "",
        "| healthy requests | p50 / p99 / p99.9 µs, each round | p99, median |",
        "| --- | --- | --- |",
    ]
    for row, found in rows.items():
        each = "; ".join(name(*one.values()) for one in found)
        lines.append(f"| {row} | {each} | {median(one[99] for one in found):,.0f} |")
    memory = max(with_them["memory"]) / report.MIB
    lines += ["", f"p99 beside them ÷ alone, median of the rounds: {ratio(rows):.2f}. "]
    lines[-1] += f"seawall held {max(with_them['files']):,} files and {memory:,.0f} MiB then."
    return "\n".join(lines)


def ratio(rows):
    return median(beside[99] / alone[99] for alone, beside in zip(rows["alone"], rows["beside them"], strict=True))


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000, help="slow clients, and as many stalled upstreams")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--rate", type=int, default=300, help="healthy requests a second")
    parser.add_argument("--seawall", default=os.environ.get("SEAWALL_BIN") or ROOT / "target/release/seawall")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between its marks in this file")
    options = parser.parse_args(arguments)
    raise_limit()
    with tempfile.TemporaryDirectory(prefix="seawall-slow-") as directory:
        processes = Processes(Path(directory))
        try:
            origins = [started(serve) for _ in range(2)]
            origin, slow = (pipe.recv() for _, pipe in origins)
            seawall = Seawall(options.seawall, processes, Path(directory), CONFIG, origin=origin, slow=slow)
            text = markdown(options, *(found := rounds(options, seawall)))
        finally:
            processes.end()
            for origin, _ in origins:
                origin.terminate()
    print(text)
    if ratio(found[0]) > 2:
        print("WRONG: more than twice as long")
        return 1
    if options.write:
        report.write(options.write, "slow", text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
