"""Keep-ready: an agent whose connection is lost while a tool runs goes on as if nothing had happened."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from interrupting import Lines
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from scenarios.graphs import World, essence
from scenarios.keeping import KINDS, Bench, join_threads, manager_of, on_io_thread
from waiting import BOUND

from langchain_ws_responses import Profile
from langchain_ws_responses._langchain import ready
from langchain_ws_responses._transport.retry import set_testing
from langchain_ws_responses.testing import ResponsesServer, _engine, text, tool_call

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=["invoke", "ainvoke"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def profile() -> Profile | None:
    return Profile(name="local", lanes=True, keeps_warm_up=True)


@pytest.fixture
def store() -> bool:
    return False


@pytest.fixture
def bench(way: str, kind: str, store: bool, profile: Profile | None) -> Iterator[Bench]:
    """An agent over a server of its own; at the end nothing may be left of it."""
    set_testing(True)
    with ResponsesServer() as server:
        bench = Bench(World(server, way, store, manager_of(profile)), kind)
        yield bench
        bench.check_nothing_left()
        bench.world.manager.close()
    set_testing(False)


def test_after_a_loss_only_the_output_is_sent(bench: Bench) -> None:
    def act(name: str) -> str:
        bench.lose()
        bench.settle(1)
        return "found"

    bench.act = act
    bench.ask("a")
    bench.run()
    assert bench.world.sent() == ["F first_turn", "D1"]
    (warm_up,) = bench.warm_ups
    assert (warm_up.is_delta, warm_up.connection) == (False, "conn_2")
    assert essence(warm_up.items) == [("user", "go"), ("call", "work", {"name": "a"}, "c-a")]
    last = bench.world.requests[-1]
    assert last.previous_response_id == warm_up.response_id
    assert last.connection == "conn_2"
    assert essence(last.items) == [("output", "c-a", "found")]
    assert last.tools == warm_up.tools != []
    bench.world.check()


@pytest.mark.parametrize("code", [1000, 1001, 1011])
def test_a_clean_close_is_a_loss_too(bench: Bench, code: int) -> None:
    def act(name: str) -> str:
        bench.lose(code)
        bench.settle(1)
        return "found"

    bench.act = act
    bench.ask("a")
    bench.run()
    assert bench.world.sent() == ["F first_turn", "D1"]
    bench.world.check()


def test_the_server_ends_the_connection_for_its_age(bench: Bench) -> None:
    def act(name: str) -> str:
        before = len(bench.server.connections)
        bench.server.age(minutes=61)
        bench.reopened(before)
        bench.settle(1)
        return "found"

    bench.act = act
    bench.ask("a")
    bench.run()
    assert bench.world.sent() == ["F first_turn", "D1"]
    bench.world.check()


def test_the_manager_rotates_the_connection(bench: Bench) -> None:
    def act(name: str) -> str:
        before = len(bench.server.connections)
        bench.world.manager.drain()
        bench.reopened(before)
        bench.settle(1)
        return "found"

    bench.act = act
    bench.ask("a")
    bench.run()
    assert bench.world.sent() == ["F first_turn", "D1"]
    bench.world.check()


def test_a_second_loss_while_the_tool_runs(bench: Bench) -> None:
    def act(name: str) -> str:
        for count in (1, 2, 3):
            bench.lose()
            bench.settle(count)
        return "found"

    bench.act = act
    bench.ask("a")
    bench.run()
    assert bench.world.sent() == ["F first_turn", "D1"]
    assert bench.world.requests[-1].previous_response_id == bench.warm_ups[2].response_id
    assert bench.world.requests[-1].connection == "conn_4"
    bench.world.check()


@pytest.mark.parametrize("store", [True])
def test_a_stored_conversation_needs_a_connection_only(bench: Bench) -> None:
    def act(name: str) -> str:
        bench.lose()
        bench.lose()
        return "found"

    bench.act = act
    bench.ask("a")
    bench.run()
    assert bench.world.sent() == ["F first_turn", "D1"]
    assert bench.warm_ups == []
    assert bench.world.requests[-1].connection == "conn_3"
    bench.world.check()


@pytest.mark.parametrize("together", [True, False], ids=["together", "one-by-one"])
def test_several_tools_of_one_answer_are_one_conversation(bench: Bench, together: bool) -> None:
    barrier = threading.Barrier(3)
    lost: list[str] = []

    def act(name: str) -> str:
        if together:
            barrier.wait(10)
        if name == "a":
            bench.lose()
            bench.settle(1)
            lost.append(name)
        if together:
            barrier.wait(10)
        return f"found {name}"

    bench.act = act
    bench.ask("a", "b", "c")
    bench.run(config=None if together else {"max_concurrency": 1})
    assert lost == ["a"]
    assert bench.world.sent() == ["F first_turn", "D3"]
    assert len(bench.warm_ups) == 1
    outputs = [("output", f"c-{name}", f"found {name}") for name in "abc"]
    assert essence(bench.world.requests[-1].items) == outputs
    bench.world.check()


def test_a_server_that_refuses_open_calls_gets_the_history_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _engine.check_items
    monkeypatch.setattr(_engine, "check_items", lambda seen, generate: real(seen, generate=True))

    def act(name: str) -> str:
        bench.lose()
        bench.settle(2)
        return "found"

    bench.act = act
    bench.ask("a")
    bench.run()
    refused, kept = bench.warm_ups
    assert (refused.status, kept.status) == ("error", "completed")
    assert essence(kept.items) == [("user", "go")]
    assert bench.world.sent() == ["F first_turn", "D2"]
    assert bench.world.requests[-1].previous_response_id == kept.response_id
    bench.world.check()


def test_a_server_that_generates_all_the_same_is_not_continued_and_not_asked_again(bench: Bench) -> None:
    bench.server.config.warm_up = "generate"
    # Such a server wants every call answered, so that only the history before the call is generated from.
    bench.server.config.answer = lambda request: (
        text("I should not speak.") if request.is_warm_up else text("end")
    )
    bench.server.add(tool_call("work", {"name": "a"}, "c-a"))

    def act(name: str) -> str:
        bench.lose()
        bench.settle(2)
        bench.lose()
        return "found"

    bench.act = act
    bench.run()
    assert bench.world.sent() == ["F first_turn", "F not_alive"]
    assert [request.status for request in bench.warm_ups] == ["error", "completed"]
    assert "I should not speak." not in str(bench.world.requests[-1].seen)
    bench.world.check()


@pytest.mark.parametrize("profile", [None, Profile(name="gateway", lanes=True)])
@pytest.mark.parametrize("behaviour", ["keep", "generate", "drop"])
def test_an_unknown_server_gets_a_connection_and_no_warm_up(
    bench: Bench, behaviour: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench.server.config, "warm_up", behaviour)

    def act(name: str) -> str:
        bench.lose()
        return "found"

    bench.act = act
    bench.ask("a")
    bench.run()
    assert bench.warm_ups == []
    assert bench.world.sent() == ["F first_turn", "F not_alive"]
    assert bench.world.requests[-1].connection == "conn_2"
    bench.world.check()


def test_refused_warm_ups_do_not_fail_the_agent(bench: Bench) -> None:
    def act(name: str) -> str:
        bench.server.config.model_check = lambda model: False
        bench.lose()
        bench.settle(2)
        bench.server.config.model_check = None
        return "found"

    bench.act = act
    bench.ask("a")
    state = bench.run()
    assert state["messages"][-1].text == "end"
    assert [request.error_code for request in bench.warm_ups] == ["model_not_found"] * 2
    assert bench.world.sent() == ["F first_turn", "F not_alive"]
    bench.world.check()


def test_a_server_that_is_gone_does_not_fail_the_agent(bench: Bench) -> None:
    def act(name: str) -> str:
        bench.server.config.refuse_upgrade = 503
        bench.server.drop_connections()
        bench.server.wait_for(lambda: len(bench.server.handshakes) > 1)
        bench.server.config.refuse_upgrade = None
        return "found"

    bench.act = act
    bench.ask("a")
    # The next turn may meet the last refusal, and tries again like any turn.
    state = bench.run(bench.agent(bench.world.model(max_retries=5)))
    assert state["messages"][-1].text == "end"
    bench.world.check()


def test_a_tool_that_fails_ends_the_watch(bench: Bench) -> None:
    def act(name: str) -> str:
        raise OSError("the tool broke")

    bench.act = act
    bench.ask("a")
    agent = bench.agent()
    with pytest.raises(OSError, match="the tool broke"):
        bench.run(agent)
    ready._recent.clear()  # an abandoned conversation may be taken up again: its note stays, among 128
    bench.server._engine.script.clear()


def test_a_manager_closed_meanwhile_does_not_disturb_the_tool(bench: Bench) -> None:
    def act(name: str) -> str:
        bench.world.manager.close()
        return "found"

    bench.act = act
    bench.ask("a")
    with pytest.raises(Exception, match="closed"):
        bench.run()
    ready._recent.clear()
    bench.server._engine.script.clear()


def test_other_models_and_http_are_left_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[Any] = []
    monkeypatch.setattr(ready._Keeper, "start", entered.append)

    class Fake(GenericFakeChatModel):
        def bind_tools(self, tools: Any, **kwargs: Any) -> Any:
            return self

    call = {"name": "work", "args": {"name": "a"}, "id": "c-a", "type": "tool_call"}
    answers = [AIMessage("", tool_calls=[call]), AIMessage("end")]
    state = bench.run(bench.agent(Fake(messages=iter(answers))))
    assert state["messages"][-1].text == "end"
    bench.ask("a")
    settings = {"transport": "http", "callbacks": None}
    state = bench.run(bench.agent(bench.world.model(**settings)))
    assert state["messages"][-1].text == "end"
    assert entered == []
    assert {request.transport for request in bench.server.requests} == {"http"}


def test_idle_connections_are_kept_while_tools_run(bench: Bench) -> None:
    watched: list[int] = []

    def act(name: str) -> str:
        pools = list(bench.world.manager._pools.values())

        def idle() -> list[bool]:
            for pool in pools:
                watched.append(len(pool.watches))
                for connection in list(pool.connections):
                    connection._on_idle(0.0)
            return [connection.usable for pool in pools for connection in pool.connections]

        assert on_io_thread(idle) == [True]
        return "found"

    bench.act = act
    bench.ask("a")
    bench.run()
    assert watched == [1]
    assert bench.world.sent() == ["F first_turn", "D1"]


# -- notes ----------------------------------------


def _asking(server: ResponsesServer, world: World, count: int) -> list[list[Any]]:
    model = world.model()
    conversations = []
    for number in range(count):
        server.add(tool_call("work", {}, f"c{number}"))
        question = HumanMessage(str(number))
        conversations.append([question, model.invoke([question])])
    return conversations


def test_notes_are_taken_only_where_somebody_may_need_them(
    responses_server: ResponsesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_recent", type(ready._recent)())
    monkeypatch.setattr(ready, "_enabled", False)
    with manager_of() as manager:
        world = World(responses_server, manager=manager)
        _asking(responses_server, world, 1)
        assert list(ready._recent) == []
        ready.enable()
        ((_, answer),) = _asking(responses_server, world, 1)
        assert list(ready._recent) == [answer.response_metadata["openai_chain"]["id"]]


def test_notes_are_bounded_and_go_with_their_conversation(
    responses_server: ResponsesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_recent", type(ready._recent)())
    monkeypatch.setattr(ready, "_enabled", True)
    monkeypatch.setattr(ready, "_MAX_RECENT", 2)
    with manager_of() as manager:
        world = World(responses_server, manager=manager)
        first, second, third = _asking(responses_server, world, 3)
        ids = [answer.response_metadata["openai_chain"]["id"] for _, answer in (first, second, third)]
        assert list(ready._recent) == ids[1:]
        responses_server.add("end")
        world.model().invoke([*second, ToolMessage("x", tool_call_id="c1")])
        assert list(ready._recent) == ids[2:]
        ready.forget_recent(third)
        assert list(ready._recent) == []


def test_nothing_happens_for_messages_without_a_link() -> None:
    for messages in (
        [],
        [HumanMessage("a")],
        [AIMessage("b")],
        [AIMessage("c", response_metadata={"openai_chain": 1})],
    ):
        with ready.KeepReady(messages) as keeping:
            assert keeping._keeper is None
        ready.forget_recent(messages)


def test_a_keeper_that_is_interrupted_while_it_begins_leaves_no_watch(
    responses_server: ResponsesServer,
) -> None:
    ready.enable()
    with manager_of() as manager:
        (conversation,) = _asking(responses_server, World(responses_server, manager=manager), 1)
        pools, number, hit = list(manager._pools.values()), 0, "the beginning"
        while hit:
            keeping, lines = ready.KeepReady(conversation), Lines(number)
            lines.run(keeping.__enter__)
            number, hit = number + 1, lines.hit
            if not hit:
                keeping.__exit__()
            assert ready._keepers == {}, hit
            assert on_io_thread(lambda: [len(pool.watches) for pool in pools]) == [0], hit
        assert number > 20, "hardly anything was interrupted"
        ready.forget_recent(conversation)


def test_garbage_may_be_collected_while_a_note_is_taken(
    responses_server: ResponsesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready, "_enabled", True)
    with manager_of() as manager:
        (conversation,) = _asking(responses_server, World(responses_server, manager=manager), 1)
        keeping = ready.KeepReady(conversation)
        keeping.__enter__()

        class Turn(SimpleNamespace):
            @property
            def asks(self) -> bool:
                # As the collector does at some allocation, to a tool node whose loop was closed with it.
                keeping.__exit__()
                return False

        turn = Turn(link={"id": "resp_x"}, warm_up=False, messages=[], kind="websocket")
        thread = threading.Thread(target=ready.remember, args=(turn,), daemon=True)
        thread.start()
        thread.join(BOUND)
        assert not thread.is_alive()
        assert ready._keepers == {}
        ready.forget_recent(conversation)


_FORK = """
import os, signal, threading
from langchain_core.messages import AIMessage
from langchain_ws_responses._langchain import ready

ready._recent["resp_1"] = None
ready._keepers["resp_1"] = None
thread = threading.Thread(target=ready._lock.acquire)
thread.start()
thread.join()
child = os.fork()
if child == 0:
    signal.alarm(10)
    with ready.KeepReady([AIMessage("a", response_metadata={"openai_chain": {"id": "resp_1"}})]):
        os._exit(0 if not ready._recent and not ready._keepers else 1)
_, status = os.waitpid(child, 0)
raise SystemExit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the platform has no os.fork")
def test_a_forked_child_keeps_no_notes_and_no_taken_lock() -> None:
    done = subprocess.run([sys.executable, "-c", _FORK], timeout=100, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_no_thread_is_left() -> None:
    join_threads()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ws-responses p")]
