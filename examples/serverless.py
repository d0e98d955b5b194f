"""A handler for a serverless platform. Run it: `python examples/serverless.py`

It plays three invocations in one warm sandbox, in each of three ways (SOCKET in the environment picks one of them):

  close   the socket is closed before the sandbox is frozen. A new one is dialed at the next invocation, and the stored
          response is continued there. The usual choice: platforms freeze a process between two invocations.
  keep    the socket stays open. Right where the process goes on running between invocations; a socket that died
          meanwhile is found dead and replaced before the turn is sent.
  http    no socket. Right where an invocation asks the model once: the handshake would cost more than it saves.

With OPENAI_API_KEY set it talks to OpenAI; without, to a local server that `play` answers for.
Needs: pip install langchain-ws-responses langchain
"""

from __future__ import annotations

import os
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver

from langchain_ws_responses import ChatOpenAIWebSocket, default_manager
from langchain_ws_responses.testing import Answer, RecordedRequest, ResponsesServer, text, tool_call

# Outside of the handler: a warm invocation finds it. A real one keeps its threads in a database.
threads = InMemorySaver()


def stock(item: str) -> int:
    """Tell how many of an item are in stock."""
    return {"apples": 3, "pears": 1}.get(item, 0)


def handler(event: dict[str, Any], context: Any = None) -> dict[str, Any]:
    way = os.environ.get("SOCKET", "close")
    model = ChatOpenAIWebSocket(model="gpt-5.5", transport="http" if way == "http" else "websocket")
    agent = create_agent(model, [stock], checkpointer=threads)
    config: Any = {"configurable": {"thread_id": event["thread"]}}
    try:
        state = agent.invoke({"messages": [("user", event["question"])]}, config)
    finally:
        if way == "close":
            # Waits for the close frame. The next invocation gets a new default manager.
            default_manager().close()
    answers = [message for message in state["messages"] if isinstance(message, AIMessage)]
    sent = [message.response_metadata["transport"] for message in answers[-2:]]
    return {"answer": answers[-1].text, "sent": sent}


def invoke_three_times(way: str) -> None:
    os.environ["SOCKET"] = way
    print(f"{way}:")
    for question in ("How many apples?", "And pears?", "And plums?"):
        result = handler({"thread": way, "question": question})
        print(f"  {result['answer']} ({', '.join(map(told, result['sent']))})")


def told(sent: dict[str, Any]) -> str:
    if sent["kind"] == "http":
        return f"{sent['mode']} over HTTP"
    return f"{sent['mode']} over {'the open' if sent['reused'] else 'a new'} socket"


def play(request: RecordedRequest) -> Answer:
    """Without a key: asks the tool about the last word, then says what it has found."""
    newest = request.seen[-1]
    if newest.get("type") == "function_call_output":
        return text(f"There are {newest['output']}.")
    return tool_call("stock", {"item": (request.last_user_text or "").rstrip("?").split()[-1]})


def main() -> None:
    ways = [os.environ["SOCKET"]] if "SOCKET" in os.environ else ["close", "keep", "http"]
    if os.environ.get("OPENAI_API_KEY"):
        for way in ways:
            invoke_three_times(way)
        return
    with ResponsesServer(answer=play) as server:
        os.environ.update(OPENAI_API_KEY="unused", OPENAI_BASE_URL=server.base_url)
        for way in ways:
            invoke_three_times(way)
        default_manager().close()


if __name__ == "__main__":
    main()
