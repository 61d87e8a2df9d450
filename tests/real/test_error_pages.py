"""Debug pages of real frameworks behind seawall: plain, compressed, in pieces. The client sees none of them (P4)."""

import gzip
import json
import sys
from dataclasses import dataclass

import pytest

from support import http1
from support.processes import REAL

APPS = REAL.parent / "pages/apps"
PAGE = ["Accept: text/html"]
PROGRAM = ["Accept: application/json"]
COMPRESSED = ["Accept-Encoding: gzip"]


@dataclass
class App:
    """How it is started on a port, and what its answers are."""

    argv: list
    env: dict
    # Path, request fields, framing of the app's answer, a word of its page, and the trace's name.
    failing: list

    def start(self, processes, port):
        argv = [str(part).replace("PORT", str(port)) for part in self.argv]
        return processes.start("app", argv, self.env, cwd=APPS).wait_for_port(port)


def python(*argv):
    return [sys.executable, *argv]


NODE = {"NODE_PATH": str(REAL / "node_modules")}
FRAMEWORKS = {
    "django": App(
        python("-m", "gunicorn", "--no-control-socket", "--bind", "127.0.0.1:PORT", "django_app:application"),
        {"MODE": "debug gzip"},
        [
            ("/boom", PAGE, "chunked", b"KeyError", "django"),
            ("/boom", PAGE + COMPRESSED, "length", b"KeyError", "django"),
            ("/boom", PROGRAM + COMPRESSED, "length", b"Traceback", "django"),
            ("/streamed", [], "chunked", b"Traceback", "python"),
            ("/streamed", COMPRESSED, "chunked", b"Traceback", "python"),
        ],
    ),
    "flask": App(
        python("flask_app.py", "PORT", "debug"),
        {},
        [("/boom", PAGE, "length", b"ZeroDivisionError", "werkzeug")],
    ),
    "fastapi": App(
        python("fastapi_app.py", "PORT", "debug", "gzip"),
        {},
        [
            ("/boom", PAGE, "length", b"Starlette Debugger", "python"),
            ("/boom", PROGRAM, "length", b"Traceback", "python"),
            ("/streamed", [], "chunked", b"Traceback", "python"),
            ("/streamed", COMPRESSED, "chunked", b"Traceback", "python"),
        ],
    ),
    "express": App(
        ["node", "express_app.js", "PORT", "gzip"],
        NODE,
        [
            ("/boom", PAGE, "length", b"express_app.js", "node"),
            ("/boom", PAGE + COMPRESSED, "chunked", b"express_app.js", "node"),
            ("/streamed", [], "chunked", b"express_app.js", "node"),
            ("/streamed", COMPRESSED, "chunked", b"express_app.js", "node"),
        ],
    ),
}


def text(answer):
    """The content as a client reads it."""
    coding = answer.get("content-encoding")
    assert coding in (None, "gzip")
    return gzip.decompress(answer.content) if coding else answer.content


@pytest.fixture(params=FRAMEWORKS)
def app(request, processes, port):
    chosen = FRAMEWORKS[request.param]
    chosen.start(processes, port)
    return chosen


def test_a_debug_page_never_reaches_the_client_and_is_kept_under_the_requests_id(app, port, seawall):
    traces = []
    for path, fields, framing, word, trace in app.failing:
        what = f"{path} {fields}"
        page = http1.get(port, path, fields)
        # What the app really says, or the test would prove nothing.
        assert (page.status, page.framing) == (500, framing), what
        assert (page.get("content-encoding") == "gzip") == ("Accept-Encoding: gzip" in fields), what
        assert word in text(page), what

        answer = http1.get(seawall.port, path, fields)
        assert (answer.status, answer.complete, answer.error) == (500, True, "application_error"), what
        assert "received-status=500" in answer.get("proxy-status"), what
        assert answer.get("content-encoding") is None, what
        for secret in (word, b"Traceback", b"_app", b"127.0.0.1"):
            assert secret not in answer.content, what
        replaced(seawall, answer.get("x-request-id"), text(page), word, trace)
        traces.append(trace)
    for trace in set(traces):
        name = "seawall_scrubbed_responses_total"
        assert seawall.metrics().total(name, upstream="app", trace=trace) == traces.count(trace)
    seawall.failed(len(traces), kind="application_error", outcome="normalized")
    seawall.failed(len(traces))


def replaced(seawall, request_id, page, word, trace):
    """The journal and the log have what was replaced, readable, under the id that the client was given."""
    entries = [entry for entry in json.loads(seawall.journal()) if entry["request_id"] == request_id]
    assert [(entry["kind"], entry["trace"]) for entry in entries] == [("application_error", trace)]
    # Pages differ in ids and tokens from one request to the next, not in how they begin.
    kept = entries[0]["evidence"].encode()
    assert len(kept) <= 8192
    assert kept[:40] == page[:40]
    if word in page[:8000]:
        assert word in kept
    line = seawall.process.says(request_id)[0]
    assert page[:20].decode().split("\n")[0] in line


@pytest.mark.parametrize("framework", ["django", "flask", "fastapi", "express"])
def test_a_500_that_an_app_means_passes_as_it_is_plain_and_compressed(framework, processes, port, seawall):
    FRAMEWORKS[framework].start(processes, port)
    for fields in (PROGRAM, PROGRAM + COMPRESSED):
        direct = http1.get(port, "/deliberate", fields)
        answer = http1.get(seawall.port, "/deliberate", fields)
        assert (answer.status, answer.complete, answer.error) == (500, True, None)
        assert answer.get("content-encoding") == direct.get("content-encoding")
        assert text(answer) == text(direct)
        assert json.loads(text(answer))["error"] == "out_of_stock"
    seawall.failed(2, kind="application_error", outcome="passed")
    seawall.failed(2)
