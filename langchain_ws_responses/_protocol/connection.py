"""One connection as a pure state machine: verbs in, bytes and verdicts out, no I/O.

`ResponsesProtocol` knows which lanes exist, what is in flight on them, which responses the server keeps in
memory, and to which turn a frame belongs. Whoever owns it reads and writes the socket.

Source: the public guide of the WebSocket mode: lanes, 16 in flight, 32 names, latest response per lane in
memory, eviction after a failed same-lane continuation, forks.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .._types import Failure, FailureKind, Phase
from .events import (
    EventKind,
    Frame,
    FrameError,
    created_id,
    decode,
    ends_of,
    failure_from,
    is_output,
    lane_last,
    names_no_lane,
    response_id,
)
from .lanes import Lane, LaneInput, LaneState, LocalProtocolError
from .limits import Profile

__all__ = ["Received", "ResponsesProtocol"]

_MEMORY_ONLY_HEAD = b'{"type":"response.create"'
# What follows `response.created` and does not end the response.
_WITHIN = frozenset({EventKind.IN_PROGRESS, EventKind.STEER, EventKind.OUTPUT})
# Refusals of a second response at a time, or of lanes at all: the server has none.
_NO_LANES_CODES = frozenset({"concurrent_turn_not_supported", "invalid_stream_id", "unknown_stream_id"})


@dataclass(slots=True)
class Received:
    """What one frame means.

    Attributes:
        frame: The frame, or None if it could not be read.
        lane: The lane that it belongs to, or None: nobody's.
        deliver: Whether the lane's turn should see it (not so for an abandoned turn).
        ended: Whether it ended the lane's turn.
        failure: Why the turn failed, if it did.
        fatal: The connection cannot be used any more: fail everything in flight on it with this.
        retire: The connection takes no new turn from now on.
    """

    frame: Frame | None = None
    lane: Lane | None = None
    deliver: bool = False
    ended: bool = False
    failure: Failure | None = None
    fatal: Failure | None = None
    retire: bool = False


def _random_name() -> str:
    return f"ln_{secrets.token_hex(6)}"


class ResponsesProtocol:
    """The protocol state of one connection.

    Args:
        profile: What is known about the server.
        max_in_flight: Responses at a time.
        max_lanes: Lane names over the lifetime of the connection.
        label: Name of the connection for failures.
        loads: The JSON parser.
        make_name: Makes a fresh `stream_id`; random by default, never from user text.
    """

    def __init__(
        self,
        *,
        profile: Profile,
        max_in_flight: int = 16,
        max_lanes: int = 32,
        label: str = "",
        loads: Callable[[bytes], Any] = json.loads,
        make_name: Callable[[], str] = _random_name,
    ) -> None:
        self.lanes: dict[str | None, Lane] = {}
        self.has_lanes = profile.lanes
        self.strays = 0
        self._proved = False
        # Whether each answer begins with `response.created`; None until one has.
        self._announces: bool | None = None
        self._max_in_flight = max_in_flight
        self._max_lanes = max_lanes
        self._label = label
        self._loads = loads
        self._make_name = make_name
        self._busy: dict[Lane, None] = {}
        self._holders: dict[str, Lane] = {}
        self._steers: dict[Lane, int] = {}

    # -- what there is -------------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Turns that wait for their terminal event, abandoned ones included: the server counts them too."""
        return len(self._busy)

    @property
    def room(self) -> int:
        """How many more turns may be sent now."""
        most = self._max_in_flight if self.has_lanes else 1
        return max(0, most - len(self._busy))

    def holder(self, response_id: str) -> Lane | None:
        """Returns the lane whose memory holds a response, or None."""
        return self._holders.get(response_id)

    def held(self) -> list[str]:
        """Returns the responses that the server keeps in memory for this connection."""
        return list(self._holders)

    def give_up(self, response_id: str) -> None:
        """Nobody will continue a response: its lane is free for any other chain, unless a turn is using it."""
        lane = self._holders.get(response_id)
        if lane is not None and lane.idle and not lane.forks:
            self._forget(lane)

    def in_flight_lanes(self) -> list[Lane]:
        """Returns the lanes that wait for a terminal event."""
        return list(self._busy)

    def spare_lane(self) -> Lane | None:
        """Returns a lane for a turn that continues nothing here.

        An idle lane without a chain, else a new name, else the least recently used idle lane, whose chain is
        given up. None where every lane is busy or the connection has no room.
        """
        if not self.room:
            return None
        if self.has_lanes is False:
            return self.lanes.setdefault(None, Lane(None))
        # A lane whose response is being forked must not advance, with another chain neither.
        idle = [
            lane
            for lane in self.lanes.values()
            if lane.idle and lane.name is not None and self.may_advance(lane)
        ]
        empty = next((lane for lane in idle if lane.latest is None), None)
        if empty is not None:
            return empty
        if sum(1 for name in self.lanes if name is not None) < self._max_lanes:
            lane = Lane(self._make_name())
            self.lanes[lane.name] = lane
            return lane
        return min(idle, key=lambda lane: lane.used_at, default=None)

    # -- sending -------------------------------------------------------------------------------------------

    def send_create(
        self,
        lane: Lane,
        body: bytes,
        *,
        parent: str | None = None,
        stored: bool = True,
        quiet: bool = False,
    ) -> bytes:
        """Begins a turn.

        Args:
            lane: An idle lane of this connection.
            body: The request as a JSON object without `type` and `stream_id`; at least one key.
            parent: The `previous_response_id` in it.
            stored: Whether the parent can be loaded from storage; if not, it must be in this connection's
                memory.
            quiet: Whether nobody looks at the turn's events before the terminal one.

        Returns:
            The text to write.

        Raises:
            LocalProtocolError: The lane is busy, the connection is full or the parent gone; nothing changed.
        """
        if not self.room:
            raise LocalProtocolError("the connection has no room for another response")
        source = self._holders.get(parent) if parent is not None else None
        if source is None and parent is not None and not stored:
            raise LocalProtocolError("the response to continue is not in this connection's memory")
        lane.advance(LaneInput.SEND)
        self._busy[lane] = None
        if source is not None and source is not lane and not stored:
            source.forks.add(id(lane))
        if source is not lane:
            self._forget(lane)
        lane.parent, lane.response_id = parent, None
        lane.events, lane.output, lane.quiet = 0, False, quiet
        lane.early = 0 if self._announces and lane.ended else None
        head = _MEMORY_ONLY_HEAD
        if lane.name is not None:
            head += b',"stream_id":"' + lane.name.encode("ascii") + b'"'
        return head + b"," + body[1:]

    def take_back(self, lane: Lane) -> None:
        """Frees a lane whose create was never written."""
        source = self._holders.get(lane.parent) if lane.parent is not None else None
        if source is not None:
            source.forks.discard(id(lane))
        lane.advance(LaneInput.TERMINAL)
        self._busy.pop(lane, None)
        lane.parent = None

    def may_advance(self, lane: Lane) -> bool:
        """Whether a same-lane continuation may be sent: every fork of its response has been begun."""
        return not lane.forks

    def send_steer(self, lane: Lane, items: Any, *, dumps: Callable[[Any], bytes]) -> bytes:
        """Queues user input into the response in flight.

        Args:
            lane: A lane whose response has been named by the server.
            items: Input items.
            dumps: The JSON serialiser.

        Raises:
            LocalProtocolError: Nothing is running on the lane.
        """
        if lane.idle or lane.response_id is None:
            raise LocalProtocolError("no response is running on this lane")
        self._steers[lane] = self._steers.get(lane, 0) + 1
        frame: dict[str, Any] = {"type": "response.steer"}
        if lane.name is not None:
            frame["stream_id"] = lane.name
        return dumps({**frame, "previous_response_id": lane.response_id, "input": items})

    def abandon(self, lane: Lane) -> None:
        """Marks the turn in flight as nobody's: its rest is swallowed."""
        if lane.state in (LaneState.SENT, LaneState.STREAMING):
            lane.advance(LaneInput.ABANDON)

    # -- receiving -----------------------------------------------------------------------------------------

    def skim(self, messages: Sequence[bytes], at: int) -> tuple[Lane, int] | None:
        """Takes frames that nobody needs: more output of a turn whose caller waits for its end only.

        Args:
            messages: Frames in the order in which they came.
            at: Which of them is the next.

        Returns:
            The lane, whose events were counted, and which frame is the next now; None where the next one has to be
            received.
        """
        raw = messages[at]
        if not is_output(raw):
            return None
        name = lane_last(raw)
        if name is not None:
            lane = self.lanes.get(name.decode("utf-8", "replace"))
        elif self.has_lanes is False and len(self._busy) == 1 and names_no_lane(raw):
            [lane] = self._busy
        else:
            return None
        # The first output is received: it shows how far the turn has come.
        if lane is None or not lane.quiet or not lane.output or lane.idle:
            return None
        after = at + 1 if name is None else self._same(messages, at)
        lane.events += after - at
        return lane, after

    def _same(self, messages: Sequence[bytes], at: int) -> int:
        """Where a run of frames of the same type and lane ends: how they begin and end is all that tells that."""
        head, tail = ends_of(messages[at])
        after = at + 1
        while after < len(messages) and messages[after].startswith(head) and messages[after].endswith(tail):
            after += 1
        return after

    def receive(self, raw: bytes | str, *, now: float = 0.0) -> Received:
        """Takes one frame from the socket.

        Never raises for what a server sends: a broken frame is a verdict too.

        Args:
            raw: The message.
            now: The owner's clock.
        """
        try:
            frame = decode(raw, loads=self._loads)
            lane, fatal = self._owner(frame)
            if fatal is not None:
                return Received(frame=frame, fatal=fatal, retire=True)
            if frame.kind is EventKind.ERROR:
                return self._error(frame, lane, now)
            if lane is None:
                return Received(frame=frame)
            return self._event(frame, lane, now)
        except FrameError as exc:
            return Received(fatal=self._fail(FailureKind.PROTOCOL_VIOLATION, f"{exc}."), retire=True)

    def _fail(self, kind: FailureKind, message: str) -> Failure:
        # What is in flight was written: its outcome is unknown.
        return Failure(kind, phase=Phase.SENT, message=message, connection=self._label)

    def _owner(self, frame: Frame) -> tuple[Lane | None, Failure | None]:
        """Finds the lane that a frame belongs to; a failure where guessing would be wrong."""
        if frame.stream_id is not None:
            lane = self.lanes.get(frame.stream_id)
            if lane is None or lane.idle:
                self.strays += 1
                return None, None
            self.has_lanes, self._proved = True, True
            return lane, None
        if frame.kind is EventKind.FOREIGN:
            return None, None
        busy = self.in_flight_lanes()
        if not busy:
            self.strays += 1
            return None, None
        if len(busy) == 1:
            lane = busy[0]
            if lane.name is not None and not self._proved and frame.kind is not EventKind.ERROR:
                # The name was not echoed: from now on one response at a time, without a name.
                self.has_lanes = False
                self._rename(lane)
            return lane, None
        if frame.kind is EventKind.ERROR:
            return None, None
        self.has_lanes = False
        message = "The server does not say which of several responses an event belongs to."
        return None, self._fail(FailureKind.LANES_UNSUPPORTED, message)

    def _stray(self, frame: Frame) -> Received:
        self.strays += 1
        return Received(frame=frame)

    def _rename(self, lane: Lane) -> None:
        self.lanes.pop(lane.name, None)
        lane.name = None
        self.lanes[None] = lane

    def _event(self, frame: Frame, lane: Lane, now: float) -> Received:
        kind = frame.kind
        if lane.early is not None and kind in _WITHIN:
            lane.early += 1
            return self._stray(frame)
        if lane.ended and kind is not EventKind.OUTPUT and self._is_late(frame, lane):
            return self._stray(frame)
        deliver = lane.state is not LaneState.DRAINING
        if kind is EventKind.CREATED:
            if (refusal := self._created(frame, lane)) is not None:
                return refusal
        elif kind is not EventKind.FOREIGN and not lane.output:
            self._begun(lane)
        lane.output = lane.output or kind is EventKind.OUTPUT
        steered = _is_steered(frame)
        if not kind.is_terminal or (steered and self._expects_successor(lane)):
            lane.advance(LaneInput.EVENT)
            lane.events += 1
            return Received(frame=frame, lane=lane, deliver=deliver)
        latest = response_id(frame) or lane.response_id
        lane.events += 1
        failure = self._never_begun(lane) if lane.early else None
        if latest is not None and latest != lane.response_id:
            lane.ended.append(latest)
        self._end(lane, now)
        if kind is not EventKind.FAILED and latest is not None:
            lane.latest = latest
            self._holders[latest] = lane
        # Somebody else steered it: a successor that nobody here asked for comes on this lane, before any other answer.
        return Received(frame=frame, lane=lane, deliver=deliver, ended=True, failure=failure, retire=steered)

    def _is_late(self, frame: Frame, lane: Lane) -> bool:
        """Whether a frame is of a response that has ended on its lane, and not of the turn in flight.

        Only ids that are known to have ended count: some servers give one answer several ids.
        """
        if frame.kind is EventKind.IN_PROGRESS:
            known = lane.response_id
            if known is not None and known.encode(errors="replace") in frame.raw:
                return False  # as nearly always; nobody else may want it parsed
        elif not frame.kind.is_terminal:
            return False
        return lane.has_ended(response_id(frame))

    def _created(self, frame: Frame, lane: Lane) -> Received | None:
        """Takes the beginning of an answer; what it means where that is not the one that is waited for."""
        before = lane.response_id
        # A later one on the same turn is the successor of a steered response.
        value, named = created_id(frame, parent=before is None and lane.parent is not None)
        again = lane.has_ended(value)
        if again and before is not None:
            return self._stray(frame)
        if again:  # an old answer once more, or a server that uses ids twice
            named = frame.response.get("previous_response_id", lane.parent) == lane.parent
        if before is not None and before != value:
            lane.ended.append(before)
        lane.response_id, lane.early = value, None
        if self._announces is None:
            self._announces = True
        return None if named else self._parent_ignored(frame, lane, retire=again)

    def _never_begun(self, lane: Lane) -> Failure | None:
        """The answer has ended whose events were passed by: they did not wait for `response.created` after all."""
        self._announces = False
        if lane.quiet:
            return None  # the terminal event has everything
        message = "The server gave an answer without beginning it, unlike those before."
        return self._fail(FailureKind.PROTOCOL_VIOLATION, message)

    def _parent_ignored(self, frame: Frame, lane: Lane, *, retire: bool) -> Received:
        """The server began an answer that does not continue what it was told to: nobody may see it."""
        failure = Failure(
            FailureKind.PARENT_IGNORED,
            phase=Phase.SENT,
            message="The server began a response without continuing the one that the request named.",
            connection=self._label,
        )
        lane.advance(LaneInput.EVENT)
        deliver = lane.state is not LaneState.DRAINING
        self.abandon(lane)
        return Received(frame=frame, lane=lane, deliver=deliver, failure=failure, retire=retire)

    def _expects_successor(self, lane: Lane) -> bool:
        """Whether this side steered the lane's turn: it goes on with the successor."""
        if not self._steers.get(lane):
            return False
        self._steers[lane] -= 1
        return True

    def _error(self, frame: Frame, lane: Lane | None, now: float) -> Received:
        phase = Phase.SENT
        if lane is not None and lane.events:
            phase = Phase.STREAMING if lane.output else Phase.CREATED
        failure = failure_from(
            frame.data, phase=phase, events_seen=lane.events if lane else 0, connection=self._label
        )
        ending = failure.code == "websocket_connection_limit_reached"
        if lane is None:
            # On an idle socket, or about a turn that is over, an ordinary event.
            of_others = frame.stream_id is None and self.in_flight > 0
            fatal = self._unattributed(failure) if of_others else None
            return Received(frame=frame, fatal=fatal, retire=ending or fatal is not None)
        if failure.code in _NO_LANES_CODES and lane.name is not None:
            self.has_lanes = False
        deliver = lane.state is not LaneState.DRAINING
        self._end(lane, now)
        return Received(frame=frame, lane=lane, deliver=deliver, ended=True, failure=failure, retire=ending)

    def _unattributed(self, failure: Failure) -> Failure:
        """Makes of an error that may be any lane's one that is every lane's: the connection is given up.

        The turns that it is not about must not be refused with a status that is not theirs.
        """
        if failure.code == "websocket_connection_limit_reached":
            return failure
        kind = FailureKind.CONNECTION_LOST
        if failure.code in _NO_LANES_CODES:
            self.has_lanes, kind = False, FailureKind.LANES_UNSUPPORTED
        message = f"The server did not say which of several responses failed: {failure.message}"
        return replace(failure, kind=kind, message=message)

    def _end(self, lane: Lane, now: float) -> None:
        lane.advance(LaneInput.TERMINAL)
        self._busy.pop(lane, None)
        if lane.response_id is not None:
            lane.ended.append(lane.response_id)
        self._begun(lane)
        # A continuation, failed or not, evicts its parent; a fork leaves it on the parent's own lane.
        self._forget(lane)
        self._steers.pop(lane, None)
        lane.parent, lane.used_at = None, now

    def _begun(self, lane: Lane) -> None:
        """The server works on this lane's turn: its parent's lane may advance."""
        if lane.parent is not None:
            source = self._holders.get(lane.parent)
            if source is not None:
                source.forks.discard(id(lane))

    def _forget(self, lane: Lane) -> None:
        if lane.latest is not None:
            self._holders.pop(lane.latest, None)
            lane.latest = None
            lane.forks.clear()


def _is_steered(frame: Frame) -> bool:
    """Whether this is the end of a response that a successor follows by itself."""
    if frame.kind is not EventKind.INCOMPLETE:
        return False
    details = frame.response.get("incomplete_details")
    return isinstance(details, dict) and details.get("reason") == "steered"
