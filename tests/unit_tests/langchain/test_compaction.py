"""Compaction: on the server's own account, and on demand through `/responses/compact`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from scenarios.graphs import World, add, essence, wire

from langchain_ws_responses import ConnectionManager
from langchain_ws_responses._langchain.compaction import window_of
from langchain_ws_responses.testing import text, tool_call

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_ws_responses.testing import ResponsesServer

SERVER_SIDE = {"context_management": [{"type": "compaction", "compact_threshold": 60}]}
GOOD = SystemMessage("Be good.")
LONG = "long " * 60


@pytest.fixture(params=[True, False], ids=["stored", "unstored"])
def world(request: pytest.FixtureRequest, responses_server: ResponsesServer) -> Iterator[World]:
    with ConnectionManager() as manager:
        yield World(responses_server, "invoke", request.param, manager)


def _say(model: Any, messages: list[BaseMessage], *words: str) -> list[BaseMessage]:
    """Goes on with a conversation."""
    for word in words:
        messages = [*messages, HumanMessage(word)]
        messages = [*messages, model.invoke(messages)]
    return messages


def _compacted(world: World, **fields: Any) -> tuple[Any, list[BaseMessage]]:
    """A conversation whose second answer begins with a compaction item."""
    model = world.model(**SERVER_SIDE, **fields)
    messages = _say(model, [GOOD], "a", LONG)
    assert [request.compacted for request in world.requests] == [False, True]
    return model, messages


def _cut(items: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What is left of items from the newest compaction item on."""
    told = essence(items)
    start = max(index for index, item in enumerate(told) if item[0] == "compaction")
    return told[start:]


# -- on the server's own account ----------------------------------------


@pytest.mark.parametrize("streaming", [False, True])
def test_a_compacted_conversation_goes_on_with_deltas(world: World, streaming: bool) -> None:
    model, messages = _compacted(world, streaming=streaming)
    _say(model, messages, "b", "c")
    assert world.sent() == ["F first_turn", "D1", "D1", "D1"]
    seen = essence(world.requests[2].seen)
    assert [item[0] for item in seen] == ["compaction", "assistant", "user"]


def _after_restart(world: World, messages: list[BaseMessage], **fields: Any) -> Any:
    """The next turn of a process that must send in full."""
    world.restart()
    world.server.forget()
    model = world.model(**fields)
    model.invoke([*messages, HumanMessage("next")])
    request = world.requests[-1]
    assert request.is_full
    return request


def test_a_full_send_starts_from_the_newest_compaction(world: World) -> None:
    model, messages = _compacted(world)
    messages = _say(model, messages, "b")
    request = _after_restart(world, messages)
    # The prompt, and from the compaction item on what plain ChatOpenAI sends.
    expected = [("system", "Be good."), *_cut(wire([*messages, HumanMessage("next")]))]
    assert essence(request.items) == expected
    assert not any(LONG in str(item) for item in request.items)
    world.manager.close()


def test_a_later_compaction_takes_over(world: World) -> None:
    model, messages = _compacted(world)
    messages = _say(model, messages, LONG)
    assert world.requests[2].compacted
    request = _after_restart(world, messages)
    assert [item[0] for item in essence(request.items)] == ["system", "compaction", "assistant", "user"]
    newest = [block["id"] for block in messages[-1].content if block["type"] == "compaction"]  # type: ignore[index]
    assert [item["id"] for item in request.items if item.get("type") == "compaction"] == newest
    world.manager.close()


def test_the_chain_goes_on_after_such_a_full_send(world: World) -> None:
    _, messages = _compacted(world)
    messages = [*messages, HumanMessage("next")]
    world.restart()
    world.server.forget()
    model = world.model()
    messages = [*messages, model.invoke(messages)]
    _say(model, messages, "on", "and on")
    assert [request.is_delta for request in world.requests[-2:]] == [True, True]
    assert [item[0] for item in essence(world.requests[-1].seen)][:2] == ["system", "compaction"]
    world.manager.close()


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_after_an_edit_everything_is_sent(world: World, position: int) -> None:
    """A compaction item stands for the messages it was made from, and for no others."""
    _, messages = _compacted(world)
    edited = list(messages)
    if position == 0:
        edited[0] = SystemMessage("Be bad.")
    else:
        content: Any = "edited"
        if isinstance(edited[position], AIMessage):
            content = [{"type": "text", "text": "edited"}]
        edited[position] = edited[position].model_copy(update={"content": content})
    request = _after_restart(world, edited)
    # Another prompt goes to `instructions`.
    assert request.instructions == ("Be bad." if position == 0 else None)
    assert essence(request.items) == essence(wire([*edited[not position :], HumanMessage("next")]))
    world.check_transport()
    world.manager.close()


@pytest.mark.parametrize("fields", [{"api_key": "sk-test-other"}, {"model": "gpt-5.5-mini"}])
def test_a_compaction_of_another_owner_is_not_believed(world: World, fields: dict[str, Any]) -> None:
    _, messages = _compacted(world)
    request = _after_restart(world, messages, **fields)
    assert essence(request.items) == essence(wire([*messages, HumanMessage("next")]))
    world.manager.close()


def test_without_its_link_everything_is_sent(world: World) -> None:
    _, messages = _compacted(world)
    bare = messages[-1].model_copy(update={"response_metadata": {"model_provider": "openai"}})
    request = _after_restart(world, [*messages[:-1], bare])
    assert essence(request.items) == essence(wire([*messages, HumanMessage("next")]))
    world.manager.close()


def test_chain_off_sends_everything(world: World) -> None:
    _, messages = _compacted(world)
    request = _after_restart(world, messages, chain="off")
    assert essence(request.items) == essence(wire([*messages, HumanMessage("next")]))
    world.manager.close()


# -- on demand ----------------------------------------


def _compact(model: Any, way: str, messages: Any, **kwargs: Any) -> list[BaseMessage]:
    if way == "async":
        return asyncio.run(model.acompact(messages, **kwargs))
    window: list[BaseMessage] = model.compact(messages, **kwargs)
    return window


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_window_starts_a_new_chain(world: World, way: str) -> None:
    model = world.model()
    messages = _say(model, [GOOD], "a", "b")
    window = _compact(model, way, messages)
    asked = world.server.requests[2]
    assert (asked.kind, asked.transport) == ("compact", "http")
    assert asked.instructions == "Be good."
    assert essence(asked.seen) == essence(wire(messages[1:]))
    # The prompt as it was, what the provider keeps, and its compaction item.
    assert window[0] == GOOD
    assert [type(message) for message in window] == [SystemMessage, HumanMessage, HumanMessage, AIMessage]
    del world.server.requests[2]
    _say(model, window, "c", "d")
    assert world.sent()[2:] == ["F no_link", "D1"]
    kept = [("user", "a"), ("user", "b")]
    (compaction,) = [item for item in essence(world.requests[2].items) if item[0] == "compaction"]
    assert essence(world.requests[2].items) == [("system", "Be good."), *kept, compaction, ("user", "c")]
    world.check()


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_window_is_sent_exactly_as_it_was_given(world: World, way: str) -> None:
    model = world.model()
    messages = _say(model, [], "a")
    window = _compact(model, way, messages)
    model.invoke([*window, HumanMessage("b")])
    user, compaction, _ = world.requests[-1].items
    assert essence([user]) == [("user", "a")]
    given = [block for message in window for block in message.content if isinstance(block, dict)]
    (item,) = [block for block in given if block.get("type") == "compaction"]
    assert compaction == item
    assert set(compaction) == {"id", "type", "encrypted_content"}


def test_a_window_can_be_compacted_again(world: World) -> None:
    model = world.model()
    window = model.compact(_say(model, [GOOD], "a"))
    window = _say(model, window, "b")
    again = model.compact(window)
    assert again[0] == GOOD
    assert [item[0] for item in essence(wire(again))].count("compaction") == 1


def test_a_lost_parent_costs_one_full_compaction(world: World) -> None:
    model = world.model(system_mode="instructions")
    messages = _say(model, [GOOD], "a")
    world.server.forget()
    window = model.compact(messages)
    assert window[0] == GOOD
    last = world.server.requests[-1]
    assert (last.kind, last.is_delta) == ("compact", False)
    assert essence(last.seen) == essence(wire(messages[1:]))


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_refused_compaction_is_the_providers_error(world: World, way: str) -> None:
    model = world.model()
    call = {"name": "add", "args": {}, "id": "c1", "type": "tool_call"}
    # An output without its call is refused.
    messages = [HumanMessage("a"), ToolMessage("1", tool_call_id="c2"), AIMessage("", tool_calls=[call])]
    with pytest.raises(openai.BadRequestError, match="No tool call found"):
        _compact(model, way, messages)


def test_settings_that_the_endpoint_does_not_take_are_left_out(world: World) -> None:
    model = world.model(temperature=0.5)
    model.compact([HumanMessage("a")], tools=[{"type": "web_search"}])
    (asked,) = world.server.requests
    assert set(asked.body) <= {"model", "input", "instructions", "previous_response_id", "prompt_cache_key"}
    assert asked.body["model"] == "gpt-5.5"


def test_a_tool_loop_survives_compaction(world: World) -> None:
    world.server.add(tool_call("add", {"a": 1, "b": 2}, "c1"), text("three"))
    model = world.model()
    bound = model.bind_tools([add])
    messages: list[BaseMessage] = [GOOD, HumanMessage("1 and 2?")]
    messages.append(bound.invoke(messages))
    messages.append(ToolMessage("3", tool_call_id="c1"))
    messages.append(bound.invoke(messages))
    window = model.compact(messages)
    assert essence(wire(window))[:2] == [("system", "Be good."), ("user", "1 and 2?")]


# -- the window as messages ----------------------------------------

WINDOWS: dict[str, list[dict[str, Any]]] = {
    "user": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}],
    "plain-user": [{"type": "message", "role": "user", "content": "a"}],
    "image": [
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_image", "image_url": "data:image/png;base64,iVBORw0KGgo="}],
        }
    ],
    "developer": [{"type": "message", "role": "developer", "content": "Be brief."}],
    "system": [{"type": "message", "role": "system", "content": "Be brief."}],
    "compaction": [{"type": "compaction", "id": "cmp_1", "encrypted_content": "x"}],
    "assistant": [
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "content": [{"type": "output_text", "text": "b", "annotations": []}],
        }
    ],
    "refusal": [
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "content": [{"type": "refusal", "refusal": "no"}],
        }
    ],
    "call": [
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
    ],
    "broken-call": [
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": '{"a":'},
        {"type": "function_call_output", "call_id": "c1", "output": "error"},
    ],
    "custom-call": [
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "shell", "input": "ls"},
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "file"},
    ],
    "reasoning": [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "content": [{"type": "output_text", "text": "b", "annotations": []}],
        },
    ],
    "mixed": [
        {"type": "message", "role": "user", "content": "a"},
        {"type": "compaction", "id": "cmp_1", "encrypted_content": "x"},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "add", "arguments": "{}"},
        {"type": "function_call", "id": "fc_2", "call_id": "c2", "name": "add", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "1"},
        {"type": "function_call_output", "call_id": "c2", "output": "2"},
        {"type": "message", "role": "user", "content": "b"},
    ],
}


@pytest.mark.parametrize("items", WINDOWS.values(), ids=WINDOWS.keys())
def test_every_item_survives_as_a_message(items: list[dict[str, Any]]) -> None:
    head = [SystemMessage("Be good.")]
    messages = window_of(head, json.loads(json.dumps(items)))
    back = wire(messages)
    assert back[0]["role"] == "system"
    assert back[1:] == items
