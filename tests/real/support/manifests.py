"""What is under deploy/kubernetes as a cluster would get it: `kubectl kustomize`, and the objects that come of it."""

import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "deploy" / "kubernetes"
TOOLS = Path(sys.executable).parent


def build(folder):
    """The objects of a kustomization, built by kubectl's own kustomize."""
    argv = [TOOLS / "kubectl", "kustomize", folder]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    # What is deprecated is told there.
    assert done.stderr == "", done.stderr
    return Objects(yaml.safe_load_all(done.stdout))


class Objects:
    def __init__(self, documents):
        self.all = list(documents)

    def of(self, kind):
        return [one for one in self.all if one["kind"] == kind]

    def only(self, kind, name=None):
        found = [one for one in self.of(kind) if name in (None, one["metadata"]["name"])]
        assert len(found) == 1, f"{kind} {name}: {len(found)}"
        return found[0]

    def pod(self):
        """The pod template of the one Deployment."""
        return self.only("Deployment")["spec"]["template"]

    def container(self):
        """seawall's container in it."""
        [found] = [one for one in self.pod()["spec"]["containers"] if one["name"] == "seawall"]
        return found

    def mount(self, folder):
        """Writes what the pod sees at /etc/seawall into `folder`. A Secret, which is not committed, gets a token."""
        [volume] = [one for one in self.pod()["spec"]["volumes"] if one["name"] == "seawall"]
        for source in volume["projected"]["sources"]:
            if "configMap" in source:
                for name, text in self.only("ConfigMap", source["configMap"]["name"])["data"].items():
                    (folder / name).write_text(text)
            else:
                for item in source["secret"]["items"]:
                    (folder / item["path"]).write_text("0123456789abcdef0123456789abcdef\n")
        return folder


def selects(selector, labels):
    return bool(selector) and selector.items() <= labels.items()
