"""Decides whether a request means the same as a recorded one, and says where it differs. Pure: no I/O.

Not the bytes are compared but what they mean to the model: a delta equals the full conversation that it stands for.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from langchain_ws_responses import _json
from langchain_ws_responses.testing._describe import shorten, text_of
from langchain_ws_responses.testing._events import Item

__all__ = ["DEFAULT_MATCH", "checked", "differences", "meaning"]

DEFAULT_MATCH = ("model", "input", "tools", "format")
# Fields of a request that a recording may well be without. What it holds is known, too, however new.
_FIELDS = frozenset(
    {
        "access_programs", "background", "background_options", "context_management", "conversation",
        "frequency_penalty", "image", "include", "instructions", "max_output_tokens", "max_tool_calls",
        "metadata", "moderation", "parallel_tool_calls", "presence_penalty", "previous_response_id",
        "prompt", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning",
        "safety_identifier", "service_tier", "store", "stream", "stream_options", "temperature", "text",
        "tool_choice", "top_logprobs", "top_p", "truncation", "user",
    }
)  # fmt: skip
_SYSTEM = ("system", "developer")
_NOTHING: Any = object()
_CALLS = ("function_call", "custom_tool_call")


def checked(match_on: Iterable[str], bodies: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Returns the names of what must be the same: one that nothing has would let every request fit.

    Args:
        match_on: The names.
        bodies: The recorded requests.

    Raises:
        TypeError: It is one string.
        ValueError: It is empty, or a name is no field of a request.
    """
    if isinstance(match_on, str):
        raise TypeError(f'match_on must be a list of names, such as ["input"], not the string {match_on!r}')
    names = tuple(match_on)
    if not names:
        raise ValueError("match_on is empty: every request would fit. Name what must be the same")
    known = _FIELDS.union(DEFAULT_MATCH, *bodies)
    for name in names:
        if name not in known:
            raise ValueError(
                f"match_on names {name!r}, which no request has; there are {', '.join(DEFAULT_MATCH)} and the names of "
                "the other fields of a request"
            )
    return names


def meaning(body: Mapping[str, Any], seen: Sequence[Item], match_on: Iterable[str]) -> dict[str, Any]:
    """Says what a request means.

    Args:
        body: The request.
        seen: What the model saw: the chain's items and the new ones.
        match_on: What counts: `"model"`, `"input"` (with the instructions), `"tools"`, `"format"` (of structured
            output), or any other field of the body.
    """
    special: dict[str, Callable[[], Any]] = {
        "input": lambda: _conversation(body.get("instructions"), seen),
        "tools": lambda: [_plain(tool) for tool in body.get("tools") or ()],
        "format": lambda: _plain((body.get("text") or {}).get("format")),
    }
    return {name: special[name]() if name in special else _plain(body.get(name)) for name in match_on}


def _conversation(instructions: Any, seen: Sequence[Item]) -> list[Any]:
    """The lines of a conversation: what leads it, then its turns, each answer in one piece."""
    system = [instructions] if isinstance(instructions, str) and instructions else []
    rest = list(seen)
    while rest and rest[0].get("role") in _SYSTEM:
        # It means the same whether it leads the input or stands in `instructions`.
        system.append(text_of(rest.pop(0)))
    lines: list[Any] = [{"system": "\n".join(system)}] if system else []
    answer: dict[str, Any] | None = None
    for item in rest:
        kind = item.get("type", "message")
        if kind in _CALLS or (kind == "message" and item.get("role") == "assistant"):
            if answer is None:
                answer = {"assistant": ""}
                lines.append(answer)
            if kind in _CALLS:
                answer.setdefault("calls", []).append(_call(item))
            else:
                answer["assistant"] += text_of(item)
        elif (line := _line(kind, item)) is not None:
            answer = None
            lines.append(line)
    return lines


def _call(item: Item) -> dict[str, Any]:
    given = item.get("arguments", item.get("input"))
    if item["type"] == "function_call" and isinstance(given, str):
        with contextlib.suppress(ValueError):
            given = json.loads(given)
    return {"name": item.get("name"), "arguments": given, "call_id": item.get("call_id")}


def _line(kind: str, item: Item) -> dict[str, Any] | None:
    """What a client put in; what the provider made itself (reasoning, searches) says nothing new."""
    if kind == "message":
        return {str(item.get("role")): _content(item.get("content"))}
    if kind.endswith(("_output", "_response")):
        return {"output": _content(item.get("output", item.get("approve"))), "call_id": item.get("call_id")}
    return None


def _content(value: Any) -> Any:
    if not isinstance(value, list):
        return _plain(value)
    parts = [part for part in value if isinstance(part, Mapping)]
    if len(parts) == len(value) and all("text" in part for part in parts):
        return "".join(str(part["text"]) for part in parts)
    return [_plain(part) for part in value]


def _plain(value: Any) -> Any:
    """Data without fields that are null, which say as much as missing ones."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def differences(recorded: Any, now: Any, where: str = "") -> list[str]:
    """Lists where two meanings differ, a line each."""
    pairs: list[tuple[str, Any, Any]] | None = None
    if isinstance(recorded, dict) and isinstance(now, dict):
        keys = [*recorded, *(key for key in now if key not in recorded)]
        pairs = [
            (f"{where}.{key}" if where else str(key), recorded.get(key, _NOTHING), now.get(key, _NOTHING))
            for key in keys
        ]
    elif isinstance(recorded, list) and isinstance(now, list):
        both = enumerate(itertools.zip_longest(recorded, now, fillvalue=_NOTHING))
        pairs = [(f"{where}[{index}]", before, after) for index, (before, after) in both]
    if pairs is not None:
        return [line for inner, before, after in pairs for line in differences(before, after, inner)]
    if recorded is _NOTHING:
        return [f"{where}: only now: {shorten(now)}"]
    if now is _NOTHING:
        return [f"{where}: only recorded: {shorten(recorded)}"]
    if _json.canonical(recorded) == _json.canonical(now):
        return []
    return [f"{where}: recorded {shorten(recorded)}, now {shorten(now)}"]
