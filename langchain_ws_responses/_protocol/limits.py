"""Limits, the retry policy and what is known about the servers.

All times are seconds; `None` means no limit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

__all__ = ["Limits", "Profile", "RetryPolicy", "profile_for"]

_MIB = 1024 * 1024


def _check(config: Any, *, integers: frozenset[str], zero: frozenset[str], required: frozenset[str]) -> None:
    """Refuses values that could never work, with the name of the option."""
    for item in fields(config):
        value = getattr(config, item.name)
        if value is None and item.name not in required:
            continue
        wanted = int if item.name in integers else (int, float)
        if isinstance(value, bool) or not isinstance(value, wanted):
            what = "a whole number" if item.name in integers else "a number of seconds"
            raise TypeError(
                f"{type(config).__name__}({item.name}=…) must be {what}, not {type(value).__name__}"
            )
        if value != value or value < 0 or (value == 0 and item.name not in zero):
            raise ValueError(f"{type(config).__name__}({item.name}={value!r}) must be above zero")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a `ConnectionManager` may use and how long it waits.

    Attributes:
        max_connections: Sockets per endpoint and credentials; None opens as many as the turns in flight need.
        max_in_flight: Responses at a time on one connection; the server's own limit is 16.
        max_lanes: Lane names on one connection over its lifetime; the server's own limit is 32.
        max_waiting: Turns that may wait for a lane; one more gets `TooManyWaiting`. For a connection that is being
            opened as many may wait as it takes at a time; 0 lets nobody wait for others to end.
        lease_timeout: Seconds that a turn waits for a lane.
        max_lifetime: Seconds after which a connection takes no new turn; the server ends it at 3600.
        max_idle: Seconds without a turn after which a connection is closed.
        connect_timeout: Seconds for one attempt to dial.
        first_event_timeout: Seconds from the send to the first event.
        between_events_timeout: Seconds between two events of a turn.
        ping_interval: Seconds between keepalive pings.
        ping_timeout: Seconds to wait for a pong.
        max_message_size: Bytes of one inbound frame.
        max_lane_bytes: Bytes of events that may wait for one slow caller.
        max_total_bytes: Bytes of events that may wait for all callers together.
    """

    max_connections: int | None = None
    max_in_flight: int = 16
    max_lanes: int = 32
    max_waiting: int | None = 1024
    lease_timeout: float | None = 60
    max_lifetime: float | None = 3300
    max_idle: float | None = 300
    connect_timeout: float | None = 10
    first_event_timeout: float | None = 60
    between_events_timeout: float | None = 600
    ping_interval: float | None = 20
    ping_timeout: float | None = 20
    max_message_size: int | None = 64 * _MIB
    max_lane_bytes: int | None = 32 * _MIB
    max_total_bytes: int | None = 256 * _MIB

    def __post_init__(self) -> None:
        _check(
            self,
            integers=frozenset(name for name in _names(self) if name.startswith("max_")) - _SECONDS,
            zero=frozenset({"max_waiting"}),
            required=frozenset({"max_in_flight", "max_lanes"}),
        )


_SECONDS = frozenset({"max_lifetime", "max_idle"})


def _names(config: Any) -> list[str]:
    return [item.name for item in fields(config)]


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """How often and how fast to try again. Waits grow exponentially with full jitter.

    Attributes:
        max_attempts: Attempts in all, the first one included.
        initial_delay: Upper bound of the first wait.
        max_delay: Upper bound of every wait.
        max_elapsed: Seconds after the first attempt at which no new one is begun.
    """

    max_attempts: int = 6
    initial_delay: float = 0.5
    max_delay: float = 8
    max_elapsed: float | None = 60

    def __post_init__(self) -> None:
        _check(
            self,
            integers=frozenset({"max_attempts"}),
            zero=frozenset({"initial_delay", "max_delay", "max_elapsed"}),
            required=frozenset({"max_attempts", "initial_delay", "max_delay"}),
        )


@dataclass(frozen=True, kw_only=True)
class Profile:
    """What is known about a server before it has said anything.

    Attributes:
        name: For messages and stats.
        lanes: True: it has lanes. None: one response at a time until an event echoes a `stream_id`.
        max_lifetime: Seconds after which the server closes a connection.
        websocket: False: it is known to refuse the upgrade.
        keeps_warm_up: Whether the input of a warm-up is known to be kept.
    """

    name: str
    lanes: bool | None = None
    max_lifetime: float = 3600
    websocket: bool = True
    keeps_warm_up: bool = False


_OPENAI = Profile(name="openai", lanes=True, keeps_warm_up=True)
_AZURE = Profile(name="azure")
_XAI = Profile(name="xai", max_lifetime=25 * 60)
_VERCEL = Profile(name="vercel")
_OPENROUTER = Profile(name="openrouter", websocket=False)
_UNKNOWN = Profile(name="unknown")

_BY_HOST = {
    "api.openai.com": _OPENAI,
    "api.x.ai": _XAI,
    "ai-gateway.vercel.sh": _VERCEL,
    "openrouter.ai": _OPENROUTER,
}


def profile_for(host: str) -> Profile:
    """Returns what is known about the server behind a host name.

    Args:
        host: Host name without port, in any case.
    """
    host = host.lower().rstrip(".")
    if host.endswith(".openai.azure.com"):
        return _AZURE
    return _BY_HOST.get(host, _UNKNOWN)
