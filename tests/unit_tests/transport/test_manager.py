"""`ConnectionManager`: closing, draining, buffers, callers of every kind, what can be seen of it."""

from __future__ import annotations

import asyncio
import copy
import gc
import json
import pickle
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from blockbuster import BlockBuster
from transport_kit import Box, Events, Turn, answer_all, deaf, endpoint_of, frame, on_io, raw_server, run
from transport_kit import websocket_server as tiny_server
from waiting import BOUND, eventually

from langchain_ws_responses._protocol.limits import Limits, Profile, RetryPolicy
from langchain_ws_responses._transport import manager as manager_module
from langchain_ws_responses._transport import pool
from langchain_ws_responses._transport.hooks import (
    ConnectionClosed,
    ConnectionOpened,
    TransportEvent,
    TurnSent,
)
from langchain_ws_responses._transport.mailbox import AsyncMailbox, SyncMailbox
from langchain_ws_responses._transport.manager import ConnectionManager, default_manager
from langchain_ws_responses._transport.runtime import runtime
from langchain_ws_responses._types import FailureKind
from langchain_ws_responses.errors import ConfigurationError, ManagerClosed
from langchain_ws_responses.testing import ResponsesServer, hold, text

Make = Callable[..., ConnectionManager]
WITH_LANES = {"127.0.0.1": Profile(name="told", lanes=True)}


# -- closing


def everything_under_way(
    manager: ConnectionManager, server: ResponsesServer, go: threading.Event
) -> list[Turn]:
    """A turn in flight, one that waits for a lane and one that waits for its time."""
    server.config.answer = lambda _request: hold(go, "held", after_events=2)
    endpoint = endpoint_of(server)
    turns = [Turn(manager, endpoint, "in flight").send().until("response.in_progress")]
    turns.append(Turn(manager, endpoint, "waiting").send())
    turns.append(Turn(manager, endpoint, "delayed", delay=60).send())
    on_io(lambda: None)
    assert (manager.stats().in_flight, manager.stats().waiting) == (1, 1)
    return turns


ONE = Limits(max_connections=1, max_in_flight=1)


def _from_here(manager: ConnectionManager) -> None:
    manager.close()


def _from_another_thread(manager: ConnectionManager) -> None:
    thread = threading.Thread(target=manager.close)
    thread.start()
    thread.join(10)


def _twice(manager: ConnectionManager) -> None:
    threads = [threading.Thread(target=manager.close) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    manager.close()


def _on_the_io_thread(manager: ConnectionManager) -> None:
    on_io(manager.close)


def _on_a_loop(manager: ConnectionManager) -> None:
    async def main() -> None:
        manager.close()

    asyncio.run(main())


def _awaited(manager: ConnectionManager) -> None:
    async def main() -> None:
        await asyncio.gather(manager.aclose(), manager.aclose())
        await manager.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "close", [_from_here, _from_another_thread, _twice, _on_the_io_thread, _on_a_loop, _awaited]
)
def test_closing_ends_every_turn_with_manager_closed(
    make_manager: Make, events: Events, close: Callable[[ConnectionManager], None]
) -> None:
    manager, go = make_manager(limits=ONE, hooks=[events]), threading.Event()
    with ResponsesServer() as server:
        turns = everything_under_way(manager, server, go)
        close(manager)
        assert [turn.end().kind for turn in turns] == [FailureKind.MANAGER_CLOSED] * 3
        phases = [str(turn.outcome.failure.phase) for turn in turns if turn.outcome.failure]
        assert phases == ["created", "connect", "connect"]
        assert len(server.requests) == 1, "a lane that came free was not used again"
        assert [closed.why for closed in events.wait(ConnectionClosed)] == ["closed"]
        assert manager.stats().connections_open == manager.stats().in_flight == 0
        go.set()
    assert manager.closed


def test_closing_cancels_a_dial(manager: ConnectionManager) -> None:
    with raw_server(deaf) as server:
        turn = Turn(manager, endpoint_of(server)).send()
        server.accepted.get(timeout=10)
        manager.close()
        assert turn.end().kind is FailureKind.MANAGER_CLOSED
        assert [task for task in on_io(asyncio.all_tasks) if "dial" in task.get_name()] == []


def test_a_dial_that_ends_while_the_manager_is_closed_leaves_no_socket(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = pool.dial

    async def closing_meanwhile(*args: Any, **kwargs: Any) -> Any:
        socket = await original(*args, **kwargs)
        manager._drop()
        return socket

    monkeypatch.setattr(pool, "dial", closing_meanwhile)
    with ResponsesServer() as server:
        manager.preconnect(endpoint_of(server))
        server.wait_for(lambda: server.connections and not server.connections[0].open)
        assert [one.connections for one in manager._pools.values()] == [[]]


def test_closing_in_a_pause_between_dials(make_manager: Make, events: Events) -> None:
    policy = RetryPolicy(max_attempts=9, initial_delay=60, max_delay=60, max_elapsed=None)
    manager = make_manager(retry=policy, hooks=[events])
    with ResponsesServer(refuse_upgrade=503) as server:
        turn = Turn(manager, endpoint_of(server)).send()
        server.wait_for(lambda: len(server.handshakes) == 1)
        manager.close()
        assert turn.end().kind is FailureKind.MANAGER_CLOSED


def test_a_closed_manager_takes_nothing(make_manager: Make) -> None:
    manager = make_manager()
    with ResponsesServer() as server:
        run(manager, endpoint_of(server))
        manager.close()
        for refused in (
            Turn(manager, endpoint_of(server)).send,
            lambda: manager.preconnect(endpoint_of(server)),
        ):
            with pytest.raises(ManagerClosed, match="open `ConnectionManager`"):
                refused()
        assert not manager.holds(endpoint_of(server), "resp_x")
        assert not manager.is_open(endpoint_of(server))
        manager.drain()
        assert len(server.handshakes) == 1


def test_a_manager_that_was_never_used_closes_at_once() -> None:
    manager = ConnectionManager()
    manager.close()
    asyncio.run(manager.aclose())
    assert repr(manager).startswith("<ConnectionManager [closed | 0 open")


def test_a_turn_that_is_just_being_submitted_is_told_too(make_manager: Make) -> None:
    manager = make_manager()
    with ResponsesServer() as server:
        run(manager, endpoint_of(server))
        gate, inside = threading.Event(), threading.Event()

        def block() -> None:
            inside.set()
            gate.wait(10)

        runtime().call(block)
        inside.wait(10)
        turn = Turn(manager, endpoint_of(server)).send()
        manager.closed = True
        gate.set()
        assert turn.end().kind is FailureKind.MANAGER_CLOSED


def test_it_is_a_context_manager() -> None:
    with ResponsesServer() as server:
        with ConnectionManager() as manager:
            run(manager, endpoint_of(server))
        assert manager.closed

        async def main() -> bool:
            async with ConnectionManager() as other:
                turn = Turn(other, endpoint_of(server), mailbox=AsyncMailbox()).send()
                await turn.aend()
            return other.closed

        assert asyncio.run(main())


def test_the_default_manager_is_made_anew_once_it_was_closed() -> None:
    first = default_manager()
    assert default_manager() is first
    first.close()
    second = default_manager()
    assert second is not first
    second.close()


@pytest.mark.parametrize("closes", [False, True])
def test_a_signal_while_the_first_default_manager_is_made_gets_one_too(
    closes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    handled: list[ConnectionManager] = []
    got: list[ConnectionManager] = []

    class Interrupted(ConnectionManager):
        def __init__(self) -> None:
            super().__init__()
            monkeypatch.setattr(manager_module, "ConnectionManager", ConnectionManager)
            handled.append(default_manager())  # as a handler of SIGTERM does that ends what there is
            if closes:
                handled[0].close()

    monkeypatch.setattr(manager_module, "_default", None)
    monkeypatch.setattr(manager_module, "ConnectionManager", Interrupted)
    thread = threading.Thread(target=lambda: got.append(default_manager()), daemon=True)
    thread.start()
    thread.join(BOUND)
    assert got, "the thread that made the manager waits for itself"
    assert not got[0].closed
    assert (got[0] is handled[0]) is not closes
    assert default_manager() is got[0]
    got[0].close()


def test_draining_lets_turns_finish_and_sends_new_ones_elsewhere(make_manager: Make, events: Events) -> None:
    manager, go = make_manager(hooks=[events]), threading.Event()
    with ResponsesServer(hold(go, "old", after_events=2), "new") as server:
        old = Turn(manager, endpoint_of(server)).send().until("response.in_progress")
        manager.drain()
        assert run(manager, endpoint_of(server)).id
        assert len(server.connections) == 2
        go.set()
        assert old.end().id
        [closed] = events.wait(ConnectionClosed)
        assert (closed.why, closed.lost) == ("drained", 0)


# -- what can be seen


def test_repr_and_stats_tell_the_whole_state(make_manager: Make) -> None:
    manager, go = (
        make_manager(limits=Limits(max_connections=1, max_in_flight=2, max_lanes=4)),
        threading.Event(),
    )
    held = hold(go, text("x", 1), after_events=2)
    with ResponsesServer("first", held, held, "fourth") as server:
        endpoint = endpoint_of(server)
        run(manager, endpoint, mode="full", reason="first_turn")
        turns = [Turn(manager, endpoint, mode="delta", reason="chain").send() for _ in range(3)]
        for turn in turns[:2]:
            turn.until("response.in_progress")
        for _ in range(3):  # the answer may be quicker than the writer that counts what it wrote
            on_io(lambda: None)
        assert repr(manager) == (
            "<ConnectionManager [1 open, 0 draining | lanes 2/4 | 2 in flight, 1 waiting | delta 2, full 1]>"
        )
        stats = manager.stats()
        assert (stats.lanes_named, stats.turns, stats.full_reasons) == (3, 3, {"first_turn": 1})
        go.set()
        for turn in turns:
            turn.end()
        stats = manager.stats()
        assert stats.bytes_sent == sum(request.raw_bytes for request in server.requests)
        assert stats.frames_received > 12
        assert stats.buffered_bytes == 0
        assert (stats.dials, stats.dial_failures, stats.lost, stats.strays) == (1, 0, 0, 0)
        manager.close()
    assert repr(manager).startswith("<ConnectionManager [closed | 0 open, 0 draining | lanes 0/0")


def test_frames_of_nobody_are_counted_and_pass_by(manager: ConnectionManager) -> None:
    def strange(connection: Any) -> None:
        lane = json.loads(connection.recv())["stream_id"]
        connection.send(frame("response.created", 1, "somebody-elses"))
        connection.send(frame("response.completed", 1, lane))
        connection.send(frame("response.completed", 1, lane))
        for _ in connection:
            pass

    with tiny_server(strange) as server:
        outcome = run(manager, endpoint_of(server))
        assert outcome.types == ["response.completed"]
        while manager.stats().frames_received < 3:
            on_io(lambda: None)
        assert manager.stats().strays == 2
        manager.close()
    assert manager.stats().strays == 2, "the count outlives the connection"


def test_stats_can_be_read_while_lanes_come_and_go(make_manager: Make) -> None:
    manager, stop = make_manager(), threading.Event()
    failures: list[BaseException] = []

    def read() -> None:
        try:
            while not stop.is_set():
                assert manager.stats().in_flight >= 0
                repr(manager)
        except BaseException as exc:
            failures.append(exc)

    reader = threading.Thread(target=read)
    reader.start()
    with tiny_server() as server:
        for _ in range(10):
            turns = [Turn(manager, endpoint_of(server)).send() for _ in range(20)]
            assert all(turn.end().frames for turn in turns)
    stop.set()
    reader.join(10)
    assert failures == []


@pytest.mark.parametrize("how", [pickle.dumps, copy.copy, copy.deepcopy])
def test_it_cannot_be_copied(manager: ConnectionManager, how: Callable[[Any], Any]) -> None:
    with pytest.raises(TypeError, match="cannot be pickled or copied"):
        how(manager)


def test_a_turn_shows_no_content(manager: ConnectionManager) -> None:
    """Debug logs of asyncio show the arguments of slow calls."""
    with ResponsesServer() as server:
        ticket = Turn(manager, endpoint_of(server, "sk-canary"), "canary").ticket
    assert repr(ticket) == str(ticket) == f"<Ticket connect on {server.websocket_url}>"


def test_a_proxy_that_cannot_be_used_is_found_early() -> None:
    with pytest.raises(ConfigurationError, match="Write it as http://") as caught:
        ConnectionManager(proxy="ftp://user:canary@proxy")
    assert "canary" not in str(caught.value)


def test_no_two_connections_expire_within_a_minute(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        for each in range(8):
            assert run(manager, endpoint_of(server, f"sk-{each}")).id
        moments = sorted(manager.expiries())
    assert len(moments) == 8
    assert min(later - earlier for earlier, later in pairwise(moments)) >= 60
    assert max(moments) <= 3300


# -- hooks


@pytest.mark.parametrize("raised", [ValueError("x"), SystemExit(1), KeyboardInterrupt()])
def test_what_a_hook_raises_hurts_nobody(
    make_manager: Make, raised: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[TransportEvent] = []

    def broken(event: TransportEvent) -> None:
        raise raised

    manager = make_manager(hooks=[broken, heard.append])
    with ResponsesServer() as server:
        assert run(manager, endpoint_of(server)).id
        assert run(manager, endpoint_of(server)).id
    assert len(heard) >= 4
    assert f"a hook failed on TurnSent: {type(raised).__name__}" in caplog.text


@pytest.mark.parametrize("hook", [5, None, "print"])
def test_a_hook_that_cannot_be_called_is_refused(hook: Any) -> None:
    with pytest.raises(TypeError, match=f"a hook is a function .*, not {type(hook).__name__}"):
        ConnectionManager(hooks=[hook])


def test_a_hook_that_would_wait_for_itself_is_told(make_manager: Make) -> None:
    told: list[BaseException] = []

    def careless(event: TransportEvent) -> None:
        if isinstance(event, TurnSent) and not told:
            try:
                Turn(manager, endpoint, mailbox=SyncMailbox()).send()
            except RuntimeError as exc:
                told.append(exc)

    manager = make_manager(hooks=[careless])
    with ResponsesServer() as server:
        endpoint = endpoint_of(server)
        assert run(manager, endpoint).id
    assert "must not call a model" in str(told[0])


# -- buffers


def flood(connection: Any) -> None:
    """Streams half a megabyte to whoever asks for it, and answers the others at once."""
    for number, message in enumerate(connection):
        body = json.loads(message)
        lane = body["stream_id"]
        connection.send(frame("response.created", number, lane))
        for _ in range(int(body["input"])):
            delta = {"type": "response.output_text.delta", "delta": "x" * 10_000, "stream_id": lane}
            connection.send(json.dumps(delta))
        connection.send(frame("response.completed", number, lane))


def test_who_never_reads_hurts_nobody(make_manager: Make) -> None:
    manager = make_manager(limits=Limits(max_lane_bytes=100_000), profiles=WITH_LANES)
    with tiny_server(flood) as server:
        endpoint = endpoint_of(server)
        lazy = Turn(manager, endpoint, "50").send()
        assert run(manager, endpoint, "1").frames[-1].type == "response.completed"
        assert run(manager, endpoint, "1").frames[-1].type == "response.completed"
        while not lazy.ticket.done:
            on_io(lambda: None)
        assert lazy.box.pending == 0, "what nobody will read is not kept"
        assert lazy.end().kind is FailureKind.BUFFER_OVERFLOW
        assert len(server.requests) == 1


def test_over_the_total_the_one_with_most_must_go(make_manager: Make) -> None:
    limits = Limits(max_lane_bytes=None, max_total_bytes=400_000)
    manager = make_manager(limits=limits, profiles=WITH_LANES)
    go = threading.Event()

    def delta(lane: str) -> str:
        return json.dumps({"type": "response.output_text.delta", "delta": "x" * 10_000, "stream_id": lane})

    def two_floods(connection: Any) -> None:
        big = json.loads(connection.recv())["stream_id"]
        small = json.loads(connection.recv())["stream_id"]
        for lane, count in ((big, 30), (small, 12)):
            for _ in range(count):
                connection.send(delta(lane))
        go.wait(10)
        connection.send(frame("response.completed", 2, small))
        for _ in connection:
            pass

    with tiny_server(two_floods) as server:
        big, small = (Turn(manager, endpoint_of(server), name).send() for name in ("big", "small"))
        while not big.ticket.done:
            on_io(lambda: None)
        assert not small.ticket.done, "the one that happened to get the last bytes is not to blame"
        assert manager.stats().buffered_bytes <= 400_000
        go.set()
        assert big.end().kind is FailureKind.BUFFER_OVERFLOW
        assert len(small.end().frames) == 13


def large_ends(connection: Any) -> None:
    """Ends each answer with as many bytes as it is asked for, behind one short token."""
    for number, message in enumerate(connection):
        body = json.loads(message)
        lane = body["stream_id"]
        connection.send(frame("response.created", number, lane))
        connection.send(json.dumps({"type": "response.output_text.delta", "delta": "x", "stream_id": lane}))
        connection.send(frame("response.completed", number, lane, text="x" * int(body["input"])))


def unread(manager: ConnectionManager, server: Any, size: int, **more: Any) -> Turn:
    """An answer that is over and waits to be read."""
    turn = Turn(manager, endpoint_of(server), str(size), **more).send()
    eventually(lambda: turn.ticket.done, "the answer is over")
    on_io(lambda: None)
    return turn


def test_over_the_total_an_answer_that_nobody_has_read_must_go_before_those_that_are_read(
    make_manager: Make,
) -> None:
    limits = Limits(max_lane_bytes=None, max_total_bytes=400_000)
    manager = make_manager(limits=limits, profiles=WITH_LANES)
    with tiny_server(large_ends) as server:
        small, lazy = unread(manager, server, 1000), unread(manager, server, 500_000)
        for _ in range(3):
            assert run(manager, endpoint_of(server), "10").failure is None
        assert small.box.pending == manager.stats().buffered_bytes
        assert lazy.end().kind is FailureKind.BUFFER_OVERFLOW
        assert small.end().failure is None
        assert manager.stats().buffered_bytes == 0


@pytest.mark.parametrize("wants_events", [True, False])
def test_ends_of_answers_that_nobody_reads_pile_up_no_further_than_the_total(
    make_manager: Make, wants_events: bool
) -> None:
    limits = Limits(max_lane_bytes=None, max_total_bytes=400_000)
    manager = make_manager(limits=limits, profiles=WITH_LANES)
    with tiny_server(large_ends) as server:
        sizes = [150_000, 180_000, 160_000, 170_000, 150_000]
        turns = []
        for size in sizes:
            turns.append(unread(manager, server, size, wants_events=wants_events))
            assert manager.stats().buffered_bytes == sum(turn.box.pending for turn in turns)
            assert manager.stats().buffered_bytes < 400_000 + size + 1000
        kinds = [turn.end().kind for turn in turns]
        assert kinds[-1] is None, "its caller has had no chance to read it"
        assert set(kinds[:-1]) == {None, FailureKind.BUFFER_OVERFLOW}
        assert kinds[1] is FailureKind.BUFFER_OVERFLOW, "the one with most"


def test_an_answer_above_the_total_is_given_to_who_reads_it(make_manager: Make) -> None:
    limits = Limits(max_lane_bytes=100_000, max_total_bytes=100_000)
    manager = make_manager(limits=limits, profiles=WITH_LANES)
    with tiny_server(large_ends) as server:
        for wants_events in (True, False):
            assert unread(manager, server, 300_000, wants_events=wants_events).end().failure is None


def test_what_waits_is_counted_once_however_many_attempts_a_turn_has_had(make_manager: Make) -> None:
    manager = make_manager(profiles=WITH_LANES)
    with tiny_server(large_ends) as server:
        first = unread(manager, server, 1000)
        again = unread(manager, server, 2000, mailbox=first.box)
        assert first.ticket.done
        assert manager.stats().buffered_bytes == again.box.pending > 3000


def test_answers_that_wait_to_be_read_count_until_nobody_can_read_them(make_manager: Make) -> None:
    manager = make_manager()
    with ResponsesServer(text("x" * 50_000, 1)) as server:
        turn: Turn | None = Turn(manager, endpoint_of(server)).send()
        assert turn is not None
        while not turn.ticket.done:
            on_io(lambda: None)
        assert manager.stats().buffered_bytes > 50_000
        turn = None
        gc.collect()
        on_io(lambda: None)
        assert manager.stats().buffered_bytes == 0


@pytest.mark.parametrize("over", [True, False])
def test_what_an_abandoned_turn_was_given_does_not_count_although_it_is_kept(
    make_manager: Make, over: bool
) -> None:
    manager, go = make_manager(), threading.Event()
    answer = text("x" * 50_000, ["x" * 50_000])
    with ResponsesServer(answer if over else hold(go, answer, after_events=5)) as server:
        turn = Turn(manager, endpoint_of(server)).send()
        eventually(lambda: turn.ticket.done if over else turn.ticket.events == 5, "the events came")
        on_io(lambda: None)
        assert manager.stats().buffered_bytes > 50_000
        manager.abandon(turn.ticket)
        assert on_io(lambda: manager.stats().buffered_bytes) == 0
        go.set()
        eventually(lambda: manager.stats().in_flight == 0, "its lane drains")
        assert on_io(lambda: manager.stats().buffered_bytes) == 0
        assert turn.box.empty()


# -- callers of every kind


def test_many_loops_share_one_connection(manager: ConnectionManager) -> None:
    async def main(number: int) -> str:
        turn = Turn(manager, endpoint_of(server), str(number), mailbox=AsyncMailbox()).send()
        return (await turn.aend()).id

    with tiny_server() as server:
        ids = [asyncio.run(main(number)) for number in range(30)]
        assert len(set(ids)) == 30
        assert len(server.requests) == 1


def test_threads_and_tasks_at_once(manager: ConnectionManager) -> None:
    def echo(request: Any) -> str:
        return f"<{request.last_user_text}>"

    def content(outcome: Any) -> str:
        return str(outcome.response["output"][0]["content"][0]["text"])

    with ResponsesServer(answer=echo) as server:
        endpoint, got = endpoint_of(server), {}

        def thread(number: int) -> None:
            for turn in range(3):
                name = f"t{number}.{turn}"
                got[name] = content(run(manager, endpoint, name))

        async def task(number: int) -> None:
            for each in range(3):
                name = f"a{number}.{each}"
                got[name] = content(await Turn(manager, endpoint, name, mailbox=AsyncMailbox()).send().aend())

        async def tasks() -> None:
            await asyncio.gather(*(task(number) for number in range(20)))

        threads = [threading.Thread(target=thread, args=(number,)) for number in range(20)]
        for each in threads:
            each.start()
        asyncio.run(tasks())
        for each in threads:
            each.join(20)
        assert got == {name: f"<{name}>" for name in got}
        assert len(got) == 120


def test_a_loop_that_dies_in_mid_turn_leaves_a_draining_lane_and_nothing_else(make_manager: Make) -> None:
    manager, go = make_manager(profiles=WITH_LANES), threading.Event()
    with ResponsesServer(hold(go, text("a b c", 3), after_events=2), "sibling", "next") as server:

        async def dies() -> Turn:
            turn = Turn(manager, endpoint_of(server), mailbox=AsyncMailbox()).send()
            while "response.in_progress" not in turn.outcome.types:
                turn._note(await turn.box.get())
            return turn

        dead = asyncio.run(dies())
        sibling = Turn(manager, endpoint_of(server)).send()
        assert sibling.end().id
        go.set()
        server.wait_for(lambda: server.requests[0].status == "completed")
        assert run(manager, endpoint_of(server)).id
        assert dead.ticket.done
        assert len(server.connections) == 1
        assert manager.stats().in_flight == 0


async def test_a_cancelled_caller_leaves_nothing_behind(make_manager: Make) -> None:
    manager, go = make_manager(profiles=WITH_LANES), threading.Event()
    with ResponsesServer(hold(go, "late", after_events=2), "next") as server:
        turn = Turn(manager, endpoint_of(server), mailbox=AsyncMailbox()).send()
        waiting = asyncio.ensure_future(turn.aend())
        await asyncio.to_thread(lambda: server.wait_for(lambda: server.requests))
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        manager.abandon(turn.ticket)
        go.set()
        assert (await Turn(manager, endpoint_of(server), mailbox=AsyncMailbox()).send().aend()).id
    await manager.aclose()


@pytest.fixture
def stopped_runtime() -> None:
    """As in a process that has not used the transport yet."""
    runtime().stop()


def test_starting_and_submitting_never_block_the_callers_loop(stopped_runtime: None) -> None:
    blockbuster = BlockBuster(scanned_modules=["langchain_ws_responses._transport"])
    refused: list[BaseException] = []

    async def main(server: Any) -> None:
        blockbuster.activate()
        try:
            async with ConnectionManager() as manager:
                endpoint = endpoint_of(server)
                manager.preconnect(endpoint)
                outcome = await Turn(manager, endpoint, mailbox=AsyncMailbox()).send().aend()
                assert outcome.frames
                abandoned = Turn(manager, endpoint, mailbox=AsyncMailbox()).send()
                manager.abandon(abandoned.ticket)
                manager.stats()
                manager.drain()
        except BaseException as exc:
            refused.append(exc)
        finally:
            blockbuster.deactivate()

    with tiny_server() as server:
        asyncio.run(main(server))
    assert refused == []


# -- nothing is left


def _tasks() -> int:
    return len(on_io(asyncio.all_tasks))


def _fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="no /proc/self/fd to count file descriptors")
def test_turns_and_connections_leave_nothing_behind(make_manager: Make, events: Events) -> None:
    with tiny_server(answer_all) as server:
        endpoint = endpoint_of(server)

        def cycle() -> None:
            with ConnectionManager(hooks=[events]) as one:
                run(one, endpoint)

        cycle()
        before = (_fds(), threading.active_count(), _tasks())
        manager = make_manager(hooks=[events])
        tickets = 0
        for _ in range(200):
            tickets += bool(run(manager, endpoint).id)
        assert tickets == 200
        assert manager._buffers.live == set()
        manager.close()
        for _ in range(50):
            cycle()
        events.wait(ConnectionClosed, 52)
        assert len(events.of(ConnectionOpened)) == 52
        on_io(gc.collect)
        for _ in range(1000):
            after = (_fds(), threading.active_count(), _tasks())
            if after <= before:
                break
            on_io(lambda: None)
        assert after <= before


def test_a_ticket_is_let_go_when_its_caller_is(manager: ConnectionManager) -> None:
    import weakref

    with ResponsesServer() as server:
        turn: Turn | None = Turn(manager, endpoint_of(server), mailbox=Box()).send()
        assert turn is not None
        turn.end()
        known = weakref.ref(turn.ticket)
        turn = None
        on_io(gc.collect)
        gc.collect()
        assert known() is None
