"""The chat model in use: whatever ChatOpenAI is asked over HTTP, the socket is asked and answers alike."""

from __future__ import annotations

import base64
import inspect
import types
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pairs import WAYS, bare, http_model, outcome, run, settings_of, socket_model, without_ids

from langchain_ws_responses import ChatOpenAIWebSocket
from langchain_ws_responses._langchain import fields
from langchain_ws_responses.testing import (
    Answer,
    ResponsesServer,
    calls,
    custom_tool_call,
    incomplete,
    reasoning,
    refusal,
    text,
    tool_call,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_ws_responses import ConnectionManager


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@tool
def search(query: str) -> str:
    """Search the files."""
    return query


PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()
LOOP = [
    SystemMessage("Be brief."),
    HumanMessage("What is 1 + 2?"),
    AIMessage("", tool_calls=[{"name": "add", "args": {"a": 1, "b": 2}, "id": "call_1"}]),
    ToolMessage("3", tool_call_id="call_1"),
]
# Every kind of hosted tool, as `tools` of the request.
HOSTED = [
    {"type": "web_search"},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {
        "type": "mcp",
        "server_label": "docs",
        "server_url": "https://example.com/mcp",
        "require_approval": "never",
    },
    {"type": "image_generation"},
]

CASES: dict[str, tuple[dict[str, Any], Callable[[Any], Any], Any, Answer | str]] = {
    "text": ({}, lambda m: m, "Hello", "Hi there, friend."),
    "system": ({}, lambda m: m, [SystemMessage("Be brief."), HumanMessage("Hello")], "Hi."),
    "empty answer": ({}, lambda m: m, "Hello", ""),
    "tools": ({}, lambda m: m.bind_tools([add, search]), "1 + 2?", tool_call("add", {"a": 1, "b": 2})),
    "strict": ({}, lambda m: m.bind_tools([add], strict=True), "1 + 2?", tool_call("add", {"a": 1, "b": 2})),
    "tool choice any": (
        {},
        lambda m: m.bind_tools([add], tool_choice="any"),
        "1 + 2?",
        tool_call("add", {"a": 1, "b": 2}),
    ),
    "tool choice by name": (
        {},
        lambda m: m.bind_tools([add, search], tool_choice="search", parallel_tool_calls=False),
        "find it",
        tool_call("search", {"query": "it"}),
    ),
    "parallel calls": (
        {},
        lambda m: m.bind_tools([add, search]),
        "both",
        calls(tool_call("add", {"a": 1, "b": 2}), tool_call("search", {"query": "é"}), text="Both."),
    ),
    "tool loop by hand": ({}, lambda m: m.bind_tools([add]), LOOP, "It is 3."),
    "custom tool": (
        {},
        lambda m: m.bind(tools=[{"type": "custom", "name": "run", "description": "Runs code."}]),
        "run it",
        custom_tool_call("run", "print(1)"),
    ),
    "hosted tools": ({}, lambda m: m.bind_tools(HOSTED), "look it up", "Found."),
    "reasoning": (
        {"reasoning": {"effort": "low", "summary": "auto"}},
        lambda m: m,
        "think",
        reasoning(["First.", "Then."], "Done."),
    ),
    "encrypted reasoning": (
        {"include": ["reasoning.encrypted_content"], "store": False},
        lambda m: m,
        "think",
        reasoning("Hm.", tool_call("add", {"a": 1, "b": 2})),
    ),
    "refusal": ({}, lambda m: m, "no", refusal("I cannot do that.")),
    "incomplete": ({"max_tokens": 20}, lambda m: m, "long", incomplete(text="Once upon a")),
    "settings": (
        {
            "model": "gpt-4.1",
            "temperature": 0.5,
            "top_p": 0.9,
            "max_tokens": 100,
            "service_tier": "flex",
            "verbosity": "low",
            "truncation": "auto",
            "store": True,
            "model_kwargs": {"prompt_cache_key": "k1", "user": "u1"},
        },
        lambda m: m.bind(stop=["END"], top_logprobs=2, safety_identifier="s1"),
        "Hello",
        "Hi.",
    ),
    "reasoning effort": ({"reasoning_effort": "low", "temperature": 0.3}, lambda m: m, "Hello", "Hi."),
    "extra body": (
        {"extra_body": {"custom": {"x": 1}}},
        lambda m: m.bind(prompt_cache_key="p"),
        "Hello",
        "Hi.",
    ),
    "image by address": (
        {},
        lambda m: m,
        [
            HumanMessage(
                [
                    {"type": "text", "text": "What is it?"},
                    {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
                    {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}"}},
                ]
            )
        ],
        "A pixel.",
    ),
    "standard blocks": (
        {"output_version": "v1"},
        lambda m: m,
        [
            HumanMessage(
                content_blocks=[
                    {"type": "text", "text": "Read."},
                    {"type": "image", "base64": PIXEL, "mime_type": "image/png"},
                    {"type": "image", "url": "https://example.com/a.png"},
                    {
                        "type": "file",
                        "base64": PIXEL,
                        "mime_type": "application/pdf",
                        "extras": {"filename": "a.pdf"},
                    },
                ]
            )
        ],
        "Read.",
    ),
    "tool output with an image": (
        {},
        lambda m: m.bind_tools([search]),
        [
            HumanMessage("find"),
            AIMessage("", tool_calls=[{"name": "search", "args": {"query": "x"}, "id": "call_2"}]),
            ToolMessage(
                [
                    {"type": "text", "text": "here"},
                    {"type": "image", "base64": PIXEL, "mime_type": "image/png"},
                ],
                tool_call_id="call_2",
            ),
        ],
        "Seen.",
    ),
    "conversation": ({}, lambda m: m.bind(conversation="conv_1"), "Hello", "Hi."),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", CASES)
def test_socket_asks_and_answers_as_http_does(manager: ConnectionManager, name: str, way: str) -> None:
    fields, prepare, given, answer = CASES[name]
    with ResponsesServer(answer, answer) as server:
        expected = run(prepare(http_model(server, **fields)), way, given)
        answers = run(prepare(socket_model(server, manager, **fields)), way, given)
        assert [bare(message, ids=False) for message in answers] == [
            bare(message, ids=False) for message in expected
        ]
        over_http, over_socket = server.requests
        assert over_socket.transport == "websocket"
        assert settings_of(over_socket) == settings_of(over_http)
        assert over_socket.body["input"] == over_http.body["input"]
        assert "stream" not in over_socket.body
        if answer != "":
            assert answers[-1].usage_metadata == expected[-1].usage_metadata


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kwargs", [{"n": 2}, {"logprobs": True}, {"frequency_penalty": 1}, {"nonsense": 1}])
def test_argument_that_http_refuses_is_refused_with_the_same_words(
    manager: ConnectionManager, way: str, kwargs: dict[str, Any]
) -> None:
    with ResponsesServer() as server:
        _, expected = outcome(http_model(server), way, "Hello", **kwargs)
        _, error = outcome(socket_model(server, manager), way, "Hello", **kwargs)
        assert type(error) is type(expected) is TypeError
        name = next(iter(kwargs))
        assert f"unexpected keyword argument '{name}'" in str(expected)
        assert f"unexpected keyword argument '{name}'" in str(error)
        assert not server.requests


def test_batch_answers_every_input_in_order_over_one_connection(manager: ConnectionManager) -> None:
    with ResponsesServer(answer=lambda request: f"re {request.last_user_text}") as server:
        model = socket_model(server, manager)
        given = [f"question {number}" for number in range(8)]
        assert [answer.text for answer in model.batch(given)] == [f"re {question}" for question in given]
        assert len(server.connections) == 1


async def test_abatch_answers_every_input_in_order_over_one_connection(manager: ConnectionManager) -> None:
    with ResponsesServer(answer=lambda request: f"re {request.last_user_text}") as server:
        model = socket_model(server, manager)
        given = [f"question {number}" for number in range(16)]
        answers = await model.abatch(given)
        assert [answer.text for answer in answers] == [f"re {question}" for question in given]
        assert len(server.connections) == 1


def test_batch_keeps_the_failures_of_single_inputs_apart(manager: ConnectionManager) -> None:
    from langchain_ws_responses.testing import error

    def answer(request: Any) -> Any:
        if request.last_user_text == "bad":
            return error(status=400, code="invalid_value", message="That is bad.")
        return text("good")

    with ResponsesServer(answer=answer) as server:
        good, bad, again = socket_model(server, manager).batch(["a", "bad", "b"], return_exceptions=True)
        assert (good.text, again.text) == ("good", "good")
        assert "That is bad." in str(bad)


def test_second_turn_of_a_conversation_sends_only_what_is_new(manager: ConnectionManager) -> None:
    with ResponsesServer("One.", "Two.") as server:
        model = socket_model(server, manager)
        history = [SystemMessage("Be brief."), HumanMessage("First?")]
        history += [model.invoke(history), HumanMessage("Second?")]
        model.invoke(history)
        first, second = server.requests
        assert [item["role"] for item in first.items] == ["system", "user"]
        assert [item["content"] for item in second.items] == ["Second?"]
        assert second.previous_response_id == first.response_id
        roles = [item["role"] for item in second.seen]
        assert roles == ["system", "user", "assistant", "user"]


def test_caller_of_a_request_payload_sees_what_chatopenai_would_build(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        expected = http_model(server)._get_request_payload([HumanMessage("Hello")], stop=["x"])
        assert (
            socket_model(server, manager)._get_request_payload([HumanMessage("Hello")], stop=["x"])
            == expected
        )


def test_arguments_that_are_never_looked_up_are_those_of_the_sdk() -> None:
    from openai.resources.responses import Responses

    known = set(inspect.signature(Responses.create).parameters) | {"text_format"}
    assert known >= fields._ALWAYS_KNOWN


class OwnMessage(HumanMessage):
    """A message class of a user's."""


INPUTS: list[Any] = [
    "Hi",
    [],
    [SystemMessage("s"), HumanMessage("Hi"), AIMessage("Yes?"), ToolMessage("x", tool_call_id="call_1")],
    [OwnMessage("Hi")],
    (HumanMessage("Hi"), AIMessage("Yes?")),
    [("human", "Hi"), AIMessage("Yes?")],
    [{"role": "user", "content": "Hi"}],
    ChatPromptTemplate.from_messages([("human", "Hi")]).invoke({}),
    7,
    [7],
]


@pytest.mark.parametrize("given", INPUTS, ids=repr)
def test_input_becomes_the_prompt_that_chatopenai_makes_of_it(given: Any) -> None:
    made: list[Any] = []
    for cls in (ChatOpenAIWebSocket, ChatOpenAI):
        try:
            made.append(cls(model="gpt-5.5", api_key="sk-test")._convert_input(given))
        except Exception as exc:
            made.append((type(exc), str(exc)))
    assert made[0] == made[1]
    assert repr(made[0]) == repr(made[1])


def test_input_list_is_not_shared_with_the_caller() -> None:
    given = [HumanMessage("Hi")]
    prompt = ChatOpenAIWebSocket(model="gpt-5.5", api_key="sk-test")._convert_input(given)
    assert prompt.to_messages()[0] is given[0]
    given.append(HumanMessage("and then"))
    assert len(prompt.to_messages()) == 1


def test_client_without_a_turn_is_the_openai_client_untouched(manager: ConnectionManager) -> None:
    with ResponsesServer("A.", "B.", "C.") as server:
        model = socket_model(server, manager)
        client = model.root_client
        assert client.responses.create(model="gpt-5.5", input="x").output_text == "A."
        raw = client.responses.with_raw_response.create(model="gpt-5.5", input="x")
        assert raw.parse().output_text == "B."
        raw = client.with_raw_response.responses.create(model="gpt-5.5", input="x")
        assert raw.parse().output_text == "C."
        assert {request.transport for request in server.requests} == {"http"}
        assert without_ids("resp_1") == "resp_…"


@pytest.mark.parametrize("name", ["_generate", "_agenerate"])
def test_signature_that_langchain_asks_for_is_there_already(name: str) -> None:
    given = getattr(ChatOpenAIWebSocket, name)
    # Another function of the same code, without what was put on it.
    untouched = types.FunctionType(
        given.__code__, given.__globals__, given.__name__, given.__defaults__, given.__closure__
    )
    untouched.__annotations__ = given.__annotations__
    untouched.__kwdefaults__ = given.__kwdefaults__
    assert "__signature__" in vars(given)
    assert inspect.signature(given) == inspect.signature(untouched)


def test_a_model_that_is_only_half_made_can_be_shown() -> None:
    # As tracebacks and debuggers do when a field was refused: pydantic has made the object by then.
    assert repr(ChatOpenAIWebSocket.__new__(ChatOpenAIWebSocket)) == "ChatOpenAIWebSocket()"
    half = ChatOpenAIWebSocket.model_construct(
        openai_api_base="https://h/v1?key=hush", default_headers={"k": "hush"}
    )
    assert "model_kwargs={}" in repr(half)
    assert "hush" not in repr(half)
