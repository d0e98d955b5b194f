"""openai's JavaScript `ResponsesWS` as a client of the local server, under Node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langchain_ws_responses.testing import Answer, RecordedRequest, ResponsesServer, error, text, tool_call

SCRIPT = Path(__file__).with_name("responses_ws.mjs")
# Five letters give 5 + 2 = 7, seven letters give 7 + 2 = 9.
PROMPTS = {"alpha": "start", "beta": "startup"}

Play = Callable[[ResponsesServer, dict[str, str]], dict[str, Any]]


@pytest.fixture
def play(environment: Callable[[str], Path], environ: dict[str, str]) -> Play:
    modules = environment("node")

    def run(server: ResponsesServer, prompts: dict[str, str]) -> dict[str, Any]:
        done = subprocess.run(
            ["node", str(SCRIPT), str(modules), server.base_url, json.dumps(prompts)],
            env=environ,
            capture_output=True,
            encoding="utf-8",
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return run


def adder(request: RecordedRequest) -> Answer:
    """Asks for three sums, one after another, then names the last one."""
    done = [item for item in request.seen if item.get("type") == "function_call_output"]
    if len(done) < 3:
        return tool_call("add", {"a": len(str(request.last_user_text)), "b": len(done)})
    return text(f"The last sum is {done[-1]['output']}.")


def test_two_lanes_run_their_tools_on_one_socket_in_deltas(play: Play) -> None:
    with ResponsesServer(answer=adder, api_key="sk-test") as server:
        found = play(server, PROMPTS)
    assert found["finals"] == {"alpha": "The last sum is 7.", "beta": "The last sum is 9."}
    # The text arrived in pieces, each on its own lane.
    assert found["texts"] == found["finals"]
    assert found["errors"] == []
    assert found["code"] == 1000
    assert len(server.connections) == 1
    for name in PROMPTS:
        mine = [request for request in server.requests if request.stream_id == name]
        assert [request.is_delta for request in mine] == [False, True, True, True]
        assert [len(request.items) for request in mine] == [1, 1, 1, 1]
        assert len(mine[-1].seen) == 7


def test_the_default_lane(play: Play) -> None:
    with ResponsesServer(answer=adder, api_key="sk-test") as server:
        found = play(server, {"": "start"})
    assert found["finals"] == {"": "The last sum is 7."}
    assert [request.stream_id for request in server.requests] == [None] * 4


def test_an_error_frame_arrives_as_its_error(play: Play) -> None:
    refused = error(code="rate_limit_exceeded", status=429, message="Too many tokens.")
    with ResponsesServer(refused, api_key="sk-test") as server:
        found = play(server, {"": "start"})
    assert [(seen["code"], seen["status"]) for seen in found["errors"]] == [("rate_limit_exceeded", 429)]
    assert "Too many tokens." in found["errors"][0]["message"]


def test_a_wrong_key_is_refused_at_the_handshake(play: Play) -> None:
    with ResponsesServer(api_key="sk-other") as server:
        found = play(server, {"": "start"})
        assert [handshake.status for handshake in server.handshakes] == [401]
    assert found["finals"] == {}
    assert "401" in found["errors"][0]["message"]
    assert server.requests == []
