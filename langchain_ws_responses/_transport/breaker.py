"""What keeps an outage from turning into a storm of dials: a circuit breaker and a budget of failures."""

from __future__ import annotations

import random
import threading
from collections import deque

__all__ = ["Breaker", "DialBudget"]

_FIRST = 5.0
_MOST = 300.0
_FAILURES = 10
_MINUTE = 60.0


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
