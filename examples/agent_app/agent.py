"""The agent of `langgraph.json`. Start it: `langgraph dev` in this folder

The development server calls it on event loops that nothing may block; the socket lives on a thread of its own, so
`--allow-blocking` is not needed. With OPENAI_API_KEY set it talks to OpenAI; without, to a local server that `play`
answers for.
Needs: pip install langchain-ws-responses langchain "langgraph-cli[inmem]" langgraph-checkpoint-sqlite
"""

from __future__ import annotations

import os
from typing import Any

from langchain.agents import create_agent

from langchain_ws_responses import ChatOpenAIWebSocket, WebSocketMiddleware
from langchain_ws_responses.testing import Answer, RecordedRequest, ResponsesServer, text, tool_call


async def stock(item: str) -> str:
    """Tell how many of an item are in stock."""
    return f"{ {'apples': 3, 'pears': 1}.get(item, 0) } {item}"


def play(request: RecordedRequest) -> Answer:
    """Without a key: asks the tool about the last word of every question."""
    newest = request.seen[-1]
    if newest.get("type") == "function_call_output":
        return text(f"There are {newest['output']}.")
    return tool_call("stock", {"item": (request.last_user_text or "").rstrip("?").split()[-1]})


access: dict[str, Any] = {}
if not os.environ.get("OPENAI_API_KEY"):
    # It runs in a daemon thread for as long as this process does.
    server = ResponsesServer(answer=play).start()
    access = {"base_url": server.base_url, "api_key": "unused"}

# One model for all threads and runs: they share its socket, each on a lane of its own.
model = ChatOpenAIWebSocket(model="gpt-5.5", **access)
# The middleware opens the socket while the run is still being set up, and keeps it ready while tools run.
graph = create_agent(
    model, [stock], system_prompt="Answer in one sentence.", middleware=[WebSocketMiddleware()]
)
