"""Clients that this project did not write, against the local server: openai's own and openai-agents'."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from langchain_ws_responses.testing import Answer, RecordedRequest, ResponsesServer, text, tool_call

sessions: Any = pytest.importorskip(
    "openai.lib.responses_websocket", reason="this release of openai has no WebSocket sessions"
)
AsyncResponsesWebSocketSession = sessions.AsyncResponsesWebSocketSession
ResponsesWebSocketLimits = sessions.ResponsesWebSocketLimits
ResponsesWebSocketSession = sessions.ResponsesWebSocketSession

# openai opens its sync socket in a manner that websockets 17 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context:DeprecationWarning")

LANES = ("alpha", "beta")
TOOL: Any = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
        "additionalProperties": False,
    },
    "strict": True,
}
LIMITS = ResponsesWebSocketLimits(
    max_lanes=8,
    max_events_per_lane=256,
    max_events=1024,
    max_bytes_per_lane=2**20,
    max_bytes=2**22,
)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def adder(request: RecordedRequest) -> Answer:
    """Asks for three sums, one after another, then names the last one."""
    done = [item for item in request.seen if item.get("type") == "function_call_output"]
    if len(done) < 3:
        # A lane's own numbers, so that a mix-up between lanes shows.
        start = len(str(request.last_user_text))
        return tool_call("add", {"a": start, "b": len(done)})
    return text(f"The last sum is {done[-1]['output']}.")


def outputs(items: list[Any]) -> list[dict[str, Any]]:
    """Runs the tool calls of a response, as an agent would."""
    made = []
    for item in items:
        if item.type == "function_call":
            args = json.loads(item.arguments)
            made.append(
                {
                    "type": "function_call_output",
                    "call_id": item.call_id,
                    "output": str(args["a"] + args["b"]),
                }
            )
    return made


def create(text_or_items: Any, previous: str | None) -> Any:
    body: dict[str, Any] = {
        "type": "response.create",
        "model": "gpt-5.5",
        "tools": [TOOL],
        "input": text_or_items,
        "store": False,
    }
    if previous is not None:
        body["previous_response_id"] = previous
    return body


def check(server: ResponsesServer, finals: dict[str, str]) -> None:
    """Both lanes ran their loop on one connection, in deltas, each with its own numbers."""
    assert finals == {"alpha": "The last sum is 7.", "beta": "The last sum is 9."}
    assert len(server.connections) == 1
    assert sorted(server.connections[0].lanes) == sorted(LANES)
    for name in LANES:
        mine = [request for request in server.requests if request.stream_id == name]
        assert [request.is_delta for request in mine] == [False, True, True, True]
        assert [len(request.items) for request in mine] == [1, 1, 1, 1]
        assert len(mine[-1].seen) == 7
        assert all(request.status == "completed" for request in mine)


# Five letters give 5 + 2 = 7, seven letters give 7 + 2 = 9.
PROMPTS = {"alpha": "start", "beta": "startup"}


@pytest.fixture
def server() -> Iterator[ResponsesServer]:
    with ResponsesServer(answer=adder, api_key="sk-test") as running:
        yield running


def test_openai_connect_with_two_interleaved_lanes(server: ResponsesServer) -> None:
    finals: dict[str, str] = {}
    with (
        openai.OpenAI(api_key="sk-test", base_url=server.base_url) as client,
        client.responses.connect() as connection,
    ):
        for name in LANES:
            connection.send({**create(PROMPTS[name], None), "stream_id": name})
        for event in connection:
            if event.type != "response.completed":
                assert event.type != "error", event
                continue
            lane = str(event.stream_id)
            items = outputs(event.response.output)
            if items:
                connection.send({**create(items, event.response.id), "stream_id": lane})
            else:
                finals[lane] = event.response.output_text
            if len(finals) == len(LANES):
                break
    check(server, finals)


async def test_openai_async_connect_with_two_interleaved_lanes(server: ResponsesServer) -> None:
    finals: dict[str, str] = {}
    async with (
        openai.AsyncOpenAI(api_key="sk-test", base_url=server.base_url) as client,
        client.responses.connect() as connection,
    ):
        for name in LANES:
            await connection.send({**create(PROMPTS[name], None), "stream_id": name})
        async for event in connection:
            if event.type != "response.completed":
                assert event.type != "error", event
                continue
            lane = str(event.stream_id)
            items = outputs(event.response.output)
            if items:
                await connection.send({**create(items, event.response.id), "stream_id": lane})
            else:
                finals[lane] = event.response.output_text
            if len(finals) == len(LANES):
                break
    check(server, finals)


def test_openai_session_lanes(server: ResponsesServer) -> None:
    finals: dict[str, str] = {}
    with (
        openai.OpenAI(api_key="sk-test", base_url=server.base_url) as client,
        client.responses.connect() as connection,
        ResponsesWebSocketSession(connection, limits=LIMITS) as session,
    ):
        for name in LANES:
            lane, given, previous = session.lane(name), PROMPTS[name], None
            while True:
                lane.send(create(given, previous))
                response = lane.get_final_response(timeout=10)
                given, previous = outputs(response.output), response.id  # type: ignore[assignment]
                if not given:
                    break
            finals[name] = response.output_text
    check(server, finals)


async def test_openai_async_session_lanes_at_once(server: ResponsesServer) -> None:
    async with (
        openai.AsyncOpenAI(api_key="sk-test", base_url=server.base_url) as client,
        client.responses.connect() as connection,
        AsyncResponsesWebSocketSession(connection, limits=LIMITS) as session,
    ):

        async def loop(name: str) -> str:
            lane, given, previous = session.lane(name), PROMPTS[name], None
            while True:
                await lane.send(create(given, previous))
                response = await lane.get_final_response()
                given, previous = outputs(response.output), response.id  # type: ignore[assignment]
                if not given:
                    return response.output_text

        answers = await asyncio.gather(*(loop(name) for name in LANES))
    check(server, dict(zip(LANES, answers, strict=True)))


def test_openai_over_http_and_the_socket_share_one_chain(server: ResponsesServer) -> None:
    with openai.OpenAI(api_key="sk-test", base_url=server.base_url, max_retries=0) as client:
        first = client.responses.create(model="gpt-5.5", input="start", tools=[TOOL])
        with client.responses.stream(
            model="gpt-5.5", input=outputs(first.output), previous_response_id=first.id, tools=[TOOL]
        ) as stream:
            second = stream.get_final_response()
        with client.responses.connect() as connection:
            body = {**create(outputs(second.output), second.id), "store": True}
            connection.send(body)
            third = next(event.response for event in connection if event.type == "response.completed")
        final = client.responses.create(
            model="gpt-5.5", input=outputs(third.output), previous_response_id=third.id, tools=[TOOL]
        )
        assert client.responses.retrieve(final.id).output_text == "The last sum is 7."
        client.responses.delete(final.id)
        with pytest.raises(openai.NotFoundError):
            client.responses.retrieve(final.id)
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(model="gpt-5.5", input="x", previous_response_id="resp_0")
    assert refused.value.code == "previous_response_not_found"
    assert refused.value.param == "previous_response_id"
    assert refused.value.request_id
    assert [request.transport for request in server.requests[:4]] == ["http", "sse", "websocket", "http"]


def test_openai_compact(server: ResponsesServer) -> None:
    with openai.OpenAI(api_key="sk-test", base_url=server.base_url) as client:
        window = client.responses.compact(model="gpt-5.5", input="long story")
    assert [item.type for item in window.output] == ["message", "compaction"]


async def test_openai_agents_websocket_session_runs_a_tool_loop_in_deltas(server: ResponsesServer) -> None:
    agents = pytest.importorskip("agents", reason="openai-agents is not installed")
    agents.set_tracing_disabled(True)

    @agents.function_tool
    def add(a: int, b: int) -> str:
        """Add two numbers."""
        return str(a + b)

    agent = agents.Agent(name="adder", instructions="Add.", tools=[add], model="gpt-5.5")
    async with agents.responses_websocket_session(api_key="sk-test", base_url=server.base_url) as session:
        result = await session.run(agent, "start", auto_previous_response_id=True)
        streamed = session.run_streamed(agent, "startup", auto_previous_response_id=True)
        async for _ in streamed.stream_events():
            pass
    assert result.final_output == "The last sum is 7."
    assert streamed.final_output == "The last sum is 9."
    assert len(server.connections) == 1
    assert [request.transport for request in server.requests] == ["websocket"] * 8
    assert [request.is_delta for request in server.requests] == [False, True, True, True] * 2
    assert [len(request.items) for request in server.requests] == [1] * 8
    assert all(request.instructions == "Add." for request in server.requests)
