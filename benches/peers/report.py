"""What run.py found, as Markdown, and into a file."""

import os
import platform
import re
import statistics
import sys

from peers import PEERS


def middle(rounds, pick):
    return statistics.median(map(pick, rounds))


def paired(own, other, pick):
    """The median of the ratios of each round: what slows a whole round down does not count."""
    return statistics.median(pick(a) / max(pick(b), 1e-9) for a, b in zip(own, other, strict=True))


def percentile(rounds, place):
    times = [each.times[place] for each in rounds]
    return f"{statistics.median(times):,.0f}" if None not in times else "–"


def best(found, pick, choose=min):
    """The name of the best peer, None without any."""
    peers = [name for name in PEERS if name in found]
    return choose(peers, key=lambda name: middle(found[name].rounds, pick)) if peers else None


def scenario_table(scenario, found, labels):
    """The rows of one scenario."""
    champion = best(found, lambda each: each.cpu)
    counted = any(each.instructions for each in found.values())
    yield f"**{scenario.title}** (`{scenario.name}`)"
    yield ""
    yield (
        "| proxy | requests/s | CPU µs per request: user + system | range | ÷ best peer "
        f"| {'own instructions | ' if counted else ''}p50 / p99 / p99.9 µs at {scenario.rate:,}/s | peak MiB |"
    )
    yield "| --- " * (8 if counted else 7) + "|"
    for name, result in found.items():
        rounds = result.rounds
        cells = [labels[name], f"{middle(rounds, lambda each: each.rate):,.0f}"]
        if name == "direct":
            cells += ["–", "–", "–"]
        else:
            cpu = [each.cpu for each in rounds]
            user, system = (middle(rounds, lambda each, n=n: getattr(each, n)) for n in ("user", "system"))
            ratio = f"{paired(rounds, found[champion].rounds, lambda each: each.cpu):.2f}" if champion else "–"
            cells += [f"{statistics.median(cpu):.1f}: {user:.1f} + {system:.1f}", f"{min(cpu):.1f}–{max(cpu):.1f}", ratio]
        if counted:
            cells.append(f"{result.instructions:,.0f}" if result.instructions else "–")
        cells.append(" / ".join(percentile(rounds, place) for place in range(3)))
        cells.append(f"{result.peak_kib / 1024:.0f}" if result.peak_kib else "–")
        yield f"| {' | '.join(cells)} |"
    yield ""
    for name, result in found.items():
        unanswered = middle(result.rounds, lambda each: each.unanswered)
        if unanswered:
            yield f"{labels[name]} closed a connection {unanswered:.2f} times per answer: requests without one."
            yield ""


def summary(results, labels):
    """seawall beside the best peer of each column, a row for each scenario."""
    chosen = {scenario: found for scenario, found in results.items() if "seawall" in found and best(found, lambda e: e.cpu)}
    if not chosen:
        return
    yield "| seawall ÷ best peer | CPU | requests/s | own instructions | p99, µs: seawall, best peer | peak memory |"
    yield "| --- " * 6 + "|"
    for scenario, found in chosen.items():
        own, cells = found["seawall"], [scenario.title]
        for pick, choose in ((lambda each: each.cpu, min), (lambda each: each.rate, max)):
            peer = best(found, pick, choose)
            cells.append(f"{paired(own.rounds, found[peer].rounds, pick):.2f} ({labels[peer].split()[0]})")
        peers = [found[name] for name in PEERS if name in found]
        counts = [each.instructions for each in peers if each.instructions]
        cells.append(f"{own.instructions / min(counts):.2f}" if own.instructions and counts else "–")
        peer = best(found, lambda each: each.times[1] or 0)
        p99 = [percentile(each.rounds, 1) for each in (own, found[peer])]
        cells.append(f"{p99[0]}, {p99[1]} ({labels[peer].split()[0]})")
        cells.append(f"{own.peak_kib / min(each.peak_kib for each in peers):.2f}")
        yield f"| {' | '.join(cells)} |"
    yield ""


def report(results, labels, arguments, cores, stolen):
    """All lines of the report; `stolen` is the share of CPU time that other guests took."""
    yield from summary(results, labels)
    for scenario, found in results.items():
        yield from scenario_table(scenario, found, labels)
    shared = ", which the load and the origin share" if cores.shared else ""
    yield (
        f"{arguments.rounds} interleaved rounds of {arguments.seconds} s at full speed and {arguments.seconds} s at the "
        f"fixed rate, {arguments.connections} connections, {arguments.workers} worker{'s' * (arguments.workers > 1)} "
        f"on core {cores.proxy}{shared}; medians. Errors: 0. {os.cpu_count()} cores, Linux {platform.release()}, stolen "
        f"by other guests: {stolen * 100:.0f} % of the time."
    )


def mark(workers):
    return f"peers, {workers} worker{'s' * (workers > 1)}"


def marks(path, name):
    """Where a file has its marks of this name; ends the run if it has none."""
    found = re.search(rf"(<!-- begin: {name} -->\n)(.*?)(<!-- end: {name} -->)", path.read_text(), re.DOTALL)
    if not found:
        sys.exit(f"{path} has no marks <!-- begin: {name} --> and <!-- end: {name} -->")
    return found


def write(path, name, lines):
    """Replaces what stands between the marks."""
    found, text = marks(path, name), path.read_text()
    path.write_text(text[: found.end(1)] + "\n" + "\n".join(lines) + "\n\n" + text[found.start(3) :])
