"""A machine that is out of files, out of disk, without a log, or whose clock jumps: seawall stays up and says so."""

import contextlib
import fcntl
import json
import os
import resource
import socket
import subprocess
import time

import pytest

from support import http1
from support.load import Load
from support.processes import free_port, listens, uvicorn
from support.seawall import BINARY
from support.metrics import Metrics
from support.waiting import until

_CONFIG = """\
workers: 1
listeners: [{{ address: "127.0.0.1:{port}" }}]
admin: {{ address: "127.0.0.1:{admin}" }}
log: {{ format: json }}
upstreams: {{ app: {{ endpoints: ["http://127.0.0.1:{upstream}"]{more} }} }}
routes: [{{ upstream: app }}]
shutdown: {{ drain: 1s }}
"""


class Hosted:
    """A seawall whose surroundings a test chooses: its streams, its limits, its clock."""

    def __init__(self, directory, upstream, stderr, preexec=None, env=None, more="", before=()):
        self.port, self.admin = free_port(), free_port()
        config = directory / f"hosted-{self.port}.yaml"
        config.write_text(_CONFIG.format(port=self.port, admin=self.admin, upstream=upstream, more=more))
        self.child = subprocess.Popen(
            [*before, BINARY, "-c", config],
            stdin=subprocess.DEVNULL,
            stdout=stderr,
            stderr=stderr,
            preexec_fn=preexec,
            env={**os.environ, **(env or {})},
        )

    def ready(self):
        until(lambda: self.child.poll() is not None or (listens(self.port) and listens(self.admin)), "it listens")
        assert self.child.poll() is None, f"it ended with {self.child.returncode}"
        return self

    def metrics(self):
        return Metrics(http1.operate(self.admin, "/metrics").content.decode())

    def counted(self, name, **only):
        return self.metrics().total(name, **only)

    def files(self):
        return len(os.listdir(f"/proc/{self.child.pid}/fd"))

    def cpu(self):
        """Seconds of processor time so far."""
        with open(f"/proc/{self.child.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        """SIGTERM; it was up to here, and ends in order."""
        assert self.child.poll() is None, f"it ended with {self.child.returncode}"
        self.child.terminate()
        assert self.child.wait(15) == 0

    def status(self, name):
        """A line of /proc/PID/status."""
        with open(f"/proc/{self.child.pid}/status") as lines:
            return next(line.split()[1] for line in lines if line.startswith(f"{name}:"))


@pytest.fixture
def hosted(tmp_path):
    started = []

    def start(upstream, stderr, **surroundings):
        started.append(Hosted(tmp_path, upstream, stderr, **surroundings))
        return started[-1].ready()

    yield start
    for one in started:
        if one.child.poll() is None:
            one.child.kill()
            one.child.wait(10)


@pytest.fixture
def log(tmp_path):
    with (tmp_path / "hosted.log").open("w+") as file:
        yield file


def _whole(log, message):
    """How many such lines there are, the last one not among them if it was cut."""
    log.seek(0)
    return log.read().rpartition("\n")[0].count(f'"{message}')


def said(log, message):
    log.seek(0)
    # A line without its end is still being written.
    return [json.loads(line) for line in log.read().split("\n")[:-1] if f'"{message}' in line]


def fails(hosted, count):
    """So many requests that find nobody, each of which is a line of the log; all are answered, and soon."""
    with http1.Client(hosted.port) as client:
        for _ in range(count):
            answer = client.request("GET", "/" + "x" * 2000)
            assert (answer.status, answer.error) == (500, "connection_refused")


@pytest.fixture
def app(processes, events, port):
    uvicorn(processes, events, port)
    return port


# -- files


def limit_files(count):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (count, count))


def test_without_free_files_clients_wait_and_are_served_when_there_are_some(hosted, log, app):
    seawall = hosted(app, log, preexec=limit_files(64))
    assert http1.get(seawall.port, "/").status == 200
    with contextlib.ExitStack() as stack:
        crowd = [stack.enter_context(http1.Client(seawall.port)) for _ in range(100)]
        until(lambda: seawall.files() >= 64, "every file is used")
        until(lambda: said(log, "cannot accept connections"), "the log says so")
        before = seawall.cpu()
        time.sleep(1)
        assert seawall.cpu() - before < 0.2, "it does not spin"
        assert len(said(log, "cannot accept connections")) == 1, "and says it once"
    answered = http1.get(seawall.port, "/")
    assert (answered.status, answered.complete) == (200, True)
    assert seawall.counted("seawall_accept_failures_total") > 0
    del crowd
    seawall.end()


def test_a_connection_to_the_upstream_for_which_there_is_no_file_is_our_own_failure(hosted, log, app):
    more = ", ejection: { consecutive_failures: 1 }, health: { path: /, interval: 200ms, unhealthy: 1 }"
    seawall = hosted(app, log, preexec=limit_files(64), more=more)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(http1.Client(seawall.port))
        other = [stack.enter_context(http1.Client(seawall.port)) for _ in range(100)]
        until(lambda: seawall.files() >= 64, "every file is used")
        until(lambda: said(log, "a health check could not be made"), "health checks have no file either")
        for _ in range(3):
            answer = first.request("POST", "/", b"")
            assert (answer.status, answer.error) == (500, "proxy_internal_error")
    del other
    until(lambda: http1.get(seawall.port, "/").status == 200, "it is well again")
    kinds = {"proxy_internal_error": 3}
    until(lambda: seawall.metrics().by("seawall_failures_total", "kind") == kinds, f"counted: {kinds}")
    metrics = seawall.metrics()
    assert metrics.total("seawall_endpoint_ejections_total") == 0
    assert metrics.total("seawall_endpoint_up") == 1
    assert metrics.total("seawall_health_checks_total", result="failed") == 0
    told = until(lambda: said(log, "upstream failure"), "the log says so")
    assert "Too many open files" in told[0]["error"]
    seawall.end()


# -- the log


def test_a_full_disk_under_the_log_costs_lines_and_no_request(hosted, port):
    with open("/dev/full", "wb") as full:
        seawall = hosted(port, full)
    fails(seawall, 50)
    until(lambda: seawall.counted("seawall_log_dropped_total", reason="write") >= 50, "the lines are counted")
    seawall.end()


def test_a_log_that_has_reached_the_limit_of_its_size_costs_lines_and_no_request(hosted, log, port):
    limit = 20_000
    seawall = hosted(port, log, preexec=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    fails(seawall, 50)

    def lost():
        return seawall.counted("seawall_log_dropped_total", reason="write")

    until(lambda: lost() + _whole(log, "upstream failure") >= 50, "each line is written or counted")
    assert os.fstat(log.fileno()).st_size == limit
    assert lost() > 30
    # The file is made empty, as logrotate does it with copytruncate: what was cut does not spoil what follows.
    log.truncate(0)
    os.lseek(log.fileno(), 0, os.SEEK_SET)
    fails(seawall, 3)
    until(lambda: len(said(log, "upstream failure")) == 3, "the lines are written")
    seawall.end()


def test_a_closed_stderr_and_stdout_cost_nothing(hosted, port):
    def close():
        os.close(1)
        os.close(2)

    seawall = hosted(port, None, preexec=close)
    fails(seawall, 50)
    seawall.end()


def test_a_reader_of_the_log_that_goes_away_ends_nothing(hosted, port):
    reading, writing = os.pipe()
    seawall = hosted(port, writing)
    os.close(writing)
    fails(seawall, 1)
    os.close(reading)
    fails(seawall, 50)
    until(lambda: seawall.counted("seawall_log_dropped_total", reason="write") >= 50, "the lines are counted")
    seawall.end()


def test_a_log_that_nobody_reads_stops_no_request_and_says_what_it_lacks(hosted, port):
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    seawall = hosted(port, writing)
    os.close(writing)
    # More than the pipe and the queue hold.
    while seawall.counted("seawall_log_dropped_total", reason="queue") < 100:
        fails(seawall, 500)
    lost = seawall.counted("seawall_log_dropped_total", reason="queue")
    lines = _read(reading, lambda text: b"the log lacks lines" in text, seawall)
    missing = [json.loads(line) for line in lines if b"the log lacks lines" in line]
    assert sum(line["lines"] for line in missing) == lost
    numbers = [json.loads(line)["message"] for line in lines].count("upstream failure")
    assert numbers + lost == seawall.counted("seawall_failures_total")
    os.close(reading)
    seawall.end()


def _read(pipe, enough, seawall):
    """Lines from the pipe until there is enough, and nothing more."""
    os.set_blocking(pipe, False)
    text = bytearray()

    def drained():
        with contextlib.suppress(BlockingIOError):
            while part := os.read(pipe, 1 << 16):
                text.extend(part)
        return enough(text) and text.endswith(b"\n")

    until(drained, "the log says what it lacks")
    return bytes(text).splitlines()


def test_a_log_that_nobody_reads_does_not_hold_up_the_end(hosted, port):
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    seawall = hosted(port, writing)
    os.close(writing)
    fails(seawall, 50)
    began = time.monotonic()
    seawall.end()
    assert time.monotonic() - began < 15
    os.close(reading)


# -- the clock


@pytest.fixture
def clock(tmp_path):
    """A wall clock that can be set, for a process with its environment; monotonic time goes on as it does."""
    file = tmp_path / "clock"
    file.write_text("+0")
    libraries = [path for path in _LIBFAKETIME if os.path.exists(path)]
    assert libraries, "libfaketime is missing: tests/install.sh installs it"
    env = {"LD_PRELOAD": libraries[0], "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1"}
    env |= {"DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}

    def set_to(offset):
        # In one step: a clock that is read while it is written would stand at its true time.
        fresh = file.with_suffix(".new")
        fresh.write_text(offset)
        fresh.replace(file)

    return env, set_to


def test_no_huge_page_makes_memory_resident_that_nobody_uses(hosted, log, app):
    seawall = hosted(app, log).ready()
    assert seawall.status("THP_enabled") == "0"
    seawall.end()


_LIBFAKETIME = [f"/usr/lib/{machine}-linux-gnu/faketime/libfaketimeMT.so.1" for machine in ("x86_64", "aarch64")]


def _year(log):
    log.seek(0)
    return int(json.loads(log.read().split("\n")[-2])["timestamp"][:4])


def test_a_clock_that_jumps_forth_and_back_changes_no_answer_and_no_time_out(hosted, log, app, clock):
    env, set_to = clock
    timeouts = ", timeouts: { head: 500ms }, ejection: { consecutive_failures: 0 }"
    seawall = hosted(app, log, env=env, more=timeouts)
    this_year = time.gmtime().tm_year
    with Load(seawall.port) as load:
        for offset, year in [("+10y", this_year + 10), ("-10y", this_year - 10), ("+0", this_year)]:
            set_to(offset)
            load.more(50)
            began = time.monotonic()
            answer = http1.get(seawall.port, "/hang")
            seconds = time.monotonic() - began
            assert (answer.status, answer.error) == (500, "http_response_timeout")
            assert 0.45 < seconds < 20, f"the time-out of 500 ms came after {seconds:.2f} s"
            until(lambda year=year: abs(_year(log) - year) <= 1, "the log has the machine's time")
            entry = json.loads(http1.operate(seawall.admin, "/failures").content)[0]
            assert entry["request_id"] == answer.get("x-request-id"), "the newest failure is the first, whatever the clock says"
    load.is_well()
    kinds = {"http_response_timeout": 3}
    until(lambda: seawall.metrics().by("seawall_failures_total", "kind") == kinds, f"counted: {kinds}")
    seawall.end()
