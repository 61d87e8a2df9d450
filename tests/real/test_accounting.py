"""50 requests and 50 WebSockets at a time, through a crash and a restart: every one is accounted for (P5).

What the metrics say must be exactly what the clients saw, whichever instant the crash met each of them in.
"""

import asyncio
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from websockets.exceptions import ConnectionClosed, InvalidStatus

from support import http1
from support.processes import uvicorn
from support.waiting import until
from support.websocket import Session, open_client, read_to_end

CLIENTS = 50


@dataclass
class Tally:
    """What clients saw, added up from many threads."""

    statuses: Counter = field(default_factory=Counter)
    errors: Counter = field(default_factory=Counter)
    cut: int = 0
    handshake_errors: Counter = field(default_factory=Counter)
    closes: Counter = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, answer):
        with self.lock:
            self.statuses[str(answer.status)] += 1
            if not answer.complete:
                self.cut += 1
            elif answer.status != 200:
                assert answer.error, "a failure is named"
                self.errors[answer.error] += 1

    def refused_handshake(self, response):
        with self.lock:
            self.statuses[str(response.status_code)] += 1
            self.handshake_errors[http1.proxy_error(response.headers["Proxy-Status"])] += 1

    def closed(self, session):
        with self.lock:
            self.statuses["101"] += 1
            self.closes[str(session.code)] += 1


def matches(seawall, tally):
    """Asserts that the metrics are the tally: by status, by kind, by close code, nothing open, nothing left over."""
    failed = {"protocol": "http", "outcome": "normalized"}
    handshakes = {"protocol": "websocket", "outcome": "normalized"}
    expected = {
        "answers by status": tally.statuses,
        "normalized by kind": tally.errors,
        "aborted": tally.cut,
        "WebSockets that failed, from the handshake on": tally.handshake_errors.total() + tally.closes["1011"],
        "closes by code": tally.closes,
        "open": (0, 0),
    }

    def measured(metrics):
        return {
            "answers by status": metrics.by("seawall_requests_total", "status", upstream="app"),
            "normalized by kind": metrics.by("seawall_failures_total", "kind", **failed),
            "aborted": metrics.total("seawall_failures_total", outcome="aborted"),
            "WebSockets that failed, from the handshake on": metrics.total("seawall_failures_total", **handshakes),
            "closes by code": metrics.by("seawall_websocket_closes_total", "code"),
            "open": (
                metrics.total("seawall_requests_in_flight"),
                metrics.total("seawall_websocket_sessions"),
            ),
        }

    seawall.counted(expected, measured, "the metrics are what the clients saw")


def test_50_requests_and_50_websockets_in_flight_at_a_crash(processes, events, port, seawall):
    """In step: all succeed, all are in flight when the app crashes, all find it down, all succeed again."""
    tally = Tally()

    def ask(method, path):
        with http1.Client(seawall.port) as client:
            answer = client.request(method, path, b"" if method == "POST" else None)
        tally.answer(answer)
        return answer

    def everyone(pool, method, path):
        return [pool.submit(ask, method, path) for _ in range(CLIENTS)]

    def statuses(asked):
        return Counter((answer.result().status, answer.result().error) for answer in asked)

    async def open_one(number):
        websocket = await open_client(seawall.websocket("/messages"))
        await websocket.send(str(number))
        return websocket

    async def story(pool):
        server = uvicorn(processes, events, port)
        assert statuses(everyone(pool, "GET", "/ok")) == {(200, None): CLIENTS}

        websockets = await asyncio.gather(*(open_one(number) for number in range(CLIENTS)))
        hanging = everyone(pool, "POST", "/hang")
        await asyncio.to_thread(events.wait, "hangs", CLIENTS)
        await asyncio.to_thread(events.wait, "sent", CLIENTS)
        server.kill()
        for session in await asyncio.gather(*map(read_to_end, websockets)):
            assert (session.code, len(session.messages)) == (1011, 20)
            tally.closed(session)
        assert statuses(hanging) == {(500, "connection_terminated"): CLIENTS}

        assert statuses(everyone(pool, "POST", "/ok")) == {(500, "connection_refused"): CLIENTS}
        refused = await asyncio.gather(*(open_one(number) for number in range(CLIENTS)), return_exceptions=True)
        for refusal in refused:
            assert isinstance(refusal, InvalidStatus), refusal
            tally.refused_handshake(refusal.response)
        assert tally.handshake_errors == {"connection_refused": CLIENTS}

        uvicorn(processes, events, port)
        assert statuses(everyone(pool, "GET", "/ok")) == {(200, None): CLIENTS}
        for websocket in await asyncio.gather(*(open_one(number) for number in range(CLIENTS))):
            await websocket.close()
            tally.closed(await read_to_end(websocket))

    with ThreadPoolExecutor(CLIENTS) as pool:
        asyncio.run(asyncio.wait_for(story(pool), 60))
    assert tally.closes == {"1011": CLIENTS, "1000": CLIENTS}
    matches(seawall, tally)


def test_50_clients_of_each_kind_that_never_stop_through_a_crash_and_a_restart(processes, events, port, seawall):
    """Out of step: the crash meets each client wherever it is. Each must have seen the failure and the recovery."""
    tally = Tally()
    progress = Counter()
    restarted, over = threading.Event(), threading.Event()

    def passed(stage):
        with tally.lock:
            progress[stage] += 1

    def requests(number):
        """Keeps asking over one connection as long as it lasts; every other client asks with POST."""
        method, content = ("GET", None) if number % 2 else ("POST", b"x" * 2000)
        stages = ["before", "during", "after"]
        client = http1.Client(seawall.port)
        while stages and not over.is_set():
            answer = client.request(method, "/ok", content)
            tally.answer(answer)
            if client.end or answer.get("connection") == "close":
                client = http1.Client(seawall.port)
            stage = "after" if restarted.is_set() else "before"
            wanted = answer.status == 500 if stages[0] == "during" else answer.status == 200 and stages[0] == stage
            if wanted:
                passed(stages.pop(0))

    async def websockets():
        """Counts along with the server; connects again after each failure; leaves once it counts again."""
        while True:
            try:
                websocket = await open_client(seawall.websocket("/ticks"))
            except InvalidStatus as refusal:
                tally.refused_handshake(refusal.response)
                continue
            session = await count(websocket)
            tally.closed(session)
            assert session.messages == [str(number) for number in range(len(session.messages))], "in order, no gap"
            if session.code == 1000:
                return
            assert session.code == 1011
            passed("websocket crash")

    async def count(websocket):
        session = Session()
        with suppress(ConnectionClosed):
            await websocket.send("count")
            while not (restarted.is_set() and len(session.messages) >= 5):
                session.messages.append(await websocket.recv())
                if len(session.messages) == 5:
                    passed("websocket counts")
            await websocket.close()
        return await read_to_end(websocket, session)

    async def story(pool):
        server = uvicorn(processes, events, port)
        clients = [loop_in(pool, requests, number) for number in range(CLIENTS)]
        clients += [asyncio.ensure_future(websockets()) for _ in range(CLIENTS)]

        async def all_passed(stage):
            def reached():
                # A client that failed an assertion is the news, not the deadline that it makes others miss.
                for client in clients:
                    if client.done():
                        client.result()
                return progress[stage] == CLIENTS

            await asyncio.to_thread(until, reached, f"every client has passed the stage {stage!r}")

        await all_passed("before")
        await all_passed("websocket counts")
        server.kill()
        await all_passed("during")
        await all_passed("websocket crash")
        uvicorn(processes, events, port)
        restarted.set()
        await asyncio.gather(*clients)

    def loop_in(pool, function, *arguments):
        return asyncio.get_running_loop().run_in_executor(pool, function, *arguments)

    with ThreadPoolExecutor(CLIENTS) as pool:
        try:
            asyncio.run(asyncio.wait_for(story(pool), 60))
        finally:
            over.set()
    assert tally.closes == {"1011": CLIENTS, "1000": CLIENTS}
    assert tally.errors.keys() <= {"connection_terminated", "connection_refused", "http_response_incomplete"}
    matches(seawall, tally)
