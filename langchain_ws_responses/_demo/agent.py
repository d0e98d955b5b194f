"""Runs the agent of the demonstration with one model or the other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import BaseTool, tool
from langchain_openai import ChatOpenAI
from langsmith import tracing_context
from openai import DefaultHttpxClient
from pydantic import SecretStr

from .. import ChatOpenAIWebSocket, ConnectionManager
from .._commands.environment import no_environment
from ..testing import ResponsesServer
from .measure import Meter, Run, gaps, server_sent
from .player import Player
from .workspace import Workspace

__all__ = ["Kind", "Live", "Progress", "play_live", "play_offline"]

Kind = Literal["http", "websocket"]
# Told before a tool runs: how many calls, the tool, what it is about, and bytes sent so far. No tool: the answer.
Progress = Callable[[int, str, str, int], None]

_OFFLINE_MODEL = "local-script"
_OFFLINE_KEY = "no-key-needed"
_PAST_THE_END = "That was one call too many: answer now, without tools."


@dataclass(frozen=True)
class Live:
    """Where the real runs go.

    Attributes:
        model: The model's name.
        base_url: The endpoint; None takes the one of the environment, else OpenAI's.
    """

    model: str
    base_url: str | None = None


@dataclass
class _Recorder:
    """Stands around the tools: numbers and times their calls, and keeps them within the limit."""

    workspace: Workspace
    limit: int
    progress: Callable[[int, str, str], None]
    started: int = 0
    ended: list[float] = field(default_factory=list)

    def call(self, name: str, about: str, work: Callable[[], str]) -> str:
        self.started += 1
        if self.started > self.limit:
            return _PAST_THE_END
        self.progress(self.started, name, about)
        try:
            return work()
        finally:
            self.ended.append(time.monotonic())

    def tools(self) -> list[BaseTool]:
        """Makes the tools that the agent gets."""
        space = self.workspace

        @tool
        def search(text: str) -> str:
            """Find the lines of all files that contain a text. Case matters."""
            return self.call("search", text, lambda: space.search(text))

        @tool
        def read_file(path: str, start: int = 1) -> str:
            """Read up to 40 lines of a file, beginning with line `start`."""
            return self.call("read_file", path, lambda: space.read(path, start))

        @tool
        def edit_file(path: str, line: int, text: str) -> str:
            """Replace one line of a file with one line of text. Works on a temporary copy."""
            return self.call("edit_file", path, lambda: space.edit(path, line, text))

        @tool
        def run(command: Literal["compile", "count"], path: str) -> str:
            """Check that a Python file compiles, or count the lines and words of any file."""
            return self.call("run", f"{command} {path}", lambda: space.run(command, path))

        return [search, read_file, edit_file, run]


def _instructions(calls: int) -> str:
    return (
        "You look around in a directory of text files with the tools you have. Make exactly "
        f"{calls} tool calls, one at a time, each depending on what you saw before: search, read, edit, run, and "
        "again. Then answer with one short paragraph about what you found."
    )


def _question(names: list[str]) -> str:
    return "\n".join(["What is in these files?", *(f"- {name}" for name in names)])


def _talk(
    model: BaseChatModel, files: Mapping[str, bytes], calls: int, progress: Callable[[int, str, str], None]
) -> tuple[list[Any], list[float], float]:
    """Runs the agent; returns its messages, when its tools ended, and the seconds it took."""
    with Workspace.of(files) as workspace, tracing_context(enabled=False):
        recorder = _Recorder(workspace, calls, progress)
        agent = create_agent(model, recorder.tools(), system_prompt=_instructions(calls))
        question = {"role": "user", "content": _question(workspace.names)}
        started = time.monotonic()
        # Two steps of the graph for each call; the rest is for a model that does not stop in time.
        state = agent.invoke({"messages": [question]}, {"recursion_limit": 3 * calls + 10})
        return state["messages"], recorder.ended, time.monotonic() - started


def _calls(messages: list[Any]) -> list[tuple[str, dict[str, Any], str]]:
    outputs = {message.tool_call_id: message.text for message in messages if isinstance(message, ToolMessage)}
    return [
        (call["name"], dict(call["args"]), outputs.get(call["id"] or "", ""))
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.tool_calls
    ]


@contextmanager
def _model(kind: Kind, settings: Mapping[str, Any], meter: Meter) -> Iterator[BaseChatModel]:
    """Makes one of the two models that are compared, and closes what it holds."""
    if kind == "websocket":
        with ConnectionManager(hooks=[meter.on_transport]) as manager:
            yield ChatOpenAIWebSocket(transport="websocket", manager=manager, **settings)
        return
    # The client that openai makes by default, with a hook; a proxy that ChatOpenAI knows of must be handed on.
    proxy = os.environ.get("OPENAI_PROXY") or None
    with DefaultHttpxClient(proxy=proxy, event_hooks={"request": [meter.on_request]}) as client:
        yield ChatOpenAI(use_responses_api=True, http_client=client, openai_proxy="", **settings)


def play_offline(kind: Kind, files: Mapping[str, bytes], calls: int, progress: Progress) -> Run:
    """Runs the agent against a local server whose script plays the model.

    Args:
        kind: The model's transport.
        files: What the tools work on.
        calls: Tool calls.
        progress: Told about each tool call and the answer.
    """
    meter = Meter()
    with ExitStack() as stack:
        stack.enter_context(no_environment())
        server = stack.enter_context(ResponsesServer(answer=Player(calls), clock=time.monotonic))
        settings = {
            "model": _OFFLINE_MODEL,
            "base_url": server.base_url,
            "api_key": SecretStr(_OFFLINE_KEY),
            "max_retries": 0,
        }
        model = stack.enter_context(_model(kind, settings, meter))

        def sent() -> int:
            return sum(request.raw_bytes for request in server.requests)

        messages, ended, seconds = _talk(
            model, files, calls, lambda number, name, about: progress(number, name, about, sent())
        )
        progress(calls, "", "", sent())
        requests = server_sent(server)
        # The server counts WebSocket connections only.
        connections = len(server.connections) if kind == "websocket" else meter.connections
        return Run(_calls(messages), messages[-1].text, requests, connections, gaps(ended, requests), seconds)


def play_live(kind: Kind, files: Mapping[str, bytes], calls: int, progress: Progress, live: Live) -> Run:
    """Runs the agent against a real endpoint, with the key of the environment.

    Args:
        kind: The model's transport.
        files: What the tools work on.
        calls: Tool calls that the model is asked for, and may make at most.
        progress: Told about each tool call and the answer.
        live: The endpoint.
    """
    meter = Meter()
    settings = {"model": live.model, **({"base_url": live.base_url} if live.base_url else {})}

    def sent() -> int:
        return sum(request.bytes for request in meter.sent)

    with _model(kind, settings, meter) as model:
        messages, ended, seconds = _talk(
            model, files, calls, lambda number, name, about: progress(number, name, about, sent())
        )
    progress(len(ended), "", "", sent())
    return Run(
        _calls(messages), messages[-1].text, meter.sent, meter.connections, gaps(ended, meter.sent), seconds
    )
