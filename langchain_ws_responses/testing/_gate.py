"""What the server waits for, and the clock it reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, runtime_checkable

__all__ = ["AdjustableClock", "Clock", "Gate"]


@runtime_checkable
class Gate(Protocol):
    """Something that is set at some time, such as `threading.Event`."""

    def is_set(self) -> bool:
        """Says whether the way is free."""
        ...


class AdjustableClock:
    """A monotonic clock that can be moved forward by hand.

    Args:
        base: The clock it follows, `time.monotonic` by default.
    """

    def __init__(self, base: Callable[[], float] = time.monotonic) -> None:
        self._base = base
        self._offset = 0.0

    def __call__(self) -> float:
        return self._base() + self._offset

    @property
    def offset(self) -> float:
        """Seconds by which the clock was moved."""
        return self._offset

    def advance(self, seconds: float) -> None:
        """Moves the clock forward.

        Raises:
            ValueError: `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError("a clock does not go backwards")
        self._offset += seconds


Clock = Callable[[], float]
