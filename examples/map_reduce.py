"""Map-reduce with `Send`: workers branch off one answer, in parallel. Run it: `python examples/map_reduce.py`

Each worker continues the outline and sends its own task only, on a lane of its own; the last node sees all results.
With OPENAI_API_KEY set it talks to OpenAI; without, to a local server that plays the model.
"""

from __future__ import annotations

import operator
import os
from typing import Annotated, Any

from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Send

from langchain_ws_responses import ChatOpenAIWebSocket
from langchain_ws_responses.testing import RecordedRequest, ResponsesServer


class Report(MessagesState):
    sections: Annotated[list[str], operator.add]


def log(node: str, answer: AIMessage) -> AIMessage:
    sent = answer.response_metadata["transport"]
    print(f"{node}: {sent['mode']} ({sent['reason']}), {sent['items']} items, lane {sent['lane']}")
    return answer


def build(model: ChatOpenAIWebSocket) -> Any:
    def outline(state: Report) -> dict[str, Any]:
        return {"messages": [log("outline", model.invoke(state["messages"]))]}

    def distribute(state: Report) -> list[Send]:
        topics = state["messages"][-1].text.splitlines()
        return [Send("write", {**state, "topic": topic}) for topic in topics if topic]

    def write(task: dict[str, Any]) -> dict[str, Any]:
        answer = model.invoke([*task["messages"], ("user", f"One sentence about: {task['topic']}")])
        return {"sections": [log(f"write {task['topic']!r}", answer).text]}

    def join(state: Report) -> dict[str, Any]:
        told = ("user", "Make one paragraph of these:\n" + "\n".join(state["sections"]))
        return {"messages": [told, log("join", model.invoke([*state["messages"], told]))]}

    graph = StateGraph(Report).add_node(outline).add_node(write).add_node(join).add_edge(START, "outline")
    graph.add_conditional_edges("outline", distribute, ["write"])
    graph.add_edge("write", "join")
    return graph.compile()


def run(model: ChatOpenAIWebSocket) -> None:
    question = "Outline a text about tea: three topics, one per line, nothing else."
    state = build(model).invoke({"messages": [("user", question)]})
    print(state["messages"][-1].text)


def play(request: RecordedRequest) -> str:
    """Without a key: an outline, sections, and a paragraph."""
    kind, _, rest = (request.last_user_text or "").partition(":")
    if kind.startswith("Outline"):
        return "Where it grows\nHow to brew it\nWho drinks it"
    return f"<about {rest.strip()}>" if kind.startswith("One") else f"Tea: {' '.join(rest.split())}"


def main() -> None:
    if os.environ.get("OPENAI_API_KEY"):
        run(ChatOpenAIWebSocket(model="gpt-5.5", transport="websocket"))
        return
    with ResponsesServer(answer=play) as server:
        url = server.base_url
        run(ChatOpenAIWebSocket(model="gpt-5.5", transport="websocket", base_url=url, api_key="unused"))
        parents = {request.previous_response_id for request in server.requests[1:]}
        print(f"all turns after the outline continue it: {parents == {server.requests[0].response_id}}")


if __name__ == "__main__":
    main()
