"""No secret in what goes well: logs, `repr`, serialised models, traces, callbacks, checkpoints, stats and events.

Outside of what this package can keep are the loggers of the HTTP client (`openai`, `httpx`, `httpcore` and their
successors): over HTTP the request is theirs. At DEBUG openai logs bodies and header fields of its own, and httpx logs
URLs with their query at INFO. Even they must not show the key, which this package hands over.
"""

from __future__ import annotations

import asyncio
import copy
import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from canaries import (
    CONTENT,
    HISTORY,
    SECRETS,
    Callbacks,
    Stage,
    Tracer,
    all_logs,
    canary,
    fields,
    living,
    look_up,
    model_of,
    seen_in,
)
from langchain_core.load import dumpd, dumps
from langchain_core.messages import HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import tools_condition
from transport_kit import on_io

from langchain_ws_responses import (
    ChainSaver,
    ChatOpenAIWebSocket,
    ConnectionManager,
    DeltaToolNode,
    WebSocketMiddleware,
    response_link,
    with_websocket,
)
from langchain_ws_responses._transport.runtime import runtime
from langchain_ws_responses.testing import RecordingServer, tool_call

HTTP_LOGGERS = ("openai", "httpx", "httpx2", "httpcore", "httpcore2")
CALL = tool_call("look_up", {"word": canary("tool-arguments")})
# The local server keeps conversations, as the provider does, and shows them to the tests that look.
SERVER = "langchain_ws_responses.testing"
# LangChain reads the answer from these, as from the SDK's own events, whose `repr` shows it too.
EVENTS = "langchain_ws_responses._langchain.events"
# What a test wrote for the server to play.
SCRIPTS = "langchain_ws_responses.testing._script"


@pytest.fixture
def older() -> list[Any]:
    """What other tests of this process have left, with secrets of their own; asked for before anything else."""
    return living()


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack, tmp_path)


def config_of(*callbacks: Any) -> dict[str, Any]:
    return {"configurable": {"thread_id": "t1"}, "callbacks": list(callbacks)}


def graph_of(model: ChatOpenAIWebSocket, saver: Any) -> Any:
    """An agent's loop, built by hand; its node streams inside."""
    bound = model.bind_tools([look_up])
    builder = StateGraph(MessagesState)
    builder.add_node("model", lambda state: {"messages": [bound.invoke(state["messages"])]})
    builder.add_node("tools", DeltaToolNode([look_up]))
    builder.add_edge(START, "model")
    builder.add_conditional_edges("model", tools_condition)
    builder.add_edge("tools", "model")
    return builder.compile(checkpointer=saver)


def run(graph: Any, way: str, config: Any) -> list[Any]:
    """Runs the agent with everything in asyncio's debug mode that shows arguments; its messages."""
    given = {"messages": [HumanMessage(canary("prompt"))]}
    if way == "invoke":
        return list(graph.invoke(given, config)["messages"])

    async def main() -> list[Any]:
        asyncio.get_running_loop().slow_callback_duration = 0.0
        return list((await graph.ainvoke(given, config))["messages"])

    return asyncio.run(main(), debug=True)


@pytest.fixture
def debugged_io() -> Iterator[None]:
    """The I/O thread's loop in debug mode, where every callback is slow and logged with its arguments."""
    loop = runtime().loop
    before = loop.get_debug(), loop.slow_callback_duration

    def switch(debug: bool, slow: float) -> None:
        loop.set_debug(debug)
        loop.slow_callback_duration = slow

    on_io(lambda: switch(True, 0.0))
    yield
    on_io(lambda: switch(*before))


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
@pytest.mark.parametrize("store", [None, False])
def test_an_agent_over_the_socket_shows_nothing(
    older: list[Any], stage: Stage, debugged_io: None, store: bool | None, way: str
) -> None:
    callbacks, tracer = Callbacks(), Tracer()
    saver = ChainSaver(InMemorySaver())
    with all_logs() as logs:
        model = stage.model(stage.serve(CALL, canary("answer")), store=store)
        graph = graph_of(model, saver)
        messages = run(graph, way, config_of(callbacks, tracer, *stage.callbacks))
        stats = stage.manager.stats()
        known = set(map(id, older))
        objects = [
            (type(one), repr(one))
            for one in living()
            if id(one) not in known and type(one).__module__ != SCRIPTS
        ]
        stage.manager.close()
    assert messages[-1].text == canary("answer")
    assert stats.delta == 1
    told = {message.response_metadata["transport"]["kind"] for message in messages if message.type == "ai"}
    assert told == {"websocket"}
    metadata = [message.response_metadata for message in messages if message.type == "ai"]
    sinks = {
        "logs": logs.but(),
        "callbacks": callbacks.text,
        "traces": tracer.frame,
        "hooks": repr(stage.events),
        "stats": repr(stats),
        "links": repr(metadata) + repr([response_link(message) for message in messages]),
        **{
            f"{kind.__module__}.{kind.__qualname__}": shown
            for kind, shown in objects
            if not kind.__module__.startswith((SERVER, EVENTS)) and seen_in(shown)
        },
        "checkpoint metadata": repr([saved.metadata for saved in saver.list(None)]),
    }
    assert {sink: seen for sink, shown in sinks.items() if (seen := seen_in(shown))} == {}
    assert stage.seen() == {}
    # Messages are content, wherever they are kept; nothing else that is secret may ride on them.
    kept = saver.inner
    content = {
        "checkpoints": repr((kept.storage, kept.writes, kept.blobs)) + repr(list(saver.list(None))),
        "messages": repr(messages) + dumps(messages),
        "runs": tracer.whole,
        **{
            f"{kind.__module__}.{kind.__qualname__}": shown
            for kind, shown in objects
            if seen_in(shown, SECRETS)
        },
    }
    assert {sink: seen for sink, shown in content.items() if (seen := seen_in(shown, SECRETS))} == {}
    # The sinks are not empty, or nothing would be proved.
    assert seen_in(content["checkpoints"], CONTENT) >= {"prompt", "tool-output", "answer"}
    kinds = {kind.__name__ for kind, _ in objects}
    assert {"Endpoint", "RecordedHandshake", "ConnectionManager", "ChatOpenAIWebSocket"} <= kinds
    # Before Python 3.11 a task takes no context of its own, and LangGraph tells nothing of the model within.
    assert callbacks.starts == (2 if way == "invoke" or sys.version_info >= (3, 11) else 0)
    assert [name for name, sink in stage.sinks.items() if not sink.read()] == []
    # A response id is no secret, but it has no business there either.
    ids = [link["id"] for message in messages if (link := response_link(message)) is not None]
    assert len(ids) == 2
    assert [
        name for name, sink in stage.sinks.items() if any(known in str(sink.read()) for known in ids)
    ] == []
    assert "Executing <Handle" in logs.of("asyncio")
    assert "Authorization: [masked]" in logs.of("langchain_ws_responses")


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_an_agent_over_http_shows_nothing_either(stage: Stage, way: str) -> None:
    callbacks, tracer = Callbacks(), Tracer()
    saver = ChainSaver(InMemorySaver())
    with all_logs() as logs:
        # The HTTP client appends the path to a base URL with a query.
        model = model_of(
            stage.serve(CALL, canary("answer")), transport="http", base_url=stage.server.base_url
        )
        messages = run(graph_of(model, saver), way, config_of(callbacks, tracer, *stage.callbacks))
    assert messages[-1].text == canary("answer")
    assert messages[-1].response_metadata["transport"]["kind"] == "http"
    sinks = {
        "logs": logs.but(*HTTP_LOGGERS),
        "callbacks": callbacks.text,
        "traces": tracer.frame,
        "links": repr([message.response_metadata for message in messages if message.type == "ai"]),
        "checkpoint metadata": repr([saved.metadata for saved in saver.list(None)]),
    }
    assert {sink: seen for sink, shown in sinks.items() if (seen := seen_in(shown))} == {}
    assert stage.seen() == {}
    theirs = logs.of(*HTTP_LOGGERS)
    assert theirs
    assert seen_in(theirs, SECRETS) <= {"query", "header", "organization", "project"}
    assert seen_in(tracer.whole + repr(list(saver.list(None))), SECRETS) == set()


def test_a_cassette_of_an_agent_holds_content_and_nothing_else_that_is_secret(
    stage: Stage, tmp_path: Path
) -> None:
    cassette = tmp_path / "agent.jsonl"
    with RecordingServer(cassette, upstream=stage.serve(CALL, canary("answer"))) as recorder:
        model = stage.model(str(recorder.base_url))
        run(graph_of(model, InMemorySaver()), "invoke", config_of())
        stage.manager.close()
    written = cassette.read_text()
    assert seen_in(written) == set(CONTENT)


# -- what stands still ----------------------------------------


def everywhere(model: ChatOpenAIWebSocket) -> dict[str, Any]:
    """A model in every shape that LangChain gives it."""
    return {
        "itself": model,
        "copied": copy.copy(model),
        "model_copy": model.model_copy(),
        "bound": model.bind_tools([look_up]),
        "configured": model.with_config(tags=["a"]),
        "retried": model.with_retry(),
        "with fallbacks": model.with_fallbacks([model]),
        "structured": model.with_structured_output({"title": "A", "type": "object", "properties": {}}),
        "in a chain": ChatPromptTemplate.from_messages([("user", "{x}")]) | model,
        "middleware": WebSocketMiddleware(model),
        "saver": ChainSaver(InMemorySaver(), model=model),
        "taken over": with_websocket(model, chain="off"),
    }


def test_no_shape_of_a_model_shows_a_secret() -> None:
    with ConnectionManager() as manager:
        shapes = everywhere(model_of("https://host.invalid/v1", manager))
        for name, shape in shapes.items():
            shown = f"{shape!r} {shape} {dumps(shape)} {json.dumps(dumpd(shape), default=repr)}"
            assert seen_in(shown) == set(), name
        assert "gpt-5.5" in repr(shapes["itself"])
        assert "gpt-5.5" in dumps(shapes["itself"])


def test_neither_does_one_with_a_proxy_and_a_url_of_its_own() -> None:
    proxy = f"http://{canary('proxy-user')}:{canary('proxy-password')}@127.0.0.1:1"
    url = f"wss://host.invalid/v1/responses?token={canary('url-query')}"
    model = ChatOpenAIWebSocket(**fields("https://host.invalid/v1", openai_proxy=proxy, websocket_url=url))
    assert (
        seen_in(f"{model!r} {model} {dumps(model)} {model._current_route()!r} {model._endpoint()!r}") == set()
    )
    assert seen_in(repr(ConnectionManager(proxy=proxy))) == set()


def test_addresses_without_a_query_are_shown() -> None:
    model = model_of("https://host.invalid/v1", base_url="https://host.invalid/v1")
    assert "https://host.invalid/v1" in repr(model)
    assert "https://host.invalid/v1" in dumps(model)


def test_a_serialised_model_names_what_was_taken_out() -> None:
    model = ChatOpenAIWebSocket(**fields("https://host.invalid/v1", openai_proxy="http://u:p@127.0.0.1:1"))
    given = dumpd(model)["kwargs"]
    marks = {name: value["id"] for name, value in given.items() if isinstance(value, dict) and "id" in value}
    assert set(marks) == {
        "openai_api_key",
        "openai_api_base",
        "openai_organization",
        "openai_proxy",
        "default_headers",
        "default_query",
        "chain_secret",
    }
    assert marks["openai_organization"] == ["OPENAI_ORG_ID"], "the variable that ChatOpenAI itself reads"


def test_the_secrets_still_reach_the_server(stage: Stage) -> None:
    """They are hidden from readers, not from the request."""
    model = stage.model(stage.serve())
    model.with_config(tags=["a"]).invoke(HISTORY)
    [shake] = stage.server.handshakes
    sent = repr(dict(shake.headers)) + shake.path
    assert seen_in(sent) == set(SECRETS) - {"chain-secret", "proxy-user", "proxy-password"}
    assert seen_in(repr(stage.server.handshakes) + repr(stage.server.connections)) == set()
