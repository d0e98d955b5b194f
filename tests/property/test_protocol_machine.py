"""`ResponsesProtocol` against a small model of the server, in every order that hypothesis can think of.

The model knows the wire facts alone: lanes are first in first out, a connection remembers the latest response of
each lane, a failed continuation on its lane evicts the parent, a fork is looked up when it begins. It judges what
the client writes, and it stamps every event with the turn that it is for.
"""

from __future__ import annotations

import itertools
import json
import os
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from langchain_ws_responses._protocol.connection import ResponsesProtocol
from langchain_ws_responses._protocol.lanes import Lane
from langchain_ws_responses._protocol.limits import Profile

STEPS_PER_EXAMPLE = 60
DEFAULT_STEPS = 9_000
STEPS_PER_WALK = 200
RANDOM_SEED = 1
LIMITS = ("echoes", "promised", "max_in_flight", "max_lanes")
# Read here and not in a test: the tests' environment is emptied of this project's variables.
STEPS = max(DEFAULT_STEPS, int(os.environ.get("LANGCHAIN_WS_RESPONSES_PROPERTY_STEPS", "0")))
RANDOM_STEPS = max(100_000, STEPS)

# More steps may take more time.
pytestmark = pytest.mark.timeout(60 + STEPS // 200)

Source = st.DataObject | random.Random
# What hypothesis and the random walks choose from; a choice that stands twice is made twice as often.
PLANS: dict[str, list[Any]] = {
    "echoes": [True, True, False],
    "promised": [True, None],
    "max_in_flight": [2, 16],
    "max_lanes": [3, 32],
    "store": [True, False],
    "what": ["go on", "branch", "fork", "begin"],
    "answer": ["delta", "delta", "completed", "completed", "incomplete", "failed", "steered", "error"],
    "end": ["completed", "completed", "incomplete", "failed"],
    "kind": ["response.created", "response.output_text.delta", "response.completed", "error"],
    "again": ["response.output_text.delta", "response.in_progress", "response.completed", "response.failed"],
}


def pick(source: Source, options: Sequence[Any]) -> Any:
    """Chooses one, by hypothesis or by chance."""
    if isinstance(source, random.Random):
        return source.choice(options)
    return source.draw(st.sampled_from(options))


TERMINAL = {"response.completed", "response.failed", "response.incomplete", "error"}


@dataclass
class Request:
    """A create that the server has not answered to its end."""

    turn: int
    lane: str | None
    parent: str | None
    store: bool
    response_id: str = ""
    phase: str = "queued"
    steers: int = 0


class ModelServer:
    """One connection of a server, and the storage behind it."""

    def __init__(self, *, echoes: bool, max_in_flight: int, max_lanes: int) -> None:
        self.echoes = echoes
        self.max_in_flight = max_in_flight
        self.max_lanes = max_lanes
        self.stored: set[str] = set()
        self._ids = (f"r{number}" for number in itertools.count())
        self.drop()

    def drop(self) -> None:
        """The connection is gone, and with it everything but the storage."""
        self.queues: dict[str | None, deque[Request]] = {}
        self.memory: dict[str | None, str] = {}
        self.over: dict[str | None, str] = {}
        self.names: set[str] = set()

    @property
    def waiting(self) -> list[str | None]:
        """The lanes that owe an answer, in an order that can be repeated."""
        return sorted((lane for lane, queue in self.queues.items() if queue), key=str)

    @property
    def repeatable(self) -> list[str | None]:
        """The lanes that owe an answer and have given one before."""
        return [lane for lane in self.waiting if lane in self.over]

    def outstanding(self) -> int:
        return sum(len(queue) for queue in self.queues.values())

    def take(self, raw: bytes) -> None:
        """Receives a frame from the client, and judges it."""
        frame = json.loads(raw)
        name = frame.get("stream_id")
        lane = name if self.echoes else None
        queue = self.queues.setdefault(lane, deque())
        if frame["type"] == "response.steer":
            assert queue[0].response_id == frame["previous_response_id"]
            queue[0].steers += 1
            return
        assert frame["type"] == "response.create"
        assert not (self.echoes and queue), "a create on a lane that is not done with the last one"
        if name is not None:
            self.names.add(name)
        assert len(self.names) <= self.max_lanes, "too many lane names"
        assert self.outstanding() < self.max_in_flight, "too many responses in flight"
        queue.append(Request(frame["turn"], lane, frame.get("previous_response_id"), frame["store"]))

    def event(self, request: Request, event_type: str, *, tagged: bool = True, **fields: Any) -> str:
        named = {"stream_id": request.lane} if self.echoes and request.lane is not None and tagged else {}
        return json.dumps({"type": event_type, **named, "turn": request.turn, **fields})

    def step(self, lane: str | None, choice: str, *, tagged: bool = True) -> str:
        """Does the next thing for the oldest request of a lane; `choice` says which where there is one."""
        request = self.queues[lane][0]
        if choice == "error":
            return self.refuse(request, "server_error", tagged=tagged)
        if request.phase in ("queued", "steered"):
            request.response_id = next(self._ids)
            parent = request.parent if request.phase == "queued" else None
            request.phase = "created" if request.phase == "queued" else "running"
            response = {"id": request.response_id, "previous_response_id": parent}
            return self.event(request, "response.created", response=response)
        if request.phase == "created":
            known = request.parent in self.stored or request.parent in self.memory.values()
            if request.parent is not None and not known:
                return self.refuse(request, "previous_response_not_found")
            request.phase = "running"
            return self.event(request, "response.in_progress", response={"id": request.response_id})
        if choice == "steered" and request.steers:
            request.steers -= 1
            request.phase = "steered"
            response = {"id": request.response_id, "incomplete_details": {"reason": "steered"}}
            return self.event(request, "response.incomplete", response=response)
        if choice in ("completed", "incomplete", "failed"):
            self.finish(request, choice != "failed")
            return self.event(request, f"response.{choice}", response={"id": request.response_id})
        return self.event(request, "response.output_text.delta", delta="x")

    def refuse(self, request: Request, code: str, *, tagged: bool = True) -> str:
        self.finish(request, False)
        return self.event(request, "error", tagged=tagged, status=400, error={"code": code, "message": "No."})

    def finish(self, request: Request, answered: bool) -> None:
        self.queues[request.lane].popleft()
        if request.response_id:
            self.over[request.lane] = request.response_id
        if answered:
            self.memory[request.lane] = request.response_id
            if request.store:
                self.stored.add(request.response_id)
        elif request.parent is not None and self.memory.get(request.lane) == request.parent:
            del self.memory[request.lane]


@dataclass
class Turn:
    """What one caller wants, and what came of it."""

    number: int
    parent: str | None
    store: bool
    wants_fork: bool = False
    abandoned: bool = False
    beside_a_continuation: bool = False
    ends: int = 0


# When each rule makes sense.
MAY: dict[str, Callable[[Any], bool]] = {
    "want": lambda self: len(self.waiting) < 8,
    "abandon": lambda self: any(not turn.abandoned for turn in self.owners.values()),
    "steer": lambda self: any(lane.response_id and not lane.idle for lane in self.owners),
    "go_on": lambda self: bool(self.server.waiting),
    "answer_to_the_end": lambda self: bool(self.server.waiting),
    "refuse_one_of_several_without_naming_it": lambda self: (
        self.server.outstanding() > 1 and self.connections == 1 and len(self.turns) > 9
    ),
    "say_something_about_a_lane_that_owes_nothing": lambda self: True,
    "say_again_what_is_over": lambda self: bool(self.server.repeatable),
}
ARGUMENTS = {
    "want": ["store", "what"],
    "go_on": ["answer"],
    "answer_to_the_end": ["end"],
    "say_something_about_a_lane_that_owes_nothing": ["kind"],
    "say_again_what_is_over": ["again"],
}


class ProtocolMachine(RuleBasedStateMachine):
    """A client that follows the protocol object's answers and nothing else."""

    @initialize(
        echoes=st.sampled_from(PLANS["echoes"]),
        promised=st.sampled_from(PLANS["promised"]),
        max_in_flight=st.sampled_from(PLANS["max_in_flight"]),
        max_lanes=st.sampled_from(PLANS["max_lanes"]),
    )
    def connect(self, echoes: bool, promised: bool | None, max_in_flight: int, max_lanes: int) -> None:
        self.limits = {"max_in_flight": max_in_flight, "max_lanes": max_lanes}
        self.server = ModelServer(echoes=echoes, **self.limits)
        self.promised = promised
        self.turns: list[Turn] = []
        self.waiting: deque[Turn] = deque()
        self.owners: dict[Lane, Turn] = {}
        self.clock = 0.0
        self.connections = 0
        self.proto = self.dial(promised)

    def dial(self, lanes: bool | None) -> ResponsesProtocol:
        self.connections += 1
        names = (f"n{number}" for number in itertools.count())
        profile = Profile(name="model", lanes=lanes)
        return ResponsesProtocol(profile=profile, make_name=lambda: next(names), **self.limits)

    # -- what callers do ---

    @rule(data=st.data(), store=st.booleans(), what=st.sampled_from(PLANS["what"]))
    @precondition(MAY["want"])
    def want(self, data: Source, store: bool, what: str) -> None:
        known = sorted({*self.proto.held(), *self.server.stored})
        if what == "begin" or not known:
            self.ask(None, store=store)
            return
        parent = pick(data, known)
        if what in ("branch", "fork"):
            self.ask(parent, store=store, wants_fork=True)
        if what in ("branch", "go on"):
            self.ask(parent, store=store)

    def ask(self, parent: str | None, *, store: bool, wants_fork: bool = False) -> None:
        turn = Turn(len(self.turns), parent, store, wants_fork)
        self.turns.append(turn)
        self.waiting.append(turn)
        self.pump()

    @rule(data=st.data())
    @precondition(MAY["abandon"])
    def abandon(self, data: Source) -> None:
        lanes = [lane for lane, turn in self.owners.items() if not turn.abandoned]
        lane = pick(data, lanes)
        self.proto.abandon(lane)
        self.owners[lane].abandoned = True
        assert not lane.idle

    @rule(data=st.data())
    @precondition(MAY["steer"])
    def steer(self, data: Source) -> None:
        lanes = [lane for lane in self.owners if lane.response_id]
        lane = pick(data, lanes)
        self.server.take(self.proto.send_steer(lane, [], dumps=lambda frame: json.dumps(frame).encode()))

    def pump(self) -> None:
        """Lets waiting turns in, in order; one that waits for a certain lane does not hold up the others."""
        for turn in list(self.waiting):
            lane = self.place(turn)
            if lane is not None:
                self.waiting.remove(turn)
                self.send(turn, lane)

    def place(self, turn: Turn) -> Lane | None:
        stored = turn.parent in self.server.stored
        holder = self.proto.holder(turn.parent) if turn.parent is not None else None
        if holder is None:
            turn.parent = turn.parent if stored else None  # gone: the full input instead
            return self.proto.spare_lane()
        if holder.idle and not turn.wants_fork and not self.proto.may_advance(holder):
            return None
        if holder.idle and not turn.wants_fork:
            return holder if self.proto.room else None
        spare = self.proto.spare_lane()
        if spare is holder:  # the only lane left: a continuation after all
            return holder
        if spare is not None:
            turn.beside_a_continuation = not holder.idle
        return spare

    def send(self, turn: Turn, lane: Lane) -> None:
        assert lane.idle
        assert lane not in self.owners
        body: dict[str, Any] = {"turn": turn.number, "store": turn.store}
        if turn.parent is not None:
            body["previous_response_id"] = turn.parent
        stored = turn.parent in self.server.stored
        self.owners[lane] = turn
        self.server.take(
            self.proto.send_create(lane, json.dumps(body).encode(), parent=turn.parent, stored=stored)
        )

    # -- what the server does ---

    @rule(data=st.data(), answer=st.sampled_from(PLANS["answer"]))
    @precondition(MAY["go_on"])
    def go_on(self, data: Source, answer: str) -> None:
        lane = pick(data, self.server.waiting)
        # An error that names no lane can only be of the one turn there is.
        unnamed = answer == "error" and self.server.outstanding() == 1
        self.hear(self.server.step(lane, answer, tagged=not unnamed))

    @rule(data=st.data(), end=st.sampled_from(PLANS["end"]))
    @precondition(MAY["answer_to_the_end"])
    def answer_to_the_end(self, data: Source, end: str) -> None:
        lane = pick(data, self.server.waiting)
        turn, server = self.server.queues[lane][0].turn, self.server
        while server.queues.get(lane) and server.queues[lane][0].turn == turn:
            self.hear(server.step(lane, end))

    @rule(data=st.data())
    @precondition(MAY["refuse_one_of_several_without_naming_it"])
    def refuse_one_of_several_without_naming_it(self, data: Source) -> None:
        lane = pick(data, self.server.waiting)
        got = self.proto.receive(self.server.step(lane, "error", tagged=False))
        assert got.fatal is not None
        assert got.retire
        self.reconnect()

    @rule(data=st.data(), kind=st.sampled_from(PLANS["kind"]))
    def say_something_about_a_lane_that_owes_nothing(self, data: Source, kind: str) -> None:
        idle = [lane.name for lane in self.proto.lanes.values() if lane.idle and lane.name is not None]
        unnamed = [] if self.owners else [None]
        name = pick(data, [*idle, *unnamed, "nobody", ""])
        self.hear(json.dumps({"type": "codex.rate_limits"}))  # of no lane at all, and not even a stray
        strays = self.proto.strays
        named = {} if name is None else {"stream_id": name}
        self.hear(json.dumps({"type": kind, **named, "response": {"id": "stray"}}))
        assert self.proto.strays == strays + 1
        assert "stray" not in self.proto.held()

    @rule(data=st.data(), again=st.sampled_from(PLANS["again"]))
    @precondition(MAY["say_again_what_is_over"])
    def say_again_what_is_over(self, data: Source, again: str) -> None:
        lane = pick(data, self.server.repeatable)
        if self.server.queues[lane][0].phase != "queued" and again == "response.output_text.delta":
            again = "response.completed"  # output says whose it is by nothing but its place
        named = {"stream_id": lane} if lane is not None else {}
        strays = self.proto.strays
        self.hear(json.dumps({"type": again, **named, "response": {"id": self.server.over[lane]}}))
        assert self.proto.strays == strays + 1

    def hear(self, raw: str) -> None:
        """Gives one frame to the client, and judges its verdict."""
        self.clock += 1
        event = json.loads(raw)
        others = {lane: (lane.state, lane.latest, lane.events) for lane in self.proto.lanes.values()}
        got = self.proto.receive(raw, now=self.clock)
        if got.fatal is not None:
            # Guessing would be wrong: several turns, and a server that turns out not to name lanes.
            assert self.promised
            assert not self.server.echoes
            assert len(self.owners) > 1
            self.reconnect()
            return
        assert not got.retire
        if got.lane is None:
            assert "turn" not in event, "an event was taken from its turn"
        else:
            self.judge(got, event)
            others.pop(got.lane, None)
            if "stream_id" in event:
                assert self.proto.has_lanes is True, "an echo proves lanes"
        for lane, before in others.items():
            assert (lane.state, lane.latest, lane.events) == before, "one lane's event changed another lane"
        self.pump()

    def judge(self, got: Any, event: dict[str, Any]) -> None:
        turn = self.owners[got.lane]
        assert event["turn"] == turn.number, "an event of another turn"
        assert got.deliver is not turn.abandoned
        successor_follows = event.get("response", {}).get("incomplete_details") is not None
        assert got.ended is (event["type"] in TERMINAL and not successor_follows)
        assert (got.failure is not None) is (event["type"] == "error")
        if got.failure is not None and got.failure.code == "previous_response_not_found":
            assert turn.beside_a_continuation, "a response was evicted that was said to be held"
        if got.ended:
            assert got.lane.idle
            del self.owners[got.lane]
            turn.ends += 1

    def reconnect(self) -> None:
        """Sends what was in flight again in full, over a new connection; nobody waits for abandoned turns."""
        lost = sorted(self.owners.values(), key=lambda turn: turn.number)
        lanes = False if self.proto.has_lanes is False else self.promised
        self.owners.clear()
        self.server.drop()
        self.proto = self.dial(lanes)
        for turn in reversed(lost):
            if turn.abandoned:
                turn.ends += 1
            else:
                turn.parent, turn.beside_a_continuation = None, False
                self.waiting.appendleft(turn)
        self.pump()

    # -- what always holds ---

    @invariant()
    def nothing_exceeds_its_limit(self) -> None:
        lanes = self.proto.lanes
        assert self.proto.in_flight <= self.limits["max_in_flight"]
        assert self.proto.in_flight + self.proto.room <= max(self.limits["max_in_flight"], 1)
        assert sum(name is not None for name in lanes) <= self.limits["max_lanes"]
        assert len(self.proto.held()) <= len(lanes)
        assert all(lane.name == name for name, lane in lanes.items())

    @invariant()
    def both_sides_agree_about_what_is_in_flight(self) -> None:
        assert self.proto.in_flight == self.server.outstanding() == len(self.owners)
        assert set(self.proto.in_flight_lanes()) == set(self.owners)

    @invariant()
    def what_is_said_to_be_held_is_in_the_servers_memory(self) -> None:
        for response_id in self.proto.held():
            lane = self.proto.holder(response_id)
            assert lane is not None
            if lane.idle:
                assert self.server.memory.get(lane.name) == response_id

    @invariant()
    def only_turns_in_flight_hold_a_lane_back(self) -> None:
        busy = {id(lane) for lane in self.owners}
        assert all(lane.forks <= busy for lane in self.proto.lanes.values())

    @invariant()
    def nobody_waits_for_an_idle_connection(self) -> None:
        assert self.owners or not self.waiting

    def teardown(self) -> None:
        """If the server answers everything, every turn ends, once."""
        if not hasattr(self, "proto"):
            return
        for _ in range(10 * (len(self.turns) + 1)):
            for lane in self.server.waiting:
                if self.server.queues.get(lane):  # a reconnection may have emptied it
                    self.hear(self.server.step(lane, "completed"))
        assert not self.owners
        assert not self.waiting
        assert [turn.ends for turn in self.turns] == [1] * len(self.turns)
        assert self.proto.in_flight == 0
        assert self.proto.spare_lane() is not None


def walk(seed: int, steps: int) -> Counter[str]:
    """One life of the machine, driven by chance alone, which is much faster than looking for examples.

    Returns:
        How often each rule was used.
    """
    source = random.Random(seed)  # noqa: S311 - no secret
    machine = ProtocolMachine()
    machine.connect(**{name: pick(source, PLANS[name]) for name in LIMITS})
    used: Counter[str] = Counter()
    for _ in range(steps):
        rule_name = pick(source, [name for name, may in MAY.items() if may(machine)])
        arguments = {name: pick(source, PLANS[name]) for name in ARGUMENTS.get(rule_name, ())}
        used[rule_name] += 1
        getattr(machine, rule_name)(data=source, **arguments)
        machine.nothing_exceeds_its_limit()
        machine.both_sides_agree_about_what_is_in_flight()
        machine.what_is_said_to_be_held_is_in_the_servers_memory()
        machine.only_turns_in_flight_hold_a_lane_back()
        machine.nobody_waits_for_an_idle_connection()
    machine.teardown()
    return used


def test_a_hundred_thousand_random_steps() -> None:
    used: Counter[str] = Counter()
    seeds = itertools.count(RANDOM_SEED)
    for seed in seeds:
        try:
            used += walk(seed, STEPS_PER_WALK)
        except Exception as exc:
            raise AssertionError(f"walk({seed}, {STEPS_PER_WALK}) failed: {exc!r}") from exc
        if used.total() >= RANDOM_STEPS:
            break
    assert set(used) == set(MAY)
    assert min(used.values()) > RANDOM_STEPS / 1000, used


TestProtocol = ProtocolMachine.TestCase
TestProtocol.settings = settings(
    max_examples=STEPS // STEPS_PER_EXAMPLE,
    stateful_step_count=STEPS_PER_EXAMPLE,
    deadline=None,
    # The first example imports and compiles; a shared machine may make it slow.
    suppress_health_check=[HealthCheck.too_slow],
)
