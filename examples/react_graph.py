"""A ReAct loop as a StateGraph with memory. Run it: `python examples/react_graph.py`

Two questions on one thread: the second continues the chain of the first, although it is a new run of the graph.
With OPENAI_API_KEY set it talks to OpenAI; without, to a local server that plays the script in `main`.
"""

from __future__ import annotations

import os
from typing import Any

from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from langchain_ws_responses import ChatOpenAIWebSocket
from langchain_ws_responses.testing import ResponsesServer, calls, tool_call


def stock(item: str) -> int:
    """Tell how many of an item are in stock."""
    return {"apples": 3, "pears": 1}.get(item, 0)


def build(model: ChatOpenAIWebSocket) -> Any:
    bound = model.bind_tools([stock])

    def think(state: MessagesState) -> dict[str, Any]:
        return {"messages": [bound.invoke(state["messages"])]}

    graph = StateGraph(MessagesState)
    graph.add_node("think", think)
    graph.add_node("tools", ToolNode([stock]))
    graph.add_edge(START, "think")
    graph.add_conditional_edges("think", tools_condition)
    graph.add_edge("tools", "think")
    return graph.compile(checkpointer=InMemorySaver())


def run(model: ChatOpenAIWebSocket) -> None:
    graph = build(model)
    thread = {"configurable": {"thread_id": "fruit"}}
    for question in ("How many apples and pears are there?", "And plums?"):
        graph.invoke({"messages": [("user", question)]}, thread)
    for message in graph.get_state(thread).values["messages"]:
        wanted = [f"{call['name']}({call['args']})" for call in getattr(message, "tool_calls", [])]
        print(f"{message.type:>6}: {message.text or ', '.join(wanted)}")
        if isinstance(message, AIMessage):
            print("        ", message.response_metadata["transport"])


def main() -> None:
    if os.environ.get("OPENAI_API_KEY"):
        run(ChatOpenAIWebSocket(model="gpt-5.5"))
        return
    script = (
        calls(tool_call("stock", {"item": "apples"}), tool_call("stock", {"item": "pears"})),
        "There are 3 apples and 1 pear.",
        tool_call("stock", {"item": "plums"}),
        "There are no plums.",
    )
    with ResponsesServer(*script) as server:
        run(ChatOpenAIWebSocket(model="gpt-5.5", base_url=server.base_url, api_key="unused"))


if __name__ == "__main__":
    main()
