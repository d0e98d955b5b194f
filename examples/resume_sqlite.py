"""A conversation that goes on after a restart. Run it: `python examples/resume_sqlite.py [FILE]`

Every question is asked by a manager and a saver of its own, as after a restart: the link to the last answer comes back
with the messages from SQLite, so that only the question is sent. Give it a FILE, and the next run goes on from there.
With OPENAI_API_KEY set it talks to OpenAI; without, to a local server that plays the model.
Needs: pip install langchain-ws-responses langgraph-checkpoint-sqlite
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager
from langchain_ws_responses.testing import RecordedRequest, ResponsesServer


def ask(question: str, database: Path, **settings: Any) -> None:
    """Build everything anew, load the thread, ask one question."""
    with ConnectionManager() as manager, SqliteSaver.from_conn_string(str(database)) as saver:
        model = ChatOpenAIWebSocket(model="gpt-5.5", transport="websocket", manager=manager, **settings)

        def answer(state: MessagesState) -> dict[str, Any]:
            return {"messages": [model.invoke(state["messages"])]}

        builder = StateGraph(MessagesState)
        builder.add_node("answer", answer)
        builder.add_edge(START, "answer")
        graph = builder.compile(checkpointer=saver)

        thread = {"configurable": {"thread_id": "names"}}
        loaded = len(graph.get_state(thread).values.get("messages", []))
        last = graph.invoke({"messages": [("user", question)]}, thread)["messages"][-1]
        sent = last.response_metadata["transport"]
        print(f"{loaded} messages loaded; {question} -> {last.text}")
        print(f"        {sent['mode']} ({sent['reason']}), {sent['items']} items")


def run(database: Path, **settings: Any) -> None:
    for question in ("I am Ada.", "What is my name?", "Spell it."):
        ask(question, database, **settings)


def play(request: RecordedRequest) -> str:
    """Without a key: says how much of the conversation it sees."""
    asked = [item["content"] for item in request.seen if item["role"] == "user"]
    return f"(an answer to {asked})"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        database = Path(sys.argv[1] if sys.argv[1:] else f"{folder}/threads.sqlite")
        if os.environ.get("OPENAI_API_KEY"):
            run(database)
            return
        with ResponsesServer(answer=play) as server:
            run(database, base_url=server.base_url, api_key="unused")


if __name__ == "__main__":
    main()
