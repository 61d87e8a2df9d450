"""Processes that a test starts, each in a group of its own, all ended by their ids when the test ends."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

from .waiting import until

APPS = Path(__file__).parent.parent / "apps"
REAL = Path(__file__).parent.parent

# Below the range from which the kernel takes the ports of outgoing connections: while an app is
# down, none of the test's own connections can take its port, or connect to itself on it.
_FIRST_PORT, _LAST_PORT = 20000, 32000
_next_port = _FIRST_PORT + os.getpid() * 37 % (_LAST_PORT - _FIRST_PORT)


def free_port():
    """A loopback port that nobody listens on, never the same one twice in a run."""
    global _next_port
    for _ in range(_LAST_PORT - _FIRST_PORT):
        _next_port = _next_port + 1 if _next_port < _LAST_PORT else _FIRST_PORT
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", _next_port))
                return _next_port
    raise AssertionError("no free port on loopback")


def listens(port, host="127.0.0.1"):
    """Whether a connection to this loopback port succeeds now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.settimeout(2)
        return probe.connect_ex((host, port)) == 0


class Process:
    """One started process and its log file (standard output and error)."""

    def __init__(self, name, argv, log, env=None, cwd=None, pass_fds=()):
        self.name, self.log = name, log
        environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        environment.update(env or {})
        with log.open("ab") as sink:
            self.child = subprocess.Popen(
                [str(part) for part in argv],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=cwd,
                start_new_session=True,
                pass_fds=pass_fds,
            )

    @property
    def pid(self):
        return self.child.pid

    def running(self):
        return self.child.poll() is None

    def text(self):
        return self.log.read_text(errors="replace")

    def says(self, text, count=1):
        """Waits until so many whole lines with this text are in the log; those lines.

        A line follows what it tells by a moment: `text` is for what must not be there.
        """

        def found():
            lines = [line for line in self.text().split("\n")[:-1] if text in line]
            return lines if len(lines) >= count else None

        return until(found, f"{self.name} says {text!r} {count} times")

    def wait_for_port(self, port, host="127.0.0.1"):
        def ready():
            assert self.running(), f"{self.name} ended with {self.child.returncode}: {self.text()[-2000:]}"
            return listens(port, host)

        until(ready, f"{self.name} listens on {host}, port {port}")
        return self

    def kill(self):
        """SIGKILL, as the kernel's out-of-memory killer does it; returns when the process is gone."""
        self.child.kill()
        self.child.wait(10)

    def terminate(self, seconds=30):
        """SIGTERM; the exit code."""
        if self.running():
            self.child.terminate()
        return self.child.wait(seconds)

    def end(self):
        """Ends the process and every descendant in its group, whatever state they are in."""
        # The group outlives its leader while a descendant lives; its id cannot be reused before.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        self.child.wait(10)


class Processes:
    """Starts processes and remembers them."""

    def __init__(self, directory):
        self.directory, self.started = directory, []

    def start(self, name, argv, env=None, cwd=None, pass_fds=()):
        log = self.directory / f"{len(self.started):02}-{name}.log"
        process = Process(name, argv, log, env, cwd, pass_fds)
        self.started.append(process)
        return process

    def end(self):
        for process in reversed(self.started):
            process.end()

    def logs(self):
        return [process.log for process in self.started]


class Events:
    """What an app has announced: a file that apps append lines to (see apps/announce.py)."""

    def __init__(self, directory):
        self.path = directory / "events"
        self.path.touch()
        self.gate = directory / "gate"

    def env(self):
        return {"EVENTS": str(self.path), "GATE": str(self.gate), "PYTHONUNBUFFERED": "1"}

    def lines(self, name):
        """The details of every event of this name so far."""
        # A line without its end is still being written.
        complete = self.path.read_text().split("\n")[:-1]
        return [line.partition(" ")[2] for line in complete if line.partition(" ")[0] == name]

    def wait(self, name, count=1):
        """Waits until `name` was announced `count` times; the details."""
        until(lambda: len(self.lines(name)) >= count, f"the app announces {name!r} {count} times")
        return self.lines(name)

    def open_gate(self):
        """Lets the requests go on that wait at the app's gate."""
        self.gate.touch()


def gunicorn(processes, events, port, app="flask_app:app", env=None, more=("--workers", "1")):
    """gunicorn with one sync worker unless `more` arguments say otherwise; returns when it listens."""
    argv = [sys.executable, "-m", "gunicorn", "--chdir", APPS, *more, "--bind", f"127.0.0.1:{port}"]
    argv += ["--no-control-socket", app]
    return processes.start("gunicorn", argv, events.env() | (env or {})).wait_for_port(port)


def uvicorn(processes, events, port, host="127.0.0.1"):
    """uvicorn with a bare ASGI app."""
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", APPS, "--host", host, "--port", port]
    argv += ["--ws", "websockets-sansio", "--no-access-log", "asgi_app:app"]
    return processes.start("uvicorn", argv, events.env()).wait_for_port(port, host)


def python_websockets(processes, events, port, hosts=("127.0.0.1",)):
    """A server of the Python package `websockets`."""
    argv = [sys.executable, APPS / "ws_server.py", port, *hosts]
    return processes.start("websockets", argv, events.env()).wait_for_port(port, hosts[-1])


def node_ws(processes, events, port):
    """A server of the node package `ws`."""
    return processes.start("node", ["node", APPS / "ws_server.js", port], events.env()).wait_for_port(port)
