#!/usr/bin/env python3
"""Makes docs/images anew: the admin page of `seawall demo`, in a headless Chromium, light and dark.

    tests/install.sh && cargo build --release
    tests/.venv/bin/python docs/screenshots.py [--minutes 4]

Faults come and go meanwhile, so that the charts have something to show. SEAWALL_BIN names another seawall. Look at what
was made before it is committed: docs/images has no other source.
"""

import argparse
import base64
import contextlib
import itertools
import re
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests/real"))

from support import http1  # noqa: E402
from support.browser import Browser  # noqa: E402
from support.processes import Processes  # noqa: E402
from support.seawall import BINARY  # noqa: E402
from support.waiting import until  # noqa: E402

IMAGES = ROOT / "docs/images"
MOST = 200 * 1024
WIDTH, HEIGHT = 1240, 1480

# What an afternoon may bring: mostly nothing, now and then a crash, then a database that is away for a while.
QUIET = ["healthy"] * 12 + ["json-500"]
CRASHES = ["healthy"] * 6 + ["crash", "crash-in-body", "healthy", "stack-trace"]
DATABASE = ["healthy"] * 3 + ["postgres"] * 5 + ["hang"]


def stories(minutes):
    """What is asked for at each moment, in order: (seconds, faults)."""
    yield from ((minutes * 60 * share, faults) for share, faults in [
        (0.35, QUIET), (0.15, CRASHES), (0.2, QUIET), (0.2, DATABASE), (0.1, CRASHES)
    ])


def live(port, minutes):
    for seconds, faults in stories(minutes):
        end = time.monotonic() + seconds
        for fault in itertools.cycle(faults):
            if time.monotonic() > end:
                break
            with contextlib.suppress(OSError, AssertionError):
                http1.get(port, f"/fault/{fault}")
            time.sleep(0.15)


def picture(browser, scheme):
    browser.look_like(WIDTH, HEIGHT, scheme)
    time.sleep(1.5)
    wanted = {"format": "webp", "quality": 82}
    data = base64.b64decode(browser.devtools("Page.captureScreenshot", wanted)["data"])
    assert len(data) <= MOST, f"{scheme}: {len(data)} bytes"
    (IMAGES / f"admin-{scheme}.webp").write_bytes(data)
    print(f"docs/images/admin-{scheme}.webp: {len(data) // 1024} KiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=4, help="how long faults come and go before (4)")
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory() as directory:
        processes = Processes(Path(directory))
        try:
            demo = processes.start("demo", [BINARY, "demo"])

            def invited():
                assert demo.running(), demo.text()[-2000:]
                return [re.search(rf"http://127\.0\.0\.1:(\d+)/{what}", demo.text()) for what in ("  a page", "  what operators")]

            client, admin = (int(found[1]) for found in until(lambda: all(invited()) and invited(), "the demo runs", seconds=60))
            live(client, minutes)
            browser = Browser(processes)
            try:
                browser.look_like(WIDTH, HEIGHT)
                browser.devtools("Emulation.setScrollbarsHidden", {"hidden": True})
                browser.open(f"http://127.0.0.1:{admin}/")
                browser.wait("return document.querySelector('#entries summary')", "the journal is shown")
                for scheme in ("light", "dark"):
                    picture(browser, scheme)
            finally:
                browser.end()
        finally:
            processes.end()


if __name__ == "__main__":
    main()
