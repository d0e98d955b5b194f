"""Reader and writer around `ResponsesProtocol`: one socket on the I/O thread.

The reader takes every frame at once and never waits for a caller, so pings are always answered and no lane stalls
another. The writer sends one frame at a time; what is not yet handed to the socket counts as not sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .. import _json
from .._protocol.chain import loadable
from .._protocol.connection import Received, ResponsesProtocol
from .._protocol.events import EventKind
from .._types import Failure, FailureKind, Phase
from .hooks import ConnectionClosed as ConnectionClosedEvent
from .hooks import ConnectionRetired
from .lanes import LaneBook
from .liveness import Liveness
from .loss import close_code, what_was_lost
from .outbox import Outbox
from .tell import turn_answered, turn_ended, turn_sent
from .ticket import Ticket, too_large

if TYPE_CHECKING:
    from .._protocol.lanes import Lane
    from .dial import Socket
    from .pool import Pool

__all__ = ["Connection"]

logger = logging.getLogger("langchain_ws_responses")

_CLOSE_SECONDS = 2.0
# Timers may go off early by as much.
_TICK = 0.001


class Connection:
    """One open socket.

    Attributes:
        label: Short name for metadata, logs and hooks.
        protocol: What is on its lanes.
        lanes: Which lane a turn may have.
        usable: Whether it takes new turns.
        checking: Whether it is asked just now if it is still alive.
        expires_at: When it is rotated, on the loop's clock; None for never.
        probed_at: When a turn was sent that will show whether the server has lanes.
        served: Turns sent so far.
        heard: Whether a frame has come in.
    """

    def __init__(self, pool: Pool, socket: Socket, label: str, lifetime: float | None = None) -> None:
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
        self.lanes = LaneBook(self.protocol, limits.max_lanes)
        self.usable, self.checking = True, False
        self.probed_at, self.served, self.heard = 0.0, 0, False
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[Lane, Ticket] = {}
        self._outbox = Outbox(socket, self._on_written, f"ws-responses writer {label}")
        self._dirty: list[Ticket] = []
        self._deaf = False
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._closing = self._gone = False
        self._why = "lost"
        self._cause: Failure | None = None
        self._foreign_at = self._idle_since = 0.0
        self._liveness = Liveness(socket, limits)
        # Soon, when the pool knows this connection; nothing can come in before that.
        self._loop.call_soon(socket.attach, self._on_messages, self.lost)
        self._pinger = self._loop.create_task(self._ping(), name=f"ws-responses pings {label}")
        self.expires_at: float | None = None
        self._expires_wall = float("inf")
        if lifetime is not None:
            self.expires_at, self._expires_wall = self._loop.time() + lifetime, time.time() + lifetime
            self._timers["rotate"] = self._loop.call_later(lifetime, self._rotate)
        self._idle()

    # -- is it alive? ----------------------------------------

    def trusted(self) -> bool:
        """Whether a turn may be put on it; if it has been silent for too long, a check is begun."""
        if not self.usable or self.checking:
            return False
        if time.time() >= self._expires_wall:  # the machine slept, and the timer with it
            self._rotate()
            return False
        if not self._liveness.suspicious():
            return True
        self.checking = True
        self.pool.manager.background(self._check())
        return False

    async def _check(self) -> None:
        alive = False
        try:
            alive = await self._liveness.answers()
        finally:
            self.checking = False
            if not alive:
                logger.debug("connection %s does not answer and is replaced", self.label)
                self.abort("unresponsive")
        self.pool.pump()

    async def _ping(self) -> None:
        try:
            dead = await self._liveness.until_dead()
        except asyncio.CancelledError:  # the loop ends, or the socket has gone already
            self.abort(self._why)
            raise
        if dead:
            message = "The connection was lost in the middle of the turn: the other side stopped answering."
            self._cause = Failure(FailureKind.CONNECTION_LOST, message=message)
            self.abort("unresponsive")

    # -- turns ----------------------------------------

    @property
    def live(self) -> int:
        """Turns in flight that somebody waits for."""
        return len(self._tickets)

    def send(self, ticket: Ticket, lane: Lane) -> None:
        """Puts a turn on a lane."""
        frame = self.protocol.send_create(
            lane,
            ticket.body,
            parent=ticket.parent,
            stored=ticket.stored,
            quiet=not ticket.wants_events,
        )
        ticket.connection, ticket.lane = self, lane
        ticket.lane_name, ticket.reused = lane.name or "", self.served > 0
        ticket.sent_bytes = len(frame)
        ticket.seen_at = self._loop.time()
        if self.protocol.has_lanes is None:
            self.probed_at = ticket.seen_at
        self.served += 1
        self._tickets[lane] = ticket
        self._watch(ticket)
        self._outbox.add(ticket, frame)

    def abandon(self, ticket: Ticket) -> None:
        """The caller is gone: the rest of the answer is swallowed, the lane is free after its terminal event."""
        if self._release(ticket):
            turn_ended(self, ticket, None)
            self._wind_up()

    def _release(self, ticket: Ticket) -> bool:
        """Takes a turn off its lane; False if it has no lane any more."""
        lane = ticket.lane
        if lane is None or self._tickets.get(lane) is not ticket:
            return False
        ticket.done = True
        ticket.stop_timers()
        del self._tickets[lane]
        if self._outbox.take_out(ticket):  # nothing was written, and nothing will be
            self.protocol.take_back(lane)
        else:
            self.protocol.abandon(lane)
        return True

    def fail(self, ticket: Ticket, failure: Failure) -> None:
        """Ends a turn with a failure; its lane drains."""
        if not ticket.done and self._release(ticket):
            self._finish(ticket, failure)
            self._wind_up()

    def _finish(self, ticket: Ticket, failure: Failure | None) -> None:
        ticket.done = True
        ticket.stop_timers()
        if failure is not None:
            ticket.batch.append(failure)
        self._deliver(ticket)
        self.pool.manager.ended(ticket)
        turn_ended(self, ticket, failure)

    # -- the clocks ----------------------------------------

    def _watch(self, ticket: Ticket) -> None:
        """Sets or moves the turn's clock."""
        seconds = ticket.between_events_timeout if ticket.events else ticket.first_event_timeout
        ticket.timer = None
        if seconds is None:
            return
        now = self._loop.time()
        left = ticket.left(seconds, now, self._foreign_at)
        if left <= 0 and not ticket.sent_at and self._still_writing(ticket):
            left = seconds
        if left > 0:
            ticket.timer = self._loop.call_later(left, self._watch, ticket)
            return
        kind = FailureKind.BETWEEN_EVENTS_TIMEOUT if ticket.events else FailureKind.FIRST_EVENT_TIMEOUT
        which = "next" if ticket.events else "first"
        self._liveness.doubted = True
        self.fail(
            ticket, self._failure(kind, ticket, f"The {which} event did not come within {seconds:g} s.")
        )

    def _watch_events(self, ticket: Ticket, now: float) -> None:
        """From now on the other clock counts. A timer that goes off before it is due is set again then."""
        seconds, timer = ticket.between_events_timeout, ticket.timer
        if timer is None or (seconds is not None and now + seconds < timer.when()):
            if timer is not None:
                timer.cancel()
            self._watch(ticket)

    def _still_writing(self, ticket: Ticket) -> bool:
        """Whether the socket has passed on bytes since the clock last looked: a slow network is not a dead one."""
        transport: Any = self.socket.transport
        before, ticket.unwritten = ticket.unwritten, transport.get_write_buffer_size()
        return ticket.unwritten > 0 and ticket.unwritten != before

    def _failure(self, kind: FailureKind, ticket: Ticket, message: str, code: int | None = None) -> Failure:
        return Failure(
            kind,
            phase=ticket.phase,
            message=message,
            close_code=code,
            events_seen=ticket.events,
            connection=self.label,
        )

    # -- writing ----------------------------------------

    def _on_written(self, ticket: Ticket, size: int) -> None:
        ticket.sent_at = self._loop.time()
        ticket.seen_at = max(ticket.seen_at, ticket.sent_at)
        self.pool.manager.counters.sent(ticket, size)
        turn_sent(self, ticket, size)
        ticket.body = b""  # its answer may be long in coming

    # -- reading ----------------------------------------

    def _on_messages(self, messages: list[bytes]) -> None:
        """Takes what one read of the socket brought."""
        if self._deaf:
            return
        try:
            self._on_texts(messages)
        except Exception as exc:  # a defect here must not leave turns hanging
            logger.error("reading from connection %s failed: %s", self.label, type(exc).__name__)
            self._why = "failed"
            self.lost()
        if self._dirty:
            self._flush()

    def _on_texts(self, messages: list[bytes]) -> None:
        now, self.heard = self._loop.time(), True
        counters, skim = self.pool.manager.counters, self.protocol.skim
        at, count = 0, len(messages)
        # Before anybody is woken: who has an answer in hand finds it counted.
        counters.frames_received += count
        counters.bytes_received += sum(map(len, messages))
        while at < count:
            skimmed = skim(messages, at)
            if skimmed is not None:
                lane, after = skimmed
                if (ticket := self._tickets.get(lane)) is not None:
                    ticket.skimmed(messages[at:after], now)
                at = after
                continue
            at += 1
            if not self._on_text(messages[at - 1], now):
                self._deaf = True
                counters.frames_received -= count - at
                counters.bytes_received -= sum(map(len, messages[at:]))
                return

    def _on_text(self, raw: bytes, now: float) -> bool:
        """Takes one frame; False: there is nothing more to read."""
        received = self.protocol.receive(raw, now=now)
        if received.fatal is not None:
            self._cause = received.fatal
            self.pool.learn(self)
            self.abort("failed")
            return False
        if received.retire:
            self.retire("expired")
        lane = received.lane
        if lane is None:
            self._foreign_at = now  # no turn's event, but the server is alive
            return True
        ticket = self._tickets.get(lane)
        if ticket is not None:
            self._on_event(ticket, lane, received, now)
        elif received.ended:
            self.lanes.ended(lane, unstored=False)
            self._wind_up()
        # The first event may have shown that there are lanes; one of the next ones that a fork has begun.
        if self.pool.waiting and (lane.events == 1 or (lane.parent is not None and lane.events < 5)):
            self.pool.pump()
        return True

    def _on_event(self, ticket: Ticket, lane: Lane, received: Received, now: float) -> None:
        frame = received.frame
        assert frame is not None  # noqa: S101 - a lane comes with its frame
        gap, ticket.seen_at = now - ticket.seen_at, now
        ticket.received_bytes += len(frame.raw)
        if received.failure is not None:
            del self._tickets[lane]
            failure = self.lanes.refused(lane, received.failure)
            self.pool.learn(self)
            self._finish(ticket, failure)
            self._wind_up()
            return
        ticket.events += 1
        if ticket.events == 1:
            ticket.first_at = now
            ticket.lane_name = lane.name or ""
            ticket.phase = Phase.CREATED
            self._watch_events(ticket, now)
            self.pool.learn(self)
        elif gap > ticket.longest_gap:
            ticket.longest_gap = gap
        if frame.kind is EventKind.OUTPUT:
            ticket.phase = Phase.STREAMING
        if ticket.wants_events or received.ended:
            ticket.batch.append(frame)
            ticket.batch_bytes += len(frame.raw)
        if received.ended:
            del self._tickets[lane]
            ticket.phase = Phase.TERMINAL
            self.lanes.ended(lane, unstored=not loadable(lane.latest or "", ticket.keeps))
            if lane.latest is not None:
                self.pool.index(lane.latest, self)
            turn_answered(self, ticket, frame.raw)
            self._finish(ticket, None)
            self._wind_up()
        elif ticket.wants_events:
            self._dirty.append(ticket)

    def _flush(self) -> None:
        """Wakes each caller once for all that came."""
        dirty, self._dirty = self._dirty, []
        for ticket in dirty:
            self._deliver(ticket)

    def _deliver(self, ticket: Ticket) -> None:
        if not ticket.batch:
            return
        items, size = ticket.batch, ticket.batch_bytes
        ticket.batch, ticket.batch_bytes = [], 0
        if ticket.mailbox.put(items, size):
            if size:
                self.pool.manager.relieve(ticket, size)
        elif not ticket.done:
            self.abandon(ticket)
            self.pool.manager.ended(ticket)

    def overflow(self, ticket: Ticket) -> None:
        """Ends a turn whose caller does not take its events; what has piled up for it is thrown away.

        Also where the turn is over: its caller finds the failure in place of the rest.
        """
        ticket.mailbox.discard()
        ticket.batch, ticket.batch_bytes = [], 0
        message = "The caller took events too slowly and its buffer is full."
        failure = self._failure(FailureKind.BUFFER_OVERFLOW, ticket, message)
        if ticket.done:
            ticket.mailbox.put([failure], 0)
        else:
            self.fail(ticket, failure)

    # -- the end ----------------------------------------

    def _wind_up(self) -> None:
        """After a turn: close if nothing more is to come, else let the waiting ones in."""
        if not self._tickets:
            if not self.usable:
                self.close(self._why)
                return
            self._idle()
        self.pool.pump()

    def _idle(self) -> None:
        """Nothing is in flight from now on. The timer of an earlier time goes on, and is set again when it goes off."""
        self._idle_since = self._loop.time()
        max_idle = self.pool.manager.limits.max_idle
        if max_idle is not None and "idle" not in self._timers and not self._closing:
            self._timers["idle"] = self._loop.call_later(max_idle, self._on_idle, max_idle)

    def _on_idle(self, max_idle: float) -> None:
        self._timers.pop("idle", None)
        if self._tickets:
            return
        left = self._idle_since + max_idle - self._loop.time()
        if left > _TICK:
            self._timers["idle"] = self._loop.call_later(left, self._on_idle, max_idle)
        elif self.pool.watches:  # its owner comes back when its tools are done
            self._idle()
        else:
            self.retire("idle")

    def _rotate(self) -> None:
        if self.usable:
            self.pool.manager.counters.rotations += 1
            self.retire("rotated")

    def retire(self, why: str) -> None:
        """Takes no new turn; closes when nobody waits for an answer on it any more."""
        if not self.usable:
            return
        self._drop_out(why)
        if not self._tickets:
            self.close(why)
        self.pool.pump()  # turns that waited for one of its lanes must go elsewhere

    def _drop_out(self, why: str) -> None:
        if self.usable:
            self._why = why
            self.pool.emit(ConnectionRetired, connection=self.label, why=why)
        self.usable = False
        self.pool.unindex(self)

    def close(self, why: str = "closed") -> None:
        """Closes the socket politely, in the background."""
        self._drop_out(why)
        if not self._closing:
            self._closing = True
            self.pool.manager.background(self._close())

    async def _close(self) -> None:
        try:
            await asyncio.wait_for(self.socket.close(), _CLOSE_SECONDS)
        except (TimeoutError, asyncio.TimeoutError):
            self.abort(self._why)

    def abort(self, why: str) -> None:
        """Drops the socket at once."""
        self._drop_out(why)
        transport: Any = getattr(self.socket, "transport", None)
        if transport is not None:
            transport.abort()

    def lost(self) -> None:
        """The socket is gone: whatever was in flight failed."""
        if self._gone:
            return
        self._gone, expected = True, self._closing
        self._closing = True
        self.abort(self._why)  # it may be the reader that ended, and not the socket
        for handle in self._timers.values():
            handle.cancel()
        self._timers.clear()
        self._pinger.cancel()
        self._outbox.end()
        lost = [ticket for ticket in self._tickets.values() if not ticket.done]
        self._tickets.clear()
        code, refused = close_code(self.socket), bool(self.socket.protocol.close_rcvd_then_sent)
        large = too_large(lost, refused=refused) if code == 1009 else []
        for ticket in lost:
            kind, message, told = what_was_lost(ticket, self._cause, code, large=ticket in large)
            failure = self._failure(kind, ticket, message, told)
            self._finish(ticket, replace(failure, refused=refused and ticket in large))
        self.pool.remove(self, died=bool(lost) or (not expected and code is None), expected=expected)
        self.pool.emit(ConnectionClosedEvent, connection=self.label, code=code, lost=len(lost), why=self._why)
