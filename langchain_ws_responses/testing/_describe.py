"""Words for requests, conversations and answers, as failing tests show them. Pure: no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from langchain_ws_responses.testing._script import (
    Answer,
    CallPart,
    CustomCallPart,
    Drop,
    ErrorAnswer,
    EventsAnswer,
    Hold,
    Insert,
    Output,
    Part,
    ReasoningPart,
    RefusalPart,
)

__all__ = ["describe", "shorten", "summary", "text_of", "transcript"]

_LONGEST = 80


class _Request(Protocol):
    @property
    def transport(self) -> str: ...
    @property
    def mode(self) -> str: ...
    @property
    def transcript(self) -> list[str]: ...


def shorten(value: object, longest: int = _LONGEST) -> str:
    """Writes a value in quotes, without its middle where it is long."""
    shown = repr(value)
    if len(shown) <= longest:
        return shown
    half = (longest - 1) // 2
    return f"{shown[:half]}…{shown[-half:]}"


def text_of(item: Mapping[str, Any]) -> str:
    """Joins the text of a message item."""
    return _joined(item.get("content"))


def _joined(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    found = (part.get("text", part.get("refusal", "")) for part in parts if isinstance(part, Mapping))
    return "".join(str(text) for text in found)


def transcript(items: Iterable[Mapping[str, Any]]) -> list[str]:
    """Writes a conversation, a line per item, reasoning left out."""
    return [_line(item) for item in items if item.get("type") != "reasoning"]


def _line(item: Mapping[str, Any]) -> str:
    kind = item.get("type", "message")
    if kind == "message":
        return f"{item.get('role')}: {text_of(item)}"
    if kind in ("function_call", "custom_tool_call"):
        return f"call: {item.get('name')}({item.get('arguments', item.get('input'))})"
    if kind in ("function_call_output", "custom_tool_call_output"):
        return f"output: {_joined(item.get('output'))}"
    return f"[{kind}]"


def summary(request: _Request) -> str:
    """Says in a few words which request it is: transport, mode and the last line of what the model saw."""
    seen = request.transcript
    last = f", ending in {shorten(seen[-1])}" if seen else ""
    return f"{request.transport}, {request.mode}{last}"


def describe(answer: Answer) -> str:
    """Writes an answer as the call that makes it."""
    if isinstance(answer, Output):
        parts = ", ".join(_part(part) for part in answer.parts)
        if answer.status == "failed":
            return f"failed({answer.code!r})"
        if answer.status == "incomplete":
            return f"incomplete({answer.reason!r})"
        return f"calls({parts})" if len(answer.parts) > 1 else parts or "an empty response"
    if isinstance(answer, ErrorAnswer):
        return f"error(code={answer.code!r}, status={answer.status!r})"
    if isinstance(answer, EventsAnswer):
        return f"events([{len(answer.events)} events])"
    if isinstance(answer, (Drop, Hold, Insert)):
        return f"{type(answer).__name__.lower()}({describe(answer.answer)})"
    return type(answer).__name__


def _part(part: Part) -> str:
    if isinstance(part, CallPart):
        return f"tool_call({part.name!r}, {shorten(part.arguments)})"
    if isinstance(part, CustomCallPart):
        return f"custom_tool_call({part.name!r}, {shorten(part.input)})"
    if isinstance(part, ReasoningPart):
        return f"reasoning({shorten(' '.join(part.summary))})"
    return f"{'refusal' if isinstance(part, RefusalPart) else 'text'}({shorten(part.text)})"
