"""What the scenario tests share: a world of one server and its models, graphs, and the oracle.

The oracle is plain `ChatOpenAI`: what it would put into a full request for the messages that the graph hands over is
what the server's model must see, however the request was sent.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import BaseMessage, SystemMessage
from langchain_core.runnables import RunnableLambda
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from pairs import http_clients

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager
from langchain_ws_responses.testing import RecordedRequest, ResponsesServer

KEY = "sk-test-scenarios"
WAYS = ("invoke", "ainvoke", "stream")


# -- the oracle ----------------------------------------


@functools.cache
def _plain() -> ChatOpenAI:
    return ChatOpenAI(model="gpt-5.5", api_key=KEY, use_responses_api=True)


def wire(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """The items of a full request, as plain ChatOpenAI makes them."""
    payload = _plain()._get_request_payload(copy.deepcopy(list(messages)))
    items: list[dict[str, Any]] = payload["input"]
    return items


def essence(items: Iterable[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What items say, without ids, statuses and the many ways to write text."""
    return [_essence(item) for item in items]


def _essence(item: dict[str, Any]) -> tuple[Any, ...]:
    kind = item.get("type", "message")
    if kind == "message":
        content = item["content"]
        if isinstance(content, str):
            return (item["role"], content)
        if all(part["type"] in ("input_text", "output_text") for part in content):
            return (item["role"], "".join(part["text"] for part in content))
        return (item["role"], json.dumps(content, sort_keys=True))
    if kind == "function_call":
        return ("call", item["name"], json.loads(item["arguments"]), item["call_id"])
    if kind == "function_call_output":
        return ("output", item["call_id"], item["output"])
    return (kind, item.get("id"))


@dataclass(eq=False)
class Call:
    """One call of a model: what it was given, and how its answer says that it was sent.

    Attributes:
        said: What the model must see, by the oracle.
        head: How many of these are leading system items.
        system: The leading system text.
        transport: `response_metadata["transport"]` of the answer; None while there is none.
        link: `response_metadata["openai_chain"]` of the answer.
        tokens: Chunks that it came in; 0 where it was not streamed.
    """

    said: list[tuple[Any, ...]]
    head: int
    system: str
    transport: dict[str, Any] | None = None
    link: dict[str, Any] | None = None
    tokens: int = 0

    def seen_by(self, request: RecordedRequest) -> bool:
        """Whether the server's model saw exactly what this call was given."""
        if request.instructions is not None:
            return request.instructions == self.system and essence(request.seen) == self.said[self.head :]
        return essence(request.seen) == self.said


class _Recorder(BaseCallbackHandler):
    raise_error = True

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self._runs: dict[Any, Call] = {}

    def on_chat_model_start(self, serialized: Any, messages: Any, *, run_id: Any, **kwargs: Any) -> None:
        given = messages[0]
        head = 0
        while head < len(given) and isinstance(given[head], SystemMessage):
            head += 1
        call = Call(
            said=essence(wire(given)),
            head=head,
            system="\n\n".join(message.text for message in given[:head]),
        )
        self._runs[run_id] = call
        self.calls.append(call)

    def on_llm_new_token(self, token: str, *, run_id: Any, **kwargs: Any) -> None:
        self._runs[run_id].tokens += 1

    def on_llm_end(self, response: Any, *, run_id: Any, **kwargs: Any) -> None:
        metadata = response.generations[0][0].message.response_metadata
        self._runs[run_id].transport = metadata["transport"]
        self._runs[run_id].link = metadata.get("openai_chain")


# -- the world ----------------------------------------


@dataclass(eq=False)
class World:
    """A server, a manager, and a record of every call of every model made here.

    Attributes:
        server: Answers.
        way: How graphs are run.
        store: What the models say about storage.
        manager: The present process's manager; `restart` makes a new one.
    """

    server: ResponsesServer
    way: str = "invoke"
    store: bool = True
    manager: ConnectionManager = field(default_factory=ConnectionManager)
    _recorder: _Recorder = field(default_factory=_Recorder)

    @property
    def calls(self) -> list[Call]:
        """Every call of a model so far."""
        return self._recorder.calls

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every request but warm-ups."""
        return [request for request in self.server.requests if not request.is_warm_up]

    def model(self, **fields: Any) -> ChatOpenAIWebSocket:
        """Makes a model that never uses HTTP."""
        settings: dict[str, Any] = {
            "model": "gpt-5.5",
            "base_url": self.server.base_url,
            "api_key": KEY,
            "transport": "websocket",
            "max_retries": 0,
            "manager": self.manager,
            "callbacks": [self._recorder],
            **http_clients(),
        }
        if not self.store:
            settings["store"] = False
        return ChatOpenAIWebSocket(**{**settings, **fields})

    def restart(self) -> None:
        """Ends the process, as far as models can tell: every connection and everything remembered is gone."""
        self.manager.close()
        self.manager = ConnectionManager()

    def run(self, graph: Any, given: Any, config: Any = None) -> Any:
        """Runs a graph in this world's way and returns its final state."""
        if self.way == "ainvoke":
            return asyncio.run(graph.ainvoke(given, config))
        if self.way == "stream":
            return self._stream(graph, given, config)
        return graph.invoke(given, config)

    def _stream(self, graph: Any, given: Any, config: Any) -> Any:
        before, state = len(self.calls), None
        modes = ["messages", "values"]
        for where, mode, data in graph.stream(given, config, stream_mode=modes, subgraphs=True):
            if mode == "values" and not where:
                state = data
        assert all(call.tokens for call in self.calls[before:] if call.transport), "not streamed"
        return state

    def sent(self, *, since: int = 0) -> list[str]:
        """How each request was sent: `F` and a reason, or `D` and the number of items."""
        told = []
        for request, call in zip(self.requests[since:], self.calls[since:], strict=True):
            transport = call.transport
            if transport is not None:
                assert transport["items"] == len(request.items)
                assert transport["mode"] == ("delta" if request.is_delta else "full")
                assert transport["kind"] == "websocket"
            if request.is_delta:
                told.append(f"D{len(request.items)}")
            else:
                told.append("F" if transport is None else f"F {transport['reason']}")
        return told

    def check(self) -> None:
        """Checks every request: what the server's model saw is what the call was given, and none went over HTTP."""
        self.check_transport()
        for number, (request, call) in enumerate(zip(self.requests, self.calls, strict=True)):
            seen = essence(request.seen)
            assert call.seen_by(request), f"request {number}:\nsaw  {seen}\nheld {call.said}"

    def check_any_order(self) -> None:
        """Like `check`, where calls ran side by side and requests arrived in any order."""
        self.check_transport()
        left = list(self.calls)
        for request in self.requests:
            match = next((call for call in left if call.seen_by(request)), None)
            assert match is not None, f"nobody gave {essence(request.seen)}"
            left.remove(match)
        assert left == []

    def check_transport(self) -> None:
        """Checks that nothing went over HTTP, that nothing failed unasked, and that no input was empty."""
        assert {request.transport for request in self.server.requests} <= {"websocket"}
        assert all(request.items for request in self.requests)


# -- graphs ----------------------------------------


@tool
def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


def node_of(model: Any, select: Callable[[Any], list[BaseMessage]] | None = None) -> Any:
    """A node that calls a model, sync or async as the graph is run."""

    def given(state: Any) -> Any:
        return select(state) if select is not None else state["messages"]

    def call(state: Any) -> Any:
        return {"messages": [model.invoke(given(state))]}

    async def acall(state: Any) -> Any:
        return {"messages": [await model.ainvoke(given(state))]}

    return RunnableLambda(call, acall)


def chat_graph(
    model: Any, *, checkpointer: Any = None, select: Callable[[Any], list[BaseMessage]] | None = None
) -> Any:
    """A graph with one node that calls the model."""
    builder = StateGraph(MessagesState)
    builder.add_node("agent", node_of(model, select))
    builder.add_edge(START, "agent")
    builder.add_edge("agent", END)
    return builder.compile(checkpointer=checkpointer)


def tool_graph(
    model: Any, tools: Sequence[Any] = (add,), *, checkpointer: Any = None, tool_node: Any = ToolNode
) -> Any:
    """A ReAct loop built by hand."""
    builder = StateGraph(MessagesState)
    builder.add_node("agent", node_of(model.bind_tools(list(tools))))
    builder.add_node("tools", tool_node(list(tools)))
    builder.add_edge(START, "agent")
    builder.add_conditional_edges("agent", tools_condition)
    builder.add_edge("tools", "agent")
    return builder.compile(checkpointer=checkpointer)


def thread(name: str = "t") -> dict[str, Any]:
    """The config of one thread."""
    return {"configurable": {"thread_id": name}}
