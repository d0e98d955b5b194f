"""What keeps an outage from turning into a storm of dials: a circuit breaker and a budget of failures."""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Hashable

from .._protocol.recovery import NO_MODE_HERE

__all__ = ["Breaker", "DialBudget", "PoolBreaker"]

_FIRST = 5.0
_MOST = 300.0
_FAILURES = 10
_MINUTE = 60.0
_MANY_PLACES = 1024


class Breaker:
    """Closed, open, or half open: one trial at a time after the pause. Safe from any thread.

    Args:
        first: Seconds of the first pause; each further one is twice as long, up to five minutes.
    """

    def __init__(self, first: float = _FIRST) -> None:
        self._pause = first
        self._first = first
        self._until: float | None = None
        self._lock = threading.Lock()

    def state(self, now: float) -> str:
        """`closed`, `open` or `half_open`."""
        until = self._until
        if until is None:
            return "closed"
        return "open" if now < until else "half_open"

    def allows(self, now: float) -> bool:
        """Whether to dial. A half-open breaker allows one trial, and then none for another pause."""
        with self._lock:
            state = self.state(now)
            if state == "half_open":
                self._until = now + self._first
            return state != "open"

    def succeeded(self) -> None:
        """A dial worked."""
        with self._lock:
            self._until, self._pause = None, self._first

    def failed(self, now: float) -> float:
        """Dialing was given up; returns the pause in seconds."""
        jitter = random.uniform(0.8, 1.2)  # noqa: S311 - jitter is no secret
        with self._lock:
            pause = self._pause * jitter
            self._until = now + pause
            self._pause = min(_MOST, self._pause * 2)
        return pause


class PoolBreaker:
    """The breaker of one pool: that of its place while the mode is not offered there, whatever the key, else its own.

    Args:
        refusing: The breakers of places that do not offer the mode; shared by the pools of a manager.
        place: The pool's endpoint, its key apart.
    """

    def __init__(self, refusing: dict[Hashable, Breaker], place: Hashable) -> None:
        self._refusing, self._place, self._own = refusing, place, Breaker()

    def _current(self) -> Breaker:
        return self._refusing.get(self._place) or self._own

    def state(self, now: float) -> str:
        """As `Breaker.state`."""
        return self._current().state(now)

    def allows(self, now: float) -> bool:
        """As `Breaker.allows`."""
        return self._current().allows(now)

    def succeeded(self) -> None:
        """A dial worked: the mode is offered."""
        self._own.succeeded()
        self._refusing.pop(self._place, None)

    def failed(self, now: float, status: int | None) -> float:
        """Dialing was given up, with the status of the answer if there was one; returns the pause in seconds."""
        if status not in NO_MODE_HERE:
            return self._own.failed(now)
        if len(self._refusing) >= _MANY_PLACES and self._place not in self._refusing:
            del self._refusing[next(iter(self._refusing))]
        return self._refusing.setdefault(self._place, Breaker()).failed(now)


class DialBudget:
    """At most ten failed dials in any minute, however many turns ask for a connection."""

    def __init__(self) -> None:
        self._failures: deque[float] = deque(maxlen=_FAILURES)

    def failed(self, now: float) -> None:
        """A dial failed."""
        self._failures.append(now)

    def wait(self, now: float) -> float:
        """Seconds until the next dial is allowed."""
        if len(self._failures) < _FAILURES:
            return 0.0
        return max(0.0, self._failures[0] + _MINUTE - now)
