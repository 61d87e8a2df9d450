"""gRPC by grpcio, client and server, through seawall; the server is SIGKILLed in calls of every kind."""

import os
import signal
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from support import http1
from support.processes import APPS, free_port
from support.waiting import until

LARGE = 4_000_000
UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


def start_server(processes, events, port, certificate=()):
    argv = [sys.executable, APPS / "grpc_server.py", port, *certificate]
    return processes.start("grpc", argv, events.env()).wait_for_port(port)


@pytest.fixture
def seawall(start_seawall, port):
    return start_seawall(port, upstream_more=", protocol: http2")


class Client:
    """The methods of the app on one channel."""

    def __init__(self, channel):
        self.channel = channel

    def unary(self, method, request=b"", **options):
        return self.channel.unary_unary(f"/test.App/{method}")(request, timeout=20, **options)

    def stream(self, method, request=b"", **options):
        return self.channel.unary_stream(f"/test.App/{method}")(request, timeout=20, **options)


@pytest.fixture
def client(seawall):
    with grpc.insecure_channel(f"127.0.0.1:{seawall.port}", options=UNLIMITED) as channel:
        yield Client(channel)


def failed(call):
    """The status that a call ends with, and what came before it."""
    messages = []
    with pytest.raises(grpc.RpcError) as raised:
        for message in call() if callable(call) else call:
            messages.append(message)
    return raised.value.code(), raised.value.details(), messages


def unary_failed(client, method, request=b""):
    with pytest.raises(grpc.RpcError) as raised:
        client.unary(method, request)
    return raised.value.code(), raised.value.details()


def kill(server, events, event):
    """Returns when the server is gone: while it dies, its port still takes connections, and resets them."""
    events.wait(event)
    server.kill()


def test_calls_of_all_four_types_pass(processes, events, port, client, seawall):
    start_server(processes, events, port)
    assert client.unary("Echo", b"hello") == b"hello"
    answer = client.unary("Metadata", metadata=(("x-who", "me"),))
    assert answer.startswith(b"me via 2.0 seawall")
    assert list(client.stream("Count", b"1000")) == [str(number).encode() for number in range(1000)]
    pieces = [b"x" * 1000] * 50
    assert client.channel.stream_unary("/test.App/Total")(iter(pieces), timeout=20) == b"50000"
    doubled = client.channel.stream_stream("/test.App/Double")(iter([b"a", b"b", b"c"]), timeout=20)
    assert list(doubled) == [b"aa", b"bb", b"cc"]
    seawall.failed(0)


def test_large_messages_and_trailing_metadata_pass(processes, events, port, client):
    start_server(processes, events, port)
    message = os.urandom(LARGE)
    answer, call = client.channel.unary_unary("/test.App/Echo").with_call(message, timeout=20)
    assert answer == message
    assert dict(call.trailing_metadata())["x-length"] == str(LARGE)


def test_a_status_of_the_app_passes_without_and_behind_messages(processes, events, port, client, seawall):
    start_server(processes, events, port)
    assert unary_failed(client, "Missing") == (grpc.StatusCode.NOT_FOUND, "no such thing")
    code, details, messages = failed(client.stream("Count", b"3 RESOURCE_EXHAUSTED"))
    assert (code, details) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "told behind messages")
    assert messages == [b"0", b"1", b"2"]
    seawall.failed(0)


def test_metadata_in_bytes_and_a_status_in_detail_pass_unchanged(processes, events, port, client, seawall):
    start_server(processes, events, port)
    raw = bytes(range(256))
    method = client.channel.unary_unary("/test.App/Metadata")
    _, call = method.with_call(b"", timeout=20, metadata=(("x-who", "me"), ("x-raw-bin", raw)))
    assert dict(call.initial_metadata())["x-raw-bin"] == raw
    with pytest.raises(grpc.RpcError) as raised:
        client.unary("MissingInDetail")
    assert (raised.value.code(), raised.value.details()) == (grpc.StatusCode.NOT_FOUND, "no 50 % café\nhere")
    assert dict(raised.value.trailing_metadata())["grpc-status-details-bin"] == raw
    seawall.failed(0)


def test_large_compressed_messages_pass_both_ways_in_one_call(processes, events, port, client, seawall):
    start_server(processes, events, port)
    messages = [os.urandom(1000) * (LARGE // 1000) for _ in range(3)]
    method = client.channel.stream_stream("/test.App/Double")
    answers = method(iter(messages), timeout=20, compression=grpc.Compression.Gzip)
    for message, answer in zip(messages, answers, strict=True):
        # Without a diff of megabytes.
        assert len(answer) == 2 * LARGE and answer == message * 2
    seawall.failed(0)


def test_a_deadline_reaches_the_server_and_ends_its_call(processes, events, port, client, seawall):
    start_server(processes, events, port)
    # grpc-timeout has few digits, and is rounded up.
    assert 0 < float(client.unary("TimeLeft")) <= 21
    # From the first call on the way is open: the deadline meets the handler, not the connecting.
    with pytest.raises(grpc.RpcError) as raised:
        client.channel.unary_unary("/test.App/Hang")(b"late", timeout=2)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert events.wait("ended") == ["late"]
    seawall.failed(0)


def test_100_calls_at_a_time_over_one_channel(processes, events, port, client, seawall):
    start_server(processes, events, port)
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda number: client.unary("Echo", str(number).encode()), range(1000)))
    assert answers == [str(number).encode() for number in range(1000)]
    seawall.failed(0)


def test_a_server_that_is_down_is_unavailable(client, seawall):
    assert unary_failed(client, "Echo") == (grpc.StatusCode.UNAVAILABLE, "connection_refused")
    seawall.failed(1, kind="connection_refused", phase="connect", protocol="grpc", outcome="normalized")
    seawall.failed(1)


def test_a_server_killed_in_unary_calls_is_told_to_each_and_the_next_call_succeeds(
    processes, events, port, client, seawall
):
    server = start_server(processes, events, port)
    with ThreadPoolExecutor(20) as pool:
        calls = [pool.submit(unary_failed, client, "Hang", str(number).encode()) for number in range(20)]
        events.wait("hangs", 20)
        kill(server, events, "hangs")
        results = {call.result() for call in calls}
    assert results == {(grpc.StatusCode.INTERNAL, "connection_terminated")}
    seawall.failed(20, kind="connection_terminated", phase="head", protocol="grpc", outcome="normalized")
    start_server(processes, events, port)
    assert client.unary("Echo", b"again") == b"again"
    seawall.failed(20)


def test_a_server_killed_in_a_stream_costs_no_message_and_never_looks_like_an_end(
    processes, events, port, client, seawall
):
    server = start_server(processes, events, port)
    messages = []

    def killing():
        for message in client.stream("CountAndHang"):
            messages.append(message)
            if len(messages) == 5:
                kill(server, events, "counted")
            yield message

    code, details, _ = failed(killing)
    assert (code, details) == (grpc.StatusCode.INTERNAL, "http_response_incomplete")
    assert messages == [b"0", b"1", b"2", b"3", b"4"]
    seawall.failed(1, kind="http_response_incomplete", phase="body", protocol="grpc", outcome="normalized")
    start_server(processes, events, port)
    assert list(client.stream("Count", b"2")) == [b"0", b"1"]


def test_a_server_killed_while_it_takes_a_stream_of_messages_is_internal(processes, events, port, client, seawall):
    server = start_server(processes, events, port)
    over = threading.Event()

    def endless():
        yield b"first"
        over.wait(20)

    call = client.channel.stream_unary("/test.App/Total").future(endless(), timeout=20)
    kill(server, events, "takes")
    error = call.exception()
    over.set()
    assert (error.code(), error.details()) == (grpc.StatusCode.INTERNAL, "connection_terminated")
    seawall.failed(1, kind="connection_terminated", protocol="grpc", outcome="normalized")
    seawall.failed(1)


def test_a_server_killed_in_a_conversation_costs_no_message_and_never_looks_like_an_end(
    processes, events, port, client, seawall
):
    server = start_server(processes, events, port)
    over = threading.Event()

    def endless():
        yield from (b"a", b"b", b"c")
        over.wait(20)

    call = client.channel.stream_stream("/test.App/Double")(endless(), timeout=20)
    assert [next(call) for _ in range(3)] == [b"aa", b"bb", b"cc"]
    kill(server, events, "doubled")
    assert failed(call) == (grpc.StatusCode.INTERNAL, "http_response_incomplete", [])
    over.set()
    seawall.failed(1, kind="http_response_incomplete", phase="body", protocol="grpc", outcome="normalized")
    seawall.failed(1)


def test_20_streams_of_one_connection_each_end_with_the_status_when_their_server_is_killed(
    processes, events, port, client, seawall
):
    server = start_server(processes, events, port)
    calls = [client.stream("CountAndHang") for _ in range(20)]
    for call in calls:
        assert [next(call) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    events.wait("counted", 20)
    kill(server, events, "counted")
    for call in calls:
        assert failed(call) == (grpc.StatusCode.INTERNAL, "http_response_incomplete", [])
    seawall.failed(20, kind="http_response_incomplete", protocol="grpc", outcome="normalized")
    seawall.failed(20)


def test_a_client_that_cancels_a_stream_ends_it_at_the_server(processes, events, port, client, seawall):
    start_server(processes, events, port)
    call = client.stream("CountAndHang", b"stream")
    assert next(call) == b"0"
    events.wait("counted")
    call.cancel()
    assert events.wait("ended") == ["stream"]
    seawall.failed(0)


def test_a_client_that_cancels_ends_the_call_of_the_server(processes, events, port, client, seawall):
    start_server(processes, events, port)
    call = client.channel.unary_unary("/test.App/Hang").future(b"cancelled", timeout=20)
    events.wait("hangs")
    call.cancel()
    assert events.wait("ended") == ["cancelled"]
    seawall.failed(0)


def test_a_graceful_stop_under_load_is_no_failure_when_another_endpoint_is_there(
    processes, events, port, start_seawall
):
    """GOAWAY, then a port that refuses: what the server did not take is recovered.

    What it took is its own: grpcio's answers CANCELLED while it stops, or exits without a word, and a call that it
    said it took may not be sent again (RFC 9113 §8.7).
    """
    other = free_port()
    stopping, _ = start_server(processes, events, port), start_server(processes, events, other)
    seawall = start_seawall([port, other], upstream_more=", protocol: http2")
    answered, lock = [], threading.Lock()
    cancelled = (grpc.StatusCode.CANCELLED, "CANCELLED")
    terminated = (grpc.StatusCode.INTERNAL, "connection_terminated")

    def calls(_):
        with grpc.insecure_channel(f"127.0.0.1:{seawall.port}") as channel:
            for number in range(100):
                try:
                    answer = Client(channel).unary("Echo", str(number).encode())
                    assert answer == str(number).encode()
                except grpc.RpcError as error:
                    answer = (error.code(), error.details())
                    assert answer in (cancelled, terminated)
                with lock:
                    answered.append(answer)

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(calls, thread) for thread in range(4)]
        until(lambda: len(answered) >= 50, "the load runs")
        stopping.child.send_signal(signal.SIGTERM)
        for thread in running:
            thread.result()
    assert len(answered) == 400
    assert answered.count(cancelled) + answered.count(terminated) <= 4, "at most the calls that ran when it stopped"
    normalized = seawall.metrics().total("seawall_failures_total", outcome="normalized")
    assert normalized == answered.count(terminated), "what else met the stop was recovered"


def test_servers_killed_under_load_cost_only_calls_in_flight_and_the_metrics_add_up(
    processes, events, port, start_seawall
):
    """Two servers, killed and started in turn at every 40th result; unary calls and streams, on 8 channels."""
    other = free_port()
    servers = {each: start_server(processes, events, each) for each in (port, other)}
    seawall = start_seawall([port, other], upstream_more=", protocol: http2")
    results, lock, one_at_a_time = Counter(), threading.Lock(), threading.Lock()

    def call(client, number):
        """The status and the details; the messages are checked here."""
        size = 100
        expected = [str(message).encode() for message in range(size)] if number % 2 else [str(number).encode()]
        messages = []
        try:
            if number % 2:
                messages.extend(client.stream("Count", str(size).encode()))
            else:
                messages.append(client.unary("Echo", expected[0]))
        except grpc.RpcError as error:
            assert messages == expected[: len(messages)], "none is lost or twice before a failure"
            return error.code(), error.details()
        assert messages == expected, "an OK is the end of all messages"
        return grpc.StatusCode.OK, ""

    def calls(_):
        with grpc.insecure_channel(f"127.0.0.1:{seawall.port}") as channel:
            for number in range(40):
                result = call(Client(channel), number)
                with lock:
                    results[result] += 1
                    due = results.total() % 40 == 0 and results.total() // 40
                if due:
                    victim = port if due % 2 else other
                    with one_at_a_time:
                        servers[victim].kill()
                        servers[victim] = start_server(processes, events, victim)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(calls, range(8)))
    assert results.total() == 8 * 40
    errors = Counter()
    for (code, details), count in results.items():
        if code != grpc.StatusCode.OK:
            assert code in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNAVAILABLE), results
            errors[details] += count
    assert errors.keys() <= {"connection_terminated", "http_response_incomplete", "connection_refused"}, results
    assert errors.total() <= 8 * 7, "at most what was in flight at each death"
    recovered = seawall.metrics().total("seawall_failures_total", outcome="recovered")
    assert recovered > 0, "while one of them was down, the other one took its calls"
    seawall.counted(
        (errors, 0, 0),
        lambda metrics: (
            metrics.by("seawall_failures_total", "kind", protocol="grpc", outcome="normalized"),
            metrics.total("seawall_failures_total", outcome="aborted"),
            metrics.total("seawall_requests_in_flight"),
        ),
        "the metrics are what the clients saw",
    )


def test_over_tls(processes, events, port, start_seawall, certificate):
    start_server(processes, events, port)
    chain, key = certificate
    tls = free_port()
    listener = f', {{ address: "127.0.0.1:{tls}", tls: {{ certificates: [{{ chain: {chain}, key: {key} }}] }} }}'
    start_seawall(port, upstream_more=", protocol: http2", listeners_more=listener)
    trust = grpc.ssl_channel_credentials(chain.read_bytes())
    with grpc.secure_channel(f"localhost:{tls}", trust) as channel:
        assert Client(channel).unary("Echo", b"hello") == b"hello"


def test_over_tls_on_both_sides_a_killed_server_is_told_as_without(
    processes, events, port, start_seawall, certificate
):
    """To the upstream h2 is agreed on by ALPN."""
    chain, key = certificate
    server = start_server(processes, events, port, certificate)
    tls = free_port()
    listener = f', {{ address: "127.0.0.1:{tls}", tls: {{ certificates: [{{ chain: {chain}, key: {key} }}] }} }}'
    upstream = f", protocol: http2, tls: {{ roots: {chain} }}"
    seawall = start_seawall(f"https://127.0.0.1:{port}", upstream_more=upstream, listeners_more=listener)
    with grpc.secure_channel(f"localhost:{tls}", grpc.ssl_channel_credentials(chain.read_bytes())) as channel:
        client = Client(channel)
        assert client.unary("Echo", b"hello") == b"hello"
        stream = client.stream("CountAndHang")
        assert [next(stream) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        events.wait("counted")
        server.kill()
        assert failed(stream) == (grpc.StatusCode.INTERNAL, "http_response_incomplete", [])
        assert unary_failed(client, "Echo") == (grpc.StatusCode.UNAVAILABLE, "connection_refused")
        start_server(processes, events, port, certificate)
        assert client.unary("Echo", b"again") == b"again"
    seawall.failed(2, protocol="grpc", outcome="normalized")
    seawall.failed(2)


def test_a_grpc_web_call_that_fails_has_its_status_in_the_head(seawall):
    fields = ["Content-Type: application/grpc-web+proto"]
    answer = http1.post(seawall.port, "/test.App/Echo", b"\x00\x00\x00\x00\x00", fields)
    assert (answer.status, answer.content, answer.complete) == (200, b"", True)
    assert (answer.get("grpc-status"), answer.get("grpc-message")) == ("14", "connection_refused")
    assert answer.get("content-type") == "application/grpc-web+proto"
