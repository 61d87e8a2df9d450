"""Three app processes, some of them SIGKILLed under steady load: what clients and operators see of it."""

import time

import pytest

from support import http1
from support.load import Load
from support.processes import free_port, uvicorn
from support.waiting import until

# Short times, so that a test sees an ejection end.
_EJECTION = ", ejection: { base: 1s, max: 1s }, slow_start: 1s"
_HEALTH = ", health: { path: /, status: [200-499], interval: 200ms, timeout: 10s, unhealthy: 2, healthy: 1 }"

# Less than any wait that there is, and more than a busy machine takes for the quickest of many.
_AT_ONCE = 0.2


@pytest.fixture
def ports():
    return [free_port() for _ in range(3)]


def _up(seawall, port):
    return seawall.now().total("seawall_endpoint_up", endpoint=f"http://127.0.0.1:{port}")


def _connects(seawall, port, result):
    endpoint = f"http://127.0.0.1:{port}"
    return seawall.now().total("seawall_connects_total", endpoint=endpoint, result=result)


def test_one_of_three_is_killed_under_load_and_no_client_sees_it(processes, events, ports, start_seawall):
    apps = {port: uvicorn(processes, events, port) for port in ports}
    seawall = start_seawall(ports, upstream_more=_EJECTION)
    victim = ports[1]
    with Load(seawall.port) as load:
        load.more(100)
        apps[victim].kill()
        ejections = "seawall_endpoint_ejections_total"
        until(lambda: seawall.now().total(ejections) > 0, "the dead one is ejected")
        until(lambda: _up(seawall, victim) == 0, "it is out, now or the next time")
        began, before = time.monotonic(), _connects(seawall, victim, "failed")
        load.more(600)
        attempts = _connects(seawall, victim, "failed") - before
        seconds = time.monotonic() - began
        # One a second, and one that was on its way on each worker.
        assert attempts <= seconds + 2, f"{attempts} attempts in {seconds:.1f} s"
        load.is_well()

        connected = _connects(seawall, victim, "ok")
        uvicorn(processes, events, victim)
        until(lambda: _connects(seawall, victim, "ok") > connected, "it gets requests again")
        until(lambda: _up(seawall, victim) == 1, "it is up again")
        load.more(100)
    load.is_well()
    failures = seawall.metrics().by("seawall_failures_total", "outcome")
    assert set(failures) == {"recovered"}, failures


def test_all_three_are_killed_and_the_first_that_comes_back_serves(processes, events, ports, start_seawall):
    apps = [uvicorn(processes, events, port) for port in ports]
    seawall = start_seawall(ports, upstream_more=_EJECTION)
    assert http1.get(seawall.port, "/").status == 200
    for app in apps:
        app.kill()
    answers = _timed(seawall, 20)
    assert {answer.error for _, answer in answers} == {"connection_refused"}
    assert min(seconds for seconds, _ in answers) < _AT_ONCE
    uvicorn(processes, events, ports[2])
    until(lambda: http1.get(seawall.port, "/").status == 200, "one is found that is well")
    # It serves nearly everything now, whatever the other two do.
    with Load(seawall.port) as load:
        load.more(100)
    assert load.statuses.count(200) >= 0.9 * len(load.statuses), load.statuses


def test_when_health_checks_find_nobody_the_answer_comes_at_once(processes, events, ports, start_seawall):
    apps = [uvicorn(processes, events, port) for port in ports]
    seawall = start_seawall(ports, upstream_more=_HEALTH + ", slow_start: 1s")
    assert http1.get(seawall.port, "/").status == 200
    for app in apps:
        app.kill()
    until(lambda: not any(_up(seawall, port) for port in ports), "all fail their checks")
    attempts = [_connects(seawall, port, "failed") for port in ports]
    answers = _timed(seawall, 50)
    assert {(answer.status, answer.error) for _, answer in answers} == {(500, "destination_unavailable")}
    assert all(int(answer.get("retry-after")) >= 1 for _, answer in answers)
    assert min(seconds for seconds, _ in answers) < _AT_ONCE
    assert [_connects(seawall, port, "failed") for port in ports] == attempts, "nobody is asked for a client"
    uvicorn(processes, events, ports[0])
    until(lambda: _up(seawall, ports[0]) == 1, "it passes its checks")
    with Load(seawall.port) as load:
        load.more(100)
    load.is_well()


def _timed(seawall, count):
    """So many answers, each with the seconds that it took."""
    answers = []
    with http1.Client(seawall.port) as client:
        for _ in range(count):
            began = time.perf_counter()
            answer = client.request("GET", "/")
            answers.append((time.perf_counter() - began, answer))
    return answers


def test_an_app_that_is_dead_is_left_alone_until_it_is_back(processes, events, port, start_seawall):
    app = uvicorn(processes, events, port)
    circuit = ", circuit: { consecutive_failures: 3, open: 1s, max: 1s, probes: 2 }"
    seawall = start_seawall(port, upstream_more=circuit)
    assert http1.get(seawall.port, "/").status == 200
    app.kill()
    until(lambda: http1.get(seawall.port, "/").error == "destination_unavailable", "the circuit opens")
    assert seawall.metrics().total("seawall_circuit_state") == 2
    attempts = _connects(seawall, port, "failed")
    answers = _timed(seawall, 50)
    assert {(answer.status, answer.error) for _, answer in answers} == {(500, "destination_unavailable")}
    assert min(seconds for seconds, _ in answers) < _AT_ONCE
    assert len({answer.get("retry-after") for _, answer in answers}) > 1, "clients shall not come back together"
    assert _connects(seawall, port, "failed") <= attempts + 2, "two probes at most"
    uvicorn(processes, events, port)
    until(lambda: http1.get(seawall.port, "/").status == 200, "it is tried again")
    assert http1.get(seawall.port, "/").status == 200, "the second probe"
    assert seawall.metrics().total("seawall_circuit_state") == 0
    with Load(seawall.port) as load:
        load.more(100)
    load.is_well()
