"""Which way a turn goes, and where to: `transport`, its rules, the fallback, and every way to name an address."""

from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING, Any

import openai
import pytest
from langchain.chat_models import init_chat_model
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import tool
from langchain_openai import AzureChatOpenAI, ChatOpenAI
from pairs import KEY, WAYS, run, settings_of, socket_model
from pydantic import SecretStr, ValidationError
from waiting import until_lost, until_open

from langchain_ws_responses import (
    ChatOpenAIWebSocket,
    ConnectionManager,
    Limits,
    MessageTooLarge,
    Replay,
    failure_of,
    with_websocket,
)
from langchain_ws_responses.testing import ResponsesServer, drop

if TYPE_CHECKING:
    from collections.abc import Iterator


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def kinds(server: ResponsesServer) -> list[str]:
    return ["websocket" if request.transport == "websocket" else "http" for request in server.requests]


TALK = [HumanMessage("First?"), AIMessage("One."), HumanMessage("Second?")]

# -- auto ----------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_auto_sends_a_single_question_over_http_without_a_dial(manager: ConnectionManager, way: str) -> None:
    with ResponsesServer() as server:
        answers = run(socket_model(server, manager, transport="auto"), way, "Hello")
        assert kinds(server) == ["http"]
        assert answers[-1].response_metadata["transport"]["kind"] == "http"
        assert not server.handshakes
        assert manager.stats().http == 1


@pytest.mark.parametrize("way", WAYS)
def test_auto_dials_for_tools_and_for_a_conversation_and_then_stays(
    manager: ConnectionManager, way: str
) -> None:
    with ResponsesServer() as server:
        model = socket_model(server, manager, transport="auto")
        run(model.bind_tools([add]), way, "Hello")
        assert kinds(server) == ["websocket"]
        # A connection that is open costs nothing more, so single questions use it too.
        run(model, way, "Hello")
        assert kinds(server) == ["websocket"] * 2
    with ResponsesServer() as server, ConnectionManager() as fresh:
        run(socket_model(server, fresh, transport="auto"), way, TALK)
        assert kinds(server) == ["websocket"]


def test_auto_continues_over_the_socket_what_began_over_http(manager: ConnectionManager) -> None:
    with ResponsesServer("One.", "Two.", "Three.") as server:
        model = socket_model(server, manager, transport="auto")
        history: list[Any] = [HumanMessage("First?")]
        for question in ("Second?", "Third?"):
            history += [model.invoke(history), HumanMessage(question)]
        answer = model.invoke(history)
        assert kinds(server) == ["http", "websocket", "websocket"]
        assert [request.is_delta for request in server.requests] == [False, True, True]
        assert len(server.requests[2].items) == 1
        assert answer.response_metadata["transport"]["mode"] == "delta"


def test_http_never_dials_and_sends_deltas_where_responses_are_stored(manager: ConnectionManager) -> None:
    for store, deltas in ((None, [False, True]), (False, [False, False])):
        with ResponsesServer("One.", "Two.") as server:
            model = socket_model(server, manager, transport="http", store=store)
            history: list[Any] = [HumanMessage("First?")]
            history += [model.invoke(history), HumanMessage("Second?")]
            answer = model.invoke(history)
            assert kinds(server) == ["http", "http"]
            assert [request.is_delta for request in server.requests] == deltas
            assert [item.get("role") for item in server.requests[1].seen] == ["user", "assistant", "user"]
            reason = answer.response_metadata["transport"]["reason"]
            assert reason == ("chain" if store is None else "not_alive")
            assert not server.handshakes


def test_websocket_never_uses_http(manager: ConnectionManager, no_backoff: None) -> None:
    with ResponsesServer(refuse_upgrade=426) as server:
        with pytest.raises(openai.APIStatusError):
            socket_model(server, manager).invoke("Hello")
        assert not server.requests


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", [404, 426])
def test_auto_goes_on_over_http_where_the_mode_is_not_offered(
    manager: ConnectionManager, no_backoff: None, status: int, way: str
) -> None:
    with ResponsesServer(answer=lambda _: "Fine.") as server:
        model = socket_model(server, manager, transport="auto", max_retries=2).bind_tools([add])
        history: list[Any] = [HumanMessage("First?"), model.invoke("First?"), HumanMessage("Second?")]
        assert kinds(server) == ["websocket"]
        server.config.refuse_upgrade = status
        server.drop_connections(code=1001)
        until_lost(manager)
        answers = run(model, way, history)
        assert "".join(answer.text for answer in answers) == "Fine."
        assert kinds(server)[1:] == ["http"]
        # Same chain: what is stored is continued over HTTP too.
        assert server.requests[1].is_delta
        assert [item.get("role") for item in server.requests[1].seen] == ["user", "assistant", "user"]
        handshakes = len(server.handshakes)
        model.invoke("Hello")
        # The refusal is remembered: the next turn pays for no dial.
        assert len(server.handshakes) == handshakes
        assert kinds(server)[2:] == ["http"]


def test_auto_finds_out_once_that_the_mode_is_not_offered_whatever_the_key(
    manager: ConnectionManager, no_backoff: None
) -> None:
    keys = (f"sk-{number}" for number in itertools.count())
    with ResponsesServer(answer=lambda _: "Fine.", refuse_upgrade=404) as server:
        model = socket_model(server, manager, transport="auto", api_key=lambda: next(keys)).bind_tools([add])
        for _ in range(5):
            model.invoke("Hello")
        socket_model(server, manager, transport="auto", api_key="sk-fixed").bind_tools([add]).invoke("Hello")
        assert len(server.handshakes) == 1
        assert kinds(server) == ["http"] * 6
        # Other header fields may lead to another server.
        fields = {"default_headers": {"X-Route": "other"}, "transport": "auto"}
        socket_model(server, manager, **fields).bind_tools([add]).invoke("Hello")
        assert len(server.handshakes) == 2


def test_auto_falls_back_with_the_full_input_where_nothing_is_stored(
    manager: ConnectionManager, no_backoff: None
) -> None:
    with ResponsesServer(answer=lambda _: "Fine.") as server:
        model = socket_model(server, manager, transport="auto", store=False, max_retries=2)
        model = model.bind_tools([add])
        history: list[Any] = [HumanMessage("First?"), model.invoke("First?"), HumanMessage("Second?")]
        server.config.refuse_upgrade = 426
        server.drop_connections(code=1001)
        until_lost(manager)
        assert model.invoke(history).text == "Fine."
        assert [request.is_delta for request in server.requests if request.transport == "http"] == [False]
        assert not server.requests[-1].is_delta
        assert [item.get("role") for item in server.requests[-1].seen] == ["user", "assistant", "user"]


@pytest.mark.parametrize("status", [401, 403, 500])
def test_auto_does_not_hide_a_refusal_that_http_would_meet_too(
    manager: ConnectionManager, no_backoff: None, status: int
) -> None:
    with ResponsesServer(refuse_upgrade=status) as server:
        with pytest.raises(openai.APIStatusError) as raised:
            socket_model(server, manager, transport="auto").bind_tools([add]).invoke("Hello")
        assert raised.value.status_code == status
        assert not server.requests


def test_auto_sends_a_request_that_is_too_large_over_http(manager: ConnectionManager) -> None:
    with ResponsesServer(answer=lambda _: "Fine.", max_message_size=20_000) as server:
        model = socket_model(server, manager, transport="auto", max_retries=2).bind_tools([add])
        assert model.invoke("Hello").text == "Fine."
        assert model.invoke("x" * 30_000).text == "Fine."
        assert kinds(server) == ["websocket", "http"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("forbidden", [True, False])
def test_an_answer_whose_first_frame_is_too_large_here_is_not_repeated_where_that_could_do_harm(
    forbidden: bool, way: str
) -> None:
    """The request comes back in the first event: it was not refused, and is being worked on."""
    acting = {"type": "mcp", "server_label": "x", "server_url": "https://x", "require_approval": "never"}
    tool = acting if forbidden else add
    with (
        ResponsesServer(answer=lambda _: "Paid.") as server,
        ConnectionManager(limits=Limits(max_message_size=20_000)) as manager,
    ):
        model = socket_model(server, manager, transport="auto", max_retries=2).bind_tools([tool])
        long = model.bind(instructions="x" * 30_000)
        if not forbidden:
            assert "".join(piece.text for piece in run(long, way, "Pay the bill")) == "Paid."
            assert kinds(server) == ["websocket", "http"]
            return
        with pytest.raises(openai.APIConnectionError) as raised:
            run(long, way, "Pay the bill")
        failure = failure_of(raised.value)
        assert isinstance(failure, MessageTooLarge)
        assert (failure.replay, failure.events_seen) == (Replay.AMBIGUOUS, 0)
        assert kinds(server) == ["websocket"]


@pytest.mark.parametrize("way", WAYS)
def test_output_that_was_handed_over_is_not_asked_for_again_over_http(
    manager: ConnectionManager, no_backoff: None, way: str
) -> None:
    with ResponsesServer(drop(6)) as server:
        model = socket_model(server, manager, transport="auto", max_retries=0).bind_tools([add])
        with pytest.raises(openai.APIConnectionError):
            run(model, way, "Hello")
        assert len(server.requests) == 1


def test_environment_sets_the_default_of_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "LANGCHAIN_WS_RESPONSES_TRANSPORT"
    for value, expected in (("http", "http"), ("websocket", "websocket"), ("", "auto")):
        monkeypatch.setenv(name, value)
        assert ChatOpenAIWebSocket(model="m", api_key=KEY).transport == expected
    assert ChatOpenAIWebSocket(model="m", api_key=KEY, transport="auto").transport == "auto"
    monkeypatch.setenv(name, "carrier pigeon")
    with pytest.raises(ValidationError, match="'auto', 'websocket' or 'http'"):
        ChatOpenAIWebSocket(model="m", api_key=KEY)


# -- addresses ----------------------------------------


@pytest.fixture
def server() -> Iterator[ResponsesServer]:
    with ResponsesServer(answer=lambda _: "Fine.") as server:
        yield server


def ws(server: ResponsesServer) -> str:
    return server.base_url.replace("http://", "ws://")


@pytest.mark.parametrize("name", ["base_url", "openai_api_base", "OPENAI_API_BASE", "OPENAI_BASE_URL"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_socket_scheme_in_the_base_url_serves_both_transports(
    server: ResponsesServer,
    manager: ConnectionManager,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    slash: str,
) -> None:
    given: dict[str, Any] = {"manager": manager, "model": "gpt-5.5", "api_key": KEY}
    if name.isupper():
        monkeypatch.setenv(name, ws(server) + slash)
    else:
        given[name] = ws(server) + slash
    model = ChatOpenAIWebSocket(**given)
    assert model.websocket_url == server.websocket_url
    assert model.invoke("Hello").text == "Fine."
    assert model.bind_tools([add]).invoke("Hello").text == "Fine."
    assert kinds(server) == ["http", "websocket"]
    assert server.handshakes[0].path == "/v1/responses"


def test_secure_socket_scheme_becomes_https() -> None:
    model = ChatOpenAIWebSocket(model="m", api_key=KEY, base_url="WSS://host.invalid/api/v1")
    assert str(model.root_client.base_url) == "https://host.invalid/api/v1/"
    assert model.websocket_url == "wss://host.invalid/api/v1/responses"
    model = ChatOpenAIWebSocket(model="m", api_key=KEY, base_url="wss://host.invalid/v1?deployment=a")
    assert model.websocket_url == "wss://host.invalid/v1/responses?deployment=a"


def test_websocket_url_wins_over_the_base_url(server: ResponsesServer, manager: ConnectionManager) -> None:
    given: dict[str, Any] = {"model": "gpt-5.5", "api_key": KEY, "manager": manager}
    model = ChatOpenAIWebSocket(
        **given, base_url="ws://127.0.0.1:9/v1", websocket_url=server.websocket_url, transport="websocket"
    )
    assert model.invoke("Hello").text == "Fine."
    assert kinds(server) == ["websocket"]


def test_links_do_not_leave_the_endpoint(server: ResponsesServer, manager: ConnectionManager) -> None:
    with ResponsesServer("Other.") as other:
        first = socket_model(server, manager).invoke("First?")
        history = [HumanMessage("First?"), first, HumanMessage("Second?")]
        answer = socket_model(other, manager).invoke(history)
        assert answer.response_metadata["transport"]["reason"] == "bad_link"
        assert not other.requests[0].is_delta
        assert [item["role"] for item in other.requests[0].seen] == ["user", "assistant", "user"]


@pytest.mark.parametrize("field", ["organization", "model", "chain_secret", "api_key"])
def test_links_do_not_leave_organization_model_secret_and_key(
    server: ResponsesServer, manager: ConnectionManager, field: str
) -> None:
    def model(name: str) -> ChatOpenAIWebSocket:
        given = {"api_key": KEY, "model": "gpt-5.5", field: name}
        return ChatOpenAIWebSocket(base_url=server.base_url, manager=manager, transport="websocket", **given)

    history = [HumanMessage("First?"), model("one").invoke("First?"), HumanMessage("Second?")]
    model("two").invoke(history)
    model("one").invoke(history)
    assert [request.is_delta for request in server.requests] == [False, False, True]


def test_workers_with_different_keys_share_chains_through_a_secret(
    server: ResponsesServer, manager: ConnectionManager
) -> None:
    def model(key: str) -> ChatOpenAIWebSocket:
        return ChatOpenAIWebSocket(
            model="gpt-5.5",
            base_url=server.base_url,
            manager=manager,
            transport="websocket",
            api_key=key,
            chain_secret=SecretStr("shared"),
        )

    history = [HumanMessage("First?"), model("k1").invoke("First?"), HumanMessage("Second?")]
    answer = model("k2").invoke(history)
    assert answer.response_metadata["transport"]["mode"] == "delta"
    # Two keys never share a socket, whatever chains they share.
    assert [connection.headers["authorization"] for connection in server.connections] == [
        "Bearer k1",
        "Bearer k2",
    ]


# -- with_websocket ----------------------------------------


def test_with_websocket_keeps_every_setting(server: ResponsesServer, manager: ConnectionManager) -> None:
    plain = ChatOpenAI(
        model="gpt-4.1",
        api_key=KEY,
        base_url=server.base_url,
        temperature=0.3,
        max_tokens=50,
        timeout=60,
        max_retries=1,
        organization="org-1",
        default_headers={"X-Mine": "1"},
        model_kwargs={"prompt_cache_key": "k"},
        reasoning={"effort": "low"},
        tags=["a"],
        output_version="v1",
        stream_usage=True,
    )
    model = with_websocket(plain, manager=manager, transport="websocket")
    assert type(model) is ChatOpenAIWebSocket
    assert model.manager is manager
    for name in plain.model_fields_set - {"client", "async_client", "root_client", "root_async_client"}:
        assert getattr(model, name) == getattr(plain, name), name
    assert model.invoke("Hello").text == "Fine."
    assert plain.invoke("Hello").text == "Fine."
    over_socket, over_http = server.requests
    assert settings_of(over_socket) == settings_of(over_http)
    assert over_socket.headers["openai-organization"] == "org-1"
    assert over_socket.headers["x-mine"] == "1"


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"model": "gpt-6"}, "model_name", "gpt-6"),
        ({"model_name": "gpt-6"}, "model_name", "gpt-6"),
        ({"base_url": "https://other.invalid/v1"}, "openai_api_base", "https://other.invalid/v1"),
        ({"timeout": 9}, "request_timeout", 9),
        ({"max_tokens": 9}, "max_tokens", 9),
        ({"max_completion_tokens": 9}, "max_tokens", 9),
        ({"temperature": 0.9}, "temperature", 0.9),
        ({"api_key": "other"}, "openai_api_key", SecretStr("other")),
    ],
)
def test_fields_given_to_with_websocket_win(given: dict[str, Any], field: str, value: Any) -> None:
    plain = ChatOpenAI(
        model="gpt-4.1",
        api_key=KEY,
        base_url="https://host.invalid/v1",
        temperature=0.3,
        max_tokens=50,
        timeout=60,
    )
    model = with_websocket(plain, **given)
    assert getattr(model, field) == value
    if "base_url" in given:
        assert str(model.root_client.base_url) == "https://other.invalid/v1/"


def test_with_websocket_takes_a_model_of_its_own_kind(
    server: ResponsesServer, manager: ConnectionManager
) -> None:
    first = ChatOpenAIWebSocket(
        model="gpt-5.5", api_key=KEY, base_url=ws(server), manager=manager, chain_secret="s"
    )
    copied = with_websocket(first, transport="http", temperature=0.1)
    assert (copied.manager, copied.websocket_url) == (manager, first.websocket_url)
    assert copied.chain_secret == first.chain_secret
    moved = with_websocket(first, base_url="https://other.invalid/v1")
    assert moved.websocket_url is None


class Careful(ChatOpenAI):
    """Has a default of its own, which its models do not count as set."""

    temperature: float | None = 0.1


class CarefulHere(ChatOpenAIWebSocket):
    temperature: float | None = 0.1


def test_with_websocket_refuses_a_subclass_whose_own_would_be_lost() -> None:
    with pytest.raises(TypeError, match="cannot take over what Careful changes of ChatOpenAI"):
        with_websocket(Careful(model="gpt-5.5", api_key=KEY))
    taken = with_websocket(CarefulHere(model="gpt-5.5", api_key=KEY), chain="off")
    assert (type(taken), taken.temperature, taken.chain) == (CarefulHere, 0.1, "off")


def test_with_websocket_takes_a_model_behind_a_proxy() -> None:
    plain = ChatOpenAI(model="gpt-5.5", api_key=KEY, openai_proxy="http://127.0.0.1:9")
    assert with_websocket(plain).openai_proxy == "http://127.0.0.1:9"


def test_with_websocket_takes_what_init_chat_model_makes(
    server: ResponsesServer, manager: ConnectionManager
) -> None:
    plain = init_chat_model("openai:gpt-5.5", api_key=KEY, base_url=server.base_url, temperature=0)
    model = with_websocket(plain, manager=manager, transport="websocket")
    assert model.invoke("Hello").text == "Fine."
    assert kinds(server) == ["websocket"]
    assert model.temperature == plain.temperature


def test_with_websocket_refuses_what_is_no_chatopenai() -> None:
    plain = ChatOpenAI(model="gpt-5.5", api_key=KEY)
    azure = AzureChatOpenAI(
        azure_endpoint="https://name.invalid", api_key=KEY, api_version="2026-01-01", azure_deployment="d"
    )
    configurable = init_chat_model(configurable_fields="any", api_key=KEY)
    for wrong in (plain.bind_tools([add]), azure, configurable, "gpt-5.5", None):
        with pytest.raises(TypeError, match="takes a ChatOpenAI, not") as refused:
            with_websocket(wrong)  # type: ignore[arg-type]
        assert "bind_tools" in str(refused.value)
        assert "azure" in str(refused.value).lower()


# -- the limits of the manager reach the turn ----------------------------------------


def test_turn_waits_for_a_lane_no_longer_than_the_limits_say(no_backoff: None) -> None:
    import threading

    from langchain_ws_responses import failure_of
    from langchain_ws_responses.testing import hold

    gate = threading.Event()
    limits = Limits(max_connections=1, max_in_flight=1, lease_timeout=0.05)
    with (
        ConnectionManager(limits=limits) as manager,
        ResponsesServer(answer=lambda _: hold(gate, "late")) as server,
    ):
        model = socket_model(server, manager)
        # Waiting for a dial counts too, and on a busy machine it takes longer.
        model.preconnect()
        until_open(manager)
        thread = threading.Thread(target=model.invoke, args=("first",))
        thread.start()
        server.wait_for(lambda: len(server.requests) == 1)
        with pytest.raises(openai.APITimeoutError) as raised:
            model.invoke("second")
        gate.set()
        thread.join(5)
        ours = failure_of(raised.value)
        assert ours is not None
        assert (ours.failure.kind, ours.replay) == ("lease_timeout", "safe")
        assert "max_connections" in str(ours)


def test_metadata_of_both_transports_survives_a_checkpoint(
    server: ResponsesServer, manager: ConnectionManager
) -> None:
    from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

    serde = JsonPlusSerializer()
    for transport in ("http", "websocket"):
        model = socket_model(server, manager, transport=transport)
        first = model.invoke("First?")
        restored = serde.loads_typed(serde.dumps_typed(first))
        assert restored == first
        plain = json.loads(json.dumps(first.response_metadata))
        assert plain == first.response_metadata
        history = [HumanMessage("First?"), restored, HumanMessage("Second?")]
        assert model.invoke(history).response_metadata["transport"]["mode"] == "delta"


def test_history_that_ends_in_an_answer_is_never_sent_empty(
    server: ResponsesServer, manager: ConnectionManager
) -> None:
    model = socket_model(server, manager)
    history = [HumanMessage("First?"), model.invoke("First?")]
    answer = model.invoke(history)
    assert answer.response_metadata["transport"]["reason"] == "nothing_new"
    assert [item["role"] for item in server.requests[1].items] == ["user", "assistant"]
