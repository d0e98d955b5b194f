"""One attempt at a turn, on its way through the I/O thread."""

from __future__ import annotations

from asyncio import TimerHandle
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .._protocol.events import Frame
from .._types import Failure, Phase
from .mailbox import Mailbox

if TYPE_CHECKING:
    from .._protocol.lanes import Lane
    from .connection import Connection
    from .dial import Endpoint
    from .tell import Note

__all__ = ["CATCH_UP_SECONDS", "Ticket", "is_late", "too_large"]

# A process that stood still (stopped, or starved by a hog) finds what came meanwhile in its buffers, and its clocks
# expired: it reads before it judges.
CATCH_UP_SECONDS = 1.0
_LATE_SECONDS = 0.1


class _Referable:
    """Lets a class with slots be referred to weakly; a dataclass can do so itself from Python 3.11 on."""

    __slots__ = ("__weakref__",)


@dataclass(eq=False, repr=False, slots=True)
class Ticket(_Referable):
    """What the caller's thread hands to the I/O thread, and what that notes on it.

    Attributes:
        endpoint: Where to send it.
        body: The request as JSON without `type` and `stream_id`; empty once it was written.
        mailbox: Gets `Frame` and `Failure` items; the last one is a terminal frame or a failure.
        parent: The `previous_response_id` in the body.
        stored: Whether the parent can be loaded from storage.
        keeps: Whether this response will be stored.
        wants_events: False delivers the terminal frame only.
        first_event_timeout: Seconds from the send to the first event; None for no limit.
        between_events_timeout: Seconds between events; None for no limit.
        max_dials: Attempts at dialing that this turn waits for.
        delay: Seconds to wait before it is sent.
        mode: `full`, `delta` or `warmup`, for stats and hooks.
        reason: Why, for stats and hooks.
        note: What hooks are told beside; None while nobody listens.
        connection: Set when it is sent.
        lane: Set when it is sent.
        lane_name: The lane's name when it was sent, for metadata.
        reused: Whether the connection had carried a turn before.
        phase: How far it has come.
        events: Events seen.
        received_bytes: Size of these events.
        first_at: When the first one came.
        longest_gap: The longest pause between two of them.
        sent_bytes: Size of the frame that was written.
        sent_at: When the frame was handed to the socket.
        seen_at: When its last event came.
        unwritten: Bytes that the socket had not passed on yet when the clock last looked.
        done: Nobody waits for it any more.
    """

    endpoint: Endpoint
    body: bytes
    mailbox: Mailbox
    parent: str | None = None
    stored: bool = True
    keeps: bool = True
    wants_events: bool = True
    first_event_timeout: float | None = None
    between_events_timeout: float | None = None
    max_dials: int | None = None
    delay: float = 0.0
    mode: str = "full"
    reason: str = ""
    note: Note | None = None
    connection: Connection | None = None
    lane: Lane | None = None
    lane_name: str = ""
    reused: bool = False
    phase: Phase = Phase.CONNECT
    events: int = 0
    received_bytes: int = 0
    first_at: float = 0.0
    longest_gap: float = 0.0
    sent_bytes: int = 0
    sent_at: float = 0.0
    seen_at: float = 0.0
    unwritten: int = -1
    done: bool = False
    timer: TimerHandle | None = None
    lease_timer: TimerHandle | None = None
    batch: list[Frame | Failure] = field(default_factory=list)
    batch_bytes: int = 0

    @property
    def bound(self) -> bool:
        """Whether only the connection that holds the parent can take it."""
        return self.parent is not None and not self.stored

    def __repr__(self) -> str:  # debug logs of asyncio show arguments, and the body is content
        return f"<Ticket {self.phase} on {self.endpoint.label}>"

    def left(self, seconds: float, now: float, foreign_at: float) -> float:
        """Seconds that its clock still has.

        Args:
            seconds: What the clock allows.
            now: When it is asked: when it should have run down, unless this process stood still.
            foreign_at: When the connection last got a frame that is no turn's.
        """
        left = max(self.seen_at, foreign_at) + seconds - now
        if is_late(left):
            self.seen_at, left = now + CATCH_UP_SECONDS - seconds, CATCH_UP_SECONDS
        return left

    def skimmed(self, frames: Sequence[bytes], now: float) -> None:
        """Notes events that nobody looks at."""
        self.events += len(frames)
        self.received_bytes += sum(map(len, frames))
        self.longest_gap = max(self.longest_gap, now - self.seen_at)
        self.seen_at = now

    def stop_timers(self) -> None:
        """Ends its clocks."""
        for handle in (self.timer, self.lease_timer):
            if handle is not None:
                handle.cancel()
        self.timer = self.lease_timer = None


def is_late(left: float) -> bool:
    """Whether a clock is looked at so late that this process must have stood still.

    Args:
        left: Seconds that the clock still has.
    """
    return left < -_LATE_SECONDS


def too_large(tickets: Sequence[Ticket], *, refused: bool) -> list[Ticket]:
    """Says which turns a close with 1009 is about; for the others the connection was merely lost.

    Args:
        tickets: The turns in flight.
        refused: The other side sent it: servers refuse a request so, before any event. Else it was an answer that was
            too large for this side.
    """
    fresh = [ticket for ticket in tickets if not ticket.events]
    if refused:
        return [max(fresh, key=lambda ticket: ticket.sent_bytes)] if fresh else list(tickets)
    return [ticket for ticket in tickets if ticket.events] or fresh
