"""Cassettes: recorded requests and what they were answered, as JSON Lines. Pure but for reading and writing a file.

The first line says `{"cassette": 1, …}`; each further one is an interaction:
`{"request": {"kind", "transport", "headers", "body"}, "response": {"status", "headers", "events" or "body", "lost"}}`.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from langchain_ws_responses._version import __version__
from langchain_ws_responses.testing._events import TERMINAL, ApiError, Event, Item
from langchain_ws_responses.testing._state import Node, input_items

__all__ = ["VERSION", "CassetteError", "Chains", "Interaction", "load", "save"]

VERSION = 1
_KINDS = ("create", "compact")
# Refusals that speak of a connection or of the provider's memory. A replay has its own of both.
_OF_THE_CONNECTION = frozenset(
    {
        "previous_response_not_found",
        "websocket_connection_limit_reached",
        "websocket_stream_limit_reached",
        "invalid_stream_id",
        "concurrent_turn_not_supported",
    }
)


class CassetteError(Exception):
    """A cassette cannot be read, written or used as asked. The message says what to do."""


@dataclass
class Interaction:
    """One request and its answer.

    Attributes:
        body: The request's body, without `type` and `stream_id`.
        transport: What it was recorded over: `"websocket"`, `"sse"` or `"http"`.
        kind: `"create"` or `"compact"`.
        headers: Its headers that may be kept.
        status: The HTTP status of the answer; 200 over WebSocket.
        response_headers: The answer's headers that may be kept.
        events: The events of the answer, without `stream_id`.
        response: The answer's JSON body, where it did not stream.
        lost: Whether the connection ended before the answer did.
        close_code: The close code then, if there was one.
    """

    body: dict[str, Any]
    transport: str
    kind: str = "create"
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    status: int = 200
    response_headers: dict[str, str] = field(default_factory=dict, repr=False)
    events: list[Event] | None = None
    response: Any = None
    lost: bool = False
    close_code: int | None = None

    @property
    def final(self) -> dict[str, Any] | None:
        """The finished response object, if the answer came to one."""
        value = self.response
        for event in self.events or ():
            if event.get("type") in TERMINAL and event["type"] != "error":
                value = event.get("response")
        return value if self.status < 400 and isinstance(value, dict) else None

    @property
    def error(self) -> Mapping[str, Any] | None:
        """The inner error object, if the answer was refused or broke off with one."""
        value: Any = self.response if self.status >= 400 else None
        for event in self.events or ():
            if event.get("type") == "error":
                value = event
        if not isinstance(value, Mapping):
            return None
        inner = value.get("error")
        return inner if isinstance(inner, Mapping) else value

    @property
    def playable(self) -> bool:
        """Whether a replay answers with it: not warm-ups, nor refusals that speak of a connection."""
        error = self.error
        if error is not None and error.get("code") in _OF_THE_CONNECTION:
            return False
        return self.body.get("generate") is not False

    def to_json(self) -> dict[str, Any]:
        """Its line."""
        response: dict[str, Any] = {"status": self.status, "headers": self.response_headers}
        if self.events is not None:
            response["events"] = self.events
        else:
            response["body"] = self.response
        if self.lost:
            response["lost"] = {"code": self.close_code}
        request = {
            "kind": self.kind, "transport": self.transport, "headers": self.headers, "body": self.body,
        }  # fmt: skip
        return {"request": request, "response": response}

    @classmethod
    def from_json(cls, value: Any) -> Interaction:
        """Reads a line.

        Raises:
            KeyError: Something is missing.
            TypeError: Something is not what it must be.
        """
        request, response = value["request"], value["response"]
        events = response.get("events")
        if request["kind"] not in _KINDS or not isinstance(request["body"], dict):
            raise TypeError
        if events is not None and not all(isinstance(event, dict) for event in events):
            raise TypeError
        lost = response.get("lost")
        return cls(
            request["body"], str(request["transport"]), request["kind"], dict(request.get("headers") or {}),
            int(response["status"]), dict(response.get("headers") or {}), events, response.get("body"),
            lost is not None, None if lost is None else lost.get("code"),
        )  # fmt: skip


def load(path: str | Path) -> list[Interaction]:
    """Reads a cassette.

    Raises:
        CassetteError: There is none, or it cannot be used.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise CassetteError(f"There is no cassette {path}. Record it first.") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise CassetteError(f"The cassette {path} cannot be read ({type(exc).__name__}).") from None
    head: Any = None
    with suppress(ValueError, IndexError, RecursionError):
        head = json.loads(lines[0])
    if not isinstance(head, dict) or not isinstance(head.get("cassette"), int):
        raise CassetteError(f"{path} is no cassette: its first line has no version. Record it again.")
    if head["cassette"] > VERSION:
        raise CassetteError(
            f"{path} has the version {head['cassette']} and this package reads up to {VERSION}. Upgrade it."
        )
    found = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        try:
            found.append(Interaction.from_json(json.loads(line)))
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            raise CassetteError(
                f"{path}, line {number} is broken. Repair it by hand, or record the cassette again."
            ) from None
    return found


def save(path: str | Path, interactions: Iterable[Mapping[str, Any]]) -> None:
    """Writes a cassette as a whole or not at all; folders are made.

    Args:
        path: The file.
        interactions: The lines, scrubbed.

    Raises:
        CassetteError: The file cannot be written.
    """
    path = Path(path)
    head = {"cassette": VERSION, "recorded_by": f"langchain-ws-responses {__version__}"}
    lines = [_line(value) for value in (head, *interactions)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(b"\n".join(lines) + b"\n")
            # Made for this user alone; a cassette is shared.
            Path(name).chmod(0o644)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as exc:
        raise CassetteError(f"The cassette {path} cannot be written: {exc.strerror}.") from None


def _line(value: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8 form, but an escaped one.
        return json.dumps(value, separators=(",", ":")).encode()


class Chains:
    """Which responses a recording has made so far, and what a continuation of them sees.

    Attributes:
        foreign: Ids that were continued but not made in the recording.
    """

    def __init__(self) -> None:
        self.foreign: list[str] = []
        self._nodes: dict[str, Node] = {}
        self._items: dict[str, Item] = {}

    def request(self, body: Mapping[str, Any]) -> tuple[Node | None, list[Item]]:
        """Finds what a request continues, and the items that it adds."""
        previous = body.get("previous_response_id")
        parent = self._nodes.get(previous) if isinstance(previous, str) else None
        if parent is None and isinstance(previous, str):
            parent = self._nodes[previous] = Node(previous, ())
            self.foreign.append(previous)
        try:
            given = input_items(body.get("input"))
        except ApiError:
            given = []
        return parent, [self._dereference(item) for item in given]

    def _dereference(self, item: Item) -> Item:
        return self._items.get(str(item.get("id")), item) if item.get("type") == "item_reference" else item

    def answer(self, parent: Node | None, given: list[Item], interaction: Interaction) -> None:
        """Takes note of a response."""
        final = interaction.final or {}
        output = [item for item in final.get("output") or () if isinstance(item, dict)]
        self._items.update(
            (item["id"], item) for item in (*given, *output) if isinstance(item.get("id"), str)
        )
        if interaction.kind == "create" and isinstance(final.get("id"), str):
            compacted = any(item.get("type") == "compaction" for item in output)
            items = tuple(output) if compacted else (*given, *output)
            self._nodes[final["id"]] = Node(final["id"], items, None if compacted else parent)
