"""How long a connection may live, so that those of a manager never expire together."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable

__all__ = ["pick_lifetime"]

# A little more than a minute: timers are never exact.
_SPACING = 61.0
_JITTER = 0.05
_SHORTEST = 0.5


def pick_lifetime(longest: float, others: Iterable[float], source: random.Random) -> float:
    """Chooses a lifetime: jittered by a twentieth, shorter where another connection expires at about that time.

    Args:
        longest: Seconds that it may last at most.
        others: Seconds from now until each other connection expires.
        source: The randomness.

    Returns:
        Seconds, never less than half of `longest`. A minute away from all others, as long as there is a place.
    """
    taken = sorted(others)

    def distance(seconds: float) -> float:
        return min((abs(seconds - other) for other in taken), default=_SPACING)

    wish = longest - source.uniform(0, longest * _JITTER)
    if distance(wish) >= _SPACING:
        return wish
    shortest = longest * _SHORTEST
    # The latest free place stands right before somebody else's; where there is none, the middle of the widest gap.
    before = [other - _SPACING for other in taken] + [longest]
    free = [place for place in before if shortest <= place <= longest and distance(place) >= _SPACING]
    if free:
        return max(free)
    edges = [shortest, *(other for other in taken if shortest < other < longest), longest]
    middles = [(left + right) / 2 for left, right in itertools.pairwise(edges)]
    return max(middles, key=distance)
