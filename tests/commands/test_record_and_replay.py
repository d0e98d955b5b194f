"""`record` and `replay`: a cassette written and served as another program meets it."""

from __future__ import annotations

import json
import signal
import socket
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from command_line import run, started
from websockets.sync.client import connect

from langchain_ws_responses.testing import ResponsesServer

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

KEY = "sk-upstream-abcdefgh"


def facts_of(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Reads the one JSON object that a command prints first."""
    assert process.stdout is not None
    lines = []
    while not lines or lines[-1].rstrip() != "}":
        lines.append(process.stdout.readline())
        assert lines[-1], process.stderr.read() if process.stderr else ""
    return dict(json.loads("".join(lines)))


def ask(base_url: str, value: str) -> httpx.Response:
    headers = {"authorization": "Bearer of-the-client"}
    body = {"model": "m", "input": value}
    return httpx.post(f"{base_url}/responses", json=body, headers=headers, trust_env=False)


def ask_over_a_socket(url: str, value: str) -> Any:
    with connect(url, proxy=None) as client:
        client.send(json.dumps({"type": "response.create", "model": "m", "input": value}))
        events = [json.loads(client.recv(timeout=10))]
        while events[-1]["type"] not in ("response.completed", "error"):
            events.append(json.loads(client.recv(timeout=10)))
    return events[-1]


def text_of(response: Any) -> str:
    return str(response["output"][0]["content"][0]["text"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_record_writes_replay_serves(tmp_path: Path, number: int) -> None:
    tape = tmp_path / "tape.jsonl"
    env = {"OPENAI_API_KEY": KEY, "CODE_NAME": "manhattan"}
    with ResponsesServer("From HTTP.", "From a socket: manhattan.", api_key=KEY) as upstream:
        args = ("--json", "--port", "0", "--upstream", upstream.base_url, "--secret-env", "CODE_NAME")
        with started("record", str(tape), *args, env=env) as process:
            facts = facts_of(process)
            assert (facts["file"], facts["pid"]) == (str(tape), process.pid)
            assert text_of(ask(facts["base_url"], "one").json()) == "From HTTP."
            answer = ask_over_a_socket(facts["websocket_url"], "two")["response"]
            assert text_of(answer) == "From a socket: manhattan."
            assert not tape.exists()
            process.send_signal(number)
            out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert f"Wrote {tape}: 2 interactions." in err
    written = tape.read_text()
    assert [secret for secret in (KEY, "manhattan", "of-the-client") if secret in written + err] == []
    with started("replay", str(tape), "--json", "--port", "0") as process:
        facts = facts_of(process)
        assert facts["answers"] == 2
        assert text_of(ask(facts["base_url"], "two").json()) == "From a socket: <scrubbed>."
        assert text_of(ask_over_a_socket(facts["websocket_url"], "one")["response"]) == "From HTTP."
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (0, "")
    assert "Traceback" not in err


def test_replay_says_what_is_not_in_the_cassette_and_what_was_left(tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    request = {"kind": "create", "transport": "http", "headers": {}, "body": {"model": "m", "input": "Hi"}}
    response = {"id": "resp_1", "object": "response", "status": "completed", "output": []}
    line = {"request": request, "response": {"status": 200, "body": response}}
    tape.write_text("\n".join(map(json.dumps, [{"cassette": 1}, line])), encoding="utf-8")
    with started("replay", str(tape), "--json", "--port", "0") as process:
        assert ask(facts_of(process)["base_url"], "Ho").status_code == 400
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "recorded 'Hi', now 'Ho'" in err
    assert "Recorded answers never asked for: 1." in err
    with started("replay", str(tape), "--json", "--port", "0", "--match-on", "model") as process:
        assert ask(facts_of(process)["base_url"], "Ho").status_code == 200
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
    assert process.returncode == 0


def test_record_writes_nothing_that_holds_a_secret(tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    with ResponsesServer() as upstream:
        args = ("--json", "--port", "0", "--upstream", upstream.base_url, "--secret-env", "CODE_NAME")
        with started("record", str(tape), *args, env={"CODE_NAME": "manhattan"}) as process:
            base_url = facts_of(process)["base_url"]
            item = {"role": "user", "content": "hi", "id": "manhattan"}
            httpx.post(f"{base_url}/responses", json={"model": "m", "input": [item]}, trust_env=False)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert "OPENAI_API_KEY is not set: the key of the client is passed on" in err
    assert "interaction 1 still holds secret 1" in err
    assert "manhattan" not in err
    assert not tape.exists()


@pytest.mark.parametrize("command", ["record", "replay"])
def test_a_port_in_use_says_so(command: str, tmp_path: Path) -> None:
    tape = tmp_path / "tape.jsonl"
    if command == "replay":
        tape.write_text('{"cassette": 1}\n')
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(command, str(tape), "--port", port, env={"OPENAI_API_KEY": KEY})
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"cannot listen on 127.0.0.1:{port}" in done.stderr
    assert "--port 0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "code", "remedy"),
    [
        (["record"], 2, "FILE"),
        (["record", "NEW", "--prot", "1"], 2, "--prot"),
        (["record", "FOLDER"], 2, "is a folder"),
        (["record", "BROKEN"], 2, "exists. Name another file, or replace it with --force"),
        (["record", "NEW", "--upstream", "api.example.com"], 2, "https://api.example.com/v1"),
        (["record", "NEW", "--upstream", "http://example.com/v1"], 2, "use https"),
        (["record", "NEW", "--secret-env", "UNSET_HERE"], 2, "UNSET_HERE is not set"),
        (["record", "NEW", "--port", "-1"], 2, "from 0 to 65535"),
        (["replay"], 2, "FILE"),
        (["replay", "MISSING"], 2, "Write one with `record MISSING`"),
        (["record", "NEW", "--api-key-env", "UNSET_HERE"], 2, "UNSET_HERE is not set"),
        (["record", "BROKEN/NEW"], 2, "cannot write BROKEN/NEW"),
        (["replay", "FOLDER"], 2, "FOLDER is a folder. Name a cassette"),
        (["replay", "BROKEN"], 1, "no version"),
        (["replay", "BROKEN_LINE"], 1, "line 2 is broken"),
        (["replay", "NEWER"], 1, "Upgrade it"),
        (["replay", "BROKEN", "--match-on", ","], 2, "--match-on model,input"),
        (
            ["replay", "EMPTY", "--match-on", "modle"],
            2,
            "names 'modle', which no request has; there are model",
        ),
    ],
)
def test_what_cannot_work_says_what_to_do(
    args: list[str], code: int, remedy: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from langchain_ws_responses._cli import main

    (tmp_path / "FOLDER").mkdir()
    (tmp_path / "BROKEN").write_text("not a cassette\n")
    (tmp_path / "BROKEN_LINE").write_text('{"cassette": 1}\n{"request"\n')
    (tmp_path / "EMPTY").write_text('{"cassette": 1}\n')
    (tmp_path / "NEWER").write_text('{"cassette": 2}\n')
    monkeypatch.chdir(tmp_path)
    try:
        ended = main(args)
    except SystemExit as exc:  # from argparse
        ended = exc.code  # type: ignore[assignment]
    shown = capsys.readouterr()
    assert ended == code
    assert shown.out == ""
    assert remedy in shown.err
    assert "Traceback" not in shown.err
    assert not (tmp_path / "NEW").exists()
