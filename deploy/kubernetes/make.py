#!/usr/bin/env python3
"""Prints base/prometheus-rule.yaml: the rules of deploy/prometheus/rules.yml as a PrometheusRule.

    deploy/kubernetes/make.py > deploy/kubernetes/base/prometheus-rule.yaml

The groups are copied as text, so that comments stay and nothing has to be installed.
"""

from pathlib import Path

RULES = Path(__file__).parents[1] / "prometheus" / "rules.yml"
HEAD = """\
# Made by ../make.py from ../../prometheus/rules.yml: change that file, then run it.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: seawall
  labels: { app.kubernetes.io/name: seawall }
spec:
"""


def main():
    groups = RULES.read_text().split("\ngroups:\n", 1)[1]
    lines = ["groups:", *groups.splitlines()]
    print(HEAD + "\n".join(f"  {line}" if line else "" for line in lines))


if __name__ == "__main__":
    main()
