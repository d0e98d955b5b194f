"""Tool calls that stand in the content of an answer, beside its `tool_calls`, and who wrote them down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from langchain_core.messages import AIMessage

__all__ = ["CALL_TYPES", "content_calls", "made_by_provider", "parsed", "unwrapped"]

CALL_TYPES = frozenset({"function_call", "custom_tool_call", "tool_call", "invalid_tool_call"})
"""Content blocks that repeat what `tool_calls` and `invalid_tool_calls` say."""

# `json.loads(…, strict=False)` makes a decoder at every call, which costs more than the parsing.
parsed = json.JSONDecoder(strict=False).decode


def content_calls(message: AIMessage) -> list[tuple[Any, Any, Any]]:
    """Returns `(name, arguments, id)` of the calls that stand in the content, beside `tool_calls`.

    Args:
        message: An assistant message of any `output_version`.

    Returns:
        In order; arguments are JSON text for a function call of the Responses API, else a dict.
    """
    content = message.content
    if isinstance(content, str):
        return []
    calls: list[tuple[Any, Any, Any]] = []
    for raw in content:
        if isinstance(raw, str):
            continue
        block = unwrapped(raw)
        kind = block.get("type")
        if kind == "function_call":
            calls.append((block.get("name"), block.get("arguments"), block.get("call_id")))
        elif kind == "custom_tool_call":
            calls.append((block.get("name"), {"__arg1": block.get("input")}, block.get("call_id")))
        elif kind in ("tool_call", "invalid_tool_call"):
            calls.append((block.get("name"), block.get("args"), block.get("id")))
    return calls


def made_by_provider(message: AIMessage) -> bool:
    """Says whether a model made the message, so that `tool_calls` decides, or a person wrote it down.

    A person who writes `function_call` blocks by hand may leave `tool_calls` empty and means the blocks;
    the same shape on a model's answer means that its calls were removed.
    """
    metadata = message.response_metadata
    if metadata.get("id") or metadata.get("model_provider"):
        return True
    if isinstance(message.content, str):
        return False
    return any(_item_id(unwrapped(block)) for block in message.content if not isinstance(block, str))


def _item_id(block: Mapping[str, Any]) -> Any:
    """The provider's id of a call's item, which is not the call's own id."""
    kind = block.get("type")
    if kind in ("function_call", "custom_tool_call"):
        return block.get("id")
    if kind in CALL_TYPES:
        return (block.get("extras") or {}).get("item_id")
    return None


def unwrapped(block: Mapping[str, Any]) -> Mapping[str, Any]:
    """The provider's own block inside a "v1" `non_standard` one."""
    if block.get("type") == "non_standard" and isinstance(value := block.get("value"), Mapping):
        return value
    return block
