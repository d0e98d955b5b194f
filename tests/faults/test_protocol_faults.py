"""The matrix, second part: what servers say that they should not, or do not say.

The oracle is the recovery table and the list of errors of the design, written down by hand; for answers that end
badly it is plain ChatOpenAI over HTTP.
"""

from __future__ import annotations

import json
from collections import deque
from typing import TYPE_CHECKING, Any

import openai
import pytest
from faults.report import WAYS, note, same
from faults.world import Cell, Running, World, tokens_of
from langchain_core.messages import HumanMessage
from pairs import http_model, outcome
from waiting import until_lost

from langchain_ws_responses import Phase, Replay, ServerEventError
from langchain_ws_responses.errors import ConnectionLost, MessageTooLarge, ProtocolViolation
from langchain_ws_responses.testing import error, events, failed, hold, incomplete, insert

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_ws_responses.testing import Answer

IN_TURN = ("sent", "created", "text", "arguments", "end")
LOST = {"sent": "RR", "created": "RR", "text": "RE", "arguments": "RE", "end": "RE"}
LIFETIME = "websocket_connection_limit_reached"


def play_at(cell: Cell, phase: str, make: Callable[[int, Answer], Answer]) -> Running:
    """Lets the turn come to a phase, and the server go on with something else."""
    turn, gate = cell.run_to(phase, lambda answer: make(cell.events_of(phase), answer))
    gate.open()
    return turn


def settle(
    cell: Cell,
    turn: Running,
    phase: str,
    ours: type[Exception],
    http: type[Exception],
    *,
    survives: bool | None,
    **fields: Any,
) -> str:
    """Holds one cell against the table."""
    letter = LOST[phase][cell.streams]
    answer = None
    if letter == "R":
        answer = cell.check_answer(turn, resends=1)
    else:
        cell.check_error(turn, ours, http, Replay.UNSAFE, phase=Phase.STREAMING, **fields)
    if survives is not None:
        cell.check_sibling(survives=survives)
    cell.check_next(answer)
    return letter


# -- previous_response_not_found


@pytest.mark.parametrize("where", ["same lane", "fork", "after reconnect"])
def test_a_lost_response_costs_one_full_resend(world: World, where: str, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    if where == "fork":
        # Another continuation of the same response keeps its lane busy.
        gate = cell.gate()
        cell.play(hold(gate, world.stamped(cell.tag), 2))
        other = Running(cell.sibling_model, "invoke", cell.history)
        gate.wait_until_reached()
    parent = cell.history[1].response_metadata["openai_chain"]["id"]
    world.server.forget(parent)
    if where == "after reconnect":
        cell.check_sibling(survives=True)
        world.server.drop_connections(code=1000)
        until_lost(cell.manager)
    answer = cell.check_answer(cell.start(), resends=1)
    how = answer.response_metadata["transport"]
    assert (how["mode"], how["reason"]) == ("full", "previous_response_not_found")
    assert [request.error_code for request in cell.requests].count("previous_response_not_found") == 1
    if where == "fork":
        gate.open()
        assert len(tokens_of(other.wait().text, cell.tag)) == 3
    if where != "after reconnect":
        cell.check_sibling(survives=True)
    cell.check_next(answer)
    cell.check_dials(2 if where == "after reconnect" else 1)
    note(f"response not found, {where}", "sent", way, "R")


# -- the end of a connection's lifetime


@pytest.mark.parametrize("beside", ["alone", "with siblings"])
@pytest.mark.parametrize("phase", IN_TURN)
def test_the_lifetime_ends_in_mid_turn(world: World, phase: str, beside: str, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin(sibling=beside == "with siblings")
    turn, _ = cell.run_to(phase)
    world.server.age(minutes=61)
    if beside == "alone":
        letter = settle(
            cell, turn, phase, ServerEventError, openai.BadRequestError, survives=None, code=LIFETIME
        )
    else:
        # It is said to nobody in particular: for each of them the connection is lost.
        letter = settle(cell, turn, phase, ConnectionLost, openai.APIConnectionError, survives=False)
    cell.check_dials(2)
    note(f"lifetime limit, {beside}", phase, way, letter)


def test_the_lifetime_ends_while_idle(world: World, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin(sibling=False)
    world.server.age(minutes=61)
    until_lost(cell.manager)
    answer = cell.check_answer(cell.start(), resends=0)
    cell.check_next(answer)
    cell.check_dials(2)
    assert cell.manager.stats().dial_failures == 0
    note("lifetime limit, alone", "idle", way, "D")


def test_a_lane_too_many_goes_to_another_connection(world: World, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin(sibling=False)
    world.server.config.max_lanes = 1  # the lane in use is the only one that this connection gets
    cell.begin_sibling_refused()
    answer = cell.check_answer(cell.start(), resends=0)
    cell.check_sibling(survives=False)
    cell.check_next(answer)
    cell.check_dials(2)
    note("stream limit, a sibling's", "sent", way, "A")


def test_the_stream_limit_is_survived(world: World, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    cell.play(error(code="websocket_stream_limit_reached"))
    answer = cell.check_answer(cell.start(), resends=1)
    cell.check_sibling(survives=True)
    cell.check_next(answer)
    cell.check_dials(2)
    note("stream limit", "sent", way, "R")


# -- errors

SHAPES = ("nested", "flat", "status_code", "bare")
REFUSALS: dict[str, tuple[int, str, type[Exception]]] = {
    "400": (400, "invalid_prompt", openai.BadRequestError),
    "401": (401, "invalid_api_key", openai.AuthenticationError),
    "403": (403, "permission_denied", openai.PermissionDeniedError),
    "404": (404, "model_not_found", openai.NotFoundError),
    "429, no quota": (429, "insufficient_quota", openai.RateLimitError),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", REFUSALS)
def test_a_refused_request_is_raised_at_once(world: World, kind: str, shape: Any, way: str) -> None:
    status, code, http = REFUSALS[kind]
    cell = world.cell(way=way)
    cell.begin()
    cell.play(error(code=code, status=status, shape=shape, message="No."))
    cell.check_error(
        cell.start(), ServerEventError, http, Replay.SAFE, code=code, status_code=status, events_seen=0
    )
    assert len(cell.requests) == 2
    cell.check_sibling(survives=True)
    cell.check_next()
    cell.check_dials(1)
    note(f"error {kind}", "sent", way, "E")


PASSING = {
    "429": {"status": 429, "code": "rate_limit_exceeded", "headers": {"retry-after": "0.01"}},
    "500": {"status": 500, "code": "server_error"},
    "503": {"status": 503, "code": "server_is_overloaded"},
    "slow_down": {"status": None, "code": "slow_down"},
}
LASTING = {"429": openai.RateLimitError, "503": openai.InternalServerError}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", PASSING)
def test_a_passing_trouble_before_any_event_is_waited_out(
    world: World, kind: str, shape: Any, way: str
) -> None:
    cell = world.cell(way=way)
    cell.begin()
    cell.play(error(shape=shape, **PASSING[kind]), error(shape=shape, **PASSING[kind]))
    answer = cell.check_answer(cell.start(), resends=2)
    cell.check_sibling(survives=True)
    cell.check_next(answer)
    cell.check_dials(1)
    note(f"error {kind}, passing", "sent", way, "R")


@pytest.mark.parametrize("kind", LASTING)
def test_a_lasting_trouble_is_raised_after_the_attempts(world: World, kind: str, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    cell.play(*[error(**PASSING[kind]) for _ in range(5)])
    cell.check_error(cell.start(), ServerEventError, LASTING[kind], Replay.SAFE, status_code=int(kind))
    assert len(cell.requests) == 1 + 3  # as often as the policy says
    cell.check_sibling(survives=True)
    cell.check_next()
    note(f"error {kind}, lasting", "sent", way, "E")


@pytest.mark.parametrize("phase", ["created", "text", "arguments", "end"])
def test_an_error_event_in_mid_answer(world: World, phase: str, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    turn = play_at(
        cell, phase, lambda at, answer: error(code="server_error", status=500, after_events=at, answer=answer)
    )
    letter = settle(
        cell, turn, phase, ServerEventError, openai.InternalServerError, survives=True, status_code=500
    )
    cell.check_dials(1)
    note("error 500, passing", phase, way, letter)


@pytest.mark.parametrize("phase", IN_TURN)
def test_an_error_that_names_no_lane(world: World, phase: str, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    turn = play_at(
        cell,
        phase,
        lambda at, answer: error(
            code="server_error", status=500, after_events=at, answer=answer, echo_stream_id=False
        ),
    )
    letter = settle(cell, turn, phase, ConnectionLost, openai.APIConnectionError, survives=False)
    cell.check_dials(2)
    note("error without stream_id", phase, way, letter)


# -- frames that break the protocol

BROKEN: dict[str, str | bytes] = {
    "not JSON": '{"type":"response.output_text.delta",',
    "JSON without a type": '{"delta":"x"}',
    "binary, not JSON": b"\x00\xff\xfe",
}


@pytest.mark.parametrize("phase", IN_TURN)
@pytest.mark.parametrize("kind", BROKEN)
def test_a_frame_that_is_no_event(world: World, kind: str, phase: str, way: str) -> None:
    if kind != "not JSON":
        same(kind, "not JSON")
        if phase not in ("sent", "text"):
            phase = "created"
    cell = world.cell(way=way)
    cell.begin()
    turn = play_at(cell, phase, lambda at, answer: insert([BROKEN[kind]], min(at, 10), answer))
    letter = settle(cell, turn, phase, ProtocolViolation, openai.APIConnectionError, survives=False)
    cell.check_dials(2)
    note(kind, phase, way, letter)


def test_an_event_whose_body_is_broken(world: World, way: str) -> None:
    """Found when it is read: `invoke` never reads deltas."""
    cell = world.cell(way=way)
    cell.begin(sibling=False)
    broken = '{"type":"response.output_text.delta","delta":nonsense}'
    turn = play_at(cell, "text", lambda at, answer: insert([broken], at, answer))
    if cell.streams:
        cell.check_error(turn, ProtocolViolation, openai.APIConnectionError, Replay.UNSAFE)
        cell.check_next()
    else:
        cell.check_next(cell.check_answer(turn, resends=0))
    cell.check_dials(1)
    note("broken body of an event", "text", way, "E" if cell.streams else "A")


STRANGE: dict[str, list[Any]] = {
    "unknown stream_id": [
        {"type": "response.output_text.delta", "delta": "<foreign/1/1>", "stream_id": "ln_x"}
    ],
    "unknown event": [{"type": "response.never.heard.of", "obfuscation": "x"}],
    "foreign frame": ['{"type":"codex.rate_limits","limits":{}}'],
    "binary JSON": [b'{"type":"codex.rate_limits","limits":{}}'],
}


@pytest.mark.parametrize("phase", [*IN_TURN, "after"])
@pytest.mark.parametrize("kind", STRANGE)
def test_strange_frames_are_passed_by(world: World, kind: str, phase: str, way: str) -> None:
    if kind == "unknown event" and phase == "after":
        kind = "event after the terminal one"
    frames = STRANGE.get(kind, STRANGE["unknown event"])
    cell = world.cell(way=way)
    cell.begin()
    if phase == "after":
        cell.play(insert(frames, 99, world.stamped(cell.tag)))
        turn = cell.start()
    else:
        turn = play_at(cell, phase, lambda at, answer: insert(frames, min(at, 9), answer))
    answer = cell.check_answer(turn, resends=0)
    cell.check_sibling(survives=True)
    cell.check_next(answer)
    cell.check_dials(1)
    note(kind, "end" if phase == "after" else phase, way, "A")


def test_two_terminal_events(world: World, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    twice = {
        "type": "response.completed",
        "response": {"id": "resp_ghost", "output": [], "status": "completed"},
    }
    cell.play(insert([twice], 99, world.stamped(cell.tag)))
    answer = cell.check_answer(cell.start(), resends=0)
    cell.check_sibling(survives=True)
    cell.check_next(answer)
    assert "resp_ghost" not in [request.previous_response_id for request in cell.requests]
    cell.check_dials(1)
    note("two terminal events", "end", way, "A")


LATE: dict[str, dict[str, Any]] = {
    "the end once more": {"type": "response.completed"},
    "its failure": {"type": "response.failed"},
    "its progress": {"type": "response.in_progress"},
    "its output": {
        "type": "response.output_text.delta",
        "item_id": "m",
        "output_index": 0,
        "content_index": 0,
    },
}


# Output says whose it is by nothing but its place.
@pytest.mark.parametrize(
    ("kind", "phase"),
    [(kind, phase) for kind in LATE for phase in ("sent", "created", "text")][:-2],
)
def test_what_comes_late_of_the_answer_before(world: World, kind: str, phase: str, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    over = cell.history[1].response_metadata["openai_chain"]["id"]
    said = [{"type": "output_text", "text": "<foreign/1/1>", "annotations": []}]
    message = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": said}
    response = {"id": over, "status": "completed", "output": [message], "previous_response_id": None}
    late = {**LATE[kind], "response": response, "delta": "<foreign/1/1>", "logprobs": []}
    cell.play(insert([late], cell.events_of(phase), world.stamped(cell.tag)))
    answer = cell.check_answer(cell.start(), resends=0)
    assert answer.response_metadata["openai_chain"]["id"] != over
    assert cell.manager.stats().strays == 1
    cell.check_sibling(survives=True)
    following = cell.check_next(answer)
    assert following.response_metadata["transport"]["mode"] == "delta"
    cell.check_dials(1)
    note(f"late from the answer before: {kind}", phase, way, "A")


def test_an_answer_fails_once_more_after_its_error(world: World, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    gone = {"id": "resp_gone", "status": "in_progress", "output": []}
    begun: dict[str, Any] = {"type": "response.created", "response": gone}
    oops: dict[str, Any] = {"code": "server_error", "message": "oops"}
    tail = {"type": "response.failed", "response": {**gone, "status": "failed", "error": oops}}
    cell.play(
        events([begun, {"type": "error", "status": 500, "error": oops}]),
        insert([tail], 0, world.stamped(cell.tag)),
    )
    answer = cell.check_answer(cell.start(), resends=1)
    assert cell.manager.stats().strays == 1
    cell.check_sibling(survives=True)
    cell.check_next(answer)
    cell.check_dials(1)
    note("failed after its error", "sent", way, "R")


# -- answers that end badly


@pytest.mark.parametrize("ending", ["failed", "incomplete"])
def test_bad_ends_are_what_they_are_over_http(world: World, ending: str, way: str) -> None:
    answer = failed() if ending == "failed" else incomplete(text="half an")
    question = [HumanMessage("«plain» hello")]
    world.plays["plain"] = deque([answer])
    plain, plain_error = outcome(http_model(world.server), way, question)
    cell = world.cell(way=way)
    cell.begin()
    cell.play(answer)
    turn = cell.start().wait()
    assert type(turn.error).__mro__[-4:] == type(plain_error).__mro__[-4:]
    assert isinstance(turn.error, openai.OpenAIError) == isinstance(plain_error, openai.OpenAIError)
    assert str(turn.error) == str(plain_error)
    assert turn.text == "".join(str(piece.text) for piece in plain)
    if turn.error is None:
        metadata = turn.message().response_metadata
        assert metadata["incomplete_details"] == {"reason": "max_output_tokens"}
    cell.check_sibling(survives=True)
    cell.check_next()
    cell.check_dials(1)
    note(f"response.{ending}", "end", way, "E" if turn.error else "A")


def test_an_answer_that_somebody_else_steered(world: World, way: str) -> None:
    """It ends the turn as over HTTP; the successor that follows on its lane reaches nobody."""
    answer = incomplete("steered", text="half an")
    question = [HumanMessage("«plain» hello")]
    world.plays["plain"] = deque([answer])
    plain, _ = outcome(http_model(world.server), way, question)
    cell = world.cell(way=way)
    cell.begin()
    said = {"item_id": "msg_s", "output_index": 0, "content_index": 0, "logprobs": []}
    successor: list[Any] = [
        {"type": "response.created", "response": {"id": "resp_s", "output": [], "status": "in_progress"}},
        {"type": "response.output_text.delta", "delta": f"<{cell.tag}/0/0>", **said},
        {"type": "response.completed", "response": {"id": "resp_s", "output": [], "status": "completed"}},
    ]
    cell.play(insert(successor, 99, answer))
    turn = cell.start()
    message = turn.message()
    assert turn.text == "".join(str(piece.text) for piece in plain) == "half an"
    assert message.response_metadata["incomplete_details"] == {"reason": "steered"}
    cell.check_sibling(survives=True)
    following = cell.check_next(message)
    ours, next_one = (m.response_metadata["transport"] for m in (message, following))
    assert ours["connection"] != next_one["connection"], (
        "the successor might come in the middle of the next turn"
    )
    assert "resp_s" not in [request.previous_response_id for request in cell.requests]
    cell.check_dials(2)
    note("response.incomplete, steered", "end", way, "A")


# -- sizes


def test_a_frame_of_60_megabytes(world: World) -> None:
    cell = world.cell(way="stream", limits={"max_lane_bytes": 70 * 2**20})
    cell.begin()
    cell.play(
        insert([json.dumps({"type": "codex.blob", "data": "x" * 60_000_000})], 2, world.stamped(cell.tag))
    )
    answer = cell.check_answer(cell.start(), resends=0)
    assert cell.manager.stats().bytes_received > 60_000_000
    cell.check_sibling(survives=True)
    cell.check_next(answer)
    cell.check_dials(1)
    note("60 MB frame", "created", "stream", "A")


@pytest.mark.parametrize("phase", ["created", "text"])
def test_an_answer_above_the_limit(world: World, phase: str, way: str) -> None:
    cell = world.cell(way=way, limits={"max_message_size": 100_000})
    cell.begin(sibling=False)
    blob = json.dumps({"type": "codex.blob", "data": "x" * 200_000})
    turn = play_at(cell, phase, lambda at, answer: insert([blob], at, answer))
    handed = cell.streams and phase == "text"
    cell.check_error(
        turn,
        MessageTooLarge,
        openai.APIConnectionError,
        Replay.UNSAFE if handed else Replay.AMBIGUOUS,
        close_code=1009,
    )
    cell.check_next()
    cell.check_dials(2)
    note("frame above our limit (1009)", phase, way, "E")


def test_a_request_above_the_servers_limit_ends_no_sibling(world: World, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    world.server.config.max_message_size = 50_000
    cell.redial()
    cell.history[2] = type(cell.history[2])("y" * 60_000, tool_call_id="call_a")
    turn = cell.start()
    cell.check_error(turn, MessageTooLarge, openai.APIConnectionError, Replay.AMBIGUOUS, close_code=1009)
    world.server.config.max_message_size = 64 * 2**20
    cell.check_sibling(survives=False)
    note("request above theirs (1009)", "sent", way, "E")


# -- a server without lanes


@pytest.mark.parametrize("concurrent", ["queue", "reject"])
def test_a_server_without_lanes(concurrent: Any) -> None:
    with World(lanes=False, concurrent=concurrent) as world:
        for way in WAYS:
            world.server.config.lanes = False
            cell = world.cell(way=way)
            cell.begin()
            turn = cell.start()  # waits for its place
            cell.open_gates()
            answer = cell.check_answer(turn)
            assert cell.sibling is not None
            assert len(tokens_of(cell.sibling.wait().text, cell.beside)) == 3
            cell.check_next(answer)
            cell.check_dials(2)
            note(f"server without lanes, {concurrent}", "sent", way, "A")
            world.end_cells()
