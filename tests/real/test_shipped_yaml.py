"""No YAML under config/ and deploy/ is unchecked: each file has a test that names it, or is checked here."""

import re
import subprocess

import pytest
from support.manifests import ROOT
from support.seawall import BINARY

SHIPPED = sorted(path for folder in ("config", "deploy") for path in (ROOT / folder).rglob("*.y*ml"))
# By name, and where they are checked.
ELSEWHERE = {
    "deploy/compose/compose.yaml": "test_compose.py",
    "deploy/compose/prometheus.yml": "test_compose.py",
    "deploy/compose/seawall/seawall.yaml": "test_compose.py",
    "deploy/compose/grafana/provisioning/datasources/prometheus.yaml": "test_compose.py",
    "deploy/compose/grafana/provisioning/dashboards/seawall.yaml": "test_compose.py",
    "deploy/prometheus/prometheus.yml": "test_dashboards.py",
    "deploy/prometheus/rules.yml": "test_dashboards.py",
    "deploy/prometheus/rules_test.yml": "test_dashboards.py",
}
CONFIGURATIONS = [path for path in SHIPPED if path.parent == ROOT / "config" or path == ROOT / "deploy/container.yaml"]


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: path.name)
def test_seawall_accepts_the_configuration(path):
    done = subprocess.run([BINARY, "check", "-c", path], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_other_file_is_known():
    left = {str(path.relative_to(ROOT)) for path in SHIPPED if path not in CONFIGURATIONS}
    for name, test in ELSEWHERE.items():
        left.remove(name)
        assert name.rsplit("/", 1)[1] in (ROOT / "tests/real" / test).read_text()
    # What a kustomization names is built and held against schemas by test_kubernetes.py, which builds both overlays.
    for path in (ROOT / "deploy/kubernetes").rglob("kustomization.yaml"):
        text, folder = path.read_text(), path.parent
        left.discard(str(path.relative_to(ROOT)))
        for name in re.findall(r"[\w./-]+", text):
            if (folder / name).is_file():
                left.discard(str((folder / name).resolve().relative_to(ROOT)))
    assert left == set(), "nothing checks these"
