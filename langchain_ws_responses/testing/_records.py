"""What the server writes down about requests, connections and handshakes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain_ws_responses.testing._describe import text_of, transcript
from langchain_ws_responses.testing._events import Item
from langchain_ws_responses.testing._state import Node

__all__ = ["RecordedConnection", "RecordedHandshake", "RecordedRequest", "Records"]

Transport = Literal["websocket", "http", "sse"]
Mode = Literal["full", "delta", "warm_up"]
Kind = Literal["create", "compact", "successor"]
Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "error", "dropped"]


@dataclass(eq=False)
class RecordedRequest:
    """One create, as it arrived and as the model saw it.

    Attributes:
        transport: `"websocket"`, `"http"` (JSON) or `"sse"`.
        body: The request as received, without any change.
        raw_bytes: Size of the payload on the wire.
        headers: Headers of the HTTP request or of the handshake, lower-case names.
        at: Time of arrival on the server's clock.
        connection: Id of the WebSocket connection, or `None`.
        stream_id: The lane, or `None` for the default lane and over HTTP.
        items: `input` as a list of items.
        kind: `"create"`, `"compact"` (`POST /responses/compact`) or `"successor"` (started by steering).
        response_id: Id of the response, once there is one.
        status: How it ended, or where it stands.
        error_code: The code of the error that ended it.
        from_memory: Whether the continued response came from the connection's memory.
        compacted: Whether server-side compaction ran.
        number: 1 for the first that the server got.
    """

    transport: Transport
    body: dict[str, Any]
    raw_bytes: int
    # Headers hold the key, and a failing assertion prints the record.
    headers: Mapping[str, str] = field(repr=False)
    at: float
    connection: str | None = None
    stream_id: str | None = None
    items: list[Item] = field(default_factory=list)
    kind: Kind = "create"
    response_id: str | None = None
    status: Status = "queued"
    error_code: str | None = None
    from_memory: bool = False
    compacted: bool = False
    number: int = 0
    parent: Node | None = field(default=None, repr=False)
    resolved: list[Item] | None = field(default=None, repr=False)

    @property
    def seen(self) -> list[Item]:
        """Everything the model saw: the chain's input and output items, then this input."""
        before = [] if self.parent is None else self.parent.context()
        return before + (self.items if self.resolved is None else self.resolved)

    @property
    def previous_response_id(self) -> str | None:
        """The response that is continued."""
        value = self.body.get("previous_response_id")
        return value if isinstance(value, str) else None

    @property
    def instructions(self) -> Any:
        """`instructions` of the body."""
        return self.body.get("instructions")

    @property
    def tools(self) -> list[Any]:
        """`tools` of the body."""
        value = self.body.get("tools")
        return value if isinstance(value, list) else []

    @property
    def model(self) -> str | None:
        """`model` of the body."""
        return self.body.get("model")

    @property
    def generate(self) -> bool:
        """Whether output was asked for; `False` for a warm-up."""
        return self.body.get("generate") is not False

    @property
    def store(self) -> bool:
        """Whether the response is kept; the service's default is `True`."""
        return self.body.get("store") is not False

    @property
    def transcript(self) -> list[str]:
        """What the model saw, a line per item: `"user: …"`, `"call: name(…)"`, `"output: …"`, `"assistant: …"`.

        Reasoning is left out: whether it is there depends on how the turn was sent.
        """
        return transcript(self.seen)

    @property
    def mode(self) -> Mode:
        """How it was sent: with everything, with what is new, or as a warm-up."""
        return "warm_up" if self.is_warm_up else "delta" if self.is_delta else "full"

    @property
    def is_delta(self) -> bool:
        """Whether it continues a response and holds only what is new."""
        return self.previous_response_id is not None

    @property
    def is_full(self) -> bool:
        """Whether it starts a chain with a generation."""
        return not self.is_delta and self.generate

    @property
    def is_warm_up(self) -> bool:
        """Whether it asked for no output (`generate: false`)."""
        return not self.generate

    @property
    def last_user_text(self) -> str | None:
        """Text of the newest user message that the model saw."""
        for item in reversed(self.seen):
            if item.get("role") == "user" and item.get("type", "message") == "message":
                return text_of(item)
        return None

    @property
    def tool_outputs(self) -> dict[str, Any]:
        """Outputs in this request's own input, by `call_id`."""
        kinds = ("function_call_output", "custom_tool_call_output")
        return {str(i.get("call_id")): i.get("output") for i in self.items if i.get("type") in kinds}


@dataclass(eq=False)
class RecordedConnection:
    """One accepted WebSocket.

    Attributes:
        id: Its name in this server's records.
        headers: Headers of the handshake, lower-case names.
        opened_at: Time of the handshake on the server's clock.
        path: Request target of the handshake, with its query.
        close_code: Code it was closed with (1006: lost without a close frame), or `None` while open.
        frames_received: Text and binary messages from the client.
        bytes_received: Their payload.
        open: Whether it is open.
        lanes: Lane names used, in order of appearance.
    """

    id: str
    headers: Mapping[str, str] = field(repr=False)
    opened_at: float
    # A query may hold a key, and a failing assertion prints the record.
    path: str = field(default="", repr=False)
    close_code: int | None = None
    frames_received: int = 0
    bytes_received: int = 0
    open: bool = True
    lanes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RecordedHandshake:
    """One attempt to upgrade.

    Attributes:
        headers: Its headers, lower-case names.
        status: The HTTP status it was answered with; 101 when accepted.
        path: Request target, with its query.
        at: Time on the server's clock.
        connection: Id of the connection, if accepted.
    """

    headers: Mapping[str, str] = field(repr=False)
    status: int
    path: str = field(repr=False)
    at: float
    connection: str | None = None


class Records:
    """Everything that came, in order.

    Attributes:
        requests: Requests.
        connections: Accepted WebSockets.
        handshakes: Attempts to upgrade.
    """

    def __init__(self) -> None:
        self.requests: list[RecordedRequest] = []
        self.connections: list[RecordedConnection] = []
        self.handshakes: list[RecordedHandshake] = []
        self._asked = self._accepted = 0

    def request(self, record: RecordedRequest) -> None:
        """Adds a request, which gets its number."""
        self._asked += 1
        record.number = self._asked
        self.requests.append(record)

    def connection(self, headers: Mapping[str, str], at: float, path: str) -> RecordedConnection:
        """Adds a connection, which gets its name."""
        self._accepted += 1
        record = RecordedConnection(f"conn_{self._accepted}", headers, at, path)
        self.connections.append(record)
        return record

    def forget(self, keep: int) -> None:
        """Drops what is over, the oldest first, where there is more than `keep` of a kind."""
        # In place, as others hold these lists; each is looked at from its beginning, where what is over stands.
        for asked in self.requests[: max(0, len(self.requests) - keep)]:
            if asked.status not in ("queued", "in_progress"):
                self.requests.remove(asked)
        for connection in self.connections[: max(0, len(self.connections) - keep)]:
            if not connection.open:
                self.connections.remove(connection)
        del self.handshakes[: max(0, len(self.handshakes) - keep)]
