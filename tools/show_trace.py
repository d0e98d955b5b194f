"""Records a trace that has everything in it, and takes the picture of its page for the docs.

    python tools/show_trace.py docs/images

needs Chromium. The run is offline: a warm-up, an agent's turns, a fork, another system prompt, a response that the
server has lost, a socket that dies, and a proxy that lets no more sockets through, so that a turn goes over HTTP.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.tools import tool

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager, Profile, RetryPolicy, TraceFile
from langchain_ws_responses.testing import ResponsesServer, drop, error, hold, text, tool_call

PROMPT = "You look after the weather station at the harbour. " * 60
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


@tool
def reading(station: str) -> str:
    """Reads a weather station."""
    return f"12 degrees at {station}, wind from the west. " * 20


def _conversation(server: ResponsesServer, model: Any, turns: int) -> list[Any]:
    """An agent's loop: the model asks for readings, gets them, and asks again."""
    messages: list[Any] = [SystemMessage(PROMPT), HumanMessage("How is the weather?")]
    for _ in range(turns):
        server.add(tool_call("reading", {"station": "harbour"}))
        answer = model.invoke(messages)
        messages += [answer, *(reading.invoke(call) for call in answer.tool_calls)]
    server.add(text("It is mild, and the wind comes from the west.", 12))
    return [*messages, model.invoke(messages)]


def _fork(server: ResponsesServer, model: Any, messages: list[Any]) -> None:
    """Two questions about one state at the same time."""
    both = threading.Barrier(2)
    go = threading.Event()

    def ask(question: str) -> AIMessage:
        both.wait()
        return model.invoke([*messages, HumanMessage(question)])

    server.add(hold(go, text("Yes, a light one.", 6), after_events=3), text("No.", 2))
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(ask, question) for question in ("A jacket?", "An umbrella?")]
        next(done for done in _as_they_end(asked)).result()
        go.set()


def _as_they_end(futures: list[Any]) -> Any:
    from concurrent.futures import as_completed

    return as_completed(futures)


def record(path: Path, event_delay: float = 0.0) -> dict[str, Any]:
    """Records the run.

    Args:
        path: The trace.
        event_delay: Seconds between the server's events.

    Returns:
        The answers' `transport` metadata by what happened to them.
    """
    told: dict[str, Any] = {}
    known = {"127.0.0.1": Profile(name="local", lanes=True, keeps_warm_up=True)}
    retry = RetryPolicy(max_attempts=2, initial_delay=0.05, max_delay=0.1)
    with (
        ResponsesServer(event_delay=event_delay) as server,
        TraceFile(path) as trace,
        ConnectionManager(hooks=[trace], retry=retry, profiles=known) as manager,
    ):
        model = ChatOpenAIWebSocket(
            model="gpt-5.5", api_key="sk-local", base_url=server.base_url, manager=manager
        )
        bound = model.bind_tools([reading])
        model.warm_up([SystemMessage(PROMPT)], [reading])
        messages = _conversation(server, bound, 3)
        _fork(server, bound, messages)

        def ask(what: str, question: str, *answers: Any, history: list[Any] = messages) -> None:
            server.add(*answers)
            answer = bound.invoke([*history, HumanMessage(question)])
            told[what] = answer.response_metadata["transport"]

        edited = [SystemMessage(f"{PROMPT} Be brief."), *messages[1:]]
        ask("edited", "And now?", text("Still mild.", 4), history=edited)
        lost = error(code="previous_response_not_found", status=400)
        ask("resend", "And tonight?", lost, text("Cooler, with less wind.", 6))
        ask("reconnect", "And tomorrow?", drop(1), text("Much the same.", 5))
        server.config.refuse_upgrade = 426  # as a proxy that lets no WebSocket through
        manager.drain()
        ask("http", "And on Sunday?", text("Ask me again on Saturday.", 6))
    return told


def picture(page: Path, image: Path, width: int = 1180, height: int = 900) -> None:
    """Takes a picture of a page.

    Raises:
        SystemExit: There is no Chromium.
    """
    chromium = next((found for name in CHROMIUM if (found := shutil.which(name))), None)
    if chromium is None:
        raise SystemExit("no Chromium: install it (Debian's package is named chromium).")
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium,
                *FLAGS,
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                f"--screenshot={image}",
                page.as_uri(),
            ],
            check=True,
            capture_output=True,
            timeout=120,
        )


def main(folder: Path) -> int:
    """Records, writes the page and takes its picture."""
    from langchain_ws_responses._inspect.page import as_page
    from langchain_ws_responses._inspect.reading import read

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        trace, page = Path(work, "trace.jsonl"), Path(work, "trace.html")
        record(trace, event_delay=0.004)
        page.write_text(as_page(read(trace), trace.name), encoding="utf-8")
        picture(page, folder / "inspect.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images").resolve()))
