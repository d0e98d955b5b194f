"""The life of the local server's connections: handshakes, lifetime, faults of the network, odd frames."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any

import pytest
from testing.wire_client import Socket, open_socket, post, user
from websockets.asyncio.client import connect as aconnect
from websockets.exceptions import ConnectionClosed, ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect

from langchain_ws_responses.testing import (
    ChaosProxy,
    RecordedRequest,
    ResponsesServer,
    drop,
    hold,
    text,
)


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


def test_a_drop_without_a_code_is_a_tcp_reset() -> None:
    head = (
        "GET /v1/responses HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
        "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    with ResponsesServer() as server, socket.create_connection(("127.0.0.1", server.port)) as client:
        client.settimeout(10)
        client.sendall(head.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 101 ")
        server.drop_connections()
        with pytest.raises(ConnectionResetError):
            client.recv(1000)


@pytest.mark.parametrize("code", [None, 1000, 1011])
def test_an_answering_function_may_drop_the_connections(code: int | None) -> None:
    def answer(_request: Any) -> str:
        server.drop_connections(code=code)
        return "lost"

    with ResponsesServer(answer=answer) as server, open_socket(server) as ws:
        ws.send(input="hi")
        with pytest.raises(ConnectionClosed) as lost:
            ws.recv()
        assert (None if lost.value.rcvd is None else lost.value.rcvd.code) == code
        server.wait_for(lambda: server.requests[0].status == "dropped")
        server.wait_for(lambda: not server.connections[0].open)


def test_an_answering_function_may_let_the_server_age_and_forget() -> None:
    def answer(request: RecordedRequest) -> str:
        if request.last_user_text == "age":
            server.age(minutes=61)
        if request.last_user_text == "forget":
            server.forget()
        return "done"

    with ResponsesServer(answer=answer) as server:
        with open_socket(server) as ws:
            first = ws.say(input="hi")["id"]
            second = ws.say(input="forget")["id"]
            refused = ws.refused(input="x", previous_response_id=first)
            assert refused["code"] == "previous_response_not_found"
            assert ws.say(input="x", previous_response_id=second)["status"] == "completed"
            assert ws.refused(input="age")["code"] == "websocket_connection_limit_reached"
            with pytest.raises(ConnectionClosed):
                ws.recv()
        server.wait_for(lambda: server.requests[-1].status == "dropped")


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


@pytest.mark.parametrize("make", [ResponsesServer, lambda port: ChaosProxy("http://127.0.0.1:1", port=port)])
def test_a_port_that_does_not_exist_is_an_error_each_time(make: Any) -> None:
    server = make(port=70000)
    for _ in range(2):
        with pytest.raises(OverflowError, match="65535"):
            server.start()
        server.stop()
    assert "stopped" in repr(server)


async def test_async_context_manager() -> None:
    async with ResponsesServer("x") as server:
        url = server.websocket_url
        async with aconnect(url, proxy=None) as ws:
            await ws.send(json.dumps({"type": "response.create", "model": "m", "input": "hi"}))
            assert json.loads(await ws.recv())["type"] == "response.created"
    assert "stopped" in repr(server)


def test_a_short_lifetime_ends_by_itself() -> None:
    with ResponsesServer(lifetime=0.05) as server, open_socket(server) as ws:
        assert ws.recv()["error"]["code"] == "websocket_connection_limit_reached"
        server.wait_for(lambda: not server.connections[0].open)


def test_clients_that_do_not_read_or_never_finish_do_not_hold_up_the_stop() -> None:
    huge = text("x" * (16 * 2**20), chunks=1)
    server = ResponsesServer(huge, hold(threading.Event(), "never")).start()
    silent = socket.create_connection(("127.0.0.1", server.port))
    body = json.dumps({"input": "hi", "stream": True}).encode()
    silent.sendall(b"POST /v1/responses HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    half = socket.create_connection(("127.0.0.1", server.port))
    half.sendall(b"POST /v1/responses HTTP/1.1\r\n")
    with open_socket(server) as ws:
        server.wait_for(lambda: len(server.requests) == 1)
        ws.send(input="hi")
        server.wait_for(lambda: len(server.requests) == 2)
        server.stop()
    silent.close()
    half.close()
    assert [request.status for request in server.requests] == ["dropped", "dropped"]
    assert "stopped" in repr(server)


def test_a_socket_that_is_never_read_does_not_hold_up_the_stop() -> None:
    server = ResponsesServer(text("x" * (64 * 2**20), chunks=64)).start()
    with open_socket(server, max_queue=1, close_timeout=0.1) as ws:
        ws.send(input="hi")
        server.wait_for(lambda: server.requests)
        ws.recv()
        server.stop()
    assert server.requests[0].status == "dropped"
    assert server.connections[0].open is False


def test_no_record_prints_the_key() -> None:
    headers = {"Authorization": "Bearer canary-7"}
    with ResponsesServer(api_key="canary-7") as server, open_socket(server, additional_headers=headers) as ws:
        ws.say(input="hi")
        printed = repr((server, server.requests, server.connections, server.handshakes))
    assert server.requests[0].headers["authorization"] == "Bearer canary-7"
    assert "canary-7" not in printed


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
    with (
        ResponsesServer(refuse_upgrade=status, refuse_headers=extra) as server,
        pytest.raises(InvalidStatus) as refused,
        connect(server.websocket_url, proxy=None),
    ):
        pass
    assert refused.value.response.status_code == status
    assert refused.value.response.headers["retry-after"] == "7"
    assert server.connections == []


def test_another_path_is_not_found() -> None:
    with ResponsesServer() as server, pytest.raises(InvalidStatus) as refused:
        connect(f"ws://127.0.0.1:{server.port}/v1/realtime", proxy=None)
    assert refused.value.response.status_code == 404


def test_an_offer_of_compression_is_answered_without_it() -> None:
    with ResponsesServer() as server, open_socket(server, compression="deflate") as ws:
        assert "permessage-deflate" in server.connections[0].headers["sec-websocket-extensions"]
        assert ws.connection.response is not None
        assert "sec-websocket-extensions" not in ws.connection.response.headers
        assert ws.say(input="hi")["status"] == "completed"


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
        with connect(server.websocket_url, proxy=None) as rude:
            Socket(rude).send(input="hi")
            rude.socket.close()
        server.wait_for(lambda: not server.connections[1].open)
        assert ws.say(input="hi")["status"] == "completed"


@pytest.mark.parametrize("frame", ["not json", "[1]", '{"type": "response.cancel"}', "{}"])
def test_frames_that_are_no_create_get_an_error_and_the_socket_lives(frame: str) -> None:
    with ResponsesServer() as server, open_socket(server) as ws:
        ws.connection.send(frame)
        assert ws.recv()["type"] == "error"
        assert ws.say(input="hi")["status"] == "completed"


def test_what_is_over_is_forgotten_beyond_what_is_kept() -> None:
    with ResponsesServer(keep=2) as server:
        ids = [post(server, input=f"question {number}")[1]["id"] for number in range(5)]
        assert [request.last_user_text for request in server.requests] == ["question 3", "question 4"]
        assert [request.number for request in server.requests] == [4, 5]
        # Who continues a forgotten response is told so, as by a service that has lost it; the newest are there.
        status, body, _ = post(server, input="more", previous_response_id=ids[0])
        assert (status, body["error"]["code"]) == (400, "previous_response_not_found")
        assert post(server, input="more", previous_response_id=ids[4])[0] == 200
        for _ in range(4):
            with open_socket(server):
                pass
        server.wait_for(lambda: len(server.connections) == 4)
        server.wait_for(lambda: not any(record.open for record in server.connections))
        with open_socket(server) as ws:
            ws.say(input="hi")
            assert [record.id for record in server.connections] == ["conn_4", "conn_5"]
            assert [shake.connection for shake in server.handshakes] == ["conn_4", "conn_5"]


def test_what_goes_on_is_not_forgotten() -> None:
    gate = threading.Event()
    with ResponsesServer(hold(gate, "slow", after_events=1), keep=1, answer=lambda _: "quick") as server:
        with open_socket(server) as ws:
            ws.send(input="long")
            ws.until("response.created")
            for _ in range(3):
                assert post(server, input="short")[0] == 200
            assert [request.number for request in server.requests] == [1, 4]
            gate.set()
            assert ws.until("response.completed")["response"]["output"][0]["content"][0]["text"] == "slow"
        assert post(server, input="short")[0] == 200
        assert [request.number for request in server.requests] == [5]
