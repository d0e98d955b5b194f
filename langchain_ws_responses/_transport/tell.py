"""What hooks hear of a turn. Nothing is built while nobody listens."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .._types import Failure
from .hooks import TurnContent, TurnEnded, TurnRefused, TurnSent

if TYPE_CHECKING:
    from .connection import Connection
    from .pool import Pool
    from .ticket import Ticket

__all__ = ["Note", "turn_answered", "turn_ended", "turn_refused", "turn_sent"]


@dataclass(frozen=True, kw_only=True)
class Note:
    """What only the caller's side knows of an attempt.

    Attributes:
        turn: The turn's label.
        attempt: 1 for the first attempt at the turn.
        items: Input items in the request.
        model: The model that is asked.
        node: The LangGraph node that asks.
        began: When the attempt was handed over, on the monotonic clock.
    """

    turn: str = ""
    attempt: int = 1
    items: int = 0
    model: str = ""
    node: str = ""
    began: float = field(default_factory=time.monotonic)


def turn_sent(connection: Connection, ticket: Ticket, size: int) -> None:
    """A create was written."""
    pool = connection.pool
    if not pool.manager.hooks:
        return
    note = ticket.note or Note()
    pool.emit(
        TurnSent,
        connection=connection.label,
        turn=note.turn,
        attempt=note.attempt,
        lane=ticket.lane_name,
        mode=ticket.mode,
        reason=ticket.reason,
        items=note.items,
        bytes=size,
        reused=ticket.reused,
        waited=time.monotonic() - note.began,
        model=note.model,
        node=note.node,
    )
    _content(connection, ticket, request=ticket.body)


def turn_answered(connection: Connection, ticket: Ticket, event: bytes) -> None:
    """A turn's terminal event has come."""
    if connection.pool.manager.hooks:
        _content(connection, ticket, answer=event)


def _content(connection: Connection, ticket: Ticket, **said: bytes) -> None:
    note, manager = ticket.note or Note(), connection.pool.manager
    curious = [hook for hook in manager.hooks if getattr(hook, "wants_content", False)]
    if curious:
        where = {"connection": connection.label, "endpoint": connection.pool.endpoint.label}
        manager.emit(TurnContent, to=curious, turn=note.turn, attempt=note.attempt, **where, **said)


def turn_ended(connection: Connection, ticket: Ticket, failure: Failure | None) -> None:
    """A turn reached its terminal event, failed or was abandoned."""
    pool = connection.pool
    if not pool.manager.hooks:
        return
    note = ticket.note or Note()
    sent = ticket.sent_at
    pool.emit(
        TurnEnded,
        connection=connection.label,
        turn=note.turn,
        attempt=note.attempt,
        lane=ticket.lane_name,
        events=ticket.events,
        bytes=ticket.received_bytes,
        seconds=pool.manager.now() - sent if sent else 0.0,
        # It may come before the socket says that everything was written.
        first_event=max(0.0, ticket.first_at - sent) if ticket.events and sent else None,
        longest_gap=ticket.longest_gap,
        failure=failure.kind if failure else None,
        status=failure.status if failure else None,
        phase=failure.phase if failure else ticket.phase,
    )


def turn_refused(pool: Pool, ticket: Ticket, failure: Failure) -> None:
    """A turn failed before it was written."""
    if pool.manager.hooks:
        note = ticket.note or Note()
        pool.emit(
            TurnRefused, turn=note.turn, attempt=note.attempt, failure=failure.kind, status=failure.status
        )
