"""Messages as wire items and digests, remembered per message object.

A long conversation is mostly old messages, and graphs hand over the same message objects turn after turn.
So each message is hashed once and converted only when it is sent. What is remembered is believed only
while the message still looks as it did: a message that was edited in place is hashed and converted anew.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.utils.json import parse_partial_json

from .._json import canonical
from .._protocol.chain import History, digest
from .meaning import content_calls, made_by_provider, meaning_of_message
from .private import construct_responses_api_input

__all__ = ["digest_of", "history_of", "instructions_of", "items_of"]

LINK_KEY = "openai_chain"
"""Where an answer keeps its link in `response_metadata`."""

_MAX_REMEMBERED = 65_536

# Neither is sent. They are compared by identity, because they may grow and may hold anything.
_NOT_SENT = frozenset({"response_metadata", "usage_metadata", "artifact"})
# The parsed object of a structured output, which is not sent either and may be of any class.
_PARSED = "parsed"
# A wire item of an older turn that a later message answers by this item's id, or by its call id.
_ANSWERED_BY_ID = "mcp_approval_request"
_ANSWERED_BY_CALL_ID = frozenset({"apply_patch_call", "computer_call", "tool_search_call"})
# What belongs to a call beside name, arguments and ids.
_CALL_EXTRAS = ("namespace", "async")


def items_of(message: BaseMessage, *, store: bool | None) -> list[dict[str, Any]]:
    """Converts one message to wire items, as langchain-openai does.

    An assistant message whose `tool_calls` were edited is the exception: langchain-openai sends the calls
    that the content still shows. Here it is rebuilt from its text and `tool_calls`.

    Args:
        message: Never changed.
        store: The request's `store`; `False` leaves out ids and reasoning that only stored state explains.

    Returns:
        The items. They are remembered, and they share parts with the message: callers must not change them.

    Raises:
        ValueError: langchain-openai refuses the content.
        TypeError: langchain-openai does not know this type of message.
    """
    entry = _entry_of(message)
    if store is False and isinstance(message, AIMessage):
        if entry.stateless is None:
            entry.stateless = _convert_answer(message, False)
        return entry.stateless
    if entry.items is None:
        entry.items = _convert(message)
    return entry.items


def digest_of(message: BaseMessage) -> bytes:
    """Returns the digest of what a message says.

    Args:
        message: Never changed.

    Returns:
        For an assistant message the digest of its meaning; for all others that of their exact wire items.
    """
    entry = _entry_of(message)
    return entry.digest or _hash(message, entry)


def history_of(messages: Sequence[BaseMessage]) -> History:
    """Returns what the plan of a turn looks at.

    Args:
        messages: The whole conversation, in order.

    Returns:
        Digests, leading system messages and links; the links are read from the live messages every time.
    """
    entries = _entries_of(messages)
    digests = [entry.digest for entry in entries]
    if None in digests:
        digests = [
            entry.digest or _hash(message, entry) for message, entry in zip(messages, entries, strict=True)
        ]
    head = _head(messages)
    text_head = all(_system_texts(message) is not None for message in messages[:head])
    known = cast("list[bytes]", digests)
    return History(digests=known, head=head, links=_Links(messages), text_head=text_head)


class _Links:
    """The links of a conversation, newest first; most plans look at the first one only."""

    __slots__ = ("_messages",)

    def __init__(self, messages: Sequence[BaseMessage]) -> None:
        self._messages = messages

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        for position in range(len(self._messages) - 1, -1, -1):
            message = self._messages[position]
            if isinstance(message, AIMessage):
                link = message.response_metadata.get(LINK_KEY)
                yield position, link if isinstance(link, Mapping) else None


def instructions_of(messages: Sequence[BaseMessage]) -> str:
    """Returns the text of the leading system messages, for `instructions`.

    Args:
        messages: The whole conversation; `history_of(messages).text_head` must be true.
    """
    texts: list[str] = []
    for message in messages[: _head(messages)]:
        texts += _system_texts(message) or ()
    return "\n\n".join(text for text in texts if text)


def _head(messages: Sequence[BaseMessage]) -> int:
    for index, message in enumerate(messages):
        if not isinstance(message, SystemMessage):
            return index
    return len(messages)


def _system_texts(message: BaseMessage) -> tuple[str, ...] | None:
    """The texts of a system message, or None if its wire items hold more than text."""
    texts: list[str] = []
    for item in items_of(message, store=None):
        content = item.get("content")
        if item.keys() != {"type", "role", "content"}:
            return None
        if isinstance(content, str):
            texts.append(content)
            continue
        for part in content or ():
            if part.keys() != {"type", "text"} or part["type"] != "input_text":
                return None
            texts.append(part["text"])
    return tuple(texts)


def _hash(message: BaseMessage, entry: _Entry) -> bytes:
    if isinstance(message, AIMessage):
        entry.digest = digest(meaning_of_message(message))
    else:
        if entry.items is None:
            entry.items = _convert(message)
        # The prefix sets them apart from every meaning, which is a JSON list.
        entry.digest = digest(b"input\n" + canonical(entry.items))
    return entry.digest


# --- Conversion -----------------------------------------------------------------------------------------


def _convert(message: BaseMessage) -> list[dict[str, Any]]:
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
        return _convert_answer(message, None)
    return construct_responses_api_input([_detached(message)], store=None)


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


def _convert_answer(message: AIMessage, store: bool | None) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = construct_responses_api_input([_detached(message)], store=store)
    return _rebuilt(message, items) if _edited(message) else items


def _detached(message: BaseMessage) -> BaseMessage:
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
    ids = message.additional_kwargs.get("__openai_function_call_ids__")
    if ids and isinstance(ids, Mapping) and not isinstance(message.content, str):
        broken = [call.get("id") for call in invalid if call.get("id") in ids]
        expected = [key for key in ids if key not in broken]
        if expected != [call.get("id") for call in valid if call.get("id") in ids]:
            return True
        if [key for key in ids if key in broken] != broken:
            return True
        valid = [call for call in valid if call.get("id") not in ids]
        invalid = [call for call in invalid if call.get("id") not in ids]
        return not _agree(shown, valid, invalid)
    if valid or invalid:
        return bool(shown) and not _agree(shown, valid, invalid)
    if message.additional_kwargs.get("tool_calls"):
        # langchain-core made `tool_calls` from these; they were emptied since.
        return True
    return bool(shown) and made_by_provider(message)


def _agree(
    shown: Sequence[tuple[Any, Any, Any]], valid: Sequence[ToolCall], invalid: Sequence[InvalidToolCall]
) -> bool:
    """Says whether the calls that the content shows are `valid` and `invalid`, each in its order."""
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
        return canonical(json.loads(arguments, strict=False)) == wanted
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


# --- Memory ---------------------------------------------------------------------------------------------


class _Ref(weakref.ref["BaseMessage"]):
    """Knows where in the table its message stands. One function for all: a table of thousands has no closures."""

    __slots__ = ("key",)

    key: int


def _forget(ref: weakref.ref[BaseMessage]) -> None:
    _table.pop(cast("_Ref", ref).key, None)


class _Entry:
    """What is known of one message object, and how it looked when that was found out."""

    __slots__ = ("answer", "digest", "items", "made_by", "ref", "snapshot", "stateless")

    ref: _Ref
    """Set when the entry is entered in the table."""

    def __init__(self, message: BaseMessage) -> None:
        self.answer = isinstance(message, AIMessage)
        self.digest: bytes | None = None
        self.items: list[dict[str, Any]] | None = None
        self.stateless: list[dict[str, Any]] | None = None
        self.snapshot: dict[str, Any] = {}
        self.made_by = _maker(message.response_metadata)


_table: dict[int, _Entry] = {}
# Guards additions only. Look-ups and the removal of dead messages are single operations on the dict, and
# a removal may run at any moment, also in a thread that holds this lock.
_lock = threading.Lock()


class _Number:
    """A number in a snapshot. `1 == 1.0 == True` in Python, and they are three things in JSON."""

    __slots__ = ("kind", "text", "value")

    def __init__(self, value: float) -> None:
        self.kind = type(value)
        self.text = repr(value)
        self.value = value

    def __eq__(self, other: object) -> bool:
        return other is self.value or (type(other) is self.kind and repr(other) == self.text)

    __hash__ = None  # type: ignore[assignment]


class _Foreign(Exception):
    """The message holds something whose changes cannot be noticed."""


def _entry_of(message: BaseMessage) -> _Entry:
    entry = _table.get(id(message))
    return entry if entry is not None and _looks_the_same(message, entry) else _remember(message)


def _entries_of(messages: Sequence[BaseMessage]) -> list[_Entry]:
    """Finds what is known of each message that still looks the same, and begins anew with the others."""
    entries: list[Any] = list(map(_table.get, map(id, messages)))
    first = len(entries)
    while first and entries[first - 1] is None:
        first -= 1
    # Old messages first, in a few large comparisons instead of a loop: that is most of the history, every turn.
    if not _all_look_the_same(messages[:first], entries[:first]):
        first = 0
    for position in range(first, len(entries)):
        message, entry = messages[position], entries[position]
        if entry is None or not _looks_the_same(message, entry):
            entries[position] = _remember(message)
    return entries


def _all_look_the_same(messages: Sequence[BaseMessage], entries: Sequence[_Entry]) -> bool:
    try:
        # The snapshots stand on the left: their numbers decide how they compare.
        if [entry.snapshot for entry in entries] != [message.__dict__ for message in messages]:
            return False
        # As `_maker` reads it, without a call for each message of the history.
        return [entry.made_by for entry in entries if entry.answer] == [
            (message.response_metadata.get("id"), message.response_metadata.get("model_provider"))
            for entry, message in zip(entries, messages, strict=True)
            if entry.answer
        ]
    except Exception:
        # A message between old ones is new, or holds what cannot be compared.
        return False


def _looks_the_same(message: BaseMessage, entry: _Entry) -> bool:
    if entry.ref() is not message:
        return False
    try:
        same = bool(entry.snapshot == message.__dict__)
    except Exception:
        # An array that took the place of `artifact`, say: what cannot be compared has changed.
        return False
    return same and (not entry.answer or entry.made_by == _maker(message.response_metadata))


def _maker(metadata: Mapping[str, Any]) -> tuple[Any, Any]:
    """All that conversion reads of `response_metadata`, which is not in a snapshot because it grows."""
    return metadata.get("id"), metadata.get("model_provider")


def _remember(message: BaseMessage) -> _Entry:
    entry = _Entry(message)
    try:
        entry.snapshot = {
            name: value if name in _NOT_SENT else _snapshot(value) for name, value in message.__dict__.items()
        }
    except _Foreign:
        return entry
    key = id(message)
    entry.ref = _Ref(message, _forget)
    entry.ref.key = key
    with _lock:
        _table.pop(key, None)
        _table[key] = entry
        while len(_table) > _MAX_REMEMBERED:
            try:
                _table.pop(next(iter(_table)), None)
            except (RuntimeError, StopIteration):
                # A message died between the two steps.
                continue
    return entry


# Most messages hold several empty containers. Snapshots are only ever compared, so that all can share these.
_NOTHING: dict[str, Any] = {}
_NONE: list[Any] = []


def _snapshot(value: Any) -> Any:
    """Copies containers, shares strings, and wraps numbers."""
    kind = type(value)
    if kind is str or value is None or isinstance(value, str):
        return value
    if kind is dict:
        if not value:
            return _NOTHING
        copied = {}
        for key, item in value.items():
            if type(key) is not str:
                raise _Foreign
            copied[key] = item if key == _PARSED else _snapshot(item)
        return copied
    if kind is list:
        return [_snapshot(item) for item in value] if value else _NONE
    if kind is int or kind is float or kind is bool:
        return _Number(value)
    raise _Foreign
