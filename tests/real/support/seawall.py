"""The release binary, started as a user starts it: `seawall -c FILE`."""

import json
import os
import sys
from pathlib import Path

from . import http1
from .metrics import Metrics
from .processes import free_port
from .waiting import until

BINARY = Path(os.environ.get("SEAWALL_BIN") or Path(__file__).parents[3] / "target/release/seawall")

_CONFIG = """\
workers: 2
listeners: [{{ address: "127.0.0.1:{port}" }}{listeners_more}]
admin: {{ address: "127.0.0.1:{admin}" }}
upstreams:
  app: {{ {endpoints}{upstream_more} }}
routes: [{{ upstream: app }}]
shutdown: {{ drain: {drain} }}
{more}
"""


class Seawall:
    """A running seawall with one upstream `app`, its admin listener and its log.

    `upstream` is its endpoint, or a list of them: a port of 127.0.0.1, or a URL.
    `inherits` are listening sockets that it is started with, as by systemd; `port` is where it listens.
    `more`, `listeners_more` and `upstream_more` are appended to the file, its listeners, and the upstream.
    A dict as `upstream` says where the endpoints are in other words: {"dns": …}.
    """

    def __init__(
        self,
        processes,
        directory,
        upstream,
        drain="2s",
        more="",
        listeners_more="",
        upstream_more="",
        port=None,
        inherits=(),
    ):
        self.port, self.admin = port or free_port(), free_port()
        self.file = config = directory / f"seawall-{self.port}.yaml"
        settings = {"more": more, "listeners_more": listeners_more, "upstream_more": upstream_more}
        each = upstream if isinstance(upstream, list) else [upstream]
        urls = [url if isinstance(url, str) else f"http://127.0.0.1:{url}" for url in each]
        where = upstream if isinstance(upstream, dict) else {"endpoints": urls}
        settings["endpoints"] = json.dumps(where)[1:-1]
        config.write_text(_CONFIG.format(port=self.port, admin=self.admin, drain=drain, **settings))
        argv = [BINARY, "-c", config]
        numbers = [given.fileno() for given in inherits]
        if numbers:
            argv = [sys.executable, Path(__file__).with_name("activate.py"), ",".join(map(str, numbers)), *argv]
        self.process = processes.start("seawall", argv, pass_fds=numbers)
        self.process.wait_for_port(self.port).wait_for_port(self.admin)
        until(lambda: http1.operate(self.admin, "/readyz").status == 200, "seawall says that it is ready")

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def websocket(self, path):
        return f"ws://127.0.0.1:{self.port}{path}"

    def metrics(self):
        """A scrape when no request is under way any more: what is not counted then will not be.

        What has just been said to a client is counted a moment later. While something is under way by intention,
        wait with `now`.
        """

        def settled():
            metrics = self.now()
            return None if metrics.total("seawall_requests_in_flight") else metrics

        return until(settled, "no request is under way")

    def now(self):
        """A scrape in passing, for conditions that are waited for: once it says nothing."""
        answer = http1.operate(self.admin, "/metrics")
        assert (answer.status, answer.complete) == (200, True)
        return Metrics(answer.content.decode())

    def journal(self):
        """The text of the failure journal when no request is under way any more."""
        self.metrics()
        answer = http1.operate(self.admin, "/failures")
        assert (answer.status, answer.complete) == (200, True)
        json.loads(answer.content)
        return answer.content.decode()

    def failed(self, count, **only):
        """Asserts how many failures were counted with these labels."""
        self.counted(count, lambda metrics: metrics.total("seawall_failures_total", **only), f"failures with {only}")

    def counted(self, expected, measure, what):
        """A counter may follow the client's last byte by a moment: waits for equality, then asserts it."""
        seen = []

        def equal():
            seen[:] = [measure(self.now())]
            return seen[0] == expected

        try:
            until(equal, what)
        except AssertionError:
            assert seen[0] == expected, what

    def stop(self):
        """SIGTERM; it ends in order, and was never itself at fault."""
        if self.process.running():
            assert self.now().total("seawall_failures_total", kind="proxy_internal_error") == 0
            assert self.process.terminate() == 0, "seawall ends with exit code 0 on SIGTERM"
        assert "panicked at" not in self.process.text(), "seawall never panics"
