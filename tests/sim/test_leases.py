"""Who gets a lane, in which order, and what a lost or silent connection costs the next turn."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest
from sim.callers import Conversation, Office, Turn, endpoint
from sim.world import DAY, HOUR, MINUTE, pause

from langchain_ws_responses import Limits
from langchain_ws_responses._transport.hooks import ConnectionClosed, ConnectionOpened

# Seconds of real time, on a machine that may be busy.
pytestmark = pytest.mark.timeout(240)


def sent(office: Office) -> list[tuple[int, int]]:
    """Conversation and turn of every create, in the order in which the server got them."""
    return [(body["conversation"], body["turn"]) for _, body in office.server.creates]


def test_turns_get_lanes_in_the_order_in_which_they_asked(open_office: Callable[..., Office]) -> None:
    office = open_office(limits=Limits(max_connections=2, lease_timeout=None))

    async def main() -> None:
        source = office.world.random
        turns = []
        for number in range(600):
            one = Conversation(office, number, store=True)
            turns.append(asyncio.create_task(one.turn(seconds=source.uniform(0.5, 20))))
            await pause(0.01)
        await asyncio.wait(turns)
        await office.manager.aclose()

    office.world.run(main())
    assert office.outcomes == {"answered": 600}
    assert sent(office) == [(number, 0) for number in range(600)]
    assert office.server.busiest == 16
    assert len(office.server.network.dials) == 2


@pytest.mark.parametrize("store", [True, False])
def test_nobody_starves(open_office: Callable[..., Office], store: bool) -> None:
    """Continuations that want their own lane, forks of one response, and newcomers, all at once."""
    office = open_office(limits=Limits(max_connections=2, max_in_flight=4, max_lanes=8, lease_timeout=None))
    loop = office.world.loop
    until = loop.time() + 10 * MINUTE

    async def talk(number: int) -> None:
        one = Conversation(office, number, store=store)
        while loop.time() < until:
            await one.turn(seconds=office.world.random.uniform(0.5, 4))

    async def branch(number: int) -> None:
        one = Conversation(office, number, store=store)
        while loop.time() < until:
            await one.turn(seconds=1)
            twins = [Conversation(office, number, store=store) for _ in range(3)]
            for twin in twins:
                twin.latest, twin.length = one.latest, one.length
            await asyncio.gather(*(twin.turn(seconds=2) for twin in twins))

    async def main() -> None:
        await asyncio.gather(*(talk(number) for number in range(8)), *(branch(100 + n) for n in range(4)))
        await office.manager.aclose()

    office.world.run(main())
    assert set(office.outcomes) == {"answered"}
    # Twenty at a time at most want eight places for about two seconds each.
    waits = sorted(turn.first - turn.submitted for turn in office.turns)
    assert waits[-1] < 60.0
    assert waits[len(waits) // 2] < 10.0
    # Nobody got much more than the others who did the same.
    talks = [sum(turn.conversation == number for turn in office.turns) for number in range(8)]
    assert min(talks) > 0.7 * max(talks)


def test_a_lease_is_waited_for_as_long_as_it_may_be_and_no_longer(open_office: Callable[..., Office]) -> None:
    limits = Limits(max_connections=1, max_in_flight=1, max_waiting=3, lease_timeout=30)
    office = open_office(limits=limits)

    async def main() -> list[Turn]:
        begun = []
        for number in range(5):
            one = Conversation(office, number, store=True)
            begun.append(asyncio.create_task(one.turn(seconds=100)))
            await pause(1.0)
        turns = await asyncio.gather(*begun)
        await office.manager.aclose()
        return turns

    first, *others, last = office.world.run(main())
    assert first.failure is None
    assert [turn.failure.kind.value for turn in others if turn.failure] == ["lease_timeout"] * 3
    assert all(turn.ended - turn.submitted == pytest.approx(30) for turn in others)
    assert last.failure is not None
    assert last.failure.kind == "too_many_waiting"
    assert last.ended == last.submitted


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("how", ["reset", "end", "1000", "1001", "1012", "idle"])
def test_an_idle_loss_costs_one_dial_and_one_create(
    open_office: Callable[..., Office], how: str, store: bool
) -> None:
    office = open_office()

    async def main() -> Turn:
        one = Conversation(office, 1, store=store)
        await one.turn()
        await pause(30.0)
        [session] = office.server.sessions
        if how == "reset":
            session.wire.reset()
        elif how == "end":
            session.wire.cut(None)
        elif how == "idle":
            await pause(5 * MINUTE)
        else:
            session.close(int(how))
        await pause(5.0)
        assert office.server.sessions == []
        turn = await one.turn()
        await office.manager.aclose()
        return turn

    turn = office.world.run(main())
    assert (turn.failure, turn.attempts) == (None, 1)
    assert len(office.server.network.dials) == 2
    assert sent(office) == [(1, 0), (1, 1)]
    # What is stored is continued on the new connection; what was in the old one's memory goes in full.
    assert ("previous_response_id" in office.server.creates[1][1]) is store
    assert turn.first - turn.submitted < 0.5
    stats = office.manager.stats()
    assert (stats.delta, stats.full) == ((1, 1) if store else (0, 2))


def test_a_dead_peer_is_found_in_the_middle_of_a_turn(open_office: Callable[..., Office]) -> None:
    limits = Limits()
    office = open_office(limits=limits)
    loop = office.world.loop

    async def main() -> tuple[Turn, float]:
        running = asyncio.create_task(Conversation(office, 1, store=True).turn(seconds=900, tokens=3))
        await pause(400.0)
        office.server.sessions[0].wire.dead = True
        struck = loop.time()
        turn = await running
        await office.manager.aclose()
        return turn, struck

    turn, struck = office.world.run(main())
    assert turn.failure is not None
    assert turn.failure.kind == "connection_lost"
    assert turn.tokens == 1
    assert limits.ping_interval is not None
    assert limits.ping_timeout is not None
    assert turn.ended - struck <= limits.ping_interval + limits.ping_timeout + 1.0


@pytest.mark.parametrize("asleep", [15.0, HOUR, 10 * HOUR])
def test_after_a_sleep_a_dead_socket_is_found_before_the_send(
    open_office: Callable[..., Office], asleep: float
) -> None:
    """Only the wall clock shows it: the monotonic one stood still, and no ping is due."""
    office = open_office()

    async def main() -> Turn:
        one = Conversation(office, 1, store=True)
        await one.turn()
        office.world.loop.slept += asleep
        office.server.sessions[0].wire.dead = True
        turn = await one.turn()
        await office.manager.aclose()
        return turn

    turn = office.world.run(main())
    assert (turn.failure, turn.attempts, turn.losses) == (None, 1, 0)
    assert sent(office) == [(1, 0), (1, 1)]
    assert turn.first - turn.submitted < 5.0


def test_many_connections_of_many_tenants_never_expire_together(open_office: Callable[..., Office]) -> None:
    """Twenty connections, all opened in the same second, over two days."""
    office = open_office(limits=Limits(max_idle=None, ping_interval=None))
    manager, loop = office.manager, office.world.loop

    async def main() -> None:
        for number in range(20):
            manager.preconnect(endpoint(number))
        await pause(1.0)
        assert manager.stats().connections_open == 20
        until = loop.time() + 2 * DAY
        while loop.time() < until:
            await pause(MINUTE)
            for number in range(20):
                if not manager.is_open(endpoint(number)):
                    manager.preconnect(endpoint(number))
        await manager.aclose()

    office.world.run(main())
    opened = [at for at, _ in office.seen(ConnectionOpened)]
    rotated = [at for at, event in office.seen(ConnectionClosed) if event.why == "rotated"]
    assert len(opened) > len(rotated) == manager.stats().rotations > 20 * 48
    assert office.server.expired == 0
    # They are closed in the order of their expiry, as nothing is in flight on them.
    assert min(later - earlier for earlier, later in itertools.pairwise(rotated)) >= 60.0
