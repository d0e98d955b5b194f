"""Decoding and classifying frames.

A frame is classified without parsing it: the server writes `type` first, and that is all that a caller of
`invoke` needs to know of a delta. Frames that steer the protocol are parsed: `response.created`, the terminal
events and errors.

Source: the public guide of the WebSocket mode and recordings of real traffic.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from typing import Any

from .._types import Failure, FailureKind, Phase
from .echo import Echo

__all__ = [
    "PARSED_AT_ONCE",
    "EventKind",
    "Frame",
    "FrameError",
    "created_id",
    "decode",
    "ends_of",
    "failure_from",
    "is_output",
    "lane_last",
    "names_no_lane",
    "response_id",
]


class FrameError(ValueError):
    """A frame is not a JSON object with a `type`. Never quotes the frame."""


class EventKind(Enum):
    """What a frame means to the protocol."""

    CREATED = "response.created"
    IN_PROGRESS = "response.in_progress"
    COMPLETED = "response.completed"
    FAILED = "response.failed"
    INCOMPLETE = "response.incomplete"
    ERROR = "error"
    STEER = "response.steer"
    OUTPUT = "output"
    """Any other event of a response, known to this package or not."""
    FOREIGN = "foreign"
    """A frame outside the `response.` family, such as `codex.rate_limits`: passed by."""

    is_terminal: bool
    """Whether this ends a turn."""


_TERMINAL = frozenset({EventKind.COMPLETED, EventKind.FAILED, EventKind.INCOMPLETE, EventKind.ERROR})
for _kind in EventKind:
    _kind.is_terminal = (
        _kind in _TERMINAL
    )  # noted once: an enum's hash is a call, and it is asked at each event

_KINDS = {
    kind.value: kind
    for kind in (
        EventKind.CREATED,
        EventKind.IN_PROGRESS,
        EventKind.COMPLETED,
        EventKind.FAILED,
        EventKind.INCOMPLETE,
        EventKind.ERROR,
    )
}

# How servers write an event: compact, `type` first, the lane last.
_PLAIN_HEAD = b'{"type":"'
_LANE_KEY = b'"stream_id"'
_LANE_LAST = b',"stream_id":"'
# Longer names are not in sight of the end; they are found like those that stand elsewhere.
_LONGEST_TAIL = 300
# `response.created` as servers write it; each opening quote follows `{` or `,`, so it opens a key.
_RESPONSE_ID = b',"response":{"id":"'
_PARENT_KEY = b"previous_response_id"
_PARENT_NAMED = b',"previous_response_id":"'
# Up to here a frame is parsed as fast as it is searched.
PARSED_AT_ONCE = 2048
# A quote inside a JSON string is escaped, so these patterns cannot match inside text.
_HEAD = re.compile(rb'\s*\{\s*"type"\s*:\s*"([^"\\]*)"')
# A key may end in an escaped quote and this very word: only a quote that is not escaped opens a key.
_STREAM_ID = re.compile(rb'(?<!\\)"stream_id"\s*:\s*("(?:[^"\\]*)"|null)?')
# Response headers that could carry a credential into a log or a pickle.
_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization", "set-cookie"})


def _kind_of(event_type: str) -> EventKind:
    kind = _KINDS.get(event_type)
    if kind is not None:
        return kind
    if event_type.startswith("response.steer"):
        return EventKind.STEER
    return EventKind.OUTPUT if event_type.startswith("response.") else EventKind.FOREIGN


_ECHO = Echo()

# What the names of types mean, by their bytes. Servers choose the names: neither many nor long ones are kept.
_types: dict[bytes, tuple[str, EventKind]] = {}
_MOST_TYPES, _LONGEST_TYPE = 512, 100


def _type_of(name: bytes) -> tuple[str, EventKind]:
    known = _types.get(name)
    if known is None:
        text = name.decode("utf-8", "replace")
        known = text, _kind_of(text)
        if len(_types) < _MOST_TYPES and len(name) <= _LONGEST_TYPE:
            _types[name] = known
    return known


class Frame:
    """One frame from the server.

    Attributes:
        kind: What it means to the protocol.
        type: The event's `type`.
        stream_id: The lane that it names, or None.
        raw: The frame as it came.
    """

    __slots__ = ("_data", "_loads", "kind", "raw", "stream_id", "type")

    def __init__(
        self,
        event_type: str,
        stream_id: str | None,
        raw: bytes,
        loads: Callable[[bytes], Any],
        data: dict[str, Any] | None = None,
        kind: EventKind | None = None,
    ) -> None:
        self.kind = kind or _kind_of(event_type)
        self.type = event_type
        self.stream_id = stream_id
        self.raw = raw
        self._loads = loads
        self._data = data

    def __repr__(self) -> str:
        return f"<Frame {self.type} {len(self.raw)} bytes>"

    @property
    def data(self) -> dict[str, Any]:
        """The parsed frame; parsed once. In a long terminal event the response's `tools` may be missing.

        Raises:
            FrameError: The frame is not a JSON object.
        """
        if self._data is None:
            loads = self._loads
            if self.kind.is_terminal and len(self.raw) > PARSED_AT_ONCE:
                loads = partial(_ECHO.parse, loads=loads)
            self._data = _parse(self.raw, loads)
        return self._data

    @property
    def response(self) -> dict[str, Any]:
        """The `response` object of the event; empty where there is none."""
        value = self.data.get("response")
        return value if isinstance(value, dict) else {}


def _parse(raw: bytes, loads: Callable[[bytes], Any]) -> dict[str, Any]:
    data, readable = None, True
    try:
        data = loads(raw)
    except (ValueError, RecursionError):
        # The exception of the parser holds the text: it must become neither cause nor context.
        readable = False
    if not readable:
        raise FrameError(f"the server sent a frame of {len(raw)} bytes that is not JSON")
    if not isinstance(data, dict) or not isinstance(data.get("type"), str):
        raise FrameError(f"the server sent a frame of {len(raw)} bytes that is not an event object")
    return data


def lane_last(raw: bytes) -> bytes | None:
    """Reads the `stream_id` of a frame that ends in it.

    Where the last key of an object says what its last brace closes, no other part of the frame matters: the
    brace is the event's own, and of two equal keys the last one counts.
    """
    if raw[-2:] != b'"}':
        return None
    at = raw.rfind(_LANE_LAST, -_LONGEST_TAIL)
    if at < 0:
        return None
    name = raw[at + len(_LANE_LAST) : -2]
    return None if b'"' in name or b"\\" in name else name


def _head_of(raw: bytes) -> tuple[bytes, int] | None:
    """The `type` of a frame that begins with it, and where it ends."""
    if raw[-1:] != b"}" and not raw.rstrip().endswith(b"}"):
        return None
    if raw.startswith(_PLAIN_HEAD):
        end = raw.find(b'"', len(_PLAIN_HEAD))
        name = raw[len(_PLAIN_HEAD) : end]
        if end > 0 and b"\\" not in name:
            return name, end + 1
    head = _HEAD.match(raw)
    return None if head is None else (head[1], head.end())


def _lane_named(raw: bytes, start: int) -> tuple[str | None, bool]:
    """Reads the `stream_id` of a frame without parsing it.

    Returns:
        The name or None, and whether that is certain. A nested `stream_id` (in metadata, in a tool's schema)
        names no lane; braces in text only make a certain case look uncertain.
    """
    last = lane_last(raw)
    if last is not None:
        return last.decode("utf-8", "replace"), True
    if raw.find(_LANE_KEY, start) < 0:
        return None, True
    first = _STREAM_ID.search(raw, start)
    if first is None:
        return None, True
    value = first[1]
    if value is None or value == b"null" or _STREAM_ID.search(raw, first.end()) is not None:
        return None, False
    on_top = raw.find(b"{", start, first.start()) < 0 or raw.count(b"}", first.end()) == 1
    return (value[1:-1].decode("utf-8", "replace"), True) if on_top else (None, False)


def names_no_lane(raw: bytes) -> bool:
    """Whether a frame holds no `stream_id` at all, on top or inside."""
    return _LANE_KEY not in raw


def is_output(raw: bytes) -> bool:
    """Whether a frame is surely an event with output; False also where only a closer look could tell."""
    if raw[-1:] != b"}" or not raw.startswith(_PLAIN_HEAD):
        return False
    known = _types.get(raw[len(_PLAIN_HEAD) : raw.find(b'"', len(_PLAIN_HEAD))])
    return known is not None and known[1] is EventKind.OUTPUT


def ends_of(raw: bytes) -> tuple[bytes, bytes]:
    """The type and the lane of a frame of which `is_output` and `lane_last` have been found, as they are written."""
    return raw[: raw.find(b'"', len(_PLAIN_HEAD)) + 1], raw[raw.rfind(_LANE_LAST) :]


def created_id(frame: Frame, *, parent: bool) -> tuple[str | None, bool]:
    """Reads what matters of `response.created`.

    The server echoes the whole request in it, which is not parsed where these two can be found without that:
    the id is the first key of `response`, which nothing that is nested precedes, and each
    `previous_response_id`, wherever it stands, names one.

    Args:
        frame: The frame.
        parent: Whether the turn continues a response.

    Returns:
        The id of the response, and False where the server says that it continues none although it should.

    Raises:
        FrameError: The frame is not a JSON object.
    """
    raw = frame.raw
    value = _id_at_head(raw)
    if value and (not parent or _parents_named(raw)):
        return value, True
    response = frame.response
    named = not parent or response.get("previous_response_id", "") is not None
    return _text_id(response), named


def _parents_named(raw: bytes) -> bool:
    """Whether each `previous_response_id`, on top or inside, has a text for a value."""
    at = raw.find(_PARENT_KEY)
    while at >= 0:
        if not raw.startswith(_PARENT_NAMED, max(at - 2, 0)):
            return False
        at = raw.find(_PARENT_KEY, at + len(_PARENT_KEY))
    return True


def response_id(frame: Frame) -> str | None:
    """Reads the id of the response in a terminal event, without parsing a long one.

    Whoever reads the answer parses it and drops it again. Parsed here it would wait for that as some hundred objects,
    several times as large as the frame.

    Args:
        frame: The frame.

    Returns:
        The id, or None where the event has none.

    Raises:
        FrameError: The frame is not a JSON object.
    """
    return _id_at_head(frame.raw) or _text_id(frame.response)


def _id_at_head(raw: bytes) -> str | None:
    """The response's id in a long frame that has it where servers write it; None where only parsing would tell."""
    if len(raw) <= PARSED_AT_ONCE:
        return None
    at = raw.find(_RESPONSE_ID)
    stop = raw.find(b'"', at + len(_RESPONSE_ID))
    value = raw[at + len(_RESPONSE_ID) : stop]
    plain = 0 < at < stop and raw.find(b"{", 1, at) < 0 and b"\\" not in value
    return value.decode("utf-8", "replace") if plain else None


def _text_id(response: Mapping[str, Any]) -> str | None:
    found = response.get("id")
    return found if isinstance(found, str) and found else None


def decode(raw: bytes | str, *, loads: Callable[[bytes], Any] = json.loads) -> Frame:
    """Classifies a frame, parsing it only where its head does not tell enough.

    Args:
        raw: The message as received.
        loads: The JSON parser.

    Returns:
        The frame; `Frame.data` parses it when it is asked for.

    Raises:
        FrameError: Not JSON, not an object or without a `type`. Frames that are classified by their head are
            parsed, and found to be broken, only when `Frame.data` is asked for.
    """
    if isinstance(raw, str):
        raw = raw.encode("utf-8", "surrogatepass")
    head = _head_of(raw)
    if head is not None:
        event_type, kind = _type_of(head[0])
        name, certain = _lane_named(raw, head[1])
        if certain:
            return Frame(event_type, name, raw, loads, None, kind)
    data = _parse(raw, loads)
    stream_id = data.get("stream_id")
    return Frame(data["type"], stream_id if isinstance(stream_id, str) else None, raw, loads, data)


# Codes that say which HTTP status the same fault has, for `error` frames that carry none.
_STATUS_BY_WORD: dict[str, int] = {
    "invalid_request_error": 400,
    "previous_response_not_found": 400,
    "websocket_connection_limit_reached": 400,
    "websocket_stream_limit_reached": 400,
    "invalid_stream_id": 400,
    "invalid_prompt": 400,
    "context_length_exceeded": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "permission_denied": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "conflict_error": 409,
    "insufficient_quota": 429,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "requests": 429,
    "tokens": 429,
    "slow_down": 503,
    "server_is_overloaded": 503,
    "overloaded_error": 503,
    "server_error": 500,
    "api_error": 500,
    "internal_error": 500,
}


_STATUS = re.compile(r"[1-5][0-9]{2}")


def _text(value: Any) -> str | None:
    # Scalars only: the text of a deeply nested value would exceed the recursion limit.
    return str(value) if isinstance(value, (str, int, float)) else None


def _status(*values: Any) -> int | None:
    for value in values:
        if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
            return value
        if isinstance(value, str) and _STATUS.fullmatch(value):
            return int(value)
    return None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Reads how many seconds to wait from response headers in lower case.

    Source: RFC 9110 `retry-after` in seconds (its date form is ignored), and `retry-after-ms`, which OpenAI
    sends.
    """
    for name, scale in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            value = float(headers[name]) / scale
        except (KeyError, ValueError):
            continue
        if 0 <= value < float("inf"):
            return value
    return None


def failure_from(data: Mapping[str, Any], *, phase: Phase, events_seen: int, connection: str = "") -> Failure:
    """Reads an `error` frame in any of the shapes that servers send.

    Nested `{"type":"error","status":400,"error":{…}}`, flat `{"type":"error","code":…,"message":…}`, with
    `status_code` for `status`, or with no status at all: then the code or the type tells it.

    Args:
        data: The parsed frame.
        phase: How far the turn had come.
        events_seen: Events of the turn before this one.
        connection: The connection's label.
    """
    nested = data.get("error")
    error: Mapping[str, Any] = nested if isinstance(nested, Mapping) else data
    code = _text(error.get("code"))
    error_type = _text(error.get("type")) if error is not data else None
    status = _status(
        data.get("status"), data.get("status_code"), error.get("status"), error.get("status_code"), code
    )
    if status is None:
        status = _STATUS_BY_WORD.get(code or "") or _STATUS_BY_WORD.get(error_type or "")
    raw_headers = data.get("headers") or error.get("headers")
    headers = (
        {
            str(name).lower(): str(value)
            for name, value in raw_headers.items()
            if isinstance(value, (str, int, float)) and str(name).lower() not in _SECRET_HEADERS
        }
        if isinstance(raw_headers, Mapping)
        else {}
    )
    message = _text(error.get("message")) or (nested if isinstance(nested, str) else "")
    return Failure(
        FailureKind.SERVER_ERROR,
        phase=phase,
        message=message or f"The server sent an error event ({code or 'without a code'}).",
        code=code,
        param=_text(error.get("param")),
        error_type=error_type,
        status=status,
        headers=headers,
        retry_after=retry_after(headers),
        events_seen=events_seen,
        connection=connection,
    )
