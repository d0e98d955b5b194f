"""pydantic-ai with `openai_transport="websocket"` as a client of the local server."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from langchain_ws_responses.testing import Answer, RecordedRequest, ResponsesServer, error, text, tool_call

pydantic_ai: Any = pytest.importorskip("pydantic_ai", reason="the package pydantic-ai-slim is missing")
openai_models: Any = pytest.importorskip(
    "pydantic_ai.models.openai", reason="pydantic-ai's extra openai is missing"
)
providers: Any = pytest.importorskip("pydantic_ai.providers.openai")

pytestmark = pytest.mark.skipif(
    "openai_transport" not in openai_models.OpenAIResponsesModelSettings.__annotations__,
    reason="this pydantic-ai has no `openai_transport` setting",
)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def adder(request: RecordedRequest) -> Answer:
    """Asks for three sums, one after another, then names the last one."""
    done = [item for item in request.seen if item.get("type") == "function_call_output"]
    # Only what was asked for by this question: an earlier one may have had its own sums.
    start = len(str(request.last_user_text))
    mine = [item["output"] for item in done if int(item["output"]) in range(start, start + 3)]
    if len(mine) < 3:
        return tool_call("add", {"a": start, "b": len(mine)})
    return text(f"The last sum is {mine[-1]}.")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def agent(server: ResponsesServer, **settings: Any) -> Any:
    model = openai_models.OpenAIResponsesModel(
        "gpt-5.5",
        provider=providers.OpenAIProvider(base_url=server.base_url, api_key="sk-test"),
        settings=openai_models.OpenAIResponsesModelSettings(openai_transport="websocket", **settings),
    )
    return pydantic_ai.Agent(model, instructions="Add.", tools=[add])


async def test_a_run_and_a_streamed_run_share_a_socket_and_send_deltas() -> None:
    with ResponsesServer(answer=adder, api_key="sk-test") as server:
        async with agent(server) as adding:
            first = await adding.run("start")
            async with adding.run_stream("starter-kit", message_history=first.all_messages()) as streamed:
                pieces = [piece async for piece in streamed.stream_text(delta=True, debounce_by=None)]
    # Five letters give 5 + 2, eleven give 11 + 2.
    assert first.output == "The last sum is 7."
    assert "".join(pieces) == "The last sum is 13."
    assert len(pieces) > 1
    assert len(server.connections) == 1
    assert {request.transport for request in server.requests} == {"websocket"}
    # The second question continues the first one's chain.
    assert [request.is_delta for request in server.requests] == [False] + [True] * 7
    assert [len(request.items) for request in server.requests] == [1] * 8
    assert all(request.instructions == "Add." for request in server.requests)


async def test_runs_at_once_keep_their_conversations_apart() -> None:
    with ResponsesServer(answer=adder, api_key="sk-test") as server:
        async with agent(server) as adding:
            prompts = ("start", "startup", "starter-kit")
            results = await asyncio.gather(*(adding.run(prompt) for prompt in prompts))
    assert [result.output for result in results] == [
        "The last sum is 7.",
        "The last sum is 9.",
        "The last sum is 13.",
    ]
    assert len(server.requests) == 12
    assert {request.status for request in server.requests} == {"completed"}


async def test_an_error_frame_is_the_error_of_http() -> None:
    refused = error(code="invalid_prompt", status=400, message="Not this one.")
    with ResponsesServer(refused, api_key="sk-test") as server:
        async with agent(server) as adding:
            with pytest.raises(pydantic_ai.exceptions.ModelHTTPError, match="Not this one") as raised:
                await adding.run("start")
    assert raised.value.status_code == 400
