"""What a manager tells those who want to look inside.

Hooks run on the I/O thread and must return quickly; what they raise is logged and otherwise ignored. No event holds
a header, a key, a response id or content, but for `TurnContent`, which only hooks with `wants_content = True` hear.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Protocol

from .._types import FailureKind, Phase

__all__ = [
    "ConnectionClosed",
    "ConnectionOpened",
    "ConnectionRetired",
    "DialGivenUp",
    "DialRetrying",
    "Hook",
    "Stats",
    "TransportEvent",
    "TurnContent",
    "TurnEnded",
    "TurnRefused",
    "TurnRetrying",
    "TurnSent",
]


@dataclass(frozen=True, kw_only=True)
class TransportEvent:
    """Base of all events.

    Attributes:
        at: When it happened, in seconds since the epoch.
        manager: The manager's label: random, another one in every process.
        connection: The connection's label; empty before there is one, and over HTTP.
        endpoint: The endpoint's URL without credentials and query.
    """

    at: float = field(default_factory=time.time)
    manager: str = ""
    connection: str = ""
    endpoint: str = ""


@dataclass(frozen=True, kw_only=True)
class ConnectionOpened(TransportEvent):
    """A handshake succeeded. `seconds` is what it took, `attempts` how many tries."""

    seconds: float = 0.0
    attempts: int = 1


@dataclass(frozen=True, kw_only=True)
class ConnectionRetired(TransportEvent):
    """A connection takes no new turns; those in flight finish. `why` is one of those of `ConnectionClosed`."""

    why: str = ""


@dataclass(frozen=True, kw_only=True)
class ConnectionClosed(TransportEvent):
    """A connection is gone.

    Attributes:
        code: The WebSocket close code; None if it ended without one.
        lost: Turns that were in flight and failed with it.
        why: `lost`, `failed` (a broken frame), `unresponsive`, `expired` (the server's limit), `rotated`, `idle`,
            `drained`, `abandoned` or `closed`.
    """

    code: int | None = None
    lost: int = 0
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class DialRetrying(TransportEvent):
    """A dial failed and is tried again after `wait` seconds."""

    attempt: int = 1
    wait: float = 0.0
    kind: FailureKind = FailureKind.DIAL_FAILED
    status: int | None = None


@dataclass(frozen=True, kw_only=True)
class DialGivenUp(TransportEvent):
    """Dialing has failed for now: the circuit breaker is open. With `transport="auto"` turns go over HTTP meanwhile.

    Attributes:
        attempts: How many dials were tried.
        kind: What the last one failed with.
        status: The HTTP status of a refused handshake.
        pause: Seconds until the breaker lets a trial through; an earlier success closes it.
    """

    attempts: int = 1
    kind: FailureKind = FailureKind.DIAL_FAILED
    status: int | None = None
    pause: float = 0.0


@dataclass(frozen=True, kw_only=True)
class _TurnEvent(TransportEvent):
    """What all events of one attempt at a turn have.

    Attributes:
        turn: The turn's label: random, the same for all attempts at it.
        attempt: 1 for the first attempt at the turn.
    """

    turn: str = ""
    attempt: int = 1


@dataclass(frozen=True, kw_only=True)
class TurnSent(_TurnEvent):
    """A request was written. `mode` and `reason` are those of the message's `transport` metadata.

    Attributes:
        kind: `websocket` or `http`.
        lane: The lane's name; empty over HTTP, and where the server has no lanes.
        mode: `full`, `delta` or `warmup`.
        reason: Why it was sent so: a value of `Reason`.
        items: Input items that it carried.
        bytes: Size of the request.
        reused: Whether the connection had carried a turn before.
        waited: Seconds from the call to the write: dialing, or waiting for a lane.
        model: The model that was asked.
        node: The LangGraph node that asked, or empty.
    """

    kind: str = "websocket"
    lane: str = ""
    mode: str = ""
    reason: str = ""
    items: int = 0
    bytes: int = 0
    reused: bool = False
    waited: float = 0.0
    model: str = ""
    node: str = ""


@dataclass(frozen=True, kw_only=True)
class TurnEnded(_TurnEvent):
    """An attempt reached its terminal event, or failed with `failure` in `phase`, or was abandoned in an earlier one.

    Attributes:
        kind: `websocket` or `http`.
        lane: The lane's name.
        events: Events that came.
        bytes: Size of these events; 0 over HTTP, where it is not known.
        seconds: From the write to the end.
        first_event: Seconds from the write to the first event; None if there was none.
        longest_gap: Longest pause between two events, in seconds.
        failure: What it failed with; None if it did not fail.
        status: The HTTP status that the failure came with.
        phase: How far it had come.
    """

    kind: str = "websocket"
    lane: str = ""
    events: int = 0
    bytes: int = 0
    seconds: float = 0.0
    first_event: float | None = None
    longest_gap: float = 0.0
    failure: FailureKind | None = None
    status: int | None = None
    phase: Phase = Phase.TERMINAL


@dataclass(frozen=True, kw_only=True)
class TurnRefused(_TurnEvent):
    """An attempt failed before anything was written."""

    failure: FailureKind = FailureKind.DIAL_FAILED
    status: int | None = None


@dataclass(frozen=True, kw_only=True)
class TurnRetrying(_TurnEvent):
    """An attempt failed and the turn is sent again, unseen by the caller.

    Attributes:
        action: `again` (the same request), `full` (the full input) or `http`.
        reason: Why the next attempt is sent in full; empty where it is the same request.
        failure: What the attempt failed with.
        wait: Seconds until the next attempt.
    """

    action: str = ""
    reason: str = ""
    failure: FailureKind = FailureKind.CONNECTION_LOST
    wait: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TurnContent(_TurnEvent):
    """What was said over a socket. Only hooks with `wants_content = True` hear it.

    Attributes:
        request: The request as JSON, when it was written.
        answer: The terminal event as JSON, when it came.
    """

    request: bytes = field(default=b"", repr=False)
    answer: bytes = field(default=b"", repr=False)


class Hook(Protocol):
    """Anything that takes an event."""

    def __call__(self, event: TransportEvent, /) -> None:
        """Takes one event, on the I/O thread."""


@dataclass(frozen=True, kw_only=True)
class Stats:
    """A snapshot of a manager.

    Attributes:
        connections_open: Connections that take turns.
        connections_draining: Connections that only finish what is in flight.
        lanes_busy: Lanes with a turn in flight.
        lanes_named: Lanes in use on open connections.
        in_flight: Turns that wait for their terminal event.
        waiting: Turns that wait for a lane.
        buffered_bytes: Bytes of events that callers have not taken yet.
        turns: Creates written.
        delta: Of these, deltas.
        full: Of these, full sends.
        warm_up: Of these, warm-ups.
        resends: Turns that were sent again.
        http: Turns that went over HTTP.
        bytes_sent: Bytes of creates written.
        bytes_received: Bytes of frames read.
        frames_received: Frames read.
        dials: Handshakes tried.
        dial_failures: Handshakes that failed.
        rotations: Connections retired because of their age.
        lost: Connections that died: with a turn in flight, or without a close frame.
        strays: Frames that belonged to no turn, or to one that had ended.
        full_reasons: Full sends by reason.
        breakers: State of the circuit breaker by endpoint, where it is not closed.
    """

    connections_open: int = 0
    connections_draining: int = 0
    lanes_busy: int = 0
    lanes_named: int = 0
    in_flight: int = 0
    waiting: int = 0
    buffered_bytes: int = 0
    turns: int = 0
    delta: int = 0
    full: int = 0
    warm_up: int = 0
    resends: int = 0
    http: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    frames_received: int = 0
    dials: int = 0
    dial_failures: int = 0
    rotations: int = 0
    lost: int = 0
    strays: int = 0
    full_reasons: dict[str, int] = field(default_factory=dict)
    breakers: dict[str, str] = field(default_factory=dict)
