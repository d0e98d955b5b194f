"""The stand-ins for openai's clients: everything but turns passes through, and streams are let go of."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import openai
import pytest
from pairs import WAYS, outcome, run, socket_model

from langchain_ws_responses import ConnectionManager
from langchain_ws_responses.testing import ResponsesServer, error, events, text

if TYPE_CHECKING:
    from langchain_ws_responses import ChatOpenAIWebSocket


def test_other_resources_are_those_of_the_client_behind(manager: ConnectionManager) -> None:
    with ResponsesServer("A.") as server:
        model = socket_model(server, manager)
        for client, kind in (
            (model.root_client, openai.OpenAI),
            (model.root_async_client, openai.AsyncOpenAI),
        ):
            assert isinstance(client.with_options(timeout=1), kind)
            assert str(client.base_url) == server.base_url + "/"
            assert client.chat.completions
            assert client.with_raw_response.models
            assert client.responses.input_items
            with pytest.raises(AttributeError):
                _ = client.nothing_of_that_name
        created = model.root_client.responses.create(model="gpt-5.5", input="x")
        assert model.root_client.responses.retrieve(created.id).output_text == "A."
        model.root_client.responses.delete(created.id)
        with pytest.raises(openai.NotFoundError):
            model.root_client.responses.retrieve(created.id)


async def test_async_client_without_a_turn_is_untouched(manager: ConnectionManager) -> None:
    with ResponsesServer("A.", "B.", "C.") as server:
        client = socket_model(server, manager).root_async_client
        assert (await client.responses.create(model="gpt-5.5", input="x")).output_text == "A."
        raw = await client.responses.with_raw_response.create(model="gpt-5.5", input="x")
        assert raw.parse().output_text == "B."
        raw = await client.with_raw_response.responses.create(model="gpt-5.5", input="x")
        assert raw.parse().output_text == "C."


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("headers", [False, True])
def test_http_error_is_openais_own(manager: ConnectionManager, headers: bool, way: str) -> None:
    with ResponsesServer(error(status=429, message="Slow.", headers={"retry-after": "9"})) as server:
        model = socket_model(server, manager, transport="http", include_response_headers=headers)
        seen, failure = outcome(model, way, "Hello")
        assert not seen
        assert isinstance(failure, openai.RateLimitError)
        assert failure.response.headers["retry-after"] == "9"
        assert len(server.requests) == 1


@pytest.mark.parametrize("way", WAYS)
def test_http_answer_of_a_server_that_names_no_parent_is_taken(manager: ConnectionManager, way: str) -> None:
    """Some servers never write `previous_response_id`: that says nothing about what they continued."""
    response = {"id": "resp_9", "object": "response", "created_at": 1, "model": "m", "status": "completed"}
    response["output"] = [
        {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "Two.", "annotations": []}],
        }
    ]
    frames: list[dict[str, Any]] = [
        {"type": "response.created", "response": {**response, "output": []}},
        {
            "type": "response.output_text.delta",
            "item_id": "msg_1",
            "output_index": 0,
            "content_index": 0,
            "delta": "Two.",
        },
        {"type": "response.completed", "response": response},
    ]
    numbered = [{**frame, "sequence_number": number} for number, frame in enumerate(frames)]
    for transport in ("http", "websocket"):
        with ResponsesServer("One.", events(numbered)) as server:
            model = socket_model(server, manager, transport=transport)
            history = [("human", "First?"), model.invoke("First?"), ("human", "Second?")]
            answers = run(model, way, history)
            assert "".join(answer.text for answer in answers) == "Two."
            told = answers[-1].response_metadata["transport"]
            assert (told["mode"], told["resends"]) == ("delta", 0)


def test_stream_over_http_is_closed_with_its_generator(manager: ConnectionManager) -> None:
    with ResponsesServer(text("One two three.", 8)) as server:
        model = socket_model(server, manager, transport="http")
        chunks = model.stream("Hello")
        next(chunks)
        chunks.close()
        assert list(chunks) == []


def test_stream_whose_events_are_never_asked_for_sends_nothing_over_a_socket(
    manager: ConnectionManager,
) -> None:
    with ResponsesServer() as server:
        model: ChatOpenAIWebSocket = socket_model(server, manager)
        chunks = model._stream([])
        chunks.close()  # type: ignore[attr-defined]

        async def never() -> None:
            await model._astream([]).aclose()  # type: ignore[attr-defined]

        asyncio.run(never())
        assert not server.requests
        assert not server.handshakes
