"""HTTP JSON, SSE, stored responses and compaction of the local server."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from typing import Any

import pytest
from testing.wire_client import call, open_socket, output_of, post, sse, user

from langchain_ws_responses.testing import (
    ResponsesServer,
    drop,
    error,
    events,
    hold,
    raw,
    tool_call,
)


def test_json_answers_with_the_complete_response() -> None:
    with ResponsesServer("Hello.") as server:
        status, body, headers = post(server, input="hi", user="u")
    assert status == 200
    assert (body["object"], body["status"], body["user"], body["error"]) == (
        "response",
        "completed",
        "u",
        None,
    )
    assert body["output"][0]["content"][0]["text"] == "Hello."
    assert headers["x-request-id"].startswith("req_")
    assert headers["content-type"] == "application/json"
    request = server.requests[0]
    assert (request.transport, request.connection, request.status) == ("http", None, "completed")
    assert request.raw_bytes == len(json.dumps({"model": "m", "input": "hi", "user": "u"}))


def test_sse_names_each_event_and_numbers_them() -> None:
    with ResponsesServer("Hello.") as server:
        status, body, headers = post(server, input="hi", stream=True)
    got = sse(body)
    assert status == 200
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["x-request-id"]
    assert all(name == event["type"] for name, event in got)
    assert [event["sequence_number"] for _, event in got] == list(range(len(got)))
    assert got[0][0] == "response.created"
    assert got[-1][0] == "response.completed"
    assert server.requests[0].transport == "sse"


def test_websocket_and_http_share_storage_but_not_memory() -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        stored = ws.say(input="one")
        unstored = ws.say(input="two", store=False)
        status, body, _ = post(server, input="three", previous_response_id=stored["id"])
        refused, why, _ = post(server, input="three", previous_response_id=unstored["id"])
        back = ws.say(input="four", previous_response_id=body["id"])
    assert status == 200
    assert refused == 400
    assert why["error"]["code"] == "previous_response_not_found"
    assert why["error"]["param"] == "previous_response_id"
    assert back["status"] == "completed"
    assert [item["role"] for item in server.requests[4].seen] == ["user", "assistant"] * 2 + ["user"]


@pytest.mark.parametrize(
    ("name", "value"), [("type", "response.create"), ("stream_id", "a"), ("generate", False)]
)
def test_websocket_only_fields_are_unknown_over_http(name: str, value: Any) -> None:
    with ResponsesServer() as server:
        status, body, _ = post(server, input="hi", **{name: value})
    assert status == 400
    assert body["error"] == {
        "message": f"Unknown parameter: '{name}'.",
        "type": "invalid_request_error",
        "param": name,
        "code": "unknown_parameter",
    }
    assert server.requests[0].error_code == "unknown_parameter"


def test_unknown_fields_pass() -> None:
    with ResponsesServer() as server:
        assert post(server, input=[{"role": "user", "content": "hi"}], brand_new=1)[0] == 200
        assert post(server, input=[], tools=[{"type": "from_the_future"}])[1]["tools"] == [
            {"type": "from_the_future"}
        ]


def test_stored_responses_can_be_read_and_deleted() -> None:
    with ResponsesServer() as server:
        _, body, _ = post(server, input=[user("hi")])
        path = f"/v1/responses/{body['id']}"
        assert call(server, "GET", path)[1] == body
        listed = call(server, "GET", f"{path}/input_items")[1]
        assert [item["content"] for item in listed["data"]] == ["hi"]
        assert call(server, "DELETE", path)[1] == {
            "id": body["id"],
            "object": "response.deleted",
            "deleted": True,
        }
        status, gone, _ = call(server, "GET", path)
        assert call(server, "DELETE", path)[0] == 404
        refused = post(server, input="x", previous_response_id=body["id"])[1]
    assert status == 404
    assert gone["error"]["message"] == f"Response with id '{body['id']}' not found."
    assert refused["error"]["code"] == "previous_response_not_found"


def test_store_false_is_not_stored() -> None:
    with ResponsesServer() as server:
        _, body, _ = post(server, input="hi", store=False)
        assert body["store"] is False
        assert call(server, "GET", f"/v1/responses/{body['id']}")[0] == 404


def test_a_wrong_key_is_401_with_a_json_body() -> None:
    with ResponsesServer(api_key="right") as server:
        status, body, headers = post(server, input="hi")
        right = call(server, "POST", "/v1/responses", {"input": "hi"}, {"Authorization": "Bearer right"})[0]
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert headers["x-request-id"]
    assert right == 200


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/responses", 426),
        ("GET", "/v1/models", 404),
        ("POST", "/v1/responsesx", 404),
        ("PUT", "/v1/responses", 405),
        ("GET", "/v1/responses/resp_0", 404),
    ],
)
def test_other_routes(method: str, path: str, status: int) -> None:
    with ResponsesServer() as server:
        got, body, _ = call(server, method, path)
    assert got == status
    assert body["error"]["message"]


@pytest.mark.parametrize("body", ["not json", "[]", b"\xff", ""])
def test_a_body_that_is_no_object(body: Any) -> None:
    with ResponsesServer() as server:
        status, got, _ = call(server, "POST", "/v1/responses", body)
    assert status == 400
    assert "could not parse" in got["error"]["message"]


def test_pairing_is_checked_over_http() -> None:
    with ResponsesServer(tool_call("add", {}, "call_1")) as server:
        _, first, _ = post(server, input="hi")
        status, body, _ = post(server, input="more", previous_response_id=first["id"])
    assert (status, body["error"]["param"]) == (400, "input")
    assert body["error"]["message"] == "No tool output found for function call call_1."


def test_one_connection_serves_many_requests() -> None:
    with ResponsesServer() as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        local = None
        for stream in (False, True, False):
            connection.request("POST", "/v1/responses", json.dumps({"input": "hi", "stream": stream}))
            response = connection.getresponse()
            assert response.status == 200
            response.read()
            assert connection.sock is not None
            local = local or connection.sock.getsockname()
            assert connection.sock.getsockname() == local
        connection.close()


# -- faults


def test_errors_over_json_and_sse() -> None:
    script = [
        error(code="rate_limit_exceeded", status=429, headers={"retry-after": "3"}),
        error(code="rate_limit_exceeded", status=429),
        error(code="server_error", message="M", status=500, after_events=2),
    ]
    with ResponsesServer(*script) as server:
        plain = post(server, input="hi")
        early = post(server, input="hi", stream=True)
        late = post(server, input="hi", stream=True)
    assert (plain[0], plain[1]["error"]["code"], plain[2]["retry-after"]) == (429, "rate_limit_exceeded", "3")
    assert (early[0], early[1]["error"]["code"]) == (429, "rate_limit_exceeded")
    got = sse(late[1])
    assert late[0] == 200
    assert [name for name, _ in got] == ["response.created", "response.in_progress", "error"]
    assert (got[-1][1]["code"], got[-1][1]["message"]) == ("server_error", "M")


def test_recorded_events_over_json_and_sse() -> None:
    recorded = [
        {"type": "response.created", "response": {"id": "resp_1"}, "sequence_number": 0},
        {"type": "response.completed", "response": {"id": "resp_1", "output": []}, "sequence_number": 1},
    ]
    with ResponsesServer(events(recorded), events(recorded)) as server:
        _, body, _ = post(server, input="hi")
        _, stream, _ = post(server, input="hi", stream=True)
    assert body == {"id": "resp_1", "output": []}
    assert [event for _, event in sse(stream)] == recorded


def test_a_recorded_error_event_over_json() -> None:
    flat = {"type": "error", "code": "server_error", "message": "M", "param": None}
    nested = {"type": "error", "status": 429, "error": {"code": "slow_down", "message": "M"}}
    with ResponsesServer(events([flat]), events([nested])) as server:
        first, second = post(server, input="hi"), post(server, input="hi")
    assert (first[0], first[1]["error"]["code"]) == (500, "server_error")
    assert (second[0], second[1]["error"]["code"]) == (429, "slow_down")


def test_a_body_announced_with_expect_is_asked_for() -> None:
    body = json.dumps({"input": "hi"}).encode()
    with ResponsesServer() as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(10)
        head = "POST /v1/responses HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n"
        client.sendall(f"{head}content-length: {len(body)}\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 100 ")
        client.sendall(body)
        assert client.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_raw_bodies() -> None:
    with ResponsesServer(raw(["<html>"]), raw(["data: x\n\n"])) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        got = []
        for stream in (False, True):
            connection.request("POST", "/v1/responses", json.dumps({"input": "hi", "stream": stream}))
            got.append(connection.getresponse().read())
        connection.close()
    assert got == [b"<html>", b"data: x\n\n"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_cut_answer(stream: bool) -> None:
    with ResponsesServer(drop(after_events=3), "fine") as server:
        with pytest.raises((ConnectionError, http.client.IncompleteRead)):
            post(server, input="hi", stream=stream)
        assert post(server, input="hi")[0] == 200
    assert server.requests[0].status == "dropped"


def test_a_client_that_goes_away_in_mid_stream_harms_nobody() -> None:
    gate = threading.Event()
    with ResponsesServer(hold(gate, "x", after_events=1), "y") as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        body = json.dumps({"input": "hi", "stream": True}).encode()
        head = f"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        assert client.recv(10)
        client.close()
        gate.set()
        server.wait_for(lambda: server.requests[0].status != "in_progress")
        assert post(server, input="hi")[0] == 200


@pytest.mark.parametrize("data", [b"", b"\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\n"])
def test_bytes_that_are_no_request(data: bytes) -> None:
    with ResponsesServer() as server:
        client = socket.create_connection(("127.0.0.1", server.port))
        client.settimeout(10)
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100) == b""
        client.close()
        assert post(server, input="hi")[0] == 200


# -- compaction


def test_compact_returns_a_window_that_starts_a_new_chain() -> None:
    with ResponsesServer() as server:
        history = [user("one"), {"type": "message", "role": "assistant", "content": "two"}, user("three")]
        status, window, _ = call(server, "POST", "/v1/responses/compact", {"model": "m", "input": history})
        post(server, input=[*window["output"], user("four")])
    assert status == 200
    assert window["object"] == "response.compaction"
    assert set(window) == {"id", "object", "created_at", "output", "usage"}
    assert [item["type"] for item in window["output"]] == ["message", "message", "compaction"]
    assert [item.get("content") for item in window["output"][:2]] == ["one", "three"]
    assert window["output"][2]["encrypted_content"]
    assert server.requests[0].kind == "compact"
    assert server.requests[1].seen == [*window["output"], user("four")]


def test_compact_of_a_stored_chain() -> None:
    with ResponsesServer() as server:
        _, first, _ = post(server, input="one")
        body = {"model": "m", "previous_response_id": first["id"], "input": "two"}
        _, window, _ = call(server, "POST", "/v1/responses/compact", body)
        missing = call(server, "POST", "/v1/responses/compact", {**body, "previous_response_id": "resp_0"})
        unpaired = call(
            server, "POST", "/v1/responses/compact", {"model": "m", "input": [output_of("call_1")]}
        )
    assert [item.get("content") for item in window["output"]] == ["one", "two", None]
    assert (missing[0], missing[1]["error"]["code"]) == (400, "previous_response_not_found")
    assert unpaired[0] == 400
    assert [request.status for request in server.requests] == ["completed", "completed", "error", "error"]


def test_server_side_compaction_starts_the_context_anew() -> None:
    rule = [{"type": "compaction", "compact_threshold": 100}]
    with ResponsesServer("a", "b", "c") as server, open_socket(server) as ws:
        small = ws.say(input="short", context_management=rule)
        big = ws.say(input="x" * 1000, previous_response_id=small["id"], context_management=rule)
        ws.say(input="after", previous_response_id=big["id"], context_management=rule)
    assert [item["type"] for item in small["output"]] == ["message"]
    assert [item["type"] for item in big["output"]] == ["compaction", "message"]
    assert server.requests[1].compacted
    assert len(server.requests[1].seen) == 3
    assert server.requests[2].seen == [*big["output"], *server.requests[2].items]
