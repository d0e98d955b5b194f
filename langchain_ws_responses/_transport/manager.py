"""`ConnectionManager`: the process's sockets, and the only thing of the transport that users see."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import random
import ssl
import threading
import time
from collections.abc import Callable, Coroutine, Hashable, Iterable, Mapping
from functools import partial
from typing import Any, NoReturn

from .._protocol.limits import Limits, Profile, RetryPolicy
from .._types import Failure, FailureKind, Replay
from ..errors import ConfigurationError, error_from
from .accounting import Buffers, Counters
from .breaker import Breaker
from .endpoint import Endpoint
from .hooks import Hook, Stats, TransportEvent
from .mailbox import SyncMailbox
from .pool import Pool
from .proxy import check_proxy
from .runtime import keep_inherited, runtime
from .ticket import Ticket
from .trace import trace_of_environment
from .watch import Watch

__all__ = ["ConnectionManager", "default_manager"]

logger = logging.getLogger("langchain_ws_responses")

_CLOSE_SECONDS = 5.0
# Endpoints that nobody uses any more are forgotten beyond this number.
_MANY_POOLS = 64


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

    Raises:
        TypeError: A hook cannot be called.

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
        self.hooks: tuple[Hook, ...] = (*hooks, *trace_of_environment())
        for hook in self.hooks:
            if not callable(hook):
                raise TypeError(f"a hook is a function of one TransportEvent, not {type(hook).__name__}")
        self.ssl_context = ssl_context
        self.proxy = proxy
        self.allow_insecure = allow_insecure
        self.profiles: dict[str, Profile] = dict(profiles or {})
        self.closed = self._dropped = False
        if proxy is not None:
            check_proxy(proxy)
        self._reset()
        runtime().at_exit(self._drop)
        runtime().in_child(self._check_process)
        runtime().at_loss(self._lose)

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._pools: dict[str, Pool] = {}
        self.refusing: dict[Hashable, Breaker] = {}
        self._buffers = Buffers(self.limits)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closers: set[asyncio.Task[Any]] = set()
        self.counters = Counters()
        self.numbers = itertools.count(1)
        self.label = f"m{os.urandom(4).hex()}"
        # Not shared with its parent: both would choose the same moments.
        self.random = random.Random()  # noqa: S311 - jitter is no secret

    def _check_process(self) -> None:
        """After `fork` the child forgets what it inherited, and touches none of it."""
        if self._pid != os.getpid():
            keep_inherited((self._pools, self._tasks, self._buffers))
            self._reset()

    # -- for the model ----------------------------------------

    def submit(self, ticket: Ticket) -> None:
        """Sends a turn; what comes of it arrives in `ticket.mailbox`.

        Raises:
            ManagerClosed: The manager is closed.
            ConfigurationError: A plain `ws` URL to another machine.
            RuntimeError: A sync caller on the I/O thread, which would wait for itself.
        """
        self.check(ticket.endpoint)
        if isinstance(ticket.mailbox, SyncMailbox) and runtime().inside():
            raise RuntimeError(
                "a hook runs on the I/O thread and must not call a model: it would wait for itself"
            )
        runtime().call(self._admit, ticket)

    def check(self, endpoint: Endpoint) -> None:
        """Refuses what cannot be sent.

        Raises:
            ManagerClosed: The manager is closed.
            ConfigurationError: A plain `ws` URL to another machine.
        """
        self._check_process()
        if self.closed:
            runtime().hold_at_exit()
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
        if self._pid == os.getpid() and runtime().alive:
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
        if self._pid != os.getpid():
            return True
        pool = self._pools.get(endpoint.key)
        breaker = self.refusing.get(endpoint.place) if pool is None else pool.breaker
        return breaker is None or breaker.allows(self.now())

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
        runtime().call(self._want, endpoint)

    def now(self) -> float:
        """The clock of the I/O thread. Safe from any thread."""
        return runtime().now()

    def give_up(self, endpoint: Endpoint, response_ids: Iterable[str]) -> None:
        """Frees the lanes of chains that nobody will continue. Safe from any thread; returns at once."""
        if self._pid == os.getpid() and runtime().alive and not self.closed:
            runtime().call(self._give_up, endpoint.key, tuple(response_ids))

    def _give_up(self, key: str, response_ids: tuple[str, ...]) -> None:
        if (pool := self._pools.get(key)) is not None:
            for response_id in response_ids:
                pool.give_up(response_id)

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
            if len(self._pools) >= _MANY_POOLS:
                self._pools = {key: known for key, known in self._pools.items() if not known.is_unused}
            pool = self._pools[endpoint.key] = Pool(self, endpoint)
        return pool

    def _want(self, endpoint: Endpoint) -> None:
        if not self.closed:
            self._pool(endpoint).want()

    def _admit(self, ticket: Ticket) -> None:
        if ticket.done or self._dropped:
            return
        self._buffers.add(ticket)
        pool = self._pool(ticket.endpoint)
        if self.closed:
            pool.refuse(ticket, _closed_failure())
        elif ticket.delay > 0:
            delay, ticket.delay = ticket.delay, 0.0
            ticket.lease_timer = asyncio.get_running_loop().call_later(delay, self._admit, ticket)
        else:
            ticket.lease_timer = None
            try:
                pool.add(ticket)
            except Exception as exc:  # a defect here must not leave the caller waiting
                logger.error("a turn could not be placed: %s", type(exc).__name__)
                message = f"The turn could not be placed ({type(exc).__name__})."
                pool.refuse(ticket, Failure(FailureKind.PROTOCOL_VIOLATION, message=message))

    def _abandon(self, ticket: Ticket) -> None:
        # It may be kept for long all the same: by the traceback of what its caller was cancelled with.
        ticket.mailbox.discard()
        if not ticket.done:
            self._pool(ticket.endpoint).abandon(ticket)

    def ended(self, ticket: Ticket) -> None:
        """A turn is over."""
        self._buffers.ended(ticket)

    def relieve(self, ticket: Ticket, size: int) -> None:
        """Ends a turn whose events pile up, if the `size` bytes that another one just got are too many."""
        victim = self._buffers.victim(ticket, size)
        if victim is not None and victim.connection is not None:
            victim.connection.overflow(victim)

    def expiries(self) -> list[float]:
        """Seconds until each connection that takes turns is rotated."""
        now = self.now()
        return [
            connection.expires_at - now
            for pool in self._pools.values()
            for connection in pool.connections
            if connection.usable and connection.expires_at is not None
        ]

    def emit(self, cls: type[TransportEvent], /, *, to: Iterable[Hook] = (), **fields: Any) -> None:
        """Tells the hooks, or some of them; what they raise is theirs alone."""
        if not self.hooks:
            return
        event = cls(manager=self.label, **fields)
        for hook in to or self.hooks:
            try:
                hook(event)
            except BaseException as exc:  # also `SystemExit`: it would end the I/O thread for everybody
                logger.error("a hook failed on %s: %s", cls.__name__, type(exc).__name__, exc_info=True)

    def tell(self, cls: type[TransportEvent], /, **fields: Any) -> None:
        """Lets the I/O thread tell the hooks something that the caller's side knows. Safe from any thread."""
        if self.hooks:
            runtime().call(partial(self.emit, cls, **{"at": time.time(), **fields}))

    def keep(self, task: asyncio.Task[Any]) -> None:
        """Holds a task until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def background(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Runs something that nobody waits for."""
        self.keep(asyncio.get_running_loop().create_task(coroutine))

    def _drop(self) -> None:
        """Aborts every socket without a word: the process is going away, and nobody may be woken for that."""
        self.closed, self._dropped, self.hooks = True, True, ()
        for ticket in list(self._buffers.live):
            ticket.done = True
            ticket.stop_timers()
        for pool in list(self._pools.values()):
            pool.drop()

    def _lose(self) -> None:
        """The I/O thread's loop has ended under everything: every turn is told, and the next one finds nothing here."""
        message = "The I/O thread was ended before the turn was written."
        failure = Failure(FailureKind.CONNECTION_LOST, message=message)
        for ticket in list(self._buffers.live):
            if ticket.connection is None:
                self._pool(ticket.endpoint).refuse(ticket, failure)
        for pool in list(self._pools.values()):
            pool.waiting.clear()
            for connection in list(pool.connections):
                connection.lost()
        self._pools, self._tasks, self._closers = {}, set(), set()

    # -- life ----------------------------------------

    def drain(self) -> None:
        """Retires every connection: turns in flight finish, new turns go to new connections. Returns at once."""
        self._check_process()
        if runtime().alive:
            runtime().call(self._drain)

    def _drain(self) -> None:
        for pool in list(self._pools.values()):
            for connection in list(pool.connections):
                connection.retire("drained")

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

    def _begin_close(self, finished: Callable[[], object]) -> bool:
        self._check_process()
        self.closed = True
        if not runtime().alive or not self._pools:
            return False
        runtime().call(self._close_on_thread, finished)
        return True

    def _close_on_thread(self, finished: Callable[[], object]) -> None:
        for ticket in list(self._buffers.live):
            if ticket.connection is None:
                self._pool(ticket.endpoint).refuse(ticket, _closed_failure())
            else:
                ticket.connection.fail(ticket, _closed_failure(ticket))
        for pool in list(self._pools.values()):
            pool.fail_all(_closed_failure())

        async def wait() -> None:
            if pending:
                await asyncio.wait(pending, timeout=_CLOSE_SECONDS)
            finished()

        # Others who close at the same time do not wait for each other.
        pending = self._tasks - self._closers
        closer = asyncio.get_running_loop().create_task(wait(), name="ws-responses close")
        self._closers.add(closer)
        closer.add_done_callback(self._closers.discard)
        self.keep(closer)

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
        now = self.now()
        # A copy: lanes come and go on the I/O thread meanwhile.
        lanes = [lane for connection in connections for lane in list(connection.protocol.lanes.values())]
        in_flight = sum(not lane.idle for lane in lanes)
        return Stats(
            connections_open=len(opened),
            connections_draining=len(connections) - len(opened),
            lanes_busy=in_flight,
            lanes_named=sum(len(connection.protocol.lanes) for connection in opened),
            in_flight=in_flight,
            waiting=sum(len(pool.waiting) for pool in pools),
            buffered_bytes=self._buffers.total(),
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
            strays=counters.strays + sum(connection.protocol.strays for connection in connections),
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


def _renew_lock() -> None:
    """In a forked child the lock may be held by a thread that only its parent has."""
    global _default_lock  # noqa: PLW0603 - guards the one per process
    _default_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)

# A signal's handler may come back here in the thread that holds it.
_default_lock = threading.RLock()
_default: ConnectionManager | None = None


def default_manager() -> ConnectionManager:
    """Returns the manager that models use when they are given none.

    There is one per process; it is made anew once it was closed.
    """
    global _default  # noqa: PLW0603 - one per process is what it is for
    known = _default
    if known is not None:
        if not known.closed:
            return known
        runtime().hold_at_exit()
    with _default_lock:
        if _default is None or _default.closed:
            made = ConnectionManager()
            # Such a handler may have been first; a manager that nobody has used owns nothing.
            if _default is None or _default.closed:
                _default = made
        return _default
