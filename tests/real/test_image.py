"""deploy/Dockerfile as far as it can be held to its word without Docker: what it copies builds, what it makes runs."""

import json
import re
import shutil
import subprocess

import pytest
import yaml
from support.manifests import ROOT, TOOLS
from support.seawall import BINARY

DOCKERFILE = ROOT / "deploy/Dockerfile"


def instructions():
    """(keyword, the rest) of each instruction, continued lines joined."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def of(keyword):
    return [" ".join(rest.split()) for word, rest in instructions() if word == keyword]


def copied():
    """What is copied from the repository: its path there."""
    each = [rest.split() for rest in of("COPY") if not rest.startswith("--from")]
    return [source for words in each for source in words[:-1]]


@pytest.fixture
def context(tmp_path):
    """What the build stage sees."""
    for rest in of("COPY"):
        if rest.startswith("--from"):
            continue
        *sources, place = rest.split()
        for source in sources:
            target = tmp_path / place / (source.split("/")[-1] if place.endswith("/") else "")
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if (ROOT / source).is_dir() else shutil.copy)(ROOT / source, target)
    return tmp_path


def test_hadolint_has_no_complaint():
    done = subprocess.run([TOOLS / "hadolint", DOCKERFILE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_everything_that_is_copied_is_there_and_nothing_else_is_sent():
    allowed = [line[1:] for line in (ROOT / "deploy/Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"]
    assert sorted(allowed) == sorted(copied())
    assert all((ROOT / path).exists() for path in copied())


def test_cargo_finds_every_target_in_what_is_copied(context):
    host = re.search(r"^host: (\S+)$", subprocess.check_output(["rustc", "-vV"], text=True), re.MULTILINE)[1]
    # Everything has been fetched for this platform, for others not.
    argv = ["cargo", "fetch", "--locked", "--offline", "--quiet", f"--target={host}"]
    done = subprocess.run(argv, cwd=context, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    for source in (context / "src").rglob("*.rs"):
        for path in re.findall(r'include(?:_str|_bytes)?!\(\s*"([^"]+)"', source.read_text()):
            assert (source.parent / path).exists(), f"{source} includes {path}"


def test_it_builds_with_the_toolchain_and_the_command_that_are_tested():
    pinned = re.search(r'channel = "([\d.]+)"', (ROOT / "rust-toolchain.toml").read_text())[1]
    base, last = of("FROM")
    assert base == f"rust:{pinned}-slim-bookworm AS build" and last == "scratch"
    assert f"RUSTUP_TOOLCHAIN={pinned}" in of("ENV")
    [built] = re.findall(r"cargo build [^&]+", "\n".join(of("RUN")))
    tested = re.search(r"^cargo build .*$", (ROOT / "tests/run.sh").read_text(), re.MULTILINE)[0]
    assert built.split() == tested.replace(" --quiet", "").split()


def test_it_runs_as_nobody_and_on_the_ports_of_its_configuration():
    said = yaml.safe_load((ROOT / "deploy/container.yaml").read_text())
    ports = [one["address"].rsplit(":", 1)[1] for one in [*said["listeners"], said["admin"]]]
    assert of("EXPOSE") == [" ".join(ports)] and of("USER") == ["65532:65532"]
    assert of("ENTRYPOINT") == ['["/usr/local/bin/seawall"]'] and of("CMD") == ['["-c", "/etc/seawall/seawall.yaml"]']


def test_its_health_check_asks_the_admin_listener_of_its_configuration():
    [check] = of("HEALTHCHECK")
    command = json.loads(check.split(" CMD ")[1])
    assert command == [*json.loads(of("ENTRYPOINT")[0]), "ready"]
    said = yaml.safe_load((ROOT / "deploy/container.yaml").read_text())
    shown = subprocess.run([BINARY, "ready", "--help"], capture_output=True, text=True, timeout=20).stdout
    assert f"[default: http://{said['admin']['address']}]" in " ".join(shown.split())


def test_what_is_in_the_image_is_all_that_the_program_needs(tmp_path):
    image = tmp_path / "image"
    subprocess.run(["sh", ROOT / "deploy/image.sh", BINARY, image], check=True, timeout=60)
    files = {"/" + str(path.relative_to(image)) for path in image.rglob("*") if path.is_file()}
    [loader] = [path for path in files if "/ld-linux" in path]
    libraries = {path for path in files if ".so" in path}
    rest = {"/usr/local/bin/seawall", "/etc/seawall/seawall.yaml", "/etc/ssl/certs/ca-certificates.crt"}
    assert files == libraries | rest | {"/etc/nsswitch.conf"}
    # The image's own loader, and no library but the image's.
    paths = ":".join(sorted({str((image / path[1:]).parent) for path in libraries}))
    argv = [image / loader[1:], "--inhibit-cache", "--library-path", paths, image / "usr/local/bin/seawall"]
    argv += ["check", "-c", image / "etc/seawall/seawall.yaml"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20)
    assert done.returncode == 0 and "is valid" in done.stdout, done.stdout + done.stderr
    listed = subprocess.run([*argv[:4], "--list", argv[4]], capture_output=True, text=True, timeout=20).stdout
    found = re.findall(r"=> (/\S+)", listed)
    assert len(found) >= 3 and all(path.startswith(str(image)) for path in found), listed
