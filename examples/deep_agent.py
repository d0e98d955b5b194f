"""A deep agent that delegates to a sub-agent. Run it: `python examples/deep_agent.py`

The sub-agent has messages and a prompt of its own, so its turns are a chain of their own, next to the main agent's.
With OPENAI_API_KEY set it talks to OpenAI; without, to a local server that plays the script in `main`.
Needs Python 3.11 or newer: pip install langchain-ws-responses deepagents
"""

from __future__ import annotations

import os
import sys
from typing import Any

from langchain.agents.middleware import AgentMiddleware

from langchain_ws_responses import ChatOpenAIWebSocket, WebSocketMiddleware
from langchain_ws_responses.testing import ResponsesServer, tool_call

try:
    from deepagents import create_deep_agent
except ModuleNotFoundError:
    sys.exit("This example needs the package deepagents, for Python 3.11 or newer: pip install deepagents")


def population(city: str) -> int:
    """Tell how many people live in a city."""
    return {"Oslo": 717_710, "Bergen": 291_940}.get(city, 0)


class Log(AgentMiddleware):
    """Prints how each turn of an agent was sent."""

    def __init__(self, agent: str) -> None:
        super().__init__()
        self.agent = agent

    def after_model(self, state: Any, runtime: Any) -> None:
        answer = state["messages"][-1]
        calls = [f"{call['name']}({call['args']})" for call in answer.tool_calls]
        sent = answer.response_metadata["transport"]
        print(f"{self.agent:>10}: {answer.text or ', '.join(calls)}")
        print(f"            {sent['mode']} ({sent['reason']}), {sent['items']} items")


def run(model: ChatOpenAIWebSocket) -> None:
    researcher = {
        "name": "researcher",
        "description": "Looks up facts about cities.",
        "system_prompt": "Look up what you are asked for.",
        "tools": [population],
        "middleware": [Log("researcher")],
    }
    middleware = [WebSocketMiddleware(model), Log("main agent")]
    agent = create_deep_agent(model=model, subagents=[researcher], middleware=middleware)
    question = "Let the researcher find out whether Oslo or Bergen is larger."
    agent.invoke({"messages": [("user", question)]})


def main() -> None:
    if os.environ.get("OPENAI_API_KEY"):
        run(ChatOpenAIWebSocket(model="gpt-5.5"))
        return
    task = {"subagent_type": "researcher", "description": "How many people live in Oslo and in Bergen?"}
    script = (
        tool_call("task", task),
        tool_call("population", {"city": "Oslo"}),
        tool_call("population", {"city": "Bergen"}),
        "Oslo: 717710, Bergen: 291940.",
        "Oslo is larger.",
    )
    with ResponsesServer(*script) as server:
        run(ChatOpenAIWebSocket(model="gpt-5.5", base_url=server.base_url, api_key="unused"))
        print("the main agent's last turn saw:", *server.requests[-1].tool_outputs.values())


if __name__ == "__main__":
    main()
