"""Answers that the local server plays: small frozen values and the functions that make them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_ws_responses.testing._gate import Gate

__all__ = [
    "Answer",
    "CallPart",
    "CustomCallPart",
    "Drop",
    "ErrorAnswer",
    "ErrorShape",
    "EventsAnswer",
    "Hold",
    "Insert",
    "Output",
    "Part",
    "RawAnswer",
    "ReasoningPart",
    "RefusalPart",
    "TextPart",
    "as_answer",
    "calls",
    "custom_tool_call",
    "drop",
    "error",
    "events",
    "failed",
    "hold",
    "incomplete",
    "insert",
    "json_answer",
    "raw",
    "reasoning",
    "refusal",
    "text",
    "tool_call",
]

ErrorShape = Literal["nested", "flat", "status_code", "bare"]


@dataclass(frozen=True)
class Answer:
    """What the server does with one create. Make one with a function such as `text` or `tool_call`."""


@dataclass(frozen=True)
class TextPart:
    """One assistant message."""

    text: str
    chunks: tuple[str, ...]
    phase: str | None = None


@dataclass(frozen=True)
class RefusalPart:
    """One assistant message that holds a refusal."""

    text: str
    chunks: tuple[str, ...]


@dataclass(frozen=True)
class CallPart:
    """One `function_call` item. `arguments` is JSON text."""

    name: str
    arguments: str
    call_id: str | None = None


@dataclass(frozen=True)
class CustomCallPart:
    """One `custom_tool_call` item."""

    name: str
    input: str
    call_id: str | None = None


@dataclass(frozen=True)
class ReasoningPart:
    """One `reasoning` item with its summary texts."""

    summary: tuple[str, ...]
    encrypted: bool = True


Part = TextPart | RefusalPart | CallPart | CustomCallPart | ReasoningPart


@dataclass(frozen=True)
class Output(Answer):
    """A response: its output items, and how it ends."""

    parts: tuple[Part, ...] = ()
    status: Literal["completed", "incomplete", "failed"] = "completed"
    reason: str | None = None
    code: str | None = None
    message: str | None = None


@dataclass(frozen=True)
class ErrorAnswer(Answer):
    """An `error` frame over WebSocket, an error body over HTTP."""

    code: str | None
    message: str
    status: int | None = 400
    type: str | None = "invalid_request_error"
    param: str | None = None
    headers: Mapping[str, str] | None = None
    shape: ErrorShape = "nested"
    after_events: int = 0
    echo_stream_id: bool = True
    answer: Answer | None = None


@dataclass(frozen=True)
class EventsAnswer(Answer):
    """Recorded event objects, played as they are."""

    events: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class RawAnswer(Answer):
    """Arbitrary frames."""

    frames: tuple[str | bytes, ...]


@dataclass(frozen=True)
class Drop(Answer):
    """The connection is lost in the middle of `answer`."""

    answer: Answer
    after_events: int = 0
    code: int | None = None


@dataclass(frozen=True)
class Hold(Answer):
    """`answer` stalls after some of its events until the gate is set."""

    gate: Gate
    answer: Answer
    after_events: int = 0


@dataclass(frozen=True)
class Insert(Answer):
    """`answer` with frames that do not belong to it."""

    frames: tuple[str | bytes | Mapping[str, Any], ...]
    answer: Answer
    after_events: int = 0


def _split(value: str, chunks: Iterable[str] | int | None) -> tuple[str, ...]:
    if chunks is None:
        chunks = 3
    if isinstance(chunks, int):
        size = max(1, -(-len(value) // max(1, chunks)))
        return tuple(value[i : i + size] for i in range(0, len(value), size))
    pieces = tuple(chunks)
    if "".join(pieces) != value:
        raise ValueError("the chunks do not add up to the text")
    return pieces


def text(value: str, chunks: Iterable[str] | int | None = None, *, phase: str | None = None) -> Output:
    """Answers with one assistant message.

    Args:
        value: The message.
        chunks: How it streams: a number of deltas, or the deltas themselves. Three by default.
        phase: `"commentary"` or `"final_answer"`, as newer models label their messages.
    """
    return Output((TextPart(value, _split(value, chunks), phase),))


def tool_call(name: str, args: Mapping[str, Any] | str | None = None, call_id: str | None = None) -> Output:
    """Answers with one function call.

    Args:
        name: The function.
        args: Its arguments: data, or JSON text as the model wrote it (broken JSON is passed on).
        call_id: The id that the output must carry; a fresh one by default.
    """
    arguments = args if isinstance(args, str) else json.dumps(args or {}, separators=(",", ":"))
    return Output((CallPart(name, arguments, call_id),))


def custom_tool_call(name: str, value: str, call_id: str | None = None) -> Output:
    """Answers with one custom tool call whose input is free text."""
    return Output((CustomCallPart(name, value, call_id),))


def calls(*answers: Output, text: str | None = None) -> Output:
    """Puts several answers into one response, for example parallel tool calls.

    Args:
        answers: Their output items follow each other.
        text: A message before them.
    """
    parts: tuple[Part, ...] = () if text is None else (TextPart(text, _split(text, None)),)
    for answer in answers:
        if answer.status != "completed":
            raise TypeError("only plain answers (text, tool_call, reasoning, refusal) go into one response")
        parts += answer.parts
    return Output(parts)


def reasoning(
    summary: str | Sequence[str] = (), then: Output | str | None = None, *, encrypted: bool = True
) -> Output:
    """Answers with a reasoning item, then with `then`.

    Args:
        summary: Its summary texts.
        then: What follows in the same response.
        encrypted: Whether `encrypted_content` is sent to a request that includes it.
    """
    texts = (summary,) if isinstance(summary, str) else tuple(summary)
    head = Output((ReasoningPart(texts, encrypted),))
    if then is None:
        return head
    tail = text(then) if isinstance(then, str) else then
    return Output(head.parts + tail.parts, tail.status, tail.reason, tail.code, tail.message)


def json_answer(value: Any) -> Output:
    """Answers with `value` as JSON text, the form of structured output.

    Args:
        value: Data, or a pydantic model.
    """
    if callable(dump := getattr(value, "model_dump", None)):
        value = dump(mode="json")
    return text(json.dumps(value, separators=(",", ":"), ensure_ascii=False))


def refusal(value: str, chunks: Iterable[str] | int | None = None) -> Output:
    """Answers with a refusal."""
    return Output((RefusalPart(value, _split(value, chunks)),))


def failed(code: str = "server_error", message: str = "The model failed to generate a response.") -> Output:
    """Ends the response with `response.failed`."""
    return Output((), "failed", None, code, message)


def incomplete(reason: str = "max_output_tokens", text: str = "") -> Output:
    """Ends the response with `response.incomplete` after `text`."""
    parts: tuple[Part, ...] = (TextPart(text, _split(text, None)),) if text else ()
    return Output(parts, "incomplete", reason)


def error(
    *,
    code: str | None = None,
    message: str = "The server had an error while processing your request.",
    status: int | None = 400,
    type: str | None = "invalid_request_error",
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
    shape: ErrorShape = "nested",
    after_events: int = 0,
    echo_stream_id: bool = True,
    answer: Answer | str | None = None,
) -> ErrorAnswer:
    """Answers with an `error` frame (WebSocket) or an error body (HTTP).

    Args:
        code: The machine-readable code.
        message: The text.
        status: The HTTP status; over WebSocket a field of the frame.
        type: The error type.
        param: The offending parameter.
        headers: `headers` of the frame, or headers of the HTTP response.
        shape: How the frame is built: `"nested"` (live service), `"flat"`, `"status_code"` (that name instead
            of `status`), `"bare"` (nested without any status).
        after_events: Events of `answer` that are sent before the error.
        echo_stream_id: Whether a named lane's frame says so.
        answer: The answer that breaks off, a short text by default.
    """
    broken = None if answer is None else as_answer(answer)
    return ErrorAnswer(
        code, message, status, type, param, headers, shape, after_events, echo_stream_id, broken
    )


def events(recorded: Iterable[Mapping[str, Any]]) -> EventsAnswer:
    """Plays recorded event objects: as frames, as SSE, or as the terminal event's response over HTTP JSON."""
    return EventsAnswer(tuple(recorded))


def raw(frames: Iterable[str | bytes]) -> RawAnswer:
    """Sends arbitrary frames: `str` as text, `bytes` as binary."""
    return RawAnswer(tuple(frames))


def drop(after_events: int = 0, code: int | None = None, answer: Answer | str | None = None) -> Drop:
    """Loses the connection in the middle of an answer.

    Args:
        after_events: Events that still arrive; the terminal event never does.
        code: Close code of a clean close, or `None` for an abrupt reset.
        answer: The answer that is cut, a short text by default.
    """
    return Drop(text("This answer is cut.") if answer is None else as_answer(answer), after_events, code)


def hold(gate: Gate, answer: Answer | str, after_events: int = 0) -> Hold:
    """Stalls an answer until `gate` is set; everything else goes on.

    Args:
        gate: A `threading.Event`, or anything with `is_set()`.
        answer: The answer.
        after_events: Events that are sent before the stall.
    """
    return Hold(gate, as_answer(answer), after_events)


def insert(
    frames: Iterable[str | bytes | Mapping[str, Any]],
    after_events: int = 0,
    answer: Answer | str | None = None,
) -> Insert:
    """Puts frames into an answer that do not belong to it, as broken servers do.

    Args:
        frames: `str` goes out as text and `bytes` as binary, as they are. A mapping is an event: it gets the
            lane's `stream_id`, unless it has one of its own.
        after_events: Events of the answer before them; more than it has puts them after the terminal event.
        answer: The answer, a short text by default.
    """
    whole = text("This answer has strange company.") if answer is None else as_answer(answer)
    return Insert(tuple(frames), whole, after_events)


def as_answer(value: Answer | Sequence[Answer] | str) -> Answer:
    """Accepts what an answering function may return.

    Raises:
        TypeError: `value` is no answer.
    """
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Answer):
        return value
    if isinstance(value, (list, tuple)) and value:
        outputs = [item for item in value if isinstance(item, Output)]
        if len(outputs) == len(value):
            return calls(*outputs) if len(outputs) > 1 else outputs[0]
        if len(value) == 1:
            return as_answer(value[0])
    raise TypeError(f"an answer, a list of plain answers or a str is needed, not {type(value).__name__}")
