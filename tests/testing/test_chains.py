"""Chains, memory, storage, warm-ups and pairing of the local server."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from testing.wire_client import open_socket, output_of, user

from langchain_ws_responses.testing import (
    ResponsesServer,
    calls,
    error,
    hold,
    tool_call,
)

OPENING = ["response.created", "response.in_progress"]


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
                "input": [output_of("call_1", "3")],
                "previous_response_id": first["id"],
                "store": False,
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
    with (
        ResponsesServer(calls(tool_call("a", {}, "call_1"), tool_call("b", {}, "call_2"))) as server,
        open_socket(server) as ws,
    ):
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
