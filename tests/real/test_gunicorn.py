"""gunicorn and Flask; the worker is SIGKILLed in the middle of a request (P1, P2, P4, P5)."""

import os
import signal

import pytest

from support import http1
from support.processes import gunicorn
from support.waiting import until


@pytest.fixture
def app(processes, events, port):
    return gunicorn(processes, events, port)


def kill_worker(events, event):
    """SIGKILLs the worker that announced the event; gunicorn's master starts another."""
    os.kill(int(events.wait(event)[-1]), signal.SIGKILL)


def is_our_500(answer, error):
    """One complete, well-formed 500 that names the failure and shows nothing of the app."""
    assert (answer.status, answer.complete, answer.error) == (500, True, error)
    assert answer.get("x-request-id")
    assert answer.get("cache-control") == "no-store"
    assert answer.get("server") is None, "no server banner reaches a client"
    for secret in (b"gunicorn", b"flask", b"Traceback", b"127.0.0.1"):
        assert secret not in answer.content


def test_healthy_traffic_passes(app, seawall):
    assert http1.get(seawall.port, "/ok").content == b"ok"
    upload = os.urandom(300_000)
    assert http1.post(seawall.port, "/echo", upload).json()["length"] == len(upload)
    seawall.failed(0)


def test_worker_killed_before_a_byte_is_a_whole_500_on_a_connection_that_stays_usable(app, events, seawall):
    with http1.Client(seawall.port) as client:
        client.send("POST", "/hang", b"order")
        kill_worker(events, "hangs")
        answer = client.rest(client.head())
        is_our_500(answer, "connection_terminated")
        assert answer.get("content-type") == "application/problem+json"
        assert answer.json()["status"] == 500
        # The same connection, and gunicorn's new worker.
        assert client.request("GET", "/ok").content == b"ok"
    assert answer.get("x-request-id") in seawall.journal()
    seawall.process.says(answer.get("x-request-id"))
    counted = {"kind": "connection_terminated", "phase": "head", "outcome": "normalized", "protocol": "http"}
    seawall.failed(1, **counted)
    seawall.failed(1)


def test_a_browser_gets_a_page_instead_of_a_problem_document(app, events, seawall):
    with http1.Client(seawall.port) as client:
        client.send("POST", "/hang", b"", ["Accept: text/html,application/xhtml+xml,*/*;q=0.8"])
        kill_worker(events, "hangs")
        answer = client.rest(client.head())
    is_our_500(answer, "connection_terminated")
    assert answer.get("content-type").startswith("text/html")


def test_worker_killed_in_a_small_body_of_known_length_is_a_whole_500(app, events, seawall):
    with http1.Client(seawall.port) as client:
        client.send("POST", "/short", b"")
        kill_worker(events, "stopped")
        is_our_500(client.rest(client.head()), "http_response_incomplete")
        assert client.request("GET", "/ok").content == b"ok"
    seawall.failed(1, kind="http_response_incomplete", phase="body", outcome="normalized")


def test_worker_killed_in_a_large_body_of_known_length_leaves_it_unmistakably_short(app, events, seawall):
    with http1.Client(seawall.port) as client:
        client.send("POST", "/long", b"")
        answer = client.at_least(client.head(), 200_000)
        kill_worker(events, "stopped")
        client.rest(answer)
        assert (answer.status, answer.get("content-length")) == (200, "1000000")
        assert (answer.complete, len(answer.content)) == (False, 200_000)
        assert client.end, "the connection is closed"
    assert http1.get(seawall.port, "/ok").content == b"ok"
    counted = {"kind": "http_response_incomplete", "phase": "body", "outcome": "aborted"}
    seawall.failed(1, **counted)
    seawall.failed(1)


def test_worker_killed_in_a_streamed_body_leaves_it_without_its_last_chunk(app, events, seawall):
    with http1.Client(seawall.port) as client:
        client.send("POST", "/stream", b"")
        answer = client.at_least(client.head(), 3000)
        kill_worker(events, "stopped")
        client.rest(answer)
        assert (answer.status, answer.framing) == (200, "chunked")
        assert (answer.complete, answer.content) == (False, b"x" * 3000)
        assert client.end, "the connection is closed"
    assert http1.get(seawall.port, "/ok").content == b"ok"
    counted = {"kind": "http_response_incomplete", "phase": "body", "outcome": "aborted"}
    seawall.failed(1, **counted)


def test_app_that_is_down_is_a_500_and_the_first_request_after_its_start_succeeds(
    app, processes, events, port, seawall
):
    assert app.terminate() == 0
    is_our_500(http1.get(seawall.port, "/ok"), "connection_refused")
    gunicorn(processes, events, port)
    assert http1.get(seawall.port, "/ok").content == b"ok"
    seawall.failed(1, kind="connection_refused", phase="connect", outcome="normalized")


def test_a_500_that_the_app_means_passes_untouched(app, seawall):
    answer = http1.get(seawall.port, "/deliberate")
    assert (answer.status, answer.json()) == (500, {"article": 7, "error": "out_of_stock"})
    seawall.failed(1, kind="application_error", outcome="passed")


def test_a_worker_that_hangs_is_a_500_when_the_head_is_late(app, events, port, start_seawall):
    seawall = start_seawall(port, upstream_more=", timeouts: { head: 300ms }, retry: { attempts: 1 }")
    is_our_500(http1.get(seawall.port, "/hang"), "http_response_timeout")
    seawall.failed(1, kind="http_response_timeout", phase="head")
    # gunicorn's only worker is still busy with the request that nobody waits for.
    events.open_gate()
    until(lambda: http1.get(seawall.port, "/ok").status == 200, "the worker is free again")
