"""Scenarios 14 to 18: handoffs, `Send`, joins, time travel."""

from __future__ import annotations

import operator
import threading
from typing import Annotated, Any, TypedDict

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import InjectedToolCallId, tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import add_messages
from langgraph.prebuilt import InjectedState
from langgraph.types import Command, Send
from scenarios.graphs import World, chat_graph, essence, node_of, thread

from langchain_ws_responses.testing import hold, text, tool_call


def say(words: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(words)]}


@tool
def to_bob(state: Annotated[dict[str, Any], InjectedState], call: Annotated[str, InjectedToolCallId]) -> Any:
    """Hands over to Bob."""
    told = ToolMessage("Over to Bob.", tool_call_id=call)
    return Command(goto="bob", update={"messages": [*state["messages"], told]}, graph=Command.PARENT)


def _team(world: World, mode: str) -> Any:
    alice = create_agent(
        world.model(system_mode=mode), [to_bob], system_prompt="You are Alice.", name="alice"
    )
    bob = create_agent(world.model(system_mode=mode), [], system_prompt="You are Bob.", name="bob")
    builder = StateGraph(MessagesState)
    builder.add_node("alice", alice, destinations=("bob",))
    builder.add_node("bob", bob)
    builder.add_edge(START, "alice")
    builder.add_edge("bob", END)
    return builder.compile(checkpointer=InMemorySaver())


@pytest.mark.parametrize("mode", ["auto", "input", "instructions"])
def test_14_a_handoff_between_two_agents(world: World, mode: str) -> None:
    world.server.add(tool_call("to_bob", {}, "c1"), "I am Bob.")
    graph = _team(world, mode)
    world.run(graph, say("Who are you?"), thread())
    handed = "D1" if mode == "instructions" else "F system_changed"
    assert world.sent() == ["F first_turn", handed]
    alices, bobs = world.requests
    prompts = [request.instructions or essence(request.seen)[0][1] for request in (alices, bobs)]
    assert prompts == ["You are Alice.", "You are Bob."]
    assert ("system", "You are Alice.") not in essence(bobs.seen)
    assert essence(bobs.items)[-1] == ("output", "c1", "Over to Bob.")
    world.check()


def test_14_two_agents_take_turns(world: World) -> None:
    """Each goes on with its own prompt; under `auto` the first change costs one full send, and no more."""
    world.server.add(*[text(str(number)) for number in range(6)])
    heads = [SystemMessage("You are Alice."), SystemMessage("You are Bob.")]
    model = world.model()

    class State(TypedDict):
        messages: Annotated[list[Any], add_messages]

    builder = StateGraph(State)
    for name, head in zip(("alice", "bob"), heads, strict=True):
        builder.add_node(name, node_of(model, lambda state, head=head: [head, *state["messages"]]))
    builder.add_node("between", lambda state: say("Go on."))
    builder.add_edge(START, "alice")
    builder.add_edge("alice", "between")
    builder.add_edge("between", "bob")
    graph = builder.compile(checkpointer=InMemorySaver())
    for words in "abc":
        world.run(graph, say(words), thread())
    assert world.sent() == ["F first_turn", "F system_changed", "D1", "D1", "D1", "D1"]
    world.check()


class Fan(TypedDict):
    """A state with the workers' answers beside the conversation."""

    messages: Annotated[list[Any], add_messages]
    found: Annotated[list[Any], operator.add]


def _fan_graph(model: Any, *, workers: int) -> Any:
    """One answer, two workers that go on from it, and a join that sees both."""

    def question(state: Any) -> list[Any]:
        return [*state["messages"], HumanMessage(f"part {state['part']}")]

    def work(state: Any) -> Any:
        given = question(state)
        return {"found": [(state["part"], [*given[-1:], model.invoke(given)])]}

    async def awork(state: Any) -> Any:
        given = question(state)
        return {"found": [(state["part"], [*given[-1:], await model.ainvoke(given)])]}

    def join(state: Any) -> list[Any]:
        parts = [
            message for _, found in sorted(state["found"], key=lambda entry: entry[0]) for message in found
        ]
        return [*state["messages"], *parts, HumanMessage("join")]

    def fan(state: Any) -> list[Send]:
        return [Send("worker", {**state, "part": part}) for part in range(workers)]

    builder = StateGraph(Fan)
    builder.add_node("agent", node_of(model))
    builder.add_node("worker", RunnableLambda(work, awork))
    builder.add_node("join", node_of(model, join))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", fan, ["worker"])
    builder.add_edge("worker", "join")
    builder.add_edge("join", END)
    return builder.compile(checkpointer=InMemorySaver())


class _Together:
    """Answers workers only when all of them have been let in: then they truly run side by side."""

    def __init__(self, workers: int) -> None:
        self._gate = threading.Event()
        self._missing = workers

    def __call__(self, request: Any) -> Any:
        last = request.last_user_text
        if not last.startswith("part"):
            return text(f"re {last}")
        self._missing -= 1
        if not self._missing:
            self._gate.set()
        return hold(self._gate, text(f"re {last}"))


def test_15_two_workers_continue_the_same_parent(world: World) -> None:
    world.server.config.answer = _Together(2)
    world.run(_fan_graph(world.model(), workers=2), say("go"), thread())
    first, *workers, _ = world.requests
    # Both run at the same time: neither can have waited for the other.
    assert [request.previous_response_id for request in workers] == [first.response_id] * 2
    assert sorted(essence(request.items)[0] for request in workers) == [
        ("user", "part 0"),
        ("user", "part 1"),
    ]
    assert len({request.stream_id for request in workers}) == 2
    assert len(world.server.connections) == 1
    world.check_any_order()


def test_16_the_join_sees_both_answers(world: World) -> None:
    world.server.config.answer = _Together(2)
    world.run(_fan_graph(world.model(), workers=2), say("go"), thread())
    joined = world.requests[-1]
    assert essence(joined.seen) == [
        ("user", "go"),
        ("assistant", "re go"),
        ("user", "part 0"),
        ("assistant", "re part 0"),
        ("user", "part 1"),
        ("assistant", "re part 1"),
        ("user", "join"),
    ]
    # It follows worker 0, whose answer stands first.
    if world.store:
        assert len(joined.items) == 3
    world.check_any_order()


def _linear(world: World) -> Any:
    world.server.add("one", "two", "three")
    graph = chat_graph(world.model(), checkpointer=InMemorySaver())
    for words in "abc":
        world.run(graph, say(words), thread())
    return graph


def _after(graph: Any, turns: int) -> Any:
    """The config of the checkpoint in which exactly `turns` turns had ended."""
    return next(
        snapshot.config
        for snapshot in graph.get_state_history(thread())
        if len(snapshot.values.get("messages", ())) == 2 * turns and not snapshot.next
    )


def test_17_time_travel_of_a_stored_conversation(stored_world: World) -> None:
    world = stored_world
    graph = _linear(world)
    world.server.add("other", "more")
    state = world.run(graph, say("x"), _after(graph, 1))
    assert [message.text for message in state["messages"]] == ["a", "one", "x", "other"]
    assert world.sent()[3:] == ["D1"]
    assert world.requests[3].previous_response_id == world.requests[0].response_id
    world.run(graph, say("y"), thread())
    assert world.sent()[4:] == ["D1"]
    assert world.requests[4].previous_response_id == world.requests[3].response_id
    world.check()


def test_17_both_ends_of_a_fork_go_on(stored_world: World) -> None:
    world = stored_world
    graph = _linear(world)
    old_end = _after(graph, 3)
    world.server.add("other", "on the new branch", "on the old branch")
    world.run(graph, say("x"), _after(graph, 1))
    world.run(graph, say("y"), thread())
    world.run(graph, say("d"), old_end)
    assert world.sent()[3:] == ["D1", "D1", "D1"]
    assert world.requests[5].previous_response_id == world.requests[2].response_id
    world.check()


def test_18_time_travel_of_an_unstored_conversation(unstored_world: World) -> None:
    world = unstored_world
    graph = _linear(world)
    world.server.add("other", "more")
    state = world.run(graph, say("x"), _after(graph, 1))
    assert [message.text for message in state["messages"]] == ["a", "one", "x", "other"]
    world.run(graph, say("y"), thread())
    assert world.sent()[3:] == ["F not_alive", "D1"]
    assert all(request.status == "completed" for request in world.requests)
    world.check()


def test_18_an_edit_in_the_past_starts_a_branch(world: World) -> None:
    graph = _linear(world)
    world.server.add("other")
    past = _after(graph, 2)
    question = graph.get_state(past).values["messages"][2]
    branch = graph.update_state(past, {"messages": [question.model_copy(update={"content": "B!"})]})
    world.run(graph, say("x"), branch)
    assert world.sent()[3:] == ["D3" if world.store else "F history_changed"]
    assert ("user", "B!") in essence(world.requests[3].seen)
    world.check()


def test_an_answer_by_hand_is_sent_like_any_message(world: World) -> None:
    graph = _linear(world)
    world.server.add("four")
    graph.update_state(thread(), {"messages": [HumanMessage("d"), AIMessage("By hand.")]})
    world.run(graph, say("e"), thread())
    assert world.sent()[3:] == ["D3"]
    assert essence(world.requests[3].items)[1] == ("assistant", "By hand.")
    world.check()
