"""1,000 requests at 16 connections while workers of a real app are SIGKILLed at random (P1, P2, P5, P8).

No answer is truncated: each is a complete 200 or a complete 500. A POST is never executed twice. The metrics are what
the clients saw.
"""

import os
import random
import signal
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from support import http1
from support.processes import APPS, gunicorn
from support.waiting import until

REQUESTS = 1000
CONNECTIONS = 16
WORKERS = 4
# One worker dies for so many answers. All workers have requests in work at any time, so that each death meets some.
EVERY = 25


def content_of(size, number):
    """What the app answers, written down once more: an app's mistake shall not be the test's."""
    frame = f'{{"id": {number}, "fill": ""}}'
    return frame[:-2].encode() + b"x" * (size - len(frame)) + frame[-2:].encode()


def start_gunicorn(processes, events, port):
    # A restart of the app is not what this is about: the application is loaded before the workers are forked.
    more = ["--workers", str(WORKERS), "--preload"]
    return gunicorn(processes, events, port, app="kill_app:application", more=more)


def start_node(processes, events, port):
    argv = ["node", APPS / "kill_cluster.js", port]
    return processes.start("node", argv, events.env()).wait_for_port(port)


def workers_of(app):
    children = f"/proc/{app.pid}/task/{app.pid}/children"
    with open(children) as listed:
        return [int(pid) for pid in listed.read().split()]


class Load:
    """16 connections that ask until 1,000 answers are there; every so many answers a worker dies."""

    def __init__(self, app, port, method, path):
        self.app, self.port, self.method, self.path = app, port, method, path
        self.random = random.Random(f"{method} {path}")
        self.sizes = [self.random.randint(1024, 64 * 1024) for _ in range(REQUESTS)]
        self.lock = threading.Lock()
        self.answers = {}
        self.killed = 0

    def run(self):
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            connections = [pool.submit(self._connection, first) for first in range(CONNECTIONS)]
            for connection in connections:
                connection.result()

    def _connection(self, first):
        client = http1.Client(self.port)
        for number in range(first, REQUESTS, CONNECTIONS):
            content = b"order" if self.method == "POST" else None
            answer = client.request(self.method, f"{self.path}?size={self.sizes[number]}&id={number}", content)
            self._answered(number, answer)
            if client.end or answer.get("connection") == "close":
                client.closed()
                client = http1.Client(self.port)
        # Nothing comes behind the last answer either.
        client.half_close()
        assert client.closed() == "fin"

    def _answered(self, number, answer):
        with self.lock:
            self.answers[number] = answer
            if len(self.answers) % EVERY == 0:
                # It may have died in the meantime: then the next one is due.
                with suppress(ProcessLookupError, IndexError):
                    os.kill(self.random.choice(workers_of(self.app)), signal.SIGKILL)
                    self.killed += 1


def check(load, seawall, events):
    """Each answer, then the sum of all."""
    errors = Counter()
    for number, answer in load.answers.items():
        assert answer.complete, f"request {number}: cut after {len(answer.content)} bytes"
        if answer.status == 200:
            assert answer.content == content_of(load.sizes[number], number), f"request {number}: not its content"
        else:
            assert (answer.status, answer.get("content-type")) == (500, "application/problem+json")
            problem = answer.json()
            assert (problem["status"], problem["instance"]) == (500, answer.get("x-request-id"))
            errors[answer.error] += 1
    assert len(load.answers) == REQUESTS
    assert load.killed >= REQUESTS // EVERY // 2, "workers were killed all along"
    assert errors.keys() <= {"connection_terminated", "http_response_incomplete", "connection_refused"}

    statuses = Counter(str(answer.status) for answer in load.answers.values())

    def measured(metrics):
        return {
            "statuses": metrics.by("seawall_requests_total", "status"),
            "errors": metrics.by("seawall_failures_total", "kind", outcome="normalized"),
            "aborted": metrics.total("seawall_failures_total", outcome="aborted"),
            "in flight": metrics.total("seawall_requests_in_flight"),
        }

    seawall.counted({"statuses": statuses, "errors": errors, "aborted": 0, "in flight": 0}, measured, "they add up")
    metrics = seawall.metrics()
    recovered = metrics.total("seawall_failures_total", outcome="recovered")
    assert metrics.total("seawall_failures_total") == errors.total() + recovered, "each failure is told or made good"
    assert metrics.total("seawall_retries_total", result="recovered") == recovered
    # A kept connection that died before a byte of its answer says no more than that it was closed.
    again = recovered + metrics.total("seawall_retries_total", result="stale")

    executed = Counter(int(number) for number in events.lines("executed"))
    answered = [number for number, answer in load.answers.items() if answer.status == 200]
    assert all(executed[number] >= 1 for number in answered)
    if load.method == "POST":
        assert max(executed.values()) == 1, "nothing was done twice"
        assert recovered == 0, "what may have been done is not tried again"
        assert errors.total() > 0, "the deaths met requests"
    else:
        assert max(executed.values()) <= 4, "two attempts, each of which may have met a closed idle connection first"
        assert again > 0, "the deaths met requests, and what can be asked again was"


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/sized", "/chunked"])
@pytest.mark.parametrize("start", [start_gunicorn, start_node])
def test_no_answer_is_truncated_while_workers_are_killed(
    processes, events, port, seawall, start, path, method
):
    app = start(processes, events, port)
    until(lambda: len(workers_of(app)) == WORKERS, "all workers are there")
    load = Load(app, seawall.port, method, path)
    load.run()
    check(load, seawall, events)


def test_without_the_hold_the_same_deaths_cut_answers_and_each_is_counted(processes, events, port, start_seawall):
    """The control: it shows that deaths meet answers in their middle, and what the hold is worth."""
    seawall = start_seawall(port, more="failures: { hold: off }")
    app = start_node(processes, events, port)
    until(lambda: len(workers_of(app)) == WORKERS, "all workers are there")
    load = Load(app, seawall.port, "GET", "/sized")
    load.run()
    cut = sum(not answer.complete for answer in load.answers.values())
    assert cut > 0
    seawall.counted(cut, lambda metrics: metrics.total("seawall_failures_total", outcome="aborted"), "aborted")
