"""What the tests of the transport share: turns without a model, raw servers, a proxy, a collector of events."""

from __future__ import annotations

import json
import queue
import random
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from langchain_ws_responses._protocol.events import Frame
from langchain_ws_responses._transport.endpoint import Endpoint, endpoint_for
from langchain_ws_responses._transport.hooks import TransportEvent
from langchain_ws_responses._transport.mailbox import AsyncMailbox, SyncMailbox
from langchain_ws_responses._transport.manager import ConnectionManager
from langchain_ws_responses._transport.runtime import runtime
from langchain_ws_responses._transport.ticket import Ticket
from langchain_ws_responses._types import Failure, FailureKind

PATIENCE = 10.0
E = TypeVar("E", bound=TransportEvent)
T = TypeVar("T")


class Box(SyncMailbox):
    """A mailbox whose owner does not wait for ever."""

    def take(self, timeout: float = PATIENCE) -> list[Any]:
        items, size = self._queue.get(timeout=timeout)
        self._taken_bytes += size
        return items

    def empty(self) -> bool:
        return self._queue.empty()


@dataclass
class Outcome:
    """How a turn ended."""

    frames: list[Frame] = field(default_factory=list)
    failure: Failure | None = None

    @property
    def types(self) -> list[str]:
        return [frame.type for frame in self.frames]

    @property
    def response(self) -> dict[str, Any]:
        assert self.failure is None, self.failure
        return self.frames[-1].response

    @property
    def id(self) -> str:
        return str(self.response["id"])

    @property
    def kind(self) -> FailureKind | None:
        return None if self.failure is None else self.failure.kind


class Turn:
    """One create without a model around it."""

    def __init__(
        self,
        manager: ConnectionManager,
        endpoint: Endpoint,
        text: str = "hello",
        *,
        parent: str | None = None,
        store: bool = True,
        mailbox: Any = None,
        **more: Any,
    ) -> None:
        self.manager = manager
        self.box = Box() if mailbox is None else mailbox
        body: dict[str, Any] = {"model": "m", "input": text, "store": store}
        if parent is not None:
            body["previous_response_id"] = parent
        self.ticket = Ticket(
            endpoint, json.dumps(body).encode(), self.box, parent=parent, stored=store, keeps=store, **more
        )
        self.outcome = Outcome()

    def send(self) -> Turn:
        self.manager.submit(self.ticket)
        return self

    def next(self, timeout: float = PATIENCE) -> Any:
        """The next batch; notes what it holds."""
        items = self.box.take(timeout)
        self._note(items)
        return items

    def _note(self, items: list[Any]) -> None:
        for item in items:
            if isinstance(item, Failure):
                self.outcome.failure = item
            else:
                self.outcome.frames.append(item)

    @property
    def over(self) -> bool:
        frames = self.outcome.frames
        return self.outcome.failure is not None or bool(frames and frames[-1].kind.is_terminal)

    def end(self, timeout: float = PATIENCE) -> Outcome:
        while not self.over:
            self.next(timeout)
        return self.outcome

    async def aend(self) -> Outcome:
        assert isinstance(self.box, AsyncMailbox)
        while not self.over:
            self._note(await self.box.get())
        return self.outcome

    def until(self, event_type: str) -> Turn:
        while event_type not in self.outcome.types:
            assert not self.over, self.outcome
            self.next()
        return self


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - the same at each run


def endpoint_of(server: Any, credential: Any = "sk-kit", **more: Any) -> Endpoint:
    return endpoint_for(url=server.websocket_url, credential=credential, **more)


def run(manager: ConnectionManager, endpoint: Endpoint, text: str = "hello", **more: Any) -> Outcome:
    return Turn(manager, endpoint, text, **more).send().end()


def on_io(work: Callable[[], T]) -> T:
    """Runs something on the I/O thread and waits for it."""
    done: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()

    def call() -> None:
        try:
            done.put((True, work()))
        except BaseException as exc:
            done.put((False, exc))

    runtime().call(call)
    fine, value = done.get(timeout=PATIENCE)
    if not fine:
        raise value
    return value  # type: ignore[no-any-return]


class Events:
    """A hook that lets a test wait for what happens."""

    def __init__(self) -> None:
        self.seen: list[TransportEvent] = []
        self._changed = threading.Condition()

    def __call__(self, event: TransportEvent) -> None:
        with self._changed:
            self.seen.append(event)
            self._changed.notify_all()

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in list(self.seen) if isinstance(event, kind)]

    def wait(self, kind: type[E], count: int = 1, timeout: float = PATIENCE) -> list[E]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.of(kind)) >= count, timeout), self.seen
        return self.of(kind)


@contextmanager
def raw_server(handler: Callable[[socket.socket], None], host: str = "127.0.0.1") -> Iterator[RawServer]:
    """A TCP server; `handler` gets each connection in a thread of its own."""
    server = RawServer(handler, host)
    try:
        yield server
    finally:
        server.close()


class RawServer:
    def __init__(self, handler: Callable[[socket.socket], None], host: str) -> None:
        self.accepted: queue.SimpleQueue[socket.socket] = queue.SimpleQueue()
        self.count = 0
        self._handler = handler
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(
            (host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
        self.host, self.port = host, self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def websocket_url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"ws://{host}:{self.port}/v1/responses"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.count += 1
                self._connections.append(connection)
                self.accepted.put(connection)
                thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError):
            self._handler(connection)

    def close(self) -> None:
        for sock in [self._listener, *self._connections]:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join(PATIENCE)


def read_head(connection: socket.socket) -> bytes:
    """Reads an HTTP head."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            break
        data += more
    return data


def deaf(connection: socket.socket) -> None:
    """Accepts, and never says a word."""
    while connection.recv(65536):
        pass


def shake_hands(connection: socket.socket) -> None:
    """Accepts an upgrade by hand."""
    from websockets.server import ServerProtocol

    protocol = ServerProtocol()
    protocol.receive_data(read_head(connection))
    [request] = protocol.events_received()
    protocol.send_response(protocol.accept(request))  # type: ignore[arg-type]
    for data in protocol.data_to_send():
        connection.sendall(data)


def mute(connection: socket.socket) -> None:
    """A WebSocket server that reads everything and answers nothing, pings neither."""
    shake_hands(connection)
    deaf(connection)


def answering(
    status: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> Callable[[socket.socket], None]:
    """Answers an upgrade with another status than 101."""

    def handler(connection: socket.socket) -> None:
        read_head(connection)
        fields = {"content-length": str(len(body)), "connection": "close", **(headers or {})}
        head = f"HTTP/1.1 {status}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in fields.items()) + "\r\n"
        connection.sendall(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)
        deaf(connection)

    return handler


class Connect:
    """The handler of a CONNECT proxy: remembers what it was asked, and tunnels to `port` of this machine."""

    def __init__(self, port: int, status: str = "200 Connection established") -> None:
        self.port, self.status = port, status
        self.targets: list[str] = []
        self.heads: list[str] = []

    def __call__(self, client: socket.socket) -> None:
        head = read_head(client).decode("latin-1")
        if not head:  # somebody only looked whether the port is open
            return
        self.heads.append(head)
        self.targets.append(head.split()[1])
        if not self.status.startswith("200"):
            client.sendall(f"HTTP/1.1 {self.status}\r\nContent-Length: 0\r\n\r\n".encode())
            return
        with socket.create_connection(("127.0.0.1", self.port)) as server:
            client.sendall(f"HTTP/1.1 {self.status}\r\n\r\n".encode())
            back = threading.Thread(target=_pipe, args=(server, client), daemon=True)
            back.start()
            _pipe(client, server)
            back.join(PATIENCE)


def _pipe(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def frame(kind: str, number: int, lane: str | None, **more: Any) -> str:
    """Writes one event of a tiny server's response."""
    response = {"id": f"resp_{number}", "object": "response", "status": "completed", "output": [], **more}
    data: dict[str, Any] = {"type": kind, "response": response}
    if lane is not None:
        data["stream_id"] = lane
    return json.dumps(data)


def answer_all(connection: Any) -> None:
    """The handler of a tiny WebSocket server that completes every create at once, echoing lanes."""
    for number, message in enumerate(connection):
        lane = json.loads(message).get("stream_id")
        for kind in ("response.created", "response.in_progress", "response.completed"):
            connection.send(frame(kind, number, lane))


@contextmanager
def websocket_server(
    handler: Callable[[Any], None] = answer_all, **options: Any
) -> Iterator[WebSocketServer]:
    """A WebSocket server of the websockets library, for what the local Responses server does not do."""
    server = WebSocketServer(handler, **options)
    try:
        yield server
    finally:
        server.close()


class WebSocketServer:
    def __init__(self, handler: Callable[[Any], None], **options: Any) -> None:
        from websockets.exceptions import ConnectionClosed
        from websockets.sync.server import serve

        self.requests: list[Any] = []

        def handle(connection: Any) -> None:
            with suppress(ConnectionClosed):
                handler(connection)

        def note(_connection: Any, request: Any) -> None:
            self.requests.append(request)

        options.setdefault("compression", None)
        options.setdefault("process_request", note)
        self.scheme = "wss" if options.get("ssl") else "ws"
        self._server = serve(handle, "127.0.0.1", 0, max_size=None, **options)
        self.port = self._server.socket.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def websocket_url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/v1/responses"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join(PATIENCE)
