"""One WebSocket: the handshake, frames in, lanes, steering, events out."""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Mapping
from typing import Any

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from langchain_ws_responses import _json
from langchain_ws_responses.testing._engine import Engine, Lost, Turn, steer_failed
from langchain_ws_responses.testing._events import ApiError, Event, error_body, error_frame, new_id
from langchain_ws_responses.testing._http import as_api_error, check_key
from langchain_ws_responses.testing._records import (
    RecordedConnection,
    RecordedHandshake,
    RecordedRequest,
)
from langchain_ws_responses.testing._script import ErrorAnswer
from langchain_ws_responses.testing._state import LaneQueue, Memory, check_lane_name, input_items
from langchain_ws_responses.testing._stream import Stream, parse_json

__all__ = ["WebSocketPeer", "wants_upgrade"]

# The library logs handshake headers, and with them the key, at DEBUG. This logger reaches no handler.
_SILENT = logging.Logger("langchain_ws_responses.testing", logging.CRITICAL + 1)
_CLOSE_GRACE = 1.0


def wants_upgrade(head: bytes) -> bool:
    """Says whether a request head asks for a WebSocket."""
    lines = head.partition(b"\r\n\r\n")[0].lower().split(b"\r\n")[1:]
    return any(line.startswith(b"upgrade:") and b"websocket" in line for line in lines)


class WebSocketPeer:
    """A client on a WebSocket.

    Args:
        engine: The server's engine.
        stream: The connection.
    """

    def __init__(self, engine: Engine, stream: Stream) -> None:
        self._engine = engine
        self._stream = stream
        # No extensions are offered: a permessage-deflate offer is answered without it.
        self._protocol = ServerProtocol(max_size=engine.config.max_message_size, logger=_SILENT)
        self._memory = Memory()
        self._queue: LaneQueue[Turn] = LaneQueue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._parts: list[bytes] = []
        self._closing = False
        self.done = asyncio.Event()
        self._headers: Mapping[str, str] = {}
        self.record: RecordedConnection | None = None

    @property
    def memory(self) -> Memory:
        """What this connection remembers."""
        return self._memory

    # -- life

    async def run(self, head: bytes) -> None:
        """Shakes hands and serves the connection until it is closed."""
        self._protocol.receive_data(head)
        if not await self._handshake():
            return
        try:
            await self._serve()
        finally:
            await self._closed()

    async def _handshake(self) -> bool:
        engine = self._engine
        request = next((e for e in self._protocol.events_received() if isinstance(e, Request)), None)
        if request is None:
            return False
        self._headers = {name.lower(): value for name, value in request.headers.raw_items()}
        try:
            await self.admit(request.path, self._headers)
        except ApiError as error:
            self._shook(request.path, error.status)
            await self._refuse(error)
            return False
        response = self._protocol.accept(request)
        self._protocol.send_response(response)
        accepted = response.status_code == 101
        if accepted:
            self.record = engine.records.connection(self._headers, engine.clock(), request.path)
        self._shook(request.path, response.status_code)
        await self._flush()
        return accepted

    def _shook(self, path: str, status: int) -> None:
        name = None if self.record is None else self.record.id
        shake = RecordedHandshake(self._headers, status, path, self._engine.clock(), name)
        self._engine.records.handshakes.append(shake)
        self._engine.changed()

    async def admit(self, path: str, headers: Mapping[str, str]) -> None:
        """Refuses a handshake by raising what it is refused with.

        Raises:
            ApiError: Not here, or not with this key.
        """
        config = self._engine.config
        if config.refuse_upgrade is not None:
            status = config.refuse_upgrade
            raise ApiError(
                status, None, f"The upgrade was refused with {status}.", None, headers=config.refuse_headers
            )
        if path.partition("?")[0].rstrip("/") != "/v1/responses":
            raise ApiError(404, None, f"Invalid URL (GET {path})")
        check_key(headers, config.api_key)

    async def _refuse(self, error: ApiError) -> None:
        data = _json.dumps(error_body(error))
        try:
            phrase = http.HTTPStatus(error.status).phrase
        except ValueError:
            phrase = "Refused"
        lines = {
            "content-type": "application/json",
            "content-length": str(len(data)),
            "connection": "close",
            "x-request-id": new_id("req"),
            **(error.headers or {}),
        }
        head = f"HTTP/1.1 {error.status} {phrase}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines.items())
        await self._stream.write(head.encode("latin-1") + b"\r\n" + data)

    async def _serve(self) -> None:
        await self._take()
        while True:
            data = await self._stream.read()
            if not data:
                self._protocol.receive_eof()
                return
            # Read on after a close was sent: closing a socket on unread bytes resets it and loses the frame.
            self._protocol.receive_data(data)
            await self._take()

    async def _take(self) -> None:
        """Handles what the protocol has parsed, and answers pings and closes."""
        await self._flush()
        for event in self._protocol.events_received():
            if isinstance(event, Frame):
                await self._frame(event)
        await self._flush()

    async def _closed(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        for turn in self._queue.clear():
            turn.request.status = "dropped"
        record = self.record
        if record is not None:
            code = (
                self._protocol.close_code if self._protocol.close_rcvd or self._protocol.close_sent else 1006
            )
            record.close_code = record.close_code or code or 1006
            record.open = False
        # Only now wait: a stopping server may cancel this, too.
        try:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            self.done.set()
            self._engine.changed()

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                await self._stream.write(data)
            else:
                self._stream.half_close()
        if self._protocol.close_expected() and not self._closing:
            self._closing = True
            asyncio.get_running_loop().call_later(_CLOSE_GRACE, self._stream.abort)

    # -- frames in

    async def _frame(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.TEXT, Opcode.BINARY):
            self._parts = [bytes(frame.data)]
        elif frame.opcode is Opcode.CONT:
            self._parts.append(bytes(frame.data))
        else:
            return
        if frame.fin:
            payload, self._parts = b"".join(self._parts), []
            await self._message(payload)

    async def _message(self, payload: bytes) -> None:
        assert self.record is not None
        self.record.frames_received += 1
        self.record.bytes_received += len(payload)
        if self.expired():
            await self.expire()
        else:
            await self.message(payload)

    async def message(self, payload: bytes) -> None:
        """Handles one message of the client."""
        try:
            body = parse_json(payload)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            await self._error(ApiError(400, "invalid_json", "The frame is not a JSON object."), None)
        elif body.get("type") == "response.create":
            await self._create(body, len(payload))
        elif body.get("type") == "response.steer":
            await self._steer(body)
        else:
            message = (
                f"Invalid value: {body.get('type')!r}. Supported values: 'response.create', 'response.steer'."
            )
            await self._error(ApiError(400, "invalid_value", message, "type"), None)

    async def _create(self, body: dict[str, Any], size: int) -> None:
        engine, record = self._engine, self.record
        assert record is not None
        request = RecordedRequest("websocket", body, size, self._headers, engine.clock(), record.id)
        request.status = "error"
        lane: str | None = None
        try:
            if engine.config.lanes:
                lane = request.stream_id = check_lane_name(body.get("stream_id"))
                self._register(lane)
            elif engine.config.concurrent == "reject" and self._queue.busy:
                request.error_code = "concurrent_turn_not_supported"
                engine.record(request)
                await self.send(_concurrent())
                return
        except ApiError as error:
            request.error_code = error.code
            engine.record(request)
            await self._error(error, lane)
            return
        request.status = "queued"
        try:
            request.items = input_items(body.get("input"))
        except ApiError:
            request.items = []
        engine.record(request)
        turn = Turn(request, LaneSink(self, lane), self._memory, lane)
        self._queue.submit(lane, turn)
        self._start()

    def _register(self, lane: str | None) -> None:
        assert self.record is not None
        if lane is None or lane in self.record.lanes:
            return
        limit = self._engine.config.max_lanes
        if len(self.record.lanes) >= limit:
            message = f"This connection has used {limit} stream ids already. Open a new connection for more."
            raise ApiError(400, "websocket_stream_limit_reached", message, "stream_id")
        self.record.lanes.append(lane)

    def _start(self) -> None:
        for lane, turn in self._queue.start(self._engine.config.max_in_flight):
            task = asyncio.create_task(self._run(lane, turn))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, lane: str | None, turn: Turn) -> None:
        try:
            await self._engine.run(turn)
        except Lost:
            return
        except Exception as exc:
            # A defect of the server must fail the test that met it, not vanish in a task.
            self._engine.failures.append(exc)
            self.reset()
        finally:
            self._queue.finish(lane)
        self._start()

    async def _steer(self, body: dict[str, Any]) -> None:
        config = self._engine.config
        if not config.lanes and config.concurrent == "reject" and self._queue.busy:
            await self.send(_concurrent())
            return
        previous, given = body.get("previous_response_id"), body.get("input")
        stub = {"previous_response_id": previous, "input": given}
        turn = next(
            (
                t
                for t in self._engine.active
                if t.memory is self._memory and t.request.response_id == previous
            ),
            None,
        )
        try:
            items = input_items(given)
        except ApiError:
            items = []
        if not items or any(i.get("role") != "user" or i.get("type", "message") != "message" for i in items):
            await self.send(steer_failed(None, "invalid_input", stub))
        elif turn is not None and turn.player is not None and turn.accepts_steering:
            steer_id = new_id("steer")
            turn.steers.append((steer_id, given))
            accepted = {"id": steer_id, "previous_response_id": previous}
            await turn.sink.send(turn.player.event("response.steer.accepted", steer=accepted))
        else:
            known = turn is not None or self._memory.find(str(previous)) is not None
            code = "response_already_completed" if known else "response_not_found"
            await self.send(steer_failed(None, code, stub))

    # -- frames out

    async def send(self, event: Event) -> None:
        """Sends one event as it is.

        Raises:
            Lost: The client is gone.
        """
        await self.send_frame(_json.dumps(event), text=True)

    async def send_frame(self, data: bytes, *, text: bool) -> None:
        """Sends one message.

        Raises:
            Lost: The client is gone.
        """
        if self._protocol.state is not State.OPEN:
            raise Lost
        if text:
            self._protocol.send_text(data)
        else:
            self._protocol.send_binary(data)
        await self._flush()

    async def _error(self, error: ApiError, lane: str | None) -> None:
        frame = error_frame(error)
        if lane is not None:
            frame["stream_id"] = lane
        await self.send(frame)

    async def close(self, code: int) -> None:
        """Starts a clean close and waits a little for the client's half."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code)
            if self.record is not None:
                self.record.close_code = code
            try:
                # A client that reads nothing must not hold up whoever closes.
                await asyncio.wait_for(self._flush(), _CLOSE_GRACE)
            except (Lost, asyncio.TimeoutError):
                self._stream.abort()

    def reset(self) -> None:
        """Cuts the connection without a word."""
        self._stream.reset()

    # -- lifetime

    def expired(self) -> bool:
        """Whether the connection is older than the service allows."""
        lifetime = self._engine.config.lifetime
        return (
            self.record is not None
            and lifetime is not None
            and self._engine.clock() - self.record.opened_at >= lifetime
        )

    async def expire(self) -> None:
        """Says that the time is up and closes, whatever is in flight."""
        lifetime = self._engine.config.lifetime or 0
        message = (
            f"Responses websocket connection limit reached ({lifetime / 60:g} minutes). "
            "Create a new websocket connection to continue."
        )
        if self._protocol.state is State.OPEN:
            try:
                await self._error(ApiError(400, "websocket_connection_limit_reached", message), None)
            except Lost:
                return
            await self.close(1000)


class LaneSink:
    """Sends a turn's events on its lane, with `stream_id` where the lane has a name."""

    def __init__(self, peer: WebSocketPeer, lane: str | None) -> None:
        self._peer = peer
        self._lane = lane

    async def send(self, event: Event) -> None:
        """Sends one event."""
        await self._peer.send(event if self._lane is None else {**event, "stream_id": self._lane})

    async def fail(self, answer: ErrorAnswer) -> None:
        """Sends an `error` frame of the wanted shape."""
        error = as_api_error(answer)
        inner = {"type": answer.type, "code": error.code, "message": error.message, "param": error.param}
        frame: Event = {"type": "error"}
        if answer.shape == "flat":
            frame.update(code=error.code, message=error.message, param=error.param)
        else:
            if answer.shape != "bare" and answer.status is not None:
                frame["status_code" if answer.shape == "status_code" else "status"] = answer.status
            frame["error"] = inner
        if answer.headers:
            frame["headers"] = dict(answer.headers)
        if self._lane is not None and answer.echo_stream_id:
            frame["stream_id"] = self._lane
        await self._peer.send(frame)

    async def raw(self, frame: str | bytes) -> None:
        """Sends one message as it is."""
        if isinstance(frame, str):
            await self._peer.send_frame(frame.encode(), text=True)
        else:
            await self._peer.send_frame(frame, text=False)

    async def drop(self, code: int | None) -> None:
        """Closes or resets the connection."""
        if code is None:
            self._peer.reset()
        else:
            await self._peer.close(code)


def _concurrent() -> Event:
    message = (
        "Responses WebSocket does not support concurrent response.create frames. "
        "Wait for the current turn to finish before sending another frame."
    )
    error = {"code": "concurrent_turn_not_supported", "message": message, "type": "invalid_request_error"}
    return {"error": error, "type": "error"}
