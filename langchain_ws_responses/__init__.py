"""The WebSocket mode of the OpenAI Responses API for LangChain and LangGraph.

Swap one class and keep the code; every turn after the first sends only what is new.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from ._langchain.adopt import with_websocket
    from ._langchain.chat_models import ChatOpenAIWebSocket
    from ._langchain.checkpoint import ChainSaver
    from ._langchain.links import response_link
    from ._langchain.middleware import WebSocketMiddleware
    from ._langchain.tools import DeltaToolNode
    from ._protocol.limits import Limits, Profile, RetryPolicy
    from ._transport.hooks import (
        ConnectionClosed,
        ConnectionOpened,
        ConnectionRetired,
        DialGivenUp,
        DialRetrying,
        Hook,
        Stats,
        TransportEvent,
        TurnContent,
        TurnEnded,
        TurnRefused,
        TurnRetrying,
        TurnSent,
    )
    from ._transport.manager import ConnectionManager, default_manager
    from ._transport.trace import TraceFile
    from ._types import FailureKind, Phase, Reason, Replay
    from .errors import (
        BufferOverflow,
        ConfigurationError,
        ConnectionLost,
        DialFailed,
        DialTimeout,
        HandshakeRejected,
        LeaseTimeout,
        ManagerClosed,
        MessageTooLarge,
        ProtocolViolation,
        ServerEventError,
        TooManyWaiting,
        TransportError,
        TurnTimeout,
        WebSocketResponsesError,
        failure_of,
    )

# Nothing is imported before it is asked for: neither websockets nor langgraph, nor openai.
_HOMES = {
    "._langchain.adopt": ("with_websocket",),
    "._langchain.chat_models": ("ChatOpenAIWebSocket",),
    "._langchain.checkpoint": ("ChainSaver",),
    "._langchain.links": ("response_link",),
    "._langchain.middleware": ("WebSocketMiddleware",),
    "._langchain.tools": ("DeltaToolNode",),
    "._protocol.limits": ("Limits", "Profile", "RetryPolicy"),
    "._transport.hooks": (
        "ConnectionClosed",
        "ConnectionOpened",
        "ConnectionRetired",
        "DialGivenUp",
        "DialRetrying",
        "Hook",
        "Stats",
        "TransportEvent",
        "TurnContent",
        "TurnEnded",
        "TurnRefused",
        "TurnRetrying",
        "TurnSent",
    ),
    "._transport.manager": ("ConnectionManager", "default_manager"),
    "._transport.trace": ("TraceFile",),
    "._types": ("FailureKind", "Phase", "Reason", "Replay"),
    ".errors": (
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
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "BufferOverflow",
    "ChainSaver",
    "ChatOpenAIWebSocket",
    "ConfigurationError",
    "ConnectionClosed",
    "ConnectionLost",
    "ConnectionManager",
    "ConnectionOpened",
    "ConnectionRetired",
    "DeltaToolNode",
    "DialFailed",
    "DialGivenUp",
    "DialRetrying",
    "DialTimeout",
    "FailureKind",
    "HandshakeRejected",
    "Hook",
    "LeaseTimeout",
    "Limits",
    "ManagerClosed",
    "MessageTooLarge",
    "Phase",
    "Profile",
    "ProtocolViolation",
    "Reason",
    "Replay",
    "RetryPolicy",
    "ServerEventError",
    "Stats",
    "TooManyWaiting",
    "TraceFile",
    "TransportError",
    "TransportEvent",
    "TurnContent",
    "TurnEnded",
    "TurnRefused",
    "TurnRetrying",
    "TurnSent",
    "TurnTimeout",
    "WebSocketMiddleware",
    "WebSocketResponsesError",
    "__version__",
    "default_manager",
    "failure_of",
    "response_link",
    "with_websocket",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home, __name__), name)
    value.__module__ = __name__  # public names live in the package, wherever they are written
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
