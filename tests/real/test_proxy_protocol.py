"""The PROXY protocol: HAProxy before seawall and behind it, and a Python app that reads it by the letter."""

import asyncio
import contextlib
import socket
import ssl
import time

import pytest

from support import http1
from support.processes import free_port, python_websockets
from support.recorder import Recorder
from support.waiting import until
from support.websocket import open_client

_HAPROXY = """\
global
  stats timeout 10s
defaults
  mode tcp
  timeout connect 5s
  timeout client 20s
  timeout server 20s
{sections}
"""

# What no connection with a header begins with.
_GARBAGE = [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PROXY TCP4 127.0.0.1 127.0.0.1 1\r\n",
    b"PROXY " + b"a" * 200,
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    b"\r\n\r\n\0\r\nQUIT\n\x11\x11\x00\x0c" + bytes(12),
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abc",
]


@pytest.fixture
def haproxy(processes, tmp_path):
    def start(*sections):
        config = tmp_path / "haproxy.cfg"
        config.write_text(_HAPROXY.format(sections="\n".join(sections)))
        return processes.start("haproxy", ["haproxy", "-f", config])

    return start


@pytest.fixture
def app():
    recorder = Recorder()
    yield recorder
    recorder.close()


@pytest.fixture
def proxied_app():
    recorder = Recorder(proxied=True)
    yield recorder
    assert recorder.wrong == []
    recorder.close()


def sender(port, to, how):
    return f"listen to-{port}\n  bind 127.0.0.1:{port}\n  server seawall 127.0.0.1:{to} {how}"


def connect(port, source="127.0.0.1"):
    return socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source, 0))


def get(port, source="127.0.0.1", fields=()):
    with http1.Client(port, connected=connect(port, source)) as client:
        return client.request("GET", "/", fields=fields)


def forwarded(answer):
    assert answer.status == 200, answer
    fields = dict(answer.json()["fields"])
    return fields["x-forwarded-for"], fields["forwarded"].split(";")[0], fields["x-forwarded-proto"]


def test_the_client_behind_haproxy_is_told(app, certificate, haproxy, start_seawall):
    chain, key = certificate
    plain, secure, one, two, three = (free_port() for _ in range(5))
    tls = f"tls: {{ certificates: [{{ chain: {chain}, key: {key} }}] }}"
    more = f', {{ address: "127.0.0.1:{plain}", proxy_protocol: always }}'
    more += f', {{ address: "127.0.0.1:{secure}", proxy_protocol: always, {tls} }}'
    start_seawall(app.port, listeners_more=more)
    process = haproxy(
        sender(one, plain, "send-proxy"),
        sender(two, plain, "send-proxy-v2"),
        # With extensions behind the addresses.
        sender(three, secure, "send-proxy-v2 proxy-v2-options unique-id,crc32c"),
    )
    for port in (one, two, three):
        process.wait_for_port(port)
    # A client is believed nothing, whoever speaks for it.
    forged = ["X-Forwarded-For: 192.0.2.9"]
    for port in (one, two):
        for source in ("127.0.0.2", "127.0.0.3"):
            assert forwarded(get(port, source, forged)) == (source, f"for={source}", "http")
    trust = ssl.create_default_context(cafile=chain)
    with connect(three, "127.0.0.4") as tcp, trust.wrap_socket(tcp, server_hostname="localhost") as session:
        with http1.Client(three, connected=session) as client:
            for _ in range(3):
                answer = client.request("GET", "/")
                assert forwarded(answer) == ("127.0.0.4", "for=127.0.0.4", "https")


def test_only_trusted_proxies_speak_for_others(app, haproxy, start_seawall):
    port, front = free_port(), free_port()
    more = f', {{ address: "127.0.0.1:{port}", proxy_protocol: trusted }}'
    trust = "forwarded: { trusted: [127.0.0.7] }"
    start_seawall(app.port, listeners_more=more, more=trust)
    haproxy(sender(front, port, "send-proxy-v2 source 127.0.0.7")).wait_for_port(front)
    assert forwarded(get(front, "127.0.0.2"))[0] == "127.0.0.2"
    # Everybody else is a client as it is, and a header of theirs is no HTTP.
    assert forwarded(get(port, "127.0.0.3"))[0] == "127.0.0.3"
    with connect(port, "127.0.0.3") as liar:
        liar.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert liar.recv(100).startswith(b"HTTP/1.1 400 ")
    # A trusted proxy may speak for itself, but must say so.
    with connect(port, "127.0.0.7") as trusted:
        trusted.sendall(b"PROXY UNKNOWN\r\n")
        with http1.Client(port, connected=trusted) as client:
            assert forwarded(client.request("GET", "/"))[0] == "127.0.0.7"


def test_what_is_no_header_is_closed_and_counted(app, start_seawall):
    port = free_port()
    more = f', {{ address: "127.0.0.1:{port}", proxy_protocol: always }}'
    limits = "clients: { handshake_timeout: 500ms }"
    seawall = start_seawall(app.port, listeners_more=more, more=limits)

    def refused(count):
        failures = "seawall_client_failures_total"
        what = f"{count} connections without a header"
        seawall.counted(count, lambda metrics: metrics.total(failures, kind="proxy_protocol_error"), what)

    for garbage in _GARBAGE:
        with connect(port) as client:
            client.sendall(garbage)
            with contextlib.suppress(ConnectionResetError):
                assert client.recv(1) == b"", garbage
    refused(len(_GARBAGE))
    # A header that does not end, byte by byte, has as long as a handshake.
    with connect(port) as slow:
        began = time.monotonic()
        slow.sendall(b"PROXY TCP4 127.")
        assert slow.recv(1) == b""
        assert 0.4 < time.monotonic() - began < 10
    refused(len(_GARBAGE) + 1)
    # Who only looks whether somebody listens has done nothing wrong.
    connect(port).close()
    with connect(port) as slow:
        for byte in b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n":
            slow.sendall(bytes([byte]))
        with http1.Client(port, connected=slow) as client:
            assert forwarded(client.request("GET", "/"))[0] == "192.0.2.1"
    refused(len(_GARBAGE) + 1)


def test_connections_are_counted_for_the_client_behind_the_proxy(app, start_seawall):
    port = free_port()
    more = f', {{ address: "127.0.0.1:{port}", proxy_protocol: always }}'
    seawall = start_seawall(app.port, listeners_more=more, more="clients: { per_address: 1 }")
    open_ones = []
    # Two workers: of three connections of one client, one is too many on one of them.
    for client in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        statuses = []
        for number in range(3):
            tcp = connect(port)
            open_ones.append(tcp)
            tcp.sendall(f"PROXY TCP4 {client} 127.0.0.1 {1000 + number} 2\r\n".encode())
            with contextlib.suppress(ConnectionError):
                tcp.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            statuses.append(tcp.recv(12))
        assert set(statuses) <= {b"HTTP/1.1 200", b"HTTP/1.1 503"}
        assert statuses[0] == b"HTTP/1.1 200" and b"HTTP/1.1 503" in statuses, client
    refused = "seawall_client_connections_refused_total"
    until(lambda: seawall.now().total(refused, reason="per_address") >= 3, "they are counted")
    for tcp in open_ones:
        tcp.close()


@pytest.mark.parametrize("version", [1, 2])
def test_an_app_is_told_the_client_of_each_connection(version, proxied_app, start_seawall):
    health = ", health: { path: /health, interval: 200ms, timeout: 60s }"
    seawall = start_seawall(proxied_app.port, upstream_more=f", proxy_protocol: v{version}{health}")
    for source in ("127.0.0.2", "127.0.0.3"):
        with http1.Client(seawall.port, connected=connect(seawall.port, source)) as client:
            port, seen = client.connected.getsockname()[1], []
            for _ in range(3):
                answer = client.request("GET", "/")
                told = answer.json()["proxy"]
                seen.append(answer.json()["connection"])
                expected = {"from": [source, port], "to": ["127.0.0.1", seawall.port]}
                assert told == {"version": version, "family": "TCP4"} | expected
            # What was told cannot be taken back: no connection serves two requests.
            assert len(set(seen)) == 3
    until(lambda: any(record["target"] == "/health" for record in proxied_app.seen), "a health check")
    checks = [record["proxy"] for record in proxied_app.seen if record["target"] == "/health"]
    own = {"version": version, "family": "UNKNOWN" if version == 1 else "LOCAL"}
    assert all(told == own for told in checks), checks


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_haproxy_behind_seawall_understands_it(version, app, haproxy, start_seawall):
    behind = free_port()
    section = f"listen behind\n  mode http\n  option forwardfor header x-seen\n  bind 127.0.0.1:{behind} accept-proxy\n"
    haproxy(f"{section}  server app 127.0.0.1:{app.port}").wait_for_port(behind)
    seawall = start_seawall(behind, upstream_more=f", proxy_protocol: {version}")
    for source in ("127.0.0.2", "127.0.0.3"):
        answer = get(seawall.port, source)
        assert dict(answer.json()["fields"])["x-seen"] == source


def test_the_header_goes_before_tls_and_before_a_websocket(
    app, certificate, events, haproxy, processes, tmp_path, start_seawall
):
    chain, key = certificate
    (tmp_path / "both.pem").write_bytes(chain.read_bytes() + key.read_bytes())
    secure, sockets, ws = free_port(), free_port(), free_port()
    python_websockets(processes, events, ws)
    ssl_section = "listen secure\n  mode http\n  option forwardfor header x-seen\n"
    ssl_section += f"  bind 127.0.0.1:{secure} accept-proxy ssl crt {tmp_path}/both.pem\n"
    ssl_section += f"  server app 127.0.0.1:{app.port}"
    ws_section = f"listen sockets\n  bind 127.0.0.1:{sockets} accept-proxy\n  server ws 127.0.0.1:{ws}"
    haproxy(ssl_section, ws_section).wait_for_port(secure).wait_for_port(sockets)
    seawall = start_seawall(
        f"https://localhost:{secure}", upstream_more=f", proxy_protocol: v2, tls: {{ roots: {chain} }}"
    )
    assert dict(get(seawall.port, "127.0.0.2").json()["fields"])["x-seen"] == "127.0.0.2"

    seawall = start_seawall(sockets, upstream_more=", proxy_protocol: v1")

    async def first():
        async with open_client(seawall.websocket("/")) as client:
            await client.send("me")
            return await asyncio.wait_for(client.recv(), 20)

    assert asyncio.run(first()) == b"me:0"


def test_what_a_proxy_tells_is_told_on(proxied_app, start_seawall):
    port = free_port()
    more = f', {{ address: "127.0.0.1:{port}", proxy_protocol: always }}'
    start_seawall(proxied_app.port, listeners_more=more, upstream_more=", proxy_protocol: v2")
    with connect(port) as tcp:
        tcp.sendall(b"PROXY TCP6 2001:db8::1 2001:db8::2 5000 443\r\n")
        with http1.Client(port, connected=tcp) as client:
            told = client.request("GET", "/").json()["proxy"]
    expected = {"from": ["2001:db8::1", 5000], "to": ["2001:db8::2", 443]}
    assert told == {"version": 2, "family": "TCP6"} | expected
