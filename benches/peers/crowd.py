#!/usr/bin/env python3
"""Healthy requests beside 1,000 slow clients and 1,000 requests that an app does not answer: what do they feel of it?

    benches/peers/crowd.py [--rounds 5] [--seconds 4] [--rate 400] [--seawall PATH] [--write]

Slow clients send a byte of their request head each second, or read an answer of 1 MiB at a few KiB a second. The stalled
requests go to an app that says nothing. Three states, interleaved: without any of them, with the slow clients, with both.
Without them, the same crowd does the same to a server that does nothing with it, so that the load's own work is equal in
all three. Writes the table between its marks in benches/README.md with --write.
"""

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from programs import tool
from servers import LOAD_CORE, PROXY_CORE, Server, free_port
from slow_endpoint import paced

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
CROWD = 1000
CONFIG = """\
workers: 1
listeners: [{{ address: "127.0.0.1:{port}" }}]
admin: {{ address: "off" }}
upstreams:
  app: {{ endpoints: ["http://127.0.0.1:{app}"] }}
  mute: {{ endpoints: ["http://127.0.0.1:{app}"], timeouts: {{ head: 300s }}, limits: {{ connections: 2000 }} }}
routes: [{{ upstream: app }}, {{ path: "/mute", upstream: mute }}]
clients: {{ per_address: 10000, head_timeout: 300s, write_timeout: 300s }}
"""


async def app(port):
    """Answers at once; /large is 1 MiB, /mute is never answered."""

    async def connection(reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ")[1]
                if path == b"/mute":
                    await reader.read()
                    break
                content = b"x" * (1 << 20 if path == b"/large" else 2)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(content), content))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port, backlog=4096)
    print("here", flush=True)
    await server.serve_forever()


async def sink(port):
    """Takes everything, says nothing."""

    async def connection(reader, _):
        while await reader.read(65536):
            pass

    await asyncio.start_server(connection, "127.0.0.1", port, backlog=4096)


async def crowd(slow, stalled):
    """Slow clients of the port `slow`, stalled ones of `stalled`; says when all are there, and goes on for ever."""
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"x" * 4000
    tasks = []

    async def sends_slowly(number):
        _, writer = await asyncio.open_connection("127.0.0.1", slow)

        async def go_on():
            await asyncio.sleep(number / CROWD)
            for at in range(len(head)):
                writer.write(head[at : at + 1])
                await asyncio.sleep(1)

        tasks.append(asyncio.create_task(go_on()))

    async def reads_slowly(number):
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", slow))
        await loop.sock_sendall(sock, b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")

        async def go_on():
            await asyncio.sleep(number / CROWD)
            while True:
                try:
                    sock.recv(2048)
                except BlockingIOError:
                    pass
                await asyncio.sleep(1)

        tasks.append(asyncio.create_task(go_on()))

    async def waits(_):
        _, writer = await asyncio.open_connection("127.0.0.1", stalled)
        writer.write(b"GET /mute HTTP/1.1\r\nHost: localhost\r\n\r\n")
        tasks.append(writer)

    for number in range(CROWD):
        await (sends_slowly if number % 2 else reads_slowly)(number)
        await waits(number)
    print("here", flush=True)
    await asyncio.gather(*(task for task in tasks if isinstance(task, asyncio.Task)))


def child(*words):
    argv = [tool("taskset"), "--cpu-list", LOAD_CORE, sys.executable, __file__, *map(str, words)]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)


def ended(process):
    process.kill()
    process.wait()


def percentile(times, place):
    return sorted(times)[min(len(times) - 1, len(times) * place // 1000)] / 1000


def main():
    if sys.argv[1:2] == ["--app"]:
        asyncio.run(app(int(sys.argv[2])))
    if sys.argv[1:2] == ["--crowd"]:
        slow, stalled, sunk = map(int, sys.argv[2:])

        async def both():
            await sink(sunk)
            await crowd(slow, stalled)

        asyncio.run(both())
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--rate", type=int, default=400)
    default = HERE.parents[1] / "target/release/seawall"
    parser.add_argument("--seawall", type=Path, default=Path(os.environ.get("SEAWALL_BIN", default)))
    parser.add_argument("--write", action="store_true", help="put the table into benches/README.md")
    arguments = parser.parse_args()
    app_port, port = free_port(), free_port()
    origin = child("--app", app_port)
    origin.stdout.readline()
    results = {"without them": [], "beside 1,000 slow clients": [], "beside these and 1,000 stalled requests": []}
    with tempfile.TemporaryDirectory() as name:
        config = Path(name) / "seawall.yaml"
        config.write_text(CONFIG.format(port=port, app=app_port))
        server = Server("seawall", [arguments.seawall.resolve(), "-c", config], PROXY_CORE, port, Path(name) / "log", "xx")
        try:
            server.wait_until_it_answers()
            for _ in range(arguments.rounds):
                for state, (slow, stalled) in zip(results, [(0, 0), (1, 0), (1, 1)], strict=True):
                    sunk = free_port()
                    many = child("--crowd", port if slow else sunk, port if stalled else sunk, sunk)
                    try:
                        if many.stdout.readline() != "here\n":
                            sys.exit("the crowd did not come")
                        results[state].append(paced(port, arguments.rate, arguments.seconds))
                    finally:
                        ended(many)
        finally:
            server.stop()
            ended(origin)
    lines = ["| healthy requests | p50 | p99 | p99.9, ms | p99 ÷ without |", "| --- | --- | --- | --- | --- |"]
    base = [percentile(times, 990) for times in results["without them"]]
    for state, rounds in results.items():
        ratios = sorted(percentile(times, 990) / alone for times, alone in zip(rounds, base, strict=True))
        everything = [time for times in rounds for time in times]
        p50, p99, p999 = (percentile(everything, place) for place in (500, 990, 999))
        lines.append(f"| {state} | {p50:.2f} | {p99:.2f} | {p999:.2f} | {ratios[len(ratios) // 2]:.2f} |")
    lines += ["", f"{arguments.rate} requests a second, {arguments.rounds} rounds of {arguments.seconds} s; the last column "
              "is the median of the rounds' ratios."]  # fmt: skip
    text = "\n".join(lines)
    print(text)
    if arguments.write:
        begin, end = "<!-- begin: crowd -->", "<!-- end: crowd -->"
        before, _, rest = README.read_text().partition(begin)
        README.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()
