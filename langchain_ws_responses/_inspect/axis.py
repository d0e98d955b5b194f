"""From moments to places on the page. Long pauses, as while tools run or people think, are cut short."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

from .reading import Trace

__all__ = ["Axis"]

_CUT_WIDTH = 46.0
# What pauses may take of the width, however many they are.
_CUT_MOST = 0.5
_CUT_SHARE = 0.2
_CUT_SECONDS = 0.1
_STEPS = (1.0, 2.0, 5.0)
_TICK_WIDTH = 110.0


class Axis:
    """A clock drawn as a line.

    Args:
        trace: What has to be on it.
        left: Where it begins.
        width: How long it is.

    Attributes:
        cuts: Pauses that were cut: where they begin and end on the page, and how many seconds they took.
    """

    def __init__(self, trace: Trace, left: float, width: float) -> None:
        busy = _merged(_spans(trace), trace)
        active = sum(end - start for start, end in busy)
        least = max(_CUT_SECONDS, _CUT_SHARE * active)
        pieces: list[tuple[float, float, bool]] = []
        for index, (start, end) in enumerate(busy):
            if index:
                pause = start - busy[index - 1][1]
                pieces.append((busy[index - 1][1], start, pause > least))
            pieces.append((start, end, False))
        cuts = sum(cut for *_, cut in pieces)
        linear = sum(end - start for start, end, cut in pieces if not cut)
        cut_width = min(_CUT_WIDTH, _CUT_MOST * width / max(1, cuts))
        self._scale = (width - cuts * cut_width) / linear if linear > 0 else 0.0
        self._left, self._right = left, left + width
        self._pieces: list[tuple[float, float, float, float, bool]] = []
        self.cuts: list[tuple[float, float, float]] = []
        at = left
        for start, end, cut in pieces:
            length = cut_width if cut else (end - start) * self._scale
            self._pieces.append((start, end, at, at + length, cut))
            if cut:
                self.cuts.append((at, at + length, end - start))
            at += length
        self._ends = [end for _, end, *_ in self._pieces]
        self._middles = [(here + there) / 2 for here, there, _ in self.cuts]

    def __call__(self, moment: float) -> float:
        """Returns the place of a moment."""
        number = bisect_left(self._ends, moment)
        if number == len(self._pieces):
            return self._right
        start, end, here, there, _ = self._pieces[number]
        if moment <= start or end <= start:
            return here
        return here + (there - here) * (moment - start) / (end - start)

    def ticks(self) -> list[tuple[float, float]]:
        """Returns places to write the time at, with their moments."""
        if not self._scale:
            return []
        step = _step(_TICK_WIDTH / self._scale)
        found: list[tuple[float, float]] = []
        begin = self._pieces[0][0]
        for start, end, *_, cut in self._pieces:
            if cut:
                continue
            number = -int(-(start - begin) // step)
            while begin + number * step <= end:
                place = self(begin + number * step)
                if self._is_free(place, found):
                    found.append((place, begin + number * step))
                number += 1
        return found

    def _is_free(self, place: float, ticks: list[tuple[float, float]]) -> bool:
        """Whether a time written here runs into no other one, nor into the length of a pause."""
        number = bisect_left(self._middles, place)
        taken = [here for here, _ in ticks[-1:]] + self._middles[max(0, number - 1) : number + 1]
        return all(abs(place - here) > _TICK_WIDTH / 2 for here in taken)


def _spans(trace: Trace) -> list[tuple[float, float]]:
    spans = [(one.sent - one.waited, max(one.sent, one.ended or one.sent)) for one in trace.attempts]
    spans += [(dial.at, dial.at) for dial in trace.dials]
    for one in trace.connections:
        if one.opened is not None:
            spans.append((one.opened - one.dialing, one.opened))
        spans += [(at, at) for at in (one.retired, one.closed) if at is not None]
    return spans


def _merged(spans: list[tuple[float, float]], trace: Trace) -> list[tuple[float, float]]:
    """Joins spans that overlap; there is at least one."""
    merged: list[tuple[float, float]] = []
    for start, end in sorted(spans or [(trace.started, trace.ended)]):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    assert all(one[1] <= other[0] for one, other in pairwise(merged))  # noqa: S101 - what the drawing rests on
    return merged


def _step(least: float) -> float:
    """The smallest round step that is long enough."""
    power = 1e-6
    while True:
        for step in _STEPS:
            if step * power >= least:
                return step * power
        power *= 10
