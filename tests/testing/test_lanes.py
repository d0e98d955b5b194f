"""Lanes of the local server: order, names, limits, and a server that has none."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from testing.wire_client import open_socket

from langchain_ws_responses.testing import (
    ResponsesServer,
    hold,
)


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
    assert [turn[0]["type"] for turn in turns] == ["response.created"] * 3
    assert [
        f"n{n}" in turn[-1]["response"]["output"][0]["content"][0]["text"] for n, turn in enumerate(turns)
    ] == ([True] * 3)


def test_in_flight_limit_queues_over_all_lanes() -> None:
    gate = threading.Event()
    with (
        ResponsesServer(answer=lambda _: hold(gate, "x", after_events=1), max_in_flight=2) as server,
        open_socket(server) as ws,
    ):
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
