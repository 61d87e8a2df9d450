"""Reloads and takeovers under load: nobody who is not concerned notices anything."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import threading

from support import http1
from support.processes import free_port, listens, uvicorn
from support.seawall import BINARY
from support.waiting import until
from support.websocket import open_many, read_to_end

RELOADS = 100
TAKEOVERS = 10
SESSIONS = 10


class Load:
    """Clients that ask without a pause: some keep their connections, some open a new one each time."""

    def __init__(self, port, keeping=3, opening=3):
        self.port, self.failed, self.done = port, [], threading.Event()
        self.answered = [0] * (keeping + opening)
        self.threads = [
            threading.Thread(target=self._ask, args=(number, number < keeping)) for number in range(keeping + opening)
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        for thread in self.threads:
            thread.join()

    def _ask(self, number, keeps):
        client = None
        try:
            while not self.done.is_set():
                client = client or http1.Client(self.port)
                answer = client.request("GET", f"/load/{number}", fields=[] if keeps else ["Connection: close"])
                assert (answer.status, answer.complete, answer.content) == (200, True, b"ok"), answer
                self.answered[number] += 1
                if (answer.get("connection") or "").lower() == "close":
                    client._socket.close()
                    client = None
        except (OSError, AssertionError) as error:
            self.failed.append(f"client {number}, keeps {keeps}, request {self.answered[number]}: {error!r}")

    def still_answered(self, more=3):
        """Waits until every client has had so many more answers."""
        before = list(self.answered)
        until(
            lambda: self.failed or all(now >= was + more for now, was in zip(self.answered, before, strict=True)),
            "every client is answered",
        )


def log_lines(seawall, message):
    """The log's lines with this message; a line that is being written is not one yet."""
    found = []
    for line in seawall.process.text().split("\n")[:-1]:
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line)
            if entry.get("message") == message:
                found.append(entry)
    return found


def reloads(seawall, result):
    return seawall.now().total("seawall_config_reloads_total", result=result)


def load_again(seawall, text, count):
    """Replaces the file as editors and Kubernetes do, sends SIGHUP, and waits until it is counted."""
    other = seawall.file.with_suffix(".new")
    other.write_text(text)
    other.replace(seawall.file)
    seawall.process.child.send_signal(signal.SIGHUP)
    until(lambda: reloads(seawall, "ok") >= count or reloads(seawall, "failed"), "the file is loaded")
    assert reloads(seawall, "failed") == 0


def test_100_reloads_under_load_lose_no_request_and_no_websocket(processes, events, port, start_seawall):
    uvicorn(processes, events, port)
    seawall = start_seawall(port, more="reload: { watch: false }")
    first = seawall.file.read_text()
    extra = free_port()
    other = f'  other: {{ endpoints: ["http://127.0.0.1:{port}"] }}\n'
    second = first.replace("routes: [", other + "routes: [{ path: /other, upstream: other }, ")
    second = second.replace("}]\nadmin", f'}}, {{ address: "127.0.0.1:{extra}" }}]\nadmin')
    assert second.count("other") == 3 and str(extra) in second

    async def run():
        websockets = await open_many(seawall.websocket("/messages"), SESSIONS)
        reading = [asyncio.create_task(read_to_end(websocket)) for websocket in websockets]
        with Load(seawall.port) as load:
            await asyncio.to_thread(load.still_answered)
            for number in range(RELOADS):
                text = first if number % 2 else second
                await asyncio.to_thread(load_again, seawall, text, number + 1)
                if number == 0:
                    assert listens(extra) and http1.get(seawall.port, "/other").status == 200
            await asyncio.to_thread(load.still_answered)
        assert load.failed == []
        assert not any(task.done() for task in reading), "every WebSocket is open"
        for websocket in websockets:
            await websocket.send("still here")
            await websocket.close()
        return [await task for task in reading]

    sessions = asyncio.run(run())
    for who, session in enumerate(sessions):
        assert session.messages[:20] == [f"{who}:{number}" for number in range(20)]
    metrics = seawall.metrics()
    assert (reloads(seawall, "ok"), reloads(seawall, "failed")) == (RELOADS, 0)
    assert metrics.total("seawall_failures_total") == 0
    assert metrics.total("seawall_websocket_closes_total", code="1000", initiator="client") == SESSIONS
    # Far fewer connections than reloads. A few come and go: the app closes what is idle for five seconds.
    assert metrics.total("seawall_connects_total", upstream="app") < RELOADS / 2 + SESSIONS
    assert not listens(extra), "the listener is gone again"
    added = log_lines(seawall, "the configuration is loaded")
    assert (added[0]["upstreams_added"], added[1]["upstreams_removed"]) == ("other", "other")
    assert added[0]["listeners_added"] == f"127.0.0.1:{extra}"


def test_a_change_of_the_file_is_loaded_and_a_mistake_is_told_and_changes_nothing(
    processes, events, port, start_seawall
):
    uvicorn(processes, events, port)
    seawall = start_seawall(port, more="reload: { interval: 100ms }")
    good = seawall.file.read_text()
    seawall.file.write_text(good.replace("routes: [{", "routes: [{ path: /new,"))
    until(lambda: http1.get(seawall.port, "/").status == 404, "the new routes are there")
    assert http1.get(seawall.port, "/new").status == 200
    seawall.file.write_text(good.replace("upstream: app }]", "upstream: ap, hold: 3 }]"))
    until(lambda: reloads(seawall, "failed") == 1, "the mistake is counted")
    assert http1.get(seawall.port, "/new").status == 200
    [told] = log_lines(seawall, "the configuration cannot be used; nothing changes")
    assert "`ap`" in told["error"] and "hold" in told["error"], told
    seawall.file.write_text(good.replace("workers: 2", "workers: 3"))
    until(lambda: reloads(seawall, "ok") == 2, "the mistake is gone")
    assert http1.get(seawall.port, "/").status == 200
    [told] = log_lines(seawall, "this setting changes with a restart only; it is as it was")
    assert told["setting"] == "workers"


def take_over(seawall, pid, count):
    """Sends SIGUSR2 and waits until another process serves; its id."""
    os.kill(pid, signal.SIGUSR2)
    message = "another process has taken over; leaving"
    until(lambda: len(log_lines(seawall, message)) == count, f"takeover {count}")
    return log_lines(seawall, message)[-1]["pid"]


def ended(seawall, count):
    until(lambda: len(log_lines(seawall, "stopped")) == count, f"{count} processes have ended in order")


def test_10_takeovers_under_load_lose_no_request_and_send_websockets_away_in_order(
    processes, events, port, start_seawall
):
    uvicorn(processes, events, port)
    seawall = start_seawall(port)
    pid = seawall.process.pid

    async def run(pid):
        with Load(seawall.port) as load:
            reading = []
            for number in range(TAKEOVERS):
                websockets = await open_many(seawall.websocket("/messages"), 2)
                reading += [asyncio.create_task(read_to_end(websocket)) for websocket in websockets]
                pid = await asyncio.to_thread(take_over, seawall, pid, number + 1)
                await asyncio.to_thread(load.still_answered)
            sessions = await asyncio.gather(*reading)
            await asyncio.to_thread(ended, seawall, TAKEOVERS)
            await asyncio.to_thread(load.still_answered)
        assert load.failed == []
        return pid, sessions

    pid, sessions = asyncio.run(run(pid))
    assert [(session.code, session.clean) for session in sessions] == [(1012, True)] * (2 * TAKEOVERS)
    assert all(len(session.messages) == 20 for session in sessions)
    assert seawall.process.child.wait(5) == 0
    assert seawall.metrics().total("seawall_failures_total") == 0
    os.kill(pid, signal.SIGTERM)
    ended(seawall, TAKEOVERS + 1)
    assert not listens(seawall.port), "nobody keeps a socket"


def test_a_new_process_that_cannot_start_changes_nothing(processes, events, port, start_seawall):
    uvicorn(processes, events, port)
    seawall = start_seawall(port, more="reload: { watch: false }")
    good = seawall.file.read_text()
    seawall.file.write_text("routes: nonsense")
    with Load(seawall.port) as load:
        seawall.process.child.send_signal(signal.SIGUSR2)
        message = "nobody takes over; this process goes on"
        until(lambda: len(log_lines(seawall, message)) == 1, "it is told")
        load.still_answered()
        seawall.file.write_text(good)
        pid = take_over(seawall, seawall.process.pid, 1)
        load.still_answered()
    assert load.failed == []
    assert seawall.process.child.wait(10) == 0
    os.kill(pid, signal.SIGTERM)
    ended(seawall, 2)


def test_sockets_of_systemd_are_taken_by_their_address(processes, events, port, start_seawall):
    """As systemd does it: bound without SO_REUSEPORT, so that all workers have to share one."""
    uvicorn(processes, events, port)
    seawall_port = free_port()
    with socket.create_server(("127.0.0.1", seawall_port)) as given, socket.create_server(("127.0.0.1", 0)) as strange:
        with socket.create_connection(("127.0.0.1", seawall_port)) as early:
            early.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            seawall = start_seawall(port, port=seawall_port, inherits=[given, strange])
            given.close()
            strange.close()
            answer = b"".join(iter(lambda: early.recv(4096), b""))
            assert answer.startswith(b"HTTP/1.1 200 OK\r\n"), "who came before seawall is answered as well"
        with Load(seawall.port) as load:
            load.still_answered()
            pid = take_over(seawall, seawall.process.pid, 1)
            load.still_answered()
        assert load.failed == []
        assert len(log_lines(seawall, "an inherited socket fits no listener's address; closed")) == 1
        assert seawall.process.child.wait(10) == 0
        os.kill(pid, signal.SIGTERM)
        ended(seawall, 2)
        assert not listens(seawall_port)


def test_a_change_while_it_starts_is_not_missed(tmp_path):
    """It is held up after it has read the file and before it runs: nobody reads its log, which is a full pipe."""
    port, admin = free_port(), free_port()
    config = tmp_path / "seawall.yaml"

    def write(name):
        config.write_text(
            f'listeners: [{{ address: "127.0.0.1:{port}" }}]\nadmin: {{ address: "127.0.0.1:{admin}" }}\n'
            f'upstreams: {{ {name}: {{ endpoints: ["http://127.0.0.1:1"] }} }}\nroutes: [{{ upstream: {name} }}]\n'
            "reload: { interval: 100ms }\n"
        )

    write("before")
    log, end = os.pipe()
    os.set_blocking(end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(end, b"x" * 512)
    os.set_blocking(end, True)
    child = subprocess.Popen([BINARY, "-c", config], stdin=subprocess.DEVNULL, stderr=end)
    os.close(end)
    reader = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(log, 65536), b"")])
    try:
        until(lambda: listens(port), "it has read the file")
        write("after")
        reader.start()
        loaded = lambda: http1.operate(admin, "/config").json()["upstreams"].keys()  # noqa: E731
        until(lambda: listens(admin) and loaded() == {"after"}, "the change is taken over")
    finally:
        child.kill()
        child.wait(10)
        if reader.ident:
            reader.join(10)
        os.close(log)
