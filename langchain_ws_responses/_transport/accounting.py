"""What a manager counts, and what waits for its callers."""

from __future__ import annotations

import weakref

from .._protocol.limits import Limits
from .ticket import Ticket

__all__ = ["Buffers", "Counters"]


class Counters:
    """Totals since the manager was made; written on the I/O thread only, except `http`."""

    def __init__(self) -> None:
        self.turns = self.delta = self.full = self.warm_up = self.resends = self.http = 0
        self.bytes_sent = self.bytes_received = self.frames_received = 0
        self.dials = self.dial_failures = self.rotations = self.lost = self.strays = 0
        self.full_reasons: dict[str, int] = {}

    def sent(self, ticket: Ticket, size: int) -> None:
        """Counts one create."""
        self.bytes_sent += size
        self.count(ticket.mode, ticket.reason)

    def count(self, mode: str, reason: str) -> None:
        """Counts one request by how it was sent."""
        self.turns += 1
        if mode == "delta":
            self.delta += 1
        elif mode == "warmup":
            self.warm_up += 1
        else:
            self.full += 1
            self.full_reasons[reason] = self.full_reasons.get(reason, 0) + 1


class Buffers:
    """Knows the turns and how many bytes of events wait for their callers.

    Attributes:
        live: Turns that have not ended.
    """

    def __init__(self, limits: Limits) -> None:
        self.live: set[Ticket] = set()
        self._limits = limits
        # Turns that have ended while events of theirs still wait, by their mailbox, which further attempts at the same
        # turn have too. One whose caller is gone must not be kept for that.
        self._unread: weakref.WeakValueDictionary[int, Ticket] = weakref.WeakValueDictionary()
        self._at_most = 0

    def add(self, ticket: Ticket) -> None:
        """A turn begins."""
        self.live.add(ticket)
        self._unread.pop(id(ticket.mailbox), None)

    def ended(self, ticket: Ticket) -> None:
        """A turn is over; what its caller has not taken yet still counts."""
        self.live.discard(ticket)
        if ticket.mailbox.pending:
            self._unread[id(ticket.mailbox)] = ticket

    def total(self) -> int:
        """Bytes that wait for all callers together. Safe from any thread."""
        return sum(ticket.mailbox.pending for ticket in self._all())

    def _all(self) -> list[Ticket]:
        over = [ticket for known in self._unread.valuerefs() if (ticket := known()) is not None]
        return [*list(self.live), *over]

    def victim(self, ticket: Ticket, size: int) -> Ticket | None:
        """Chooses who must go after `size` bytes were put into a turn's mailbox; None while the limits are kept.

        Over the total it is the turn with the most bytes waiting, be it over, not the one that happens to get some
        more. The end of an answer counts only when something else comes after it: its caller must have had a chance to
        take it, however large it is.
        """
        limits, spared = self._limits, size if ticket.done else 0
        if (
            not spared
            and limits.max_lane_bytes is not None
            and ticket.mailbox.pending > limits.max_lane_bytes
        ):
            return ticket
        if limits.max_total_bytes is None:
            return None
        # Callers only ever make it less: as long as this sum is within the limit, nobody needs to look.
        self._at_most += size
        if self._at_most - spared <= limits.max_total_bytes:
            return None
        self._at_most = self.total()
        if self._at_most - spared <= limits.max_total_bytes:
            return None
        return max(self._all(), key=lambda one: one.mailbox.pending - (spared if one is ticket else 0))
