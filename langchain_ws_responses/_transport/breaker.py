"""A circuit breaker: stops paying for dials that fail, and finds out by itself when they work again."""

from __future__ import annotations

import random

__all__ = ["Breaker"]

_FIRST = 5.0
_MOST = 300.0


class Breaker:
    """Closed, open, or half open: one trial at a time after the pause.

    Args:
        first: Seconds of the first pause; each further one is twice as long, up to five minutes.
    """

    def __init__(self, first: float = _FIRST) -> None:
        self._pause = first
        self._first = first
        self._until: float | None = None

    def state(self, now: float) -> str:
        """`closed`, `open` or `half_open`."""
        if self._until is None:
            return "closed"
        return "open" if now < self._until else "half_open"

    def allows(self, now: float) -> bool:
        """Whether to dial. A half-open breaker allows one trial, and then none for another pause."""
        state = self.state(now)
        if state == "half_open":
            self._until = now + self._first
        return state != "open"

    def succeeded(self) -> None:
        """A dial worked."""
        self._until, self._pause = None, self._first

    def failed(self, now: float) -> None:
        """Dialing was given up."""
        jitter = random.uniform(0.8, 1.2)  # noqa: S311 - jitter is no secret
        self._until = now + self._pause * jitter
        self._pause = min(_MOST, self._pause * 2)
