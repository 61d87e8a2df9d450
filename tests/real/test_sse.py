"""A browser's EventSource while its app is SIGKILLed in the middle of an event.

The browser reconnects by itself. While the app is down it gets a 500, at which an EventSource gives up (HTML standard,
section 9.2), and the page opens another one. If another endpoint is there, the page has nothing to do.
"""

import os
import signal

from support.processes import APPS, free_port
from support.waiting import until


def start_app(processes, events, port):
    return processes.start("node", ["node", APPS / "sse_server.js", port], events.env()).wait_for_port(port)


def test_a_browser_is_told_why_its_stream_broke_and_resumes_where_it_was(
    processes, events, port, start_seawall, browser
):
    app = start_app(processes, events, port)
    seawall = start_seawall(port, more="failures: { sse_event: true }")
    browser.open(seawall.url("/page"))
    events.wait("sent")
    browser.wait("return window.messages.length === 3", "three whole events have come")
    app.kill()
    told = browser.wait("return window.told[0]", "the page is told")
    assert told["type"] == "urn:seawall:failure:http_response_incomplete"
    assert told["status"] == 500
    assert told["instance"] in seawall.journal(), "the page can name the failure to its operator"
    assert browser.run("return window.messages") == [[str(number), f"event {number}"] for number in (1, 2, 3)]

    start_app(processes, events, port)
    until(lambda: "3" in events.lines("asked"), "the browser resumes behind the last whole event")
    browser.wait("return window.messages.length === 6", "three events more")
    assert browser.run("return window.messages[5]") == ["6", "event 6"]
    assert browser.run("return window.told.length") == 1
    seawall.failed(1, kind="http_response_incomplete", phase="body", outcome="aborted")


def test_a_browser_resumes_by_itself_at_another_endpoint(processes, events, port, start_seawall, browser):
    other = free_port()
    for each in (port, other):
        start_app(processes, events, each)
    seawall = start_seawall([port, other], more="failures: { sse_event: true }")
    browser.open(seawall.url("/page"))
    [pid] = events.wait("sent")
    browser.wait("return window.messages.length === 3", "three whole events have come")
    os.kill(int(pid), signal.SIGKILL)
    browser.wait("return window.messages.length === 6", "three events more")
    expected = [[str(number), f"event {number}"] for number in range(1, 7)]
    assert browser.run("return window.messages") == expected, "in order, none twice, and not the one that was cut"
    assert events.lines("resumed") == ["3"], "Last-Event-ID is the last whole event's"
    assert browser.run("return [window.opened, window.told.length]") == [1, 1]
    seawall.failed(1, kind="http_response_incomplete", phase="body", outcome="aborted")
    seawall.failed(0, outcome="normalized")
