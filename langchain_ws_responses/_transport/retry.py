"""Back-off, built on tenacity; none of its types leave this module."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import tenacity

from .._protocol.limits import RetryPolicy
from .._types import Failure, FailureKind

__all__ = ["Failed", "back_off", "paced", "retrying", "set_testing", "worth_retrying"]

T = TypeVar("T")

_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
# Waiting does not help against these, although they come with 429.
_HOPELESS = frozenset({"insufficient_quota", "billing_hard_limit_reached"})
_testing = False


class Failed(Exception):
    """Carries a `Failure` through code that raises. Never leaves this package."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.kind.value)
        self.failure = failure


class _Restore:
    """Puts the switch back where it was."""

    def __init__(self, before: bool) -> None:
        self._before = before

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        set_testing(self._before)


def set_testing(on: bool) -> AbstractContextManager[None]:
    """Switches all waiting between attempts off (or on again), so that tests of failures are quick.

    The number of attempts stays what the policy says, and so does every timeout. It takes effect at once, in the whole
    process; used in a `with` statement it is undone at the end of the block.

    Args:
        on: Whether this is a test.

    Example:
        ```python
        with set_testing(True):
            agent.invoke(question)  # as many attempts as ever, but no pause between them
        ```
    """
    global _testing
    before, _testing = _testing, on
    return _Restore(before)


def back_off(policy: RetryPolicy, attempt: int, asked: float | None = None) -> float:
    """Seconds to wait before the next attempt: full jitter, never less than the server asked for.

    Args:
        policy: Bounds of the wait.
        attempt: Number of the attempt that failed, from 1.
        asked: Seconds of a `retry-after`.
    """
    if _testing:
        return 0.0
    strategy = tenacity.wait_random_exponential(multiplier=policy.initial_delay, max=policy.max_delay)
    state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
    state.attempt_number = attempt
    return max(strategy(state), asked or 0.0)


def paced(seconds: float) -> float:
    """Seconds of a pause that is no back-off; none in tests that have switched waiting off."""
    return 0.0 if _testing else seconds


def worth_retrying(failure: Failure) -> bool:
    """Whether dialing again can help."""
    if failure.kind is FailureKind.HANDSHAKE_REJECTED:
        return failure.status in _RETRIED_STATUS and failure.code not in _HOPELESS
    return failure.kind in (FailureKind.DIAL_FAILED, FailureKind.DIAL_TIMEOUT)


async def retrying(
    attempt: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    before_sleep: Callable[[Failure, int, float], bool],
    least: Callable[[], float] = lambda: 0.0,
) -> T:
    """Runs `attempt` until it succeeds or the policy is used up.

    Args:
        attempt: Raises `Failed`.
        policy: How often and how fast.
        before_sleep: Gets the failure, the number of attempts and the wait; returns False to give up.
        least: Seconds that must pass at least before the next attempt, whatever the policy says.

    Raises:
        Failed: The last failure.
    """
    planned: dict[int, float] = {}  # tenacity's releases differ in whether they ask `wait` or `stop` first

    def wait(state: tenacity.RetryCallState) -> float:
        number = state.attempt_number
        if number not in planned:
            planned[number] = max(back_off(policy, number, _failure(state).retry_after), paced(least()))
        return planned[number]

    def again(state: tenacity.RetryCallState) -> bool:
        outcome = state.outcome
        if outcome is None or not outcome.failed:
            return False
        exc = outcome.exception()
        return isinstance(exc, Failed) and worth_retrying(exc.failure)

    def stop(state: tenacity.RetryCallState) -> bool:
        elapsed = state.seconds_since_start or 0.0
        pause = wait(state)
        late = policy.max_elapsed is not None and elapsed + pause >= policy.max_elapsed
        if state.attempt_number >= policy.max_attempts or late:
            return True
        return not before_sleep(_failure(state), state.attempt_number, pause)

    retry = tenacity.AsyncRetrying(retry=again, wait=wait, stop=stop, sleep=asyncio.sleep, reraise=True)
    return await retry(attempt)


def _failure(state: tenacity.RetryCallState) -> Failure:
    exc = state.outcome.exception() if state.outcome is not None else None
    assert isinstance(exc, Failed)  # noqa: S101 - only `again` lets an attempt get here
    return exc.failure
