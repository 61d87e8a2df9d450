"""Steady requests beside what a test does."""

import threading

from . import http1
from .waiting import until


class Load:
    """Steady GETs on a few connections that stay open; remembers every status."""

    def __init__(self, port, clients=4, pause=0.02):
        self.port, self.pause = port, pause
        self.statuses, self.broken = [], []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self):
        try:
            with http1.Client(self.port) as client:
                while not self._stop.wait(self.pause):
                    self.statuses.append(client.request("GET", "/").status)
        except (AssertionError, OSError) as error:
            self.broken.append(error)

    def more(self, count):
        """Waits until so many more requests were answered."""
        goal = len(self.statuses) + count
        until(lambda: len(self.statuses) >= goal or self.broken, f"{count} more answers")

    def is_well(self):
        assert (set(self.statuses), self.broken) == ({200}, [])
