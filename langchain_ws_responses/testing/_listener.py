"""A local server in a thread of its own: one port for WebSocket and HTTP, and a record of all that came."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

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
from langchain_ws_responses.testing._threaded import ThreadedServer
from langchain_ws_responses.testing._websocket import WebSocketPeer, wants_upgrade

__all__ = ["LocalServer"]

_GRACE = 1.0


class LocalServer(ThreadedServer):
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
        super().__init__("responses-server")
        self.config = config
        if isinstance(clock, AdjustableClock):
            self.clock = clock
        else:
            self.clock = AdjustableClock() if clock is None else AdjustableClock(clock)
        self._host, self._wanted_port, self._port = host, port, 0
        self._engine = Engine(self.config, script, self.clock, self._notify)
        self._peers: set[WebSocketPeer] = set()

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

    # -- the thread

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, self._host, self._wanted_port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        self._server.close()
        await asyncio.gather(*(peer.close(1001) for peer in self._peers))
        await self._end_tasks()
        await self._server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function: asyncio would log the cancellation of a coroutine of its own as an error.
        self._spawn(self._connection(Stream(reader, writer)))

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
        self._spawn(self._expire())

    async def _expire(self) -> None:
        for peer in list(self._peers):
            if peer.expired():
                await peer.expire()
