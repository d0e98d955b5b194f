"""What hooks hear of a model's turns: every attempt, on the socket and over HTTP, with how it was sent and why."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from openai import BadRequestError, OpenAI
from pairs import http_clients
from transport_kit import on_io

from langchain_ws_responses import (
    ChatOpenAIWebSocket,
    ConnectionClosed,
    ConnectionManager,
    ConnectionOpened,
    ConnectionRetired,
    DialGivenUp,
    FailureKind,
    Phase,
    Profile,
    TransportEvent,
    TurnEnded,
    TurnRefused,
    TurnRetrying,
    TurnSent,
)
from langchain_ws_responses._transport.retry import set_testing
from langchain_ws_responses.testing import ResponsesServer, drop, error, hold, text

KNOWN = {"127.0.0.1": Profile(name="known", lanes=True, keeps_warm_up=True)}


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    set_testing(True)
    yield
    set_testing(False)


class Heard(list[TransportEvent]):
    """All that a manager's hooks were told."""

    def of(self, *kinds: type) -> list[Any]:
        on_io(lambda: None)  # what the caller's side tells has arrived by then
        return [event for event in self if isinstance(event, kinds)]


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def model_at(heard: Heard) -> Iterator[Callable[..., ChatOpenAIWebSocket]]:
    with ExitStack() as stack:

        def make(base_url: str, **fields: Any) -> ChatOpenAIWebSocket:
            manager = stack.enter_context(ConnectionManager(hooks=[heard.append], profiles=KNOWN))
            given = {"model": "gpt-5.5", "api_key": "sk-x", "base_url": base_url, "manager": manager}
            return ChatOpenAIWebSocket(**{**given, "transport": "websocket", **http_clients(), **fields})

        yield make


def ask(model: ChatOpenAIWebSocket, messages: list[Any], question: str) -> AIMessage:
    messages.append(HumanMessage(question))
    answer = model.invoke(messages)
    messages.append(answer)
    return answer


def test_a_turn_is_told_as_it_is_in_the_metadata(model_at: Any, heard: Heard) -> None:
    with ResponsesServer("one", "two") as server:
        model, messages = model_at(server.base_url), []
        answers = [ask(model, messages, "first"), ask(model, messages, "second")]
        model.close()
    sent, ended = heard.of(TurnSent), heard.of(TurnEnded)
    for answer, told in zip(answers, sent, strict=True):
        transport = answer.response_metadata["transport"]
        names = ("kind", "mode", "reason", "items", "bytes", "connection", "lane", "reused")
        assert {name: getattr(told, name) for name in names} == {name: transport[name] for name in names}
        assert told.model == "gpt-5.5"
        assert told.waited >= 0
    assert [(one.mode, one.reason) for one in sent] == [("full", "first_turn"), ("delta", "chain")]
    assert sent[0].turn != sent[1].turn
    assert [one.turn for one in ended] == [one.turn for one in sent]
    [opened], [retired], [closed] = (
        heard.of(kind) for kind in (ConnectionOpened, ConnectionRetired, ConnectionClosed)
    )
    assert opened.at <= sent[0].at <= ended[0].at <= retired.at <= closed.at
    assert retired.why == closed.why == "closed"
    assert {event.manager for event in heard} == {model.manager.label}
    assert {event.endpoint for event in heard} == {opened.endpoint}


def test_the_end_of_a_turn_says_how_its_events_came(model_at: Any, heard: Heard) -> None:
    with ResponsesServer(text("one two three", 3)) as server:
        model = model_at(server.base_url)
        model.invoke("x")
        stats = model.manager.stats()
    [ended] = heard.of(TurnEnded)
    assert (ended.events, ended.bytes) == (stats.frames_received, stats.bytes_received)
    assert 0 <= ended.first_event <= ended.seconds
    assert 0 <= ended.longest_gap <= ended.seconds
    assert (ended.failure, ended.phase) == (None, Phase.TERMINAL)


def test_a_lost_response_is_told_as_two_attempts_at_one_turn(model_at: Any, heard: Heard) -> None:
    with ResponsesServer("one", error(code="previous_response_not_found", status=400), "two") as server:
        model, messages = model_at(server.base_url), []
        ask(model, messages, "first")
        assert ask(model, messages, "second").text == "two"
    [_, delta, full] = heard.of(TurnSent)
    [retrying] = heard.of(TurnRetrying)
    assert delta.turn == full.turn == retrying.turn
    assert (delta.attempt, retrying.attempt, full.attempt) == (1, 1, 2)
    assert (delta.mode, full.mode, full.reason) == ("delta", "full", "previous_response_not_found")
    assert (retrying.action, retrying.reason) == ("full", "previous_response_not_found")
    [refused] = [event for event in heard.of(TurnEnded) if event.failure is not None]
    assert (refused.failure, refused.status, refused.attempt) == (FailureKind.SERVER_ERROR, 400, 1)


def test_a_dead_socket_is_told_with_what_follows(model_at: Any, heard: Heard) -> None:
    with ResponsesServer(drop(1), "two") as server:
        assert model_at(server.base_url).invoke("x").text == "two"
    assert [one.connection for one in heard.of(TurnSent)] == ["c1", "c2"]
    [retrying] = heard.of(TurnRetrying)
    assert (retrying.action, retrying.failure) == ("full", FailureKind.CONNECTION_LOST)
    closed = heard.of(ConnectionClosed)
    assert (closed[0].why, closed[0].lost) == ("lost", 1)


def test_a_fallback_is_told_with_the_breaker(model_at: Any, heard: Heard) -> None:
    with ResponsesServer("one", refuse_upgrade=404) as server:
        model = model_at(server.base_url, transport="auto")
        answer = model.bind_tools([{"type": "web_search"}]).invoke("x")
    assert answer.response_metadata["transport"]["kind"] == "http"
    [given_up], [refused], [retrying] = (heard.of(kind) for kind in (DialGivenUp, TurnRefused, TurnRetrying))
    assert given_up.kind == refused.failure == FailureKind.HANDSHAKE_REJECTED
    assert given_up.pause > 0
    assert retrying.action == "http"
    [sent], [ended] = heard.of(TurnSent), heard.of(TurnEnded)
    assert (sent.kind, sent.mode, sent.connection, sent.attempt) == ("http", "full", "", 2)
    assert (sent.bytes, sent.items) == (answer.response_metadata["transport"]["bytes"], 1)
    assert sent.at <= ended.at
    assert (ended.kind, ended.failure, ended.phase) == ("http", None, Phase.TERMINAL)
    assert refused.turn == retrying.turn == sent.turn == ended.turn


def test_a_stream_over_http_is_told_with_its_events(model_at: Any, heard: Heard) -> None:
    with ResponsesServer(text("one two", 2), text("one two", 2)) as server:
        assert len(list(model_at(server.base_url, transport="auto").stream("x"))) > 2
        given = {"model": "gpt-5.5", "input": "x", "stream": True}
        oracle = list(OpenAI(api_key="sk-x", base_url=server.base_url).responses.create(**given))
    [ended] = heard.of(TurnEnded)
    assert ended.events == len(oracle)
    assert 0 < ended.first_event <= ended.seconds


def test_a_failure_over_http_is_told(model_at: Any, heard: Heard) -> None:
    with ResponsesServer(error(code="invalid_prompt", status=400)) as server, pytest.raises(BadRequestError):
        model_at(server.base_url, transport="auto").invoke("x")
    [ended] = heard.of(TurnEnded)
    assert (ended.kind, ended.failure, ended.status) == ("http", FailureKind.SERVER_ERROR, 400)


def test_a_stream_that_is_left_is_told_as_left(model_at: Any, heard: Heard) -> None:
    go = threading.Event()
    with ResponsesServer(answer=lambda _: hold(go, text("one two", 2), after_events=5)) as server:
        for transport in ("auto", "websocket"):
            chunks = model_at(server.base_url, transport=transport).stream("x")
            next(chunks)
            chunks.close()
        go.set()
    http, socket = heard.of(TurnEnded)
    assert (http.kind, http.failure, http.phase) == ("http", None, Phase.SENT)
    assert (socket.kind, socket.failure) == ("websocket", None)
    assert socket.phase in (Phase.CREATED, Phase.STREAMING)


async def test_warm_ups_are_told(model_at: Any, heard: Heard) -> None:
    with ResponsesServer() as server:
        await model_at(server.base_url).awarm_up([HumanMessage("x")])
    modes = [one.mode for one in heard.of(TurnSent)]
    assert modes == ["warmup"]
