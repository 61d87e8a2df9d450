"""The end of a soak: whether the books balance, and the tables."""

import time

MIB = 1 << 20
# What memory at rest may differ by after the first part and the last one: the allocator keeps some.
GROWTH = 6 * MIB


class Result:
    """What clients saw, beside what seawall says."""

    def __init__(self, options, tally, start, samples, rests, seconds):
        self.options, self.tally, self.start = options, tally, start
        self.samples, self.rests, self.seconds = samples, rests, seconds
        self.differences, self.end = {}, {}

    def settle(self, seawall):
        """Waits until what is still on its way has ended, and compares."""
        limit = time.monotonic() + 20
        while True:
            metrics = seawall.metrics()
            self.differences = {
                what: (expected, seen) for what, (expected, seen) in self.books(metrics).items() if expected != seen
            }
            if not self.differences or time.monotonic() > limit:
                break
            time.sleep(0.2)
        self.metrics = metrics
        # Idle connections to upstreams are closed after 2 s: then no file is open that was not at the start.
        files = seawall.files()
        limit = time.monotonic() + 10
        while (left := seawall.files()) != self.start["files"] and time.monotonic() < limit:
            time.sleep(0.2)
        self.end = {
            "files at once": files,
            "files": left,
            "threads": seawall.threads(),
            "memory": seawall.memory(),
        }

    def books(self, metrics):
        """(what clients saw, what seawall counted) by what it is about."""
        tally = self.tally
        statuses = metrics.by("seawall_requests_total", "status")
        read = {status: count for status, count in statuses.items() if status != "499"}
        left = statuses.total() - tally.statuses.total()
        # Who left got a 499, or had been sent all but the end already.
        hidden = sum(max(0, count - tally.statuses[status]) for status, count in read.items())
        missing = {status: count for status, count in tally.statuses.items() if read.get(status, 0) < count}
        failed = "seawall_failures_total"
        retried = metrics.total("seawall_retries_total", result="recovered")
        return {
            "requests": (tally.requests, statuses.total()),
            "requests timed": (tally.requests - tally.refused, metrics.total("seawall_request_seconds_count")),
            "requests of clients that left": (tally.left, left),
            "those of them that seawall could answer whole": (hidden, tally.left - statuses["499"]),
            "answers that clients read and seawall did not count": ({}, missing),
            "500s by kind": (tally.errors, metrics.by(failed, "kind", protocol="http", outcome="normalized")),
            "cut off": (tally.cut, metrics.total(failed, outcome="aborted")),
            "passed": (tally.passed, metrics.total(failed, outcome="passed")),
            "recovered": (retried, metrics.total(failed, outcome="recovered")),
            "WebSockets that failed": (
                tally.handshake_errors.total() + tally.closes["1011"],
                metrics.total(failed, protocol="websocket", outcome="normalized"),
            ),
            "WebSocket closes by code": (tally.closes, metrics.by("seawall_websocket_closes_total", "code")),
            "in flight": (0, metrics.total("seawall_requests_in_flight")),
            "open WebSockets": (0, metrics.total("seawall_websocket_sessions")),
            "open connections of clients": (0, metrics.total("seawall_client_connections")),
            "active connections to upstreams": (0, metrics.total("seawall_upstream_connections", state="active")),
            "internal errors": (0, metrics.total(failed, kind="proxy_internal_error")),
        }

    def wrong(self):
        wrong = list(self.tally.violations)
        wrong += [f"{what}: clients {seen}, seawall {counted}" for what, (seen, counted) in self.differences.items()]
        if self.end["files"] != self.start["files"]:
            wrong.append(f"{self.end['files']} open files, {self.start['files']} at the start")
        if self.end["threads"] != self.start["threads"]:
            wrong.append(f"{self.end['threads']} threads, {self.start['threads']} at the start")
        if self.rests[-1] > self.rests[0] + GROWTH:
            wrong.append(f"memory at rest grew: {', '.join(f'{memory / MIB:.1f}' for memory in self.rests)} MiB")
        return wrong

    def markdown(self):
        tally = self.tally
        minutes = f"{self.seconds / 60:.1f}"
        lines = [
            f"{minutes} minutes, {self.options.clients} clients at a time, seed {self.options.seed}: "
            f"{tally.requests:,} requests, {tally.statuses['101']:,} of them WebSockets; "
            f"{tally.bytes_checked / MIB:,.0f} MiB of content compared byte by byte; "
            f"{len(self.wrong())} differences between what clients saw and what seawall counted.",
        ]
        lines += table("injected", "times", tally.injected)
        lines += table("what clients got", "times", tally.outcomes)
        again = self.metrics.by("seawall_retries_total", "result")
        lines += ["", f"Sent again: {', '.join(f'{count:,} {result}' for result, count in sorted(again.items()))}."]
        peak = max(memory for _, memory, _ in self.samples)
        most = max(files for _, _, files in self.samples)
        mib = lambda size: f"{size / MIB:.1f} MiB"  # noqa: E731
        parts = len(self.rests)
        header = " | ".join(f"after {100 * (part + 1) // parts} %" for part in range(parts))
        lines += [
            "",
            f"| at rest | before the load | {header} | most under load |",
            f"| --- | --- |{' --- |' * parts} --- |",
            f"| memory (resident) | {mib(self.start['memory'])} | {' | '.join(map(mib, self.rests))} | {mib(peak)} |",
            f"| open files | {self.start['files']} |{' |' * (parts - 1)} {self.end['files']} | {most} |",
            f"| threads | {self.start['threads']} |{' |' * (parts - 1)} {self.end['threads']} | |",
        ]
        return "\n".join(lines)


def table(left, right, counter):
    lines = ["", f"| {left} | {right} |", "| --- | --- |"]
    return lines + [f"| {what} | {count:,} |" for what, count in sorted(counter.items())]


def write(file, name, text):
    """Puts the text between the marks of this name."""
    begin, end = f"<!-- begin: {name} -->", f"<!-- end: {name} -->"
    before, _, rest = file.read_text().partition(begin)
    _, found, after = rest.partition(end)
    assert found, f"{file} has no marks for {name}"
    file.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")
