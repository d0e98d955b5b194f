"""A hundred thousand broken frames: whatever a server sends has a verdict, and nothing raises.

The generator is seeded and breaks frames as they are recorded: bits, bytes, slices, values, nesting, numbers, texts.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
import os
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from langchain_ws_responses import _json
from langchain_ws_responses._protocol.connection import Received, ResponsesProtocol
from langchain_ws_responses._protocol.events import PARSED_AT_ONCE, EventKind, FrameError
from langchain_ws_responses._protocol.limits import Profile
from langchain_ws_responses._types import Failure, FailureKind, Replay
from langchain_ws_responses.errors import WebSocketResponsesError, error_from

FRAMES = max(100_000, int(os.environ.get("LANGCHAIN_WS_RESPONSES_PROPERTY_FRAMES", "0")))
PER_CONNECTION = 40
SEED = 7
CANARY = "sk-canary-of-the-conversation"

pytestmark = pytest.mark.timeout(60 + FRAMES // 1000)

_RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1780000000,
    "status": "in_progress",
    "error": None,
    "incomplete_details": None,
    "model": "gpt-5.5",
    "output": [],
    "previous_response_id": None,
    "metadata": {"stream_id": "theirs"},
    "temperature": 1.0,
    "tools": [{"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}],
    "usage": {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8},
}
_ITEM = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": CANARY}],
}
_ERROR = {
    "type": "invalid_request_error",
    "code": "previous_response_not_found",
    "message": "No.",
    "param": "x",
}
RECORDED: list[dict[str, Any]] = [
    {"type": "response.created", "sequence_number": 0, "response": _RESPONSE},
    {"type": "response.in_progress", "sequence_number": 1, "response": _RESPONSE},
    {"type": "response.output_item.added", "output_index": 0, "item": {**_ITEM, "content": []}},
    {"type": "response.output_text.delta", "item_id": "msg_1", "delta": CANARY, "obfuscation": "aX3"},
    {"type": "response.output_text.delta", "item_id": "msg_1", "delta": f'{{"stream_id":"l1"}} \\" {CANARY} \u2028 é'},
    {"type": "response.function_call_arguments.delta", "item_id": "fc_1", "delta": '{"a":"' + CANARY},
    {"type": "response.output_item.done", "output_index": 0, "item": _ITEM},
    {"type": "response.completed", "response": {**_RESPONSE, "status": "completed", "output": [_ITEM] * 3}},
    {"type": "response.incomplete", "response": {**_RESPONSE, "incomplete_details": {"reason": "steered"}}},
    {"type": "response.failed", "response": {**_RESPONSE, "error": {"code": "server_error", "message": "No."}}},
    {"type": "response.steer.accepted", "previous_response_id": "resp_1"},
    {"type": "error", "status": 400, "error": _ERROR},
    {"type": "error", "status_code": 429, "error": {"code": "tokens"}, "headers": {"retry-after": "3"}},
    {"type": "error", "code": "websocket_connection_limit_reached", "message": "60 minutes."},
    {"type": "error", "error": "text alone"},
    {"type": "codex.rate_limits", "rate_limits": {"primary": {"used_percent": 1.5}}},
    {"type": "responsesapi.websocket_timing", "timing_metrics": {}},
]  # fmt: skip

_VALUES: list[Any] = [
    None, True, False, 0, -1, 3, 10**18, 10**400, 1.5, -0.0, math.inf, math.nan, "", "x", "l0", "l1", "nobody",
    "\ud800", "\x00", "resp_1", "429", "5e2", [], {}, [[]], {"": {}}, {"type": 3}, "error", "response.completed",
    "response.", "previous_response_not_found", 99, 100, 599, 600, "retry-after",
]  # fmt: skip
_PIECES = [
    b"", b"\x00", b"\xff\xfe", b"\xc3", b"\xed\xa0\x80", b'"', b"\\", b'\\"', b"{", b"}", b"[", b"]", b",", b":",
    b"\xef\xbb\xbf", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b'"stream_id":"l1",', b'"stream_id":null',
    b'"type":"error",', b"\\u0000", b"\\ud800", b" \n\t", b"//", b"[" * 1200 + b"]" * 1200,
]  # fmt: skip


def vary(value: Any, source: random.Random) -> Any:
    """Replaces, adds or takes away one value somewhere inside."""
    if isinstance(value, dict) and value and source.random() < 0.8:
        key = source.choice(list(value))
        chance = source.random()
        if chance < 0.15:
            value.pop(key)
        elif chance < 0.3:
            value[
                source.choice(["stream_id", "type", "id", "code", "status", "headers", "response", "error"])
            ] = copy.deepcopy(source.choice(_VALUES))
        else:
            value[key] = vary(value[key], source)
        return value
    if isinstance(value, list) and value and source.random() < 0.5:
        index = source.randrange(len(value))
        value[index] = vary(value[index], source)
        return value
    return copy.deepcopy(source.choice(_VALUES))


def break_bytes(raw: bytes, source: random.Random) -> bytes:
    """Breaks a few bytes."""
    for _ in range(source.choice([1, 1, 1, 2, 5])):
        at, to = sorted((source.randrange(len(raw) + 1), source.randrange(len(raw) + 1)))
        chance = source.random()
        if chance < 0.25 and at < len(raw):
            raw = raw[:at] + bytes([raw[at] ^ 1 << source.randrange(8)]) + raw[at + 1 :]
        elif chance < 0.4:
            raw = raw[:at] + raw[min(to, at + 9) :]
        elif chance < 0.5:
            raw = raw[:at]
        elif chance < 0.6:
            raw = raw[:to] + raw[at:]
        else:
            raw = raw[:at] + source.choice(_PIECES) + raw[at:]
    return raw


def generate(source: random.Random) -> bytes | str:
    """Makes one frame: broken in its values, in its bytes, in both, or not at all."""
    event = copy.deepcopy(source.choice(RECORDED))
    if (lane := source.choice(["l0", "l1", "l2", None, None, "nobody", ""])) is not None:
        event["stream_id"] = lane
    chance = source.random()
    for _ in range(source.choice([1, 2, 4]) if chance < 0.45 else 0):
        event = vary(event, source)
        if not isinstance(event, dict):
            break
    compact = source.random() < 0.8
    text = json.dumps(event, separators=(",", ":") if compact else None, ensure_ascii=source.random() < 0.5)
    raw = text.encode("utf-8", "surrogatepass")
    if chance > 0.35 and chance < 0.9:
        raw = break_bytes(raw, source)
    if source.random() < 0.002:
        raw = source.choice(
            [b'{"type":"response.x","a":' + b"[" * 200_000, b"[" * 200_000, b'{"a":' * 100_000, b""]
        )
    return raw.decode("utf-8", "replace") if source.random() < 0.2 else raw


class Client:
    """A connection with turns in flight; judges every verdict."""

    def __init__(self, lanes: bool | None, loads: Callable[[bytes], Any]) -> None:
        names = (f"l{number}" for number in itertools.count())
        self.proto = ResponsesProtocol(
            profile=Profile(name="random", lanes=lanes), loads=loads, make_name=lambda: next(names)
        )
        self.steered = False

    def fill(self) -> None:
        """Keeps two turns in flight where there are lanes."""
        while len(busy := self.proto.in_flight_lanes()) < (2 if self.proto.has_lanes else 1):
            lane = self.proto.spare_lane()
            assert lane is not None
            frame = json.loads(self.proto.send_create(lane, b'{"model":"m"}', parent=lane.latest))
            assert frame.get("stream_id") == lane.name
        named = [lane for lane in busy if lane.response_id is not None]
        if named and not self.steered:
            self.steered = True
            assert self.proto.send_steer(named[0], [], dumps=_json.dumps)

    def hear(self, raw: bytes | str) -> str:
        """Takes a frame; returns what kind of verdict it got."""
        before = set(self.proto.in_flight_lanes())
        got = self.proto.receive(raw, now=1.0)
        after = set(self.proto.in_flight_lanes())
        assert after <= before
        assert before - after <= {got.lane}, "a turn ended that the frame does not belong to"
        assert got.ended is (len(before - after) == 1)
        if got.lane is None:
            assert (got.deliver, got.ended, got.failure) == (False, False, None)
        else:
            assert got.lane in before
        assert 0 <= self.proto.room <= 16
        for failure in (got.failure, got.fatal):
            if failure is not None:
                self.judge(failure)
        self.read(got)
        return "fatal" if got.fatal else "failure" if got.failure else "event" if got.lane else "nobody's"

    def judge(self, failure: Failure) -> None:
        """A failure becomes a documented error, and one that this package words does not quote the frame."""
        error = error_from(failure, replay=Replay.SAFE)
        assert isinstance(error, WebSocketResponsesError)
        assert str(error)
        assert failure.status is None or 100 <= failure.status <= 599
        assert failure.retry_after is None or 0 <= failure.retry_after < math.inf
        if failure.kind is not FailureKind.SERVER_ERROR:
            assert CANARY not in repr(failure)
            assert CANARY not in str(error)

    def read(self, got: Received) -> None:
        """What the caller does with a frame may fail in one way only."""
        if got.frame is None:
            return
        assert CANARY not in repr(got.frame) or CANARY in got.frame.type
        failed: FrameError | None = None
        try:
            data, response = got.frame.data, got.frame.response
        except FrameError as exc:
            failed = exc
        if failed is None:
            assert isinstance(data["type"], str)
            assert isinstance(response, dict)
            return
        assert failed.__cause__ is failed.__context__ is None
        assert CANARY not in str(failed)
        # What steers the protocol was read before the verdict; of a long `response.created` that is the head alone.
        assert got.lane is None or got.frame.kind is not EventKind.ERROR
        assert (
            got.lane is None or got.frame.kind is not EventKind.CREATED or len(got.frame.raw) > PARSED_AT_ONCE
        )


def test_a_hundred_thousand_random_frames() -> None:
    verdicts: Counter[str] = Counter()
    for life in range(FRAMES // PER_CONNECTION):
        source = random.Random(SEED + life)  # noqa: S311 - no secret
        loads = source.choice([json.loads, _json.loads])
        lanes = source.choice([True, True, None, False])
        client = Client(lanes, loads)
        for number in range(PER_CONNECTION):
            client.fill()
            raw = generate(source)
            try:
                verdict = client.hear(raw)
            except Exception as exc:
                raise AssertionError(f"life {life}, frame {number}: {exc!r} after {raw[:300]!r}") from exc
            verdicts[verdict] += 1
            if verdict == "fatal":
                client = Client(lanes, loads)
    assert verdicts.total() == FRAMES // PER_CONNECTION * PER_CONNECTION
    # The generator breaks frames in ways that matter, and not only so that nothing can be read any more.
    assert all(verdicts[kind] > FRAMES / 50 for kind in ("event", "failure", "fatal", "nobody's")), verdicts


@pytest.mark.parametrize("loads", [json.loads, _json.loads])
def test_unbroken_frames_are_all_read(loads: Callable[[bytes], Any]) -> None:
    """The generator's frames are right before they are broken."""
    for event in RECORDED:
        client = Client(True, loads)
        client.fill()
        raw = json.dumps({**event, "stream_id": "l0"})
        assert client.hear(raw) == ("failure" if event["type"] == "error" else "event"), event["type"]
