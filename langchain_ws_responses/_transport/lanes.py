"""Which lane of a connection a turn gets, and which chain is given up for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

from .._protocol.connection import ResponsesProtocol
from .._protocol.lanes import Lane, LaneState
from .._types import Failure

__all__ = ["Cost", "LaneBook", "Offer"]

_STREAM_LIMIT = "websocket_stream_limit_reached"
# An unstored chain that nobody has continued for so long is most likely over.
_CHAIN_SECONDS = 60.0
_IDLE = LaneState.IDLE


class Cost(IntEnum):
    """What is given up when a turn takes a lane; less is better."""

    NOTHING = 0
    """The lane has no chain."""
    STORED = 1
    """Its chain can be loaded from the provider's storage."""
    OLD = 2
    """Its chain is only here, but nobody has continued it for a minute."""
    CHAIN = 3
    """Its chain is only here: its next turn would have to be sent in full."""


_NOTHING, _STORED = Cost.NOTHING, Cost.STORED


@dataclass(frozen=True)
class Offer:
    """A lane that could be had.

    Attributes:
        cost: What it costs.
        used_at: When the lane was last used.
        lane: The lane; None is one with a new name.
    """

    cost: Cost
    used_at: float = 0.0
    lane: Lane | None = None


class LaneBook:
    """Knows of one connection which lanes can be had and at which cost.

    Args:
        protocol: The connection's state.
        max_names: Lane names over the lifetime of the connection.
    """

    def __init__(self, protocol: ResponsesProtocol, max_names: int) -> None:
        self._protocol = protocol
        self._max_names = max_names
        self._unstored: set[Lane] = set()

    def offer(self, now: float) -> Offer | None:
        """The cheapest lane, or None where every lane is busy or the connection has no room."""
        protocol = self._protocol
        if not protocol.room:
            return None
        if protocol.has_lanes is False:
            only = protocol.lanes.get(None)
            return Offer(Cost.NOTHING) if only is None else Offer(self._price(only, now), only.used_at, only)
        best: Lane | None = None
        cost = Cost.CHAIN
        # A turn whose lane has gone to another chain asks every connection: nothing is called for each lane.
        for lane in protocol.lanes.values():
            # A lane whose response is being forked must not advance, with another chain neither.
            if lane.state is not _IDLE or lane.forks or lane.name is None:
                continue
            if lane.latest is None:
                price = _NOTHING
            elif lane not in self._unstored:
                price = _STORED
            else:
                price = self._price(lane, now)
            if best is None or price < cost or (price is cost and lane.used_at < best.used_at):
                best, cost = lane, price
        names = len(protocol.lanes) - (None in protocol.lanes)
        if names < self._max_names and (best is None or cost is not Cost.NOTHING):
            return Offer(Cost.NOTHING)
        return None if best is None else Offer(cost, best.used_at, best)

    def _price(self, lane: Lane, now: float) -> Cost:
        if lane.latest is None:
            return Cost.NOTHING
        if lane not in self._unstored:
            return Cost.STORED
        return Cost.OLD if now - lane.used_at >= _CHAIN_SECONDS else Cost.CHAIN

    def take(self, offer: Offer) -> Lane:
        """Returns the lane of an offer that was made just now."""
        lane = offer.lane or self._protocol.spare_lane()
        assert lane is not None  # noqa: S101 - it was offered
        return lane

    def ended(self, lane: Lane, *, unstored: bool) -> None:
        """A turn on a lane has ended.

        Args:
            lane: The lane.
            unstored: Whether its chain can be continued only here.
        """
        if unstored:
            self._unstored.add(lane)
        else:
            self._unstored.discard(lane)

    def refused(self, lane: Lane, failure: Failure) -> Failure:
        """Learns from a failed turn what the server thinks of lanes.

        Returns:
            The failure; one that complains about `stream_id` says so in its code.
        """
        self._unstored.discard(lane)
        if failure.code == _STREAM_LIMIT:
            # The server counts fewer names than we do: this one was never registered, and no other will be.
            self._protocol.lanes.pop(lane.name, None)
            self._max_names = sum(1 for name in self._protocol.lanes if name is not None)
            if not self._max_names:
                self._protocol.has_lanes = False
        elif failure.param == "stream_id" and lane.name is not None and not failure.events_seen:
            # A server that does not know the parameter has no lanes; nothing was generated.
            self._protocol.has_lanes = False
            return replace(failure, code="invalid_stream_id")
        return failure
