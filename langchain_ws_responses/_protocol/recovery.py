"""What to do when an attempt at a turn failed: one table, for sync and async callers alike.

progress when it failed                     replay      action
nothing written                             SAFE        again, after a back-off; at once and beyond the
                                                        attempts where an open socket was found dead, once
refused, provably nothing generated         SAFE        as the code says: full, new lane or connection
written, no event, socket lost              AMBIGUOUS   one full resend, unless told or unsafe to
an event seen, nothing handed over          AMBIGUOUS   the same
tokens handed to the caller                 UNSAFE      raise
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from .._types import Failure, FailureKind, Phase, Reason, Replay

__all__ = ["NO_MODE_HERE", "Action", "Decision", "Progress", "decide", "replay_of"]

_KIND = FailureKind

# Error codes that prove that no generation happened (the public guide of the WebSocket mode; a recorded
# gateway).
NOTHING_GENERATED = frozenset(
    {
        "previous_response_not_found",
        "websocket_connection_limit_reached",
        "websocket_stream_limit_reached",
        "invalid_stream_id",
        "unknown_stream_id",
        "concurrent_turn_not_supported",
    }
)
_OVERLOADED = frozenset({"server_is_overloaded", "slow_down"})
# Waiting does not help against these, although they come with 429.
_HOPELESS = frozenset({"insufficient_quota", "billing_hard_limit_reached"})

_RAISED_AT_ONCE = frozenset(
    {
        _KIND.CONFIGURATION,
        _KIND.LEASE_TIMEOUT,
        _KIND.TOO_MANY_WAITING,
        _KIND.BUFFER_OVERFLOW,
        _KIND.MANAGER_CLOSED,
    }
)
# Kinds that say by themselves that no answer to this turn was generated.
_NOTHING_SENT = frozenset(
    {
        _KIND.CONFIGURATION,
        _KIND.LEASE_TIMEOUT,
        _KIND.TOO_MANY_WAITING,
        _KIND.PARENT_GONE,
        _KIND.PARENT_IGNORED,
    }
)
_DIAL = frozenset({_KIND.HANDSHAKE_REJECTED, _KIND.DIAL_FAILED, _KIND.DIAL_TIMEOUT})
# Also what servers and proxies answer that took the upgrade for a plain GET: over HTTP the request may well work, and
# what is wrong with it is then told properly.
NO_MODE_HERE = frozenset({200, 400, 404, 405, 426, 501})


class Action(Enum):
    """What to do next."""

    AGAIN = "again"
    """Send the same request again, on whatever lane or connection there is."""
    FULL = "full"
    """Send the full input."""
    HTTP = "http"
    """Go on over HTTP."""
    RAISE = "raise"
    """Tell the caller."""


@dataclass(frozen=True)
class Progress:
    """What is known about the turn that failed.

    Attributes:
        delivered: Events that were handed to the caller.
        attempts: Attempts so far, this one included.
        resends: Full resends after an unknown outcome so far.
        redials: Attempts so far that did not count, because the socket turned out to be dead before anything was
            written.
        is_delta: The failed attempt continued a response.
        side_effects: The request has hosted tools that act on the world (MCP, code interpreter, computer,
            shell).
        on_ambiguous: `"resend"` or `"raise"`.
        may_use_http: The transport allows HTTP.
        max_attempts: Attempts allowed in all.
    """

    delivered: int = 0
    attempts: int = 1
    resends: int = 0
    redials: int = 0
    is_delta: bool = False
    side_effects: bool = False
    on_ambiguous: str = "resend"
    may_use_http: bool = False
    max_attempts: int = 6


@dataclass(frozen=True)
class Decision:
    """The verdict.

    Attributes:
        action: What to do next.
        replay: Whether sending again can do harm; part of the error that is raised.
        reason: Why the next send is full, for its metadata.
        back_off: Whether to wait before the next attempt.
        free: Whether the failed attempt does not count.
    """

    action: Action
    replay: Replay
    reason: Reason | None = None
    back_off: bool = False
    free: bool = False


def replay_of(failure: Failure, progress: Progress) -> Replay:
    """Says whether a turn may be sent again without harm."""
    if progress.delivered:
        return Replay.UNSAFE
    if failure.phase is Phase.CONNECT or failure.kind in _NOTHING_SENT:
        return Replay.SAFE
    if failure.kind is _KIND.SERVER_ERROR and not _began(failure):
        return Replay.SAFE
    return Replay.AMBIGUOUS


def _began(failure: Failure) -> bool:
    """Whether generation may have begun before an `error` event."""
    if failure.phase in (Phase.STREAMING, Phase.TERMINAL):
        return True  # output is a proof that outweighs the code
    if failure.code in NOTHING_GENERATED or failure.status == 429:
        return False
    return failure.events_seen > 0


def decide(failure: Failure, progress: Progress) -> Decision:
    """Decides what follows a failed attempt.

    Args:
        failure: What happened.
        progress: How far the turn had come, and what its owner allows.
    """
    decision = _decide(failure, progress)
    if decision.action is Action.RAISE and decision.replay is Replay.SAFE and progress.resends:
        # This attempt generated nothing, but the one before the resend may have.
        return replace(decision, replay=Replay.AMBIGUOUS)
    return decision


def _decide(failure: Failure, progress: Progress) -> Decision:
    replay = replay_of(failure, progress)
    if replay is Replay.UNSAFE or failure.kind in _RAISED_AT_ONCE:
        return Decision(Action.RAISE, replay)
    if failure.kind in _DIAL:
        return _after_dial(failure, progress)
    if failure.kind is _KIND.MESSAGE_TOO_LARGE:
        # If the peer did not refuse the request, it is the answer that was too large, be it in its first frame.
        allowed = (failure.refused and not failure.events_seen) or _may_resend(progress)
        return Decision(Action.HTTP if progress.may_use_http and allowed else Action.RAISE, replay)
    if failure.kind is _KIND.PARENT_GONE:
        return Decision(Action.FULL, replay, Reason.NOT_ALIVE)
    if failure.kind is _KIND.PARENT_IGNORED:
        return Decision(Action.FULL, replay, Reason.IGNORED)
    if failure.code == "previous_response_not_found" and progress.is_delta and replay is Replay.SAFE:
        # Not a retry, so never bounded by the attempts: a lost id must change nothing but the bytes.
        return Decision(Action.FULL, replay, Reason.NOT_FOUND)
    if failure.kind is _KIND.CONNECTION_LOST and failure.phase is Phase.CONNECT and not progress.redials:
        # As an HTTP client does that finds a kept connection closed: no retry, for nothing was tried. Only once, so
        # that a server which hangs up on everybody meets the back-off.
        return Decision(Action.AGAIN, replay, free=True)
    if progress.attempts >= progress.max_attempts:
        return Decision(Action.RAISE, replay)
    if failure.kind is _KIND.SERVER_ERROR:
        return _after_error(failure, progress, replay)
    if replay is Replay.SAFE:
        return Decision(Action.AGAIN, replay, back_off=failure.kind is not _KIND.LANES_UNSUPPORTED)
    return _ambiguous(progress)


def _after_dial(failure: Failure, progress: Progress) -> Decision:
    """Dialing has had its own retries by now."""
    elsewhere = failure.kind is not _KIND.HANDSHAKE_REJECTED or failure.status in NO_MODE_HERE
    use_http = progress.may_use_http and elsewhere
    return Decision(Action.HTTP if use_http else Action.RAISE, Replay.SAFE)


def _after_error(failure: Failure, progress: Progress, replay: Replay) -> Decision:
    code, status = failure.code, failure.status or 0
    if code in _HOPELESS or code == "previous_response_not_found":
        return Decision(Action.RAISE, replay)
    if code in NOTHING_GENERATED:
        return Decision(Action.AGAIN, replay) if replay is Replay.SAFE else _ambiguous(progress)
    if status == 429 or code in _OVERLOADED or status >= 500:
        if replay is Replay.SAFE:
            return Decision(Action.AGAIN, replay, back_off=True)
        return _ambiguous(progress)
    return Decision(Action.RAISE, replay)


def _may_resend(progress: Progress) -> bool:
    return progress.on_ambiguous == "resend" and not progress.side_effects and not progress.resends


def _ambiguous(progress: Progress) -> Decision:
    """The outcome is unknown: one full resend, where that can do no harm and is allowed."""
    if not _may_resend(progress):
        return Decision(Action.RAISE, Replay.AMBIGUOUS)
    return Decision(Action.FULL, Replay.AMBIGUOUS, Reason.CONNECTION_LOST)
