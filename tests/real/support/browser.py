"""Headless Chromium, driven through ChromeDriver's own WebDriver protocol (no driver library)."""

import json
import shutil
import tempfile
import urllib.error
import urllib.request

from .processes import free_port
from .waiting import until

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
_ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    # The tests make their own certificates.
    "--ignore-certificate-errors",
    # Nothing of the browser's own may go to the network.
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-proxy-server",
)


class Browser:
    """One browser with an empty profile and one window."""

    def __init__(self, processes):
        self._profile = tempfile.mkdtemp(prefix="seawall-chromium-")
        self._port = free_port()
        processes.start("chromedriver", ["chromedriver", f"--port={self._port}"]).wait_for_port(self._port)
        binary = next(filter(None, map(shutil.which, _CHROMIUM)))
        options = {"binary": binary, "args": [*_ARGUMENTS, f"--user-data-dir={self._profile}"]}
        wanted = {"capabilities": {"alwaysMatch": {"browserName": "chrome", "goog:chromeOptions": options}}}
        self._session = self._call("POST", "", wanted)["sessionId"]

    def open(self, url):
        self._call("POST", f"/{self._session}/url", {"url": url})

    def run(self, script):
        """The value of a script such as `return window.closed`."""
        return self._call("POST", f"/{self._session}/execute/sync", {"script": script, "args": []})

    def wait(self, script, what):
        """The first true value of the script."""
        return until(lambda: self.run(script), what)

    def look_like(self, width, height, scheme="light"):
        """Gives the window this size in CSS pixels, and the user this preference."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.devtools("Emulation.setDeviceMetricsOverride", size)
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.devtools("Emulation.setEmulatedMedia", media)

    def press(self, *keys):
        """Presses keys of the keyboard one after the other, by their names in DevTools: Tab, Enter, a."""
        for key in keys:
            text = {"text": "\r" if key == "Enter" else key} if key == "Enter" or len(key) == 1 else {}
            code = {"Tab": 9, "Enter": 13}.get(key, 0)
            event = {"key": key, "code": key, "windowsVirtualKeyCode": code, **text}
            self.devtools("Input.dispatchKeyEvent", {"type": "keyDown", **event})
            self.devtools("Input.dispatchKeyEvent", {"type": "keyUp", **event})

    def devtools(self, command, parameters):
        """The answer to a command of the DevTools protocol."""
        return self._call("POST", f"/{self._session}/goog/cdp/execute", {"cmd": command, "params": parameters})

    def end(self):
        self._call("DELETE", f"/{self._session}", None)
        shutil.rmtree(self._profile, ignore_errors=True)

    def _call(self, method, path, body):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self._port}/session{path}",
            data=json.dumps(body).encode() if body is not None else None,
            headers={"Content-Type": "application/json"},
            method=method,
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"WebDriver: {error.read().decode(errors='replace')[:600]}") from error
