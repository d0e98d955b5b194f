"""A tunnel through an HTTP proxy (`CONNECT`, RFC 9110).

The websockets library has one too, but before its version 17 that leaves the socket open when a proxy does not answer,
and stumbles over answers that are not HTTP.
"""

from __future__ import annotations

import asyncio
import base64
import re
import socket
from urllib.parse import SplitResult, unquote, urlsplit

from .._version import __version__

__all__ = ["TunnelRefused", "open_tunnel"]

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})[ \r]")
_MAX_HEAD = 64 * 1024
_DEFAULT_PORTS = {"ws": 80, "wss": 443}


class TunnelRefused(OSError):
    """The proxy did not open the tunnel.

    Attributes:
        status: The HTTP status it answered with; None if it was no HTTP answer.
        headers: Its header fields, in lower case.
    """

    def __init__(self, status: int | None = None, headers: dict[str, str] | None = None) -> None:
        super().__init__("the proxy did not open the tunnel")
        self.status = status
        self.headers = headers or {}


async def open_tunnel(proxy: SplitResult, url: str) -> socket.socket:
    """Connects to a proxy and has it connect to the server behind `url`.

    Args:
        proxy: A checked `http` URL.
        url: A `ws` or `wss` URL.

    Raises:
        OSError: The proxy cannot be reached, or refused (`TunnelRefused`).
    """
    sock = await _connect(proxy.hostname or "", proxy.port or 80)
    try:
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(sock, _request(proxy, urlsplit(url)))
        head = b""
        while b"\r\n\r\n" not in head:
            # The server behind it speaks only when spoken to: nothing can come after the head yet.
            data = await loop.sock_recv(sock, 4096)
            head += data
            if not data or len(head) > _MAX_HEAD or not b"HTTP/1.".startswith(head[:7]):
                raise TunnelRefused
        _check(head)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect(host: str, port: int) -> socket.socket:
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, address)
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError("no address of the proxy answered")


def _request(proxy: SplitResult, target: SplitResult) -> bytes:
    host = target.hostname or ""
    host = f"[{host}]" if ":" in host else host.encode("idna").decode("ascii")
    authority = f"{host}:{target.port or _DEFAULT_PORTS[target.scheme]}"
    lines = [
        f"CONNECT {authority} HTTP/1.1",
        f"Host: {authority}",
        f"User-Agent: langchain-ws-responses/{__version__}",
    ]
    if proxy.username is not None:
        credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(credentials.encode()).decode()}")
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode()


def _check(head: bytes) -> None:
    """Raises unless the proxy has agreed."""
    matched = _STATUS.match(head)
    if matched is None:
        raise TunnelRefused
    status = int(matched[1])
    if not 200 <= status < 300:
        fields = (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
        raise TunnelRefused(
            status, {name.strip().lower(): value.strip() for name, _, value in fields if value}
        )
