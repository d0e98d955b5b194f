"""An agent with two tools over one socket. Run it: `python examples/quickstart.py`

With OPENAI_API_KEY set it talks to OpenAI; without, to a local server that plays the script in `main`.
Needs: pip install langchain-ws-responses langchain
"""

from __future__ import annotations

import os

from langchain.agents import create_agent
from langchain_core.messages import AIMessage

from langchain_ws_responses import ChatOpenAIWebSocket
from langchain_ws_responses.testing import ResponsesServer, tool_call


def weather(city: str) -> str:
    """Tell the weather in a city."""
    return f"{city}: 21 degrees Celsius, a light wind"


def fahrenheit(celsius: float) -> str:
    """Convert degrees Celsius to Fahrenheit."""
    return f"{celsius * 9 / 5 + 32:.1f} degrees Fahrenheit"


def run(model: ChatOpenAIWebSocket) -> None:
    agent = create_agent(model, [weather, fahrenheit])
    question = "How warm is it in Lisbon, in Fahrenheit?"
    state = agent.invoke({"messages": [{"role": "user", "content": question}]})
    for message in state["messages"]:
        calls = [f"{call['name']}({call['args']})" for call in getattr(message, "tool_calls", [])]
        print(f"{message.type:>6}: {message.text or ', '.join(calls)}")
        if isinstance(message, AIMessage):
            # How this turn was sent: the first one in full, the others only with what is new.
            print("        ", message.response_metadata["transport"])


def main() -> None:
    if os.environ.get("OPENAI_API_KEY"):
        run(ChatOpenAIWebSocket(model="gpt-5.5"))
        return
    script = (
        tool_call("weather", {"city": "Lisbon"}),
        tool_call("fahrenheit", {"celsius": 21}),
        "It is 69.8 degrees Fahrenheit in Lisbon, with a light wind.",
    )
    with ResponsesServer(*script) as server:
        run(ChatOpenAIWebSocket(model="gpt-5.5", base_url=server.base_url, api_key="unused"))


if __name__ == "__main__":
    main()
