"""A real Prometheus of its own, asked over its API."""

import json
import math
import re
import shutil
import urllib.parse
from pathlib import Path

from . import http1
from .processes import free_port
from .waiting import until

DEPLOY = Path(__file__).parents[3] / "deploy" / "prometheus"
# What is waited for in production, and in a test. Every window stays longer than twenty scrapes.
_WINDOWS = {"5m": "6s", "10m": "7s", "30m": "8s", "1h": "10s", "6h": "12s"}


def hurried_rules(text):
    """The rules with short windows, so that alerts fire and end within seconds."""
    text = re.sub(r"\[(\w+)\]", lambda found: f"[{_WINDOWS[found[1]]}]", text)
    return re.sub(r"for: \w+", "for: 1s", text)


def hurried_config(text, targets):
    """The scrape configuration with a short interval and these targets."""
    text, intervals = re.subn(r"_interval: 15s", "_interval: 250ms", text)
    text, places = re.subn(r"targets: \[.*\]", f"targets: {json.dumps(targets)}", text)
    assert (intervals, places) == (2, 1), text
    return text


class Prometheus:
    """Scrapes `targets` with the shipped configuration and rules, hurried."""

    def __init__(self, processes, directory, targets):
        program = shutil.which("prometheus")
        assert program, "prometheus is missing: tests/install.sh"
        self.port = free_port()
        home = directory / "prometheus"
        home.mkdir()
        (home / "rules.yml").write_text(hurried_rules((DEPLOY / "rules.yml").read_text()))
        config = home / "prometheus.yml"
        config.write_text(hurried_config((DEPLOY / "prometheus.yml").read_text(), targets))
        argv = [program, f"--config.file={config}", f"--storage.tsdb.path={home / 'data'}", "--log.level=warn"]
        argv += [f"--web.listen-address=127.0.0.1:{self.port}"]
        processes.start("prometheus", argv).wait_for_port(self.port)
        until(lambda: http1.get(self.port, "/-/ready").status == 200, "Prometheus is ready")

    def _ask(self, path):
        answer = http1.get(self.port, f"/api/v1/{path}")
        content = json.loads(answer.content)
        assert content["status"] == "success", f"{path}: {content}"
        return content["data"]

    def values(self, expression):
        """The numbers that an expression gives now; NaN is none."""
        result = self._ask(f"query?query={urllib.parse.quote(expression)}")["result"]
        return [value for value in (float(sample["value"][1]) for sample in result) if not math.isnan(value)]

    def firing(self):
        """The names of the alerts that fire."""
        return {one["labels"]["alertname"] for one in self._ask("alerts")["alerts"] if one["state"] == "firing"}

    def rules(self):
        """Every rule, as Prometheus evaluated it."""
        return [rule for group in self._ask("rules")["groups"] for rule in group["rules"]]
