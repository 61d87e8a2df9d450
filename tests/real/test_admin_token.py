"""The operators' listener outside of loopback: a token, and nothing of it anywhere."""

import json
import subprocess

from support import http1
from support.processes import free_port
from support.seawall import BINARY
from support.waiting import until

_TOKEN = "correct-horse-battery-staple"
_CONFIG = """\
workers: 1
listeners: [{{ address: "127.0.0.1:{port}" }}]
admin: {{ address: "{admin}"{more} }}
log: {{ filter: trace }}
upstreams: {{ app: {{ endpoints: ["http://127.0.0.1:1"] }} }}
routes: [{{ upstream: app }}]
"""


def configure(directory, admin, more=""):
    config, port = directory / "seawall.yaml", free_port()
    config.write_text(_CONFIG.format(port=port, admin=admin, more=more))
    return config


def check(config):
    done = subprocess.run([BINARY, "check", "-c", config], capture_output=True, timeout=20)
    return done.returncode, (done.stdout + done.stderr).decode()


def test_without_a_token_it_stays_on_loopback(tmp_path):
    for address in ("0.0.0.0:9900", ":9900", "[::]:9900", "192.0.2.1:9900", "[::ffff:192.0.2.1]:9900"):
        code, text = check(configure(tmp_path, address))
        assert code == 1 and "open to others than this machine and has no token" in text, address
    for address in ("127.0.0.1:9900", "127.9.9.9:9900", "[::1]:9900", "localhost:9900", "off"):
        assert check(configure(tmp_path, address))[0] == 0, address


def test_with_a_token_only_the_probes_and_the_empty_page_answer_everybody(processes, tmp_path):
    (tmp_path / "token").write_text(_TOKEN + "\n")
    port = free_port()
    config = configure(tmp_path, f"0.0.0.0:{port}", ", token_file: token")
    process = processes.start("seawall", [BINARY, "-c", config]).wait_for_port(port)
    until(lambda: http1.get(port, "/readyz").status == 200, "ready")
    assert http1.get(port, "/livez").status == 200
    bearer = [f"Authorization: Bearer {_TOKEN}"]
    for path in ("/status.json", "/metrics", "/failures", "/config", "/nothing"):
        for fields in ([], ["Authorization: Bearer wrong"], [f"Authorization: Basic {_TOKEN}"], bearer * 2):
            answer = http1.get(port, path, fields)
            assert (answer.status, answer.get("www-authenticate")) == (401, 'Bearer realm="seawall"'), path
            assert b"seawall_" not in answer.content
        assert http1.get(port, path, bearer).status != 401
    drain = "/endpoints/drain?upstream=app&endpoint=http://127.0.0.1:1"
    assert http1.post(port, drain).status == 401
    assert http1.post(port, drain, fields=bearer).status == 200
    config = http1.get(port, "/config", bearer)
    assert json.loads(config.content)["admin"]["token"] == "set"
    assert process.terminate() == 0
    for text in (config.content.decode(), process.text()):
        assert _TOKEN not in text
