"""A pinned server and what its whole process tree costs: CPU, memory and instructions, from /proc and perf(1)."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from programs import tool

PROXY_CORE, LOAD_CORE = "0", "1"
BODY = "hello from the origin\n"
TICKS = os.sysconf("SC_CLK_TCK")

# What every nginx here has, as proxy and as origin; `{http}` is the rest of its http block.
NGINX = """
worker_processes {workers};
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


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def steal_seconds():
    """CPU time that other guests of the machine took from us."""
    return int(Path("/proc/stat").read_text().split("\n")[0].split()[8]) / TICKS


class Server:
    """A pinned server and the CPU time and memory of its whole process tree."""

    def __init__(self, name, argv, core, port, log, body=BODY):
        self.name, self.port, self.body, self.log = name, port, body, log
        with log.open("wb") as sink:
            pinned = [tool("taskset"), "--cpu-list", core, *map(str, argv)]
            self.child = subprocess.Popen(
                pinned, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
            )

    def wait_until_it_listens(self):
        limit = time.monotonic() + 30
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.child.poll() is not None or time.monotonic() > limit:
                sys.exit(f"{self.name} did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)

    def wait_until_it_answers(self):
        """Ends the run unless the origin's answer comes through."""
        self.wait_until_it_listens()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{self.port}/", timeout=5) as answer:
            if (answer.status, answer.read().decode()) != (200, self.body):
                sys.exit(f"{self.name} does not pass on the origin's answer")

    def pids(self):
        """The process and its living descendants."""
        found, at = [self.child.pid], 0
        while at < len(found):
            for task in Path(f"/proc/{found[at]}/task").glob("*/children"):
                found += [int(pid) for pid in task.read_text().split()]
            at += 1
        return found

    def cpu(self):
        """Seconds of (user, system) time."""
        user = system = 0
        for pid in self.pids():
            try:
                # After the last parenthesis, because a process name may contain anything.
                values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            user, system = user + int(values[11]), system + int(values[12])
        return user / TICKS, system / TICKS

    def cpu_seconds(self):
        return sum(self.cpu())

    def pss_kib(self):
        """Proportional set size: pages that processes share are counted once."""
        return sum(field(f"/proc/{pid}/smaps_rollup", "Pss") for pid in self.pids())

    def peak_kib(self):
        """The highest resident set sizes, added up."""
        return sum(field(f"/proc/{pid}/status", "VmHWM") for pid in self.pids())

    def stop(self):
        try:
            os.killpg(self.child.pid, signal.SIGTERM)
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.child.pid, signal.SIGKILL)
            self.child.wait(10)
        except ProcessLookupError:
            pass


def field(path, name):
    """A number of KiB from a file of /proc."""
    for line in Path(path).read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


class Instructions:
    """Counts the instructions of a server, in its own code and in the kernel; nothing where perf is not allowed."""

    def __init__(self, server):
        self.child = None
        if tool("perf"):
            argv = [tool("perf"), "stat", "-x,", "-e", "instructions:u,instructions:k"]
            argv += ["-p", ",".join(map(str, server.pids()))]
            self.child = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)
            # It has no way to say that it counts.
            time.sleep(0.3)

    def stop(self):
        """(own, kernel), or None."""
        if not self.child:
            return None
        self.child.send_signal(signal.SIGINT)
        counts = [line.split(",")[0] for line in self.child.communicate()[1].splitlines() if "instructions" in line]
        return tuple(map(int, counts)) if len(counts) == 2 and all(map(str.isdigit, counts)) else None
