"""The table and the plot of tails.sh: python3 tails.py FOLDER PLOT.svg, with what the runs left in FOLDER.

`cells` has a line for each run: server, CPUs, number, flushes. Beside it lie its report (.json) and its latencies by
percentile (.hgrm). The table goes to the standard output.
"""

import json
import math
import statistics
import sys
from pathlib import Path

SERVERS = {"redis": "redis-server", "old": "old", "new": "Corduroy"}
COLORS = {"redis": "#a8201a", "old": "#8a8f93", "new": "#0b6e8a"}
FIGURES = {"p50": "p50_ms", "p95": "p95_ms", "p99": "p99_ms", "p99.9": "p99_9_ms", "longest": "max_ms"}
# Of one confinement's plot, in pixels.
WIDTH, HEIGHT, LEFT, TOP, BELOW = 560, 330, 62, 40, 46


class Run:
    """One run of one server."""

    def __init__(self, folder, line):
        self.server, self.cpus, number, self.flushes = line.split()
        base = folder / f"{self.server}.{self.cpus}.{number}"
        report = json.loads(Path(f"{base}.json").read_text())
        wrong = report["errors"] + report["violations"]
        if wrong:
            sys.exit(f"{self.server} on CPUs {self.cpus}, run {number}: {wrong}")
        self.figures = report["figures"][0]
        self.not_answered = report["unanswered"] + report["unsent"]
        self.curve = curve(Path(f"{base}.hgrm").read_text())


def curve(hgrm):
    """The points of a latency file: (1 / (1 - share of the answers), ms), without the last, which has no such number."""
    rows = [line.split() for line in hgrm.splitlines() if line and not line.startswith("#")]
    return [(float(row[3]), float(row[0])) for row in rows[1:] if len(row) == 4]


def median_of(runs, field):
    return statistics.median(run.figures[field] for run in runs)


def table(groups):
    heads = ["server", "CPUs", *FIGURES, "longest of all runs", "answers a second", "not answered", "flushes"]
    print("| " + " | ".join(heads) + " |")
    print("|---|---|" + "---:|" * (len(heads) - 2))
    for (cpus, server), runs in groups.items():
        cells = [SERVERS[server], cpus]
        cells += [f"{median_of(runs, field):.1f}" for field in FIGURES.values()]
        cells.append(f"{max(run.figures['max_ms'] for run in runs):.1f}")
        cells.append(f"{median_of(runs, 'per_s'):.0f}")
        cells.append(str(max(run.not_answered for run in runs)))
        cells.append(", ".join(run.flushes for run in runs) if server != "redis" else "-")
        print("| " + " | ".join(cells) + " |")


def plot(groups):
    """An SVG with one plot for each confinement: each further nine takes the same room, and so does each tenfold time."""
    runs = [run for group in groups.values() for run in group]
    nines = math.ceil(max(math.log10(x) for run in runs for x, _ in run.curve))
    times = [ms for run in runs for _, ms in run.curve if ms > 0]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    high = max(high, low + 1)
    confinements = list(dict.fromkeys(cpus for cpus, _ in groups))
    height = (HEIGHT + TOP + BELOW) * len(confinements) + 24
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + LEFT + 34} {height}" '
        'font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="Latency by percentile of each server">',
        f'<rect width="{WIDTH + LEFT + 34}" height="{height}" fill="#fdfdfb"/>',
    ]
    for number, server in enumerate(dict.fromkeys(server for _, server in groups)):
        x = LEFT + 130 * number
        out.append(f'<path d="M{x} 14h22" stroke="{COLORS[server]}" stroke-width="2"/>')
        out.append(f'<text x="{x + 28}" y="18" fill="#1d2327">{SERVERS[server]}</text>')
    for number, cpus in enumerate(confinements):
        top = 24 + number * (HEIGHT + TOP + BELOW) + TOP

        def place(x, ms):
            along = LEFT + WIDTH * math.log10(x) / nines
            up = top + HEIGHT * (1 - (math.log10(max(ms, 10**low)) - low) / (high - low))
            return f"{along:.1f},{up:.1f}"

        out.append(f'<text x="{LEFT}" y="{top - 10}" fill="#1d2327">latency, ms: the server on CPUs {cpus}</text>')
        for power in range(low, high + 1):
            y = top + HEIGHT * (1 - (power - low) / (high - low))
            out.append(f'<path d="M{LEFT} {y:.1f}h{WIDTH}" stroke="#dfe3e0"/>')
            out.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end" fill="#5c666d">{10.0**power:g}</text>')
        for nine in range(nines + 1):
            x = LEFT + WIDTH * nine / nines
            label = "0%" if nine == 0 else f"{100 - 100 / 10**nine:.{max(nine - 2, 0)}f}%"
            out.append(f'<path d="M{x:.1f} {top}v{HEIGHT}" stroke="#dfe3e0"/>')
            out.append(f'<text x="{x:.1f}" y="{top + HEIGHT + 18}" text-anchor="middle" fill="#5c666d">{label}</text>')
        out.append(
            f'<text x="{LEFT + WIDTH / 2}" y="{top + HEIGHT + 36}" text-anchor="middle" fill="#5c666d">'
            "share of the answers within that latency</text>"
        )
        for (of, server), group in groups.items():
            for run in group if of == cpus else []:
                points = " ".join(place(x, ms) for x, ms in run.curve)
                out.append(
                    f'<polyline points="{points}" fill="none" stroke="{COLORS[server]}" stroke-width="1.5" '
                    'stroke-linejoin="round"/>'
                )
    out.append("</svg>\n")
    return "\n".join(out)


def main(folder, plot_file):
    groups = {}
    runs = [Run(Path(folder), line) for line in (Path(folder) / "cells").read_text().splitlines()]
    runs.sort(key=lambda run: (run.cpus, list(SERVERS).index(run.server)))
    for run in runs:
        groups.setdefault((run.cpus, run.server), []).append(run)
    table(groups)
    Path(plot_file).write_text(plot(groups))


if __name__ == "__main__":
    main(*sys.argv[1:])
