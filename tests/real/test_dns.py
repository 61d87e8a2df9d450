"""Endpoints from a real DNS server whose answers change, vanish, time out or fail, in front of real apps."""

import asyncio
import ipaddress
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus

from support import http1
from support.dns import HELD, NONSENSE, SILENCE, DnsServer
from support.load import Load
from support.processes import Events, Processes, free_port, python_websockets, uvicorn
from support.waiting import until
from support.websocket import all_to_end, open_client, open_many

# All of 127.0.0.0/8 is loopback: each app has an address of its own there, and all have the same port.
FIRST, SECOND, THIRD, SIXTH = "127.0.0.2", "127.0.0.3", "127.0.0.4", "::1"
APPS = (FIRST, SECOND, THIRD, SIXTH)
NAME = "app.test"
# Short, so that a test sees many questions. A record's TTL of 0 makes the least time count.
_OFTEN = {"min_ttl": "100ms", "max_ttl": "200ms"}
_IMPATIENT = ", timeouts: { resolve: 400ms }"
# What becomes of the answers, and what a client is told who can be sent nowhere.
TROUBLES = {
    SILENCE: "dns_timeout",
    NONSENSE: "dns_error",
    "NXDOMAIN": "dns_error",
    "SERVFAIL": "dns_error",
    "empty answers": "dns_error",
}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """One app at each address, for all tests of this file: none of them does its apps any harm."""
    directory = tmp_path_factory.mktemp("fleet")
    processes, events, port = Processes(directory), Events(directory), free_port()
    try:
        for host in APPS:
            uvicorn(processes, events, port, host)
        yield events, port
    finally:
        processes.end()


@pytest.fixture
def dns():
    server = DnsServer()
    yield server
    server.close()


@pytest.fixture
def second_dns():
    server = DnsServer()
    yield server
    server.close()


@pytest.fixture
def discover(fleet, dns, start_seawall):
    """Starts a seawall that finds its endpoints by DNS."""

    def start(name=NAME, upstream_more="", port=fleet[1], **settings):
        where = {"name": f"http://{name}:{port}", "servers": [f"127.0.0.1:{dns.port}"], **_OFTEN, **settings}
        return start_seawall({"dns": where}, upstream_more=upstream_more)

    return start


def _break(dns, how):
    if how == "empty answers":
        dns.set(NAME, "TXT", "the name is there, and has no address")
        dns.set(NAME, "A")
    else:
        dns.fail(NAME, how)


def _served(seawall, count=12):
    """Who answers so many requests, by address."""
    seen = Counter()
    with http1.Client(seawall.port) as client:
        for _ in range(count):
            answer = client.request("GET", "/where")
            assert (answer.status, answer.complete) == (200, True)
            seen[answer.content.decode()] += 1
    return seen


def _serve(seawall, *hosts, port):
    """Waits until exactly these serve."""
    expected = {f"{host} {port}" for host in hosts}
    until(lambda: set(_served(seawall)) == expected, f"{expected} serve")


def _label(host, port):
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _endpoints(seawall):
    """The endpoints that /metrics knows, by every family that names endpoints."""
    return {labels["endpoint"] for _, labels, _ in seawall.now().samples if "endpoint" in labels}


def _connected_to(host, port):
    """How many connections of this machine lead there and are open at the near end (proc_pid_net(5))."""
    number = int.from_bytes(ipaddress.ip_address(host).packed, "little")
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(remote == f"{number:08X}:{port:04X}" and state == "01" for _, _, remote, state, *_ in lines)


def _lookups(seawall, result):
    return seawall.now().total("seawall_dns_lookups_total", result=result)


def _more_lookups(seawall, result, count=2):
    goal = _lookups(seawall, result) + count
    until(lambda: _lookups(seawall, result) >= goal, f"{count} more lookups: {result}")


def test_addresses_that_come_get_requests_and_those_that_go_get_none(dns, fleet, discover):
    _, port = fleet
    dns.set(NAME, "A", FIRST, SECOND)
    seawall = discover()
    _serve(seawall, FIRST, SECOND, port=port)
    with Load(seawall.port) as load:
        load.more(50)
        connected = seawall.now().total("seawall_connects_total", endpoint=_label(SECOND, port))
        dns.set(NAME, "A", SECOND, THIRD)
        _serve(seawall, SECOND, THIRD, port=port)
        load.more(100)
        assert set(_served(seawall, 50)) == {f"{SECOND} {port}", f"{THIRD} {port}"}
        assert _endpoints(seawall) == {_label(SECOND, port), _label(THIRD, port)}, "its series end with it"
        after = seawall.now().total("seawall_connects_total", endpoint=_label(SECOND, port))
        assert after >= connected > 0, "who stays is not a new endpoint"

        dns.set(NAME, "A", THIRD)
        _serve(seawall, THIRD, port=port)
        load.more(100)
        assert _endpoints(seawall) == {_label(THIRD, port)}
        until(lambda: not _connected_to(FIRST, port), "idle connections are closed as well")
        assert _connected_to(THIRD, port) > 0

        dns.set(NAME, "A", FIRST, SECOND, THIRD)
        _serve(seawall, FIRST, SECOND, THIRD, port=port)
        load.more(100)
    load.is_well()
    assert _endpoints(seawall) == {_label(host, port) for host in (FIRST, SECOND, THIRD)}
    assert _lookups(seawall, "failed") == 0
    seawall.failed(0)


def test_who_goes_finishes_its_requests_and_its_websockets_are_sent_away_with_1012(dns, fleet, discover):
    events, port = fleet
    dns.set(NAME, "A", FIRST)
    seawall = discover()

    async def go(pool):
        leaving = await open_many(seawall.websocket("/messages"), 5)
        asked = [pool.submit(http1.post, seawall.port, "/hang") for _ in range(2)]
        asked.append(pool.submit(http1.get, seawall.port, "/stream"))
        await asyncio.to_thread(events.wait, "hangs", 2)
        await asyncio.to_thread(events.wait, "stopped")
        await asyncio.to_thread(events.wait, "sent", 5)
        dns.set(NAME, "A", SECOND)
        await asyncio.to_thread(_serve, seawall, SECOND, port=port)
        sessions = await all_to_end(leaving)

        # Those who are not meant by a change do not notice it.
        async with open_client(seawall.websocket("/messages")) as staying:
            await staying.send("staying")
            messages = [await staying.recv() for _ in range(20)]
            dns.set(NAME, "A", SECOND, THIRD)
            await asyncio.to_thread(_serve, seawall, SECOND, THIRD, port=port)
            await staying.send("still there?")
            messages.append(await staying.recv())
        assert not any(future.done() for future in asked), "the requests are still in flight"
        events.open_gate()
        return sessions, messages, [await asyncio.wrap_future(future) for future in asked]

    with ThreadPoolExecutor(3) as pool:
        sessions, messages, answers = asyncio.run(go(pool))
    for who, session in enumerate(sessions):
        assert session.messages == [f"{who}:{number}" for number in range(20)]
        assert (session.code, session.clean) == (1012, True)
    assert messages[-1] == "still there?"
    contents = [(answer.status, answer.complete, answer.content) for answer in answers]
    assert contents == [(200, True, b"after all")] * 2 + [(200, True, b"x" * 3000)]
    seawall.counted(
        (0, {"1000": 1, "1012": 5}, {_label(SECOND, port), _label(THIRD, port)}),
        lambda metrics: (
            metrics.total("seawall_failures_total"),
            metrics.by("seawall_websocket_closes_total", "code"),
            set(metrics.by("seawall_endpoint_up", "endpoint")),
        ),
        "no failure, and each WebSocket's close",
    )


def test_it_is_asked_again_when_the_ttl_says_so_within_its_bounds(dns, discover):
    # What would be wrong takes half a minute.
    wide = {"min_ttl": "100ms", "max_ttl": "30s"}
    bounds = {
        "none.test": (0.5, {"min_ttl": "500ms", "max_ttl": "30s"}),
        "one.test": (1.0, wide),
        "alias.test": (1.0, wide),
        "day.test": (1.2, {"min_ttl": "100ms", "max_ttl": "1200ms"}),
    }
    dns.set("none.test", "A", FIRST, ttl=0)
    dns.set("one.test", "A", FIRST, ttl=1)
    dns.set("day.test", "A", FIRST, ttl=86_400)
    # The shortest of an answer counts, be it the alias's.
    dns.set("alias.test", "CNAME", "pods.test", ttl=1)
    dns.set("pods.test", "A", FIRST, ttl=86_400)
    for name, (_, settings) in bounds.items():
        discover(name, upstream_more=", timeouts: { resolve: 10s }", **settings)
    until(lambda: all(len(dns.asked(name, "A")) >= 3 for name in bounds), "each is asked for three times")
    # A tenth more, so that not all seawalls ask together; and what a busy machine adds.
    for name, (wait, _) in bounds.items():
        times = [question.time for question in dns.asked(name, "A")]
        waits = [later - earlier for earlier, later in zip(times, times[1:])]
        assert all(wait <= seen < wait * 1.1 + 2 for seen in waits), (name, waits)


@pytest.mark.parametrize("how", TROUBLES)
def test_while_it_has_no_answer_the_last_good_one_is_kept(how, dns, fleet, discover):
    _, port = fleet
    dns.set(NAME, "A", FIRST, SECOND)
    seawall = discover(upstream_more=_IMPATIENT)
    _serve(seawall, FIRST, SECOND, port=port)
    with Load(seawall.port) as load:
        _break(dns, how)
        _more_lookups(seawall, "failed")
        load.more(50)
        assert set(_served(seawall)) == {f"{FIRST} {port}", f"{SECOND} {port}"}
        dns.fail(NAME, None)
        dns.set(NAME, "A", SECOND, THIRD)
        _serve(seawall, SECOND, THIRD, port=port)
    load.is_well()
    seawall.failed(0)


@pytest.mark.parametrize("how", TROUBLES)
def test_a_name_that_never_had_an_answer_is_an_error_of_dns_until_it_has_one(how, dns, fleet, discover):
    _, port = fleet
    error = TROUBLES[how]
    _break(dns, how)
    # Only silence takes all of the time: a busy machine must not turn another trouble into it.
    seawall = discover(upstream_more=_IMPATIENT if how == SILENCE else "")
    answers = [http1.get(seawall.port, "/") for _ in range(3)]
    assert [(answer.status, answer.error) for answer in answers] == [(500, error)] * 3
    assert all(answer.get("proxy-status").startswith("seawall;") for answer in answers)

    async def shake_hands():
        with pytest.raises(InvalidStatus) as refused:
            await open_client(seawall.websocket("/"))
        return refused.value.response.status_code

    assert asyncio.run(shake_hands()) == 500
    seawall.failed(4, kind=error, phase="resolve")
    seawall.failed(4)
    dns.fail(NAME, None)
    dns.set(NAME, "A", FIRST)
    until(lambda: http1.get(seawall.port, "/").status == 200, "it is found")


def test_a_request_that_comes_before_the_first_answer_waits_for_it(dns, fleet, discover):
    dns.fail(NAME, HELD)
    dns.set(NAME, "A", FIRST)
    seawall = discover(upstream_more=", timeouts: { resolve: 20s }")
    with http1.Client(seawall.port) as client:
        client.send("GET", "/where")
        in_flight = "seawall_requests_in_flight"
        until(lambda: dns.asked(NAME) and seawall.now().total(in_flight) == 1, "it waits")
        dns.fail(NAME, None)
        answer = client.rest(client.head())
    assert (answer.status, answer.content.decode()) == (200, f"{FIRST} {fleet[1]}")
    assert _lookups(seawall, "failed") == 0
    seawall.failed(0)


@pytest.mark.parametrize("how", ["silent", "down", "SERVFAIL"])
def test_a_second_server_answers_for_one_that_does_not(how, dns, second_dns, fleet, discover):
    _, port = fleet
    if how == "down":
        dns.close()
    else:
        dns.fail(NAME, SILENCE if how == "silent" else how)
    second_dns.set(NAME, "A", FIRST)
    seawall = discover(servers=[f"127.0.0.1:{server.port}" for server in (dns, second_dns)])
    _serve(seawall, FIRST, port=port)
    second_dns.set(NAME, "A", SECOND)
    _serve(seawall, SECOND, port=port)
    assert _lookups(seawall, "failed") == 0
    seawall.failed(0)


def test_health_checks_follow_the_addresses(dns, fleet, discover):
    _, port = fleet
    often = "path: /, interval: 100ms, timeout: 60s, initial: unhealthy, healthy: 1, unhealthy: 1"
    dns.set(NAME, "A", FIRST)
    seawall = discover(upstream_more=f", health: {{ {often} }}, slow_start: 0s")

    def up():
        return seawall.now().by("seawall_endpoint_up", "endpoint")

    until(lambda: up() == {_label(FIRST, port): 1}, "it passes its checks")
    # Nobody listens at the second one.
    dns.set(NAME, "A", SECOND, "127.0.0.99")
    failed = {"endpoint": _label("127.0.0.99", port), "result": "failed"}
    until(lambda: seawall.now().total("seawall_health_checks_total", **failed) >= 2, "it fails its checks")
    until(lambda: up() == {_label(SECOND, port): 1}, "only one is up")
    assert seawall.metrics().has("seawall_endpoint_up", endpoint=_label("127.0.0.99", port))
    assert set(_served(seawall)) == {f"{SECOND} {port}"}
    assert _endpoints(seawall) == {_label(SECOND, port), _label("127.0.0.99", port)}
    seawall.failed(0)


def test_srv_says_the_ports_the_weights_and_who_comes_first(dns, processes, events, port, fleet, discover):
    service = "_http._tcp.app.test"
    ports = (fleet[1], port, fleet[1])
    uvicorn(processes, events, port, SECOND)
    for name, host in zip("abc", (FIRST, SECOND, THIRD)):
        dns.set(f"{name}.test", "A", host)
    heavy, light, spare = (
        f"10 3000 {ports[0]} a.test",
        f"10 1000 {ports[1]} b.test",
        f"20 9000 {ports[2]} c.test",
    )
    dns.set(service, "SRV", spare, light, heavy)
    # The port of the name means nothing here.
    seawall = discover(service, port=free_port(), records="srv")
    seen = _served(seawall, 400)
    assert set(seen) == {f"{FIRST} {ports[0]}", f"{SECOND} {ports[1]}"}, "those of the lowest priority number"
    assert 260 < seen[f"{FIRST} {ports[0]}"] < 340, f"three quarters: {seen}"

    # Another port is another endpoint.
    dns.set(service, "SRV", spare, light)
    until(lambda: set(_served(seawall)) == {f"{SECOND} {ports[1]}"}, "one of the two is left")
    dns.set(service, "SRV", spare)
    until(lambda: set(_served(seawall)) == {f"{THIRD} {ports[2]}"}, "the spare one serves")
    assert _endpoints(seawall) == {_label(THIRD, ports[2])}
    # RFC 2782: a target of "." says that the service is decidedly not there. Nobody is sent away for that.
    dns.set(service, "SRV", "0 0 0 .")
    _more_lookups(seawall, "failed")
    assert set(_served(seawall)) == {f"{THIRD} {ports[2]}"}
    seawall.failed(0)


def test_an_answer_too_long_for_udp_is_asked_for_over_tcp(dns, processes, events, discover):
    # 16 bytes each, and more than any offer of EDNS that resolvers make by themselves.
    hosts = [f"127.0.1.{number}" for number in range(1, 251)] + [f"127.0.2.{number}" for number in range(1, 51)]
    port = free_port()
    python_websockets(processes, events, port, hosts)
    dns.set(NAME, "A", *hosts)
    seawall = discover(port=port)
    until(lambda: http1.get(seawall.port, "/").status == 200, "it is found")
    assert dns.asked(NAME, "A", "udp") and dns.asked(NAME, "A", "tcp")
    up = seawall.metrics().by("seawall_endpoint_up", "endpoint")
    assert up == {_label(host, port): 1 for host in hosts}
    with http1.Client(seawall.port) as client:
        assert {client.request("GET", "/").status for _ in range(len(hosts))} == {200}
    seawall.failed(0)


def test_both_families_serve_and_one_of_them_is_enough(dns, fleet, discover):
    _, port = fleet
    dns.set(NAME, "AAAA", SIXTH)
    seawall = discover()
    _serve(seawall, SIXTH, port=port)
    assert _endpoints(seawall) == {_label(SIXTH, port)}
    dns.set(NAME, "A", FIRST)
    _serve(seawall, SIXTH, FIRST, port=port)
    dns.set(NAME, "AAAA")
    _serve(seawall, FIRST, port=port)
    assert _lookups(seawall, "failed") == 0
    seawall.failed(0)


@pytest.mark.parametrize("how", ["SERVFAIL", SILENCE, NONSENSE])
def test_a_family_whose_question_fails_keeps_its_last_good_answer(how, dns, fleet, discover):
    _, port = fleet
    dns.set(NAME, "A", FIRST)
    dns.set(NAME, "AAAA", SIXTH)
    seawall = discover(upstream_more=_IMPATIENT)
    _serve(seawall, FIRST, SIXTH, port=port)
    dns.fail(NAME, how, "A")
    asked = len(dns.asked(NAME, "A"))
    seen = set()

    def asked_often():
        seen.add(frozenset(_endpoints(seawall)))
        return len(dns.asked(NAME, "A")) >= asked + 20

    until(asked_often, "it is asked again and again")
    assert seen == {frozenset({_label(FIRST, port), _label(SIXTH, port)})}
    assert set(_served(seawall)) == {f"{FIRST} {port}", f"{SIXTH} {port}"}


@pytest.mark.parametrize("how", ["SERVFAIL", SILENCE, NONSENSE])
def test_a_family_that_is_never_answered_does_not_keep_the_other_one_from_serving(how, dns, fleet, discover):
    """Some resolvers do not know AAAA, and say nothing to it (RFC 4074)."""
    _, port = fleet
    dns.set(NAME, "A", FIRST)
    dns.fail(NAME, how, "AAAA")
    seawall = discover(upstream_more=_IMPATIENT)
    _serve(seawall, FIRST, port=port)
    dns.set(NAME, "A", SECOND)
    _serve(seawall, SECOND, port=port)


def test_a_target_of_srv_without_an_address_does_not_keep_the_others_from_serving(dns, fleet, discover):
    _, port = fleet
    dns.set("a.test", "A", FIRST)
    dns.set("_http._tcp.app.test", "SRV", f"1 1 {port} a.test", f"1 1 {port} gone.test")
    seawall = discover("_http._tcp.app.test", records="srv")
    _serve(seawall, FIRST, port=port)
    dns.set("b.test", "A", SECOND)
    dns.set("_http._tcp.app.test", "SRV", f"1 1 {port} b.test", f"1 1 {port} gone.test")
    _serve(seawall, SECOND, port=port)
