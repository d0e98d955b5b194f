"""A supervisor that hands over to a specialist and gets the conversation back. Run it: `python examples/supervisor.py`

Both agents read the same messages, each under its own system prompt. When the prompt changes first, everything is sent
once, with the prompt as `instructions`; from then on every turn sends what is new, under the prompt of whoever speaks.
With OPENAI_API_KEY set it talks to OpenAI; without, to a local server that plays the script in `main`.
Needs: pip install langchain-ws-responses langchain
"""

from __future__ import annotations

import os
from typing import Any

from langchain.agents import create_agent
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.types import Command

from langchain_ws_responses import ChatOpenAIWebSocket
from langchain_ws_responses.testing import ResponsesServer, tool_call

SUPERVISOR = "You lead a support team. Leave invoices to billing, then tell the customer the result."
BILLING = "You are billing. Look invoices up, then hand back to the supervisor."


def hand_over(agent: str, runtime: ToolRuntime) -> Command:
    done = ToolMessage(f"It is the turn of {agent}.", tool_call_id=runtime.tool_call_id)
    messages = [*runtime.state["messages"], done]
    return Command(goto=agent, graph=Command.PARENT, update={"messages": messages})


def to_billing(runtime: ToolRuntime) -> Command:
    """Hand the conversation over to billing."""
    return hand_over("billing", runtime)


def to_supervisor(runtime: ToolRuntime) -> Command:
    """Hand the conversation back to the supervisor."""
    return hand_over("supervisor", runtime)


def invoice(number: int) -> str:
    """Look up an invoice."""
    return f"invoice {number}: 40 euros, paid"


def build(model: ChatOpenAIWebSocket) -> Any:
    graph = StateGraph(MessagesState).add_edge(START, "supervisor")
    agent = create_agent(model, [to_billing], system_prompt=SUPERVISOR, name="supervisor")
    graph.add_node("supervisor", agent, destinations=("billing", "__end__"))
    agent = create_agent(model, [invoice, to_supervisor], system_prompt=BILLING, name="billing")
    graph.add_node("billing", agent, destinations=("supervisor",))
    return graph.compile()


def run(model: ChatOpenAIWebSocket) -> None:
    state = build(model).invoke({"messages": [("user", "Is invoice 7 paid?")]})
    for message in state["messages"]:
        calls = [f"{call['name']}({call['args']})" for call in getattr(message, "tool_calls", [])]
        print(f"{message.type:>6} {message.name or '':10}: {message.text or ', '.join(calls)}")
        if isinstance(message, AIMessage):
            sent = message.response_metadata["transport"]
            print(f"        {sent['mode']} ({sent['reason']}), {sent['items']} items")


def main() -> None:
    if os.environ.get("OPENAI_API_KEY"):
        run(ChatOpenAIWebSocket(model="gpt-5.5"))
        return
    first, second = tool_call("to_billing"), tool_call("invoice", {"number": 7})
    with ResponsesServer(first, second, tool_call("to_supervisor"), "Yes, it is paid.") as server:
        run(ChatOpenAIWebSocket(model="gpt-5.5", base_url=server.base_url, api_key="unused"))
        for request in server.requests:
            print("under the prompt:", request.instructions or request.seen[0]["content"])


if __name__ == "__main__":
    main()
