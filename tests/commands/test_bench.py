"""`bench`: an agent over HTTP and over one socket, several times, on the endpoint that is named."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from langchain_ws_responses._cli import main
from langchain_ws_responses.testing import Answer, ResponsesServer, text, tool_call

if TYPE_CHECKING:
    from langchain_ws_responses.testing import RecordedRequest

KEY = "sk-canary-of-the-bench"


def twice_then_done(request: RecordedRequest) -> Answer:
    asked = sum(item.get("type") == "function_call_output" for item in request.seen)
    return tool_call("search", {"text": f"word {asked}"}) if asked < 2 else text("Done.")


def test_rounds_take_turns_on_the_endpoint_and_add_up(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ResponsesServer(answer=twice_then_done, api_key=KEY) as server:
        args = ["--model", "mine", "--base-url", server.base_url, "--turns", "2", "--rounds", "3"]
        assert main(["bench", "--json", *args]) == 0
        requests = server.requests
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err
    # Three turns each: HTTP, socket; socket, HTTP; HTTP, socket.
    went = [request.transport == "websocket" for request in requests]
    assert went == [False] * 3 + [True] * 6 + [False] * 6 + [True] * 3
    assert {request.model for request in requests} == {"mine"}
    result = json.loads(shown.out)
    for kind, over_socket in (("http", False), ("websocket", True)):
        run = result["runs"][kind]
        sent = [
            request.raw_bytes for request in requests if (request.transport == "websocket") is over_socket
        ]
        assert run["bytes_sent"] == [sum(sent[i : i + 3]) for i in (0, 3, 6)]
        assert (run["turns"], run["tool_calls"]) == ([3, 3, 3], [2, 2, 2])
        assert run["delta"] == ([2, 2, 2] if over_socket else [0, 0, 0])
        for total, each in zip(run["total_seconds"], run["seconds_per_turn"]["each"], strict=True):
            assert each == pytest.approx(total / 3)


def test_the_table_is_readable_without_a_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--local", "--turns", "3", "--rounds", "2"]) == 0
    shown = capsys.readouterr()
    cells = {line[:30].strip(): line[30:].split() for line in shown.out.splitlines()}
    assert cells["turns"] == ["4", "4"]
    assert cells["sent as a delta"] == ["0", "3"]
    assert {"bytes sent", "time per turn", "total time"} <= set(cells)
    assert max(map(len, shown.out.splitlines())) <= 80
    assert [line.split()[-3] for line in shown.err.splitlines() if line.startswith("HTTP")] == ["1/2", "2/2"]


@pytest.mark.parametrize(
    ("args", "key", "code", "remedy"),
    [
        (["--model", "m"], "", 2, "use --local"),
        ([], KEY, 2, "--model NAME"),
        (["--local", "--model", "m"], "", 2, "leave --model"),
        (["--local", "--rounds", "0"], "", 2, "from 1 to"),
        (["--model", "m", "--base-url", "nope"], KEY, 2, "https://api.example.com/v1"),
        (["--model", "m", "--base-url", "http://127.0.0.1:9/v1"], KEY, 1, "the run over HTTP failed"),
    ],
)
def test_what_cannot_work_says_what_to_do(
    args: list[str], key: str, code: int, remedy: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", key)
    try:
        found = main(["bench", *args])
    except SystemExit as exc:  # from argparse
        found = int(exc.code or 0)
    shown = capsys.readouterr()
    assert found == code
    assert shown.out == ""
    assert remedy in shown.err
    assert "Traceback" not in shown.err
    assert KEY not in shown.err
