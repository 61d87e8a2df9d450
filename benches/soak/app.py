#!/usr/bin/env python3
"""The app of the soak: whole answers, and every way to fail that a path can ask for.

    benches/soak/app.py PORT

Raw sockets: a library would not lie. What is whole is made from its path alone, so that clients can check every byte.

| path | what happens |
| --- | --- |
| /ok/N, /chunked/N, /close/N | N bytes with a Content-Length, in chunks, up to the end of the connection |
| /echo | the request's content |
| /sse/N | N server-sent events |
| /slow/MS | an answer after so many milliseconds |
| /mute | nothing, until the client has gone |
| /reset, /in-head, /in-body/N, /in-chunk/N | the connection ends: at once, in the head, in N bytes |
| /long/N, /bad-chunk | more bytes than promised; a chunk that is none |
| /trace, /json, /503 | the app says itself that it failed |
| /ws/echo, /ws/crash, /ws/half, /ws/1011, /ws/stream | WebSockets: echo, no Close, half a frame, a Close, 100 messages |
"""

import asyncio
import base64
import hashlib
import socket
import struct
import sys

TRACE = b'Traceback (most recent call last):\n  File "/srv/app.py", line 7, in pay\n    raise KeyError("card")\nKeyError: 1\n'


def content(path, size):
    """The bytes of this path: no two paths have the same."""
    seed = hashlib.sha256(path.encode()).hexdigest().encode()
    return (seed * (size // len(seed) + 1))[:size]


def head(status, *fields):
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, "", ""]).encode()


def whole(path, body, status="200 OK", kind="application/octet-stream"):
    return head(status, f"Content-Length: {len(body)}", f"Content-Type: {kind}") + body


def chunk(data):
    return b"%x\r\n%s\r\n" % (len(data), data)


def reset(writer):
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.close()


async def read_head(reader):
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    return lines[0].split(" ")[1], fields


async def read_content(reader, fields):
    if "chunked" in fields.get("transfer-encoding", ""):
        body = b""
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readuntil(b"\r\n")
        return body
    return await reader.readexactly(int(fields.get("content-length", 0)))


def frame(opcode, payload, final=True):
    first = bytes([opcode | (0x80 if final else 0)])
    if len(payload) < 126:
        return first + bytes([len(payload)]) + payload
    return first + b"\x7e" + len(payload).to_bytes(2, "big") + payload


async def read_frame(reader):
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size == 126:
        size = int.from_bytes(await reader.readexactly(2), "big")
    elif size == 127:
        size = int.from_bytes(await reader.readexactly(8), "big")
    mask = await reader.readexactly(4)
    payload = await reader.readexactly(size)
    return first & 0x0F, bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


async def websocket(path, fields, reader, writer):
    key = fields["sec-websocket-key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
    accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
    writer.write(
        head("101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Accept: {accept}")
    )
    if path == "/ws/stream":
        for number in range(100):
            writer.write(frame(2, content(str(number), 1000)))
        writer.write(frame(8, struct.pack("!H", 1000)))
    seen = 0
    while True:
        opcode, payload = await read_frame(reader)
        if opcode == 8:
            writer.write(frame(8, payload[:2]))
            await writer.drain()
            return
        if opcode == 9:
            writer.write(frame(10, payload))
            continue
        if opcode == 10:
            continue
        seen += 1
        if seen == 3 and path == "/ws/crash":
            return reset(writer)
        if seen == 3 and path == "/ws/half":
            writer.write(frame(2, content(path, 900))[:400])
            await writer.drain()
            return
        if seen == 3 and path == "/ws/1011":
            writer.write(frame(8, struct.pack("!H", 1011) + b"KeyError in db.py:17"))
            await writer.drain()
            return
        writer.write(frame(opcode, payload))
        await writer.drain()


async def answer(path, fields, body, writer):
    """Whether the connection goes on."""
    kind, _, number = path.strip("/").partition("/")
    size = int(number or 0) if number.isdigit() else 0
    match kind:
        case "ok":
            writer.write(whole(path, content(path, size)))
        case "echo":
            writer.write(whole(path, body))
        case "chunked" | "in-chunk":
            data = content(path, size)
            writer.write(head("200 OK", "Transfer-Encoding: chunked", "Content-Type: application/octet-stream"))
            parts = [data[at : at + 4000] for at in range(0, size, 4000)]
            if kind == "in-chunk":
                writer.write(b"".join(map(chunk, parts[:-1])) + b"fa0\r\n" + parts[-1][:10])
                return False
            for part in parts:
                writer.write(chunk(part))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        case "close":
            writer.write(head("200 OK", "Connection: close") + content(path, size))
            return False
        case "sse":
            writer.write(head("200 OK", "Transfer-Encoding: chunked", "Content-Type: text/event-stream"))
            for event in range(size):
                writer.write(chunk(b"data: %d\n\n" % event))
                await asyncio.sleep(0.005)
            writer.write(b"0\r\n\r\n")
        case "slow":
            await asyncio.sleep(size / 1000)
            writer.write(whole(path, content(path, 100)))
        case "in-head":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
            return False
        case "in-body":
            writer.write(whole(path, content(path, size))[: -size // 2])
            return False
        case "long":
            writer.write(head("200 OK", f"Content-Length: {size}") + content(path, size + 100))
            return False
        case "bad-chunk":
            writer.write(head("200 OK", "Transfer-Encoding: chunked") + b"5\r\nhello\r\nnonsense\r\n")
            return False
        case "trace":
            writer.write(whole(path, TRACE, "500 Internal Server Error", "text/plain"))
        case "json":
            writer.write(whole(path, b'{"error":"no such card"}', "500 Internal Server Error", "application/json"))
        case "503":
            writer.write(whole(path, b"the database is gone", "503 Service Unavailable", "text/plain"))
        case _:
            writer.write(whole(path, b"?", "404 Not Found"))
    await writer.drain()
    return fields.get("connection", "").lower() != "close"


async def connection(reader, writer):
    try:
        while True:
            path, fields = await read_head(reader)
            if path.startswith("/ws/"):
                await websocket(path, fields, reader, writer)
                break
            body = await read_content(reader, fields)
            if path == "/reset":
                return reset(writer)
            if path == "/mute":
                await reader.read()
                break
            if not await answer(path, fields, body, writer):
                break
        await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        pass
    writer.close()


async def main():
    server = await asyncio.start_server(connection, "127.0.0.1", int(sys.argv[1]), backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
