"""A world with a clock of its own: an event loop that skips idle time, and a network in memory.

The loop never waits. When nothing is left to do, it moves its clock to the next timer; when there is no next timer,
somebody waits for ever, and that is an error. Everything above is the real thing: `dial`, the websockets library with
its keepalive, connections, pools and the manager.
"""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Callable, Coroutine, Mapping
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import tenacity

from langchain_ws_responses._transport import connection, framing, liveness, manager

if TYPE_CHECKING:
    import pytest

T = TypeVar("T")

LATENCY = 0.02
# Any wall clock will do; the monotonic one starts elsewhere.
EPOCH = 1_750_000_000.0
MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0


class NothingLeftError(RuntimeError):
    """Somebody waits, and no timer is left that could ever wake them."""


class _Selector(selectors.DefaultSelector):  # type: ignore[misc, valid-type]
    """Passes the time instead of waiting."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise NothingLeftError("nothing is left to do, and nobody will ever do anything")
        self.loop.clock += timeout
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer.

    Attributes:
        clock: Seconds, monotonic.
        slept: Seconds that only the wall clock has counted, as on a machine that slept.
        network: Who answers when something is dialled.
    """

    def __init__(self, network: Network) -> None:
        selector = _Selector()
        selector.loop = self
        self.clock = 1000.0
        self.slept = 0.0
        self.network = network
        super().__init__(selector)

    def time(self) -> float:
        return self.clock

    def wall(self) -> float:
        return EPOCH + self.clock + self.slept

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:
        return self.call_soon(callback, *args, context=context)  # there is one thread only

    async def create_connection(self, protocol_factory: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.network.connect(self, protocol_factory)


class Peer(Protocol):
    """The far end of a connection."""

    def receive(self, data: bytes) -> None:
        """Gets bytes; none at all means the end."""

    def lost(self) -> None:
        """The connection is gone."""


class Wire(asyncio.Transport):
    """A connection in memory; the client's protocol on one side, a `Peer` on the other."""

    def __init__(self, loop: VirtualLoop, protocol: Any) -> None:
        super().__init__()
        self.loop = loop
        self.protocol = protocol
        self.peer: Peer | None = None
        self.opened_at = loop.time()
        self.dead = False  # nothing passes, nobody is told
        self._closing = self._gone = False
        self._to_peer = bytearray()
        self._to_client = bytearray()
        self._peer_timer: asyncio.Handle | None = None
        self._client_timer: asyncio.Handle | None = None

    # -- what the client's side calls ---

    def write(self, data: Any) -> None:
        if not self._closing and not self.dead:
            self._to_peer += data
            if self._peer_timer is None:
                self._peer_timer = self.loop.call_later(LATENCY, self._arrive_at_peer)

    def _arrive_at_peer(self) -> None:
        self._peer_timer = None
        data = bytes(self._to_peer)
        self._to_peer.clear()
        if not self.dead and not self._gone and self.peer is not None:
            self.peer.receive(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.close()

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self.loop.call_soon(self.cut, None)

    def abort(self) -> None:
        self._closing = True
        self.loop.call_soon(self.cut, None)

    def pause_reading(self) -> None:
        raise AssertionError("the reader must never be paused: pings would go unanswered")

    def resume_reading(self) -> None: ...

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    # -- what the far end and the world call ---

    def send(self, data: bytes) -> None:
        """Sends bytes to the client."""
        if not self.dead:
            self._to_client += data
            if self._client_timer is None:
                self._client_timer = self.loop.call_later(LATENCY, self._arrive_at_client)

    def _arrive_at_client(self) -> None:
        self._client_timer = None
        data = bytes(self._to_client)
        self._to_client.clear()
        if not self.dead and not self._gone:
            self.protocol.data_received(data)

    def end(self) -> None:
        """Ends the connection in order, after what was sent."""
        self.loop.call_later(2 * LATENCY, self.cut, None)

    def cut(self, exc: Exception | None) -> None:
        """Ends the connection at once, for both sides."""
        if not self._gone:
            self._gone = self._closing = True
            for timer in (self._peer_timer, self._client_timer):
                if timer is not None:
                    timer.cancel()
            if self.peer is not None:
                self.peer.lost()
            self.protocol.connection_lost(exc)

    def reset(self) -> None:
        """An RST, such as a NAT box or a crashed process sends."""
        self.cut(ConnectionResetError("reset"))


class Network:
    """Connects clients to peers, or not.

    Attributes:
        weather: `"fine"`, `"refused"`, `"deaf"` (accepted, and then nothing), `"lost"` (no answer at all) or an HTTP
            status that handshakes get.
        dials: When each dial began.
        dialing: Dials in progress.
        most_dialing: The most that there ever were.
        wires: Connections that are open.
    """

    def __init__(self, make_peer: Callable[[Wire], Peer]) -> None:
        self.weather: str | int = "fine"
        self.make_peer = make_peer
        self.dials: list[float] = []
        self.dialing = self.most_dialing = 0
        self.wires: list[Wire] = []

    async def connect(self, loop: VirtualLoop, protocol_factory: Any) -> tuple[Wire, Any]:
        await pause(LATENCY)
        if self.weather == "refused":
            raise ConnectionRefusedError("refused")
        if self.weather == "lost":
            await loop.create_future()
        protocol = protocol_factory()
        wire = Wire(loop, protocol)
        wire.peer = self.make_peer(wire)
        wire.dead = self.weather == "deaf"
        self.wires.append(wire)
        protocol.connection_made(wire)
        return wire, protocol

    def forget(self, wire: Wire) -> None:
        if wire in self.wires:
            self.wires.remove(wire)

    def count_dials(self, monkeypatch: pytest.MonkeyPatch, loop: VirtualLoop) -> None:
        """Counts whole dials, handshake included, wherever they end."""
        from langchain_ws_responses._transport import pool

        real = pool.dial

        async def counted(*args: Any, **kwargs: Any) -> Any:
            self.dials.append(loop.time())
            self.dialing += 1
            self.most_dialing = max(self.most_dialing, self.dialing)
            try:
                return await real(*args, **kwargs)
            finally:
                self.dialing -= 1

        monkeypatch.setattr(pool, "dial", counted)


class OneThread:
    """Stands in for the I/O thread: the callers' loop is the only one."""

    alive = True

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def call(self, callback: Callable[..., Any], *args: Any) -> None:
        self._loop.call_soon(callback, *args)

    def now(self) -> float:
        return self._loop.time()

    def inside(self) -> bool:
        return True

    def at_exit(self, callback: Any) -> None: ...

    def in_child(self, callback: Any) -> None: ...

    def at_loss(self, callback: Any) -> None: ...


async def pause(seconds: float) -> None:
    """Lets virtual time pass."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    timer = loop.call_later(seconds, done.set_result, None)
    try:
        await done
    finally:
        timer.cancel()


class World:
    """A loop, its network, and every clock of the package set to it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, network: Network, seed: int) -> None:
        self.network = network
        self.loop = loop = VirtualLoop(network)
        self.random = random.Random(seed)  # noqa: S311 - no secret
        random.seed(seed)  # back-off and breaker draw from the module's own
        self.errors: list[Mapping[str, Any]] = []
        loop.set_exception_handler(lambda _, context: self.errors.append(context))
        clocks = SimpleNamespace(time=loop.wall, monotonic=loop.time, sleep=None)
        for module in (connection, framing, liveness, tenacity):
            monkeypatch.setattr(module, "time", clocks)
        monkeypatch.setattr(manager, "runtime", lambda: one_thread)
        one_thread = OneThread(loop)
        network.count_dials(monkeypatch, loop)

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs to the end, and checks that nothing is left behind."""
        asyncio.set_event_loop(self.loop)
        try:
            result = self.loop.run_until_complete(main)
            left = [task for task in asyncio.all_tasks(self.loop) if not task.done()]
            assert left == [], "tasks are left over"
            assert self.errors == []
            return result
        finally:
            for task in asyncio.all_tasks(self.loop):
                task.cancel()
            asyncio.set_event_loop(None)
            self.loop.close()
