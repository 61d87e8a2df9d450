"""OpenTelemetry: one trace from the client to the app, spans over OTLP, and what a collector can do wrong."""

import asyncio
import json
import signal
import sys
import time

import pytest

from support import http1
from support.collector import Collector
from support.processes import APPS, free_port, uvicorn
from support.recorder import Recorder
from support.waiting import until
from support.websocket import open_client, read_to_end

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"traceparent: 00-{TRACE}-{PARENT}-01"
TRUSTED = "forwarded: { trusted: [127.0.0.0/8] }\n"
SPANS = "seawall_spans_total"


@pytest.fixture
def collector():
    started = Collector()
    yield started
    started.close()


@pytest.fixture
def app():
    started = Recorder()
    yield started
    started.close()


def tracing(collector, more="", trusted=True):
    """The part of the configuration; what is sent is sent soon."""
    section = f"tracing: {{ endpoint: '{collector.url}', interval: 20ms{more} }}"
    return (TRUSTED if trusted else "") + section


def spans(seawall, result):
    return seawall.now().total(SPANS, result=result)


def results(metrics):
    """What became of spans."""
    return metrics.by(SPANS, "result")


def received(app):
    """The fields of the last request that the app has seen."""
    return dict(app.seen[-1]["fields"])


def test_a_request_is_one_trace_from_the_client_to_the_app(processes, events, port, collector, start_seawall):
    argv = [sys.executable, "-m", "uvicorn", "--app-dir", APPS, "--port", port, "--no-access-log", "traced_app:app"]
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SERVICE_NAME": "shop"}
    processes.start("traced", argv, events.env() | env).wait_for_port(port)
    seawall = start_seawall(port, more=tracing(collector))
    before = time.time_ns()
    fields = [TRACEPARENT, "tracestate: vendor=1", "X-Forwarded-For: 192.0.2.7", "User-Agent: test/1"]
    with http1.Client(seawall.port) as client:
        answer = client.request("GET", "/cart?card=4111", fields=fields)
    assert answer.status == 200
    server, sent = collector.wait(2)
    (shop,) = collector.wait(1, service="shop")
    assert [span.trace for span in (server, sent, shop)] == [TRACE] * 3
    assert (server.kind, server.parent) == ("SERVER", PARENT)
    assert (sent.kind, sent.parent) == ("CLIENT", server.id)
    assert (shop.kind, shop.parent) == ("SERVER", sent.id)
    assert before <= server.began <= sent.began <= shop.began <= shop.ended, "one machine, one clock"
    assert server.began < server.ended <= time.time_ns()
    assert (server.name, sent.name) == ("GET */*", "GET")
    assert (server.state, server.flags) == ("vendor=1", 0x301)
    assert (server.error, sent.error) == (None, None)
    told = {
        "http.request.method": "GET",
        "url.path": "/cart",
        "url.scheme": "http",
        "server.address": "app.example",
        "client.address": "192.0.2.7",
        "network.peer.address": "127.0.0.1",
        "network.protocol.version": "1.1",
        "user_agent.original": "test/1",
        "http.response.status_code": 200,
        "seawall.request_id": answer.get("x-request-id"),
        "seawall.route": "*/*",
        "seawall.upstream": "app",
    }
    assert server.attributes == told
    assert sent.attributes == {
        "http.request.method": "GET",
        "url.full": f"http://127.0.0.1:{port}/cart",
        "server.address": "127.0.0.1",
        "server.port": port,
        "network.protocol.version": "1.1",
        "http.response.status_code": 200,
        "seawall.upstream": "app",
    }
    path, fields, _ = collector.requests[0]
    assert path == "/v1/traces"
    assert fields["content-type"] == "application/x-protobuf"
    assert "4111" not in str(collector.of()), "a query may hold secrets"


def test_a_failure_is_the_status_of_its_span_and_its_trace_is_in_log_and_journal(
    processes, port, collector, start_seawall
):
    seawall = start_seawall(port, more=tracing(collector))
    with http1.Client(seawall.port) as client:
        answer = client.request("POST", "/buy", content=b"x", fields=[TRACEPARENT])
    assert (answer.status, answer.error) == (500, "connection_refused")
    server, sent = collector.wait(2)
    assert (server.error, sent.error) == ("connection_refused", "connection_refused")
    assert server.attributes["error.type"] == sent.attributes["error.type"] == "connection_refused"
    assert server.attributes["seawall.outcome"] == "normalized"
    assert server.attributes["seawall.phase"] == "connect"
    assert server.attributes["http.response.status_code"] == 500
    assert "http.response.status_code" not in sent.attributes
    (entry,) = json.loads(seawall.journal())
    assert entry["trace_id"] == TRACE
    (line,) = seawall.process.says("upstream failure")
    assert json.loads(line)["trace_id"] == TRACE
    assert TRACE not in answer.content.decode() + str(answer.fields), "the client knows it already, others need not"


def test_each_attempt_is_a_span_and_the_app_continues_its_own(app, collector, start_seawall):
    gone = free_port()
    seawall = start_seawall([gone, app.port], more=tracing(collector), upstream_more=", retry: { attempts: 2 }")

    def retried():
        return [span for span in collector.of(kind="SERVER") if "seawall.recovered" in span.attributes]

    until(lambda: http1.get(seawall.port, "/").status == 200 and retried(), "one was retried")
    server = retried()[0]
    assert (server.error, server.attributes["seawall.recovered"]) == (None, "connection_refused")
    first, second = [span for span in collector.of(kind="CLIENT") if span.parent == server.id]
    assert (first.error, first.attributes["server.port"]) == ("connection_refused", gone)
    assert (second.error, second.attributes["server.port"]) == (None, app.port)
    assert second.attributes["http.request.resend_count"] == 1
    seen = [dict(request["fields"])["traceparent"] for request in app.seen]
    assert f"00-{server.trace}-{second.id}-03" in seen


def test_a_websocket_is_told_when_it_opens_and_when_it_ends(processes, events, port, collector, start_seawall):
    running = uvicorn(processes, events, port)
    seawall = start_seawall(port, more=tracing(collector))

    async def crash():
        client = await open_client(seawall.websocket("/messages"))
        await client.send("0")
        await asyncio.to_thread(events.wait, "sent", 1)
        server, _ = await asyncio.to_thread(collector.wait, 2)
        running.kill()
        return server, await read_to_end(client)

    server, session = asyncio.run(crash())
    assert session.code == 1011
    assert (server.kind, server.error, server.attributes["http.response.status_code"]) == ("SERVER", None, 101)
    (told,) = collector.wait(1, kind="INTERNAL")
    assert (told.trace, told.parent, told.error) == (server.trace, server.id, "connection_terminated")
    assert told.name == "WebSocket */*"
    assert told.attributes["seawall.websocket.close_code"] == 1011
    assert told.attributes["seawall.websocket.initiator"] == "upstream"
    assert told.attributes["seawall.websocket.to_client.messages"] == 20
    (entry,) = json.loads(seawall.journal())
    assert entry["trace_id"] == server.trace


@pytest.mark.parametrize(
    ("trusted", "flags", "sample", "sampled"),
    [(True, "01", "0%", True), (True, "00", "100%", False), (False, "01", "0%", False), (False, "00", "100%", True)],
)
def test_who_is_trusted_decides_what_is_recorded_and_else_the_share(
    trusted, flags, sample, sampled, app, collector, start_seawall
):
    seawall = start_seawall(app.port, more=tracing(collector, f", sample: {sample}", trusted))
    with http1.Client(seawall.port) as client:
        client.request("GET", "/", fields=[f"traceparent: 00-{TRACE}-{PARENT}-{flags}", "tracestate: a=1"])
    version, trace, parent, told = received(app)["traceparent"].split("-")
    assert (version, trace, told) == ("00", TRACE, "01" if sampled else "00")
    assert parent != PARENT
    assert received(app)["tracestate"] == "a=1"
    # A stop in order sends what there is.
    seawall.stop()
    assert len(collector.spans) == (2 if sampled else 0)


@pytest.mark.parametrize("broken", ["00-xyz", f"00-{TRACE}-{PARENT}-01\r\ntraceparent: 00-{TRACE}-{PARENT}-01"])
def test_a_trace_that_cannot_be_continued_is_begun_anew_without_its_state(broken, app, collector, start_seawall):
    seawall = start_seawall(app.port, more=tracing(collector))
    with http1.Client(seawall.port) as client:
        client.request("GET", "/", fields=[f"traceparent: {broken}", "tracestate: a=1"])
    server, sent = collector.wait(2)
    assert server.parent == "" and server.trace != TRACE
    fields = [name for name, _ in app.seen[-1]["fields"] if name in ("traceparent", "tracestate")]
    assert fields == ["traceparent"]
    assert received(app)["traceparent"] == f"00-{server.trace}-{sent.id}-03"


def test_without_tracing_the_fields_pass_as_they_are(app, start_seawall):
    seawall = start_seawall(app.port)
    with http1.Client(seawall.port) as client:
        client.request("GET", "/", fields=[TRACEPARENT, "tracestate: a=1"])
    assert f"traceparent: {received(app)['traceparent']}" == TRACEPARENT
    assert received(app)["tracestate"] == "a=1"


def test_a_collector_that_is_busy_gets_the_batch_again(app, collector, start_seawall):
    seawall = start_seawall(app.port, more=tracing(collector))
    collector.script += [(503, {"retry-after": "0"}), (429, {}), (502, {"retry-after": "0"})]
    assert http1.get(seawall.port, "/").status == 200
    collector.wait(2)
    assert len(collector.requests) == 4
    seawall.counted({"exported": 2}, results, "once")
    # An absurd wait is no wait at all: the batch is given up.
    collector.script += [(503, {"retry-after": str(2**64 - 1)})]
    http1.get(seawall.port, "/")
    seawall.counted(2, lambda metrics: metrics.total(SPANS, result="failed"), "given up")
    http1.get(seawall.port, "/")
    collector.wait(4)
    seawall.process.says("takes spans again")


def test_a_collector_that_refuses_is_not_asked_again(app, collector, start_seawall):
    seawall = start_seawall(app.port, more=tracing(collector))
    collector.script += [(400, {})]
    http1.get(seawall.port, "/")
    seawall.counted(2, lambda metrics: metrics.total(SPANS, result="failed"), "refused")
    assert len(collector.requests) == 1
    collector.rejects = 1
    http1.get(seawall.port, "/")
    seawall.counted({"failed": 2, "exported": 1, "rejected": 1}, results, "in part")
    seawall.process.says("too old")


def test_a_collector_that_is_gone_costs_no_request_and_is_said_once(app, start_seawall):
    collector = Collector()
    seawall = start_seawall(app.port, more=tracing(collector, ", timeout: 100ms"))
    collector.close()
    for _ in range(3):
        assert http1.get(seawall.port, "/").status == 200
        until(lambda: spans(seawall, "failed") % 2 == 0 and spans(seawall, "failed") > 0, "counted")
    seawall.counted(6, lambda metrics: metrics.total(SPANS, result="failed"), "all of them")
    assert len(seawall.process.says("the collector does not take spans")) == 1
    back = Collector(collector.port)
    http1.get(seawall.port, "/")
    back.wait(2)
    until(lambda: seawall.process.text().count("the collector takes spans again") == 1, "it is back")
    back.close()


def test_a_collector_that_hangs_costs_spans_and_no_request(app, collector, start_seawall):
    seawall = start_seawall(app.port, more=tracing(collector, ", queue: 3, batch: 1"))
    collector.script += [("hang", {})]
    http1.get(seawall.port, "/")
    until(lambda: collector.requests, "it is asked, and hangs")
    for _ in range(10):
        assert http1.get(seawall.port, "/").status == 200
    # Three requests wait; each is two spans.
    seawall.counted(14, lambda metrics: metrics.total(SPANS, result="dropped"), "the rest is dropped")
    collector.go_on()
    collector.wait(8)
    seawall.counted(8, lambda metrics: metrics.total(SPANS, result="exported"), "what waited is told")


def test_the_end_of_the_process_sends_what_waits(app, collector, start_seawall):
    seawall = start_seawall(app.port, more=f"tracing: {{ endpoint: '{collector.url}', interval: 60s }}")
    for _ in range(5):
        http1.get(seawall.port, "/")
    assert collector.spans == []
    seawall.stop()
    assert len(collector.spans) == 10


def test_a_collector_over_tls_that_wants_a_key(app, certificate, tmp_path, start_seawall):
    collector = Collector(certificate=certificate)
    (tmp_path / "fields").write_text("Authorization: Bearer verysecret\nx-team: proxies\n")
    more = f", roots: {certificate[0]}, fields_file: fields, service: edge"
    seawall = start_seawall(app.port, more=tracing(collector, more))
    http1.get(seawall.port, "/")
    collector.wait(2, service="edge")
    _, fields, _ = collector.requests[0]
    assert (fields["authorization"], fields["x-team"]) == ("Bearer verysecret", "proxies")
    shown = http1.operate(seawall.admin, "/config").content.decode() + seawall.process.text()
    assert "x-team" in shown and "verysecret" not in shown
    collector.close()


def test_tracing_begins_changes_and_ends_with_a_reload(app, collector, start_seawall):
    seawall = start_seawall(app.port, more="reload: { watch: false }")
    plain = seawall.file.read_text()

    def reload(text, count):
        seawall.file.write_text(text)
        seawall.process.child.send_signal(signal.SIGHUP)
        reloads = "seawall_config_reloads_total"
        until(lambda: seawall.now().total(reloads, result="ok") == count, "it is loaded")

    reload(plain + tracing(collector) + "\n", 1)
    http1.get(seawall.port, "/")
    collector.wait(2)
    other = Collector()
    reload(plain + tracing(other) + "\n", 2)
    http1.get(seawall.port, "/")
    other.wait(2)
    reload(plain, 3)
    with http1.Client(seawall.port) as client:
        client.request("GET", "/", fields=[TRACEPARENT])
    assert f"traceparent: {received(app)['traceparent']}" == TRACEPARENT
    assert (len(collector.spans), len(other.spans)) == (2, 2)
    other.close()
