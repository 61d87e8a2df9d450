"""An HTTP/1.1 client that hides nothing: it tells a complete answer from a cut one, and FIN from RST."""

import json
import re
import socket
from dataclasses import dataclass, field


@dataclass
class Answer:
    """An answer as far as it came. `complete` is what the framing says, not what the socket did."""

    status: int
    reason: str
    fields: list
    content: bytes = b""
    complete: bool = False
    framing: str = "none"

    def all(self, name):
        return [value for key, value in self.fields if key == name]

    def get(self, name):
        values = self.all(name)
        assert len(values) <= 1, f"{name} is there {len(values)} times: {values}"
        return values[0] if values else None

    def json(self):
        return json.loads(self.content)

    @property
    def error(self):
        """The error of the Proxy-Status field (RFC 9209), or None."""
        return proxy_error(self.get("proxy-status"))


def proxy_error(value):
    """The `error` parameter of a Proxy-Status field value, or None."""
    found = re.search(r";\s*error=([a-z_]+)", value or "")
    return found and found.group(1)


@dataclass
class Client:
    """One connection. `end` is None while it is open, then "fin" or "reset"."""

    port: int
    timeout: float = 30.0
    connected: socket.socket | None = None
    end: str | None = None
    host: str = "app.example"
    _buffer: bytes = b""
    _method: str = ""
    _socket: socket.socket = field(init=False)

    def __post_init__(self):
        # A connection that somebody else has opened: over TLS, or from another address.
        self._socket = self.connected or socket.create_connection(("127.0.0.1", self.port), timeout=self.timeout)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def request(self, method, path, content=None, fields=()):
        """Sends a request and reads its answer to the end."""
        self.send(method, path, content, fields)
        return self.rest(self.head())

    def send(self, method, path, content=None, fields=()):
        """Sends a complete request."""
        self._method = method
        lines = [f"{method} {path} HTTP/1.1", f"Host: {self.host}", *fields]
        if content is not None:
            lines.append(f"Content-Length: {len(content)}")
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode() + (content or b""))

    def head(self):
        """Reads the final head: an answer without content yet. Fails if the connection ends before."""
        while True:
            while b"\r\n\r\n" not in self._buffer:
                assert self._fill(), f"the connection ended ({self.end}) before a head: {self._buffer!r}"
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            status_line, *lines = head.decode("latin-1").split("\r\n")
            version, status, reason = (status_line + " ").split(" ", 2)
            assert version == "HTTP/1.1", status_line
            if int(status) >= 200:
                break
        fields = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        answer = Answer(int(status), reason.strip(), fields)
        if self._method == "HEAD" or answer.status in (204, 304):
            answer.complete = True
        elif "chunked" in (answer.get("transfer-encoding") or ""):
            answer.framing = "chunked"
        elif answer.get("content-length") is not None:
            answer.framing = "length"
        else:
            answer.framing = "close"
        return answer

    def at_least(self, answer, count):
        """Reads on until `count` bytes of content are there; more may have come."""
        while len(self._decode(answer)) < count:
            assert self._fill(), f"the connection ended ({self.end}) after {len(answer.content)} of {count} bytes"
        return answer

    def rest(self, answer):
        """Reads to the end of the answer, or of the connection if that comes first."""
        self._decode(answer)
        while not answer.complete and self._fill():
            self._decode(answer)
        if answer.framing == "close" and self.end == "fin":
            answer.complete = True
        return answer

    def half_close(self):
        """Says that no more requests come; the other side may still send."""
        self._socket.shutdown(socket.SHUT_WR)

    def closed(self):
        """Reads until the connection ends; how it ended. Nothing may come before the end."""
        while self._fill():
            pass
        assert self._buffer == b"", f"unexpected bytes: {self._buffer!r}"
        return self.end

    def _fill(self):
        try:
            received = self._socket.recv(65536)
        except ConnectionResetError:
            self.end = "reset"
            return False
        if not received:
            self.end = "fin"
        self._buffer += received
        return bool(received)

    def _decode(self, answer):
        """Moves what has arrived from the buffer to the answer's content."""
        if answer.complete:
            return answer.content
        if answer.framing == "length":
            wanted = int(answer.get("content-length")) - len(answer.content)
            answer.content += self._buffer[:wanted]
            self._buffer = self._buffer[wanted:]
            answer.complete = len(answer.content) == int(answer.get("content-length"))
        elif answer.framing == "chunked":
            while not answer.complete:
                size_line, found, after = self._buffer.partition(b"\r\n")
                size = int(size_line.split(b";")[0], 16) if found else 0
                if not found or len(after) < size + 2:
                    break
                assert after[size : size + 2] == b"\r\n", f"a chunk without its end: {after[:80]!r}"
                answer.content += after[:size]
                self._buffer = after[size + 2 :]
                answer.complete = size == 0
        else:
            answer.content += self._buffer
            self._buffer = b""
        return answer.content


def get(port, path, fields=()):
    """One GET on a connection of its own."""
    with Client(port) as client:
        return client.request("GET", path, fields=fields)


def operate(admin, path, method="GET", fields=()):
    """One request of an operator. The admin listener answers under its own names only."""
    with Client(admin, host="localhost") as client:
        return client.request(method, path, fields=fields)


def post(port, path, content=b"", fields=()):
    """One POST on a connection of its own. Not idempotent: nothing in between may send it twice."""
    with Client(port) as client:
        return client.request("POST", path, content, fields)
