"""An OpenTelemetry collector: OTLP over HTTP, read with the official package."""

import ssl
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf.unknown_fields import UnknownFieldSet
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as Message
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from .waiting import until


@dataclass
class Span:
    """A span as it was told, its ids in hexadecimal digits."""

    service: str
    name: str
    kind: str
    trace: str
    id: str
    parent: str
    state: str
    flags: int
    began: int
    ended: int
    attributes: dict
    error: str | None

    @classmethod
    def read(cls, service, message):
        status = message.status
        return cls(
            service,
            message.name,
            Message.SpanKind.Name(message.kind).removeprefix("SPAN_KIND_"),
            message.trace_id.hex(),
            message.span_id.hex(),
            message.parent_span_id.hex(),
            message.trace_state,
            message.flags,
            message.start_time_unix_nano,
            message.end_time_unix_nano,
            _plain(message.attributes),
            status.message if status.code == Status.STATUS_CODE_ERROR else None,
        )


def _plain(attributes):
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in attributes}


class Collector:
    """Remembers every span. `script` holds the answers to the next requests: a status, with fields, or "hang"."""

    def __init__(self, port=0, certificate=None):
        self.spans, self.requests, self.script, self.rejects = [], [], [], 0
        self._goes_on = threading.Event()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                content = self.rfile.read(int(self.headers["content-length"]))
                collector.requests.append((self.path, dict(self.headers), len(content)))
                status, fields = collector.script.pop(0) if collector.script else (200, {})
                if status == "hang":
                    collector._goes_on.wait(30)
                    status = 200
                answer = b""
                if status == 200:
                    answer = collector._take(content)
                self.send_response(status)
                for name, value in {**fields, "content-length": len(answer)}.items():
                    self.send_header(name, str(value))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_):
                pass

        ThreadingHTTPServer.daemon_threads = True
        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.scheme = "http"
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
            self.scheme = "https"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def _take(self, content):
        request = ExportTraceServiceRequest()
        request.ParseFromString(content)
        for told in request.resource_spans:
            service = _plain(told.resource.attributes)["service.name"]
            for scope in told.scope_spans:
                for message in scope.spans:
                    assert not UnknownFieldSet(message), message
                self.spans += [Span.read(service, message) for message in scope.spans]
        response = ExportTraceServiceResponse()
        if self.rejects:
            response.partial_success.rejected_spans = self.rejects
            response.partial_success.error_message = "too old"
        return response.SerializeToString()

    def of(self, service="seawall", **only):
        """The spans with these fields, in the order in which they began."""
        wanted = {"service": service, **only}
        found = [span for span in self.spans if all(getattr(span, name) == value for name, value in wanted.items())]
        return sorted(found, key=lambda span: span.began)

    def wait(self, count, service="seawall", **only):
        """Waits for so many of them, and for no more."""
        until(lambda: len(self.of(service, **only)) >= count, f"{count} spans with {only}: {self.spans}")
        found = self.of(service, **only)
        assert len(found) == count, found
        return found

    def go_on(self):
        """Answers those that hang."""
        self._goes_on.set()

    def close(self):
        """Nobody listens any more."""
        self.go_on()
        self._server.shutdown()
        self._server.server_close()
