"""Charts of a run as SVG, without a library; labels stand at lines, colours follow the reader's scheme."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from .drivers import DRIVERS
from .plan import Options
from .results import Key, Results

__all__ = ["Bar", "Line", "bars", "lines", "write_charts"]

_WIDTH, _HEIGHT = 920, 440
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 310, 56, 48
_LABEL_STEP = 15
# Lines differ in dashes and end marks too: a chart must be readable without colour.
_DASHES = ("", "7 4", "2 3", "10 3 2 3", "14 4", "4 2 1 2", "1 5", "9 5 3 5", "6 2", "3 6")
_STYLE = """
  svg { font: 12px system-ui, sans-serif; background: #fff; color: #1b1f24 }
  text { fill: currentColor }
  .title { font-size: 15px; font-weight: 600 }
  .grid { stroke: #d5d9de; stroke-width: 1 }
  .line { fill: none; stroke: #6a737d; stroke-width: 1.6 }
  .bar { fill: #8a939d }
  .line.ours { stroke: #0b62c4; stroke-width: 3 }
  .bar.ours { fill: #0b62c4 }
  .end { fill: #6a737d } .end.ours { fill: #0b62c4 }
  .label.ours { font-weight: 700 }
  .range { stroke: currentColor; stroke-width: 1.2 }
  .leader { stroke: #9aa2ab; stroke-width: .8 }
  @media (prefers-color-scheme: dark) {
    svg { background: #14171b; color: #e4e7ea }
    .grid { stroke: #343a41 } .line { stroke: #98a2ad } .bar { fill: #77818c } .end { fill: #98a2ad }
    .line.ours { stroke: #63a9ff } .bar.ours, .end.ours { fill: #63a9ff }
    .leader { stroke: #59626c }
  }
"""


@dataclass(frozen=True)
class Line:
    """A line of a chart: `(x, y)` from left to right."""

    label: str
    points: Sequence[tuple[float, float]]
    ours: bool = False


@dataclass(frozen=True)
class Bar:
    """A bar with its spread."""

    label: str
    value: float
    low: float
    high: float
    ours: bool = False


def _number(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _open(title: str, height: int = _HEIGHT) -> list[str]:
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="{_LEFT}" y="24">{escape(title)}</text>',
    ]


class _Scale:
    """A logarithmic axis: clients differ by factors, not by amounts."""

    def __init__(self, low: float, high: float, start: float, end: float) -> None:
        self.low = math.log10(low)
        self.high = max(math.log10(high), self.low + 0.3)
        self.start, self.end = start, end

    def at(self, value: float) -> float:
        """Returns the place of a value."""
        share = (math.log10(max(value, 1e-12)) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> Iterator[float]:
        """Yields 1, 2 and 5 times the powers of ten in the range."""
        for power in range(math.floor(self.low), math.ceil(self.high) + 1):
            for factor in (1, 2, 5) if self.high - self.low < 3 else (1,):
                value = factor * 10.0**power
                if self.low - 1e-9 <= math.log10(value) <= self.high + 1e-9:
                    yield value


def lines(title: str, x_label: str, y_label: str, drawn: Sequence[Line]) -> str:
    """Draws a line chart; the value axis is logarithmic."""
    shown = [line for line in drawn if line.points]
    values = [y for line in shown for _, y in line.points if y > 0]
    xs = [x for line in shown for x, _ in line.points]
    scale = _Scale(min(values), max(values), _HEIGHT - _BOTTOM, _TOP)
    right = _WIDTH - _RIGHT
    low, high = min(xs), max(xs)

    def across(x: float) -> float:
        return _LEFT + (x - low) / ((high - low) or 1) * (right - _LEFT)

    out = _open(title)
    out.append(f'<text x="{_LEFT}" y="{_TOP - 12}">{escape(y_label)}</text>')
    for tick in scale.ticks():
        y = scale.at(tick)
        out.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{_number(tick)}</text>')
    for x in sorted(set(_x_ticks(xs))):
        spot = f'x="{across(x):.1f}" y="{_HEIGHT - _BOTTOM + 18}"'
        out.append(f'<text {spot} text-anchor="middle">{x:g}</text>')
    out.append(
        f'<text x="{(_LEFT + right) / 2}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(x_label)}</text>'
    )
    places = _spread([scale.at(line.points[-1][1]) for line in shown])
    for number, (line, place) in enumerate(zip(shown, places, strict=True)):
        out += _draw(line, number, [(across(x), scale.at(y)) for x, y in line.points], place)
    return "\n".join([*out, "</svg>", ""])


def _draw(line: Line, number: int, points: Sequence[tuple[float, float]], label_at: float) -> Iterator[str]:
    ours = " ours" if line.ours else ""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dash = "" if line.ours else f' stroke-dasharray="{_DASHES[number % len(_DASHES)]}"'
    yield f'<polyline class="line{ours}" points="{path}"{dash}/>'
    x, y = points[-1]
    yield f'<circle class="end{ours}" cx="{x:.1f}" cy="{y:.1f}" r="3.5"/>'
    yield f'<line class="leader" x1="{x + 4:.1f}" y1="{y:.1f}" x2="{x + 16:.1f}" y2="{label_at:.1f}"/>'
    text = f"{line.label}: {_number(line.points[-1][1])}"
    yield f'<text class="label{ours}" x="{x + 19:.1f}" y="{label_at + 4:.1f}">{escape(text)}</text>'


def _x_ticks(xs: Sequence[float]) -> Sequence[float]:
    if len(set(xs)) <= 6:
        return sorted(set(xs))
    low, high = min(xs), max(xs)
    return [
        low,
        *(round(low + (high - low) * part / 5, -1 if high > 50 else 0) for part in range(1, 5)),
        high,
    ]


def _spread(wanted: Sequence[float]) -> list[float]:
    """Moves labels apart until none lies on another, in the order of their lines."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = [0.0] * len(wanted)
    above = float(_TOP - _LABEL_STEP)
    for index in order:
        above = placed[index] = max(wanted[index], above + _LABEL_STEP)
    below = _HEIGHT - _BOTTOM + 2.0 + _LABEL_STEP
    for index in reversed(order):
        below = placed[index] = min(placed[index], below - _LABEL_STEP)
    return placed


def bars(title: str, unit: str, drawn: Sequence[Bar]) -> str:
    """Draws horizontal bars with their spread; the value axis is logarithmic."""
    step, top, start = 26, 44, 320
    height = top + step * len(drawn) + 24
    low = min(bar.low for bar in drawn) / 2
    scale = _Scale(low, max(bar.high for bar in drawn), start, _WIDTH - 120)
    out = _open(title, height)
    for number, bar in enumerate(sorted(drawn, key=lambda bar: bar.value)):
        y = top + step * number
        ours = " ours" if bar.ours else ""
        end = scale.at(bar.value)
        out.append(
            f'<text class="label{ours}" x="{start - 8}" y="{y + 14}" text-anchor="end">'
            f"{escape(bar.label)}</text>"
        )
        out.append(f'<rect class="bar{ours}" x="{start}" y="{y + 2}" width="{end - start:.1f}" height="16"/>')
        place = f'y1="{y + 10}" y2="{y + 10}"'
        out.append(
            f'<line class="range" x1="{scale.at(bar.low):.1f}" x2="{scale.at(bar.high):.1f}" {place}/>'
        )
        at = max(scale.at(bar.high), end) + 6
        out.append(
            f'<text class="label{ours}" x="{at:.1f}" y="{y + 14}">{_number(bar.value)} {escape(unit)}</text>'
        )
    return "\n".join([*out, "</svg>", ""])


# -- of a run ----------------------------------------


def write_charts(folder: Path, results: Results, options: Options) -> list[Path]:
    """Writes the charts of what was measured.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, svg in _charts(results, options):
        path = folder / f"{name}.svg"
        path.write_text(svg, encoding="utf-8")
        written.append(path)
    return written


def _charts(results: Results, options: Options) -> Iterator[tuple[str, str]]:
    if "rollout" in options.modes:
        for name, title, unit, field, factor in (
            (
                "cpu-per-turn",
                "CPU of a turn against its number",
                "milliseconds, logarithmic",
                "turn_cpu",
                1e3,
            ),
            (
                "bytes-per-turn",
                "Bytes sent in a turn against its number",
                "kilobytes, logarithmic",
                "turn_bytes",
                1e-3,
            ),
        ):
            drawn = list(_turn_lines(results, field, factor))
            if drawn:
                yield name, lines(title, "turn", unit, drawn)
    if "stream" in options.modes:
        made = list(_event_bars(results, options.deltas))
        if made:
            title = f"CPU per event, one answer of {options.deltas:,} text deltas"
            yield "cpu-per-event", bars(title, "µs", made)
    if "conversations" in options.modes and len(options.sizes) > 1:
        for name, title, unit, field in (
            ("throughput", "Throughput against conversations at once", "conversations a second", "wall"),
            ("p99", "99th percentile of a turn against conversations at once", "milliseconds", "p99"),
        ):
            drawn = list(_size_lines(results, options.sizes, field))
            if drawn:
                yield name, lines(title, "conversations at once", f"{unit}, logarithmic", drawn)


def _turn_lines(results: Results, field: str, factor: float) -> Iterator[Line]:
    """One line a client: of its `invoke` where it has one."""
    for name, driver in DRIVERS.items():
        call = "invoke" if "invoke" in driver.calls else "ainvoke"
        runs = list(results.rounds.get(Key("rollout", name, call), {}).values())
        if not runs:
            continue
        count = min(len(run[field]) for run in runs) - 1
        points = []
        # A window smooths what the machine's noise does to single turns.
        for turn in range(1, count + 1):
            around = range(max(turn - 3, 1), min(turn + 2, count))
            values = sorted(run[field][at] for run in runs for at in around) or [runs[0][field][turn - 1]]
            points.append((float(turn), values[len(values) // 2] * factor))
        yield Line(f"{driver.label}, {call}", points, ours=name == "ours")


def _event_bars(results: Results, deltas: int) -> Iterator[Bar]:
    for key in results.rounds:
        if key.mode != "stream":
            continue
        stat = results.of(key, lambda result: float(result["cpu"]) * 1e6 / deltas)
        if stat is not None:
            label = f"{DRIVERS[key.driver].label}, {key.call}"
            yield Bar(label, stat.median, stat.low, stat.high, ours=key.driver == "ours")


def _size_lines(results: Results, sizes: Sequence[int], field: str) -> Iterator[Line]:
    for name, driver in DRIVERS.items():
        points = []
        for size in sizes:
            stat = results.of(
                Key("conversations", name, "ainvoke", str(size)), lambda result: float(result[field])
            )
            if stat is not None:
                value = size / stat.median if field == "wall" else stat.median * 1000
                points.append((float(size), value))
        if points:
            yield Line(driver.label, points, ours=name == "ours")
