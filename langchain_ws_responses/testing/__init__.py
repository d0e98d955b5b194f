"""A strict local server of the Responses API, for tests and demonstrations: no key, no network."""

from __future__ import annotations

from types import FunctionType

from langchain_ws_responses.testing._chaos import ChaosProxy
from langchain_ws_responses.testing._gate import AdjustableClock, Clock, Gate
from langchain_ws_responses.testing._links import ChaosConnection, Fault
from langchain_ws_responses.testing._records import (
    RecordedConnection,
    RecordedHandshake,
    RecordedRequest,
)
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

__all__ = [
    "AdjustableClock",
    "Answer",
    "ChaosConnection",
    "ChaosProxy",
    "Clock",
    "Fault",
    "Gate",
    "RecordedConnection",
    "RecordedHandshake",
    "RecordedRequest",
    "ResponsesServer",
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
]

for _name in __all__:
    # Public names live in this package, wherever they are written; an alias such as `Clock` has no home.
    if issubclass(type(globals()[_name]), (type, FunctionType)):
        globals()[_name].__module__ = __name__
del _name
