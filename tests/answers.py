"""Answers as langchain-openai makes them: from recorded streams or from invented output, over a transport in memory."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import openai
from langchain_core.messages import AIMessage, message_chunk_to_message
from langchain_openai import ChatOpenAI

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

STREAMS = Path(__file__).resolve().parent.parent.parent / "shared" / "streams"
VERSIONS = ("v0", "responses/v1", "v1")
TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")

# The HTTP library that the installed openai is built on: httpx, or httpx2 from some version on.
http = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.split(".")[0])


def recorded() -> list[str]:
    """Names of the recorded streams; one that stands for them all where there are none."""
    names = sorted(path.parent.name for path in STREAMS.glob("*/*.jsonl") if path.name != "errors.jsonl")
    return names or ["recorded streams"]


def turns_of(name: str, streams_dir: Path) -> list[list[dict[str, Any]]]:
    """The server's events in one recording, a list for each turn."""
    turns: list[list[dict[str, Any]]] = [[]]
    for path in (streams_dir / name).glob("*.jsonl"):
        for line in path.read_text().splitlines():
            data = json.loads(line)
            if data.get("dir") == "client":
                continue
            event = data["frame"] if "dir" in data else data
            turns[-1].append(event)
            if event["type"] in TERMINAL:
                turns.append([])
    return [turn for turn in turns if turn]


def answer_of(turn: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The finished response of a turn, if it came that far."""
    last = turn[-1]
    return last["response"] if last["type"] in ("response.completed", "response.incomplete") else None


def http_client(turn: Sequence[dict[str, Any]]) -> Any:
    """A client of the HTTP library that gets this turn as its answer: SSE if it asks for it, else JSON."""
    body = "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in turn)

    def handle(request: Any) -> Any:
        if json.loads(request.content).get("stream"):
            return http.Response(200, headers={"content-type": "text/event-stream"}, content=body.encode())
        return http.Response(200, json=answer_of(turn))

    return http.Client(transport=http.MockTransport(handle))


def model_for(turn: Sequence[dict[str, Any]], version: str) -> ChatOpenAI:
    """`ChatOpenAI` itself, with this turn as the service's next answer."""
    return ChatOpenAI(
        model="gpt-test",
        api_key="test",
        use_responses_api=True,
        output_version=version,
        http_client=http_client(turn),
    )


def streamed(turn: Sequence[dict[str, Any]], version: str) -> AIMessage:
    """The message that a graph gets when it streams this turn."""
    whole: Any = None
    for chunk in model_for(turn, version).stream("hello"):
        whole = chunk if whole is None else whole + chunk
    message = message_chunk_to_message(whole)
    assert isinstance(message, AIMessage)
    return message


def invoked(turn: Sequence[dict[str, Any]], version: str) -> AIMessage:
    """The message that `invoke` returns for this turn."""
    return model_for(turn, version).invoke("hello")


def messages_of(turn: Sequence[dict[str, Any]]) -> Iterator[tuple[str, AIMessage]]:
    """One answer in every shape that it can reach a graph in."""
    for version in VERSIONS:
        yield f"{version}, invoke", invoked(turn, version)
        yield f"{version}, stream", streamed(turn, version)


def turn_with(output: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """A turn whose response has this output, with the events that langchain-openai reads."""
    response = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1700000000,
        "status": "completed",
        "model": "gpt-test",
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "temperature": 1.0,
        "top_p": 1.0,
        "usage": None,
    }
    events: list[dict[str, Any]] = [{"type": "response.created", "response": response}]
    for index, item in enumerate(output):
        events += _item_events(index, item)
    events.append({"type": "response.completed", "response": {**response, "output": list(output)}})
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _item_events(index: int, item: dict[str, Any]) -> list[dict[str, Any]]:
    here = {"output_index": index, "item_id": item.get("id")}
    begun = dict(item)
    events: list[dict[str, Any]] = []
    if item["type"] == "message":
        begun["content"] = []
        for number, part in enumerate(item["content"]):
            at = {**here, "content_index": number}
            if part["type"] == "output_text":
                half = len(part["text"]) // 2
                for delta in (part["text"][:half], part["text"][half:]):
                    events.append(
                        {"type": "response.output_text.delta", **at, "delta": delta, "logprobs": []}
                    )
                events.append(
                    {"type": "response.output_text.done", **at, "text": part["text"], "logprobs": []}
                )
            else:
                events.append({"type": "response.refusal.done", **at, "refusal": part["refusal"]})
    elif item["type"] == "function_call":
        begun["arguments"] = ""
        events.append({"type": "response.function_call_arguments.delta", **here, "delta": item["arguments"]})
    return [
        {"type": "response.output_item.added", "output_index": index, "item": begun},
        *events,
        {"type": "response.output_item.done", "output_index": index, "item": item},
    ]
