"""HTTP/1.1 and WebSocket frames on asyncio's streams, for both sides of a proxy: strict, and silent about nothing.

A reader says what the framing says: an answer is whole, or it was cut. How the connection ended is told apart.
"""

import asyncio
import base64
import contextlib
import os
import socket
import struct
from dataclasses import dataclass, field

LIMIT = 1 << 20
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
ENDS = (ConnectionError, asyncio.IncompleteReadError, TimeoutError)


def content(number, size):
    """What request `number` is answered with, and sends: of this size, and unlike any other's."""
    unit = b"%08d|" % number
    return (unit * (size // len(unit) + 1))[:size]


@dataclass
class Answer:
    """An answer as far as it came."""

    status: int
    fields: dict
    content: bytes = b""
    complete: bool = False


@dataclass
class Stream:
    """A connection: asyncio's reader and writer, and the ways to end it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    asked: int = field(default=0)

    async def send(self, data):
        self.writer.write(data)
        await self.writer.drain()

    def reset(self):
        """RST: what was not read is lost to the other side."""
        taken = self.writer.get_extra_info("socket")
        if taken is not None:
            with contextlib.suppress(OSError):
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def close(self):
        self.writer.close()


async def connect(port, receive_buffer=None):
    taken = socket.socket()
    if receive_buffer:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    taken.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(taken, ("127.0.0.1", port))
    except BaseException:
        taken.close()
        raise
    return Stream(*await asyncio.open_connection(sock=taken, limit=LIMIT))


async def read_head(reader):
    """The start line and the fields. Raises one of ENDS if the connection ends before."""
    text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    start, *lines = text[:-4].split("\r\n")
    return start, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


async def read_chunks(reader, keep):
    while True:
        line = await reader.readuntil(b"\r\n")
        size = int(line.split(b";")[0], 16)
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return
        left = size
        while left:
            piece = await reader.read(min(left, 65536))
            if not piece:
                raise asyncio.IncompleteReadError(b"", left)
            left -= len(piece)
            keep(piece)
        if await reader.readexactly(2) != b"\r\n":
            raise ValueError("a chunk without its end")


async def read_content(reader, fields, keep):
    """Content by its framing. Raises one of ENDS if it is cut."""
    if "chunked" in fields.get("transfer-encoding", ""):
        await read_chunks(reader, keep)
        return
    left = int(fields.get("content-length", 0))
    while left:
        piece = await reader.read(min(left, 65536))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        keep(piece)


async def read_answer(reader, slow=None):
    """An answer to its end; `slow` is awaited after each piece. Raises one of ENDS if not even a head came."""
    while True:
        start, fields = await read_head(reader)
        status = int(start.split(" ")[1])
        if status >= 200:
            break
    answer = Answer(status, fields)
    pieces = []
    try:
        if status in (204, 304):
            pass
        elif "content-length" in fields or "transfer-encoding" in fields:
            if slow is None:
                await read_content(reader, fields, pieces.append)
            else:
                await _read_slowly(reader, fields, pieces, slow)
        else:
            while piece := await reader.read(65536):
                pieces.append(piece)
        answer.complete = True
    except ENDS:
        pass
    answer.content = b"".join(pieces)
    return answer


async def _read_slowly(reader, fields, pieces, slow):
    left = int(fields["content-length"])
    while left:
        piece = await reader.read(min(left, 16384))
        if not piece:
            raise asyncio.IncompleteReadError(b"", left)
        left -= len(piece)
        pieces.append(piece)
        await slow()


def handshake(path):
    key = base64.b64encode(os.urandom(16)).decode()
    return (
        f"GET {path} HTTP/1.1\r\nHost: soak.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def frame(opcode, payload=b"", masked=False, fin=True):
    """A frame. The mask is zero: legal, and the payload stays as it is."""
    size, mask = len(payload), 0x80 if masked else 0
    first = (0x80 if fin else 0) | opcode
    if size < 126:
        head = struct.pack(">BB", first, mask | size)
    elif size < 1 << 16:
        head = struct.pack(">BBH", first, mask | 126, size)
    else:
        head = struct.pack(">BBQ", first, mask | 127, size)
    return head + (bytes(4) if masked else b"") + payload


async def read_frame(reader):
    """(fin, opcode, payload), unmasked. Raises one of ENDS if the connection ends."""
    first, second = await reader.readexactly(2)
    size = second & 0x7F
    if size >= 126:
        size = int.from_bytes(await reader.readexactly(2 if size == 126 else 8))
    key = await reader.readexactly(4) if second & 0x80 else None
    payload = await reader.readexactly(size)
    if key and any(key):
        wide = int.from_bytes((key * (size // 4 + 1))[:size])
        payload = (int.from_bytes(payload) ^ wide).to_bytes(size)
    return bool(first & 0x80), first & 15, payload
