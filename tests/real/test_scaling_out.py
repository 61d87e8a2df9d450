"""Many instances: what docs/scaling-out.md says of seawalls that know nothing of each other."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from support import http1
from support.processes import free_port

KEYS = [f"client-{number}" for number in range(60)]


@pytest.fixture
def fleet():
    """Four small apps, each of which answers with its own port."""

    class Named(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_GET(self):  # noqa: N802
            content = str(self.server.server_port).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    servers = [ThreadingHTTPServer(("127.0.0.1", free_port()), Named) for _ in range(4)]
    for server in servers:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield [server.server_port for server in servers]
    for server in servers:
        server.shutdown()
        server.server_close()


def _homes(seawall):
    """Which endpoint each key goes to."""
    answers = {key: http1.get(seawall.port, "/", [f"Cookie: session={key}"]) for key in KEYS}
    assert all(answer.status == 200 for answer in answers.values())
    return {key: answer.content for key, answer in answers.items()}


def test_instances_send_the_same_client_to_the_same_endpoint_and_so_after_a_restart(fleet, start_seawall):
    by_cookie = ", balance: hash, hash: { cookie: session }"
    first, second = (start_seawall(fleet, upstream_more=by_cookie) for _ in range(2))
    homes = _homes(first)
    assert len(set(homes.values())) == len(fleet), "every endpoint has some of the clients"
    assert _homes(second) == homes
    first.stop()
    assert _homes(start_seawall(fleet, upstream_more=by_cookie)) == homes


def test_clients_of_an_endpoint_that_is_drained_move_and_hardly_any_others(fleet, start_seawall):
    seawall = start_seawall(fleet, upstream_more=", balance: hash, hash: { cookie: session }")
    before, gone = _homes(seawall), fleet[0]
    path = f"/endpoints/drain?upstream=app&endpoint=http://127.0.0.1:{gone}"
    assert http1.operate(seawall.admin, path, "POST", ["Seawall-Admin: 1"]).status == 200
    after = _homes(seawall)
    assert str(gone).encode() not in after.values()
    moved = [key for key in KEYS if before[key] != after[key] and before[key] != str(gone).encode()]
    assert moved == []
