"""SIGTERM: what is in flight finishes, WebSockets are told to come back, the exit code is 0."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from support import http1
from support.processes import listens, uvicorn
from support.waiting import until
from support.websocket import all_to_end, open_many

CLIENTS = 20


def test_sigterm_finishes_requests_closes_websockets_with_1012_and_exits_0(processes, events, port, start_seawall):
    uvicorn(processes, events, port)
    seawall = start_seawall(port, drain="10s")

    async def drain(pool):
        websockets = await open_many(seawall.websocket("/messages"), CLIENTS)
        asked = [pool.submit(http1.post, seawall.port, "/hang") for _ in range(5)]
        await asyncio.to_thread(events.wait, "hangs", 5)
        await asyncio.to_thread(events.wait, "sent", CLIENTS)
        seawall.process.child.terminate()
        await asyncio.to_thread(until, lambda: not listens(seawall.port), "nothing new is accepted")
        assert seawall.process.running(), "it waits for what is in flight"
        sessions = await all_to_end(websockets)
        assert not any(future.done() for future in asked), "the requests are still in flight"
        events.open_gate()
        return sessions, [await asyncio.wrap_future(future) for future in asked]

    with ThreadPoolExecutor(5) as pool:
        sessions, answers = asyncio.run(drain(pool))
    for who, session in enumerate(sessions):
        assert session.messages == [f"{who}:{number}" for number in range(20)]
        assert (session.code, session.clean) == (1012, True)
    for answer in answers:
        assert (answer.status, answer.complete, answer.content) == (200, True, b"after all")
    assert seawall.process.child.wait(30) == 0
    assert "panicked at" not in seawall.process.text()


def test_sigterm_with_nothing_in_flight_ends_at_once(processes, port, start_seawall):
    seawall = start_seawall(port, drain="30s")
    with http1.Client(seawall.port) as idle:
        assert idle.request("GET", "/nobody-listens").status == 500
        assert seawall.process.terminate(seconds=20) == 0
        assert idle.closed() == "fin", "an idle connection is no reason to wait"


def test_the_drain_time_is_a_limit(processes, events, port, start_seawall):
    """A request that never ends does not keep the process alive."""
    uvicorn(processes, events, port)
    seawall = start_seawall(port, drain="500ms")
    with http1.Client(seawall.port) as client:
        client.send("POST", "/hang", b"")
        events.wait("hangs")
        assert seawall.process.terminate(seconds=20) == 0
