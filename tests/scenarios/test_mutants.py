"""The scenarios fail without the proof of a delta: what they check is what the fingerprint keeps from happening."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from scenarios.graphs import World, chat_graph, essence, thread

from langchain_ws_responses._protocol import chain
from langchain_ws_responses._types import Reason


def _believe(monkeypatch: pytest.MonkeyPatch, *doubts: Reason) -> None:
    """Makes the client deaf to some reasons for not believing a link."""
    honest = chain._refusal

    def refusal(*args: Any, **kwargs: Any) -> Reason | None:
        found = honest(*args, **kwargs)
        return None if found in doubts else found

    monkeypatch.setattr(chain, "_refusal", refusal)


def _after_an_edit(world: World) -> Any:
    """Three turns, an edit of the very first message, and one turn more; returns the last request."""
    world.server.add("one", "two", "three", "four")
    graph = chat_graph(world.model(), checkpointer=InMemorySaver())
    for words in "abc":
        world.run(graph, {"messages": [HumanMessage(words)]}, thread())
    first = graph.get_state(thread()).values["messages"][0]
    graph.update_state(thread(), {"messages": [first.model_copy(update={"content": "A!"})]})
    world.run(graph, {"messages": [HumanMessage("d")]}, thread())
    return world.requests[3]


def test_with_the_check_an_edit_reaches_the_model(plain_world: World) -> None:
    request = _after_an_edit(plain_world)
    assert request.previous_response_id is None
    assert essence(request.seen)[0] == ("user", "A!")
    plain_world.check()


def test_without_the_fingerprint_the_model_sees_what_was_edited(
    plain_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    _believe(monkeypatch, Reason.HISTORY_CHANGED)
    request = _after_an_edit(plain_world)
    assert request.previous_response_id == plain_world.requests[2].response_id
    assert essence(request.seen)[0] == ("user", "a"), "the mutant is not one: the edit still arrives"
    with pytest.raises(AssertionError, match="request 3:"):
        plain_world.check()
