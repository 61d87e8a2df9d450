"""How the test apps tell the tests what they have reached, and wait for leave to go on."""

import os
import time

_EVENTS = os.open(os.environ["EVENTS"], os.O_WRONLY | os.O_APPEND)


def announce(name, detail=""):
    """Appends an event. One write of a short line: whole even from many processes at once."""
    os.write(_EVENTS, f"{name} {detail}\n".encode())


def gate_is_open():
    """Whether the test lets waiting requests go on."""
    return os.path.exists(os.environ["GATE"])


def wait_at_gate(seconds=60):
    """Blocks until the test opens the gate; bounded, so that no process outlives its test for long."""
    limit = time.monotonic() + seconds
    while not gate_is_open() and time.monotonic() < limit:
        time.sleep(0.01)
