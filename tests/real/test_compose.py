"""deploy/compose: fits the schema, names only what is there, and its parts run together (without the containers)."""

import json
import re
import subprocess
import sys

import compose_spec
import pytest
import yaml
from support import http1
from support.manifests import ROOT
from support.processes import free_port
from support.seawall import BINARY
from support.waiting import until

FOLDER = ROOT / "deploy/compose"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
# What the reader makes; never committed.
MADE = {"./admin.token"}
TOKEN = "0123456789abcdef0123456789abcdef"


def mounts(service):
    """What a service mounts from the repository: (source, place in the container)."""
    each = [volume.split(":") for volume in SERVICES[service].get("volumes", [])]
    assert all(len(parts) == 2 or parts[2] == "ro" for parts in each)
    return [(parts[0], parts[1]) for parts in each if parts[0].startswith(".")]


def address(host, port):
    """That of a container, as the others find it."""
    assert host in SERVICES
    return f"{host}:{port}"


@pytest.fixture
def parts(processes, tmp_path):
    """The app, seawall and Prometheus, each with its own file of deploy/compose and only addresses changed."""
    ports = {name: free_port() for name in ("app", "seawall", "admin", "prometheus")}
    token = tmp_path / "admin.token"
    token.write_text(TOKEN + "\n")

    def moved(path, **places):
        text = (FOLDER / path).read_text()
        for old, new in {"/run/secrets/admin.token": str(token), **places}.items():
            assert old in text, f"{path} does not name {old}"
            text = text.replace(old, new)
        (tmp_path / path.rpartition("/")[2]).write_text(text)
        return tmp_path / path.rpartition("/")[2]

    app = [sys.executable, FOLDER / "app.py", ports["app"]]
    processes.start("app", app).wait_for_port(ports["app"])
    places = {"0.0.0.0:8080": f"127.0.0.1:{ports['seawall']}", "0.0.0.0:9900": f"127.0.0.1:{ports['admin']}"}
    places[address("app", 3000)] = f"127.0.0.1:{ports['app']}"
    config = moved("seawall/seawall.yaml", **places)
    processes.start("seawall", [BINARY, "-c", config]).wait_for_port(ports["seawall"]).wait_for_port(ports["admin"])
    (tmp_path / "rules.yml").write_text((ROOT / "deploy/prometheus/rules.yml").read_text())
    scrape = {address("seawall", 9900): f"127.0.0.1:{ports['admin']}", "scrape_interval: 5s": "scrape_interval: 200ms"}
    config = moved("prometheus.yml", **scrape)
    subprocess.run(["promtool", "check", "config", "--lint-fatal", config], check=True, capture_output=True, timeout=30)
    argv = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    argv += [f"--web.listen-address=127.0.0.1:{ports['prometheus']}", "--log.level=warn"]
    processes.start("prometheus", argv).wait_for_port(ports["prometheus"])
    until(lambda: http1.get(ports["prometheus"], "/-/ready").status == 200, "Prometheus is ready")
    return ports


def test_it_fits_the_specification_of_compose():
    text = (FOLDER / "compose.yaml").read_text()
    compose_spec.PyCompose.from_yaml(text).validate()
    for right, wrong in {"cap_drop:": "cap_dropp:", "restart: always": "restart: sometimes"}.items():
        with pytest.raises(ValueError):
            compose_spec.PyCompose.from_yaml(text.replace(right, wrong))


def test_everything_that_is_mounted_is_there():
    for service in SERVICES:
        for source, _ in mounts(service):
            assert (FOLDER / source).exists(), f"{service} mounts {source}"
    named = {one["file"] for one in COMPOSE["secrets"].values()}
    assert named == MADE and "/deploy/compose/admin.token\n" in (ROOT / ".gitignore").read_text()
    build = SERVICES["seawall"]["build"]
    assert (FOLDER / build["context"]).resolve() == ROOT and (ROOT / build["dockerfile"]).exists()
    for service in SERVICES.values():
        assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
        for volume in service.get("volumes", []):
            assert volume.startswith(".") or volume.split(":")[0] in COMPOSE["volumes"]


def test_only_this_machine_reaches_the_ports_and_images_have_versions():
    for name, service in SERVICES.items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert re.search(r":v?\d+\.\d+\.\d+[\w.-]*$", service["image"]), name
        assert service["cap_drop"] == ["ALL"] and service["security_opt"] == ["no-new-privileges:true"]


def test_grafana_finds_prometheus_and_the_dashboard():
    provisioning = dict((place, FOLDER / source) for source, place in mounts("grafana"))
    folder = provisioning["/etc/grafana/provisioning"]
    [source] = yaml.safe_load((folder / "datasources/prometheus.yaml").read_text())["datasources"]
    [target] = SERVICES["prometheus"]["ports"]
    assert source["type"] == "prometheus" and source["isDefault"] is True
    assert source["url"] == "http://" + address("prometheus", target.rsplit(":", 1)[1])
    [provider] = yaml.safe_load((folder / "dashboards/seawall.yaml").read_text())["providers"]
    shown = f"{provider['options']['path']}/seawall.json"
    assert provisioning[shown].resolve() == ROOT / "deploy/grafana/seawall.json"
    assert SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == shown
    variables = json.loads(provisioning[shown].read_text())["templating"]["list"]
    assert [one["query"] for one in variables if one["type"] == "datasource"] == ["prometheus"]


def test_the_drain_fits_into_the_time_that_compose_gives():
    said = yaml.safe_load((FOLDER / "seawall/seawall.yaml").read_text())
    # 30s unless set.
    assert "shutdown" not in said and SERVICES["seawall"]["stop_grace_period"] == "45s"


def test_the_parts_run_together(parts):
    def values(query):
        answer = http1.get(parts["prometheus"], f"/api/v1/query?query={query}")
        return [float(sample["value"][1]) for sample in json.loads(answer.content)["data"]["result"]]

    port = parts["seawall"]
    page = http1.get(port, "/")
    assert page.status == 200 and b"/crash" in page.content
    assert http1.get(parts["admin"], "/metrics").status == 401
    until(lambda: values('up{job="seawall"}') == [1.0], "Prometheus has the token")
    for path, kind in {"/trace": "application_error", "/database": "dependency_failure"}.items():
        answer = http1.get(port, path)
        assert (answer.status, answer.complete) == (500, True) and kind in answer.get("proxy-status")
        assert b"Traceback" not in answer.content and b"10.0.0.9" not in answer.content
    # It is sent again while the app goes down: which of its ends the second attempt meets is chance.
    cut = http1.get(port, "/cut")
    assert (cut.status, cut.complete) == (500, True)
    assert "connection_refused" in http1.get(port, "/").get("proxy-status")
    until(lambda: sum(values("seawall_failures_total")) >= 4, "Prometheus sees what failed")
    until(lambda: sum(values('seawall_dependency_failures_total{dependency="postgres"}')) == 1, "and the database")
