"""Lifetimes: jittered, and never two that end together."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from transport_kit import seeded

from langchain_ws_responses._transport.rotation import pick_lifetime


def test_a_lonely_connection_lives_almost_as_long_as_it_may() -> None:
    source = seeded(7)
    picked = [pick_lifetime(3300, [], source) for _ in range(500)]
    assert min(picked) >= 3300 * 0.95
    assert max(picked) <= 3300
    assert max(picked) - min(picked) > 3300 * 0.045


def test_the_same_randomness_gives_the_same_lifetime() -> None:
    assert pick_lifetime(3300, [3200.0], seeded(3)) == pick_lifetime(3300, [3200.0], seeded(3))


@pytest.mark.parametrize("seed", range(20))
def test_connections_that_open_together_do_not_expire_together(seed: int) -> None:
    source = seeded(seed)
    taken: list[float] = []
    for _ in range(24):
        taken.append(pick_lifetime(3300, taken, source))
    assert min(abs(one - other) for one, other in combinations(taken, 2)) >= 60
    assert min(taken) >= 3300 / 2
    assert max(taken) <= 3300


@pytest.mark.parametrize("seed", range(5))
def test_a_week_of_rotations_never_has_two_within_a_minute(seed: int) -> None:
    source = seeded(seed)
    expiries = []
    for _ in range(8):
        expiries.append(pick_lifetime(3300, expiries, source))
    rotations = []
    while min(expiries) < 7 * 86400:
        now = min(expiries)
        rotations.append(now)
        expiries.remove(now)
        others = [expiry - now for expiry in expiries]
        expiries.append(now + pick_lifetime(3300, others, source))
    assert len(rotations) > 8 * 168
    assert min(later - earlier for earlier, later in pairwise(rotations)) >= 60


def test_where_there_is_no_place_left_the_widest_gap_is_taken() -> None:
    taken = [1650.0 + 50 * step for step in range(34)]
    taken.remove(2450.0)
    assert pick_lifetime(3300, taken, seeded(1)) == 2450.0


def test_short_lifetimes_stay_within_their_half() -> None:
    source = seeded(5)
    taken: list[float] = []
    for _ in range(10):
        taken.append(pick_lifetime(2.0, taken, source))
        assert 1.0 <= taken[-1] <= 2.0
    assert len(set(taken)) == 10
