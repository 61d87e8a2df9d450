"""deploy/kubernetes: what kustomize makes of it fits the schemas of Kubernetes, itself and what seawall promises."""

import json
import os
import shutil
import subprocess
import sys

import kubernetes_validate
import pytest
import yaml
from support import http1
from support.manifests import FOLDER, ROOT, build, selects
from support.processes import free_port
from support.seawall import BINARY
from support.waiting import until

OVERLAYS = ["sidecar", "ingress"]
# preStop.sleep exists since the first of these; the last is the newest that the validator knows.
VERSIONS = ["1.30", "1.33", "1.37"]
OPERATOR = {"ServiceMonitor", "PrometheusRule"}


@pytest.fixture(scope="module")
def overlays():
    return {name: build(FOLDER / "overlays" / name) for name in OVERLAYS}


@pytest.fixture(params=OVERLAYS)
def objects(request, overlays):
    return overlays[request.param]


def seconds(duration):
    assert duration.endswith("s"), duration
    return int(duration[:-1])


def settings(objects):
    [text] = [one["data"]["seawall.yaml"] for one in objects.of("ConfigMap")]
    return yaml.safe_load(text)


def test_every_object_fits_the_schema_of_its_kind(objects):
    for one in objects.all:
        if one["kind"] in OPERATOR:
            continue
        for version in VERSIONS:
            kubernetes_validate.validate(one, version, strict=True)
    argv = ["node", ROOT / "tests/real/support/crds.mjs"]
    found = [one for one in objects.all if one["kind"] in OPERATOR]
    assert {one["kind"] for one in found} == OPERATOR
    done = subprocess.run(argv, input=json.dumps(found), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_schemas_would_notice_a_mistake(overlays):
    one = overlays["ingress"].only("Deployment")
    broken = json.loads(json.dumps(one).replace("readinessProbe", "readynessProbe"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[-1], strict=True)
    argv = ["node", ROOT / "tests/real/support/crds.mjs"]
    monitor = {"kind": "ServiceMonitor", "metadata": {"name": "broken"}, "spec": {"selector": {}, "endpoints": {}}}
    done = subprocess.run(argv, input=json.dumps([monitor]), capture_output=True, text=True, timeout=60)
    assert "ServiceMonitor broken:" in done.stdout


def test_seawall_accepts_the_configuration_that_the_pod_mounts(objects, tmp_path):
    folder = objects.mount(tmp_path)
    [mount] = [one for one in objects.container()["volumeMounts"] if one["name"] == "seawall"]
    assert mount["mountPath"] == "/etc/seawall" and "subPath" not in mount
    assert objects.container()["args"] == ["-c", "/etc/seawall/seawall.yaml"]
    done = subprocess.run([BINARY, "check", "-c", folder / "seawall.yaml"], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stdout + done.stderr


def test_probes_and_services_reach_the_ports_that_the_configuration_opens(objects):
    said, container = settings(objects), objects.container()
    ports = {one["name"]: one["containerPort"] for one in container["ports"]}
    assert [one["address"] for one in said["listeners"]] == [f"0.0.0.0:{ports['seawall']}"]
    assert said["admin"]["address"] == f"0.0.0.0:{ports['seawall-admin']}"
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "seawall-admin"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "seawall-admin"}
    named = {one["name"] for each in objects.pod()["spec"]["containers"] for one in each["ports"]}
    labels = objects.pod()["metadata"]["labels"]
    assert len(objects.of("Service")) == 2
    for service in objects.of("Service"):
        assert selects(service["spec"]["selector"], labels)
        assert all(one["targetPort"] in named for one in service["spec"]["ports"])


def test_prometheus_finds_the_admin_listener_and_has_its_token(objects):
    monitor = objects.only("ServiceMonitor")["spec"]
    assert monitor == {
        "jobLabel": "app.kubernetes.io/name",
        "selector": {"matchLabels": {"app.kubernetes.io/name": "seawall"}},
        "endpoints": [
            {
                "port": "seawall-admin",
                "path": "/metrics",
                "interval": "15s",
                "authorization": {"credentials": {"name": "seawall-admin", "key": "token"}},
            }
        ],
    }
    wanted = monitor["selector"]["matchLabels"]
    [service] = [one for one in objects.of("Service") if selects(wanted, one["metadata"].get("labels", {}))]
    assert [one["name"] for one in service["spec"]["ports"]] == ["seawall-admin"]
    # The alert SeawallTargetDown looks at this job.
    assert service["metadata"]["labels"]["app.kubernetes.io/name"] == "seawall"
    [volume] = objects.pod()["spec"]["volumes"]
    secret = [one["secret"] for one in volume["projected"]["sources"] if "secret" in one]
    assert secret == [{"name": "seawall-admin", "items": [{"key": "token", "path": settings(objects)["admin"]["token_file"]}]}]


def test_the_alerts_are_those_of_prometheus(objects, tmp_path):
    rules = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())
    spec = objects.only("PrometheusRule")["spec"]
    assert spec == rules
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(spec))
    subprocess.run(["promtool", "check", "rules", tmp_path / "rules.yml"], check=True, capture_output=True, timeout=60)
    made = subprocess.run([sys.executable, FOLDER / "make.py"], capture_output=True, text=True, check=True)
    assert made.stdout == (FOLDER / "base/prometheus-rule.yaml").read_text(), "make.py > base/prometheus-rule.yaml"


def test_a_pod_has_the_time_to_drain(objects):
    drain = seconds(settings(objects)["shutdown"]["drain"])
    waits = objects.container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = objects.pod()["spec"]["terminationGracePeriodSeconds"]
    # A readiness probe that fails, and everybody who hears of it.
    assert waits >= 5
    assert grace >= waits + drain + 5
    for beside in objects.pod()["spec"]["containers"]:
        if beside["name"] != "seawall":
            sleeps = beside["lifecycle"]["preStop"]["sleep"]["seconds"]
            assert waits + drain <= sleeps <= grace - 5, "the app outlives seawall, and has time to end"


def test_a_pod_may_do_little(objects):
    pod = objects.pod()["spec"]
    assert pod["automountServiceAccountToken"] is False
    for container in pod["containers"]:
        context = pod.get("securityContext", {}) | container["securityContext"]
        assert context["runAsNonRoot"] is True and context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False and context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        assert "memory" in container["resources"]["limits"]
        assert ":" in container["image"] and not container["image"].endswith(":latest")
    context = pod.get("securityContext", {}) | objects.container()["securityContext"]
    assert f"USER {context['runAsUser']}:{context['runAsGroup']}\n" in (ROOT / "deploy/Dockerfile").read_text()


def test_what_scales_and_what_protects_the_ingress_means_its_pods(overlays):
    objects = overlays["ingress"]
    deployment, scaler = objects.only("Deployment"), objects.only("HorizontalPodAutoscaler")["spec"]
    assert "replicas" not in deployment["spec"], "the autoscaler decides"
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert 2 <= scaler["minReplicas"] < scaler["maxReplicas"]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    labels = objects.pod()["metadata"]["labels"]
    selectors = [
        deployment["spec"]["selector"],
        objects.only("PodDisruptionBudget")["spec"]["selector"],
        objects.only("NetworkPolicy")["spec"]["podSelector"],
        *(one["labelSelector"] for one in objects.pod()["spec"]["topologySpreadConstraints"]),
    ]
    assert all(selects(one["matchLabels"], labels) for one in selectors)
    assert objects.only("PodDisruptionBudget")["spec"]["maxUnavailable"] == 1


def test_the_autoscaler_can_look_at_websockets_too(overlays, tmp_path):
    parts = [os.path.relpath(FOLDER / part, tmp_path.resolve()) for part in ("overlays/ingress", "components/scale-by-websockets")]
    (tmp_path / "kustomization.yaml").write_text(f"resources: [{parts[0]}]\ncomponents: [{parts[1]}]\n")
    scaler = build(tmp_path).only("HorizontalPodAutoscaler")
    for version in VERSIONS:
        kubernetes_validate.validate(scaler, version, strict=True)
    cpu, websockets = scaler["spec"]["metrics"]
    assert [cpu] == overlays["ingress"].only("HorizontalPodAutoscaler")["spec"]["metrics"]
    assert f"| `{websockets['pods']['metric']['name']}` | gauge |" in (ROOT / "README.md").read_text()


def test_the_network_policy_lets_through_what_the_configuration_needs(overlays):
    objects = overlays["ingress"]
    policy = objects.only("NetworkPolicy")["spec"]
    named = {one["name"] for one in objects.container()["ports"]}
    assert {one["port"] for rule in policy["ingress"] for one in rule["ports"]} == named
    out = {one["port"] for rule in policy["egress"] for one in rule["ports"]}
    for upstream in settings(objects)["upstreams"].values():
        assert int(upstream["dns"]["name"].rsplit(":", 1)[1]) in out and 53 in out


def test_a_changed_configmap_is_taken_over_as_the_kubelet_writes_it(processes, tmp_path):
    """The file is a link into a folder that is a link, too: the kubelet changes that one, atomically."""
    port, admin = free_port(), free_port()
    config = (
        f'listeners: [{{ address: "127.0.0.1:{port}" }}]\nadmin: {{ address: "127.0.0.1:{admin}" }}\n'
        'upstreams: { NAME: { endpoints: ["http://127.0.0.1:1"] } }\nroutes: [{ upstream: NAME }]\n'
        "reload: { interval: 100ms }\n"
    )

    def write(name):
        folder = tmp_path / f"..{name}"
        folder.mkdir()
        (folder / "seawall.yaml").write_text(config.replace("NAME", name))
        (tmp_path / "..data_tmp").symlink_to(folder.name)
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    write("before")
    (tmp_path / "seawall.yaml").symlink_to("..data/seawall.yaml")
    seawall = processes.start("seawall", [BINARY, "-c", tmp_path / "seawall.yaml"])
    seawall.wait_for_port(port).wait_for_port(admin)
    assert http1.operate(admin, "/config").json()["upstreams"].keys() == {"before"}
    write("after")
    shutil.rmtree(tmp_path / "..before")
    until(lambda: http1.operate(admin, "/config").json()["upstreams"].keys() == {"after"}, "the change is taken over")
