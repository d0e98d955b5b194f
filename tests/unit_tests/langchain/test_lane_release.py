"""A deleted thread gives its lanes back; every other thread keeps its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver

from langchain_ws_responses import ChainSaver, ChatOpenAIWebSocket, ConnectionManager
from langchain_ws_responses.testing import ResponsesServer


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_deleted_thread_gives_its_lane_back(responses_server: ResponsesServer, asynchronous: bool) -> None:
    events: list[Any] = []
    with ConnectionManager(hooks=[events.append]) as manager:
        model = ChatOpenAIWebSocket(
            model="gpt-test",
            base_url=responses_server.base_url,
            api_key="sk-test",
            transport="websocket",
            store=False,
            manager=manager,
        )
        saver = ChainSaver(InMemorySaver())
        agent = create_agent(model, [], checkpointer=saver)

        def ask(thread: str, text: str) -> str:
            config = {"configurable": {"thread_id": thread}}
            answer = agent.invoke({"messages": [("user", text)]}, config)["messages"][-1]
            return str(answer.response_metadata["transport"]["lane"])

        lanes = {thread: ask(thread, "hello") for thread in ("gone", "kept")}
        assert lanes["gone"] != lanes["kept"]
        if asynchronous:
            asyncio.run(saver.adelete_thread("gone"))
        else:
            saver.delete_thread("gone")
        assert ask("new", "hello") == lanes["gone"]
        assert ask("kept", "again") == lanes["kept"]
        assert [request.is_delta for request in responses_server.requests] == [False, False, False, True]
