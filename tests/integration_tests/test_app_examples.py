"""The examples that are servers, handlers and notebooks, run without a key."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from langchain.agents import create_agent
from prepared import KEPT, python

from langchain_ws_responses.testing import RecordedRequest, ResponsesServer, text, tool_call

# All of them come with the extra `test`.
nbformat: Any = pytest.importorskip("nbformat", reason="the package nbclient is missing")
uvicorn: Any = pytest.importorskip("uvicorn", reason="the package uvicorn is missing")
pytest.importorskip("fastapi", reason="the package fastapi is missing")
pytest.importorskip("ipykernel", reason="the package ipykernel is missing")


def said_by(*arguments: object, **environment: str) -> str:
    """What a Python process prints, which must say nothing else."""
    done = python(*arguments, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def load(path: Path) -> ModuleType:
    """Imports an example as the program does that finds it by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def modes(messages: list[Any]) -> list[str]:
    return [message.response_metadata["transport"]["mode"] for message in messages if message.type == "ai"]


# -- the app for `langgraph dev`; tests/interop/test_langgraph_dev.py runs it there -----------------


async def test_the_agent_app_answers_without_a_key(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project / "examples" / "agent_app"
    config = json.loads((folder / "langgraph.json").read_text(encoding="utf-8"))
    app, saving = (
        load(folder / path.partition(":")[0])
        for path in (config["graphs"]["agent"], config["checkpointer"]["path"])
    )
    monkeypatch.setenv("CHECKPOINTS", str(tmp_path / "checkpoints.sqlite"))
    thread: Any = {"configurable": {"thread_id": "1"}}
    try:
        async with saving.saver() as saver:
            graph = app.graph.copy(update={"checkpointer": saver})
            await graph.ainvoke({"messages": [("user", "How many apples?")]}, thread)
            state = await graph.ainvoke({"messages": [("user", "And pears?")]}, thread)
            newest = await saver.aget_tuple(thread)
    finally:
        app.server.stop()
    assert [message.text for message in state["messages"] if message.type == "ai" and message.text] == [
        "There are 3 apples.",
        "There are 1 pears.",
    ]
    assert modes(state["messages"]) == ["full", "delta", "delta", "delta"]
    assert newest.metadata["openai_response_id"] == state["messages"][-1].response_metadata["id"]


# -- FastAPI ----------------------------------------


@contextmanager
def serving(app: Any) -> Iterator[int]:
    """Runs an app under uvicorn, as `python examples/fastapi_stream.py` does; gives its port."""
    started = threading.Event()

    class Server(uvicorn.Server):  # type: ignore[misc]
        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            started.set()

    server = Server(uvicorn.Config(app, port=0, log_level="error", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert started.wait(20)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(20)


def ask(port: int, thread: str, question: str) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    body = json.dumps({"text": question})
    connection.request("POST", f"/threads/{thread}", body, {"content-type": "application/json"})
    return connection


def whole(connection: http.client.HTTPConnection) -> tuple[str, list[dict[str, Any]]]:
    """The text of a streamed answer, and how its turns were sent."""
    reply = connection.getresponse()
    assert reply.status == 200
    assert reply.getheader("content-type", "").startswith("text/event-stream")
    events = reply.read().decode().strip().split("\n\n")
    connection.close()
    pieces = [json.loads(event.removeprefix("data: ")) for event in events if event.startswith("data: ")]
    assert len(pieces) > 1
    sent = [json.loads(event.partition("\ndata: ")[2]) for event in events if event.startswith("event: sent")]
    return "".join(pieces), sent


needs_tokens = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="LangGraph streams the tokens of async nodes from Python 3.11 on"
)


@needs_tokens
def test_fastapi_streams_and_shares_a_socket(project: Path) -> None:
    example = load(project / "examples" / "fastapi_stream.py")
    with serving(example.app) as port:
        answers = [whole(ask(port, thread, "How many apples?")) for thread in ("1", "2", "1")]
    assert [answer for answer, _ in answers] == ["There are 3 of them."] * 3
    assert [[sent["mode"] for sent in turns] for _, turns in answers] == [
        ["full", "delta"],
        ["full", "delta"],
        ["delta", "delta"],
    ]
    assert {sent["connection"] for _, turns in answers for sent in turns} == {"c1"}


@needs_tokens
def test_who_hangs_up_on_fastapi_ends_the_own_turn_only(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free, left = threading.Event(), threading.Event()

    class Watched:
        """The agent, and when its run ends."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.agent = create_agent(*args, **kwargs)

        async def astream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            try:
                async for item in self.agent.astream(*args, **kwargs):
                    yield item
            finally:
                left.set()

    def answer(request: RecordedRequest) -> Any:
        return text("123456", 6) if "story" in str(request.last_user_text) else "a fact"

    def gate(request: RecordedRequest, event: Any) -> Any:
        late = event["type"] == "response.output_text.delta" and event["delta"] == "3"
        return free if late else None

    example = load(project / "examples" / "fastapi_stream.py")
    monkeypatch.setattr(example, "create_agent", Watched)
    with ResponsesServer(answer=answer, event_gate=gate) as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        with serving(example.app) as port:
            hasty = ask(port, "1", "Tell me a story.")
            reply = hasty.getresponse()
            assert json.loads(reply.readline().decode().removeprefix("data: ")) == "1"
            reply.close()
            hasty.close()
            # The run is over although the model is in the middle of its answer.
            assert left.wait(10)
            assert server.requests[0].status == "in_progress"
            free.set()
            server.wait_for(lambda: server.requests[0].status == "completed")
            said, sent = whole(ask(port, "2", "Tell me a fact."))
            assert said == "a fact"
            # The cut answer is not in the thread.
            assert whole(ask(port, "1", "Tell me a fact."))[0] == "a fact"
    assert len(server.connections) == 1
    assert [sent["mode"] for sent in sent] == ["full"]
    assert "12" not in str(server.requests[-1].seen)
    assert "Tell me a story." in str(server.requests[-1].seen)


# -- serverless ----------------------------------------

TURN = re.compile(r"(full|delta) over (a new socket|the open socket|HTTP)")


def test_serverless(project: Path) -> None:
    out = said_by(project / "examples" / "serverless.py")
    ways = dict(
        zip(["close", "keep", "http"], re.split(r"^\w+:\n", out, flags=re.MULTILINE)[1:], strict=True)
    )
    new, same, over_http = "a new socket", "the open socket", "HTTP"
    # Across invocations the stored response is continued, whichever way.
    chain = [["full", "delta"], ["delta", "delta"], ["delta", "delta"]]
    expected = {
        "close": [[new, same], [new, same], [new, same]],
        "keep": [[new, same], [same, same], [same, same]],
        "http": [[over_http, over_http]] * 3,
    }
    for way, printed in ways.items():
        lines = [TURN.findall(line) for line in printed.strip().splitlines()]
        assert [[mode for mode, _ in line] for line in lines] == chain
        assert [[where for _, where in line] for line in lines] == expected[way]
        assert re.findall(r"There are (\d)\.", printed) == ["3", "1", "0"]


def test_serverless_leaves_nothing_open(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = load(project / "examples" / "serverless.py")
    monkeypatch.setenv("SOCKET", "close")
    with ResponsesServer(tool_call("stock", {"item": "apples"}), "Three.") as server:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        assert example.handler({"thread": "1", "question": "How many apples?"})["answer"] == "Three."
        # What a frozen sandbox holds is what is open now.
        server.wait_for(lambda: not any(record.open for record in server.connections))
    assert [record.close_code for record in server.connections] == [1000]


# -- tracing ----------------------------------------


def test_tracing(project: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    out = said_by(project / "examples" / "tracing.py", trace)
    sent = re.findall(r"^  c1 > (\w+) \((\w+)\), (\d) items", out, re.MULTILINE)
    assert sent == [("full", "first_turn", "1"), ("delta", "chain", "1"), ("full", "history_changed", "5")]
    first, second = re.findall(r"^explained: (.*)", out, re.MULTILINE)
    assert first.startswith("Sent as a delta")
    assert second.startswith("Sent in full")
    # What the example says to do next.
    command = re.search(r"^next: python (-m .*)$", out, re.MULTILINE)
    assert command is not None
    said_by(*command[1].replace("trace.html", str(tmp_path / "trace.html")).split())
    page = (tmp_path / "trace.html").read_text(encoding="utf-8")
    assert "history_changed" in page
    assert "apples" not in trace.read_text(encoding="utf-8") + page


# -- the notebook ----------------------------------------

EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient

notebook = nbformat.read(sys.argv[1], as_version=4)
NotebookClient(notebook, timeout=40, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def printed(notebook: Any) -> list[str]:
    """What each code cell shows."""
    return [
        "".join(output.get("text") or output["data"]["text/plain"] for output in cell.outputs)
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


def test_the_notebook(project: Path, tmp_path: Path) -> None:
    source = project / "examples" / "notebook.ipynb"
    # Kept without outputs: they would differ at every run.
    assert not any(printed(nbformat.read(source, as_version=4)))
    subprocess.run(
        [sys.executable, "-c", EXECUTE, str(source), str(tmp_path / "done.ipynb")],
        env={
            **{key: os.environ[key] for key in KEPT if key in os.environ},
            # Neither history nor settings of whoever runs the tests.
            "IPYTHONDIR": str(tmp_path / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        },
        capture_output=True,
        timeout=100,
        check=True,
    )
    setup, sync, asynchronous, stream, together, closed = printed(
        nbformat.read(tmp_path / "done.ipynb", as_version=4)
    )
    assert setup == closed == ""
    assert re.findall(r"\[(\w+), 1 item\(s\), (\w+)\]", sync) == [("full", "c1"), ("delta", "c1")]
    # The async cell goes on where the sync cell was.
    assert (
        re.findall(r"\[(\w+), 1 item\(s\), (\w+)\]", asynchronous) == [("full", "c1")] + [("delta", "c1")] * 3
    )
    assert asynchronous.strip().endswith("There are 1 of them.  [delta, 1 item(s), c1]")
    assert stream.replace("|", "") == "There are 0 of them."
    assert stream.count("|") > 1
    assert re.findall(r"There are (\d)", together) == ["3", "1", "0"]
    assert "1 open" in together
