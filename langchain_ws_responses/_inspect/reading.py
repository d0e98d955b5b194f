"""A trace read back: who was connected when, what was sent on which lane, and what came of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._transport.trace import EVENTS, TRACE_VERSION

__all__ = ["Attempt", "Connection", "Dial", "NotATrace", "Trace", "read"]

_KNOWN = frozenset(EVENTS.values()) | {"trace", "dropped"}


class NotATrace(Exception):
    """No line of the file could be read. The message says what to do."""


@dataclass(kw_only=True)
class Attempt:
    """One attempt at a turn.

    Attributes:
        turn: The turn's label.
        number: 1 for the first attempt at the turn.
        kind: `websocket` or `http`.
        mode: `full`, `delta` or `warmup`; empty where nothing was sent.
        reason: Why it was sent so.
        sent: When it was written, in seconds since the epoch.
        ended: When it ended; None where the trace does not say.
        again: How the turn went on after it: `again`, `full` or `http`; empty where it did not.
        new_lane: Whether it was the first on its lane, beside others.
    """

    group: str
    turn: str
    number: int
    connection: str = ""
    lane: str = ""
    kind: str = "websocket"
    mode: str = ""
    reason: str = ""
    items: int = 0
    bytes: int = 0
    model: str = ""
    node: str = ""
    reused: bool = False
    waited: float = 0.0
    sent: float = 0.0
    ended: float | None = None
    first_event: float | None = None
    longest_gap: float = 0.0
    events: int = 0
    received: int = 0
    failure: str = ""
    status: int | None = None
    phase: str = ""
    again: str = ""
    again_reason: str = ""
    new_lane: bool = False

    @property
    def sort(self) -> str:
        """How it is shown: `delta`, `full`, `warmup`, `resend`, `http`, or `refused` where nothing was sent."""
        if self.phase == "connect" and not self.mode:
            return "refused"
        if self.kind == "http":
            return "http"
        return "resend" if self.number > 1 and self.mode != "warmup" else self.mode

    @property
    def fork(self) -> bool:
        """Whether it continues a response on another lane of a connection that was in use."""
        return self.mode == "delta" and self.new_lane and self.reused

    @property
    def outcome(self) -> str:
        """How it ended, in a few words."""
        if self.failure:
            status = f" ({self.status})" if self.status is not None else ""
            return f"failed: {self.failure}{status}"
        if self.ended is None:
            return "no end in the trace"
        return "done" if self.phase == "terminal" else "left by the caller"

    @property
    def follows(self) -> str:
        """What followed a failure, in a few words; empty where nothing did."""
        if not self.again:
            return ""
        what = {"again": "sent again", "full": "sent again in full", "http": "sent over HTTP"}
        reason = f": {self.again_reason}" if self.again_reason else ""
        return f"{what.get(self.again, self.again)}{reason}"


@dataclass(kw_only=True)
class Connection:
    """One connection. `lanes` are its lanes' names in the order of their first turns."""

    group: str
    label: str
    endpoint: str = ""
    opened: float | None = None
    dialing: float = 0.0
    dials: int = 1
    retired: float | None = None
    closed: float | None = None
    why: str = ""
    code: int | None = None
    lost: int = 0
    lanes: list[str] = field(default_factory=list)


@dataclass(kw_only=True)
class Dial:
    """A dial that failed: it is tried again after `wait` seconds, or given up for that long."""

    group: str
    at: float
    kind: str
    status: int | None
    wait: float
    given_up: bool


@dataclass
class Trace:
    """All of a trace.

    Attributes:
        groups: Process and manager of whatever happened, in order of appearance.
        skipped: Lines that could not be read.
        dropped: Events that were never written, because the disk was too slow.
        started: When the first thing happened.
        ended: When the last one did.
    """

    connections: list[Connection] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    dials: list[Dial] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    skipped: int = 0
    dropped: int = 0
    started: float = 0.0
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """From the first to the last thing that happened."""
        return max(0.0, self.ended - self.started)

    def on_lane(self, connection: Connection, lane: str) -> list[Attempt]:
        """The attempts on one lane, in order."""
        where = (connection.group, connection.label, lane)
        return [one for one in self.attempts if (one.group, one.connection, one.lane) == where]

    def over_http(self) -> list[Attempt]:
        """The attempts over HTTP, in order."""
        return [one for one in self.attempts if one.sort == "http"]


class _Reader:
    """Puts events together. What a line lacks or has wrong makes it unreadable."""

    def __init__(self) -> None:
        self.trace = Trace()
        self._connections: dict[tuple[str, str], Connection] = {}
        self._attempts: dict[tuple[str, str, int], Attempt] = {}

    def take(self, line: Mapping[str, Any]) -> None:
        event, at = line["event"], _real(line["at"])
        if event == "dropped":
            self.trace.dropped += int(line["count"])
            return
        if event not in _KNOWN or event == "trace":
            return
        group = f"{int(line['pid'])}/{line['manager']}"
        getattr(self, f"_{event}")(line, group, at)
        if group not in self.trace.groups:
            self.trace.groups.append(group)

    def _connection(self, line: Mapping[str, Any], group: str) -> Connection:
        key = group, str(line["connection"])
        if key not in self._connections:
            made = Connection(group=group, label=key[1], endpoint=str(line["endpoint"]))
            self._connections[key] = made
            self.trace.connections.append(made)
        return self._connections[key]

    def _attempt(self, line: Mapping[str, Any], group: str, at: float) -> Attempt:
        number, label = int(line["attempt"]), str(line["turn"])
        # A turn that nobody named is told apart by its lane.
        key = group, label or f"{line['connection']}/{line.get('lane', '')}", number
        known = self._attempts.get(key)
        if known is None or (not label and known.ended is not None):
            known = self._attempts[key] = Attempt(group=group, turn=label, number=number, sent=at)
            self.trace.attempts.append(known)
        return known

    def _connection_opened(self, line: Mapping[str, Any], group: str, at: float) -> None:
        seconds, dials = _real(line["seconds"]), int(line["attempts"])
        one = self._connection(line, group)
        one.opened, one.dialing, one.dials = at, seconds, dials

    def _connection_retired(self, line: Mapping[str, Any], group: str, at: float) -> None:
        one = self._connection(line, group)
        one.retired, one.why = at, str(line["why"])

    def _connection_closed(self, line: Mapping[str, Any], group: str, at: float) -> None:
        code, lost = _number(line["code"]), int(line["lost"])
        one = self._connection(line, group)
        one.closed, one.why, one.code, one.lost = at, str(line["why"]), code, lost

    def _dial_retrying(self, line: Mapping[str, Any], group: str, at: float) -> None:
        self._dial(line, group, at, _real(line["wait"]), given_up=False)

    def _dial_given_up(self, line: Mapping[str, Any], group: str, at: float) -> None:
        self._dial(line, group, at, _real(line["pause"]), given_up=True)

    def _dial(self, line: Mapping[str, Any], group: str, at: float, wait: float, *, given_up: bool) -> None:
        status = _number(line["status"])
        dial = Dial(group=group, at=at, kind=str(line["kind"]), status=status, wait=wait, given_up=given_up)
        self.trace.dials.append(dial)

    def _turn_sent(self, line: Mapping[str, Any], group: str, at: float) -> None:
        items, size, waited = int(line["items"]), int(line["bytes"]), _real(line["waited"])
        words = {name: str(line[name]) for name in ("kind", "lane", "mode", "reason", "model", "node")}
        one = self._attempt(line, group, at)
        one.items, one.bytes, one.waited, one.reused, one.sent = items, size, waited, bool(line["reused"]), at
        one.connection = str(line["connection"])
        for name, word in words.items():
            setattr(one, name, word)
        if one.kind != "http":
            lanes = self._connection(line, group).lanes
            if one.lane not in lanes:
                one.new_lane = bool(lanes)
                lanes.append(one.lane)

    def _turn_ended(self, line: Mapping[str, Any], group: str, at: float) -> None:
        first, gap = line["first_event"], _real(line["longest_gap"])
        first = None if first is None else _real(first)
        events, received, status = int(line["events"]), int(line["bytes"]), _number(line["status"])
        one = self._attempt(line, group, at)
        one.ended, one.first_event, one.longest_gap = at, first, gap
        one.events, one.received, one.status = events, received, status
        one.failure, one.phase = str(line["failure"] or ""), str(line["phase"])

    def _turn_refused(self, line: Mapping[str, Any], group: str, at: float) -> None:
        status = _number(line["status"])
        one = self._attempt(line, group, at)
        one.ended, one.failure, one.status, one.phase = at, str(line["failure"]), status, "connect"

    def _turn_content(self, line: Mapping[str, Any], group: str, at: float) -> None:
        """Is for people who look into the file; it is shown nowhere."""

    def _turn_retrying(self, line: Mapping[str, Any], group: str, at: float) -> None:
        one = self._attempt(line, group, at)
        one.again, one.again_reason = str(line["action"]), str(line["reason"])
        one.failure = one.failure or str(line["failure"])


def _real(value: Any) -> float:
    """A number of seconds; what is none makes a line unreadable."""
    number = float(value)
    if not math.isfinite(number) or number < 0:
        raise ValueError(number)
    return number


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


def _finish(trace: Trace) -> Trace:
    trace.attempts.sort(key=lambda one: one.sent)
    trace.connections.sort(key=lambda one: one.opened or 0.0)
    moments = [one.sent - one.waited for one in trace.attempts]
    moments += [one.ended for one in trace.attempts if one.ended is not None]
    moments += [dial.at for dial in trace.dials]
    for one in trace.connections:
        moments += [at for at in (one.retired, one.closed) if at is not None]
        if one.opened is not None:
            moments.append(one.opened - one.dialing)
    if moments:
        trace.started, trace.ended = min(moments), max(moments)
    return trace


def _lines(raw: Iterable[bytes]) -> Iterable[Any]:
    for line in raw:
        if line.strip():
            try:
                yield json.loads(line)
            except (ValueError, RecursionError):
                yield None


def read(path: Path) -> Trace:
    """Reads a trace.

    Args:
        path: The file.

    Returns:
        The trace; lines that cannot be read are counted and left out.

    Raises:
        NotATrace: The file has no readable line, or is empty.
        OSError: The file cannot be read.
    """
    reader, good, newer = _Reader(), 0, 0
    with path.open("rb") as file:
        for line in _lines(file):
            try:
                version = int(line["v"])
                if version > TRACE_VERSION:
                    newer += 1
                    raise ValueError
                reader.take(line)
                good += 1
            except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
                reader.trace.skipped += 1
    if good:
        return _finish(reader.trace)
    if newer:
        raise NotATrace(
            f"{path} was written by a newer version of this package: upgrade langchain-ws-responses."
        )
    if reader.trace.skipped:
        raise NotATrace(
            f"{path} is not a trace: none of its lines could be read. Set LANGCHAIN_WS_RESPONSES_TRACE to a file name "
            "while your program runs, and inspect that file."
        )
    raise NotATrace(
        f"{path} is empty: nothing has been traced yet. Traced are models on a ConnectionManager, over the socket or "
        "as its fallback."
    )
