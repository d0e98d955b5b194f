"""`ReplayServer`: a local server that answers from a cassette, over WebSocket and HTTP alike."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from langchain_ws_responses.testing._cassette import Chains, Interaction, load
from langchain_ws_responses.testing._describe import shorten, summary
from langchain_ws_responses.testing._events import Event, Item
from langchain_ws_responses.testing._matching import DEFAULT_MATCH, checked, differences, meaning
from langchain_ws_responses.testing._records import RecordedRequest
from langchain_ws_responses.testing._script import Answer, EventsAnswer, drop, error
from langchain_ws_responses.testing._scrub import Scrubber, Secrets
from langchain_ws_responses.testing._state import Node
from langchain_ws_responses.testing.server import ResponsesServer

__all__ = ["ReplayServer", "events_of"]

_MOST_LINES = 8


class ReplayServer(ResponsesServer):
    """A local server that answers each request with what a cassette has for one of the same meaning.

    It is a `ResponsesServer`: `requests`, `age`, `drop_connections` and the rest work as there. A delta means what the
    model sees, so that a cassette recorded over HTTP is replayed over WebSocket and the other way round. Every recorded
    answer is given once; the oldest that fits first. Warm-ups and refusals that speak of a connection (such as
    `previous_response_not_found`) are not replayed: the connections here have a life of their own.

    Args:
        cassette: The file.
        match_on: What must be the same: `"model"`, `"input"` (everything that the model sees, with its instructions),
            `"tools"`, `"format"` (of structured output), or the name of any other field of a request.
        scrubbers: Those that the cassette was recorded with: they are applied to requests before they are compared.
        allow_unused: Whether recorded answers may be left over at the end.
        options: Options of `ResponsesServer` other than its answers, such as `port` and `lanes`.

    Attributes:
        path: The file.
        recording: Always `False`.
        mismatches: What was said to requests that are not in the cassette.

    Raises:
        CassetteError: The cassette is missing or broken.
        TypeError: `match_on` is one string.
        ValueError: `match_on` is empty, or names what no request has.

    Example:
        ```python
        with ReplayServer("tests/cassettes/weather.jsonl") as server:
            ...  # point a client at `server.base_url`
        ```
    """

    recording = False

    def __init__(
        self,
        cassette: str | Path,
        *,
        match_on: Iterable[str] = DEFAULT_MATCH,
        scrubbers: Iterable[Scrubber] = (),
        allow_unused: bool = False,
        **options: Any,
    ) -> None:
        self.path = Path(cassette)
        self.mismatches: list[str] = []
        self._interactions = load(cassette)
        self._match_on = checked(match_on, (one.body for one in self._interactions))
        self._secrets = Secrets(scrubbers)
        self._allow_unused = allow_unused
        self._left = [number for number, one in enumerate(self._interactions) if one.playable]
        super().__init__(answer=self._play, **options)
        self.config.strict = False
        self.config.compact = self._compact
        chains = Chains()
        self._meanings: list[dict[str, Any]] = []
        for one in self._interactions:
            parent, given = chains.request(one.body)
            seen = [*(() if parent is None else parent.context()), *given]
            self._meanings.append(meaning(one.body, seen, self._match_on))
            chains.answer(parent, given, one)
        for name in chains.foreign:
            self._engine.store.put({"id": name, "output": []}, (), Node(name, ()))

    def __repr__(self) -> str:
        given = sum(one.playable for one in self._interactions) - len(self._left)
        return f"<ReplayServer [{self.path.name} | {given} answers given, {len(self._left)} left]>"

    @property
    def left(self) -> int:
        """How many recorded answers have not been given yet."""
        return len(self._left)

    def assert_exhausted(self) -> None:
        """Checks that every request was found in the cassette, and that every recorded answer was asked for.

        Raises:
            AssertionError: Not so; the message says which and where the difference is.
        """
        super().assert_exhausted()
        if self.mismatches:
            raise AssertionError("\n".join(self.mismatches))
        if self._left and not self._allow_unused:
            lines = [f"  interaction {number + 1}: {self._last_line(number)}" for number in self._left]
            total = sum(one.playable for one in self._interactions)
            asked = f"{len(lines)} of {total} answers in {self.path} never asked for:"
            raise AssertionError("\n".join([asked, *lines]))

    def _last_line(self, number: int) -> str:
        conversation = self._meanings[number].get("input") or [None]
        return f"ending in {shorten(conversation[-1])}"

    # -- answers

    def _find(self, request: RecordedRequest, kind: str) -> Interaction | None:
        """Takes out the oldest interaction that means the same, or notes why there is none."""
        body, seen = self._secrets.data(request.body), self._secrets.data(request.seen)
        now = meaning(body, seen, self._match_on)
        candidates = [number for number in self._left if self._interactions[number].kind == kind]
        for number in candidates:
            if not differences(self._meanings[number], now):
                self._left.remove(number)
                return self._interactions[number]
        self.mismatches.append(self._explain(request, candidates, now))
        return None

    def _explain(self, request: RecordedRequest, candidates: list[int], now: Mapping[str, Any]) -> str:
        which = f"Request {request.number} is not in the cassette {self.path}."
        if not candidates:
            words = self._secrets.text(summary(request))
            return f"{which} All recorded answers were given already; it is {words}."
        found = {number: differences(self._meanings[number], now) for number in candidates}
        nearest = min(candidates, key=lambda number: len(found[number]))
        lines = found[nearest]
        more = [f"  … and {len(lines) - _MOST_LINES} more"] if len(lines) > _MOST_LINES else []
        head = f"{which} The nearest is interaction {nearest + 1}, which differs in:"
        return "\n".join([head, *(f"  {line}" for line in lines[:_MOST_LINES]), *more])

    def _play(self, request: RecordedRequest) -> Answer:
        one = self._find(request, "create")
        if one is None:
            message = self.mismatches[-1] + "\nIf the change is meant, record the cassette again."
            return error(code="cassette_mismatch", message=message)
        played = [_continuing(event, request) for event in one.events or ()]
        broken = one.error
        if one.status >= 400 or (broken is not None and not any(_of_a_response(event) for event in played)):
            return _refusal(one, broken or {})
        if one.lost:
            # Cut at the terminal event, which is added: without one nothing would be cut.
            whole = EventsAnswer((*played, {"type": "response.completed"}))
            return drop(len(played), one.close_code, whole)
        if one.events is None:
            played = [_continuing(event, request) for event in events_of(one.final or {})]
        return EventsAnswer(tuple(played))

    def _compact(self, request: RecordedRequest) -> tuple[int, Any]:
        one = self._find(request, "compact")
        if one is None:
            inner = {
                "code": "cassette_mismatch", "message": self.mismatches[-1], "param": None,
                "type": "invalid_request_error",
            }  # fmt: skip
            return 400, {"error": inner}
        return one.status, one.response


def _of_a_response(event: Mapping[str, Any]) -> bool:
    return str(event.get("type", "")).startswith("response.")


def _continuing(event: Event, request: RecordedRequest) -> Event:
    """Lets a response say what this request continues: it may have been recorded from the full conversation."""
    response = event.get("response")
    if not isinstance(response, dict) or "previous_response_id" not in response:
        return event
    return {**event, "response": {**response, "previous_response_id": request.previous_response_id}}


def _refusal(one: Interaction, inner: Mapping[str, Any]) -> Answer:
    status: int | None = one.status if one.status >= 400 else None
    given = dict(one.response_headers)
    for event in one.events or ():
        if event.get("type") == "error":
            status = event.get("status") or event.get("status_code") or status
            given |= event.get("headers") or {}
    headers = {name: value for name, value in given.items() if name.startswith("retry-after")}
    return error(
        code=inner.get("code"),
        message=str(inner.get("message") or "The recorded request was refused."),
        status=status,
        type=inner.get("type"),
        param=inner.get("param"),
        headers=headers or None,
    )


def events_of(response: Mapping[str, Any]) -> Iterator[Event]:
    """Makes the events of a response that was recorded without streaming; each text comes in one delta."""
    bare = {**response, "status": "in_progress", "output": [], "usage": None, "completed_at": None}
    status = response.get("status")
    final = status if status in ("failed", "incomplete") else "completed"
    bodies: list[Event] = [
        {"type": "response.created", "response": bare},
        {"type": "response.in_progress", "response": bare},
    ]
    for index, item in enumerate(response.get("output") or ()):
        bodies += _item_events(index, item)
    bodies.append({"type": f"response.{final}", "response": dict(response)})
    for number, event in enumerate(bodies):
        yield {**event, "sequence_number": number}


def _item_events(index: int, item: Item) -> Iterator[Event]:
    place = {"output_index": index, "item_id": item.get("id")}
    kind = item.get("type")
    opened = {**item, "status": "in_progress"} if "status" in item else dict(item)
    if kind == "message":
        opened["content"] = []
    elif kind == "function_call":
        opened["arguments"] = ""
    elif kind == "custom_tool_call":
        opened["input"] = ""
    yield {"type": "response.output_item.added", "output_index": index, "item": opened}
    if kind == "message":
        for number, part in enumerate(item.get("content") or ()):
            yield from _part_events({**place, "content_index": number}, part)
    elif kind == "function_call":
        given = str(item.get("arguments", ""))
        yield {"type": "response.function_call_arguments.delta", **place, "delta": given}
        yield {"type": "response.function_call_arguments.done", **place, "arguments": given}
    elif kind == "custom_tool_call":
        given = str(item.get("input", ""))
        yield {"type": "response.custom_tool_call_input.delta", **place, "delta": given}
        yield {"type": "response.custom_tool_call_input.done", **place, "input": given}
    elif kind == "reasoning":
        for number, part in enumerate(item.get("summary") or ()):
            where = {**place, "summary_index": number}
            said = str(part.get("text", ""))
            yield {"type": "response.reasoning_summary_part.added", **where, "part": {**part, "text": ""}}
            yield {"type": "response.reasoning_summary_text.delta", **where, "delta": said}
            yield {"type": "response.reasoning_summary_text.done", **where, "text": said}
            yield {"type": "response.reasoning_summary_part.done", **where, "part": part}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


def _part_events(place: Mapping[str, Any], part: Mapping[str, Any]) -> Iterator[Event]:
    name, words = ("refusal", "refusal") if part.get("type") == "refusal" else ("text", "output_text")
    said = str(part.get(name, ""))
    yield {"type": "response.content_part.added", **place, "part": {**part, name: "", **_no_notes(part)}}
    yield {"type": f"response.{words}.delta", **place, "delta": said, **_no_logprobs(name)}
    for number, note in enumerate(part.get("annotations") or ()):
        yield {
            "type": "response.output_text.annotation.added",
            **place,
            "annotation_index": number,
            "annotation": note,
        }
    yield {"type": f"response.{words}.done", **place, name: said, **_no_logprobs(name)}
    yield {"type": "response.content_part.done", **place, "part": part}


def _no_notes(part: Mapping[str, Any]) -> dict[str, Any]:
    return {"annotations": []} if "annotations" in part else {}


def _no_logprobs(name: str) -> dict[str, Any]:
    return {"logprobs": []} if name == "text" else {}
