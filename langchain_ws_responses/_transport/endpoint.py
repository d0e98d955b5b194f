"""Where to dial, with which credentials and header fields: checked before anything can reach the wire.

No header value or key gets into a `repr` or an exception.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

from .._protocol.limits import Profile, profile_for
from ..errors import ConfigurationError

__all__ = [
    "RESERVED",
    "Endpoint",
    "bearer",
    "check_headers",
    "checked_key",
    "endpoint_for",
    "websocket_url_for",
]

_SALT = secrets.token_bytes(16)
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
# As over HTTP, where the client refuses what is not ASCII: nobody could say how a server would read it.
_FIELD_VALUE = re.compile(r"[\t -~]*")
_NO_URL_CHARACTER = re.compile(r"[\x00-\x20\x7f]")
RESERVED = frozenset(
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


@dataclass(frozen=True)
class Endpoint:
    """One place to dial with one set of credentials. Two endpoints that differ in anything never share a socket.

    Attributes:
        url: The `ws(s)` URL with its query.
        label: The URL without query and user info: what may be shown.
        profile: What is known about the server.
        key: Identifies the endpoint, its credentials, headers, TLS and proxy.
        credential: The API key; None where it is asked for at each turn, see `under`.
        headers: Header fields of the handshake.
        proxy: Proxy URL; None uses the environment's.
    """

    url: str = field(repr=False)
    label: str
    profile: Profile = field(repr=False)
    key: str = field(repr=False)
    credential: str | None = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    proxy: str | None = field(default=None, repr=False)

    @cached_property
    def host(self) -> str:
        """The host name, in lower case."""
        return urlsplit(self.url).hostname or ""

    @cached_property
    def place(self) -> tuple[object, ...]:
        """What is the same under every key."""
        return self.url, self.headers, self.proxy

    @cached_property
    def authorized(self) -> bool:
        """Whether its header fields have an `Authorization` of their own: the key is then not sent."""
        return any(name.lower() == "authorization" for name, _ in self.headers)

    def under(self, credential: str) -> Endpoint:
        """Returns the same place with the key that was asked for; two keys never share a socket.

        Raises:
            ConfigurationError: Nobody can send such a key.
        """
        identity = _identity(credential, authorized=self.authorized)
        key = _key_of(self.url, identity, self.headers, self.proxy)
        return replace(self, credential=credential, key=key)

    @property
    def secure(self) -> bool:
        """Whether it is reached over TLS."""
        return self.url.startswith("wss:")

    @cached_property
    def loopback(self) -> bool:
        """Whether it is on this machine."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address, as in a URL, is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(url: str, what: str) -> SplitResult:
    # `urlsplit` would drop line breaks without a word, and a space would break the request line.
    if _NO_URL_CHARACTER.search(url):
        raise ConfigurationError(f"`{what}` holds a space or a line break. Check how it was copied.")
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


def _query_items(name: str, value: Any) -> Iterator[tuple[str, str]]:
    """Writes a query parameter as the HTTP client does."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _query_items(f"{name}[{key}]", inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _query_items(f"{name}[]", inner)
    elif isinstance(value, bool):
        yield name, "true" if value else "false"
    elif value is not None:
        yield name, str(value)


def _with_query(url: str, query: Mapping[str, Any] | None) -> str:
    if not query:
        return url
    parts = urlsplit(url)
    extra = urlencode([item for name, value in query.items() for item in _query_items(str(name), value)])
    return urlunsplit(parts._replace(query="&".join(part for part in (parts.query, extra) if part)))


def check_headers(headers: Mapping[Any, Any] | None) -> tuple[tuple[str, str], ...]:
    """Validates header fields before they can reach the wire.

    Raises:
        ConfigurationError: A name is not a token or is reserved, or a value holds a character that is not printable
            ASCII.
    """
    checked = []
    for name, value in (headers or {}).items():
        if not isinstance(value, str):  # openai's Omit and NotGiven take a default header out
            continue
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise ConfigurationError(
                "A name in `default_headers` is not a valid HTTP header name. Use letters, digits and hyphens."
            )
        if name.lower() in RESERVED:
            raise ConfigurationError(
                f"The header {name!r} belongs to the handshake. Take it out of `default_headers`."
            )
        if not _FIELD_VALUE.fullmatch(value.strip()):
            raise ConfigurationError(
                f"The value of the header {name!r} holds a line break or another character that is not printable "
                "ASCII. Take it out, or encode it."
            )
        checked.append((name, value.strip()))
    return tuple(checked)


def checked_key(key: object) -> str:
    """Returns an API key as it can be sent.

    Raises:
        ConfigurationError: There is no key, or it holds what no key has; the message does not quote it.
    """
    if not isinstance(key, str) or not key.strip():
        raise ConfigurationError("No API key. Set OPENAI_API_KEY, or pass `api_key`.") from None
    key = key.strip()
    if not all("!" <= char <= "~" for char in key):
        raise ConfigurationError(
            "The API key holds a line break, a space or another character that no key has. Check how it was copied."
        ) from None
    return key


def bearer(key: object) -> str:
    """Makes the value of `Authorization`.

    Raises:
        ConfigurationError: As `checked_key`.
    """
    return f"Bearer {checked_key(key)}"


def _identity(credential: str | None, *, authorized: bool) -> str:
    if authorized:
        return "header"
    return "asked" if credential is None else "key:" + bearer(credential)


def _key_of(url: str, identity: str, headers: tuple[tuple[str, str], ...], proxy: str | None) -> str:
    """Tells endpoints apart without showing what they hold."""
    material = repr((url, identity, sorted(headers), proxy)).encode()
    return hmac.new(_SALT, material, hashlib.sha256).hexdigest()


def endpoint_for(
    *,
    url: str,
    credential: str | None,
    organization: str | None = None,
    project: str | None = None,
    headers: Mapping[str, Any] | None = None,
    query: Mapping[str, Any] | None = None,
    proxy: str | None = None,
) -> Endpoint:
    """Checks and collects what a dial needs.

    Args:
        url: The `ws(s)` URL (`http(s)` is taken as such).
        credential: The API key; None where it is asked for at each turn: `Endpoint.under` then adds it.
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
    fields = {name: value.strip() for name, value in named.items() if value}
    own = dict(headers or {})
    overridden = {str(name).lower() for name in own}
    fields = {name: value for name, value in fields.items() if name.lower() not in overridden}
    checked = check_headers({**fields, **own})
    authorized = any(name.lower() == "authorization" for name, _ in checked)
    return Endpoint(
        url=address,
        label=urlunsplit((_SCHEMES[parts.scheme], parts.netloc, parts.path, "", "")),
        profile=profile_for(parts.hostname or ""),
        key=_key_of(address, _identity(credential, authorized=authorized), checked, proxy),
        credential=credential,
        headers=checked,
        proxy=proxy,
    )
