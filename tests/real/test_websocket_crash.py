"""WebSocket servers SIGKILLed with 200 open WebSockets: 1011 for each, after every message sent before (P3)."""

import asyncio
import json

import pytest
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from support import http1
from support.processes import REAL, node_ws, python_websockets, uvicorn
from support.waiting import until
from support.websocket import all_to_end, open_client, open_many, read_to_end

CLIENTS = 200
MESSAGES = 20
SERVERS = {"websockets": python_websockets, "uvicorn": uvicorn, "node": node_ws}


@pytest.fixture(params=SERVERS)
def server(request, processes, events, port):
    """Starts the server; again, on the same port, after it was killed."""
    return lambda: SERVERS[request.param](processes, events, port)


def text_of(message):
    return message.decode() if isinstance(message, bytes) else message


def is_1011(session, who, count=MESSAGES):
    """Every message in order and unchanged, then a Close with a short reason, answered cleanly."""
    expected = [f"{who}:{number}" for number in range(count)]
    assert [text_of(message).rstrip(".") for message in session.messages] == expected
    assert (session.code, session.clean) == (1011, True)
    assert session.reason.startswith("connection_terminated; request ")


# With and without permessage-deflate: the relay passes compressed payloads unread.
@pytest.mark.parametrize("compression", ["deflate", None])
def test_200_clients_get_every_message_and_then_1011(server, compression, events, seawall):
    running = server()

    async def crash():
        clients = await open_many(seawall.websocket("/messages"), CLIENTS, compression=compression)
        await asyncio.to_thread(events.wait, "sent", CLIENTS)
        seawall.counted(
            CLIENTS, lambda metrics: metrics.total("seawall_websocket_sessions", upstream="app"), "all are open"
        )
        running.kill()
        return await all_to_end(clients)

    sessions = asyncio.run(crash())
    for who, session in enumerate(sessions):
        is_1011(session, who)
    counted = {"kind": "connection_terminated", "phase": "websocket", "protocol": "websocket", "outcome": "normalized"}
    seawall.counted(
        (CLIENTS, CLIENTS, {"1011": CLIENTS}, 0),
        lambda metrics: (
            metrics.total("seawall_failures_total", **counted),
            metrics.total("seawall_failures_total"),
            metrics.by("seawall_websocket_closes_total", "code"),
            metrics.total("seawall_websocket_sessions"),
        ),
        "one failure and one close per client",
    )

    server()
    assert http1.get(seawall.port, "/ok").status == 200, "the first request after the restart succeeds"

    async def reconnect():
        async with open_client(seawall.websocket("/messages"), compression=compression) as client:
            await client.send("again")
            messages = [text_of(await client.recv()) for _ in range(MESSAGES)]
            await client.send("still there?")
            return messages, await client.recv()

    messages, echoed = asyncio.run(reconnect())
    assert [message.rstrip(".") for message in messages] == [f"again:{number}" for number in range(MESSAGES)]
    assert echoed == "still there?"
    # The reconnect added no failure.
    seawall.failed(CLIENTS)


@pytest.mark.parametrize("takeover", [True, False])
def test_compressed_messages_pass_both_ways(takeover, server, seawall):
    """permessage-deflate is between the two ends; a window that goes on from message to message survives too."""
    server()
    offer = ClientPerMessageDeflateFactory(
        server_no_context_takeover=not takeover, client_no_context_takeover=not takeover
    )

    async def talk():
        async with open_client(seawall.websocket("/messages"), compression=None, extensions=[offer]) as client:
            [agreed] = client.protocol.extensions
            # What a client asks for is granted; without it uvicorn and node may still choose it themselves.
            assert takeover or (agreed.remote_no_context_takeover and agreed.local_no_context_takeover)
            await client.send("me")
            for _ in range(MESSAGES):
                await client.recv()
            for number in range(60):
                message = f"words that come again {number} " * number * 50
                await client.send(message)
                assert await client.recv() == message

    asyncio.run(talk())
    seawall.failed(0)


@pytest.mark.parametrize("where", ["half", "fragment"])
def test_a_crash_inside_a_message_costs_that_message_and_is_still_1011(where, processes, events, port, seawall):
    server = node_ws(processes, events, port)

    async def crash():
        clients = await open_many(seawall.websocket(f"/{where}"), 20, compression=None)
        await asyncio.to_thread(events.wait, "sent", 20)
        server.kill()
        return await all_to_end(clients)

    for who, session in enumerate(asyncio.run(crash())):
        assert session.messages == [f"{who}:whole"]
        assert (session.code, session.clean) == (1011, True)
    seawall.counted(
        20, lambda metrics: metrics.total("seawall_websocket_cut_messages_total"), "each cut message is counted"
    )


def test_node_clients_get_every_message_and_then_1011(processes, events, port, seawall):
    """Neither side of the WebSocket is Python."""
    server = node_ws(processes, events, port)
    clients = processes.start("clients", ["node", REAL / "apps/ws_client.js", seawall.websocket("/messages"), CLIENTS])
    events.wait("sent", CLIENTS)
    server.kill()
    until(lambda: not clients.running(), "every node client has ended")
    sessions = json.loads(clients.text())
    assert len(sessions) == CLIENTS
    for session in sessions:
        expected = [f"{session['who']}:{number}" for number in range(MESSAGES)]
        assert [message.rstrip(".") for message in session["messages"]] == expected
        assert (session["code"], session["wasClean"], session["errors"]) == (1011, True, [])


def test_a_server_that_is_down_refuses_the_handshake_with_a_whole_500(port, seawall):
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    upgrade.append("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    with http1.Client(seawall.port) as client:
        answer = client.request("GET", "/messages", fields=upgrade)
    assert (answer.status, answer.complete, answer.error) == (500, True, "connection_refused")
    seawall.failed(1, kind="connection_refused", protocol="websocket")


def test_closes_that_both_sides_mean_pass_unchanged(server, seawall):
    server()

    async def leave():
        async with open_client(seawall.websocket("/messages")) as client:
            await client.send("leaver")
            await client.close(4001, "enough")
            return await read_to_end(client)

    session = asyncio.run(leave())
    assert (session.code, session.clean) == (4001, True)
    seawall.counted(
        ({"4xxx": 1}, 0),
        lambda metrics: (
            metrics.by("seawall_websocket_closes_total", "code", initiator="client"),
            metrics.total("seawall_failures_total"),
        ),
        "the client's close is counted as the client's",
    )
