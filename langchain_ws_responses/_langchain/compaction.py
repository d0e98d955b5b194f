"""Compaction on demand: `/responses/compact` turns a conversation into a shorter one that starts a new chain."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolMessage,
)

from .._protocol.chain import proves
from .messages import items_of

if TYPE_CHECKING:
    from .turn import Turn

__all__ = ["compact_request", "compacted", "window_of"]

# What the endpoint takes of a request's settings.
_TAKEN = ("model", "input", "instructions", "previous_response_id", "prompt_cache_key", "service_tier")


def compact_request(turn: Turn) -> dict[str, Any]:
    """Picks what the endpoint takes from a turn's request."""
    request = turn.http_request()
    return {name: request[name] for name in _TAKEN if request.get(name) is not None}


def window_of(head: Sequence[BaseMessage], output: Iterable[Any]) -> list[BaseMessage]:
    """Makes messages of the window that the endpoint returns.

    Args:
        head: The leading system messages, which stay as they are.
        output: The items of the window: dicts, or objects of the SDK.

    Returns:
        Messages that convert to exactly these items.
    """
    messages: list[BaseMessage] = list(head)
    for item in output:
        data = (
            item
            if isinstance(item, dict)
            else item.model_dump(mode="json", exclude_none=True, warnings=False)
        )
        _append(messages, data, len(head))
    return messages


def _append(messages: list[BaseMessage], item: dict[str, Any], head: int) -> None:
    kind = item.get("type", "message")
    role = item.get("role")
    if kind == "message" and role == "user":
        messages.append(HumanMessage(content=item["content"]))
    elif kind == "message" and role in ("system", "developer"):
        extra = {"__openai_role__": "developer"} if role == "developer" else {}
        messages.append(SystemMessage(content=item["content"], additional_kwargs=extra))
    elif kind == "function_call_output":
        messages.append(ToolMessage(content=item["output"], tool_call_id=item["call_id"]))
    elif kind == "custom_tool_call_output":
        block = {"type": kind, "output": item["output"]}
        messages.append(ToolMessage(content=[block], tool_call_id=item["call_id"]))
    else:
        answer = messages[-1] if len(messages) > head else None
        if not isinstance(answer, AIMessage):
            answer = AIMessage(content=[], response_metadata={"model_provider": "openai"})
            messages.append(answer)
        messages[-1] = _with_item(answer, item)


def _with_item(answer: AIMessage, item: dict[str, Any]) -> AIMessage:
    blocks = list(answer.content) if isinstance(answer.content, list) else []
    calls, invalid = list(answer.tool_calls), list(answer.invalid_tool_calls)
    if item.get("type", "message") == "message":
        for part in item.get("content") or ():
            kind = "refusal" if part.get("type") == "refusal" else "text"
            block = {**part, "type": kind}
            if item.get("id"):
                block["id"] = item["id"]
            blocks.append(block)
    else:
        blocks.append(item)
    if item.get("type") == "function_call":
        try:
            args = json.loads(item["arguments"], strict=False)
        except ValueError:
            args = None
        name, call_id = item["name"], item["call_id"]
        if isinstance(args, dict):
            calls.append({"type": "tool_call", "name": name, "args": args, "id": call_id})
        else:
            broken: InvalidToolCall = {
                "type": "invalid_tool_call",
                "name": name,
                "args": item["arguments"],
                "id": call_id,
                "error": None,
            }
            invalid.append(broken)
    elif item.get("type") == "custom_tool_call":
        args = {"__arg1": item["input"]}
        calls.append({"type": "tool_call", "name": item["name"], "args": args, "id": item["call_id"]})
    return AIMessage(
        content=blocks,
        tool_calls=calls,
        invalid_tool_calls=invalid,
        response_metadata=answer.response_metadata,
    )


def compacted(turn: Turn) -> tuple[int, int] | None:
    """Finds the newest compaction item that stands for exactly the messages before it.

    Returns:
        Position of its message, and of the item in that message's items; None where there is none, or where the
        messages before it are not those that it was made from.
    """
    for position, link in turn.history.links:
        items = items_of(turn.messages[position], store=turn.store)
        cuts = [index for index, item in enumerate(items) if item.get("type") == "compaction"]
        if cuts:
            key = turn.route.key(turn.model)
            proved = proves(
                turn.history, position, link, key=key, model=turn.model, instructions=turn.plan.instructions
            )
            return (position, cuts[-1]) if proved else None
    return None
