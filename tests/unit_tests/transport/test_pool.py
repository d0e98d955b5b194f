"""The connections of one endpoint: who waits, who dials, who gets which lane."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from transport_kit import Events, Turn, deaf, endpoint_of, on_io, raw_server, run
from waiting import until_open

from langchain_ws_responses._protocol.limits import Limits, Profile, RetryPolicy
from langchain_ws_responses._transport import lanes, pool
from langchain_ws_responses._transport.hooks import ConnectionClosed, ConnectionOpened, DialRetrying
from langchain_ws_responses._transport.manager import ConnectionManager
from langchain_ws_responses._transport.retry import Failed
from langchain_ws_responses._transport.runtime import runtime
from langchain_ws_responses._types import Failure, FailureKind
from langchain_ws_responses.testing import ResponsesServer, hold, text

Make = Callable[..., ConnectionManager]
WITH_LANES = {"127.0.0.1": Profile(name="told", lanes=True)}
ONCE = RetryPolicy(max_attempts=1)


class Gated:
    """Answers that wait, each until it is let go; it knows how many wait at a time."""

    def __init__(self) -> None:
        self.go = threading.Event()

    def __call__(self, request: Any) -> Any:
        return hold(self.go, text(f"answer to {request.last_user_text}", 1), after_events=2)


@contextmanager
def gated(**options: Any) -> Iterator[tuple[ResponsesServer, threading.Event]]:
    answer = Gated()
    with ResponsesServer(answer=answer, **options) as server:
        try:
            yield server, answer.go
        finally:
            answer.go.set()


def pool_of(manager: ConnectionManager) -> pool.Pool:
    [only] = manager._pools.values()
    return only


def sent(server: ResponsesServer, count: int) -> None:
    server.wait_for(lambda: len(server.requests) >= count)


# -- one dial at a time


def test_many_turns_share_one_dial(manager: ConnectionManager) -> None:
    with raw_server(deaf) as server:
        turns = [Turn(manager, endpoint_of(server)).send() for _ in range(20)]
        server.accepted.get(timeout=10)
        on_io(lambda: None)
        assert manager.stats().waiting == 20
        assert server.count == 1
        manager.close()
        assert {turn.end().kind for turn in turns} == {FailureKind.MANAGER_CLOSED}
        assert server.count == 1


def test_turns_in_flight_decide_how_many_connections_there_are(make_manager: Make) -> None:
    manager = make_manager(profiles=WITH_LANES, limits=Limits(max_in_flight=4))
    with gated() as (server, go):
        turns = [Turn(manager, endpoint_of(server), str(number)).send() for number in range(10)]
        sent(server, 10)
        assert manager.stats().connections_open == 3
        per_connection = Counter(request.connection for request in server.requests)
        assert sorted(per_connection.values()) == [2, 4, 4]
        assert len({(request.connection, request.stream_id) for request in server.requests}) == 10
        go.set()
        assert all(turn.end().id for turn in turns)


def test_a_dial_that_fails_is_tried_again_and_told(make_manager: Make, events: Events, at_once: None) -> None:
    manager = make_manager(hooks=[events])
    with ResponsesServer(refuse_upgrade=503) as server:
        turn = Turn(manager, endpoint_of(server)).send()
        events.wait(DialRetrying, 2)
        server.config.refuse_upgrade = None
        assert turn.end().id
    retried = events.of(DialRetrying)
    assert [event.attempt for event in retried] == list(range(1, len(retried) + 1))
    assert {(event.kind, event.status) for event in retried} == {(FailureKind.HANDSHAKE_REJECTED, 503)}
    [opened] = events.of(ConnectionOpened)
    assert opened.attempts == len(retried) + 1
    assert manager.stats().dial_failures == len(retried)


def test_when_dialing_is_given_up_everybody_who_waits_is_told(make_manager: Make, at_once: None) -> None:
    manager = make_manager(retry=RetryPolicy(max_attempts=3))
    with ResponsesServer(refuse_upgrade=503) as server:
        turns = [Turn(manager, endpoint_of(server)).send() for _ in range(5)]
        assert {turn.end().kind for turn in turns} == {FailureKind.HANDSHAKE_REJECTED}
        assert len(server.handshakes) == 3


def test_a_refusal_for_good_is_not_tried_again(manager: ConnectionManager) -> None:
    with ResponsesServer(api_key="sk-other") as server:
        outcome = run(manager, endpoint_of(server))
        assert outcome.failure is not None
        assert outcome.failure.status == 401
        assert len(server.handshakes) == 1


def test_a_turn_may_bound_the_attempts_that_it_waits_for(make_manager: Make, at_once: None) -> None:
    manager = make_manager(retry=RetryPolicy(max_attempts=5))
    with ResponsesServer(refuse_upgrade=503) as server:
        assert run(manager, endpoint_of(server), max_dials=2).kind is FailureKind.HANDSHAKE_REJECTED
        assert len(server.handshakes) == 2


def test_nobody_waiting_ends_the_attempts(make_manager: Make, events: Events) -> None:
    manager = make_manager(retry=RetryPolicy(max_attempts=50, initial_delay=0.01, max_delay=0.01))
    with ResponsesServer(refuse_upgrade=503) as server:
        turn = Turn(manager, endpoint_of(server)).send()
        server.wait_for(lambda: len(server.handshakes) >= 1)
        manager.abandon(turn.ticket)
        while on_io(lambda: pool_of(manager)._dialing is not None):
            pass
        assert len(server.handshakes) < 10
        assert turn.box.empty()


def test_a_defect_in_dialing_is_told_and_leaves_nobody_waiting(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_args: Any, **_kwargs: Any) -> Any:
        raise ZeroDivisionError("sk-kit")

    with ResponsesServer() as server:
        with monkeypatch.context() as patch:
            patch.setattr(pool, "dial", broken)
            outcome = run(manager, endpoint_of(server))
        assert outcome.failure is not None
        assert outcome.failure.message == "The connection failed (ZeroDivisionError)."
        assert run(manager, endpoint_of(server)).id


# -- outages


def test_an_outage_costs_ten_dials_a_minute(make_manager: Make) -> None:
    manager = make_manager(retry=ONCE)
    with ResponsesServer(refuse_upgrade=503) as server:
        outcomes = [run(manager, endpoint_of(server), max_dials=1) for _ in range(15)]
        assert {outcome.failure.status for outcome in outcomes if outcome.failure} == {503}
        assert len(outcomes) == 15
        assert len(server.handshakes) == 10


def test_a_thousand_who_wait_cost_no_more_dials_than_one(make_manager: Make, at_once: None) -> None:
    manager = make_manager(retry=RetryPolicy(max_attempts=3))
    with ResponsesServer(refuse_upgrade=503) as server:
        turns = [Turn(manager, endpoint_of(server)) for _ in range(1000)]
        on_io(lambda: [manager._admit(turn.ticket) for turn in turns])
        assert {turn.end().kind for turn in turns} == {FailureKind.HANDSHAKE_REJECTED}
        assert len(server.handshakes) == 3


def test_refusals_for_good_are_not_slowed_down(make_manager: Make) -> None:
    manager = make_manager()
    with ResponsesServer(api_key="sk-other") as server:
        for _ in range(12):
            assert run(manager, endpoint_of(server)).kind is FailureKind.HANDSHAKE_REJECTED
        assert len(server.handshakes) == 12


def test_the_breaker_opens_and_closes_with_the_dials(make_manager: Make, at_once: None) -> None:
    manager = make_manager(retry=ONCE)
    with ResponsesServer(refuse_upgrade=426) as server:
        endpoint = endpoint_of(server)
        assert manager.may_dial(endpoint)
        run(manager, endpoint)
        assert manager.stats().breakers == {endpoint.label: "open"}
        assert not manager.may_dial(endpoint)
        server.config.refuse_upgrade = None
        assert run(manager, endpoint).id, "who insists on a socket dials all the same"
        assert manager.stats().breakers == {}
        assert manager.may_dial(endpoint)


def test_a_failed_dial_does_not_fail_those_who_can_wait_for_an_open_connection(
    make_manager: Make, at_once: None
) -> None:
    manager = make_manager(profiles=WITH_LANES, limits=Limits(max_in_flight=1), retry=ONCE)
    with gated() as (server, go):
        first = Turn(manager, endpoint_of(server)).send()
        sent(server, 1)
        server.config.refuse_upgrade = 429
        second = Turn(manager, endpoint_of(server), max_dials=1).send()
        server.wait_for(lambda: len(server.handshakes) >= 2)
        on_io(lambda: None)
        go.set()
        assert first.end().id
        assert second.end().id
        assert len(server.connections) == 1
        assert len(server.handshakes) <= 3


# -- waiting


def test_no_more_than_max_waiting_wait(make_manager: Make) -> None:
    manager = make_manager(
        profiles=WITH_LANES, limits=Limits(max_connections=1, max_in_flight=1, max_waiting=2)
    )
    with gated() as (server, go):
        turns = [Turn(manager, endpoint_of(server), "0").send()]
        sent(server, 1)
        turns += [Turn(manager, endpoint_of(server), str(number)).send() for number in range(1, 4)]
        assert turns[3].end().kind is FailureKind.TOO_MANY_WAITING
        go.set()
        assert all(turn.end().id for turn in turns[:3])
        assert [request.last_user_text for request in server.requests] == ["0", "1", "2"], (
            "first in, first out"
        )


@pytest.mark.parametrize("max_connections", [1, 2, None])
def test_who_may_not_wait_gets_a_connection_where_one_may_be_opened(
    make_manager: Make, max_connections: int | None
) -> None:
    limits = Limits(max_connections=max_connections, max_in_flight=2, max_waiting=0)
    manager = make_manager(profiles=WITH_LANES, limits=limits)
    with gated() as (server, go):
        endpoint = endpoint_of(server)
        # Before there is a connection, as many as it takes; then nobody behind a busy lane.
        turns = [Turn(manager, endpoint).send() for _ in range(2)]
        sent(server, 2)
        for opened in range(2, (max_connections or 3) + 1):
            turns += [Turn(manager, endpoint).send() for _ in range(2)]
            sent(server, 2 * opened)
        if max_connections is not None:
            assert run(manager, endpoint).kind is FailureKind.TOO_MANY_WAITING
        go.set()
        assert all(turn.end().id for turn in turns)
        assert manager.stats().dials == (max_connections or 3)


def test_no_more_wait_for_a_first_connection_than_it_takes(make_manager: Make) -> None:
    manager = make_manager(limits=Limits(max_in_flight=2, max_waiting=0))
    with raw_server(deaf) as server:
        turns = [Turn(manager, endpoint_of(server)).send() for _ in range(3)]
        assert turns[2].end().kind is FailureKind.TOO_MANY_WAITING
        server.accepted.get(timeout=10)
        assert (manager.stats().waiting, server.count) == (2, 1)
        manager.close()
        assert [turn.end().kind for turn in turns[:2]] == [FailureKind.MANAGER_CLOSED] * 2


def test_a_turn_that_only_one_lane_can_take_does_not_wait_for_a_dial(make_manager: Make) -> None:
    manager = make_manager(profiles=WITH_LANES, limits=Limits(max_in_flight=1, max_waiting=0))
    with gated() as (server, go):
        go.set()
        first = run(manager, endpoint_of(server), store=False)
        go.clear()
        continued = {"parent": first.id, "store": False}
        busy = Turn(manager, endpoint_of(server), **continued).send()
        sent(server, 2)
        assert run(manager, endpoint_of(server), **continued).kind is FailureKind.TOO_MANY_WAITING
        go.set()
        assert busy.end().id
        assert manager.stats().dials == 1


def test_a_turn_waits_for_a_lane_as_long_as_its_lease(make_manager: Make) -> None:
    limits = Limits(max_connections=1, max_in_flight=1, lease_timeout=0.1)
    manager = make_manager(profiles=WITH_LANES, limits=limits)
    with gated() as (server, go):
        # Waiting for a dial counts too, and on a busy machine it takes longer.
        manager.preconnect(endpoint_of(server))
        until_open(manager)
        first = Turn(manager, endpoint_of(server)).send()
        sent(server, 1)
        assert run(manager, endpoint_of(server)).kind is FailureKind.LEASE_TIMEOUT
        go.set()
        assert first.end().id
        assert manager.stats().waiting == 0
        assert len(server.requests) == 1


def test_a_process_that_stood_still_looks_for_a_free_lane_before_it_ends_the_lease(
    make_manager: Make,
) -> None:
    limits = Limits(max_connections=1, max_in_flight=1, lease_timeout=0.5)
    manager = make_manager(profiles=WITH_LANES, limits=limits)
    with gated() as (server, go):
        # Waiting for a dial counts too, and on a busy machine it takes longer.
        manager.preconnect(endpoint_of(server))
        until_open(manager)
        first = Turn(manager, endpoint_of(server)).send()
        sent(server, 1)
        second = Turn(manager, endpoint_of(server)).send()
        on_io(lambda: None)
        assert manager.stats().waiting == 1

        def stand_still() -> None:
            until = time.monotonic() + 0.8
            go.set()
            while time.monotonic() < until or server.requests[0].status != "completed":
                pass

        on_io(stand_still)
        assert first.end().id
        assert second.end().id


def test_in_an_outage_the_lease_ends_with_what_is_wrong(make_manager: Make) -> None:
    policy = RetryPolicy(max_attempts=9, initial_delay=60, max_delay=60, max_elapsed=None)
    manager = make_manager(limits=Limits(lease_timeout=0.2), retry=policy)
    with ResponsesServer(refuse_upgrade=503) as server:
        outcome = run(manager, endpoint_of(server))
    assert outcome.failure is not None
    assert (outcome.kind, outcome.failure.status) == (FailureKind.HANDSHAKE_REJECTED, 503)


def test_a_turn_abandoned_while_it_waits_is_never_sent(make_manager: Make) -> None:
    manager = make_manager(profiles=WITH_LANES, limits=Limits(max_connections=1, max_in_flight=1))
    with gated() as (server, go):
        first = Turn(manager, endpoint_of(server)).send()
        sent(server, 1)
        second = Turn(manager, endpoint_of(server)).send()
        manager.abandon(second.ticket)
        third = Turn(manager, endpoint_of(server), "third").send()
        go.set()
        assert first.end().id
        assert third.end().id
        assert [request.last_user_text for request in server.requests] == ["hello", "third"]
        assert second.box.empty()


def test_a_delayed_turn_is_sent_later_and_can_be_abandoned(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        delayed = Turn(manager, endpoint_of(server), "delayed", delay=0.2).send()
        never = Turn(manager, endpoint_of(server), "never", delay=0.1).send()
        manager.abandon(never.ticket)
        run(manager, endpoint_of(server), "now")
        assert delayed.end().id
        assert [request.last_user_text for request in server.requests] == ["now", "delayed"]


# -- chains


def test_a_stored_response_is_continued_anywhere(manager: ConnectionManager, events: Events) -> None:
    with ResponsesServer() as server:
        parent = run(manager, endpoint_of(server)).id
        server.drop_connections()
        events.wait(ConnectionClosed)
        outcome = run(manager, endpoint_of(server), parent=parent)
        assert outcome.id
        assert not server.requests[1].from_memory


def test_an_unstored_response_is_gone_with_its_connection(manager: ConnectionManager, events: Events) -> None:
    with ResponsesServer() as server:
        endpoint = endpoint_of(server)
        parent = run(manager, endpoint, store=False).id
        assert manager.holds(endpoint, parent)
        server.drop_connections()
        events.wait(ConnectionClosed)
        assert not manager.holds(endpoint, parent)
        assert run(manager, endpoint, parent=parent, store=False).kind is FailureKind.PARENT_GONE
        assert len(server.requests) == 1, "it was not even sent"


@pytest.mark.parametrize("end", ["lost", "retired"])
def test_who_waits_for_one_connection_is_told_when_it_is_gone(make_manager: Make, end: str) -> None:
    manager = make_manager(profiles=WITH_LANES, limits=Limits(max_in_flight=1))
    with gated() as (server, go):
        go.set()
        parent = run(manager, endpoint_of(server), store=False).id
        go.clear()
        busy = Turn(manager, endpoint_of(server)).send()
        sent(server, 2)
        bound = Turn(manager, endpoint_of(server), parent=parent, store=False).send()
        on_io(lambda: None)
        assert manager.stats().waiting == 1
        if end == "lost":
            server.drop_connections()
        else:
            manager.drain()
        assert bound.end().kind is FailureKind.PARENT_GONE
        assert manager.stats().waiting == 0
        go.set()
        assert (busy.end().kind is FailureKind.CONNECTION_LOST) is (end == "lost")
        assert len(server.connections) == 1, "and nobody dialed for it"


@pytest.mark.parametrize("store", [True, False])
def test_a_busy_parent_is_forked_on_the_same_connection(make_manager: Make, store: bool) -> None:
    manager = make_manager(profiles=WITH_LANES)
    with gated() as (server, go):
        go.set()
        parent = run(manager, endpoint_of(server), store=store).id
        go.clear()
        children = []
        for child in range(3):
            children.append(Turn(manager, endpoint_of(server), str(child), parent=parent, store=store).send())
            sent(server, 2 + child)
        for child_turn in children:
            child_turn.until("response.in_progress")
        go.set()
        assert all(child.end().id for child in children)
        assert len({request.stream_id for request in server.requests[1:]}) == 3
        assert len(server.connections) == 1
        assert all(request.from_memory for request in server.requests[1:])


def test_a_lane_waits_until_the_fork_of_its_response_has_begun(make_manager: Make) -> None:
    """The turn that waits goes on with the fork's first event, not only with its end."""
    manager = make_manager(profiles=WITH_LANES)
    with gated() as (server, go):
        go.set()
        parent = run(manager, endpoint_of(server), store=False).id
        go.clear()
        connection = on_io(lambda: pool_of(manager).connections[0])
        source = connection.protocol.holder(parent)
        assert source is not None

        def fork() -> None:
            lane = connection.protocol.spare_lane()
            assert lane is not None
            assert lane is not source
            connection.send(forked.ticket, lane)
            assert source.forks, "not begun yet"

        forked = Turn(manager, endpoint_of(server), "fork", parent=parent, store=False)
        on_io(fork)
        on = Turn(manager, endpoint_of(server), "on", parent=parent, store=False).send()
        sent(server, 3)
        go.set()
        assert forked.end().id
        assert on.end().id
        assert not source.forks


# -- which lane, which connection


def chains(manager: ConnectionManager, server: ResponsesServer, count: int, store: bool) -> list[str]:
    return [run(manager, endpoint_of(server), f"chain {each}", store=store).id for each in range(count)]


def test_an_unstored_chain_keeps_its_lane_while_another_connection_may_be_opened(make_manager: Make) -> None:
    manager = make_manager(profiles=WITH_LANES, limits=Limits(max_lanes=2))
    with ResponsesServer() as server:
        parents = chains(manager, server, 3, store=False)
        assert len(server.connections) == 2
        for parent in parents:
            assert run(manager, endpoint_of(server), parent=parent, store=False).id
        assert all(request.from_memory for request in server.requests[3:])


def test_without_another_connection_the_least_recently_used_chain_goes(make_manager: Make) -> None:
    manager = make_manager(profiles=WITH_LANES, limits=Limits(max_lanes=2, max_connections=1))
    with ResponsesServer() as server:
        first, second, third = chains(manager, server, 3, store=False)
        endpoint = endpoint_of(server)
        assert [manager.holds(endpoint, each) for each in (first, second, third)] == [False, True, True]
        assert len(server.connections) == 1


def test_closing_gives_no_lane_to_who_waits(make_manager: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    manager, go = make_manager(profiles=WITH_LANES, limits=Limits(max_lanes=2)), threading.Event()

    async def hang(*_args: Any, **_kwargs: Any) -> Any:
        await asyncio.Event().wait()

    with ResponsesServer("a chain", hold(go, "held", after_events=2)) as server:
        chains(manager, server, 1, store=False)
        monkeypatch.setattr(pool, "dial", hang)
        turns = [Turn(manager, endpoint_of(server)).send().until("response.in_progress")]
        turns += [Turn(manager, endpoint_of(server)).send() for _ in range(5)]
        assert on_io(lambda: len(pool_of(manager).waiting)) == 5
        manager.close()
        assert {turn.end().kind for turn in turns} == {FailureKind.MANAGER_CLOSED}
        assert len(server.requests) == 2
        go.set()


def test_who_can_go_on_at_once_does_not_queue_behind_who_cannot(
    make_manager: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = make_manager(profiles=WITH_LANES, limits=Limits(max_lanes=1))
    release = threading.Event()
    original = pool.dial

    async def slow(*args: Any, **kwargs: Any) -> Any:
        await asyncio.to_thread(release.wait, 10)
        return await original(*args, **kwargs)

    with ResponsesServer() as server:
        [parent] = chains(manager, server, 1, store=False)
        monkeypatch.setattr(pool, "dial", slow)
        newcomer = Turn(manager, endpoint_of(server), "newcomer").send()
        assert run(manager, endpoint_of(server), "goes on", parent=parent, store=False).id
        assert not newcomer.ticket.done
        release.set()
        assert newcomer.end().id
        assert len(server.connections) == 2


def test_stored_chains_give_way_before_a_connection_is_opened(make_manager: Make) -> None:
    manager = make_manager(profiles=WITH_LANES, limits=Limits(max_lanes=3))
    with ResponsesServer() as server:
        endpoint = endpoint_of(server)
        [unstored] = chains(manager, server, 1, store=False)
        old, young = chains(manager, server, 2, store=True)
        chains(manager, server, 1, store=True)
        assert len(server.connections) == 1
        assert [manager.holds(endpoint, each) for each in (unstored, old, young)] == [True, False, True]


def test_an_unstored_chain_that_nobody_continues_gives_way_in_the_end(
    make_manager: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "_CHAIN_SECONDS", 0.0)
    manager = make_manager(profiles=WITH_LANES, limits=Limits(max_lanes=2))
    with ResponsesServer() as server:
        chains(manager, server, 5, store=False)
        assert len(server.connections) == 1


def test_sparing_chains_has_an_end(make_manager: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "_MANY_CONNECTIONS", 2)
    manager = make_manager(profiles=WITH_LANES, limits=Limits(max_lanes=1))
    with ResponsesServer() as server:
        chains(manager, server, 5, store=False)
        assert len(server.connections) == 2


def test_a_chain_is_given_up_rather_than_a_turn_failed(make_manager: Make, at_once: None) -> None:
    manager = make_manager(profiles=WITH_LANES, limits=Limits(max_lanes=1), retry=ONCE)
    with ResponsesServer() as server:
        chains(manager, server, 1, store=False)
        server.config.refuse_upgrade = 503
        assert run(manager, endpoint_of(server), max_dials=1).id
        assert len(server.connections) == 1


def test_a_free_lane_elsewhere_comes_before_a_used_one_here(make_manager: Make) -> None:
    manager = make_manager(profiles=WITH_LANES, limits=Limits(max_lanes=2, max_in_flight=2))
    with gated() as (server, go):
        turns = [Turn(manager, endpoint_of(server), str(each)).send() for each in range(3)]
        sent(server, 3)
        go.set()
        held = [turn.end().id for turn in turns]
        run(manager, endpoint_of(server))
        assert all(manager.holds(endpoint_of(server), each) for each in held)
        assert len(server.connections) == 2


# -- servers without lanes


def test_the_first_event_shows_whether_there_are_lanes(manager: ConnectionManager) -> None:
    with gated() as (server, go):
        turns = [Turn(manager, endpoint_of(server), str(each)).send() for each in range(5)]
        sent(server, 5)
        assert len(server.connections) == 1, "nobody dialed while the first one was asked"
        go.set()
        assert all(turn.end().id for turn in turns)
        assert pool_of(manager).profile.lanes is True


def test_nobody_dials_while_the_first_event_may_show_that_there_are_lanes(manager: ConnectionManager) -> None:
    go = threading.Event()
    with ResponsesServer(hold(go, "first"), "second") as server:
        turns = [Turn(manager, endpoint_of(server)).send()]
        sent(server, 1)
        turns.append(Turn(manager, endpoint_of(server)).send())
        assert on_io(lambda: (len(pool_of(manager).waiting), pool_of(manager)._dialing)) == (1, None)
        go.set()
        assert all(turn.end().id for turn in turns)
        assert len(server.connections) == 1


def test_a_server_without_lanes_gets_one_turn_at_a_time(manager: ConnectionManager) -> None:
    with gated(lanes=False, concurrent="reject") as (server, go):
        turns = [Turn(manager, endpoint_of(server), str(each)).send() for each in range(3)]
        sent(server, 3)
        assert len(server.connections) == 3
        go.set()
        assert all(turn.end().id for turn in turns)
        assert pool_of(manager).profile.lanes is False
        assert "stream_id" in server.requests[0].body
        assert all("stream_id" not in request.body for request in server.requests[1:]), (
            "others know it at once"
        )
        later = run(manager, endpoint_of(server))
        assert later.id
        assert len(server.connections) == 3


def test_a_server_without_lanes_and_one_connection_takes_turns_one_after_the_other(
    make_manager: Make,
) -> None:
    manager = make_manager(limits=Limits(max_connections=1))
    with ResponsesServer(lanes=False, concurrent="reject") as server:
        turns = [Turn(manager, endpoint_of(server), str(each)).send() for each in range(6)]
        assert all(turn.end().id for turn in turns)
        assert [request.last_user_text for request in server.requests] == list("012345")
        assert len(server.connections) == 1


def test_an_unstored_chain_goes_on_without_lanes(manager: ConnectionManager) -> None:
    with ResponsesServer(lanes=False) as server:
        parent = run(manager, endpoint_of(server), store=False).id
        other = run(manager, endpoint_of(server), store=False).id
        for chain in (parent, other):
            assert run(manager, endpoint_of(server), parent=chain, store=False).id
        assert all(request.from_memory for request in server.requests[2:])
        assert len(server.connections) == 2


def test_a_silent_first_turn_does_not_hold_up_the_others(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "_PROBE_SECONDS", 0.05)
    go = threading.Event()
    with ResponsesServer(hold(go, "slow"), "quick") as server:
        slow = Turn(manager, endpoint_of(server)).send()
        sent(server, 1)
        assert run(manager, endpoint_of(server)).id
        assert len(server.connections) == 2
        go.set()
        assert slow.end().id


def test_lanes_that_turn_out_not_to_be_there_are_told_and_learned(make_manager: Make) -> None:
    manager = make_manager(profiles=WITH_LANES)
    both = threading.Event()
    with gated(lanes=False) as (server, go):
        # Both at once: where the first event comes between them, the second one is never written.
        runtime().call(both.wait, 10)
        turns = [Turn(manager, endpoint_of(server), str(each)).send() for each in range(2)]
        both.set()
        outcomes = [turn.end() for turn in turns]
        assert {outcome.kind for outcome in outcomes} == {FailureKind.LANES_UNSUPPORTED}
        assert all(outcome.frames == [] for outcome in outcomes)
        go.set()
        assert run(manager, endpoint_of(server)).id
        assert pool_of(manager).profile.lanes is False


def test_an_abandoned_answer_does_not_block_the_only_connection(make_manager: Make) -> None:
    manager = make_manager(limits=Limits(max_connections=1))
    with gated(lanes=False) as (server, go):
        abandoned = Turn(manager, endpoint_of(server)).send().until("response.in_progress")
        manager.abandon(abandoned.ticket)
        turn = Turn(manager, endpoint_of(server), "next").send()
        server.wait_for(lambda: len(server.connections) == 2)
        go.set()
        assert turn.end().id


# -- preconnect


def test_preconnect_opens_one_connection(manager: ConnectionManager, events: Events) -> None:
    with ResponsesServer() as server:
        endpoint = endpoint_of(server)
        assert not manager.is_open(endpoint)
        for _ in range(3):
            manager.preconnect(endpoint)
        events.wait(ConnectionOpened)
        assert manager.is_open(endpoint)
        manager.preconnect(endpoint)
        assert run(manager, endpoint).id
        assert len(server.handshakes) == 1


def test_preconnect_that_fails_is_silent(make_manager: Make, at_once: None) -> None:
    manager = make_manager(retry=RetryPolicy(max_attempts=2))
    with ResponsesServer(refuse_upgrade=503) as server:
        manager.preconnect(endpoint_of(server))
        server.wait_for(lambda: len(server.handshakes) == 2)
        while on_io(lambda: pool_of(manager)._dialing is not None):
            pass
        assert manager.stats().breakers != {}


def test_two_keys_never_share_a_socket(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        for key in ("sk-one", "sk-two", "sk-one"):
            run(manager, endpoint_of(server, key))
        sent_with = [(request.connection, request.headers["authorization"]) for request in server.requests]
    assert sent_with == [
        ("conn_1", "Bearer sk-one"),
        ("conn_2", "Bearer sk-two"),
        ("conn_1", "Bearer sk-one"),
    ]


def test_endpoints_that_nobody_uses_are_forgotten(make_manager: Make, at_once: None) -> None:
    manager = make_manager(retry=ONCE)
    with ResponsesServer(api_key="sk-right") as server:
        kept = endpoint_of(server, "sk-right")
        run(manager, kept)
        for each in range(70):
            endpoint = endpoint_of(server, f"sk-{each}")
            assert run(manager, endpoint).kind is FailureKind.HANDSHAKE_REJECTED
            on_io(lambda key=endpoint.key: manager._pools[key].breaker.succeeded())  # type: ignore[misc]
        assert len(manager._pools) <= 64
        assert manager.is_open(kept)


def test_a_turn_that_cannot_be_put_on_its_lane_is_told(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    from langchain_ws_responses._protocol.connection import ResponsesProtocol
    from langchain_ws_responses._protocol.lanes import LocalProtocolError

    def broken(*_args: Any, **_kwargs: Any) -> bytes:
        raise LocalProtocolError("a defect")

    with ResponsesServer() as server:
        with monkeypatch.context() as patch:
            patch.setattr(ResponsesProtocol, "send_create", broken)
            assert run(manager, endpoint_of(server)).kind is FailureKind.PROTOCOL_VIOLATION
        assert run(manager, endpoint_of(server)).id


def test_failed_carries_its_failure() -> None:
    failure = Failure(FailureKind.DIAL_FAILED, message="secret")
    assert Failed(failure).failure is failure
    assert "secret" not in str(Failed(failure))
