"""The states of a lane, as one table.

    IDLE ── send ──► SENT ── event ──► STREAMING ── terminal ──► IDLE
                      │                   │
                      └──── abandon ──────┴──► DRAINING ── terminal ──► IDLE

An abandoned lane is not used again before its terminal event: the next answer would follow the old rest.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

__all__ = ["Lane", "LaneInput", "LaneState", "LocalProtocolError"]

_MOST_ENDED = 4


class LocalProtocolError(RuntimeError):
    """This package used the protocol wrongly: a defect here, never the peer's or the user's fault."""


class LaneState(Enum):
    """Where a lane is."""

    IDLE = "idle"
    SENT = "sent"
    STREAMING = "streaming"
    DRAINING = "draining"


class LaneInput(Enum):
    """What can happen to a lane."""

    SEND = "send"
    EVENT = "event"
    TERMINAL = "terminal"
    ABANDON = "abandon"


_TABLE: dict[tuple[LaneState, LaneInput], LaneState] = {
    (LaneState.IDLE, LaneInput.SEND): LaneState.SENT,
    (LaneState.SENT, LaneInput.EVENT): LaneState.STREAMING,
    (LaneState.SENT, LaneInput.TERMINAL): LaneState.IDLE,
    (LaneState.SENT, LaneInput.ABANDON): LaneState.DRAINING,
    (LaneState.STREAMING, LaneInput.EVENT): LaneState.STREAMING,
    (LaneState.STREAMING, LaneInput.TERMINAL): LaneState.IDLE,
    (LaneState.STREAMING, LaneInput.ABANDON): LaneState.DRAINING,
    (LaneState.DRAINING, LaneInput.EVENT): LaneState.DRAINING,
    (LaneState.DRAINING, LaneInput.TERMINAL): LaneState.IDLE,
}


@dataclass(eq=False, slots=True)
class Lane:
    """One lane of one connection.

    Attributes:
        name: The `stream_id`; None is the default lane.
        state: Where it is.
        latest: The response that the server keeps in memory for this lane, or None.
        parent: The response that the turn in flight continues, or None.
        response_id: The response of the turn in flight, once `response.created` has named it.
        events: Events of the turn in flight so far.
        output: Whether one of them was output.
        quiet: Whether nobody looks at its turn's events before the terminal one.
        forks: Forks of `latest` that the server has not begun yet; the lane must not advance before.
        ended: The last few responses that have ended on it: what still comes of them is nobody's.
        early: Events that came before the `response.created` which its turn waits for; None where it waits for none.
        used_at: When the last turn ended, on the owner's clock.
    """

    name: str | None
    state: LaneState = LaneState.IDLE
    latest: str | None = None
    parent: str | None = None
    response_id: str | None = None
    events: int = 0
    output: bool = False
    quiet: bool = False
    forks: set[int] = field(default_factory=set)
    ended: deque[str] = field(default_factory=lambda: deque(maxlen=_MOST_ENDED))
    early: int | None = None
    used_at: float = 0.0

    @property
    def idle(self) -> bool:
        """Whether a turn may be sent on it."""
        return self.state is LaneState.IDLE

    def has_ended(self, response_id: str | None) -> bool:
        """Whether a response is one that ended on it before the one in flight."""
        return response_id is not None and response_id != self.response_id and response_id in self.ended

    def advance(self, what: LaneInput) -> None:
        """Moves the lane on.

        Raises:
            LocalProtocolError: `what` cannot happen in this state.
        """
        state = self.state
        if what is LaneInput.EVENT and (state is LaneState.STREAMING or state is LaneState.DRAINING):
            return  # as the table says, without asking it at each event
        after = _TABLE.get((state, what))
        if after is None:
            raise LocalProtocolError(f"lane {self.name}: {what.value} while {state.value}")
        self.state = after
