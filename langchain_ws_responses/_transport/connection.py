"""Reader and writer around `ResponsesProtocol`: one socket on the I/O thread.

The reader takes every frame at once and never waits for a caller, so pings are always answered and no lane stalls
another. The writer sends one frame at a time; what is not yet handed to the socket counts as not sent.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from .. import _json
from .._protocol.connection import Received, ResponsesProtocol
from .._protocol.events import EventKind
from .._types import Failure, FailureKind, Phase
from .hooks import ConnectionClosed as ConnectionClosedEvent
from .hooks import TurnEnded, TurnSent
from .ticket import Ticket

if TYPE_CHECKING:
    from .._protocol.lanes import Lane
    from .pool import Pool

__all__ = ["Connection"]

logger = logging.getLogger("langchain_ws_responses")

_CLOSE_SECONDS = 2.0


class Connection:
    """One open socket.

    Attributes:
        label: Short name for metadata, logs and hooks.
        protocol: What is on its lanes.
        usable: Whether it takes new turns.
        served: Turns sent so far.
    """

    def __init__(self, pool: Pool, socket: ClientConnection, label: str) -> None:
        limits = pool.manager.limits
        self.pool = pool
        self.label = label
        self.socket = socket
        self.protocol = ResponsesProtocol(
            profile=pool.profile,
            max_in_flight=limits.max_in_flight,
            max_lanes=limits.max_lanes,
            label=label,
            loads=_json.loads,
        )
        self.usable = True
        self.served = 0
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[Lane, Ticket] = {}
        self._outbox: deque[tuple[Ticket, bytes]] = deque()
        self._writable = asyncio.Event()
        self._dirty: list[Ticket] = []
        self._flushing = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closed = False
        self._cause: Failure | None = None
        self._foreign_at = 0.0
        self._reader = self._loop.create_task(self._read(), name=f"ws-responses reader {label}")
        self._writer = self._loop.create_task(self._write(), name=f"ws-responses writer {label}")
        if (lifetime := pool.next_lifetime()) is not None:
            self._timers["rotate"] = self._loop.call_later(lifetime, self._rotate)
        self._idle()

    # -- turns ----------------------------------------

    def send(self, ticket: Ticket, lane: Lane) -> None:
        """Puts a turn on a lane."""
        frame = self.protocol.send_create(lane, ticket.body, parent=ticket.parent, stored=ticket.stored)
        ticket.connection, ticket.lane = self, lane
        ticket.lane_name, ticket.reused = lane.name or "", self.served > 0
        ticket.sent_bytes = len(frame)
        self.served += 1
        self._tickets[lane] = ticket
        self._outbox.append((ticket, frame))
        self._writable.set()
        if (handle := self._timers.pop("idle", None)) is not None:
            handle.cancel()

    def abandon(self, ticket: Ticket) -> None:
        """The caller is gone: the rest of the answer is swallowed, the lane is free after its terminal event."""
        lane = ticket.lane
        if lane is None or self._tickets.get(lane) is not ticket:
            return
        ticket.done = True
        ticket.stop_timers()
        del self._tickets[lane]
        self.protocol.abandon(lane)

    def _on_written(self, ticket: Ticket, size: int) -> None:
        now = self._loop.time()
        if ticket.phase is Phase.CONNECT:
            ticket.phase = Phase.SENT
        ticket.sent_at = ticket.seen_at = now
        self.pool.manager.counters.sent(ticket, size)
        self.pool.emit(
            TurnSent(
                connection=self.label,
                endpoint=self.pool.endpoint.label,
                lane=ticket.lane_name,
                mode=ticket.mode,
                reason=ticket.reason,
                bytes=size,
                reused=ticket.reused,
            )
        )
        if not ticket.done:
            self._watch(ticket)

    def _watch(self, ticket: Ticket) -> None:
        """Sets or moves the turn's clock."""
        seconds = ticket.between_events_timeout if ticket.events else ticket.first_event_timeout
        ticket.timer = None
        if seconds is None:
            return
        left = max(ticket.seen_at, self._foreign_at) + seconds - self._loop.time()
        if left > 0:
            ticket.timer = self._loop.call_later(left, self._watch, ticket)
            return
        kind = FailureKind.BETWEEN_EVENTS_TIMEOUT if ticket.events else FailureKind.FIRST_EVENT_TIMEOUT
        which = "next" if ticket.events else "first"
        self.fail(
            ticket, self._failure(kind, ticket, f"The {which} event did not come within {seconds:g} s.")
        )

    def _failure(self, kind: FailureKind, ticket: Ticket, message: str, code: int | None = None) -> Failure:
        return Failure(
            kind,
            phase=ticket.phase,
            message=message,
            close_code=code,
            events_seen=ticket.events,
            connection=self.label,
        )

    def fail(self, ticket: Ticket, failure: Failure) -> None:
        """Ends a turn with a failure; its lane drains."""
        if not ticket.done:
            self.abandon(ticket)
            self._finish(ticket, failure)
            self._wind_up()

    def _finish(self, ticket: Ticket, failure: Failure | None) -> None:
        ticket.done = True
        ticket.stop_timers()
        if failure is not None:
            ticket.batch.append(failure)
        self._deliver(ticket)
        self.pool.emit(
            TurnEnded(
                connection=self.label,
                endpoint=self.pool.endpoint.label,
                lane=ticket.lane_name,
                events=ticket.events,
                seconds=self._loop.time() - ticket.sent_at if ticket.sent_at else 0.0,
                failure=failure.kind if failure else None,
                phase=failure.phase if failure else Phase.TERMINAL,
            )
        )

    # -- writing ----------------------------------------

    async def _write(self) -> None:
        while True:
            await self._writable.wait()
            while self._outbox:
                ticket, frame = self._outbox.popleft()
                if ticket.phase is Phase.CONNECT:
                    ticket.phase = Phase.SENT
                try:
                    await self.socket.send(frame, text=True)
                except ConnectionClosed:
                    return  # the reader sees it too, and tells everybody
                self._on_written(ticket, len(frame))
            self._writable.clear()

    # -- reading ----------------------------------------

    async def _read(self) -> None:
        try:
            while True:
                self._on_text(await self.socket.recv(decode=False))
        except ConnectionClosed:
            pass
        except Exception as exc:  # a defect here must not leave turns hanging
            logger.error("reading from connection %s failed: %s", self.label, type(exc).__name__)
        finally:
            self._lost()

    def _on_text(self, raw: bytes) -> None:
        now = self._loop.time()
        counters = self.pool.manager.counters
        counters.frames_received += 1
        counters.bytes_received += len(raw)
        received = self.protocol.receive(raw, now=now)
        if received.retire:
            self.retire()
        if received.fatal is not None:
            self._cause = received.fatal
            self.abort()
            return
        if received.lane is None:
            self._foreign_at = now  # no turn's event, but the server is alive
            return
        ticket = self._tickets.get(received.lane)
        if ticket is not None:
            self._on_event(ticket, received, now)
        elif received.ended:
            self._wind_up()

    def _on_event(self, ticket: Ticket, received: Received, now: float) -> None:
        frame = received.frame
        lane = received.lane
        assert frame is not None  # noqa: S101 - a lane comes with its frame
        assert lane is not None  # noqa: S101 - the caller looked
        ticket.seen_at = now
        if received.failure is not None:
            self._tickets.pop(lane, None)
            self._finish(ticket, received.failure)
            self._wind_up()
            return
        ticket.events += 1
        if ticket.events == 1:
            ticket.lane_name = lane.name or ""
            ticket.phase = Phase.CREATED
        elif frame.kind is EventKind.OUTPUT:
            ticket.phase = Phase.STREAMING
        if ticket.wants_events or received.ended:
            ticket.batch.append(frame)
            ticket.batch_bytes += len(frame.raw)
        if received.ended:
            self._tickets.pop(lane, None)
            ticket.phase = Phase.TERMINAL
            if lane.latest is not None:
                self.pool.index(lane.latest, self)
            self._finish(ticket, None)
            self._wind_up()
        elif ticket.wants_events:
            self._dirty.append(ticket)
            if not self._flushing:
                self._flushing = True
                self._loop.call_soon(self._flush)
        if ticket.events == 1:
            self.pool.pump()  # the first event may have shown that there are lanes

    def _flush(self) -> None:
        self._flushing = False
        dirty, self._dirty = self._dirty, []
        for ticket in dirty:
            self._deliver(ticket)

    def _deliver(self, ticket: Ticket) -> None:
        if not ticket.batch:
            return
        items, size = ticket.batch, ticket.batch_bytes
        ticket.batch, ticket.batch_bytes = [], 0
        alive = ticket.mailbox.put(items, size)
        if ticket.done:
            return
        if not alive:
            self.abandon(ticket)
        elif self.pool.manager.over_limit(ticket):
            message = "The caller took events too slowly and its buffer is full."
            self.fail(ticket, self._failure(FailureKind.BUFFER_OVERFLOW, ticket, message))

    # -- the end ----------------------------------------

    def _wind_up(self) -> None:
        """After a turn: close if nothing more is to come, else let the waiting ones in."""
        if not self.protocol.in_flight and not self._tickets:
            if not self.usable:
                self.close()
                return
            self._idle()
        self.pool.pump()

    def _idle(self) -> None:
        max_idle = self.pool.manager.limits.max_idle
        if max_idle is not None and "idle" not in self._timers and not self._closed:
            self._timers["idle"] = self._loop.call_later(max_idle, self._on_idle)

    def _on_idle(self) -> None:
        self._timers.pop("idle", None)
        if self.protocol.in_flight or self._tickets:
            return
        if self.pool.watches:  # its owner comes back when its tools are done
            self._idle()
            return
        self.retire()

    def _rotate(self) -> None:
        self.pool.manager.counters.rotations += 1
        self.retire()

    def retire(self) -> None:
        """Takes no new turn; closes when the last one in flight has ended."""
        if not self.usable:
            return
        self.usable = False
        self.pool.unindex(self)
        if not self.protocol.in_flight and not self._tickets:
            self.close()

    def close(self) -> None:
        """Closes the socket politely, in the background."""
        self.usable = False
        self.pool.unindex(self)
        if not self._closed:
            self._closed = True
            self.pool.manager.background(self._close())

    async def _close(self) -> None:
        try:
            await asyncio.wait_for(self.socket.close(), _CLOSE_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            self.abort()

    def abort(self) -> None:
        """Drops the socket at once."""
        self.usable = False
        self.pool.unindex(self)
        transport: Any = getattr(self.socket, "transport", None)
        if transport is not None:
            transport.abort()

    def _lost(self) -> None:
        """The socket is gone: whatever was in flight failed."""
        self._closed, self.usable = True, False
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        self._writer.cancel()
        lost, self._tickets = list(self._tickets.values()), {}
        code = _close_code(self.socket)
        for ticket in lost:
            self._finish(ticket, self._loss(ticket, code))
        self.pool.remove(self, lost=bool(lost))
        self.pool.emit(
            ConnectionClosedEvent(
                connection=self.label, endpoint=self.pool.endpoint.label, code=code, lost=len(lost)
            )
        )

    def _loss(self, ticket: Ticket, code: int | None) -> Failure:
        cause = self._cause
        if cause is not None and cause.kind is not FailureKind.SERVER_ERROR:
            return self._failure(cause.kind, ticket, cause.message)
        if self.pool.manager.closed:
            return self._failure(FailureKind.MANAGER_CLOSED, ticket, "The ConnectionManager was closed.")
        if code == 1009:
            message = "A frame was above the size limit (close code 1009)."
            return self._failure(FailureKind.MESSAGE_TOO_LARGE, ticket, message, code)
        text = f"close code {code}" if code is not None else "no close frame"
        message = f"The connection was lost in the middle of the turn ({text})."
        if cause is not None:
            message = f"The server ended the connection with the error {cause.code}."
        return self._failure(FailureKind.CONNECTION_LOST, ticket, message, code)


def _close_code(socket: ClientConnection) -> int | None:
    code = socket.close_code
    return None if code == 1006 else code
