"""The units of deploy/: systemd finds nothing wrong, nothing that could be taken away is left, and sockets arrive."""

import configparser
import re
import shutil
import subprocess

import pytest
import yaml
from support import http1
from support.manifests import ROOT
from support.processes import free_port, uvicorn
from support.seawall import BINARY
from support.waiting import until

DEPLOY = ROOT / "deploy"
# What deploy/README.md says of systemd 252, in tenths.
EXPOSURE = {"alone": 16, "with the socket": 12}


@pytest.fixture
def root(tmp_path):
    """A file system for systemd to look at: the units as deploy/README.md installs them, and the program."""
    units = tmp_path / "etc/systemd/system"
    (units / "seawall.service.d").mkdir(parents=True)
    for name in ("seawall.service", "seawall.socket"):
        shutil.copy(DEPLOY / name, units / name)
    (tmp_path / "usr/local/bin").mkdir(parents=True)
    (tmp_path / "usr/local/bin/seawall").symlink_to(BINARY)
    return tmp_path


def with_socket(root):
    shutil.copy(DEPLOY / "seawall-socket.conf", root / "etc/systemd/system/seawall.service.d/socket.conf")


def unit(name):
    parser = configparser.RawConfigParser(strict=False, comment_prefixes="#")
    parser.optionxform = str
    parser.read_string((DEPLOY / name).read_text())
    return parser


def seconds(text):
    return int(text.removesuffix("s"))


def analyze(*argv):
    done = subprocess.run(["systemd-analyze", *map(str, argv)], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def exposure(root):
    # The threshold is one that nothing passes: the number is in the last line.
    _, said = analyze("security", "--offline=true", f"--root={root}", "--no-pager", "seawall.service")
    return round(10 * float(re.search(r"Overall exposure level for seawall.service: ([\d.]+)", said)[1]))


def test_systemd_finds_nothing_wrong_with_the_units(tmp_path):
    for name in ("seawall.service", "seawall.socket"):
        text = (DEPLOY / name).read_text().replace("/usr/local/bin/seawall", str(BINARY))
        (tmp_path / name).write_text(text)
    (tmp_path / "seawall.service.d").mkdir()
    shutil.copy(DEPLOY / "seawall-socket.conf", tmp_path / "seawall.service.d/socket.conf")
    code, said = analyze("verify", "--man=no", tmp_path / "seawall.service", tmp_path / "seawall.socket")
    ours = [line for line in said.splitlines() if "seawall" in line]
    assert (code, ours) == (0, []), said


def test_the_service_is_exposed_as_little_as_the_readme_says(root):
    found = {"alone": exposure(root)}
    with_socket(root)
    found["with the socket"] = exposure(root)
    _, version = analyze("--version")
    # A newer one may look for more.
    more = 0 if version.startswith("systemd 252 ") else 5
    assert all(found[case] <= EXPOSURE[case] + more for case in EXPOSURE), found
    text = " ".join((DEPLOY / "README.md").read_text().split())
    for tenths in EXPOSURE.values():
        assert f"{tenths / 10}" in text, "deploy/README.md says how much"


def test_systemd_waits_longer_than_the_drain_takes():
    service = unit("seawall.service")["Service"]
    table = (ROOT / "README.md").read_text()
    default = re.search(r"\| `shutdown.drain` \| duration \| `(\w+)` \|", table)[1]
    assert seconds(service["TimeoutStopSec"]) >= seconds(default) + 10


def test_the_socket_has_the_address_of_the_configuration_that_is_installed():
    assert "config/minimal.yaml /etc/seawall/seawall.yaml" in (DEPLOY / "README.md").read_text()
    listeners = yaml.safe_load((ROOT / "config/minimal.yaml").read_text())["listeners"]
    socket = unit("seawall.socket")["Socket"]
    assert [socket["ListenStream"]] == [one["address"] for one in listeners]
    assert socket["ReusePort"] == "no"


def test_a_socket_of_systemd_is_served_and_the_first_connection_waits_for_it(processes, events, port, tmp_path):
    uvicorn(processes, events, port)
    listen, admin = free_port(), free_port()
    config = tmp_path / "seawall.yaml"
    config.write_text(
        f'listeners: [{{ address: "127.0.0.1:{listen}" }}]\nadmin: {{ address: "127.0.0.1:{admin}" }}\n'
        f'upstreams: {{ app: {{ endpoints: ["http://127.0.0.1:{port}"] }} }}\nroutes: [{{ upstream: app }}]\n'
    )
    argv = ["systemd-socket-activate", f"--listen=127.0.0.1:{listen}", BINARY, "-c", config]
    activated = processes.start("activated", argv)
    until(lambda: "Listening on" in activated.text(), "systemd listens")
    # It is started by this request, which waits meanwhile.
    answer = http1.get(listen, "/ok")
    assert (answer.status, answer.complete) == (200, True)
    until(lambda: http1.operate(admin, "/readyz").status == 200, "every worker serves")
    assert "cannot be used" not in activated.text()
    assert activated.terminate() == 0
