"""Scenarios 1 to 3 and 19 to 24: tool loops, restarts, other models, failures.

Each checks what the server's model saw, the items that were sent, the reason, and that nothing went over HTTP.
"""

from __future__ import annotations

import threading
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import RetryPolicy
from scenarios.graphs import World, add, chat_graph, essence, node_of, thread, tool_graph

from langchain_ws_responses.testing import ResponsesServer, calls, error, text, tool_call


def say(words: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(words)]}


def test_01_tool_loop_of_two_turns(world: World) -> None:
    world.server.add(tool_call("add", {"a": 1, "b": 2}, "c1"), "three", "bye")
    graph = tool_graph(world.model(), checkpointer=InMemorySaver())
    world.run(graph, say("1 and 2?"), thread())
    world.run(graph, say("thanks"), thread())
    assert world.sent() == ["F first_turn", "D1", "D1"]
    assert essence(world.requests[1].items) == [("output", "c1", "3")]
    assert essence(world.requests[2].items) == [("user", "thanks")]
    world.check()
    assert len(world.server.connections) == 1


def test_02_restart_of_a_stored_conversation(stored_world: World) -> None:
    world, saver = stored_world, InMemorySaver()
    world.server.add("one", "two", "three")
    world.run(chat_graph(world.model(), checkpointer=saver), say("a"), thread())
    world.restart()
    graph = chat_graph(world.model(), checkpointer=saver)
    world.run(graph, say("b"), thread())
    world.run(graph, say("c"), thread())
    assert world.sent() == ["F first_turn", "D1", "D1"]
    world.check()


def test_03_restart_of_an_unstored_conversation(unstored_world: World) -> None:
    world, saver = unstored_world, InMemorySaver()
    world.server.add("one", "two", "three")
    world.run(chat_graph(world.model(), checkpointer=saver), say("a"), thread())
    world.restart()
    graph = chat_graph(world.model(), checkpointer=saver)
    world.run(graph, say("b"), thread())
    world.run(graph, say("c"), thread())
    assert world.sent() == ["F first_turn", "F not_alive", "D1"]
    assert all(request.status == "completed" for request in world.requests)
    world.check()


def test_03_unstored_responses_ask_for_their_reasoning(unstored_world: World) -> None:
    world = unstored_world
    world.server.add("one")
    world.run(chat_graph(world.model()), say("a"))
    assert world.requests[0].body["include"] == ["reasoning.encrypted_content"]
    assert world.requests[0].store is False


def test_19_another_model_and_back(world: World) -> None:
    world.server.add("one", "two", "three", "four")
    saver = InMemorySaver()
    first = chat_graph(world.model(), checkpointer=saver)
    second = chat_graph(world.model(model="gpt-5.5-mini"), checkpointer=saver)
    for graph, words in [(first, "a"), (second, "b"), (first, "c"), (first, "d")]:
        world.run(graph, say(words), thread())
    assert world.sent() == ["F first_turn", "F model_changed", "D3", "D1"]
    assert world.requests[2].previous_response_id == world.requests[0].response_id
    assert essence(world.requests[2].items) == [("user", "b"), ("assistant", "two"), ("user", "c")]
    world.check()


def test_20_the_link_of_another_endpoint(world: World) -> None:
    saver = InMemorySaver()
    world.server.add("two", "three")
    with ResponsesServer("one") as other:
        elsewhere = chat_graph(world.model(base_url=other.base_url, callbacks=[]), checkpointer=saver)
        world.run(elsewhere, say("a"), thread())
        graph = chat_graph(world.model(), checkpointer=saver)
        world.run(graph, say("b"), thread())
        world.run(graph, say("c"), thread())
    assert world.sent() == ["F bad_link", "D1"]
    assert essence(world.requests[0].seen) == [("user", "a"), ("assistant", "one"), ("user", "b")]
    world.check()


def test_20_an_id_without_a_link_is_not_believed(world: World) -> None:
    world.server.add("one")
    foreign = AIMessage("hello", id="resp_of_somebody", response_metadata={"id": "resp_of_somebody"})
    graph = chat_graph(world.model())
    world.run(graph, {"messages": [HumanMessage("a"), foreign, HumanMessage("b")]})
    assert world.sent() == ["F no_link"]
    assert "previous_response_id" not in world.requests[0].body
    world.check()


def _fragile_graph(model: Any, failures: list[int], **kwargs: Any) -> Any:
    """The node fails after the model has answered, as often as `failures` has entries."""
    inner = node_of(model)

    def call(state: Any) -> Any:
        update = inner.invoke(state)
        if failures:
            failures.pop()
            raise ConnectionResetError("after the answer")
        return update

    async def acall(state: Any) -> Any:
        update = await inner.ainvoke(state)
        if failures:
            failures.pop()
            raise ConnectionResetError("after the answer")
        return update

    builder = StateGraph(MessagesState)
    builder.add_node("agent", RunnableLambda(call, acall), **kwargs)
    builder.add_edge(START, "agent")
    builder.add_edge("agent", END)
    return builder.compile(checkpointer=InMemorySaver())


def test_21_a_node_fails_after_the_answer_and_the_run_is_resumed(world: World) -> None:
    world.server.add("one", "orphan", "two", "three")
    failures: list[int] = []
    graph = _fragile_graph(world.model(), failures)
    world.run(graph, say("a"), thread())
    failures.append(1)
    with pytest.raises(ConnectionResetError):
        world.run(graph, say("b"), thread())
    world.run(graph, None, thread())
    world.run(graph, say("c"), thread())
    # Without storage the orphan has taken its parent's place in the connection's memory.
    again = "D1" if world.store else "F not_alive"
    assert world.sent() == ["F first_turn", "D1", again, "D1"]
    assert not any("orphan" in item for request in world.requests for item in essence(request.seen))
    world.check()


def test_21_a_node_fails_after_the_answer_and_is_retried(world: World) -> None:
    world.server.add("one", "orphan", "two", "three")
    failures: list[int] = []
    policy = RetryPolicy(initial_interval=0, jitter=False, retry_on=ConnectionResetError)
    graph = _fragile_graph(world.model(), failures, retry_policy=policy)
    world.run(graph, say("a"), thread())
    failures.append(1)
    world.run(graph, say("b"), thread())
    world.run(graph, say("c"), thread())
    again = "D1" if world.store else "F not_alive"
    assert world.sent() == ["F first_turn", "D1", again, "D1"]
    assert not any("orphan" in item for request in world.requests for item in essence(request.seen))
    world.check()


def test_22_the_server_fails_and_the_run_is_resumed(world: World) -> None:
    world.server.add("one", error(status=400, code="odd", message="No."), "two", "three")
    graph = chat_graph(world.model(), checkpointer=InMemorySaver())
    world.run(graph, say("a"), thread())
    with pytest.raises(Exception, match="No"):
        world.run(graph, say("b"), thread())
    world.run(graph, None, thread())
    world.run(graph, say("c"), thread())
    # Without storage the server has forgotten the response that the failed request continued.
    again = "D1" if world.store else "F not_alive"
    assert world.sent() == ["F first_turn", "D1", again, "D1"]
    assert essence(world.requests[1].seen) == essence(world.requests[2].seen)
    world.check()


def test_23_three_parallel_calls_in_one_request(world: World) -> None:
    asked = [tool_call("add", {"a": n, "b": 0}, f"c{n}") for n in (3, 1, 2)]
    world.server.add(calls(*asked), "done")
    graph = tool_graph(world.model())
    world.run(graph, say("add"))
    assert world.sent() == ["F first_turn", "D3"]
    outputs = [("output", f"c{n}", str(n)) for n in (3, 1, 2)]
    assert essence(world.requests[1].items) == outputs
    world.check()


def test_23_call_order_holds_when_the_tools_end_in_another_order(world: World) -> None:
    second_ended = threading.Event()

    @tool
    def first() -> str:
        """Ends last."""
        assert second_ended.wait(10)
        return "first"

    @tool
    def second() -> str:
        """Ends first."""
        second_ended.set()
        return "second"

    world.server.add(calls(tool_call("first", {}, "c1"), tool_call("second", {}, "c2")), "done")
    world.run(tool_graph(world.model(), [first, second]), say("go"))
    assert essence(world.requests[1].items) == [("output", "c1", "first"), ("output", "c2", "second")]
    world.check()


def test_24_the_server_lost_the_response(world: World) -> None:
    world.server.add("one", "two", "three")
    graph = chat_graph(world.model(), checkpointer=InMemorySaver())
    world.run(graph, say("a"), thread())
    world.server.forget(world.requests[0].response_id)
    world.run(graph, say("b"), thread())
    world.run(graph, say("c"), thread())
    failed = world.requests[1]
    assert (failed.error_code, failed.is_delta) == ("previous_response_not_found", True)
    # What the failed attempt saw is nobody's business; the rest is compared as ever.
    world.server.requests.remove(failed)
    assert world.sent() == ["F first_turn", "F previous_response_not_found", "D1"]
    assert world.calls[1].transport is not None
    assert world.calls[1].transport["resends"] == 1
    world.check()


def test_missing_tool_outputs_are_the_servers_own_error(world: World) -> None:
    world.server.add(calls(tool_call("add", {}, "c1"), tool_call("add", {}, "c2")), "done", "more")
    model = world.model().bind_tools([add])
    messages: list[Any] = [HumanMessage("a")]
    messages.append(model.invoke(messages))
    partial = [*messages, ToolMessage("1", tool_call_id="c1")]
    with pytest.raises(Exception, match="No tool output found for function call c2"):
        model.invoke(partial)
    whole = [*partial, ToolMessage("2", tool_call_id="c2")]
    answer = model.invoke(whole)
    model.invoke([*whole, answer, HumanMessage("b")])
    assert world.sent() == ["F first_turn", "D1", "D2" if world.store else "F not_alive", "D1"]
    world.check()


def test_a_last_text_is_never_lost_to_an_empty_delta(world: World) -> None:
    """A history that ends in an answer: nothing is new, and the input must not be empty."""
    world.server.add("one", "two", "three")
    graph = chat_graph(world.model(), checkpointer=InMemorySaver())
    world.run(graph, say("a"), thread())
    state = world.run(graph, say("b"), thread())
    model = world.model()
    model.invoke(state["messages"])
    last = "D2" if world.store else "F nothing_new"
    assert world.sent() == ["F first_turn", "D1", last]
    world.check()


def test_text_answers_are_those_of_the_script(world: World) -> None:
    world.server.add(text("one"), text("two"))
    graph = chat_graph(world.model(), checkpointer=InMemorySaver())
    world.run(graph, say("a"), thread())
    state = world.run(graph, say("b"), thread())
    assert [message.text for message in state["messages"]] == ["a", "one", "b", "two"]
