"""One turn and its recoveries: what is sent again, what is raised, and that no token comes twice."""

from __future__ import annotations

import asyncio
import pickle
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import StreamChunkTimeoutError
from pairs import WAYS, http_model, outcome, run, socket_model

from langchain_ws_responses import ConnectionManager, Limits, Replay, RetryPolicy, failure_of, response_link
from langchain_ws_responses._transport.runtime import runtime
from langchain_ws_responses.errors import ConnectionLost, TransportError
from langchain_ws_responses.testing import (
    ResponsesServer,
    calls,
    drop,
    error,
    events,
    hold,
    reasoning,
    text,
    tool_call,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_ws_responses import ChatOpenAIWebSocket
    from langchain_ws_responses.testing import Answer, RecordedRequest

STREAMS = ("stream", "astream")
ANSWER = "One two three four."
TALK = [HumanMessage("First?"), AIMessage("One."), HumanMessage("Second?")]


def after_one_turn(model: ChatOpenAIWebSocket) -> list[Any]:
    """A history that the next turn would continue with a delta."""
    return [HumanMessage("First?"), model.invoke([HumanMessage("First?")]), HumanMessage("Second?")]


def said(answers: list[Any]) -> str:
    return "".join(answer.text for answer in answers)


def transport_of(answers: list[Any]) -> dict[str, Any]:
    found: dict[str, Any] = answers[-1].response_metadata["transport"]
    return found


# -- the response to continue is gone ----------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_lost_response_costs_one_full_resend_that_nobody_sees(
    manager: ConnectionManager, transport: str, way: str
) -> None:
    with ResponsesServer("One.", ANSWER) as server:
        model = socket_model(server, manager, transport=transport)
        history = after_one_turn(model)
        server.forget()
        answers = run(model, way, history)
        assert said(answers) == ANSWER
        _, delta, full = server.requests
        assert delta.is_delta
        assert delta.error_code == "previous_response_not_found"
        assert full.is_full
        assert [item["role"] for item in full.items] == ["user", "assistant", "user"]
        told = transport_of(answers)
        assert (told["mode"], told["reason"], told["resends"], told["items"]) == (
            "full",
            "previous_response_not_found",
            1,
            3,
        )
        assert told["bytes"] == full.raw_bytes


def test_lost_response_is_resent_even_where_no_retry_is_allowed(manager: ConnectionManager) -> None:
    with ResponsesServer("One.", ANSWER) as server:
        model = socket_model(server, manager, max_retries=0, on_ambiguous="raise")
        history = after_one_turn(model)
        server.forget()
        assert model.invoke(history).text == ANSWER


class DyingSockets(ConnectionManager):
    """The socket dies as a turn comes to it: in the same round of the I/O loop, so that nobody can know."""

    deaths = 0

    def _admit(self, ticket: Any) -> None:
        if self.deaths:
            sockets = [connection.socket for pool in self._pools.values() for connection in pool.connections]
            if not sockets:
                self._want(ticket.endpoint)
                runtime().loop.call_later(0.001, self._admit, ticket)
                return
            self.deaths -= 1
            for socket in sockets:
                socket.transport.abort()
        super()._admit(ticket)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("store", [True, False])
def test_turn_that_met_a_dead_idle_socket_is_no_retry(way: str, store: bool) -> None:
    """Nothing was written: over HTTP the pool would have replaced the connection without a word."""
    with ResponsesServer("One.", ANSWER) as server, DyingSockets() as manager:
        model = socket_model(server, manager, max_retries=0, on_ambiguous="raise", store=store)
        history = after_one_turn(model)
        manager.deaths = 1
        answers = run(model, way, history)
        assert said(answers) == ANSWER
        assert transport_of(answers)["resends"] == 0
        assert len(server.requests) == 2
        assert manager.stats().dials == 2


def test_sockets_that_go_on_dying_are_an_error_after_the_second() -> None:
    with ResponsesServer("One.") as server, DyingSockets() as manager:
        model = socket_model(server, manager, max_retries=0)
        history = after_one_turn(model)
        manager.deaths = 2
        with pytest.raises(openai.APIConnectionError) as caught:
            model.invoke(history)
        error = failure_of(caught.value)
        assert isinstance(error, ConnectionLost)
        assert error.replay is Replay.SAFE
        assert (len(server.requests), manager.stats().dials) == (1, 2)


@pytest.mark.parametrize("way", WAYS)
def test_usage_is_that_of_the_answer_alone(manager: ConnectionManager, way: str) -> None:
    """A lost attempt, a refused delta and a warm-up are billed apart; nothing of them is in the message."""
    first, second = HumanMessage("First?"), HumanMessage("Second?")
    with ResponsesServer("One.", ANSWER) as server:
        model = http_model(server)
        expected = total(run(model, way, [first, model.invoke([first]), second])).usage_metadata
    assert expected is not None
    assert expected["output_tokens"] > 0
    gone = error(code="previous_response_not_found")
    with ResponsesServer("One.", gone, drop(2), ANSWER) as server:
        model = socket_model(server, manager, max_retries=2)
        model.warm_up([first])
        whole = total(run(model, way, after_one_turn(model)))
    assert whole.usage_metadata == expected
    assert whole.response_metadata["transport"]["resends"] == 2


def total(answers: list[Any]) -> Any:
    """One message of an answer or of all of its chunks."""
    whole = answers[0]
    for chunk in answers[1:]:
        whole += chunk
    return whole


def ignoring(response_id: str, words: str) -> Any:
    """A whole answer of a server that pays no heed to the response that it was told to continue."""
    item = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": words, "annotations": []}],
    }
    response = {
        "id": response_id,
        "object": "response",
        "created_at": 1,
        "model": "gpt-5.5",
        "status": "in_progress",
        "previous_response_id": None,
        "output": [],
    }
    done = {**response, "status": "completed", "output": [item]}
    delta = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": words, "logprobs": []}
    listed = [
        {"type": "response.created", "response": response},
        {"type": "response.in_progress", "response": response},
        {"type": "response.output_item.added", "output_index": 0, "item": {**item, "content": []}},
        {"type": "response.output_text.delta", **delta},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": done},
    ]
    return events({**event, "sequence_number": number} for number, event in enumerate(listed))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_answer_without_the_history_is_never_shown(
    manager: ConnectionManager, transport: str, way: str
) -> None:
    with ResponsesServer("One.", ignoring("resp_bad", "Who are you?"), ANSWER) as server:
        model = socket_model(server, manager, transport=transport)
        history = after_one_turn(model)
        answers = run(model, way, history)
        assert said(answers) == ANSWER
        assert "resp_bad" not in str(answers)
        told = transport_of(answers)
        assert (told["mode"], told["reason"], told["resends"]) == ("full", "previous_response_ignored", 1)
        assert [item["role"] for item in server.requests[2].seen] == ["user", "assistant", "user"]


def test_server_that_ignores_what_it_is_told_to_continue_is_told_no_more(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        model = socket_model(server, manager)
        for _ in range(2):
            server.add("One.", ignoring("resp_bad", "Who are you?"), "Two.")
            model.invoke(after_one_turn(model))
        server.add("One.", "Two.")
        before = len(server.requests)
        answer = model.invoke(after_one_turn(model))
        assert len(server.requests) == before + 2
        told = answer.response_metadata["transport"]
        assert (told["mode"], told["reason"], told["resends"]) == ("full", "previous_response_ignored", 0)


# -- the socket is lost ----------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("events_before", [0, 1, 2])
@pytest.mark.parametrize("code", [None, 1000, 1011])
def test_socket_lost_before_output_is_made_up_for_by_one_full_resend(
    manager: ConnectionManager, no_backoff: None, code: int | None, events_before: int, way: str
) -> None:
    with ResponsesServer("One.", drop(events_before, code), ANSWER) as server:
        model = socket_model(server, manager, max_retries=2)
        answers = run(model, way, after_one_turn(model))
        assert said(answers) == ANSWER
        _, lost, resent = server.requests
        assert lost.is_delta
        assert resent.is_full
        assert resent.connection != lost.connection
        assert [item["role"] for item in resent.items] == ["user", "assistant", "user"]
        told = transport_of(answers)
        assert (told["reason"], told["resends"]) == ("connection_lost", 1)
        assert manager.stats().resends == 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("events_before", [5, 7, 99])
def test_socket_lost_after_output_is_raised_to_a_stream_and_resent_to_a_call(
    manager: ConnectionManager, no_backoff: None, events_before: int, way: str
) -> None:
    with ResponsesServer(drop(events_before, answer=text(ANSWER, 8))) as server:
        model = socket_model(server, manager, max_retries=2)
        if way not in STREAMS:
            server.add(ANSWER)
        seen, failure = outcome(model, way, "Hello")
        if way not in STREAMS:
            assert failure is None
            assert said(seen) == ANSWER
            assert len(server.requests) == 2
            return
        assert isinstance(failure, openai.APIConnectionError)
        ours = failure_of(failure)
        assert isinstance(ours, ConnectionLost)
        assert (ours.replay, ours.phase) == ("unsafe", "streaming")
        assert ours.events_seen >= events_before or events_before == 99
        assert len(server.requests) == 1
        words = said(seen)
        assert words
        assert ANSWER.startswith(words)
        assert not any("transport" in chunk.response_metadata for chunk in seen)


@pytest.mark.parametrize("way", WAYS)
def test_unknown_outcome_is_raised_where_the_user_wants_it(
    manager: ConnectionManager, no_backoff: None, way: str
) -> None:
    with ResponsesServer(drop(1)) as server:
        _, failure = outcome(socket_model(server, manager, max_retries=2, on_ambiguous="raise"), way, "Hello")
        ours = failure_of(failure)
        assert isinstance(ours, ConnectionLost)
        assert ours.replay == "ambiguous"
        assert len(server.requests) == 1


ACTING = [
    {"type": "code_interpreter", "container": {"type": "auto"}},
    {
        "type": "mcp",
        "server_label": "docs",
        "server_url": "https://example.com/mcp",
        "require_approval": "never",
    },
    {"type": "local_shell"},
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("acting", ACTING, ids=lambda each: each["type"])
def test_request_with_a_tool_that_acts_is_never_repeated(
    manager: ConnectionManager, no_backoff: None, acting: dict[str, Any], way: str
) -> None:
    with ResponsesServer(drop(1)) as server:
        model = socket_model(server, manager, max_retries=2).bind(tools=[acting])
        _, failure = outcome(model, way, "Hello")
        ours = failure_of(failure)
        assert ours is not None
        assert ours.replay == "ambiguous"
        assert len(server.requests) == 1


def test_request_with_a_tool_that_only_reads_is_repeated(
    manager: ConnectionManager, no_backoff: None
) -> None:
    with ResponsesServer(drop(1), ANSWER) as server:
        model = socket_model(server, manager, max_retries=2).bind_tools([{"type": "web_search"}])
        assert model.invoke("Hello").text == ANSWER


def edited_meanwhile(
    said: HumanMessage, number: int, words: str, failing: Answer
) -> Callable[[RecordedRequest], Answer]:
    """Answers, but for one request: the message is edited while that is in flight, and then it fails."""

    def answer(request: RecordedRequest) -> Answer:
        if request.number != number:
            return text("Fine.")
        said.content = words
        return failing

    return answer


def test_a_message_edited_before_the_resend_is_what_the_answer_is_to(
    manager: ConnectionManager, no_backoff: None
) -> None:
    said = HumanMessage("original")
    with ResponsesServer(answer=edited_meanwhile(said, 1, "edited", drop(1))) as server:
        model = socket_model(server, manager, max_retries=2)
        first = model.invoke([said])
        said.content = "original"
        model.invoke([said, first, HumanMessage("Really?")])
        assert [request.last_user_text for request in server.requests] == ["original", "edited", "Really?"]
        assert server.requests[2].is_full
        assert "edited" not in str(server.requests[2].seen)


def test_a_message_redacted_before_a_delta_is_sent_again_makes_it_a_full_send(
    manager: ConnectionManager, no_backoff: None
) -> None:
    said = HumanMessage("my card")
    busy = error(code="rate_limit_exceeded", status=429)
    with ResponsesServer(answer=edited_meanwhile(said, 2, "my ****", busy)) as server:
        model = socket_model(server, manager, max_retries=2)
        history = [said, model.invoke([said]), HumanMessage("Second?")]
        second = model.invoke(history)
        assert second.response_metadata["transport"]["reason"] == "history_changed"
        model.invoke([*history, second, HumanMessage("Third?")])
        assert [(request.is_delta, "my card" in str(request.seen)) for request in server.requests] == [
            (False, True),
            (True, True),
            (False, False),
            (True, False),
        ]


def test_a_message_edited_before_http_takes_over_is_what_the_answer_is_to(
    manager: ConnectionManager, no_backoff: None
) -> None:
    said = HumanMessage("original")
    with ResponsesServer(answer=edited_meanwhile(said, 1, "edited", drop(0, code=1009))) as server:
        model = socket_model(server, manager, transport="auto", max_retries=2).bind_tools(
            [{"type": "web_search"}]
        )
        first = model.invoke([said])
        assert first.response_metadata["transport"]["kind"] == "http"
        said.content = "original"
        model.invoke([said, first, HumanMessage("Really?")])
        assert "edited" not in str(server.requests[-1].seen)
        assert len(server.requests[-1].seen) == 3


def test_second_loss_is_raised(manager: ConnectionManager, no_backoff: None) -> None:
    with ResponsesServer(drop(1), drop(1)) as server:
        with pytest.raises(openai.APIConnectionError):
            socket_model(server, manager, max_retries=5).invoke("Hello")
        assert len(server.requests) == 2


def test_resend_carries_every_tool_output(manager: ConnectionManager, no_backoff: None) -> None:
    from langchain_core.messages import ToolMessage

    asked = calls(tool_call("a", {}, call_id="call_a"), tool_call("b", {}, call_id="call_b"))
    with ResponsesServer(asked, drop(0), ANSWER) as server:
        model = socket_model(server, manager, max_retries=2)
        history: list[Any] = [HumanMessage("Both.")]
        history += [
            model.invoke(history),
            ToolMessage("1", tool_call_id="call_a"),
            ToolMessage("2", tool_call_id="call_b"),
        ]
        assert model.invoke(history).text == ANSWER
        lost, resent = server.requests[1:]
        assert lost.tool_outputs == resent.tool_outputs == {"call_a": "1", "call_b": "2"}
        kinds = [item["type"] for item in resent.items]
        assert kinds == ["message", "function_call", "function_call", *["function_call_output"] * 2]


@pytest.mark.parametrize("store", [None, False])
def test_turn_after_an_idle_loss_that_was_noticed(store: bool | None) -> None:
    noticed = threading.Event()

    def hook(event: Any) -> None:
        if type(event).__name__ == "ConnectionClosed":
            noticed.set()

    with ConnectionManager(hooks=[hook]) as manager, ResponsesServer("One.", ANSWER) as server:
        model = socket_model(server, manager, store=store)
        history = after_one_turn(model)
        server.drop_connections()
        assert noticed.wait(5)
        answer = model.invoke(history)
        assert answer.text == ANSWER
        told = answer.response_metadata["transport"]
        # What is stored can be continued on any connection.
        expected = ("full", "not_alive") if store is False else ("delta", "chain")
        assert (told["mode"], told["reason"]) == expected
        assert [item["role"] for item in server.requests[1].seen] == ["user", "assistant", "user"]
        assert len(server.connections) == 2


@pytest.mark.parametrize("store", [None, False])
def test_turn_that_runs_into_an_idle_loss(
    manager: ConnectionManager, no_backoff: None, store: bool | None
) -> None:
    with ResponsesServer("One.", ANSWER) as server:
        model = socket_model(server, manager, store=store, max_retries=2)
        history = after_one_turn(model)
        server.drop_connections()
        assert model.invoke(history).text == ANSWER
        assert [item["role"] for item in server.requests[-1].seen] == ["user", "assistant", "user"]


# -- the server wants to be asked again ----------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "fault",
    [
        error(status=429, code="rate_limit_exceeded", message="Slow."),
        error(status=503, code="server_is_overloaded", message="Busy."),
        error(status=500, code="server_error", message="Oops."),
        error(status=None, code="slow_down", message="Slow.", shape="flat"),
    ],
    ids=["429", "503", "500", "slow down"],
)
def test_passing_trouble_is_retried_as_often_as_max_retries_allows(
    manager: ConnectionManager, no_backoff: None, fault: Any, way: str
) -> None:
    with ResponsesServer(fault, fault, ANSWER) as server:
        answers = run(socket_model(server, manager, max_retries=2), way, "Hello")
        assert said(answers) == ANSWER
        assert transport_of(answers)["resends"] == 2
        server.add(fault, fault)
        _, failure = outcome(socket_model(server, manager, max_retries=1), way, "Hello")
        assert isinstance(failure, openai.APIError)
        assert len(server.requests) == 5


def test_retry_policy_bounds_the_attempts_where_max_retries_is_not_set(no_backoff: None) -> None:
    fault = error(status=429, message="Slow.")
    policy = RetryPolicy(max_attempts=3)
    with ConnectionManager(retry=policy) as manager, ResponsesServer(fault, fault, fault) as server:
        with pytest.raises(openai.RateLimitError):
            socket_model(server, manager, max_retries=None).invoke("Hello")
        assert len(server.requests) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422])
def test_fault_of_the_request_is_not_retried(
    manager: ConnectionManager, no_backoff: None, status: int
) -> None:
    with ResponsesServer(error(status=status, message="No.")) as server:
        with pytest.raises(openai.APIStatusError):
            socket_model(server, manager, max_retries=3).invoke("Hello")
        assert len(server.requests) == 1


def test_empty_account_is_not_retried(manager: ConnectionManager, no_backoff: None) -> None:
    with ResponsesServer(error(status=429, code="insufficient_quota", message="Pay.")) as server:
        with pytest.raises(openai.RateLimitError):
            socket_model(server, manager, max_retries=3).invoke("Hello")
        assert len(server.requests) == 1


def test_retry_waits_as_long_as_the_server_asks(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langchain_ws_responses._transport import retry

    asked: list[float | None] = []

    def back_off(policy: Any, attempt: int, seconds: float | None = None) -> float:
        asked.append(seconds)
        return 0.0

    monkeypatch.setattr(retry, "back_off", back_off)
    with ResponsesServer(error(status=429, headers={"retry-after": "7"}, message="Slow."), ANSWER) as server:
        assert socket_model(server, manager, max_retries=2).invoke("Hello").text == ANSWER
    assert asked == [7.0]


def test_wait_beyond_the_policy_is_not_begun(manager: ConnectionManager) -> None:
    """A day's quota is used up: nobody wants a call that sleeps until tomorrow."""
    with ResponsesServer(error(status=429, headers={"retry-after": "3600"}, message="Slow.")) as server:
        with pytest.raises(openai.RateLimitError) as raised:
            socket_model(server, manager, max_retries=5).invoke("Hello")
        assert raised.value.response.headers["retry-after"] == "3600"
        assert len(server.requests) == 1


# -- what the answer says of its transport ----------------------------------------

TRANSPORT_TYPES = {
    "kind": str,
    "mode": str,
    "reason": str,
    "items": int,
    "bytes": int,
    "connection": str,
    "lane": str,
    "reused": bool,
    "resends": int,
}
LINK_TYPES = {
    "v": int,
    "id": str,
    "fp": str,
    "sys": str,
    "sig": str,
    "model": str,
    "store": bool,
    "node": str,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_metadata_is_plain_and_on_the_last_chunk_only(
    manager: ConnectionManager, transport: str, way: str
) -> None:
    with ResponsesServer("One.", ANSWER) as server:
        model = socket_model(server, manager, transport=transport)
        answers = run(model, way, after_one_turn(model))
        *others, last = answers
        for chunk in others:
            assert not {"transport", "openai_chain"} & chunk.response_metadata.keys()
        told, link = (last.response_metadata[name] for name in ("transport", "openai_chain"))
        assert {name: type(value) for name, value in told.items()} == TRANSPORT_TYPES
        expected = {**LINK_TYPES, **({"conn": str} if transport == "websocket" else {})}
        assert {name: type(value) for name, value in link.items()} == expected
        request = server.requests[1]
        assert (told["mode"], told["reason"], told["items"]) == ("delta", "chain", 1)
        assert told["bytes"] == request.raw_bytes
        assert told["kind"] == transport
        if transport == "websocket":
            assert told["reused"] is True
            assert told["lane"] == (request.stream_id or "")
            assert told["connection"] == link["conn"] != ""
        else:
            assert (told["connection"], told["lane"], told["reused"]) == ("", "", False)
        assert link["id"] == request.response_id
        assert (link["store"], link["node"], link["model"]) == (True, "", "gpt-5.5")
        merged = answers[0]
        for chunk in others[1:] + ([last] if others else []):
            merged = merged + chunk
        assert merged.response_metadata["transport"] == told
        assert response_link(merged) == link
        assert response_link(merged) is not link


@pytest.mark.parametrize("version", ["v0", "responses/v1", "v1"])
@pytest.mark.parametrize("way", ["stream", "astream"])
def test_merged_chunks_are_continued_with_a_delta(manager: ConnectionManager, way: str, version: str) -> None:
    first = reasoning("Hm.", calls(tool_call("a", {"x": [1, 2.5]}, call_id="call_a"), text="Wait."))
    with ResponsesServer(first, ANSWER) as server:
        model = socket_model(server, manager, output_version=version)
        chunks = run(model, way, "First?")
        merged = chunks[0]
        for chunk in chunks[1:]:
            merged = merged + chunk
        from langchain_core.messages import ToolMessage

        history = [HumanMessage("First?"), merged, ToolMessage("1", tool_call_id="call_a")]
        assert model.invoke(history).text == ANSWER
        assert server.requests[1].is_delta
        assert len(server.requests[1].items) == 1


def test_link_names_the_graph_node_that_asked(manager: ConnectionManager) -> None:
    from langgraph.graph import START, MessagesState, StateGraph

    with ResponsesServer("Hi.") as server:
        model = socket_model(server, manager)
        graph = StateGraph(MessagesState)
        graph.add_node("writer", lambda state: {"messages": [model.invoke(state["messages"])]})
        graph.add_edge(START, "writer")
        answer = graph.compile().invoke({"messages": [HumanMessage("Hello")]})["messages"][-1]
        link = response_link(answer)
        assert link is not None
        assert link["node"] == "writer"


# -- switches ----------------------------------------


def test_chain_off_sends_everything_and_makes_no_link(manager: ConnectionManager) -> None:
    with ResponsesServer("One.", "Two.") as server:
        model = socket_model(server, manager, chain="off")
        answer = model.invoke(after_one_turn(model))
        assert response_link(answer) is None
        assert answer.response_metadata["transport"]["reason"] == "chain_off"
        assert [item["role"] for item in server.requests[1].items] == ["user", "assistant", "user"]
        assert not server.requests[1].is_delta


def prompts(model: ChatOpenAIWebSocket, *systems: str) -> list[dict[str, Any]]:
    """One conversation whose system prompt changes from turn to turn; how each turn was sent."""
    history: list[Any] = []
    told = []
    for number, system in enumerate(systems):
        history.append(HumanMessage(f"Question {number}?"))
        history.append(model.invoke([SystemMessage(system), *history]))
        told.append(history[-1].response_metadata["transport"])
    return told


@pytest.mark.parametrize(
    ("mode", "modes"),
    [
        ("input", ["full", "delta", "full", "full"]),
        ("instructions", ["full", "delta", "delta", "delta"]),
        ("auto", ["full", "delta", "full", "delta"]),
    ],
)
def test_system_mode_decides_what_a_changed_prompt_costs(
    manager: ConnectionManager, mode: str, modes: list[str]
) -> None:
    with ResponsesServer() as server:
        model = socket_model(server, manager, system_mode=mode)
        told = prompts(model, "Be brief.", "Be brief.", "Be kind.", "Be quick.")
        assert [each["mode"] for each in told] == modes
        for request, system in zip(
            server.requests, ["Be brief.", "Be brief.", "Be kind.", "Be quick."], strict=True
        ):
            seen = [item["content"] for item in request.seen if item.get("role") == "system"]
            given = [request.instructions] if request.instructions else []
            # Exactly one system prompt, and the right one, however it was sent.
            assert seen + given == [system]
            assert len([item for item in request.seen if item.get("role") == "user"]) >= 1


def test_own_instructions_are_left_alone(manager: ConnectionManager) -> None:
    with ResponsesServer("One.", "Two.") as server:
        model = socket_model(server, manager, system_mode="instructions").bind(instructions="Mine.")
        history: list[Any] = [SystemMessage("Be brief."), HumanMessage("First?")]
        history += [model.invoke(history), HumanMessage("Second?")]
        model.invoke(history)
        assert [request.instructions for request in server.requests] == ["Mine.", "Mine."]
        assert [item["content"] for item in server.requests[0].items] == ["Be brief.", "First?"]
        assert [item["content"] for item in server.requests[1].items] == ["Second?"]


# -- clocks ----------------------------------------


def stalling(gate: threading.Event) -> ResponsesServer:
    """A server that stops in the middle of every answer."""
    return ResponsesServer(answer=lambda _request: hold(gate, text(ANSWER, 8), after_events=6))


@pytest.mark.parametrize("where", ["field", "environment"])
def test_stream_chunk_timeout_ends_an_async_stream_with_the_error_of_http(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    gate = threading.Event()
    given: dict[str, Any] = {}
    if where == "field":
        given["stream_chunk_timeout"] = 0.2
    else:
        monkeypatch.setenv("LANGCHAIN_OPENAI_STREAM_CHUNK_TIMEOUT_S", "0.2")
    with stalling(gate) as server:
        _, over_http = outcome(http_model(server, **given), "astream", "Hello")
        seen, failure = outcome(socket_model(server, manager, **given), "astream", "Hello")
        gate.set()
    assert isinstance(over_http, StreamChunkTimeoutError)
    assert ANSWER.startswith(said(seen))
    for ours in (failure, pickle.loads(pickle.dumps(failure))):  # noqa: S301 - made in this line
        assert isinstance(ours, StreamChunkTimeoutError)
        assert isinstance(ours, TransportError)
        assert (ours.timeout_s, ours.model_name) == (over_http.timeout_s, over_http.model_name)
        assert ours.failure.kind == "between_events_timeout"
        assert ours.replay is (Replay.UNSAFE if said(seen) else Replay.AMBIGUOUS)
        assert ours.chunks_received == ours.events_seen > 0
        assert "`stream_chunk_timeout`" in str(ours)


@pytest.mark.parametrize("given", [{}, {"include_response_headers": True}], ids=["", "headers"])
def test_stream_chunk_timeout_is_kept_by_a_stream_that_moves_to_http(
    manager: ConnectionManager, given: dict[str, Any]
) -> None:
    gate = threading.Event()
    # The read timeout ends what the other one does not.
    given = {**given, "stream_chunk_timeout": 0.2, "timeout": 20}
    with stalling(gate) as server:
        server.config.refuse_upgrade = 426
        _, over_http = outcome(http_model(server, **given), "astream", TALK)
        moved = socket_model(server, manager, transport="auto", **given)
        seen, failure = outcome(moved, "astream", TALK)
        gate.set()
        assert [request.transport for request in server.requests] == ["sse", "sse"]
        assert len(server.handshakes) == 1
    assert isinstance(over_http, StreamChunkTimeoutError)
    assert type(failure) is StreamChunkTimeoutError
    assert (failure.timeout_s, failure.model_name) == (over_http.timeout_s, over_http.model_name)
    assert ANSWER.startswith(said(seen))


@pytest.mark.parametrize("given", [{}, {"stream_chunk_timeout": None}, {"stream_chunk_timeout": 7.5}])
def test_a_stream_that_moves_to_http_waits_as_long_as_one_that_began_there(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any]
) -> None:
    waits: list[float | None] = []
    wait_for = asyncio.wait_for

    def noted(awaitable: Any, timeout: float | None) -> Any:
        waits.append(timeout)
        return wait_for(awaitable, timeout)

    monkeypatch.setattr(
        "langchain_openai.chat_models._client_utils.asyncio",
        SimpleNamespace(**{**vars(asyncio), "wait_for": noted}),
    )
    with ResponsesServer(answer=lambda _request: text(ANSWER, 4), refuse_upgrade=426) as server:
        run(http_model(server, **given), "astream", TALK)
        over_http, waits[:] = list(waits), []
        assert said(run(socket_model(server, manager, transport="auto", **given), "astream", TALK)) == ANSWER
    assert waits == over_http
    assert bool(waits) is (given != {"stream_chunk_timeout": None})


@pytest.mark.parametrize("way", ["invoke", "stream", "ainvoke"])
def test_stream_chunk_timeout_bounds_nothing_but_async_streams(way: str) -> None:
    with ConnectionManager() as manager, ResponsesServer(ANSWER, event_delay=0.02) as server:
        assert said(run(socket_model(server, manager, stream_chunk_timeout=0.001), way, "Hello")) == ANSWER


@pytest.mark.parametrize("chunk", [None, 0, 30.0])
@pytest.mark.parametrize("other", ["timeout", "limits"])
def test_stream_chunk_timeout_takes_no_other_clock_away(chunk: float | None, other: str) -> None:
    gate = threading.Event()
    limits = Limits(between_events_timeout=0.05) if other == "limits" else Limits()
    given: dict[str, Any] = {"timeout": 0.2} if other == "timeout" else {}
    with ConnectionManager(limits=limits) as manager, stalling(gate) as server:
        model = socket_model(server, manager, stream_chunk_timeout=chunk, **given)
        _, failure = outcome(model, "astream", "Hello")
        gate.set()
    assert isinstance(failure, openai.APITimeoutError)
