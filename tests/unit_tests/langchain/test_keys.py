"""Keys that a callable gives: each turn goes under the key of its caller, as it does with ChatOpenAI over HTTP."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from contextvars import ContextVar, copy_context
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import HumanMessage
from pairs import WAYS, http_model, run, socket_model
from waiting import eventually

from langchain_ws_responses import ConnectionManager, Limits, with_websocket
from langchain_ws_responses.errors import ConfigurationError
from langchain_ws_responses.testing import ResponsesServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USER: ContextVar[str] = ContextVar("USER")
TRANSPORTS = ("websocket", "auto", "http")


@pytest.fixture
def server() -> Iterator[ResponsesServer]:
    with ResponsesServer(answer=lambda _: "Fine.") as server:
        yield server


def as_user(name: str, work: Any, *args: Any) -> Any:
    """Calls something in the context of a user."""

    def call() -> Any:
        USER.set(name)
        return work(*args)

    return copy_context().run(call)


def noted_in(asked: list[str]) -> Callable[[], str]:
    """A callable that gives the user as the key, and notes each time it is asked."""

    def key() -> str:
        asked.append(USER.get())
        return asked[-1]

    return key


def keys_of(server: ResponsesServer) -> list[tuple[str, str]]:
    """What was asked, and under which key."""
    return [
        (request.last_user_text or "", request.headers["authorization"].removeprefix("Bearer "))
        for request in server.requests
    ]


# -- whose key ----------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_each_turn_goes_under_the_key_of_its_caller(
    server: ResponsesServer, manager: ConnectionManager, way: str, transport: str
) -> None:
    model = socket_model(server, manager, api_key=USER.get, transport=transport)
    for name in ("alice", "bob", "alice"):
        as_user(name, run, model, way, f"I am {name}")
    assert keys_of(server) == [("I am alice", "alice"), ("I am bob", "bob"), ("I am alice", "alice")]
    if transport == "websocket":
        assert len(server.connections) == 2, "the second turn of a key finds its socket"


def test_models_made_from_others_go_under_the_key_of_their_caller_too(
    server: ResponsesServer, manager: ConnectionManager
) -> None:
    plain = http_model(server, api_key=USER.get)
    taken = with_websocket(plain, manager=manager, transport="websocket")
    for model in (taken, taken.model_copy(update={"temperature": 0.5}), taken.bind(user="u")):
        for name in ("alice", "bob"):
            as_user(name, model.invoke, f"I am {name}")
    assert keys_of(server) == [("I am alice", "alice"), ("I am bob", "bob")] * 3
    assert len(server.connections) == 2


async def test_tasks_of_one_loop_are_told_apart(server: ResponsesServer, manager: ConnectionManager) -> None:
    async def key() -> str:
        await asyncio.sleep(0)
        return USER.get()

    model = socket_model(server, manager, api_key=key)

    async def turn(name: str) -> None:
        USER.set(name)
        await model.ainvoke(name)

    names = [f"user-{number}" for number in range(6)]
    await asyncio.gather(*[asyncio.create_task(turn(name)) for name in names])
    assert sorted(keys_of(server)) == sorted((name, name) for name in names)


@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_nobody_continues_what_another_key_began(
    server: ResponsesServer, manager: ConnectionManager, transport: str
) -> None:
    model = socket_model(server, manager, api_key=USER.get, transport=transport)
    history = [HumanMessage("First?")]
    history += [as_user("alice", model.invoke, history), HumanMessage("Second?")]
    foreign = as_user("bob", model.invoke, history)
    as_user("alice", model.invoke, history)
    assert [
        (request.is_delta, key) for request, (_, key) in zip(server.requests, keys_of(server), strict=True)
    ] == [
        (False, "alice"),
        (False, "bob"),
        (True, "alice"),
    ]
    assert foreign.response_metadata["transport"]["reason"] == "bad_link"


def test_two_callables_that_give_one_key_share_its_socket_and_its_links(
    server: ResponsesServer, manager: ConnectionManager
) -> None:
    history = [HumanMessage("First?")]
    history += [socket_model(server, manager, api_key=lambda: "k").invoke(history), HumanMessage("Second?")]
    socket_model(server, manager, api_key=lambda: "k\n").invoke(history)
    socket_model(server, manager, api_key="k").invoke(history)
    assert [request.is_delta for request in server.requests] == [False, True, True]
    assert len(server.connections) == 1


# -- when and where it is asked ----------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_turn_asks_once_whatever_becomes_of_sockets(
    server: ResponsesServer, manager: ConnectionManager, way: str, transport: str
) -> None:
    asked: list[threading.Thread] = []

    def key() -> str:
        asked.append(threading.current_thread())
        return "k"

    model = socket_model(server, manager, api_key=key, transport=transport)
    assert asked == []
    for turns in (1, 2, 3):
        run(model, way, "Hello")
        assert len(asked) == turns
        if turns == 2:
            manager.drain()
    on_loop = way.startswith("a")
    # An event loop is not blocked by it, as with ChatOpenAI.
    assert all((thread is threading.current_thread()) is not on_loop for thread in asked)


async def test_an_async_callable_is_awaited_on_the_callers_loop(
    server: ResponsesServer, manager: ConnectionManager
) -> None:
    loops = []  # what credentials hold, such as locks and sessions, belongs to one loop

    async def key() -> str:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return "k"

    model = socket_model(server, manager, api_key=key)
    assert (await model.ainvoke("Hello")).text == "Fine."
    assert loops == [asyncio.get_running_loop()]
    assert keys_of(server) == [("Hello", "k")]


def test_an_async_callable_is_no_key_for_sync_calls(
    server: ResponsesServer, manager: ConnectionManager
) -> None:
    async def key() -> str:
        raise AssertionError("nobody can wait for it")

    model, plain = socket_model(server, manager, api_key=key), http_model(server, api_key=key)
    with pytest.raises(ValueError, match="Sync client is not available") as expected:
        plain.invoke("Hello")
    for call in (
        model.invoke,
        lambda text: [*model.stream(text)],
        lambda _: model.preconnect(),
        model.warm_up,
    ):
        with pytest.raises(ValueError, match="Sync client is not available") as refused:
            call("Hello")
        assert str(refused.value) == str(expected.value)


def test_what_only_turns_out_to_be_async_serves_async_calls(
    server: ResponsesServer, manager: ConnectionManager
) -> None:
    class Key:
        async def __call__(self) -> str:
            return "k"

    model = socket_model(server, manager, api_key=Key())
    with pytest.raises(ConfigurationError, match="ainvoke"):
        model.invoke("Hello")
    assert asyncio.run(model.ainvoke("Hello")).text == "Fine."


def test_a_key_that_is_not_sent_is_not_asked_for(server: ResponsesServer, manager: ConnectionManager) -> None:
    def never() -> str:
        raise AssertionError("asked for a key that is not used")

    model = socket_model(server, manager, api_key=never, default_headers={"Authorization": "Custom abc"})
    assert model.invoke("Hello").text == "Fine."
    assert [request.headers["authorization"] for request in server.requests] == ["Custom abc"]


@pytest.mark.parametrize("way", ["preconnect", "apreconnect", "warm_up", "awarm_up"])
def test_getting_ready_is_done_under_the_key_of_its_caller(
    server: ResponsesServer, manager: ConnectionManager, way: str
) -> None:
    asked: list[str] = []
    model = socket_model(server, manager, api_key=noted_in(asked))

    def ready() -> None:
        if way.startswith("a"):
            asyncio.run(getattr(model, way)())
        else:
            getattr(model, way)()

    for name in ("alice", "bob"):
        as_user(name, ready)
    eventually(lambda: manager.stats().connections_open == 2, "each has a connection")
    assert asked == ["alice", "bob"]
    as_user("bob", model.invoke, "Hello")
    assert keys_of(server) == [("Hello", "bob")]
    assert len(server.connections) == 2


@pytest.mark.parametrize("way", ["compact", "acompact"])
def test_compacting_goes_under_the_key_of_its_caller(
    server: ResponsesServer, manager: ConnectionManager, way: str
) -> None:
    asked: list[str] = []
    model = socket_model(server, manager, api_key=noted_in(asked))
    history = [HumanMessage("First?"), as_user("alice", model.invoke, "First?")]
    work = getattr(model, way)
    as_user("alice", lambda: asyncio.run(work(history)) if way == "acompact" else work(history))
    assert asked == ["alice", "alice"]


# -- keys that change ----------------------------------------


@pytest.mark.parametrize("secret", [None, "shared by all keys"])
def test_a_new_key_means_a_new_socket_and_all_messages_unless_there_is_a_chain_secret(
    server: ResponsesServer, secret: str | None
) -> None:
    keys = iter(["k1", "k2"])
    with ConnectionManager(limits=Limits(max_idle=0.01)) as manager:
        model = socket_model(server, manager, api_key=lambda: next(keys), chain_secret=secret)
        history = [HumanMessage("First?")]
        history += [model.invoke(history), HumanMessage("Second?")]
        model.invoke(history)
        assert [connection.headers["authorization"] for connection in server.connections] == [
            "Bearer k1",
            "Bearer k2",
        ]
        assert [request.is_delta for request in server.requests] == [False, secret is not None]
        # Nobody will ask for the first key again: its socket goes as any idle one does.
        eventually(lambda: manager.stats().connections_open == 0, "idle sockets are closed")


def test_what_belongs_to_replaced_keys_does_not_pile_up(server: ResponsesServer) -> None:
    keys = iter(range(150))
    with ConnectionManager(limits=Limits(max_idle=0.001)) as manager:
        model = socket_model(server, manager, api_key=lambda: f"k{next(keys)}")
        for _ in range(150):
            model.invoke("Hello")
            eventually(lambda: not manager.stats().connections_open, "the idle socket is closed")
        assert len({key for _, key in keys_of(server)}) == 150
        assert len(manager._pools) <= 65


# -- what callables raise ----------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_a_callable_raises_is_its_callers(
    server: ResponsesServer, manager: ConnectionManager, way: str, transport: str
) -> None:
    def key() -> str:
        raise PermissionError("login expired")

    model = socket_model(server, manager, api_key=key, transport=transport)
    with pytest.raises(PermissionError, match="login expired") as raised:
        run(model, way, "Hello")
    assert raised.value.__cause__ is None
    assert not server.handshakes
    assert not server.requests


@pytest.mark.parametrize(
    "error", [SystemExit("no"), KeyboardInterrupt(), concurrent.futures.CancelledError()]
)
def test_a_callable_that_wants_to_end_the_program_ends_no_other_turn(
    server: ResponsesServer, manager: ConnectionManager, error: BaseException
) -> None:
    other = socket_model(server, manager)
    assert other.invoke("Before").text == "Fine."

    def key() -> str:
        raise error

    with pytest.raises(type(error)) as raised:
        socket_model(server, manager, api_key=key).invoke("Never")
    assert raised.value is error
    assert other.invoke("After").text == "Fine."
    assert len(server.connections) == 1


@pytest.mark.parametrize("key", ["", "a b", 5, None, ["k"]])
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_what_is_no_key_is_refused(
    server: ResponsesServer, manager: ConnectionManager, key: Any, transport: str
) -> None:
    model = socket_model(server, manager, api_key=lambda: key, transport=transport)
    for way in ("invoke", "ainvoke"):
        with pytest.raises(ConfigurationError, match="API key"):
            run(model, way, "Hello")
    assert not server.handshakes
    assert not server.requests
