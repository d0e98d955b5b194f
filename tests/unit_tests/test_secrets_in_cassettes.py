"""No secret in a cassette, whatever the provider or a gateway throws back; content is what a cassette is for."""

from __future__ import annotations

import json
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import openai
import pytest
from canaries import CONTENT, HISTORY, SECRETS, Stage, all_logs, canary, fields, look_up, seen_in, shown_by
from langchain_core.messages import HumanMessage
from pairs import http_clients
from transport_kit import deaf, read_head

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager
from langchain_ws_responses._transport.retry import set_testing
from langchain_ws_responses.testing import (
    CassetteError,
    RecordingServer,
    ReplayServer,
    reasoning,
    text,
    tool_call,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CALL = tool_call("look_up", {"word": canary("tool-arguments")}, "call_1")
# What the HTTP client itself writes at DEBUG, as test_secrets_in_sessions.py says.
HTTP_LOGGERS = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack, set_testing(True):
        yield Stage(stack, tmp_path)


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    return tmp_path / "tape.jsonl"


def model_through(
    recorder: RecordingServer, transport: str, manager: ConnectionManager
) -> ChatOpenAIWebSocket:
    # The HTTP client appends the path to a base URL with a query.
    more: dict[str, Any] = {"base_url": recorder.base_url} if transport == "http" else {}
    given = fields(recorder.base_url, transport=transport, manager=manager, **http_clients())
    return ChatOpenAIWebSocket(**{**given, **more})


@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_a_recorded_session_holds_content_and_no_secret(stage: Stage, tape: Path, transport: str) -> None:
    answer = text(f"{canary('answer')}, and your key is {canary('key')}", chunks=40)
    upstream = stage.serve(CALL, reasoning(f"They use {canary('key')}.", answer))
    with all_logs() as logs, ConnectionManager() as manager:
        with RecordingServer(tape, upstream=upstream) as recorder:
            model = model_through(recorder, transport, manager).bind_tools([look_up])
            question = HumanMessage(f"{canary('prompt')} for {canary('organization')}")
            first = model.invoke([question])
            output = look_up.invoke(first.tool_calls[0])
            second = model.invoke([question, first, output])
        shown = (
            repr(recorder) + repr(recorder.requests) + repr(recorder.handshakes) + repr(recorder.connections)
        )
    assert canary("key") in second.text, "what passes through is not touched"
    assert {request.transport for request in recorder.requests} == {transport}
    written = tape.read_text(encoding="utf-8")
    assert seen_in(written, SECRETS) == set()
    assert seen_in(written, CONTENT) == set(CONTENT)
    assert "and your key is <scrubbed>" in written
    assert seen_in(logs.but(*HTTP_LOGGERS)) == set()
    assert seen_in(shown, set(SECRETS) - {"organization", "key"}) == set()


@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_an_upstream_that_throws_everything_back(stage: Stage, tape: Path, transport: str) -> None:
    def echo(connection: Any) -> None:
        head = read_head(connection).decode("latin-1")
        body = json.dumps({"error": {"code": "odd", "message": head}}).encode()
        lines = [
            "HTTP/1.1 400 Bad Request",
            f"Set-Cookie: {canary('key')}",
            f"X-Echo: {canary('header')}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
        ]
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        deaf(connection)
        connection.close()

    with (
        all_logs() as logs,
        ConnectionManager() as manager,
        RecordingServer(tape, upstream=stage.raw(echo)) as recorder,
    ):
        model = model_through(recorder, transport, manager)
        with pytest.raises(openai.BadRequestError):
            model.invoke(HISTORY)
    written = tape.read_text(encoding="utf-8")
    # A header of the user's own, which nothing marks as a secret, is not known as one.
    assert seen_in(written, set(SECRETS) - {"header"}) == set()
    assert (transport == "http") is ("Bearer <scrubbed>" in written)
    assert seen_in(logs.but(*HTTP_LOGGERS), SECRETS) == set()


def test_neither_refusals_nor_complaints_show_a_secret(stage: Stage, tape: Path) -> None:
    hidden = {"role": "user", "content": "hi", "id": canary("key")}
    with ConnectionManager() as manager:
        recorder = RecordingServer(tape, upstream=stage.serve("Hello."), api_key=canary("key"))
        recorder.start()
        model_through(recorder, "http", manager).root_client.responses.create(model="m", input=[hidden])
        recorder.stop()
    with pytest.raises(CassetteError) as raised:
        recorder.save()
    assert seen_in(shown_by(raised.value)) == set()
    assert not tape.exists()


def test_a_request_that_is_not_in_the_cassette_is_explained_without_the_key(stage: Stage, tape: Path) -> None:
    key = "sk-canary0123456789abcdef"
    with ConnectionManager() as manager, RecordingServer(tape, upstream=stage.serve("Hello.")) as recorder:
        model_through(recorder, "http", manager).invoke("Hi")
    with ConnectionManager() as manager, suppress(AssertionError), ReplayServer(tape) as server:
        model = ChatOpenAIWebSocket(model="gpt-5.5", base_url=server.base_url, api_key=key, manager=manager)
        with pytest.raises(Exception, match="not in the cassette") as raised:
            model.invoke(f"Use {key}")
    assert key not in str(raised.value) + "".join(server.mismatches)
    assert "<scrubbed>" in server.mismatches[0]
