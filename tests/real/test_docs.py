"""Configurations in docs/: each is one that its program accepts.

A fenced block says whose it is: `yaml seawall`, `nginx`, `haproxy`, `yaml envoy`, `caddyfile` (unchecked), or `sh` and
the like, which are not configurations. Most show a part; what belongs around it is added here.
"""

import json
import re
import subprocess
import textwrap
from pathlib import Path

import pytest
import yaml
from support.manifests import TOOLS
from support.processes import free_port
from support.seawall import BINARY

ROOT = Path(__file__).parents[2]
OTHERS = {"sh", "text", "console", "promql"}
# In a list, a block is indented.
_BLOCK = re.compile(r"^( *)```([^\n`]+)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)

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
            if block[2] == language:
                line = text.count("\n", 0, block.start()) + 1
                found.append(pytest.param(textwrap.dedent(block[3]), id=f"{page.name}:{line}"))
    return found


def run(*argv):
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def files(directory):
    """The certificates and pages that blocks name: `tls/site.pem` is a chain with its key, as HAProxy has it."""
    (directory / "tls").mkdir()
    for name in ("example.crt", "example.key"):
        (directory / "tls" / name).write_text((ROOT / "config/tls" / name).read_text())
    both = [(directory / "tls" / name).read_text() for name in ("example.crt", "example.key")]
    (directory / "tls/site.pem").write_text("".join(both))
    (directory / "errors").symlink_to(ROOT / "config/errors")
    return directory


@pytest.mark.parametrize("shown", blocks("yaml seawall"))
def test_seawall_accepts_what_is_shown_for_it(shown, tmp_path):
    missing = "".join(text for key, text in _AROUND.items() if not re.search(rf"^{key}:", shown, re.MULTILINE))
    for name in re.findall(r"[\w/.-]+\.(?:token|secret)\b", shown):
        (tmp_path / name).write_text("0123456789abcdef0123456789abcdef\n")
    (files(tmp_path) / "seawall.yaml").write_text(shown + missing)
    code, said = run(BINARY, "check", "-c", tmp_path / "seawall.yaml")
    assert code == 0, said


def test_every_block_of_the_docs_says_whose_it_is():
    known = OTHERS | {"yaml seawall", "yaml envoy", "nginx", "haproxy", "caddyfile", "yaml"}
    for page in sorted((ROOT / "docs").glob("*.md")):
        fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
        assert len(fences) % 2 == 0, page.name
        assert set(fences[::2]) <= known and set(fences[1::2]) <= {""}, page.name


@pytest.mark.parametrize("shown", blocks("nginx"))
def test_nginx_accepts_what_is_shown_for_it(shown, tmp_path):
    # A test of nginx binds: to a free port of loopback instead.
    shown = re.sub(r"listen (80|443)\b", lambda _: f"listen 127.0.0.1:{free_port()}", shown)
    own = "".join(f"{kind}_temp_path temp;\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    around = f"pid nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{own}{shown}}}\n"
    (files(tmp_path) / "nginx.conf").write_text(around)
    code, said = run("nginx", "-t", "-p", tmp_path, "-c", tmp_path / "nginx.conf", "-e", "stderr")
    assert code == 0 and "[warn]" not in said, said


@pytest.mark.parametrize("shown", blocks("haproxy"))
def test_haproxy_accepts_what_is_shown_for_it(shown, tmp_path):
    defaults = "defaults\n    mode http\n    timeout connect 1s\n    timeout client 30s\n    timeout server 30s\n\n"
    if not re.search("^defaults", shown, re.MULTILINE):
        # After `global`, before the first section that takes them.
        shown = re.sub(r"^(?=frontend|backend)", defaults, shown, count=1, flags=re.MULTILINE)
    if "frontend" not in shown:
        [backend] = re.findall(r"^backend (\w+)", shown, re.MULTILINE)
        shown += f"\nfrontend around\n    bind 127.0.0.1:8080\n    default_backend {backend}\n"
    (files(tmp_path) / "haproxy.cfg").write_text(shown)
    code, said = run("haproxy", "-c", "-f", tmp_path / "haproxy.cfg", "-C", tmp_path)
    assert code == 0 and "[WARNING]" not in said, said


def bootstrap(shown):
    """A whole configuration of Envoy around what a block shows."""
    given = yaml.safe_load(shown)
    assert given.keys() <= {"routes", "clusters", "connection_manager"}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": 8080}}
    place = {"endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}], "cluster_name": "app"}
    clusters = given.get("clusters", [{"name": "app", "connect_timeout": "1s", "load_assignment": place}])
    names = [one["name"] for one in clusters]
    routes = given.get("routes", [{"match": {"prefix": "/"}, "route": {"cluster": names[0]}}])
    kind = "type.googleapis.com/envoy.extensions.filters."
    manager = {
        "@type": f"{kind}network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "web",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": f"{kind}http.router.v3.Router"}}],
        **given.get("connection_manager", {}),
    }
    filters = [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]
    listener = {"name": "web", "address": address, "filter_chains": [{"filters": filters}]}
    return {"static_resources": {"listeners": [listener], "clusters": clusters}}


@pytest.mark.parametrize("shown", blocks("yaml envoy"))
def test_envoy_accepts_what_is_shown_for_it(shown, tmp_path):
    (files(tmp_path) / "envoy.json").write_text(json.dumps(bootstrap(shown)))
    argv = [TOOLS / "envoy", "--mode", "validate", "-c", "envoy.json", "--log-level", "warning"]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "deprecated" not in done.stderr.lower(), done.stdout + done.stderr


def test_every_pair_of_the_guide_is_complete():
    text = (ROOT / "docs/migrating.md").read_text()
    for heading in ("A plain proxy", "WebSockets", "Several servers and health checks", "Timeouts",
                    "Sizes and buffering", "TLS", "Error pages", "Retries", "Limits", "Forwarded fields"):
        section = text.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        assert re.findall(r"^```(.+)$", section, re.MULTILINE) == ["nginx", "haproxy", "yaml envoy", "yaml seawall"], heading


def test_pictures_are_there_small_and_told_in_words():
    readme = (ROOT / "README.md").read_text()
    named = set(re.findall(r'(?:src|srcset)="(docs/images/[^"]+)"', readme))
    assert named == {f"docs/images/{path.name}" for path in (ROOT / "docs/images").iterdir()}
    assert all((ROOT / path).stat().st_size < 200 * 1024 for path in named)
    assert all(len(re.search(r'alt="([^"]+)"', image)[1]) > 40 for image in re.findall("<img [^>]+>", readme))
