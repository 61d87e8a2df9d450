#!/usr/bin/env python3
"""seawall beside nginx and HAProxy, and beside itself without the hold: requests/s, CPU µs per request of a GET,
and the time to the first byte.

    benches/peers/run.py [--rounds 7] [--seconds 5] [--connections 64] [--bytes 22] [--seawall PATH]

Installs nginx, HAProxy and wrk from Debian's packages if they are missing. Each proxy has one worker, pinned
to core 0; the load (wrk) and the origin (nginx, `return 200`) share core 1. Equal settings: keep-alive on
both sides, no access log. Rounds are interleaved (A B C, B C A, …), because the machine's speed drifts; medians
are printed as a Markdown table, with the ratio to the best peer paired by round. CPU is user + system time from
/proc of the proxy and all its children. An answer that is not the origin's 200, or a socket error, ends the run:
errors must be zero.
"""

import argparse
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

PROXY_CORE, LOAD_CORE = "0", "1"
BODY = "hello from the origin\n"
TICKS = os.sysconf("SC_CLK_TCK")

NGINX = """
worker_processes 1;
daemon off;
pid {dir}/nginx-{port}.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {dir}/{port}-body; proxy_temp_path {dir}/{port}-proxy; fastcgi_temp_path {dir}/{port}-f;
  uwsgi_temp_path {dir}/{port}-u; scgi_temp_path {dir}/{port}-s;
  keepalive_requests 100000000;
  keepalive_timeout 300s;
  {http}
}}
"""
ORIGIN = """
  server {{ listen 127.0.0.1:{port} backlog=4096; default_type text/plain;
    location / {{ {answer} }} }}
"""
NGINX_PROXY = """
  upstream app {{ server 127.0.0.1:{origin}; keepalive 256; keepalive_requests 100000000; keepalive_timeout 300s; }}
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header Host $host; }} }}
"""
HAPROXY = """
global
  nbthread 1
  maxconn 8192
defaults
  mode http
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 300s
  timeout server 30s
  timeout http-keep-alive 300s
frontend in
  bind 127.0.0.1:{port} backlog 4096
  default_backend app
backend app
  server one 127.0.0.1:{origin} pool-max-conn 1024
"""
SEAWALL = """
workers: 1
listeners: [{{ address: "127.0.0.1:{port}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
upstreams:
  app: {{ endpoints: ["http://127.0.0.1:{origin}"] }}
routes: [{{ upstream: app{route} }}]
"""


def install():
    """The peers and the load generator, from Debian's packages."""
    missing = [name for name in ("nginx", "haproxy", "wrk", "taskset") if not shutil.which(name, path=search_path())]
    if not missing:
        return
    packages = [{"taskset": "util-linux"}.get(name, name) for name in missing]
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    # RUNLEVEL=1: the packages' own services must not start.
    apt = [*root, "env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]
    print(f"installing {' '.join(packages)}", file=sys.stderr)
    try:
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            subprocess.run([*apt, *arguments], check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        sys.exit(f"could not install them; as root: apt-get install {' '.join(packages)}")


def search_path():
    return os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"


def tool(name):
    return shutil.which(name, path=search_path())


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A pinned server and the CPU time of its whole process tree."""

    def __init__(self, name, argv, core, port, log, body=BODY):
        self.name, self.port, self.body = name, port, body
        with log.open("wb") as sink:
            pinned = [tool("taskset"), "--cpu-list", core, *map(str, argv)]
            self.child = subprocess.Popen(
                pinned, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )
        self.log = log

    def wait_until_it_answers(self):
        """Ends the run unless the origin's answer comes through."""
        limit = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    break
            if self.child.poll() is not None or time.monotonic() > limit:
                sys.exit(f"{self.name} did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}/", timeout=5) as answer:
            if (answer.status, answer.read().decode()) != (200, self.body):
                sys.exit(f"{self.name} does not pass on the origin's answer")

    def cpu_seconds(self):
        """User and system time of the process and its living descendants."""
        fields, children = {}, {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                # After the last parenthesis, because a process name may contain anything.
                values = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            pid = int(stat.parent.name)
            fields[pid] = int(values[11]) + int(values[12])
            children.setdefault(int(values[1]), []).append(pid)
        waiting, ticks = [self.child.pid], 0
        while waiting:
            pid = waiting.pop()
            ticks += fields.get(pid, 0)
            waiting += children.get(pid, [])
        return ticks / TICKS

    def stop(self):
        try:
            os.killpg(self.child.pid, signal.SIGTERM)
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait(10)
        except ProcessLookupError:
            pass


def steal_seconds():
    """CPU time that other guests of the machine took from us."""
    return int(Path("/proc/stat").read_text().split("\n")[0].split()[8]) / TICKS


def load(port, seconds, connections):
    """Runs wrk; the number of answered requests, requests/s and the median time of a response in µs."""
    argv = [tool("taskset"), "--cpu-list", LOAD_CORE]
    argv += [tool("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", f"http://127.0.0.1:{port}/"]
    output = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    errors = re.search(r"Socket errors:.*|Non-2xx.*", output)
    if errors:
        sys.exit(f"errors must be zero: {errors.group(0)}")
    count = int(re.search(r"(\d+) requests in", output).group(1))
    rate = float(re.search(r"Requests/sec:\s*([\d.]+)", output).group(1))
    number, unit = re.search(r"50%\s+([\d.]+)(us|ms|s)", output).groups()
    return count, rate, float(number) * {"us": 1, "ms": 1e3, "s": 1e6}[unit]


def measure(server, seconds, connections):
    """One round: (requests/s, CPU µs per request, µs to the response on a single connection).

    The last is the time to the first byte: a response of these sizes is read at once.
    """
    before = server.cpu_seconds()
    count, rate, _ = load(server.port, seconds, connections)
    cpu = (server.cpu_seconds() - before) / count * 1e6
    return rate, cpu, load(server.port, 1, 1)[2]


def version(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr).group(0)


def start_all(servers, directory, seawall, body):
    """Starts the origin and the proxies; each is in `servers` from its start on, so that all are stopped."""

    def start(name, label, text, core, argv, **values):
        port = free_port()
        config = directory / f"{name}.conf"
        config.write_text(text.format(port=port, dir=directory, **values))
        servers[label] = Server(label, [*argv, config], core, port, directory / f"{name}.log", body)
        servers[label].wait_until_it_answers()
        return port

    def nginx(name, label, text, core, **values):
        port_text = NGINX.replace("{http}", text)
        return start(name, label, port_text, core, [tool("nginx"), "-p", directory, "-c"], **values)

    if body == BODY:
        answer = 'return 200 "%s";' % body.replace("\n", "\\n")
    else:
        # nginx takes no long text in its configuration.
        (directory / "index.html").write_text(body)
        answer = f"root {directory};"
    origin = nginx("origin", "origin", ORIGIN, LOAD_CORE, answer=answer)
    nginx("nginx", f"nginx {version(tool('nginx'), '-v')}", NGINX_PROXY, PROXY_CORE, origin=origin)
    haproxy = [tool("haproxy"), "-db", "-f"]
    start("haproxy", f"HAProxy {version(tool('haproxy'), '-v')}", HAPROXY, PROXY_CORE, haproxy, origin=origin)
    for name, label, route in (("seawall", "seawall", ""), ("unheld", "seawall, hold off", ", hold: off")):
        values = {"origin": origin, "admin": free_port(), "route": route}
        start(name, label, SEAWALL, PROXY_CORE, [seawall, "-c"], **values)


def rounds_of(servers, arguments):
    """Interleaved rounds, each starting with another proxy: name to list of (requests/s, CPU µs)."""
    names = [name for name in servers if name != "origin"]
    results = {name: [] for name in names}
    for name in names:
        load(servers[name].port, 1, arguments.connections)
    for number in range(arguments.rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            results[name].append(measure(servers[name], arguments.seconds, arguments.connections))
            rate, cpu, first = results[name][-1]
            print(f"round {number + 1}  {name:18} {rate:8.0f}/s  {cpu:6.1f} µs CPU  {first:6.0f} µs", file=sys.stderr)
    return results


def table(results, arguments, stolen):
    """The result as Markdown."""
    cpu = {name: [each[1] for each in rounds] for name, rounds in results.items()}
    peers = [name for name in results if not name.startswith("seawall")]
    best = min(peers, key=lambda name: statistics.median(cpu[name]))
    share = stolen / (arguments.rounds * arguments.seconds * len(results) * os.cpu_count()) * 100
    yield (
        "| proxy | requests/s (median) | best | CPU µs per request (median) | range | ÷ best peer, paired by round "
        "| µs to the first byte |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, rounds in results.items():
        rates = [each[0] for each in rounds]
        ratio = statistics.median(own / other for own, other in zip(cpu[name], cpu[best], strict=True))
        yield (
            f"| {name} | {statistics.median(rates):,.0f} | {max(rates):,.0f} | {statistics.median(cpu[name]):.1f} "
            f"| {min(cpu[name]):.1f}–{max(cpu[name]):.1f} | {ratio:.2f} "
            f"| {statistics.median(each[2] for each in rounds):.0f} |"
        )
    yield ""
    yield (
        f"{arguments.rounds} interleaved rounds of {arguments.seconds} s, {arguments.connections} connections, "
        f"GET of {arguments.bytes:,} bytes, errors: 0. {os.cpu_count()} cores, Linux {platform.release()}, "
        f"stolen by other guests: {share:.0f} % of the time."
    )


def main():
    root = Path(__file__).resolve().parents[2]
    parser = argparse.ArgumentParser(description="requests/s and CPU per request beside nginx and HAProxy")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--bytes", type=int, default=len(BODY), help="the size of the answer")
    parser.add_argument("--seawall", type=Path, default=root / "target/release/seawall")
    arguments = parser.parse_args()
    if not arguments.seawall.exists():
        sys.exit(f"{arguments.seawall} is missing: cargo build --release")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two cores are needed: one for the proxy, one for the load and the origin")
    install()
    with tempfile.TemporaryDirectory(prefix="seawall-bench-") as directory:
        # nginx gives up root: its worker must reach its folders.
        os.chmod(directory, 0o755)
        servers = {}
        try:
            start_all(servers, Path(directory), arguments.seawall, BODY if arguments.bytes == len(BODY) else "x" * arguments.bytes)
            before = steal_seconds()
            results = rounds_of(servers, arguments)
            print("\n".join(table(results, arguments, steal_seconds() - before)))
        finally:
            for server in servers.values():
                server.stop()


if __name__ == "__main__":
    main()
