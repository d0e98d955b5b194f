"""`explain()` in plain words, and what tracers are told of a run."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from canaries import Tracer
from langchain_core.messages import AIMessage, HumanMessage
from pairs import run, socket_model

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager, Reason
from langchain_ws_responses._langchain import explain as module
from langchain_ws_responses._transport.retry import set_testing
from langchain_ws_responses.testing import ResponsesServer, drop, error, text


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    set_testing(True)
    yield
    set_testing(False)


@pytest.fixture
def manager() -> Iterator[ConnectionManager]:
    with ConnectionManager() as manager:
        yield manager


def test_a_conversation_is_explained_turn_by_turn(manager: ConnectionManager) -> None:
    with ResponsesServer("one", "two", "three") as server:
        model = socket_model(server, manager)
        assert model.explain() == "This model has not sent anything yet."
        messages: list[Any] = [HumanMessage("x")]
        first = model.invoke(messages)
        told = model.explain()
        size = f"{server.requests[0].raw_bytes:,}"
        assert told.startswith("Sent in full over the socket (connection c1, lane ")
        assert f"which was new): one item, {size} bytes. Why (first_turn): " in told
        assert "For a delta: from the second turn on" in told
        messages += [first, HumanMessage("y")]
        second = model.invoke(messages)
        size = f"{server.requests[1].raw_bytes:,}"
        assert (
            "which had carried a turn before): only one item that the server did not have yet"
            in model.explain()
        )
        assert f", {size} bytes. Why (chain): " in model.explain()
        assert "For a delta" not in model.explain()
        messages[0] = HumanMessage("another question")
        model.invoke([*messages, second, HumanMessage("z")])
        assert "Sent in full" in model.explain()
        assert "Why (history_changed): messages before the newest answer are not those" in model.explain()
        assert model.explain(first) == told, "a message keeps its own explanation"


@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke", "astream"])
def test_every_way_of_asking_is_explained(manager: ConnectionManager, way: str) -> None:
    with ResponsesServer(text("one two", 2)) as server:
        model = socket_model(server, manager)
        run(model, way, "x")
    assert "Why (first_turn)" in model.explain()


def test_resends_and_http_are_explained(manager: ConnectionManager) -> None:
    with ResponsesServer(drop(1), "two", "three") as server:
        model = socket_model(server, manager, max_retries=None)
        model.invoke("x")
        assert "It was sent again once" in model.explain()
        assert "Why (connection_lost): the socket died" in model.explain()
        http = socket_model(server, None, transport="http")
        http.invoke("x")
        assert http.explain().startswith("Sent in full over HTTP: one item, ")
        assert 'Why HTTP: the model has transport="http"' in http.explain()


def test_a_failure_is_explained(manager: ConnectionManager) -> None:
    with ResponsesServer(error(code="invalid_prompt", status=400)) as server:
        model = socket_model(server, manager)
        with pytest.raises(Exception, match="invalid_prompt"):
            model.invoke("x")
    assert model.explain().startswith("The last turn ended with ")
    assert "before its answer was complete. Sent in full over the socket" in model.explain()
    assert f": one item, {server.requests[0].raw_bytes} bytes." in model.explain()


def test_a_turn_that_was_never_sent_is_explained_without_what_there_was_not(
    manager: ConnectionManager,
) -> None:
    with socket.socket() as taken:  # bound, so that nobody else gets it, and never listening
        taken.bind(("127.0.0.1", 0))
        model = ChatOpenAIWebSocket(
            model="gpt-5.5", base_url=f"http://127.0.0.1:{taken.getsockname()[1]}/v1", api_key="none",
            manager=manager, transport="websocket", max_retries=0,
        )  # fmt: skip
        with pytest.raises(openai.APIConnectionError, match="Run `python -m langchain_ws_responses doctor`"):
            model.invoke("x")
    told = model.explain()
    assert (
        "before an answer came. It was planned as: Sent in full over the socket: one item. Why (first_turn)"
        in told
    )


def test_a_message_from_elsewhere_does_not_say(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        told = socket_model(server, manager).explain(AIMessage("hello"))
    assert told.startswith("This message does not say how it was sent")


def test_copies_share_the_last_turn_and_threads_and_loops_may_ask(manager: ConnectionManager) -> None:
    with ResponsesServer(answer=lambda _request: "one") as server:
        model = socket_model(server, manager)
        bound = model.bind_tools([{"type": "web_search"}])
        told: list[str] = []

        def ask() -> None:
            bound.invoke("x")
            asyncio.run(bound.ainvoke("x"))
            told.append(model.explain())

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert model.model_copy().explain() == model.explain()
    assert len(told) == 4
    assert all("Why (first_turn)" in one for one in told)


def test_every_reason_has_words() -> None:
    assert set(module._REASONS) == {reason.value for reason in Reason}
    for reason in Reason:
        told = module.explain(
            {"kind": "websocket", "mode": "full", "reason": reason.value, "items": 1, "bytes": 1}
        )
        assert f"Why ({reason.value}): {module._REASONS[reason.value][0]}." in told


def test_an_explanation_holds_no_id(manager: ConnectionManager) -> None:
    with ResponsesServer("one") as server:
        answer = socket_model(server, manager).invoke("x")
    assert answer.response_metadata["openai_chain"]["id"] not in module.explain_message(answer, {})


# -- tracers ----------------------------------------


def of_the_second_turn(manager: ConnectionManager, way: str) -> tuple[Any, Any]:
    """The run of a turn that is sent as a delta, and its answer or chunks."""
    with ResponsesServer("one", "two") as server:
        model, tracer = socket_model(server, manager), Tracer()
        messages: list[Any] = [HumanMessage("x")]
        messages += [model.invoke(messages), HumanMessage("y")]
        answers = run(model, way, messages, config={"callbacks": [tracer], "metadata": {"mine": 1}})
    [traced] = tracer.runs
    return traced, answers


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_a_run_says_how_it_was_sent(manager: ConnectionManager, way: str) -> None:
    traced, [answer] = of_the_second_turn(manager, way)
    transport, metadata = answer.response_metadata["transport"], traced.extra["metadata"]
    told = {name: metadata[name] for name in ("transport", "mode", "reason", "reused", "lane", "mine")}
    assert told == {
        "transport": "websocket", "mode": "delta", "reason": "chain", "reused": True,
        "lane": transport["lane"], "mine": 1,
    }  # fmt: skip


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_streamed_run_says_it_in_its_output(manager: ConnectionManager, way: str) -> None:
    """LangChain does not tell a model in which run it streams."""
    traced, _ = of_the_second_turn(manager, way)
    message = traced.outputs["generations"][0][0]["message"]
    transport = message["kwargs"]["response_metadata"]["transport"]
    assert (transport["kind"], transport["mode"], transport["reason"]) == ("websocket", "delta", "chain")


def test_runs_of_a_batch_each_say_their_own(manager: ConnectionManager) -> None:
    with ResponsesServer("one", answer=lambda _request: "more") as server:
        model, tracer = socket_model(server, manager), Tracer()
        first = model.invoke("x")
        model.generate(
            [[HumanMessage("x"), first, HumanMessage("y")], [HumanMessage("z")]], callbacks=[tracer]
        )
    modes = sorted(one.extra["metadata"]["mode"] for one in tracer.runs)
    assert modes == ["delta", "full"]


def test_metadata_of_the_user_wins(manager: ConnectionManager) -> None:
    with ResponsesServer("one") as server:
        tracer = Tracer()
        socket_model(server, manager).invoke("x", {"callbacks": [tracer], "metadata": {"mode": "mine"}})
    assert tracer.runs[0].extra["metadata"]["mode"] == "mine"
    assert tracer.runs[0].extra["metadata"]["reason"] == "first_turn"


def test_a_run_that_failed_says_so_too(manager: ConnectionManager) -> None:
    with ResponsesServer(error(code="invalid_prompt", status=400)) as server:
        tracer = Tracer()
        with pytest.raises(Exception, match="invalid_prompt"):
            socket_model(server, manager).invoke("x", {"callbacks": [tracer]})
    assert tracer.runs[0].extra["metadata"]["reason"] == "first_turn"
