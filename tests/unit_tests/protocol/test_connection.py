"""One connection: who owns a frame, what is counted, what the server still remembers."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ws_responses._protocol.connection import Received, ResponsesProtocol
from langchain_ws_responses._protocol.lanes import Lane, LaneState, LocalProtocolError
from langchain_ws_responses._protocol.limits import Profile
from langchain_ws_responses._types import FailureKind, Phase

WITH_LANES = Profile(name="with lanes", lanes=True)
UNKNOWN = Profile(name="unknown")
WITHOUT_LANES = Profile(name="without lanes", lanes=False)
BODY = b'{"model":"m","input":[]}'


def protocol(profile: Profile = WITH_LANES, **kwargs: Any) -> ResponsesProtocol:
    names = itertools.count()
    return ResponsesProtocol(profile=profile, make_name=lambda: f"n{next(names)}", label="c1", **kwargs)


def spare(proto: ResponsesProtocol) -> Lane:
    lane = proto.spare_lane()
    assert lane is not None
    return lane


def send(proto: ResponsesProtocol, **kwargs: Any) -> Lane:
    lane = spare(proto)
    proto.send_create(lane, BODY, **kwargs)
    return lane


def event(event_type: str, lane: Lane | None = None, **fields: Any) -> str:
    named = {} if lane is None or lane.name is None else {"stream_id": lane.name}
    return json.dumps({"type": event_type, **named, **fields})


def created(lane: Lane | None, response_id: str, **fields: Any) -> str:
    return event("response.created", lane, response={"id": response_id, **fields})


def completed(lane: Lane | None, response_id: str, kind: str = "completed", **fields: Any) -> str:
    return event(f"response.{kind}", lane, response={"id": response_id, **fields})


def refused(lane: Lane | None, code: str = "invalid_value", status: int = 400, **fields: Any) -> str:
    return event("error", lane, status=status, error={"code": code, "message": "No."}, **fields)


def answer(proto: ResponsesProtocol, lane: Lane, response_id: str, now: float = 0.0) -> None:
    """Lets the server answer the turn in flight on a lane."""
    proto.receive(created(lane, response_id), now=now)
    assert proto.receive(completed(lane, response_id), now=now).ended


def held(proto: ResponsesProtocol) -> set[str]:
    return set(proto.held())


# -- creates ---


def test_a_create_carries_its_lane_and_the_body_as_it_is() -> None:
    proto = protocol()
    lane = spare(proto)
    raw = proto.send_create(lane, b'{"model":"m","input":[{"text":"\xc3\xa9"}],"previous_response_id":null}')
    assert json.loads(raw) == {
        "type": "response.create",
        "stream_id": lane.name,
        "model": "m",
        "input": [{"text": "é"}],
        "previous_response_id": None,
    }
    assert raw.startswith(b'{"type":"response.create","stream_id":"n0",')
    assert lane.state is LaneState.SENT


def test_the_default_lane_has_no_name_on_the_wire() -> None:
    proto = protocol(WITHOUT_LANES)
    lane = spare(proto)
    assert lane.name is None
    assert json.loads(proto.send_create(lane, BODY)) == {"type": "response.create", "model": "m", "input": []}


def test_names_are_random_and_valid_and_never_the_same() -> None:
    proto = ResponsesProtocol(profile=WITH_LANES)
    names = [send(proto).name for _ in range(16)]
    assert len(set(names)) == 16
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]{1,256}", name or "") for name in names)
    again = ResponsesProtocol(profile=WITH_LANES)
    assert spare(again).name not in names


def test_a_busy_lane_takes_no_second_turn() -> None:
    proto = protocol()
    lane = send(proto)
    with pytest.raises(LocalProtocolError, match="send while sent"):
        proto.send_create(lane, BODY)
    proto.receive(created(lane, "r1"))
    with pytest.raises(LocalProtocolError, match="send while streaming"):
        proto.send_create(lane, BODY)
    proto.abandon(lane)
    with pytest.raises(LocalProtocolError, match="send while draining"):
        proto.send_create(lane, BODY)
    assert proto.in_flight == 1


def test_a_parent_that_is_nowhere_is_refused_and_the_lane_stays_free() -> None:
    proto = protocol()
    lane = spare(proto)
    with pytest.raises(LocalProtocolError, match="not in this connection's memory"):
        proto.send_create(lane, BODY, parent="gone", stored=False)
    assert lane.idle
    assert proto.in_flight == 0
    proto.send_create(lane, BODY, parent="gone", stored=True)  # storage may have it
    assert lane.parent == "gone"


# -- sixteen in flight, thirty-two names ---


def test_sixteen_in_flight_and_not_one_more() -> None:
    proto = protocol()
    lanes = [send(proto) for _ in range(16)]
    assert (proto.in_flight, proto.room) == (16, 0)
    assert proto.spare_lane() is None
    with pytest.raises(LocalProtocolError, match="no room"):
        proto.send_create(Lane("n99"), BODY)
    assert proto.in_flight_lanes() == lanes
    answer(proto, lanes[3], "r3")
    assert (proto.in_flight, proto.room) == (15, 1)
    assert proto.in_flight_lanes() == lanes[:3] + lanes[4:]


def test_an_abandoned_turn_counts_until_its_terminal_event() -> None:
    proto = protocol(max_in_flight=2)
    lane = send(proto)
    proto.abandon(lane)
    assert proto.room == 1
    assert spare(proto) is not lane
    send(proto)
    assert proto.spare_lane() is None
    proto.receive(completed(lane, "r1"))
    assert proto.room == 1


def test_thirty_two_names_then_the_least_recently_used_idle_lane() -> None:
    proto = protocol()
    lanes = []
    for number in range(32):
        lane = send(proto)
        answer(proto, lane, f"r{number}", now=100.0 - number)
        lanes.append(lane)
    assert len({lane.name for lane in lanes}) == 32
    busy = lanes[31]
    proto.send_create(busy, BODY, parent="r31", stored=False)
    given = send(proto)
    assert given is lanes[30]  # 31 is the least recently used, but busy
    assert proto.holder("r30") is None
    assert proto.holder("r29") is lanes[29]
    assert len(proto.lanes) == 32


def test_no_lane_is_spare_where_every_name_is_busy() -> None:
    proto = protocol(max_lanes=2)
    send(proto)
    send(proto)
    assert proto.room == 14
    assert proto.spare_lane() is None


def test_an_idle_lane_without_a_chain_is_used_before_a_new_name() -> None:
    proto = protocol()
    first, second = send(proto), send(proto)
    answer(proto, first, "r1")
    proto.receive(refused(second))
    assert spare(proto) is second
    assert set(proto.lanes) == {"n0", "n1"}


def test_the_default_lane_is_no_name() -> None:
    proto = protocol(WITHOUT_LANES, max_lanes=1)
    lane = send(proto)
    answer(proto, lane, "r1")
    proto.has_lanes = True
    assert spare(proto).name == "n0"


# -- whose frame it is ---


def test_events_of_two_lanes_interleave_and_each_reaches_its_own() -> None:
    proto = protocol()
    a, b = send(proto), send(proto)
    steps = [
        (created(a, "ra"), a),
        (created(b, "rb"), b),
        (event("response.output_text.delta", b, delta="b"), b),
        (event("response.output_text.delta", a, delta="a"), a),
        (completed(b, "rb"), b),
        (event("response.output_text.delta", a, delta="a"), a),
        (completed(a, "ra"), a),
    ]
    for raw, owner in steps:
        got = proto.receive(raw)
        assert (got.lane, got.deliver, got.failure, got.fatal) == (owner, True, None, None)
        assert got.frame is not None
        assert got.frame.raw == raw.encode()
        assert got.ended is raw.startswith('{"type": "response.completed"')
    assert proto.strays == 0
    assert (proto.holder("ra"), proto.holder("rb")) == (a, b)


def test_turns_of_one_lane_follow_one_another() -> None:
    proto = protocol()
    lane = send(proto)
    for number in range(3):
        assert proto.receive(created(lane, f"r{number}")).lane is lane
        assert lane.response_id == f"r{number}"
        assert not lane.idle
        assert proto.receive(completed(lane, f"r{number}"), now=float(number)).ended
        assert (lane.idle, lane.latest, lane.used_at) == (True, f"r{number}", number)
        proto.send_create(lane, BODY, parent=f"r{number}", stored=False)
        assert (lane.events, lane.response_id, lane.output) == (0, None, False)


@pytest.mark.parametrize("busy", [0, 1, 2])
@pytest.mark.parametrize(
    "raw",
    [
        '{"type":"response.output_text.delta","stream_id":"nobody","delta":"x"}',
        '{"type":"response.output_text.delta","stream_id":"","delta":"x"}',
        '{"type":"response.completed","stream_id":"nobody","response":{"id":"r9"}}',
        '{"type":"error","stream_id":"nobody","status":400,"error":{"code":"invalid_value"}}',
        '{"type":"error","stream_id":"nobody","status":500,"error":{"code":"server_error"}}',
    ],
)
def test_a_frame_of_an_unknown_lane_is_nobodys_and_hurts_nobody(raw: str, busy: int) -> None:
    proto = protocol()
    lanes = [send(proto) for _ in range(busy)]
    got = proto.receive(raw)
    assert (got.lane, got.deliver, got.ended, got.failure) == (None, False, False, None)
    assert (got.fatal, got.retire) == (None, False)
    assert proto.strays == 1
    assert proto.in_flight_lanes() == lanes
    assert proto.held() == []
    for lane in lanes:
        assert proto.receive(created(lane, f"r-{lane.name}")).lane is lane


@pytest.mark.parametrize("second", ["completed", "failed", "incomplete", "error", "delta"])
def test_what_follows_a_terminal_event_is_nobodys(second: str) -> None:
    proto = protocol()
    lane, other = send(proto), send(proto)
    answer(proto, lane, "r1")
    raw = {
        "error": refused(lane),
        "delta": event("response.output_text.delta", lane, delta="x"),
    }.get(second) or completed(lane, "r2", second)
    got = proto.receive(raw)
    assert (got.lane, got.fatal, got.failure, got.retire) == (None, None, None, False)
    assert proto.strays == 1
    assert lane.idle
    assert held(proto) == {"r1"}
    assert not other.idle


def test_a_stray_frame_without_a_lane_on_an_idle_connection_is_counted() -> None:
    proto = protocol()
    got = proto.receive(event("response.output_text.delta", delta="x"))
    assert got.lane is None
    assert got.fatal is None
    assert proto.strays == 1


@pytest.mark.parametrize("busy", [0, 1, 2])
def test_frames_outside_the_response_family_are_passed_by(busy: int) -> None:
    proto = protocol()
    lanes = [send(proto) for _ in range(busy)]
    got = proto.receive('{"type":"codex.rate_limits","plan":"x"}')
    assert (got.lane, got.deliver, got.fatal, got.retire) == (None, False, None, False)
    assert proto.strays == 0
    assert proto.has_lanes is True
    assert all(lane.events == 0 and lane.name is not None for lane in lanes)


def test_a_foreign_frame_that_names_a_lane_goes_to_its_turn() -> None:
    proto = protocol()
    lane = send(proto)
    got = proto.receive(event("codex.rate_limits", lane))
    assert (got.lane, got.deliver, got.ended) == (lane, True, False)


# -- servers that do not echo the lane ---


def test_an_echo_proves_lanes_and_opens_the_connection_for_more() -> None:
    proto = protocol(UNKNOWN)
    assert proto.has_lanes is None
    lane = send(proto)
    assert lane.name is not None
    assert (proto.room, proto.spare_lane()) == (0, None)
    proto.receive(created(lane, "r1"))
    assert proto.has_lanes is True
    assert proto.room == 15


@pytest.mark.parametrize("profile", [UNKNOWN, WITH_LANES])
def test_without_an_echo_the_turn_goes_on_and_the_lane_loses_its_name(profile: Profile) -> None:
    proto = protocol(profile)
    lane = send(proto)
    steps = [
        created(None, "r1"),
        event("response.output_text.delta", delta="x"),
        completed(None, "r1"),
    ]
    for raw in steps:
        got = proto.receive(raw)
        assert (got.lane, got.deliver) == (lane, True)
        assert proto.has_lanes is False
    assert (lane.name, lane.latest, proto.lanes) == (None, "r1", {None: lane})
    assert proto.room == 1
    frame = json.loads(proto.send_create(spare(proto), BODY, parent="r1", stored=False))
    assert "stream_id" not in frame
    assert (proto.room, proto.in_flight) == (0, 1)
    assert proto.spare_lane() is None


def test_after_an_echo_a_frame_without_a_name_takes_nothing_back() -> None:
    proto = protocol(UNKNOWN)
    lane = send(proto)
    proto.receive(created(lane, "r1"))
    got = proto.receive(event("response.output_text.delta", delta="x"))
    assert (got.lane, got.deliver) == (lane, True)
    assert (proto.has_lanes, lane.name) == (True, "n0")


def test_a_frame_that_may_be_of_several_turns_is_not_guessed_at() -> None:
    proto = protocol(WITH_LANES)
    send(proto)
    send(proto)
    got = proto.receive(event("response.output_text.delta", delta="x"))
    assert got.fatal is not None
    assert (got.fatal.kind, got.fatal.phase) == (FailureKind.LANES_UNSUPPORTED, Phase.SENT)
    assert got.fatal.connection == "c1"
    assert (got.lane, got.deliver, got.retire) == (None, False, True)
    assert proto.has_lanes is False


@pytest.mark.parametrize("code", ["concurrent_turn_not_supported", "invalid_stream_id", "unknown_stream_id"])
@pytest.mark.parametrize("named", [True, False])
def test_a_refusal_of_lanes_is_believed(code: str, named: bool) -> None:
    proto = protocol(UNKNOWN)
    lane = send(proto)
    got = proto.receive(refused(lane if named else None, code))
    assert (got.lane, got.ended, got.fatal, got.retire) == (lane, True, None, False)
    assert got.failure is not None
    assert got.failure.code == code
    assert proto.has_lanes is False
    assert spare(proto).name is None


def test_a_refusal_of_a_second_response_takes_the_lanes_away() -> None:
    proto = protocol(WITH_LANES)
    send(proto)
    send(proto)
    # As recorded: nested, without a status and without a lane.
    error = {"code": "concurrent_turn_not_supported", "message": "No.", "type": "invalid_request_error"}
    got = proto.receive(json.dumps({"error": error, "type": "error"}))
    assert got.fatal is not None
    assert (got.fatal.kind, got.retire) == (FailureKind.LANES_UNSUPPORTED, True)
    assert proto.has_lanes is False


def test_an_error_without_a_lane_says_nothing_about_lanes() -> None:
    proto = protocol(UNKNOWN)
    lane = send(proto)
    assert proto.receive(refused(None)).lane is lane
    assert (proto.has_lanes, lane.name) == (None, "n0")


# -- what the server remembers ---


def test_a_lane_remembers_its_latest_response_only() -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    proto.send_create(lane, BODY, parent="r1", stored=False)
    answer(proto, lane, "r2")
    assert held(proto) == {"r2"}
    assert (proto.holder("r1"), proto.holder("r2")) == (None, lane)


def test_a_new_chain_on_a_used_lane_gives_the_old_one_up() -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    proto.send_create(lane, BODY)
    assert held(proto) == set()
    answer(proto, lane, "r2")
    assert held(proto) == {"r2"}


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
def test_a_failed_continuation_on_its_lane_evicts_the_parent(status: int) -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    proto.send_create(lane, BODY, parent="r1", stored=False)
    got = proto.receive(refused(lane, status=status))
    assert got.failure is not None
    assert got.failure.status == status
    assert held(proto) == set()
    assert (lane.idle, lane.latest) == (True, None)


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
@pytest.mark.parametrize("stored", [True, False])
def test_a_failed_fork_keeps_the_parent(status: int, stored: bool) -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    fork = spare(proto)
    assert fork is not lane
    proto.send_create(fork, BODY, parent="r1", stored=stored)
    assert proto.receive(refused(fork, status=status)).ended
    assert held(proto) == {"r1"}
    assert proto.holder("r1") is lane
    assert proto.may_advance(lane)
    assert (fork.idle, fork.latest) == (True, None)


@pytest.mark.parametrize(("kind", "kept"), [("completed", True), ("incomplete", True), ("failed", False)])
def test_only_a_response_that_ended_well_can_be_continued(kind: str, kept: bool) -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    proto.send_create(lane, BODY, parent="r1", stored=False)
    proto.receive(created(lane, "r2", previous_response_id="r1"))
    got = proto.receive(completed(lane, "r2", kind))
    assert (got.ended, got.deliver, got.failure) == (True, True, None)
    assert held(proto) == ({"r2"} if kept else set())


def test_a_terminal_event_without_an_id_counts_for_the_response_that_was_created() -> None:
    proto = protocol()
    lane = send(proto)
    proto.receive(created(lane, "r1"))
    assert proto.receive(event("response.completed", lane)).ended
    assert held(proto) == {"r1"}


@pytest.mark.parametrize("response_id", [None, "", 7, ["r1"]])
def test_a_response_without_a_name_is_not_remembered(response_id: Any) -> None:
    proto = protocol()
    lane = send(proto)
    proto.receive(created(lane, response_id))
    assert proto.receive(completed(lane, response_id)).ended
    assert held(proto) == set()


# -- forks ---


@pytest.mark.parametrize(
    "begins", ["response.in_progress", "response.output_item.added", "response.completed"]
)
def test_the_parents_lane_waits_until_the_fork_has_begun(begins: str) -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    fork = send(proto, parent="r1", stored=False)
    assert fork is not lane
    assert not proto.may_advance(lane)
    proto.receive(event("codex.rate_limits", fork))
    assert not proto.may_advance(lane)
    proto.receive(created(fork, "r2", previous_response_id="r1"))
    assert not proto.may_advance(lane)
    proto.receive(event(begins, fork, response={"id": "r2"}))
    assert proto.may_advance(lane)
    assert proto.holder("r1") is lane


def test_every_fork_holds_the_lane_back() -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    forks = [send(proto, parent="r1", stored=False) for _ in range(3)]
    for fork in forks:
        assert not proto.may_advance(lane)
        proto.receive(created(fork, f"r-{fork.name}"))
        proto.receive(event("response.in_progress", fork))
    assert proto.may_advance(lane)
    for fork in forks:
        answer_rest = completed(fork, f"r-{fork.name}")
        assert proto.receive(answer_rest).ended
    assert held(proto) == {"r1", *(f"r-{fork.name}" for fork in forks)}


def test_a_stored_parent_needs_no_barrier() -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    send(proto, parent="r1", stored=True)
    assert proto.may_advance(lane)


def test_a_lane_that_is_being_forked_is_not_given_to_another_chain() -> None:
    proto = protocol(max_lanes=2)
    lane = send(proto)
    answer(proto, lane, "r1")
    fork = send(proto, parent="r1", stored=False)
    assert proto.spare_lane() is None
    proto.receive(created(fork, "r2"))
    proto.receive(event("response.in_progress", fork))
    assert spare(proto) is lane


def test_a_parent_whose_lane_moves_on_leaves_no_barrier_behind() -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    proto.send_create(lane, BODY, parent="r1", stored=False)
    fork = send(proto, parent="r1", stored=False)  # beside the continuation in flight
    answer(proto, lane, "r2")
    assert proto.may_advance(lane)
    assert proto.receive(refused(fork, "previous_response_not_found")).ended
    assert held(proto) == {"r2"}


# -- abandoned turns ---


def test_an_abandoned_turn_is_swallowed_to_its_end() -> None:
    proto = protocol()
    lane, other = send(proto), send(proto)
    proto.receive(created(lane, "r1"))
    proto.abandon(lane)
    proto.abandon(lane)  # twice does no harm
    for raw in (event("response.output_text.delta", lane, delta="x"), event("response.in_progress", lane)):
        got = proto.receive(raw)
        assert (got.lane, got.deliver, got.ended) == (lane, False, False)
    assert proto.receive(created(other, "r2")).deliver
    got = proto.receive(completed(lane, "r1"))
    assert (got.lane, got.deliver, got.ended) == (lane, False, True)
    assert lane.idle
    assert held(proto) == {"r1"}  # the server has it in memory all the same


def test_an_abandoned_turn_may_end_in_an_error() -> None:
    proto = protocol()
    lane = send(proto)
    proto.abandon(lane)
    got = proto.receive(refused(lane))
    assert (got.deliver, got.ended, lane.idle) == (False, True, True)
    assert got.failure is not None


def test_abandoning_an_idle_lane_changes_nothing() -> None:
    proto = protocol()
    lane = spare(proto)
    proto.abandon(lane)
    assert lane.idle


# -- what comes late ---


def again(proto: ResponsesProtocol, lane: Lane, response_id: str = "r1", **kwargs: Any) -> None:
    """Lets a lane have an answer, and sends its next turn."""
    answer(proto, lane, response_id)
    proto.send_create(lane, BODY, **kwargs)


def is_stray(proto: ResponsesProtocol, raw: str | bytes) -> bool:
    """Whether a frame is nobody's, is counted as that, and leaves every lane as it was."""

    def state() -> list[Any]:
        return [
            (one.state, one.events, one.output, one.response_id, one.latest) for one in proto.lanes.values()
        ]

    before, strays = state(), proto.strays
    got = proto.receive(raw)
    assert (got.fatal, got.failure, got.ended, got.retire) == (None, None, False, False)
    stray = got.lane is None
    assert proto.strays == strays + stray
    assert not stray or state() == before
    return stray


@pytest.mark.parametrize("kind", ["completed", "failed", "incomplete", "in_progress"])
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("parent", ["r1", None])
@pytest.mark.parametrize("profile", [WITH_LANES, WITHOUT_LANES])
def test_what_comes_late_of_an_answer_is_not_the_next_turns(
    kind: str, begun: bool, parent: str | None, profile: Profile
) -> None:
    proto = protocol(profile)
    lane = send(proto)
    again(proto, lane, parent=parent)
    if begun:
        proto.receive(created(lane, "r2", previous_response_id=parent))
    assert is_stray(proto, completed(lane, "r1", kind))
    long = completed(lane, "r1", kind, instructions="x" * 5000).replace(": ", ":").replace(", ", ",")
    assert is_stray(proto, long)
    if not begun:
        proto.receive(created(lane, "r2", previous_response_id=parent))
    assert not is_stray(proto, completed(lane, "r2", "in_progress"))
    got = proto.receive(completed(lane, "r2"))
    assert (got.lane, got.ended, got.deliver, lane.latest) == (lane, True, True, "r2")


@pytest.mark.parametrize("ending", ["error", "failed"])
def test_a_late_end_after_an_error_does_not_end_the_resend(ending: str) -> None:
    proto = protocol()
    lane = send(proto)
    proto.receive(created(lane, "r1"))
    proto.receive(
        refused(lane, "server_error", 500) if ending == "error" else completed(lane, "r1", "failed")
    )
    proto.send_create(lane, BODY)
    assert is_stray(proto, completed(lane, "r1", "failed"))
    answer(proto, lane, "r2")


@pytest.mark.parametrize(
    "event_type",
    [
        "response.output_text.delta",
        "response.in_progress",
        "response.steer.accepted",
        "response.never.heard.of",
    ],
)
def test_no_event_of_a_turn_comes_before_its_answer_has_begun(event_type: str) -> None:
    proto = protocol()
    lane = send(proto)
    again(proto, lane, quiet=True)
    assert is_stray(proto, event(event_type, lane))
    assert not is_stray(proto, event("codex.rate_limits", lane)), "no event of a response"
    assert is_stray(proto, event(event_type, lane))
    proto.receive(created(lane, "r2"))
    assert not is_stray(proto, event(event_type, lane))


def test_a_server_that_never_says_that_it_begins_is_not_waited_for() -> None:
    proto = protocol()
    lane = send(proto)
    for number in range(3):
        assert not is_stray(proto, delta(lane))
        assert proto.receive(completed(lane, f"r{number}")).ended
        proto.send_create(lane, BODY)
    # Not from its next turn on either, where it begins one answer of many.
    other = send(proto)
    answer(proto, other, "r9")
    assert not is_stray(proto, delta(lane)), "its turn was sent before"


@pytest.mark.parametrize("quiet", [True, False])
def test_an_answer_that_was_not_begun_after_all_is_missing_what_was_passed_by(quiet: bool) -> None:
    proto = protocol()
    lane = send(proto)
    again(proto, lane, quiet=quiet)
    assert is_stray(proto, delta(lane))
    got = proto.receive(completed(lane, "r2"))
    assert (got.lane, got.ended, got.retire, lane.idle) == (lane, True, False, True)
    if quiet:
        assert got.failure is None, "the terminal event has all of it"
    else:
        assert got.failure is not None
        assert got.failure.kind is FailureKind.PROTOCOL_VIOLATION
    proto.send_create(lane, BODY)
    assert not is_stray(proto, delta(lane)), "it is known by now that this server does so"
    assert proto.receive(completed(lane, "r3")).failure is None


def test_an_answer_may_end_without_having_begun() -> None:
    proto = protocol()
    lane = send(proto)
    again(proto, lane)
    got = proto.receive(completed(lane, "r2", "failed"))
    assert (got.lane, got.ended, got.failure) == (lane, True, None)


def test_an_answer_may_have_several_ids() -> None:
    """A gateway that encrypts them does so anew in each event."""
    proto = protocol()
    lane = send(proto)
    for number in range(3):
        proto.receive(created(lane, f"a{number}"))
        assert not is_stray(proto, event("response.in_progress", lane, response={"id": f"b{number}"}))
        assert proto.receive(completed(lane, f"c{number}")).ended
        assert lane.latest == f"c{number}"
        proto.send_create(lane, BODY)
        assert is_stray(proto, completed(lane, f"a{number}"))
        assert is_stray(proto, completed(lane, f"c{number}"))


@pytest.mark.parametrize(
    ("parent", "echo"), [("r1", {"previous_response_id": None}), (None, {"previous_response_id": "r0"})]
)
def test_an_old_answer_from_its_beginning_is_nobodys(parent: str | None, echo: dict[str, Any]) -> None:
    proto = protocol()
    lane = send(proto)
    again(proto, lane, parent=parent)
    got = proto.receive(created(lane, "r1", **echo))
    assert got.failure is not None
    assert (got.failure.kind, got.failure.phase) == (FailureKind.PARENT_IGNORED, Phase.SENT)
    assert (got.ended, got.retire) == (False, True), (
        "whatever comes on this lane, it may be too late for its turn"
    )
    assert not proto.receive(delta(lane)).deliver


def test_an_old_answer_does_not_begin_where_the_next_one_has() -> None:
    proto = protocol()
    lane = send(proto)
    again(proto, lane)
    proto.receive(created(lane, "r2"))
    assert is_stray(proto, created(lane, "r1"))
    assert not is_stray(proto, created(lane, "r2"))
    assert proto.receive(completed(lane, "r2")).ended


@pytest.mark.parametrize("echo", [{}, {"previous_response_id": "r1"}])
def test_a_server_may_use_an_id_twice(echo: dict[str, Any]) -> None:
    proto = protocol()
    lane = send(proto)
    again(proto, lane, parent="r1")
    assert not is_stray(proto, created(lane, "r1", **echo))
    assert not is_stray(proto, event("response.in_progress", lane, response={"id": "r1"}))
    assert not is_stray(proto, delta(lane))
    got = proto.receive(completed(lane, "r1"))
    assert (got.ended, got.deliver, lane.latest) == (True, True, "r1")


def test_an_answer_whose_successor_has_begun_is_over() -> None:
    proto = protocol()
    lane = send(proto)
    proto.receive(created(lane, "r1"))
    proto.send_steer(lane, [], dumps=dumps)
    proto.receive(steered(lane, "r1"))
    proto.receive(created(lane, "r2"))
    assert is_stray(proto, steered(lane, "r1"))
    assert proto.receive(completed(lane, "r2")).ended


def test_an_id_that_is_no_text_for_bytes_does_no_harm() -> None:
    proto = protocol()
    lane = send(proto)
    again(proto, lane)
    proto.receive(created(lane, "\ud800"))
    assert not is_stray(proto, event("response.in_progress", lane, response={"id": "\ud800"}))
    assert proto.receive(completed(lane, "\ud800")).ended


# -- errors ---


@pytest.mark.parametrize(
    ("before", "phase", "seen"),
    [
        ([], Phase.SENT, 0),
        (["response.created"], Phase.CREATED, 1),
        (["response.created", "response.in_progress"], Phase.CREATED, 2),
        (["response.created", "response.output_item.added"], Phase.STREAMING, 2),
        (
            ["response.created", "response.in_progress", "response.output_text.delta"],
            Phase.STREAMING,
            3,
        ),
    ],
)
@pytest.mark.parametrize("named", [True, False])
def test_an_error_ends_its_turn_and_says_how_far_it_had_come(
    before: list[str], phase: Phase, seen: int, named: bool
) -> None:
    proto = protocol()
    lane = send(proto)
    for event_type in before:
        proto.receive(event(event_type, lane, response={"id": "r1"}))
    got = proto.receive(refused(lane if named else None))
    assert (got.lane, got.deliver, got.ended, got.fatal, got.retire) == (lane, True, True, None, False)
    assert got.failure is not None
    assert (got.failure.kind, got.failure.code) == (FailureKind.SERVER_ERROR, "invalid_value")
    assert (got.failure.phase, got.failure.events_seen, got.failure.connection) == (phase, seen, "c1")
    assert lane.idle


def test_an_error_on_one_lane_is_not_the_others() -> None:
    proto = protocol()
    a, b = send(proto), send(proto)
    proto.receive(created(b, "rb"))
    assert proto.receive(refused(a)).lane is a
    assert (a.idle, b.state) == (True, LaneState.STREAMING)
    assert proto.receive(completed(b, "rb")).deliver


def test_an_error_without_a_lane_on_an_idle_connection_harms_nothing() -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    got = proto.receive(refused(None))
    assert (got.lane, got.ended, got.fatal, got.retire) == (None, False, None, False)
    assert held(proto) == {"r1"}
    assert proto.strays == 1


def test_an_error_that_may_be_of_several_turns_is_a_lost_connection_to_each() -> None:
    proto = protocol()
    a, b = send(proto), send(proto)
    proto.receive(created(a, "ra"))
    got = proto.receive(refused(None, "invalid_value", 400))
    assert got.fatal is not None
    # Not as a 400: at least one of the two was asked nothing wrong.
    assert (got.fatal.kind, got.fatal.phase) == (FailureKind.CONNECTION_LOST, Phase.SENT)
    assert (got.fatal.code, got.fatal.status) == ("invalid_value", 400)
    assert got.fatal.message.endswith(": No.")
    assert (got.lane, got.failure, got.retire) == (None, None, True)
    assert not a.idle
    assert not b.idle


@pytest.mark.parametrize("named", [True, False])
def test_the_lifetime_limit_in_flight_ends_the_turn_and_retires_the_connection(named: bool) -> None:
    proto = protocol()
    lane = send(proto)
    got = proto.receive(refused(lane if named else None, "websocket_connection_limit_reached"))
    assert (got.lane, got.ended, got.retire, got.fatal) == (lane, True, True, None)
    assert got.failure is not None
    assert got.failure.code == "websocket_connection_limit_reached"


def test_the_lifetime_limit_on_one_lane_lets_the_others_finish() -> None:
    proto = protocol()
    a, b = send(proto), send(proto)
    got = proto.receive(refused(a, "websocket_connection_limit_reached"))
    assert (got.lane, got.retire, got.fatal) == (a, True, None)
    answer(proto, b, "rb")


def test_the_lifetime_limit_without_a_lane_is_every_turns() -> None:
    proto = protocol()
    send(proto)
    send(proto)
    got = proto.receive(refused(None, "websocket_connection_limit_reached"))
    assert got.fatal is not None
    assert (got.fatal.kind, got.fatal.code) == (
        FailureKind.SERVER_ERROR,
        "websocket_connection_limit_reached",
    )
    assert got.retire


def test_the_lifetime_limit_while_idle_retires_the_connection() -> None:
    proto = protocol()
    got = proto.receive(refused(None, "websocket_connection_limit_reached"))
    assert (got.retire, got.fatal, got.lane) == (True, None, None)


# -- a server that does not continue ---


def test_an_answer_that_ignores_its_parent_is_nobodys() -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    proto.send_create(lane, BODY, parent="r1", stored=False)
    got = proto.receive(created(lane, "r2", previous_response_id=None))
    assert got.failure is not None
    assert (got.failure.kind, got.failure.phase) == (FailureKind.PARENT_IGNORED, Phase.SENT)
    assert (got.lane, got.deliver, got.ended) == (lane, True, False)
    assert lane.state is LaneState.DRAINING
    got = proto.receive(event("response.output_text.delta", lane, delta="without history"))
    assert (got.deliver, got.failure) == (False, None)
    assert proto.receive(completed(lane, "r2")).ended
    assert lane.idle


def test_an_abandoned_turn_that_ignores_its_parent_concerns_nobody() -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    proto.send_create(lane, BODY, parent="r1", stored=False)
    proto.abandon(lane)
    got = proto.receive(created(lane, "r2", previous_response_id=None))
    assert (got.deliver, lane.state) == (False, LaneState.DRAINING)


@pytest.mark.parametrize(
    "fields", [{}, {"previous_response_id": "r1"}, {"previous_response_id": "another name for it"}]
)
def test_a_parent_that_is_named_or_not_mentioned_is_taken_as_continued(fields: dict[str, Any]) -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    proto.send_create(lane, BODY, parent="r1", stored=False)
    got = proto.receive(created(lane, "r2", **fields))
    assert (got.failure, got.deliver) == (None, True)


def test_a_first_turn_has_no_parent_to_ignore() -> None:
    proto = protocol()
    lane = send(proto)
    assert proto.receive(created(lane, "r1", previous_response_id=None)).failure is None


def test_the_terminal_event_names_the_response_by_itself() -> None:
    proto = protocol()
    lane = send(proto)
    proto.receive(completed(lane, "r9"))
    assert held(proto) == {"r9"}


# -- steering ---


def dumps(value: Any) -> bytes:
    return json.dumps(value).encode()


def steered(lane: Lane, response_id: str, reason: str = "steered") -> str:
    return completed(lane, response_id, "incomplete", incomplete_details={"reason": reason})


@pytest.mark.parametrize("profile", [WITH_LANES, WITHOUT_LANES])
def test_a_steer_names_the_running_response(profile: Profile) -> None:
    proto = protocol(profile)
    lane = send(proto)
    with pytest.raises(LocalProtocolError, match="no response"):
        proto.send_steer(lane, [], dumps=dumps)
    proto.receive(created(lane, "r1"))
    frame = json.loads(proto.send_steer(lane, [{"role": "user", "content": "Stop."}], dumps=dumps))
    named = {} if lane.name is None else {"stream_id": lane.name}
    assert frame == {
        "type": "response.steer",
        **named,
        "previous_response_id": "r1",
        "input": [{"role": "user", "content": "Stop."}],
    }
    proto.receive(completed(lane, "r1"))
    with pytest.raises(LocalProtocolError, match="no response"):
        proto.send_steer(lane, [], dumps=dumps)


def test_a_steered_response_is_followed_by_its_successor_on_the_same_turn() -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r0")
    proto.send_create(lane, BODY, parent="r0", stored=False)
    proto.receive(created(lane, "r1", previous_response_id="r0"))
    proto.send_steer(lane, [], dumps=dumps)
    assert proto.receive(event("response.steer.accepted", lane)).deliver
    got = proto.receive(steered(lane, "r1"))
    assert (got.deliver, got.ended, lane.idle) == (True, False, False)
    # Nobody promised that the successor names its predecessor.
    got = proto.receive(created(lane, "r2", previous_response_id=None))
    assert (got.failure, got.deliver, lane.response_id) == (None, True, "r2")
    got = proto.receive(completed(lane, "r2"))
    assert (got.ended, lane.idle) == (True, True)
    assert held(proto) == {"r2"}


def test_each_steer_stands_for_one_successor() -> None:
    proto = protocol()
    lane = send(proto)
    proto.receive(created(lane, "r1"))
    proto.send_steer(lane, [], dumps=dumps)
    assert not proto.receive(steered(lane, "r1")).ended
    proto.receive(created(lane, "r2"))
    assert proto.receive(steered(lane, "r2")).ended


@pytest.mark.parametrize("details", [{"reason": "max_output_tokens"}, {}, None, "steered"])
def test_an_incomplete_answer_for_another_reason_ends_the_turn(details: Any) -> None:
    proto = protocol()
    lane = send(proto)
    proto.receive(created(lane, "r1"))
    proto.send_steer(lane, [], dumps=dumps)
    got = proto.receive(completed(lane, "r1", "incomplete", incomplete_details=details))
    assert (got.ended, got.retire) == (True, False)
    assert held(proto) == {"r1"}


def test_a_steered_answer_that_nobody_steered_ends_the_turn_and_the_connection_for_new_ones() -> None:
    """Its successor would be taken for the answer to whatever is sent next on this lane."""
    proto = protocol()
    lane, beside = send(proto), send(proto)
    proto.receive(created(lane, "r1"))
    got = proto.receive(steered(lane, "r1"))
    assert (got.ended, got.deliver, got.retire, got.fatal) == (True, True, True, None)
    # The successor is nobody's, and what is in flight beside it goes on.
    assert proto.receive(created(lane, "r2")).lane is None
    proto.receive(created(beside, "r3"))
    assert proto.receive(completed(beside, "r3")).ended


def test_a_steer_is_forgotten_with_its_turn() -> None:
    proto = protocol()
    lane = send(proto)
    proto.receive(created(lane, "r1"))
    proto.send_steer(lane, [], dumps=dumps)
    proto.receive(completed(lane, "r1"))
    proto.send_create(lane, BODY)
    proto.receive(created(lane, "r2"))
    assert proto.receive(steered(lane, "r2")).ended


# -- what a server may send ---


@pytest.mark.parametrize(
    "raw",
    [
        b"\xff\xfe",
        "not JSON",
        "[]",
        "{}",
        '{"type":"response.completed","response":}',
        '{"type":"error","status":400,',
        '{"type":"response.created","response":{"id":"r1"',
    ],
)
def test_a_broken_frame_is_fatal_and_not_quoted(raw: str | bytes) -> None:
    proto = protocol()
    send(proto)
    got = proto.receive(raw)
    assert got.fatal is not None
    assert (got.fatal.kind, got.fatal.phase) == (FailureKind.PROTOCOL_VIOLATION, Phase.SENT)
    assert (got.frame, got.lane, got.retire) == (None, None, True)
    assert str(len(raw)) in got.fatal.message


def verdict_is_sound(proto: ResponsesProtocol, got: Received) -> None:
    assert isinstance(got, Received)
    assert got.frame is not None or got.fatal is not None
    if got.fatal is not None:
        assert got.retire
        assert got.lane is None
    if got.deliver or got.ended or got.failure is not None:
        assert got.lane is not None
    if got.ended:
        assert got.lane is not None
        assert got.lane.idle


@given(st.lists(st.binary(max_size=40) | st.text(max_size=40), min_size=1, max_size=5))
def test_random_bytes_never_raise_and_always_give_a_verdict(frames: list[bytes | str]) -> None:
    proto = protocol()
    send(proto)
    for raw in frames:
        verdict_is_sound(proto, proto.receive(raw))


_TYPES = st.sampled_from(
    [
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.failed",
        "response.incomplete",
        "response.steer.accepted",
        "response.output_text.delta",
        "codex.rate_limits",
        "error",
        "",
    ]
)
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "stream_id": st.sampled_from(["n0", "n1", "n2", ""]) | _VALUES,
        "response": st.fixed_dictionaries({}, optional={"id": _VALUES, "incomplete_details": _VALUES})
        | _VALUES,
        "error": st.fixed_dictionaries({}, optional={"code": _VALUES, "message": _VALUES}) | _VALUES,
        "status": _VALUES,
        "code": _VALUES,
        "headers": _VALUES,
    },
)


@given(
    st.lists(st.tuples(_TYPES, _FIELDS), max_size=12), st.sampled_from([WITH_LANES, UNKNOWN, WITHOUT_LANES])
)
def test_odd_events_never_raise_and_always_give_a_verdict(
    events: list[tuple[str, dict[str, Any]]], profile: Profile
) -> None:
    proto = protocol(profile)
    for event_type, fields in events:
        if proto.room and (lane := proto.spare_lane()) is not None:
            proto.send_create(lane, BODY)
        got = proto.receive(json.dumps({"type": event_type, **fields}))
        verdict_is_sound(proto, got)
        assert proto.in_flight <= 16
        if got.fatal is not None:
            break


def test_given_up_response_frees_its_idle_lane_and_nothing_else() -> None:
    protocol = ResponsesProtocol(profile=Profile(name="test", lanes=True))
    first, second = protocol.spare_lane(), None
    assert first is not None
    protocol.send_create(first, b'{"model":"m"}')
    created = {"type": "response.created", "stream_id": first.name, "response": {"id": "resp_1"}}
    ended = {"type": "response.completed", "stream_id": first.name, "response": {"id": "resp_1"}}
    protocol.receive(json.dumps(created))
    protocol.receive(json.dumps(ended))
    protocol.give_up("resp_unknown")
    assert protocol.holder("resp_1") is first

    second = protocol.spare_lane()
    assert second is not None
    protocol.send_create(second, b'{"model":"m"}', parent="resp_1", stored=False)
    protocol.give_up("resp_1")  # a fork of it has not begun yet
    assert protocol.holder("resp_1") is first
    protocol.receive(json.dumps({**ended, "stream_id": second.name, "response": {"id": "resp_2"}}))
    protocol.send_create(first, b'{"model":"m"}', parent="resp_1", stored=False)
    protocol.give_up("resp_1")  # a turn is using its lane
    assert protocol.holder("resp_1") is first

    protocol.give_up("resp_2")
    assert protocol.holder("resp_2") is None
    assert second.latest is None


def test_a_lane_counts_the_events_of_its_turn_and_the_terminal_one_too() -> None:
    proto = protocol()
    lane = send(proto)
    proto.receive(created(lane, "r1"))
    proto.receive(event("response.output_text.delta", lane, delta="x"))
    assert (lane.events, lane.output) == (2, True)
    proto.receive(completed(lane, "r1"))
    assert lane.events == 3
    proto.send_create(lane, b'{"a":1}')
    assert (lane.events, lane.output) == (0, False)


def test_an_unattributed_error_has_seen_no_event_of_any_turn() -> None:
    proto = protocol()
    for _ in range(2):
        send(proto)
    got = proto.receive(refused(None, "server_error", 500))
    assert got.fatal is not None
    assert got.fatal.events_seen == 0
    assert got.fatal.connection == "c1"


# -- what nobody looks at ---


def delta(lane: Lane | None, event_type: str = "response.output_text.delta") -> bytes:
    """As servers write it: compact, and the lane last."""
    named = {} if lane is None or lane.name is None else {"stream_id": lane.name}
    return json.dumps({"type": event_type, "delta": "x", **named}, separators=(",", ":")).encode()


@pytest.mark.parametrize("profile", [WITH_LANES, WITHOUT_LANES])
def test_output_that_nobody_looks_at_is_skimmed_after_the_first(profile: Profile) -> None:
    proto = protocol(profile)
    lane = send(proto, quiet=True)
    proto.receive(created(lane, "r1"))
    assert proto.skim([delta(lane)], 0) is None, "the first one shows that output has begun"
    assert proto.receive(delta(lane)).lane is lane
    assert proto.skim([b"", delta(lane)], 1) == (lane, 2)
    assert (lane.events, lane.state, lane.output) == (3, LaneState.STREAMING, True)
    for needed in (created(lane, "r2"), completed(lane, "r1"), refused(lane), "no json"):
        assert proto.skim([needed.replace(": ", ":").replace(", ", ",").encode()], 0) is None
    assert lane.events == 3
    proto.abandon(lane)
    assert proto.skim([delta(lane)], 0) == (lane, 1)
    assert lane.state is LaneState.DRAINING
    assert proto.receive(completed(lane, "r1")).ended
    assert proto.skim([delta(lane)], 0) is None, "nobody's"


def test_a_run_of_output_ends_where_type_or_lane_change() -> None:
    proto = protocol()
    lanes = [send(proto, quiet=True), send(proto, quiet=True)]
    for lane in lanes:
        proto.receive(created(lane, f"r{lane.name}"))
        proto.receive(delta(lane))
        proto.receive(delta(lane, "response.output_text.done"))
    one, two = lanes
    runs = [[delta(one)] * 3, [delta(one, "response.output_text.done")], [delta(two)] * 2, [delta(one)]]
    messages = [*itertools.chain(*runs), completed(one, "r").replace(" ", "").encode(), delta(one)]
    assert [proto.skim(messages, at) for at in (0, 3, 4, 6, 7)] == [
        (one, 3),
        (one, 4),
        (two, 6),
        (one, 7),
        None,
    ]
    assert (one.events, two.events) == (3 + 5, 3 + 2)
    spaced = delta(one).replace(b',"stream_id"', b', "stream_id"')
    assert proto.skim([delta(one), spaced, delta(one)], 0) == (one, 1)


def test_events_that_somebody_looks_at_are_not_skimmed() -> None:
    proto = protocol()
    lane, quiet = send(proto), send(proto, quiet=True)
    for one in (lane, quiet):
        proto.receive(created(one, f"r{one.name}"))
        proto.receive(delta(one))
    assert proto.skim([delta(lane)], 0) is None
    assert proto.skim([delta(quiet)], 0) == (quiet, 1)
    proto.receive(completed(quiet, "r2"))
    proto.send_create(quiet, BODY, parent="r2")
    proto.receive(created(quiet, "r3"))
    proto.receive(delta(quiet))
    assert proto.skim([delta(quiet)], 0) is None, "its next turn has another caller"


def test_a_frame_whose_lane_is_uncertain_is_not_skimmed() -> None:
    proto = protocol(WITHOUT_LANES)
    lane = send(proto, quiet=True)
    proto.receive(created(lane, "r1"))
    proto.receive(delta(lane))
    assert proto.skim([delta(lane)[:-1] + b',"a":{"stream_id":"x"}}'], 0) is None
    assert proto.skim([delta(Lane("nobody"))], 0) is None
    named = protocol(UNKNOWN)
    busy = send(named, quiet=True)
    named.receive(created(busy, "r1"))
    assert named.skim([delta(None)], 0) is None, "it has lanes: whose this is has to be found out"


@pytest.mark.parametrize("fork", [True, False])
def test_a_create_that_was_never_written_is_taken_back(fork: bool) -> None:
    proto = protocol()
    source = send(proto)
    answer(proto, source, "r1")
    lane = Lane("other") if fork else source
    proto.lanes[lane.name] = lane
    proto.send_create(lane, BODY, parent="r1", stored=False)
    assert proto.in_flight_lanes() == [lane]
    proto.take_back(lane)
    assert (proto.in_flight, lane.idle, lane.parent, source.forks) == (0, True, None, set())
    assert proto.holder("r1") is source
    fresh = send(proto)
    proto.take_back(fresh)
    assert proto.in_flight == 0


def test_a_long_echo_without_the_parent_is_found_out_too() -> None:
    proto = protocol()
    lane = send(proto)
    answer(proto, lane, "r1")
    proto.send_create(lane, BODY, parent="r1")
    got = proto.receive(created(lane, "r2", previous_response_id=None, instructions="x" * 5000))
    assert got.failure is not None
    assert got.failure.kind is FailureKind.PARENT_IGNORED
