"""An agent behind an endpoint that streams server-sent events. Run it: `python examples/fastapi_stream.py`

Then, in another terminal:

    curl -N localhost:8000/threads/1 -H 'content-type: application/json' -d '{"text": "How many apples are there?"}'

All requests share one socket. Who hangs up ends only the own turn: its graph is cancelled, the rest of its answer is
swallowed, and the next request finds the socket open. With OPENAI_API_KEY set it talks to OpenAI; without, to a local
server that `play` answers for.
Needs: pip install langchain-ws-responses langchain fastapi uvicorn; Python 3.11 or newer (before, LangGraph does not
stream the tokens of async nodes)
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from langchain.agents import create_agent
from langchain_core.messages import AIMessageChunk
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import BaseModel

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager
from langchain_ws_responses.testing import Answer, RecordedRequest, ResponsesServer, text, tool_call


def stock(item: str) -> int:
    """Tell how many of an item are in stock."""
    return {"apples": 3, "pears": 1}.get(item, 0)


def play(request: RecordedRequest) -> Answer:
    """Without a key: one call of the tool, then a sentence."""
    newest = request.seen[-1]
    if newest.get("type") == "function_call_output":
        return text(f"There are {newest['output']} of them.")
    return tool_call("stock", {"item": "apples"})


class Question(BaseModel):
    text: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        access: dict[str, Any] = {}
        if not os.environ.get("OPENAI_API_KEY"):
            server = await stack.enter_async_context(ResponsesServer(answer=play))
            access = {"base_url": server.base_url, "api_key": "unused"}
        # Closes its sockets when the app shuts down.
        manager = await stack.enter_async_context(ConnectionManager())
        model = ChatOpenAIWebSocket(model="gpt-5.5", manager=manager, **access)
        await model.apreconnect()
        app.state.agent = create_agent(model, [stock], checkpointer=InMemorySaver())
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/threads/{thread}")
async def ask(thread: str, question: Question) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        config = {"configurable": {"thread_id": thread}}
        given = {"messages": [("user", question.text)]}
        # Closed also when the client has gone: then the run ends here, in the middle.
        async with aclosing(app.state.agent.astream(given, config, stream_mode="messages")) as stream:
            async for chunk, _ in stream:
                if not isinstance(chunk, AIMessageChunk):
                    continue
                if chunk.text:
                    yield f"data: {json.dumps(chunk.text)}\n\n"
                if sent := chunk.response_metadata.get("transport"):
                    yield f"event: sent\ndata: {json.dumps(sent)}\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


if __name__ == "__main__":
    uvicorn.run(app)
