"""Every recorded stream gives over the socket what ChatOpenAI makes of it over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from pairs import WAYS, bare, http_model, outcome, run, socket_model

from langchain_ws_responses.testing import ResponsesServer, events

if TYPE_CHECKING:
    from pathlib import Path

    from langchain_ws_responses import ConnectionManager

VERSIONS = (None, "v0", "responses/v1", "v1")
# What a WebSocket alone carries. The openai client would hand it on as an event without a class.
TERMINAL = ("response.completed", "response.failed", "response.incomplete", "error")


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines() if line.strip()]


def recorded_over_http(streams_dir: Path) -> dict[str, list[dict[str, Any]]]:
    return {path.parent.name: _lines(path) for path in sorted(streams_dir.glob("*/events.jsonl"))}


def recorded_over_sockets(streams_dir: Path) -> dict[str, list[dict[str, Any]]]:
    """The server's frames, turn by turn."""
    turns: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(streams_dir.glob("*/frames.jsonl")):
        number = 0
        for line in _lines(path):
            frame = line["frame"]
            if line["dir"] == "client":
                number += frame["type"] == "response.create"
            else:
                turns.setdefault(f"{path.parent.name} turn {number}", []).append(frame)
    return turns


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("way", WAYS)
def test_recorded_stream_gives_the_same_messages_as_over_http(
    streams_dir: Path, manager: ConnectionManager, way: str, version: str | None
) -> None:
    recordings = {**recorded_over_http(streams_dir), **recorded_over_sockets(streams_dir)}
    assert len(recordings) >= 25
    with ResponsesServer() as server:
        fields = {} if version is None else {"output_version": version}
        oracle = http_model(server, **fields)
        model = socket_model(server, manager, **fields)
        for name, frames in recordings.items():
            if frames[-1]["type"] not in ("response.completed", "response.incomplete"):
                continue
            server.add(events(frames), events(frames))
            expected = [bare(message) for message in run(oracle, way, "hi")]
            answers = run(model, way, "hi")
            assert [bare(message) for message in answers] == expected, f"{name}, {way}, {version}"
            carriers = [message for message in answers if "transport" in message.response_metadata]
            assert len(carriers) == 1, name
            assert carriers[0].response_metadata["transport"]["kind"] == "websocket"
        assert {request.transport for request in server.requests[::2]} <= {"http", "sse"}
        assert {request.transport for request in server.requests[1::2]} == {"websocket"}


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_recorded_stream_that_broke_off_hands_over_what_came_before(
    streams_dir: Path, manager: ConnectionManager, way: str
) -> None:
    broken = {
        name: frames
        for name, frames in recorded_over_sockets(streams_dir).items()
        if frames[-1]["type"] == "error"
    }
    assert broken
    with ResponsesServer() as server:
        oracle, model = http_model(server), socket_model(server, manager)
        for name, frames in broken.items():
            server.add(events(frames), events(frames))
            expected, expected_error = outcome(oracle, way, "hi")
            seen, error = outcome(model, way, "hi")
            assert expected_error is not None
            assert error is not None
            assert frames[-1]["error"]["message"] in str(error), name
            assert [bare(message) for message in seen] == [bare(message) for message in expected], name
