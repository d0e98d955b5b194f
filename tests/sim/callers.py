"""Callers for simulations: conversations that follow the recovery table, and judge what they are given."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from sim.model_server import ModelServer
from sim.world import World

from langchain_ws_responses._protocol.events import EventKind, Frame
from langchain_ws_responses._protocol.limits import Profile
from langchain_ws_responses._protocol.recovery import Action, Progress, decide
from langchain_ws_responses._transport.endpoint import Endpoint, endpoint_for
from langchain_ws_responses._transport.hooks import TransportEvent
from langchain_ws_responses._transport.mailbox import AsyncMailbox
from langchain_ws_responses._transport.manager import ConnectionManager
from langchain_ws_responses._transport.retry import back_off
from langchain_ws_responses._transport.ticket import Ticket
from langchain_ws_responses._types import Failure, Phase, Replay

LANES = {"127.0.0.1": Profile(name="model", lanes=True)}


def endpoint(number: int = 0) -> Endpoint:
    """The endpoint of one tenant."""
    return endpoint_for(url="ws://127.0.0.1:1/v1/responses", credential=f"key-{number}")


@dataclass
class Turn:
    """What one turn asked for, and what came of it."""

    conversation: int
    number: int
    submitted: float = 0.0
    ended: float = 0.0
    first: float = 0.0
    attempts: int = 0
    tokens: int = 0
    failure: Failure | None = None
    losses: int = 0


class Office:
    """A manager, its server, and the books about both."""

    def __init__(self, world: World, server: ModelServer, **options: Any) -> None:
        self.world, self.server = world, server
        self.events: list[tuple[float, TransportEvent]] = []
        self.closest = float("inf")
        self.turns: list[Turn] = []
        self.outcomes: Counter[str] = Counter()
        self.manager = ConnectionManager(profiles=LANES, hooks=[self.note], **options)
        self.manager.random = world.random
        self.endpoint = endpoint()

    def note(self, event: TransportEvent) -> None:
        """A hook: remembers, and measures how close together connections expire."""
        self.events.append((self.world.loop.time(), event))
        expiries = sorted(self.manager.expiries())
        gaps = [later - earlier for earlier, later in itertools.pairwise(expiries)]
        self.closest = min([self.closest, *gaps])

    def seen(self, kind: type[TransportEvent]) -> list[tuple[float, Any]]:
        return [(at, event) for at, event in self.events if isinstance(event, kind)]


class Conversation:
    """One chain of turns, as a model object would run it.

    Args:
        office: Whose manager it uses.
        number: Who it is.
        store: Whether its responses are stored.
    """

    def __init__(self, office: Office, number: int, *, store: bool) -> None:
        self.office, self.number, self.store = office, number, store
        self.latest: str | None = None
        self.length = 0

    async def turn(
        self, *, seconds: float = 1.0, tokens: int = 3, max_attempts: int = 6, max_dials: int | None = None
    ) -> Turn:
        """Runs one turn with its recoveries, as floor 3 does."""
        office, loop = self.office, self.office.world.loop
        turn = Turn(self.number, self.length, submitted=loop.time())
        office.turns.append(turn)
        self.length += 1
        body = {"conversation": self.number, "turn": turn.number, "seconds": seconds, "tokens": tokens}
        full, delay, resends = False, 0.0, 0
        while True:
            turn.attempts += 1
            parent = None if full else self.known()
            failure = await self.attempt(turn, {**body, "store": self.store}, parent, delay, max_dials)
            if failure is None:
                break
            turn.losses += failure.phase is not Phase.CONNECT
            progress = Progress(
                delivered=turn.tokens,
                attempts=turn.attempts,
                resends=resends,
                is_delta=parent is not None,
                max_attempts=max_attempts,
            )
            decision = decide(failure, progress)
            if decision.action is Action.RAISE:
                turn.failure = failure
                break
            resends += decision.replay is Replay.AMBIGUOUS
            full = decision.action is Action.FULL
            delay = back_off(office.manager.retry, turn.attempts, failure.retry_after) * decision.back_off
        turn.ended = loop.time()
        office.outcomes[turn.failure.kind.value if turn.failure else "answered"] += 1
        if turn.failure is None:
            assert turn.tokens == tokens, "a token is missing"
        return turn

    def known(self) -> str | None:
        """What can be continued."""
        if self.latest is None:
            return None
        alive = self.store or self.office.manager.holds(self.office.endpoint, self.latest)
        return self.latest if alive else None

    async def attempt(
        self, turn: Turn, body: dict[str, Any], parent: str | None, delay: float, max_dials: int | None
    ) -> Failure | None:
        """Sends the turn once and takes its events, each of which must be its own and in order."""
        office = self.office
        limits = office.manager.limits
        if parent is not None:
            body["previous_response_id"] = parent
        mailbox = AsyncMailbox()
        ticket = Ticket(
            office.endpoint,
            json.dumps(body).encode(),
            mailbox,
            parent=parent,
            stored=self.store,
            keeps=self.store,
            first_event_timeout=limits.first_event_timeout,
            between_events_timeout=limits.between_events_timeout,
            max_dials=max_dials,
            delay=delay,
            mode="full" if parent is None else "delta",
            reason="first_turn" if parent is None else "chain",
        )
        office.manager.submit(ticket)
        while True:
            for item in await mailbox.get():
                if isinstance(item, Failure):
                    return item
                turn.first = turn.first or office.world.loop.time()
                if self.take(turn, item):
                    return None

    def take(self, turn: Turn, frame: Frame) -> bool:
        """Takes one event; True: it was the last one."""
        if frame.kind is EventKind.OUTPUT:
            assert frame.data["delta"] == [self.number, turn.number, turn.tokens], (
                "not this turn's next token"
            )
            turn.tokens += 1
        if frame.kind is EventKind.COMPLETED:
            self.latest = frame.response["id"]
        return frame.kind.is_terminal
