"""`WebSocketMiddleware`: ready before the agent starts, while its tools run, and gone when it ends."""

from __future__ import annotations

import asyncio
import importlib
import sys
from contextvars import ContextVar, copy_context
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import dynamic_prompt
from langchain.agents.structured_output import ToolStrategy
from langchain_core.language_models.fake_chat_models import GenericFakeChatModel
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from scenarios.graphs import KEY, World, add, essence
from scenarios.keeping import join_threads, manager_of, on_io_thread

import langchain_ws_responses
from langchain_ws_responses import WebSocketMiddleware
from langchain_ws_responses._langchain import ready
from langchain_ws_responses.testing import ResponsesServer, tool_call

if TYPE_CHECKING:
    from collections.abc import Iterator

NEW: dict[str, Any] = {"messages": [HumanMessage("hi")]}


@pytest.fixture(params=[True, False], ids=["stored", "unstored"])
def world(request: pytest.FixtureRequest, responses_server: ResponsesServer) -> Iterator[World]:
    with manager_of() as manager:
        yield World(responses_server, "invoke", request.param, manager)
        join_threads()


def _warm_ups(world: World) -> list[Any]:
    join_threads()
    return [request for request in world.server.requests if request.is_warm_up]


def _before(middleware: WebSocketMiddleware, way: str, state: dict[str, Any] = NEW) -> None:
    if way == "sync":
        assert middleware.before_agent(state, None) is None
    else:
        assert asyncio.run(middleware.abefore_agent(state, None)) is None


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_connection_is_opened_before_the_first_turn(world: World, way: str) -> None:
    _before(WebSocketMiddleware(world.model()), way)
    world.server.wait_for(lambda: len(world.server.connections) == 1)
    # Tools and prompt are not known yet: nothing is sent.
    assert world.server.requests == []


@pytest.mark.parametrize("way", ["sync", "async"])
def test_tools_and_prompt_are_read_in_once_they_are_known(world: World, way: str) -> None:
    middleware = WebSocketMiddleware()
    agent = create_agent(world.model(), [add], system_prompt="Be good.", middleware=[middleware])
    agent.invoke(NEW)
    assert _warm_ups(world) == []
    _before(middleware, way)
    (warm_up,) = _warm_ups(world)
    assert essence(warm_up.items) == [("system", "Be good.")]
    assert [tool["name"] for tool in warm_up.tools] == ["add"]
    agent.invoke(NEW)
    join_threads()
    # The prompt is there already: the question is all that is sent.
    assert world.requests[1].previous_response_id == warm_up.response_id
    assert essence(world.requests[1].items) == [("user", "hi")]
    assert world.sent() == ["F first_turn", "D1"]
    world.check()


def test_what_is_read_in_already_is_not_read_in_again(world: World) -> None:
    middleware = WebSocketMiddleware()
    model = world.model()
    create_agent(model, [add], system_prompt="Be good.", middleware=[middleware]).invoke(NEW)
    for _ in range(3):
        _before(middleware, "sync")
        assert len(_warm_ups(world)) == 1
    # Other tools are another beginning.
    create_agent(model, [], system_prompt="Be good.", middleware=[middleware]).invoke(NEW)
    join_threads()
    before = len(_warm_ups(world))
    _before(middleware, "sync")
    assert len(_warm_ups(world)) == before + 1


def test_a_conversation_that_goes_on_needs_no_beginning(world: World) -> None:
    middleware = WebSocketMiddleware()
    state = create_agent(world.model(), [add], system_prompt="Be good.", middleware=[middleware]).invoke(NEW)
    _before(middleware, "sync", state)
    assert _warm_ups(world) == []


def test_the_warm_up_can_be_switched_off(world: World) -> None:
    middleware = WebSocketMiddleware(warm_up=False)
    create_agent(world.model(), [add], system_prompt="Be good.", middleware=[middleware]).invoke(NEW)
    _before(middleware, "sync")
    assert _warm_ups(world) == []
    assert len(middleware._learned) == 1


def test_an_unknown_server_is_sent_no_warm_up(responses_server: ResponsesServer) -> None:
    with manager_of(None) as manager:
        world = World(responses_server, manager=manager)
        middleware = WebSocketMiddleware()
        create_agent(world.model(), [add], system_prompt="Be good.", middleware=[middleware]).invoke(NEW)
        _before(middleware, "sync")
        assert _warm_ups(world) == []


def test_a_refused_warm_up_is_nobodys_error(world: World) -> None:
    middleware = WebSocketMiddleware()
    agent = create_agent(world.model(), [add], system_prompt="Be good.", middleware=[middleware])
    agent.invoke(NEW)
    world.server.config.model_check = lambda model: False
    _before(middleware, "sync")
    (warm_up,) = _warm_ups(world)
    assert warm_up.error_code == "model_not_found"
    world.server.config.model_check = None
    assert agent.invoke(NEW)["messages"][-1].text


def test_a_closed_manager_is_left_to_the_first_turn(world: World) -> None:
    middleware = WebSocketMiddleware(world.model())
    world.manager.close()
    _before(middleware, "sync")
    assert world.server.connections == []


def test_a_warm_up_that_breaks_stays_in_its_thread(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    model = world.model()
    broken: list[str] = []

    def breaks(*args: Any, **kwargs: Any) -> bool:
        broken.append("here")
        raise RuntimeError("broken")

    middleware = WebSocketMiddleware()
    create_agent(model, [add], middleware=[middleware]).invoke(NEW)
    monkeypatch.setattr(type(model), "_warm_up", breaks)
    _before(middleware, "sync")
    join_threads()
    # An exception that left the thread would fail this test through pytest's own hook.
    assert broken == ["here"]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_gets_ready_under_the_key_of_whoever_starts_the_agent(world: World, way: str) -> None:
    user: ContextVar[str] = ContextVar("user")
    middleware = WebSocketMiddleware()

    def run(name: str, work: Any, *args: Any) -> None:
        copy_context().run(lambda: (user.set(name), work(*args)))

    @dynamic_prompt
    def prompt(request: Any) -> str:
        return f"You serve {user.get()}."

    model = world.model(api_key=user.get)
    agent = create_agent(model, [add], middleware=[prompt, middleware])
    run("alice", agent.invoke if way == "sync" else _ainvoke(agent), NEW)
    # Tools and prompt of one tenant are not sent under the key of another.
    run("bob", _before, middleware, way)
    assert _warm_ups(world) == []
    world.server.wait_for(lambda: len(world.server.connections) == 2)
    run("bob", agent.invoke if way == "sync" else _ainvoke(agent), NEW)
    for name in ("alice", "bob"):
        run(name, _before, middleware, way)
        warm_up = _warm_ups(world)[-1]
        assert warm_up.headers["authorization"] == f"Bearer {name}"
        assert essence(warm_up.items) == [("system", f"You serve {name}.")]
    assert len(_warm_ups(world)) == 2


def _ainvoke(agent: Any) -> Any:
    return lambda state: asyncio.run(agent.ainvoke(state))


def test_the_call_of_another_model_within_teaches_nothing(world: World) -> None:
    user: ContextVar[str] = ContextVar("user")
    user.set("alice")
    middleware, other = WebSocketMiddleware(), world.model(api_key=user.get)
    # One that asks nothing of the agent's model: under which key the answer came, nobody can say.
    request = SimpleNamespace(
        model=world.model(api_key=user.get), tools=[], system_prompt="Be good.", model_settings={}
    )
    middleware.wrap_model_call(request, lambda request: other.invoke("hi"))
    _before(middleware, "sync")
    assert _warm_ups(world) == []
    middleware.wrap_model_call(request, lambda request: (other.invoke("hi"), request.model.invoke("hi")))
    _before(middleware, "sync")
    assert len(_warm_ups(world)) == 1


def test_a_prompt_that_changes_is_not_read_in_before_it_has_settled(world: World) -> None:
    prompts = iter(["It is one.", "It is two.", "It is two."])

    @dynamic_prompt
    def prompt(request: Any) -> str:
        return next(prompts)

    middleware = WebSocketMiddleware()
    agent = create_agent(world.model(), [add], middleware=[prompt, middleware])
    read: list[Any] = []
    for _ in range(3):
        agent.invoke(NEW)
        _before(middleware, "sync")
        read.append([essence(warm_up.items) for warm_up in _warm_ups(world)])
    one, two = [("system", "It is one.")], [("system", "It is two.")]
    assert read == [[one], [one], [one, two]]


def test_learns_from_the_text_of_a_prompt_where_there_is_no_message(world: World) -> None:
    class OldRequest:
        model = world.model()
        tools: tuple[Any, ...] = ()
        system_prompt = "Be old."
        model_settings: tuple[Any, ...] = ()

    middleware = WebSocketMiddleware()
    assert middleware.wrap_model_call(OldRequest(), lambda request: "answer") == "answer"
    (learned,) = middleware._learned.values()
    assert (learned.tools, learned.system, learned.settings) == ([], SystemMessage("Be old."), {})


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_other_models_are_left_alone(way: str) -> None:
    middleware = WebSocketMiddleware()
    agent = create_agent(
        GenericFakeChatModel(messages=iter([AIMessage("hello")])), [], middleware=[middleware]
    )
    state = agent.invoke(NEW) if way == "invoke" else asyncio.run(agent.ainvoke(NEW))
    assert state["messages"][-1].text == "hello"
    assert (middleware._model, list(middleware._learned)) == (None, [])
    _before(middleware, "sync")


def test_after_the_agent_nothing_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "_recent", type(ready._recent)())

    class Sum(BaseModel):
        """The sum."""

        total: int

    # The agent ends with an answer that asks for a tool: nobody will run it.
    world.server.add(tool_call("Sum", {"total": 3}, "c1"), tool_call("Sum", {"total": 4}, "c2"))
    agent = create_agent(
        world.model(), [add], response_format=ToolStrategy(Sum), middleware=[WebSocketMiddleware()]
    )
    assert agent.invoke(NEW)["structured_response"] == Sum(total=3)
    assert asyncio.run(agent.ainvoke(NEW))["structured_response"] == Sum(total=4)
    assert list(ready._recent) == []
    pools = list(world.manager._pools.values())
    assert on_io_thread(lambda: [watch for pool in pools for watch in pool.watches]) == []


@pytest.mark.parametrize(
    "model",
    ["gpt-5.5", ChatOpenAI(model="gpt-5.5", api_key=KEY), GenericFakeChatModel(messages=iter([]))],
    ids=["name", "ChatOpenAI", "fake"],
)
def test_a_wrong_model_is_told_what_to_do(model: Any) -> None:
    with pytest.raises(
        TypeError, match=r"takes a ChatOpenAIWebSocket, not \w+: make one with with_websocket"
    ):
        WebSocketMiddleware(model)


def test_a_missing_langchain_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "langchain_ws_responses._langchain.middleware"
    monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "langchain.agents.middleware", None)
    monkeypatch.delattr(langchain_ws_responses, "WebSocketMiddleware", raising=False)
    monkeypatch.delitem(vars(langchain_ws_responses), "WebSocketMiddleware", raising=False)
    with pytest.raises(ModuleNotFoundError, match="needs the package langchain: pip install 'langchain"):
        importlib.import_module(name)


def test_has_no_tools_and_no_state_of_its_own() -> None:
    middleware = WebSocketMiddleware()
    assert list(middleware.tools) == []
    assert middleware.name == "WebSocketMiddleware"
