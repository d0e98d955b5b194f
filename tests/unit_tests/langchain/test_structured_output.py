"""Structured output over the socket: the same request and the same result as over HTTP, errors too."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage
from langchain_core.tools import tool
from pairs import WAYS, bare, http_model, outcome, settings_of, socket_model
from pydantic import BaseModel, Field

from langchain_ws_responses.testing import (
    Answer,
    ResponsesServer,
    incomplete,
    json_answer,
    refusal,
    text,
    tool_call,
)

if TYPE_CHECKING:
    from langchain_ws_responses import ConnectionManager


class Person(BaseModel):
    """A person."""

    name: str = Field(description="Full name")
    age: int


class PersonDict(TypedDict):
    """A person."""

    name: str
    age: int


SCHEMA = {
    "title": "Person",
    "description": "A person.",
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, Any] = {"pydantic": Person, "json schema": SCHEMA, "typed dict": PersonDict}
METHODS = ("json_schema", "function_calling", "json_mode")
GOOD = {"name": "Ada", "age": 36}


@tool
def look_up(name: str) -> str:
    """Look a person up."""
    return name


def good_answer(method: str, schema: str) -> Answer:
    if method == "function_calling":
        return tool_call("PersonDict" if schema == "typed dict" else "Person", GOOD)
    return json_answer(GOOD)


BAD_ANSWERS: dict[str, Answer] = {
    "refusal": refusal("I do not talk about people."),
    "no JSON": text("Ada is 36."),
    "half JSON": incomplete(text='{"name": "Ada", "a'),
    "wrong fields": json_answer({"name": "Ada", "age": "old"}),
    "nothing": text(""),
}


def compare(
    manager: ConnectionManager, way: str, answer: Answer, fields: dict[str, Any], **options: Any
) -> tuple[list[Any], BaseException | None]:
    """Runs both models on the same answer; the socket's outcome, proved equal to that over HTTP."""
    with ResponsesServer(answer, answer) as server:
        oracle = http_model(server, **fields).with_structured_output(**options)
        model = socket_model(server, manager, **fields).with_structured_output(**options)
        expected, expected_error = outcome(oracle, way, "Who?")
        seen, error = outcome(model, way, "Who?")
        assert in_parts(seen) == in_parts(expected)
        assert type(error) is type(expected_error), f"{error!r}, over HTTP {expected_error!r}"
        assert words_of(str(error)) == words_of(str(expected_error))
        over_http, over_socket = server.requests
        assert settings_of(over_socket) == settings_of(over_http)
        assert over_socket.transport == "websocket"
        return seen, error


PARTS = frozenset({"raw", "parsed", "parsing_error"})


def in_parts(seen: list[Any]) -> Any:
    """What was handed over, in order; of a streamed answer with its raw message, in order for each part.

    LangChain streams the parts from threads of their own, and which one comes first is their affair: whether the word
    that nothing went wrong comes before what goes wrong, too.
    """
    items = [comparable(item) for item in seen]
    if not all(isinstance(item, dict) and item.keys() <= PARTS for item in items):
        return items
    parts: dict[str, list[Any]] = {}
    for item in items:
        if item != {"parsing_error": (type(None), "None")}:
            for name, value in item.items():
                parts.setdefault(name, []).append(value)
    return parts


def words_of(message: str) -> str:
    # An output parser quotes the whole message, ids and metadata of this package with it.
    told = message.partition("response_metadata")[0]
    return re.sub(r"\b(msg|resp|call|fc|rs)_\w+", r"\1_…", told)


def comparable(item: Any) -> Any:
    # Streamed, each part may come by itself or with another one.
    if isinstance(item, dict) and item and item.keys() <= PARTS:
        shown = dict(item)
        if item.get("raw") is not None:
            shown["raw"] = bare(item["raw"], ids=False)
        if "parsing_error" in item:
            error = item["parsing_error"]
            shown["parsing_error"] = (type(error), words_of(str(error)))
        return shown
    return bare(item, ids=False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("include_raw", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("schema", SCHEMAS)
def test_good_answer_is_parsed_as_over_http(
    manager: ConnectionManager, schema: str, method: str, include_raw: bool, way: str
) -> None:
    options = {"schema": SCHEMAS[schema], "method": method, "include_raw": include_raw}
    seen, error = compare(manager, way, good_answer(method, schema), {}, **options)
    assert error is None
    last = seen[-1]
    if include_raw and way in ("invoke", "ainvoke"):
        assert isinstance(last["raw"], AIMessage)
        assert last["raw"].response_metadata["transport"]["kind"] == "websocket"
        last = last["parsed"]
    elif include_raw:
        last = next(item["parsed"] for item in reversed(seen) if item.get("parsed"))
    assert last == (Person(**GOOD) if schema == "pydantic" else GOOD)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("schema", "method", "include_raw"),
    [
        ("pydantic", "json_schema", False),
        ("pydantic", "json_schema", True),
        ("json schema", "json_schema", False),
        ("json schema", "json_mode", True),
    ],
)
# LangChain leaves the HTTP stream of a refusal half read, and its loop has ended when the socket is found.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("answer", BAD_ANSWERS)
def test_bad_answer_fails_as_over_http(
    manager: ConnectionManager, answer: str, schema: str, method: str, include_raw: bool, way: str
) -> None:
    options = {"schema": SCHEMAS[schema], "method": method, "include_raw": include_raw}
    seen, error = compare(manager, way, BAD_ANSWERS[answer], {}, **options)
    assert error is not None or seen or way in ("stream", "astream")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("version", ["v0", "v1"])
def test_output_version_does_not_matter(manager: ConnectionManager, version: str, way: str) -> None:
    seen, error = compare(
        manager, way, json_answer(GOOD), {"output_version": version}, schema=Person, include_raw=True
    )
    assert error is None
    assert any(item.get("parsed") == Person(**GOOD) for item in seen)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("answer", [tool_call("look_up", {"name": "Ada"}), json_answer(GOOD)])
def test_tools_beside_a_schema(manager: ConnectionManager, answer: Answer, way: str) -> None:
    options = {"schema": Person, "tools": [look_up], "strict": True, "include_raw": True}
    seen, error = compare(manager, way, answer, {}, **options)
    assert error is None
    raw = seen[0]["raw"]
    assert bool(raw.tool_calls) == (seen[0]["parsed"] is None)


@pytest.mark.parametrize("way", WAYS)
def test_schema_bound_by_hand_with_other_text_settings(manager: ConnectionManager, way: str) -> None:
    with ResponsesServer(json_answer(GOOD), json_answer(GOOD)) as server:
        given = {"response_format": Person, "text": {"verbosity": "low"}}
        expected, _ = outcome(http_model(server).bind(**given), way, "Who?")
        seen, error = outcome(socket_model(server, manager).bind(**given), way, "Who?")
        assert error is None
        assert [bare(item, ids=False) for item in seen] == [bare(item, ids=False) for item in expected]
        over_http, over_socket = server.requests
        assert over_socket.body["text"] == over_http.body["text"]
        assert over_socket.body["text"]["verbosity"] == "low"


def test_structured_turn_is_continued_by_a_plain_one(manager: ConnectionManager) -> None:
    with ResponsesServer(json_answer(GOOD), "A mathematician.") as server:
        model = socket_model(server, manager)
        first = model.with_structured_output(Person, include_raw=True).invoke("Who?")
        model.invoke([("human", "Who?"), first["raw"], ("human", "What did she do?")])
        assert [item["content"] for item in server.requests[1].items] == ["What did she do?"]
        assert server.requests[1].is_delta
        assert "text" not in server.requests[1].body
