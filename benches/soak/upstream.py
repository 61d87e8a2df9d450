"""The upstream of the soak test: it does to each request what the request's plan says, and remembers what it saw."""

import asyncio
import base64
import hashlib
from dataclasses import dataclass, field

import wire

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_TRACE = b"""Traceback (most recent call last):
  File "/srv/app/views.py", line 12, in order
    return render(order)
ZeroDivisionError: division by zero
"""

# What a fault is called by seawall; more than one where the instant decides.
_CUT = {"http_response_incomplete"}
_RESET = {"http_response_incomplete", "connection_terminated"}
FAULTS = {
    "crash before the head": {"connection_terminated"},
    "reset before the head": {"connection_terminated"},
    "crash in the head": _CUT,
    "crash in the content": _CUT,
    "reset in the content": _RESET,
    "hang before the head": {"http_response_timeout"},
    "stall in the content": {"connection_read_timeout"},
    "two Content-Lengths": {"http_protocol_error"},
    "a Content-Length that is no number": {"http_protocol_error"},
    "a bad chunk": {"http_response_transfer_coding"},
    "not HTTP": {"http_protocol_error"},
    "500 with a stack trace": {"application_error"},
    "503": {"dependency_failure"},
}
# What may have been committed by the time: the client may get a part of it, which must not look complete.
IN_CONTENT = {"crash in the content", "reset in the content", "stall in the content", "a bad chunk"}
WEBSOCKET_FAULTS = {
    "crash between messages": {"connection_terminated"},
    "crash in a frame": {"connection_terminated"},
    "reset": {"connection_terminated"},
    "a frame of no known kind": {"websocket_protocol_error"},
}
HANDSHAKE_FAULTS = {
    "crash before the head": {"connection_terminated"},
    "500 with a stack trace": {"http_upgrade_failed"},
    "hang before the head": {"http_response_timeout"},
}


@dataclass
class Plan:
    """What happens to one request."""

    number: int
    fault: str | None = None
    framing: str = "length"
    size: int = 100
    pieces: int = 1
    pause: float = 0.0
    events: bool = False
    own_error: bool = False
    websocket: str = ""
    messages: int = 0
    # What the upstream saw of it.
    seen: asyncio.Event = field(default_factory=asyncio.Event)
    whole: bool = False
    digest: str = ""

    @property
    def content(self):
        if self.events:
            return b"".join(b"data: %d-%d\n\n" % (self.number, event) for event in range(self.size))
        return wire.content(self.number, self.size)


class Upstream:
    """Listens on a port of its own; `plans` are found by the number in the path."""

    def __init__(self):
        self.plans, self.port, self.unplanned = {}, None, 0
        self._hanging = set()

    async def start(self):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=wire.LIMIT, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self):
        self._server.close()

    async def _serve(self, reader, writer):
        stream = wire.Stream(reader, writer)
        try:
            while await self._request(stream):
                pass
        except (*wire.ENDS, ValueError):
            pass
        finally:
            writer.close()

    async def _request(self, stream):
        start, fields = await wire.read_head(stream.reader)
        path = start.split(" ")[1]
        plan = self.plans.get(int(path.rsplit("/", 1)[1]))
        if plan is None:
            # Its client has left, and its plan with it.
            self.unplanned += 1
            return False
        plan.seen.set()
        digest = hashlib.sha256()
        await wire.read_content(stream.reader, fields, digest.update)
        plan.whole, plan.digest = True, digest.hexdigest()
        if plan.websocket and plan.fault not in HANDSHAKE_FAULTS:
            await self._websocket(stream, plan, fields)
            return False
        return await self._answer(stream, plan)

    async def _answer(self, stream, plan):
        match plan.fault:
            case None:
                return await self._healthy(stream, plan)
            case "crash before the head":
                return False
            case "reset before the head":
                stream.reset()
            case "hang before the head":
                # Until seawall has had enough.
                await stream.reader.read(1)
            case "crash in the head":
                await stream.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/pl")
            case "two Content-Lengths":
                await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!")
            case "a Content-Length that is no number":
                await stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nhello")
            case "not HTTP":
                await stream.send(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n")
            case "500 with a stack trace":
                await self._status(stream, b"500 Internal Server Error", _TRACE)
                return True
            case "503":
                await self._status(stream, b"503 Service Unavailable", b"no database")
                return True
            case _:
                await self._half(stream, plan)
        return False

    async def _status(self, stream, status, content):
        head = b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % (status, len(content))
        await stream.send(head + content)

    def _head(self, plan):
        kind = "text/event-stream" if plan.events else "application/octet-stream"
        status = "500 Internal Server Error" if plan.own_error else "200 OK"
        lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Sum: {plan.digest}"]
        if plan.own_error:
            lines[1] = "Content-Type: application/json"
        if plan.framing == "length":
            lines.append(f"Content-Length: {len(plan.content)}")
        elif plan.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        else:
            lines.append("Connection: close")
        return "\r\n".join([*lines, "", ""]).encode()

    def _framed(self, plan, piece):
        return b"%x\r\n%s\r\n" % (len(piece), piece) if plan.framing == "chunked" else piece

    async def _pieces(self, stream, plan, content):
        step = -(-len(content) // plan.pieces) or 1
        for start in range(0, len(content), step):
            await stream.send(self._framed(plan, content[start : start + step]))
            if plan.pause:
                await asyncio.sleep(plan.pause)

    async def _healthy(self, stream, plan):
        await stream.send(self._head(plan))
        await self._pieces(stream, plan, plan.content)
        if plan.framing == "chunked":
            await stream.send(b"0\r\n\r\n")
        return plan.framing != "close"

    async def _half(self, stream, plan):
        """The head and half of the content, and then the fault."""
        await stream.send(self._head(plan))
        await self._pieces(stream, plan, plan.content[: len(plan.content) // 2])
        match plan.fault:
            case "reset in the content":
                stream.reset()
            case "stall in the content":
                await stream.reader.read(1)
            case "a bad chunk":
                await stream.send(b"zz\r\n")
                await stream.reader.read(1)

    async def _websocket(self, stream, plan, fields):
        accept = base64.b64encode(hashlib.sha1(fields["sec-websocket-key"].encode() + _GUID).digest())
        await stream.send(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        for message in range(plan.messages):
            await stream.send(wire.frame(wire.BINARY, wire.content(message, plan.size)))
        match plan.fault or plan.websocket:
            case "crash between messages":
                return
            case "crash in a frame":
                await stream.send(wire.frame(wire.BINARY, bytes(1000))[:500])
            case "reset":
                stream.reset()
            case "a frame of no known kind":
                await stream.send(wire.frame(5, b"?"))
                await self._until_closed(stream)
            case "stream":
                await stream.send(wire.frame(wire.CLOSE, b"\x03\xe8"))
                await self._until_closed(stream)
            case _:
                await self._until_closed(stream)

    async def _until_closed(self, stream):
        """Echoes what comes, up to the Close."""
        while True:
            fin, opcode, payload = await wire.read_frame(stream.reader)
            if opcode == wire.PING:
                await stream.send(wire.frame(wire.PONG, payload))
            elif opcode == wire.CLOSE:
                await stream.send(wire.frame(wire.CLOSE, payload[:2]))
                return
            elif opcode != wire.PONG:
                await stream.send(wire.frame(opcode, payload, fin=fin))
