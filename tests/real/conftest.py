"""Fixtures: processes that end with their test, an app's events, a running seawall."""

import subprocess

import pytest

from support.browser import Browser
from support.postgres import Postgres
from support.processes import Events, Processes, free_port
from support.seawall import BINARY, Seawall


def pytest_sessionstart():
    if not BINARY.exists():
        pytest.exit(f"{BINARY} is missing: cargo build --release, or set SEAWALL_BIN", returncode=2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Adds the logs of every process to the report of a failed test."""
    report = yield
    processes = item.funcargs.get("processes")
    if report.failed and processes:
        for log in processes.logs():
            report.sections.append((f"log of {log.name}", log.read_text(errors="replace")[-6000:]))
    return report


@pytest.fixture
def processes(tmp_path):
    started = Processes(tmp_path)
    yield started
    started.end()


@pytest.fixture
def events(tmp_path):
    return Events(tmp_path)


@pytest.fixture
def port():
    """The upstream's port: kept when the app is started again."""
    return free_port()


@pytest.fixture
def start_seawall(processes, tmp_path):
    started = []

    def start(upstream, **settings):
        started.append(Seawall(processes, tmp_path, upstream, **settings))
        return started[-1]

    yield start
    for seawall in started:
        seawall.stop()


@pytest.fixture
def seawall(start_seawall, port):
    """A seawall with defaults, in front of `port`."""
    return start_seawall(port)


@pytest.fixture
def certificate(tmp_path):
    """A certificate for 127.0.0.1 and localhost that is its own authority, and its key.

    It says that it is no authority for others: else it may not be a server's own either (RFC 5280, as rustls reads it).
    """
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    argv = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    argv += ["-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    argv += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run([*argv, "-out", chain, "-keyout", key], check=True, capture_output=True)
    return chain, key


@pytest.fixture
def postgres():
    cluster = Postgres()
    yield cluster
    cluster.end()


@pytest.fixture
def browser(processes):
    started = Browser(processes)
    yield started
    started.end()
