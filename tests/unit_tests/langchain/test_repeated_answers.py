"""States that hold an answer twice, or in two parts: as langchain-openai converts a whole conversation."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from answers import VERSIONS, invoked, streamed, turn_with
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_openai.chat_models.base import _construct_responses_api_input
from pairs import WAYS, http_model, run, socket_model

from langchain_ws_responses._langchain.conversion import merged
from langchain_ws_responses._langchain.messages import items_of
from langchain_ws_responses.testing import ResponsesServer, text

if TYPE_CHECKING:
    from langchain_ws_responses import ConnectionManager


def part(words: str) -> dict[str, Any]:
    return {"type": "output_text", "text": words, "annotations": []}


def said(number: int, *words: str, **more: Any) -> dict[str, Any]:
    return {
        "type": "message", "id": f"msg_{number}", "role": "assistant", "status": "completed",
        "content": [part(each) for each in words], **more,
    }  # fmt: skip


CALL = {
    "type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}", "status": "completed",
}  # fmt: skip
SEARCH = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {"type": "search", "query": "q"},
}
OUTPUTS = (
    [said(1, "One.")],
    [said(1, "Two ", "parts."), said(2, "More.", phase="final_answer")],
    [said(3, "Look.", phase="commentary"), CALL],
    [SEARCH, said(2, "Found.")],
    # As of a gateway that gives no ids and counts calls in each answer.
    [{key: value for key, value in CALL.items() if key != "id"}],
)
ANSWERS = [
    made(turn_with(output), version) for output in OUTPUTS for version in VERSIONS for made in (invoked, streamed)
]  # fmt: skip
HALVES = [
    message.model_copy(update={"content": half})
    for message in ANSWERS
    if isinstance(message.content, list) and not message.tool_calls
    for half in (message.content[:1], message.content[1:])
]
OTHERS: list[BaseMessage] = [
    HumanMessage("Hello."),
    ToolMessage("done", tool_call_id="call_1"),
    AIMessage("By hand."),
    AIMessage(["Two", "texts"], tool_calls=[{"type": "tool_call", "name": "f", "args": {}, "id": "call_1"}]),
    AIMessage([], tool_calls=[{"type": "tool_call", "name": "f", "args": {}, "id": "call_1"}]),
    AIMessage("", tool_calls=[{"type": "tool_call", "name": "f", "args": {}, "id": "call_1"}]),
]


def wire(messages: list[BaseMessage], store: bool | None) -> list[dict[str, Any]]:
    return merged((message, items_of(message, store=store)) for message in messages)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([*ANSWERS, *HALVES, *OTHERS]), max_size=8), st.sampled_from([None, True, False])
)
def test_any_mixture_of_answers_is_sent_as_langchain_sends_it(
    messages: list[BaseMessage], store: bool | None
) -> None:
    expected = _construct_responses_api_input(copy.deepcopy(messages), store=store)
    assert wire(messages, store) == expected
    # Nothing that is remembered was changed by joining.
    assert wire(messages, store) == expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("fields", [{}, {"chain": "off"}, {"transport": "http"}], ids=str)
def test_a_state_that_holds_its_messages_twice_works_as_over_http(
    manager: ConnectionManager, fields: dict[str, Any], way: str
) -> None:
    """As a client makes it that sends the whole conversation back to a graph which appends."""
    with ResponsesServer("One.", "Expected.", "Two.", "Three.") as server:
        model = socket_model(server, manager, **fields)
        first = [HumanMessage("a"), model.invoke("a")]
        twice = [*first, *first, HumanMessage("b")]
        http_model(server).invoke(twice)
        answers = run(model, way, twice)
        whole = answers[0]
        for chunk in answers[1:]:
            whole = whole + chunk
        assert server.requests[2].items == server.requests[1].items
        assert whole.text == "Two."
        # And goes on from there with a delta, where it may.
        run(model, way, [*twice, whole, HumanMessage("c")])
        assert server.requests[3].is_delta == (fields.get("chain") != "off")
        assert [item["content"] for item in server.requests[3].seen if item["role"] == "user"] == [
            "a",
            "a",
            "b",
            "c",
        ]


def test_an_answer_that_the_chain_has_not_is_part_of_a_delta(manager: ConnectionManager) -> None:
    with ResponsesServer(text("One."), text("Two.")) as server:
        model = socket_model(server, manager)
        history = [HumanMessage("a"), model.invoke("a"), AIMessage("By hand."), HumanMessage("b")]
        model.invoke(history)
        assert server.requests[1].is_delta
        assert len(server.requests[1].items) == 2
