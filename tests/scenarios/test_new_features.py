"""What came with the newest LangChain and LangGraph: the same over the socket as over HTTP, in deltas."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain.agents import create_agent, middleware
from langchain.agents.structured_output import ProviderStrategy, ToolStrategy
from langchain_core.caches import InMemoryCache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_openai import ChatOpenAI
from langgraph.cache.memory import InMemoryCache as NodeCache
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.pregel import Pregel
from langgraph.types import CachePolicy
from pairs import KEY, http_model, socket_model
from pydantic import BaseModel

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager, with_websocket
from langchain_ws_responses.testing import Answer, RecordedRequest, ResponsesServer, text, tool_call

pytestmark = [
    # The third streaming protocol says of itself that it is experimental.
    pytest.mark.filterwarnings("ignore:.*(v3|in beta).*"),
]
needs_v3 = pytest.mark.skipif(
    not hasattr(BaseChatModel, "_chat_model_stream_v3"),
    reason='this langchain-core has no stream_events(version="v3")',
)
needs_v3_of_graphs = pytest.mark.skipif(
    # What it inherits knows models alone.
    "astream_events" not in vars(Pregel),
    reason='this langgraph has no astream_events(version="v3")',
)
needs_v2 = pytest.mark.skipif(
    "version" not in inspect.signature(Pregel.stream).parameters,
    reason='this langgraph has no stream(version="v2")',
)
ADD = {
    "type": "function",
    "name": "add",
    "description": "Add two numbers.",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a", "b"],
    },
}


class Total(BaseModel):
    """The total."""

    total: int


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def answer(request: RecordedRequest) -> Answer:
    """Two calls of `add` where it is known, then the last sum; what was asked for where a form is given."""
    seen = request.seen
    outputs = [item for item in seen if item.get("type") == "function_call_output"]
    names = {tool.get("name") for tool in request.tools}
    if (request.body.get("text") or {}).get("format", {}).get("type") == "json_schema":
        return text('{"total": 3}')
    if "Total" in names:
        return tool_call("Total", {"total": 3})
    shown = any(item.get("type") == "additional_tools" for item in seen)
    if ("add" in names or shown) and len(outputs) < 2:
        return tool_call("add", {"a": 5, "b": len(outputs)})
    return text(f"The last sum is {outputs[-1]['output'] if outputs else 'unknown'}.")


class Pair:
    """The same work, done by plain ChatOpenAI over HTTP and by the model under test."""

    def __init__(self, manager: ConnectionManager) -> None:
        self.manager = manager

    def play(self, work: Callable[[Any], Any], answers: Any = answer) -> tuple[Any, list[RecordedRequest]]:
        """Returns what came of it, which is the same, and the requests over the socket."""
        with ResponsesServer(answer=answers) as plain:
            wanted = work(http_model(plain))
        with ResponsesServer(answer=answers) as server:
            got = work(socket_model(server, self.manager))
        return self.check(got, wanted, server, plain)

    async def aplay(self, work: Callable[[Any], Awaitable[Any]]) -> tuple[Any, list[RecordedRequest]]:
        """As `play`."""
        with ResponsesServer(answer=answer) as plain:
            wanted = await work(http_model(plain))
        with ResponsesServer(answer=answer) as server:
            got = await work(socket_model(server, self.manager))
        return self.check(got, wanted, server, plain)

    def check(
        self, got: Any, wanted: Any, server: ResponsesServer, plain: ResponsesServer
    ) -> tuple[Any, list[RecordedRequest]]:
        assert got == wanted
        # The model saw the same, however it got there.
        assert [len(request.seen) for request in server.requests] == [
            len(request.seen) for request in plain.requests
        ]
        assert {request.transport for request in server.requests} == {"websocket"}
        return got, server.requests


@pytest.fixture
def pair() -> Iterator[Pair]:
    with ConnectionManager() as manager:
        yield Pair(manager)


def told(messages: list[Any]) -> list[tuple[str, str, list[str]]]:
    """Messages without what differs from run to run."""
    return [
        (message.type, message.text, [call["name"] for call in getattr(message, "tool_calls", [])])
        for message in messages
    ]


def deltas(requests: list[RecordedRequest]) -> list[bool]:
    return [request.is_delta for request in requests]


START_IT = {"messages": [("user", "start")]}


# -- streaming ----------------------------------------


@needs_v3
def test_a_model_streams_events_of_version_3(pair: Pair) -> None:
    def work(model: Any) -> Any:
        stream = model.stream_events("Hello", version="v3")
        events = [event["event"] for event in stream]
        first = stream.output
        second = model.invoke([HumanMessage("Hello"), first, HumanMessage("And now?")])
        return events, told([first, second]), [block["type"] for block in first.content_blocks]

    (events, _, _), requests = pair.play(work)
    assert events[0] == "message-start"
    assert events[-1] == "message-finish"
    # What the stream put together carries the link.
    assert deltas(requests) == [False, True]


@needs_v3
async def test_a_model_streams_events_of_version_3_asynchronously(pair: Pair) -> None:
    async def work(model: Any) -> Any:
        stream = await model.astream_events("Hello", version="v3")
        pieces = [piece async for piece in stream.text]
        first = await stream.output
        second = await model.ainvoke([HumanMessage("Hello"), first, HumanMessage("And now?")])
        return pieces, told([first, second])

    (pieces, _), requests = await pair.aplay(work)
    assert len(pieces) > 1
    assert deltas(requests) == [False, True]


@needs_v3
@needs_v3_of_graphs
async def test_an_agent_streams_events_of_version_3(pair: Pair) -> None:
    async def work(model: Any) -> Any:
        agent = create_agent(model, [add], system_prompt="Add.")
        stream = await agent.astream_events(START_IT, version="v3")
        pieces = [piece async for message in stream.messages async for piece in message.text]
        return pieces, told((await stream.output())["messages"])

    (pieces, messages), requests = await pair.aplay(work)
    assert "".join(pieces) == messages[-1][1] == "The last sum is 6."
    assert deltas(requests) == [False, True, True]
    assert [len(request.items) for request in requests] == [2, 1, 1]


@needs_v2
def test_a_graph_streams_parts_of_version_2(pair: Pair) -> None:
    def work(model: Any) -> Any:
        agent = create_agent(model, [add])
        parts = list(agent.stream(START_IT, stream_mode=["messages", "updates"], version="v2"))
        state = agent.invoke(START_IT, version="v2").value
        return [part["type"] for part in parts if part["type"] == "updates"], told(state["messages"])

    _, requests = pair.play(work)
    assert deltas(requests) == [False, True, True] * 2


# -- caches ----------------------------------------


def test_what_a_cached_node_answered_is_continued(pair: Pair) -> None:
    def work(model: Any) -> Any:
        def think(state: MessagesState) -> dict[str, Any]:
            return {"messages": [model.invoke(state["messages"])]}

        def ask(state: MessagesState) -> dict[str, Any]:
            return {"messages": [HumanMessage("more", id="m")]}

        graph = StateGraph(MessagesState)
        graph.add_node("first", think, cache_policy=CachePolicy())
        graph.add_node("ask", ask)
        graph.add_node("second", think)
        for edge in ((START, "first"), ("first", "ask"), ("ask", "second")):
            graph.add_edge(*edge)
        made = graph.compile(cache=NodeCache())
        given = {"messages": [HumanMessage("one", id="o")]}
        return [told(made.invoke(given)["messages"]) for _ in range(2)]

    _, requests = pair.play(work)
    # The second run has its first answer from the cache, and branches off it.
    assert deltas(requests) == [False, True, True]
    assert requests[1].previous_response_id == requests[2].previous_response_id == requests[0].response_id


def test_what_a_models_cache_answered_is_continued(pair: Pair) -> None:
    def work(model: Any) -> Any:
        cached = model.model_copy(update={"cache": InMemoryCache()})
        first, again = cached.invoke("one"), cached.invoke("one")
        return told([first, again, cached.invoke([HumanMessage("one"), again, HumanMessage("two")])])

    _, requests = pair.play(work)
    assert deltas(requests) == [False, True]


# -- agents ----------------------------------------


def test_many_kinds_of_middleware_at_once(pair: Pair) -> None:
    def work(model: Any) -> Any:
        wanted = {
            "TodoListMiddleware": {},
            "ModelRetryMiddleware": {},
            "ToolRetryMiddleware": {},
            "ModelCallLimitMiddleware": {"run_limit": 9},
            "ToolCallLimitMiddleware": {"run_limit": 9},
            "ModelRefusalMiddleware": {},
        }
        # Some are newer than the oldest langchain that is supported.
        made = [
            getattr(middleware, name)(**given) for name, given in wanted.items() if hasattr(middleware, name)
        ]
        made.append(middleware.PIIMiddleware("email"))
        made.append(middleware.ModelFallbackMiddleware(model))
        agent = create_agent(model, [add], system_prompt="Add.", middleware=made)
        return told(agent.invoke({"messages": [("user", "start, ada@example.com")]})["messages"])

    messages, requests = pair.play(work)
    assert messages[0][1] == "start, [REDACTED_EMAIL]"
    assert messages[-1][1] == "The last sum is 6."
    assert deltas(requests) == [False, True, True]


def test_tool_outputs_that_are_cleared_are_not_seen(pair: Pair) -> None:
    def work(model: Any) -> Any:
        edit = middleware.ClearToolUsesEdit(trigger=1, keep=1, placeholder="(cleared)")
        editing = middleware.ContextEditingMiddleware(edits=[edit])
        agent = create_agent(model, [add], system_prompt="Add.", middleware=[editing])
        return told(agent.invoke(START_IT)["messages"])

    _, requests = pair.play(work)
    outputs = [item["output"] for item in requests[-1].seen if item.get("type") == "function_call_output"]
    assert outputs == ["(cleared)", "6"]
    # Back to the answer before the output that was cleared.
    assert requests[-1].previous_response_id == requests[0].response_id


def test_tools_behind_the_providers_search(pair: Pair) -> None:
    if not hasattr(middleware, "ProviderToolSearchMiddleware"):
        pytest.skip("this langchain has no ProviderToolSearchMiddleware")

    def work(model: Any) -> Any:
        search = middleware.ProviderToolSearchMiddleware(searchable_tools=["add"])
        agent = create_agent(model, [add], middleware=[search])
        return told(agent.invoke(START_IT)["messages"])

    _, requests = pair.play(work)
    assert deltas(requests) == [False, True, True]
    assert {tool["type"] for tool in requests[-1].tools} == {"function", "tool_search"}


@pytest.mark.parametrize("strategy", [ToolStrategy, ProviderStrategy])
def test_an_agent_with_a_form_for_its_answer(pair: Pair, strategy: Any) -> None:
    def work(model: Any) -> Any:
        agent = create_agent(model, [], response_format=strategy(Total))
        first = agent.invoke(START_IT)
        second = agent.invoke({"messages": [*first["messages"], HumanMessage("again")]})
        return first["structured_response"], second["structured_response"], told(second["messages"])

    (first, second, _), requests = pair.play(work)
    assert first == second == Total(total=3)
    assert deltas(requests) == [False, True]


# -- tools that appear in the middle of a conversation ----------------------------------------


def test_a_tool_that_a_system_message_brings(pair: Pair) -> None:
    if "additional_tools" not in inspect.getsource(
        importlib.import_module("langchain_openai.chat_models.base")
    ):
        pytest.skip("this langchain-openai has no `additional_tools`")

    def work(model: Any) -> Any:
        brings = SystemMessage([{"type": "additional_tools", "role": "developer", "tools": [ADD]}])
        messages: list[Any] = [HumanMessage("Hi"), model.invoke("Hi"), brings, HumanMessage("Sum?")]
        for _ in range(2):
            messages.append(model.invoke(messages))
            call = messages[-1].tool_calls[0]
            messages.append(ToolMessage(add(**call["args"]), tool_call_id=call["id"]))
        return told([*messages, model.invoke(messages)])

    messages, requests = pair.play(work)
    assert messages[-1][1] == "The last sum is 6."
    assert deltas(requests) == [False, True, True, True]
    assert [[item["type"] for item in request.items] for request in requests[1:]] == [
        ["additional_tools", "message"],
        ["function_call_output"],
        ["function_call_output"],
    ]


def test_the_profile_is_that_of_the_responses_api() -> None:
    plain = ChatOpenAI(model="gpt-5.5", api_key=KEY, use_responses_api=True)
    if not getattr(plain, "profile", None):
        pytest.skip("this langchain-openai has no profiles")
    assert ChatOpenAIWebSocket(model="gpt-5.5", api_key=KEY).profile == plain.profile
    # Chat Completions can do less, and the model that came from it is not held to that.
    assert with_websocket(ChatOpenAI(model="gpt-5.5", api_key=KEY)).profile == plain.profile
    own = ChatOpenAI(model="gpt-5.5", api_key=KEY, profile={"max_input_tokens": 1000})
    assert with_websocket(own).profile == {"max_input_tokens": 1000}
    other = with_websocket(plain, model="gpt-4.1")
    assert other.profile == ChatOpenAI(model="gpt-4.1", api_key=KEY, use_responses_api=True).profile


SKILL = """---
name: sums
description: How to add numbers.
metadata:
  include_tools: add
---
# Sums
Use the tool `add`.
"""


def test_a_deep_agents_skill_brings_its_tools(pair: Pair, tmp_path: Path) -> None:
    deepagents = pytest.importorskip(
        "deepagents", reason="deepagents is missing; it needs Python 3.11 or newer"
    )
    skills = importlib.import_module("deepagents.middleware.skills")
    if "tools" not in inspect.signature(skills.SkillsMiddleware.__init__).parameters:
        pytest.skip("this deepagents knows no tools of skills")
    (tmp_path / "skills" / "sums").mkdir(parents=True)
    (tmp_path / "skills" / "sums" / "SKILL.md").write_text(SKILL, encoding="utf-8")
    backend_class = importlib.import_module("deepagents.backends.filesystem").FilesystemBackend

    def work(model: Any) -> Any:
        # The profile says that this model may be given a tool in the middle of the conversation.
        assert model.profile["mid_conversation_tools"]
        backend = backend_class(root_dir=str(tmp_path), virtual_mode=True)
        middle = skills.SkillsMiddleware(backend=backend, sources=["/skills/"], tools=[add])
        agent = deepagents.create_deep_agent(model, backend=backend, middleware=[middle])
        state = agent.invoke(START_IT)
        return told(agent.invoke({"messages": [*state["messages"], HumanMessage("again")]})["messages"])

    messages, requests = pair.play(work, read_skill)
    assert [calls for _, _, calls in messages if calls] == [["read_file"], ["add"], ["add"]]
    assert deltas(requests) == [False, True, True, True, True]
    assert [item["type"] for item in requests[1].items] == ["function_call_output", "additional_tools"]
    assert not any(tool.get("name") == "add" for request in requests for tool in request.tools)


def read_skill(request: RecordedRequest) -> Answer:
    """Reads the skill first, and uses its tool once it is there."""
    if not any(item.get("type") == "function_call_output" for item in request.seen):
        return tool_call("read_file", {"file_path": "/skills/sums/SKILL.md"})
    done = sum(item.get("name") == "add" for item in request.seen if item.get("type") == "function_call")
    return tool_call("add", {"a": 1, "b": done}) if done < 2 else text("Done.")
