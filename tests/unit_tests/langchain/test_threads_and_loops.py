"""One model object, many threads, loops and conversations: one connection, and nothing gets mixed up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from pairs import in_threads, socket_model

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager
from langchain_ws_responses._transport import pool
from langchain_ws_responses._transport.dial import dial
from langchain_ws_responses.testing import ResponsesServer, hold, text

if TYPE_CHECKING:
    from collections.abc import Callable

WORKERS, TURNS = 20, 3


def stamp(request: Any) -> Any:
    """Answers with what the model saw of the conversation, word by word, so that any mixing shows."""
    said = [item["content"] for item in request.seen if item.get("role") == "user"]
    return text(" ".join(said) + f" [{request.seen[0]['content']}]", 4)


def talk(model: ChatOpenAIWebSocket, name: int, ask: Callable[[list[Any]], Any]) -> list[Any]:
    history: list[Any] = [SystemMessage(f"c{name}")]
    for turn in range(TURNS):
        history.append(HumanMessage(f"c{name}t{turn}"))
        history.append(ask(history))
    return history


async def atalk(model: ChatOpenAIWebSocket, name: int, *, streaming: bool) -> list[Any]:
    history: list[Any] = [SystemMessage(f"c{name}")]
    for turn in range(TURNS):
        history.append(HumanMessage(f"c{name}t{turn}"))
        if streaming:
            merged = None
            async for chunk in model.astream(history):
                merged = chunk if merged is None else merged + chunk
            history.append(merged)
        else:
            history.append(await model.ainvoke(history))
    return history


def merged(model: ChatOpenAIWebSocket) -> Callable[[list[Any]], Any]:
    def ask(history: list[Any]) -> Any:
        whole = None
        for chunk in model.stream(history):
            whole = chunk if whole is None else whole + chunk
        return whole

    return ask


def check(server: ResponsesServer, manager: ConnectionManager, histories: list[list[Any]]) -> None:
    for name, history in enumerate(histories):
        assert not isinstance(history, BaseException), history
        answers = [message.text for message in history[2::2]]
        words = [f"c{name}t{turn}" for turn in range(TURNS)]
        assert answers == [" ".join(words[: turn + 1]) + f" [c{name}]" for turn in range(TURNS)]
    stats = manager.stats()
    assert (stats.full, stats.delta) == (WORKERS, WORKERS * (TURNS - 1))
    assert (stats.in_flight, stats.waiting, stats.strays) == (0, 0, 0)
    assert sum(request.is_delta for request in server.requests) == WORKERS * (TURNS - 1)
    # 16 in flight on a connection: 20 at a time need a second one, and no third.
    assert len(server.connections) <= 2


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("store", [None, False])
def test_threads_do_not_mix(manager: ConnectionManager, store: bool | None, streaming: bool) -> None:
    with ResponsesServer(answer=stamp) as server:
        model = socket_model(server, manager, store=store)
        ask = merged(model) if streaming else model.invoke
        histories = in_threads([lambda name=name: talk(model, name, ask) for name in range(WORKERS)])
        check(server, manager, histories)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("store", [None, False])
async def test_tasks_do_not_mix(manager: ConnectionManager, store: bool | None, streaming: bool) -> None:
    with ResponsesServer(answer=stamp) as server:
        model = socket_model(server, manager, store=store)
        histories = await asyncio.gather(
            *(atalk(model, name, streaming=streaming) for name in range(WORKERS))
        )
        check(server, manager, list(histories))


def test_parallel_branches_of_one_history_do_not_mix(manager: ConnectionManager) -> None:
    with ResponsesServer(answer=stamp) as server:
        model = socket_model(server, manager, store=False)
        base: list[Any] = [SystemMessage("c0"), HumanMessage("c0t0")]
        base.append(model.invoke(base))
        calls = [lambda n=n: model.invoke([*base, HumanMessage(f"branch{n}")]) for n in range(8)]
        answers = in_threads(calls)
        assert [answer.text for answer in answers] == [f"c0t0 branch{n} [c0]" for n in range(8)]
        assert len(server.connections) == 1


# -- event loops ----------------------------------------


def test_five_event_loops_one_after_another_share_a_connection(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        model = socket_model(server, manager)
        history: list[Any] = []
        for number in range(5):
            history.append(HumanMessage(f"Question {number}?"))
            history.append(asyncio.run(model.ainvoke(history)))
        assert len(server.connections) == 1
        assert [request.is_delta for request in server.requests] == [False, True, True, True, True]


async def test_sync_call_inside_a_running_loop(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        model = socket_model(server, manager)
        first = await model.ainvoke("First?")
        history = [HumanMessage("First?"), first, HumanMessage("Second?")]
        assert "Second?" in model.invoke(history).text
        assert "Second?" in "".join(chunk.text for chunk in model.stream(history))
        assert len(server.connections) == 1
        assert [request.is_delta for request in server.requests] == [False, True, True]


def test_threads_loops_and_sync_code_share_a_connection(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        model = socket_model(server, manager)
        model.invoke("Hello")
        in_threads([lambda: model.invoke("Hello"), lambda: asyncio.run(model.ainvoke("Hello"))] * 3)
        asyncio.run(model.ainvoke("Hello"))
        assert len(server.requests) == 8
        assert len(server.connections) == 1


# -- callers that go away ----------------------------------------


def half_told(gate: threading.Event) -> Any:
    """An answer that stops in the middle of its text until the gate opens."""
    return hold(gate, text("One two three four.", 8), after_events=6)


def check_next_turn(server: ResponsesServer, model: ChatOpenAIWebSocket, gate: threading.Event) -> None:
    """The lane drains while other turns go on; then it is free again, and nothing of the rest is shown."""
    assert model.manager.stats().in_flight == 1
    server.add("Beside.")
    assert model.invoke("Beside?").text == "Beside."
    gate.set()
    server.wait_for(lambda: server.requests[0].status == "completed")
    server.add("After.")
    assert model.invoke("After?").text == "After."
    stats = model.manager.stats()
    assert stats.in_flight == 0
    assert stats.connections_open == 1
    assert len(server.connections) == 1


def test_closed_generator_leaves_its_lane_draining(manager: ConnectionManager) -> None:
    gate = threading.Event()
    with ResponsesServer(half_told(gate)) as server:
        model = socket_model(server, manager)
        chunks = model.stream("Hello")
        while not next(chunks).text:
            pass
        chunks.close()
        check_next_turn(server, model, gate)


async def test_closed_async_generator_leaves_its_lane_draining(manager: ConnectionManager) -> None:
    gate = threading.Event()
    with ResponsesServer(half_told(gate)) as server:
        model = socket_model(server, manager)
        chunks: Any = model.astream("Hello")
        while not (await chunks.__anext__()).text:
            pass
        await chunks.aclose()
        await asyncio.to_thread(check_next_turn, server, model, gate)


@pytest.mark.parametrize("streaming", [False, True])
async def test_cancelled_call_leaves_its_lane_draining(manager: ConnectionManager, streaming: bool) -> None:
    gate = threading.Event()
    with ResponsesServer(half_told(gate)) as server:
        model = socket_model(server, manager)
        arrived = asyncio.Event()

        async def call() -> None:
            if not streaming:
                await model.ainvoke("Hello")
                return
            async for chunk in model.astream("Hello"):
                if chunk.text:
                    arrived.set()

        task = asyncio.create_task(call())
        if streaming:
            await arrived.wait()
        else:
            await asyncio.to_thread(server.wait_for, lambda: len(server.requests) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(check_next_turn, server, model, gate)


@pytest.mark.parametrize("what", ["its key", "a connection"])
async def test_cancelled_call_that_still_waits_sends_nothing(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, asked = threading.Event(), threading.Event()

    def key() -> str:
        if what == "its key":
            asked.set()
            gate.wait(10)
        return "sk-late"

    async def slow_dial(*args: Any, **options: Any) -> Any:
        if what == "a connection":
            asked.set()
            await asyncio.to_thread(gate.wait, 10)
        return await dial(*args, **options)

    monkeypatch.setattr(pool, "dial", slow_dial)
    with ConnectionManager() as manager, ResponsesServer() as server:
        model = socket_model(server, manager, api_key=key)
        task = asyncio.create_task(model.ainvoke("Hello"))
        await asyncio.to_thread(asked.wait, 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        assert "Again" in (await model.ainvoke("Again")).text
        assert [request.last_user_text for request in server.requests] == ["Again"]


def test_next_turn_after_an_abandoned_one_of_the_same_chain_is_right(manager: ConnectionManager) -> None:
    gate = threading.Event()
    with ResponsesServer("One.", half_told(gate), "Two.") as server:
        model = socket_model(server, manager, store=False)
        history: list[Any] = [HumanMessage("First?")]
        history += [model.invoke(history), HumanMessage("Second?")]
        chunks = model.stream(history)
        next(chunks)
        chunks.close()
        gate.set()
        assert model.invoke(history).text == "Two."
        # The abandoned turn may have taken its parent with it: then the id is refused, and all is sent once more.
        roles = [item["role"] for item in server.requests[-1].seen]
        assert roles == ["user", "assistant", "user"]
        assert len(server.requests) <= 4


# -- a fresh process ----------------------------------------

BLOCKING = """
import asyncio, sys
from blockbuster import blockbuster_ctx
from langchain_ws_responses import ChatOpenAIWebSocket
from pydantic import BaseModel

class Person(BaseModel):
    name: str

async def main(url):
    model = ChatOpenAIWebSocket(model="gpt-5.5", base_url=url, api_key="sk-test", transport="websocket")
    with blockbuster_ctx():
        answer = await model.ainvoke("One?")
        async for chunk in model.astream([("human", "One?"), answer, ("human", "Two?")]):
            pass
        person = await model.with_structured_output(Person).ainvoke("Who?")
    print(answer.text, chunk.response_metadata["transport"]["mode"], person.name)

asyncio.run(main(sys.argv[1]))
"""


def test_first_calls_of_a_process_never_block_its_event_loop() -> None:
    from langchain_ws_responses.testing import json_answer

    with ResponsesServer("Uno.", "Due.", json_answer({"name": "Ada"})) as server:
        done = subprocess.run(
            [sys.executable, "-c", BLOCKING, server.base_url],
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["Uno.", "delta", "Ada"]
        assert done.stderr == ""
