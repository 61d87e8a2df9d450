"""A DNS server on loopback, over UDP and TCP: it says what the test wants, and remembers what it was asked."""

import contextlib
import socketserver
import threading
import time
from dataclasses import dataclass

import dnslib

from .processes import free_port
from .waiting import DEADLINE

# What a server may do instead of answering, beside an RCODE: say nothing, send bytes that are no DNS message, or
# keep the answer back until `fail(…, None)` ends that.
SILENCE, NONSENSE, HELD = "silence", "nonsense", "held"


@dataclass(frozen=True)
class Question:
    """What was asked, how ("udp" or "tcp") and when (time.monotonic)."""

    name: str
    type: str
    way: str
    time: float


class DnsServer:
    """Answers from `records`; `failing` names and types get what stands there instead.

    A name without any record does not exist (NXDOMAIN); one without records of the type has an empty answer.
    """

    def __init__(self):
        self.port = free_port()
        self.questions = []
        self._records, self._failing, self._lock = {}, {}, threading.Condition()
        self._servers = [_Udp(self), _Tcp(self)]
        for server in self._servers:
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self):
        """Nobody listens any more. May be said twice."""
        while self._servers:
            server = self._servers.pop()
            server.shutdown()
            server.server_close()

    def set(self, name, type, *values, ttl=0):
        """From now on these are the records of that name and type, in the notation of zone files; none removes them."""
        kind = getattr(dnslib, type)
        records = []
        for value in values:
            *numbers, last = value.split() if type == "SRV" else [value]
            content = kind(*map(int, numbers), last)
            records.append(dnslib.RR(name, getattr(dnslib.QTYPE, type), ttl=ttl, rdata=content))
        with self._lock:
            self._records[name, type] = records

    def fail(self, name, how, type=None):
        """From now on questions for that name get this: an RCODE, SILENCE, NONSENSE or HELD; None ends it."""
        with self._lock:
            self._failing[name, type] = how
            self._lock.notify_all()

    def asked(self, name, type=None, way=None):
        """The questions so far."""
        return [
            question
            for question in list(self.questions)
            if question.name == name and type in (None, question.type) and way in (None, question.way)
        ]

    def reply(self, message, way):
        """The bytes to send, or None to say nothing."""
        question = dnslib.DNSRecord.parse(message)
        # Resolvers may mix upper and lower case, to be harder to deceive.
        name, type = str(question.q.qname).rstrip(".").lower(), dnslib.QTYPE[question.q.qtype]
        with self._lock:
            self.questions.append(Question(name, type, way, time.monotonic()))

            def trouble():
                return self._failing.get((name, type)) or self._failing.get((name, None))

            if not self._lock.wait_for(lambda: trouble() != HELD, DEADLINE):
                return None
            how = trouble()
            records = {kind: found for (known, kind), found in self._records.items() if known == name and found}
        if how == SILENCE:
            return None
        if how == NONSENSE:
            return message[:2] + b"\xff" * 30
        reply = question.reply()
        if how or not records:
            reply.header.rcode = getattr(dnslib.RCODE, how or "NXDOMAIN")
            return reply.pack()
        reply.add_answer(*records.get(type, records.get("CNAME", [])))
        packed = reply.pack()
        if way == "udp" and len(packed) > self._most(question):
            # dnslib's own `truncate` drops the question as well, and resolvers rightly distrust that.
            cut = question.reply()
            cut.header.tc = 1
            packed = cut.pack()
        return packed

    @staticmethod
    def _most(question):
        """RFC 1035 §4.2.1, RFC 6891 §6.2.3."""
        offered = [more.edns_len for more in question.ar if more.rtype == dnslib.QTYPE.OPT]
        return max(512, *offered)


class _Udp(socketserver.ThreadingUDPServer):
    daemon_threads = True
    # Datagrams, not streams: more than EDNS offers never comes.
    max_packet_size = 4096

    def __init__(self, dns):
        self.dns = dns
        super().__init__(("127.0.0.1", dns.port), _UdpHandler)


class _UdpHandler(socketserver.BaseRequestHandler):
    def handle(self):
        message, socket = self.request
        if reply := self.server.dns.reply(message, "udp"):
            socket.sendto(reply, self.client_address)


class _Tcp(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, dns):
        self.dns = dns
        super().__init__(("127.0.0.1", dns.port), _TcpHandler)


class _TcpHandler(socketserver.StreamRequestHandler):
    """Each message follows its length (RFC 1035 §4.2.2)."""

    def handle(self):
        with contextlib.suppress(ConnectionError):
            while len(length := self.rfile.read(2)) == 2:
                message = self.rfile.read(int.from_bytes(length))
                if reply := self.server.dns.reply(message, "tcp"):
                    self.wfile.write(len(reply).to_bytes(2) + reply)
