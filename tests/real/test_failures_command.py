"""`seawall failures`: the journal in a terminal, also a real one (a pseudo-terminal)."""

import json
import os
import pty
import subprocess
import sys

import pytest

from support import http1
from support.processes import APPS, free_port
from support.seawall import BINARY
from support.waiting import until


@pytest.fixture
def failures(seawall):
    def run(*arguments):
        argv = [BINARY, "failures", "--url", f"http://127.0.0.1:{seawall.admin}", *arguments]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)

    return run


def test_it_prints_what_the_journal_has_and_finds_a_request(processes, port, seawall, failures):
    processes.start("hostile", [sys.executable, APPS / "hostile_app.py", port]).wait_for_port(port)
    ids = [http1.get(seawall.port, path).get("x-request-id") for path in ("/one", "/two")]
    lines = failures().stdout.splitlines()
    assert [line.split()[-1] for line in lines] == ids, "the newest stands above the prompt"
    assert "application_error app GET /one -> 500" in lines[0]
    found = failures("--id", ids[0][:10])
    assert "GET /one" in found.stdout and "GET /two" not in found.stdout
    assert "| Traceback" in found.stdout, "with all that is known"
    entries = [json.loads(line) for line in failures("--json", "--kind", "application_error").stdout.splitlines()]
    assert [entry["request_id"] for entry in entries] == ids
    assert failures("--kind", "dns_error").stdout == ""
    assert len(failures("--limit", "1").stdout.splitlines()) == 1


def test_it_follows_and_ends_when_seawall_does(processes, seawall):
    url = f"http://127.0.0.1:{seawall.admin}"
    following = processes.start("failures", [BINARY, "failures", "--follow", "--url", url])
    first = http1.get(seawall.port, "/first").get("x-request-id")
    until(lambda: first in following.text(), "the first is printed")
    second = http1.get(seawall.port, "/second").get("x-request-id")
    until(lambda: second in following.text(), "the second as well")
    assert following.text().count(first) == 1, "none twice"
    seawall.stop()
    until(lambda: not following.running(), "it ends")
    following.says("no seawall answers")


def in_terminal(argv, **env):
    """What a program prints on a terminal."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    child = subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment, **env})
    os.close(theirs)
    printed = b""
    try:
        while piece := os.read(ours, 65536):
            printed += piece
    except OSError:
        pass  # Linux says so when the other end is closed.
    os.close(ours)
    assert child.wait(timeout=20) == 0
    return printed


def test_a_terminal_gets_colours_unless_somebody_minds(seawall):
    http1.get(seawall.port, "/cart")
    argv = [BINARY, "failures", "--url", f"http://127.0.0.1:{seawall.admin}"]
    assert b"\x1b[31mconnection_refused\x1b[0m" in in_terminal(argv)
    plain = in_terminal(argv, NO_COLOR="1")
    assert b"connection_refused" in plain and b"\x1b" not in plain


def test_without_seawall_it_says_what_to_do():
    def stderr(url):
        argv = [BINARY, "failures", "--url", url]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    assert "--url names its admin address" in stderr(f"http://127.0.0.1:{free_port()}")
    assert "http://HOST:PORT" in stderr("https://127.0.0.1:9900")
