"""What a client on a raw socket sees, as facts, in the words of the table, and as promises that were broken.

A client library would hide what matters here: whether an answer is whole by its own framing (RFC 9112 section 6),
whether a WebSocket ended with a Close frame (RFC 6455 section 7.1), whether a connection ended by FIN or RST.
"""

import re
import socket
import struct
import time
from base64 import b64encode
from hashlib import sha1

from faults import ABORTED, ANSWERED, CLOSED, SECRET, SEEN_SECONDS, STALE, WHOLE

# A client that got nothing for so long gives up.
PATIENCE = 8.0
KEY = b64encode(b"seawall's peers.")
# Which close codes may be on the wire (RFC 6455 section 7.4 and IANA's registry).
LEGAL = {1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)}
MEDIA = {
    "application/problem+json": "problem+json",
    "application/json": "json",
    "text/html": "page",
    "text/plain": "text",
}
ENDS = {
    "silence": f"**nothing** for {PATIENCE:.0f} s",
    "FIN": "**closed**, no answer",
    "RST": "**reset**, no answer",
}


class Wire:
    """A connection, all that has been read from it, and how it ended: FIN, RST or silence."""

    def __init__(self, port):
        self.data, self.taken, self.end = b"", b"", None
        self.deadline = time.monotonic() + PATIENCE
        self.socket = socket.create_connection(("127.0.0.1", port), PATIENCE)

    def more(self):
        """Reads once. False: nothing more will come."""
        left = self.deadline - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self.socket.settimeout(left)
            piece = self.socket.recv(262_144)
            self.end = None if piece else "FIN"
        except TimeoutError:
            piece, self.end = b"", "silence"
        except OSError:
            piece, self.end = b"", "RST"
        self.data += piece
        self.taken += piece
        return bool(piece)

    def send(self, content):
        try:
            self.socket.sendall(content)
        except OSError:
            pass  # how it ended is told by reading


def observe(port, fault, upstream):
    """Provokes a fault; the facts, ready for JSON."""
    content = b"a=1&b=2&c=3&d=4" if fault.method == "POST" else b""
    fields = {"Host": f"127.0.0.1:{port}", "Accept": "*/*"}
    if content:
        fields |= {"Content-Type": "application/x-www-form-urlencoded", "Content-Length": str(len(content))}
    if fault.websocket:
        fields |= {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        fields |= {"Sec-WebSocket-Key": KEY.decode()}
    lines = [f"{fault.method} /{fault.name} HTTP/{fault.version}", *map(": ".join, fields.items())]
    request = "\r\n".join(lines).encode() + b"\r\n\r\n" + content
    started = time.monotonic()
    try:
        wire = Wire(port)
    except OSError as error:
        return {"status": None, "end": str(error), "seconds": 0.0, "leaks": False}
    with wire.socket:
        if fault.upstream == STALE:
            wire.send(request)
            response(wire, fault, upstream.seen)
            wire.data, wire.taken, started = b"", b"", time.monotonic()
            wire.deadline = started + PATIENCE
        wire.send(request)
        facts = response(wire, fault, upstream.seen)
        facts["seconds"] = round(facts.pop("at", time.monotonic()) - started, 2)
        inner = (SECRET.encode(), b"127.0.0.1:%d" % upstream.port, b"localhost:%d" % upstream.port)
        facts["leaks"] = any(each in wire.taken for each in inner)
        facts["head"] = wire.taken.partition(b"\r\n\r\n")[0].decode("latin-1")[:2000]
        facts["tail"] = wire.taken.partition(b"\r\n\r\n")[2][-400:].decode("latin-1")
        facts["asked"] = upstream.asked
        if fault.upstream == STALE:
            facts["met"] = upstream.met
    return facts


def response(wire, fault, seen):
    """Reads one response, and the WebSocket that a 101 opens."""
    while b"\r\n\r\n" not in wire.data:
        if not wire.more():
            return {"status": None, "end": wire.end, "bytes": len(wire.data), "at": time.monotonic()}
    head, _, wire.data = wire.data.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})(?: |\r|$)", head)
    if not status:
        return {"status": None, "end": "**not HTTP**", "bytes": len(head), "at": time.monotonic()}
    fields = {}
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields.setdefault(name.decode("latin-1").lower(), []).append(value.strip().decode("latin-1"))
    facts = {"status": int(status.group(1))}
    if facts["status"] == 101:
        return facts | session(wire, fields, seen)
    facts["media_type"] = fields.get("content-type", [""])[0].partition(";")[0].strip().lower()
    error = re.search(r"error=([a-z_]+)", ",".join(fields.get("proxy-status", [])))
    facts["error"] = error.group(1) if error else None
    facts |= body(wire, fields, seen)
    facts["bytes"] = len(facts["content"])
    facts["as_meant"] = facts.pop("content") == fault.content
    return facts


def body(wire, fields, seen):
    """Reads the content, judges whether its framing says that it is whole, and how the connection goes on."""
    chunked = "chunked" in ",".join(fields.get("transfer-encoding", [])).lower()
    lengths = fields.get("content-length", [])
    framing = "chunked" if chunked else "length" if lengths else "close"
    while True:
        if chunked:
            content, whole = unchunk(wire.data)
        elif lengths:
            wanted = int(lengths[0])
            content, whole = wire.data[:wanted], len(wire.data) >= wanted
        else:
            # Only a FIN ends it, and nothing tells that FIN from a crash.
            content, whole = wire.data, wire.end == "FIN"
        if content:
            seen.set()
        # At a FIN once more round: it makes a close-delimited body whole.
        if whole or wire.end or not wire.more() and (wire.end, framing) != ("FIN", "close"):
            break
    at = time.monotonic()
    if whole and framing != "close":
        wire.deadline = at + 0.2
        while wire.more():
            pass
    end = "open" if wire.end == "silence" and whole else wire.end
    return {"framing": framing, "content": content, "whole": whole, "end": end, "at": at}


def unchunk(data):
    """What chunks hold so far, and whether the last chunk and its trailers have come."""
    content, at = b"", 0
    while True:
        line = data.find(b"\r\n", at)
        size = re.match(rb"([0-9a-fA-F]+)[ \t]*(?:;|$)", data[at:line]) if line >= 0 else None
        if not size:
            return content, False
        size, at = int(size.group(1), 16), line + 2
        if size == 0:
            return content, data.startswith(b"\r\n", at) or b"\r\n\r\n" in data[at:]
        content += data[at : at + size]
        at += size + 2


def session(wire, fields, seen):
    """Reads frames until a Close, an end, or a frame that no client may accept."""
    accept = b64encode(sha1(KEY + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode()
    facts = {"accepted": fields.get("sec-websocket-accept") == [accept], "messages": 0, "pings": 0}
    facts |= {"code": None, "reason": "", "malformed": False}
    while True:
        frame = take_frame(wire)
        if not frame:
            return facts | {"end": wire.end, "cut_frame": bool(wire.data), "at": time.monotonic()}
        first, payload = frame
        opcode = first & 0x0F
        if first & 0x70 or opcode not in (0, 1, 2, 8, 9, 10) or opcode == 8 and len(payload) == 1:
            # A client fails such a connection itself, and blames itself: 1002.
            facts["malformed"] = True
            break
        if opcode == 8:
            facts["code"] = struct.unpack("!H", payload[:2])[0] if payload else 1005
            facts["reason"] = payload[2:].decode("latin-1")
            break
        if opcode == 9:
            facts["pings"] += 1
            wire.send(masked(0x8A, payload))
        elif opcode < 3 and first & 0x80:
            facts["messages"] += 1
            seen.set()
    at = time.monotonic()
    code = facts["code"] if facts["code"] in LEGAL else 1002
    wire.send(masked(0x88, struct.pack("!H", code)))
    wire.deadline = at + SEEN_SECONDS + 1
    while wire.more():
        pass
    return facts | {"end": "open" if wire.end == "silence" else wire.end, "at": at}


def take_frame(wire):
    """The next frame's first byte and payload; None at the end."""
    while True:
        data = wire.data
        if len(data) >= 2:
            size, start = data[1] & 0x7F, 2
            if size == 126 and len(data) >= 4:
                size, start = struct.unpack("!H", data[2:4])[0], 4
            if size < 126 or start == 4:
                if len(data) >= start + size:
                    wire.data = data[start + size :]
                    return data[0], data[start : start + size]
        if not wire.more():
            return None


def masked(first, payload):
    """A client's frame; the mask may be zeros."""
    return bytes([first, 0x80 | len(payload), 0, 0, 0, 0]) + payload


def words(fault, facts):
    """A cell of the table. Bold: what no client should have to cope with."""
    said = in_words(facts)
    if facts["leaks"]:
        said += ", **leaks**"
    if facts["seconds"] >= 3 and (facts["status"] or 0) > 200:
        said += f", {facts['seconds']:.0f} s"
    if facts.get("met") is False:
        said += " (not met)"
    return said


def in_words(facts):
    status, end = facts["status"], facts["end"]
    if status is None:
        return ENDS.get(end, end)
    if status == 101:
        return session_in_words(facts)
    if status == 200:
        if facts["whole"]:
            return "200" if facts["as_meant"] else "200, cut, **looks whole**"
        return "200, then **nothing**" if end == "silence" else "200, cut off"
    what = MEDIA.get(facts["media_type"], facts["media_type"]) if facts["bytes"] else "empty"
    return f"{status} {what}" + ("" if facts["whole"] else ", cut off")


def session_in_words(facts):
    if not facts["accepted"]:
        return "**101 with a wrong accept**"
    lost = "" if facts["messages"] == 1 else f", **{facts['messages']} messages**"
    if facts["malformed"]:
        return "**malformed frame**" + lost
    if facts["code"] is None:
        return (ENDS["silence"] if facts["end"] == "silence" else "1006") + lost
    return (str(facts["code"]) if facts["code"] in LEGAL else f"**{facts['code']}**") + lost


def broken(fault, facts):
    """Which of seawall's promises these facts break, in words; nothing if none."""
    status, leaks = facts["status"], []
    if facts["leaks"]:
        leaks = ["P4: what the upstream said reached the client"]
    if status == 200 and facts["whole"] and not facts["as_meant"]:
        return [*leaks, "P1: a truncated body looks whole"]
    if fault.expected == CLOSED:
        clean = status == 101 and facts["code"] == 1011 and facts["messages"] == 1 and facts["end"] == "FIN"
        return leaks if clean else [*leaks, "P3: not one message, Close 1011 and a clean end"]
    if fault.expected == ANSWERED:
        if status == 200 and not facts["whole"]:
            return [*leaks, "P2: half a small answer"]
        if status != 500 or not facts["whole"] or facts["media_type"] != "application/problem+json":
            return [*leaks, "P1: not one whole 500"]
        if facts["error"] != fault.kind:
            return [*leaks, f"P5: named {facts['error']}"]
        return leaks
    if fault.expected == ABORTED:
        cut = status == 200 and not facts["whole"] and facts["end"] in ("FIN", "RST")
        return leaks if cut else [*leaks, "P1: not an unmistakable abort"]
    whole = fault.expected == WHOLE and status == 200 and facts["whole"] and facts["met"]
    return leaks if whole else [*leaks, "P8: a stale connection reached the client"]
