"""The connections of one endpoint and one set of credentials, and who gets which lane.

Everything here runs on the I/O thread. Placing a turn is a pure decision; dialing happens in a task beside it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from .._types import Failure, FailureKind
from .breaker import Breaker
from .connection import Connection
from .dial import dial
from .hooks import ConnectionOpened, DialRetrying, TransportEvent
from .retry import Failed, retrying
from .ticket import Ticket
from .watch import Watch

if TYPE_CHECKING:
    from .._protocol.lanes import Lane
    from .dial import Endpoint
    from .manager import ConnectionManager

__all__ = ["Pool"]

_LIFETIME_SHARE = 0.92
_JITTER = 0.05


class Pool:
    """Connections, waiting turns and the dial in progress of one endpoint key."""

    def __init__(self, manager: ConnectionManager, endpoint: Endpoint) -> None:
        self.manager = manager
        self.endpoint = endpoint
        self.profile = manager.profile_of(endpoint)
        self.breaker = Breaker()
        self.connections: list[Connection] = []
        self.waiting: deque[Ticket] = deque()
        self.holders: dict[str, Connection] = {}
        self.watches: set[Watch] = set()
        self._dialing: asyncio.Task[None] | None = None
        self._wanted = 0
        self._count = 0
        self._pumping = False

    # -- what is where ----------------------------------------

    def index(self, response_id: str, connection: Connection) -> None:
        """Notes that a connection's memory holds a response. Bounded by lanes: stale entries are checked on use."""
        if connection.usable:
            self.holders[response_id] = connection
            if len(self.holders) > 64 + 2 * self.manager.limits.max_lanes * len(self.connections):
                self.holders = {
                    held: owner
                    for held, owner in self.holders.items()
                    if owner.protocol.holder(held) is not None
                }

    def unindex(self, connection: Connection) -> None:
        """Nothing that the connection holds can be continued on it any more."""
        for response_id in connection.protocol.held():
            if self.holders.get(response_id) is connection:
                del self.holders[response_id]
        for watch in list(self.watches):
            self.check_watch(watch)

    def check_watch(self, watch: Watch) -> None:
        """Tells the owner of a watch, once, that its response is out of reach."""
        if not watch.told and not self.holds(watch.response_id):
            watch.told = True
            watch.lost()

    def holds(self, response_id: str) -> bool:
        """Whether a live connection's memory holds a response. Safe from any thread."""
        connection = self.holders.get(response_id)
        return (
            connection is not None
            and connection.usable
            and connection.protocol.holder(response_id) is not None
        )

    @property
    def is_open(self) -> bool:
        """Whether a connection takes turns now. Safe from any thread."""
        return any(connection.usable for connection in list(self.connections))

    # -- placing turns ----------------------------------------

    def add(self, ticket: Ticket) -> None:
        """Sends a turn now, or lets it wait for a lane or a connection."""
        limits = self.manager.limits
        if self._try(ticket):
            return
        if limits.max_waiting is not None and len(self.waiting) >= limits.max_waiting:
            message = f"{len(self.waiting)} turns wait for a lane already."
            self.refuse(ticket, Failure(FailureKind.TOO_MANY_WAITING, message=message))
            return
        self.waiting.append(ticket)
        if limits.lease_timeout is not None:
            loop = asyncio.get_running_loop()
            ticket.lease_timer = loop.call_later(limits.lease_timeout, self._lease_expired, ticket)
        self._dial_if_needed()

    def _lease_expired(self, ticket: Ticket) -> None:
        ticket.lease_timer = None
        if ticket in self.waiting:
            self.waiting.remove(ticket)
            message = f"No lane became free within {self.manager.limits.lease_timeout:g} s."
            self.refuse(ticket, Failure(FailureKind.LEASE_TIMEOUT, message=message))

    def refuse(self, ticket: Ticket, failure: Failure) -> None:
        """Ends a turn that was never sent."""
        if not ticket.done:
            ticket.done = True
            ticket.stop_timers()
            ticket.mailbox.put([failure], 0)

    def abandon(self, ticket: Ticket) -> None:
        """The caller is gone."""
        if ticket.connection is not None:
            ticket.connection.abandon(ticket)
        elif ticket in self.waiting:
            self.waiting.remove(ticket)
        ticket.done = True
        ticket.stop_timers()

    def _try(self, ticket: Ticket) -> bool:
        """Sends or refuses a turn if that can be done now; False: it waits."""
        placed = self._place(ticket)
        if placed is None:
            return False
        if isinstance(placed, Failure):
            self.refuse(ticket, placed)
            return True
        if ticket.lease_timer is not None:
            ticket.lease_timer.cancel()
            ticket.lease_timer = None
        connection, lane = placed
        connection.send(ticket, lane)
        return True

    def _place(self, ticket: Ticket) -> tuple[Connection, Lane] | Failure | None:
        """Decides where a turn goes: its own lane, a fork beside it, any lane, or nowhere yet."""
        if ticket.parent is not None:
            connection = self.holders.get(ticket.parent)
            lane = connection.protocol.holder(ticket.parent) if connection is not None else None
            if connection is not None and lane is not None and connection.usable:
                if lane.idle and not connection.protocol.may_advance(lane):
                    return None
                own = lane if lane.idle and connection.protocol.room else connection.protocol.spare_lane()
                if own is not None:
                    return connection, own
                if not ticket.stored:
                    return None
            elif not ticket.stored:
                message = "The connection that held the response to continue is gone."
                return Failure(FailureKind.PARENT_GONE, message=message)
        for connection in self.connections:
            if connection.usable and (spare := connection.protocol.spare_lane()) is not None:
                return connection, spare
        return None

    def pump(self) -> None:
        """Lets waiting turns in, in order; one that waits for a certain lane does not hold up the others."""
        if self._pumping or not self.waiting:
            return
        self._pumping = True
        try:
            room = sum(connection.protocol.room for connection in self.connections if connection.usable)
            still: deque[Ticket] = deque()
            while self.waiting:
                ticket = self.waiting.popleft()
                if not room and not (ticket.parent is not None and not ticket.stored):
                    still.append(ticket)
                elif self._try(ticket):
                    room -= 1
                else:
                    still.append(ticket)
            self.waiting = still
        finally:
            self._pumping = False
        self._dial_if_needed()

    # -- dialing ----------------------------------------

    def _dial_if_needed(self) -> None:
        if not self.waiting or self._dialing is not None or self.manager.closed:
            return
        limits = self.manager.limits
        usable = [connection for connection in self.connections if connection.usable]
        if limits.max_connections is not None and len(usable) >= limits.max_connections:
            return
        # A connection that has not yet shown whether it has lanes may soon have room for everybody.
        if any(
            connection.protocol.has_lanes is None and connection.protocol.in_flight for connection in usable
        ):
            return
        if any(connection.protocol.room for connection in usable) and all(
            ticket.parent is not None and not ticket.stored for ticket in self.waiting
        ):
            return
        self.ensure_dial()

    def ensure_dial(self) -> None:
        """Starts a dial unless one is in progress."""
        if self._dialing is None:
            self._dialing = asyncio.get_running_loop().create_task(self._dial(), name="ws-responses dial")
            self.manager.keep(self._dialing)

    def want(self) -> None:
        """Opens a connection if there is none: nobody waits for it."""
        if not self.is_open:
            self._wanted += 1
            self.ensure_dial()

    async def _dial(self) -> None:
        manager, started, attempts = self.manager, time.monotonic(), 0

        async def attempt() -> Connection:
            nonlocal attempts
            attempts += 1
            manager.counters.dials += 1
            try:
                socket = await dial(
                    self.endpoint, limits=manager.limits, ssl_context=manager.ssl_context, proxy=manager.proxy
                )
            except Failed:
                manager.counters.dial_failures += 1
                raise
            self._count += 1
            return Connection(self, socket, f"c{next(manager.numbers)}")

        try:
            connection = await retrying(attempt, manager.retry, before_sleep=self._before_sleep)
        except Failed as exc:
            self._dialing, self._wanted = None, 0
            self._give_up(exc.failure)
            return
        except BaseException:
            self._dialing = None
            raise
        self._dialing, self._wanted = None, 0
        self.breaker.succeeded()
        self.connections.append(connection)
        seconds = time.monotonic() - started
        self.emit(
            ConnectionOpened(
                connection=connection.label, endpoint=self.endpoint.label, seconds=seconds, attempts=attempts
            )
        )
        if manager.closed:
            connection.close()
        self.pump()

    def _before_sleep(self, failure: Failure, attempt: int, wait: float) -> bool:
        """Tells the turns that do not want another attempt; goes on while somebody waits."""
        for ticket in list(self.waiting):
            if ticket.max_dials is not None and attempt >= ticket.max_dials:
                self.waiting.remove(ticket)
                self.refuse(ticket, failure)
        if not self.waiting and not self._wanted:
            return False
        self.emit(
            DialRetrying(
                endpoint=self.endpoint.label,
                attempt=attempt,
                wait=wait,
                kind=failure.kind,
                status=failure.status,
            )
        )
        return True

    def _give_up(self, failure: Failure) -> None:
        if failure.kind is not FailureKind.CONFIGURATION:
            self.breaker.failed(time.monotonic())
        waiting, self.waiting = self.waiting, deque()
        for ticket in waiting:
            self.refuse(ticket, failure)

    # -- connections come and go ----------------------------------------

    def next_lifetime(self) -> float | None:
        """Seconds that the next connection may live: jittered, so that they do not all expire together."""
        configured = self.manager.limits.max_lifetime
        known = self.profile.max_lifetime * _LIFETIME_SHARE
        if configured is None:
            return None
        return min(configured, known) * (1 - random.uniform(0, _JITTER))  # noqa: S311 - jitter is no secret

    def learn(self, connection: Connection) -> None:
        """What one connection found out about lanes holds for the next ones too."""
        if connection.protocol.has_lanes is False and self.profile.lanes is not False:
            self.profile = replace(self.profile, lanes=False)

    def remove(self, connection: Connection, *, lost: bool) -> None:
        """A connection is gone."""
        self.learn(connection)
        self.unindex(connection)
        if connection in self.connections:
            self.connections.remove(connection)
        if lost:
            self.manager.counters.lost += 1
        self.pump()

    def emit(self, event: TransportEvent) -> None:
        """Tells the hooks."""
        self.manager.emit(event)

    def fail_all(self, failure: Failure) -> None:
        """Ends every waiting turn and drops every connection."""
        if self._dialing is not None:
            self._dialing.cancel()
            self._dialing = None
        self._give_up(failure)
        for connection in list(self.connections):
            connection.close()
