"""What a recording endpoint writes down, scrubbed before it is kept on disk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from langchain_ws_responses import _json
from langchain_ws_responses.testing._cassette import CassetteError, Chains, Interaction, save
from langchain_ws_responses.testing._engine import Engine
from langchain_ws_responses.testing._events import TERMINAL, Event, Item
from langchain_ws_responses.testing._records import RecordedRequest
from langchain_ws_responses.testing._scrub import Secrets, allowed
from langchain_ws_responses.testing._state import Node

__all__ = ["Take", "Tape"]

_SECRET = re.compile(r"^cookie$|\bkey\b|token|secret|signature|password")
_ACCOUNT = re.compile(r"organization|project")
# Shorter names of accounts, such as "default", are words that bodies hold by chance.
_LONG_ENOUGH = 8
_NO_PART_OF_IT = ("type", "stream_id")


class Take:
    """One request while it is answered.

    Attributes:
        interaction: What will be written.
        request: Its record.
        parent: What it continues.
        given: The items that it adds.
        unread: The beginning of a server-sent event.
    """

    def __init__(
        self, interaction: Interaction, request: RecordedRequest, parent: Node | None, given: list[Item]
    ) -> None:
        self.interaction = interaction
        self.request = request
        self.parent = parent
        self.given = given
        self.unread = b""


class Tape:
    """The interactions of a recording, in the order in which they began.

    Args:
        engine: Keeps the records that tests look at.
        secrets: What must not be written.
        headers: Names of the headers that may be.
    """

    def __init__(self, engine: Engine, secrets: Secrets, headers: frozenset[str]) -> None:
        self.secrets = secrets
        self.steered = False
        self._engine = engine
        self._headers = headers
        self._chains = Chains()
        self._takes: list[Take] = []
        self._unfinished: list[Take] = []

    def __len__(self) -> int:
        return len(self._takes)

    def learn(self, headers: Mapping[str, str], target: str = "") -> None:
        """Takes note of the credentials in a request's headers and query."""
        for name, value in headers.items():
            lower = name.lower()
            if lower in ("authorization", "proxy-authorization"):
                self.secrets.learn(f"the header {lower}", value.rpartition(" ")[2])
            elif _SECRET.search(lower) or (_ACCOUNT.search(lower) and len(value) >= _LONG_ENOUGH):
                self.secrets.learn(f"the header {lower}", value)
        for name, value in parse_qsl(target.partition("?")[2]):
            if _SECRET.search(name.lower()):
                self.secrets.learn(f"the query parameter {name}", value)

    def begin(self, request: RecordedRequest) -> Take:
        """Begins with a request."""
        self.learn(request.headers)
        body = {key: value for key, value in request.body.items() if key not in _NO_PART_OF_IT}
        kept = allowed(request.headers, self._headers)
        interaction = Interaction(
            body, request.transport, "compact" if request.kind == "compact" else "create", kept
        )
        parent, given = self._chains.request(body)
        request.items = given
        request.parent, request.status = parent, "in_progress"
        take = Take(interaction, request, parent, given)
        self._takes.append(take)
        self._unfinished.append(take)
        self._engine.record(request)
        return take

    def event(self, take: Take, event: Event) -> None:
        """Adds an event."""
        if take.interaction.events is None:
            take.interaction.events = []
        kept = {key: value for key, value in event.items() if key != "stream_id"}
        if isinstance(headers := kept.get("headers"), dict):
            # An `error` frame brings the headers that its refusal would have had over HTTP.
            kept["headers"] = allowed(headers, self._headers)
        take.interaction.events.append(kept)

    def end(self, take: Take, *, lost: bool = False, code: int | None = None) -> None:
        """Ends an interaction, with its last event or without one."""
        if take not in self._unfinished:
            return
        self._unfinished.remove(take)
        interaction, request = take.interaction, take.request
        interaction.lost, interaction.close_code = lost, code
        error, final = interaction.error, interaction.final or {}
        request.response_id = final.get("id")
        request.error_code = None if error is None else error.get("code")
        status: Any = (
            "dropped" if lost else "error" if error is not None else final.get("status", "completed")
        )
        request.status = status
        self._chains.answer(take.parent, take.given, interaction)
        self._engine.changed()

    def head(self, take: Take, status: int, headers: Mapping[str, str]) -> None:
        """Notes the head of an answer over HTTP."""
        take.interaction.status = status
        take.interaction.response_headers = allowed(headers, self._headers)

    def piece(self, take: Take, data: bytes) -> None:
        """Takes a piece of a body of server-sent events; the terminal one ends the interaction."""
        take.unread = (take.unread + data).replace(b"\r\n", b"\n")
        *blocks, take.unread = take.unread.split(b"\n\n")
        for block in blocks:
            said = b"\n".join(line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:"))
            try:
                event = _json.loads(said)
            except ValueError:
                continue
            if isinstance(event, dict):
                self.event(take, event)
                if event.get("type") in TERMINAL:
                    self.end(take)

    def body(self, take: Take, data: bytes) -> None:
        """Takes a whole body, which ends the interaction."""
        try:
            take.interaction.response = _json.loads(data)
        except ValueError:
            take.interaction.response = data.decode("utf-8", "replace")
        self.end(take)

    def save(self, path: Path) -> int:
        """Writes the cassette, and says how many interactions it has.

        Raises:
            CassetteError: It would still hold a secret, or cannot be written.
        """
        if self.steered:
            raise CassetteError(
                f"{path} was not written: a response was steered (`response.steer`), and steering cannot be replayed. "
                "Play it with `ResponsesServer` instead."
            )
        for take in list(self._unfinished):
            self.end(take, lost=True)
        lines = []
        for number, take in enumerate(self._takes, 1):
            line = self.secrets.data(take.interaction.to_json())
            if left := self.secrets.left_in(line):
                raise CassetteError(
                    f"{path} was not written: interaction {number} still holds {', '.join(left)}. "
                    "Take it out with a scrubber."
                )
            lines.append(line)
        save(path, lines)
        return len(lines)
