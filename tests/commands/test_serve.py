"""`serve`: the local server as another program meets it."""

from __future__ import annotations

import argparse
import io
import json
import re
import signal
import socket
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from command_line import run, started
from websockets.sync.client import connect

from langchain_ws_responses._cli import Console
from langchain_ws_responses._commands.script import _FORMS, answer_of, load_script
from langchain_ws_responses._commands.serving import _Journal, run_until_stopped
from langchain_ws_responses.testing import Answer, ResponsesServer, error, hold

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path


def addresses(process: subprocess.Popen[str]) -> dict[str, str]:
    """Reads what `serve` prints first."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(2)]
    assert all(lines), process.stderr.read() if process.stderr else ""
    return dict(line.split() for line in lines)


def ask(base_url: str, value: Any, **headers: str) -> httpx.Response:
    body = {"model": "m", "input": value}
    return httpx.post(f"{base_url}/responses", json=body, headers=headers, trust_env=False)


def text_of(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return str(response.json()["output"][0]["content"][0]["text"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_http_and_sockets_until_a_signal_and_ends_with_0(number: int) -> None:
    with started("serve", "--port", "0") as process:
        found = addresses(process)
        assert "'Hello'" in text_of(ask(found["base_url"], "Hello"))
        with connect(found["websocket_url"], proxy=None) as client:
            client.send(json.dumps({"type": "response.create", "model": "m", "input": "Hi"}))
            events = [json.loads(client.recv())]
            while events[-1]["type"] != "response.completed":
                events.append(json.loads(client.recv()))
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert process.returncode == 0
    assert out == ""
    lines = [line.split() for line in err.splitlines()]
    assert [(line[0], line[-1]) for line in lines if line[-1] == "completed"] == [
        ("http", "completed"),
        ("websocket", "completed"),
    ]
    assert "Traceback" not in err


class Interrupted(ResponsesServer):
    """A server whose owner is told to stop as soon as something has happened."""

    happens: Callable[[], object]

    def wait_for(self, predicate: Callable[[], Any], timeout: float = 5.0) -> Any:
        self.happens()
        raise KeyboardInterrupt


@pytest.mark.parametrize("end", ["completed", "dropped"])
def test_what_ended_just_before_the_stop_or_by_it_is_told(end: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    answer = "Done." if end == "completed" else hold(threading.Event(), "Never.", after_events=1)
    server = Interrupted(answer)
    with ExitStack() as closing:

        def turn() -> None:
            client = closing.enter_context(connect(server.websocket_url, proxy=None))
            client.send(json.dumps({"type": "response.create", "model": "m", "input": "Hi"}))
            while json.loads(client.recv())["type"] not in ("response.completed", "response.created"):
                pass
            if end == "completed":
                ResponsesServer.wait_for(server, lambda: server.requests[0].status == end)

        server.happens = turn
        args = argparse.Namespace(host="127.0.0.1", port=0, json=False, quiet=False)
        run_until_stopped(server, args, Console(out=out, err=err))
    told, stopped = err.getvalue().splitlines()[-2:]
    assert (told.split()[0], told.split()[-1]) == ("websocket", end)
    assert stopped == "Stopped."


def test_a_script_answers_in_order_and_ends_or_begins_again(tmp_path: Path) -> None:
    script = tmp_path / "script.jsonl"
    script.write_text('"First."\n\n{"tool_call": "add", "args": {"a": 1}, "call_id": "call_1"}\n')
    with started("serve", "--port", "0", "--script", str(script)) as process:
        base = addresses(process)["base_url"]
        assert text_of(ask(base, "1")) == "First."
        call = ask(base, "2").json()["output"][0]
        assert (call["name"], call["arguments"], call["call_id"]) == ("add", '{"a":1}', "call_1")
        assert ask(base, "3").json()["error"]["code"] == "script_exhausted"
    with started("serve", "--port", "0", "--quiet", "--script", str(script), "--repeat") as process:
        base = addresses(process)["base_url"]
        kinds = [ask(base, "x").json()["output"][0]["type"] for _ in range(4)]
        assert kinds == ["message", "function_call"] * 2


def test_a_function_answers_and_its_defects_are_told(tmp_path: Path) -> None:
    code = tmp_path / "mine.py"
    code.write_text("def answer(request):\n    return str(1 // len(request.last_user_text))\n")
    with started("serve", "--port", "0", "--answer", str(code)) as process:
        base = addresses(process)["base_url"]
        assert text_of(ask(base, "x")) == "1"
        assert ask(base, "").status_code == 400
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert "answer() raised ZeroDivisionError" in err


def test_the_fake_model_calls_the_tools_that_it_is_offered() -> None:
    with started("serve", "--port", "0", "--fake-model") as process:
        base = addresses(process)["base_url"]
        tool = {"type": "function", "name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}
        body = {"model": "m", "input": "Add 4", "tools": [tool]}
        done = httpx.post(f"{base}/responses", json=body, trust_env=False)
    assert done.json()["output"][0]["arguments"] == '{"a":4}'


def test_json_and_the_settings_of_the_server() -> None:
    args = ("--port", "0", "--json", "--api-key-env", "MINE", "--refuse-upgrade", "426")
    with started("serve", *args, env={"MINE": "sk-served"}) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(5)]
        facts = json.loads("".join(lines))
        assert facts["pid"] == process.pid
        assert ask(facts["base_url"], "x").status_code == 401
        assert ask(facts["base_url"], "x", authorization="Bearer sk-served").status_code == 200
        url = facts["base_url"] + "/responses"
        upgrade = {
            "connection": "Upgrade", "upgrade": "websocket", "sec-websocket-version": "13",
            "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==", "authorization": "Bearer sk-served",
        }  # fmt: skip
        assert httpx.get(url, headers=upgrade, trust_env=False).status_code == 426
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=20)
    assert "sk-served" not in "".join(lines) + out + err


def test_a_port_in_use_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run("serve", "--port", port)
    assert done.returncode == 1
    assert done.stdout == ""
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use. Choose another port" in done.stderr
    assert "--port 0" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("host", ["192.0.2.1", "nowhere.invalid"])
def test_an_address_of_another_machine_says_so(
    host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from langchain_ws_responses._cli import main

    if not host[0].isdigit():

        def unknown(*_args: object, **_kwargs: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert main(["serve", "--host", host, "--port", "0"]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Give --host an address of this machine" in shown.err
    assert "another port" not in shown.err


@pytest.mark.parametrize(
    ("args", "content", "remedy"),
    [
        (["--prot", "1"], None, "--prot"),
        (["--port", "70000"], None, "from 0 to 65535"),
        (["--lifetime", "-1"], None, "number of seconds"),
        (["--refuse-upgrade", "99"], None, "HTTP status"),
        (["--repeat"], None, "--repeat needs --script"),
        (["--answer", "FILE", "--fake-model"], "x", "choose one"),
        (["--script", "FILE", "--answer", "FILE"], '"x"', "choose one"),
        (["--script", "FILE"], None, "cannot read"),
        (["--script", "FILE"], "{", "line 1 is not JSON"),
        (["--script", "FILE"], "[1", "not JSON"),
        (["--script", "FILE"], "\n", "holds no answer"),
        (["--script", "FILE"], '{"say": "x"}', "'say' is no answer; the first key is one of text"),
        (["--script", "FILE"], '"x"\n{"text": "x", "colour": 1}', "line 2: "),
        (["--script", "FILE"], '{"calls": 3}', "a list of answers is needed"),
        (["--script", "FILE"], "3", "a string or an object"),
        (["--script", "FILE"], '{"text": 5}', "line 1: 'text' must be a string"),
        (["--script", "FILE"], '{"tool_call": null}', "'tool_call' must be a string"),
        (["--script", "FILE"], '{"text": "x", "chunks": -1}', "'chunks' must be a whole number at least 1"),
        (["--script", "FILE"], '{"drop": "x"}', "'drop' must be a whole number at least 0"),
        (
            ["--script", "FILE"],
            '{"error": "x", "status": "abc"}',
            "'status' must be a whole number from 100 to 599",
        ),
        (
            ["--script", "FILE"],
            '{"error": "x", "headers": {"a": 1}}',
            "'headers' must be an object of strings",
        ),
        (["--script", "FILE"], '{"error": "x", "shape": "round"}', "'shape' must be one of nested, flat"),
        (["--script", "FILE"], '{"events": [{"type": 5}]}', "a list of objects whose 'type' is a string"),
        (["--script", "FILE"], '{"drop": 1, "answer": {"text": 5}}', "'text' must be a string"),
        (["--script", "FILE"], "[" * 100_000, "is nested too deeply"),
        (["--script", "FILE"], '"x"\n' + '{"text": ' * 100_000, "line 2 is nested too deeply"),
        (["--answer", "FILE"], None, "cannot read"),
        (["--answer", "FILE"], "x = 1", "no function `answer(request)`"),
        (["--answer", "FILE"], "1/0", "ZeroDivisionError"),
        (["--api-key-env", "UNSET_HERE"], None, "UNSET_HERE is not set"),
    ],
)
def test_wrong_usage_says_what_to_do(
    args: list[str], content: str | None, remedy: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from langchain_ws_responses._cli import main

    if content is not None:
        (tmp_path / "FILE").write_text(content)
    monkeypatch.chdir(tmp_path)
    try:
        code = main(["serve", "--port", "0", *args])
    except SystemExit as exc:  # from argparse
        code = exc.code  # type: ignore[assignment]
    shown = capsys.readouterr()
    assert code == 2
    assert shown.out == ""
    assert remedy in shown.err
    assert "Traceback" not in shown.err


def test_every_form_of_a_script_is_the_answer_that_it_names(tmp_path: Path) -> None:
    forms: list[Any] = [
        "plain",
        {"text": "in two", "chunks": ["in ", "two"]},
        {"custom_tool_call": "run", "input": "free text"},
        {"calls": [{"tool_call": "a"}, {"tool_call": "b", "args": {"x": 1}}], "text": "Both."},
        {"reasoning": "Think.", "then": "Done."},
        {"json": {"name": "Ada"}},
        {"refusal": "No.", "chunks": None},
        {"failed": "server_error", "message": "Broken."},
        {"incomplete": "max_output_tokens", "text": "Cut"},
        {"error": "rate_limit_exceeded", "status": 429, "headers": {"retry-after": "7"}},
        {"events": [{"type": "response.completed", "response": {"id": "resp_mine", "output": []}}]},
    ]
    path = tmp_path / "all.json"
    path.write_text(json.dumps(forms))
    answers = load_script(path)
    with ResponsesServer(*answers) as server:
        got = [ask(server.base_url, str(number)) for number in range(len(forms))]
    bodies = [response.json() for response in got]
    kinds = [[item["type"] for item in body.get("output", [])] for body in bodies]
    assert [text_of(response) for response in got[:2]] == ["plain", "in two"]
    assert kinds[2:5] == [
        ["custom_tool_call"],
        ["message", "function_call", "function_call"],
        ["reasoning", "message"],
    ]
    assert text_of(got[5]) == '{"name":"Ada"}'
    assert bodies[6]["output"][0]["content"][0]["refusal"] == "No."
    assert (bodies[7]["status"], bodies[7]["error"]["code"]) == ("failed", "server_error")
    assert bodies[8]["incomplete_details"]["reason"] == "max_output_tokens"
    assert (got[9].status_code, got[9].headers["retry-after"]) == (429, "7")
    assert bodies[9]["error"]["code"] == "rate_limit_exceeded"
    assert bodies[10]["id"] == "resp_mine"


def test_every_form_in_the_docs_is_an_answer(project: Path) -> None:
    page = (project / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    shown = [json.loads(form) for form in re.findall(r"^\| `(\{.*\})` \|", page, re.M)]
    assert {next(iter(form)) for form in shown} == set(_FORMS)
    for form in shown:
        assert isinstance(answer_of(form), Answer)


def test_an_error_may_have_no_code() -> None:
    assert answer_of({"error": None, "status": 500, "headers": None}) == error(code=None, status=500)


def test_an_inner_answer_is_checked_too() -> None:
    with pytest.raises(TypeError, match="'shout' is no answer"):
        answer_of({"drop": 1, "answer": {"shout": "x"}})


def test_lines_go_on_after_the_server_has_forgotten_older_requests() -> None:
    err = io.StringIO()
    with ResponsesServer(keep=2) as server:
        journal = _Journal(server, Console(out=io.StringIO(), err=err), quiet=False, failures=list)
        for told in (2, 4):
            for _ in range(3):  # one more than it keeps
                ask(server.base_url, "Hi")
            journal.tell()
            assert err.getvalue().count("completed") == told
