"""Seven days of work in a few seconds."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from sim.callers import Conversation, Office, Turn
from sim.world import DAY, HOUR, MINUTE, pause

from langchain_ws_responses import Limits
from langchain_ws_responses._transport.hooks import ConnectionClosed, TurnEnded
from langchain_ws_responses._types import FailureKind

# Seconds of real time, on a machine that may be busy.
pytestmark = pytest.mark.timeout(240)

WEEK = 7 * DAY
REAL_SECONDS = 30.0
ROTATIONS = 168
# How long a turn may suffer from a fault that is over: a deaf socket is found by then, and a breaker tries again.
AFTERMATH = 10 * MINUTE


def simulate(office: Office, *work: Coroutine[Any, Any, None]) -> None:
    """Runs work and what disturbs it, in less processor time than the figure allows real time."""
    began = time.process_time()

    async def main() -> None:
        await asyncio.gather(*work)
        await office.manager.aclose()

    office.world.run(main())
    assert time.process_time() - began < REAL_SECONDS
    stats = office.manager.stats()
    assert stats.connections_open == stats.connections_draining == stats.in_flight == stats.waiting == 0
    assert office.server.sessions == []
    assert all(turn.ended for turn in office.turns)


async def work(
    office: Office, conversation: Conversation, until: float, *, rest: float, nights: bool
) -> None:
    """Turns with pauses for thought; day workers rest for eight hours a day."""
    world, source = office.world, office.world.random
    begin = world.loop.time()
    while world.loop.time() < until:
        if not nights and (world.loop.time() - begin) % DAY > 16 * HOUR:
            await pause(8 * HOUR)
            continue
        await conversation.turn(seconds=source.uniform(1, 180), tokens=2)
        await pause(source.expovariate(1 / rest))


def test_a_quiet_week_has_no_losses(open_office: Callable[..., Office]) -> None:
    """Two connections that are never idle for long; nothing of a chain is stored."""
    office = open_office(limits=Limits(max_connections=2, max_lanes=2, max_in_flight=2))
    until = office.world.loop.time() + WEEK
    team = [Conversation(office, number, store=False) for number in range(4)]
    simulate(office, *(work(office, one, until, rest=240, nights=True) for one in team))

    stats = office.manager.stats()
    assert stats.rotations >= ROTATIONS
    assert (office.server.killed, office.server.expired) == (0, 0)
    assert office.outcomes == {"answered": len(office.turns)}
    assert stats.lost == stats.dial_failures == stats.strays == 0
    closed = [event for _, event in office.seen(ConnectionClosed)]
    assert {event.why for event in closed} <= {"rotated", "idle", "closed"}
    assert sum(event.lost for event in closed) == 0
    # One create a turn, but for a chain whose connection was rotated between the plan and the create.
    again = sum(turn.attempts - 1 for turn in office.turns)
    assert again <= 2
    assert len(office.server.creates) == stats.turns == len(office.turns)
    # A rotation costs one dial, and no chain more than one full send.
    assert stats.dials == len(closed)
    assert stats.full <= len(team) * stats.dials
    assert 60.0 <= office.closest < float("inf")


class Trouble:
    """What goes wrong in a rough week."""

    def __init__(self, office: Office) -> None:
        self.office, self.world = office, office.world
        self.spans: list[tuple[float, float]] = []
        self.outage_spans: list[tuple[float, float]] = []
        self.kinds: Counter[str] = Counter()

    def note(self, kind: str, began: float) -> None:
        self.kinds[kind] += 1
        self.spans.append((began, self.world.loop.time() + AFTERMATH))

    def excuses(self, turn: Turn, *, outages: bool = False) -> bool:
        """Whether something went wrong about the time of a turn."""
        spans = self.outage_spans if outages else self.spans
        return any(turn.submitted <= until and since <= turn.ended for since, until in spans)

    def strike(self, kind: str, share: float = 1.0) -> None:
        for session in list(self.office.server.sessions):
            if self.world.random.random() > share:
                continue
            if kind == "reset":
                session.wire.reset()
            elif kind == "blackhole":
                session.wire.dead = True
            elif kind == "end":
                session.wire.cut(None)
            else:
                session.close(int(kind))

    async def losses(self, until: float) -> None:
        """Single connections are lost in all the ways there are."""
        source = self.world.random
        while self.world.loop.time() < until:
            await pause(source.expovariate(1 / (2 * HOUR)))
            kind = source.choice(["reset", "blackhole", "end", "1000", "1001", "1011", "1012"])
            self.strike(kind, 0.7)
            self.note(kind, self.world.loop.time())

    async def outages(self, until: float) -> None:
        """Nobody can connect, for seconds or for hours; what was open is cut or falls silent."""
        source, network = self.world.random, self.office.server.network
        while self.world.loop.time() < until:
            await pause(source.expovariate(1 / (10 * HOUR)))
            began = self.world.loop.time()
            network.weather = source.choice(["refused", "deaf", "lost", 503])
            self.strike(source.choice(["reset", "blackhole"]))
            await pause(source.choice([20.0, 2 * MINUTE, 20 * MINUTE, 2 * HOUR]))
            self.note(f"outage {network.weather}", began)
            self.outage_spans.append(self.spans[-1])
            network.weather = "fine"

    async def sleeps(self, until: float) -> None:
        """The machine sleeps: only the wall clock goes on, and the other side gives up meanwhile."""
        while self.world.loop.time() < until:
            await pause(self.world.random.uniform(0.5, 1.5) * DAY)
            self.world.loop.slept += self.world.random.uniform(MINUTE, 8 * HOUR)
            self.strike("blackhole")
            self.note("sleep", self.world.loop.time())


def test_a_rough_week_loses_only_what_is_struck(open_office: Callable[..., Office]) -> None:
    office = open_office()
    until = office.world.loop.time() + WEEK
    team = [Conversation(office, number, store=number % 2 == 0) for number in range(6)]
    trouble = Trouble(office)
    simulate(
        office,
        *(work(office, one, until, rest=180, nights=one.number < 2) for one in team),
        trouble.losses(until),
        trouble.outages(until),
        trouble.sleeps(until),
    )

    stats = office.manager.stats()
    assert len(trouble.kinds) >= 11, trouble.kinds
    assert stats.rotations > ROTATIONS / 4
    assert stats.lost > 20
    assert (office.server.killed, office.server.expired) == (0, 0)
    assert all(trouble.excuses(turn) for turn in office.turns if turn.failure is not None or turn.losses)
    # Told are outages, and answers that broke off after their first token; all else was sent again unseen.
    dialing = {FailureKind.DIAL_FAILED, FailureKind.DIAL_TIMEOUT, FailureKind.HANDSHAKE_REJECTED}
    for turn in office.turns:
        if turn.failure is not None and turn.failure.kind in dialing:
            assert trouble.excuses(turn, outages=True), turn
        elif turn.failure is not None:
            assert turn.failure.kind is FailureKind.CONNECTION_LOST, turn
            assert turn.tokens or turn.losses > 1, turn
    broken = sum(turn.failure is not None and turn.tokens > 0 for turn in office.turns)
    assert 0 < broken <= len(team) * sum(trouble.kinds.values())
    ends = Counter(event.failure for _, event in office.seen(TurnEnded))
    assert ends[None] == office.outcomes["answered"]
    assert office.server.network.most_dialing == 1
    assert office.closest >= 60.0
