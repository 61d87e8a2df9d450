"""A whole new configuration, by SIGHUP, for listeners whose clients are connected over TLS."""

import os
import signal

from support import http1
from support.authority import replace
from support.processes import free_port
from support.seawall import BINARY
from support.waiting import until
from test_tls import app, authority, client, context, serial  # noqa: F401  (two of these are fixtures)

_CONFIG = """\
workers: 2
listeners:
  - {{ address: "127.0.0.1:{plain}"{of_plain} }}
  - {{ address: "127.0.0.1:{secure}", tls: {{ certificates: [{{ chain: {pair[0]}, key: {pair[1]} }}]{of_tls} }} }}
admin: {{ address: "127.0.0.1:{admin}" }}
upstreams: {{ app: {{ endpoints: ["http://127.0.0.1:{app}"] }} }}
routes: [{{ upstream: app }}]
"""


def test_certificates_policy_and_redirect_follow_the_file_and_sessions_go_on(app, authority, processes, tmp_path):  # noqa: F811
    ports = {"plain": free_port(), "secure": free_port(), "admin": free_port(), "app": app.port}
    config, secure = tmp_path / "seawall.yaml", ports["secure"]
    old, new = (authority.sign(f"/CN={name}", ["shop.example"]) for name in ("old", "new"))

    def write(pair, of_tls="", of_plain=""):
        config.write_text(_CONFIG.format(pair=pair, of_tls=of_tls, of_plain=of_plain, **ports))

    write(old)
    process = processes.start("seawall", [BINARY, "-c", config]).wait_for_port(secure)
    tls = context(authority.roots)
    first = serial(secure, tls)
    with client(secure, tls) as early:
        assert early.request("GET", "/").status == 200
        session = early.connected.session
        write(new, ", hsts: { max_age: 1h }", ", redirect: {}")
        os.kill(process.pid, signal.SIGHUP)
        until(lambda: serial(secure, tls) != first, "the new certificate is shown")
        assert early.request("GET", "/").status == 200
        with client(secure, tls, session=session) as again:
            answer = again.request("GET", "/")
            assert (answer.status, again.connected.session_reused) == (200, True)
            assert answer.get("strict-transport-security") == "max-age=3600"
    assert http1.get(ports["plain"], "/").status == 308
    text = http1.operate(ports["admin"], "/metrics").content.decode()
    ends = [line for line in text.splitlines() if line.startswith("seawall_certificate_expiry")]
    assert len(ends) == 1 and str(new[0]) in ends[0], ends
    # The new files are looked after from now on.
    second = serial(secure, tls)
    write(new, ", reload: 100ms")
    os.kill(process.pid, signal.SIGHUP)
    until(lambda: http1.get(ports["plain"], "/").status == 200, "nobody is sent on any more")
    replace(authority.sign("/CN=newer", ["shop.example"]), new)
    until(lambda: serial(secure, tls) != second, "the renewed certificate is shown")
    assert process.terminate() == 0
