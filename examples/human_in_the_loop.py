"""A person edits a tool call before it runs. Run it: `python examples/human_in_the_loop.py`

The agent stops before the email is sent and is resumed with an edited one. However long that takes, and whatever was
edited: the model sees what the person made of its call, and never takes its own version for the one that ran.
With OPENAI_API_KEY set it talks to OpenAI; without, to a local server that plays the model.
Needs: pip install langchain-ws-responses langchain
"""

from __future__ import annotations

import os

from langchain.agents import create_agent
from langchain.agents.middleware import HumanInTheLoopMiddleware
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.types import Command

from langchain_ws_responses import ChatOpenAIWebSocket
from langchain_ws_responses.testing import Answer, RecordedRequest, ResponsesServer, tool_call


def send_email(to: str, subject: str) -> str:
    """Send an email."""
    return f"sent {subject!r} to {to}"


def run(model: ChatOpenAIWebSocket) -> None:
    agent = create_agent(
        model,
        [send_email],
        middleware=[HumanInTheLoopMiddleware({"send_email": True})],
        checkpointer=InMemorySaver(),
    )
    thread = {"configurable": {"thread_id": "invitation"}}
    question = "Invite ada@example.com to the review. Call send_email at once."
    stopped = agent.invoke({"messages": [("user", question)]}, thread)
    asked = stopped["__interrupt__"][0].value["action_requests"][0]
    print("waiting for approval:", asked["args"])

    args = {**asked["args"], "subject": "Review on Friday at 10"}
    edit = {"type": "edit", "edited_action": {"name": "send_email", "args": args}}
    state = agent.invoke(Command(resume={"decisions": [edit]}), thread)
    for message in state["messages"]:
        calls = [f"{call['name']}({call['args']})" for call in getattr(message, "tool_calls", [])]
        print(f"{message.type:>6}: {message.text or ', '.join(calls)}")
        if isinstance(message, AIMessage):
            sent = message.response_metadata["transport"]
            print(f"        {sent['mode']} ({sent['reason']}), {sent['items']} items")


def play(request: RecordedRequest) -> Answer | str:
    """Without a key: calls the tool, then says what came of it."""
    if request.tool_outputs:
        return "The invitation is on its way."
    return tool_call("send_email", {"to": "ada@example.com", "subject": "Review"})


def main() -> None:
    if os.environ.get("OPENAI_API_KEY"):
        run(ChatOpenAIWebSocket(model="gpt-5.5"))
        return
    with ResponsesServer(answer=play) as server:
        run(ChatOpenAIWebSocket(model="gpt-5.5", base_url=server.base_url, api_key="unused"))
        print("the model's last turn saw:")
        for item in server.requests[-1].seen:
            print("  ", item.get("content") or item.get("arguments") or item.get("output"))


if __name__ == "__main__":
    main()
