"""The table of lane states, against one written by hand."""

from __future__ import annotations

import pytest

from langchain_ws_responses._protocol.lanes import Lane, LaneInput, LaneState, LocalProtocolError

# One line per state; the columns are send, event, terminal, abandon; a dash is forbidden.
TABLE = """
    idle       sent        -           -          -
    sent       -           streaming   idle       draining
    streaming  -           streaming   idle       draining
    draining   -           draining    idle       -
"""
COLUMNS = ("send", "event", "terminal", "abandon")
ROWS = {
    line.split()[0]: dict(zip(COLUMNS, line.split()[1:], strict=True)) for line in TABLE.split("\n") if line
}
PAIRS = [(state, what, after) for state, row in ROWS.items() for what, after in row.items()]


def test_the_table_here_names_every_state_and_every_input() -> None:
    assert set(ROWS) == {state.value for state in LaneState}
    assert set(COLUMNS) == {what.value for what in LaneInput}
    assert len(PAIRS) == 16


@pytest.mark.parametrize(("state", "what", "after"), [pair for pair in PAIRS if pair[2] != "-"])
def test_what_may_happen(state: str, what: str, after: str) -> None:
    lane = Lane("a", state=LaneState(state))
    lane.advance(LaneInput(what))
    assert lane.state is LaneState(after)
    assert lane.idle is (after == "idle")


@pytest.mark.parametrize(("state", "what"), [pair[:2] for pair in PAIRS if pair[2] == "-"])
def test_what_may_not_happen_says_so_and_changes_nothing(state: str, what: str) -> None:
    lane = Lane("a", state=LaneState(state))
    with pytest.raises(LocalProtocolError, match=f"lane a: {what} while {state}"):
        lane.advance(LaneInput(what))
    assert lane.state is LaneState(state)


def test_a_new_lane_is_idle_and_holds_nothing() -> None:
    lane = Lane(None)
    assert lane.idle
    assert (lane.latest, lane.parent, lane.response_id, lane.events, lane.output) == (
        None,
        None,
        None,
        0,
        False,
    )
    assert lane.forks == set()


def test_an_abandoned_lane_is_idle_again_only_after_its_terminal_event() -> None:
    lane = Lane("a")
    lane.advance(LaneInput.SEND)
    lane.advance(LaneInput.ABANDON)
    for _ in range(3):
        lane.advance(LaneInput.EVENT)
        assert not lane.idle
    lane.advance(LaneInput.TERMINAL)
    assert lane.idle


def test_lanes_are_told_apart_by_identity_and_can_be_keys() -> None:
    one, other = Lane("a"), Lane("a")
    assert one != other
    assert len({one: 1, other: 2}) == 2
    assert one.forks is not other.forks


def test_a_lane_knows_the_last_few_responses_that_ended_on_it() -> None:
    lane = Lane("a", response_id="r9")
    lane.ended.extend(f"r{number}" for number in range(10))
    assert lane.has_ended("r8")
    assert not lane.has_ended("r9"), "the one in flight has the same id"
    assert not lane.has_ended("r0"), "a server chooses the ids: no more than a few are kept"
    assert not lane.has_ended("r10")
    assert not lane.has_ended(None)
