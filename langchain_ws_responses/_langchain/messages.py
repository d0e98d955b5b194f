"""Messages as wire items and digests, remembered per message object.

A long conversation is mostly old messages, and graphs hand over the same message objects turn after turn.
So each message is hashed once and converted only when it is sent. What is remembered is believed only
while the message still looks as it did: a message that was edited in place is hashed and converted anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, cast

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from .._json import canonical
from .._protocol.chain import Begun, History, digest
from .conversion import convert, convert_answer
from .links import LINK_KEY
from .meaning import meaning_of_message
from .remembered import Remembered, Table

__all__ = ["digest_of", "history_of", "instructions_of", "items_of", "repeats"]

# Neither is sent. They are compared by identity, because they may grow and may hold anything.
_NOT_SENT = frozenset({"response_metadata", "usage_metadata", "artifact"})
# The parsed object of a structured output, which is not sent either and may be of any class.
_PARSED = "parsed"
# Whose items are made again when they are asked for again.
_TEXTS = frozenset({HumanMessage, SystemMessage, ToolMessage})
_ATTRIBUTES = attrgetter("__dict__")


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
            entry.stateless = convert_answer(message, False)
        return entry.stateless
    return _items(message, entry)


def repeats(messages: Sequence[BaseMessage], start: int) -> bool:
    """Whether messages from a position on hold an item that one before them holds too.

    Args:
        messages: The whole conversation.
        start: The position.
    """
    later = [message for message in messages[start:] if isinstance(message, AIMessage)]
    if not later:
        return False
    ids = {item["id"] for message in later for item in items_of(message, store=None) if item.get("id")}
    return any(
        item.get("id") in ids
        for message in messages[:start]
        if ids and isinstance(message, AIMessage)
        for item in items_of(message, store=None)
    )


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
    head = _head(messages)
    # By itself: a prompt that is made anew every turn leaves the rest of the conversation as it is.
    run = _run_of(messages[head:])
    return History(
        digests=[*map(digest_of, messages[:head]), *run.digests],
        head=head,
        links=_Links(messages),
        text_head=all(_system_texts(message) is not None for message in messages[:head]),
        begun=run.begun,
    )


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
        # The prefix sets them apart from every meaning, which is a JSON list.
        entry.digest = digest(b"input\n" + canonical(_items(message, entry)))
    return entry.digest


def _items(message: BaseMessage, entry: _Entry) -> list[dict[str, Any]]:
    if entry.items is not None:
        return entry.items
    items = convert(message)
    # Text becomes an item faster than it would be compared, and most of a conversation is the text of its tools.
    if type(message) not in _TEXTS or not isinstance(message.content, str):
        entry.items = items
    return items


# --- Memory ---------------------------------------------------------------------------------------------


class _Entry(Remembered):
    """What is known of one message object, and how it looked when that was found out."""

    __slots__ = ("answer", "digest", "items", "made_by", "made_id", "run", "snapshot", "stateless")

    answer: bool
    digest: bytes | None
    items: list[dict[str, Any]] | None
    made_by: Any
    made_id: Any
    run: _Run | None
    snapshot: dict[str, Any]
    stateless: list[dict[str, Any]] | None

    @classmethod
    def of(cls, message: BaseMessage) -> _Entry:
        """Begins with nothing but the message and who made it."""
        entry = _table.entry(cls, message)
        entry.answer = isinstance(message, AIMessage)
        entry.digest = entry.items = entry.stateless = entry.run = None
        entry.made_id, entry.made_by = _maker(message.response_metadata)
        entry.snapshot = {}
        return entry


class _Run:
    """The messages of a conversation up to one of them, in columns.

    A comparison of whole columns then tells whether a long conversation still looks as it did: that is most of what a
    turn has to do, and a loop would take twice the time. The columns never change; the next turn's run takes its place.
    """

    _COLUMNS = ("digests", "made_by", "metadata", "snapshots")
    __slots__ = ("begun", *_COLUMNS)

    begun: Begun

    def __init__(self, entries: Sequence[_Entry], before: _Run | None) -> None:
        # Where there are tool calls, or text alone, who made an answer makes no difference to what it says.
        by_hand = [entry for entry in entries if entry.answer and _may_be_written_by_hand(entry.snapshot)]
        self.digests = cast("list[bytes]", [entry.digest for entry in entries])
        self.snapshots = [entry.snapshot for entry in entries]
        self.metadata = [entry.snapshot["response_metadata"] for entry in by_hand]
        self.made_by = [(entry.made_id, entry.made_by) for entry in by_hand]
        self.begun = Begun(None if before is None else before.begun)
        if before is not None:
            for name in self._COLUMNS:
                setattr(self, name, getattr(before, name) + getattr(self, name))

    def is_of(self, messages: Sequence[BaseMessage]) -> bool:
        """Says whether these messages are those of the run and look as they did."""
        try:
            # The snapshots stand on the left: their numbers decide how they compare.
            return (
                self.snapshots == list(map(_ATTRIBUTES, messages))
                and list(map(_maker, self.metadata)) == self.made_by
            )
        except Exception:
            # Something in a message cannot be compared.
            return False


def _may_be_written_by_hand(snapshot: Mapping[str, Any]) -> bool:
    calls = snapshot.get("tool_calls") or snapshot.get("invalid_tool_calls")
    return bool(snapshot) and not calls and not isinstance(snapshot["content"], str)


_table: Table[_Entry] = Table(65_536)


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


def _run_of(messages: Sequence[BaseMessage]) -> _Run:
    """The messages as a run, most of it that which the last turn left at its newest message."""
    known = _known(messages)
    start = 0 if known is None else len(known.digests)
    if known is not None and start == len(messages):
        return known
    entries = [_entry_of(message) for message in messages[start:]]
    for message, entry in zip(messages[start:], entries, strict=True):
        if entry.digest is None:
            _hash(message, entry)
    run = _Run(entries, known)
    if entries:
        entries[-1].run = run
    return run


def _known(messages: Sequence[BaseMessage]) -> _Run | None:
    """Finds the run of the first messages, if they look as they did."""
    for count in range(len(messages), 0, -1):
        entry = _table.get(id(messages[count - 1]))
        run = None if entry is None else entry.run
        if entry is None or run is None:
            continue
        same = run.is_of(messages[:count])
        if not same or count < len(messages):
            # One run for each conversation: what it knows of old messages is not to outlive the next turn.
            entry.run = None
        return run if same else None
    return None


def _looks_the_same(message: BaseMessage, entry: _Entry) -> bool:
    if entry() is not message:
        return False
    try:
        same = bool(entry.snapshot == message.__dict__)
    except Exception:
        # An array that took the place of `artifact`, say: what cannot be compared has changed.
        return False
    return same and (not entry.answer or (entry.made_id, entry.made_by) == _maker(message.response_metadata))


def _maker(metadata: Mapping[str, Any]) -> tuple[Any, Any]:
    """All that conversion reads of `response_metadata`, which is compared by identity because it grows."""
    return metadata.get("id"), metadata.get("model_provider")


def _remember(message: BaseMessage) -> _Entry:
    entry = _Entry.of(message)
    try:
        entry.snapshot = {
            name: value if name in _NOT_SENT else _snapshot(value) for name, value in message.__dict__.items()
        }
    except _Foreign:
        return entry
    _table.add(entry)
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
