"""`ChaosProxy`: stands between a client and a server on this machine and does to TCP what networks do."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterable
from typing import Literal
from urllib.parse import SplitResult, urlsplit

from langchain_ws_responses.testing._links import READ, ChaosConnection, Fault, Link, Planned
from langchain_ws_responses.testing._threaded import ThreadedServer
from langchain_ws_responses.testing.server import ResponsesServer

__all__ = ["ChaosConnection", "ChaosProxy", "Fault"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")


class ChaosProxy(ThreadedServer):
    """A TCP proxy on this machine that breaks connections when it is told to.

    It runs in a daemon thread of its own. Point the client at `base_url`; every method may be called from any thread
    and takes effect before it returns. Use it as a context manager, sync or async.

    Args:
        upstream: A `ResponsesServer`, or the base URL of another server on this machine.
        faults: What happens to every connection, see `Fault`.
        host: Address to listen on, of this machine.
        port: Port to listen on; 0 takes a free one.
        refuse: Whether to begin by refusing connections.
        ssl_context: For TLS on the client's side; the server is spoken to in the clear.

    Raises:
        ValueError: `upstream` or `host` is not on this machine.

    Example:
        ```python
        with ResponsesServer() as server, ChaosProxy(server) as proxy:
            model = ChatOpenAIWebSocket(model="gpt-5.5", base_url=proxy.base_url)
            proxy.plan(Fault(kind="reset", after_frames=3), connections=1)
            model.invoke("Hello")  # survives the loss of its first connection
        ```
    """

    def __init__(
        self,
        upstream: ResponsesServer | str,
        *,
        faults: Iterable[Fault] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        refuse: bool = False,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__("chaos-proxy")
        self._given = upstream
        if self._url.hostname not in _LOOPBACK or host not in _LOOPBACK:
            raise ValueError(
                "a ChaosProxy stands between two programs on one machine: use loopback addresses"
            )
        self._secure = ssl_context is not None or self._url.scheme in ("https", "wss")
        self._path = self._url.path.rstrip("/").removesuffix("/responses")
        self._host, self._port, self._ssl = host, port, ssl_context
        self._planned = [Planned(fault, None) for fault in faults]
        self._refusing = refuse
        self._links: set[Link] = set()
        self._port_socket: socket.socket | None = None
        self._acceptor: asyncio.Task[None] | None = None
        self.connections: list[ChaosConnection] = []

    @property
    def _url(self) -> SplitResult:
        # Asked anew each time: a server has its port only once it is started.
        return urlsplit(self._given if isinstance(self._given, str) else self._given.base_url)

    def __repr__(self) -> str:
        state = f"{self._host}:{self._port}" if self._thread is not None else "stopped"
        refusing = ", refusing" if self._refusing else ""
        passed = sum(record.bytes_to_client + record.bytes_to_server for record in self.connections)
        return (
            f"<ChaosProxy [{state}{refusing} | {self.open} open, {self.dials} accepted | "
            f"{passed} bytes | {len(self._planned)} faults planned]>"
        )

    # -- addresses and counts

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def base_url(self) -> str:
        """The `base_url` for clients: the server's, with this proxy's address."""
        return f"{'https' if self._secure else 'http'}://{self._host}:{self._port}{self._path}"

    @property
    def websocket_url(self) -> str:
        """The WebSocket endpoint behind this proxy."""
        return f"{'wss' if self._secure else 'ws'}://{self._host}:{self._port}{self._path}/responses"

    @property
    def dials(self) -> int:
        """Connections accepted so far."""
        return len(self.connections)

    @property
    def open(self) -> int:
        """Connections that are open now."""
        return sum(record.open for record in self.connections)

    # -- things that happen to networks

    def plan(self, *faults: Fault, connections: int | None = None) -> None:
        """Plans faults for connections to come.

        Args:
            faults: What happens to each of them.
            connections: How many of the next connections are hit; `None` for all.
        """
        self._planned += [Planned(fault, connections) for fault in faults]

    def strike(self, *faults: Fault, connection: ChaosConnection | None = None) -> None:
        """Puts faults on open connections; their counts begin now.

        Args:
            faults: What happens.
            connection: The connection; `None` for all that are open.
        """

        async def strike() -> None:
            for link in [link for link in self._links if connection is None or link.record is connection]:
                for fault in faults:
                    link.pipes[fault.direction].arm(fault)

        self._call(strike)

    def cut(self, kind: Literal["reset", "end", "blackhole"] = "reset") -> None:
        """Loses every open connection now."""
        self.strike(Fault(kind=kind))

    def freeze(self) -> None:
        """Holds everything on every open connection up until `thaw`."""
        self.strike(Fault(kind="freeze"))

    def thaw(self) -> None:
        """Lets frozen connections go on: nothing was lost."""

        async def thaw() -> None:
            for link in self._links:
                link.thawed.set()

        self._call(thaw)

    def refuse(self) -> None:
        """Refuses new connections, as if nothing listened; open ones live on."""
        self._refusing = True
        self._call(self._listen)

    def accept(self) -> None:
        """Accepts connections again."""
        self._refusing = False
        self._call(self._listen)

    def heal(self) -> None:
        """Forgets every planned fault, ends every lasting one but a blackhole, and accepts connections."""
        self._planned.clear()
        self._refusing = False

        async def heal() -> None:
            for link in self._links:
                link.heal()
            await self._listen()

        self._call(heal)

    # -- the thread

    async def _open(self) -> None:
        await self._listen()

    async def _close(self) -> None:
        await self._close_port()
        await self._end_tasks()

    async def _listen(self) -> None:
        """Opens or closes the port; it stays ours either way."""
        if self._port_socket is not None and self._refusing == (self._acceptor is None):
            return
        await self._close_port()
        family = socket.AF_INET6 if ":" in self._host else socket.AF_INET
        # With the protocol named, asyncio switches Nagle's algorithm off on what is accepted.
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((self._host, self._port))
        except (OSError, OverflowError):
            sock.close()
            raise
        self._port, self._port_socket = sock.getsockname()[1], sock
        if not self._refusing:  # bound and not listening: the system refuses
            sock.listen(128)
            sock.setblocking(False)
            self._acceptor = asyncio.get_running_loop().create_task(self._accept(sock))

    async def _close_port(self) -> None:
        if self._acceptor is not None:
            self._acceptor.cancel()
            await asyncio.gather(self._acceptor, return_exceptions=True)
        if self._port_socket is not None:
            self._port_socket.close()
        self._acceptor = self._port_socket = None

    async def _accept(self, listener: socket.socket) -> None:
        # Not `asyncio.start_server`: it forgets a connection that comes while it closes, and logs that.
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            record = ChaosConnection(len(self.connections) + 1)
            self.connections.append(record)
            self._spawn(self._connection(record, self._faults(), sock))
            self._notify()

    def _faults(self) -> list[Fault]:
        """Takes what is planned for the next connection."""
        faults = [planned.fault for planned in self._planned]
        for planned in self._planned:
            if planned.left is not None:
                planned.left -= 1
        self._planned = [planned for planned in self._planned if planned.left != 0]
        return faults

    async def _connection(self, record: ChaosConnection, faults: list[Fault], sock: socket.socket) -> None:
        reader = asyncio.StreamReader(limit=READ)
        protocol = asyncio.StreamReaderProtocol(reader)
        # What happens at once happens before TLS: a peer that is deaf does not shake hands.
        at_once = any(fault.after_bytes is None and fault.after_frames is None for fault in faults)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: protocol, sock, ssl=None if at_once else self._ssl
            )
        except OSError:  # the client did not like our certificate, or left
            record.open = False
            self._notify()
            return
        url = self._url
        upstream = (url.hostname or "", url.port or (443 if url.scheme in ("https", "wss") else 80))
        link = Link(record, reader, asyncio.StreamWriter(transport, protocol, reader, loop), self._notify)
        self._links.add(link)
        try:
            await link.run(faults, upstream)
        finally:
            self._links.discard(link)
