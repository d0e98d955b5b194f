"""`examples/agent_app` under the LangGraph development server, driven by its SDK; blocking calls are errors there."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import interop as environments
import pytest
from langgraph_sdk import get_client

import langchain_ws_responses
from langchain_ws_responses.testing import Answer, RecordedRequest, ResponsesServer, text, tool_call

# The server starts in about ten seconds.
pytestmark = pytest.mark.timeout(120)

# A graph that does what the server forbids, so that the test knows that it would have noticed.
BLOCKING = """
import time
from langgraph.graph import START, MessagesState, StateGraph

async def wait(state):
    time.sleep(0)
    return {"messages": []}

graph = StateGraph(MessagesState).add_node("wait", wait).add_edge(START, "wait").compile()
"""


def answer(request: RecordedRequest) -> Answer:
    newest = request.seen[-1]
    if newest.get("type") == "function_call_output":
        return text(f"I found {newest['output']} for you.")
    return tool_call("stock", {"item": str(request.last_user_text).split()[-1]})


@contextmanager
def dev_server(folder: Path, python: Path, environ: dict[str, str]) -> Iterator[str]:
    """The development server for the app in a folder; gives its URL."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [python.with_name("langgraph"), "dev", "--no-browser", "--no-reload", "--port", port]
    process = subprocess.Popen(
        [str(part) for part in command],
        cwd=folder,
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )
    ready, log = threading.Event(), []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            log.append(line)
            if "Application started up" in line:
                ready.set()
        ready.set()

    reader = threading.Thread(target=read)
    reader.start()
    try:
        assert ready.wait(90), "".join(log)[-3000:]
        assert process.poll() is None, "".join(log)[-3000:]
        yield f"http://127.0.0.1:{port}"
    finally:
        # It is in the middle of nothing, and slow to say goodbye.
        process.kill()
        process.wait()
        reader.join()
        assert process.stdout is not None
        process.stdout.close()


@pytest.fixture
def app(project: Path, tmp_path: Path) -> Path:
    # The server writes beside the app.
    folder = shutil.copytree(project / "examples" / "agent_app", tmp_path / "app")
    (folder / "blocking.py").write_text(BLOCKING, encoding="utf-8")
    config = json.loads((folder / "langgraph.json").read_text(encoding="utf-8"))
    assert config["graphs"] == {"agent": "./agent.py:graph"}
    config["graphs"]["blocking"] = "./blocking.py:graph"
    (folder / "langgraph.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def asked(question: str) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}]}


def modes(state: Any) -> list[str]:
    return [
        message["response_metadata"]["transport"]["mode"]
        for message in state["messages"]
        if message["type"] == "ai"
    ]


def said(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def drive(client: Any, server: ResponsesServer) -> None:
    thread = (await client.threads.create())["thread_id"]
    await client.runs.wait(thread, "agent", input=asked("How many apples"))
    state: Any = await client.runs.wait(thread, "agent", input=asked("How many pears"))
    assert said(state["messages"][-1]) == "I found 1 pears for you."
    # The second run is another task of the server, and continues the chain of the first.
    assert modes(state) == ["full", "delta", "delta", "delta"]

    # A streamed run; another thread at the same time.
    async def stream() -> str:
        pieces = []
        run = client.runs.stream(thread, "agent", input=asked("How many plums"), stream_mode="messages-tuple")
        async for part in run:
            if part.event == "messages" and part.data[0]["type"] == "AIMessageChunk":
                pieces.append(said(part.data[0]))
        assert len([piece for piece in pieces if piece]) > 1
        return "".join(pieces)

    other = (await client.threads.create())["thread_id"]
    streamed, state = await asyncio.gather(
        stream(), client.runs.wait(other, "agent", input=asked("How many figs"))
    )
    assert streamed == "I found 0 plums for you."
    assert said(state["messages"][-1]) == "I found 0 figs for you."
    assert modes(state) == ["full", "delta"]
    assert {request.transport for request in server.requests} == {"websocket"}
    assert len(server.connections) == 1

    # `ChainSaver` stands in the server: every checkpoint names its response.
    history = await client.threads.get_history(thread, limit=50)
    named = [entry["metadata"].get("openai_response_id") for entry in history]
    mine = [request.response_id for request in server.requests if "figs" not in str(request.seen)]
    assert named[0] == mine[-1]
    assert set(mine) <= set(named)
    found = await client.threads.get_history(thread, metadata={"openai_response_id": mine[1]})
    assert {entry["metadata"]["openai_response_id"] for entry in found} == {mine[1]}
    await client.threads.delete(thread)

    broken: Any = await client.runs.wait(None, "blocking", input=asked("Wait"), raise_error=False)
    assert broken["__error__"]["error"] == "BlockingError"


async def with_client(url: str, server: ResponsesServer) -> None:
    async with get_client(url=url) as client:
        await drive(client, server)


def test_the_agent_app(
    environment: Callable[[str], Path], environ: dict[str, str], tmp_path: Path, app: Path
) -> None:
    python = environments.python(environment("langgraph"))
    alone = tmp_path / "path"
    package = Path(str(langchain_ws_responses.__file__)).parent
    shutil.copytree(package, alone / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    with ResponsesServer(answer=answer, api_key="sk-test") as server:
        variables = {
            **environ,
            # The package under test is the one that these tests import, and nothing else of their environment.
            "PYTHONPATH": str(alone),
            "OPENAI_API_KEY": "sk-test",
            "OPENAI_BASE_URL": server.base_url,
            "LANGSMITH_TRACING": "false",
            "LANGGRAPH_CLI_NO_ANALYTICS": "1",
            "NO_PROXY": "127.0.0.1",
        }
        with dev_server(app, python, variables) as url:
            asyncio.run(with_client(url, server))
