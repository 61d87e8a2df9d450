"""The command line, as a user meets it."""

import json
import os
import signal
import socket
import subprocess

from support import http1
from support.processes import free_port, uvicorn
from support.seawall import BINARY
from support.waiting import until

FIVE_MISTAKES = """\
listeners:
  - address: 127.0.0.1:notaport
upstreams:
  app:
    endpoints: ["http://127.0.0.1:3000"]
    timeouts: { connect: 1 parsec }
    balanse: round_robin
routes:
  - upstream: ap
failures:
  app_errors: scrubb
"""
# One per mistake: its line, and what its message quotes.
MISTAKES = {2: "notaport", 6: "parsec", 7: "balanse", 9: "ap", 11: "scrubb"}


def seawall(*arguments, cwd):
    return subprocess.run(
        [BINARY, *arguments],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=20,
    )


def test_without_arguments_three_lines_say_what_to_do(tmp_path):
    done = seawall(cwd=tmp_path)
    lines = (done.stdout + done.stderr).strip().splitlines()
    assert done.returncode != 0, "nothing was served"
    assert len(lines) == 3, lines
    assert any("--upstream" in line for line in lines)
    assert any("-c" in line for line in lines)


def test_help_names_every_command(tmp_path):
    done = seawall("--help", cwd=tmp_path)
    assert done.returncode == 0
    for word in ("check", "schema", "demo", "failures", "ready", "--upstream", "--listen", "--config"):
        assert word in done.stdout, word


def test_five_mistakes_are_five_errors_with_their_lines(tmp_path):
    (tmp_path / "bad.yaml").write_text(FIVE_MISTAKES)
    done = seawall("check", "-c", "bad.yaml", cwd=tmp_path)
    output = done.stdout + done.stderr
    assert done.returncode != 0
    messages = [line for line in output.splitlines() if line.startswith("bad.yaml:")]
    assert len(messages) == 5, output
    for message, (number, word) in zip(messages, MISTAKES.items(), strict=True):
        assert message.startswith(f"bad.yaml:{number}:")
        assert word in message
    assert output.count("did you mean") == 3, "a remedy for what is almost right"
    assert "5 errors in bad.yaml" in output


def test_a_bad_file_is_not_served(tmp_path):
    (tmp_path / "bad.yaml").write_text(FIVE_MISTAKES)
    done = seawall("-c", "bad.yaml", cwd=tmp_path)
    assert done.returncode != 0
    assert "bad.yaml:7:" in done.stdout + done.stderr


def test_a_good_file_is_said_to_be_good(tmp_path):
    (tmp_path / "good.yaml").write_text(
        'listeners: [{ address: "127.0.0.1:8080" }]\n'
        'upstreams: { app: { endpoints: ["http://127.0.0.1:3000"] } }\n'
        "routes: [{ upstream: app }]\n"
    )
    done = seawall("check", "-c", "good.yaml", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_schema_is_a_json_schema(tmp_path):
    done = seawall("schema", cwd=tmp_path)
    assert done.returncode == 0
    schema = json.loads(done.stdout)
    assert "json-schema.org" in schema["$schema"]
    assert {"listeners", "upstreams", "routes"} <= schema["properties"].keys()


def test_a_reader_that_has_gone_is_nobodys_mistake(tmp_path):
    (tmp_path / "bad.yaml").write_text(FIVE_MISTAKES)
    for words, code in [(["schema"], 0), (["check", "-c", "bad.yaml"], 1), ([], 2), (["-c", "bad.yaml"], 1)]:
        read, write = os.pipe()
        os.close(read)
        argv = [BINARY, *words]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=write, stderr=write, cwd=tmp_path, timeout=20)
        os.close(write)
        assert done.returncode == code, f"{words} ended with {done.returncode}"


def test_one_upstream_needs_no_file(processes, events, port, tmp_path):
    uvicorn(processes, events, port)
    own = free_port()
    argv = [BINARY, "--upstream", f"http://127.0.0.1:{port}", "--listen", f"127.0.0.1:{own}"]
    running = processes.start("seawall", argv, cwd=tmp_path).wait_for_port(own)
    assert http1.get(own, "/ok").content == b"ok"
    assert running.terminate() == 0


def test_ready_tells_by_its_exit_code_whether_seawall_serves(processes, port, start_seawall, tmp_path):
    def ready(admin):
        argv = [BINARY, "ready", "--url", f"http://127.0.0.1:{admin}"]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)

    running = start_seawall(port, drain="20s")
    assert (ready(running.admin).returncode, ready(running.admin).stderr) == (0, "")
    # A request that never ends keeps it draining.
    with socket.create_server(("127.0.0.1", port)) as silent, http1.Client(running.port) as client:
        client.send("GET", "/")
        with silent.accept()[0]:
            running.process.child.send_signal(signal.SIGTERM)
            until(lambda: ready(running.admin).returncode == 1, "it says that it drains")
            assert "answers 503" in ready(running.admin).stderr
    assert running.process.child.wait(20) == 0
    gone = ready(running.admin)
    assert gone.returncode == 1 and "no seawall answers" in gone.stderr
