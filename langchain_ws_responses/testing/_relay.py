"""The two ways through a recording endpoint: WebSocket and HTTP, each passed on as it is and written down."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import h11
from websockets.exceptions import ConnectionClosed

from langchain_ws_responses import _json
from langchain_ws_responses._protocol.limits import Limits
from langchain_ws_responses._transport.dial import Socket, default_ssl_context, dial, endpoint_for
from langchain_ws_responses._transport.line import Line
from langchain_ws_responses._transport.proxy import check_proxy, environment_proxy
from langchain_ws_responses._transport.retry import Failed
from langchain_ws_responses._transport.tunnel import open_tunnel
from langchain_ws_responses.errors import ConfigurationError
from langchain_ws_responses.testing._engine import Engine, Lost
from langchain_ws_responses.testing._events import TERMINAL, ApiError, error_body
from langchain_ws_responses.testing._http import HttpPeer
from langchain_ws_responses.testing._records import RecordedRequest
from langchain_ws_responses.testing._stream import Stream, parse_json
from langchain_ws_responses.testing._tape import Take, Tape
from langchain_ws_responses.testing._websocket import WebSocketPeer

__all__ = ["HttpRelay", "SocketRelay", "Upstream"]

_READ = 2**16
_CONNECT_SECONDS = 15.0
# Of one hop, or written anew for the next one.
_HOP = frozenset(
    {
        "accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "proxy-authorization",
        "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
_PATHS = {"/responses": "create", "/responses/compact": "compact"}


@dataclass(frozen=True)
class Upstream:
    """The real endpoint.

    Attributes:
        base_url: Its base URL.
        api_key: Replaces the client's key; `None` passes that on.
        ssl_context: For TLS; the default context otherwise.
    """

    base_url: str
    api_key: str | None = None
    ssl_context: ssl.SSLContext | None = None

    def headers(self, given: Mapping[str, str]) -> dict[str, str]:
        """The headers that are passed on."""
        kept = {
            name: value
            for name, value in given.items()
            if name.lower() not in _HOP and not name.lower().startswith("sec-websocket-")
        }
        if self.api_key is not None:
            kept = {name: value for name, value in kept.items() if name.lower() != "authorization"}
            kept["authorization"] = f"Bearer {self.api_key}"
        return kept

    async def socket(self, path: str, headers: Mapping[str, str]) -> Socket:
        """Opens a WebSocket to it.

        Raises:
            ApiError: It was refused, or cannot be reached.
        """
        _, mark, query = path.partition("?")
        url = f"{self.base_url}/responses{mark}{query}"
        passed = {
            name: value for name, value in self.headers(headers).items() if name.lower() != "user-agent"
        }
        try:
            endpoint = endpoint_for(url=url, credential="none", headers=passed)
            return await dial(endpoint, limits=Limits(), ssl_context=self.ssl_context, proxy=None)
        except ConfigurationError as exc:
            raise ApiError(502, "upstream_failed", str(exc)) from None
        except Failed as exc:
            failure = exc.failure
            wait = {name: value for name, value in failure.headers.items() if name.startswith("retry-after")}
            message = failure.message or "The upstream cannot be reached."
            raise ApiError(failure.status or 502, failure.code, message, headers=wait) from None

    @contextlib.asynccontextmanager
    async def exchange(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes
    ) -> AsyncIterator[tuple[h11.Response, AsyncIterator[bytes]]]:
        """Sends one HTTP request; gives the head of the answer and its body in pieces.

        Raises:
            OSError: It cannot be reached, or hung up.
        """
        parts = urlsplit(self.base_url)
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**20)
        reader, writer = await asyncio.wait_for(self._connect(), _CONNECT_SECONDS)
        try:
            fields = {
                **self.headers(headers), "host": parts.netloc, "connection": "close",
                "accept-encoding": "identity", "content-length": str(len(body)),
            }  # fmt: skip
            request = h11.Request(method=method, target=parts.path + path, headers=list(fields.items()))
            for event in (request, h11.Data(data=body), h11.EndOfMessage()):
                writer.write(http.send(event) or b"")
            await writer.drain()
            head = await _next_event(http, reader)
            while isinstance(head, h11.InformationalResponse):
                head = await _next_event(http, reader)
            if not isinstance(head, h11.Response):
                raise ConnectionResetError("the upstream gave no answer")
            yield head, _body(http, reader)
        finally:
            # Nothing more is expected either way, and a close in order would take its time over TLS.
            writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        parts = urlsplit(self.base_url)
        host, secure = parts.hostname or "", parts.scheme == "https"
        options: dict[str, Any] = {}
        if secure:
            context = self.ssl_context or await asyncio.to_thread(default_ssl_context)
            options = {"ssl": context, "server_hostname": host}
        target = f"ws{'s' if secure else ''}://{parts.netloc}"
        proxy = environment_proxy(target)
        if proxy is not None:
            checked = check_proxy(proxy)
            if checked.scheme != "http":
                raise OSError(f"a recording goes through http proxies only, not {checked.scheme}")
            return await asyncio.open_connection(sock=await open_tunnel(checked, target), **options)
        return await asyncio.open_connection(host, parts.port or (443 if secure else 80), **options)


async def _next_event(http: h11.Connection, reader: asyncio.StreamReader) -> Any:
    while (event := http.next_event()) is h11.NEED_DATA:
        http.receive_data(await reader.read(_READ))
    return event


async def _body(http: h11.Connection, reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while isinstance(event := await _next_event(http, reader), h11.Data):
        yield bytes(event.data)


class HttpRelay(HttpPeer):
    """One HTTP connection of a client.

    Args:
        engine: Keeps the records.
        stream: The connection.
        upstream: Where requests go.
        tape: Where they are written down.
    """

    def __init__(self, engine: Engine, stream: Stream, upstream: Upstream, tape: Tape) -> None:
        super().__init__(engine, stream)
        self._engine = engine
        self._stream = stream
        self._upstream = upstream
        self._tape = tape

    async def answer(self, request: h11.Request, body: bytes) -> None:
        """Passes one request on, and its answer back."""
        headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
        target = request.target.decode("latin-1")
        method = request.method.decode()
        self._tape.learn(headers, target)
        if not target.startswith("/v1/"):
            error = ApiError(404, None, f"Invalid URL ({method} {target.partition('?')[0]})")
            await self.reply(error.status, error_body(error))
            return
        path = target.removeprefix("/v1")
        take = self._begin(method, path, headers, body)
        try:
            async with self._upstream.exchange(method, path, headers, body) as (head, pieces):
                await self._pass_back(head, pieces, take)
        except (OSError, asyncio.TimeoutError, h11.RemoteProtocolError) as exc:
            if take is not None:
                self._tape.end(take, lost=True)
            if self._http.our_state is not h11.SEND_RESPONSE:
                self._stream.reset()
                raise Lost from None
            message = f"The upstream cannot be reached ({type(exc).__name__})."
            await self.reply(502, error_body(ApiError(502, "upstream_failed", message)))

    def _begin(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Take | None:
        kind: Any = _PATHS.get(path.partition("?")[0].rstrip("/"))
        try:
            given = parse_json(body) if method == "POST" and kind is not None else None
        except ValueError:
            given = None
        if not isinstance(given, dict):
            return None
        transport: Any = "sse" if given.get("stream") is True and kind == "create" else "http"
        now = self._engine.clock()
        return self._tape.begin(RecordedRequest(transport, given, len(body), headers, now, kind=kind))

    async def _pass_back(self, head: h11.Response, pieces: AsyncIterator[bytes], take: Take | None) -> None:
        lines = [
            (name, value) for name, value in head.headers if name.decode() not in _HOP - {"content-length"}
        ]
        await self.send(h11.Response(status_code=head.status_code, headers=lines, reason=head.reason))
        names = {name.decode(): value.decode("latin-1") for name, value in head.headers}
        streamed = names.get("content-type", "").startswith("text/event-stream")
        if take is not None:
            self._tape.head(take, head.status_code, names)
        whole = bytearray()
        async for piece in pieces:
            # Written down before the client has it: a test may look as soon as it knows the end.
            if streamed:
                if take is not None:
                    self._tape.piece(take, piece)
                await self.chunk(piece)
            else:
                whole += piece
        if take is not None and streamed:
            self._tape.piece(take, b"\n\n")
            self._tape.end(take, lost=True)
        elif take is not None:
            self._tape.body(take, bytes(whole))
        if whole:
            await self.chunk(bytes(whole))
        await self.end()


class SocketRelay(WebSocketPeer):
    """One WebSocket of a client, with one of its own to the real endpoint.

    Args:
        engine: Keeps the records.
        stream: The connection.
        upstream: Where it leads.
        tape: Where frames are written down.
    """

    def __init__(self, engine: Engine, stream: Stream, upstream: Upstream, tape: Tape) -> None:
        super().__init__(engine, stream)
        self._engine = engine
        self._upstream = upstream
        self._tape = tape
        self._socket: Socket | None = None
        self._waiting: dict[str | None, list[Take]] = {}
        self._handed: Mapping[str, str] = {}
        self._pump: asyncio.Task[None] | None = None

    async def admit(self, path: str, headers: Mapping[str, str]) -> None:
        """Dials first: a client gets the refusal that the real endpoint gives."""
        if path.partition("?")[0].rstrip("/") != "/v1/responses":
            raise ApiError(404, None, "Invalid URL")
        self._tape.learn(headers, path)
        self._handed = headers
        self._socket = await self._upstream.socket(path, headers)

    async def run(self, head: bytes) -> None:
        """Passes frames on until one side ends."""
        try:
            await super().run(head)
        finally:
            if self._pump is not None:
                self._pump.cancel()
            if self._socket is not None:
                try:
                    await self._socket.close()
                except asyncio.CancelledError:
                    self._socket.transport.abort()
                    raise
            for take in [take for lane in self._waiting.values() for take in lane]:
                self._tape.end(take, lost=True)

    async def _serve(self) -> None:
        self._pump = asyncio.create_task(self._pass_back())
        await super()._serve()

    async def message(self, payload: bytes) -> None:
        """Passes a message of the client on."""
        assert self._socket is not None
        try:
            body = parse_json(payload)
        except ValueError:
            body = None
        if isinstance(body, dict) and body.get("type") == "response.create":
            self._begin(body, len(payload))
        elif isinstance(body, dict) and body.get("type") == "response.steer":
            self._tape.steered = True
        with contextlib.suppress(ConnectionClosed):
            # Whoever passes messages back notices that, too.
            await self._socket.send(payload.decode("utf-8", "replace"))

    def _begin(self, body: dict[str, Any], size: int) -> None:
        lane = body.get("stream_id")
        name = None if self.record is None else self.record.id
        now = self._engine.clock()
        request = RecordedRequest("websocket", body, size, self._handed, now, name, lane)
        self._waiting.setdefault(lane, []).append(self._tape.begin(request))

    async def _pass_back(self) -> None:
        assert self._socket is not None
        code: int | None = None
        try:
            line = Line(self._socket)
            while True:
                message = await line.receive()
                self._note(message)
                await self.send_frame(message, text=True)
        except Lost:
            return
        except ConnectionClosed:
            pass
        code = self._socket.close_code
        clean = code if code not in (None, 1005, 1006, 1015) else None
        for take in [take for lane in self._waiting.values() for take in lane]:
            self._tape.end(take, lost=True, code=clean)
        if code == 1005:
            await self.close(1000)
        elif clean is not None:
            await self.close(clean)
        else:
            self.reset()

    def _note(self, data: bytes) -> None:
        try:
            event = _json.loads(data)
        except ValueError:
            return
        if not isinstance(event, dict):
            return
        lane = event.get("stream_id")
        waiting = self._waiting.get(lane) or (self._oldest() if lane is None else None)
        if not waiting:
            return
        self._tape.event(waiting[0], event)
        if event.get("type") in TERMINAL:
            self._tape.end(waiting.pop(0))

    def _oldest(self) -> list[Take] | None:
        """The lane that waits longest: what a server without lanes answers first."""
        lanes = [lane for lane in self._waiting.values() if lane]
        return min(lanes, key=lambda lane: lane[0].request.at) if lanes else None
