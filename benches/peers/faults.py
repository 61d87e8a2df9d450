"""The faults of failures.py, and the scripted app that plays them: exact bytes on raw sockets.

A fault is what the app does with every connection that it accepts: steps, each of them bytes to send or the name of
a method of `App`. Each proxy gets its own listening socket for each fault, so that no fault can disturb another.
What no client may ever see of a failure holds `SECRET`. Content that a client was to have is not secret.
"""

import re
import socket
import ssl
import struct
import subprocess
import threading
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha1

SECRET = "SECRET-TRACE"
# How long the app waits for the client to have seen what it sent, before it fails.
SEEN_SECONDS = 1.0
# What must become of a fault behind seawall.
ANSWERED, ABORTED, WHOLE, CLOSED = "500", "200, cut off", "200", "1011"
# Steps.
SEEN, FIN, RESET, HANG = "until_seen", "fin", "reset", "hang"
# Who listens.
APP, NOBODY, BLACKHOLE, TLS, STALE = "app", "nobody", "blackhole", "tls", "stale"

JSON = b'{"items":["' + b"x" * 480 + b'"]}\n'
TEXT = b"0123456789abcdef" * 12_500
OK_JSON = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
OK_TEXT = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
TRACE = f"""Traceback (most recent call last):
  File "/srv/app/cart.py", line 12, in checkout
    total = prices["{SECRET}"]
KeyError: '{SECRET}'
"""
HELLO = b"\x81\x05hello"


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str  # its path, without the slash
    kind: str  # seawall's name for it
    about: str  # what happened upstream
    expected: str  # what must become of it behind seawall
    steps: tuple = ()
    upstream: str = APP
    content: bytes = b""  # what the client was to get
    method: str = "GET"
    version: str = "1.1"  # of the client's request
    websocket: bool = False


def length(content):
    return b"Content-Length: %d\r\n\r\n" % len(content)


def chunk(content):
    return b"%x\r\n%s\r\n" % (len(content), content)


def says(status, media_type, content):
    """An app's own answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\n"
    return head.encode() + length(content.encode()) + content.encode()


def frame(first, payload):
    """An unmasked frame of less than 126 bytes (RFC 6455 section 5.2)."""
    return bytes([first, len(payload)]) + payload


def close(code, reason=""):
    return frame(0x88, struct.pack("!H", code) + reason.encode())


def page(status):
    return (says(status, "text/html", f"<h1>{status}</h1><p>db-7.internal: {SECRET}</p>"), HANG)


REFUSES = Fault("refused", "connection_refused", "nobody listens", ANSWERED, upstream=NOBODY)
HALF = TEXT[: len(TEXT) // 2]
OVERSIZED = b"".join(b"X-%d: %s\r\n" % (n, b"x" * 1000) for n in range(100))

HTTP = [
    REFUSES,
    Fault("blackhole", "connection_timeout", "SYNs are not answered", ANSWERED, upstream=BLACKHOLE),
    Fault("untrusted", "tls_certificate_error", "untrusted certificate", ANSWERED, upstream=TLS),
    Fault("crash", "connection_terminated", "FIN before a byte (GET)", ANSWERED, (FIN,)),
    Fault("crash-post", "connection_terminated", "FIN before a byte (POST)", ANSWERED, (FIN,), method="POST"),
    Fault("reset", "connection_terminated", "RST before a byte", ANSWERED, (RESET,)),
    Fault(
        "stale", "connection_terminated", "an idle connection is closed as a GET arrives", WHOLE,
        upstream=STALE, content=JSON,
    ),
    Fault("hang", "http_response_timeout", "no response head", ANSWERED, (HANG,)),
    Fault(
        "cut-status-line", "http_response_incomplete", "FIN in the status line", ANSWERED,
        (f"HTTP/1.1 200 {SECRET}".encode(), FIN),
    ),
    Fault(
        "cut-head", "http_response_incomplete", "FIN in the fields", ANSWERED,
        (OK_JSON + f"X-Host: {SECRET}\r\nContent-Le".encode(), FIN),
    ),
    Fault(
        "cut-length", "http_response_incomplete", "FIN in 500 B of JSON, Content-Length", ANSWERED,
        (OK_JSON + length(JSON) + JSON[:250], FIN), content=JSON,
    ),
    Fault(
        "cut-chunked", "http_response_incomplete", "FIN in 500 B of JSON, chunked", ANSWERED,
        (OK_JSON + CHUNKED + chunk(JSON[:250]), FIN), content=JSON,
    ),
    Fault(
        "cut-large-length", "http_response_incomplete", "FIN in 200 kB, Content-Length", ABORTED,
        (OK_TEXT + length(TEXT) + HALF, SEEN, FIN), content=TEXT,
    ),
    Fault(
        "cut-large-chunked", "http_response_incomplete", "FIN in 200 kB, chunked", ABORTED,
        (OK_TEXT + CHUNKED + chunk(HALF), SEEN, FIN), content=TEXT,
    ),
    Fault(
        "cut-http-1-0-client", "http_response_incomplete", "FIN in 200 kB, chunked; an HTTP/1.0 client", ABORTED,
        ("half_of_unknown_length", SEEN, FIN), content=TEXT, version="1.0",
    ),
    Fault(
        "cut-close-delimited", "http_response_incomplete", "RST in 200 kB, HTTP/1.0, close-delimited", ABORTED,
        (b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n" + HALF, SEEN, RESET), content=TEXT,
    ),
    # Longer than a response is held (1 s): the head has gone out when the limit of 2 s is over.
    Fault(
        "stall", "connection_read_timeout", "500 B of JSON stop half-way", ABORTED,
        (OK_JSON + length(JSON) + JSON[:250], HANG), content=JSON,
    ),
    Fault(
        "stall-large", "connection_read_timeout", "200 kB stop half-way", ABORTED,
        (OK_TEXT + length(TEXT) + HALF, HANG), content=TEXT,
    ),
    Fault(
        "bad-chunk", "http_response_transfer_coding", "a chunk size that is no number", ANSWERED,
        (OK_JSON + CHUNKED + chunk(JSON[:250]) + b"zz\r\n", HANG), content=JSON,
    ),
    Fault(
        "bad-chunk-large", "http_response_transfer_coding", "the same after 100 kB", ABORTED,
        (OK_TEXT + CHUNKED + chunk(HALF), SEEN, b"zz\r\n", HANG), content=TEXT,
    ),
    Fault("garbage", "http_protocol_error", "not HTTP", ANSWERED, (f"\x00\x01 {SECRET}\r\n\r\n".encode(), FIN)),
    Fault(
        "two-lengths", "http_protocol_error", "two Content-Lengths that differ", ANSWERED,
        (OK_JSON + b"Content-Length: 250\r\n" + length(JSON) + JSON, HANG), content=JSON,
    ),
    Fault(
        "length-and-chunked", "http_protocol_error", "Content-Length and Transfer-Encoding", ANSWERED,
        (OK_JSON + b"Content-Length: 250\r\n" + CHUNKED + chunk(JSON) + b"0\r\n\r\n", HANG), content=JSON,
    ),
    Fault(
        "oversized-head", "http_response_header_section_size", "100 kB of fields", ANSWERED,
        (OK_JSON + OVERSIZED + length(JSON) + JSON, HANG), content=JSON,
    ),
    Fault(
        "trace", "application_error", "the app's 500 is a stack trace", ANSWERED,
        (says(f"500 {SECRET}", "text/plain", TRACE), HANG),
    ),
    Fault("empty", "application_error", "the app's 500 is empty", ANSWERED, (says("500 Oops", "text/plain", ""), HANG)),
    Fault("app-502", "dependency_failure", "the app says 502, with its own page", ANSWERED, page("502 Bad Gateway")),
    Fault("app-503", "dependency_failure", "the app says 503, with its own page", ANSWERED, page("503 Unavailable")),
    Fault("app-504", "dependency_failure", "the app says 504, with its own page", ANSWERED, page("504 Timeout")),
]


def session(name, kind, about, *steps):
    """A WebSocket that opens and brings one message; then the fault."""
    return Fault(name, kind, about, CLOSED, ("upgrade", HELLO, SEEN, *steps), websocket=True)


WEBSOCKET = [
    Fault("ws-refused", "connection_refused", "handshake: nobody listens", ANSWERED, upstream=NOBODY, websocket=True),
    Fault(
        "ws-500", "http_upgrade_failed", "handshake: the app answers 500 with a stack trace", ANSWERED,
        (says("500 Oops", "text/plain", TRACE), HANG), websocket=True,
    ),
    session("ws-fin", "connection_terminated", "FIN without a Close", FIN),
    session("ws-reset", "connection_terminated", "RST", RESET),
    session("ws-in-frame", "connection_terminated", "FIN in the middle of a frame", frame(0x81, b"x" * 100)[:52], FIN),
    session(
        "ws-in-message", "connection_terminated", "FIN in the middle of a fragmented message",
        frame(0x01, b"x" * 100), FIN,
    ),
    session("ws-hang", "connection_read_timeout", "the app hangs: no pong, no data", HANG),
    session("ws-malformed", "websocket_protocol_error", "a frame with a reserved opcode", frame(0x83, b"?"), HANG),
    session("ws-code", "websocket_protocol_error", "Close with the illegal code 999", close(999, "?"), FIN),
    session("ws-1011", "application_error", "Close 1011 with an inner reason", close(1011, f"KeyError {SECRET}"), FIN),
    session("ws-1014", "dependency_failure", "Close 1014 with an inner reason", close(1014, f"db-7: {SECRET}"), FIN),
]
ALL = HTTP + WEBSOCKET


class App:
    """One connection of the scripted app."""

    def __init__(self, connection, upstream):
        self.connection, self.upstream, self.key = connection, upstream, b""
        connection.settimeout(20)

    def request(self):
        """Reads a request and its content. False: the client has gone."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = self.connection.recv(65536)
            if not piece:
                return False
            data += piece
        head, _, content = data.partition(b"\r\n\r\n")
        self.upstream.asked = head.partition(b"\r\n")[0].decode("latin-1")
        wanted = re.search(rb"(?im)^content-length: *(\d+)", head)
        key = re.search(rb"(?im)^sec-websocket-key: *(\S+)", head)
        self.key = key.group(1) if key else b""
        missing = (int(wanted.group(1)) if wanted else 0) - len(content)
        while missing > 0:
            missing -= len(self.connection.recv(missing)) or missing
        return True

    def play(self, steps):
        if self.request():
            for step in steps:
                if isinstance(step, bytes):
                    self.connection.sendall(step)
                else:
                    getattr(self, step)()

    def until_seen(self):
        self.upstream.seen.wait(SEEN_SECONDS)

    def half_of_unknown_length(self):
        """Chunks, unless the proxy asks in HTTP/1.0, which has none."""
        old = self.upstream.asked.endswith("HTTP/1.0")
        self.connection.sendall(OK_TEXT + (b"\r\n" + HALF if old else CHUNKED + chunk(HALF)))

    def upgrade(self):
        accept = b64encode(sha1(self.key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        self.connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )

    def hang(self):
        """Says nothing more until the other side leaves."""
        while self.connection.recv(65536):
            pass

    def fin(self):
        """An orderly end. What still arrives is read: otherwise the kernel would send a reset."""
        self.connection.shutdown(socket.SHUT_WR)
        self.hang()

    def reset(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class Upstream:
    """The app of one fault of one proxy: a listening socket, and a thread for each connection."""

    def __init__(self, fault, certificate):
        self.fault, self.certificate = fault, certificate
        # Set by the client when the first content or message has reached it.
        self.seen = threading.Event()
        # STALE only: a request came over a connection that had already carried one.
        self.met = False
        # The first line of the last request.
        self.asked = ""
        self.fillers = []
        self.listener = socket.socket()
        self.listener.bind(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        if fault.upstream == BLACKHOLE:
            self.fill()
        elif fault.upstream != NOBODY:
            self.listener.listen(64)
            threading.Thread(target=self.serve, daemon=True).start()

    def fill(self):
        """Nobody accepts, and the queue of connections is full: further SYNs get no answer."""
        self.listener.listen(0)
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self.fillers.append(filler)

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.connected, args=(connection,), daemon=True).start()

    def connected(self, connection):
        try:
            with connection:
                if self.fault.upstream == TLS:
                    self.encrypted(connection)
                elif self.fault.upstream == STALE:
                    self.stale(App(connection, self))
                else:
                    App(connection, self).play(self.fault.steps)
        except OSError:
            pass  # the proxy has left

    def encrypted(self, connection):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certificate)
        with context.wrap_socket(connection, server_side=True) as session:
            App(session, self).play((OK_JSON + length(JSON) + JSON, HANG))

    def stale(self, app):
        """Answers the first request of a connection; closes it when the second arrives."""
        app.play((OK_JSON + length(JSON) + JSON,))
        if app.request():
            self.met = True
            app.fin()

    def stop(self):
        for each in [self.listener, *self.fillers]:
            each.close()


def certificate(directory, name):
    """A certificate for localhost that nobody issued, and its key: two PEM files."""
    chain, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        + ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out", chain, "-keyout", key],
        check=True,
        capture_output=True,
    )
    return chain, key
