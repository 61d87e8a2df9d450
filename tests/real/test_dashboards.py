"""The dashboard and the alerts, against a real Prometheus that scrapes a real seawall whose upstreams fail."""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import http1
from support.processes import Events, Processes, free_port, uvicorn
from support.prometheus import DEPLOY, Prometheus
from support.seawall import BINARY
from support.waiting import until
from support.websocket import open_client, read_to_end

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "deploy" / "grafana"
RUNBOOK = "https://github.com/seawall-proxy/seawall/blob/main/deploy/prometheus/README.md"
DASHBOARD = json.loads((GRAFANA / "seawall.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
SECRET = "a secret of the tests"

# Panels that may be empty under every fault, and why. There is none.
EMPTY = {}
# Metrics that no panel shows, and why. There is none.
NOT_SHOWN = {}
# These cannot be provoked from outside; rules_test.yml has them.
UNPROVOKED = {
    "SeawallInternalError",
    "SeawallWorkerRestarted",
    "SeawallFileDescriptors",
    "SeawallCertificateEnds",
    "SeawallAbsent",
}

FAULTS = ["crash", "crash-in-body", "crash-in-stream", "stack-trace", "json-500", "postgres", "refused", "healthy"]
SOCKETS = ["echo", "crash", "crash-in-frame", "crash-in-message", "close-1011", "handshake-500"]

# Beside the demo: what its own configuration does not provoke.
EDGE = """\
workers: 1
listeners:
  - {{ address: "127.0.0.1:{port}" }}
  - {{ address: "127.0.0.1:0", tls: {{ certificates: [{{ chain: "{tls}/example.crt", key: "{tls}/example.key" }}] }} }}
admin: {{ address: "127.0.0.1:{admin}" }}
upstreams:
  pair: {{ endpoints: ["http://127.0.0.1:{app}", "http://127.0.0.1:{mortal}"], health: {{ tcp: true, interval: 200ms }} }}
  single: {{ endpoints: ["http://127.0.0.1:{mortal}"] }}
  guarded: {{ endpoints: ["http://127.0.0.1:{mortal}"], circuit: {{ open: 1s, max: 1s }} }}
  thrifty: {{ endpoints: ["http://127.0.0.1:{app}"], retry: {{ budget_percent: 1 }} }}
  narrow: {{ endpoints: ["http://127.0.0.1:{app}"], limits: {{ websockets: 1 }} }}
routes:
  - {{ path: /fault/healthy, upstream: pair }}
  - {{ path: /ok, upstream: single }}
  - {{ path: /guarded, upstream: guarded }}
  - {{ path: /fault/crash, upstream: thrifty }}
  - {{ path: /ws/*, upstream: narrow }}
  - {{ path: /rehearsed, upstream: pair, rehearse: true }}
rehearsal: {{ secret_file: rehearsal.secret }}
shutdown: {{ drain: 1s }}
"""


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return tmp_path_factory.mktemp("dashboards")


@pytest.fixture(scope="module")
def processes(directory):
    started = Processes(directory)
    yield started
    started.end()


class Stage:
    """`seawall demo`, another seawall in front of its app and of one that can be stopped, and Prometheus."""

    def __init__(self, processes, directory):
        self._processes, self._directory = processes, directory
        self._events = Events(directory)
        self.demo = processes.start("demo", [BINARY, "demo"])
        invitation = until(lambda: self._invitation(), "the demo has started", seconds=60)
        self.port, self.admin, self._app = (int(port) for port in invitation)
        self.edge_port, self.edge_admin, self._mortal_port = free_port(), free_port(), free_port()
        self.start_mortal()
        (directory / "rehearsal.secret").write_text(SECRET)
        ports = {"port": self.edge_port, "admin": self.edge_admin, "app": self._app, "mortal": self._mortal_port}
        ports["tls"] = ROOT / "config/tls"
        (directory / "edge.yaml").write_text(EDGE.format(**ports))
        self.start_edge()
        self.prometheus = Prometheus(
            processes, directory, [f"127.0.0.1:{self.admin}", f"127.0.0.1:{self.edge_admin}"]
        )
        self._faulty, self._over = threading.Event(), threading.Event()
        self._threads = [threading.Thread(target=one) for one in (self._ask, self._ask, self._talk, self._hold)]
        for thread in self._threads:
            thread.start()

    def _invitation(self):
        assert self.demo.running(), self.demo.text()[-3000:]
        text = self.demo.text()
        found = [
            re.search(rf"http://127\.0\.0\.1:(\d+){path}", text)
            for path in ("/  a page", "/metrics", "/fault/crash  the same")
        ]
        return [one[1] for one in found] if all(found) else None

    def start_mortal(self):
        self.mortal = uvicorn(self._processes, self._events, self._mortal_port)

    def start_edge(self):
        argv = [BINARY, "-c", "edge.yaml"]
        self.edge = self._processes.start("edge", argv, cwd=self._directory)
        self.edge.wait_for_port(self.edge_port).wait_for_port(self.edge_admin)

    def break_everything(self):
        self.mortal.kill()
        self._faulty.set()

    def repair_everything(self):
        self._faulty.clear()
        self.start_mortal()

    def _rounds(self):
        """True at every round, with a breath between them, until the stage is cleared."""
        while not self._over.wait(0.05):
            yield self._faulty.is_set()

    def _get(self, port, path, fields=()):
        # What is cut off, or goes to a seawall that is restarted, is part of the play.
        with contextlib.suppress(OSError, AssertionError, ValueError, IndexError):
            http1.get(port, path, fields=fields)

    def _ask(self):
        rehearse = [f'Seawall-Rehearse: http_response_timeout; secret="{SECRET}"']
        for faulty in self._rounds():
            for fault in FAULTS if faulty else ["healthy"]:
                self._get(self.port, f"/fault/{fault}")
            for path in ("/fault/healthy", "/ok", "/guarded"):
                self._get(self.edge_port, path)
            if faulty:
                self._get(self.edge_port, "/fault/crash")
                self._get(self.edge_port, "/no-such-route")
                self._get(self.edge_port, "/rehearsed", rehearse)

    async def _session(self, port, path):
        with contextlib.suppress(Exception):
            async with open_client(f"ws://127.0.0.1:{port}{path}") as client:
                await client.send("hello")
                await asyncio.wait_for(client.recv(), 5)
                if not path.endswith("echo"):
                    await asyncio.wait_for(read_to_end(client), 5)

    def _talk(self):
        for faulty in self._rounds():
            for path in SOCKETS if faulty else ["echo"]:
                asyncio.run(self._session(self.port, f"/ws/{path}"))
            # The only place at `narrow` is taken by `_hold`.
            if faulty:
                asyncio.run(self._session(self.edge_port, "/ws/echo"))

    def _hold(self):
        async def held():
            with contextlib.suppress(Exception):
                async with open_client(f"ws://127.0.0.1:{self.edge_port}/ws/echo"):
                    while not self._over.is_set() and self.edge.running():
                        await asyncio.sleep(0.05)

        for _ in self._rounds():
            asyncio.run(held())

    def clear(self):
        self._over.set()
        for thread in self._threads:
            thread.join(30)


@pytest.fixture(scope="module")
def stage(processes, directory):
    made = Stage(processes, directory)
    yield made
    made.clear()


def expressions(panel):
    return [target["expr"] for target in panel["targets"]]


def concrete(expression):
    """The query that Grafana sends, with every variable at `All`."""
    expression = re.sub(r"\$(instance|upstream|route)\b", ".*", expression.replace("$__rate_interval", "20s"))
    assert "$" not in expression, expression
    return expression


def metrics_in(text):
    """The seawall metrics that queries name; recorded series have a colon in front."""
    names = re.findall(r"(?<![:\w])seawall_\w+", text)
    return {re.sub(r"_seconds_(bucket|sum|count)$", "_seconds", name) for name in names}


def promtool(*arguments, **options):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=60, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def documented():
    table = (ROOT / "README.md").read_text().split("<!-- begin: metrics -->")[1].split("<!-- end: metrics -->")[0]
    return set(re.findall(r"^\| `(seawall_\w+)`", table, re.MULTILINE))


# With the stage. The first of these breaks everything and the second repairs it.


def test_every_panel_has_data_while_everything_fails(stage):
    stage.break_everything()
    for panel in PANELS:
        if panel["title"] in EMPTY:
            continue
        for expression in map(concrete, expressions(panel)):
            until(lambda: stage.prometheus.values(expression), f"{panel['title']}: {expression} gives data")


def test_every_variable_has_values(stage):
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"]).groups()
            query = f'count by ({label}) ({{{label}!=""}} and {concrete(series)})'
            until(lambda: stage.prometheus.values(query), f"{variable['name']}: {query} gives data")


def test_alerts_fire_and_resolve(stage):
    stage.break_everything()
    alerts = {rule["name"] for rule in stage.prometheus.rules() if rule["type"] == "alerting"}
    provoked = alerts - UNPROVOKED - {"SeawallTargetDown"}
    missing = set(provoked)

    def fired():
        missing.difference_update(stage.prometheus.firing())
        return not missing

    try:
        until(fired, "alerts fire", seconds=30)
    except AssertionError:
        raise AssertionError(f"did not fire: {missing}") from None
    stage.repair_everything()
    # The demo has upstreams that are down for good.
    lasting = {"SeawallUpstreamDown"}
    until(lambda: not (stage.prometheus.firing() & provoked) - lasting, "alerts resolve", seconds=40)
    down = 'ALERTS{alertname="SeawallUpstreamDown",alertstate="firing",upstream="single"}'
    until(lambda: not stage.prometheus.values(down), "the upstream that came back is no longer down")


def test_a_seawall_that_is_gone_is_noticed(stage):
    assert stage.edge.terminate() == 0
    until(lambda: "SeawallTargetDown" in stage.prometheus.firing(), "the missing target is noticed")
    stage.start_edge()
    until(lambda: "SeawallTargetDown" not in stage.prometheus.firing(), "the target is back")


def test_every_rule_was_evaluated_without_an_error(stage):
    def evaluated():
        return all(rule["health"] != "unknown" for rule in stage.prometheus.rules())

    until(evaluated, "every rule is evaluated")
    assert {rule["name"]: rule["lastError"] for rule in stage.prometheus.rules() if rule.get("lastError")} == {}


def test_promtool_has_no_complaint_about_the_metrics(stage):
    scrapes = [http1.operate(port, "/metrics").content.decode() for port in (stage.admin, stage.edge_admin)]
    for scrape in scrapes:
        assert promtool("check", "metrics", input=scrape).strip() == ""


# Without it.


def test_promtool_accepts_rules_and_configuration():
    promtool("check", "rules", "--lint-fatal", DEPLOY / "rules.yml")
    promtool("check", "config", "--lint-fatal", DEPLOY / "prometheus.yml")


def test_promtool_has_tested_when_every_alert_fires_and_when_not():
    promtool("test", "rules", DEPLOY / "rules_test.yml")
    rules, tests = (DEPLOY / "rules.yml").read_text(), (DEPLOY / "rules_test.yml").read_text()
    for alert in re.findall(r"alert: (\w+)", rules):
        assert re.search(rf"alertname: {alert}\b.*exp_alerts: \[\]", tests), f"{alert} not firing"
        assert re.search(rf"alertname: {alert}\n +eval_time: \w+\n +exp_alerts:\n", tests), f"{alert} firing"


def test_every_alert_has_a_severity_and_a_section_in_the_runbook():
    alerts = (DEPLOY / "rules.yml").read_text().split("- alert: ")[1:]
    sections = re.findall(r"^## (Seawall\w+)$", (DEPLOY / "README.md").read_text(), re.MULTILINE)
    assert [alert.split()[0] for alert in alerts] == sections
    for alert, section in zip(alerts, sections, strict=True):
        assert f"runbook_url: {RUNBOOK}#{section.lower()}\n" in alert
        assert re.search(r"for: \w+\n +labels: \{ severity: (critical|warning) \}", alert), section


def test_the_dashboard_is_what_its_script_prints():
    made = subprocess.run([sys.executable, GRAFANA / "make.py"], capture_output=True, text=True, check=True)
    assert made.stdout == (GRAFANA / "seawall.json").read_text(), "make.py > seawall.json"


def test_every_metric_is_shown_and_none_is_unknown():
    shown = metrics_in("\n".join(expression for panel in PANELS for expression in expressions(panel)))
    variables = metrics_in("\n".join(one.get("definition", "") for one in DASHBOARD["templating"]["list"]))
    alerted = metrics_in((DEPLOY / "rules.yml").read_text())
    assert len(documented()) > 20
    assert shown | variables | alerted <= documented()
    assert documented() - shown == set(NOT_SHOWN)


def test_panels_are_described_numbered_and_side_by_side():
    identifiers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(identifiers)) == len(identifiers)
    taken = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                other = taken.setdefault((x, y), panel["title"])
                assert other == panel["title"], f"{other} and {panel['title']} overlap"
    for panel in PANELS:
        assert panel["title"] and panel["description"], panel["id"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"]
        for target in panel["targets"]:
            assert target["expr"] and target["datasource"]["uid"] == "${datasource}"


def test_the_dashboard_can_be_imported_anywhere():
    variables = {one["name"]: one["type"] for one in DASHBOARD["templating"]["list"]}
    assert variables == {"datasource": "datasource", "instance": "query", "upstream": "query", "route": "query"}
    assert DASHBOARD["schemaVersion"] >= 39 and "id" not in DASHBOARD
