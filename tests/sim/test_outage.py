"""Outages: a thousand callers want a connection, and nobody may storm the server."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import pytest
from sim.callers import Conversation, Office
from sim.world import DAY, HOUR, MINUTE, pause

from langchain_ws_responses import Limits, RetryPolicy
from langchain_ws_responses._transport.hooks import DialRetrying

# Seconds of real time, on a machine that may be busy.
pytestmark = pytest.mark.timeout(240)

WAITERS = 1000
A_MINUTE = 10


def busiest_minute(dials: list[float]) -> int:
    """The most dials in any 60 seconds."""
    most = first = 0
    for last, at in enumerate(dials):
        while dials[first] <= at - MINUTE:
            first += 1
        most = max(most, last - first + 1)
    return most


async def insist(office: Office, conversation: Conversation, until: float) -> None:
    """Wants one answer, as an agent with retries of its own: whatever fails is tried again at once."""
    loop = office.world.loop
    turn = await conversation.turn()
    while turn.failure is not None and loop.time() < until:
        await pause(office.world.random.uniform(1.0, 30.0))
        turn = await conversation.turn()


@pytest.mark.parametrize(
    ("weather", "length"),
    [("refused", 90.0), ("deaf", 90.0), ("lost", 90.0), (503, 90.0), (429, 90.0), ("refused", HOUR / 2)],
)
def test_a_thousand_waiters_do_not_storm(
    open_office: Callable[..., Office], weather: str | int, length: float
) -> None:
    office = open_office()
    network, loop = office.server.network, office.world.loop

    async def main() -> float:
        network.weather = weather
        team = [Conversation(office, number, store=True) for number in range(WAITERS)]
        waiting = [asyncio.create_task(insist(office, one, loop.time() + length + HOUR)) for one in team]
        await pause(length)
        over = loop.time()
        network.weather = "fine"
        await asyncio.wait(waiting)
        assert loop.time() - over < 3 * MINUTE
        assert [task.exception() for task in waiting] == [None] * WAITERS
        await office.manager.aclose()
        return over

    over = office.world.run(main())
    during = [at for at in network.dials if at < over]
    assert network.most_dialing == 1
    assert len(during) > 5
    assert busiest_minute(during) <= A_MINUTE
    # Then each dial brings a connection, and there are never more than the turns in flight need.
    assert len(network.dials) - len(during) <= -(-WAITERS // 16) + 1
    assert office.outcomes["answered"] == WAITERS
    assert {turn.conversation for turn in office.turns if turn.failure is None} == set(range(WAITERS))


def test_a_server_that_hangs_up_after_the_handshake_is_not_stormed(
    open_office: Callable[..., Office],
) -> None:
    office = open_office()
    network, loop = office.server.network, office.world.loop

    async def main() -> float:
        office.server.slams = True
        team = [Conversation(office, number, store=True) for number in range(WAITERS)]
        waiting = [asyncio.create_task(insist(office, one, loop.time() + 2 * HOUR)) for one in team]
        await pause(5 * MINUTE)
        office.server.slams, over = False, loop.time()
        await asyncio.wait(waiting)
        assert [task.exception() for task in waiting] == [None] * WAITERS
        assert loop.time() - over < 3 * MINUTE
        await office.manager.aclose()
        return over

    over = office.world.run(main())
    during = [at for at in network.dials if at < over]
    assert network.most_dialing == 1
    assert len(during) > 5
    # One dial may begin before the silence of the last connection has turned out to be its end.
    assert busiest_minute(during) <= A_MINUTE + 1
    assert office.outcomes["answered"] == WAITERS


def test_waits_have_full_jitter(open_office: Callable[..., Office]) -> None:
    """Many outages, each after a quiet time: the first waits fill the whole range evenly."""
    policy = RetryPolicy(max_attempts=4)
    office = open_office(retry=policy)
    rounds = 300

    async def main() -> None:
        office.server.network.weather = "refused"
        for number in range(rounds):
            turn = await Conversation(office, number, store=True).turn(max_attempts=1)
            assert turn.failure is not None
            await pause(2 * MINUTE)
        await office.manager.aclose()

    office.world.run(main())
    for attempt in (1, 2, 3):
        bound = min(policy.max_delay, policy.initial_delay * 2 ** (attempt - 1))
        waits = [event.wait / bound for _, event in office.seen(DialRetrying) if event.attempt == attempt]
        assert len(waits) == rounds
        assert uneven(waits) < 1.63 / rounds**0.5  # Kolmogorov and Smirnov, one in a hundred


def uneven(shares: list[float]) -> float:
    """How far a sample is from even over 0 to 1."""
    ordered = sorted(shares)
    count = len(ordered)
    above = max((index + 1) / count - share for index, share in enumerate(ordered))
    below = max(share - index / count for index, share in enumerate(ordered))
    return max(above, below)


def test_after_an_outage_a_trial_finds_out(open_office: Callable[..., Office]) -> None:
    """`transport="auto"`: while the breaker is open turns go over HTTP, and one at a time tries the socket."""
    office = open_office()
    manager, network, loop = office.manager, office.server.network, office.world.loop
    sockets: list[float] = []
    https: list[float] = []

    async def caller(number: int, until: float) -> None:
        conversation = Conversation(office, number, store=True)
        while loop.time() < until:
            if manager.is_open(office.endpoint) or manager.may_dial(office.endpoint):
                turn = await conversation.turn(max_dials=1, max_attempts=1)
                (https if turn.failure else sockets).append(loop.time())
            else:
                https.append(loop.time())
            await pause(office.world.random.uniform(1, 10))

    async def main() -> float:
        begin = loop.time()
        network.weather = "refused"
        callers = [asyncio.create_task(caller(number, begin + DAY + HOUR)) for number in range(5)]
        await pause(DAY)
        assert manager.stats().breakers
        over = loop.time()
        network.weather = "fine"
        await asyncio.wait(callers)
        assert [task.exception() for task in callers] == [None] * len(callers)
        await manager.aclose()
        return over

    over = office.world.run(main())
    during = [at for at in network.dials if at < over]
    # Pauses of 5, 10, 20, … 300 s, each a fifth longer or shorter.
    assert DAY / 360 < len(during) < DAY / 240 + 10
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(during))
    assert gaps[0] > 3.0
    assert 240 < gaps[len(gaps) // 2] < 380
    assert gaps[-1] < 380
    assert all(at > over for at in sockets)
    assert sockets[0] - over < 380
    # Not sticky: the socket has them all again.
    assert not [at for at in https if at > sockets[0] + 15]
    assert not manager.stats().breakers


def test_a_trial_is_one_turn_not_all(open_office: Callable[..., Office]) -> None:
    office = open_office(limits=Limits(connect_timeout=5))
    manager, network = office.manager, office.server.network

    async def main() -> None:
        network.weather = "refused"
        await Conversation(office, 0, store=True).turn(max_dials=1, max_attempts=1)
        assert not manager.may_dial(office.endpoint)
        await pause(7.0)
        assert [manager.may_dial(office.endpoint) for _ in range(100)] == [True] + [False] * 99
        await manager.aclose()

    office.world.run(main())
