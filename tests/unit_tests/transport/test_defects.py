"""A defect of this package ends the turn that met it: its caller never waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from transport_kit import endpoint_of, run

from langchain_ws_responses import ConnectionManager
from langchain_ws_responses._transport import pool as pools
from langchain_ws_responses._transport.pool import Pool
from langchain_ws_responses._types import FailureKind, Phase
from langchain_ws_responses.testing import ResponsesServer


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
