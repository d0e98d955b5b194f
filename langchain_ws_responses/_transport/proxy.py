"""Which proxy a dial goes through: by the same rules as the HTTP client's."""

from __future__ import annotations

import ipaddress
import urllib.request
from urllib.parse import SplitResult, unquote, urlsplit

import websockets.version

from ..errors import ConfigurationError

__all__ = ["check_proxy", "environment_proxy", "proxy_url"]

_SCHEMES = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})
_DEFAULT_PORTS = {"ws": 80, "wss": 443, "http": 80, "https": 443}
_HTTP = {"ws": "http", "wss": "https"}
# From 17 on websockets takes the percent signs out of the user info by itself.
_SENT_AS_WRITTEN = int(websockets.version.version.partition(".")[0]) < 17


def check_proxy(proxy: str) -> SplitResult:
    """Takes a proxy URL apart; without a scheme it is an HTTP proxy.

    Raises:
        ConfigurationError: It cannot be used; the message does not quote it, as it may hold a password.
    """
    try:
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        _ = parts.port
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ConfigurationError("The proxy is not a URL that can be used. Write it as http://host:port.")
    if parts.username is not None and parts.password is None:
        raise ConfigurationError(
            "The proxy URL holds a user name without a password. Write it as http://user:password@host:port."
        )
    return SplitResult(parts.scheme, parts.netloc, "", "", "")


def proxy_url(parts: SplitResult) -> str:
    """Writes a checked proxy URL so that websockets sends the credentials that it means."""
    user, _, address = parts.netloc.rpartition("@")
    name, colon, password = (unquote(part) for part in user.partition(":"))
    plain = f"{name}{colon}{password}"
    if (
        _SENT_AS_WRITTEN
        and user
        and ":" not in name
        and all("!" <= c <= "~" and c not in "/?#[]" for c in plain)
    ):
        return f"{parts.scheme}://{plain}@{address}"
    return parts.geturl()


def environment_proxy(url: str) -> str | None:
    """The proxy that the HTTP client would take: the scheme's variable, then `ALL_PROXY`, minus `NO_PROXY`.

    Args:
        url: A `ws` or `wss` URL, for which the variables of `http` and `https` count.
    """
    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    found = proxies.get(_HTTP[parts.scheme]) or proxies.get("all")
    if not found or any(_spares(entry.strip().lower(), parts) for entry in proxies.get("no", "").split(",")):
        return None
    return found


def _spares(entry: str, parts: SplitResult) -> bool:
    """Whether an entry of `NO_PROXY` is about a URL."""
    if entry in ("", "*"):
        return entry == "*"
    scheme, _, rest = entry.rpartition("://")
    if scheme not in ("", "all", _HTTP[parts.scheme]):
        return False
    name, port = _host_and_port(rest)
    if port not in (None, parts.port or _DEFAULT_PORTS[parts.scheme]):
        return False
    host = parts.hostname or ""
    if scheme or name == "localhost" or _is_address(name):
        return host == name
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")


def _host_and_port(text: str) -> tuple[str, int | None]:
    if _is_address(text):  # an IPv6 address without brackets has colons of its own
        return text, None
    try:
        parts = urlsplit(f"//{text}")
        return parts.hostname or "", parts.port
    except ValueError:
        return text, None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
