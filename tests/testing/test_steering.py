"""`response.steer` on the local server."""

from __future__ import annotations

import json
import threading
from typing import Any

from testing.wire_client import Socket, open_socket, output_of, user

from langchain_ws_responses.testing import ResponsesServer, failed, hold, text, tool_call

LONG = text("one two three four", chunks=["one ", "two ", "three ", "four"])


def steer(ws: Socket, response_id: str, given: Any) -> None:
    ws.connection.send(
        json.dumps({"type": "response.steer", "previous_response_id": response_id, "input": given})
    )


def test_steering_ends_the_response_and_starts_a_successor_on_its_lane() -> None:
    gate = threading.Event()
    with ResponsesServer(hold(gate, LONG, after_events=6), "persimmon") as server, open_socket(server) as ws:
        ws.send(input="count", stream_id="a", instructions="I", store=False)
        response_id = ws.recv()["response"]["id"]
        begun = [ws.recv() for _ in range(5)]
        steer(ws, response_id, [user("stop")])
        accepted, *rest = ws.events()
        successor = ws.events()
    assert begun[-1]["delta"] == "two "
    assert accepted["type"] == "response.steer.accepted"
    assert accepted["stream_id"] == "a"
    assert accepted["steer"]["previous_response_id"] == response_id
    assert accepted["sequence_number"] == 6
    assert rest[-1]["type"] == "response.incomplete"
    assert rest[-1]["response"]["incomplete_details"] == {"reason": "steered"}
    assert rest[-1]["response"]["output"][0]["content"][0]["text"] == "one two "
    assert successor[0]["type"] == "response.created"
    assert successor[0]["stream_id"] == "a"
    assert successor[0]["response"]["previous_response_id"] == response_id
    assert successor[0]["response"]["instructions"] == "I"
    assert successor[-1]["response"]["output"][0]["content"][0]["text"] == "persimmon"
    first, second = server.requests
    assert (first.status, second.kind, second.status) == ("incomplete", "successor", "completed")
    assert second.last_user_text == "stop"
    assert [item.get("role") for item in second.seen] == ["user", "assistant", "user"]


def test_the_successor_comes_before_what_waits_on_the_lane() -> None:
    gate = threading.Event()
    with (
        ResponsesServer(hold(gate, LONG, after_events=4), "steered", "queued") as server,
        open_socket(server) as ws,
    ):
        ws.send(input="count")
        response_id = ws.recv()["response"]["id"]
        ws.send(input="next")
        steer(ws, response_id, "stop")
        ws.events()
        ends = [ws.events()[-1]["response"] for _ in range(2)]
    assert [end["output"][0]["content"][0]["text"] for end in ends] == ["steered", "queued"]


def test_steering_waits_for_tool_output_and_is_prepended_to_it() -> None:
    gate = threading.Event()
    script = (hold(gate, tool_call("add", {}, "call_1"), after_events=4), "done")
    with ResponsesServer(*script) as server, open_socket(server) as ws:
        ws.send(input="hi")
        response_id = ws.recv()["response"]["id"]
        steer(ws, response_id, [user("hurry")])
        end = ws.events()[-1]
        pending = ws.recv()
        ws.say(input=[output_of("call_1")], previous_response_id=response_id)
    assert end["type"] == "response.completed"
    assert pending["type"] == "response.steer.pending"
    assert pending["reason"] == "waiting_for_required_input"
    assert pending["required_input"] == [{"type": "function_call_output", "call_id": "call_1", "name": "add"}]
    assert server.requests[1].seen[-2:] == [user("hurry"), output_of("call_1")]


def test_steering_what_does_not_run_fails() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        done = ws.say(input="hi")
        steer(ws, done["id"], [user("x")])
        late = ws.recv()
        steer(ws, "resp_0", [user("x")])
        unknown = ws.recv()
    assert late["type"] == unknown["type"] == "response.steer.failed"
    assert late["error"]["code"] == "response_already_completed"
    assert late["steer"] == {"previous_response_id": done["id"], "input": [user("x")]}
    assert unknown["error"]["code"] == "response_not_found"


def test_only_user_messages_steer() -> None:
    gate = threading.Event()
    with ResponsesServer(hold(gate, LONG, after_events=2)) as server, open_socket(server) as ws:
        ws.send(input="hi")
        response_id = ws.recv()["response"]["id"]
        ws.recv()
        codes = []
        for given in ([], [output_of("call_1")], [{"role": "system", "content": "x"}], 7):
            steer(ws, response_id, given)
            codes.append(ws.recv()["error"]["code"])
        gate.set()
        assert ws.events()[-1]["type"] == "response.completed"
    assert codes == ["invalid_input"] * 4


def test_a_server_that_rejects_concurrency_rejects_steering() -> None:
    gate = threading.Event()
    answer = hold(gate, LONG, after_events=1)
    with ResponsesServer(answer, lanes=False, concurrent="reject") as server, open_socket(server) as ws:
        ws.send(input="hi")
        response_id = ws.recv()["response"]["id"]
        steer(ws, response_id, [user("x")])
        frame = ws.recv()
        gate.set()
        assert ws.events()[-1]["type"] == "response.completed"
    assert frame["error"]["code"] == "concurrent_turn_not_supported"


def test_a_response_that_fails_gives_its_steering_back() -> None:
    gate = threading.Event()
    with ResponsesServer(hold(gate, failed(), after_events=2)) as server, open_socket(server) as ws:
        ws.send(input="hi")
        response_id = ws.recv()["response"]["id"]
        ws.recv()
        steer(ws, response_id, "more")
        accepted, end = ws.events()
        returned = ws.recv()
    assert end["type"] == "response.failed"
    assert returned["type"] == "response.steer.failed"
    assert returned["error"]["code"] == "successor_creation_failed"
    assert returned["steer"]["id"] == accepted["steer"]["id"]
    assert returned["steer"]["input"] == "more"
    assert len(server.requests) == 1
