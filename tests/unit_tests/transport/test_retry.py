"""Back-off: full jitter, what the server asks for, the end of patience."""

from __future__ import annotations

import random
import statistics
from collections.abc import Iterator
from typing import Any

import pytest

from langchain_ws_responses._protocol.limits import RetryPolicy
from langchain_ws_responses._transport.retry import (
    Failed,
    back_off,
    paced,
    retrying,
    set_testing,
    worth_retrying,
)
from langchain_ws_responses._types import Failure, FailureKind

POLICY = RetryPolicy(initial_delay=0.5, max_delay=8)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    state = random.getstate()
    random.seed(20261122)
    yield
    random.setstate(state)


@pytest.mark.parametrize(("attempt", "most"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (9, 8.0)])
def test_waits_are_spread_evenly_from_zero_to_a_growing_bound(attempt: int, most: float) -> None:
    waits = [back_off(POLICY, attempt) for _ in range(4000)]
    assert 0 <= min(waits) < most * 0.01
    assert most * 0.99 < max(waits) <= most
    assert statistics.mean(waits) == pytest.approx(most / 2, rel=0.05)
    deciles = [sum(wait < most * tenth / 10 for wait in waits) / len(waits) for tenth in range(1, 10)]
    assert deciles == pytest.approx([tenth / 10 for tenth in range(1, 10)], abs=0.03)


def test_a_thousand_clients_do_not_come_back_together() -> None:
    """Of full jitter: no half second of the fifth wait gets more than twice its share."""
    waits = [back_off(POLICY, 5) for _ in range(1000)]
    slots = [sum(slot / 2 <= wait < slot / 2 + 0.5 for wait in waits) for slot in range(16)]
    assert max(slots) < 2 * 1000 / 16


@pytest.mark.parametrize("asked", [3.0, 30.0])
def test_what_the_server_asks_for_is_the_least(asked: float) -> None:
    waits = [back_off(POLICY, 5, asked) for _ in range(500)]
    assert min(waits) == asked
    assert max(waits) <= max(8.0, asked)


def test_tests_can_switch_waiting_off() -> None:
    set_testing(True)
    try:
        assert back_off(POLICY, 5, 30.0) == 0
        assert paced(30.0) == 0
    finally:
        set_testing(False)
    assert back_off(POLICY, 5, 30.0) == 30.0
    assert paced(30.0) == 30.0


def test_waiting_comes_back_at_the_end_of_the_block_as_it_was_before() -> None:
    with set_testing(True):
        with set_testing(False):
            assert paced(30.0) == 30.0
        assert paced(30.0) == 0
        with set_testing(True):
            pass
        assert paced(30.0) == 0
    assert paced(30.0) == 30.0


@pytest.mark.parametrize(
    ("failure", "again"),
    [
        *[
            (Failure(FailureKind.HANDSHAKE_REJECTED, status=status), status in (408, 429, 500, 502, 503, 504))
            for status in (200, 301, 302, 400, 401, 403, 404, 407, 408, 426, 429, 500, 501, 502, 503, 504)
        ],
        (Failure(FailureKind.HANDSHAKE_REJECTED, status=429, code="insufficient_quota"), False),
        (Failure(FailureKind.DIAL_FAILED), True),
        (Failure(FailureKind.DIAL_TIMEOUT), True),
        (Failure(FailureKind.CONFIGURATION), False),
        (Failure(FailureKind.MANAGER_CLOSED), False),
    ],
)
def test_only_what_may_pass_is_tried_again(failure: Failure, again: bool) -> None:
    assert worth_retrying(failure) is again


class Script:
    """Attempts that fail as told, and pauses that are remembered instead of waited for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *outcomes: Failure | str) -> None:
        self.outcomes = list(outcomes)
        self.slept: list[float] = []
        self.told: list[tuple[Failure, int, float]] = []
        self.now = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr("langchain_ws_responses._transport.retry.asyncio.sleep", self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def attempt(self) -> str:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Failure):
            raise Failed(outcome)
        return outcome

    def before_sleep(self, failure: Failure, attempt: int, wait: float) -> bool:
        self.told.append((failure, attempt, wait))
        return True

    def run(self, policy: RetryPolicy = POLICY, **options: Any) -> str:
        coroutine = retrying(self.attempt, policy, **{"before_sleep": self.before_sleep, **options})
        try:
            while True:
                coroutine.send(None)
        except StopIteration as stop:
            return str(stop.value)


DOWN = Failure(FailureKind.DIAL_FAILED)


def test_attempts_go_on_until_one_succeeds(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, DOWN, DOWN, "open")
    assert script.run() == "open"
    assert [(failure, attempt) for failure, attempt, _ in script.told] == [(DOWN, 1), (DOWN, 2)]
    assert script.slept == [wait for _, _, wait in script.told]


def test_the_last_failure_is_raised_when_the_attempts_are_used_up(monkeypatch: pytest.MonkeyPatch) -> None:
    last = Failure(FailureKind.DIAL_TIMEOUT)
    script = Script(monkeypatch, DOWN, DOWN, last, "never reached")
    with pytest.raises(Failed) as caught:
        script.run(RetryPolicy(max_attempts=3))
    assert caught.value.failure is last
    assert len(script.slept) == 2


def test_no_attempt_begins_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, *[DOWN] * 100)
    with pytest.raises(Failed):
        script.run(RetryPolicy(max_attempts=100, initial_delay=4, max_delay=4, max_elapsed=10))
    assert sum(script.slept) < 10
    assert 1 < len(script.slept) < 99


def test_a_pause_beyond_the_deadline_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, Failure(FailureKind.HANDSHAKE_REJECTED, status=429, retry_after=3600.0))
    with pytest.raises(Failed):
        script.run()
    assert script.slept == []


def test_retry_after_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(
        monkeypatch, Failure(FailureKind.HANDSHAKE_REJECTED, status=429, retry_after=17.0), "open"
    )
    assert script.run() == "open"
    assert script.slept == [17.0]


def test_the_pause_is_never_shorter_than_the_least(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, DOWN, "open")
    assert script.run(least=lambda: 25.0) == "open"
    assert script.slept == [25.0]


def test_what_cannot_pass_is_raised_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Failure(FailureKind.HANDSHAKE_REJECTED, status=401)
    script = Script(monkeypatch, refused, "never reached")
    with pytest.raises(Failed) as caught:
        script.run()
    assert caught.value.failure is refused
    assert script.told == []


def test_nobody_waiting_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch, DOWN, "never reached")
    with pytest.raises(Failed):
        script.run(before_sleep=lambda *_: False)
    assert script.slept == []


def test_a_defect_is_not_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Script(monkeypatch)

    async def broken() -> str:
        raise ZeroDivisionError

    script.attempt = broken  # type: ignore[method-assign]
    with pytest.raises(ZeroDivisionError):
        script.run()
