"""Some seconds of the soak (benches/soak/run.py): faults on both sides, and everything is accounted for."""

import sys

from support.processes import REAL
from support.seawall import BINARY

sys.path.insert(0, str(REAL.parents[1] / "benches/soak"))

from run import soak  # noqa: E402


def test_every_request_is_accounted_for_and_nothing_stays_behind():
    figures, broken = soak(BINARY.resolve(), 15, clients=32, seed=7)
    assert broken == []
    # It was a soak: each fault came, and clients got every kind of end.
    assert len(figures["faults"]) == 23 and figures["kills"] >= 2, figures
    assert {"whole", "cut off", "500, named"} <= set(figures["outcomes"]), figures
    assert {1000, 1002, 1011} <= set(figures["closes"]), figures
