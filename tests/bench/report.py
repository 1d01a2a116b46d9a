"""What is told of the findings: tables, and a picture."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Callable
from html import escape
from pathlib import Path

from peers import KEPT

REFERENCE = "nginx"
OURSELVES = "token-valet"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _head(*cells: str) -> list[str]:
    return [_row(*cells), _row("---", *("---:" for _ in cells[1:]))]


def _machine() -> str:
    models = [line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} processors, Linux {platform.release()}, TCP's {congestion}"


def median(turns: list, of: Callable) -> float | None:
    """Of the turns in which there were answers; `None` if there was none."""
    values = [of(turn) for turn in turns if turn is not None]
    return statistics.median(values) if values else None


def number(value: float | None, form: str = ",.0f") -> str:
    return "no answers" if value is None else format(value, form)


def ratio(runs: dict, name: str, to: str) -> float | None:
    """Requests per processor second against another's, made in each round."""
    pairs = [(one, other) for one, other in zip(runs.get(name, ()), runs.get(to, ())) if one and other]
    return statistics.median(one.per_cpu_second / other.per_cpu_second for one, other in pairs) if pairs else None


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _beside(runs: dict) -> list[str]:
    """Ours as a multiple of each other's."""
    ratios = {name: ratio(runs, OURSELVES, name) for name in runs if name not in (OURSELVES, REFERENCE)}
    told = [f"{value:.2f} x {name}" for name, value in ratios.items() if value is not None]
    return [f"{OURSELVES} is at {', '.join(told)}.", ""] if told else []


def table(found) -> str:
    names, (seconds, seconds_of_many) = list(found.versions), found.seconds
    out = [
        "# token-valet beside what else could do its work",
        "",
        f"Written by `tests/bench/compare` on {datetime.date.today():%Y-%m-%d}: {_machine()}.",
        "",
        "Each program has processor 0; the load (wrk, paced.rs) and the upstream (nginx) share processor 1. token-valet and Envoy",
        "obtain a token and refresh it, the others have a fixed one; token-valet counts its metrics meanwhile. The byte relay is",
        "HAProxy in TCP mode: it parses no HTTP and injects nothing, and is the floor for any proxy on this machine. Medians of",
        f"{found.rounds} rounds, in which each is started anew and has {seconds} s in turns of {found.turn:.0f} ms while the others are stopped,",
        f"or {seconds_of_many} s at once where there are 1,000 connections; ratios are made within a round.",
        "",
        f"What makes a difference beside the programs: each is told to keep {KEPT} unused connections to the upstream, but token-valet",
        "keeps those of a burst for a second or two longer, and so makes fewer handshakes where 1,000 connections come and go. To",
        "callers on its own machine it sends with TCP's reno, whatever the system has for others: pacing, as bbr does it, costs",
        "processor time. And its profile was made under such a load.",
        "",
        "Versions: " + ", ".join(f"{name} {version}" for name, version in found.versions.items()) + ".",
        "",
    ]
    if found.sizes:
        out += ["## Start, memory, size", "", "TLS to the upstream. The size leaves out libraries that a program shares with others.", ""]
        out += _head("", "start to listening, ms", "idle, MiB (PSS)", "after a second of load, MiB", "after 32 connections, MiB", "each idle connection, KiB", "program, MB")
        for name in names:
            out.append(
                _row(
                    name,
                    f"{found.starts[name]:.1f}",
                    f"{found.idle_memory[name]:.1f}",
                    f"{found.used_memory[name]:.1f}",
                    f"{found.loaded_memory[name]:.1f}",
                    f"{found.per_connection[name]:.1f}",
                    f"{found.sizes[name]:.1f}",
                )
            )
        out.append("")
    out += ["## Requests per processor second", "", f"And as a multiple of {REFERENCE}'s.", ""]
    for scenario, runs in found.runs.items():
        out += [f"### {scenario}", ""]
        out += _head("", "requests per CPU second", f"x {REFERENCE}", "user µs", "system µs", "requests a second")
        for name in names:
            turns = runs[name]
            out.append(
                _row(
                    name,
                    number(median(turns, lambda r: r.per_cpu_second)),
                    _times(ratio(runs, name, REFERENCE)),
                    number(median(turns, lambda r: 1e6 * r.user / r.requests), ".1f"),
                    number(median(turns, lambda r: 1e6 * r.system / r.requests), ".1f"),
                    number(median(turns, lambda r: r.requests / r.seconds)),
                )
            )
        out += ["", *_beside(runs)]
    if found.added:
        out += ["## Latency added", "", f"At {found.rate:,} requests a second, evenly spread over 32 connections, TLS to the upstream: microseconds more than the",
                "upstream itself takes without TLS. Of each quarter second of four turns a round, and the median of these, as the machine",
                "stands still now and then.", ""]
        out += _head("", "p50", "p99", "p99.9")
        for name, added in found.added.items():
            cells = ("too much for it",) * 3 if added is None else tuple(f"{v:,.0f}" for v in (added.p50, added.p99, added.p999))
            out.append(_row(name, *cells))
        out.append("")
    if found.threads:
        share = 100 * found.threads["share"]
        out += [
            "## Two threads",
            "",
            f"`listen.threads = 2` on both processors takes {found.threads['ratio']:.2f} times the processor time per request of one thread;",
            f"the first thread has {share:.0f} % of it.",
            "",
        ]
    return "\n".join(out).rstrip() + "\n"


def picture(found) -> str:
    """Bars: requests per processor second against nginx's."""
    names, bar, gap, left, width = list(found.versions), 13, 22, 96, 640
    ratios = {s: {n: ratio(runs, n, REFERENCE) for n in names} for s, runs in found.runs.items()}
    most = max((value for row in ratios.values() for value in row.values() if value is not None), default=1)
    scale = (width - left - 48) / most
    colors = ("#0b6e4f", "#7a8b99", "#7a8b99", "#7a8b99", "#7a8b99", "#c9d1d8")
    parts, y = [], 34
    for scenario, row in ratios.items():
        parts.append(f'<text x="8" y="{y}" font-weight="600">{escape(str(scenario))}</text>')
        y += 6
        for color, (name, value) in zip(colors, row.items()):
            if value is None:
                continue
            parts.append(
                f'<text x="{left - 6}" y="{y + bar - 3}" text-anchor="end">{escape(name)}</text>'
                f'<rect x="{left}" y="{y}" width="{value * scale:.1f}" height="{bar - 2}" fill="{color}"/>'
                f'<text x="{left + value * scale + 4:.1f}" y="{y + bar - 3}">{value:.2f}</text>'
            )
            y += bar
        y += gap
    line = left + scale
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" font-family="sans-serif" font-size="10">'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="8" y="14" font-size="12">Requests per processor second, as a multiple of {REFERENCE}\'s</text>'
        f'<line x1="{line:.1f}" x2="{line:.1f}" y1="22" y2="{y - gap}" stroke="#b00" stroke-dasharray="2 2"/>{"".join(parts)}</svg>\n'
    )
