"""The WebSocket mode of the local server, held against the facts of the protocol."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from testing.wire_client import Socket, open_socket, output_of, user
from websockets.asyncio.client import connect as aconnect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from langchain_ws_responses.testing import (
    ResponsesServer,
    calls,
    drop,
    error,
    events,
    failed,
    hold,
    incomplete,
    json_answer,
    raw,
    reasoning,
    refusal,
    text,
    tool_call,
)

STREAMS = Path(__file__).parents[3] / "shared" / "streams"

# Every key of a response object in the recordings of the live API.
KEYS = {
    "id", "object", "created_at", "status", "background", "completed_at", "error", "frequency_penalty",
    "incomplete_details", "instructions", "max_output_tokens", "max_tool_calls", "model", "moderation", "output",
    "parallel_tool_calls", "presence_penalty", "previous_response_id", "prompt_cache_key",
    "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "store", "temperature", "text",
    "tool_choice", "tools", "top_logprobs", "top_p", "truncation", "usage", "user", "metadata",
}  # fmt: skip
OPENING = ["response.created", "response.in_progress"]


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """Event types with runs collapsed and the prefix removed."""
    names: list[str] = []
    for event in events:
        name = event["type"].removeprefix("response.")
        if not names or names[-1] != name:
            names.append(name)
    return names


def test_text_answer_has_the_recorded_sequence_and_a_complete_response() -> None:
    with (
        ResponsesServer(text("Hello there!", chunks=["Hello", " there", "!"])) as server,
        open_socket(server) as ws,
    ):
        ws.send(
            input="hi",
            instructions="Be brief.",
            metadata={"a": "b"},
            temperature=0.5,
            tools=[{"type": "function", "name": "add", "parameters": {}}, {"type": "web_search"}],
        )
        got = ws.events()
    assert (
        kinds(got)
        == (
            "created in_progress output_item.added content_part.added output_text.delta output_text.done "
            "content_part.done output_item.done completed"
        ).split()
    )
    assert [event["sequence_number"] for event in got] == list(range(len(got)))
    assert [event["delta"] for event in got if event["type"].endswith("delta")] == ["Hello", " there", "!"]
    final = got[-1]["response"]
    assert set(final) == KEYS
    assert set(got[0]["response"]) == KEYS
    assert got[0]["response"]["status"] == "in_progress"
    assert got[0]["response"]["output"] == []
    assert final["status"] == "completed"
    assert (final["instructions"], final["metadata"], final["temperature"]) == ("Be brief.", {"a": "b"}, 0.5)
    assert [tool["type"] for tool in final["tools"]] == ["function", "web_search"]
    assert final["output"][0]["content"][0]["text"] == "Hello there!"
    assert final["usage"]["total_tokens"] == final["usage"]["input_tokens"] + final["usage"]["output_tokens"]
    assert all("stream_id" not in event for event in got)


def test_tool_calls_come_with_their_argument_deltas() -> None:
    answer = calls(
        tool_call("add", {"a": 1}, "call_1"), tool_call("sub", '{"b": ', "call_2"), text="Let me see."
    )
    with ResponsesServer(answer) as server, open_socket(server) as ws:
        ws.send(input="hi")
        got = ws.events()
    assert kinds(got)[8:12] == (
        "output_item.added function_call_arguments.delta function_call_arguments.done output_item.done".split()
    )
    message, first, second = got[-1]["response"]["output"]
    assert message["content"][0]["text"] == "Let me see."
    assert (first["name"], first["call_id"], json.loads(first["arguments"])) == ("add", "call_1", {"a": 1})
    assert (second["name"], second["call_id"], second["arguments"]) == ("sub", "call_2", '{"b": ')
    deltas = "".join(
        e["delta"] for e in got if e["type"].endswith("arguments.delta") and e["output_index"] == 1
    )
    assert json.loads(deltas) == {"a": 1}


def test_reasoning_is_encrypted_anew_in_the_terminal_event_and_only_where_included() -> None:
    with ResponsesServer(reasoning("Think.", "Done."), reasoning(["A", "B"], "Done.")) as server:
        with open_socket(server) as ws:
            ws.send(input="hi", include=["reasoning.encrypted_content"], store=False)
            got = ws.events()
            plain = ws.say(input="hi")
    done = next(e["item"] for e in got if e["type"] == "response.output_item.done")
    final = got[-1]["response"]["output"][0]
    assert done["type"] == final["type"] == "reasoning"
    assert done["id"] == final["id"]
    assert done["encrypted_content"] != final["encrypted_content"]
    assert (
        kinds(got)[2:7]
        == (
            "output_item.added reasoning_summary_part.added reasoning_summary_text.delta "
            "reasoning_summary_text.done reasoning_summary_part.done"
        ).split()
    )
    assert [part["text"] for part in plain["output"][0]["summary"]] == ["A", "B"]
    assert "encrypted_content" not in plain["output"][0]


def test_endings_other_than_completed() -> None:
    script = (
        failed("server_error", "Boom."),
        incomplete(text="Half"),
        refusal("No."),
        json_answer({"a": [1]}),
    )
    with ResponsesServer(*script) as server, open_socket(server) as ws:
        broken = ws.turn(input="1")
        half = ws.turn(input="2")
        no = ws.say(input="3")
        data = ws.say(input="4")
    assert broken["type"] == "response.failed"
    assert broken["response"]["error"] == {"code": "server_error", "message": "Boom."}
    assert half["type"] == "response.incomplete"
    assert half["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert half["response"]["output"][0]["status"] == "incomplete"
    assert no["output"][0]["content"] == [{"type": "refusal", "refusal": "No."}]
    assert json.loads(data["output"][0]["content"][0]["text"]) == {"a": [1]}
    assert [request.status for request in server.requests] == [
        "failed",
        "incomplete",
        "completed",
        "completed",
    ]


# -- chains


def test_a_continuation_sees_the_chain_and_sends_only_what_is_new() -> None:
    with ResponsesServer(tool_call("add", {}, "call_1"), "Three.") as server, open_socket(server) as ws:
        first = ws.say(input=[user("1+2?")], store=False)
        second = ws.say(input=[output_of("call_1", "3")], previous_response_id=first["id"], store=False)
    assert second["previous_response_id"] == first["id"]
    opening, following = server.requests
    assert (opening.is_full, opening.is_delta) == (True, False)
    assert (following.is_full, following.is_delta, following.from_memory) == (False, True, True)
    assert following.items == [output_of("call_1", "3")]
    assert [item["type"] for item in following.seen] == ["message", "function_call", "function_call_output"]
    assert following.last_user_text == "1+2?"
    assert following.tool_outputs == {"call_1": "3"}
    assert following.response_id == second["id"]
    assert following.raw_bytes == len(
        json.dumps(
            {
                "type": "response.create",
                "model": "m",
                **{"input": [output_of("call_1", "3")], "previous_response_id": first["id"], "store": False},
            }
        )
    )


def test_a_create_without_an_id_starts_a_new_chain_on_a_used_lane() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        ws.say(input="one", stream_id="a")
        ws.say(input="two", stream_id="a")
    assert [len(request.seen) for request in server.requests] == [1, 1]


def test_memory_keeps_the_latest_of_a_lane_and_storage_keeps_the_rest() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        kept = ws.say(input="one")
        unstored = ws.say(input="two", store=False)
        again = ws.say(input="three", previous_response_id=kept["id"], store=False)
        refused = ws.refused(input="four", previous_response_id=unstored["id"])
        assert again["id"] != kept["id"]
    assert refused == {
        "type": "invalid_request_error",
        "code": "previous_response_not_found",
        "message": f"Previous response with id '{unstored['id']}' not found.",
        "param": "previous_response_id",
    }
    assert server.requests[2].from_memory is False
    assert server.requests[3].status == "error"


def test_a_new_connection_has_an_empty_memory() -> None:
    with ResponsesServer() as server:
        with open_socket(server) as ws:
            unstored = ws.say(input="one", store=False)
            stored = ws.say(input="one", stream_id="b")
        with open_socket(server) as ws:
            assert ws.refused(input="x", previous_response_id=unstored["id"])["code"] == (
                "previous_response_not_found"
            )
            assert ws.say(input="x", previous_response_id=stored["id"])["status"] == "completed"


def test_error_frame_is_nested_with_status_and_lane() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        frame = ws.turn(input="x", previous_response_id="resp_0", stream_id="lane.1")
    assert frame == {
        "type": "error",
        "status": 400,
        "stream_id": "lane.1",
        "error": {
            "type": "invalid_request_error",
            "code": "previous_response_not_found",
            "message": "Previous response with id 'resp_0' not found.",
            "param": "previous_response_id",
        },
    }


def test_a_failed_continuation_on_its_own_lane_evicts_the_parent() -> None:
    with ResponsesServer("a", error(status=500, code="server_error")) as server, open_socket(server) as ws:
        parent = ws.say(input="one", store=False)
        ws.refused(input="two", previous_response_id=parent["id"], store=False)
        code = ws.refused(input="two", previous_response_id=parent["id"], store=False)["code"]
    assert code == "previous_response_not_found"


def test_a_failed_fork_keeps_the_parent() -> None:
    with (
        ResponsesServer("a", error(status=500, code="server_error"), "b") as server,
        open_socket(server) as ws,
    ):
        parent = ws.say(input="one", store=False, stream_id="main")
        ws.refused(input="two", previous_response_id=parent["id"], store=False, stream_id="fork")
        child = ws.say(input="two", previous_response_id=parent["id"], store=False, stream_id="main")
    assert child["previous_response_id"] == parent["id"]


def test_a_fork_needs_its_parent_when_it_starts() -> None:
    gate = threading.Event()
    with ResponsesServer("a", hold(gate, "busy"), "next") as server, open_socket(server) as ws:
        parent = ws.say(input="one", store=False, stream_id="main")
        ws.send(input="x", stream_id="fork")
        ws.send(input="late", previous_response_id=parent["id"], store=False, stream_id="fork")
        ws.send(input="two", previous_response_id=parent["id"], store=False, stream_id="main")
        while ws.recv()["type"] != "response.completed":
            pass
        gate.set()
        rest = [ws.events()[-1], ws.events()[-1]]
    assert [event["type"] for event in rest] == ["response.completed", "error"]
    assert rest[1]["error"]["code"] == "previous_response_not_found"


def test_forget_evicts_from_memory_and_storage() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        one = ws.say(input="one")
        two = ws.say(input="two", stream_id="a")
        server.forget(one["id"])
        assert ws.refused(input="x", previous_response_id=one["id"])["code"] == "previous_response_not_found"
        assert ws.say(input="x", previous_response_id=two["id"])["status"] == "completed"
        server.forget()
        assert ws.refused(input="x", previous_response_id=two["id"])["code"] == "previous_response_not_found"


# -- warm-ups


@pytest.mark.parametrize(("mode", "texts"), [("keep", ["keep me", "hi"]), ("drop", ["hi"])])
def test_a_warm_up_makes_no_output_and_can_be_continued(mode: Any, texts: list[str]) -> None:
    with ResponsesServer("answer", warm_up=mode) as server, open_socket(server) as ws:
        ws.send(input=[user("keep me")], generate=False, store=False)
        warm = ws.events()
        ws.say(input=[user("hi")], previous_response_id=warm[-1]["response"]["id"], store=False)
    assert [event["type"] for event in warm] == [*OPENING, "response.completed"]
    assert warm[-1]["response"]["output"] == []
    assert server.requests[0].is_warm_up
    assert not server.requests[0].is_full
    assert [item["content"] for item in server.requests[1].seen] == texts


def test_some_gateways_generate_on_a_warm_up() -> None:
    with ResponsesServer("scripted", warm_up="generate") as server, open_socket(server) as ws:
        warm = ws.say(input=[user("w")], generate=False)
        scripted = ws.say(input=[user("hi")])
    assert warm["output"]
    assert scripted["output"][0]["content"][0]["text"] == "scripted"


def test_a_warm_up_may_hold_open_calls() -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "add", "arguments": "{}"}
    with ResponsesServer() as server, open_socket(server) as ws:
        warm = ws.say(input=[user("hi"), call], generate=False, store=False)
        done = ws.say(input=[output_of("call_1")], previous_response_id=warm["id"], store=False)
    assert done["status"] == "completed"


# -- pairing


def test_an_output_without_its_call_is_refused() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        refused = ws.refused(input=[user("hi"), output_of("call_9")])
    assert refused["message"] == "No tool call found for function call output with call_id call_9."
    assert refused["param"] == "input"


def test_a_call_without_its_output_is_refused() -> None:
    with ResponsesServer(calls(tool_call("a", {}, "call_1"), tool_call("b", {}, "call_2"))) as server:
        with open_socket(server) as ws:
            first = ws.say(input="hi")
            refused = ws.refused(input=[output_of("call_1")], previous_response_id=first["id"])
    assert refused["message"] == "No tool output found for function call call_2."
    assert refused["param"] == "input"


def test_custom_tool_outputs_are_paired_too() -> None:
    item = {"type": "custom_tool_call_output", "call_id": "call_1", "output": "x"}
    with ResponsesServer() as server, open_socket(server) as ws:
        message = ws.refused(input=[item])["message"]
    assert message == "No tool call found for custom tool call output with call_id call_1."


def test_an_item_id_twice_is_refused() -> None:
    with ResponsesServer("a") as server, open_socket(server) as ws:
        first = ws.say(input="hi")
        again = [first["output"][0], user("more")]
        refused = ws.refused(input=again, previous_response_id=first["id"])
    assert refused["message"].startswith(f"Duplicate item found with id {first['output'][0]['id']}.")


def test_item_references_are_resolved_from_storage() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        first = ws.say(input="hi")
        item = first["output"][0]
        ws.say(input=[user("hi"), {"type": "item_reference", "id": item["id"]}, user("more")])
        refused = ws.refused(input=[{"type": "item_reference", "id": "msg_0"}])
    assert server.requests[1].seen[1] == item
    assert refused["message"] == "Item with id 'msg_0' not found."


# -- lanes


def test_lanes_interleave_and_echo_their_name() -> None:
    gate = threading.Event()
    with ResponsesServer(hold(gate, "slow", after_events=3), "fast") as server, open_socket(server) as ws:
        ws.send(input="1", stream_id="a")
        begun = [ws.recv() for _ in range(3)]
        ws.send(input="2", stream_id="b")
        other = ws.events()
        gate.set()
        rest = ws.events()
    assert {event["stream_id"] for event in begun + rest} == {"a"}
    assert {event["stream_id"] for event in other} == {"b"}
    assert [event["sequence_number"] for event in begun + rest] == list(range(len(begun + rest)))
    assert server.connections[0].lanes == ["a", "b"]


def test_a_lane_is_first_in_first_out_and_never_overlaps() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        for number in range(3):
            ws.send(input=f"n{number}", stream_id="a")
        turns = [ws.events() for _ in range(3)]
    assert [kinds(turn)[0] for turn in turns] == ["created"] * 3
    assert [
        f"n{n}" in turn[-1]["response"]["output"][0]["content"][0]["text"] for n, turn in enumerate(turns)
    ] == ([True] * 3)


def test_in_flight_limit_queues_over_all_lanes() -> None:
    gate = threading.Event()
    with ResponsesServer(answer=lambda _: hold(gate, "x", after_events=1), max_in_flight=2) as server:
        with open_socket(server) as ws:
            for name in "abc":
                ws.send(input="hi", stream_id=name)
            assert [ws.recv()["stream_id"] for _ in range(2)] == ["a", "b"]
            server.wait_for(lambda: len(server.requests) == 3)
            assert [request.status for request in server.requests] == ["in_progress", "in_progress", "queued"]
            gate.set()
            seen: list[str] = []
            while seen.count("response.completed") < 3:
                seen.append(ws.recv()["type"])
    assert [request.status for request in server.requests] == ["completed"] * 3


def test_sixteen_in_flight_and_the_default_lane_counts_as_one() -> None:
    gate = threading.Event()
    with (
        ResponsesServer(answer=lambda _: hold(gate, "x", after_events=1)) as server,
        open_socket(server) as ws,
    ):
        ws.send(input="hi")
        for number in range(16):
            ws.send(input="hi", stream_id=f"lane-{number}")
        started = [ws.recv() for _ in range(16)]
        server.wait_for(lambda: len(server.requests) == 17)
        assert {event["type"] for event in started} == {"response.created"}
        assert [r.status for r in server.requests].count("queued") == 1
        gate.set()
        ends = 0
        while ends < 17:
            ends += ws.recv()["type"] == "response.completed"


def test_thirty_two_named_lanes_and_then_no_more() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        for number in range(32):
            ws.say(input="hi", stream_id=f"lane-{number}")
        ws.say(input="hi")
        refused = ws.turn(input="hi", stream_id="one-more")
        ws.say(input="hi", stream_id="lane-0")
    assert refused["error"]["code"] == "websocket_stream_limit_reached"
    assert refused["stream_id"] == "one-more"
    assert refused["status"] == 400


@pytest.mark.parametrize("name", ["", "a b", "a\n", "ü", "x" * 257, 7])
def test_bad_lane_names_are_refused(name: Any) -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        assert ws.refused(input="hi", stream_id=name)["code"] == "invalid_stream_id"
        assert ws.say(input="hi", stream_id="x" * 256)["status"] == "completed"
        assert ws.say(input="hi", stream_id="A.b-c_9")["status"] == "completed"


def test_a_server_without_lanes_never_echoes_and_runs_one_at_a_time() -> None:
    gate = threading.Event()
    with (
        ResponsesServer(hold(gate, "1", after_events=1), "2", lanes=False) as server,
        open_socket(server) as ws,
    ):
        ws.send(input="1", stream_id="a")
        ws.send(input="2", stream_id="b")
        server.wait_for(lambda: len(server.requests) == 2)
        assert server.requests[1].status == "queued"
        gate.set()
        both = ws.events() + ws.events()
    assert all("stream_id" not in event for event in both)
    assert [
        e["response"]["output"][0]["content"][0]["text"] for e in both if e["type"].endswith("completed")
    ] == (["1", "2"])


def test_a_server_without_lanes_may_reject_a_second_create() -> None:
    gate = threading.Event()
    answer = hold(gate, "1", after_events=1)
    with ResponsesServer(answer, lanes=False, concurrent="reject") as server, open_socket(server) as ws:
        ws.send(input="1")
        ws.recv()
        ws.send(input="2")
        frame = ws.recv()
        gate.set()
        assert ws.events()[-1]["type"] == "response.completed"
    assert set(frame) == {"type", "error"}
    assert frame["error"]["code"] == "concurrent_turn_not_supported"


# -- the connection's life


def test_the_lifetime_ends_an_idle_connection_with_the_exact_frame() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        ws.say(input="hi")
        server.age(minutes=59, seconds=59)
        ws.say(input="hi")
        server.age(seconds=1)
        frame = ws.recv()
        with pytest.raises(ConnectionClosed):
            ws.recv()
        server.wait_for(lambda: not server.connections[0].open)
    assert (frame["type"], frame["status"]) == ("error", 400)
    assert frame["error"]["code"] == "websocket_connection_limit_reached"
    assert "stream_id" not in frame


def test_the_lifetime_ends_a_busy_connection_too() -> None:
    gate = threading.Event()
    with ResponsesServer(hold(gate, "x", after_events=1), lifetime=1500) as server, open_socket(server) as ws:
        ws.send(input="hi", stream_id="a")
        ws.recv()
        server.age(minutes=26)
        assert ws.recv()["error"]["code"] == "websocket_connection_limit_reached"
        with pytest.raises(ConnectionClosed):
            ws.recv()
        server.wait_for(lambda: server.requests[0].status == "dropped")


def test_drop_connections_by_reset_and_by_code() -> None:
    with ResponsesServer() as server:
        with open_socket(server) as ws:
            server.drop_connections()
            with pytest.raises(ConnectionClosedError) as lost:
                ws.recv()
            assert lost.value.rcvd is None
            assert server.connections[0].open is False
            assert server.connections[0].close_code == 1006
        with open_socket(server) as ws:
            server.drop_connections(code=1012)
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1012
        server.wait_for(lambda: not server.connections[1].open)
        assert server.connections[1].close_code == 1012


@pytest.mark.parametrize("code", [None, 1000, 1011])
def test_drop_in_the_middle_of_an_answer(code: int | None) -> None:
    with ResponsesServer(drop(after_events=4, code=code)) as server, open_socket(server) as ws:
        ws.send(input="hi")
        got = [ws.recv() for _ in range(4)]
        with pytest.raises(ConnectionClosed) as lost:
            ws.recv()
    assert [event["sequence_number"] for event in got] == [0, 1, 2, 3]
    assert (None if lost.value.rcvd is None else lost.value.rcvd.code) == code
    assert server.requests[0].status == "dropped"


def test_stopping_says_goodbye_and_is_idempotent() -> None:
    server = ResponsesServer()
    assert "stopped" in repr(server)
    server.start()
    server.start()
    with open_socket(server) as ws:
        ws.say(input="hi")
        assert "1 open" in repr(server)
        server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv()
    server.stop()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1001
    assert "stopped" in repr(server)


def test_a_server_starts_again_after_a_stop() -> None:
    server = ResponsesServer()
    for _ in range(2):
        with server, open_socket(server) as ws:
            assert ws.say(input="hi")["status"] == "completed"
    assert len(server.connections) == 2


async def test_async_context_manager() -> None:
    async with ResponsesServer("x") as server:
        url = server.websocket_url
        async with aconnect(url, proxy=None) as ws:
            await ws.send(json.dumps({"type": "response.create", "model": "m", "input": "hi"}))
            assert json.loads(await ws.recv())["type"] == "response.created"
    assert "stopped" in repr(server)


# -- handshakes


def test_a_wrong_key_is_refused_at_the_handshake() -> None:
    with ResponsesServer(api_key="right") as server:
        with pytest.raises(InvalidStatus) as refused, connect(server.websocket_url, proxy=None):
            pass
        headers = {"Authorization": "Bearer right", "X-Trace": "1"}
        with open_socket(server, additional_headers=headers) as ws:
            ws.say(input="hi")
    assert refused.value.response.status_code == 401
    assert json.loads(refused.value.response.body)["error"]["code"] == "invalid_api_key"
    assert [shake.status for shake in server.handshakes] == [401, 101]
    assert server.connections[0].headers["x-trace"] == "1"
    assert server.requests[0].headers["authorization"] == "Bearer right"


@pytest.mark.parametrize("status", [403, 404, 426, 429, 503, 200, 302])
def test_upgrades_can_be_refused_with_any_status(status: int) -> None:
    extra = {"retry-after": "7"}
    with ResponsesServer(refuse_upgrade=status, refuse_headers=extra) as server:
        with pytest.raises(InvalidStatus) as refused, connect(server.websocket_url, proxy=None):
            pass
    assert refused.value.response.status_code == status
    assert refused.value.response.headers["retry-after"] == "7"
    assert server.connections == []


def test_another_path_is_not_found() -> None:
    with ResponsesServer() as server:
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://127.0.0.1:{server.port}/v1/realtime", proxy=None)
    assert refused.value.response.status_code == 404


def test_an_offer_of_compression_is_answered_without_it() -> None:
    with ResponsesServer() as server, open_socket(server, compression="deflate") as ws:
        assert "permessage-deflate" in server.connections[0].headers["sec-websocket-extensions"]
        assert ws.connection.response is not None
        assert "sec-websocket-extensions" not in ws.connection.response.headers
        assert ws.say(input="hi")["status"] == "completed"


# -- what real clients send


@pytest.mark.parametrize(
    ("given", "count"),
    [("hi", 1), ([], 0), ([{"role": "user", "content": "hi"}], 1), (None, 0), ("", 1)],
)
def test_every_form_of_input_is_accepted(given: Any, count: int) -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        ws.say(input=given, stream=True, background=False, some_new_field={"x": 1})
    assert len(server.requests[0].items) == count
    assert server.requests[0].body["some_new_field"] == {"x": 1}


def test_frames_above_a_megabyte_in_fragments_and_binary() -> None:
    big = "x" * (3 * 2**20)
    with ResponsesServer() as server, open_socket(server) as ws:
        ws.say(input=[user(big)])
        body = json.dumps({"type": "response.create", "model": "m", "input": "in parts"})
        ws.connection.send(iter([body[:10], body[10:20], body[20:]]))
        assert ws.events()[-1]["type"] == "response.completed"
        ws.connection.send(body.encode())
        assert ws.events()[-1]["type"] == "response.completed"
    assert server.requests[0].last_user_text == big
    assert server.requests[1].raw_bytes == len(body)
    assert server.connections[0].frames_received == 3
    assert server.connections[0].bytes_received == server.requests[0].raw_bytes + 2 * len(body)


def test_a_frame_above_the_limit_is_refused_with_1009() -> None:
    with ResponsesServer(max_message_size=1000) as server, open_socket(server) as ws:
        ws.send(input="x" * 2000)
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv()
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1009
    assert server.requests == []


def test_pings_are_answered_and_an_abort_harms_nobody() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        assert ws.connection.ping().wait(5)
        rude = connect(server.websocket_url, proxy=None)
        Socket(rude).send(input="hi")
        rude.socket.close()
        rude.close()
        server.wait_for(lambda: not server.connections[1].open)
        assert ws.say(input="hi")["status"] == "completed"


@pytest.mark.parametrize("frame", ["not json", "[1]", '{"type": "response.cancel"}', "{}"])
def test_frames_that_are_no_create_get_an_error_and_the_socket_lives(frame: str) -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        ws.connection.send(frame)
        assert ws.recv()["type"] == "error"
        assert ws.say(input="hi")["status"] == "completed"


# -- faults by script


def test_shapes_of_error_frames() -> None:
    shapes = [
        error(code="slow_down", message="M", status=503, type="server_error", headers={"retry-after": "1"}),
        error(code="slow_down", message="M", shape="flat"),
        error(code="slow_down", message="M", status=429, shape="status_code"),
        error(code="slow_down", message="M", shape="bare", echo_stream_id=False),
    ]
    with ResponsesServer(*shapes) as server, open_socket(server) as ws:
        frames = [ws.turn(input="hi", stream_id="a") for _ in shapes]
    inner = {"type": "invalid_request_error", "code": "slow_down", "message": "M", "param": None}
    assert frames[0] == {
        "type": "error",
        "status": 503,
        "error": {**inner, "type": "server_error"},
        "headers": {"retry-after": "1"},
        "stream_id": "a",
    }
    assert frames[1] == {
        "type": "error",
        "code": "slow_down",
        "message": "M",
        "param": None,
        "stream_id": "a",
    }
    assert frames[2] == {"type": "error", "status_code": 429, "error": inner, "stream_id": "a"}
    assert frames[3] == {"type": "error", "error": inner}


def test_an_error_after_some_events() -> None:
    with (
        ResponsesServer(error(code="server_error", status=500, after_events=5)) as server,
        open_socket(server) as ws,
    ):
        ws.send(input="hi")
        got = ws.events()
    assert len(got) == 6
    assert got[-1]["error"]["code"] == "server_error"


def test_raw_frames_pass_as_they_are() -> None:
    with ResponsesServer(raw(["nonsense", b"\x00\xff"])) as server, open_socket(server) as ws:
        ws.send(input="hi")
        assert ws.connection.recv(timeout=5) == "nonsense"
        assert ws.connection.recv(timeout=5) == b"\x00\xff"


def test_recorded_events_play_unchanged_and_can_be_continued() -> None:
    recorded = [
        {"type": "codex.rate_limits"},
        {"type": "response.created", "response": {"id": "resp_rec", "output": []}, "sequence_number": 0},
        {
            "type": "response.completed",
            "response": {
                "id": "resp_rec",
                "output": [{"id": "msg_rec", "type": "message", "role": "assistant", "content": []}],
            },
            "sequence_number": 1,
        },
    ]
    with ResponsesServer(events(recorded), events(recorded), "next") as server, open_socket(server) as ws:
        ws.send(input="hi")
        assert ws.events() == recorded
        ws.send(input="hi", stream_id="a")
        assert ws.events() == [{**event, "stream_id": "a"} for event in recorded]
        ws.say(input="more", previous_response_id="resp_rec")
    assert [item.get("id") for item in server.requests[2].seen] == [None, "msg_rec", None]


@pytest.mark.skipif(not STREAMS.exists(), reason="the recorded streams (../shared/streams) are not here")
def test_generated_events_have_the_keys_of_recorded_ones() -> None:
    samples: dict[str, set[frozenset[str]]] = {}
    for file in STREAMS.glob("ws_test_*/frames.jsonl"):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            if entry["dir"] == "server":
                samples.setdefault(entry["frame"]["type"], set()).add(frozenset(entry["frame"]))
    with ResponsesServer(calls(tool_call("a", {"b": 1}), text="x")) as server, open_socket(server) as ws:
        ws.send(input="hi")
        got = ws.events()
    assert samples.keys() == {event["type"] for event in got}
    for event in got:
        assert frozenset(event) in samples[event["type"]], event


# -- the script


def test_leftover_answers_fail_the_test() -> None:
    server = ResponsesServer("a", "b")
    with pytest.raises(AssertionError, match="1 scripted answers"), server, open_socket(server) as ws:
        ws.say(input="hi")


def test_leftovers_do_not_hide_another_exception() -> None:
    with pytest.raises(KeyError), ResponsesServer("a"):
        raise KeyError


def test_a_create_beyond_the_script_is_refused() -> None:
    with ResponsesServer("a") as server, open_socket(server) as ws:
        ws.say(input="hi")
        assert ws.refused(input="hi")["code"] == "script_exhausted"
        server.add("b")
        assert ws.say(input="hi")["status"] == "completed"


def test_an_answering_function_sees_the_request() -> None:
    def answer(request: Any) -> Any:
        if request.tool_outputs:
            return f"It is {request.tool_outputs['call_1']}."
        return [tool_call("add", {}, "call_1"), tool_call("sub", {}, "call_2")]

    with ResponsesServer(answer=answer) as server, open_socket(server) as ws:
        first = ws.say(input="hi")
        outputs = [output_of("call_1", "3"), output_of("call_2", "4")]
        second = ws.say(input=outputs, previous_response_id=first["id"])
    assert [item["call_id"] for item in first["output"]] == ["call_1", "call_2"]
    assert second["output"][0]["content"][0]["text"] == "It is 3."


def test_an_answering_function_that_raises_fails_the_test() -> None:
    def answer(request: Any) -> Any:
        raise ZeroDivisionError

    server = ResponsesServer(answer=answer)
    with pytest.raises(AssertionError, match="ZeroDivisionError"), server, open_socket(server) as ws:
        assert ws.refused(input="hi")["code"] == "answer_failed"


def test_the_default_answer_says_what_it_saw() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        said = ws.say(input=[user("one"), user("two")])["output"][0]["content"][0]["text"]
    assert said == "I saw 2 items; the last user message was: 'two'."


def test_an_unknown_model_is_refused() -> None:
    with ResponsesServer(model_check=lambda name: name == "m") as server, open_socket(server) as ws:
        ws.say(input="hi")
        refused = ws.refused(input="hi", model="nope")
    assert (refused["code"], refused["param"]) == ("model_not_found", "model")
    assert refused["message"] == "The requested model 'nope' does not exist."


def test_a_gate_before_every_event() -> None:
    gate = threading.Event()
    rule = lambda request, event: gate if event["type"] == "response.completed" else None  # noqa: E731
    with ResponsesServer("x", event_gate=rule) as server, open_socket(server) as ws:
        ws.send(input="hi")
        ws.until("response.output_item.done")
        assert server.requests[0].status == "in_progress"
        gate.set()
        assert ws.recv()["type"] == "response.completed"
    assert server.requests[0].status == "completed"


def test_waiting_for_what_never_comes_ends() -> None:
    with ResponsesServer() as server, pytest.raises(TimeoutError):
        server.wait_for(lambda: server.requests, timeout=0.01)


def test_a_port_in_use_is_an_os_error() -> None:
    with ResponsesServer() as server, pytest.raises(OSError, match="in use"):
        ResponsesServer(port=server.port).start()
