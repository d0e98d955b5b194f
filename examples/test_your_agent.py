"""Tests of an agent, without a key or a network. Run them: `python -m pytest examples/test_your_agent.py`

Needs: pip install langchain-ws-responses langchain pytest
The fixture `responses_server` comes with the package: a local server that plays the script of each test.
"""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent

from langchain_ws_responses import ChatOpenAIWebSocket
from langchain_ws_responses.testing import ResponsesServer, drop, error, tool_call

STOCK = {"apples": 3, "pears": 0}


# -- the agent; in a project of your own this is the code under test


def stock(fruit: str) -> str:
    """Tell how many there are."""
    return str(STOCK[fruit])


def ask(*questions: str) -> list[str]:
    """Asks one question after another, in one conversation."""
    agent = create_agent(ChatOpenAIWebSocket(model="gpt-5.5"), [stock], system_prompt="Be brief.")
    state: dict[str, Any] = {"messages": []}
    answers = []
    for question in questions:
        state = agent.invoke({"messages": [*state["messages"], ("user", question)]})
        answers.append(state["messages"][-1].text)
    return answers


# -- its tests


def test_stock_is_looked_up(responses_server: ResponsesServer) -> None:
    responses_server.add(tool_call("stock", {"fruit": "apples"}), "There are 3 apples.")
    assert ask("How many apples?") == ["There are 3 apples."]
    assert responses_server.requests[1].is_delta
    assert [*responses_server.requests[1].tool_outputs.values()] == ["3"]


def test_parallel_calls_are_answered_together(responses_server: ResponsesServer) -> None:
    both = [tool_call("stock", {"fruit": "apples"}), tool_call("stock", {"fruit": "pears"})]
    responses_server.add(both, "Apples only.")
    assert ask("Apples or pears?") == ["Apples only."]
    assert [*responses_server.requests[1].tool_outputs.values()] == ["3", "0"]


def test_model_sees_the_whole_conversation(responses_server: ResponsesServer) -> None:
    responses_server.add("Hello.", "You said hello.")
    ask("Hello", "What did I say?")
    assert responses_server.requests[1].mode == "delta"
    assert responses_server.requests[1].transcript == [
        "system: Be brief.",
        "user: Hello",
        "assistant: Hello.",
        "user: What did I say?",
    ]


def test_bad_moments_are_survived(responses_server: ResponsesServer) -> None:
    responses_server.add(
        error(status=429, code="rate_limit_exceeded", headers={"retry-after": "20"}),
        tool_call("stock", {"fruit": "pears"}),
        drop(after_events=2),
        "None.",
    )
    assert ask("How many pears?") == ["None."]
    assert responses_server.requests[-1].transcript[-1] == "output: 0"
