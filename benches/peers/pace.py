#!/usr/bin/env python3
"""A fixed rate of requests, whatever the server does: how long each answer took, from when its request was due.

    benches/peers/pace.py SPECIFICATION        # JSON, see main(); prints a list of µs as JSON

Started by load.py on a core of its own. A request is sent when it is due, over an idle connection or a new one, so that
a slow answer does not keep the following ones from being sent (the "coordinated omission" of closed loops); where all
connections are busy, the wait for one counts too. wrk and h2load keep no such rate. It costs some tens of µs itself,
the same for every proxy: the row `direct` tells how many.
"""

import ctypes
import gc
import json
import select
import socket
import ssl
import sys
import time
from collections import deque

CONNECTIONS = 128
PR_SET_TIMERSLACK = 29


class Broken(Exception):
    pass


class Http1:
    """Answers of HTTP/1.1 with a Content-Length: all that the servers here send."""

    def __init__(self):
        self.read, self.rest, self.last = b"", None, False

    def feed(self, data, fails):
        """Whether the answer is whole now."""
        if self.rest is None:
            self.read += data
            head, end, content = self.read.partition(b"\r\n\r\n")
            if not end:
                return False
            lines = head.lower().split(b"\r\n")
            expect(lines[0][9:10] == (b"5" if fails else b"2"), lines[0])
            fields = dict(line.split(b":", 1) for line in lines[1:])
            expect(b"content-length" in fields, head)
            self.last = b"close" in fields.get(b"connection", b"")
            self.rest = int(fields[b"content-length"])
            data, self.read = content, b""
        self.rest -= len(data)
        expect(self.rest >= 0, b"more than the answer")
        if self.rest:
            return False
        self.rest = None
        return True


class Http2:
    """One stream at a time; the fields of answers are not decoded, but for their status."""

    DATA, HEADERS, SETTINGS, PING = 0, 1, 4, 6
    END_STREAM, END_HEADERS = 0x1, 0x4

    def __init__(self, send):
        self.read, self.last, self.stream, self.send = b"", False, -1, send
        # A connection's window is never in the way.
        grant = (2**31 - 1 - 65535).to_bytes(4, "big")
        self.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(self.SETTINGS, 0, 0, b"") + frame(8, 0, 0, grant))

    def request(self, path):
        self.stream += 2
        # RFC 7541: GET and https from the static table, path and authority as literals that are not indexed.
        block = b"\x82\x87\x04" + bytes([len(path)]) + path.encode() + b"\x01\x09localhost"
        return frame(self.HEADERS, self.END_STREAM | self.END_HEADERS, self.stream, block)

    def feed(self, data, fails):
        self.read, ended = self.read + data, False
        while len(self.read) >= 9:
            size, kind, flags = int.from_bytes(self.read[:3], "big"), self.read[3], self.read[4]
            stream, content = int.from_bytes(self.read[5:9], "big"), self.read[9 : 9 + size]
            if len(content) < size:
                break
            self.read = self.read[9 + size :]
            if kind == self.HEADERS:
                # 0x88 is `:status 200`; before it there may be a change of the table's size.
                expect(content.lstrip(bytes(range(0x20, 0x40)))[:1] == b"\x88" and not fails, content)
            elif kind in (self.SETTINGS, self.PING) and not flags & 1:
                self.send(frame(kind, 1, 0, content if kind == self.PING else b""))
            expect(kind not in (3, 7), b"RST_STREAM or GOAWAY")
            ended |= kind in (self.DATA, self.HEADERS) and bool(flags & self.END_STREAM) and stream == self.stream
        return ended


def frame(kind, flags, stream, content):
    return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content


def expect(what, seen):
    if not what:
        raise Broken(seen[:200].decode(errors="replace"))


class Connection:
    def __init__(self, wanted):
        self.wanted, self.due, self.used = wanted, None, False
        self.socket = socket.create_connection(("127.0.0.1", wanted["port"]), 5)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if wanted["tls"]:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            context.set_alpn_protocols(["h2" if wanted["http2"] else "http/1.1"])
            self.socket = context.wrap_socket(self.socket, server_hostname="localhost")
        self.protocol = Http2(self.socket.sendall) if wanted["http2"] else Http1()

    def send(self, due):
        self.due = due
        wanted = self.wanted
        self.socket.sendall(self.protocol.request(wanted["path"]) if wanted["http2"] else wanted["request"])

    def receive(self):
        """Whether the answer is whole now."""
        data = self.socket.recv(262_144)
        # A record of TLS may hold more than was asked for, and select() would not tell.
        while self.wanted["tls"] and self.socket.pending():
            data += self.socket.recv(262_144)
        expect(data, b"closed before the answer was whole")
        return self.protocol.feed(data, self.wanted["fails"])


def run(wanted):
    """Microseconds from when each request was due to the end of its answer."""
    idle, busy, waiting, times = [], {}, deque(), []
    # Handshakes are no part of an answer, but where a connection per request is what is measured.
    if not wanted["close"]:
        idle = [Connection(wanted) for _ in range(min(16, wanted["rate"]))]
    count, period = int(wanted["rate"] * wanted["seconds"]), 1 / wanted["rate"]
    begin, sent = time.perf_counter() + 0.05, 0
    while len(times) < count:
        now = time.perf_counter()
        while sent < count and begin + sent * period <= now:
            waiting.append(begin + sent * period)
            sent += 1
        while waiting and (idle or len(busy) < CONNECTIONS):
            connection = idle.pop() if idle else Connection(wanted)
            due = waiting.popleft()
            try:
                connection.send(due)
            except OSError:
                if not (wanted["fails"] and connection.used):
                    raise
                waiting.appendleft(due)
                continue
            busy[connection.socket] = connection
        until = begin + sent * period if sent < count else now + 10
        ready, _, _ = select.select(list(busy), [], [], max(0, until - time.perf_counter()))
        expect(ready or sent < count, b"no answer in 10 s")
        for each in ready:
            connection = busy[each]
            try:
                if not connection.receive():
                    continue
            except (Broken, OSError):
                # What clients do where a used connection ends without an answer; peers end them so when upstreams fail.
                if not (wanted["fails"] and connection.used):
                    raise
                del busy[each]
                each.close()
                waiting.append(connection.due)
                continue
            connection.used = True
            times.append(round((time.perf_counter() - connection.due) * 1e6))
            del busy[each]
            if wanted["close"] or connection.protocol.last:
                each.close()
            else:
                idle.append(connection)
    return times


def main():
    """The scenario as JSON: `content` is bytes to send, `fields` are lines, and `tls` to `fails` say whether."""
    wanted = json.loads(sys.argv[1])
    head = f"GET {wanted['path']} HTTP/1.1\r\nHost: localhost\r\n"
    if wanted["content"]:
        head = f"POST {wanted['path']} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {wanted['content']}\r\n"
    for line in (*wanted["fields"], *(["Connection: close"] if wanted["close"] else [])):
        head += f"{line}\r\n"
    wanted["request"] = head.encode() + b"\r\n" + b"x" * wanted["content"]
    # The kernel may wake us 50 µs late by default.
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    gc.disable()
    try:
        print(json.dumps(run(wanted)))
    except (Broken, OSError) as error:
        sys.exit(f"at a fixed rate: {error}")


if __name__ == "__main__":
    main()
