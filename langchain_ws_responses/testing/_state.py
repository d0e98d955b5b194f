"""What the service remembers: stored responses, each connection's memory, lane order. Pure: no I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from langchain_ws_responses import _json
from langchain_ws_responses.testing._events import ApiError, Item

__all__ = [
    "LaneQueue",
    "Memory",
    "Node",
    "Store",
    "check_lane_name",
    "input_items",
    "not_found",
    "rough_tokens",
]

_LANE = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_PAIRS = {
    "function_call_output": ("function_call", "function call output", "function call"),
    "custom_tool_call_output": ("custom_tool_call", "custom tool call output", "custom tool call"),
}
_CALLS = {call: name for call, _, name in _PAIRS.values()}
T = TypeVar("T")


@dataclass(eq=False)
class Node:
    """One response in a chain: what it added to what the model sees.

    Attributes:
        response_id: Its id.
        items: Its input and output items, or the compacted window and its output.
        parent: The response it continues; `None` at the start of a chain and after a compaction.
        tokens: Rough size of everything up to here.
    """

    response_id: str
    items: tuple[Item, ...]
    parent: Node | None = None
    tokens: int = 0

    def context(self) -> list[Item]:
        """Everything a continuation of this response sees, oldest first."""
        parts: list[tuple[Item, ...]] = []
        node: Node | None = self
        while node is not None:
            parts.append(node.items)
            node = node.parent
        return [item for part in reversed(parts) for item in part]


@dataclass
class Stored:
    """A response kept by `store: true`."""

    response: dict[str, Any]
    input: tuple[Item, ...]
    node: Node | None


class Store:
    """Storage, shared by WebSocket and HTTP."""

    def __init__(self) -> None:
        self._responses: dict[str, Stored] = {}
        self._items: dict[str, Item] = {}

    def put(self, response: dict[str, Any], items: Sequence[Item], node: Node | None) -> None:
        """Keeps a response. `node` is `None` where it cannot be continued from."""
        self._responses[response["id"]] = Stored(response, tuple(items), node)
        for item in (*items, *(response.get("output") or ())):
            if isinstance(item.get("id"), str) and item.get("type") != "item_reference":
                self._items[item["id"]] = item

    def get(self, response_id: str) -> Stored | None:
        """Finds a response."""
        return self._responses.get(response_id)

    def item(self, item_id: str) -> Item | None:
        """Finds an item by its id, for `item_reference`."""
        return self._items.get(item_id)

    def remove(self, response_id: str) -> bool:
        """Deletes a response; says whether it was there."""
        return self._responses.pop(response_id, None) is not None

    def shrink(self, keep: int) -> None:
        """Deletes the oldest responses, with the items that came with them, beyond `keep`."""
        for response_id in list(self._responses)[: max(0, len(self._responses) - keep)]:
            gone = self._responses.pop(response_id)
            for item in (*gone.input, *(gone.response.get("output") or ())):
                item_id = item.get("id")
                if isinstance(item_id, str) and self._items.get(item_id) is item:
                    del self._items[item_id]

    def clear(self) -> None:
        """Deletes everything."""
        self._responses.clear()
        self._items.clear()


@dataclass
class Memory:
    """A connection's memory: the latest response of each lane (`None` is the default lane)."""

    latest: dict[str | None, Node] = field(default_factory=dict)

    def find(self, response_id: str) -> Node | None:
        """Finds a response that is some lane's latest."""
        for node in self.latest.values():
            if node.response_id == response_id:
                return node
        return None

    def evict(self, lane: str | None, response_id: str) -> None:
        """Forgets what a failed continuation referred to, if that is this lane's own latest response."""
        node = self.latest.get(lane)
        if node is not None and node.response_id == response_id:
            del self.latest[lane]

    def forget(self, response_id: str | None) -> None:
        """Forgets a response on every lane, or all of them."""
        for lane in [k for k, n in self.latest.items() if response_id in (None, n.response_id)]:
            del self.latest[lane]


class LaneQueue(Generic[T]):
    """Decides what may run: first in, first out per lane; a limit over all lanes."""

    def __init__(self) -> None:
        self._waiting: list[tuple[str | None, T]] = []
        self._busy: set[str | None] = set()

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self._busy or self._waiting)

    def submit(self, lane: str | None, job: T) -> None:
        """Queues a job."""
        self._waiting.append((lane, job))

    def start(self, limit: int) -> list[tuple[str | None, T]]:
        """Takes out what may start now, in order of arrival, and marks its lanes busy."""
        ready: list[tuple[str | None, T]] = []
        rest: list[tuple[str | None, T]] = []
        for lane, job in self._waiting:
            if len(self._busy) < limit and lane not in self._busy and all(lane != name for name, _ in rest):
                self._busy.add(lane)
                ready.append((lane, job))
            else:
                rest.append((lane, job))
        self._waiting = rest
        return ready

    def finish(self, lane: str | None) -> None:
        """Marks a lane free."""
        self._busy.discard(lane)

    def clear(self) -> list[T]:
        """Takes out everything that waits."""
        jobs = [job for _, job in self._waiting]
        self._waiting = []
        return jobs


def rough_tokens(items: Sequence[Any]) -> int:
    """Counts tokens roughly: four bytes of JSON each."""
    return sum(len(_json.dumps(item)) for item in items) // 4


def input_items(value: Any) -> list[Item]:
    """Turns `input` into items: a string is one user message.

    Raises:
        ApiError: `input` is neither text nor a list of objects.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [{"type": "message", "role": "user", "content": value}]
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return list(value)
    raise ApiError(
        400,
        "invalid_type",
        "Invalid type for 'input': expected one of a string or array of objects.",
        "input",
    )


def check_lane_name(value: Any) -> str | None:
    """Reads `stream_id`.

    Raises:
        ApiError: It is no valid lane name.
    """
    if value is None:
        return None
    if isinstance(value, str) and _LANE.fullmatch(value):
        return value
    raise ApiError(
        400,
        "invalid_stream_id",
        "Invalid 'stream_id': expected 1 to 256 characters of A-Z, a-z, 0-9, '_', '.' and '-'.",
        "stream_id",
    )


def not_found(response_id: str) -> ApiError:
    """Makes the error for an id that is neither in memory nor in storage."""
    return ApiError(
        400,
        "previous_response_not_found",
        f"Previous response with id '{response_id}' not found.",
        "previous_response_id",
    )


def open_calls(seen: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Finds the tool calls that have no output yet."""
    waiting: dict[tuple[str, Any], Mapping[str, Any]] = {}
    for item in seen:
        kind = item.get("type")
        if kind in _CALLS:
            waiting[(kind, item.get("call_id"))] = item
        elif kind in _PAIRS:
            waiting.pop((_PAIRS[kind][0], item.get("call_id")), None)
    return list(waiting.values())


def check_items(seen: Sequence[Mapping[str, Any]], *, generate: bool) -> None:
    """Checks that the model can be given `seen`.

    Args:
        seen: The chain's items and the new ones.
        generate: Whether a generation follows; only then must every call have its output.

    Raises:
        ApiError: An item id occurs twice, an output has no call, or a call has no output.
    """
    ids: set[str] = set()
    known: set[tuple[str, Any]] = set()
    for item in seen:
        item_id, kind = item.get("id"), item.get("type")
        if isinstance(item_id, str):
            if item_id in ids:
                raise _bad_input(
                    f"Duplicate item found with id {item_id}. "
                    "Remove duplicate items from your input and try again."
                )
            ids.add(item_id)
        if kind in _CALLS:
            known.add((kind, item.get("call_id")))
        elif kind in _PAIRS:
            call, name, _ = _PAIRS[kind]
            if (call, item.get("call_id")) not in known:
                raise _bad_input(f"No tool call found for {name} with call_id {item.get('call_id')}.")
    if generate:
        for item in open_calls(seen):
            name = _CALLS[item["type"]]
            raise _bad_input(f"No tool output found for {name} {item.get('call_id')}.")


def _bad_input(message: str) -> ApiError:
    return ApiError(400, None, message, "input")
