"""The real app of the soak test, for uvicorn: what is SIGKILLed and started again."""

import asyncio
from urllib.parse import parse_qs

import wire


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            await send({"type": event["type"] + ".complete"})
            if event["type"] == "lifespan.shutdown":
                return
    elif scope["type"] == "websocket":
        await websocket(receive, send)
    else:
        await http(scope, receive, send)


async def http(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    query = parse_qs(scope["query_string"].decode())
    number, size = int(scope["path"].rsplit("/", 1)[1]), int(query["size"][0])
    fields = [(b"content-type", b"application/octet-stream")]
    if "sized" in query:
        fields.append((b"content-length", str(size).encode()))
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    content = wire.content(number, size)
    step = size // 4 + 1
    for start in range(0, size, step):
        await send({"type": "http.response.body", "body": content[start : start + step], "more_body": True})
        await asyncio.sleep(0.002)
    await send({"type": "http.response.body", "body": b""})


async def websocket(receive, send):
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        await send({"type": "websocket.send", "bytes": event["bytes"]})
