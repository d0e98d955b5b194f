"""The WebSocket mode of the local server, held against the facts of the protocol."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from testing.wire_client import open_socket, output_of, user

from langchain_ws_responses.testing import (
    ResponsesServer,
    calls,
    custom_tool_call,
    error,
    events,
    failed,
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
    "incomplete_details", "instructions", "max_output_tokens", "max_tool_calls", "model", "moderation",
    "output", "parallel_tool_calls", "presence_penalty", "previous_response_id", "prompt_cache_key",
    "prompt_cache_retention", "reasoning", "safety_identifier", "service_tier", "store", "temperature",
    "text", "tool_choice", "tools", "top_logprobs", "top_p", "truncation", "usage", "user", "metadata",
}  # fmt: skip


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
    assert kinds(got) == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
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
        [
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
        ]
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
    with (
        ResponsesServer(reasoning("Think.", "Done."), reasoning(["A", "B"], "Done.")) as server,
        open_socket(server) as ws,
    ):
        ws.send(input="hi", include=["reasoning.encrypted_content"], store=False)
        got = ws.events()
        plain = ws.say(input="hi")
    done = next(e["item"] for e in got if e["type"] == "response.output_item.done")
    final = got[-1]["response"]["output"][0]
    assert done["type"] == final["type"] == "reasoning"
    assert done["id"] == final["id"]
    assert done["encrypted_content"] != final["encrypted_content"]
    assert kinds(got)[2:7] == [
        "output_item.added",
        "reasoning_summary_part.added",
        "reasoning_summary_text.delta",
        "reasoning_summary_text.done",
        "reasoning_summary_part.done",
    ]
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
    with pytest.raises(AssertionError, match="1 of 2 scripted answers"), server, open_socket(server) as ws:
        ws.say(input="hi")


def test_answers_can_be_taken_back() -> None:
    with ResponsesServer("a", "b") as server, open_socket(server) as ws:
        ws.say(input="hi")
        server.clear()
        assert ws.refused(input="hi")["code"] == "script_exhausted"


def test_a_list_of_answers_is_one_response() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        server.add([tool_call("a", call_id="1"), tool_call("b", call_id="2")])
        assert [item["call_id"] for item in ws.say(input="hi")["output"]] == ["1", "2"]


def test_leftovers_do_not_hide_another_exception() -> None:
    with pytest.raises(KeyError), ResponsesServer("a"):
        raise KeyError


def test_a_create_beyond_the_script_is_refused() -> None:
    with ResponsesServer("a") as server, open_socket(server) as ws:
        ws.say(input="hi")
        server.assert_all_answered()
        assert ws.refused(input="hi")["code"] == "script_exhausted"
        with pytest.raises(AssertionError, match="request 2: websocket, full, ending in 'user: hi'"):
            server.assert_all_answered()
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


def test_custom_tool_calls_and_their_outputs() -> None:
    answer = custom_tool_call("shell", "ls -l", "call_1")
    with ResponsesServer(answer, "done") as server, open_socket(server) as ws:
        ws.send(input="hi")
        got = ws.events()
        first = got[-1]["response"]
        item = {"type": "custom_tool_call_output", "call_id": "call_1", "output": "x"}
        ws.say(input=[item], previous_response_id=first["id"])
    assert kinds(got)[2:6] == [
        "output_item.added",
        "custom_tool_call_input.delta",
        "custom_tool_call_input.done",
        "output_item.done",
    ]
    assert (first["output"][0]["type"], first["output"][0]["input"]) == ("custom_tool_call", "ls -l")
    assert server.requests[1].tool_outputs == {"call_1": "x"}


def test_one_gate_for_all_events_and_a_delay() -> None:
    gate = threading.Event()
    with ResponsesServer(event_gate=gate, event_delay=0.001) as server, open_socket(server) as ws:
        ws.send(input="hi")
        server.wait_for(lambda: server.requests)
        with pytest.raises(TimeoutError):
            ws.connection.recv(timeout=0.05)
        gate.set()
        assert ws.events()[-1]["type"] == "response.completed"


def test_recorded_events_may_end_in_an_error_or_not_at_all() -> None:
    begun = {"type": "response.created", "response": {"id": "resp_1"}}
    broken = {"type": "error", "error": {"code": "server_error"}}
    with (
        ResponsesServer(events([begun, broken]), events([begun]), "fine") as server,
        open_socket(server) as ws,
    ):
        ws.send(input="hi")
        assert ws.events() == [begun, broken]
        ws.send(input="hi")
        assert ws.recv() == begun
        assert ws.say(input="hi")["status"] == "completed"
    assert [request.status for request in server.requests] == ["error", "dropped", "completed"]
    assert server.requests[0].error_code == "server_error"


def test_a_conversation_and_settings_are_echoed() -> None:
    settings = {
        "conversation": "conv_1",
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_object"}},
        "tool_choice": "required",
        "max_output_tokens": 9,
    }
    with ResponsesServer() as server, open_socket(server) as ws:
        response = ws.say(input=[user("", content=[{"type": "input_text", "text": "in parts"}])], **settings)
    assert response["conversation"] == {"id": "conv_1"}
    assert response["reasoning"] == {"effort": "low", "summary": None}
    assert response["text"] == {"format": {"type": "json_object"}, "verbosity": "medium"}
    assert (response["tool_choice"], response["max_output_tokens"]) == ("required", 9)
    assert server.requests[0].last_user_text == "in parts"


def test_input_of_a_wrong_type_is_refused() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        for wrong in (7, {"role": "user"}, ["hi"]):
            refused = ws.refused(input=wrong)
            assert (refused["code"], refused["param"]) == ("invalid_type", "input")
    assert len(server.requests) == 3


def test_obfuscation_can_be_switched_off() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        ws.send(input="hi")
        padded = [event for event in ws.events() if event["type"].endswith("delta")]
        ws.send(input="hi", stream_options={"include_obfuscation": False})
        bare = [event for event in ws.events() if event["type"].endswith("delta")]
    assert all(event["obfuscation"] for event in padded)
    assert bare
    assert not any("obfuscation" in event for event in bare)
