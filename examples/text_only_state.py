"""A state that keeps plain strings. Run it: `python examples/text_only_state.py [FILE]`

Such a state holds no messages, and so no links: with a bare checkpointer every turn sends everything. A ChainSaver
around it notes beside each checkpoint which response it belongs to, also for another process that opens the FILE.
With OPENAI_API_KEY set it talks to OpenAI; without, to a local server that plays the model.
Needs: pip install langchain-ws-responses langgraph-checkpoint-sqlite
"""

from __future__ import annotations

import operator
import os
import sys
from typing import Annotated, Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from typing_extensions import TypedDict

from langchain_ws_responses import ChainSaver, ChatOpenAIWebSocket
from langchain_ws_responses.testing import RecordedRequest, ResponsesServer


class Chat(TypedDict):
    turns: Annotated[list[str], operator.add]  # what was asked and what was answered, by turns


def build(model: ChatOpenAIWebSocket, saver: BaseCheckpointSaver[Any]) -> Any:
    def answer(state: Chat) -> dict[str, Any]:
        speakers = (HumanMessage, AIMessage)
        message = model.invoke([speakers[n % 2](text) for n, text in enumerate(state["turns"])])
        sent = message.response_metadata["transport"]
        print(f"   {state['turns'][-1]} -> {message.text}")
        print(f"        {sent['mode']} ({sent['reason']}), {sent['items']} items")
        return {"turns": [message.text]}

    return StateGraph(Chat).add_node(answer).add_edge(START, "answer").compile(checkpointer=saver)


def chat(model: ChatOpenAIWebSocket, saver: BaseCheckpointSaver[Any], thread_id: str) -> None:
    print(f"{thread_id}:")
    graph = build(model, saver)
    for question in ("I am Ada.", "What is my name?"):
        graph.invoke({"turns": [question]}, {"configurable": {"thread_id": thread_id}})


def run(model: ChatOpenAIWebSocket) -> None:
    with SqliteSaver.from_conn_string(sys.argv[1] if sys.argv[1:] else ":memory:") as saver:
        chat(model, saver, "bare")
        chat(model, ChainSaver(saver), "ChainSaver")


def play(request: RecordedRequest) -> str:
    """Without a key: says how much of the conversation it sees."""
    return f"I see {len(request.seen)} messages."


def main() -> None:
    if os.environ.get("OPENAI_API_KEY"):
        run(ChatOpenAIWebSocket(model="gpt-5.5", transport="websocket"))
        return
    with ResponsesServer(answer=play) as server:
        url = server.base_url
        run(ChatOpenAIWebSocket(model="gpt-5.5", transport="websocket", base_url=url, api_key="unused"))


if __name__ == "__main__":
    main()
