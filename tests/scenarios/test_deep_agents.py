"""deepagents with a sub-agent: its own conversation beside the main one, on the same connection."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from scenarios.graphs import World, add, essence

from langchain_ws_responses import WebSocketMiddleware
from langchain_ws_responses.testing import text, tool_call

if sys.version_info < (3, 11):
    pytest.skip("deepagents needs Python 3.11", allow_module_level=True)

deepagents = pytest.importorskip("deepagents", reason="the package deepagents is missing")


def _answer(request: Any) -> Any:
    """The main agent delegates, the sub-agent adds, both report."""
    outputs = request.tool_outputs
    if "task-1" in outputs:
        return text("The main agent says: " + str(outputs["task-1"]))
    if "add-1" in outputs:
        return text("The sum is " + str(outputs["add-1"]))
    if request.last_user_text == "What is 40 and 2?":
        return tool_call("task", {"description": "Add 40 and 2.", "subagent_type": "adder"}, "task-1")
    return tool_call("add", {"a": 40, "b": 2}, "add-1")


@pytest.mark.parametrize("middleware", [False, True], ids=["plain", "middleware"])
def test_a_deep_agent_with_a_sub_agent(world: World, middleware: bool) -> None:
    world.server.config.answer = _answer
    model = world.model()
    agent = deepagents.create_deep_agent(
        model,
        subagents=[
            {"name": "adder", "description": "Adds.", "system_prompt": "You only add.", "tools": [add]}
        ],
        middleware=[WebSocketMiddleware(model)] if middleware else [],
    )
    state = world.run(agent, {"messages": [HumanMessage("What is 40 and 2?")]})
    assert state["messages"][-1].text == "The main agent says: The sum is 42"
    assert Counter(request.is_delta for request in world.requests) == {False: 2, True: 2}
    main, sub, sub_end, main_end = world.requests
    assert sub_end.previous_response_id == sub.response_id
    assert main_end.previous_response_id == main.response_id
    assert essence(main_end.items) == [("output", "task-1", "The sum is 42")]
    assert "What is 40 and 2?" not in str(sub.seen)
    assert len(world.server.connections) == 1
    world.check()
