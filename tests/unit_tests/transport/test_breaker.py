"""The circuit breaker and the budget of failed dials."""

from __future__ import annotations

import random
from collections.abc import Hashable

import pytest

from langchain_ws_responses._transport.breaker import Breaker, DialBudget, PoolBreaker


@pytest.fixture(autouse=True)
def _no_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda _low, _high: 1.0)


def test_it_opens_after_a_failure_and_lets_one_trial_through_after_its_pause() -> None:
    breaker = Breaker(first=5)
    assert breaker.state(100) == "closed"
    assert breaker.allows(100)
    breaker.failed(100)
    assert breaker.state(104.9) == "open"
    assert not breaker.allows(104.9)
    assert breaker.state(105) == "half_open"
    assert breaker.allows(105), "one trial"
    assert not breaker.allows(105), "and no second one beside it"
    assert breaker.allows(110), "the trial told nothing: another one"


def test_looking_at_the_state_takes_no_trial() -> None:
    breaker = Breaker(first=5)
    breaker.failed(100)
    assert [breaker.state(106) for _ in range(3)] == ["half_open"] * 3
    assert breaker.allows(106)


def test_pauses_double_up_to_five_minutes_and_never_stick() -> None:
    breaker, now, pauses = Breaker(first=5), 0.0, []
    for _ in range(9):
        breaker.failed(now)
        start = now
        while breaker.state(now) == "open":
            now += 1
        pauses.append(now - start)
    assert pauses == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_success_closes_it_and_forgets_the_past() -> None:
    breaker = Breaker(first=5)
    for _ in range(4):
        breaker.failed(0)
    breaker.succeeded()
    assert breaker.state(0) == "closed"
    breaker.failed(0)
    assert breaker.state(5) == "half_open"


def test_pauses_are_jittered(monkeypatch: pytest.MonkeyPatch) -> None:
    bounds = []
    monkeypatch.setattr(random, "uniform", lambda low, high: bounds.append((low, high)) or high)
    breaker = Breaker(first=10)
    breaker.failed(0)
    assert bounds == [(0.8, 1.2)]
    assert breaker.state(11.9) == "open"
    assert breaker.state(12.0) == "half_open"


def test_ten_failures_in_a_minute_are_the_most() -> None:
    budget = DialBudget()
    for second in range(9):
        budget.failed(second)
        assert budget.wait(second) == 0
    budget.failed(9)
    assert budget.wait(9) == 51
    assert budget.wait(59.5) == 0.5
    assert budget.wait(60) == 0
    budget.failed(60)
    assert budget.wait(60) == 1, "the next oldest was at second 1"


def test_an_outage_of_any_length_costs_ten_dials_a_minute() -> None:
    budget, now, dials = DialBudget(), 0.0, []
    while now < 3600:
        now += budget.wait(now)
        dials.append(now)
        budget.failed(now)
        now += 0.01
    assert max(sum(start <= dial < start + 60 for dial in dials) for start in dials) == 10
    assert len(dials) == pytest.approx(600, abs=10)


@pytest.mark.parametrize("status", [200, 400, 404, 405, 426, 501])
def test_where_the_mode_is_not_offered_no_key_dials(status: int) -> None:
    refusing: dict[Hashable, Breaker] = {}
    alice, bob = (PoolBreaker(refusing, "here") for _ in range(2))
    elsewhere = PoolBreaker(refusing, "elsewhere")
    assert alice.failed(100, status) == 5
    carol = PoolBreaker(refusing, "here")
    for breaker in (alice, bob, carol):
        assert breaker.state(104.9) == "open"
        assert not breaker.allows(104.9)
    assert elsewhere.allows(104.9)
    assert bob.allows(105), "one trial"
    assert not alice.allows(105), "for all of them"
    assert bob.failed(105, status) == 10
    assert not carol.allows(114.9)
    carol.succeeded()
    assert [breaker.state(114.9) for breaker in (alice, bob, carol)] == ["closed"] * 3


@pytest.mark.parametrize("status", [None, 401, 403, 429, 500])
def test_what_may_be_due_to_a_key_holds_for_that_key(status: int | None) -> None:
    refusing: dict[Hashable, Breaker] = {}
    alice, bob = (PoolBreaker(refusing, "here") for _ in range(2))
    alice.failed(100, status)
    assert not alice.allows(101)
    assert bob.allows(101)
    bob.succeeded()
    assert not alice.allows(101)
    alice.succeeded()
    assert alice.allows(101)


def test_places_that_do_not_offer_the_mode_do_not_pile_up() -> None:
    refusing: dict[Hashable, Breaker] = {}
    for place in range(3000):
        PoolBreaker(refusing, place).failed(100, 404)
    assert len(refusing) <= 1024
    assert not PoolBreaker(refusing, 2999).allows(101)
