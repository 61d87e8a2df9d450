"""A WebSocket client on a bare socket that echoes messages and checks every byte it gets (RFC 6455, RFC 7692).

Libraries forgive: this client does not. It tells which rule was broken first, what came before, and whether the
connection ended by FIN or by a reset.
"""

import base64
import codecs
import hashlib
import os
import re
import socket
import struct
import zlib
from dataclasses import dataclass, field

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
_LEGAL_CODES = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
_EMPTY_BLOCK = b"\x00\x00\xff\xff"


class Violation(Exception):
    """The peer broke the protocol; `code` is what an endpoint closes with."""

    def __init__(self, what, code=1002):
        super().__init__(what)
        self.what, self.code = what, code


@dataclass
class Session:
    """What the client saw, in order. `close` is None without a Close frame; its code is None in an empty one.

    `fragments` counts the data frames that do not end their message.
    """

    events: list = field(default_factory=list)
    violation: str | None = None
    close: tuple | None = None
    after_close: bytes = b""
    end: str | None = None
    fragments: int = 0


def _remembered(message):
    """A long message as its size and sum: sessions are compared, and there are many."""
    return message if len(message) < 200 else (len(message), hashlib.sha256(message).hexdigest())


class EchoClient:
    """One connection. `run` echoes until the connection ends and gives the session."""

    def __init__(self, port, path, deflate=False, timeout=60.0):
        self._deflate_offered = deflate
        self._buffer = bytearray()
        self._session = Session()
        self._inflate, self._keeps_context = None, True
        self._deflate, self._new_deflate = None, None
        self._opcode, self._compressed, self._parts, self._utf8 = None, False, [], None
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self._shake_hands(path)

    def run(self):
        with self._socket:
            try:
                while self._session.close is None and (frame := self._frame()):
                    self._take(*frame)
            except Violation as violation:
                self._session.violation = violation.what
                self._close(struct.pack(">H", violation.code))
            except (ConnectionResetError, BrokenPipeError):
                self._session.end = "reset"
            self._read_to_the_end()
        return self._session

    def _shake_hands(self, path):
        lines = [f"GET {path} HTTP/1.1", "Host: app.example", "Connection: Upgrade", "Upgrade: websocket"]
        lines += ["Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}"]
        if self._deflate_offered:
            parameters = "client_no_context_takeover; client_max_window_bits"
            lines.append(f"Sec-WebSocket-Extensions: permessage-deflate; {parameters}")
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())
        while b"\r\n\r\n" not in self._buffer:
            assert self._fill(), f"the handshake was cut: {bytes(self._buffer)!r}"
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        self._buffer = bytearray(rest)
        assert head.startswith(b"HTTP/1.1 101 "), head
        if b"permessage-deflate" in head:
            assert self._deflate_offered, "an extension that was not offered"
            self._inflate = zlib.decompressobj(-15)
            self._keeps_context = b"server_no_context_takeover" not in head
            bits = re.search(rb"client_max_window_bits=(\d+)", head)
            self._new_deflate = lambda: zlib.compressobj(wbits=-int(bits[1] if bits else 15))
            self._deflate = None if b"client_no_context_takeover" in head else self._new_deflate()

    def _fill(self):
        received = self._socket.recv(1 << 18)
        if not received:
            self._session.end = "fin"
        self._buffer += received
        return bool(received)

    def _bytes(self, count):
        """The next bytes, or None if the connection ends before."""
        while len(self._buffer) < count:
            if not self._fill():
                return None
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def _frame(self):
        """The next frame, checked as far as its header tells; None at the end."""
        if (head := self._bytes(2)) is None:
            return None
        fin, rsv, opcode = bool(head[0] & 0x80), head[0] >> 4 & 7, head[0] & 15
        length = head[1] & 0x7F
        if head[1] & 0x80:
            raise Violation("a masked frame")
        if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
            raise Violation(f"opcode {opcode}")
        if opcode >= CLOSE and (not fin or length > 125):
            raise Violation("a control frame in fragments, or too long")
        if opcode in (TEXT, BINARY) and self._opcode is not None:
            raise Violation("a new message inside another")
        if opcode == CONTINUATION and self._opcode is None:
            raise Violation("a continuation of nothing")
        if rsv and not (rsv == 4 and self._inflate and opcode in (TEXT, BINARY)):
            raise Violation(f"reserved bits {rsv:03b}")
        if length >= 126:
            size = 2 if length == 126 else 8
            if (extended := self._bytes(size)) is None:
                return None
            length, least = int.from_bytes(extended), 126 if size == 2 else 1 << 16
            if not least <= length < 1 << 63:
                raise Violation(f"the length {length} in {size} bytes")
        if (payload := self._bytes(length)) is None:
            return None
        return fin, rsv, opcode, payload

    def _take(self, fin, rsv, opcode, payload):
        if opcode == CLOSE:
            self._closed(payload)
        elif opcode in (PING, PONG):
            self._session.events.append(("ping" if opcode == PING else "pong", payload))
            if opcode == PING:
                self._send(PONG, payload)
        else:
            self._data(fin, rsv, opcode, payload)

    def _data(self, fin, rsv, opcode, payload):
        self._session.fragments += not fin
        if opcode != CONTINUATION:
            self._opcode, self._compressed, self._parts = opcode, bool(rsv), []
            self._utf8 = codecs.getincrementaldecoder("utf-8")()
        if self._compressed:
            try:
                payload = self._inflate.decompress(payload + (_EMPTY_BLOCK if fin else b""))
            except zlib.error as error:
                raise Violation(f"deflate: {error}", 1007) from error
            if fin and not self._keeps_context:
                self._inflate = zlib.decompressobj(-15)
        if self._opcode == TEXT:
            try:
                self._utf8.decode(payload, fin)
            except UnicodeDecodeError as error:
                raise Violation(f"text: {error.reason}", 1007) from error
        self._parts.append(payload)
        if fin:
            message = b"".join(self._parts)
            self._session.events.append(("text" if self._opcode == TEXT else "binary", _remembered(message)))
            self._echo(message)
            self._opcode, self._parts = None, []

    def _echo(self, message):
        if not self._inflate:
            return self._send(self._opcode, message)
        deflate = self._deflate or self._new_deflate()
        compressed = deflate.compress(message) + deflate.flush(zlib.Z_SYNC_FLUSH)
        return self._send(self._opcode, compressed.removesuffix(_EMPTY_BLOCK), rsv=4)

    def _closed(self, payload):
        if not payload:
            self._session.close = (None, "")
        else:
            code = int.from_bytes(payload[:2])
            if len(payload) == 1 or code not in _LEGAL_CODES:
                raise Violation(f"the Close payload {payload!r}")
            try:
                self._session.close = (code, payload[2:].decode())
            except UnicodeDecodeError as error:
                raise Violation("a Close reason that is not UTF-8", 1007) from error
        self._close(payload[:2])

    def _close(self, payload):
        try:
            self._send(CLOSE, payload)
        except (ConnectionResetError, BrokenPipeError):
            self._session.end = "reset"

    def _read_to_the_end(self):
        """Whatever comes behind a Close; how the connection ends."""
        try:
            while self._session.end is None:
                self._fill()
        except ConnectionResetError:
            self._session.end = "reset"
        self._session.after_close = bytes(self._buffer)

    def _send(self, opcode, payload, rsv=0):
        """One masked frame."""
        key = os.urandom(4)
        size, first = len(payload), 0x80 | rsv << 4 | opcode
        if size < 126:
            head = bytes([first, 0x80 | size])
        elif size < 1 << 16:
            head = struct.pack(">BBH", first, 0xFE, size)
        else:
            head = struct.pack(">BBQ", first, 0xFF, size)
        # One XOR of two long numbers: the only fast way without a library.
        mask = int.from_bytes((key * (size // 4 + 1))[:size])
        self._socket.sendall(head + key + (int.from_bytes(payload) ^ mask).to_bytes(size))
