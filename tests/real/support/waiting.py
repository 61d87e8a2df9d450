"""Waiting for events, never for luck: a condition is polled until it holds or its deadline passes."""

import time

# Only a test that fails waits so long.
DEADLINE = 60.0
_PAUSE = 0.01


def until(condition, what, seconds=DEADLINE):
    """Returns the first true value of `condition()`; fails naming `what` when the deadline passes."""
    limit = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > limit:
            raise AssertionError(f"after {seconds:.0f} s still not true: {what}")
        time.sleep(_PAUSE)
