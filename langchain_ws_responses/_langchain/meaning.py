"""What an assistant turn means: the part of it that a continued response must share with the graph's message.

The same answer reaches a graph in many shapes: `output_version` "v0", "responses/v1" or "v1", streamed or
not, with or without a checkpointer in between. Its meaning is the same in all of them: text, refusal,
tool calls with name, arguments and id, invalid tool calls, and the ids of hosted items (searches, images,
MCP calls and the like). Item ids of text and calls, `name`, annotations and reasoning are not part of it.

Where two shapes of one answer do not agree, the turn is sent in full; that is slower and never wrong. So
nothing here guesses: arguments that were cut off, which a stream repairs and `invoke` reports as invalid,
do not agree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage

from .._json import canonical

__all__ = [
    "CALL_TYPES",
    "HOSTED_TYPES",
    "content_calls",
    "made_by_provider",
    "meaning_of_message",
    "meaning_of_output",
]

HOSTED_TYPES = frozenset(
    {
        "apply_patch_call",
        "apply_patch_call_output",
        "code_interpreter_call",
        "compaction",
        "computer_call",
        "file_search_call",
        "image_generation_call",
        "mcp_approval_request",
        "mcp_call",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)
"""Output items, beside text, calls and reasoning, that langchain-openai keeps on a message.

It drops all others (shell calls, programs), so no message can show whether one of those was removed.
`mcp_list_tools` is left out although it is kept: real streams begin several of them and finish only the last, so
that a streamed message does not show what the response holds; it is a listing, and nothing that anybody said."""

# `json.loads(…, strict=False)` makes a decoder at every call, which costs more than the parsing.
_parse = json.JSONDecoder(strict=False).decode

CALL_TYPES = frozenset({"function_call", "custom_tool_call", "tool_call", "invalid_tool_call"})
"""Content blocks that repeat what `tool_calls` and `invalid_tool_calls` say."""


def meaning_of_output(output: Iterable[Any]) -> bytes:
    """Returns the meaning of a response's output.

    Args:
        output: The items of `response.output`: dicts as received, or objects of the SDK.

    Returns:
        Canonical JSON; equal to `meaning_of_message` of the message that it became.
    """
    text: list[str] = []
    refusal: list[str] = []
    calls: list[Any] = []
    invalid: list[Any] = []
    hosted: set[str] = set()
    for item in output:
        kind = _get(item, "type")
        if kind == "message":
            for part in _get(item, "content") or ():
                part_type = _get(part, "type")
                if part_type == "output_text":
                    text.append(_get(part, "text") or "")
                elif part_type == "refusal":
                    refusal.append(_get(part, "refusal") or "")
        elif kind == "function_call":
            arguments = _get(item, "arguments")
            try:
                args = _parse(arguments)
            except (TypeError, ValueError):
                args = None
            if isinstance(args, dict):
                calls.append([_get(item, "name"), args, _get(item, "call_id")])
            else:
                invalid.append([_get(item, "name"), arguments, _get(item, "call_id")])
        elif kind == "custom_tool_call":
            calls.append([_get(item, "name"), {"__arg1": _get(item, "input")}, _get(item, "call_id")])
        elif kind in HOSTED_TYPES and (item_id := _get(item, "id")):
            hosted.add(item_id)
    return _meaning(text, refusal, calls, invalid, hosted)


def meaning_of_message(message: AIMessage) -> bytes:
    """Returns the meaning of an assistant message, whatever its `output_version`.

    Args:
        message: The message as the graph holds it now.

    Returns:
        Canonical JSON; equal to `meaning_of_output` of the output it came from, unless it was edited.
    """
    refusal: list[str] = []
    hosted: set[str] = set()
    content = message.content
    if isinstance(content, str):
        text = [content]
    else:
        text = []
        _read_blocks(content, text, refusal, hosted)
        kwargs = message.additional_kwargs
        if kwargs:
            _read_v0(kwargs, refusal, hosted)
    calls = [[call["name"], call["args"], call.get("id")] for call in message.tool_calls]
    invalid = [[call["name"], call["args"], call.get("id")] for call in message.invalid_tool_calls]
    if not calls and not invalid:
        # Hand-written calls stand in the content only, and go on the wire from there.
        calls = [list(call) for call in content_calls(message) if not made_by_provider(message)]
    return _meaning(text, refusal, calls, invalid, hosted)


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
        block = _unwrapped(raw)
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
    return any(_item_id(_unwrapped(block)) for block in message.content if not isinstance(block, str))


def _item_id(block: Mapping[str, Any]) -> Any:
    """The provider's id of a call's item, which is not the call's own id."""
    kind = block.get("type")
    if kind in ("function_call", "custom_tool_call"):
        return block.get("id")
    if kind in CALL_TYPES:
        return (block.get("extras") or {}).get("item_id")
    return None


def _read_blocks(content: Sequence[Any], text: list[str], refusal: list[str], hosted: set[str]) -> None:
    """Collects text, refusals and hosted ids from content blocks of "responses/v1" and "v1"."""
    called: set[str] = set()
    answered: set[str] = set()
    for raw in content:
        if isinstance(raw, str):
            text.append(raw)
            continue
        kind = raw.get("type")
        if kind == "text" or kind == "output_text":
            if isinstance(part := raw.get("text"), str):
                text.append(part)
            continue
        if kind in CALL_TYPES or kind == "reasoning":
            continue
        block = _unwrapped(raw)
        kind = block.get("type")
        if kind == "refusal":
            refusal.append(block.get("refusal") or "")
        elif kind in HOSTED_TYPES:
            _add(hosted, block.get("id"))
        elif kind == "server_tool_call":
            # "v1" splits an item into a call and a result, and sends it back only if both are there; of
            # all items only those of tool_search are two in the API as well.
            if (name := block.get("name")) != "mcp_list_tools":
                _add(hosted if name == "tool_search" else called, block.get("id"))
        elif kind == "server_tool_result":
            search = (block.get("extras") or {}).get("name") == "tool_search"
            _add(hosted if search else answered, block.get("tool_call_id"))
        elif kind == "image" and str(block.get("id")).startswith("ig_"):
            _add(hosted, block.get("id"))
    hosted |= called & answered


def _read_v0(kwargs: Mapping[str, Any], refusal: list[str], hosted: set[str]) -> None:
    """Collects what "v0" keeps in `additional_kwargs`."""
    if isinstance(told := kwargs.get("refusal"), str):
        refusal.append(told)
    for block in kwargs.get("tool_outputs") or ():
        if isinstance(block, Mapping) and block.get("type") in HOSTED_TYPES:
            _add(hosted, block.get("id"))


def _unwrapped(block: Mapping[str, Any]) -> Mapping[str, Any]:
    """The provider's own block inside a "v1" `non_standard` one."""
    if block.get("type") == "non_standard" and isinstance(value := block.get("value"), Mapping):
        return value
    return block


def _add(ids: set[str], item_id: Any) -> None:
    if isinstance(item_id, str) and item_id:
        ids.add(item_id)


def _get(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)


def _meaning(
    text: Sequence[str],
    refusal: Sequence[str],
    calls: list[Any],
    invalid: list[Any],
    hosted: set[str],
) -> bytes:
    if invalid and not all(call[1] for call in invalid):
        # Arguments sent as an empty string: a stream makes `{}` of them, `invoke` an invalid call.
        calls = calls + [[name, {}, call_id] for name, args, call_id in invalid if not args]
        invalid = [call for call in invalid if call[1]]
    return canonical(["".join(text), "".join(refusal), calls, invalid, sorted(hosted)])
