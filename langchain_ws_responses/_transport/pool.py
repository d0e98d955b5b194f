"""The connections of one endpoint and one set of credentials, and who gets which lane.

Everything here runs on the I/O thread. Placing a turn is a pure decision; dialing happens in a task beside it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .._protocol.lanes import LocalProtocolError
from .._types import Failure, FailureKind
from .breaker import DialBudget, PoolBreaker
from .connection import Connection
from .dial import dial
from .hooks import ConnectionOpened, DialGivenUp, DialRetrying, TransportEvent
from .lanes import Cost, Offer
from .retry import Failed, paced, retrying, worth_retrying
from .rotation import pick_lifetime
from .tell import turn_refused
from .ticket import CATCH_UP_SECONDS, Ticket, is_late
from .watch import Watch

if TYPE_CHECKING:
    from .._protocol.lanes import Lane
    from .dial import Endpoint, Socket
    from .manager import ConnectionManager

__all__ = ["Pool"]

logger = logging.getLogger("langchain_ws_responses")

# Servers end a connection at an age of their own; it must be gone well before.
_LIFETIME_SHARE = 0.92
# From here on a chain that is only in a connection's memory is given up rather than one more connection opened.
_MANY_CONNECTIONS = 32
# A server that says whether it has lanes says so at once; a silent one must not hold up everybody.
_PROBE_SECONDS = 1.0
# A connection that the server ends so soon, without a word, was never any use.
_STILLBORN_SECONDS = 5.0


class Pool:
    """Connections, waiting turns and the dial in progress of one endpoint key."""

    def __init__(self, manager: ConnectionManager, endpoint: Endpoint) -> None:
        self.manager = manager
        self.endpoint = endpoint
        self.profile = manager.profile_of(endpoint)
        self.breaker = PoolBreaker(manager.refusing, endpoint.place)
        self.connections: list[Connection] = []
        self.waiting: deque[Ticket] = deque()
        self._bound: set[Ticket] = set()
        self.holders: dict[str, Connection] = {}
        self.watches: set[Watch] = set()
        self._budget = DialBudget()
        self._opened_at = 0.0
        self._dialing: asyncio.Task[None] | None = None
        self._last_failure: Failure | None = None
        self._wanted = False
        self._pumping = self._pump_again = False
        self._probe_timer: asyncio.TimerHandle | None = None

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

    def give_up(self, response_id: str) -> None:
        """Frees the lane of a chain that nobody will continue."""
        connection = self.holders.get(response_id)
        if connection is not None:
            connection.protocol.give_up(response_id)
            if connection.protocol.holder(response_id) is None:
                del self.holders[response_id]

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
            try:
                watch.lost()
            except Exception as exc:
                logger.error("a watch failed: %s", type(exc).__name__)

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

    @property
    def is_unused(self) -> bool:
        """Whether nothing would be missed if it were forgotten."""
        busy = self.connections or self.waiting or self.watches or self._dialing is not None
        return not busy and self.breaker.state(self.manager.now()) != "open"

    # -- placing turns ----------------------------------------

    def add(self, ticket: Ticket) -> None:
        """Sends a turn now, or lets it wait for a lane or a connection."""
        limits = self.manager.limits
        if self._try(ticket):
            return
        waits = len(self.waiting)
        if limits.max_waiting is not None and waits >= max(limits.max_waiting, self._coming(ticket)):
            message = f"{waits} turns wait for a lane already."
            self.refuse(ticket, Failure(FailureKind.TOO_MANY_WAITING, message=message))
            return
        self.waiting.append(ticket)
        if ticket.bound:
            self._bound.add(ticket)
        if limits.lease_timeout is not None:
            loop = asyncio.get_running_loop()
            ticket.lease_timer = loop.call_later(limits.lease_timeout, self._lease_expired, ticket)
        self._dial_if_needed()

    def _coming(self, ticket: Ticket) -> int:
        """How many may wait with a turn for a new connection, rather than behind others for a busy lane."""
        dials = self._dialing is not None or not self.is_open or self._may_grow()
        return self.manager.limits.max_in_flight if dials and not ticket.bound else 0

    def _lease_expired(self, ticket: Ticket) -> None:
        due, loop = ticket.lease_timer, asyncio.get_running_loop()
        ticket.lease_timer = None
        if due is not None and is_late(due.when() - loop.time()):
            ticket.lease_timer = loop.call_later(CATCH_UP_SECONDS, self._lease_expired, ticket)
            return
        if ticket in self.waiting:
            self.waiting.remove(ticket)
            message = f"No lane became free within {self.manager.limits.lease_timeout:g} s."
            failure = Failure(FailureKind.LEASE_TIMEOUT, message=message)
            # While every dial fails, that is the news; nobody can free a lane of a connection that is not there.
            outage = self._last_failure if self._dialing is not None and not self.is_open else None
            self.refuse(ticket, outage or failure)

    def refuse(self, ticket: Ticket, failure: Failure) -> None:
        """Ends a turn that was never sent."""
        if not ticket.done:
            ticket.done = True
            ticket.stop_timers()
            ticket.mailbox.put([failure], 0)
            self.manager.ended(ticket)
            turn_refused(self, ticket, failure)

    def abandon(self, ticket: Ticket) -> None:
        """The caller is gone."""
        ticket.done = True
        ticket.stop_timers()
        if ticket.connection is not None:
            ticket.connection.abandon(ticket)
        elif ticket in self.waiting:
            self.waiting.remove(ticket)
        self.manager.ended(ticket)

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
        try:
            connection.send(ticket, lane)
        except LocalProtocolError as exc:  # a defect here must not leave the caller waiting
            logger.error("a turn could not be put on its lane: %s", exc)
            message = "The turn could not be put on its lane."
            self.refuse(ticket, Failure(FailureKind.PROTOCOL_VIOLATION, message=message))
        return True

    def _place(self, ticket: Ticket) -> tuple[Connection, Lane] | Failure | None:
        """Decides where a turn goes: its own lane, a fork beside it, any lane, or nowhere yet."""
        connection = self.holders.get(ticket.parent) if ticket.parent is not None else None
        trusted = connection is not None and connection.trusted()
        lane = (
            connection.protocol.holder(ticket.parent)
            if connection is not None and connection.usable and ticket.parent is not None
            else None
        )
        if connection is None or lane is None:
            if ticket.bound:
                message = "The connection that held the response to continue is gone."
                return Failure(FailureKind.PARENT_GONE, message=message)
            return self._anywhere()
        if not trusted:
            return None  # it is being checked
        protocol = connection.protocol
        if protocol.room:
            if lane.idle and protocol.may_advance(lane):
                return connection, lane
            offer = connection.lanes.offer(self.manager.now())
            if offer is not None and (ticket.bound or offer.cost < Cost.CHAIN):
                return connection, connection.lanes.take(offer)
        return None if ticket.bound else self._anywhere()

    def _anywhere(self) -> tuple[Connection, Lane] | None:
        """Finds the lane that costs least; None where waiting for another connection costs less."""
        now = self.manager.now()
        best: tuple[Connection, Offer] | None = None
        for connection in list(self.connections):
            if not connection.trusted() or (offer := connection.lanes.offer(now)) is None:
                continue
            if offer.cost is Cost.NOTHING:
                return connection, connection.lanes.take(offer)
            if best is None or (offer.cost, offer.used_at) < (best[1].cost, best[1].used_at):
                best = connection, offer
        if best is None or (best[1].cost is Cost.CHAIN and self._may_grow()):
            return None
        connection, offer = best
        return connection, connection.lanes.take(offer)

    def _may_grow(self) -> bool:
        """Whether one more connection may be opened for the sake of a turn that could also wait."""
        most = self.manager.limits.max_connections
        count = sum(connection.usable for connection in self.connections)
        return self._last_failure is None and count < (most or _MANY_CONNECTIONS) and not self.manager.closed

    def pump(self) -> None:
        """Lets waiting turns in, in order; one that waits for a certain lane does not hold up the others."""
        self._pump_again = True
        if self._pumping or self.manager.closed:
            return
        self._pumping = True
        try:
            while self._pump_again and self.waiting:
                self._pump_again = False
                self._pump_once()
        finally:
            self._pumping = False
        self._dial_if_needed()

    def _pump_once(self) -> None:
        roomy = {
            connection for connection in self.connections if connection.usable and connection.protocol.room
        }
        blocked = not roomy
        still: list[Ticket] = []
        # With no room anywhere the only news can be that a response that one waits for is gone; hundreds may wait.
        self._bound = {one for one in self._bound if not one.done and one.connection is None}
        while self.waiting and (roomy or self._bound):
            ticket = self.waiting.popleft()
            if ticket.done:
                continue
            holder = self.holders.get(ticket.parent) if ticket.parent is not None else None
            if holder is not None and holder.usable:
                hopeless = holder not in roomy and (ticket.bound or blocked)
            else:
                hopeless = blocked and not ticket.bound
            if hopeless or not self._try(ticket):
                still.append(ticket)
                blocked = blocked or not ticket.bound
            elif ticket.connection is not None and not ticket.connection.protocol.room:
                roomy.discard(ticket.connection)
                blocked = blocked or not roomy
        self.waiting.extendleft(reversed(still))

    # -- dialing ----------------------------------------

    def _dial_if_needed(self) -> None:
        if self._dialing is not None or self.manager.closed:
            return
        if all(ticket.bound for ticket in self.waiting):  # those wait for a certain lane
            return
        usable = [connection for connection in self.connections if connection.usable]
        if any(connection.checking for connection in usable) or self._is_probing(usable):
            return
        if usable and self.breaker.state(self.manager.now()) == "open":  # a lane here comes sooner
            return
        most = self.manager.limits.max_connections
        if most is None or len(usable) < most:
            self.ensure_dial()
            return
        # Nobody waits for what an abandoned answer still blocks; without lanes that is the whole connection.
        blocked = [
            connection for connection in usable if not connection.protocol.room and not connection.live
        ]
        if blocked:
            blocked[0].retire("abandoned")

    def _is_probing(self, usable: list[Connection]) -> bool:
        """Whether a connection is about to show whether it has lanes, and so perhaps room for everybody."""
        sent = [
            connection.probed_at
            for connection in usable
            if connection.protocol.has_lanes is None and connection.protocol.in_flight
        ]
        left = max(sent, default=0.0) + _PROBE_SECONDS - self.manager.now()
        if not sent or left <= 0:
            return False
        if self._probe_timer is None:
            self._probe_timer = asyncio.get_running_loop().call_later(left, self._probe_over)
        return True

    def _probe_over(self) -> None:
        self._probe_timer = None
        if self.waiting:
            self._dial_if_needed()

    def ensure_dial(self) -> None:
        """Starts a dial unless one is in progress."""
        if self._dialing is None:
            self._dialing = asyncio.get_running_loop().create_task(self._dial(), name="ws-responses dial")
            self.manager.keep(self._dialing)

    def want(self) -> None:
        """Opens a connection if there is none: nobody waits for it."""
        if not self.is_open and not self.manager.closed:
            self._wanted = True
            self.ensure_dial()

    async def _dial(self) -> None:
        """Dials until a connection is open or the policy is used up, and tells those who wait."""
        started, attempts = self.manager.now(), 0

        async def attempt() -> Socket:
            nonlocal attempts
            attempts += 1
            return await self._attempt()

        try:
            await self._keep_to_budget()
            socket = await retrying(
                attempt,
                self.manager.retry,
                before_sleep=self._before_sleep,
                least=lambda: self._budget.wait(self.manager.now()),
            )
        except Failed as exc:
            self._over()
            kind, status = exc.failure.kind, exc.failure.status
            pause = self.breaker.failed(self.manager.now(), status)
            self.emit(DialGivenUp, attempts=attempts, kind=kind, status=status, pause=pause)
            self._give_up(exc.failure)
            return
        except Exception as exc:  # a defect here must not leave callers waiting
            logger.error("dialing failed: %s", type(exc).__name__)
            self._over()
            message = f"The connection failed ({type(exc).__name__})."
            self._give_up(Failure(FailureKind.DIAL_FAILED, message=message))
            return
        except BaseException as exc:  # cancelled; where it was not this pool that did so, turns wait
            self._over()
            message = f"The connection failed ({type(exc).__name__})."
            self._give_up(Failure(FailureKind.DIAL_FAILED, message=message))
            raise
        self._over()
        self._opened(socket, self.manager.now() - started, attempts)

    def _over(self) -> None:
        self._dialing, self._wanted = None, False

    async def _attempt(self) -> Socket:
        manager = self.manager
        manager.counters.dials += 1
        try:
            return await dial(
                self.endpoint,
                limits=manager.limits,
                ssl_context=manager.ssl_context,
                proxy=manager.proxy,
                allow_insecure=manager.allow_insecure,
            )
        except Failed as exc:
            manager.counters.dial_failures += 1
            logger.debug("dialing %s failed: %s", self.endpoint.label, exc.failure.message)
            self._last_failure = exc.failure
            if worth_retrying(exc.failure):
                self._budget.failed(manager.now())
            raise

    async def _keep_to_budget(self) -> None:
        """After many failures in a minute, waits; turns that bound their attempts are told at once."""
        pause = paced(self._budget.wait(self.manager.now()))
        if pause <= 0:
            return
        if self._last_failure is not None and not self._before_sleep(self._last_failure, 1, pause):
            raise Failed(self._last_failure)
        await asyncio.sleep(pause)

    def _opened(self, socket: Socket, seconds: float, attempts: int) -> None:
        if self.manager.closed:  # while the dial was ending: those who waited have been told
            socket.transport.abort()
            return
        self._last_failure, self._opened_at = None, self.manager.now()
        self.breaker.succeeded()
        label = f"c{next(self.manager.numbers)}"
        connection = Connection(self, socket, label, self._next_lifetime())
        self.connections.append(connection)
        logger.debug("connection %s is open to %s", label, self.endpoint.label)
        self.emit(ConnectionOpened, connection=label, seconds=seconds, attempts=attempts)
        self.pump()

    def _before_sleep(self, failure: Failure, attempt: int, wait: float) -> bool:
        """Tells the turns that do not want another attempt; goes on while somebody waits."""
        self.pump()  # one that only wanted to spare a chain takes its lane now
        for ticket in list(self.waiting):
            bounded = ticket.max_dials is not None and attempt >= ticket.max_dials
            if bounded and not ticket.bound and not self.is_open:
                self.waiting.remove(ticket)
                self.refuse(ticket, failure)
        if not self.waiting and not self._wanted:
            return False
        self.emit(DialRetrying, attempt=attempt, wait=wait, kind=failure.kind, status=failure.status)
        return True

    def _give_up(self, failure: Failure) -> None:
        """Dialing has failed: who waits can still get a lane of an open connection; without one all are refused."""
        if self.is_open:
            self.pump()
            return
        waiting, self.waiting = self.waiting, deque()
        for ticket in waiting:
            self.refuse(ticket, failure)

    # -- connections come and go ----------------------------------------

    def _next_lifetime(self) -> float | None:
        """Seconds that the next connection may live: no two of a manager expire together."""
        configured = self.manager.limits.max_lifetime
        if configured is None:
            return None
        longest = min(configured, self.profile.max_lifetime * _LIFETIME_SHARE)
        return pick_lifetime(longest, self.manager.expiries(), self.manager.random)

    def learn(self, connection: Connection) -> None:
        """What one connection found out about lanes holds for the next ones too."""
        lanes = connection.protocol.has_lanes
        if lanes is not None and lanes is not self.profile.lanes:
            self.profile = replace(self.profile, lanes=lanes)

    def remove(self, connection: Connection, *, died: bool, expected: bool = True) -> None:
        """A connection is gone; `expected`: by our doing."""
        self.learn(connection)
        young = self.manager.now() - self._opened_at < _STILLBORN_SECONDS
        if young and not expected and not connection.heard:
            # A server that hangs up on everybody must not be dialled more often than one that refuses.
            self._budget.failed(self.manager.now())
            message = "The server closed the connection right after the handshake."
            self._last_failure = Failure(FailureKind.DIAL_FAILED, message=message)
        if connection in self.connections:
            self.connections.remove(connection)
        self.manager.counters.strays += connection.protocol.strays
        self.manager.counters.lost += died
        self.pump()

    def emit(self, cls: type[TransportEvent], /, **fields: Any) -> None:
        """Tells the hooks."""
        self.manager.emit(cls, endpoint=self.endpoint.label, **fields)

    def drop(self) -> None:
        """Aborts every connection and forgets who waits: the process is going away."""
        self.waiting.clear()
        self._bound.clear()
        self.watches.clear()
        for connection in list(self.connections):
            connection.abort("closed")

    def fail_all(self, failure: Failure) -> None:
        """Ends every waiting turn and drops every connection."""
        if self._dialing is not None:
            self._dialing.cancel()
        if self._probe_timer is not None:
            self._probe_timer.cancel()
        waiting, self.waiting = self.waiting, deque()
        for ticket in waiting:
            self.refuse(ticket, failure)
        for connection in list(self.connections):
            connection.close()
