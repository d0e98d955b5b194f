"""What tests of agents need: a strict local server of the Responses API, a network that fails, recordings.

No key, no network. Nothing is imported before it is asked for: pytest loads this package in every run.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_ws_responses._transport.retry import set_testing
    from langchain_ws_responses.testing._cassette import CassetteError
    from langchain_ws_responses.testing._chaos import ChaosProxy
    from langchain_ws_responses.testing._gate import AdjustableClock, Clock, Gate
    from langchain_ws_responses.testing._links import ChaosConnection, Fault
    from langchain_ws_responses.testing._model import fake_model
    from langchain_ws_responses.testing._recorder import RecordingServer
    from langchain_ws_responses.testing._records import (
        RecordedConnection,
        RecordedHandshake,
        RecordedRequest,
    )
    from langchain_ws_responses.testing._replay import ReplayServer
    from langchain_ws_responses.testing._script import (
        Answer,
        calls,
        custom_tool_call,
        drop,
        error,
        events,
        failed,
        hold,
        incomplete,
        insert,
        json_answer,
        raw,
        reasoning,
        refusal,
        text,
        tool_call,
    )
    from langchain_ws_responses.testing.server import ResponsesServer

_HOMES = {
    "._transport.retry": ("set_testing",),
    ".testing._cassette": ("CassetteError",),
    ".testing._chaos": ("ChaosProxy",),
    ".testing._gate": ("AdjustableClock", "Clock", "Gate"),
    ".testing._links": ("ChaosConnection", "Fault"),
    ".testing._model": ("fake_model",),
    ".testing._recorder": ("RecordingServer",),
    ".testing._records": ("RecordedConnection", "RecordedHandshake", "RecordedRequest"),
    ".testing._replay": ("ReplayServer",),
    ".testing._script": (
        "Answer",
        "calls",
        "custom_tool_call",
        "drop",
        "error",
        "events",
        "failed",
        "hold",
        "incomplete",
        "insert",
        "json_answer",
        "raw",
        "reasoning",
        "refusal",
        "text",
        "tool_call",
    ),
    ".testing.server": ("ResponsesServer",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AdjustableClock",
    "Answer",
    "CassetteError",
    "ChaosConnection",
    "ChaosProxy",
    "Clock",
    "Fault",
    "Gate",
    "RecordedConnection",
    "RecordedHandshake",
    "RecordedRequest",
    "RecordingServer",
    "ReplayServer",
    "ResponsesServer",
    "calls",
    "custom_tool_call",
    "drop",
    "error",
    "events",
    "failed",
    "fake_model",
    "hold",
    "incomplete",
    "insert",
    "json_answer",
    "raw",
    "reasoning",
    "refusal",
    "set_testing",
    "text",
    "tool_call",
]


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(home, "langchain_ws_responses"), name)
    if name != "Clock":  # an alias of a type of the standard library has no home
        value.__module__ = __name__  # public names live in this package, wherever they are written
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
