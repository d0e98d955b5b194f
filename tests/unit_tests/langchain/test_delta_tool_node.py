"""`DeltaToolNode`: runs tools as `ToolNode` does, for every shape of state."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import ToolNode
from langgraph.types import Command
from pydantic import BaseModel
from scenarios.graphs import World, essence, tool_graph
from scenarios.keeping import manager_of

from langchain_ws_responses import DeltaToolNode
from langchain_ws_responses._langchain import ready
from langchain_ws_responses._langchain.tools import messages_in
from langchain_ws_responses.testing import ResponsesServer, calls, tool_call


@tool
def double(n: int) -> int:
    """Doubles."""
    if n < 0:
        raise ValueError("negative")
    return 2 * n


def _asked(*numbers: int) -> list[BaseMessage]:
    wanted = [{"name": "double", "args": {"n": n}, "id": f"c{n}", "type": "tool_call"} for n in numbers]
    return [HumanMessage("go"), AIMessage("", tool_calls=wanted)]


@dataclass
class DataState:
    messages: Annotated[list[Any], add_messages] = field(default_factory=list)


class ModelState(BaseModel):
    messages: Annotated[list[Any], add_messages] = []


def _run(node: Any, state: Any, way: str) -> Any:
    # ToolNode needs a graph around it: its runtime comes from there.
    builder = StateGraph(type(state))
    builder.add_node("tools", node)
    builder.add_edge(START, "tools")
    builder.add_edge("tools", END)
    graph = builder.compile()
    return asyncio.run(graph.ainvoke(state)) if way == "ainvoke" else graph.invoke(state)


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("make", [DataState, ModelState], ids=["dataclass", "pydantic"])
def test_runs_tools_as_toolnode_does(way: str, make: Any) -> None:
    def outputs(node: Any) -> list[tuple[str, str, str]]:
        result = _run(node, make(messages=_asked(3, 1, 2)), way)
        return [
            (message.content, message.tool_call_id, message.status)
            for message in result["messages"]
            if isinstance(message, ToolMessage)
        ]

    plain, ours = outputs(ToolNode([double])), outputs(DeltaToolNode([double]))
    assert ours == plain == [("6", "c3", "success"), ("2", "c1", "success"), ("4", "c2", "success")]


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_tools_fail_as_in_toolnode(way: str) -> None:
    def outcome(node: Any) -> Any:
        try:
            result = _run(node, DataState(messages=_asked(-1)), way)
        except ValueError as exc:
            return type(exc), str(exc)
        return [message.content for message in result["messages"]]

    for options in ({}, {"handle_tool_errors": True}, {"handle_tool_errors": "sorry"}):
        assert outcome(DeltaToolNode([double], **options)) == outcome(ToolNode([double], **options))


def test_takes_the_arguments_of_toolnode() -> None:
    node = DeltaToolNode([double], name="work", tags=["a"], messages_key="talk")
    assert (node.name, node.tags) == ("work", ["a"])
    assert list(node.tools_by_name) == ["double"]
    assert isinstance(node, ToolNode)


@pytest.mark.parametrize("way", ["invoke", "ainvoke", "stream"])
@pytest.mark.parametrize("store", [True, False])
def test_outputs_are_all_that_is_sent(responses_server: ResponsesServer, way: str, store: bool) -> None:
    responses_server.add(
        calls(tool_call("double", {"n": 2}, "c2"), tool_call("double", {"n": 1}, "c1")), "done"
    )
    with manager_of() as manager:
        world = World(responses_server, way, store, manager)
        graph = tool_graph(world.model(), [double], tool_node=DeltaToolNode)
        world.run(graph, {"messages": [HumanMessage("go")]})
        assert world.sent() == ["F first_turn", "D2"]
        assert essence(world.requests[1].items) == [("output", "c2", "4"), ("output", "c1", "2")]
        assert not any(request.is_warm_up for request in responses_server.requests)
        world.check()


def test_a_tool_that_returns_a_command_passes(responses_server: ResponsesServer) -> None:
    @tool
    def jump() -> Any:
        """Jumps."""
        return Command(update={"messages": [ToolMessage("jumped", tool_call_id="c1")]})

    responses_server.add(tool_call("jump", {}, "c1"), "done")
    with manager_of() as manager:
        world = World(responses_server, manager=manager)
        graph = tool_graph(world.model(), [jump], tool_node=DeltaToolNode)
        world.run(graph, {"messages": [HumanMessage("go")]})
        assert essence(world.requests[1].items) == [("output", "c1", "jumped")]
        world.check()


def test_keeps_ready_while_tools_run(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Told(ready.KeepReady):
        def __enter__(self) -> ready.KeepReady:
            told.append("in")
            return super().__enter__()

        def __exit__(self, *exc_info: object) -> None:
            told.append("out")
            super().__exit__(*exc_info)

    @tool
    def look() -> str:
        """Looks."""
        told.append("tool")
        return "seen"

    monkeypatch.setattr("langchain_ws_responses._langchain.tools.KeepReady", Told)
    call = {"name": "look", "args": {}, "id": "c1", "type": "tool_call"}
    state = DataState(messages=[AIMessage("", tool_calls=[call])])
    for way in ("invoke", "ainvoke"):
        told.clear()
        _run(DeltaToolNode([look]), state, way)
        assert told == ["in", "tool", "out"]


_LINKED = [HumanMessage("a"), AIMessage("b")]


@pytest.mark.parametrize(
    ("state", "key", "found"),
    [
        (_LINKED, "messages", _LINKED),
        ({"messages": _LINKED}, "messages", _LINKED),
        ({"talk": _LINKED}, "talk", _LINKED),
        (DataState(_LINKED), "messages", _LINKED),
        (ModelState(messages=_LINKED), "messages", _LINKED),
        ({"tool_call": {}, "state": {"messages": _LINKED}}, "messages", _LINKED),
        ({"tool_call": {}, "state": DataState(_LINKED)}, "messages", _LINKED),
        ({"tool_call": {}, "messages": _LINKED}, "messages", _LINKED),
        ([{"type": "tool_call"}], "messages", []),
        ({"messages": "text"}, "messages", ()),
        ({}, "messages", ()),
        (None, "messages", ()),
        (7, "messages", ()),
    ],
)
def test_finds_the_messages_in_any_state(state: Any, key: str, found: Any) -> None:
    assert messages_in(state, key) == found
