"""What `doctor` finds out on the way to an endpoint, step by step; the first step that fails ends it."""

from __future__ import annotations

import asyncio
import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from .._transport.dial import reason_of
from .._transport.retry import Failed
from .._transport.tunnel import TunnelRefused, open_tunnel
from .._types import CERTIFICATE_ERROR, PROXY_ERROR, Failure, FailureKind
from ..errors import ConfigurationError, advice_for
from .advice import next_step
from .checks import Check
from .probe import certificate, connected, opened, ping, port_of, proxy_of, resolve

if TYPE_CHECKING:
    from .target import Target

__all__ = ["check_endpoint", "reach"]

_SOON = 14
_BAD_CERTIFICATE = Failure(FailureKind.DIAL_FAILED, error_type=CERTIFICATE_ERROR)


def check_endpoint(target: Target) -> Check:
    """Says where a model would dial, and what is known about that server."""
    endpoint, profile = target.endpoint, target.endpoint.profile
    if target.local:
        return Check("endpoint", "ok", f"{endpoint.label} (the package's own server)")
    if not profile.websocket:
        return Check("endpoint", "warn", f"{endpoint.label} ({profile.name}) is known to have no WebSocket mode",
                     'transport="auto" uses HTTP there.')  # fmt: skip
    known = "a server that is not known" if profile.name == "unknown" else profile.name
    lanes = "lanes" if profile.lanes else "one response at a time until it shows lanes"
    found = f"{endpoint.label} ({known}: {lanes})"
    if not endpoint.secure and not endpoint.loopback:
        return Check("endpoint", "FAIL", f"{endpoint.label} is not encrypted, and the key would be readable",
                     "Use https or wss; in a network that you trust: ConnectionManager(allow_insecure=True).",
                     )  # fmt: skip
    return Check("endpoint", "ok", found)


class _Stopped(Exception):
    """A step failed; carries the finding."""

    def __init__(self, check: Check) -> None:
        super().__init__(check.name)
        self.check = check


async def reach(target: Target, timeout: float, tell: Callable[[str], None]) -> list[Check]:
    """Goes the way to a socket.

    Args:
        target: Where to.
        timeout: Seconds for each step.
        tell: Told what is tried.
    """
    found: list[Check] = []
    try:
        async for check in _steps(target, timeout, tell):
            found.append(check)
    except _Stopped as exc:
        found.append(exc.check)
        if exc.check.name != "ping":
            left = ("ping",) if exc.check.name == "handshake" else ("handshake", "ping")
            found += [Check(name, "skip", f"not tried: {exc.check.name} comes before") for name in left]
    return found


async def _steps(target: Target, timeout: float, tell: Callable[[str], None]) -> AsyncIterator[Check]:
    endpoint = target.endpoint
    try:
        proxy = proxy_of(endpoint)
    except ConfigurationError as exc:
        raise _Stopped(
            Check("proxy", "FAIL", exc.message, "Check HTTPS_PROXY, ALL_PROXY and OPENAI_PROXY.")
        ) from None
    yield _proxy(target, proxy)
    hop = proxy or urlsplit(endpoint.url)
    host, port = hop.hostname or "", port_of(hop)
    whose = "proxy" if proxy is not None else "server"
    tell(f"looking up {host} ...")
    yield Check("dns", "ok", f"{host} is {await _resolved(host, port, timeout, whose)}")
    tell(f"connecting to {host}:{port} ...")
    yield Check("tcp", "ok", f"{whose} {host}:{port} in {await _reached(host, port, timeout, whose)}")
    if proxy is not None and proxy.scheme == "http":
        tell(f"asking {host}:{port} for a tunnel ...")
        yield await _tunnel(target, proxy, timeout)
    if endpoint.secure and (proxy is None or proxy.scheme == "http"):
        tell("checking the certificate ...")
        yield await _tls(target, proxy, timeout)
    if not target.has_key and not endpoint.loopback:
        yield Check("handshake", "skip", "it needs a key")
        return
    tell("asking for a WebSocket ...")
    async for check in _handshake(target, timeout):
        yield check


def _proxy(target: Target, proxy: SplitResult | None) -> Check:
    if proxy is None:
        spared = "no" in urllib.request.getproxies() and len(urllib.request.getproxies()) > 1
        return Check("proxy", "ok", "none for this host (NO_PROXY)" if spared else "none")
    source = "openai_proxy or OPENAI_PROXY" if target.endpoint.proxy else "environment"
    # Without user info: it holds a password.
    return Check("proxy", "ok", f"{proxy.scheme}://{proxy.hostname}:{port_of(proxy)} ({source})")


async def _resolved(host: str, port: int, timeout: float, whose: str) -> str:
    try:
        addresses = await resolve(host, port, timeout)
    except (TimeoutError, asyncio.TimeoutError):
        why = f"no answer about {host} within {timeout:g} s"
    except OSError as exc:
        why = f"{host}: {reason_of(exc)}"
    else:
        more = f" and {len(addresses) - 2} more" if len(addresses) > 2 else ""
        return " ".join(addresses[:2]) + more
    advice = f"Check the spelling of the {whose}'s name, and that this machine can look up names."
    raise _Stopped(Check("dns", "FAIL", why, advice)) from None


async def _reached(host: str, port: int, timeout: float, whose: str) -> str:
    try:
        return _ms(await connected(host, port, timeout))
    except (TimeoutError, asyncio.TimeoutError):
        why = f"{whose} {host}:{port} did not answer within {timeout:g} s"
        advice = (
            "A firewall drops the packets, or the address is wrong: ask for a way out, or set HTTPS_PROXY."
        )
    except OSError as exc:
        why = f"{whose} {host}:{port}: {reason_of(exc)}"
        advice = f"Check that the {whose} runs, and its host and port."
    raise _Stopped(Check("tcp", "FAIL", why, advice)) from None


async def _tunnel(target: Target, proxy: SplitResult, timeout: float) -> Check:
    try:
        sock = await asyncio.wait_for(open_tunnel(proxy, target.endpoint.url), timeout)
    except TunnelRefused as exc:
        status = exc.status
        why = "the proxy answered " + ("something that is not HTTP" if status is None else str(status))
    except (TimeoutError, asyncio.TimeoutError):
        status, why = None, f"the proxy gave no answer within {timeout:g} s"
    except OSError as exc:
        status, why = None, reason_of(exc)
    else:
        sock.close()
        return Check("tunnel", "ok", "the proxy connects to the server")
    refused = Failure(FailureKind.HANDSHAKE_REJECTED, status=status, error_type=PROXY_ERROR)
    raise _Stopped(Check("tunnel", "FAIL", why, advice_for(refused)))


async def _tls(target: Target, proxy: SplitResult | None, timeout: float) -> Check:
    try:
        shown = await certificate(target.endpoint, proxy, timeout)
    except ssl.SSLCertVerificationError as exc:
        why = f"the certificate was refused: {(exc.verify_message or 'verification failed').rstrip('.')}"
        raise _Stopped(Check("tls", "FAIL", why, advice_for(_BAD_CERTIFICATE))) from None
    except ssl.SSLError as exc:
        why, advice = (
            f"TLS failed: {exc.reason or type(exc).__name__}",
            "Is it a TLS port? Check scheme and port.",
        )
        raise _Stopped(Check("tls", "FAIL", why, advice)) from None
    except (TimeoutError, asyncio.TimeoutError):
        advice = "Something on the way lets TCP through, but not TLS: ask who runs the network."
        raise _Stopped(Check("tls", "FAIL", f"no answer within {timeout:g} s", advice)) from None
    except OSError as exc:
        advice = "The other side hung up: check scheme, host and port."
        raise _Stopped(Check("tls", "FAIL", reason_of(exc), advice)) from None
    found = f"{shown.version}, certificate by {shown.issuer}, {shown.days} days left"
    if shown.days < _SOON:
        return Check("tls", "warn", found, "It has to be renewed by the server's owner.")
    return Check("tls", "ok", found)


async def _handshake(target: Target, timeout: float) -> AsyncIterator[Check]:
    try:
        line, took = await opened(target.endpoint, timeout)
    except Failed as exc:
        raise _Stopped(
            Check("handshake", "FAIL", exc.failure.message.rstrip("."), next_step(exc.failure))
        ) from None
    try:
        yield Check("handshake", "ok", f"101 in {_ms(took)}")
        try:
            yield Check("ping", "ok", f"answered in {_ms(await ping(line, timeout))}")
        except Exception:
            advice = "Something on the way passes the upgrade but not the frames behind it: ask who runs the network."
            raise _Stopped(
                Check("ping", "FAIL", "the connection opened but does not answer", advice)
            ) from None
    finally:
        await line.close()


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
