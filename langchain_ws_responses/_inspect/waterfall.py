"""The waterfall: connections and lanes over time, drawn as SVG that stands in the page."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from .._demo.report import human_bytes, human_seconds
from .axis import Axis
from .reading import Attempt, Connection, Trace
from .totals import human_gap

__all__ = ["LETTERS", "NAMES", "describe", "patterns", "waterfall"]

NAMES = {
    "delta": "delta",
    "full": "full send",
    "warmup": "warm-up",
    "resend": "resend",
    "http": "over HTTP",
    "refused": "never sent",
}
LETTERS = {"delta": "D", "full": "F", "warmup": "W", "resend": "R", "http": "H", "refused": "X"}
_GUTTER = 150.0
_MARGIN = 30.0
_WIDTH = 915.0
_MOST = 8000.0
_TOP = 34.0
_ROW = 30.0
_BAR = 18.0
_LEAST = 4.0
_LETTER = 13.0
_FORK = 34.0


def describe(one: Attempt, trace: Trace) -> list[str]:
    """What is known of a request, line by line; the first line is its name."""
    where = "HTTP" if one.sort == "http" else f"connection {one.connection or '-'}, lane {one.lane or '-'}"
    lines = [f"{NAMES.get(one.sort, one.sort)} at +{one.sent - trace.started:.3f} s: {one.outcome}"]
    if one.sort == "refused":
        return [*lines, *([one.follows] if one.follows else [])]
    lines.append(f"because: {one.reason}" + (", a fork onto another lane" if one.fork else ""))
    if one.number > 1 and one.mode:
        lines.append(f"attempt {one.number}, sent as {one.mode}")
    lines.append(f"{one.items} items, {human_bytes(one.bytes)} sent, {human_bytes(one.received)} received")
    whole = one.ended - one.sent if one.ended is not None else None
    lines.append(
        f"first event {human_seconds(one.first_event)}, longest gap {human_gap(one.longest_gap)}, "
        f"all {human_seconds(whole)}"
    )
    if one.waited >= 0.0005:
        lines.append(f"waited {human_seconds(one.waited)} to be sent")
    lines.append(f"{where}{f', {one.model}' if one.model else ''}{f', node {one.node}' if one.node else ''}")
    if one.follows:
        lines.append(f"then {one.follows}")
    return lines


def patterns() -> str:
    """The fills, which differ without colour too."""
    marks = {
        "delta": "",
        "full": '<path d="M0 8 8 0"/>',
        "warmup": '<circle cx="2" cy="2" r="1"/><circle cx="6" cy="6" r="1"/>',
        "resend": '<path d="M0 0 8 8M0 8 8 0"/>',
        "http": '<path d="M0 2H8M0 6H8"/>',
        "refused": '<path d="M2 0V8M6 0V8"/>',
    }
    return "".join(
        f'<pattern id="p-{sort}" width="8" height="8" patternUnits="userSpaceOnUse">'
        f'<rect width="8" height="8" class="c-{sort}"/><g class="marks">{mark}</g></pattern>'
        for sort, mark in marks.items()
    )


def waterfall(trace: Trace) -> str:
    """Draws a trace as one `<svg>` element."""
    return _Drawing(trace).svg()


class _Drawing:
    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        busiest = max((len(one) for one in self._lanes_of_all()), default=0)
        width = min(_MOST, max(_WIDTH, 26.0 * busiest))
        self.axis = Axis(trace, _GUTTER, width)
        self.width = _GUTTER + width + _MARGIN
        self.y = _TOP
        self.rows: list[str] = []
        self.bars: list[str] = []
        self.marks: list[str] = []
        self.places: dict[int, tuple[float, float, float]] = {}
        self.numbers = {id(one): number for number, one in enumerate(trace.attempts, 1)}

    def _lanes_of_all(self) -> Iterator[list[Attempt]]:
        for connection in self.trace.connections:
            for lane in connection.lanes:
                yield self.trace.on_lane(connection, lane)
        yield self.trace.over_http()

    def svg(self) -> str:
        several = len(self.trace.groups) > 1
        for connection in self.trace.connections:
            self._connection(connection, several=several)
            for lane in connection.lanes:
                self._row(lane or "no lanes", self.trace.on_lane(connection, lane))
        for title, some in (
            ("HTTP", self.trace.over_http()),
            ("never sent", [one for one in self.trace.attempts if one.sort == "refused"]),
        ):
            for row in _stacked(some):
                self._row(title, row)
        self._dials()
        arrows = "".join(self._arrows())
        height = self.y + 8
        return (
            f'<svg class="waterfall" role="group" aria-label="Waterfall of connections and lanes" '
            f'width="{self.width:.0f}" height="{height:.0f}" viewBox="0 0 {self.width:.0f} {height:.0f}">'
            '<defs><marker id="arrow" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="6" markerHeight="6" '
            'orient="auto"><path d="M0 0 6 3 0 6z"/></marker></defs>'
            f"{self._grid(height)}{''.join(self.rows)}{arrows}{''.join(self.bars)}{''.join(self.marks)}</svg>"
        )

    # -- parts ----------------------------------------

    def _grid(self, height: float) -> str:
        parts = [
            f'<path class="grid" d="M{place:.1f} {_TOP - 8:.0f}V{height - 8:.0f}"/>'
            f'<text class="tick" x="{place:.1f}" y="{_TOP - 14:.0f}">{_offset(moment - self.trace.started)}</text>'
            for place, moment in self.axis.ticks()
        ]
        for left, right, seconds in self.axis.cuts:
            middle = (left + right) / 2
            parts.append(
                f'<g class="cut"><rect x="{left + 3:.1f}" y="{_TOP - 8:.0f}" width="{max(1.0, right - left - 6):.1f}" '
                f'height="{height - _TOP:.0f}"/><text x="{middle:.1f}" y="{_TOP - 14:.0f}">'
                f"{escape(human_seconds(seconds))}</text></g>"
            )
        return "".join(parts)

    def _connection(self, one: Connection, *, several: bool) -> None:
        y, opened = self.y + _ROW / 2, one.opened if one.opened is not None else self.trace.started
        left, right = self.axis(opened), self.axis(one.closed if one.closed is not None else self.trace.ended)
        dial = self.axis(opened - one.dialing)
        middle = self.axis(one.retired) if one.retired is not None else right
        where = f" · {one.group.partition('/')[0]}" if several else ""
        code = f", code {one.code}" if one.code is not None else ""
        lost = f", {one.lost} lost" if one.lost else ""
        end = f"{one.why}{code}{lost}" if one.closed is not None else "open"
        title = f"connection {one.label} to {one.endpoint}, dialed in {human_seconds(one.dialing)}; {end}"
        flip = right > self.width - _MARGIN - 90
        self.rows.append(
            f'<g class="connection"><title>{escape(title)}</title>'
            f'<text class="name" x="8" y="{y + 4:.1f}">{escape(f"connection {one.label}{where}")}</text>'
            f'<path class="dial" d="M{dial:.1f} {y:.1f}H{left:.1f}"/>'
            f'<path class="life" d="M{left:.1f} {y:.1f}H{middle:.1f}"/>'
            f'<path class="draining" d="M{middle:.1f} {y:.1f}H{right:.1f}"/>'
            f'<circle cx="{left:.1f}" cy="{y:.1f}" r="4"/>'
            f'<text class="end{" left" if flip else ""}" x="{right - 8 if flip else right + 6:.1f}" '
            f'y="{y - 5 if flip else y + 4:.1f}">{escape(end)}</text></g>'
        )
        self.y += _ROW

    def _row(self, title: str, some: list[Attempt]) -> None:
        y = self.y + _ROW / 2
        self.rows.append(
            f'<path class="lane" d="M{_GUTTER:.0f} {y:.1f}H{self.width - _MARGIN:.1f}"/>'
            f'<text class="label" x="22" y="{y + 4:.1f}">{escape(_short(title))}</text>'
        )
        for index, one in enumerate(some):
            following = self.axis(some[index + 1].sent) if index + 1 < len(some) else self.width - _MARGIN
            self._bar(one, y, following)
        self.y += _ROW

    def _bar(self, one: Attempt, y: float, following: float) -> None:
        left = self.axis(one.sent)
        right = max(left + _LEAST, self.axis(one.ended if one.ended is not None else one.sent))
        first = self.axis(one.sent + one.first_event) if one.first_event is not None else right
        first, top = min(max(first, left), right), y - _BAR / 2
        number, lines = self.numbers[id(one)], describe(one, self.trace)
        text = escape("\n".join(lines))
        sort = one.sort if one.sort in LETTERS else "full"
        inside = right - left >= _LETTER
        place = (left + right) / 2 if inside else right + 7
        letter = ""
        if inside or following - right > _LETTER:
            css = "letter" if inside else "letter beside"
            letter = f'<text class="{css}" x="{place:.1f}" y="{y + 4:.1f}">{LETTERS[sort]}</text>'
        waited = self.axis(one.sent - one.waited)
        wait = f'<path class="waited" d="M{waited:.1f} {y:.1f}H{left:.1f}"/>' if left - waited > 1 else ""
        mark = ""
        if one.failure:
            # Above all bars: the next attempt often begins where this one ended.
            self.marks.append(f'<path class="fail" d="M{right - 4:.1f} {top - 4:.1f}l8 8m0 -8l-8 8"/>')
        elif one.fork and following - right > _FORK:
            mark = f'<text class="fork" x="{right + 5:.1f}" y="{y + 4:.1f}">fork</text>'
        self.places[id(one)] = (left, right, y)
        self.bars.append(
            f'<a class="bar s-{sort}" href="#r{number}" data-number="{number}" '
            f'aria-label="{escape(f"{number}: " + "; ".join(lines))}"><title>{text}</title>{wait}'
            f'<rect class="fill" fill="url(#p-{sort})" x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" '
            f'height="{_BAR:.0f}" rx="3"/>'
            f'<rect class="silent" x="{left:.1f}" y="{top:.1f}" width="{first - left:.1f}" height="5" rx="2"/>'
            f"{letter}{mark}</a>"
        )

    def _dials(self) -> None:
        if not self.trace.dials:
            return
        y = self.y + _ROW / 2
        self.rows.append(f'<text class="label" x="22" y="{y + 4:.1f}">failed dials</text>')
        for dial in self.trace.dials:
            status = f" ({dial.status})" if dial.status is not None else ""
            then = "breaker open for" if dial.given_up else "again after"
            place = self.axis(dial.at)
            self.rows.append(
                f'<g class="dialed"><title>{escape(f"{dial.kind}{status}, {then} {human_seconds(dial.wait)}")}</title>'
                f'<path d="M{place - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8"/></g>'
            )
        self.y += _ROW

    def _arrows(self) -> Iterator[str]:
        """From each failed attempt to the one that followed."""
        next_of = {(one.group, one.turn, one.number): one for one in self.trace.attempts}
        for one in self.trace.attempts:
            after = next_of.get((one.group, one.turn, one.number + 1))
            if not one.turn or after is None or id(one) not in self.places or id(after) not in self.places:
                continue
            _, right, y = self.places[id(one)]
            left, _, below = self.places[id(after)]
            bend = max(12.0, abs(left - right) / 2)
            yield (
                f'<path class="arrow" marker-end="url(#arrow)" d="M{right:.1f} {y:.1f}C{right + bend:.1f} {y:.1f} '
                f'{left - bend:.1f} {below:.1f} {left - 1:.1f} {below:.1f}"/>'
            )


def _offset(seconds: float) -> str:
    return f"{seconds:.10g} s" if seconds < 1e-9 else f"+{round(seconds, 6):g} s"


def _short(title: str) -> str:
    return title if len(title) <= 18 else f"{title[:17]}…"


def _stacked(some: list[Attempt]) -> list[list[Attempt]]:
    """Puts what overlaps into rows of its own."""
    rows: list[list[Attempt]] = []
    for one in some:
        for row in rows:
            last = row[-1].ended
            if last is not None and last <= one.sent:
                row.append(one)
                break
        else:
            rows.append([one])
    return rows
