"""A Flask route on a real PostgreSQL that is stopped under it: the app lives, what is behind it does not."""

from pathlib import Path

import pytest

from support import http1
from support.processes import gunicorn

RULE = """\
failures:
  dependencies:
    - { name: postgres, body: "psycopg" }
"""
CONFIG = Path(__file__).resolve().parents[2] / "config"
# What the app shows of itself, and what no client may see.
SECRETS = (b"psycopg", b"Traceback", b"flask_app.py", b"connection", b"127.0.0.1", b"werkzeug")


def start_app(processes, events, port, postgres, errors):
    env = {"DATABASE": postgres.conninfo, "ERRORS": errors}
    return gunicorn(processes, events, port, app="flask_app:traced", env=env)


def is_replaced(answer, error):
    assert (answer.status, answer.complete, answer.error) == (500, True, error)
    assert "received-status=500" in answer.get("proxy-status")
    for secret in SECRETS:
        assert secret not in answer.content


@pytest.mark.parametrize("errors", ["trace", "debugger"])
def test_a_stopped_database_is_a_dependency_failure_that_shows_no_trace(
    errors, processes, events, port, postgres, start_seawall
):
    start_app(processes, events, port, postgres, errors)
    seawall = start_seawall(port, more=RULE)
    dependency = ("seawall_dependency_failures_total", {"upstream": "app", "dependency": "postgres"})
    assert seawall.metrics().has(dependency[0], **dependency[1]), "the counter is there before the first failure"
    assert http1.get(seawall.port, "/orders").json() == {"orders": 42}

    postgres.stop()
    # First the connection that the app still holds breaks, then no new one can be opened.
    answers = [http1.get(seawall.port, "/orders") for _ in range(2)]
    for answer in answers:
        is_replaced(answer, "dependency_failure")
        assert answer.get("x-request-id") in seawall.journal(), "the journal has it under the client's id"
    seawall.process.says("OperationalError")  # What the client does not see.
    assert http1.get(seawall.port, "/ok").status == 200, "a route without the database is well"

    postgres.start()
    assert http1.get(seawall.port, "/orders").json() == {"orders": 42}
    metrics = seawall.metrics()
    assert metrics.total(dependency[0], **dependency[1]) == 2
    assert metrics.by("seawall_failures_total", "kind", outcome="normalized") == {"dependency_failure": 2}
    assert metrics.total("seawall_scrubbed_responses_total", upstream="app") == 2


def test_the_shipped_rules_tell_an_outage_from_a_mistake_by_the_message_alone(
    processes, events, port, postgres, start_seawall
):
    start_app(processes, events, port, postgres, "message")
    shipped = (CONFIG / "dependencies.yaml").read_text()
    seawall = start_seawall(port, more=shipped[shipped.index("\nfailures:") + 1 :])
    assert http1.get(seawall.port, "/orders").json() == {"orders": 42}

    mistake = http1.get(seawall.port, "/mistake")
    assert (mistake.status, mistake.error) == (500, None), "the app means this answer"
    assert mistake.json()["error"].startswith('relation "carts" does not exist')

    postgres.stop()
    for _ in range(2):
        is_replaced(http1.get(seawall.port, "/orders"), "dependency_failure")
    postgres.start()
    assert http1.get(seawall.port, "/orders").json() == {"orders": 42}
    named = seawall.metrics().by("seawall_dependency_failures_total", "dependency")
    assert {name: count for name, count in named.items() if count} == {"postgres": 2}


@pytest.mark.parametrize("errors", ["trace", "debugger"])
def test_without_a_rule_the_trace_is_replaced_all_the_same(errors, processes, events, port, postgres, seawall):
    start_app(processes, events, port, postgres, errors)
    assert http1.get(seawall.port, "/orders").json() == {"orders": 42}
    postgres.stop()
    is_replaced(http1.get(seawall.port, "/orders"), "application_error")
    seawall.failed(1, kind="application_error", outcome="normalized")
    postgres.start()
    assert http1.get(seawall.port, "/orders").json() == {"orders": 42}
