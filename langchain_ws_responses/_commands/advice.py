"""What to do about a connection that did not come about: the next step, for people who look for a fault."""

from __future__ import annotations

from .._types import PROXY_ERROR, Failure, FailureKind
from ..errors import advice_for

__all__ = ["next_step"]

_NOT_PASSED_ON = (
    "Something in between answered in the place of the WebSocket server, or passes no upgrades on: a login page, a "
    "gateway, an inspecting proxy. Ask for WebSocket (HTTP/1.1 Upgrade) to be let through to this host, or use "
    'transport="http".'
)
_NO_SOCKETS = (
    "The server there speaks HTTP but offers no WebSocket at this path. Check the path of the base URL (it ends in "
    '/v1 for most servers); if it is right, use transport="auto" or "http".'
)
_BY_STATUS = {
    200: _NOT_PASSED_ON,
    204: _NOT_PASSED_ON,
    400: _NOT_PASSED_ON,
    401: "The key was refused. Check OPENAI_API_KEY, and that it belongs to this endpoint.",
    403: (
        "The key, organization or project may not use this endpoint, or a gateway forbids WebSocket. Try the same key "
        'with transport="http": if that works, it is the gateway.'
    ),
    404: _NO_SOCKETS,
    405: _NO_SOCKETS,
    426: _NO_SOCKETS,
    501: _NO_SOCKETS,
    502: "A gateway could not reach the server behind it. Try again later, or ask who runs it.",
    503: "The server or a gateway is busy or down. Try again later.",
}


def next_step(failure: Failure) -> str:
    """Says what to do about a failed dial.

    Args:
        failure: Why it failed.
    """
    by_server = failure.kind is FailureKind.HANDSHAKE_REJECTED and failure.error_type != PROXY_ERROR
    if by_server and failure.status in _BY_STATUS:
        return _BY_STATUS[failure.status]
    return advice_for(failure)
