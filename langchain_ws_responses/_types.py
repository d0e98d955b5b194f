"""Enums and records that every floor shares. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

__all__ = [
    "Failure",
    "FailureKind",
    "Phase",
    "Reason",
    "Replay",
    "SendMode",
]


class _Word(str, Enum):
    """A `str` enum that prints as its value (`enum.StrEnum` needs Python 3.11)."""

    def __str__(self) -> str:
        return str(self.value)


class SendMode(_Word):
    """What a create carries."""

    FULL = "full"
    DELTA = "delta"
    WARMUP = "warmup"


class Reason(_Word):
    """Why a turn was sent the way it was. Every full send has one of these."""

    CHAIN = "chain"
    """A delta: a link was proved and its response is alive."""
    FIRST_TURN = "first_turn"
    """The history has no assistant turn yet."""
    CHAIN_OFF = "chain_off"
    """The model was built with `chain="off"`."""
    NO_LINK = "no_link"
    """No assistant turn of the history carries a link."""
    BAD_LINK = "bad_link"
    """A link is malformed or its signature does not fit: forged, copied or of another secret."""
    HISTORY_CHANGED = "history_changed"
    """The messages before the link are not those that the response was made from."""
    SYSTEM_CHANGED = "system_changed"
    """Only the leading system text differs from the one that the response was made with."""
    MODEL_CHANGED = "model_changed"
    """The links belong to another model."""
    NOT_ALIVE = "not_alive"
    """With `store=False`: the response lived in the memory of a connection that is gone."""
    NOTHING_NEW = "nothing_new"
    """The history ends in the linked answer: a delta would be empty."""
    NOT_FOUND = "previous_response_not_found"
    """The server no longer has the response."""
    IGNORED = "previous_response_ignored"
    """The server answered without continuing the response that the delta named."""
    CONNECTION_LOST = "connection_lost"
    """A resend after the socket died in the middle of the turn."""
    STREAM_LIMIT = "stream_limit"
    """A resend after the server refused the lane or the connection."""
    CALLER = "caller"
    """The caller passed its own `previous_response_id`, `conversation` or input: sent as given."""
    WARM_UP = "warm_up"
    """A warm-up: nothing is generated."""


class Phase(_Word):
    """How far a turn had come."""

    CONNECT = "connect"
    """Nothing was written."""
    SENT = "sent"
    """The create was handed to the socket; no event came back."""
    CREATED = "created"
    """The server began the response; it has no output yet."""
    STREAMING = "streaming"
    """Output has arrived."""
    TERMINAL = "terminal"
    """The terminal event has arrived."""


class Replay(_Word):
    """Whether sending the turn again can do harm."""

    SAFE = "safe"
    """Nothing was generated: the server cannot have acted on the request."""
    AMBIGUOUS = "ambiguous"
    """The server may have generated an answer that nobody received."""
    UNSAFE = "unsafe"
    """Tokens were already handed to the caller."""


class FailureKind(_Word):
    """What went wrong, as one word to branch on."""

    CONFIGURATION = "configuration"
    HANDSHAKE_REJECTED = "handshake_rejected"
    DIAL_FAILED = "dial_failed"
    DIAL_TIMEOUT = "dial_timeout"
    CONNECTION_LOST = "connection_lost"
    FIRST_EVENT_TIMEOUT = "first_event_timeout"
    BETWEEN_EVENTS_TIMEOUT = "between_events_timeout"
    LEASE_TIMEOUT = "lease_timeout"
    TOO_MANY_WAITING = "too_many_waiting"
    SERVER_ERROR = "server_error"
    MESSAGE_TOO_LARGE = "message_too_large"
    BUFFER_OVERFLOW = "buffer_overflow"
    PROTOCOL_VIOLATION = "protocol_violation"
    PARENT_GONE = "parent_gone"
    """The response to continue left the connection's memory before the create was written."""
    PARENT_IGNORED = "parent_ignored"
    """`response.created` did not name the response that the create continued."""
    LANES_UNSUPPORTED = "lanes_unsupported"
    """The server turned out to have no lanes, or to refuse a second response at a time."""
    MANAGER_CLOSED = "manager_closed"


# Error types of dials that the server has no part in.
PROXY_ERROR = "proxy_error"
CERTIFICATE_ERROR = "certificate_error"


@dataclass(frozen=True)
class Failure:
    """One failed attempt at a turn, as data. Holds no header, key or payload.

    Attributes:
        kind: What went wrong.
        phase: How far the turn had come.
        message: One sentence; for `SERVER_ERROR` the server's own words.
        code: The server's error code.
        param: The request parameter that the server complains about.
        error_type: The server's error type, such as `invalid_request_error`; of a dial `PROXY_ERROR` or
            `CERTIFICATE_ERROR`, where it was one.
        status: The HTTP status of a refused handshake or of an `error` frame.
        headers: Response headers (`retry-after`, rate limits) in lower case.
        close_code: The WebSocket close code.
        retry_after: Seconds to wait, as the server asked.
        events_seen: Events of this turn that arrived before the failure.
        refused: The other side closed the connection because the request is too large for it.
        connection: The connection's label.
    """

    kind: FailureKind
    phase: Phase = Phase.CONNECT
    message: str = ""
    code: str | None = None
    param: str | None = None
    error_type: str | None = None
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    close_code: int | None = None
    retry_after: float | None = None
    events_seen: int = 0
    refused: bool = False
    connection: str = ""

    def body(self) -> dict[str, Any]:
        """Returns the `error` object as HTTP would have carried it."""
        return {"type": self.error_type, "code": self.code, "message": self.message, "param": self.param}
