"""Which lane is offered, and what it costs."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from langchain_ws_responses._protocol.connection import ResponsesProtocol
from langchain_ws_responses._protocol.lanes import Lane
from langchain_ws_responses._protocol.limits import Profile
from langchain_ws_responses._transport.lanes import Cost, LaneBook, Offer
from langchain_ws_responses._types import Failure, FailureKind

NAMES = 4


class Wire:
    """A protocol and its book; turns end when told."""

    def __init__(self, lanes: bool | None = True, max_lanes: int = 2, max_in_flight: int = 16) -> None:
        self.protocol = ResponsesProtocol(
            profile=Profile(name="t", lanes=lanes), max_lanes=max_lanes, max_in_flight=max_in_flight
        )
        self.book = LaneBook(self.protocol, max_lanes)
        self.now = 1000.0
        self.count = 0

    def offer(self) -> Offer | None:
        return self.book.offer(self.now)

    def send(self, **more: Any) -> Lane:
        offer = self.offer()
        assert offer is not None
        lane = self.book.take(offer)
        self.protocol.send_create(lane, b'{"input":"x"}', **more)
        return lane

    def end(self, lane: Lane, *, unstored: bool) -> None:
        self.count += 1
        self.now += 1
        data: dict[str, Any] = {"type": "response.completed", "response": {"id": f"resp_{self.count}"}}
        if lane.name is not None:
            data["stream_id"] = lane.name
        assert self.protocol.receive(json.dumps(data).encode(), now=self.now).ended
        self.book.ended(lane, unstored=unstored)

    def chain(self, *, unstored: bool) -> Lane:
        lane = self.send()
        self.end(lane, unstored=unstored)
        return lane


def test_a_new_name_costs_nothing_and_stands_for_itself() -> None:
    wire = Wire()
    assert wire.offer() == Offer(Cost.NOTHING)
    assert wire.protocol.lanes == {}, "an offer takes no name"
    first, second = wire.send(), wire.send()
    assert first is not second
    assert wire.offer() is None, "both names are busy"


def test_no_room_is_no_offer() -> None:
    wire = Wire(max_lanes=8, max_in_flight=1)
    lane = wire.send()
    assert wire.offer() is None
    wire.end(lane, unstored=True)
    assert wire.offer() == Offer(Cost.NOTHING)


def test_costs_in_their_order() -> None:
    wire = Wire(max_lanes=3)
    old, young = wire.chain(unstored=True), wire.chain(unstored=True)
    stored = wire.chain(unstored=False)
    assert wire.offer() == Offer(Cost.STORED, stored.used_at, stored)
    busy = wire.send()
    assert busy is stored
    assert wire.offer() == Offer(Cost.CHAIN, old.used_at, old)
    wire.now = old.used_at + 60
    assert wire.offer() == Offer(Cost.OLD, old.used_at, old)
    wire.protocol.send_create(old, b'{"input":"x"}')
    assert wire.offer() == Offer(Cost.CHAIN, young.used_at, young)


def test_a_lane_whose_response_failed_has_no_chain() -> None:
    wire = Wire(max_lanes=1)
    lane = wire.chain(unstored=True)
    wire.protocol.send_create(lane, b'{"input":"x"}')
    frame = {"type": "error", "status": 400, "stream_id": lane.name, "error": {"code": "bad"}}
    received = wire.protocol.receive(json.dumps(frame).encode())
    assert received.failure is not None
    assert wire.book.refused(lane, received.failure) is received.failure
    assert wire.offer() == Offer(Cost.NOTHING, lane.used_at, lane)


def test_a_lane_whose_response_is_being_forked_is_not_offered() -> None:
    wire = Wire(max_lanes=2)
    source = wire.chain(unstored=True)
    fork = wire.send(parent="resp_1", stored=False)
    assert source.forks
    assert wire.offer() is None
    wire.end(fork, unstored=True)
    assert wire.offer() == Offer(Cost.CHAIN, source.used_at, source)


def _cheapest(wire: Wire, unstored: set[Lane]) -> tuple[Cost, float] | None:
    """What the rules say: the cheapest idle lane, of equal ones the longest unused; a new name costs nothing."""
    lanes = wire.protocol.lanes.values()
    prices = [(_price(wire, lane, unstored), lane.used_at) for lane in lanes if lane.idle and not lane.forks]
    best = min(prices, default=None)
    if len(lanes) < NAMES and (best is None or best[0] is not Cost.NOTHING):
        return Cost.NOTHING, 0.0
    return best


def _price(wire: Wire, lane: Lane, unstored: set[Lane]) -> Cost:
    if lane.latest is None:
        return Cost.NOTHING
    if lane not in unstored:
        return Cost.STORED
    return Cost.OLD if wire.now - lane.used_at >= 60 else Cost.CHAIN


@pytest.mark.parametrize("seed", range(20))
def test_the_offer_is_what_the_rules_say_whatever_happened_before(seed: int) -> None:
    source = random.Random(seed)  # noqa: S311 - no secret
    wire, unstored, busy = Wire(max_lanes=NAMES), set[Lane](), list[Lane]()
    seen = set[Any]()
    for _ in range(200):
        offer, expected = wire.offer(), _cheapest(wire, unstored)
        assert (None if offer is None else (offer.cost, offer.used_at)) == expected
        seen.add(offer and offer.cost)
        if offer is not None and source.random() < 0.5:
            held = source.choice([None, *wire.protocol.held()])
            busy.append(wire.send() if held is None else wire.send(parent=held, stored=False))
        elif busy:
            lane, keeps = busy.pop(source.randrange(len(busy))), source.random() < 0.3
            wire.end(lane, unstored=not keeps)
            (unstored.discard if keeps else unstored.add)(lane)
        if source.random() < 0.1:
            wire.protocol.give_up(source.choice([*wire.protocol.held(), "none"]))
        wire.now += source.choice([0.0, 1.0, 30.0])
    assert seen >= {Cost.NOTHING, Cost.STORED, Cost.CHAIN}


def test_without_lanes_there_is_one() -> None:
    wire = Wire(lanes=False)
    assert wire.offer() == Offer(Cost.NOTHING)
    lane = wire.chain(unstored=True)
    assert lane.name is None
    assert wire.offer() == Offer(Cost.CHAIN, lane.used_at, lane)
    wire.send()
    assert wire.offer() is None


@pytest.mark.parametrize("same_lane", [True, False])
def test_a_turn_that_was_never_written_is_taken_back(same_lane: bool) -> None:
    wire = Wire(max_lanes=2)
    source = wire.chain(unstored=True)
    lane = source if same_lane else wire.book.take(Offer(Cost.NOTHING))
    wire.protocol.send_create(lane, b'{"input":"x"}', parent="resp_1", stored=False)
    wire.protocol.take_back(lane)
    assert lane.idle
    assert not source.forks
    assert wire.protocol.holder("resp_1") is source, "the chain can still be continued"
    assert wire.protocol.in_flight == 0


def failure(**fields: Any) -> Failure:
    return Failure(FailureKind.SERVER_ERROR, **fields)


def test_a_name_that_the_server_did_not_take_is_not_tried_again() -> None:
    wire = Wire(max_lanes=8)
    kept = wire.chain(unstored=False)
    refused = wire.send()
    frame = {"type": "error", "stream_id": refused.name, "error": {"code": "websocket_stream_limit_reached"}}
    received = wire.protocol.receive(json.dumps(frame).encode())
    assert received.failure is not None
    wire.book.refused(refused, received.failure)
    assert list(wire.protocol.lanes.values()) == [kept]
    assert wire.offer() == Offer(Cost.STORED, kept.used_at, kept)


def test_a_server_that_takes_no_name_at_all_has_no_lanes() -> None:
    wire = Wire(max_lanes=8)
    lane = wire.send()
    frame = {"type": "error", "stream_id": lane.name, "error": {"code": "websocket_stream_limit_reached"}}
    received = wire.protocol.receive(json.dumps(frame).encode())
    assert received.failure is not None
    wire.book.refused(lane, received.failure)
    assert wire.protocol.has_lanes is False
    assert wire.offer() == Offer(Cost.NOTHING)


@pytest.mark.parametrize(
    ("fields", "code", "has_lanes"),
    [
        ({"code": "unknown_parameter", "param": "stream_id"}, "invalid_stream_id", False),
        ({"code": None, "param": "stream_id"}, "invalid_stream_id", False),
        ({"code": "unknown_parameter", "param": "input"}, "unknown_parameter", True),
        ({"code": "x", "param": "stream_id", "events_seen": 2}, "x", True),
    ],
)
def test_complaints_about_the_parameter(fields: dict[str, Any], code: str, has_lanes: bool) -> None:
    wire = Wire()
    lane = wire.send()
    assert wire.book.refused(lane, failure(**fields)).code == code
    assert wire.protocol.has_lanes is has_lanes
