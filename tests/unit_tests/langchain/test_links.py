"""`response_link`: what a message says of its response, and nothing when it says it badly."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage

from langchain_ws_responses import response_link

LINK = {"v": 1, "id": "resp_1", "fp": "f", "sys": "0", "sig": "s", "model": "m", "store": True, "node": ""}


@pytest.mark.parametrize("kind", [AIMessage, AIMessageChunk])
def test_link_is_a_copy(kind: Any) -> None:
    message = kind("Hi.", response_metadata={"openai_chain": dict(LINK)})
    link = response_link(message)
    assert link == LINK
    assert link is not None
    link["id"] = "resp_2"
    assert response_link(message) == LINK


@pytest.mark.parametrize("value", [None, "resp_1", [], {}, {"id": None}, {"id": 5}, {"v": 1}])
def test_what_is_no_link_is_none(value: Any) -> None:
    assert response_link(AIMessage("Hi.", response_metadata={"openai_chain": value})) is None


def test_messages_without_metadata_have_none() -> None:
    assert response_link(AIMessage("Hi.")) is None
    assert response_link(HumanMessage("Hi.")) is None


def test_public_home() -> None:
    assert response_link.__module__ == "langchain_ws_responses"
