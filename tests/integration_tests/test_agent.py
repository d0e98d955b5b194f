"""`create_agent` over one socket: one full send, then deltas, and the same messages as over HTTP."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from pairs import bare, http_model, in_threads, socket_model

from langchain_ws_responses import ConnectionManager
from langchain_ws_responses.testing import ResponsesServer, calls, text, tool_call

CALLS = 20


@tool
def double(number: int) -> str:
    """Double a number."""
    return str(number * 2)


def answer(request: Any) -> Any:
    """Asks for one tool after another, each with the last output, as long as the model has seen fewer than 20."""
    outputs = [item for item in request.seen if item.get("type") == "function_call_output"]
    if len(outputs) == CALLS:
        return text(f"Done: {outputs[-1]['output']}.", 6)
    number = int(outputs[-1]["output"]) % 1000 + 1 if outputs else 1
    return calls(tool_call("double", {"number": number}), text=f"Step {len(outputs)}.")


def agent(model: Any, **options: Any) -> Any:
    return create_agent(model, [double], system_prompt="You double numbers.", **options)


def given() -> dict[str, Any]:
    return {"messages": [HumanMessage("Go.", id="h1")]}


LIMIT = {"recursion_limit": 100}


def invoke(made: Any) -> list[Any]:
    messages: list[Any] = made.invoke(given(), LIMIT)["messages"]
    return messages


def ainvoke(made: Any) -> list[Any]:
    messages: list[Any] = asyncio.run(made.ainvoke(given(), LIMIT))["messages"]
    return messages


def alike(message: Any) -> Any:
    data = bare(message, ids=False)
    # Memory on the connection is counted as cached input: there the transports differ, and rightly so.
    data.pop("usage_metadata", None)
    # LangGraph draws ids for the messages that come without one.
    if isinstance(message, ToolMessage):
        data["id"] = None
    return data


@cache
def over_http(version: str | None, store: bool | None) -> tuple[list[Any], int]:
    """What plain ChatOpenAI makes of the same agent, and the bytes of its last request."""
    fields: dict[str, Any] = {"store": store, **({} if version is None else {"output_version": version})}
    include = {"include": ["reasoning.encrypted_content"]} if store is False else {}
    with ResponsesServer(answer=answer) as server:
        messages = invoke(agent(http_model(server, **fields, **include)))
        return [alike(message) for message in messages], server.requests[-1].raw_bytes


@pytest.mark.parametrize("store", [None, False])
@pytest.mark.parametrize("version", [None, "v0", "v1"])
@pytest.mark.parametrize("run", [invoke, ainvoke])
def test_twenty_tool_calls_cost_one_full_send_and_twenty_deltas(
    run: Callable[[Any], list[Any]], version: str | None, store: bool | None
) -> None:
    fields: dict[str, Any] = {"store": store, **({} if version is None else {"output_version": version})}
    with ConnectionManager() as manager, ResponsesServer(answer=answer) as server:
        messages = run(agent(socket_model(server, manager, transport="auto", **fields)))
        assert len(messages) == 2 * CALLS + 2
        assert [request.transport for request in server.requests] == ["websocket"] * (CALLS + 1)
        assert [request.is_delta for request in server.requests] == [False] + [True] * CALLS
        assert [len(request.items) for request in server.requests] == [2] + [1] * CALLS
        assert len(server.connections) == 1
        stats = manager.stats()
        assert (stats.full, stats.delta, stats.resends) == (1, CALLS, 0)
        last = server.requests[-1]
        assert len(last.seen) == 2 + 3 * CALLS
    expected, full = over_http(version, store)
    assert [alike(message) for message in messages] == expected
    # What the last turn costs does not grow with the history.
    assert last.raw_bytes < full / 5


def test_second_question_of_a_thread_is_a_delta_too() -> None:
    with ConnectionManager() as manager, ResponsesServer(answer=answer) as server:
        made = agent(socket_model(server, manager), checkpointer=InMemorySaver())
        config = {"configurable": {"thread_id": "t1"}, **LIMIT}
        made.invoke(given(), config)
        made.invoke({"messages": [HumanMessage("Again.")]}, config)
        again = server.requests[-1]
        assert again.is_delta
        assert [item["content"] for item in again.items] == ["Again."]
        assert manager.stats().full == 1


def test_parallel_calls_come_back_in_one_request_in_call_order() -> None:
    def both(request: Any) -> Any:
        if request.tool_outputs:
            return "Done."
        return calls(*(tool_call("double", {"number": n}, call_id=f"call_{n}") for n in (3, 1, 2)))

    with ConnectionManager() as manager, ResponsesServer(answer=both) as server:
        agent(socket_model(server, manager)).invoke(given(), LIMIT)
        first, second = server.requests
        assert second.previous_response_id == first.response_id
        assert list(second.tool_outputs.items()) == [("call_3", "6"), ("call_1", "2"), ("call_2", "4")]
        assert len(second.items) == 3


def test_streamed_messages_of_an_agent_are_those_of_http() -> None:
    stories = []
    with ConnectionManager() as manager, ResponsesServer(answer=answer) as server:
        for model in (http_model(server), socket_model(server, manager)):
            story = []
            for chunk, metadata in agent(model).stream(given(), LIMIT, stream_mode="messages"):
                data = alike(chunk)
                data["id"] = None
                story.append((metadata["langgraph_node"], data))
            stories.append(story)
        deltas = [request.is_delta for request in server.requests if request.transport == "websocket"]
        assert deltas == [False] + [True] * CALLS
    assert stories[1] == stories[0]
    assert {node for node, _ in stories[1]} == {"model", "tools"}


@pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="before Python 3.11 a task takes no context of its own, and LangGraph tells no events of the model within",
)
async def test_agent_events_are_those_of_http() -> None:
    stories = []
    with ConnectionManager() as manager, ResponsesServer(answer=answer) as server:
        for model in (http_model(server), socket_model(server, manager)):
            story = []
            async for event in agent(model).astream_events(given(), LIMIT, version="v2"):
                if event["event"].startswith("on_chat_model"):
                    message = event["data"].get("chunk") or event["data"].get("output")
                    data = alike(message) if message is not None else None
                    if data is not None:
                        data["id"] = None
                    story.append((event["event"], data))
            stories.append(story)
    assert stories[1] == stories[0]
    ends = [data for kind, data in stories[1] if kind == "on_chat_model_end"]
    assert len(ends) == CALLS + 1


def test_agents_in_threads_keep_their_conversations_apart() -> None:
    with ConnectionManager() as manager, ResponsesServer(answer=answer) as server:
        made = agent(socket_model(server, manager))
        results = in_threads([lambda: invoke(made) for _ in range(8)])
        for messages in results:
            assert not isinstance(messages, BaseException), messages
            assert len(messages) == 2 * CALLS + 2
            assert isinstance(messages[-1], AIMessage)
            assert not isinstance(messages[-1], AIMessageChunk)
        stats = manager.stats()
        assert (stats.full, stats.delta) == (8, 8 * CALLS)
        assert len(server.connections) == 1
