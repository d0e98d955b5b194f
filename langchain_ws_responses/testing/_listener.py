"""A local server in a thread of its own: one port for WebSocket and HTTP, and a record of all that came."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from langchain_ws_responses.testing._engine import Config, Engine, Lost
from langchain_ws_responses.testing._gate import AdjustableClock, Clock
from langchain_ws_responses.testing._http import HttpPeer
from langchain_ws_responses.testing._records import (
    RecordedConnection,
    RecordedHandshake,
    RecordedRequest,
)
from langchain_ws_responses.testing._script import Answer
from langchain_ws_responses.testing._stream import Stream
from langchain_ws_responses.testing._websocket import WebSocketPeer, wants_upgrade

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["LocalServer"]

_PATIENCE = 10.0
_GRACE = 1.0
T = TypeVar("T")


class LocalServer:
    """What `ResponsesServer` and `RecordingServer` have in common.

    Args:
        config: Settings of the engine.
        script: Scripted answers.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        clock: The monotonic clock that can be moved.
    """

    def __init__(
        self, config: Config, script: Sequence[Answer], host: str, port: int, clock: Clock | None = None
    ) -> None:
        self.config = config
        if isinstance(clock, AdjustableClock):
            self.clock = clock
        else:
            self.clock = AdjustableClock() if clock is None else AdjustableClock(clock)
        self._host, self._wanted_port, self._port = host, port, 0
        self._changed = threading.Condition()
        self._engine = Engine(self.config, script, self.clock, self._notify)
        self._life = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: set[WebSocketPeer] = set()

    # -- life

    def start(self) -> Self:
        """Starts the server; does nothing when it runs.

        Raises:
            OSError: The address is in use or not ours.
        """
        with self._life:
            if self._thread is not None:
                return self
            ready = threading.Event()
            failure: list[OSError] = []
            thread = threading.Thread(
                target=self._main, args=(ready, failure), name="responses-server", daemon=True
            )
            thread.start()
            ready.wait()
            if failure:
                thread.join()
                raise failure[0]
            self._thread = thread
        return self

    def stop(self) -> None:
        """Stops the server and closes every connection; does nothing when it is stopped."""
        with self._life:
            thread, loop, stop = self._thread, self._loop, self._stop
            if thread is None or loop is None or stop is None:
                return
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            self._thread = self._loop = self._stop = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(clean=kind is None)

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._leave, clean=kind is None)

    def _leave(self, *, clean: bool) -> None:
        """Ends a `with` block; `clean` says that nothing was raised in it."""
        self.stop()

    # -- addresses and records

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def base_url(self) -> str:
        """The `base_url` for clients: `http://host:port/v1`."""
        return f"http://{self._host}:{self._port}/v1"

    @property
    def websocket_url(self) -> str:
        """The WebSocket endpoint: `ws://host:port/v1/responses`."""
        return f"ws://{self._host}:{self._port}/v1/responses"

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every create and compaction of every transport, in order of arrival."""
        return self._engine.records.requests

    @property
    def connections(self) -> list[RecordedConnection]:
        """Every accepted WebSocket, in order."""
        return self._engine.records.connections

    @property
    def handshakes(self) -> list[RecordedHandshake]:
        """Every attempt to upgrade, in order."""
        return self._engine.records.handshakes

    def wait_for(self, predicate: Callable[[], T], timeout: float = 5.0) -> T:
        """Waits until the records satisfy `predicate`, without polling.

        Args:
            predicate: Called after every change to the records.
            timeout: Seconds.

        Returns:
            The true value of `predicate`.

        Raises:
            TimeoutError: It stayed false.
        """
        with self._changed:
            if not self._changed.wait_for(predicate, timeout):
                raise TimeoutError(f"not true within {timeout:g} s: {self!r}")
            return predicate()

    def _call(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` on the server's loop and waits for it."""
        loop = self._loop
        if loop is None:
            return

        async def run() -> None:
            await work()

        asyncio.run_coroutine_threadsafe(run(), loop).result(_PATIENCE)

    # -- the thread

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _main(self, ready: threading.Event, failure: list[OSError]) -> None:
        try:
            asyncio.run(self._serve(ready))
        except OSError as exc:
            failure.append(exc)
        finally:
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, self._host, self._wanted_port)
        self._port = server.sockets[0].getsockname()[1]
        self._loop, self._stop = asyncio.get_running_loop(), stop
        ready.set()
        await stop.wait()
        server.close()
        await asyncio.gather(*(peer.close(1001) for peer in self._peers))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function: asyncio would log the cancellation of a coroutine of its own as an error.
        task = asyncio.get_running_loop().create_task(self._connection(Stream(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _http_peer(self, stream: Stream) -> HttpPeer:
        return HttpPeer(self._engine, stream)

    def _websocket_peer(self, stream: Stream) -> WebSocketPeer:
        return WebSocketPeer(self._engine, stream)

    async def _connection(self, stream: Stream) -> None:
        try:
            head = await stream.read_head()
            if wants_upgrade(head):
                await self._websocket(stream, head)
            elif head:
                await self._http_peer(stream).run(head)
        except Lost:
            pass
        except Exception as exc:
            # A defect of the server must fail the test that met it, not vanish in a thread.
            self._engine.failures.append(exc)
        except asyncio.CancelledError:
            stream.abort()
            raise
        finally:
            stream.close(_GRACE)
            await stream.wait_closed()

    async def _websocket(self, stream: Stream, head: bytes) -> None:
        peer = self._websocket_peer(stream)
        self._peers.add(peer)
        lifetime = self.config.lifetime
        timer = None
        if lifetime is not None:
            timer = asyncio.get_running_loop().call_later(lifetime, self._expire_soon)
        try:
            await peer.run(head)
        finally:
            self._peers.discard(peer)
            if timer is not None:
                timer.cancel()

    def _expire_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self._expire())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expire(self) -> None:
        for peer in list(self._peers):
            if peer.expired():
                await peer.expire()
