"""Dialing: one attempt to open a connection, and what an answer other than 101 means.

Nothing here lets a header, key or proxy password reach a log or an exception.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import ssl
from collections.abc import Iterable, MutableMapping
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult

from websockets.asyncio.client import connect
from websockets.exceptions import (
    InvalidHandshake,
    InvalidProxy,
    InvalidStatus,
    ProxyError,
    WebSocketException,
)

from .. import _json
from .._protocol.events import retry_after
from .._protocol.limits import Limits
from .._types import CERTIFICATE_ERROR, PROXY_ERROR, Failure, FailureKind, Phase
from .._version import __version__
from ..errors import ConfigurationError
from .endpoint import (
    Endpoint,
    bearer,
    check_headers,
    endpoint_for,
    is_loopback,
    websocket_url_for,
)
from .framing import CLOSE_SECONDS, Socket
from .proxy import check_proxy, environment_proxy, proxy_url
from .retry import Failed
from .tunnel import TunnelRefused, open_tunnel

__all__ = [
    "Endpoint",
    "Socket",
    "check_headers",
    "default_ssl_context",
    "dial",
    "endpoint_for",
    "environment_proxy",
    "reason_of",
    "websocket_url_for",
]

# Header fields of an upgrade that may be shown in a DEBUG log: what is sent, and what is received where it looks so.
# An answer may say anything, even what it was asked with.
_SENT = frozenset({"host", "upgrade", "connection", "sec-websocket-version"})
_RECEIVED = {
    "upgrade": re.compile("websocket", re.IGNORECASE),
    "connection": re.compile("upgrade|close|keep-alive", re.IGNORECASE),
    "date": re.compile(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT"),
    "content-type": re.compile(
        r"(application/json|text/(html|plain|event-stream))(; ?charset=utf-8)?", re.IGNORECASE
    ),
    "content-length": re.compile(r"\d{1,12}"),
    "retry-after": re.compile(r"\d{1,6}"),
}
_PHRASES: dict[object, str] = {status.value: status.phrase for status in HTTPStatus}
_KEPT = frozenset({"retry-after", "retry-after-ms", "x-request-id", "x-should-retry"})
_WORD = re.compile(r"[A-Za-z0-9_.\-]{1,64}")
_MAX_BODY = 64 * 1024


class _Dialer(connect):
    """`connect` that never follows a redirect: some versions would carry the key to another origin."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter  # subscriptable from Python 3.11


class _Redacting(_Adapter):
    """Keeps DEBUG logs of the websockets library usable without keys and content."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, kwargs

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        if self.isEnabledFor(level):
            # A traceback would show local variables' text through exceptions that quote header values.
            kwargs.pop("exc_info", None)
            super().log(level, msg, *_masked(str(msg), args), **kwargs)


def _masked(message: str, args: tuple[object, ...]) -> tuple[object, ...]:
    if message[1:] == " %s: %s" and len(args) == 2:
        name, value = str(args[0]), str(args[1])
        seems = _RECEIVED.get(name.lower())
        known = seems and seems.fullmatch(value) if message[0] == "<" else name.lower() in _SENT
        return args if known else (name, "[masked]")
    if message == "< HTTP/1.1 %d %s":  # with the phrase that belongs to the status
        return args[0], _PHRASES.get(args[0], "[masked]")
    return tuple(_summary(arg) for arg in args)


def _summary(value: object) -> object:
    data = getattr(value, "data", None)
    if isinstance(data, (bytes, bytearray, memoryview)):
        opcode = getattr(getattr(value, "opcode", None), "name", "FRAME")
        return f"{opcode} [{len(data)} bytes]"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"[{len(value)} bytes]"
    if isinstance(value, BaseException):  # its text may quote anything
        return type(value).__name__
    if not isinstance(value, str):
        return value
    if len(value) > 200:
        return f"[{len(value)} characters]"
    return re.sub(r"\?\S*|//[^/@\s]*@", "[masked]", value)


_LOGGER = _Redacting(logging.getLogger("langchain_ws_responses.websocket"), {})


def default_ssl_context() -> ssl.SSLContext:
    """The default context with host check and certifi's bundle; `SSL_CERT_FILE` and `SSL_CERT_DIR` win over it."""
    if os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR"):
        return ssl.create_default_context()
    try:
        import certifi
    except ModuleNotFoundError:
        return ssl.create_default_context()
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _headers(endpoint: Endpoint) -> list[tuple[str, str]]:
    headers = list(endpoint.headers)
    if not endpoint.authorized:
        headers.append(("Authorization", bearer(endpoint.credential)))
    return headers


def _proxy_of(endpoint: Endpoint, proxy: str | None, allow_insecure: bool) -> SplitResult | None:
    chosen = endpoint.proxy or proxy or environment_proxy(endpoint.url)
    if not chosen:
        return None
    parts = check_proxy(chosen)
    if not endpoint.secure and not allow_insecure and not is_loopback(parts.hostname or ""):
        raise ConfigurationError(
            "A plain `ws` URL would send the key in the clear to a proxy on another machine. Name the host in "
            "NO_PROXY, use wss, or ConnectionManager(allow_insecure=True) in a network that you trust."
        )
    return parts


async def _tls(
    endpoint: Endpoint, proxy: SplitResult | None, context: ssl.SSLContext | None
) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if endpoint.secure:
        options["ssl"] = context or await asyncio.to_thread(default_ssl_context)
    if proxy is not None and proxy.scheme == "https":
        options["proxy_ssl"] = await asyncio.to_thread(default_ssl_context)
    return options


async def dial(
    endpoint: Endpoint,
    *,
    limits: Limits,
    ssl_context: ssl.SSLContext | None,
    proxy: str | None,
    allow_insecure: bool = False,
) -> Socket:
    """Opens one connection; one attempt.

    Raises:
        Failed: With what went wrong, free of secrets.
    """
    try:
        return await _dial(endpoint, limits, ssl_context, proxy, allow_insecure)
    except Failed:
        raise
    except ConfigurationError as exc:
        raise Failed(exc.failure) from None
    except Exception as exc:
        # The library's exceptions quote header values and proxy URLs: they must not become a cause.
        raise Failed(_refusal(exc)) from None


async def _dial(
    endpoint: Endpoint,
    limits: Limits,
    ssl_context: ssl.SSLContext | None,
    proxy: str | None,
    allow_insecure: bool,
) -> Socket:
    loop, seconds = asyncio.get_running_loop(), limits.connect_timeout
    deadline = None if seconds is None else loop.time() + seconds

    def left() -> float | None:
        return None if deadline is None else max(0.001, deadline - loop.time())

    headers = _headers(endpoint)
    through = _proxy_of(endpoint, proxy, allow_insecure)
    options = await _tls(endpoint, through, ssl_context)
    if through is not None and through.scheme == "http":
        options["sock"] = await asyncio.wait_for(open_tunnel(through, endpoint.url), left())
    made: Any = partial(Socket, limit=limits.max_message_size)
    socket = await _Dialer(
        endpoint.url,
        additional_headers=headers,
        user_agent_header=f"langchain-ws-responses/{__version__}",
        compression=None,
        open_timeout=left(),
        close_timeout=CLOSE_SECONDS,
        ping_interval=None,  # `Liveness` sends them
        max_size=limits.max_message_size,
        max_queue=None,
        proxy=None if through is None else proxy_url(through),
        logger=_LOGGER,
        create_connection=made,
        **options,
    )
    assert isinstance(socket, Socket)  # noqa: S101 - for the type checker: it was made with `create_connection`
    return socket


def _refusal(exc: Exception) -> Failure:
    """Says what a failed attempt means."""
    if isinstance(exc, InvalidStatus):
        who, response = "The server answered the WebSocket upgrade", exc.response
        return _rejected(response.status_code, who, response.headers.raw_items(), _code(response.body))
    proxy_response = getattr(exc, "response", None)
    if isinstance(exc, TunnelRefused) and exc.status is not None:
        failure = _rejected(exc.status, "The proxy answered", exc.headers.items())
        return replace(failure, error_type=PROXY_ERROR)
    if isinstance(exc, ProxyError) and proxy_response is not None:
        fields = proxy_response.headers.raw_items()
        failure = _rejected(proxy_response.status_code, "The proxy answered", fields)
        return replace(failure, error_type=PROXY_ERROR)
    kind, error_type = FailureKind.DIAL_FAILED, None
    if isinstance(exc, TimeoutError | asyncio.TimeoutError):
        kind, message = FailureKind.DIAL_TIMEOUT, "The connection was not ready in time."
    elif isinstance(exc, ssl.SSLCertVerificationError):
        error_type = CERTIFICATE_ERROR
        why = exc.verify_message or "verification failed"
        message = f"The server's certificate was refused: {why.rstrip('.')}."
    elif isinstance(exc, ssl.SSLError):
        message = f"TLS failed: {exc.reason or type(exc).__name__}."
    elif isinstance(exc, InvalidProxy):
        kind, message = (
            FailureKind.CONFIGURATION,
            "The proxy URL cannot be used. Write it as http://host:port.",
        )
    elif isinstance(exc, ProxyError | TunnelRefused):
        message = f"The proxy refused the connection ({type(exc).__name__})."
    elif isinstance(exc, OSError):
        message = f"The connection failed: {reason_of(exc)}."
    elif isinstance(exc, InvalidHandshake | WebSocketException):
        message = f"The WebSocket handshake failed ({type(exc).__name__})."
    elif isinstance(exc, ImportError):
        kind = FailureKind.CONFIGURATION
        message = "A SOCKS proxy needs the package python-socks: pip install python-socks[asyncio]."
    else:
        message = f"The connection failed ({type(exc).__name__})."
    return Failure(kind, phase=Phase.CONNECT, message=message, error_type=error_type)


def reason_of(exc: OSError) -> str:
    """Says why a connection failed, in the system's words."""
    if isinstance(exc, TunnelRefused | socket.gaierror) or not exc.errno:
        return exc.strerror or "no address of the host answered"
    # asyncio puts the address in the place of the reason.
    return os.strerror(exc.errno)


def _rejected(status: int, who: str, fields: Iterable[tuple[str, str]], code: str | None = None) -> Failure:
    headers = {
        name.lower(): value
        for name, value in fields
        if name.lower() in _KEPT or name.lower().startswith("x-ratelimit-")
    }
    return Failure(
        FailureKind.HANDSHAKE_REJECTED,
        phase=Phase.CONNECT,
        message=f"{who} with HTTP {status}.",
        code=code,
        status=status,
        headers=headers,
        retry_after=retry_after(headers),
    )


def _code(body: object) -> str | None:
    """The error code in the body of a refusal; its text stays out, as it may quote the key."""
    if not isinstance(body, bytes | bytearray) or len(body) > _MAX_BODY:
        return None
    try:
        data = _json.loads(bytes(body))
    except ValueError:
        return None
    error = data.get("error") if isinstance(data, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return code if isinstance(code, str) and _WORD.fullmatch(code) else None
