"""One connection: events, clocks, abandoned turns, losses, liveness, the end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from transport_kit import (
    Events,
    Turn,
    deaf,
    endpoint_of,
    frame,
    mute,
    on_io,
    raw_server,
    run,
    shake_hands,
    websocket_server,
)

from langchain_ws_responses._protocol.limits import Limits, Profile
from langchain_ws_responses._transport import liveness, ticket
from langchain_ws_responses._transport.connection import Connection
from langchain_ws_responses._transport.hooks import ConnectionClosed, ConnectionOpened, TurnEnded, TurnSent
from langchain_ws_responses._transport.manager import ConnectionManager
from langchain_ws_responses._types import FailureKind, Phase
from langchain_ws_responses.testing import ResponsesServer, drop, error, hold, raw, text

Make = Callable[..., ConnectionManager]
WITH_LANES = {"127.0.0.1": Profile(name="told", lanes=True)}


def connection_of(manager: ConnectionManager) -> Connection:
    [connection] = [one for pool in manager._pools.values() for one in pool.connections]
    return connection


# -- events


def test_a_turn_gets_its_events_in_order(manager: ConnectionManager) -> None:
    with ResponsesServer(text("one two three", 3)) as server:
        turn = Turn(manager, endpoint_of(server)).send()
        outcome = turn.end()
        [request] = server.requests
    assert outcome.types[:2] == ["response.created", "response.in_progress"]
    assert outcome.types.count("response.output_text.delta") == 3
    assert outcome.types[-1] == "response.completed"
    assert turn.ticket.sent_bytes == request.raw_bytes
    assert turn.ticket.lane_name == request.stream_id
    assert turn.ticket.phase is Phase.TERMINAL
    assert not turn.ticket.reused


def test_a_caller_may_want_the_terminal_event_only(manager: ConnectionManager) -> None:
    with ResponsesServer(text("one two three", 3)) as server:
        outcome = run(manager, endpoint_of(server), wants_events=False)
    assert outcome.types == ["response.completed"]


def test_a_request_is_not_kept_while_its_answer_is_awaited(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        turn = Turn(manager, endpoint_of(server)).send()
        turn.end()
        assert server.requests[0].body["input"] == "hello"
    assert turn.ticket.body == b""


def test_the_second_turn_finds_a_connection_that_was_used(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        first = Turn(manager, endpoint_of(server)).send()
        parent = first.end().id
        second = Turn(manager, endpoint_of(server), parent=parent).send()
        second.end()
        assert len(server.connections) == 1
        assert server.requests[1].from_memory
    assert second.ticket.reused
    assert second.ticket.lane_name == first.ticket.lane_name, "a chain keeps its lane"


def test_hooks_hear_of_it_all(manager: ConnectionManager, events: Events) -> None:
    with ResponsesServer(text("hi", 1)) as server:
        turn = Turn(manager, endpoint_of(server), mode="full", reason="first_turn").send()
        turn.end()
        manager.close()
    [opened], [sent], [ended] = events.of(ConnectionOpened), events.of(TurnSent), events.of(TurnEnded)
    [closed] = events.wait(ConnectionClosed)
    assert opened.connection == sent.connection == ended.connection == closed.connection != ""
    assert opened.attempts == 1
    assert opened.endpoint == server.websocket_url
    assert (sent.mode, sent.reason, sent.bytes) == ("full", "first_turn", turn.ticket.sent_bytes)
    assert sent.lane == ended.lane == turn.ticket.lane_name
    assert ended.events == len(turn.outcome.frames)
    assert (ended.failure, ended.phase) == (None, Phase.TERMINAL)
    assert (closed.why, closed.lost) == ("closed", 0)


# -- errors of the server


def test_an_error_event_fails_its_turn_only(manager: ConnectionManager) -> None:
    with ResponsesServer(error(code="bad", status=400, message="No.", param="input"), "fine") as server:
        failed = run(manager, endpoint_of(server))
        fine = run(manager, endpoint_of(server))
        assert len(server.connections) == 1
    assert failed.failure is not None
    assert (failed.failure.kind, failed.failure.code) == (FailureKind.SERVER_ERROR, "bad")
    assert (failed.failure.param, failed.failure.phase) == ("input", Phase.SENT)
    assert fine.id


@pytest.mark.parametrize(
    ("after", "phase"), [(0, Phase.SENT), (1, Phase.CREATED), (2, Phase.CREATED), (5, Phase.STREAMING)]
)
def test_a_loss_says_how_far_the_turn_had_come(manager: ConnectionManager, after: int, phase: Phase) -> None:
    with ResponsesServer(drop(after, code=1012, answer=text("a b c d", 4)), "again") as server:
        outcome = run(manager, endpoint_of(server))
        assert outcome.failure is not None
        assert outcome.kind is FailureKind.CONNECTION_LOST
        assert (outcome.failure.phase, outcome.failure.close_code) == (phase, 1012)
        assert outcome.failure.events_seen == after == len(outcome.frames)
        assert run(manager, endpoint_of(server)).id, "the next turn dials again"
        assert len(server.connections) == 2


def test_a_reset_has_no_close_code(manager: ConnectionManager, events: Events) -> None:
    with ResponsesServer(drop(2)) as server:
        outcome = run(manager, endpoint_of(server))
    assert outcome.failure is not None
    assert (outcome.kind, outcome.failure.close_code) == (FailureKind.CONNECTION_LOST, None)
    [closed] = events.wait(ConnectionClosed)
    assert (closed.why, closed.lost, closed.code) == ("lost", 1, None)
    assert manager.stats().lost == 1


def test_a_frame_that_is_not_json_ends_the_connection_and_nothing_after_it_is_read(
    make_manager: Make,
) -> None:
    manager, go = make_manager(profiles=WITH_LANES), threading.Event()
    late = json.dumps({"type": "response.completed", "response": {"id": "late"}})
    with ResponsesServer(hold(go, "never finished"), raw(["no json", late])) as server:
        sibling = Turn(manager, endpoint_of(server)).send()
        server.wait_for(lambda: len(server.requests) == 1)
        broken = Turn(manager, endpoint_of(server)).send()
        outcomes = [broken.end(), sibling.end()]
        go.set()
    assert [outcome.kind for outcome in outcomes] == [FailureKind.PROTOCOL_VIOLATION] * 2
    assert outcomes[0].frames == []
    assert manager.stats().frames_received == 1


def test_a_frame_above_the_limit_is_told_as_such(make_manager: Make) -> None:
    manager = make_manager(limits=Limits(max_message_size=4000))
    with ResponsesServer(text("x" * 8000, 1)) as server:
        outcome = run(manager, endpoint_of(server))
    assert outcome.failure is not None
    assert (outcome.kind, outcome.failure.close_code) == (FailureKind.MESSAGE_TOO_LARGE, 1009)


@pytest.mark.parametrize("theirs", [True, False])
def test_whether_the_first_frame_was_too_large_for_them_or_for_us(make_manager: Make, theirs: bool) -> None:
    manager = make_manager(limits=Limits(max_message_size=4000))
    most = {"max_message_size": 4000} if theirs else {}
    with ResponsesServer(answer=lambda _: raw(["x" * 8000]), **most) as server:
        outcome = run(manager, endpoint_of(server), "x" * 8000)
    assert outcome.failure is not None
    assert (outcome.kind, outcome.failure.events_seen) == (FailureKind.MESSAGE_TOO_LARGE, 0)
    assert outcome.failure.refused is theirs


def test_a_frame_of_many_megabytes_passes(manager: ConnectionManager) -> None:
    with ResponsesServer(text("x" * 5_000_000, 1)) as server:
        assert len(str(run(manager, endpoint_of(server), wants_events=False).response)) > 5_000_000


def test_the_end_of_an_idle_connections_time_is_an_ordinary_event(
    manager: ConnectionManager, events: Events
) -> None:
    with ResponsesServer() as server:
        first = run(manager, endpoint_of(server))
        server.age(minutes=60)
        [closed] = events.wait(ConnectionClosed)
        assert (closed.why, closed.lost) == ("expired", 0)
        assert manager.stats().lost == 0
        assert run(manager, endpoint_of(server), parent=first.id).id
        assert len(server.connections) == 2


def test_the_end_of_a_connections_time_in_mid_turn_fails_the_turn(manager: ConnectionManager) -> None:
    go = threading.Event()
    with ResponsesServer(hold(go, "cut", after_events=2), "fine") as server:
        turn = Turn(manager, endpoint_of(server)).send().until("response.in_progress")
        server.age(minutes=60)
        outcome = turn.end()
        go.set()
        assert outcome.failure is not None
        assert outcome.failure.code == "websocket_connection_limit_reached"
        assert run(manager, endpoint_of(server)).id


def test_a_server_with_fewer_lane_names_than_ours_is_learned_from(manager: ConnectionManager) -> None:
    with ResponsesServer(max_lanes=2) as server:
        outcomes = [run(manager, endpoint_of(server), str(number)) for number in range(5)]
        codes = [outcome.failure.code if outcome.failure else None for outcome in outcomes]
        assert codes == [None, None, "websocket_stream_limit_reached", None, None]
        lanes = [request.stream_id for request in server.requests]
        assert lanes[3:] == lanes[:2], "the least recently used names are used again"
        assert len(server.connections) == 1


def test_a_server_that_refuses_the_very_parameter_has_no_lanes(manager: ConnectionManager) -> None:
    refusal = error(code="unknown_parameter", status=400, param="stream_id", echo_stream_id=False)
    with ResponsesServer(refusal, "fine", lanes=False) as server:
        refused = run(manager, endpoint_of(server))
        assert refused.failure is not None
        assert refused.failure.code == "invalid_stream_id", "which the recovery table knows"
        assert run(manager, endpoint_of(server)).id
        assert "stream_id" in server.requests[0].body
        assert "stream_id" not in server.requests[1].body
        assert len(server.connections) == 1


def test_a_connection_whose_tasks_are_cancelled_takes_its_socket_along(
    manager: ConnectionManager, events: Events
) -> None:
    """At exit every task is cancelled, also that of a connection that has opened just now."""
    with ResponsesServer() as server:
        run(manager, endpoint_of(server))
        connection = connection_of(manager)
        on_io(connection._pinger.cancel)
        events.wait(ConnectionClosed)
        on_io(lambda: None)
        assert connection.socket.transport.is_closing()
        server.wait_for(lambda: not server.connections[0].open)


def test_a_defect_in_reading_fails_the_turn_and_not_the_next_one(
    manager: ConnectionManager,
    events: Events,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise ZeroDivisionError("canary")

    with ResponsesServer() as server:
        manager.preconnect(endpoint_of(server))
        events.wait(ConnectionOpened)
        monkeypatch.setattr(connection_of(manager).protocol, "receive", broken)
        assert run(manager, endpoint_of(server)).kind is FailureKind.CONNECTION_LOST
        assert events.wait(ConnectionClosed)[0].why == "failed"
        assert run(manager, endpoint_of(server)).id
    assert "failed: ZeroDivisionError" in caplog.text
    assert "canary" not in caplog.text


# -- clocks


def test_the_first_event_must_come_in_time(make_manager: Make) -> None:
    manager, go = make_manager(profiles=WITH_LANES), threading.Event()
    with ResponsesServer(hold(go, "late"), "sibling", "after") as server:
        late = Turn(manager, endpoint_of(server), first_event_timeout=0.1).send()
        outcome = late.end()
        assert outcome.failure is not None
        assert (outcome.kind, outcome.failure.phase) == (FailureKind.FIRST_EVENT_TIMEOUT, Phase.SENT)
        sibling = run(manager, endpoint_of(server))
        assert sibling.id
        assert manager.stats().in_flight == 1, "its lane drains"
        go.set()
        server.wait_for(lambda: server.requests[0].status == "completed")
        assert run(manager, endpoint_of(server)).id
        assert len(server.connections) == 1
        assert late.outcome.frames == []


def test_the_next_event_must_come_in_time(manager: ConnectionManager) -> None:
    go = threading.Event()
    with ResponsesServer(hold(go, text("a b", 2), after_events=3)) as server:
        outcome = run(manager, endpoint_of(server), first_event_timeout=10, between_events_timeout=0.3)
        go.set()
    assert outcome.failure is not None
    assert outcome.kind is FailureKind.BETWEEN_EVENTS_TIMEOUT
    assert outcome.failure.events_seen == 3


def test_a_process_that_stood_still_still_ends_a_turn_without_an_answer(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ticket, "CATCH_UP_SECONDS", 0.05)
    go = threading.Event()
    with ResponsesServer(hold(go, "late")) as server:
        turn = Turn(manager, endpoint_of(server), first_event_timeout=0.2).send()
        server.wait_for(lambda: len(server.requests) == 1)

        def stand_still() -> None:
            until = time.monotonic() + 0.5
            while time.monotonic() < until:
                pass

        on_io(stand_still)
        assert turn.end().kind is FailureKind.FIRST_EVENT_TIMEOUT
        go.set()


def test_frames_that_belong_to_no_turn_count_as_life(manager: ConnectionManager) -> None:
    pace = threading.Event()

    def slow(connection: Any) -> None:
        lane = json.loads(connection.recv()).get("stream_id")
        for _ in range(6):
            pace.wait(0.1)
            connection.send(json.dumps({"type": "codex.rate_limits", "rate_limits": {}}))
        connection.send(frame("response.completed", 1, lane))
        deaf(connection.socket)

    with websocket_server(slow) as server:
        outcome = run(manager, endpoint_of(server), first_event_timeout=0.4)
        assert outcome.types == ["response.completed"]


def _stalled(connection: Any) -> None:
    """Accepts the upgrade, and then reads nothing."""
    shake_hands(connection)
    _STOP.wait(10)


_STOP = threading.Event()


@pytest.fixture
def stalled_server() -> Any:
    _STOP.clear()
    with raw_server(_stalled) as server:
        yield server
        _STOP.set()


HUGE = "x" * 30_000_000


def test_a_turn_that_cannot_be_written_has_a_clock_too(make_manager: Make, stalled_server: Any) -> None:
    manager = make_manager(profiles=WITH_LANES)
    first = Turn(manager, endpoint_of(stalled_server), HUGE, first_event_timeout=0.2).send()
    second = Turn(manager, endpoint_of(stalled_server), first_event_timeout=0.2).send()
    outcomes = [first.end(), second.end()]
    assert [outcome.kind for outcome in outcomes] == [FailureKind.FIRST_EVENT_TIMEOUT] * 2
    phases = [outcome.failure.phase for outcome in outcomes if outcome.failure]
    assert phases == [Phase.SENT, Phase.CONNECT], "the second one never left"


def test_a_turn_abandoned_before_it_is_written_is_never_sent(make_manager: Make, stalled_server: Any) -> None:
    manager = make_manager(profiles=WITH_LANES)
    Turn(manager, endpoint_of(stalled_server), HUGE).send()
    second = Turn(manager, endpoint_of(stalled_server)).send()
    on_io(lambda: None)
    while second.ticket.connection is None:
        on_io(lambda: None)
    connection, lane = second.ticket.connection, second.ticket.lane
    manager.abandon(second.ticket)
    on_io(lambda: None)
    assert lane is not None
    assert lane.idle
    assert not on_io(lambda: connection._outbox.take_out(second.ticket))
    assert manager.stats().in_flight == 1


def test_a_loss_before_the_write_is_told_as_such(make_manager: Make, stalled_server: Any) -> None:
    manager = make_manager(profiles=WITH_LANES)
    first = Turn(manager, endpoint_of(stalled_server), HUGE).send()
    second = Turn(manager, endpoint_of(stalled_server)).send()
    while second.ticket.connection is None:
        on_io(lambda: None)
    connection = second.ticket.connection
    on_io(lambda: connection.abort("test"))
    phases = [turn.end().failure.phase for turn in (first, second)]  # type: ignore[union-attr]
    assert phases == [Phase.SENT, Phase.CONNECT]


def test_a_turn_for_a_socket_that_is_closing_is_never_written(make_manager: Make, events: Events) -> None:
    manager = make_manager(profiles=WITH_LANES, hooks=[events])
    with raw_server(mute) as server:
        manager.preconnect(endpoint_of(server))
        events.wait(ConnectionOpened)
        connection = connection_of(manager)
        on_io(lambda: manager.background(connection.socket.close()))
        while connection.socket.state.name == "OPEN":
            on_io(lambda: None)
        turn = Turn(manager, endpoint_of(server)).send()
        while turn.ticket.connection is None:
            on_io(lambda: None)
        on_io(lambda: connection.abort("test"))
        failure = turn.end().failure
        assert failure is not None
        assert (failure.kind, failure.phase) == (FailureKind.CONNECTION_LOST, Phase.CONNECT)
        assert events.of(TurnSent) == []


# -- abandoned turns


@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_an_abandoned_turn_is_swallowed_and_its_lane_used_again_after_its_end(
    make_manager: Make, events: Events, after: int
) -> None:
    manager, go = make_manager(profiles=WITH_LANES, hooks=[events]), threading.Event()
    with ResponsesServer(hold(go, text("a b c d", 4), after_events=after), "sibling", "next") as server:
        turn = Turn(manager, endpoint_of(server)).send()
        server.wait_for(lambda: len(server.requests) == 1)
        while len(turn.outcome.frames) < after:
            turn.next()
        manager.abandon(turn.ticket)
        manager.abandon(turn.ticket)
        assert run(manager, endpoint_of(server)).id, "siblings go on"
        assert server.requests[1].stream_id != server.requests[0].stream_id, "the lane still drains"
        ended = events.wait(TurnEnded)[0]
        assert (ended.failure, ended.phase) != (None, Phase.TERMINAL)
        go.set()
        server.wait_for(lambda: server.requests[0].status == "completed")
        assert run(manager, endpoint_of(server)).id
        assert turn.box.empty()
        assert len(server.connections) == 1
    assert manager.stats().in_flight == 0


def test_a_turn_abandoned_after_its_end_changes_nothing(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        turn = Turn(manager, endpoint_of(server)).send()
        parent = turn.end().id
        manager.abandon(turn.ticket)
        assert run(manager, endpoint_of(server), parent=parent, store=False).id
        assert server.requests[1].from_memory


# -- is it alive?


def _silence(connection: Connection) -> None:
    connection.socket.heard_at -= 41


def _sleep_of_the_machine(connection: Connection) -> None:
    connection.socket.heard_wall -= 3600


def _doubt(connection: Connection) -> None:
    connection._liveness.doubted = True


@pytest.mark.parametrize("sign", [_silence, _sleep_of_the_machine, _doubt])
def test_a_suspicious_socket_is_asked_before_it_gets_a_turn(
    manager: ConnectionManager, sign: Callable[[Connection], None]
) -> None:
    with ResponsesServer() as server:
        parent = run(manager, endpoint_of(server), store=False).id
        connection = connection_of(manager)
        pings = []
        original = connection.socket.ping

        async def ping(*args: Any) -> Any:
            pings.append(len(server.requests))
            return await original(*args)

        connection.socket.ping = ping  # type: ignore[method-assign]
        sign(connection)
        assert run(manager, endpoint_of(server), parent=parent, store=False).id
        assert run(manager, endpoint_of(server), store=False).id
        assert pings == [1], "once, before the create"
        assert len(server.connections) == 1


@pytest.mark.parametrize("bound", [False, True])
def test_a_socket_that_does_not_answer_is_replaced(
    make_manager: Make, events: Events, monkeypatch: pytest.MonkeyPatch, bound: bool
) -> None:
    monkeypatch.setattr(liveness, "_CHECK_SECONDS", 0.1)
    manager = make_manager(hooks=[events])
    with raw_server(mute) as server:
        manager.preconnect(endpoint_of(server))
        events.wait(ConnectionOpened)
        connection = connection_of(manager)
        on_io(lambda: connection.pool.holders.update(resp_1=connection))
        lane = on_io(connection.protocol.spare_lane)
        assert lane is not None
        connection.protocol._holders["resp_1"], lane.latest = lane, "resp_1"
        _silence(connection)
        more = {"parent": "resp_1", "store": False} if bound else {}
        turn = Turn(manager, endpoint_of(server), first_event_timeout=0.2, **more).send()  # type: ignore[arg-type]
        [closed] = events.wait(ConnectionClosed)
        assert (closed.why, closed.lost) == ("unresponsive", 0)
        outcome = turn.end()
        if bound:
            assert outcome.kind is FailureKind.PARENT_GONE
            assert server.count == 1
        else:
            assert outcome.kind is FailureKind.FIRST_EVENT_TIMEOUT, "it was sent on the new connection"
            assert turn.ticket.connection is not connection
            assert server.count == 2


def test_a_fresh_socket_is_not_asked(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        run(manager, endpoint_of(server))
        assert on_io(connection_of(manager).trusted)
        assert not connection_of(manager).checking


def test_a_turn_without_an_answer_makes_its_socket_suspicious(manager: ConnectionManager) -> None:
    go = threading.Event()
    with ResponsesServer(hold(go, "late"), "fine") as server:
        run(manager, endpoint_of(server), first_event_timeout=0.05)
        assert connection_of(manager)._liveness.suspicious()
        go.set()
        server.wait_for(lambda: server.requests[0].status == "completed")
        assert run(manager, endpoint_of(server)).id
        assert len(server.connections) == 1


def test_a_machine_that_slept_past_the_lifetime_rotates_before_the_next_turn(
    manager: ConnectionManager, events: Events, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ResponsesServer() as server:
        run(manager, endpoint_of(server))
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 3600)
        assert run(manager, endpoint_of(server)).id
        assert len(server.connections) == 2
        [closed] = events.wait(ConnectionClosed)
        assert closed.why == "rotated"


# -- rotation and idleness


def test_a_connection_past_its_lifetime_finishes_what_is_in_flight(
    make_manager: Make, events: Events
) -> None:
    go = threading.Event()
    manager = make_manager(limits=Limits(max_lifetime=0.3), hooks=[events], profiles=WITH_LANES)
    with ResponsesServer(hold(go, "old", after_events=2), "new") as server:
        old = Turn(manager, endpoint_of(server)).send().until("response.in_progress")
        first = connection_of(manager)
        while first.usable:
            on_io(lambda: None)
        assert manager.stats().connections_draining == 1
        new = Turn(manager, endpoint_of(server)).send()
        assert new.end().id
        assert new.ticket.connection is not first
        go.set()
        assert old.end().id
        closed = events.wait(ConnectionClosed)[0]
        assert (closed.connection, closed.why, closed.lost) == (first.label, "rotated", 0)
    assert manager.stats().rotations >= 1


def test_an_abandoned_turn_does_not_keep_an_old_connection(make_manager: Make, events: Events) -> None:
    go = threading.Event()
    manager = make_manager(limits=Limits(max_lifetime=0.3), hooks=[events], profiles=WITH_LANES)
    with ResponsesServer(hold(go, "nobody's", after_events=2)) as server:
        turn = Turn(manager, endpoint_of(server)).send().until("response.in_progress")
        manager.abandon(turn.ticket)
        [closed] = events.wait(ConnectionClosed)
        assert closed.why == "rotated"
        go.set()


@pytest.mark.parametrize("abandoned", [False, True])
def test_an_idle_connection_is_closed(make_manager: Make, events: Events, abandoned: bool) -> None:
    go = threading.Event()
    manager = make_manager(limits=Limits(max_idle=0.1), hooks=[events])
    with ResponsesServer(hold(go, "x", after_events=2) if abandoned else "x") as server:
        turn = Turn(manager, endpoint_of(server)).send().until("response.in_progress")
        if abandoned:
            manager.abandon(turn.ticket)
        else:
            turn.end()
        [closed] = events.wait(ConnectionClosed)
        assert closed.why == "idle"
        go.set()
    assert manager.stats().connections_open == 0


def test_a_busy_connection_is_not_idle(make_manager: Make, events: Events) -> None:
    go = threading.Event()
    manager = make_manager(limits=Limits(max_idle=0.05), hooks=[events])
    with ResponsesServer(hold(go, "slow", after_events=2)) as server:
        turn = Turn(manager, endpoint_of(server)).send().until("response.in_progress")
        assert not go.wait(0.2)
        assert events.of(ConnectionClosed) == []
        go.set()
        assert turn.end().id
