"""`ConnectionManager`: the process's sockets, and the only thing of the transport that users see."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import ssl
import threading
import time
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, NoReturn

from .._protocol.limits import Limits, Profile, RetryPolicy
from .._types import Failure, FailureKind, Replay
from ..errors import ConfigurationError, error_from
from .dial import Endpoint
from .hooks import Hook, Stats, TransportEvent
from .pool import Pool
from .runtime import keep_inherited, runtime
from .ticket import Ticket
from .watch import Watch

__all__ = ["ConnectionManager", "default_manager"]

logger = logging.getLogger("langchain_ws_responses")

_CLOSE_SECONDS = 5.0
_CHECK_TOTAL_ABOVE = 256 * 1024


class Counters:
    """Totals since the manager was made; written on the I/O thread only, except `http`."""

    def __init__(self) -> None:
        self.turns = self.delta = self.full = self.warm_up = self.resends = self.http = 0
        self.bytes_sent = self.bytes_received = self.frames_received = 0
        self.dials = self.dial_failures = self.rotations = self.lost = 0
        self.full_reasons: dict[str, int] = {}

    def sent(self, ticket: Ticket, size: int) -> None:
        """Counts one create."""
        self.bytes_sent += size
        self.count(ticket.mode, ticket.reason)

    def count(self, mode: str, reason: str) -> None:
        """Counts one request by how it was sent."""
        self.turns += 1
        if mode == "delta":
            self.delta += 1
        elif mode == "warmup":
            self.warm_up += 1
        else:
            self.full += 1
            self.full_reasons[reason] = self.full_reasons.get(reason, 0) + 1


class ConnectionManager:
    """Owns the sockets to the Responses API; safe from any thread and any event loop.

    Connections are opened when turns need them, shared by every model that uses the manager with the same
    endpoint and credentials, rotated before the server ends them, and closed when idle.

    Args:
        limits: What it may use and how long it waits.
        retry: How it tries again.
        hooks: Callables that get a `TransportEvent` for whatever happens, on the I/O thread.
        ssl_context: For `wss`; the default context with host check otherwise.
        proxy: Proxy URL; the environment's proxy variables otherwise.
        allow_insecure: Allows plain `ws` to hosts other than this machine.
        profiles: What you know about servers, by host name: a gateway in front of OpenAI may have lanes and keep
            warm-ups, which nobody can tell from its name. Wrong claims can make answers wrong.

    Example:
        ```python
        with ConnectionManager(limits=Limits(max_connections=4)) as manager:
            model = ChatOpenAIWebSocket(model="gpt-5.5", manager=manager)
        ```
    """

    def __init__(
        self,
        *,
        limits: Limits | None = None,
        retry: RetryPolicy | None = None,
        hooks: Iterable[Hook] = (),
        ssl_context: ssl.SSLContext | None = None,
        proxy: str | None = None,
        allow_insecure: bool = False,
        profiles: Mapping[str, Profile] | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.retry = retry or RetryPolicy()
        self.hooks: tuple[Hook, ...] = tuple(hooks)
        self.ssl_context = ssl_context
        self.proxy = proxy
        self.allow_insecure = allow_insecure
        self.profiles: dict[str, Profile] = dict(profiles or {})
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._pools: dict[str, Pool] = {}
        self._tickets: set[Ticket] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self.counters = Counters()
        self.numbers = itertools.count(1)
        self.closed = False
        runtime().at_exit(self._drop)

    def _check_process(self) -> None:
        """After `fork` the child forgets what it inherited, and touches none of it."""
        if self._pid != os.getpid():
            keep_inherited((self._pools, self._tasks, self._tickets))
            self._reset()

    # -- for the model ----------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Sends a turn; what comes of it arrives in `ticket.mailbox`.

        Raises:
            ManagerClosed: The manager is closed.
            ConfigurationError: A plain `ws` URL to another machine.
        """
        self.check(ticket.endpoint)
        runtime().call(self._admit, ticket)

    def check(self, endpoint: Endpoint) -> None:
        """Refuses what cannot be sent.

        Raises:
            ManagerClosed: The manager is closed.
            ConfigurationError: A plain `ws` URL to another machine.
        """
        self._check_process()
        if self.closed:
            raise error_from(
                Failure(FailureKind.MANAGER_CLOSED, message="The ConnectionManager is closed."),
                replay=Replay.SAFE,
            )
        if endpoint.url.startswith("ws:") and not self.allow_insecure and not endpoint.loopback:
            raise ConfigurationError(
                f"{endpoint.label} is not encrypted and not on this machine: the key would be readable on its "
                "way. Use wss (or https), or ConnectionManager(allow_insecure=True) in a network that you trust."
            )

    def abandon(self, ticket: Ticket) -> None:
        """Nobody waits for this turn any more. Safe from any thread, and after it has ended."""
        if not ticket.done and self._pid == os.getpid() and runtime().alive:
            runtime().call(self._abandon, ticket)

    def holds(self, endpoint: Endpoint, response_id: str) -> bool:
        """Whether a live connection's memory holds a response."""
        pool = self._pools.get(endpoint.key) if self._pid == os.getpid() else None
        return pool is not None and pool.holds(response_id)

    def is_open(self, endpoint: Endpoint) -> bool:
        """Whether a connection to the endpoint takes turns now."""
        pool = self._pools.get(endpoint.key) if self._pid == os.getpid() else None
        return pool is not None and pool.is_open

    def may_dial(self, endpoint: Endpoint) -> bool:
        """Whether dialing makes sense: the server is not known to refuse, and the breaker allows it."""
        if not self.profile_of(endpoint).websocket:
            return False
        pool = self._pools.get(endpoint.key) if self._pid == os.getpid() else None
        return pool is None or pool.breaker.allows(time.monotonic())

    def profile_of(self, endpoint: Endpoint) -> Profile:
        """What is known about the server behind an endpoint: told by the user, or by its host name."""
        return self.profiles.get(endpoint.host) or endpoint.profile

    def preconnect(self, endpoint: Endpoint) -> None:
        """Starts to open a connection if there is none; returns at once.

        Raises:
            ManagerClosed: The manager is closed.
            ConfigurationError: A plain `ws` URL to another machine.
        """
        self.check(endpoint)
        runtime().call(lambda: self._pool(endpoint).want())

    def watch(self, endpoint: Endpoint, watch: Watch) -> None:
        """Keeps the connection that holds a response, and tells `watch` when it is lost all the same."""
        self._check_process()
        runtime().call(self._watch, endpoint, watch)

    def _watch(self, endpoint: Endpoint, watch: Watch) -> None:
        pool = self._pool(endpoint)
        pool.watches.add(watch)
        pool.check_watch(watch)

    def unwatch(self, endpoint: Endpoint, watch: Watch) -> None:
        """Ends a watch. Safe from any thread, and more than once."""
        if self._pid == os.getpid() and runtime().alive:
            runtime().call(lambda: self._pool(endpoint).watches.discard(watch))

    # -- on the I/O thread -------------------------------------------------------------------------------------

    def _pool(self, endpoint: Endpoint) -> Pool:
        pool = self._pools.get(endpoint.key)
        if pool is None:
            pool = self._pools[endpoint.key] = Pool(self, endpoint)
        return pool

    def _admit(self, ticket: Ticket) -> None:
        if ticket.done:
            return
        pool = self._pool(ticket.endpoint)
        if self.closed:
            pool.refuse(ticket, _closed_failure())
        elif ticket.delay > 0:
            delay, ticket.delay = ticket.delay, 0.0
            ticket.lease_timer = asyncio.get_running_loop().call_later(delay, self._admit, ticket)
            self._tickets.add(ticket)
        else:
            self._tickets.add(ticket)
            pool.add(ticket)
            self._prune()

    def _prune(self) -> None:
        if len(self._tickets) > 64 and len(self._tickets) > 2 * sum(
            not ticket.done for ticket in self._tickets
        ):
            self._tickets = {ticket for ticket in self._tickets if not ticket.done}

    def _abandon(self, ticket: Ticket) -> None:
        if not ticket.done:
            self._pool(ticket.endpoint).abandon(ticket)

    def over_limit(self, ticket: Ticket) -> bool:
        """Whether the caller of a turn, or all callers together, let too many bytes pile up."""
        pending = ticket.mailbox.pending
        limits = self.limits
        if limits.max_lane_bytes is not None and pending > limits.max_lane_bytes:
            return True
        if limits.max_total_bytes is None or pending < min(_CHECK_TOTAL_ABOVE, limits.max_total_bytes):
            return False
        return self._buffered() > limits.max_total_bytes

    def _buffered(self) -> int:
        return sum(ticket.mailbox.pending for ticket in list(self._tickets))

    def emit(self, event: TransportEvent) -> None:
        """Tells the hooks; what they raise is theirs alone."""
        for hook in self.hooks:
            try:
                hook(event)
            except Exception:
                logger.exception("a hook failed on %s", type(event).__name__)

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Holds a task until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs something that nobody waits for."""
        self.keep(asyncio.get_running_loop().create_task(coroutine))

    def _drop(self) -> None:
        """Aborts every socket: the process is going away."""
        self.closed = True
        for pool in list(self._pools.values()):
            for connection in list(pool.connections):
                connection.abort()

    # -- life ----------------------------------------

    def drain(self) -> None:
        """Retires every connection: turns in flight finish, new turns go to new connections. Returns at once."""
        self._check_process()
        if runtime().alive:
            runtime().call(self._drain)

    def _drain(self) -> None:
        for pool in list(self._pools.values()):
            for connection in list(pool.connections):
                connection.retire()

    def close(self) -> None:
        """Closes every connection and ends every waiting turn with `ManagerClosed`.

        Safe from any thread and more than once; waits a few seconds at most. On an event loop use `aclose`.
        """
        done = threading.Event()
        if self._begin_close(done.set) and not runtime().inside():
            done.wait(_CLOSE_SECONDS)

    async def aclose(self) -> None:
        """Like `close`, without blocking the event loop."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()

        def finished() -> None:
            with contextlib.suppress(RuntimeError):  # the caller's loop is closed
                loop.call_soon_threadsafe(done.cancel)

        if self._begin_close(finished):
            await asyncio.wait([done], timeout=_CLOSE_SECONDS)

    def _begin_close(self, finished: Any) -> bool:
        self._check_process()
        with self._lock:
            self.closed = True
        if not runtime().alive or not self._pools:
            return False
        runtime().call(self._close_on_thread, finished)
        return True

    def _close_on_thread(self, finished: Any) -> None:
        for ticket in list(self._tickets):
            if not ticket.done:
                pool = self._pool(ticket.endpoint)
                if ticket.connection is None:
                    pool.refuse(ticket, _closed_failure())
                else:
                    ticket.connection.fail(ticket, _closed_failure(ticket))
        for pool in list(self._pools.values()):
            pool.fail_all(_closed_failure())

        async def wait() -> None:
            pending = [task for task in self._tasks if task is not asyncio.current_task()]
            if pending:
                await asyncio.wait(pending, timeout=_CLOSE_SECONDS)
            finished()

        self.background(wait())

    def __enter__(self) -> ConnectionManager:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def __aenter__(self) -> ConnectionManager:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    # -- looking inside ----------------------------------------

    def stats(self) -> Stats:
        """Returns a snapshot; safe from any thread."""
        pools = list(self._pools.values()) if self._pid == os.getpid() else []
        connections = [connection for pool in pools for connection in list(pool.connections)]
        opened = [connection for connection in connections if connection.usable]
        counters = self.counters
        now = time.monotonic()
        in_flight = sum(connection.protocol.in_flight for connection in connections)
        return Stats(
            connections_open=len(opened),
            connections_draining=len(connections) - len(opened),
            lanes_busy=in_flight,
            lanes_named=sum(len(connection.protocol.lanes) for connection in opened),
            in_flight=in_flight,
            waiting=sum(len(pool.waiting) for pool in pools),
            buffered_bytes=self._buffered(),
            turns=counters.turns,
            delta=counters.delta,
            full=counters.full,
            warm_up=counters.warm_up,
            resends=counters.resends,
            http=counters.http,
            bytes_sent=counters.bytes_sent,
            bytes_received=counters.bytes_received,
            frames_received=counters.frames_received,
            dials=counters.dials,
            dial_failures=counters.dial_failures,
            rotations=counters.rotations,
            lost=counters.lost,
            strays=sum(connection.protocol.strays for connection in connections),
            full_reasons=dict(counters.full_reasons),
            breakers={
                pool.endpoint.label: state for pool in pools if (state := pool.breaker.state(now)) != "closed"
            },
        )

    def __repr__(self) -> str:
        stats = self.stats()
        lanes = stats.connections_open * self.limits.max_lanes
        state = "closed | " if self.closed else ""
        return (
            f"<ConnectionManager [{state}{stats.connections_open} open, {stats.connections_draining} draining | "
            f"lanes {stats.lanes_busy}/{lanes} | {stats.in_flight} in flight, {stats.waiting} waiting | "
            f"delta {stats.delta}, full {stats.full}]>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A ConnectionManager owns sockets and cannot be pickled or copied. Make one in each process, "
            "or leave `manager` unset: every process has its default one."
        )

    def __deepcopy__(self, memo: object) -> NoReturn:
        self.__reduce__()


def _closed_failure(ticket: Ticket | None = None) -> Failure:
    message = "The ConnectionManager was closed."
    if ticket is None:
        return Failure(FailureKind.MANAGER_CLOSED, message=message)
    return Failure(FailureKind.MANAGER_CLOSED, phase=ticket.phase, message=message, events_seen=ticket.events)


_default_lock = threading.Lock()
_default: ConnectionManager | None = None


def default_manager() -> ConnectionManager:
    """Returns the manager that models use when they are given none.

    There is one per process; it is made anew once it was closed.
    """
    global _default  # noqa: PLW0603 - one per process is what it is for
    with _default_lock:
        if _default is None or _default.closed:
            _default = ConnectionManager()
        return _default
