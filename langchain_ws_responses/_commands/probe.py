"""Steps on the way to a socket, each by itself, so that the one that fails can be told."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

from .._protocol.events import EventKind, Frame, decode, failure_from
from .._protocol.limits import Limits
from .._transport.dial import default_ssl_context, dial
from .._transport.line import Line
from .._transport.proxy import check_proxy, environment_proxy
from .._transport.tunnel import open_tunnel
from .._types import Phase

if TYPE_CHECKING:
    from .._transport.endpoint import Endpoint

__all__ = [
    "Certificate",
    "Turn",
    "certificate",
    "connected",
    "create",
    "opened",
    "ping",
    "port_of",
    "proxy_of",
    "resolve",
]

_PORTS = {"ws": 80, "wss": 443, "http": 80, "https": 443}


@dataclass(frozen=True)
class Certificate:
    """What a server's verified certificate says.

    Attributes:
        version: The TLS version, such as `TLSv1.3`.
        issuer: Organization or name of who vouches for it.
        days: Whole days until it expires.
    """

    version: str
    issuer: str
    days: int


@dataclass(frozen=True)
class Turn:
    """One create and its answer.

    Attributes:
        first: Seconds to the first event.
        total: Seconds to the terminal event.
        sent: Bytes of the request.
        id: The response's id.
        failure: The error's code or type, when it did not end well.
    """

    first: float
    total: float
    sent: int
    id: str
    failure: str | None


def proxy_of(endpoint: Endpoint) -> SplitResult | None:
    """The proxy that a dial takes.

    Raises:
        ConfigurationError: It cannot be used.
    """
    found = endpoint.proxy or environment_proxy(endpoint.url)
    return check_proxy(found) if found else None


def port_of(parts: SplitResult) -> int:
    """The port of a URL, as written or by its scheme."""
    return parts.port or _PORTS.get(parts.scheme, 1080)


async def resolve(host: str, port: int, timeout: float) -> list[str]:
    """Asks for the addresses of a name."""
    look_up = asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    found = await asyncio.wait_for(look_up, timeout)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


async def connected(host: str, port: int, timeout: float) -> float:
    """Opens and closes a TCP connection; returns the seconds that it took to open."""
    began = time.perf_counter()
    _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), timeout)
    took = time.perf_counter() - began
    writer.close()
    await writer.wait_closed()
    return took


async def certificate(endpoint: Endpoint, proxy: SplitResult | None, timeout: float) -> Certificate:
    """Begins TLS with the server as a dial does, through a proxy's tunnel if need be."""
    parts = urlsplit(endpoint.url)
    context = await asyncio.to_thread(default_ssl_context)
    where: dict[str, Any] = {"host": endpoint.host, "port": port_of(parts)}
    if proxy is not None:
        where = {"sock": await asyncio.wait_for(open_tunnel(proxy, endpoint.url), timeout)}
    opening = asyncio.open_connection(**where, ssl=context, server_hostname=endpoint.host)
    _, writer = await asyncio.wait_for(opening, timeout)
    try:
        return _described(writer.get_extra_info("ssl_object"))
    finally:
        writer.transport.abort()


def _described(tls: ssl.SSLObject) -> Certificate:
    shown: Any = tls.getpeercert() or {}
    issuer = {name: value for group in shown.get("issuer", ()) for name, value in group}
    named = issuer.get("organizationName") or issuer.get("commonName") or "unknown"
    end = ssl.cert_time_to_seconds(shown["notAfter"]) if "notAfter" in shown else 0
    left = end - datetime.datetime.now(datetime.timezone.utc).timestamp()
    return Certificate(tls.version() or "TLS", named, int(left // 86400))


async def opened(endpoint: Endpoint, timeout: float) -> tuple[Line, float]:
    """Dials; returns the line and the seconds that it took."""
    began = time.perf_counter()
    limits = Limits(connect_timeout=timeout)
    found = await dial(endpoint, limits=limits, ssl_context=None, proxy=None)
    return Line(found), time.perf_counter() - began


async def ping(line: Line, timeout: float) -> float:
    """Sends a ping frame; returns the seconds until its pong."""
    began = time.perf_counter()
    pong = await line.socket.ping()
    await asyncio.wait_for(pong, timeout)
    return time.perf_counter() - began


async def create(line: Line, body: dict[str, Any], timeout: float) -> Turn:
    """Sends one create and reads its events to the terminal one."""
    from .. import _json

    raw = _json.dumps({"type": "response.create", **body})
    began = time.perf_counter()
    await line.socket.send(raw, text=True)
    first = 0.0
    while True:
        frame = decode(await asyncio.wait_for(line.receive(), timeout), loads=_json.loads)
        if frame.kind is EventKind.FOREIGN:
            continue
        now = time.perf_counter() - began
        first = first or now
        if frame.kind.is_terminal:
            return Turn(first, now, len(raw), *_end(frame))


def _end(frame: Frame) -> tuple[str, str | None]:
    response_id = str(frame.response.get("id", ""))
    if frame.kind in (EventKind.COMPLETED, EventKind.INCOMPLETE):
        return response_id, None
    source = frame.data if frame.kind is EventKind.ERROR else frame.response
    failure = failure_from(source, phase=Phase.TERMINAL, events_seen=0)
    return response_id, failure.code or failure.message or frame.type
