"""The journal's file: what failed is known after a crash, a restart and a takeover, and in a terminal."""

import json
import os
import signal
import subprocess

import pytest

from support import http1
from support.load import Load
from support.processes import free_port
from support.seawall import BINARY
from support.waiting import until

_MESSAGE = "another process has taken over; leaving"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "failures.jsonl"


def with_file(file, more=""):
    return f"journal: {{ file: {file}{more} }}"


def fail(seawall, count):
    """So many requests that find nobody; their ids."""
    return [http1.get(seawall.port, f"/{number}").get("x-request-id") for number in range(count)]


def remembered(seawall):
    """The ids in the journal, oldest first."""
    return [entry["request_id"] for entry in reversed(json.loads(seawall.journal()))]


def written(file):
    """The ids in the file."""
    return [json.loads(line)["request_id"] for line in file.read_text().splitlines()]


def failures(*arguments):
    argv = [BINARY, "failures", *map(str, arguments)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    return done.returncode, done.stdout, done.stderr


def test_what_failed_before_a_crash_is_remembered_after_it(processes, port, start_seawall, file):
    first = start_seawall(port, more=with_file(file))
    before = fail(first, 5)
    until(lambda: file.exists() and len(written(file)) == 5, "all are written")
    first.process.kill()
    second = start_seawall(port, more=with_file(file))
    assert remembered(second) == before
    after = fail(second, 3)
    assert remembered(second) == before + after
    numbers = [entry["number"] for entry in json.loads(second.journal())]
    assert numbers == list(range(7, -1, -1)), "they go on where the first one stopped"
    second.stop()
    assert written(file) == before + after, "an end in order leaves nothing unwritten"
    assert file.stat().st_mode & 0o777 == 0o600


def test_the_file_is_read_in_a_terminal_without_a_seawall(processes, port, start_seawall, file):
    seawall = start_seawall(port, more=with_file(file))
    ids = fail(seawall, 4)
    seawall.stop()
    code, text, _ = failures("--file", file, "--limit", 3)
    assert (code, [line.split()[-1] for line in text.splitlines()]) == (0, ids[1:])
    code, text, _ = failures("--file", file, "--id", ids[2], "--json")
    assert [json.loads(line)["request_id"] for line in text.splitlines()] == [ids[2]]
    assert failures("--file", file, "--kind", "dns_error") == (0, "", "")
    code, text, stderr = failures("--file", file.with_name("absent"))
    assert (code, text) == (1, "") and "cannot read the journal" in stderr

    following = processes.start("following", [BINARY, "failures", "--file", file, "--follow"])
    until(lambda: ids[-1] in following.text(), "the last ones are printed")
    seawall = start_seawall(port, more=with_file(file))
    (later,) = fail(seawall, 1)
    until(lambda: later in following.text(), "what comes later as well")
    assert following.text().count(later) == 1
    following.terminate()


def test_files_are_bounded_and_followed_through_their_renaming(processes, port, start_seawall, file):
    seawall = start_seawall(port, more=with_file(file, ", file_size: 64KiB, files: 2"))
    ids = fail(seawall, 10)
    until(lambda: len(written(file)) == 10, "the first are written")
    following = processes.start("following", [BINARY, "failures", "--file", file, "--follow", "-n", "5"])
    until(lambda: ids[-1] in following.text(), "it follows")
    while not file.with_name(file.name + ".1").exists():
        ids += fail(seawall, 50)
    ids += fail(seawall, 1)
    until(lambda: ids[-1] in following.text(), "it has seen the last")
    missing = [one for one in ids[10:] if following.text().count(one) != 1]
    assert missing == [], "each one once, through the renaming"
    following.terminate()
    until(lambda: ids[-1] in written(file), "the last is written")
    files = sorted(path.name for path in file.parent.glob(file.name + "*"))
    assert files == [file.name, file.name + ".1"]
    assert all(file.with_name(name).stat().st_size <= 64 * 1024 for name in files)
    seawall.process.kill()
    again = start_seawall(port, more=with_file(file, ", file_size: 64KiB, files: 2"))
    assert remembered(again) == ids[-len(remembered(again)) :]
    assert len(remembered(again)) > len(written(file)), "of the renamed one, too"


def test_a_full_disk_costs_no_request_and_is_said_once(port, start_seawall, file):
    file.symlink_to("/dev/full")
    seawall = start_seawall(port, more=with_file(file))
    with Load(seawall.port) as load:
        load.more(50)
    assert set(load.statuses) == {500} and load.broken == []
    dropped = "seawall_journal_dropped_total"
    until(lambda: seawall.now().total(dropped, reason="write") == len(load.statuses), "what is lost is counted")
    assert len(seawall.process.says("the journal cannot be written")) == 1
    assert len(remembered(seawall)) == len(load.statuses), "and in memory all the same"
    # The disk is changed: the file is made anew.
    file.unlink()
    (later,) = fail(seawall, 1)
    until(lambda: fail(seawall, 1) and file.exists() and written(file), "it is written again")
    assert later in remembered(seawall)
    assert len(seawall.process.says("the journal is written again")) == 1


def test_a_folder_that_is_not_there_ends_the_start_with_a_remedy(tmp_path, port):
    config = tmp_path / "seawall.yaml"
    config.write_text(
        f"listeners: [{{ address: 127.0.0.1:{free_port()} }}]\nadmin: {{ address: off }}\n"
        f"upstreams: {{ app: {{ endpoints: [http://127.0.0.1:{port}] }} }}\nroutes: [{{ upstream: app }}]\n"
        "journal: { file: absent/failures.jsonl }\n"
    )
    done = subprocess.run([BINARY, "-c", config], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert f"{tmp_path}/absent/failures.jsonl (journal.file) cannot be used; make its folder" in done.stderr


def test_a_takeover_loses_no_entry(processes, port, start_seawall, file):
    seawall = start_seawall(port, more=with_file(file))
    pid = seawall.process.pid
    ids = fail(seawall, 3)
    for number in range(3):
        os.kill(pid, signal.SIGUSR2)
        told = seawall.process.says(_MESSAGE, number + 1)
        pid = json.loads(told[-1])["pid"]
        ids += fail(seawall, 3)
    until(lambda: set(written(file)) == set(ids), "all are in the file")
    assert len(written(file)) == len(ids), "each one once"
    os.kill(pid, signal.SIGTERM)
    assert len(seawall.process.says('"stopped"', 4)) == 4, "all have ended in order"
