"""The clients of the soak: each does one thing, checks every byte of what it gets, and writes down what that was.

An answer that looks complete is complete (P1): its content is what the app was to send, or it is an answer of seawall's
own, named in Proxy-Status. What looks cut off must be what the app cut off.
"""

import asyncio
import os
import socket
import struct
from collections import Counter
from dataclasses import dataclass, field

from app import content, frame

WAIT = 20


class Wrong(Exception):
    """A promise is broken."""


@dataclass
class Tally:
    """What clients saw. `sure` are requests whose end the client saw; `unsure` those that it left itself."""

    sure: Counter = field(default_factory=Counter)
    unsure: int = 0
    faults: Counter = field(default_factory=Counter)
    outcomes: Counter = field(default_factory=Counter)
    closes: Counter = field(default_factory=Counter)
    unsure_sockets: int = 0
    wrong: list = field(default_factory=list)


class Connection:
    """One client connection over HTTP/1.1."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port):
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 20))

    def reset(self):
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def close(self):
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except ConnectionError:
            pass

    async def answer(self, pause=0):
        """(status, fields, content, whole) of the next answer; `whole` is what its framing says."""
        lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        status = int(lines[0].split(" ")[1])
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        try:
            if "chunked" in fields.get("transfer-encoding", ""):
                body = bytearray()
                while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
                    body += (await self.reader.readexactly(size + 2))[:-2]
                    await asyncio.sleep(pause)
                await self.reader.readuntil(b"\r\n")
                return status, fields, bytes(body), True
            if "content-length" in fields:
                left, body = int(fields["content-length"]), bytearray()
                while left:
                    part = await self.reader.read(min(left, 4096 if pause else 65536))
                    if not part:
                        return status, fields, bytes(body), False
                    body += part
                    left -= len(part)
                    await asyncio.sleep(pause)
                return status, fields, bytes(body), True
            return status, fields, await self.reader.read(), True
        except (asyncio.IncompleteReadError, ConnectionError):
            return status, fields, b"", False


def request(method, path, body=None, *fields):
    lines = [f"{method} {path} HTTP/1.1", "Host: soak", *fields]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + (body or b"")


def judge(tally, path, expected, answer, may_be_cut):
    """Writes down what an answer was, unless it breaks a promise."""
    status, fields, body, is_whole = answer
    named = "seawall;error=" in fields.get("proxy-status", "")
    tally.sure[status] += 1
    if not is_whole:
        tally.outcomes["cut off"] += 1
        if not may_be_cut:
            raise Wrong(f"{path}: cut off after {len(body)} bytes")
    elif status == 200:
        tally.outcomes["whole"] += 1
        if expected is None or body != expected:
            raise Wrong(f"{path}: looks whole with {len(body)} bytes that are not the app's")
    elif named:
        tally.outcomes[f"{status}, named"] += 1
        if b"Traceback" in body:
            raise Wrong(f"{path}: shows a trace")
    elif path == "/json" and status == 500:
        tally.outcomes["the app's own 500"] += 1
    else:
        raise Wrong(f"{path}: {status} without a name")


class Clients:
    """All that clients do, by name; `random` decides what and when."""

    # How often each is done, and what of it is a fault.
    SHARES = {
        "small": 30, "large": 6, "chunked": 8, "until_close": 3, "post": 8, "pipelined": 4, "kept": 6, "events": 1,
        "slow_app": 2, "http2": 3, "sockets": 6, "socket_stream": 2,
        "app_resets": 3, "app_ends_in_head": 2, "app_ends_in_body": 3, "app_ends_in_long_body": 2,
        "app_ends_in_chunk": 2, "app_is_mute": 1, "app_says_too_much": 2, "app_sends_bad_chunk": 2, "app_shows_trace": 2,
        "app_says_500": 1, "app_says_503": 1, "socket_crashes": 3, "socket_ends_in_frame": 2, "socket_says_1011": 2,
        "client_leaves_in_head": 2, "client_leaves_in_content": 2, "client_leaves_in_answer": 3, "client_resets": 2,
        "client_reads_slowly": 1, "client_half_closes": 2, "client_breaks_socket": 2, "client_sends_nonsense": 1,
        "client_breaks_frames": 1,
    }  # fmt: skip

    def __init__(self, port, random, tally):
        self.port, self.random, self.tally = port, random, tally

    async def run(self, is_over):
        names, weights = zip(*self.SHARES.items(), strict=True)
        while not is_over():
            (name,) = self.random.choices(names, weights)
            if name.startswith(("app_", "socket_c", "socket_e", "socket_say", "client_")):
                self.tally.faults[name] += 1
            try:
                await asyncio.wait_for(getattr(self, name)(), WAIT)
            except TimeoutError:
                self.tally.wrong.append(f"{name}: no end after {WAIT} s")
            except (Wrong, asyncio.IncompleteReadError, ConnectionError, ValueError) as error:
                self.tally.wrong.append(f"{name}: {type(error).__name__} {error}")

    def size(self, most):
        return self.random.randrange(1, most)

    async def ask(self, path, expected=None, method="GET", body=None, may_be_cut=False, pause=0):
        connection = await Connection.open(self.port)
        try:
            connection.writer.write(request(method, path, body))
            try:
                answer = await connection.answer(pause)
            except (asyncio.IncompleteReadError, ConnectionError):
                raise Wrong(f"{path}: no answer") from None
            judge(self.tally, path, expected, answer, may_be_cut)
        finally:
            await connection.close()

    # Whole answers. One endpoint is killed now and then: what had begun and does not fit in the hold may be cut off.

    async def small(self):
        path = f"/ok/{self.size(2000)}"
        await self.ask(path, content(path, int(path[4:])))

    async def large(self):
        path = f"/ok/{self.size(2_000_000)}"
        await self.ask(path, content(path, int(path[4:])), may_be_cut=True)

    async def chunked(self):
        path = f"/chunked/{self.size(200_000)}"
        await self.ask(path, content(path, int(path[9:])), may_be_cut=True)

    async def until_close(self):
        path = f"/close/{self.size(20_000)}"
        # Its end is its connection's: a kill in the middle looks like it to everybody.
        await self.ask(path, content(path, int(path[7:])), may_be_cut=True)

    async def post(self):
        body = content("post", self.size(100_000))
        await self.ask("/echo", body, "POST", body, may_be_cut=True)

    async def pipelined(self):
        paths = [f"/ok/{self.size(500)}" for _ in range(3)]
        connection = await Connection.open(self.port)
        try:
            connection.writer.write(b"".join(request("GET", path) for path in paths))
            for path in paths:
                judge(self.tally, path, content(path, int(path[4:])), await connection.answer(), False)
        finally:
            await connection.close()

    async def kept(self):
        connection = await Connection.open(self.port)
        try:
            for _ in range(self.size(20)):
                path = f"/ok/{self.size(500)}"
                connection.writer.write(request("GET", path))
                judge(self.tally, path, content(path, int(path[4:])), await connection.answer(), False)
        finally:
            await connection.close()

    async def events(self):
        count = self.size(40)
        expected = b"".join(b"data: %d\n\n" % event for event in range(count))
        await self.ask(f"/sse/{count}", expected, may_be_cut=True)

    async def slow_app(self):
        path = f"/slow/{self.size(300)}"
        await self.ask(path, content(path, 100))

    async def http2(self):
        """A few requests on one connection; fields are not decoded but for the status."""
        connection = await Connection.open(self.port)
        writer, reader = connection.writer, connection.reader
        send = lambda kind, flags, stream, data: writer.write(  # noqa: E731
            len(data).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + data
        )
        try:
            writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
            send(4, 0, 0, b"")
            for at in range(self.size(6)):
                stream, path = 1 + 2 * at, self.random.choice([f"/ok/{self.size(3000)}", "/reset", "/trace"])
                block = b"\x82\x86\x04" + bytes([len(path)]) + path.encode() + b"\x01\x04soak"
                send(1, 5, stream, block)
                body, status, ended = b"", None, False
                while not ended:
                    size, kind, flags = struct.unpack("!I", b"\0" + await reader.readexactly(3))[0], *await reader.readexactly(2)
                    of = int.from_bytes(await reader.readexactly(4), "big")
                    data = await reader.readexactly(size)
                    if kind == 4 and not flags & 1:
                        send(4, 1, 0, b"")
                    if of == stream and kind == 1:
                        first = data.lstrip(bytes(range(0x20, 0x40)))[:1]
                        status = {b"\x88": 200, b"\x8e": 500}.get(first, 0)
                    if of == stream and kind == 0:
                        body += data
                        if data:
                            send(8, 0, 0, len(data).to_bytes(4, "big"))
                    if kind in (3, 7):
                        raise Wrong(f"{path} over HTTP/2: reset")
                    ended = of == stream and bool(flags & 1) and kind in (0, 1)
                expected = content(path, int(path[4:])) if path.startswith("/ok/") else None
                named = {"proxy-status": "seawall;error=x"} if status == 500 else {}
                judge(self.tally, path, expected, (status, named, body, True), False)
        finally:
            await connection.close()

    # The app fails.

    async def app_resets(self):
        await self.ask("/reset")

    async def app_ends_in_head(self):
        await self.ask("/in-head")

    async def app_ends_in_body(self):
        await self.ask(f"/in-body/{2 + self.size(30_000)}")

    async def app_ends_in_long_body(self):
        await self.ask("/in-body/2000000", may_be_cut=True)

    async def app_ends_in_chunk(self):
        await self.ask(f"/in-chunk/{4100 + self.size(300_000)}", may_be_cut=True)

    async def app_is_mute(self):
        await self.ask("/mute")

    async def app_says_too_much(self):
        path = f"/long/{self.size(5000)}"
        await self.ask(path, content(path, int(path[6:]) + 100)[: int(path[6:])])

    async def app_sends_bad_chunk(self):
        await self.ask("/bad-chunk", may_be_cut=True)

    async def app_shows_trace(self):
        await self.ask("/trace")

    async def app_says_500(self):
        await self.ask("/json")

    async def app_says_503(self):
        await self.ask("/503")

    # The client fails. Whether seawall has seen the request is not known here.

    async def client_leaves_in_head(self):
        connection = await Connection.open(self.port)
        connection.writer.write(request("GET", "/ok/10")[: self.size(20)])
        await connection.close()

    async def client_leaves_in_content(self):
        connection = await Connection.open(self.port)
        connection.writer.write(request("POST", "/echo", b"x" * 50_000)[: -self.size(40_000)])
        self.tally.unsure += 1
        await connection.close()

    async def client_leaves_in_answer(self):
        connection = await Connection.open(self.port)
        connection.writer.write(request("GET", "/ok/2000000"))
        self.tally.unsure += 1
        try:
            await connection.reader.read(self.size(100_000))
        finally:
            await connection.close()

    async def client_resets(self):
        connection = await Connection.open(self.port)
        connection.writer.write(request("GET", f"/slow/{self.size(100)}"))
        self.tally.unsure += 1
        await asyncio.sleep(self.random.random() / 10)
        connection.reset()

    async def client_reads_slowly(self):
        path = "/ok/300000"
        await self.ask(path, content(path, 300_000), may_be_cut=True, pause=0.01)

    async def client_half_closes(self):
        # It counts as gone, as with nginx: it may get its answer or not, but never a part that looks whole.
        path = "/ok/1000"
        connection = await Connection.open(self.port)
        self.tally.unsure += 1
        try:
            connection.writer.write(request("GET", path))
            connection.writer.write_eof()
            status, _, body, is_whole = await connection.answer()
            if status == 200 and is_whole and body != content(path, 1000):
                raise Wrong(f"{path}: looks whole, and is not")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            await connection.close()

    async def client_sends_nonsense(self):
        connection = await Connection.open(self.port)
        try:
            connection.writer.write(os.urandom(200) + b"\r\n\r\n")
            await connection.reader.read()
        except ConnectionError:
            pass
        finally:
            await connection.close()

    # WebSockets, by hand: a library would not break the rules.

    async def open_socket(self, path):
        connection = await Connection.open(self.port)
        connection.writer.write(
            request("GET", path, None, "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
        )  # fmt: skip
        lines = (await connection.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = int(lines.split(" ")[1])
        self.tally.sure[status] += 1
        if status == 101:
            return connection
        if "seawall;error=" not in lines:
            raise Wrong(f"{path}: {status} without a name")
        self.tally.outcomes[f"{status}, named"] += 1
        await connection.close()
        return None

    def send(self, connection, opcode, payload):
        plain, mask = frame(opcode, payload), os.urandom(4)
        header = len(plain) - len(payload)
        masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
        connection.writer.write(plain[:1] + bytes([plain[1] | 0x80]) + plain[2:header] + mask + masked)

    async def receive(self, connection):
        """(opcode, payload) of the next frame that is no ping."""
        while True:
            first, second = await connection.reader.readexactly(2)
            size = second & 0x7F
            if size == 126:
                size = int.from_bytes(await connection.reader.readexactly(2), "big")
            payload = await connection.reader.readexactly(size)
            if first & 0x0F == 9:
                self.send(connection, 10, payload)
            else:
                return first & 0x0F, payload

    async def to_close(self, connection, path):
        """Reads to the Close frame and answers it; its code. Without one the promise is broken."""
        messages = []
        while True:
            try:
                opcode, payload = await self.receive(connection)
            except (asyncio.IncompleteReadError, ConnectionError):
                raise Wrong(f"{path}: ended without a Close") from None
            if opcode == 8:
                code = int.from_bytes(payload[:2], "big") if payload else 1005
                self.tally.closes[code] += 1
                self.send(connection, 8, payload[:2])
                await connection.close()
                return code, messages
            messages.append(payload)

    async def talk(self, path, rounds):
        """Messages there and back, as long as it goes well; the connection, or nothing if it was closed."""
        connection = await self.open_socket(path)
        if connection is None:
            return None
        for number in range(rounds):
            sent = content(f"{path}{number}", self.size(5000))
            self.send(connection, 2, sent)
            opcode, got = await self.receive(connection)
            if opcode == 8:
                # The endpoint was killed.
                code = int.from_bytes(got[:2], "big")
                self.tally.closes[code] += 1
                self.send(connection, 8, got[:2])
                await connection.close()
                if code != 1011:
                    raise Wrong(f"{path}: closed with {code}")
                return None
            if got != sent:
                raise Wrong(f"{path}: another message came back")
        return connection

    async def sockets(self):
        connection = await self.talk("/ws/echo", self.size(20))
        if connection is None:
            return
        self.send(connection, 8, (1000).to_bytes(2, "big"))
        code, _ = await self.to_close(connection, "/ws/echo")
        if code not in (1000, 1011):
            raise Wrong(f"/ws/echo: closed with {code}")

    async def socket_stream(self):
        connection = await self.open_socket("/ws/stream")
        if connection is None:
            return
        code, messages = await self.to_close(connection, "/ws/stream")
        expected = [content(str(number), 1000) for number in range(100)]
        if code == 1000 and messages != expected:
            raise Wrong(f"/ws/stream: {len(messages)} messages, and closed as if it were all")
        if messages != expected[: len(messages)] or code not in (1000, 1011):
            raise Wrong(f"/ws/stream: closed with {code}, or other messages than sent")

    async def broken(self, path):
        connection = await self.talk(path, 2)
        if connection is None:
            return
        self.send(connection, 2, b"the third")
        code, messages = await self.to_close(connection, path)
        if code != 1011 or (messages and path != "/ws/half"):
            raise Wrong(f"{path}: closed with {code} after {len(messages)} messages")

    async def socket_crashes(self):
        await self.broken("/ws/crash")

    async def socket_ends_in_frame(self):
        await self.broken("/ws/half")

    async def socket_says_1011(self):
        await self.broken("/ws/1011")

    async def client_breaks_socket(self):
        connection = await self.talk("/ws/echo", 2)
        if connection is None:
            return
        self.tally.unsure_sockets += 1
        connection.reset()

    async def client_breaks_frames(self):
        connection = await self.open_socket("/ws/echo")
        if connection is None:
            return
        connection.writer.write(b"\xff\xff" + os.urandom(50))
        code, _ = await self.to_close(connection, "/ws/echo")
        if code not in (1002, 1011):
            raise Wrong(f"/ws/echo: nonsense was closed with {code}")
