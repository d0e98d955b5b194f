"""A defect of this package ends the turn that met it: its caller never waits for ever."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import pytest
from pairs import in_threads, socket_model
from transport_kit import Turn, endpoint_of, run

from langchain_ws_responses import ConnectionManager, Limits
from langchain_ws_responses._transport import pool as pools
from langchain_ws_responses._transport.pool import Pool
from langchain_ws_responses._transport.runtime import runtime
from langchain_ws_responses._types import FailureKind, Phase
from langchain_ws_responses.testing import ResponsesServer, hold, text


def test_exception_while_a_turn_is_placed_ends_that_turn(
    responses_server: ResponsesServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(pool: Pool, ticket: object) -> None:
        raise ZeroDivisionError("secret text")

    with ConnectionManager() as manager:
        with monkeypatch.context() as patched:
            patched.setattr(Pool, "add", broken)
            failure = run(manager, endpoint_of(responses_server), "lost").failure
        assert failure is not None
        assert (failure.kind, failure.phase) == (FailureKind.PROTOCOL_VIOLATION, Phase.CONNECT)
        assert "ZeroDivisionError" in failure.message
        assert "secret text" not in failure.message + caplog.text
        assert run(manager, endpoint_of(responses_server), "next").failure is None


def test_a_dial_that_somebody_else_cancels_ends_the_turns_that_wait_for_it(
    responses_server: ResponsesServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cancelled(*_args: Any, **_options: Any) -> Any:
        raise asyncio.CancelledError

    with ConnectionManager() as manager:
        with monkeypatch.context() as patched:
            patched.setattr(pools, "dial", cancelled)
            failure = run(manager, endpoint_of(responses_server), "lost").failure
        assert failure is not None
        assert (failure.kind, failure.phase) == (FailureKind.DIAL_FAILED, Phase.CONNECT)
        assert run(manager, endpoint_of(responses_server), "next").failure is None


def test_an_end_of_the_io_thread_ends_every_turn_and_the_next_ones_find_a_new_one() -> None:
    gate = threading.Event()
    with (
        ConnectionManager(limits=Limits(max_connections=1, max_in_flight=1)) as manager,
        ConnectionManager() as other,
        ResponsesServer(hold(gate, text("One."), after_events=1), answer=lambda _: "Fine.") as server,
    ):
        endpoint = endpoint_of(server)
        streaming = Turn(manager, endpoint).send().until("response.created")
        waiting, paused = Turn(manager, endpoint).send(), Turn(other, endpoint, delay=60.0).send()
        runtime().call(sys.exit)
        kinds = [(turn.end().kind, turn.ticket.phase) for turn in (streaming, waiting, paused)]
        assert kinds == [
            (FailureKind.CONNECTION_LOST, Phase.CREATED),
            (FailureKind.CONNECTION_LOST, Phase.CONNECT),
            (FailureKind.CONNECTION_LOST, Phase.CONNECT),
        ]
        gate.set()
        for one in (manager, other):
            assert run(one, endpoint).failure is None
            assert (one.stats().connections_open, one.stats().waiting) == (1, 0)


def test_callers_of_a_model_get_their_answers_although_the_io_thread_ends() -> None:
    gate = threading.Event()
    held = [hold(gate, text("Never."), after_events=1) for _ in range(3)]
    with ConnectionManager() as manager, ResponsesServer(*held, answer=lambda _: "Fine.") as server:
        model = socket_model(server, manager, max_retries=2)

        def end() -> None:
            server.wait_for(lambda: len(server.requests) == 3)
            runtime().call(sys.exit)

        answers = in_threads([*(lambda: model.invoke("Hello").text for _ in held), end])
        gate.set()
        assert answers == ["Fine."] * 3 + [None]
