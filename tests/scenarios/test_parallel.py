"""Calls side by side: branches from one parent, `gather`, `batch`, lanes that run out, many threads on one model."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from scenarios.graphs import World, add, chat_graph, essence, thread, tool_graph

from langchain_ws_responses import ConnectionManager, Limits
from langchain_ws_responses.testing import hold, text, tool_call


class _Barrier:
    """Answers that come only when `count` requests have been let in; then the next `count` are awaited."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting = 0
        self._gate = threading.Event()

    def __call__(self, request: Any) -> Any:
        gate, self._waiting = self._gate, self._waiting + 1
        if self._waiting == self._count:
            self._waiting, self._gate = 0, threading.Event()
            gate.set()
        return hold(gate, text(f"re {request.last_user_text}"))


def _parent(world: World) -> tuple[Any, list[Any]]:
    """A model and a conversation of one turn with it."""
    model = world.model()
    question = HumanMessage("root")
    return model, [question, model.invoke([question])]


def _branches(parent: list[Any], count: int) -> list[list[Any]]:
    return [[*parent, HumanMessage(f"branch {number}")] for number in range(count)]


def _check_forks(world: World, count: int) -> None:
    root, *branches = world.requests
    assert len(branches) == count
    # All are let in before the first is answered, so each finds its parent: on its own lane or as a fork.
    assert [request.previous_response_id for request in branches] == [root.response_id] * count
    assert all(len(request.items) == 1 for request in branches)
    assert len({request.stream_id for request in branches}) == count
    assert len(world.server.connections) == 1
    world.check_any_order()


def test_gather_from_one_parent(plain_world: World) -> None:
    world = plain_world
    model, parent = _parent(world)
    world.server.config.answer = _Barrier(5)

    async def go() -> list[Any]:
        return await asyncio.gather(*(model.ainvoke(branch) for branch in _branches(parent, 5)))

    answers = asyncio.run(go())
    assert [answer.text for answer in answers] == [f"re branch {number}" for number in range(5)]
    _check_forks(world, 5)


def test_batch_from_one_parent(plain_world: World) -> None:
    world = plain_world
    model, parent = _parent(world)
    world.server.config.answer = _Barrier(4)
    answers = model.batch(_branches(parent, 4))
    assert [answer.text for answer in answers] == [f"re branch {number}" for number in range(4)]
    _check_forks(world, 4)


def test_sixteen_at_a_time_then_another_connection(plain_world: World) -> None:
    """The seventeenth does not fit on the parent's connection; without storage it waits there or goes in full."""
    world = plain_world
    model, parent = _parent(world)
    world.server.config.answer = lambda request: text(f"re {request.last_user_text}")
    answers = model.batch(_branches(parent, 40))
    assert [answer.text for answer in answers] == [f"re branch {number}" for number in range(40)]
    lost = [request for request in world.requests if request.error_code == "previous_response_not_found"]
    for request in lost:
        world.server.requests.remove(request)
    if world.store:
        assert lost == []
        assert all(request.is_delta for request in world.requests[1:])
    else:
        reasons = {call.transport["reason"] for call in world.calls[1:] if call.transport}
        assert reasons <= {"chain", "not_alive", "previous_response_not_found"}
    world.check_any_order()


def test_a_fork_is_begun_before_its_parents_lane_moves_on(plain_world: World) -> None:
    """Branches one after another: the first takes the parent's lane, so that only storage lets others follow."""
    world = plain_world
    model, parent = _parent(world)
    for branch in _branches(parent, 3):
        model.invoke(branch)
    others = "D1" if world.store else "F not_alive"
    assert world.sent() == ["F first_turn", "D1", others, others]
    world.check()


def test_branches_go_on_each_on_its_own_lane(plain_world: World) -> None:
    world = plain_world
    model, parent = _parent(world)
    world.server.config.answer = _Barrier(3)
    branches = _branches(parent, 3)
    for _ in range(3):
        answers = model.batch(branches)
        branches = [
            [*branch, answer, HumanMessage(branch[2].text)]
            for branch, answer in zip(branches, answers, strict=True)
        ]
    assert Counter(request.is_delta for request in world.requests) == {False: 1, True: 9}
    assert len(world.server.connections) == 1
    lanes = [request.stream_id for request in world.requests]
    assert len(set(lanes)) == 3
    world.check_any_order()


def _conversations(world: World, count: int) -> tuple[Any, list[list[Any]]]:
    model = world.model()
    conversations: list[list[Any]] = []
    for number in range(count):
        question = HumanMessage(f"conversation {number}")
        conversations.append([question, model.invoke([question])])
    assert all(request.error_code is None for request in world.requests)
    return model, conversations


def test_more_conversations_than_names_give_up_the_least_recent(plain_world: World) -> None:
    """The 33rd conversation takes the lane of the one that has been silent for longest."""
    world = plain_world
    world.manager = ConnectionManager(limits=Limits(max_connections=1))
    model, conversations = _conversations(world, 33)
    assert len({request.stream_id for request in world.requests}) == 32
    assert len(world.server.connections) == 1
    # The first one lost its lane, the second and the last did not.
    for number in (1, 32, 0):
        model.invoke([*conversations[number], HumanMessage("still there?")])
    assert world.sent(since=33) == ["D1", "D1", "D1" if world.store else "F not_alive"]
    world.check()


def test_unstored_conversations_beyond_the_names_get_a_connection(plain_world: World) -> None:
    """Where memory is all there is, another connection costs less than a lost conversation."""
    world = plain_world
    model, conversations = _conversations(world, 33)
    assert len(world.server.connections) == (1 if world.store else 2)
    for number in (1, 32, 0):
        model.invoke([*conversations[number], HumanMessage("still there?")])
    assert world.sent(since=33) == ["D1", "D1", "D1"]
    assert max(len(connection.lanes) for connection in world.server.connections) == 32
    world.check()


@pytest.mark.parametrize("way", ["ainvoke"])
def test_twenty_threads_of_three_turns_on_one_model(world: World) -> None:
    world.server.config.answer = lambda request: text(
        "re " + "|".join(str(item) for item in essence(request.seen))
    )
    graph = chat_graph(world.model(), checkpointer=InMemorySaver())

    async def conversation(number: int) -> list[Any]:
        state: dict[str, Any] = {}
        for turn in range(3):
            given = {"messages": [HumanMessage(f"{number}.{turn}")]}
            state = await graph.ainvoke(given, thread(str(number)))
        return list(state["messages"])

    async def go() -> list[list[Any]]:
        return await asyncio.gather(*(conversation(number) for number in range(20)))

    for number, messages in enumerate(asyncio.run(go())):
        # Each answer repeats all that its model saw: other conversations' words would be in it.
        assert [message.text for message in messages[::2]] == [f"{number}.{turn}" for turn in range(3)]
        others = [f"'{other}.{turn}'" for other in range(20) for turn in range(3) if other != number]
        assert not any(other in message.text for message in messages for other in others)
    modes = Counter(request.is_delta for request in world.requests)
    assert modes == {False: 20, True: 40}
    world.check_any_order()


def test_parallel_tool_loops_in_threads(plain_world: World) -> None:
    world = plain_world

    def answer(request: Any) -> Any:
        if "output" in {item[0] for item in essence(request.items)}:
            return text("done")
        return tool_call("add", {"a": int(request.last_user_text), "b": 1}, f"c{request.last_user_text}")

    world.server.config.answer = answer
    graph = tool_graph(world.model(), [add], checkpointer=InMemorySaver())
    states: dict[int, Any] = {}

    def conversation(number: int) -> None:
        states[number] = graph.invoke({"messages": [HumanMessage(str(number))]}, thread(str(number)))

    threads = [threading.Thread(target=conversation, args=(number,)) for number in range(8)]
    for one in threads:
        one.start()
    for one in threads:
        one.join(30)
    for number in range(8):
        outputs = [message.text for message in states[number]["messages"] if message.type == "tool"]
        assert outputs == [str(number + 1)]
    assert Counter(request.is_delta for request in world.requests) == {False: 8, True: 8}
    world.check_any_order()


def test_a_parallel_answer_does_not_change_what_its_sibling_continues(plain_world: World) -> None:
    """A join that holds both branches in one history: nothing of either is lost."""
    world = plain_world
    model, parent = _parent(world)
    world.server.config.answer = _Barrier(2)
    left, right = _branches(parent, 2)
    answers = model.batch([left, right])
    world.server.config.answer = None
    joined = [*left, answers[0], right[-1], answers[1], HumanMessage("join")]
    model.invoke(joined)
    last = world.requests[-1]
    assert essence(last.seen)[-1] == ("user", "join")
    assert last.is_delta
    assert len(last.items) == 3
    world.check_any_order()


def test_a_message_by_hand_between_branches_is_sent(plain_world: World) -> None:
    world = plain_world
    model, parent = _parent(world)
    model.invoke([*parent, HumanMessage("x"), AIMessage("By hand."), HumanMessage("y")])
    assert world.sent() == ["F first_turn", "D3"]
    world.check()
