"""Clients that no one here wrote: curl and a browser. (Python's and node's are in test_websocket_crash.)"""

import json
import os
import signal
import subprocess

import pytest

from support.processes import free_port, gunicorn, uvicorn
from support.waiting import until

# What curl says when a transfer ended before its framing says so.
PARTIAL_FILE = 18
HTTP2_STREAM = 92
WRITE_OUT = "\n%{http_version} %{response_code} %{size_download} %{num_connects}\n"


def start_curl(processes, *transfers):
    """One curl for all transfers, each a list of its options and its URL."""
    common = ["--silent", "--show-error", "--noproxy", "*", "--max-time", "30", "--write-out", WRITE_OUT]
    argv = ["curl", "-q"]
    for number, transfer in enumerate(transfers):
        argv += [*(["--next"] if number else []), *common, *transfer]
    return processes.start("curl", argv)


def result(curl):
    """curl's exit code and everything it printed."""
    return curl.child.wait(30), curl.text()


def kill_worker(events, event):
    os.kill(int(events.wait(event)[-1]), signal.SIGKILL)


@pytest.mark.parametrize("version", ["1.1", "2"])
def test_curl_gets_a_whole_500_and_keeps_its_tls_connection(
    version, certificate, processes, events, port, start_seawall
):
    gunicorn(processes, events, port)
    own, (chain, key) = free_port(), certificate
    tls = f', {{ address: "127.0.0.1:{own}", tls: {{ certificates: [{{ chain: {chain}, key: {key} }}] }} }}'
    start_seawall(port, listeners_more=tls)
    options = ["--cacert", chain, "--http2" if version == "2" else "--http1.1"]
    order = [*options, "--include", "--data", "order=1", f"https://127.0.0.1:{own}/hang"]
    curl = start_curl(processes, order, [*options, f"https://127.0.0.1:{own}/ok"])
    kill_worker(events, "hangs")
    code, output = result(curl)
    assert code == 0, output
    assert f"HTTP/{version} 500" in output
    assert "error=connection_terminated" in output
    assert output.strip().splitlines()[-1] == f"{version} 200 2 0", "the second request used the same connection"


def test_curl_gets_a_whole_500_over_cleartext_http2(processes, events, port, seawall):
    """One request: curl 7.88 cannot use such a connection twice, not with nginx either."""
    gunicorn(processes, events, port)
    options = ["--http2-prior-knowledge", "--include", "--data", "order=1"]
    curl = start_curl(processes, [*options, seawall.url("/hang")])
    kill_worker(events, "hangs")
    code, output = result(curl)
    assert code == 0, output
    assert "HTTP/2 500" in output
    assert "error=connection_terminated" in output


@pytest.mark.parametrize(
    ("option", "codes"), [("--http1.1", {PARTIAL_FILE}), ("--http2-prior-knowledge", {HTTP2_STREAM})]
)
@pytest.mark.parametrize(("path", "arrived"), [("/long", 200_000), ("/stream", 3000)])
def test_curl_sees_that_a_committed_answer_was_cut(
    option, codes, path, arrived, processes, events, port, seawall, tmp_path
):
    gunicorn(processes, events, port)
    content = tmp_path / "content"
    options = [option, "--no-buffer", "--output", content, "--data", ""]
    curl = start_curl(processes, [*options, seawall.url(path)])
    events.wait("stopped")
    until(lambda: content.exists() and content.stat().st_size == arrived, "what was sent before has arrived")
    kill_worker(events, "stopped")
    code, output = result(curl)
    assert code in codes, output
    assert content.stat().st_size == arrived
    seawall.failed(1, kind="http_response_incomplete", outcome="aborted")


def test_a_browser_sees_1011_500_and_a_broken_fetch(processes, events, port, seawall, browser):
    """One browser, one story: the app crashes three times, in a WebSocket, a request and a stream."""
    server = uvicorn(processes, events, port)
    browser.open(seawall.url("/page"))
    browser.run("listen()")
    events.wait("sent")
    server.kill()
    closed = browser.wait("return window.ended", "the browser's WebSocket is closed")
    assert (closed["code"], closed["wasClean"]) == (1011, True)
    assert closed["reason"].startswith("connection_terminated; request ")
    assert browser.run("return window.messages") == [f"page:{number}" for number in range(20)]
    assert browser.run("return window.failed") is False, "no error event came with it"

    server = uvicorn(processes, events, port)
    browser.run("ask('POST', '/hang')")
    events.wait("hangs")
    server.kill()
    fetched = browser.wait("return window.fetched", "the browser's fetch is settled")
    assert (fetched["status"], fetched["type"]) == (500, "application/problem+json")
    assert "error=connection_terminated" in fetched["proxy"]
    assert json.loads(fetched["text"])["status"] == 500

    server = uvicorn(processes, events, port)
    browser.run("ask('POST', '/stream')")
    events.wait("stopped")
    browser.wait("return window.head === 200", "the head of the stream has reached the page")
    server.kill()
    assert browser.wait("return window.fetched", "the browser's fetch is settled") == {"error": "TypeError"}
    seawall.failed(1, kind="http_response_incomplete", outcome="aborted")

    uvicorn(processes, events, port)
    browser.open(seawall.url("/page"))
    browser.run("listen()")
    until(lambda: browser.run("return window.messages.length") == 20, "the reconnected page has every message")


def test_a_browser_opens_its_websocket_over_http2(certificate, processes, events, port, start_seawall, browser):
    """RFC 8441: the page's connection speaks HTTP/2, and the WebSocket is one more stream of it."""
    server = uvicorn(processes, events, port)
    own, (chain, key) = free_port(), certificate
    tls = f', {{ address: "127.0.0.1:{own}", tls: {{ certificates: [{{ chain: {chain}, key: {key} }}] }} }}'
    seawall = start_seawall(port, listeners_more=tls, more="log: { access: true }")
    browser.open(f"https://127.0.0.1:{own}/page")
    assert browser.run("return performance.getEntriesByType('navigation')[0].nextHopProtocol") == "h2"
    browser.run("listen()")
    events.wait("sent")
    opened = [json.loads(line) for line in seawall.process.says("/messages")]
    assert [(line["method"], line["version"], line["status"]) for line in opened] == [("CONNECT", "HTTP/2.0", 200)]
    server.kill()
    closed = browser.wait("return window.ended", "the browser's WebSocket is closed")
    assert (closed["code"], closed["wasClean"]) == (1011, True)
    assert browser.run("return window.messages") == [f"page:{number}" for number in range(20)]
    uvicorn(processes, events, port)
    answer = browser.wait("return (await fetch('/page')).status", "the connection goes on")
    assert answer == 200
