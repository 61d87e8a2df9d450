"""What clients saw, and what of it may never be: the ledger that seawall's metrics are compared with."""

import re
from collections import Counter
from dataclasses import dataclass, field

import upstream

# What a SIGKILL of the app, and its restart, may look like.
KILLED = {
    "connection_refused",
    "connection_terminated",
    "http_response_incomplete",
    "destination_unavailable",
    "http_upgrade_failed",
}


@dataclass
class Tally:
    """Each request is in exactly one of `statuses`, `left` and `unread`."""

    # By the status that the client read; `left` is who went away on purpose before the end.
    statuses: Counter = field(default_factory=Counter)
    left: int = 0
    # Answered 400 before there was a head, so that there is no time to tell.
    refused: int = 0
    errors: Counter = field(default_factory=Counter)
    handshake_errors: Counter = field(default_factory=Counter)
    cut: int = 0
    passed: int = 0
    closes: Counter = field(default_factory=Counter)
    websocket_faults: Counter = field(default_factory=Counter)
    # For people: what was asked for, what was injected, what came of it.
    asked: Counter = field(default_factory=Counter)
    injected: Counter = field(default_factory=Counter)
    outcomes: Counter = field(default_factory=Counter)
    bytes_checked: int = 0
    violations: list = field(default_factory=list)

    def wrong(self, what):
        if len(self.violations) < 50:
            self.violations.append(what)

    @property
    def requests(self):
        return self.statuses.total() + self.left

    def whole(self, answer):
        self.statuses[str(answer.status)] += 1
        self.bytes_checked += len(answer.content)

    def gone(self, fault):
        """The client of a request that seawall has read went away."""
        self.left += 1
        self.injected[f"client: {fault}"] += 1
        self.outcomes["the client left"] += 1

    def answered(self, what, plan, answer, kinds=None, may_be_cut=False):
        """Judges one answer by its plan. `kinds` are what a failure may be called, if not the plan's fault."""
        self.whole(answer)
        where = f"{what} {plan.number} ({plan.fault or 'healthy'}, {plan.framing}, {plan.size})"
        if plan.fault:
            self.injected[f"upstream: {plan.fault}"] += 1
            kinds, may_be_cut = upstream.FAULTS[plan.fault], plan.fault in upstream.IN_CONTENT
        if not answer.complete:
            self.cut += 1
            self.outcomes["cut off, and seen to be"] += 1
            if not may_be_cut:
                self.wrong(f"{where}: cut after {len(answer.content)} bytes, status {answer.status}")
            elif not plan.content.startswith(answer.content):
                self.wrong(f"{where}: other bytes before the cut")
        elif answer.status == 500 and not plan.own_error:
            kind = error_of(answer.fields)
            self.errors[kind] += 1
            self.outcomes["500"] += 1
            if kind not in (kinds or ()):
                self.wrong(f"{where}: 500 {kind}")
            if b"Traceback" in answer.content or b"127.0.0.1" in answer.content:
                self.wrong(f"{where}: it shows what failed: {answer.content[:200]!r}")
        elif plan.fault:
            self.wrong(f"{where}: a whole {answer.status} of {len(answer.content)} bytes")
        elif answer.content != plan.content:
            self.wrong(f"{where}: {len(answer.content)} bytes, {answer.status}, that are not the upstream's")
        else:
            self.passed += plan.own_error
            if answer.status != (500 if plan.own_error else 200):
                self.wrong(f"{where}: status {answer.status}")
            self.outcomes["whole, and byte for byte the upstream's"] += 1

    def closed(self, what, code, expected):
        """A WebSocket has ended for its client with this code; None if by the end of the connection alone."""
        self.statuses["101"] += 1
        self.closes[str(code)] += 1
        self.outcomes[f"WebSocket closed with {code}"] += 1
        if code not in expected:
            self.wrong(f"{what}: closed with {code}, not {expected}")

    def handshake_failed(self, what, answer, kinds):
        self.whole(answer)
        kind = error_of(answer.fields)
        self.handshake_errors[kind] += 1
        self.outcomes["500"] += 1
        if answer.status != 500 or not answer.complete or kind not in kinds:
            self.wrong(f"{what}: {answer.status} {kind} instead of a WebSocket")


def error_of(fields):
    found = re.search(r";\s*error=([a-z_]+)", fields.get("proxy-status", ""))
    return found.group(1) if found else None
