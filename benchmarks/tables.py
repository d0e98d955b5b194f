"""Tables of a run, as text."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .drivers import AGENTS, DRIVERS, EVERY
from .plan import Options
from .results import Key, Measure, Results, Stat, field, growth, near, prefix
from .targets import Row

__all__ = ["conversations_title", "environment", "table", "tables", "verdicts"]

_PACKAGES = (
    "langchain-ws-responses",
    "langchain-core",
    "langchain-openai",
    "langchain",
    "langgraph",
    "openai",
    "openai-agents",
    "pydantic-ai-slim",
    "pydantic",
    "websockets",
    "orjson",
)


def environment() -> dict[str, str]:
    """Names what the numbers depend on."""
    found = {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "cpu": _cpu_name(),
        "cores": str(os.cpu_count() or 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Draws a table: the first column to the left, numbers to the right."""
    if not rows:
        return ""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            row[0].ljust(widths[0]),
            *(cell.rjust(wide) for cell, wide in zip(row[1:], widths[1:], strict=True)),
        ]
        return "  ".join(cells).rstrip()

    return "\n".join(["", title, line(head), "  ".join("-" * wide for wide in widths), *map(line, rows), ""])


def _show(stat: Stat | None, factor: float = 1.0, digits: int = 1) -> str:
    if stat is None:
        return "-"
    mid, low, high = (f"{value * factor:,.{digits}f}" for value in (stat.median, stat.low, stat.high))
    return mid if stat.count == 1 else f"{mid} ({low} to {high})"


def _times(stat: Stat | None) -> str:
    return "-" if stat is None else f"x{stat.median:.2f}"


def tables(results: Results, options: Options) -> Iterator[str]:
    """Draws the tables of what was measured."""
    if "rollout" in options.modes:
        yield _rollouts(results, options)
        yield _latencies(results, options)
        yield _agents(results)
        yield _imports(results)
    if "stream" in options.modes:
        yield _streams(results, options)
    if "conversations" in options.modes:
        for size in options.sizes:
            yield _conversations(results, size)
    if "network" in options.modes:
        yield from _networks(results, options)
        yield _savings(results, options)


def _measured(results: Results, mode: str, variant: str = "") -> list[Key]:
    order = list(EVERY)
    keys = [key for key in results.rounds if key.mode == mode and key.variant == variant]
    calls = ["invoke", "ainvoke", "stream", "astream"]
    return sorted(keys, key=lambda key: (order.index(key.driver), calls.index(key.call)))


def _label(key: Key) -> str:
    return f"{EVERY[key.driver].label}, {key.call}"


def _rollouts(results: Results, options: Options) -> str:
    most = max(options.turns)
    rows = []
    for key in _measured(results, "rollout"):
        floor = Key("rollout", "langchain-floor", key.call)
        row = [_label(key)]
        row += [_show(results.of(key, prefix("turn_cpu", turns)), 1000) for turns in options.turns]
        row.append(_times(results.ratio(key, floor, prefix("turn_cpu", most))))
        row.append(_show(results.of(key, field("wall")), 1000))
        row += [
            _show(results.of(key, prefix("turn_bytes", turns)), 1e-6, 2).split(" ")[0]
            for turns in options.turns
        ]
        rows.append(row)
    head = [
        "client",
        *(f"CPU ms, {turns} turns" for turns in options.turns),
        "/ LangChain floor",
        f"wall ms, {most}",
        *(f"MB sent, {turns}" for turns in options.turns),
    ]
    return table("Rollout: CPU, wall and bytes; median (lowest to highest)", head, rows)


def _latencies(results: Results, options: Options) -> str:
    most = max(options.turns)
    rows = []
    for key in _measured(results, "rollout"):
        row = [_label(key)]
        for name in ("turn_cpu", "to_wire"):
            row += [_show(results.of(key, near(name, turn)), 1000, 2) for turn in (10, most)]
        row.append(_show(results.of(key, near("to_hand", most)), 1000, 2))
        row.append(_show(results.of(key, growth(most)), 1, 2))
        rows.append(row)
    head = [
        "client",
        "CPU ms, turn 10",
        f"turn {most}",
        "output to wire ms, turn 10",
        f"turn {most}",
        "answer written to message ms",
        f"turn {most} / 10",
    ]
    return table("One turn", head, rows)


def _agents(results: Results) -> str:
    floor = Key("agent", "agent-langchain-floor", "invoke")
    rows = [
        [
            AGENTS[key.driver].label,
            _show(results.of(key, field("cpu")), 1000),
            _times(results.ratio(key, floor, field("cpu"))),
            _show(results.of(key, field("wall")), 1000),
        ]
        for key in _measured(results, "agent")
    ]
    return table(
        "The same rollout in create_agent", ["agent", "CPU ms", "/ LangChain floor", "wall ms"], rows
    )


def _imports(results: Results) -> str:
    key = Key("imports", "ours", "import")
    names = {
        "extra_cpu": "this package, CPU",
        "extra_wall": "this package, wall",
        "model_wall": "the first model, wall",
        "base_wall": "langchain_openai itself, wall",
    }
    rows = [[label, _show(results.of(key, field(name)), 1000)] for name, label in names.items()]
    return table("Import after langchain_openai, ms", ["what", "ms"], rows)


def _streams(results: Results, options: Options) -> str:
    rows = []
    for key in _measured(results, "stream"):
        floor = Key("stream", "langchain-floor", key.call)
        cpu: Measure = field("cpu")
        rows.append(
            [
                _label(key),
                _show(results.of(key, cpu), 1000),
                _show(results.of(key, cpu), 1e6 / options.deltas),
                _times(results.ratio(key, floor, cpu)),
            ]
        )
    title = f"One answer of {options.deltas:,} text deltas"
    return table(title, ["client", "CPU ms", "CPU µs an event", "/ LangChain floor"], rows)


def _conversations(results: Results, size: int) -> str:
    rows = []
    floor = Key("conversations", "wire-floor-lanes", "ainvoke", str(size))
    for key in _measured(results, "conversations", str(size)):
        stat = results.of(key, lambda result: size / float(result["wall"]))
        rows.append(
            [
                DRIVERS[key.driver].label,
                _show(results.of(key, field("cpu")), 1, 2),
                _times(results.ratio(key, floor, field("cpu"))),
                _show(stat),
                _show(results.of(key, field("p99")), 1000, 0),
                _show(results.of(key, field("connections")), 1, 0),
                _show(results.of(key, field("start_mib")), 1, 0),
                _show(results.of(key, field("peak_mib")), 1, 0),
            ]
        )
    head = [
        "client",
        "CPU s",
        "/ floor with lanes",
        "conversations/s",
        "p99 of a turn, ms",
        "connections",
        "MiB before",
        "peak MiB",
    ]
    return table(conversations_title(size), head, rows)


def conversations_title(size: int) -> str:
    """The title of the table of that many conversations."""
    return f"{size} conversations of 10 turns at once"


def _networks(results: Results, options: Options) -> Iterator[str]:
    variants = sorted({key.variant for key in results.rounds if key.mode == "network"})
    for variant in variants:
        plain = "," not in variant
        turns = (0, *options.network_turns) if plain else ()
        rows = []
        for key in _measured(results, "network", variant):
            row = [_label(key)]
            row += [_show(_done(results, key, count), 1, 2) for count in turns]
            if not plain:
                row.append(_show(_ends(results, key), 1, 2))
            row.append(_show(results.of(key, field("received")), 1e-6, 2))
            rows.append(row)
        head = ["client", *(f"{n} tool turns" if n else "no tool turn" for n in turns)]
        head += [] if plain else ["whole rollout"]
        yield table(f"Wall seconds, round trip {variant}, dial included", [*head, "MB sent"], rows)


def _savings(results: Results, options: Options) -> str:
    """How much less time this package takes than HTTP: below zero, HTTP wins."""
    rows = []
    for variant in sorted({key.variant for key in results.rounds if key.mode == "network"}):
        mine = Key("network", "ours", "invoke", variant)
        for peer in ("chatopenai-full", "chatopenai-prev"):
            other = Key("network", peer, "invoke", variant)
            if not (results.has(mine) and results.has(other)):
                continue
            row = [f"{variant}, less than {DRIVERS[peer].label}"]
            for count in (0, *options.network_turns):
                here, there = _done(results, mine, count), _done(results, other, count)
                row.append(f"{100 * (1 - here.median / there.median):.0f} %" if here and there else "-")
            here, there = _ends(results, mine), _ends(results, other)
            row.append(f"{100 * (1 - here.median / there.median):.0f} %" if here and there else "-")
            rows.append(row)
    head = [
        "round trip",
        *(f"{n} tool turns" if n else "no tool turn" for n in (0, *options.network_turns)),
        "all",
    ]
    return table("Wall time saved against HTTP (negative: HTTP wins)", head, rows)


def _ends(results: Results, key: Key) -> Stat | None:
    return results.of(key, lambda result: float(result["turn_done"][-1]))


def _done(results: Results, key: Key, tool_turns: int) -> Stat | None:
    """When the answer after so many tool turns was there; None where the rollout was shorter."""
    if any(len(result["turn_done"]) <= tool_turns for result in results.rounds[key].values()):
        return None
    return results.of(key, lambda result: float(result["turn_done"][tool_turns]))


def verdicts(rows: Sequence[Row]) -> str:
    """Draws the targets."""
    drawn = []
    for row in rows:
        sign = "≥" if row.at_least else "≤"
        stat, unit = row.measured, f" {row.unit}" if row.unit else ""
        drawn.append(
            [
                f"{row.target:3} {row.what}",
                f"{sign} {row.limit:.3g}{unit}",
                f"{stat.median:.3g}{unit}" if stat else "-",
                f"{stat.low:.3g} to {stat.high:.3g}" if stat else "-",
                {True: "pass", False: "FAIL", None: "not measured"}[row.passed]
                + ("" if row.clear else ", rounds disagree"),
            ]
        )
    return table("Targets", ["target", "limit", "measured", "spread", "verdict"], drawn)
