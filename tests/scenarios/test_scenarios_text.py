"""Scenario 25: the state keeps text only, and `ChainSaver` knows which response belongs to it."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from scenarios.graphs import World, essence, thread

from langchain_ws_responses import ChainSaver
from langchain_ws_responses._langchain.index import INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator


class Lines(TypedDict):
    """Questions and answers in turn."""

    lines: Annotated[list[str], operator.add]


@pytest.fixture(autouse=True)
def _fresh_index() -> Iterator[None]:
    INDEX.clear()
    yield
    INDEX.clear()


def _text_graph(model: Any, saver: Any) -> Any:
    def messages(state: Lines) -> list[BaseMessage]:
        kinds = (HumanMessage, AIMessage)
        return [kinds[number % 2](line) for number, line in enumerate(state["lines"])]

    def call(state: Lines) -> Any:
        return {"lines": [model.invoke(messages(state)).text]}

    async def acall(state: Lines) -> Any:
        return {"lines": [(await model.ainvoke(messages(state))).text]}

    builder = StateGraph(Lines)
    builder.add_node("agent", RunnableLambda(call, acall))
    builder.add_edge(START, "agent")
    builder.add_edge("agent", END)
    return builder.compile(checkpointer=saver)


def test_25_text_only_state_with_chain_saver(world: World) -> None:
    world.server.add("one", "two", "three")
    graph = _text_graph(world.model(), ChainSaver(InMemorySaver()))
    for words in "abc":
        world.run(graph, {"lines": [words]}, thread())
    assert world.sent() == ["F first_turn", "D1", "D1"]
    assert essence(world.requests[2].items) == [("user", "c")]
    world.check()


def test_25_text_only_state_after_a_restart(world: World) -> None:
    inner = InMemorySaver()
    world.server.add("one", "two", "three")
    world.run(_text_graph(world.model(), ChainSaver(inner)), {"lines": ["a"]}, thread())
    world.restart()
    INDEX.clear()
    graph = _text_graph(world.model(), ChainSaver(inner))
    for words in "bc":
        world.run(graph, {"lines": [words]}, thread())
    assert world.sent()[0] == "F first_turn"
    assert world.sent()[1] == "D1" if world.store else world.sent()[1].startswith("F ")
    assert world.sent()[2] == "D1"
    world.check()


def test_25_without_chain_saver_everything_is_sent(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    # As in a process in which nobody has made a ChainSaver.
    monkeypatch.setattr(INDEX, "active", False)
    world.server.add("one", "two")
    graph = _text_graph(world.model(), InMemorySaver())
    for words in "ab":
        world.run(graph, {"lines": [words]}, thread())
    assert world.sent() == ["F first_turn", "F no_link"]
    world.check()
