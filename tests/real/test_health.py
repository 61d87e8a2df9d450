"""Health checks that speak what real servers speak: WebSockets of three servers, gRPC's own health protocol."""

import signal
import sys

import grpc
import pytest

from support import http1
from support.processes import APPS, node_ws, python_websockets, uvicorn
from support.waiting import until

_OFTEN = "interval: 100ms, timeout: 60s, healthy: 1, unhealthy: 1"
SERVERS = {"websockets": python_websockets, "uvicorn": uvicorn, "node": node_ws}


def _up(seawall):
    return seawall.now().total("seawall_endpoint_up")


def _checks(seawall, result):
    return seawall.now().total("seawall_health_checks_total", result=result)


@pytest.mark.parametrize("server", SERVERS)
def test_a_websocket_server_passes_its_checks_while_it_runs(server, processes, events, port, start_seawall):
    start = SERVERS[server]
    running = start(processes, events, port)
    health = f", health: {{ websocket: /, initial: unhealthy, {_OFTEN} }}"
    seawall = start_seawall(port, upstream_more=health)
    until(lambda: _checks(seawall, "ok") >= 5, "it is asked again and again")
    assert (_up(seawall), _checks(seawall, "failed")) == (1, 0)
    running.kill()
    until(lambda: _up(seawall) == 0, "it is out")
    assert http1.get(seawall.port, "/").error == "destination_unavailable"
    # The sessions of the checks were ordinary ones: no server has missed a Close.
    assert "ConnectionClosedError" not in running.text() and "1006" not in running.text(), running.text()
    start(processes, events, port)
    until(lambda: _up(seawall) == 1, "it is in again")


@pytest.fixture
def grpc_server(processes, events, port):
    argv = [sys.executable, APPS / "grpc_health_server.py", port]
    return processes.start("grpc", argv, events.env()).wait_for_port(port)


@pytest.mark.parametrize("service", ["", ", service: shop.v1.Cart"])
def test_a_grpc_server_gets_calls_exactly_while_it_says_that_it_serves(service, grpc_server, port, start_seawall):
    health = f", protocol: http2, health: {{ grpc: true{service}, {_OFTEN} }}, slow_start: 0s"
    seawall = start_seawall(port, upstream_more=health)
    with grpc.insecure_channel(f"127.0.0.1:{seawall.port}") as channel:

        def call():
            return channel.unary_unary("/test.App/Echo")(b"hello", timeout=20)

        until(lambda: _checks(seawall, "ok") >= 2, "it is asked")
        assert call() == b"hello"
        grpc_server.child.send_signal(signal.SIGUSR1)
        until(lambda: _up(seawall) == 0, "it is out")
        with pytest.raises(grpc.RpcError) as raised:
            call()
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
        assert raised.value.details() == "destination_unavailable"
        grpc_server.child.send_signal(signal.SIGUSR2)
        until(lambda: _up(seawall) == 1, "it is in again")
        assert call() == b"hello"


def test_a_grpc_service_that_the_server_does_not_know_is_not_well(grpc_server, port, start_seawall):
    health = f", protocol: http2, health: {{ grpc: true, service: shop.v1.Other, {_OFTEN} }}"
    seawall = start_seawall(port, upstream_more=health)
    until(lambda: _up(seawall) == 0, "it is out")
    seawall.process.says("grpc-status 5")  # NOT_FOUND
