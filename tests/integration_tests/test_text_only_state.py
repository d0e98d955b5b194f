"""`ChainSaver` in graphs: states that hold only text go on with deltas, in every branch and after a restart."""

from __future__ import annotations

import asyncio
import itertools
import json
import operator
import runpy
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from typing import TYPE_CHECKING, Annotated, Any, TypedDict

import openai
import postgres
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send

from langchain_ws_responses import ChainSaver, ChatOpenAIWebSocket, ConnectionClosed, ConnectionManager
from langchain_ws_responses._langchain.index import INDEX
from langchain_ws_responses.testing import ResponsesServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from langchain_ws_responses.testing import RecordedRequest

CONFIG = {"configurable": {"thread_id": "thread-1"}}


class Log(TypedDict):
    """Questions and answers in turn, as plain text."""

    log: Annotated[list[str], operator.add]


@pytest.fixture(autouse=True)
def fresh_index() -> Iterator[None]:
    INDEX.clear()
    yield
    INDEX.clear()


@pytest.fixture
def manager() -> Iterator[ConnectionManager]:
    with ConnectionManager() as manager:
        yield manager


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    if reason := postgres.missing():
        pytest.skip(reason)
    with postgres.postgres() as address:
        yield address


def model_on(server: ResponsesServer, manager: ConnectionManager, **fields: Any) -> ChatOpenAIWebSocket:
    return ChatOpenAIWebSocket(
        **{
            "model": "gpt-test",
            "api_key": "key",
            "base_url": server.base_url,
            "manager": manager,
            "transport": "websocket",
            **fields,
        }
    )


def messages_of(log: list[str]) -> list[Any]:
    return [AIMessage(text) if number % 2 else HumanMessage(text) for number, text in enumerate(log)]


def chat(model: ChatOpenAIWebSocket, saver: BaseCheckpointSaver[Any]) -> Any:
    """A graph of one node that keeps nothing but text."""

    def answer(state: Log) -> Log:
        return {"log": [model.invoke(messages_of(state["log"])).text]}

    async def aanswer(state: Log) -> Log:
        return {"log": [(await model.ainvoke(messages_of(state["log"]))).text]}

    graph = StateGraph(Log)
    graph.add_node("answer", RunnableLambda(answer, aanswer))
    graph.add_edge(START, "answer")
    return graph.compile(checkpointer=saver)


def seen(request: RecordedRequest) -> list[tuple[str, str]]:
    """Who said what, as the server's model saw it."""
    return [(item["role"], said(item)) for item in request.seen]


def said(item: dict[str, Any]) -> str:
    content = item["content"]
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def told(log: list[str]) -> list[tuple[str, str]]:
    """The same for a log: what the model must see."""
    return [("assistant" if number % 2 else "user", text) for number, text in enumerate(log)]


def kinds(server: ResponsesServer) -> list[str]:
    """`F` for a full send, `D(n)` for a delta of n items."""
    return ["F" if request.is_full else f"D{len(request.items)}" for request in server.requests]


def restarted() -> None:
    """A new process remembers nothing."""
    INDEX.clear()


def known(saver: ChainSaver) -> Any:
    """What is remembered of the thread."""
    return INDEX.peek((saver._book.scope, "thread-1"))


# --- scenario 25 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("durability", ["async", "sync", "exit"])
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_text_only_state_sends_one_item_each_turn(
    way: str, durability: str, manager: ConnectionManager
) -> None:
    with ResponsesServer("one", "two", "three") as server:
        app = chat(model_on(server, manager), ChainSaver(InMemorySaver()))
        for question in ("first", "second", "third"):
            given = {"log": [question]}
            if way == "invoke":
                app.invoke(given, CONFIG, durability=durability)
            else:
                list(app.stream(given, CONFIG, durability=durability))
        assert kinds(server) == ["F", "D1", "D1"]
        assert seen(server.requests[2]) == told(["first", "one", "second", "two", "third"])


@pytest.mark.parametrize("durability", ["async", "sync", "exit"])
async def test_text_only_state_sends_one_item_each_turn_when_async(
    durability: str, manager: ConnectionManager
) -> None:
    async with ResponsesServer("one", "two", "three") as server:
        app = chat(model_on(server, manager), ChainSaver(InMemorySaver()))
        for question in ("first", "second", "third"):
            await app.ainvoke({"log": [question]}, CONFIG, durability=durability)
        assert kinds(server) == ["F", "D1", "D1"]
        assert seen(server.requests[2]) == told(["first", "one", "second", "two", "third"])


def test_without_chain_saver_text_only_state_is_sent_in_full(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(INDEX, "active", False)
    with ResponsesServer("one", "two") as server:
        app = chat(model_on(server, manager), InMemorySaver())
        app.invoke({"log": ["first"]}, CONFIG)
        app.invoke({"log": ["second"]}, CONFIG)
        assert kinds(server) == ["F", "F"]


def test_an_edited_text_is_sent_in_full(manager: ConnectionManager) -> None:
    with ResponsesServer("one", "two") as server:
        model = model_on(server, manager)

        def answer(state: Log) -> Log:
            log = [text.replace("one", "ONE") for text in state["log"]]
            return {"log": [model.invoke(messages_of(log)).text]}

        graph = StateGraph(Log)
        graph.add_node("answer", answer)
        graph.add_edge(START, "answer")
        app = graph.compile(checkpointer=ChainSaver(InMemorySaver()))
        app.invoke({"log": ["first"]}, CONFIG)
        app.invoke({"log": ["second"]}, CONFIG)
        assert kinds(server) == ["F", "F"]
        assert seen(server.requests[1]) == told(["first", "ONE", "second"])


@pytest.mark.parametrize("durability", ["async", "exit"])
def test_text_only_state_goes_on_after_a_restart(durability: str, tmp_path: Path) -> None:
    file = str(tmp_path / "state.sqlite")
    with ResponsesServer("one", "two", "three", "four") as server:
        for question in ("first", "second", "third", "fourth"):
            restarted()
            with ConnectionManager() as manager, SqliteSaver.from_conn_string(file) as inner:
                app = chat(model_on(server, manager), ChainSaver(inner))
                app.invoke({"log": [question]}, CONFIG, durability=durability)
        assert kinds(server) == ["F", "D1", "D1", "D1"]
        expected = ["first", "one", "second", "two", "third", "three", "fourth"]
        assert seen(server.requests[3]) == told(expected)
        assert len(server.connections) == 4


def test_without_stored_responses_a_restart_costs_one_full_send(tmp_path: Path) -> None:
    file = str(tmp_path / "state.sqlite")
    with ResponsesServer("one", "two", "three") as server:
        for questions in (["first"], ["second", "third"]):
            restarted()
            with ConnectionManager() as manager, SqliteSaver.from_conn_string(file) as inner:
                app = chat(model_on(server, manager, store=False), ChainSaver(inner))
                for question in questions:
                    app.invoke({"log": [question]}, CONFIG)
        assert kinds(server) == ["F", "F", "D1"]


def test_another_thread_with_the_same_words_has_its_own_chain(manager: ConnectionManager) -> None:
    with ResponsesServer("one", "one", "two", "two") as server:
        app = chat(model_on(server, manager), ChainSaver(InMemorySaver()))
        for question in ("first", "second"):
            for thread in ("a", "b"):
                app.invoke({"log": [question]}, {"configurable": {"thread_id": thread}})
        first, other, second, last = server.requests
        assert second.previous_response_id == first.response_id
        assert last.previous_response_id == other.response_id


# --- nodes, inner graphs, workers -------------------------------------------------------------------------


class Two(TypedDict):
    question: str
    critic: Annotated[list[str], operator.add]
    writer: Annotated[list[str], operator.add]


def speaker(model: ChatOpenAIWebSocket, name: str) -> Callable[[Any], dict[str, list[str]]]:
    """A node with a prompt and a memory of its own."""

    def speak(state: Any) -> dict[str, list[str]]:
        log = [*state[name], state["question"]]
        answer = model.invoke([SystemMessage(f"You are the {name}."), *messages_of(log)])
        return {name: [state["question"], answer.text]}

    return speak


def two_speakers(model: ChatOpenAIWebSocket, saver: BaseCheckpointSaver[Any], *, nested: bool) -> Any:
    graph = StateGraph(Two)
    before = START
    for name in ("writer", "critic"):
        if nested:
            inner = StateGraph(Two)
            inner.add_node("speak", speaker(model, name))
            inner.add_edge(START, "speak")
            compiled = inner.compile()

            def call(state: Two, compiled: Any = compiled, name: str = name) -> dict[str, list[str]]:
                return {name: compiled.invoke(state)[name][len(state[name]) :]}  # type: ignore[literal-required]

            graph.add_node(name, call)
        else:
            graph.add_node(name, speaker(model, name))
        graph.add_edge(before, name)
        before = name
    return graph.compile(checkpointer=saver)


@pytest.mark.parametrize("durability", ["async", "exit"])
@pytest.mark.parametrize("nested", [False, True], ids=["nodes", "inner graphs"])
def test_two_nodes_keep_their_own_chains_after_a_restart(
    nested: bool, durability: str, tmp_path: Path
) -> None:
    file = str(tmp_path / "state.sqlite")
    with ResponsesServer(*"abcdef") as server:
        for question in ("one", "two", "three"):
            restarted()
            with ConnectionManager() as manager, SqliteSaver.from_conn_string(file) as inner:
                app = two_speakers(model_on(server, manager), ChainSaver(inner), nested=nested)
                app.invoke({"question": question}, CONFIG, durability=durability)
                chain = app.get_state(CONFIG).metadata["openai_chain"]
        assert kinds(server) == ["F", "F", "D1", "D1", "D1", "D1"]
        ids = [request.response_id for request in server.requests]
        assert [request.previous_response_id for request in server.requests[2:]] == ids[:4]
        labels = {"writer|speak", "critic|speak"} if nested else {"writer", "critic"}
        assert {label: link["id"] for label, link in chain.items()} == dict(
            zip(sorted(labels, reverse=True), ids[4:], strict=True)
        )
        assert seen(server.requests[5])[1:] == told(["one", "b", "two", "d", "three"])


class Work(TypedDict):
    topics: list[str]
    notes: Annotated[dict[str, list[str]], operator.or_]


def test_workers_that_ran_side_by_side_each_go_on_after_a_restart(tmp_path: Path) -> None:
    def answer(request: RecordedRequest) -> str:
        return f"about {request.last_user_text}"

    def app_on(model: ChatOpenAIWebSocket, saver: BaseCheckpointSaver[Any]) -> Any:
        def work(task: dict[str, Any]) -> dict[str, Any]:
            log = [*task["log"], task["topic"]]
            return {"notes": {task["topic"]: [*log, model.invoke(messages_of(log)).text]}}

        def split(state: Work) -> list[Send]:
            notes = state.get("notes") or {}
            return [Send("work", {"topic": topic, "log": notes.get(topic, [])}) for topic in state["topics"]]

        graph = StateGraph(Work)
        graph.add_node("work", work)
        graph.add_conditional_edges(START, split, ["work"])
        return graph.compile(checkpointer=saver)

    file = str(tmp_path / "state.sqlite")
    topics = ["cats", "dogs", "owls"]
    with ResponsesServer(answer=answer) as server:
        for _ in range(2):
            restarted()
            with ConnectionManager() as manager, SqliteSaver.from_conn_string(file) as inner:
                app = app_on(model_on(server, manager), ChainSaver(inner))
                app.invoke({"topics": topics}, CONFIG)
        assert kinds(server) == ["F"] * 3 + ["D1"] * 3
        for request in server.requests[3:]:
            topic = request.last_user_text
            assert seen(request) == told([topic, f"about {topic}", topic])


# --- answers that no checkpoint committed -----------------------------------------------------------------


def test_orphan_is_absent_after_a_failed_step(manager: ConnectionManager) -> None:
    fails = [True]
    with ResponsesServer("one", "orphan", "two", "three") as server:
        model = model_on(server, manager)

        def answer(state: Log) -> Log:
            text = model.invoke(messages_of(state["log"])).text
            if text == "orphan" and fails.pop():
                raise RuntimeError("after the answer")
            return {"log": [text]}

        graph = StateGraph(Log)
        graph.add_node("answer", answer)
        graph.add_edge(START, "answer")
        saver = ChainSaver(InMemorySaver())
        app = graph.compile(checkpointer=saver)
        app.invoke({"log": ["first"]}, CONFIG)
        with pytest.raises(RuntimeError, match="after the answer"):
            app.invoke({"log": ["second"]}, CONFIG)
        orphan = server.requests[1].response_id
        assert [entry.link["id"] for entry in known(saver).pending] == [orphan]
        app.invoke(None, CONFIG)
        app.invoke({"log": ["third"]}, CONFIG)
        assert kinds(server) == ["F", "D1", "D1", "D1"]
        assert server.requests[2].previous_response_id == server.requests[0].response_id
        assert seen(server.requests[3]) == told(["first", "one", "second", "two", "third"])
        assert orphan not in {link["id"] for link in known(saver).links.values()}
        named = [state.metadata.get("openai_response_id") for state in app.get_state_history(CONFIG)]
        assert orphan not in named


def test_looking_at_a_running_thread_discards_nothing(manager: ConnectionManager) -> None:
    with ResponsesServer("one", "two") as server:
        model = model_on(server, manager)

        def answer(state: Log) -> Log:
            text = model.invoke(messages_of(state["log"])).text
            app.get_state({"configurable": {"thread_id": "thread-1"}})
            list(app.get_state_history({"configurable": {"thread_id": "thread-1"}}))
            return {"log": [text]}

        graph = StateGraph(Log)
        graph.add_node("answer", answer)
        graph.add_edge(START, "answer")
        app = graph.compile(checkpointer=ChainSaver(InMemorySaver()))
        app.invoke({"log": ["first"]}, CONFIG)
        # In the checkpoint, so that the next process finds it too.
        assert app.get_state(CONFIG).metadata["openai_response_id"] == server.requests[0].response_id
        app.invoke({"log": ["second"]}, CONFIG)
        assert kinds(server) == ["F", "D1"]


class Pair(TypedDict):
    left: Annotated[list[str], operator.add]
    right: Annotated[list[str], operator.add]


def test_answer_of_a_task_that_is_not_run_again_is_kept() -> None:
    """One of two parallel nodes fails: the other's writes are saved, and its answer with them."""
    fails = [True]
    done = threading.Event()

    def app_on(model: ChatOpenAIWebSocket) -> Any:
        def left(state: Pair) -> dict[str, list[str]]:
            log = [*state["left"], "left?"]
            return {"left": ["left?", model.invoke(messages_of(log)).text]}

        def right(state: Pair) -> dict[str, list[str]]:
            if fails and fails.pop():
                done.wait(40)
                raise RuntimeError("right")
            return {"right": ["right"]}

        class Waiting(InMemorySaver):
            def put_writes(self, config: Any, writes: Any, task_id: str, task_path: str = "") -> None:
                super().put_writes(config, writes, task_id, task_path)
                # The graph's start writes to it too, and to others.
                if [channel for channel, _ in writes] == ["left"]:
                    done.set()

        graph = StateGraph(Pair)
        graph.add_node("left", left)
        graph.add_node("right", right)
        graph.add_edge(START, "left")
        graph.add_edge(START, "right")
        return graph.compile(checkpointer=ChainSaver(Waiting()))

    with ResponsesServer("one", "two") as server, ConnectionManager() as manager:
        app = app_on(model_on(server, manager))
        with pytest.raises(RuntimeError, match="right"):
            app.invoke({"left": [], "right": []}, CONFIG)
        app.invoke(None, CONFIG)
        state = app.get_state(CONFIG)
        assert state.values["left"] == ["left?", "one"]
        assert state.metadata["openai_chain"]["left"]["id"] == server.requests[0].response_id
        app.invoke({"left": []}, CONFIG)
        assert kinds(server) == ["F", "D1"]


# --- time travel and forks --------------------------------------------------------------------------------


def test_old_checkpoint_is_continued_from_its_own_response_and_no_younger_one(
    manager: ConnectionManager,
) -> None:
    """The same question is asked twice and gets the same answer, so that both have one fingerprint."""
    with ResponsesServer("same", "same", "old", "young") as server:
        app = chat(model_on(server, manager), ChainSaver(InMemorySaver()))
        app.invoke({"log": ["first"]}, CONFIG)
        old = app.get_state(CONFIG).config
        before = next(state for state in app.get_state_history(CONFIG) if state.next == ("answer",))
        app.invoke(None, before.config)
        young = app.get_state(CONFIG).config
        assert old != young
        app.invoke({"log": ["second"]}, old)
        app.invoke({"log": ["second"]}, young)
        first, again, from_old, from_young = server.requests
        assert kinds(server) == ["F", "F", "D1", "D1"]
        assert from_old.previous_response_id == first.response_id
        assert from_young.previous_response_id == again.response_id


def test_fork_of_a_thread_continues_the_ancestor(tmp_path: Path) -> None:
    file = str(tmp_path / "state.sqlite")
    with ResponsesServer("one", "two", "three", "other") as server:
        with ConnectionManager() as manager, SqliteSaver.from_conn_string(file) as inner:
            app = chat(model_on(server, manager), ChainSaver(inner))
            app.invoke({"log": ["first"]}, CONFIG)
            past = app.get_state(CONFIG).config
            app.invoke({"log": ["second"]}, CONFIG)
            app.invoke({"log": ["third"]}, CONFIG)
        restarted()
        with ConnectionManager() as manager, SqliteSaver.from_conn_string(file) as inner:
            app = chat(model_on(server, manager), ChainSaver(inner))
            fork = app.update_state(past, {"log": ["instead"]}, as_node="__start__")
            app.invoke(None, fork)
        assert kinds(server) == ["F", "D1", "D1", "D1"]
        assert server.requests[3].previous_response_id == server.requests[0].response_id
        assert seen(server.requests[3]) == told(["first", "one", "instead"])


def test_checkpoints_are_found_by_response_id(manager: ConnectionManager, tmp_path: Path) -> None:
    with (
        ResponsesServer("one", "two") as server,
        SqliteSaver.from_conn_string(str(tmp_path / "s.sqlite")) as inner,
    ):
        app = chat(model_on(server, manager), ChainSaver(inner))
        for question in ("first", "second"):
            app.invoke({"log": [question]}, CONFIG)
        wanted = server.requests[0].response_id
        found = list(app.get_state_history(CONFIG, filter={"openai_response_id": wanted}))
        # The one that holds the answer, and those after it until the next one.
        assert found[-1].values == {"log": ["first", "one"]}
        assert all("two" not in state.values["log"] for state in found)
        chain = found[-1].metadata["openai_chain"]
        assert set(chain) == {"answer"}
        assert chain["answer"]["id"] == wanted
        assert {type(value) for value in chain["answer"].values()} <= {str, int, bool}


# --- links that only messages and writes carry --------------------------------------------------------------


def test_messages_of_a_delta_channel_are_seen_in_the_writes(manager: ConnectionManager) -> None:
    """The answer comes from a bare thread, which knows nothing of the graph: only the message tells."""
    delta = pytest.importorskip("langgraph.channels.delta", reason="this langgraph has no DeltaChannel")

    def append(old: list[Any], writes: list[list[Any]]) -> list[Any]:
        return [*old, *itertools.chain.from_iterable(writes)]

    State = TypedDict("State", {"messages": Annotated[list[Any], delta.DeltaChannel(append)]})  # noqa: UP013

    with ResponsesServer("one", "two") as server:
        model = model_on(server, manager)

        def answer(state: Any) -> dict[str, list[Any]]:
            with ThreadPoolExecutor(1) as pool:
                return {"messages": [pool.submit(model.invoke, state["messages"]).result()]}

        graph = StateGraph(State)
        graph.add_node("answer", answer)
        graph.add_edge(START, "answer")
        app = graph.compile(checkpointer=ChainSaver(InMemorySaver()))
        for question in ("first", "second"):
            app.invoke({"messages": [HumanMessage(question)]}, CONFIG)
        state = app.get_state(CONFIG)
        assert [message.text for message in state.values["messages"]] == ["first", "one", "second", "two"]
        assert state.metadata["openai_response_id"] == server.requests[1].response_id
        assert kinds(server) == ["F", "D1"]


# --- connection ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["model", "manager"])
def test_connection_is_opened_when_a_run_loads_its_thread(given: str) -> None:
    lost = threading.Event()

    def hook(event: Any) -> None:
        if isinstance(event, ConnectionClosed):
            lost.set()

    with ResponsesServer("one", "two") as server, ConnectionManager(hooks=[hook]) as manager:
        model = model_on(server, manager)
        inner = InMemorySaver()
        options: dict[str, Any] = {"model": model} if given == "model" else {"manager": manager}
        app = chat(model, ChainSaver(inner, **options))
        app.invoke({"log": ["first"]}, CONFIG)
        server.drop_connections()
        assert lost.wait(10)
        opened = len(server.connections)
        if given == "model":
            restarted()

        def wait(state: Log) -> Log:
            server.wait_for(lambda: len(server.connections) > opened)
            return {"log": []}

        graph = StateGraph(Log)
        graph.add_node("wait", wait)
        graph.add_edge(START, "wait")
        waiting = graph.compile(checkpointer=ChainSaver(inner, **options))
        waiting.invoke({"log": []}, CONFIG)
        assert len(server.connections) == opened + 1
        # Nothing was asked on it yet.
        assert len(server.requests) == 1
        app.invoke({"log": ["second"]}, CONFIG)
        assert kinds(server) == ["F", "D1"]


def test_endpoint_that_is_gone_does_not_disturb_a_run() -> None:
    with ConnectionManager() as manager:
        with ResponsesServer("one") as server:
            model = model_on(server, manager)
            saver = ChainSaver(InMemorySaver(), model=model)
            chat(model, saver).invoke({"log": ["first"]}, CONFIG)
        graph = StateGraph(Log)
        graph.add_node("quiet", lambda _: {"log": ["quiet"]})
        graph.add_edge(START, "quiet")
        app = graph.compile(checkpointer=saver)
        assert app.invoke({"log": ["second"]}, CONFIG) == {"log": ["first", "one", "second", "quiet"]}
        manager.close()
        assert app.invoke({"log": []}, CONFIG)["log"][-1] == "quiet"


# --- many at a time -----------------------------------------------------------------------------------------


def test_threads_do_not_mix(manager: ConnectionManager) -> None:
    def answer(request: RecordedRequest) -> str:
        return f"re: {request.last_user_text}"

    with ResponsesServer(answer=answer) as server:
        app = chat(model_on(server, manager), ChainSaver(InMemorySaver()))

        def talk(name: str) -> list[str]:
            config = {"configurable": {"thread_id": name}}
            for turn in range(3):
                log = app.invoke({"log": [f"{name} {turn}"]}, config)["log"]
            return log

        names = [f"user {number}" for number in range(8)]
        with ThreadPoolExecutor(8) as pool:
            logs = list(pool.map(talk, names))
        for name, log in zip(names, logs, strict=True):
            said = [text for turn in range(3) for text in (f"{name} {turn}", f"re: {name} {turn}")]
            assert log == said
        assert sorted(kinds(server)) == ["D1"] * 16 + ["F"] * 8


async def test_tasks_do_not_mix(manager: ConnectionManager) -> None:
    def answer(request: RecordedRequest) -> str:
        return f"re: {request.last_user_text}"

    async with ResponsesServer(answer=answer) as server:
        app = chat(model_on(server, manager), ChainSaver(InMemorySaver()))

        async def talk(name: str) -> list[str]:
            config = {"configurable": {"thread_id": name}}
            for turn in range(3):
                log = (await app.ainvoke({"log": [f"{name} {turn}"]}, config))["log"]
            return log

        logs = await asyncio.gather(*(talk(f"user {number}") for number in range(8)))
        for number, log in enumerate(logs):
            assert log[::2] == [f"user {number} {turn}" for turn in range(3)]
            assert log[1::2] == [f"re: user {number} {turn}" for turn in range(3)]
        assert sorted(kinds(server)) == ["D1"] * 16 + ["F"] * 8


# --- deleting -----------------------------------------------------------------------------------------------


def is_stored(model: ChatOpenAIWebSocket, response_id: str) -> bool:
    try:
        model.root_client.responses.retrieve(response_id)
    except openai.NotFoundError:
        return False
    return True


def stored(model: ChatOpenAIWebSocket, server: ResponsesServer) -> list[bool]:
    return [is_stored(model, str(request.response_id)) for request in server.requests]


@pytest.mark.parametrize("given", [True, False], ids=["model given", "model seen"])
@pytest.mark.parametrize("on_delete", ["forget", "delete_responses"])
def test_responses_of_a_deleted_thread(on_delete: Any, given: bool, manager: ConnectionManager) -> None:
    other = {"configurable": {"thread_id": "other"}}
    with ResponsesServer(*"abc") as server:
        model = model_on(server, manager)
        saver = ChainSaver(InMemorySaver(), model=model if given else None, on_delete=on_delete)
        app = chat(model, saver)
        app.invoke({"log": ["first"]}, CONFIG)
        app.invoke({"log": ["second"]}, CONFIG)
        app.invoke({"log": ["first"]}, other)
        saver.delete_thread("thread-1")
        assert saver.get_tuple(CONFIG) is None
        assert known(saver) is None
        assert saver.deletions.wait(10)
        assert saver.deletions.failed == ()
        gone = on_delete == "delete_responses"
        assert saver.deletions.deleted == (2 if gone else 0)
        assert stored(model, server) == [not gone, not gone, True]


def test_responses_of_a_thread_with_the_same_id_elsewhere(manager: ConnectionManager) -> None:
    """Two tenants, each with a database and a key of its own; the first one's run has broken off."""
    with ResponsesServer("of alice", "of bob") as server:
        models = [model_on(server, manager, api_key=key) for key in ("sk-alice", "sk-bob")]
        savers = [ChainSaver(InMemorySaver(), model=model, on_delete="delete_responses") for model in models]

        def breaks_off(state: Log) -> Log:
            models[0].invoke(messages_of(state["log"]))
            raise RuntimeError("after the answer")

        graph = StateGraph(Log)
        graph.add_node("answer", breaks_off)
        graph.add_edge(START, "answer")
        with pytest.raises(RuntimeError, match="after the answer"):
            graph.compile(checkpointer=savers[0]).invoke({"log": ["first"]}, CONFIG)
        chat(models[1], savers[1]).invoke({"log": ["first"]}, CONFIG)
        mine = [str(request.response_id) for request in server.requests]
        for saver, left in ((savers[1], [True, False]), (savers[0], [False, False])):
            saver.delete_thread("thread-1")
            assert saver.deletions.wait(10)
            assert (saver.deletions.deleted, saver.deletions.failed) == (1, ())
            assert [is_stored(*pair) for pair in zip(models, mine, strict=True)] == left


async def test_responses_of_a_deleted_thread_when_async_and_after_a_restart(tmp_path: Path) -> None:
    file = str(tmp_path / "state.sqlite")
    async with ResponsesServer("one", "two") as server:
        async with ConnectionManager() as manager, AsyncSqliteSaver.from_conn_string(file) as inner:
            app = chat(model_on(server, manager), ChainSaver(inner))
            await app.ainvoke({"log": ["first"]}, CONFIG)
            await app.ainvoke({"log": ["second"]}, CONFIG)
        restarted()
        async with ConnectionManager() as manager, AsyncSqliteSaver.from_conn_string(file) as inner:
            model = model_on(server, manager)
            saver = ChainSaver(inner, model=model, on_delete="delete_responses")
            await saver.adelete_thread("thread-1")
            assert await asyncio.to_thread(saver.deletions.wait, 10)
            assert saver.deletions.failed == ()
            assert await asyncio.to_thread(stored, model, server) == [False, False]


def delete_after_a_restart(manager: ConnectionManager, ask: Any) -> tuple[list[bool], list[str]]:
    """Has a thread deleted whose responses Alice's key made; returns which are still stored, and what failed."""
    with ResponsesServer("one", "two") as server:
        inner, user = InMemorySaver(), ContextVar[str]("user")
        user.set("alice")
        app = chat(model_on(server, manager, api_key=user.get), ChainSaver(inner))
        app.invoke({"log": ["first"]}, CONFIG)
        app.invoke({"log": ["second"]}, CONFIG)
        restarted()
        model = model_on(server, manager, api_key=lambda: ask(user))
        saver = ChainSaver(inner, model=model, on_delete="delete_responses")
        saver.delete_thread("thread-1")
        assert saver.get_tuple(CONFIG) is None
        assert saver.deletions.wait(10)
        errors = [failed.error for failed in saver.deletions.failed]
        return stored(model_on(server, manager), server), errors


def test_responses_that_the_key_of_a_callable_made_are_deleted_after_a_restart(
    manager: ConnectionManager,
) -> None:
    # Background threads have a context of their own, where nobody is the user.
    assert delete_after_a_restart(manager, ContextVar.get) == ([False, False], [])


class Ending(BaseException):
    """Wants to end more than a call."""


@pytest.mark.parametrize("error", [LookupError("secret text"), Ending("secret text"), None])
def test_deleting_a_thread_outlives_a_callable_that_gives_no_key_or_another_one(
    manager: ConnectionManager, error: BaseException | None
) -> None:
    def ask(user: ContextVar[str]) -> str:
        if error is not None:
            raise error
        return "bob"

    kept, errors = delete_after_a_restart(manager, ask)
    assert kept == [True, True]
    assert len(errors) == 2
    assert all(text == type(error).__name__ if error else "pass model=" in text for text in errors)


async def test_a_thread_is_deleted_where_the_key_of_its_model_is_an_async_callable(
    manager: ConnectionManager,
) -> None:
    async def ask() -> str:
        return "key"

    async with ResponsesServer("one") as server:
        inner = InMemorySaver()
        model = model_on(server, manager, api_key=ask)
        await chat(model, ChainSaver(inner)).ainvoke({"log": ["first"]}, CONFIG)
        restarted()
        model = model_on(server, manager, api_key=ask)
        saver = ChainSaver(inner, model=model, on_delete="delete_responses")
        await saver.adelete_thread("thread-1")
        assert saver.get_tuple(CONFIG) is None
        assert await asyncio.to_thread(saver.deletions.wait, 10)
        assert [failed.error for failed in saver.deletions.failed] == [
            "the model has no sync client, because its api_key is an async callable"
        ]


def test_orphans_of_a_deleted_thread_go_too(manager: ConnectionManager) -> None:
    with ResponsesServer("orphan", "orphan", "kept") as server:
        model = model_on(server, manager)

        def answer(state: Log) -> Log:
            text = model.invoke(messages_of(state["log"])).text
            if text == "orphan":
                raise RuntimeError("after the answer")
            return {"log": [text]}

        graph = StateGraph(Log)
        graph.add_node("answer", answer)
        graph.add_edge(START, "answer")
        saver = ChainSaver(InMemorySaver(), on_delete="delete_responses")
        app = graph.compile(checkpointer=saver)
        for given in ({"log": ["first"]}, None):
            with pytest.raises(RuntimeError):
                app.invoke(given, CONFIG)
        app.invoke(None, CONFIG)
        saver.delete_thread("thread-1")
        assert saver.deletions.wait(10)
        assert stored(model, server) == [False, False, False]


def test_a_copied_link_has_no_other_thread_s_response_deleted(manager: ConnectionManager) -> None:
    """Graph input is user input: a client may send a message with a link that is not its own."""
    with ResponsesServer("secret", "one") as server:
        model = model_on(server, manager)
        saver = ChainSaver(InMemorySaver(), model=model, on_delete="delete_responses")

        def answer(state: MessagesState) -> dict[str, Any]:
            return {"messages": [model.invoke(state["messages"])]}

        graph = StateGraph(MessagesState)
        graph.add_node("answer", answer)
        graph.add_edge(START, "answer")
        app = graph.compile(checkpointer=saver)
        victim, attacker = ({"configurable": {"thread_id": name}} for name in ("victim", "attacker"))
        copied = app.invoke({"messages": [HumanMessage("mine")]}, victim)["messages"][-1]
        link = {**copied.response_metadata["openai_chain"], "thread": "attacker"}
        forged = AIMessage("hi", response_metadata={"openai_chain": link})
        app.invoke({"messages": [HumanMessage("yours"), forged, HumanMessage("go on")]}, attacker)
        assert kinds(server) == ["F", "F"]
        saver.delete_thread("attacker")
        assert saver.deletions.wait(10)
        assert stored(model, server) == [True, False]


@pytest.mark.skipif(not postgres.prunes(), reason="no langgraph-checkpoint-postgres with a prune()")
def test_pruning_to_the_latest_checkpoint_deletes_no_response(dsn: str) -> None:
    from langgraph.checkpoint.postgres import PostgresSaver

    with (
        ResponsesServer("one", "two", "three") as server,
        ConnectionManager() as manager,
        PostgresSaver.from_conn_string(dsn) as inner,
    ):
        inner.setup()
        model = model_on(server, manager)
        saver = ChainSaver(inner, model=model, on_delete="delete_responses")
        app = chat(model, saver)
        app.invoke({"log": ["first"]}, CONFIG)
        app.invoke({"log": ["second"]}, CONFIG)
        saver.prune(["thread-1"], strategy="keep_latest")
        assert len(list(saver.list(CONFIG))) == 1
        assert saver.deletions.wait(10)
        assert stored(model, server) == [True, True]
        restarted()
        app.invoke({"log": ["third"]}, CONFIG)
        assert kinds(server) == ["F", "D1", "D1"]
        saver.prune(["thread-1"], strategy="delete")
        assert list(saver.list(CONFIG)) == []
        assert saver.deletions.wait(10)
        # What pruning took out of the checkpoints is out of reach.
        assert stored(model, server)[1:] == [False, False]


# --- langgraph.json -----------------------------------------------------------------------------------------


def test_factory_named_in_langgraph_json(tmp_path: Path) -> None:
    """`"checkpointer": {"path": "./file.py:make_checkpointer"}`: the server imports the file and enters the factory."""
    (tmp_path / "checkpointer.py").write_text(
        "from contextlib import contextmanager\n"
        "from langgraph.checkpoint.sqlite import SqliteSaver\n"
        "from langchain_ws_responses import ChainSaver\n"
        "@contextmanager\n"
        "def make_checkpointer():\n"
        f"    with SqliteSaver.from_conn_string({str(tmp_path / 'state.sqlite')!r}) as inner:\n"
        "        yield ChainSaver(inner)\n"
    )
    named = json.loads('{"checkpointer": {"path": "checkpointer.py:make_checkpointer"}}')
    file, _, name = named["checkpointer"]["path"].partition(":")
    with ResponsesServer("one", "two") as server:
        for question in ("first", "second"):
            restarted()
            make = runpy.run_path(str(tmp_path / file))[name]
            with ConnectionManager() as manager, make() as saver:
                assert isinstance(saver, BaseCheckpointSaver)
                # The server puts its own checkpointer in the place of the one that was compiled in.
                app = chat(model_on(server, manager), InMemorySaver()).copy({"checkpointer": saver})
                app.invoke({"log": [question]}, CONFIG)
        assert kinds(server) == ["F", "D1"]
