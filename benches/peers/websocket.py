#!/usr/bin/env python3
"""WebSockets through seawall beside nginx and HAProxy: memory, CPU per message, and the upstream's crash.

    benches/peers/websocket.py [--only idle,relay,crash] [--sessions 10000] [--rounds 5] [--seawall PATH]

Load and upstream are `benches/websocket` (built here if need be); they share core 1, the proxy has core 0 and one
worker. Rounds are interleaved (A B C, B C A, …), medians are printed as Markdown with the ratio to the best peer.

idle   A new proxy, one warm-up WebSocket, then --sessions idle ones. Memory is the proportional set size (Pss) of the
       proxy's processes from /proc, before, at once after, and --idle seconds later (seawall has pinged each side by
       then); what the kernel holds for the sockets is the same for all and not in it.
relay  A fixed number of messages; user + system time of the proxy per message (ping-pong: per message and its
       answer), and its instructions, if perf(1) may count them: they drift less. What the client received is counted: a message or byte too few or too many ends the run.
crash  A new proxy, --sessions idle WebSockets, then SIGKILL to the upstream: how each client's WebSocket ended, the
       seconds to the last one, and the highest resident size the proxy had.

Two open files per WebSocket: where the hard limit is too low for --sessions, fewer are opened, and the report says so.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from programs import ROOT, install, tool, version
from servers import LOAD_CORE, PROXY_CORE, Instructions, Server, free_port, steal_seconds

LOAD = ROOT / "benches/websocket"

NGINX = """
worker_processes 1;
worker_rlimit_nofile {files};
daemon off;
pid {dir}/nginx-{port}.pid;
error_log stderr crit;
events {{ worker_connections {files}; }}
http {{
  access_log off;
  client_body_temp_path {dir}/{port}-body; proxy_temp_path {dir}/{port}-proxy; fastcgi_temp_path {dir}/{port}-f;
  uwsgi_temp_path {dir}/{port}-u; scgi_temp_path {dir}/{port}-s;
  server {{ listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://127.0.0.1:{upstream}; proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection $http_connection;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header Host $host;
      proxy_read_timeout 300s; proxy_send_timeout 300s; {tuned} }} }}
}}
"""
HAPROXY = """
global
  nbthread 1
  maxconn {sessions}
  {tuned}
defaults
  mode http
  option forwardfor
  timeout connect 5s
  timeout client 300s
  timeout server 300s
  timeout tunnel 300s
frontend in
  bind 127.0.0.1:{port} backlog 4096
  default_backend app
backend app
  server one 127.0.0.1:{upstream}
"""
SEAWALL = """
workers: 1
listeners: [{{ address: "127.0.0.1:{port}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
upstreams:
  app: {{ endpoints: ["http://127.0.0.1:{upstream}"], limits: {{ connections: {files} }} }}
routes: [{{ upstream: app }}]
"""
# As shipped, nginx reads 4 or 8 KiB at a time and HAProxy 16; larger buffers cost every idle session.
TUNED = {"nginx": "proxy_buffer_size 64k; proxy_buffers 4 64k;", "haproxy": "tune.bufsize 65536"}

# name: command of wsload, WebSockets, messages, the rest
CASES = {
    "ping-pong 125 B": ("echo", 64, 100_000, "125"),
    "ping-pong 16 KiB": ("echo", 64, 40_000, "16384"),
    "one-way 125 B, many a write": ("flood", 8, 6_000_000, "125", "65536", "binary"),
    "one-way 125 B, many a write, text": ("flood", 8, 6_000_000, "125", "65536", "text"),
    "one-way 125 B, one a write": ("flood", 64, 500_000, "125", "1", "binary"),
    "one-way 16 KiB": ("flood", 8, 60_000, "16384", "1", "binary"),
    "one-way 16 KiB, text": ("flood", 8, 60_000, "16384", "1", "text"),
}


class Load:
    """The clients: a process that prints a line of JSON at each step and waits for a line in between."""

    def __init__(self, command, proxy, *arguments):
        argv = [tool("taskset"), "--cpu-list", LOAD_CORE, LOAD / "target/release/wsload", command]
        argv += [f"127.0.0.1:{proxy.port}", *map(str, arguments)]
        self.child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.stdin.close()
        self.child.stdout.close()
        self.child.wait(30)

    def line(self):
        text = self.child.stdout.readline()
        if not text:
            sys.exit("the load ended early: see above")
        return json.loads(text)

    def tell(self, text):
        self.child.stdin.write(text + "\n")
        self.child.stdin.flush()


class Stage:
    """Starts upstreams and proxies, and stops all of them at the end."""

    def __init__(self, directory, arguments):
        self.directory, self.arguments, self.running = directory, arguments, []
        self.files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        self.peers = {
            "nginx": f"nginx {version(tool('nginx'), '-v')}",
            "haproxy": f"HAProxy {version(tool('haproxy'), '-v')}",
            "seawall": "seawall",
        }

    def start(self, name, argv, core, port):
        log = self.directory / f"{name}-{port}.log"
        server = Server(name, argv, core, port, log)
        self.running.append(server)
        server.wait_until_it_answers()
        return server

    def upstream(self):
        port = free_port()
        return self.start("upstream", [LOAD / "target/release/wsload", "upstream", f"127.0.0.1:{port}"], LOAD_CORE, port)

    def proxy(self, name, upstream):
        port = free_port()
        config = self.directory / f"{name}-{port}.conf"
        text = {"nginx": NGINX, "haproxy": HAPROXY, "seawall": SEAWALL}[name].format(
            port=port,
            dir=self.directory,
            upstream=upstream.port,
            admin=free_port(),
            files=self.files,
            sessions=self.arguments.sessions + 50,
            tuned=TUNED.get(name, "") if self.arguments.tuned else "",
        )
        config.write_text(text)
        argv = {
            "nginx": [tool("nginx"), "-p", self.directory, "-c"],
            "haproxy": [tool("haproxy"), "-db", "-f"],
            "seawall": [self.arguments.seawall, "-c"],
        }[name]
        return self.start(name, [*argv, config], PROXY_CORE, port)

    def stop(self, *servers):
        for server in servers or list(self.running):
            server.stop()
            self.running.remove(server)

    def interleaved(self, rounds):
        """Round and name, each round starting with another proxy."""
        names = list(self.peers)
        for number in range(rounds):
            shift = number % len(names)
            for name in names[shift:] + names[:shift]:
                yield number, name


def say(*words):
    print(*words, file=sys.stderr, flush=True)


def idle(stage):
    """Memory of idle WebSockets: a Markdown table."""
    arguments, results = stage.arguments, {name: [] for name in stage.peers}
    for number, name in stage.interleaved(arguments.memory_rounds):
        upstream = stage.upstream()
        proxy = stage.proxy(name, upstream)
        with Load("hold", proxy, 1, 1) as warm:
            warm.line()
        before = proxy.pss_kib()
        with Load("hold", proxy, arguments.sessions, 1) as load:
            load.line()
            fresh = proxy.pss_kib()
            time.sleep(arguments.idle)
            later = proxy.pss_kib()
        per_session = [(after - before) / arguments.sessions for after in (fresh, later)]
        results[name].append((before, *per_session))
        say(f"idle {number + 1}  {name:8} before {before} KiB, each {per_session[0]:.2f}, later {per_session[1]:.2f} KiB")
        stage.stop(proxy, upstream)
    medians = {name: [statistics.median(column) for column in zip(*rounds)] for name, rounds in results.items()}
    best = min(medians[name][2] for name in medians if name != "seawall")
    yield f"| {arguments.sessions:,} idle WebSockets | before, MiB | KiB each, just opened | KiB each, {arguments.idle} s later | range | ÷ best peer |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, (before, fresh, later) in medians.items():
        all_later = [each[2] for each in results[name]]
        yield (
            f"| {stage.peers[name]} | {before / 1024:.1f} | {fresh:.2f} | {later:.2f} "
            f"| {min(all_later):.2f}–{max(all_later):.2f} | {later / best:.2f} |"
        )


def relay(stage):
    """CPU per message: a Markdown table."""
    arguments = stage.arguments
    upstream = stage.upstream()
    proxies = {name: stage.proxy(name, upstream) for name in stage.peers}
    chosen = {case: how for case, how in CASES.items() if arguments.case in case}
    results = {case: {name: [] for name in proxies} for case in chosen}
    counted = {case: {name: [] for name in proxies} for case in chosen}
    for case, (command, connections, count, *rest) in chosen.items():
        for number, name in stage.interleaved(arguments.rounds):
            with Load(command, proxies[name], connections, count, *rest) as load:
                load.line()
                before, counter = proxies[name].cpu_seconds(), Instructions(proxies[name])
                load.tell("go")
                done = load.line()
                instructions = counter.stop()
                cpu = (proxies[name].cpu_seconds() - before) / done["messages"] * 1e6
            results[case][name].append(cpu)
            if instructions:
                counted[case][name].append([each / done["messages"] for each in instructions])
            say(f"{case} {number + 1}  {name:8} {cpu:7.3f} µs, {done['messages'] / done['seconds']:,.0f}/s")
    stage.stop(*proxies.values(), upstream)
    names = list(stage.peers.values())
    yield f"| CPU µs per message: median (range) | {' | '.join(names)} | seawall ÷ best peer, paired by round |"
    yield "| --- |" + " --- |" * (len(names) + 1)
    for case, by_name in results.items():
        best = min((name for name in by_name if name != "seawall"), key=lambda name: statistics.median(by_name[name]))
        ratio = statistics.median(own / other for own, other in zip(by_name["seawall"], by_name[best], strict=True))
        cells = [f"{digits(statistics.median(all_))} ({digits(min(all_))}–{digits(max(all_))})" for all_ in by_name.values()]
        yield f"| {case} | {' | '.join(cells)} | {ratio:.2f} |"
    if not all(rounds for by_name in counted.values() for rounds in by_name.values()):
        return
    yield ""
    yield f"| instructions per message: own + kernel, medians | {' | '.join(names)} | seawall ÷ best peer, sum |"
    yield "| --- |" + " --- |" * (len(names) + 1)
    for case, by_name in counted.items():
        medians = {name: [statistics.median(part) for part in zip(*rounds)] for name, rounds in by_name.items()}
        best = min(sum(parts) for name, parts in medians.items() if name != "seawall")
        cells = [" + ".join(f"{part:,.0f}" for part in parts) for parts in medians.values()]
        yield f"| {case} | {' | '.join(cells)} | {sum(medians['seawall']) / best:.2f} |"


def digits(number):
    return f"{number:.3f}" if number < 1 else f"{number:.1f}"


def crash(stage):
    """The upstream's SIGKILL under all WebSockets: a Markdown table."""
    arguments, results = stage.arguments, {name: [] for name in stage.peers}
    for number, name in stage.interleaved(arguments.memory_rounds):
        upstream = stage.upstream()
        proxy = stage.proxy(name, upstream)
        with Load("hold", proxy, arguments.sessions, 60) as load:
            load.line()
            time.sleep(1)
            opened, cpu = proxy.peak_kib(), proxy.cpu_seconds()
            load.tell(f"kill {upstream.child.pid}")
            done = load.line()
            cpu, peak = proxy.cpu_seconds() - cpu, proxy.peak_kib()
        results[name].append((done, opened, peak, cpu))
        say(f"crash {number + 1}  {name:8} {done} {opened / 1024:.0f} -> {peak / 1024:.0f} MiB, {cpu:.2f} s CPU")
        stage.stop(proxy, upstream)
    yield f"| {arguments.sessions:,} open, upstream killed | what the clients got (worst round) | seconds to the first | to the last | CPU s | peak MiB before | peak MiB |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for name, rounds in results.items():
        worst = max(rounds, key=lambda each: len(each[0]["endings"]))[0]["endings"]
        said = "; ".join(f"{what}: {count:,}" for what, count in worst.items())

        def median(pick, rounds=rounds):
            return statistics.median(map(pick, rounds))

        yield (
            f"| {stage.peers[name]} | {said} | {median(lambda each: each[0]['first']):.2f} "
            f"| {median(lambda each: each[0]['last']):.2f} | {median(lambda each: each[3]):.2f} "
            f"| {median(lambda each: each[1]) / 1024:.0f} | {median(lambda each: each[2]) / 1024:.0f} |"
        )


PARTS = {"idle": idle, "relay": relay, "crash": crash}


def main():
    parser = argparse.ArgumentParser(description="WebSockets beside nginx and HAProxy")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, separated by commas")
    parser.add_argument("--case", default="", help="of relay: only cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=5, help="of relay")
    parser.add_argument("--memory-rounds", type=int, default=3, help="of idle and crash")
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--idle", type=int, default=25, help="seconds")
    parser.add_argument("--tuned", action="store_true", help="64 KiB buffers for nginx and HAProxy")
    parser.add_argument("--seawall", type=Path, default=ROOT / "target/release/seawall")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    if not set(parts) <= set(PARTS):
        parser.error(f"--only: {', '.join(PARTS)}")
    if not arguments.seawall.exists():
        sys.exit(f"{arguments.seawall} is missing: cargo build --release")
    if len(os.sched_getaffinity(0)) < 2:
        sys.exit("two cores are needed: one for the proxy, one for the load and the upstream")
    install("nginx", "haproxy", "taskset")
    subprocess.run(["cargo", "build", "--release", "--quiet"], cwd=LOAD, check=True)
    raise_limit(arguments)
    with tempfile.TemporaryDirectory(prefix="seawall-bench-") as directory:
        # nginx gives up root: its worker must reach its folders.
        os.chmod(directory, 0o755)
        stage = Stage(Path(directory), arguments)
        before, started = steal_seconds(), time.monotonic()
        try:
            for part in parts:
                for line in PARTS[part](stage):
                    print(line)
                print(flush=True)
        finally:
            stage.stop()
    share = (steal_seconds() - before) / (time.monotonic() - started) / os.cpu_count() * 100
    print(
        f"{arguments.rounds} interleaved rounds of relay, {arguments.memory_rounds} of idle and crash"
        f"{', peers with 64 KiB buffers' if arguments.tuned else ''}. {os.cpu_count()} cores, "
        f"Linux {platform.release()}, stolen by other guests: {share:.0f} % of the time."
    )


def raise_limit(arguments):
    """As many open files as allowed; as many sessions as they suffice for."""
    wanted = 2 * arguments.sessions + 200
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(wanted, hard), max(wanted, hard)))
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if hard < wanted:
            arguments.sessions = (hard - 200) // 2
            say(f"only {hard} open files are allowed: {arguments.sessions} sessions")


if __name__ == "__main__":
    main()
