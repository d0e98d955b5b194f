"""Frames: what they mean without being parsed, and errors in every shape that servers send."""

from __future__ import annotations

import json
import sys
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ws_responses._protocol import events as module
from langchain_ws_responses._protocol.echo import Echo
from langchain_ws_responses._protocol.events import (
    PARSED_AT_ONCE,
    EventKind,
    FrameError,
    created_id,
    decode,
    ends_of,
    failure_from,
    is_output,
    lane_last,
    names_no_lane,
    response_id,
    retry_after,
)
from langchain_ws_responses._types import FailureKind, Phase

LOADS = pytest.mark.parametrize("loads", [json.loads, orjson.loads], ids=["json", "orjson"])


def never(_: bytes) -> Any:
    raise AssertionError("the frame was parsed")


# -- what a frame is ---


@pytest.mark.parametrize(
    ("event_type", "kind", "terminal"),
    [
        ("response.created", EventKind.CREATED, False),
        ("response.in_progress", EventKind.IN_PROGRESS, False),
        ("response.completed", EventKind.COMPLETED, True),
        ("response.failed", EventKind.FAILED, True),
        ("response.incomplete", EventKind.INCOMPLETE, True),
        ("error", EventKind.ERROR, True),
        ("response.steer.accepted", EventKind.STEER, False),
        ("response.steer.pending", EventKind.STEER, False),
        ("response.steer.failed", EventKind.STEER, False),
        ("response.output_text.delta", EventKind.OUTPUT, False),
        ("response.output_item.done", EventKind.OUTPUT, False),
        ("response.not_invented_yet", EventKind.OUTPUT, False),
        ("response.completed.later", EventKind.OUTPUT, False),
        ("codex.rate_limits", EventKind.FOREIGN, False),
        ("codex.response.metadata", EventKind.FOREIGN, False),
        ("responsesapi.websocket_timing", EventKind.FOREIGN, False),
        ("", EventKind.FOREIGN, False),
    ],
)
def test_the_type_tells_what_a_frame_means(event_type: str, kind: EventKind, terminal: bool) -> None:
    frame = decode(json.dumps({"type": event_type, "n": 1}))
    assert (frame.kind, frame.type, frame.kind.is_terminal) == (kind, event_type, terminal)
    assert frame.data == {"type": event_type, "n": 1}


@pytest.mark.parametrize(
    ("raw", "lane"),
    [
        ('{"type":"response.output_text.delta","delta":"x"}', None),
        ('{"type":"response.output_text.delta","stream_id":"a","delta":"x"}', "a"),
        ('{"type":"response.output_text.delta","delta":"x","stream_id":"a"}', "a"),
        (' \n{ "type" : "response.output_text.delta", "delta":"}{", "stream_id" : "a" } \n', "a"),
        ('{"type":"response.output_text.delta","stream_id":"a","delta":"{}"}', "a"),
        (r'{"type":"response.output_text.delta","delta":"\"stream_id\":\"b\"","stream_id":"a"}', "a"),
        (r'{"type":"response.output_text.delta","delta":"{\"stream_id\":\"b\"}"}', None),
        ('{"type":"response.output_text.delta","delta":"stream_id"}', None),
        (r'{"type":"response.output_text.delta","\"stream_id":"b","delta":"x"}', None),
        (r'{"type":"response.output_text.delta","stream_id":"a","\"stream_id":"b"}', "a"),
        ('{"type":"response.output_item.done","item":{"id":"x"},"stream_id":"a"}', "a"),
        ('{"type":"response.output_item.done","stream_id":"a","item":{"id":"x"}}', "a"),
    ],
)
def test_a_delta_finds_its_lane_without_being_parsed(raw: str, lane: str | None) -> None:
    assert decode(raw, loads=never).stream_id == lane
    assert decode(raw.encode(), loads=never).stream_id == lane


@pytest.mark.parametrize(
    ("raw", "lane"),
    [
        # In what a request echoes: metadata and the schemas of tools.
        ('{"type":"response.created","response":{"metadata":{"stream_id":"theirs"}}}', None),
        ('{"type":"response.created","response":{"metadata":{"stream_id":"theirs"},"x":{}}}', None),
        ('{"type":"response.created","response":{"tools":[{"stream_id":{"type":"string"}}]}}', None),
        ('{"type":"response.created","stream_id":"a","response":{"metadata":{"stream_id":"theirs"}}}', "a"),
        ('{"type":"response.created","response":{"metadata":{"stream_id":"theirs"}},"stream_id":"a"}', "a"),
        ('{"type":"response.created","response":{"a":{}},"stream_id":"a","b":{}}', "a"),
        ('{"type":"response.x","stream_id":null}', None),
        ('{"type":"response.x","stream_id":7}', None),
        ('{"type":"response.x","stream_id":["a"]}', None),
        ('{"type":"response.x","stream_id":""}', ""),
        (r'{"type":"response.x","stream_id":"\u0061"}', "a"),
        ('{"stream_id":"a","type":"response.x"}', "a"),
        ('{"sequence_number":3,"type":"response.x"}', None),
        (r'{"type":"response\u002ex","stream_id":"a"}', "a"),
    ],
)
@LOADS
def test_only_a_stream_id_on_top_names_a_lane(raw: str, lane: str | None, loads: Any) -> None:
    frame = decode(raw, loads=loads)
    assert frame.stream_id == lane
    assert frame.type.startswith("response.")
    # Also where the frame had to be parsed.
    assert frame.kind is (EventKind.CREATED if "created" in raw else EventKind.OUTPUT)


@pytest.mark.parametrize(
    ("raw", "lane"),
    [
        ('{"type":"response.x","a":{},"stream_id":"a"}', b"a"),
        ('{"type":"response.x","stream_id":"b","stream_id":"a"}', b"a"),
        ('{"type":"response.x","stream_id":"a","a":1}', None),
        ('{"type":"response.x","a":{"stream_id":"a"}}', None),
        ('{"type":"response.x","a":1}', None),
        ('{"type":"response.x","stream_id": "a"}', None),
        (r'{"type":"response.x","stream_id":"\u0061"}', None),
        (r'{"type":"response.x","a":",\"stream_id\":\"a\""}', None),
        ('{"type":"response.x","stream_id":"' + "a" * 400 + '"}', None),
        ('{"type":"response.x","stream_id":"a"} ', None),
    ],
)
def test_a_lane_at_the_end_is_found_without_the_rest(raw: str, lane: bytes | None) -> None:
    assert lane_last(raw.encode()) == lane
    assert decode(raw).stream_id == json.loads(raw).get("stream_id")


def test_the_ends_of_a_frame_tell_its_type_and_its_lane() -> None:
    raw = b'{"type":"response.output_text.delta","delta":"a \\"stream_id\\":\\"b\\"","stream_id":"ln_1"}'
    head, tail = ends_of(raw)
    assert head == b'{"type":"response.output_text.delta"'
    assert json.loads(b"{" + tail.lstrip(b",")) == {"stream_id": "ln_1"}
    other = raw.replace(b"a ", b"quite another text ")
    assert ends_of(other) == (head, tail)
    assert ends_of(raw.replace(b"ln_1", b"ln_2"))[1] != tail
    assert ends_of(raw.replace(b"text.delta", b"text.done"))[0] != head


def test_output_is_known_by_its_head_once_its_type_has_been_met(monkeypatch: pytest.MonkeyPatch) -> None:
    # Tests with random types may have filled the table before.
    monkeypatch.setattr("langchain_ws_responses._protocol.events._types", {})
    raw = b'{"type":"response.of_this_test.delta","delta":"x"}'
    assert not is_output(raw)
    assert decode(raw).kind is EventKind.OUTPUT
    assert is_output(raw)
    assert not is_output(raw + b" ")
    assert not is_output(b" " + raw)
    assert not is_output(raw.replace(b'":"response', b'" : "response'))
    for other in (
        "response.created",
        "response.completed",
        "error",
        "codex.rate_limits",
        "response.steer.failed",
    ):
        raw = json.dumps({"type": other}, separators=(",", ":")).encode()
        assert decode(raw).type == other
        assert not is_output(raw)


@pytest.mark.parametrize(("size", "remembered"), [(100, True), (101, False)])
def test_types_with_long_names_are_not_remembered(
    size: int, remembered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("langchain_ws_responses._protocol.events._types", {})
    raw = b'{"type":"' + b"response.".ljust(size, b"x") + b'"}'
    assert decode(raw).kind is EventKind.OUTPUT
    assert is_output(raw) is remembered


def test_not_every_type_that_a_server_makes_up_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langchain_ws_responses._protocol.events._types", {})
    raws = [f'{{"type":"response.made_up_{number}"}}'.encode() for number in range(2000)]
    assert {decode(raw).kind for raw in raws} == {EventKind.OUTPUT}
    # The first ones are, so that what a server makes up later cannot take the place of what it sends all the time.
    assert [is_output(raw) for raw in raws] == [True] * 512 + [False] * 1488


def test_a_frame_without_the_word_names_no_lane() -> None:
    assert names_no_lane(b'{"type":"response.x","a":{}}')
    assert not names_no_lane(b'{"type":"response.x","a":{"stream_id":1}}')


_ECHO = [{"type": "function", "name": "f", "description": "d" * PARSED_AT_ONCE}]


def _created(head: str = ',"response":{"id":"resp_1"', end: str = "}}", **echoed: Any) -> bytes:
    """A `response.created` with a long echo behind its id."""
    rest = json.dumps({**echoed, "tools": _ECHO}, separators=(",", ":"))[1:-1]
    return f'{{"type":"response.created"{head},{rest}{end}'.encode()


@pytest.mark.parametrize("parent", [True, False])
@pytest.mark.parametrize("echoed", [{}, {"previous_response_id": "resp_0"}])
def test_the_id_of_a_long_echo_is_found_without_parsing_it(parent: bool, echoed: dict[str, Any]) -> None:
    assert created_id(decode(_created(**echoed), loads=never), parent=parent) == ("resp_1", True)


@pytest.mark.parametrize(
    ("raw", "response_id", "named"),
    [
        (_created(previous_response_id=None), "resp_1", False),
        (_created(instructions='"previous_response_id":null'), "resp_1", True),
        (_created(metadata={"previous_response_id": "x"}), "resp_1", True),
        (
            _created(metadata={"a": 1, "previous_response_id": "x"}, previous_response_id=None),
            "resp_1",
            False,
        ),
        (_created(',"a":{"a":1,"response":{"id":"no"}},"response":{"id":"resp_1"'), "resp_1", True),
        (_created(r',"response":{"id":"resp\u005f1"'), "resp_1", True),
        (_created(',"response":{"object":"response"', id="resp_1"), "resp_1", True),
        (_created(',"response":{"id":""'), None, True),
        (_created(',"response":{"object":"response"'), None, True),
        (_created(',"response": {"id":"resp_1"'), "resp_1", True),
        (b" " + _created(), "resp_1", True),
    ],
)
def test_what_cannot_be_found_for_certain_is_parsed(raw: bytes, response_id: str | None, named: bool) -> None:
    assert created_id(decode(raw), parent=True) == (response_id, named)


def test_a_short_echo_is_parsed_and_a_broken_one_is_told_where_it_is_parsed() -> None:
    frame = decode('{"type":"response.created","response":{"id":"resp_1","previous_response_id":null}}')
    assert created_id(frame, parent=True) == ("resp_1", False)
    assert created_id(frame, parent=False) == ("resp_1", True)
    with pytest.raises(FrameError):
        created_id(decode('{"type":"response.created","response":{"id":"resp_1",}}'), parent=True)
    with pytest.raises(FrameError):
        created_id(decode(_created(',"response": {"id":"resp_1"', end="}")), parent=True)


def test_the_id_of_a_long_answer_is_found_without_parsing_it() -> None:
    raw = _created().replace(b"response.created", b"response.completed")
    assert response_id(decode(raw, loads=never)) == "resp_1"


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (',"a":{"a":1,"response":{"id":"no"}},"response":{"id":"resp_1"', "resp_1"),
        (r',"response":{"id":"resp\u005f1"', "resp_1"),
        (',"response":{"object":"response"', None),
        (',"response":{"id":""', None),
        (',"response":{"id":7', None),
    ],
)
def test_the_id_of_an_answer_is_parsed_where_it_is_not_certain(head: str, found: str | None) -> None:
    assert response_id(decode(_created(head).replace(b".created", b".completed"))) == found
    assert response_id(decode(f'{{"type":"response.completed"{head}}}}}')) == found


_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.sampled_from(
    ['"stream_id":"x"', '{"stream_id":"x"}', '\\"stream_id', "}", "{", '"', "\\", "stream_id"]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXT,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(_TEXT | st.just("stream_id"), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    before=st.dictionaries(_TEXT, _JSON, max_size=2),
    name=st.just(...) | _JSON,
    after=st.dictionaries(_TEXT, _JSON, max_size=2),
    type_first=st.booleans(),
    spaced=st.booleans(),
    ascii_only=st.booleans(),
)
def test_the_lane_is_what_a_full_parse_would_find(
    before: dict[str, Any], name: Any, after: dict[str, Any], type_first: bool, spaced: bool, ascii_only: bool
) -> None:
    event: dict[str, Any] = {"type": "response.x"} if type_first else {}
    event.update({key: value for key, value in before.items() if key not in ("type", "stream_id")})
    if name is not ...:
        event["stream_id"] = name
    event.update({key: value for key, value in after.items() if key not in ("type", "stream_id")})
    event.setdefault("type", "response.x")
    raw = json.dumps(event, separators=None if spaced else (",", ":"), ensure_ascii=ascii_only)
    frame = decode(raw)
    assert frame.stream_id == (name if isinstance(name, str) else None)
    assert frame.type == "response.x"
    assert frame.data == event


@pytest.mark.parametrize(
    ("event_type", "passed_over"),
    [("response.completed", True), ("response.incomplete", True), ("response.in_progress", False)],
)
def test_an_answer_is_parsed_without_the_tools_that_came_back_before(
    event_type: str, passed_over: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What other tests' answers echoed is none of this one's business.
    monkeypatch.setattr(module, "_ECHO", Echo())
    response = {"id": "resp_1", "output": [{"type": "message"}], "tools": _ECHO, "top_p": 1}
    raw = orjson.dumps({"type": event_type, "response": response, "sequence_number": 7})
    decode(raw, loads=orjson.loads).data  # noqa: B018
    again = decode(raw, loads=orjson.loads)
    expected = {name: value for name, value in response.items() if not (passed_over and name == "tools")}
    assert again.data == {"type": event_type, "response": expected, "sequence_number": 7}
    assert again.raw == raw


def test_a_frame_is_parsed_once_and_keeps_its_bytes() -> None:
    calls = []

    def loads(raw: bytes) -> Any:
        calls.append(raw)
        return json.loads(raw)

    raw = b'{"type":"response.created","response":{"id":"resp_1"}}'
    frame = decode(raw, loads=loads)
    assert calls == []
    assert frame.response == {"id": "resp_1"}
    assert frame.data["response"] == {"id": "resp_1"}
    assert calls == [raw]
    assert frame.raw is raw


@pytest.mark.parametrize("response", ["null", "7", '"resp_1"', "[]"])
def test_a_response_that_is_no_object_counts_as_empty(response: str) -> None:
    assert decode(f'{{"type":"response.created","response":{response}}}').response == {}
    assert decode('{"type":"response.created"}').response == {}


def test_a_frame_shows_its_type_and_size_only() -> None:
    frame = decode('{"type":"response.output_text.delta","delta":"my secret"}')
    assert repr(frame) == "<Frame response.output_text.delta 57 bytes>"


# -- broken frames ---


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"   ",
        b"hello",
        b"null",
        b"7",
        b'"response.created"',
        b'[{"type":"response.created"}]',
        b"{}",
        b'{"type":null}',
        b'{"type":7}',
        b'{"type":{"type":"response.created"}}',
        b'{"a":1,"type":"response.created"',
        b'{"type":"response.created"',
        b'{"n":1,"type":"error","message":"my secret \xff\xfe"}',
        b'\x00{"type":"error"}',
        b'{"n":' + b"[" * 100_000 + b"]" * 100_000 + b',"type":"error"}',
        b'{"n":' + b'{"a":' * 100_000,
    ],
    ids=lambda raw: repr(raw[:24]),
)
@LOADS
def test_what_is_no_event_object_is_refused_without_being_quoted(raw: bytes, loads: Any) -> None:
    with pytest.raises(FrameError) as caught:
        decode(raw, loads=loads)
    assert isinstance(caught.value, ValueError)
    assert f"a frame of {len(raw)} bytes" in str(caught.value)
    assert "secret" not in str(caught.value)
    # The parser's exception holds the whole text, and tools that walk the chain would find it.
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@LOADS
def test_a_frame_that_is_broken_behind_its_head_says_so_when_it_is_read(loads: Any) -> None:
    frame = decode(b'{"type":"response.completed","response":{"id":\xff}}', loads=loads)
    assert frame.kind is EventKind.COMPLETED
    with pytest.raises(FrameError, match="not JSON"):
        _ = frame.data
    frame = decode('{"type":"response.x","type":7}', loads=loads)
    with pytest.raises(FrameError, match="not an event object"):
        _ = frame.data


def test_text_with_lone_surrogates_is_read_as_the_standard_library_reads_it() -> None:
    frame = decode('{"type":"response.output_text.delta","delta":"\ud83d"}')
    assert frame.data["delta"] == "\ud83d"


@pytest.mark.skipif(
    not hasattr(sys, "get_int_max_str_digits"), reason="this Python has no limit on the digits of integers"
)
def test_an_integer_of_unreasonable_length_is_a_broken_frame() -> None:
    with pytest.raises(FrameError):
        decode('{"n":' + "9" * 5000 + ',"type":"error"}')


# -- errors ---


def failure(frame: Any, **kwargs: Any) -> Any:
    return failure_from(frame, **{"phase": Phase.SENT, "events_seen": 0, **kwargs})


NESTED = {"type": "invalid_request_error", "code": "invalid_value", "message": "No.", "param": "input[0]"}


@pytest.mark.parametrize(
    ("frame", "error_type"),
    [
        ({"type": "error", "status": 400, "error": NESTED}, "invalid_request_error"),
        ({"type": "error", "status_code": 400, "error": NESTED}, "invalid_request_error"),
        ({"type": "error", "status": "400", "error": NESTED}, "invalid_request_error"),
        ({"type": "error", "error": {**NESTED, "status": 400}}, "invalid_request_error"),
        ({"type": "error", "error": {**NESTED, "status_code": 400}}, "invalid_request_error"),
        ({"type": "error", "error": NESTED}, "invalid_request_error"),
        ({"type": "error", "status": None, "status_code": 400, "error": NESTED}, "invalid_request_error"),
        (
            {"type": "error", "status": 400, "code": "invalid_value", "message": "No.", "param": "input[0]"},
            None,
        ),
        (
            {
                "type": "error",
                "status_code": 400,
                "code": "invalid_value",
                "message": "No.",
                "param": "input[0]",
            },
            None,
        ),
    ],
)
def test_nested_and_flat_errors_say_the_same(frame: dict[str, Any], error_type: str | None) -> None:
    got = failure(frame, connection="c1")
    assert got.kind is FailureKind.SERVER_ERROR
    assert (got.status, got.code, got.param, got.message) == (400, "invalid_value", "input[0]", "No.")
    assert (got.error_type, got.connection) == (error_type, "c1")
    assert got.body() == {
        "type": error_type,
        "code": "invalid_value",
        "message": "No.",
        "param": "input[0]",
    }


@pytest.mark.parametrize(
    ("word", "status"),
    [
        ("invalid_request_error", 400),
        ("previous_response_not_found", 400),
        ("websocket_connection_limit_reached", 400),
        ("websocket_stream_limit_reached", 400),
        ("invalid_stream_id", 400),
        ("context_length_exceeded", 400),
        ("invalid_prompt", 400),
        ("authentication_error", 401),
        ("invalid_api_key", 401),
        ("permission_error", 403),
        ("permission_denied", 403),
        ("not_found_error", 404),
        ("model_not_found", 404),
        ("conflict_error", 409),
        ("rate_limit_error", 429),
        ("rate_limit_exceeded", 429),
        ("insufficient_quota", 429),
        ("tokens", 429),
        ("requests", 429),
        ("server_error", 500),
        ("api_error", 500),
        ("internal_error", 500),
        ("server_is_overloaded", 503),
        ("slow_down", 503),
        ("overloaded_error", 503),
        ("something_else", None),
    ],
)
def test_without_a_status_the_code_or_the_type_tells_it(word: str, status: int | None) -> None:
    assert failure({"type": "error", "error": {"code": word, "message": "No."}}).status == status
    assert failure({"type": "error", "error": {"type": word, "message": "No."}}).status == status
    assert failure({"type": "error", "code": word, "message": "No."}).status == status


def test_a_status_beats_the_code_and_the_code_beats_the_type() -> None:
    error = {"type": "invalid_request_error", "code": "rate_limit_exceeded"}
    assert failure({"type": "error", "status": 503, "error": error}).status == 503
    assert failure({"type": "error", "error": error}).status == 429


@pytest.mark.parametrize("code", [429, "429"])
def test_a_code_that_is_a_status_is_one(code: Any) -> None:
    got = failure({"type": "error", "error": {"code": code}})
    assert (got.code, got.status) == ("429", 429)


@pytest.mark.parametrize(
    "status",
    [0, 99, 600, -400, True, 4.0, "", "4", "040", "4000", "4oo", "٤٠٠", "000000400" + "1" * 5000, [400], {}],
)
def test_what_is_no_status_is_passed_over(status: Any) -> None:
    assert failure({"type": "error", "status": status, "error": {"message": "No."}}).status is None
    assert failure({"type": "error", "status": status, "error": {"code": "slow_down"}}).status == 503


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"type": "error", "error": "No."}, "No."),
        ({"type": "error", "error": {"code": "odd"}}, "The server sent an error event (odd)."),
        ({"type": "error"}, "The server sent an error event (without a code)."),
        ({"type": "error", "error": None}, "The server sent an error event (without a code)."),
        ({"type": "error", "error": [1]}, "The server sent an error event (without a code)."),
        (
            {"type": "error", "error": {"message": {"detail": "the payload"}}},
            "The server sent an error event (without a code).",
        ),
        ({"type": "error", "error": {"message": ""}}, "The server sent an error event (without a code)."),
    ],
)
def test_an_error_without_words_still_says_something(frame: dict[str, Any], message: str) -> None:
    got = failure(frame)
    assert got.message == message
    assert got.status is None


def test_values_nested_beyond_the_recursion_limit_do_no_harm() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    try:
        got = failure({"type": "error", "error": {"code": deep, "message": deep}, "headers": {"a": deep}})
        assert (got.code, got.headers) == (None, {})
    finally:
        while deep:  # level by level: the garbage collector would recurse
            deep = deep.pop()


def test_the_owner_says_how_far_the_turn_had_come() -> None:
    got = failure({"type": "error", "error": NESTED}, phase=Phase.STREAMING, events_seen=7)
    assert (got.phase, got.events_seen) == (Phase.STREAMING, 7)


def test_headers_come_in_lower_case_from_either_place_and_without_credentials() -> None:
    headers = {
        "Retry-After": "3",
        "X-RateLimit-Remaining": 0,
        "Set-Cookie": "a=b",
        "Authorization": "Bearer k",
    }
    expected = {"retry-after": "3", "x-ratelimit-remaining": "0"}
    outside = failure({"type": "error", "error": NESTED, "headers": headers})
    inside = failure({"type": "error", "error": {**NESTED, "headers": headers}})
    assert outside.headers == inside.headers == expected
    assert outside.retry_after == inside.retry_after == 3
    assert failure({"type": "error", "error": NESTED, "headers": ["a"]}).headers == {}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "7"}, 7),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, None),
        ({"retry-after": "-1"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_how_long_the_server_asks_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers) == seconds


@given(_JSON)
def test_any_json_in_an_error_frame_gives_a_failure(value: Any) -> None:
    fields = ("status", "status_code", "code", "message", "param", "headers", "error")
    for name in fields:
        got = failure({"type": "error", name: value})
        assert got.kind is FailureKind.SERVER_ERROR
        assert got.message
        assert got.status is None or 100 <= got.status <= 599
        nested = failure({"type": "error", "error": {name: value}})
        assert nested.kind is FailureKind.SERVER_ERROR
        assert nested.message


@pytest.mark.parametrize("status", [100, 599, "100", "599"])
def test_the_outermost_statuses_are_statuses(status: int | str) -> None:
    assert failure({"type": "error", "status": status, "error": NESTED}).status == int(status)


@pytest.mark.parametrize("name", ["status", "status_code"])
def test_a_status_may_stand_inside_or_outside_and_beats_the_code(name: str) -> None:
    assert failure({"type": "error", "error": {"code": "tokens", name: 408}}).status == 408
    assert failure({"type": "error", name: 408, "error": {"code": "tokens"}}).status == 408


@pytest.mark.parametrize("name", ["Authorization", "cookie", "Proxy-Authorization", "Set-Cookie"])
def test_no_header_that_may_carry_a_credential_is_kept(name: str) -> None:
    got = failure({"type": "error", "headers": {name: "secret", "x-request-id": "r1"}})
    assert got.headers == {"x-request-id": "r1"}


def test_a_name_that_is_no_text_names_no_lane_that_exists() -> None:
    frame = decode(b'{"type":"response.\xff","stream_id":"\xfe"}', loads=never)
    assert (frame.type, frame.stream_id) == ("response.\ufffd", "\ufffd")
