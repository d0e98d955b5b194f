"""Dialing: where to, with which credentials, and what an answer other than 101 means.

Nothing here lets a header, key or proxy password reach a log, a `repr` or an exception.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import inspect
import ipaddress
import logging
import os
import re
import secrets
import ssl
import urllib.request
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, WebSocketException

from .._protocol.events import retry_after
from .._protocol.limits import Limits, Profile, profile_for
from .._types import Failure, FailureKind, Phase
from .._version import __version__
from ..errors import ConfigurationError
from .retry import Failed

__all__ = ["Credential", "Endpoint", "dial", "endpoint_for", "websocket_url_for"]

Credential = str | Callable[[], str | Awaitable[str]]

_SALT = secrets.token_bytes(16)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FIELD_VALUE = re.compile("[\\t -~\x80-\xff]*")
_RESERVED = frozenset(
    {
        "connection",
        "content-length",
        "host",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
        "transfer-encoding",
        "upgrade",
    }
)
_SCHEMES = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}
# Header fields of an upgrade that may be shown in a DEBUG log.
_SHOWN = frozenset(
    {
        "host",
        "upgrade",
        "connection",
        "sec-websocket-version",
        "date",
        "server",
        "content-type",
        "content-length",
    }
)


@dataclass(frozen=True)
class Endpoint:
    """One place to dial with one set of credentials. Two endpoints that differ in anything never share a socket.

    Attributes:
        url: The `ws(s)` URL with its query.
        label: The URL without query and user info: what may be shown.
        profile: What is known about the server.
        key: Identifies the endpoint, its credentials, headers, TLS and proxy.
    """

    url: str = field(repr=False)
    label: str
    profile: Profile = field(repr=False)
    key: str = field(repr=False)
    credential: Credential = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    proxy: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        """The host name, in lower case."""
        return urlsplit(self.url).hostname or ""

    @property
    def loopback(self) -> bool:
        """Whether it is on this machine."""
        host = self.host
        if host == "localhost" or host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False


def _split(url: str, what: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ConfigurationError(f"`{what}` is not a URL. Write it as https://host/v1.") from None
    if parts.scheme not in _SCHEMES:
        raise ConfigurationError(
            f"`{what}` has the scheme {parts.scheme[:20]!r}; use http, https, ws or wss, as in https://host/v1."
        )
    if not parts.hostname:
        raise ConfigurationError(f"`{what}` names no host. Write it as https://host/v1.")
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            f"`{what}` holds user info, which is not sent. Use `api_key` or `default_headers`."
        )
    return parts


def websocket_url_for(base_url: str) -> str:
    """Makes the WebSocket URL of an API base: `http(s)` becomes `ws(s)` and `/responses` is appended.

    Raises:
        ConfigurationError: Not an `http`, `https`, `ws` or `wss` URL with a host.
    """
    parts = _split(base_url, "base_url")
    path = parts.path.rstrip("/") + "/responses"
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, path, parts.query, ""))


def _with_query(url: str, query: Mapping[str, Any] | None) -> str:
    if not query:
        return url
    parts = urlsplit(url)
    extra = urlencode({str(name): str(value) for name, value in query.items()})
    return urlunsplit(parts._replace(query="&".join(part for part in (parts.query, extra) if part)))


def check_headers(headers: Mapping[Any, Any] | None) -> tuple[tuple[str, str], ...]:
    """Validates header fields before they can reach the wire.

    Raises:
        ConfigurationError: A name is not a token or is reserved, or a value holds a control character.
    """
    checked = []
    for name, value in (headers or {}).items():
        if not isinstance(value, str):  # openai's Omit and NotGiven take a default header out
            continue
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ConfigurationError(
                "A name in `default_headers` is not a valid HTTP header name. Use letters, digits and hyphens."
            )
        if name.lower() in _RESERVED:
            raise ConfigurationError(
                f"The header {name!r} belongs to the handshake. Take it out of `default_headers`."
            )
        if not _FIELD_VALUE.fullmatch(value.strip()):
            raise ConfigurationError(
                f"The value of the header {name!r} holds a line break or another character that HTTP does not allow."
            )
        checked.append((name, value.strip()))
    return tuple(checked)


def _bearer(key: object) -> str:
    if not isinstance(key, str) or not key.strip():
        raise ConfigurationError("No API key. Set OPENAI_API_KEY, or pass `api_key`.") from None
    key = key.strip()
    if not key.isascii() or any(char.isspace() or ord(char) < 33 or ord(char) == 127 for char in key):
        raise ConfigurationError(
            "The API key holds a line break, a space or another character that no key has. Check how it was copied."
        ) from None
    return f"Bearer {key}"


def endpoint_for(
    *,
    url: str,
    credential: Credential,
    organization: str | None = None,
    project: str | None = None,
    headers: Mapping[str, Any] | None = None,
    query: Mapping[str, Any] | None = None,
    proxy: str | None = None,
) -> Endpoint:
    """Checks and collects what a dial needs.

    Args:
        url: The `ws(s)` URL (`http(s)` is taken as such).
        credential: The API key, or a callable that returns one or an awaitable of one; called at each dial.
        organization: For `OpenAI-Organization`.
        project: For `OpenAI-Project`.
        headers: Further header fields; one set per socket.
        query: Further query parameters.
        proxy: Proxy URL; None uses the environment's.

    Raises:
        ConfigurationError: Something in it cannot be used.
    """
    parts = _split(url, "websocket_url")
    address = _with_query(urlunsplit(parts._replace(scheme=_SCHEMES[parts.scheme], fragment="")), query)
    named = {"OpenAI-Organization": organization, "OpenAI-Project": project}
    fields = {name: value for name, value in named.items() if value}
    own = dict(headers or {})
    overridden = {str(name).lower() for name in own}
    fields = {name: value for name, value in fields.items() if name.lower() not in overridden}
    checked = check_headers({**fields, **own})
    # A callable may give another key each time: then it is the callable itself that tells tenants apart.
    if callable(credential):
        identity = f"callable:{id(credential)}"
    else:
        identity = "key:" + ("" if "authorization" in overridden else _bearer(credential))
    material = repr((address, identity, checked, proxy)).encode()
    label = urlunsplit((_SCHEMES[parts.scheme], parts.netloc, parts.path, "", ""))
    return Endpoint(
        url=address,
        label=label,
        profile=profile_for(parts.hostname or ""),
        key=hmac.new(_SALT, material, hashlib.sha256).hexdigest(),
        credential=credential,
        headers=checked,
        proxy=proxy,
    )


async def _resolve(credential: Credential) -> str:
    """Asks for the key; a callable that blocks does so on another thread."""
    if not callable(credential):
        return _bearer(credential)
    try:
        if inspect.iscoroutinefunction(credential):
            value = await credential()
        else:
            value = await asyncio.to_thread(credential)
            if inspect.isawaitable(value):
                value = await value
    except Exception as exc:
        raise ConfigurationError(f"The API key callable raised {type(exc).__name__}.") from None
    return _bearer(value)


def environment_proxy(url: str) -> str | None:
    """The proxy that the HTTP client would take: the scheme's variable, then `ALL_PROXY`, minus `NO_PROXY`."""
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return proxies.get("https" if parts.scheme == "wss" else "http") or proxies.get("all")


class _Dialer(connect):
    """`connect` that never follows a redirect: some versions would carry the key to another origin."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class _Redacting(logging.LoggerAdapter[logging.Logger]):
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
        return args if str(args[0]).lower() in _SHOWN else (args[0], "[masked]")
    return tuple(_summary(arg) for arg in args)


def _summary(value: object) -> object:
    data = getattr(value, "data", None)
    if isinstance(data, (bytes, bytearray, memoryview)):
        opcode = getattr(getattr(value, "opcode", None), "name", "FRAME")
        return f"{opcode} [{len(data)} bytes]"
    if isinstance(value, (str, bytes)) and len(value) > 200:
        return f"[{len(value)} characters]"
    if isinstance(value, str) and ("?" in value or "@" in value):
        return re.sub(r"\?\S*|//[^/@\s]*@", "[masked]", value)
    return value


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


async def dial(
    endpoint: Endpoint, *, limits: Limits, ssl_context: ssl.SSLContext | None, proxy: str | None
) -> ClientConnection:
    """Opens one connection; one attempt.

    Raises:
        Failed: With what went wrong, free of secrets.
    """
    try:
        authorization = await _resolve(endpoint.credential)
    except ConfigurationError as exc:
        raise Failed(exc.failure) from None
    headers = list(endpoint.headers)
    if not any(name.lower() == "authorization" for name, _ in headers):
        headers.append(("Authorization", authorization))
    secure = endpoint.url.startswith("wss:")
    if secure and ssl_context is None:
        ssl_context = await asyncio.to_thread(default_ssl_context)
    tls: dict[str, Any] = {"ssl": ssl_context} if secure else {}
    chosen = endpoint.proxy or proxy or environment_proxy(endpoint.url)
    try:
        return await _Dialer(
            endpoint.url,
            additional_headers=headers,
            user_agent_header=f"langchain-ws-responses/{__version__}",
            compression=None,
            open_timeout=limits.connect_timeout,
            ping_interval=limits.ping_interval,
            ping_timeout=limits.ping_timeout,
            max_size=limits.max_message_size,
            max_queue=None,
            proxy=chosen,
            logger=_LOGGER,
            **tls,
        )
    except Exception as exc:
        # The library's exceptions quote header values and proxy URLs: they must not become a cause.
        raise Failed(_refusal(exc)) from None


def _refusal(exc: Exception) -> Failure:
    kind, status, headers = FailureKind.DIAL_FAILED, None, {}
    if isinstance(exc, TimeoutError | asyncio.TimeoutError):
        kind, message = FailureKind.DIAL_TIMEOUT, "The connection was not ready in time."
    elif isinstance(exc, InvalidStatus):
        kind, status = FailureKind.HANDSHAKE_REJECTED, exc.response.status_code
        headers = {
            name.lower(): value
            for name, value in exc.response.headers.raw_items()
            if name.lower() in _KEPT or name.lower().startswith("x-ratelimit-")
        }
        message = f"The server answered the WebSocket upgrade with HTTP {status}."
    elif isinstance(exc, ssl.SSLCertVerificationError):
        message = f"The server's certificate was refused: {exc.verify_message or 'verification failed'}."
    elif isinstance(exc, ssl.SSLError):
        message = f"TLS failed: {exc.reason or type(exc).__name__}."
    elif type(exc).__name__ in ("InvalidProxyStatus", "ProxyError", "InvalidProxy", "InvalidProxyMessage"):
        proxy_status = getattr(getattr(exc, "response", None), "status_code", None)
        if proxy_status is not None:
            kind, status = FailureKind.HANDSHAKE_REJECTED, proxy_status
        message = f"The proxy refused the connection{f' with HTTP {status}' if status else ''}."
    elif isinstance(exc, OSError):
        message = f"The connection failed: {exc.strerror or type(exc).__name__}."
    elif isinstance(exc, InvalidHandshake | WebSocketException):
        message = f"The WebSocket handshake failed ({type(exc).__name__})."
    elif isinstance(exc, ImportError):
        message = "A SOCKS proxy needs the package python-socks: pip install python-socks[asyncio]."
    else:
        message = f"The connection failed ({type(exc).__name__})."
    return Failure(
        kind,
        phase=Phase.CONNECT,
        message=message,
        status=status,
        headers=headers,
        retry_after=retry_after(headers),
    )


_KEPT = frozenset({"retry-after", "retry-after-ms", "x-request-id", "x-should-retry"})
