"""HTTP/1.1 on the local server: JSON, server-sent events, stored responses, compaction."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import h11

from langchain_ws_responses import _json
from langchain_ws_responses.testing._engine import Engine, Lost, Turn, compaction_item
from langchain_ws_responses.testing._events import (
    TERMINAL,
    ApiError,
    Event,
    error_body,
    new_id,
)
from langchain_ws_responses.testing._records import RecordedRequest
from langchain_ws_responses.testing._script import ErrorAnswer
from langchain_ws_responses.testing._state import check_items, input_items, not_found, rough_tokens
from langchain_ws_responses.testing._stream import Stream, parse_json

__all__ = ["HttpPeer", "check_key"]

_WEBSOCKET_ONLY = ("type", "stream_id", "generate")


def check_key(headers: Mapping[str, str], api_key: str | None) -> None:
    """Checks the bearer.

    Raises:
        ApiError: It is not the expected one.
    """
    if api_key is None or headers.get("authorization") == f"Bearer {api_key}":
        return
    raise ApiError(401, "invalid_api_key", "Incorrect API key provided.", None)


class HttpPeer:
    """One HTTP connection and its requests, one after another.

    Args:
        engine: The server's engine.
        stream: The connection.
    """

    def __init__(self, engine: Engine, stream: Stream) -> None:
        self._engine = engine
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=2**20)

    async def run(self, head: bytes) -> None:
        """Serves requests until the client is done; `head` was read already."""
        data = head
        while True:
            try:
                if data:
                    # An empty read would tell h11 that the client is done.
                    self._http.receive_data(data)
                    data = b""
                request, body = await self._read()
            except h11.RemoteProtocolError:
                return
            if request is None:
                return
            await self.answer(request, body)
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _read(self) -> tuple[h11.Request | None, bytes]:
        request: h11.Request | None = None
        body = bytearray()
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                if self._http.they_are_waiting_for_100_continue:
                    await self.send(h11.InformationalResponse(status_code=100, headers=[]))
                self._http.receive_data(await self._stream.read())
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return request, bytes(body)
            else:
                return None, b""

    async def answer(self, request: h11.Request, body: bytes) -> None:
        """Answers one request."""
        headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
        path = request.target.decode("latin-1").partition("?")[0].rstrip("/")
        try:
            check_key(headers, self._engine.config.api_key)
            await self._route(request.method.decode(), path, headers, body)
        except ApiError as error:
            await self.reply(error.status, error_body(error), error.headers)

    async def _route(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        base, _, rest = path.partition("/v1/responses")
        if base or not path.startswith("/v1/responses") or (rest and not rest.startswith("/")):
            raise ApiError(404, None, f"Invalid URL ({method} {path})")
        if method == "POST" and not rest:
            await self._create(headers, body)
        elif method == "POST" and rest == "/compact":
            await self._compact(headers, body)
        elif method in ("GET", "DELETE") and rest:
            response_id, _, tail = rest[1:].partition("/")
            await self._stored(method, response_id, tail)
        elif not rest and method == "GET":
            raise ApiError(
                426, None, "Upgrade to a WebSocket or use POST.", None, headers={"upgrade": "websocket"}
            )
        else:
            raise ApiError(405, "method_not_allowed", f"Not allowed to {method} on {path}")

    def _parse(self, headers: Mapping[str, str], body: bytes, kind: Any) -> RecordedRequest:
        try:
            given = parse_json(body)
        except ValueError:
            given = None
        if not isinstance(given, dict):
            raise ApiError(400, None, "We could not parse the JSON body of your request.")
        transport: Any = "sse" if given.get("stream") is True and kind == "create" else "http"
        request = RecordedRequest(transport, given, len(body), headers, self._engine.clock(), kind=kind)
        if kind == "create":
            self._engine.record(request)
        return request

    async def _create(self, headers: Mapping[str, str], body: bytes) -> None:
        request = self._parse(headers, body, "create")
        for name in _WEBSOCKET_ONLY:
            if name in request.body:
                request.status, request.error_code = "error", "unknown_parameter"
                raise ApiError(400, "unknown_parameter", f"Unknown parameter: '{name}'.", name)
        sink = SseSink(self) if request.transport == "sse" else JsonSink(self)
        await self._engine.run(Turn(request, sink))
        await sink.finish()

    async def _compact(self, headers: Mapping[str, str], body: bytes) -> None:
        engine = self._engine
        request = self._parse(headers, body, "compact")
        engine.record(request)
        request.status = "error"
        request.items = input_items(request.body.get("input"))
        previous = request.previous_response_id
        if previous is not None:
            stored = engine.store.get(previous)
            if stored is None or stored.node is None:
                raise not_found(previous)
            request.parent = stored.node
        if engine.config.compact is not None:
            status, window = engine.config.compact(request)
            request.status = "error" if status >= 400 else "completed"
            engine.changed()
            await self.reply(status, window)
            return
        check_items(request.seen, generate=False)
        kept = [
            {"id": new_id("msg"), "status": "completed", **item, "type": "message"}
            for item in request.seen
            if item.get("role") == "user" and item.get("type", "message") == "message"
        ]
        window = [*kept, compaction_item()]
        request.response_id, request.status = new_id("resp"), "completed"
        spent, made = rough_tokens(request.seen), rough_tokens(window)
        engine.changed()
        await self.reply(
            200,
            {
                "id": request.response_id,
                "object": "response.compaction",
                "created_at": engine.wall_time(),
                "output": window,
                "usage": {
                    "input_tokens": spent,
                    "input_tokens_details": {"cached_tokens": 0},
                    "output_tokens": made,
                    "output_tokens_details": {"reasoning_tokens": 0},
                    "total_tokens": spent + made,
                },
            },
        )

    async def _stored(self, method: str, response_id: str, tail: str) -> None:
        store = self._engine.store
        stored = store.get(response_id)
        if stored is None or tail not in ("", "input_items"):
            raise ApiError(404, None, f"Response with id '{response_id}' not found.")
        if method == "DELETE":
            store.remove(response_id)
            await self.reply(200, {"id": response_id, "object": "response.deleted", "deleted": True})
        elif tail:
            items = [{"id": new_id("item"), **item} for item in reversed(stored.input)]
            first, last = (items[0]["id"], items[-1]["id"]) if items else (None, None)
            page = {"object": "list", "data": items, "first_id": first, "last_id": last, "has_more": False}
            await self.reply(200, page)
        else:
            await self.reply(200, stored.response)

    # -- output

    async def send(self, event: Any) -> None:
        """Sends an event of h11."""
        await self._stream.write(self._http.send(event) or b"")

    async def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Sends a response head."""
        lines = {"x-request-id": new_id("req"), "openai-version": "2020-10-01", **headers}
        await self.send(h11.Response(status_code=status, headers=list(lines.items())))

    async def chunk(self, data: bytes) -> None:
        """Sends a part of a response body."""
        await self.send(h11.Data(data=data))

    async def end(self) -> None:
        """Ends a response body."""
        await self.send(h11.EndOfMessage())

    async def reply(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        """Sends a whole response; bytes go out as they are, anything else as JSON."""
        data = value if isinstance(value, bytes) else _json.dumps(value)
        lines = {"content-type": "application/json", "content-length": str(len(data)), **(headers or {})}
        await self.start(status, lines)
        await self.chunk(data)
        await self.end()

    async def cut(self, code: int | None) -> None:
        """Cuts the connection: a clean close with a `code`, a reset without one."""
        if code is None:
            self._stream.reset()
        else:
            self._stream.close(1.0)
        await asyncio.sleep(0)


class JsonSink:
    """Keeps the events of a turn and answers with the terminal one's response."""

    def __init__(self, peer: HttpPeer) -> None:
        self._peer = peer
        self._answered = False
        self._response: Any = None

    async def send(self, event: Event) -> None:
        """Keeps the terminal event's response."""
        if event.get("type") == "error":
            error = event.get("error")
            detail: Mapping[str, Any] = error if isinstance(error, dict) else event
            status = event.get("status") or event.get("status_code") or 500
            await self._reply(
                int(status), {"error": {k: detail.get(k) for k in ("message", "type", "param", "code")}}
            )
        elif event.get("type") in TERMINAL:
            self._response = event.get("response")

    async def _reply(self, status: int, value: Any, headers: Mapping[str, str] | None = None) -> None:
        self._answered = True
        await self._peer.reply(status, value, headers)

    async def fail(self, answer: ErrorAnswer) -> None:
        """Answers with an error body."""
        await self._reply(answer.status or 500, error_body(as_api_error(answer)), answer.headers)

    async def raw(self, frame: str | bytes) -> None:
        """Answers with `frame` as the body."""
        if not self._answered:
            await self._reply(200, frame.encode() if isinstance(frame, str) else frame)

    async def drop(self, code: int | None) -> None:
        """Cuts the connection."""
        await self._peer.cut(code)

    async def finish(self) -> None:
        """Answers, unless that was done already."""
        if not self._answered:
            await self._reply(200, self._response)


class SseSink:
    """Sends the events of a turn as server-sent events."""

    def __init__(self, peer: HttpPeer) -> None:
        self._peer = peer
        self._started = False
        self._answered = False

    async def _start(self) -> None:
        if not self._started:
            self._started = True
            kind = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
            await self._peer.start(200, kind)

    async def send(self, event: Event) -> None:
        """Sends one event."""
        await self._start()
        name = str(event.get("type", "message")).encode()
        await self._peer.chunk(b"event: " + name + b"\ndata: " + _json.dumps(event) + b"\n\n")

    async def fail(self, answer: ErrorAnswer) -> None:
        """Sends an error body, or an `error` event once the stream has begun."""
        if self._started:
            await self.send(
                {
                    "type": "error",
                    "code": answer.code,
                    "message": answer.message,
                    "param": answer.param,
                    "sequence_number": answer.after_events,
                }
            )
            return
        self._answered = True
        await self._peer.reply(answer.status or 500, error_body(as_api_error(answer)), answer.headers)

    async def raw(self, frame: str | bytes) -> None:
        """Sends `frame` as it is."""
        await self._start()
        await self._peer.chunk(frame.encode() if isinstance(frame, str) else frame)

    async def drop(self, code: int | None) -> None:
        """Cuts the connection."""
        await self._peer.cut(code)

    async def finish(self) -> None:
        """Ends the stream."""
        if not self._answered:
            await self._start()
            await self._peer.end()


def as_api_error(answer: ErrorAnswer) -> ApiError:
    """Reads an error answer as what the service would refuse with."""
    return ApiError(
        answer.status or 500, answer.code, answer.message, answer.param, answer.type or "server_error",
        answer.headers,
    )  # fmt: skip


__all__ += ["JsonSink", "Lost", "SseSink", "as_api_error"]
