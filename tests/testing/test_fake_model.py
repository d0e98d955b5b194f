"""`fake_model`: what it answers follows from the request alone."""

from __future__ import annotations

import json
from typing import Any

import pytest

from langchain_ws_responses.testing import RecordedRequest, ResponsesServer, fake_model
from langchain_ws_responses.testing._script import CallPart, Output, ReasoningPart, TextPart

ADD = {
    "type": "function", "name": "add",
    "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "number", "maximum": 3}}},
}  # fmt: skip
GREET = {"type": "function", "name": "greet", "parameters": {"properties": {"who": {"type": "string"}}}}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "3"}


def answered(value: Any, **body: Any) -> Output:
    items = [{"role": "user", "content": value}] if isinstance(value, str) else value
    request = RecordedRequest("http", {"model": "m", **body}, 0, {}, 0.0, items=items)
    answer = fake_model(request)
    assert isinstance(answer, Output)
    return answer


def called(answer: Output) -> tuple[str, Any]:
    (part,) = answer.parts
    assert isinstance(part, CallPart)
    return part.name, json.loads(part.arguments)


def said(answer: Output) -> str:
    (part,) = answer.parts
    assert isinstance(part, TextPart)
    return part.text


def test_tools_are_called_when_the_user_spoke_last_or_the_request_says_so() -> None:
    assert called(answered("What is 7 and 5?", tools=[ADD, GREET])) == ("add", {"a": 7, "b": 3})
    assert called(answered("greet 'Ada' please", tools=[ADD, GREET])) == ("greet", {"who": "Ada"})
    asked = [{"role": "user", "content": "What is 1 and 2?"}, OUTPUT]
    assert said(answered(asked, tools=[ADD])) == "The tool says: 3"
    assert called(answered(asked, tools=[ADD], tool_choice="required"))[0] == "add"
    forced = {"type": "function", "name": "greet"}
    assert called(answered(asked, tools=[ADD, GREET], tool_choice=forced))[0] == "greet"
    assert said(answered("Hi", tools=[ADD], tool_choice="none")) == "You said: Hi"


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "object", "properties": {"n": {"type": "integer", "minimum": 50}}}, {"n": 50}),
        ({"type": "object", "properties": {"x": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}, {"x": "red"}),
        ({"type": "object", "properties": {"c": {"enum": ["x", "y"]}, "k": {"const": 4}}}, {"c": "x", "k": 4}),
        ({"type": "object", "properties": {"l": {"type": "array", "items": {"type": "boolean"}}}}, {"l": [True]}),
        (
            {
                "type": "object", "properties": {"p": {"$ref": "#/$defs/P"}},
                "$defs": {"P": {"type": ["object", "null"], "properties": {"f": {"type": "number"}}}},
            },
            {"p": {"f": 12.5}},
        ),
        ({"$ref": "#/$defs/R", "$defs": {"R": {"type": "object", "properties": {}}}}, {}),
    ],
)  # fmt: skip
def test_schemas_are_filled_in(schema: dict[str, Any], expected: Any) -> None:
    form = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    assert json.loads(said(answered("It is 'red' and 12.5 wide.", text=form))) == expected


def test_a_schema_that_holds_itself_comes_to_an_end() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/N"}}}
    form = {"format": {"type": "json_schema", "name": "n", "schema": {**node, "$defs": {"N": node}}}}
    assert said(answered("x", text=form)).count("next") < 30


def test_json_mode_gives_the_keys_that_the_prompt_quotes() -> None:
    prompt = "Answer in JSON with 'setup' and 'punchline'."
    given = json.loads(said(answered(prompt, text={"format": {"type": "json_object"}})))
    assert set(given) == {"setup", "punchline"}


def test_it_thinks_first_when_asked_to_reason() -> None:
    parts = answered("Why?", reasoning={"effort": "low"}).parts
    assert [type(part) for part in parts] == [ReasoningPart, TextPart]


def test_it_sees_the_conversation_and_not_only_the_delta() -> None:
    import httpx

    with ResponsesServer(answer=fake_model) as server:

        def ask(**body: Any) -> Any:
            sent = {"model": "m", "tools": [ADD], **body}
            return httpx.post(f"{server.base_url}/responses", json=sent, trust_env=False).json()

        first = ask(input="What is 7 and 2?")
        call = first["output"][0]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "9"}
        second = ask(input=[output], previous_response_id=first["id"])
    assert second["output"][0]["content"][0]["text"] == "The tool says: 9"
