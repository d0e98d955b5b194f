"""What a manager tells those who want to look inside.

Hooks run on the I/O thread and must return quickly; what they raise is logged and otherwise ignored. No event holds
a header, a key or content.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from .._types import FailureKind, Phase

__all__ = [
    "ConnectionClosed",
    "ConnectionOpened",
    "DialRetrying",
    "Hook",
    "Stats",
    "TransportEvent",
    "TurnEnded",
    "TurnSent",
]


@dataclass(frozen=True, kw_only=True)
class TransportEvent:
    """Base of all events.

    Attributes:
        connection: The connection's label; empty before there is one.
        endpoint: The endpoint's URL without credentials and query.
    """

    connection: str = ""
    endpoint: str = ""


@dataclass(frozen=True, kw_only=True)
class ConnectionOpened(TransportEvent):
    """A handshake succeeded. `seconds` is what it took, `attempts` how many tries."""

    seconds: float = 0.0
    attempts: int = 1


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
class TurnSent(TransportEvent):
    """A create was written. `mode` and `reason` are those of the message's `transport` metadata."""

    lane: str = ""
    mode: str = ""
    reason: str = ""
    bytes: int = 0
    reused: bool = False


@dataclass(frozen=True, kw_only=True)
class TurnEnded(TransportEvent):
    """A turn reached its terminal event, or failed with `failure` in `phase`, or was abandoned in an earlier one."""

    lane: str = ""
    events: int = 0
    seconds: float = 0.0
    failure: FailureKind | None = None
    phase: Phase = Phase.TERMINAL


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
        strays: Frames that belonged to no turn.
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
