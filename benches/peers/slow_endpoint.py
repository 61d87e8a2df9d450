#!/usr/bin/env python3
"""A slow endpoint beside a fast one: who of the proxies sends it how much, and what their clients feel.

    benches/peers/slow_endpoint.py [--rounds 3] [--seconds 3] [--rate 400] [--seawall PATH] [--write]

One app answers after 2 ms, the other after 200 ms; both take whatever comes. Requests come at a fixed rate (pace.py),
interleaved over the proxies; each row is what one way of balancing makes of it. Writes the table between its marks in
benches/README.md with --write.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from multiprocessing import Process, Queue
from pathlib import Path

from programs import install, tool
from servers import LOAD_CORE, NGINX, PROXY_CORE, Server, free_port

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
HAPROXY = """
global
  nbthread 1
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 5s
frontend in
  bind 127.0.0.1:{port}
  default_backend apps
backend apps
  balance {balance}
  {servers}
"""
NGINX_HTTP = """
  upstream apps {{ {balance} {servers} keepalive 64; }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://apps; proxy_http_version 1.1; proxy_set_header Connection ''; }}
  }}
"""


async def app(port, delay, counts):
    """An app that answers each GET after `delay` seconds; tells how many it had when it is asked for /count."""
    served = 0

    async def connection(reader, writer):
        nonlocal served
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                if head.startswith(b"GET /count "):
                    text = str(served).encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(text), text))
                    continue
                served += 1
                await asyncio.sleep(delay)
                writer.write(ANSWER)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()

    server = await asyncio.start_server(connection, "127.0.0.1", port, backlog=1024)
    counts.put("listens")
    await server.serve_forever()


def run_app(port, delay, listens):
    os.sched_setaffinity(0, {int(LOAD_CORE)})
    asyncio.run(app(port, delay, listens))


def served(port):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/count", timeout=5) as answer:
        return int(answer.read())


def proxies(directory, apps, seawall):
    """Each way of balancing: its name and a server that is not started yet."""

    def file(name, text):
        path = directory / name
        path.write_text(text)
        return path

    for name, balance in [("nginx, round robin", ""), ("nginx, least_conn", "least_conn;")]:
        port = free_port()
        servers = " ".join(f"server 127.0.0.1:{app};" for app in apps)
        http = NGINX_HTTP.format(port=port, balance=balance, servers=servers)
        path = file(f"{port}.conf", NGINX.format(workers=1, dir=directory, port=port, http=http))
        yield name, [tool("nginx"), "-c", path], port
    for name, balance in [("HAProxy, roundrobin", "roundrobin"), ("HAProxy, leastconn", "leastconn")]:
        port = free_port()
        servers = "\n  ".join(f"server a{app} 127.0.0.1:{app}" for app in apps)
        path = file(f"{port}.cfg", HAPROXY.format(port=port, balance=balance, servers=servers))
        yield name, [tool("haproxy"), "-f", path], port
    for name, more in [
        ("seawall, round_robin", "balance: round_robin"),
        ("seawall, least_request", "balance: least_request"),
        ("seawall, round_robin, 2 requests an endpoint", "balance: round_robin, limits: { endpoint_requests: 2 }"),
    ]:
        port = free_port()
        endpoints = ", ".join(f"'http://127.0.0.1:{app}'" for app in apps)
        text = (
            f"workers: 1\nlisteners: [{{ address: '127.0.0.1:{port}' }}]\nadmin: {{ address: 'off' }}\n"
            f"upstreams: {{ app: {{ endpoints: [{endpoints}], {more} }} }}\nroutes: [{{ upstream: app }}]\n"
        )
        yield name, [seawall, "--config", file(f"{port}.yaml", text)], port


def paced(port, rate, seconds, path="/"):
    """Microseconds of each answer."""
    wanted = {
        "port": port, "rate": rate, "seconds": seconds, "path": path, "content": 0,
        "tls": False, "http2": False, "close": False, "fails": False,
    }  # fmt: skip
    command = [tool("taskset"), "--cpu-list", LOAD_CORE, sys.executable, HERE / "pace.py", json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def table(results, arguments):
    lines = [
        "| balance | of the requests, the slow endpoint got | p50 | p90 | p99, ms |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, (times, slow, everything) in results.items():
        times.sort()
        p50, p90, p99 = (times[min(len(times) - 1, len(times) * place // 100)] / 1000 for place in (50, 90, 99))
        lines.append(f"| {name} | {100 * slow / everything:.1f} % | {p50:.1f} | {p90:.1f} | {p99:.1f} |")
    lines += ["", f"{arguments.rate} requests a second, {arguments.rounds} rounds of {arguments.seconds} s each."]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rate", type=int, default=400)
    default = HERE.parents[1] / "target/release/seawall"
    parser.add_argument("--seawall", type=Path, default=Path(os.environ.get("SEAWALL_BIN", default)))
    parser.add_argument("--write", action="store_true", help="put the table into benches/README.md")
    arguments = parser.parse_args()
    install("nginx", "haproxy")
    listens, apps, children = Queue(), [], []
    for delay in (0.2, 0.002):
        apps.append(free_port())
        children.append(Process(target=run_app, args=(apps[-1], delay, listens), daemon=True))
        children[-1].start()
        listens.get(timeout=10)
    servers, results = [], {}
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        try:
            for label, argv, port in proxies(directory, apps, arguments.seawall.resolve()):
                server = Server(label, argv, PROXY_CORE, port, directory / f"{port}.log", body="ok")
                servers.append(server)
                server.wait_until_it_answers()
                results[label] = ([], 0, 0)
            for _ in range(arguments.rounds):
                for server in servers:
                    before = [served(app) for app in apps]
                    times = paced(server.port, arguments.rate, arguments.seconds)
                    slow, fast = (served(app) - count for app, count in zip(apps, before, strict=True))
                    known, slow_before, all_before = results[server.name]
                    results[server.name] = (known + times, slow_before + slow, all_before + slow + fast)
        finally:
            for server in servers:
                server.stop()
            for child in children:
                child.terminate()
    text = table(results, arguments)
    print(text)
    if arguments.write:
        begin, end = "<!-- begin: slow endpoint -->", "<!-- end: slow endpoint -->"
        before, _, rest = README.read_text().partition(begin)
        _, _, after = rest.partition(end)
        README.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


if __name__ == "__main__":
    main()
