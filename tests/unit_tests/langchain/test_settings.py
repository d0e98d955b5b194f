"""Settings mean the same wherever they are written down: as arguments, or in `extra_body`."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import openai
import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from pairs import WAYS, http_model, outcome, run, socket_model
from waiting import BOUND, eventually

from langchain_ws_responses import ConnectionManager, Limits, failure_of, response_link
from langchain_ws_responses._langchain.settings import has_side_effects, settled
from langchain_ws_responses.testing import ResponsesServer, drop, hold

if TYPE_CHECKING:
    from langchain_ws_responses.testing import RecordedRequest

MCP = {"type": "mcp", "server_label": "pay", "server_url": "https://example.com", "require_approval": "never"}
SEARCH = {"type": "web_search"}


# -- what must not be done twice ----------------------------------------


@pytest.mark.parametrize(
    ("tools", "acts"),
    [
        (None, False),
        ([], False),
        ([{"type": "function", "name": "mcp"}], False),
        ([{"type": "web_search"}, {"type": "file_search"}, {"type": "image_generation"}], False),
        ([{"type": "function", "name": "f"}, {"type": "mcp"}], True),
        ([{"type": "code_interpreter"}], True),
        ([{"type": "computer_use_preview"}], True),
        ([{"type": "local_shell"}], True),
        ([{"type": "shell"}], True),
        ([object()], False),
    ],
)
def test_hosted_tools_that_act_on_the_world_are_known(tools: Any, acts: bool) -> None:
    assert has_side_effects({"tools": tools}) is acts


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "acting",
    [
        {"conversation": "conv_1"},
        {"prompt": {"id": "pmpt_1"}},
        {"extra_body": {"tools": [MCP]}},
        {"extra_body": {"conversation": "conv_1"}},
    ],
    ids=str,
)
def test_request_that_may_act_is_never_repeated(
    manager: ConnectionManager, no_backoff: None, acting: dict[str, Any], way: str
) -> None:
    with ResponsesServer(drop(1)) as server:
        _, failure = outcome(socket_model(server, manager, max_retries=2).bind(**acting), way, "Hello")
        ours = failure_of(failure)
        assert ours is not None
        assert ours.replay == "ambiguous"
        assert len(server.requests) == 1


# -- in `extra_body` ----------------------------------------


def told(request: RecordedRequest) -> list[Any]:
    """All that a request tells the model, and of what else matters."""
    texts: list[Any] = [] if request.instructions is None else [request.instructions]
    for item in request.seen:
        content = item["content"]
        texts.append(content if isinstance(content, str) else "".join(part["text"] for part in content))
    return [request.model, request.body.get("conversation"), request.tools, texts]


def conversation(model: Any, way: str) -> None:
    """Three turns; the prompt changes before the last one."""
    history: list[Any] = [SystemMessage("Show no prices."), HumanMessage("a")]
    for asked in ("b", "c"):
        answers = run(model, way, history)
        whole = answers[0]
        for chunk in answers[1:]:
            whole = whole + chunk
        history += [whole, HumanMessage(asked)]
    history[0] = SystemMessage("Show no costs.")
    run(model, way, history)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("transport", ["websocket", "http"])
@pytest.mark.parametrize(
    "extra",
    [
        {"instructions": "Be brief."},
        {"conversation": "conv_1"},
        {"model": "gpt-other"},
        {"tools": [SEARCH]},
        {"store": False},
        {"background": False},
        {"include": ["file_search_call.results"]},
        {"custom": {"x": 1}},
    ],
    ids=str,
)
def test_the_model_is_told_what_it_is_told_over_http(
    manager: ConnectionManager, extra: dict[str, Any], transport: str, way: str
) -> None:
    answers = ("One.", "Two.", "Three.")
    with ResponsesServer(*answers) as expected, ResponsesServer(*answers) as server:
        conversation(http_model(expected, extra_body=extra), way)
        conversation(socket_model(server, manager, extra_body=extra, transport=transport), way)
        assert list(map(told, server.requests)) == list(map(told, expected.requests))


@pytest.mark.parametrize(
    "named",
    [
        {"instructions": "Be brief."},
        {"conversation": "conv_1"},
        {"model": "gpt-other"},
        {"tools": [SEARCH]},
        {"store": False},
        {"include": ["file_search_call.results"]},
        {"prompt": {"id": "pmpt_1"}},
        {"previous_response_id": None},
    ],
    ids=str,
)
def test_the_plan_is_that_of_the_named_argument(manager: ConnectionManager, named: dict[str, Any]) -> None:
    sent = []
    for given in (named, {"extra_body": named}):
        with ResponsesServer("One.", "Two.", "Three.") as server:
            conversation(socket_model(server, manager).bind(**given), "invoke")
            sent.append(
                [(each.mode, sorted(each.body), each.body.get("include")) for each in server.requests]
            )
    assert sent[0] == sent[1]


def test_another_model_in_extra_body_is_not_told_to_continue(manager: ConnectionManager) -> None:
    with ResponsesServer("One.", "Two.") as server:
        model = socket_model(server, manager)
        first = model.invoke("a")
        model.invoke([HumanMessage("a"), first, HumanMessage("b")], extra_body={"model": "gpt-other"})
        assert [(each.model, each.is_full) for each in server.requests] == [
            ("gpt-5.5", True),
            ("gpt-other", True),
        ]


def test_input_in_extra_body_is_sent_as_given_and_proves_nothing(manager: ConnectionManager) -> None:
    with ResponsesServer("One.", "Two.") as server:
        model = socket_model(server, manager)
        own = [{"type": "message", "role": "user", "content": "mine"}]
        first = model.invoke("a", extra_body={"input": own})
        assert response_link(first) is None
        assert first.response_metadata["transport"]["reason"] == "caller"
        model.invoke([HumanMessage("a"), first, HumanMessage("b")])
        assert server.requests[0].items == own
        assert server.requests[1].is_full
        assert len(server.requests[1].items) == 3


def test_the_caller_s_settings_are_not_changed() -> None:
    extra = {"store": False, "custom": 1}
    given = {"model": "m", "extra_body": extra}
    assert settled(given) == {
        "model": "m",
        "store": False,
        "include": ["reasoning.encrypted_content"],
        "extra_body": {"custom": 1},
    }
    assert given == {"model": "m", "extra_body": {"store": False, "custom": 1}}
    assert given["extra_body"] is extra


# -- others ----------------------------------------


@pytest.mark.parametrize("absent", [openai.NOT_GIVEN, openai.omit], ids=["not given", "omit"])
@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_values_that_say_that_there_is_none_are_left_out(
    manager: ConnectionManager, transport: str, absent: Any
) -> None:
    with ResponsesServer("One.") as server:
        model = socket_model(server, manager, transport=transport)
        given = {
            "user": absent,
            "previous_response_id": absent,
            "extra_body": {"store": absent, "custom": absent},
        }
        assert model.invoke("a", **given).text == "One."
        assert not {"user", "previous_response_id", "store", "custom"} & server.requests[0].body.keys()
        assert server.requests[0].body["model"] == "gpt-5.5"


def test_the_caller_s_own_response_is_continued_where_it_lives() -> None:
    """With `store=False` only its connection has it, and another turn keeps that connection busy."""
    gate = threading.Event()
    limits = Limits(max_in_flight=1)
    with (
        ResponsesServer("One.", hold(gate, "Busy."), "Two.") as server,
        ConnectionManager(limits=limits) as own,
    ):
        model = socket_model(server, own, store=False, chain="off")
        first = model.invoke("a")
        other = threading.Thread(target=model.invoke, args=("other",), daemon=True)
        other.start()
        server.wait_for(lambda: len(server.requests) == 2)
        waiting: list[Any] = []
        bound = model.bind(previous_response_id=first.response_metadata["id"])
        third = threading.Thread(target=lambda: waiting.append(bound.invoke("b")), daemon=True)
        third.start()
        eventually(lambda: own.stats().waiting == 1, "the turn waits for the lane of its response")
        gate.set()
        third.join(BOUND)
        other.join(BOUND)
        assert [answer.text for answer in waiting] == ["Two."]
        assert len({request.connection for request in server.requests}) == 1
