"""A bare ASGI app: HTTP and WebSockets without a framework."""

import asyncio
import os
from pathlib import Path

from announce import announce, gate_is_open

MESSAGES = 20
PAGE = Path(__file__).with_name("page.html")


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await websocket(scope, receive, send)
    else:
        await http(scope, receive, send)


async def lifespan(receive, send):
    while True:
        event = await receive()
        await send({"type": event["type"] + ".complete"})
        if event["type"] == "lifespan.shutdown":
            return


async def http(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/page":
        await answer(send, PAGE.read_bytes(), b"text/html; charset=utf-8")
    elif scope["path"] == "/where":
        await answer(send, "{} {}".format(*scope["server"]).encode())
    elif scope["path"] == "/hang":
        announce("hangs", os.getpid())
        await wait_at_gate()
        await answer(send, b"after all")
    elif scope["path"] == "/stream":
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b"x" * 3000, "more_body": True})
        announce("stopped", os.getpid())
        await wait_at_gate()
        await send({"type": "http.response.body", "body": b""})
    else:
        await answer(send, b"ok")


async def answer(send, content, media_type=b"text/plain"):
    fields = [(b"content-type", media_type), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": content})


async def websocket(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    await send({"type": "websocket.accept"})
    # Which client this is; a client that leaves at once says nothing.
    who = (await receive()).get("text")
    if who is None:
        return
    if scope["path"] == "/ticks":
        await ticks(receive, send)
        return
    for number in range(MESSAGES):
        await send({"type": "websocket.send", "text": f"{who}:{number}"})
    announce("sent", who)
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "text": event["text"]})


async def ticks(receive, send):
    """Counts up until the client leaves."""
    leaves = asyncio.ensure_future(receive())
    number = 0
    while not leaves.done():
        await send({"type": "websocket.send", "text": str(number)})
        number += 1
        await asyncio.wait([leaves], timeout=0.02)


async def wait_at_gate(seconds=60):
    for _ in range(seconds * 100):
        if gate_is_open():
            return
        await asyncio.sleep(0.01)
