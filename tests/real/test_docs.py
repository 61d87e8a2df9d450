"""Configurations in docs/: each is one that its program accepts.

A fenced block says whose it is: `yaml seawall`, `nginx`, `haproxy`, `yaml envoy`, `caddyfile` (unchecked), or `sh` and
the like, which are not configurations. Most show a part; what belongs around it is added here.
"""

import re
import subprocess
from pathlib import Path

import pytest
from support.seawall import BINARY

ROOT = Path(__file__).parents[2]
OTHERS = {"sh", "text", "console", "promql"}
_BLOCK = re.compile(r"^```([^\n`]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

# What a seawall needs beside what a block shows, unless it shows that.
_AROUND = {
    "listeners": 'listeners: [{ address: "127.0.0.1:8080" }]\n',
    "upstreams": 'upstreams: { app: { endpoints: ["http://127.0.0.1:3000"] } }\n',
    "routes": "routes: [{ upstream: app }]\n",
}


def blocks(language):
    """Every block of this language in docs/, named by page and line."""
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        text = page.read_text()
        for block in _BLOCK.finditer(text):
            if block[1] == language:
                line = text.count("\n", 0, block.start()) + 1
                found.append(pytest.param(block[2], id=f"{page.name}:{line}"))
    return found


def run(*argv):
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("shown", blocks("yaml seawall"))
def test_seawall_accepts_what_is_shown_for_it(shown, tmp_path):
    missing = "".join(text for key, text in _AROUND.items() if not re.search(rf"^{key}:", shown, re.MULTILINE))
    for name in re.findall(r"[\w/.-]+\.(?:token|secret)\b", shown):
        (tmp_path / name).write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "tls").symlink_to(ROOT / "config/tls")
    (tmp_path / "errors").symlink_to(ROOT / "config/errors")
    (tmp_path / "seawall.yaml").write_text(shown + missing)
    code, said = run(BINARY, "check", "-c", tmp_path / "seawall.yaml")
    assert code == 0, said


def test_every_block_of_the_docs_says_whose_it_is():
    known = OTHERS | {"yaml seawall", "yaml envoy", "nginx", "haproxy", "caddyfile", "yaml"}
    for page in sorted((ROOT / "docs").glob("*.md")):
        fences = re.findall(r"^```(.*)$", page.read_text(), re.MULTILINE)
        assert len(fences) % 2 == 0, page.name
        assert set(fences[::2]) <= known and set(fences[1::2]) <= {""}, page.name
