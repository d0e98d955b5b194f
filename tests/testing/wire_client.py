"""A plain client for the tests of the local server: frames and HTTP, no SDK."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.sync.client import ClientConnection, connect

TERMINAL = {"response.completed", "response.failed", "response.incomplete", "error"}


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": text, **more}


def output_of(call_id: str, value: str = "42") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": value}


class Socket:
    """A WebSocket that sends creates and reads events."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    def send(self, **body: Any) -> None:
        self.connection.send(json.dumps({"type": "response.create", "model": "m", **body}))

    def recv(self) -> dict[str, Any]:
        return json.loads(self.connection.recv(timeout=10))

    def until(self, kind: str) -> dict[str, Any]:
        while True:
            event = self.recv()
            if event["type"] == kind:
                return event
            assert event["type"] not in TERMINAL, event

    def events(self) -> list[dict[str, Any]]:
        events = [self.recv()]
        while events[-1]["type"] not in TERMINAL:
            events.append(self.recv())
        return events

    def turn(self, **body: Any) -> dict[str, Any]:
        """Sends a create and returns its terminal event."""
        self.send(**body)
        return self.events()[-1]

    def say(self, **body: Any) -> dict[str, Any]:
        """Sends a create that must complete and returns its response."""
        event = self.turn(**body)
        assert event["type"] == "response.completed", event
        return event["response"]

    def refused(self, **body: Any) -> dict[str, Any]:
        """Sends a create that must be refused and returns the inner error."""
        event = self.turn(**body)
        assert event["type"] == "error", event
        return event["error"]


@contextmanager
def open_socket(server: Any, **options: Any) -> Iterator[Socket]:
    with connect(server.websocket_url, max_size=None, proxy=None, **options) as connection:
        yield Socket(connection)


def call(
    server: Any, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
        connection.request(method, path, data, headers or {})
        response = connection.getresponse()
        raw = response.read()
        names = {name.lower(): value for name, value in response.getheaders()}
        return response.status, raw if "event-stream" in names["content-type"] else json.loads(raw), names
    finally:
        connection.close()


def post(server: Any, **body: Any) -> tuple[int, Any, dict[str, str]]:
    return call(server, "POST", "/v1/responses", {"model": "m", **body})


def sse(raw: bytes) -> list[tuple[str, dict[str, Any]]]:
    events = []
    for block in raw.decode().split("\n\n"):
        if block:
            first, second = block.split("\n")
            assert first.startswith("event: ")
            assert second.startswith("data: ")
            events.append((first[7:], json.loads(second[6:])))
    return events
