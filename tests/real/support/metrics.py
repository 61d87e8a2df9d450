"""A scrape of /metrics, to be added up."""

import re
from collections import Counter

_LINE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? (\S+)$")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')


class Metrics:
    """Samples by name and labels."""

    def __init__(self, text):
        self.samples = []
        for line in text.splitlines():
            if line and not line.startswith("#"):
                found = _LINE.match(line)
                assert found, f"not the Prometheus text format: {line!r}"
                name, labels, value = found.groups()
                self.samples.append((name, dict(_LABEL.findall(labels or "")), float(value)))

    def by(self, name, label, **only):
        """Sums per value of one label, without the zeros; `only` fixes other labels."""
        sums = Counter()
        for sample, labels, value in self.samples:
            if sample == name and all(labels.get(key) == wanted for key, wanted in only.items()):
                sums[labels.get(label)] += int(value)
        return Counter({key: value for key, value in sums.items() if value})

    def total(self, name, **only):
        """The sum of all samples of this name with these labels."""
        return sum(self.by(name, None, **only).values())

    def has(self, name, **only):
        """Whether such a sample exists, be it 0."""
        return any(
            sample == name and all(labels.get(key) == wanted for key, wanted in only.items())
            for sample, labels, _ in self.samples
        )
