"""Three ways to see what goes over the wire. Run it: `python examples/tracing.py trace.jsonl`

A hook prints what happens while it happens; a trace file keeps it, and `inspect` makes a timeline or a page of it;
`explain()` says why the last turn was sent as it was. None of them shows what was said. A program that you cannot
change is traced with LANGCHAIN_WS_RESPONSES_TRACE=trace.jsonl in its environment.
With OPENAI_API_KEY set it talks to OpenAI; without, to a local server that `play` answers for.
Needs: pip install langchain-ws-responses langchain
"""

from __future__ import annotations

import os
import sys
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage

from langchain_ws_responses import (
    ChatOpenAIWebSocket,
    ConnectionClosed,
    ConnectionManager,
    ConnectionOpened,
    TraceFile,
    TransportEvent,
    TurnEnded,
    TurnSent,
)
from langchain_ws_responses.testing import Answer, RecordedRequest, ResponsesServer, text, tool_call


def stock(item: str) -> int:
    """Tell how many of an item are in stock."""
    return {"apples": 3, "pears": 1}.get(item, 0)


def say(line: str) -> None:
    # `print` writes the end of the line by itself, and another thread may come between.
    sys.stdout.write(f"{line}\n")


def show(event: TransportEvent) -> None:
    # Runs on the thread that owns the sockets: be quick, and never call a model here.
    if isinstance(event, ConnectionOpened):
        say(f"  {event.connection} opened")
    elif isinstance(event, TurnSent):
        say(f"  {event.connection} > {event.mode} ({event.reason}), {event.items} items, {event.bytes} bytes")
    elif isinstance(event, TurnEnded):
        say(f"  {event.connection} < {event.events} events, {event.bytes} bytes")
    elif isinstance(event, ConnectionClosed):
        say(f"  {event.connection} closed ({event.why})")


def run(trace: str, **access: Any) -> None:
    with TraceFile(trace) as file, ConnectionManager(hooks=[show, file]) as manager:
        model = ChatOpenAIWebSocket(model="gpt-5.5", manager=manager, **access)
        agent = create_agent(model, [stock])
        messages = agent.invoke({"messages": [("user", "How many apples?")]})["messages"]
        say(f"explained: {model.explain()}")
        # Somebody edits the question: what follows from it can no longer be continued.
        edited = [HumanMessage("How many red apples?"), *messages[1:], HumanMessage("Sure?")]
        agent.invoke({"messages": edited})
        say(f"explained: {model.explain()}")
    say(f"next: python -m langchain_ws_responses inspect {trace} --html trace.html")


def play(request: RecordedRequest) -> Answer:
    """Without a key: one call of the tool, then a sentence."""
    if any(item.get("type") == "function_call_output" for item in request.seen):
        return text("There are 3.")
    return tool_call("stock", {"item": "apples"})


def main() -> None:
    trace = sys.argv[1] if sys.argv[1:] else "trace.jsonl"
    if os.environ.get("OPENAI_API_KEY"):
        run(trace)
        return
    with ResponsesServer(answer=play) as server:
        run(trace, base_url=server.base_url, api_key="unused")


if __name__ == "__main__":
    main()
