"""Frames that broken servers send along, as a plain client of the local server sees them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.sync.client import connect

from langchain_ws_responses.testing import ResponsesServer, drop, error, insert, text
from langchain_ws_responses.testing._script import as_answer

CREATED = ["response.created", "response.in_progress"]


def _frames(answer: Any, count: int) -> list[Any]:
    with (
        ResponsesServer(answer) as server,
        connect(server.websocket_url, compression=None) as socket,
    ):
        create = {"type": "response.create", "model": "m", "input": "hi", "stream_id": "lane"}
        socket.send(json.dumps(create))
        return [socket.recv(timeout=5) for _ in range(count)]


def _types(frames: list[Any]) -> list[str]:
    return [frame if frame == "nonsense" else json.loads(frame)["type"] for frame in frames]


def test_frames_come_where_they_are_asked_for() -> None:
    answer = insert(["nonsense", b'{"type":"binary"}'], 2, insert([{"type": "event"}], 0, text("a", 1)))
    frames = _frames(answer, 5)
    assert _types(frames) == ["event", *CREATED, "nonsense", "binary"]
    assert json.loads(frames[0])["stream_id"] == "lane"
    assert isinstance(frames[4], bytes)


def test_after_the_terminal_event_all_the_rest_comes() -> None:
    stray = {"type": "response.completed", "stream_id": "other"}
    frames = _frames(insert([stray, {"type": "late"}], 99, text("a", 1)), 11)
    assert _types(frames)[8:] == ["response.completed", "response.completed", "late"]
    assert json.loads(frames[9]) == stray
    assert json.loads(frames[10])["stream_id"] == "lane"


@pytest.mark.parametrize("end", [error(code="x", after_events=2), drop(2, 1011)])
def test_they_come_before_an_answer_that_breaks_off(end: Any) -> None:
    assert _types(_frames(insert(["nonsense"], 2, end), 3)) == [*CREATED, "nonsense"]


def test_the_default_answer_and_equality() -> None:
    assert insert(["a"]) == as_answer(insert(["a"]))
    assert insert(["a"]) != insert(["b"])
