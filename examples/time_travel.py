"""Two branches from one past checkpoint, and a past that is edited. Run it: `python examples/time_travel.py`

A branch continues the answer that it starts from, so it sends one message. If the past itself is edited, no answer
was made from it any more, so everything is sent once, and the model sees the edit.
With OPENAI_API_KEY set it talks to OpenAI; without, to a local server that plays the model.
"""

from __future__ import annotations

import os
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph

from langchain_ws_responses import ChatOpenAIWebSocket, response_link
from langchain_ws_responses.testing import RecordedRequest, ResponsesServer


def build(model: ChatOpenAIWebSocket) -> Any:
    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [model.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_edge(START, "answer")
    return graph.compile(checkpointer=InMemorySaver())


def show(branch: str, state: dict[str, Any]) -> None:
    print(branch)
    for message in state["messages"]:
        print(f"{message.type:>6}: {message.text}")
        if isinstance(message, AIMessage):
            sent, link = message.response_metadata["transport"], response_link(message) or {}
            print(f"        {sent['mode']} ({sent['reason']}), {sent['items']} items -> {link['id']}")


def run(model: ChatOpenAIWebSocket) -> None:
    graph = build(model)
    thread = {"configurable": {"thread_id": "slogan"}}
    graph.invoke({"messages": [("user", "A slogan for apples?")]}, thread)
    show("main branch", graph.invoke({"messages": [("user", "Shorter, please.")]}, thread))

    # The checkpoint after the first answer: its config is where other branches start.
    past = next(snap for snap in graph.get_state_history(thread) if len(snap.values["messages"]) == 2)
    show("second branch", graph.invoke({"messages": [("user", "In French, please.")]}, past.config))

    # `update_state` makes a checkpoint of its own: a message with a known id replaces the old one.
    edited = HumanMessage("A slogan for pears?", id=past.values["messages"][0].id)
    fork = graph.update_state(past.config, {"messages": [edited]})
    show("branch with an edited past", graph.invoke({"messages": [("user", "Shorter, please.")]}, fork))


def play(request: RecordedRequest) -> str:
    """Without a key: answers with what was asked."""
    return f"(an answer to {request.last_user_text!r})"


def main() -> None:
    if os.environ.get("OPENAI_API_KEY"):
        run(ChatOpenAIWebSocket(model="gpt-5.5", transport="websocket"))
        return
    with ResponsesServer(answer=play) as server:
        url = server.base_url
        run(ChatOpenAIWebSocket(model="gpt-5.5", transport="websocket", base_url=url, api_key="unused"))
        print("what the model saw:")
        for request in server.requests:
            asked = [item["content"] for item in request.seen if item["role"] == "user"]
            print(f"   continues {request.previous_response_id}: {asked}")


if __name__ == "__main__":
    main()
