"""The errors of this package.

    WebSocketResponsesError             openai.OpenAIError
    ├── ConfigurationError              + ValueError: an option, URL, header or key cannot be used
    ├── TransportError                  the socket or its surroundings failed
    │   ├── HandshakeRejected           + openai.APIStatusError and the class of its status:
    │   │   │                             401 AuthenticationError, 403 PermissionDeniedError,
    │   │   │                             404 NotFoundError, 429 RateLimitError, 5xx InternalServerError
    │   ├── DialFailed                  + openai.APIConnectionError: refused, DNS, TLS, proxy
    │   │   └── DialTimeout             + openai.APITimeoutError
    │   ├── ConnectionLost              + openai.APIConnectionError: the socket died in the middle of a turn
    │   ├── TurnTimeout                 + openai.APITimeoutError: no first or no next event in time
    │   ├── LeaseTimeout                + openai.APITimeoutError: no lane became free in time
    │   ├── TooManyWaiting              + openai.APIConnectionError: the queue for lanes is full
    │   ├── MessageTooLarge             + openai.APIConnectionError: a frame above the limit
    │   ├── BufferOverflow              + openai.APIConnectionError: the consumer was too slow
    │   ├── ProtocolViolation           + openai.APIConnectionError: the peer broke the protocol
    │   └── ManagerClosed               + openai.APIConnectionError
    └── ServerEventError                + openai.APIError and the class of its status: an `error` event,
                                          400 BadRequestError, 401, 403, 404, 409 ConflictError,
                                          422 UnprocessableEntityError, 429 RateLimitError, 5xx,
                                          another 4xx APIStatusError

Every error has fields to branch on: `code`, `param`, `status_code`, `replay`, `phase`, `close_code`,
`events_seen`. No message, argument or cause holds a header, a key or a payload.
An async stream that outwaits the model's `stream_chunk_timeout` raises a `TransportError` that is langchain_openai's
`StreamChunkTimeoutError` and, as over HTTP, no error of `openai`'s API.
LangChain raises some of its own subclasses of `openai.*` in their place and keeps these as `__cause__`:
`failure_of` finds them.
"""

from __future__ import annotations

from typing import Any

import openai

from ._types import CERTIFICATE_ERROR, PROXY_ERROR, Failure, FailureKind, Phase, Replay

__all__ = [
    "BufferOverflow",
    "ConfigurationError",
    "ConnectionLost",
    "DialFailed",
    "DialTimeout",
    "HandshakeRejected",
    "LeaseTimeout",
    "ManagerClosed",
    "MessageTooLarge",
    "ProtocolViolation",
    "ServerEventError",
    "TooManyWaiting",
    "TransportError",
    "TurnTimeout",
    "WebSocketResponsesError",
    "failure_of",
]

# The request that HTTP's error classes ask for. The address is a placeholder: the real one may hold a secret
# query.
_ADDRESS = "wss://responses.invalid/v1/responses"


def _request() -> Any:
    # Newer releases of openai stand on httpx2, older ones on httpx.
    try:
        import httpx2 as http
    except ModuleNotFoundError:
        import httpx as http  # type: ignore[no-redef,unused-ignore]
    return http.Request("POST", _ADDRESS)


def http_response(status: int, headers: dict[str, str], body: bytes = b"") -> Any:
    """Makes the response over HTTP that `openai` and LangChain look for on an error."""
    try:
        import httpx2 as http
    except ModuleNotFoundError:
        import httpx as http  # type: ignore[no-redef,unused-ignore]
    # The response refuses what is not ASCII.
    plain = {name: value for name, value in headers.items() if name.isascii() and value.isascii()}
    return http.Response(status, headers=plain, content=body, request=_request())


class WebSocketResponsesError(openai.OpenAIError):
    """Base of every error of this package.

    Args:
        failure: What happened, as data; a plain string stands for its message.
        replay: Whether the turn may be sent again without harm.
        advice: What to do next; ends the message.

    Attributes:
        code: The server's error code, or None.
        param: The request parameter that the server complains about, or None.
        status_code: HTTP status of the refused handshake or of the `error` event, or None.
        replay: `Replay.SAFE`, `AMBIGUOUS` or `UNSAFE`.
        phase: How far the turn had come, a `Phase`.
        close_code: WebSocket close code, or None.
        events_seen: Events of the turn that arrived before the failure.
        failure: The whole record.
    """

    kind: FailureKind = FailureKind.CONFIGURATION
    message: str

    def __init__(self, failure: Failure | str, *, replay: Replay = Replay.SAFE, advice: str = "") -> None:
        record = Failure(self.kind, message=failure) if isinstance(failure, str) else failure
        message = " ".join(part for part in (record.message.strip(), advice) if part)
        self._init_parent(message, record)
        self.args = (message,)
        self.message = message
        self.failure = record
        self.advice = advice
        self.code: str | None = record.code
        self.param: str | None = record.param
        self.status_code: int | None = record.status
        self.replay = replay
        self.phase: Phase = record.phase
        self.close_code = record.close_code
        self.events_seen = record.events_seen

    def _init_parent(self, message: str, record: Failure) -> None:
        """Calls the constructor of the `openai` class that this error also is."""
        # `Any`: mypy takes a class that is both this one and an `openai` one for impossible.
        error: Any = self
        if isinstance(error, openai.APIStatusError):
            response = http_response(record.status or 400, record.headers)
            openai.APIStatusError.__init__(error, message, response=response, body=record.body())
        elif isinstance(error, openai.APIError):
            openai.APIError.__init__(error, message, _request(), body=record.body())
        else:
            Exception.__init__(error, message)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.failure, self.replay, self.advice)


def _rebuild(
    cls: type[WebSocketResponsesError], failure: Failure, replay: Replay, advice: str
) -> WebSocketResponsesError:
    return cls(failure, replay=replay, advice=advice)


class ConfigurationError(WebSocketResponsesError, ValueError):
    """An option, URL, header or credential cannot be used as given; nothing was sent."""

    kind = FailureKind.CONFIGURATION


class TransportError(WebSocketResponsesError):
    """The socket or its surroundings failed."""


class HandshakeRejected(TransportError, openai.APIStatusError):
    """The server or a proxy answered the upgrade with another status than 101; nothing was sent."""

    kind = FailureKind.HANDSHAKE_REJECTED
    status_code: int


class DialFailed(TransportError, openai.APIConnectionError):
    """No connection could be made: refused, name resolution, TLS or proxy; nothing was sent."""

    kind = FailureKind.DIAL_FAILED


class DialTimeout(DialFailed, openai.APITimeoutError):
    """The connection was not ready within `Limits.connect_timeout`; nothing was sent."""

    kind = FailureKind.DIAL_TIMEOUT


class ConnectionLost(TransportError, openai.APIConnectionError):
    """The socket died before the turn's terminal event."""

    kind = FailureKind.CONNECTION_LOST


class TurnTimeout(TransportError, openai.APITimeoutError):
    """The first or the next event of a turn did not come in time."""

    kind = FailureKind.BETWEEN_EVENTS_TIMEOUT


class LeaseTimeout(TransportError, openai.APITimeoutError):
    """No lane became free within `Limits.lease_timeout`; nothing was sent."""

    kind = FailureKind.LEASE_TIMEOUT


class TooManyWaiting(TransportError, openai.APIConnectionError):
    """`Limits.max_waiting` turns wait for a lane already; nothing was sent."""

    kind = FailureKind.TOO_MANY_WAITING


class MessageTooLarge(TransportError, openai.APIConnectionError):
    """A frame was above the size limit of this client or of the server (close code 1009)."""

    kind = FailureKind.MESSAGE_TOO_LARGE


class BufferOverflow(TransportError, openai.APIConnectionError):
    """Events came faster than the caller took them, beyond `Limits.max_lane_bytes` or `max_total_bytes`."""

    kind = FailureKind.BUFFER_OVERFLOW


class ProtocolViolation(TransportError, openai.APIConnectionError):
    """The peer sent something that the protocol does not allow, such as a frame that is not JSON."""

    kind = FailureKind.PROTOCOL_VIOLATION


class ManagerClosed(TransportError, openai.APIConnectionError):
    """The `ConnectionManager` was closed before the turn ended."""

    kind = FailureKind.MANAGER_CLOSED


class ServerEventError(WebSocketResponsesError, openai.APIError):
    """The server sent an `error` event."""

    kind = FailureKind.SERVER_ERROR


_BY_STATUS: dict[int, type[openai.APIStatusError]] = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
}


def _with_status(base: type[WebSocketResponsesError]) -> dict[int, type[WebSocketResponsesError]]:
    """Makes one subclass of `base` per HTTP status, also of the class that HTTP would have raised."""
    made = {}
    for status, parent in _BY_STATUS.items():
        name = base.__name__ + parent.__name__.removesuffix("Error")
        made[status] = type(name, (base, parent), {"__doc__": base.__doc__, "__module__": __name__})
        globals()[name] = made[status]  # found again by pickle
    return made


class ServerEventErrorAPIStatus(ServerEventError, openai.APIStatusError):
    """The server sent an `error` event with a 4xx status that has no class of its own."""

    status_code: int


_HANDSHAKE = _with_status(HandshakeRejected)
_SERVER_EVENT = _with_status(ServerEventError)

_BY_KIND: dict[FailureKind, type[WebSocketResponsesError]] = {
    FailureKind.CONFIGURATION: ConfigurationError,
    FailureKind.HANDSHAKE_REJECTED: HandshakeRejected,
    FailureKind.DIAL_FAILED: DialFailed,
    FailureKind.DIAL_TIMEOUT: DialTimeout,
    FailureKind.CONNECTION_LOST: ConnectionLost,
    FailureKind.FIRST_EVENT_TIMEOUT: TurnTimeout,
    FailureKind.BETWEEN_EVENTS_TIMEOUT: TurnTimeout,
    FailureKind.LEASE_TIMEOUT: LeaseTimeout,
    FailureKind.TOO_MANY_WAITING: TooManyWaiting,
    FailureKind.SERVER_ERROR: ServerEventError,
    FailureKind.MESSAGE_TOO_LARGE: MessageTooLarge,
    FailureKind.BUFFER_OVERFLOW: BufferOverflow,
    FailureKind.PROTOCOL_VIOLATION: ProtocolViolation,
    FailureKind.PARENT_GONE: ConnectionLost,
    FailureKind.PARENT_IGNORED: ProtocolViolation,
    FailureKind.LANES_UNSUPPORTED: ProtocolViolation,
    FailureKind.MANAGER_CLOSED: ManagerClosed,
}

_ADVICE: dict[FailureKind, str] = {
    FailureKind.DIAL_FAILED: "Check the network, the proxy and `base_url`.",
    FailureKind.DIAL_TIMEOUT: "Check the network and the proxy, or raise `Limits(connect_timeout=…)`.",
    FailureKind.CONNECTION_LOST: "Call again to repeat the turn.",
    FailureKind.FIRST_EVENT_TIMEOUT: (
        "Raise `timeout` on the model or `Limits(first_event_timeout=…)` if the model needs longer."
    ),
    FailureKind.BETWEEN_EVENTS_TIMEOUT: (
        "Raise `timeout` on the model or `Limits(between_events_timeout=…)` if the model needs longer."
    ),
    FailureKind.LEASE_TIMEOUT: (
        "Raise `Limits(max_connections=…)` or `Limits(lease_timeout=…)`, or send fewer turns at a time."
    ),
    FailureKind.TOO_MANY_WAITING: "Raise `Limits(max_waiting=…)`, or send fewer turns at a time.",
    FailureKind.MESSAGE_TOO_LARGE: 'Send less, or use `transport="http"` for this request.',
    FailureKind.BUFFER_OVERFLOW: "Read the stream faster, or raise `Limits(max_lane_bytes=…)`.",
    FailureKind.PROTOCOL_VIOLATION: (
        'Check that `base_url` offers the WebSocket mode of the Responses API, or use `transport="http"`.'
    ),
    FailureKind.PARENT_GONE: "Call again: the turn is then sent in full.",
    FailureKind.PARENT_IGNORED: 'Call again, or use `chain="off"` with this server.',
    FailureKind.LANES_UNSUPPORTED: "Call again: the connection now sends one response at a time.",
    FailureKind.MANAGER_CLOSED: "Use a model with an open `ConnectionManager`.",
}

_HANDSHAKE_ADVICE: dict[int, str] = {
    401: "Check the API key.",
    403: "Check that the key, organization and project may use this endpoint.",
    404: (
        "This endpoint has no WebSocket mode at that path: check `base_url`, "
        'or use `transport="auto"` or `"http"`.'
    ),
    407: "The proxy wants credentials: put them into the proxy URL.",
    426: 'The WebSocket mode is not offered here: use `transport="auto"` or `"http"`.',
    429: "Wait as `retry-after` says, or open fewer connections.",
}

_PROXY_ADVICE = (
    "Ask who runs the proxy to allow CONNECT to this host and port, or name the host in NO_PROXY if it can be reached "
    "without."
)
_CERTIFICATE_ADVICE = (
    "If TLS is inspected on the way or the server has a private authority, set SSL_CERT_FILE to a file with its "
    "certificates; a wrong host name or an expired certificate is for the server's owner to mend."
)

_SERVER_ADVICE: dict[str | int, str] = {
    "context_length_exceeded": "Send fewer or shorter messages.",
    "insufficient_quota": "Check the plan and the billing of the account.",
    "previous_response_not_found": "Send the whole history without `previous_response_id`.",
    401: "Check the API key.",
    403: "Check that the key, organization and project may use this model.",
    404: "Check the model name and `base_url`.",
    409: "Call again.",
    429: "Wait as `retry-after` says, or send fewer turns at a time.",
}

# Where no connection came about, the cause is seldom in the program.
DOCTOR = "Run `python -m langchain_ws_responses doctor` to look at each step."
_DIALING = (FailureKind.DIAL_FAILED, FailureKind.DIAL_TIMEOUT, FailureKind.HANDSHAKE_REJECTED)

REPLAY_TEXT: dict[Replay, str] = {
    Replay.SAFE: "No answer was generated; sending the turn again is safe.",
    Replay.AMBIGUOUS: "The server may have generated an answer that was lost, so the turn is not repeated.",
    Replay.UNSAFE: "Part of the answer was already delivered, so it was not sent again.",
}


def _server_advice(failure: Failure) -> str:
    """Says what to do about an `error` event, after its code: LangChain looks for codes in the text."""
    status = failure.status or 0
    advice = _SERVER_ADVICE.get(failure.code or "") or _SERVER_ADVICE.get(status)
    if advice is None:
        bad_request = 400 <= status < 500
        advice = "Correct the request." if bad_request else "Try again later, or ask the provider."
    known = failure.code is None or failure.code in failure.message
    return advice if known else f"(code: {failure.code}) {advice}"


def advice_for(failure: Failure) -> str:
    """Says what to do about a failure."""
    if failure.kind is FailureKind.SERVER_ERROR:
        return _server_advice(failure)
    if failure.error_type == CERTIFICATE_ERROR:
        return _CERTIFICATE_ADVICE
    if failure.kind is FailureKind.HANDSHAKE_REJECTED:
        status = failure.status or 0
        if failure.error_type == PROXY_ERROR and status != 407:
            return _PROXY_ADVICE
        if status in _HANDSHAKE_ADVICE:
            return _HANDSHAKE_ADVICE[status]
        if 300 <= status < 400:
            return (
                "Redirects are never followed, because they would carry the key away: "
                "set `base_url` to the final address."
            )
        return "Try again later." if status >= 500 else "Check `base_url` and any proxy in between."
    return _ADVICE.get(failure.kind, "")


def error_from(failure: Failure, *, replay: Replay) -> WebSocketResponsesError:
    """Makes the error that a failure is raised as.

    Args:
        failure: What happened.
        replay: Whether the turn may be sent again without harm.

    Returns:
        An instance of the class in this module's tree that fits, also an `openai.*` error.
    """
    cls = _BY_KIND[failure.kind]
    status = failure.status
    if status is not None and cls in (HandshakeRejected, ServerEventError):
        table = _HANDSHAKE if cls is HandshakeRejected else _SERVER_EVENT
        if cls is ServerEventError and 400 <= status < 500:
            cls = ServerEventErrorAPIStatus
        cls = table.get(500 if status >= 500 else status, cls)
    advice = advice_for(failure)
    if failure.kind not in (FailureKind.CONFIGURATION, FailureKind.SERVER_ERROR):
        advice = f"{REPLAY_TEXT[replay]} {advice}".strip()
    if failure.kind in _DIALING:
        advice = f"{advice} {DOCTOR}"
    return cls(failure, replay=replay, advice=advice)


def failure_of(exc: BaseException | None) -> WebSocketResponsesError | None:
    """Finds the error of this package behind an exception.

    LangChain, LangGraph and retry wrappers raise their own exceptions and keep ours as `__cause__`,
    `__context__` or as a member of an exception group.

    Args:
        exc: Any exception, or None.

    Returns:
        The nearest `WebSocketResponsesError` in the chain, or None.
    """
    seen: set[int] = set()
    queue: list[BaseException | None] = [exc]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, WebSocketResponsesError):
            return current
        queue += [current.__cause__, current.__context__]
        members = getattr(current, "exceptions", ())
        if isinstance(members, (tuple, list)):  # another library's attribute of that name may be anything
            queue += [member for member in members if isinstance(member, BaseException)]
    return None
