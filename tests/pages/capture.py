"""Starts real apps that fail, and keeps the error pages that their frameworks make.

    tests/.venv/bin/python tests/pages/capture.py [NAME ...]

Every page is written as it came to tests/pages/captured/LABEL/NAME.{html,txt,json}: LABEL is what seawall has to
call it, or `ordinary` for answers that are no debug pages. Paths of the machine, ports and host names are replaced
by neutral ones, and a page ends after 60 KiB. tests/pages.rs judges what is there; this script runs only when a
page is to be added or renewed, and README.md beside it tells what it needs.
"""

import contextlib
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
APPS, CAPTURED, NODE = HERE / "apps", HERE / "captured", HERE.parent / "real/node_modules"
LIMIT = 60 * 1024
TEXT, HTML, JSON = {"Accept": "text/plain"}, {"Accept": "text/html"}, {"Accept": "application/json"}
PORT = "PORT"
LOCAL = {"Host": f"127.0.0.1:{PORT}"}  # for servers that look at it

JARS = "/usr/share/java"


def jars(*patterns):
    found = [str(jar) for pattern in patterns for jar in sorted(Path(JARS).glob(pattern))]
    assert found, patterns
    return ":".join(found)


def python(app, *mode):
    return [sys.executable, APPS / f"{app}.py", PORT, *mode]


def node(app, *mode):
    return ["node", APPS / f"{app}.js", PORT, *mode]


def ruby(app, *mode):
    return ["ruby", APPS / f"{app}.rb", PORT, *mode]


def php(app, **settings):
    options = [part for name, value in settings.items() for part in ("-d", f"{name}={value}")]
    return ["php", *options, "-S", f"127.0.0.1:{PORT}", APPS / f"{app}.php"]


def tomcat(mode):
    path = jars("tomcat10-*.jar", "tomcat10-embed-*.jar")
    return ["java", "-cp", path, APPS / "TomcatApp.java", PORT, mode]


def jetty(mode):
    path = jars("jetty9-*.jar", "spring3-*.jar", "commons-logging.jar", "servlet-api-*.jar", "servlet-api.jar")
    return ["java", "-cp", path, APPS / "JettyApp.java", PORT, mode]


def built(work, compiler, source, binary, run=()):
    """Compiles a source and returns the command that runs it."""
    shutil.copy(APPS / source, work)
    subprocess.run([part.format(source=source, binary=binary) for part in compiler], cwd=work, check=True, env=ENV)
    return [*run, work / binary, PORT]


def go(work):
    return built(work, ["go", "build", "-o", "{binary}", "{source}"], "go_app.go", "go_app")


def rust(work):
    return built(work, ["rustc", "-g", "-o", "{binary}", "{source}"], "rust_app.rs", "rust_app")


def mono(work):
    compiler = ["mcs", "-debug", "-r:System.Web", "-out:{binary}", "{source}"]
    command = built(work, compiler, "mono_app.cs", "mono_app.exe", ["mono", "--debug"])
    # ASP.NET loads the program once more, from bin/ of what it serves.
    (work / "bin").mkdir()
    shutil.copy(work / "mono_app.exe", work / "bin")
    shutil.copy(APPS / "boom.aspx", work)
    return [*command, work]


SHOWN = {"display_errors": 1, "log_errors": 0}
HIDDEN = {"display_errors": 0, "log_errors": 0}

# What is run, and of its answers: label, name, path, request fields.
PLAN = {
    "django-debug": (python("django_app", "debug"), {}, [
        ("django", "debug.html", "/boom", HTML),
        ("django", "debug-of-a-chained-error.html", "/chained", HTML),
        ("django", "debug-of-a-template.html", "/template", HTML),
        ("django", "debug-for-programs.txt", "/boom", JSON),
        ("python", "django-own-page.txt", "/streamed", TEXT),
    ]),
    "django": (python("django_app", "production"), {}, [
        ("ordinary", "django.html", "/boom", HTML),
        ("ordinary", "django-deliberate.json", "/deliberate", JSON),
    ]),
    "flask-debug": (python("flask_app", "debug"), {}, [
        ("werkzeug", "debugger.html", "/boom", HTML),
        ("werkzeug", "debugger-for-programs.txt", "/boom", JSON),
    ]),
    "flask": (python("flask_app", "production"), {}, [
        ("ordinary", "flask.html", "/boom", HTML),
        ("ordinary", "flask-abort.html", "/unavailable", HTML),
        ("ordinary", "flask-deliberate.json", "/deliberate", JSON),
    ]),
    "flask-traced": (python("flask_app", "traced"), {}, [("python", "flask-handler.json", "/boom", JSON)]),
    "wsgi": (python("wsgi_app", "traced"), {}, [
        ("python", "wsgi.txt", "/boom", TEXT),
        ("python", "exception-group.txt", "/group", TEXT),
        ("python", "cgitb.html", "/cgitb", HTML),
    ]),
    "wsgi-production": (python("wsgi_app", "production"), {}, [("ordinary", "wsgiref.txt", "/boom", TEXT)]),
    "fastapi-debug": (python("fastapi_app", "debug"), {}, [
        ("python", "starlette-debug.html", "/boom", HTML),
        ("python", "starlette-debug-of-a-thread.html", "/sync", HTML),
        ("python", "starlette-debug.txt", "/boom", JSON),
    ]),
    "fastapi-traced": (python("fastapi_app", "traced"), {}, [("python", "fastapi-handler.json", "/boom", JSON)]),
    "fastapi": (python("fastapi_app", "production"), {}, [
        ("ordinary", "fastapi.txt", "/boom", TEXT),
        ("ordinary", "fastapi-http-exception.json", "/http-exception", JSON),
    ]),
    "express": (node("express_app"), {"NODE_PATH": NODE}, [
        ("node", "express.html", "/boom", HTML),
        ("node", "express-later.html", "/later", HTML),
    ]),
    "express-json": (node("express_app", "json"), {"NODE_PATH": NODE}, [("node", "express.json", "/boom", JSON)]),
    "express-production": (node("express_app"), {"NODE_PATH": NODE, "NODE_ENV": "production"}, [
        ("ordinary", "express.html", "/boom", HTML),
        ("ordinary", "express-deliberate.json", "/deliberate", JSON),
    ]),
    "node": (node("node_app"), {}, [
        ("node", "stack.txt", "/boom", TEXT),
        ("node", "inspected.txt", "/inspect", TEXT),
    ]),
    "php-html": (php("plain", html_errors=1, **SHOWN), {}, [
        ("php", "fatal.html", "/boom", HTML),
        ("php", "warnings.html", "/warning", HTML),
        ("php", "handler.json", "/json", JSON),
    ]),
    "php-text": (php("plain", html_errors=0, **SHOWN), {}, [
        ("php", "fatal.txt", "/boom", TEXT),
        ("php", "warnings.txt", "/warning", TEXT),
    ]),
    "symfony-debug": (php("symfony", **SHOWN), {"APP_DEBUG": "1"}, [("symfony", "debug.html", "/boom", HTML)]),
    "symfony": (php("symfony", **HIDDEN), {}, [("ordinary", "symfony.html", "/boom", HTML)]),
    "laravel-debug": (php("laravel", **SHOWN), {"APP_DEBUG": "1"}, [
        ("laravel", "debug.html", "/boom", HTML),
        ("laravel", "debug.json", "/boom", JSON),
    ]),
    "laravel": (php("laravel", **HIDDEN), {}, [
        ("ordinary", "laravel.html", "/boom", HTML),
        ("ordinary", "laravel.json", "/boom", JSON),
    ]),
    "rack": (ruby("rack_app"), {}, [
        ("ruby", "rack-show-exceptions.html", "/boom", HTML),
        ("ruby", "rack-show-exceptions.txt", "/boom", TEXT),
        ("ruby", "rack-handler.json", "/json", JSON),
        ("ruby", "full-message.txt", "/text", TEXT),
    ]),
    "webrick": (ruby("webrick_app"), {}, [("ruby", "webrick.html", "/boom", HTML)]),
    "sinatra": (ruby("sinatra_app"), {"APP_ENV": "development"}, [
        ("ruby", "sinatra.html", "/boom", HTML),
        ("ruby", "sinatra.txt", "/boom", TEXT),
    ]),
    "sinatra-production": (ruby("sinatra_app"), {"APP_ENV": "production"}, [("ordinary", "sinatra.html", "/boom", HTML)]),
    "rails": (ruby("rails_app", "development"), {}, [
        ("rails", "debug.html", "/boom", HTML),
        ("rails", "debug-of-a-template.html", "/template", HTML),
        ("rails", "debug-for-scripts.txt", "/boom", {"X-Requested-With": "XMLHttpRequest"}),
    ]),
    "rails-api": (ruby("rails_app", "development", "api"), {}, [("rails", "debug.json", "/boom", JSON)]),
    "rails-production": (ruby("rails_app", "production"), {}, [("ordinary", "rails.html", "/boom", HTML)]),
    "go": (go, {}, [
        ("go", "stack.txt", "/boom", TEXT),
        ("go", "stack.json", "/json", JSON),
        ("ordinary", "go.txt", "/error", TEXT),
    ]),
    "jdk": (["java", APPS / "JdkApp.java", PORT], {}, [("java", "jdk.txt", "/boom", TEXT)]),
    "tomcat": (tomcat("traced"), {}, [("java", "tomcat.html", "/boom", HTML)]),
    "tomcat-production": (tomcat("production"), {}, [("ordinary", "tomcat.html", "/boom", HTML)]),
    "jetty": (jetty("traced"), {}, [
        ("java", "jetty.html", "/plain", HTML),
        ("java", "jetty.json", "/plain", JSON),
        ("java", "jetty.txt", "/plain", TEXT),
        ("spring", "jetty.html", "/boom", HTML),
    ]),
    "jetty-production": (jetty("production"), {}, [
        ("java", "jetty-without-stack.html", "/plain", HTML),
        ("java", "jetty-without-stack.txt", "/plain", TEXT),
        ("spring", "jetty-without-stack.html", "/boom", HTML),
        ("spring", "jetty-without-stack.json", "/boom", JSON),
        ("ordinary", "jetty.html", "/plain?meant", HTML),
        ("ordinary", "jetty.json", "/plain?meant", JSON),
    ]),
    "mono": (mono, {}, [
        ("dotnet", "mono.txt", "/boom", TEXT | LOCAL),
        ("dotnet", "yellow-page-of-mono.html", "/boom.aspx", HTML | LOCAL),
    ]),
    "rust": (rust, {}, [
        ("rust", "backtrace.txt", "/boom", TEXT),
        ("rust", "message.txt", "/message", TEXT),
    ]),
}

# Debug pages show the environment: they get one in which nothing is worth showing.
ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/srv", "LANG": "C.UTF-8"}
ENV["PATH"] = f"{Path(shutil.which('rustc') or '/usr/bin/x').parent}:{ENV['PATH']}"
for name in ("RUSTUP_HOME", "CARGO_HOME"):
    ENV[name] = os.environ.get(name) or str(Path.home() / f".{name.split('_')[0].lower()}")


def neutral(page, port, work):
    """The page without what tells this machine from another."""
    places = {
        str(work): "/srv/app",
        str(APPS): "/srv/app",
        str(NODE): "/srv/app/node_modules",
        sysconfig.get_path("purelib"): "/srv/venv/lib/python3/site-packages",
        sysconfig.get_path("stdlib"): "/usr/lib/python3",
        sys.executable: "/srv/venv/bin/python",
        str(Path(sys.executable).parent.parent): "/srv/venv",
        str(HERE.parent.parent): "/srv",
        ENV["PATH"]: "/usr/bin",
        ENV["RUSTUP_HOME"]: "/usr/lib/rustup",
        ENV["CARGO_HOME"]: "/usr/lib/cargo",
        socket.gethostname(): "app",
    }
    for place in sorted(places, key=len, reverse=True):
        for shape in (str, lambda text: text.replace("/", "\\/"), lambda text: text.replace("/", "&#x2F;")):
            page = page.replace(shape(place).encode(), shape(places[place]).encode())
    return re.sub(rb"(?<!\d)%d(?!\d)" % port, b"8000", page)


def fetch(port, path, fields):
    """The error answer, and nothing else."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    with contextlib.closing(connection):
        fields = {"Host": "shop.example", "User-Agent": "capture"} | fields
        connection.request("GET", path, headers={name: value.replace(PORT, str(port)) for name, value in fields.items()})
        answer = connection.getresponse()
        page = answer.read()
    assert answer.status == 500, f"{path}: {answer.status} {page[:2000]!r}"
    return page


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(port, process, log):
    limit = time.monotonic() + 120
    while time.monotonic() < limit:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"nobody listens: {log.read_text(errors='replace')[-4000:]}")


def capture(name):
    command, env, pages = PLAN[name]
    with tempfile.TemporaryDirectory(prefix="pages-") as work:
        work = Path(work)
        port, log = free_port(), work / "log"
        parts = command(work) if callable(command) else command
        argv = [str(part).replace(PORT, str(port)) for part in parts]
        environment = ENV | {key: str(value) for key, value in env.items()}
        with log.open("wb") as sink:
            process = subprocess.Popen(argv, cwd=work, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink)
        try:
            wait_for(port, process, log)
            for label, file, path, fields in pages:
                page = neutral(fetch(port, path, fields), port, work)
                target = CAPTURED / label / file
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(page[:LIMIT])
                print(f"{target.relative_to(HERE)}: {len(page)} bytes", flush=True)
        finally:
            process.kill()
            process.wait(10)


if __name__ == "__main__":
    failed = []
    for chosen in sys.argv[1:] or PLAN:
        try:
            capture(chosen)
        except (AssertionError, OSError, subprocess.CalledProcessError, http.client.HTTPException) as error:
            failed.append(chosen)
            print(f"{chosen}: {error}", file=sys.stderr, flush=True)
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)
