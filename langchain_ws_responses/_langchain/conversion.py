"""Messages as wire items: langchain-openai's conversion, put right where it would send what was edited.

Where the content of an answer shows other calls than `tool_calls`, the latter are sent: that is where people and tools
edit them. Nothing tells which of the two was edited, so a call that was redacted in the content alone is still sent.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.utils.json import parse_partial_json

from .._json import canonical
from .calls import content_calls, made_by_provider, parsed
from .private import construct_responses_api_input

__all__ = ["convert", "convert_answer", "detached", "disputed", "merged"]

# A wire item of an older turn that a later message answers by this item's id, or by its call id.
_ANSWERED_BY_ID = "mcp_approval_request"
_ANSWERED_BY_CALL_ID = frozenset({"apply_patch_call", "computer_call", "tool_search_call"})
# Where "v0" keeps the item ids of its calls, be there any or none.
_CALL_IDS = "__openai_function_call_ids__"
# What belongs to a call beside name, arguments and ids.
_CALL_EXTRAS = ("namespace", "async")


def convert(message: BaseMessage) -> list[dict[str, Any]]:
    kind = type(message)
    content = message.content
    if isinstance(content, str):
        if kind is HumanMessage:
            return [{"content": content, "role": "user", "type": "message"}]
        if kind is SystemMessage:
            role = message.additional_kwargs.get("__openai_role__", "system")
            if role in ("system", "developer"):
                return [{"content": content, "role": role, "type": "message"}]
        if isinstance(message, ToolMessage):
            # langchain-openai looks at string content character by character: long for outputs, longer
            # for images.
            return [_tool_output(message, content)]
    if isinstance(message, AIMessage):
        return convert_answer(message, None)
    return construct_responses_api_input([detached(message)], store=None)


def _tool_output(message: ToolMessage, content: str) -> dict[str, Any]:
    kwargs = message.additional_kwargs
    if kwargs.get("type") != "computer_call_output":
        return {"type": "function_call_output", "output": content, "call_id": message.tool_call_id}
    item = {
        "call_id": message.tool_call_id,
        "type": "computer_call_output",
        "output": {"type": "input_image", "image_url": content},
    }
    if "acknowledged_safety_checks" in kwargs:
        item["acknowledged_safety_checks"] = kwargs["acknowledged_safety_checks"]
    return item


def convert_answer(message: AIMessage, store: bool | None) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = construct_responses_api_input([detached(message)], store=store)
    return _rebuilt(message, items) if _edited(message) else items


def merged(parts: Iterable[tuple[BaseMessage, Sequence[dict[str, Any]]]]) -> list[dict[str, Any]]:
    """Joins what several messages say in one item's name: an answer that was split, or that the state holds twice.

    The service refuses an id that comes twice, and langchain-openai joins these when it converts a whole conversation.

    Args:
        parts: Messages with their items, in order; never changed.
    """
    found: list[dict[str, Any]] = []
    places: dict[str, int] = {}
    called: set[Any] = set()
    for message, items in parts:
        # A call that stands in `tool_calls` alone is none of its own where that id was called before.
        bare = (
            isinstance(message, AIMessage)
            and _CALL_IDS not in message.additional_kwargs
            and not content_calls(message)
        )
        for item in items:
            kind, item_id = item.get("type"), item.get("id")
            if kind == "message" and item_id and isinstance(content := item.get("content"), list):
                if (place := places.get(item_id)) is not None:
                    phase = {"phase": item["phase"]} if "phase" in item else {}
                    found[place] = {**found[place], "content": [*found[place]["content"], *content], **phase}
                    continue
                places[item_id] = len(found)
            elif kind == "function_call" or kind == "custom_tool_call":
                if bare and not item_id and item.get("call_id") in called:
                    continue
                called.add(item.get("call_id"))
            found.append(item)
    return found


def detached(message: BaseMessage) -> BaseMessage:
    """A copy for langchain-openai to convert: it changes blocks in place and hands out the message's own."""
    return message.model_copy(
        update={
            "content": _copied(message.content),
            "additional_kwargs": _copied(message.additional_kwargs),
        }
    )


def _copied(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value


def _edited(message: AIMessage) -> bool:
    """Says whether `tool_calls` are no longer those that the content or the provider's ids speak of."""
    valid, invalid = message.tool_calls, message.invalid_tool_calls
    shown = content_calls(message)
    # "v0" keeps no function call in its content, only the item ids by call id, in the order of the calls.
    ids = message.additional_kwargs.get(_CALL_IDS)
    if ids and isinstance(ids, Mapping) and not isinstance(message.content, str):
        broken = [call.get("id") for call in invalid if call.get("id") in ids]
        expected = [key for key in ids if key not in broken]
        if expected != [call.get("id") for call in valid if call.get("id") in ids]:
            return True
        if [key for key in ids if key in broken] != broken:
            return True
        return not _agree(shown, message, ids)
    if valid or invalid:
        return bool(shown) and not _agree(shown, message)
    if message.additional_kwargs.get("tool_calls"):
        # langchain-core made `tool_calls` from these; they were emptied since.
        return True
    return bool(shown) and made_by_provider(message)


def disputed(message: AIMessage) -> list[tuple[Any, Any, Any]]:
    """Returns the calls that the content shows, if they are not those of `tool_calls` and `invalid_tool_calls`.

    Args:
        message: An assistant message that has any of the latter.
    """
    shown = content_calls(message)
    if not shown:
        return []
    ids = message.additional_kwargs.get(_CALL_IDS)
    return [] if _agree(shown, message, ids if isinstance(ids, Mapping) else ()) else shown


def _agree(shown: Sequence[tuple[Any, Any, Any]], message: AIMessage, ids: Collection[Any] = ()) -> bool:
    """Says whether the calls that the content shows are those of the message, valid and invalid ones each in order.

    Args:
        shown: The calls in the content.
        message: The message.
        ids: Ids of calls that the content need not show.
    """
    valid, invalid = message.tool_calls, message.invalid_tool_calls
    if ids:
        valid = [call for call in valid if call.get("id") not in ids]
        invalid = [call for call in invalid if call.get("id") not in ids]
    good, bad = 0, 0
    for name, arguments, call_id in shown:
        if good < len(valid) and _is(valid[good], name, call_id) and _same(arguments, valid[good]["args"]):
            good += 1
        elif (
            bad < len(invalid)
            and _is(invalid[bad], name, call_id)
            and (arguments or "") == (invalid[bad]["args"] or "")
        ):
            bad += 1
        else:
            return False
    return good == len(valid) and bad == len(invalid)


def _is(call: Mapping[str, Any], name: Any, call_id: Any) -> bool:
    return bool(call.get("name") == name and call.get("id") == call_id)


def _same(arguments: Any, args: Any) -> bool:
    """Compares the arguments in the content with parsed ones, as JSON: 1, 1.0 and true are three things."""
    if not isinstance(arguments, str):
        return canonical(arguments) == canonical(args)
    wanted = canonical(args)
    try:
        return canonical(parsed(arguments)) == wanted
    except ValueError:
        pass
    try:
        # What a stream makes of arguments that were cut off; langchain-openai sends these as they came.
        return canonical(parse_partial_json(arguments) if arguments else {}) == wanted
    except ValueError:
        return False


def _rebuilt(message: AIMessage, items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Makes new items from the text in `items` and the message's own calls.

    Without the provider's ids: an id would let the service look up the original call. Without reasoning:
    the service refuses a reasoning item whose next item is not the one it was made with. Without hosted
    items, which need their reasoning, save those that a later message answers.
    """
    rebuilt: list[dict[str, Any]] = []
    originals: dict[Any, Mapping[str, Any]] = {}
    custom: set[Any] = set()
    for item in items:
        kind = item.get("type")
        if kind == "message" or kind in _ANSWERED_BY_CALL_ID:
            rebuilt.append({key: value for key, value in item.items() if key != "id"})
        elif kind == _ANSWERED_BY_ID:
            rebuilt.append(item)
        elif kind in ("function_call", "custom_tool_call"):
            originals.setdefault(item.get("call_id"), item)
            if kind == "custom_tool_call":
                custom |= {item.get("call_id"), item.get("name")}
    for call in message.tool_calls:
        args = call["args"]
        text = args.get("__arg1")
        # A tool keeps its kind: the output of a custom tool answers a custom call only.
        if isinstance(text, str) and len(args) == 1 and not custom.isdisjoint((call.get("id"), call["name"])):
            item = {
                "type": "custom_tool_call",
                "name": call["name"],
                "input": text,
                "call_id": call.get("id"),
            }
        else:
            item = _function_call(call["name"], json.dumps(args, ensure_ascii=False), call.get("id"))
        original = originals.get(call.get("id"), {})
        if original.get("name") == call["name"]:
            item.update({key: original[key] for key in _CALL_EXTRAS if key in original})
        rebuilt.append(item)
    for broken in message.invalid_tool_calls:
        rebuilt.append(_function_call(broken["name"], broken["args"], broken.get("id")))
    return rebuilt


def _function_call(name: Any, arguments: Any, call_id: Any) -> dict[str, Any]:
    return {"type": "function_call", "name": name, "arguments": arguments, "call_id": call_id}
