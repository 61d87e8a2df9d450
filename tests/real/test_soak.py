"""15 seconds of the soak test of benches/soak: mixed load, faults on both sides, and every request accounted for."""

import subprocess
import sys

from support.processes import REAL
from support.seawall import BINARY

RUN = REAL.parents[1] / "benches/soak/run.py"


def test_under_faults_on_both_sides_every_request_is_accounted_for_and_nothing_is_left_open():
    argv = [sys.executable, RUN, "--minutes", "0.25", "--clients", "32", "--seawall", BINARY]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert "Every request is accounted for." in done.stdout
