"""The plugin's fixtures, used by test files as a user writes them, each run in a process of its own."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from pytest_runs import PLUGIN, run_pytest

from langchain_ws_responses.testing import ResponsesServer

if TYPE_CHECKING:
    from pathlib import Path

# Speaks to the server as the environment says where it is: no client of this package, so nothing heavy.
ASK = """
import json, os, urllib.error, urllib.request
import pytest

def ask(text, **more):
    body = json.dumps({"model": "m", "input": text, **more}).encode()
    headers = {"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"], "Content-Type": "application/json"}
    request = urllib.request.Request(os.environ["OPENAI_BASE_URL"] + "/responses", body, headers)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return json.load(answer)

def said(response):
    return response["output"][0]["content"][0]["text"]
"""


def test_pytest_finds_the_plugin_where_the_package_is_installed(project: Path) -> None:
    assert f'[project.entry-points.pytest11]\nlangchain_ws_responses = "{PLUGIN}"\n' in (
        project / "pyproject.toml"
    ).read_text(encoding="utf-8")
    installed = {
        entry.value
        for entry in importlib.metadata.distribution("langchain-ws-responses").entry_points
        if entry.group == "pytest11"
    }
    if not installed:
        pytest.skip("this installation is older than the entry point: pip install -e . again")
    assert installed == {PLUGIN}


def test_plugin_imports_nothing_before_a_fixture_is_used(tmp_path: Path) -> None:
    (tmp_path / "test_nothing.py").write_text("def test_nothing():\n    pass\n", encoding="utf-8")
    script = (
        "import json, sys, pytest\n"
        "code = pytest.main(['-q', '-p', 'no:cacheprovider', *sys.argv[1:]])\n"
        "print(json.dumps([code, sorted({name.partition('.')[0] for name in sys.modules})]))"
    )

    def loaded(*args: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, "-c", script, *args],
            cwd=tmp_path,
            env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            timeout=100,
            check=True,
        )
        code, names = json.loads(done.stdout.splitlines()[-1])
        assert code == 0, done.stdout
        return set(names)

    with_plugin = loaded("-p", PLUGIN)
    assert with_plugin - loaded() == {"langchain_ws_responses"}
    assert not with_plugin & {"websockets", "langchain_core", "openai", "h11", "asyncio"}


def test_server_fixture_answers_what_is_scripted_and_says_what_was_not_used(tmp_path: Path) -> None:
    run = run_pytest(
        tmp_path,
        ASK
        + """
from langchain_ws_responses.testing import text, tool_call

def test_ends_with_its_script(responses_server):
    responses_server.add("Hello.")
    assert said(ask("Hi")) == "Hello."
    assert [request.transport for request in responses_server.requests] == ["http"]

def test_is_alone_with_its_server(responses_server):
    assert responses_server.requests == []

def test_leaves_answers(responses_server):
    responses_server.add("One.", tool_call("weather", {"city": "Oslo"}), "Three.")
    ask("Hi")

def test_asks_too_much(responses_server):
    responses_server.add("One.")
    ask("Hi")
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask("And now?")
    assert "request 2" in refused.value.read().decode()

def test_scripts_nothing(responses_server):
    with pytest.raises(urllib.error.HTTPError):
        ask("Hi")

def test_fails_by_itself(responses_server):
    responses_server.add("One.")
    assert False, "its own reason"

def broken(request):
    raise ValueError("my own mistake")

@pytest.mark.responses_server(answer=broken)
def test_raises_in_the_server(responses_server):
    with pytest.raises(urllib.error.HTTPError):
        ask("Hi")

@pytest.mark.responses_server("From the marker.", api_key="secret")
def test_has_options(responses_server):
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask("Hi")
    os.environ["OPENAI_API_KEY"] = "secret"
    assert said(ask("Hi")) == "From the marker."

@pytest.mark.responses_server(sort_of=1)
def test_unknown_option(responses_server):
    pass

@pytest.mark.responses_server(answer=lambda request: f"You said {request.last_user_text}")
def test_reacts(responses_server):
    assert said(ask("Hi")) == "You said Hi"
    assert said(ask("Ho")) == "You said Ho"
""",
    )
    assert run.outcomes == {
        "test_ends_with_its_script": ["passed"],
        "test_is_alone_with_its_server": ["passed"],
        "test_leaves_answers": ["error"],
        "test_asks_too_much": ["error"],
        "test_scripts_nothing": ["error"],
        "test_fails_by_itself": ["failed"],
        "test_raises_in_the_server": ["error"],
        "test_has_options": ["passed"],
        "test_unknown_option": ["error"],
        "test_reacts": ["passed"],
    }, run.out
    left = run.messages["test_leaves_answers"]
    assert "2 of 3 scripted answers never asked for" in left
    assert "answer 2: tool_call('weather', '{\"city\":\"Oslo\"}')" in left
    assert "answer 3: text('Three.')" in left
    assert "One." not in left
    assert run.out.count("answer 3: text('Three.')") == 1
    assert "request 2: http, full, ending in 'user: And now?'" in run.messages["test_asks_too_much"]
    assert "request 1: http, full, ending in 'user: Hi'" in run.messages["test_scripts_nothing"]
    assert "its own reason" in run.messages["test_fails_by_itself"]
    assert "my own mistake" in run.messages["test_raises_in_the_server"]
    unknown = run.messages["test_unknown_option"]
    assert "the marker does not fit ResponsesServer: " in unknown
    assert "'sort_of'" in unknown
    assert "pytest_plugin.py" not in unknown, "no traceback through this package"


def test_fixtures_leave_nothing_behind(tmp_path: Path) -> None:
    run = run_pytest(
        tmp_path,
        ASK
        + """
import socket, threading

NAMES = ("OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_API_BASE", "OPENAI_PROXY", "NO_PROXY", "no_proxy")
seen = {}

def environment():
    return {name: os.environ.get(name) for name in NAMES}

def waits():
    from langchain_ws_responses import RetryPolicy
    from langchain_ws_responses._transport.retry import back_off
    return back_off(RetryPolicy(), 1, asked=5.0)

def test_before():
    seen.update(environment())
    assert waits() >= 5.0

def test_during(responses_server, chaos_proxy):
    assert os.environ["OPENAI_BASE_URL"] == chaos_proxy.base_url != responses_server.base_url
    assert os.environ["OPENAI_API_KEY"] != "the real key"
    assert "OPENAI_API_BASE" not in os.environ and "OPENAI_PROXY" not in os.environ
    assert os.environ["NO_PROXY"] == "example.com,127.0.0.1,localhost"
    assert waits() == 0.0
    responses_server.add("Hello.")
    assert said(ask("Hi")) == "Hello."
    assert chaos_proxy.dials == 1
    seen["ports"] = [responses_server.port, chaos_proxy.port]

def test_after():
    ports = seen.pop("ports")
    assert environment() == seen
    assert waits() >= 5.0
    assert {"responses-server", "chaos-proxy"}.isdisjoint(thread.name for thread in threading.enumerate())
    for port in ports:
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
""",
        env={
            "OPENAI_API_KEY": "the real key",
            "OPENAI_API_BASE": "https://example.com/v1",
            "OPENAI_PROXY": "http://127.0.0.1:1",
            "HTTP_PROXY": "http://127.0.0.1:1",
            "http_proxy": "http://127.0.0.1:1",
            "NO_PROXY": "example.com",
        },
    )
    assert [*run.outcomes.values()] == [["passed"]] * 3, run.out


AGENT = """
import pytest
from langchain_ws_responses import ChatOpenAIWebSocket
from langchain_ws_responses.testing import Fault, error, tool_call

def check(server, first, second):
    assert first.tool_calls[0]["args"] == {"city": "Oslo"}
    assert second.text == "Sunny."
    assert [request.mode for request in server.requests] == ["full", "delta"]
    assert server.requests[1].is_delta
    assert server.requests[1].previous_response_id == server.requests[0].response_id
    assert [item["type"] for item in server.requests[1].items] == ["function_call_output"]
    assert server.requests[1].transcript == [
        "user: How is Oslo?", 'call: weather({"city":"Oslo"})', "output: sunny",
    ]

def model():
    return ChatOpenAIWebSocket(model="gpt-5.5", transport="websocket")

def follow_up(first):
    return [("user", "How is Oslo?"), first, {
        "role": "tool", "content": "sunny", "tool_call_id": first.tool_calls[0]["id"]}]

"""


def test_fixtures_serve_sync_and_async_tests(tmp_path: Path) -> None:
    run = run_pytest(
        tmp_path,
        AGENT
        + """
@pytest.fixture
def anyio_backend():
    return "asyncio"

def test_sync(responses_server):
    responses_server.add(tool_call("weather", {"city": "Oslo"}), "Sunny.")
    first = model().invoke([("user", "How is Oslo?")])
    check(responses_server, first, model().invoke(follow_up(first)))

async def talk(server):
    server.add(tool_call("weather", {"city": "Oslo"}), "Sunny.")
    first = await model().ainvoke([("user", "How is Oslo?")])
    check(server, first, await model().ainvoke(follow_up(first)))

@pytest.mark.asyncio
async def test_asyncio(responses_server):
    await talk(responses_server)

@pytest.mark.anyio
async def test_anyio(responses_server):
    await talk(responses_server)

@pytest.mark.asyncio
@pytest.mark.chaos_proxy(Fault(kind="reset", after_frames=3))
async def test_async_with_a_broken_network(responses_server, chaos_proxy):
    responses_server.add(*["Never whole."] * 3)
    with pytest.raises(Exception):
        await ChatOpenAIWebSocket(model="m", transport="websocket", max_retries=0).ainvoke("Hi")
    responses_server.clear()

def test_an_hour_later_and_with_refusals_between(responses_server):
    responses_server.add(
        tool_call("weather", {"city": "Oslo"}),
        error(status=429, code="rate_limit_exceeded", headers={"retry-after": "30"}),
        "Sunny.",
    )
    first = model().invoke([("user", "How is Oslo?")])
    responses_server.age(minutes=61)
    # The server asks for 30 seconds; this test would time out if they were waited for.
    assert model().invoke(follow_up(first)).text == "Sunny."
    assert len(responses_server.connections) == 2
""",
        "-o",
        "asyncio_default_fixture_loop_scope=function",
        plugins=(PLUGIN, "pytest_asyncio.plugin", "anyio.pytest_plugin"),
    )
    assert [*run.outcomes.values()] == [["passed"]] * 5, run.out


def test_workers_of_xdist_do_not_meet(tmp_path: Path) -> None:
    run = run_pytest(
        tmp_path,
        ASK
        + """
@pytest.mark.parametrize("number", range(8))
def test_one(responses_server, number):
    responses_server.add(f"Answer {number}.")
    assert said(ask("Hi")) == f"Answer {number}."
    assert len(responses_server.requests) == 1
""",
        "-n",
        "2",
        plugins=(PLUGIN, "xdist.plugin"),
    )
    assert [*run.outcomes.values()] == [["passed"]] * 8, run.out


# -- cassettes -------------------------------------------------------------------------

TAPED = (
    ASK
    + """
class TestWeather:
    @pytest.mark.parametrize("city", ["Oslo", "a/b"])
    def test_city(self, ws_cassette, city):
        assert os.environ["OPENAI_BASE_URL"] == ws_cassette.base_url
        assert os.environ["OPENAI_API_KEY"] == "sk-test"
        assert said(ask(city)) == "Sunny."
        assert [request.mode for request in ws_cassette.requests] == ["full"]

@pytest.mark.ws_cassette("shared.jsonl", match_on=["input"])
def test_named(ws_cassette):
    assert said(ask("Hi", temperature=0.5 if ws_cassette.recording else 1)) == "Sunny."
"""
)
PLACE = ("cassettes", "test_user")


def test_cassette_is_recorded_once_and_replayed_without_the_service(tmp_path: Path) -> None:
    answers = ["Sunny."] * 3
    with ResponsesServer(*answers, api_key="sk-the-real-key") as upstream:
        env = {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_API_KEY": "sk-the-real-key"}
        run = run_pytest(tmp_path, TAPED, "--ws-record-mode=once", env=env)
        assert [*run.outcomes.values()] == [["passed"]] * 3, run.out
    folder = tmp_path.joinpath(*PLACE)
    files = sorted(folder.iterdir())
    assert [path.name for path in files] == [
        "TestWeather.test_city[Oslo].jsonl",
        "TestWeather.test_city[a-b].jsonl",
        "shared.jsonl",
    ]
    assert "real-key" not in "".join(path.read_text() for path in files)
    before = [path.read_bytes() for path in files]
    run = run_pytest(tmp_path, TAPED, "--ws-record-mode=once")
    assert [*run.outcomes.values()] == [["passed"]] * 3, run.out
    assert [path.read_bytes() for path in files] == before


def test_cassette_that_is_missing_used_wrongly_or_left_over(tmp_path: Path) -> None:
    folder = tmp_path.joinpath(*PLACE)
    folder.mkdir(parents=True)
    request = {"kind": "create", "transport": "http", "headers": {}, "body": {"model": "m", "input": "Hi"}}
    message = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Ho."}]}
    response = {"id": "resp_1", "object": "response", "status": "completed", "output": [message]}
    line = {"request": request, "response": {"status": 200, "body": response}}
    (folder / "hi.jsonl").write_text("\n".join(map(json.dumps, [{"cassette": 1}, line])), encoding="utf-8")
    (folder / "broken.jsonl").write_text("{}", encoding="utf-8")
    run = run_pytest(
        tmp_path,
        ASK
        + """
def test_missing(ws_cassette):
    pass

@pytest.mark.ws_cassette("broken.jsonl")
def test_broken(ws_cassette):
    pass

@pytest.mark.ws_cassette("hi.jsonl", sort_of="unknown")
def test_unknown_option(ws_cassette):
    pass

@pytest.mark.ws_cassette("hi.jsonl", match_on=["modle"])
def test_unknown_name(ws_cassette):
    pass

@pytest.mark.ws_cassette("hi.jsonl", match_on="input")
def test_no_list_of_names(ws_cassette):
    pass

@pytest.mark.ws_cassette("hi.jsonl")
def test_left_over(ws_cassette):
    pass

@pytest.mark.ws_cassette("hi.jsonl", allow_unused=True)
def test_allowed_to_be_left_over(ws_cassette):
    pass

@pytest.mark.ws_cassette("hi.jsonl", record_mode="none")
def test_other_question(ws_cassette):
    with pytest.raises(urllib.error.HTTPError):
        ask("Ha")

@pytest.mark.ws_cassette("hi.jsonl")
def test_replays_and_may_be_aged(ws_cassette):
    ws_cassette.age(minutes=61)
    assert said(ask("Hi")) == "Ho."

@pytest.mark.ws_cassette("new.jsonl", record_mode="all")
def test_ci_records_nothing(ws_cassette):
    pass
""",
        env={"CI": "true", "OPENAI_API_KEY": "sk-the-real-key"},
    )
    assert run.outcomes == {
        "test_missing": ["error"],
        "test_broken": ["error"],
        "test_unknown_option": ["error"],
        "test_unknown_name": ["error"],
        "test_no_list_of_names": ["error"],
        "test_left_over": ["error"],
        "test_allowed_to_be_left_over": ["passed"],
        "test_other_question": ["error"],
        "test_replays_and_may_be_aged": ["passed"],
        "test_ci_records_nothing": ["error"],
    }, run.out
    assert "There is no cassette" in run.messages["test_missing"]
    assert "During handling" not in run.out
    assert "--ws-record-mode=once" in run.messages["test_missing"]
    assert "no version" in run.messages["test_broken"]
    assert "--ws-record-mode" not in run.messages["test_broken"]
    assert "unknown option 'sort_of'" in run.messages["test_unknown_option"]
    assert "ws_cassette: match_on names 'modle'" in run.messages["test_unknown_name"]
    assert "not the string 'input'" in run.messages["test_no_list_of_names"]
    assert "ending in {'user': 'Hi'}" in run.messages["test_left_over"]
    assert "recorded 'Hi', now 'Ha'" in run.messages["test_other_question"]
    assert "There is no cassette" in run.messages["test_ci_records_nothing"]
    assert sorted(path.name for path in folder.iterdir()) == ["broken.jsonl", "hi.jsonl"]


def test_recording_can_be_configured_and_keeps_only_what_passed(tmp_path: Path) -> None:
    source = (
        ASK
        + """
@pytest.fixture
def ws_cassette_dir(tmp_path_factory):
    from pathlib import Path
    return Path(__file__).parent / "tapes"

@pytest.fixture
def ws_cassette_config():
    return {"scrubbers": [lambda value: value.replace("Ada", "NAME")], "record_mode": "all"}

def test_kept(ws_cassette):
    ask("I am Ada.")

def test_failing(ws_cassette):
    ask("I am Ada.")
    assert False

@pytest.mark.ws_cassette(secrets=["the-code-name"])
def test_secret(ws_cassette):
    ask([{"type": "message", "role": "user", "content": "hi", "id": "the-code-name"}])

def test_without_a_key(ws_cassette_dir, monkeypatch, request):
    monkeypatch.delenv("OPENAI_API_KEY")
    request.getfixturevalue("ws_cassette")
"""
    )
    with ResponsesServer() as upstream:
        env = {"OPENAI_BASE_URL": upstream.base_url, "OPENAI_API_KEY": "sk-the-real-key"}
        run = run_pytest(tmp_path, source, env=env)
    assert [*run.outcomes.values()] == [["passed"], ["failed"], ["error"], ["failed"]], run.out
    assert "still holds secret 1" in run.messages["test_secret"]
    assert "needs OPENAI_API_KEY" in run.messages["test_without_a_key"]
    assert [path.name for path in (tmp_path / "tapes").iterdir()] == ["test_kept.jsonl"]
    written = (tmp_path / "tapes" / "test_kept.jsonl").read_text()
    assert "I am NAME." in written
    assert "Ada" not in written
