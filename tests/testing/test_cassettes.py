"""Cassettes: what is recorded from an endpoint is replayed over any transport, and holds no secret."""

from __future__ import annotations

import base64
import json
import ssl
import threading
from contextlib import contextmanager
from functools import reduce
from operator import add
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from testing.wire_client import call, open_socket, output_of, post, sse, user
from transport_kit import Connect, raw_server
from websockets.exceptions import ConnectionClosed

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager
from langchain_ws_responses.testing import (
    CassetteError,
    ChaosProxy,
    RecordingServer,
    ReplayServer,
    ResponsesServer,
    calls,
    custom_tool_call,
    drop,
    error,
    events,
    hold,
    raw,
    reasoning,
    refusal,
    set_testing,
    text,
    tool_call,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "sk-proj-abcdefghijklmnop0123"
SCRIPT = (
    reasoning("Where is it warm?", tool_call("weather", {"city": "Oslo"}, "call_1")),
    calls(tool_call("weather", {"city": "Bergen"}, "call_2"), text="One more."),
    "Oslo is sunny, Bergen is wet.",
)
WAYS = {"websocket": ("websocket", "invoke"), "http": ("http", "invoke"), "sse": ("http", "stream")}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # The recorder scrubs what these variables hold.
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with set_testing(True):
        yield


@pytest.fixture
def manager() -> Iterator[ConnectionManager]:
    with ConnectionManager() as manager:
        yield manager


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    return tmp_path / "tape.jsonl"


@tool
def weather(city: str) -> str:
    """Tells the weather."""
    return {"Oslo": "sunny", "Bergen": "rain"}[city]


def ask(model: Any, way: str, messages: list[Any]) -> Any:
    return model.invoke(messages) if way == "invoke" else reduce(add, model.stream(messages))


def talk(base_url: str, manager: ConnectionManager, how: str, question: str = "Oslo or Bergen?") -> list[Any]:
    """An agent's loop; the answers."""
    transport, way = WAYS[how]
    model = ChatOpenAIWebSocket(
        model="gpt-5.5", base_url=base_url, api_key=KEY, transport=transport, manager=manager, max_retries=0
    ).bind_tools([weather])
    messages: list[Any] = [SystemMessage("Be brief."), HumanMessage(question)]
    answers = []
    while True:
        answers.append(ask(model, way, messages))
        messages.append(answers[-1])
        if not answers[-1].tool_calls:
            return answers
        messages += [
            ToolMessage(weather.invoke(c["args"]), tool_call_id=c["id"]) for c in answers[-1].tool_calls
        ]


@contextmanager
def recording(tape: Path, *script: Any, **options: Any) -> Iterator[RecordingServer]:
    """A recorder in front of an endpoint that plays a script."""
    with (
        ResponsesServer(*script) as upstream,
        RecordingServer(tape, upstream=upstream.base_url, **options) as recorder,
    ):
        yield recorder


def complaint_of(server: ReplayServer) -> str:
    """What is wrong with a replay at its end."""
    server.stop()
    with pytest.raises(AssertionError) as raised:
        server.assert_exhausted()
    return str(raised.value)


def broken_off(server: Any, events: int) -> list[str]:
    """Types of the events of an answer that ends after so many, with its connection."""
    with open_socket(server) as ws:
        ws.send(input="hi")
        heard = [ws.recv()["type"] for _ in range(events)]
        with pytest.raises(ConnectionClosed):
            ws.recv()
    return heard


def lines_of(tape: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in tape.read_text(encoding="utf-8").split("\n") if line]


# -- over any transport ------------------------------------------------------------


@pytest.mark.parametrize("replayed", WAYS)
@pytest.mark.parametrize("recorded", WAYS)
def test_conversation_recorded_one_way_is_replayed_another(
    tape: Path, manager: ConnectionManager, recorded: str, replayed: str
) -> None:
    with (
        ResponsesServer(*SCRIPT) as upstream,
        RecordingServer(tape, upstream=upstream.base_url) as recorder,
    ):
        then = talk(recorder.base_url, manager, recorded)
        assert [request.transport for request in recorder.requests] == [recorded] * 3
        assert [request.mode for request in recorder.requests] == [
            request.mode for request in upstream.requests
        ]
        assert [request.transcript for request in recorder.requests] == [
            request.transcript for request in upstream.requests
        ]
        assert [request.status for request in recorder.requests] == ["completed"] * 3
    with ReplayServer(tape) as server:
        now = talk(server.base_url, manager, replayed)
        modes = ["full", "delta", "delta"]
        assert [request.mode for request in server.requests] == modes
        assert [request.transport for request in server.requests] == [replayed] * 3
    assert [(answer.text, answer.tool_calls) for answer in now] == [
        (answer.text, answer.tool_calls) for answer in then
    ]
    assert [answer.id for answer in now] == [answer.id for answer in then]
    assert [answer.usage_metadata for answer in now] == [answer.usage_metadata for answer in then]
    assert now[-1].text == SCRIPT[-1]
    assert now[-1].response_metadata["transport"]["resends"] == 0


@pytest.mark.parametrize("how", WAYS)
def test_full_conversation_replays_what_deltas_recorded(
    tape: Path, manager: ConnectionManager, how: str
) -> None:
    with recording(tape, *SCRIPT) as recorder:
        talk(recorder.base_url, manager, how)
    with ReplayServer(tape) as server:
        first = post(server, model="gpt-5.5", tools=tools_of(tape), input=[
            {"role": "developer", "content": "Be brief."}, user("Oslo or Bergen?"),
        ])[1]  # fmt: skip
        kept = [item for item in first["output"] if item["type"] != "reasoning"]
        second = post(server, model="gpt-5.5", tools=tools_of(tape), instructions="Be brief.", input=[
            user("Oslo or Bergen?"), *kept, output_of("call_1", "sunny"),
        ])[1]  # fmt: skip
        assert [item["type"] for item in second["output"]] == ["message", "function_call"]
        third = post(server, model="gpt-5.5", tools=tools_of(tape), instructions="Be brief.", input=[
            user("Oslo or Bergen?"), *kept, output_of("call_1", "sunny"), *reversed(second["output"]),
            output_of("call_2", "rain"),
        ])[1]  # fmt: skip
        assert third["output"][0]["content"][0]["text"] == SCRIPT[-1]


def tools_of(tape: Path) -> Any:
    return lines_of(tape)[1]["request"]["body"]["tools"]


def test_branches_are_found_in_any_order(tape: Path) -> None:
    with (
        ResponsesServer("A.", "B.") as upstream,
        RecordingServer(tape, upstream=upstream.base_url) as recorder,
    ):
        post(recorder, input="a")
        post(recorder, input="b")
    with ReplayServer(tape) as server:
        assert post(server, input="b")[1]["output"][0]["content"][0]["text"] == "B."
        assert post(server, input=[user("a")])[1]["output"][0]["content"][0]["text"] == "A."


def test_same_question_gets_its_recorded_answers_in_order(tape: Path) -> None:
    with recording(tape, "1", "2") as recorder:
        post(recorder, input="a")
        post(recorder, input="a")
    with ReplayServer(tape) as server, open_socket(server) as ws:
        assert [ws.say(input="a")["output"][0]["content"][0]["text"] for _ in range(2)] == ["1", "2"]


def test_lanes_of_one_socket_are_told_apart(tape: Path) -> None:
    gate = threading.Event()
    script = (hold(gate, "slow", after_events=4), "quick")
    with recording(tape, *script) as recorder, open_socket(recorder) as ws:
        ws.send(input="s", stream_id="one")
        for _ in range(4):
            assert ws.recv()["stream_id"] == "one"
        ws.send(input="q", stream_id="two")
        assert [event["stream_id"] for event in ws.events()][-1] == "two"
        gate.set()
        assert ws.events()[-1]["stream_id"] == "one"
    assert "stream_id" not in tape.read_text()
    with ReplayServer(tape) as server, open_socket(server) as ws:
        ws.send(input="q", stream_id="x")
        heard = ws.events()
        assert {event["stream_id"] for event in heard} == {"x"}
        assert heard[-1]["response"]["output"][0]["content"][0]["text"] == "quick"
        assert ws.say(input="s")["output"][0]["content"][0]["text"] == "slow"


def test_lane_names_that_a_server_does_not_echo(tape: Path) -> None:
    with (
        ResponsesServer("a", "b", lanes=False) as upstream,
        RecordingServer(tape, upstream=upstream.base_url) as recorder,
        open_socket(recorder) as ws,
    ):
        ws.send(input="1", stream_id="one")
        ws.send(input="2", stream_id="two")
        ws.events()
        ws.events()
    with ReplayServer(tape) as server:
        assert [post(server, input=n)[1]["output"][0]["content"][0]["text"] for n in "12"] == ["a", "b"]


# -- what is not a plain answer ------------------------------------------------------


def test_refusal_by_the_provider_is_replayed_with_its_status_and_headers(tape: Path) -> None:
    busy = error(status=429, code="rate_limit_exceeded", message="Slow down.", headers={"retry-after": "7"})
    with (
        ResponsesServer(busy, busy) as upstream,
        RecordingServer(tape, upstream=upstream.base_url) as recorder,
    ):
        status, _, headers = post(recorder, input="http")
        assert (status, headers["retry-after"]) == (429, "7")
        with open_socket(recorder) as ws:
            assert ws.turn(input="socket")["status"] == 429
    for question in ("http", "socket"):
        # Over a socket the wait comes in the frame, over HTTP as a header; a replay knows both.
        with ReplayServer(tape, allow_unused=True) as server:
            status, body, headers = post(server, input=question)
            assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
            assert body["error"]["message"] == "Slow down."
            assert headers["retry-after"] == "7"
        with ReplayServer(tape, allow_unused=True) as server, open_socket(server) as ws:
            event = ws.turn(input=question)
            assert (event["status"], event["error"]["code"]) == (429, "rate_limit_exceeded")
            assert event["headers"] == {"retry-after": "7"}


def test_answer_that_broke_off_breaks_off_again(tape: Path) -> None:
    with recording(tape, drop(5, answer="Never whole."), drop(2, 1011), "Whole.") as recorder:
        whole = [broken_off(recorder, 5), broken_off(recorder, 2)]
        assert post(recorder, input="hi")[1]["status"] == "completed"
        assert [request.status for request in recorder.requests] == ["dropped", "dropped", "completed"]
    lost = [line["response"].get("lost") for line in lines_of(tape)[1:]]
    assert lost == [{"code": None}, {"code": 1011}, None]
    with ReplayServer(tape) as server:
        assert [broken_off(server, 5), broken_off(server, 2)] == whole
        assert post(server, input="hi")[1]["status"] == "completed"
        assert [record.close_code for record in server.connections] == [1006, 1011]


def test_warm_ups_and_lost_responses_of_the_recording_need_not_come_again(tape: Path) -> None:
    with (
        ResponsesServer("A.") as upstream,
        RecordingServer(tape, upstream=upstream.base_url) as recorder,
        open_socket(recorder) as ws,
    ):
        warm = ws.say(input=[user("hi")], generate=False)["id"]
        upstream.forget()
        assert (
            ws.refused(input=[user("you")], previous_response_id=warm)["code"]
            == "previous_response_not_found"
        )
        ws.say(input=[user("hi"), user("you")])
    with ReplayServer(tape) as server, open_socket(server) as ws:
        warm = ws.say(input=[user("hi")], generate=False)["id"]
        assert (
            ws.say(input=[user("you")], previous_response_id=warm)["output"][0]["content"][0]["text"] == "A."
        )
    with ReplayServer(tape) as server:
        assert post(server, input=[user("hi"), user("you")])[0] == 200


def test_recording_that_began_in_the_middle(tape: Path) -> None:
    script = (tool_call("f", call_id="c"), "Done.")
    with ResponsesServer(*script) as upstream:
        first = post(upstream, input="hi")[1]["id"]
        with RecordingServer(tape, upstream=upstream.base_url) as recorder:
            post(recorder, input=[output_of("c")], previous_response_id=first)
    with ReplayServer(tape) as server, open_socket(server) as ws:
        assert (
            ws.say(input=[output_of("c")], previous_response_id=first)["output"][0]["content"][0]["text"]
            == "Done."
        )


def test_compaction_is_recorded_and_replayed(tape: Path) -> None:
    with recording(tape) as recorder:
        window = call(recorder, "POST", "/v1/responses/compact", {"model": "m", "input": "long"})[1]
        assert [request.kind for request in recorder.requests] == ["compact"]
    with ReplayServer(tape) as server:
        assert call(server, "POST", "/v1/responses/compact", {"model": "m", "input": "long"})[1] == window
    server = ReplayServer(tape).start()
    status, body, _ = call(server, "POST", "/v1/responses/compact", {"model": "m", "input": "other"})
    assert (status, body["error"]["code"]) == (400, "cassette_mismatch")
    assert "recorded 'long', now 'other'" in complaint_of(server)


def test_steering_is_not_recorded(tape: Path) -> None:
    gate = threading.Event()
    recorder: RecordingServer
    with ResponsesServer(hold(gate, "Long.", after_events=4), "Short.") as upstream:
        recorder = RecordingServer(tape, upstream=upstream.base_url).start()
        with open_socket(recorder) as ws:
            ws.send(input="hi")
            created = ws.until("response.created")["response"]["id"]
            ws.connection.send(
                json.dumps(
                    {"type": "response.steer", "previous_response_id": created, "input": [user("shorter")]}
                )
            )
            ws.events()
        gate.set()
        upstream.clear()
        recorder.stop()
    with pytest.raises(CassetteError, match="steer"):
        recorder.save()
    assert not tape.exists()


def test_answers_without_streaming_become_events_of_every_kind(tape: Path) -> None:
    script = (
        reasoning(
            ["Hm.", "So."],
            calls(custom_tool_call("sh", "ls", "c1"), tool_call("f", {"a": 1}, "c2"), text="T"),
        ),
        refusal("No."),
    )
    with recording(tape, *script) as recorder:
        bodies = [post(recorder, input=question)[1] for question in "ab"]
    with ResponsesServer(script[0]) as real, open_socket(real) as ws:
        ws.send(input="a")
        wanted = [event["type"] for event in ws.events()]
    with ReplayServer(tape) as server, open_socket(server) as ws:
        ws.send(input="a")
        heard = ws.events()
        # The same kinds in the same order as a real stream, whose texts come in several pieces.
        assert once_each([event["type"] for event in heard]) == once_each(wanted)
        assert heard[-1]["response"] == bodies[0]
        assert [event["sequence_number"] for event in heard] == list(range(len(heard)))
        assert "".join(e["delta"] for e in heard if e["type"] == "response.output_text.delta") == "T"
        assert ws.say(input="b") == bodies[1]


def once_each(kinds: list[str]) -> list[str]:
    return [kind for index, kind in enumerate(kinds) if index == 0 or kinds[index - 1] != kind]


# -- matching ------------------------------------------------------------------------


def one_answer(tape: Path, **body: Any) -> None:
    with recording(tape, "Hello.") as recorder:
        post(recorder, **body)


@pytest.mark.parametrize(
    ("now", "says"),
    [
        (
            {"input": "Weather in Bergen?"},
            "input[0].user: recorded 'Weather in Oslo?', now 'Weather in Bergen?'",
        ),
        ({"model": "other"}, "model: recorded 'm', now 'other'"),
        ({"instructions": "Shout."}, "input[0].system: only now: 'Shout.'"),
        ({"tools": [{"type": "function", "name": "f", "parameters": {}}]}, "tools[0]: only now: "),
        ({"text": {"format": {"type": "json_object"}}}, "format: recorded None, now {'type': 'json_object'}"),
        ({"input": [user("Weather in Oslo?"), user("Quick!")]}, "input[1]: only now: {'user': 'Quick!'}"),
    ],
)
def test_request_that_means_something_else_is_refused_and_explained(
    tape: Path, now: dict[str, Any], says: str
) -> None:
    one_answer(tape, input="Weather in Oslo?")
    server = ReplayServer(tape).start()
    status, body, _ = post(server, **{"input": "Weather in Oslo?", **now})
    assert (status, body["error"]["code"]) == (400, "cassette_mismatch")
    assert says in body["error"]["message"]
    assert "nearest is interaction 1" in body["error"]["message"]
    assert says in complaint_of(server)


def test_what_counts_can_be_chosen(tape: Path) -> None:
    one_answer(tape, input="hi", temperature=0)
    with ReplayServer(tape, match_on=["input"]) as server:
        assert post(server, input="hi", model="other", temperature=1)[0] == 200
    server = ReplayServer(tape, match_on=["input", "temperature"]).start()
    post(server, input="hi", temperature=1)
    assert "temperature: recorded 0, now 1" in complaint_of(server)


@pytest.mark.parametrize(
    ("match_on", "error", "says"),
    [
        ("input", TypeError, "a list of names"),
        ([], ValueError, "every request would fit"),
        (["modle"], ValueError, "'modle', which no request has; there are model, input, tools, format"),
        (["input", "inputs"], ValueError, "'inputs'"),
    ],
)
def test_what_counts_must_be_something_that_requests_have(
    tape: Path, match_on: Any, error: type[Exception], says: str
) -> None:
    one_answer(tape, input="hi")
    with pytest.raises(error, match=says):
        ReplayServer(tape, match_on=match_on)


def test_what_counts_may_be_new_or_missing_in_the_recording(tape: Path) -> None:
    one_answer(tape, input="hi", of_next_year=1)
    server = ReplayServer(tape, match_on=iter(["of_next_year", "temperature"])).start()
    assert [post(server, input="hi", of_next_year=1, temperature=given)[0] for given in (0, None)] == [
        400,
        200,
    ]
    assert "temperature: recorded None, now 0" in complaint_of(server)


def test_leftover_answers_are_named(tape: Path) -> None:
    with (
        ResponsesServer("A.", "B.") as upstream,
        RecordingServer(tape, upstream=upstream.base_url) as recorder,
    ):
        post(recorder, input="a")
        post(recorder, input="b")
    server = ReplayServer(tape).start()
    post(server, input="a")
    said = complaint_of(server)
    assert "1 of 2 answers in" in said
    assert "interaction 2: ending in {'user': 'b'}" in said
    with ReplayServer(tape, allow_unused=True) as server:
        post(server, input="a")


def test_request_after_the_last_answer_is_named(tape: Path) -> None:
    one_answer(tape, input="a")
    server = ReplayServer(tape).start()
    assert [post(server, input="a")[0] for _ in range(2)] == [200, 400]
    said = complaint_of(server)
    assert said.startswith("Request 2 is not in the cassette")
    assert "All recorded answers were given already" in said


# -- secrets -------------------------------------------------------------------------


def test_headers_and_keys_are_not_written(tape: Path) -> None:
    answer = text(f"Your key is {KEY}, isn't it?", chunks=30)
    headers = {
        "Authorization": f"Bearer {KEY}", "Cookie": "session=s3cr3t-cookie", "X-Api-Key": "plain-secret-value",
        "OpenAI-Organization": "org-secretive", "X-Custom": "custom-value",
    }  # fmt: skip
    with (
        ResponsesServer(answer, answer) as upstream,
        RecordingServer(tape, upstream=upstream.base_url) as recorder,
    ):
        body = {"model": "m", "input": f"Use {KEY} and plain-secret-value of org-secretive.", "stream": True}
        raw_events = call(recorder, "POST", "/v1/responses", body, headers)[1]
        # What passes through is not touched.
        assert KEY in "".join(event.get("delta", "") for _, event in sse(raw_events))
        assert upstream.requests[0].headers["authorization"] == f"Bearer {KEY}"
        assert upstream.requests[0].headers["x-custom"] == "custom-value"
        with open_socket(recorder, additional_headers=headers) as ws:
            ws.say(input="And over a socket?")
        assert upstream.requests[1].headers["openai-organization"] == "org-secretive"
    written = tape.read_text()
    for secret in (KEY, "s3cr3t", "plain-secret-value", "secretive", "custom-value", "sk-proj"):
        assert secret not in written
    said = "".join(
        e["delta"] for e in lines_of(tape)[1]["response"]["events"] if "output_text.delta" in e["type"]
    )
    assert said == "Your key is <scrubbed>, isn't it?"
    assert lines_of(tape)[1]["request"]["headers"].keys() <= {"content-type"}


def test_headers_in_an_error_frame_are_headers_too(tape: Path) -> None:
    headers = {"Set-Cookie": "session=s3cr3t-cookie", "X-Request-Id": "req_1", "Retry-After": "7"}
    with (
        recording(tape, error(status=429, code="busy", headers=headers)) as recorder,
        open_socket(recorder) as ws,
    ):
        assert ws.turn(input="hi")["headers"] == headers
    assert "s3cr3t" not in tape.read_text()
    assert lines_of(tape)[1]["response"]["events"][-1]["headers"] == {"retry-after": "7"}


def test_key_of_the_recorder_replaces_the_client_s(tape: Path) -> None:
    with (
        ResponsesServer("A.", "B.", api_key=KEY) as upstream,
        RecordingServer(tape, upstream=upstream.base_url, api_key=KEY) as recorder,
    ):
        assert post(recorder, input="a")[0] == 200
        with open_socket(recorder, additional_headers={"Authorization": "Bearer of-the-client"}) as ws:
            ws.say(input="b")
    assert KEY not in tape.read_text()


@pytest.mark.parametrize(
    "secret",
    [
        "sk-abcdefghijklmnop", "sk-svcacct-****wxyz", "xai-abcdefghijklmnopqrst", "ghp_" + "a" * 36,
        "AKIAABCDEFGHIJKLMNOP", "AIza" + "b" * 35, "xoxb-123456789012-abc", "hf_" + "c" * 30,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc", "user:hunter2",
    ],
)  # fmt: skip
def test_what_looks_like_a_key_is_replaced(tape: Path, secret: str) -> None:
    one_answer(
        tape, input=f"Connect to https://{secret}@example.com" if ":" in secret else f"It is {secret}."
    )
    assert secret not in tape.read_text()
    with ReplayServer(tape) as server:
        assert post(
            server, input=f"Connect to https://{secret}@example.com" if ":" in secret else f"It is {secret}."
        )


def test_scrubbers_of_the_user_see_every_string_and_a_replay_uses_them_too(tape: Path) -> None:
    def no_names(value: str) -> str:
        return value.replace("Ada", "NAME")

    with (
        ResponsesServer(tool_call("find", {"who": "Ada"}, "c"), "Ada is well.") as upstream,
        RecordingServer(tape, upstream=upstream.base_url, scrubbers=[no_names]) as recorder,
        open_socket(recorder) as ws,
    ):
        first = ws.say(input="Where is Ada?")["id"]
        ws.say(input=[output_of("c", "Ada is here")], previous_response_id=first)
    assert "Ada" not in tape.read_text()
    with ReplayServer(tape, scrubbers=[no_names]) as server:
        first = post(server, input="Where is Ada?")[1]
        assert first["output"][0]["arguments"] == '{"who":"NAME"}'
        second = post(server, input=[output_of("c", "Ada is here")], previous_response_id=first["id"])[1]
        assert second["output"][0]["content"][0]["text"] == "NAME is well."
    server = ReplayServer(tape).start()
    post(server, input="Where is Ada?")
    assert "recorded 'Where is NAME?', now 'Where is Ada?'" in complaint_of(server)


@pytest.mark.parametrize("form", ["base64", "id"])
def test_cassette_that_would_hold_a_secret_is_not_written(tape: Path, form: str) -> None:
    secret = "the-internal-code-name"
    hidden = base64.b64encode(f"{secret}!".encode()).decode() if form == "base64" else secret
    with ResponsesServer() as upstream:
        recorder = RecordingServer(tape, upstream=upstream.base_url, secrets=[secret])
        with pytest.raises(CassetteError, match="interaction 1 still holds secret 1") as raised, recorder:
            post(recorder, input=[{**user("hi" if form == "id" else hidden), "id": hidden}])
    assert secret not in str(raised.value)
    assert not tape.exists()
    assert list(tape.parent.iterdir()) == []


def test_mismatch_does_not_quote_a_secret(tape: Path) -> None:
    one_answer(tape, input="hi")
    with ReplayServer(tape, allow_unused=True) as server:
        assert KEY not in json.dumps(post(server, input=f"ho {KEY}")[1])
        assert KEY not in "".join(server.mismatches)
        server.mismatches.clear()


@pytest.mark.parametrize(
    "name", ["Authorization", "Set-Cookie", "api-key", "X-Auth-Token", "openai-organization"]
)
def test_headers_with_credentials_are_never_recorded(tape: Path, name: str) -> None:
    with pytest.raises(ValueError, match="may carry credentials"):
        RecordingServer(tape, record_headers=[name])


def test_other_headers_can_be_recorded(tape: Path) -> None:
    with recording(tape, "A.", record_headers=["X-Team"]) as recorder:
        call(recorder, "POST", "/v1/responses", {"model": "m", "input": "a"}, {"X-Team": "blue"})
    assert lines_of(tape)[1]["request"]["headers"]["x-team"] == "blue"


# -- the file and the upstream -------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "There is no cassette"),
        ("", "no version"),
        ('{"type": "other"}\n', "no version"),
        ('{"cassette": 99}\n', "version 99"),
        ('{"cassette": 1}\n{"request": {}}\n', "line 2 is broken"),
        ('{"cassette": 1}\n\n{"request"\n', "line 3 is broken"),
        ('{"cassette": 1}\n[]\n', "line 2 is broken"),
        ("[" * 100_000, "no version"),
        ('{"cassette": 1}\n' + "[" * 100_000, "line 2 is broken"),
    ],
)
def test_file_that_cannot_be_used(tape: Path, content: str | None, says: str) -> None:
    if content is not None:
        tape.write_text(content)
    with pytest.raises(CassetteError, match=says):
        ReplayServer(tape)


def test_file_is_written_as_a_whole_and_folders_are_made(tmp_path: Path) -> None:
    tape = tmp_path / "new" / "folder" / "tape.jsonl"
    one_answer(tape, input="ä\u2028\ud800")
    head, line = lines_of(tape)
    with ReplayServer(tape) as server:
        assert post(server, input="ä\u2028\ud800")[0] == 200
    assert head["cassette"] == 1
    assert line["request"]["transport"] == "http"
    assert [path.name for path in tape.parent.iterdir()] == ["tape.jsonl"]


def test_nothing_is_written_after_an_exception(tape: Path) -> None:
    def fail_within() -> None:
        with recording(tape, "A.") as recorder:
            post(recorder, input="a")
            raise KeyError

    with pytest.raises(KeyError):
        fail_within()
    assert not tape.exists()


def test_upstream_behind_tls_and_a_proxy(tape: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority, trusting = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trusting)
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("api.example.invalid").configure_cert(serving)
    with ResponsesServer("A.", "B.", "C.") as server, ChaosProxy(server, ssl_context=serving) as secure:
        connect = Connect(secure.port)
        with raw_server(connect) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
            with RecordingServer(
                tape, upstream="https://api.example.invalid/v1", ssl_context=trusting
            ) as recorder:
                assert post(recorder, input="a")[1]["status"] == "completed"
                assert sse(post(recorder, input="b", stream=True)[1])[-1][0] == "response.completed"
                with open_socket(recorder) as ws:
                    ws.say(input="c")
        assert connect.targets == ["api.example.invalid:443"] * 3
        assert [request.transport for request in server.requests] == ["http", "sse", "websocket"]
    assert len(lines_of(tape)) == 4


def test_refused_upgrade_is_passed_back_with_its_status(tape: Path) -> None:
    with (
        ResponsesServer(refuse_upgrade=429, refuse_headers={"retry-after": "3"}) as upstream,
        RecordingServer(tape, upstream=upstream.base_url) as recorder,
    ):
        with pytest.raises(Exception, match="429") as raised, open_socket(recorder):
            pass
        assert raised.value.response.headers["retry-after"] == "3"
        assert [shake.status for shake in recorder.handshakes] == [429]
    assert len(lines_of(tape)) == 1


def test_upstream_that_is_not_there(tape: Path) -> None:
    with RecordingServer(tape, upstream="http://127.0.0.1:1/v1") as recorder:
        assert post(recorder, input="a")[0] == 502
        with pytest.raises(Exception, match="502"), open_socket(recorder):
            pass
    assert lines_of(tape)[1]["response"]["lost"] == {"code": None}


def test_other_calls_pass_through_and_are_not_recorded(tape: Path) -> None:
    with recording(tape, "A.") as recorder:
        made = post(recorder, input="a")[1]["id"]
        assert call(recorder, "GET", f"/v1/responses/{made}")[1]["id"] == made
        assert call(recorder, "DELETE", f"/v1/responses/{made}")[1]["deleted"] is True
        assert call(recorder, "POST", "/v1/embeddings", {"input": "a"})[0] == 404
        assert call(recorder, "GET", "/elsewhere")[0] == 404
    assert len(lines_of(tape)) == 2


@pytest.mark.parametrize(
    "upstream", ["ftp://example.com", "example.com", "https://u:p@example.com", "http://example.com"]
)
def test_upstream_that_cannot_be_used(tape: Path, upstream: str) -> None:
    with pytest.raises(ValueError, match="upstream"):
        RecordingServer(tape, upstream=upstream)


def test_frames_that_are_no_events_pass_through(tape: Path) -> None:
    frames = ["not json", "[1]", '{"type":"response.completed","response":{"id":"r","status":"completed"}}']
    with (
        ResponsesServer(raw(frames)) as upstream,
        RecordingServer(tape, upstream=upstream.base_url) as recorder,
        open_socket(recorder) as ws,
    ):
        ws.send(input="a")
        assert [ws.connection.recv(timeout=10) for _ in range(3)] == frames
    assert len(lines_of(tape)[1]["response"]["events"]) == 1


# -- real recordings -----------------------------------------------------------------


def test_real_streams_are_replayed_as_they_were(streams_dir: Path, tape: Path) -> None:
    recorded = {}
    for path in sorted(streams_dir.glob("py_*/events.jsonl")):
        found = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
        if found[0]["type"] == "response.created" and found[-1]["type"] in (
            "response.completed",
            "response.incomplete",
        ):
            request = json.loads((path.parent / "request.json").read_text())
            recorded[path.parent.name] = (request, found)
    assert len(recorded) >= 15
    bodies = {
        name: {**request, "input": name, "stream": True, "previous_response_id": None}
        for name, (request, _) in recorded.items()
    }
    with recording(tape, *(events(found) for _, found in recorded.values())) as recorder:
        for body in bodies.values():
            call(recorder, "POST", "/v1/responses", body)
    with ReplayServer(tape) as server:
        for name, (_, found) in recorded.items():
            heard = [event for _, event in sse(call(server, "POST", "/v1/responses", bodies[name])[1])]
            assert [event["type"] for event in heard] == [event["type"] for event in found], name
            assert text_in(heard) == text_in(found), name
            assert heard[-1]["response"]["output"] == found[-1]["response"]["output"], name


def text_in(found: list[dict[str, Any]]) -> str:
    return "".join(event["delta"] for event in found if event["type"].endswith("text.delta"))


def test_real_sockets_are_replayed_over_http_and_sockets(streams_dir: Path, tape: Path) -> None:
    """A real session, made a cassette by hand: its second request is a delta on the first."""
    head, interactions, current = {"cassette": 1}, [], None
    for line in (streams_dir / "ws_live_session_store_false" / "frames.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["dir"] == "client":
            body = {key: value for key, value in entry["frame"].items() if key != "type"}
            current = {
                "request": {"kind": "create", "transport": "websocket", "headers": {}, "body": body},
                "response": {"status": 200, "headers": {}, "events": []},
            }
            interactions.append(current)
        else:
            assert current is not None
            current["response"]["events"].append(entry["frame"])
    tape.write_text("\n".join(json.dumps(line) for line in [head, *interactions]) + "\n")
    first, second = (one["request"]["body"] for one in interactions)
    assert second["previous_response_id"]
    with ReplayServer(tape) as server, open_socket(server) as ws:
        ws.send(**first)
        assert ws.events() == interactions[0]["response"]["events"]
        ws.send(**second)
        assert ws.events() == interactions[1]["response"]["events"]
    with ReplayServer(tape) as server:
        answer = post(server, **first)[1]
        full = [*first["input"], *answer["output"], *second["input"]]
        del second["previous_response_id"]
        again = post(server, **{**second, "input": full})[1]
        assert again["output"] == interactions[1]["response"]["events"][-1]["response"]["output"]
