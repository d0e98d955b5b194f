"""What an assistant turn means: the part of it that a continued response must share with the graph's message.

The same answer reaches a graph in many shapes: `output_version` "v0", "responses/v1" or "v1", streamed or
not, with or without a checkpointer in between. Its meaning is the same in all of them: text with its
annotations, refusal, tool calls with name, arguments and id, invalid tool calls, and hosted items (searches, code,
MCP calls and the like) as they go on the wire. Item ids of text and calls, `name` and reasoning are not part of it.

Where two shapes of one answer do not agree, the turn is sent in full; that is slower and never wrong. So
nothing here guesses: arguments that were cut off, which a stream repairs and `invoke` reports as invalid,
do not agree. Nor does a message whose content shows its calls otherwise than `tool_calls`: one of the two was edited,
and it means what no output does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage

from .._json import canonical
from .calls import CALL_TYPES, content_calls, made_by_provider, parsed, unwrapped
from .conversion import convert_answer, disputed

__all__ = ["HOSTED_TYPES", "meaning_of_message", "meaning_of_output"]

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
    hosted: list[Any] = []
    notes: list[Any] = []
    for item in output:
        kind = _get(item, "type")
        if kind == "message":
            for part in _get(item, "content") or ():
                part_type = _get(part, "type")
                if part_type == "output_text":
                    text.append(_get(part, "text") or "")
                    notes += map(_plain, _get(part, "annotations") or ())
                elif part_type == "refusal":
                    refusal.append(_get(part, "refusal") or "")
        elif kind == "function_call":
            arguments = _get(item, "arguments")
            try:
                args = parsed(arguments)
            except (TypeError, ValueError):
                args = None
            if isinstance(args, dict):
                calls.append([_get(item, "name"), args, _get(item, "call_id")])
            else:
                invalid.append([_get(item, "name"), arguments, _get(item, "call_id")])
        elif kind == "custom_tool_call":
            calls.append([_get(item, "name"), {"__arg1": _get(item, "input")}, _get(item, "call_id")])
        elif kind in HOSTED_TYPES:
            hosted.append(_hosted(_plain(item)))
    return _meaning(text, refusal, calls, invalid, hosted, notes)


def meaning_of_message(message: AIMessage) -> bytes:
    """Returns the meaning of an assistant message, whatever its `output_version`.

    Args:
        message: The message as the graph holds it now.

    Returns:
        Canonical JSON; equal to `meaning_of_output` of the output it came from, unless it was edited.
    """
    refusal: list[str] = []
    hosted: list[Any] = []
    notes: list[Any] = []
    content = message.content
    if isinstance(content, str):
        text = [content]
    else:
        text = []
        kwargs = message.additional_kwargs
        if isinstance(told := kwargs.get("refusal"), str):
            refusal.append(told)
        if _read_blocks(content, text, refusal) or kwargs.get("tool_outputs"):
            _read_wire(message, hosted, notes)
    calls = [[call["name"], call["args"], call.get("id")] for call in message.tool_calls]
    invalid = [[call["name"], call["args"], call.get("id")] for call in message.invalid_tool_calls]
    if calls or invalid:
        if shown := disputed(message):
            # No output says two things of a call.
            hosted.append([list(call) for call in shown])
    else:
        # Hand-written calls stand in the content only, and go on the wire from there.
        calls = [list(call) for call in content_calls(message) if not made_by_provider(message)]
    return _meaning(text, refusal, calls, invalid, hosted, notes)


def _read_blocks(content: Sequence[Any], text: list[str], refusal: list[str]) -> bool:
    """Collects text and refusals from content blocks; says whether there is more that the wire items show."""
    more = False
    for raw in content:
        if isinstance(raw, str):
            text.append(raw)
            continue
        kind = raw.get("type")
        if kind == "text" or kind == "output_text":
            if isinstance(part := raw.get("text"), str):
                text.append(part)
            more = more or bool(raw.get("annotations"))
            continue
        if kind in CALL_TYPES or kind == "reasoning":
            continue
        block = unwrapped(raw)
        if block.get("type") == "refusal":
            refusal.append(block.get("refusal") or "")
        else:
            more = True
    return more


def _read_wire(message: AIMessage, hosted: list[Any], notes: list[Any]) -> None:
    """Collects hosted items and annotations, in the one form that all shapes have in common: as they are sent."""
    try:
        # As without stored state: with it, an image is only referred to.
        items = convert_answer(message, False)
    except Exception:
        # To be reported where it is sent; it is the meaning of no output.
        hosted.append(None)
        return
    for item in items:
        if item.get("type") in HOSTED_TYPES:
            hosted.append(_hosted(item))
        elif item.get("type") == "message" and isinstance(parts := item.get("content"), list):
            for part in parts:
                notes += part.get("annotations") or ()


def _hosted(item: Mapping[str, Any]) -> dict[str, Any]:
    """What a hosted item says, without what one shape writes down and another leaves out."""
    if item["type"] == "image_generation_call":
        # "v1" does not keep its size and format; nor the prompt, but that is text that may be redacted.
        item = {name: item.get(name) for name in ("type", "id", "result", "revised_prompt")}
    kept: dict[str, Any] = _without_nothing(item)
    if isinstance(arguments := kept.get("arguments"), str):
        with contextlib.suppress(ValueError):
            kept["arguments"] = parsed(arguments)
    return kept


def _plain(item: Any) -> Any:
    return item if isinstance(item, Mapping) else item.model_dump(mode="json", warnings="none")


def _without_nothing(value: Any) -> Any:
    """Leaves out members that are null or empty."""
    if isinstance(value, Mapping):
        kept = {key: _without_nothing(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None and item not in ("", [], {})}
    if isinstance(value, list):
        return [_without_nothing(item) for item in value]
    return value


def _get(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name, None)


def _meaning(
    text: Sequence[str],
    refusal: Sequence[str],
    calls: list[Any],
    invalid: list[Any],
    hosted: list[Any],
    notes: list[Any],
) -> bytes:
    if invalid and not all(call[1] for call in invalid):
        # Arguments sent as an empty string: a stream makes `{}` of them, `invoke` an invalid call.
        calls = calls + [[name, {}, call_id] for name, args, call_id in invalid if not args]
        invalid = [call for call in invalid if call[1]]
    # The shapes do not agree where hosted items stand, only on which there are.
    return canonical(
        [
            "".join(text),
            "".join(refusal),
            calls,
            invalid,
            sorted(hosted, key=canonical),
            _without_nothing(notes),
        ]
    )
