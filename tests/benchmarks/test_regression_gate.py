"""Fails where the work of a turn begins to grow with the history. Ratios and counts: times are not stable."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.processes import measure, run_server
from benchmarks.work import COUNTED, counted

TURNS = 40
EARLY, LATE = slice(4, 9), slice(33, 38)
# P6: bytes sent in a rollout, against a client that sends nothing but what it must.
MOST_BYTES = 1.05
# Six more per turn is what one function call per 10 messages of history would be.
SPARE_CALLS = 6


@pytest.fixture(scope="module")
def work() -> dict[str, Any]:
    return counted(TURNS)


@pytest.fixture(scope="module")
def full_work() -> dict[str, Any]:
    """The same rollout without chains: what the gate must notice."""
    return counted(TURNS, chain="off")


def turns_of(work: dict[str, Any], name: str) -> list[int]:
    return [turn[name] for turn in work["turns"]]


@pytest.mark.parametrize("name", [name for name in COUNTED if name != "calls"])
def test_the_work_of_a_turn_does_not_grow_with_the_history(work: dict[str, Any], name: str) -> None:
    counts = turns_of(work, name)
    assert len(counts) == TURNS
    assert counts[LATE] == counts[EARLY]
    # A counter that counts nothing would pass too.
    assert min(counts) > 0


def test_calls_of_own_functions_do_not_grow_with_the_history(work: dict[str, Any]) -> None:
    calls = turns_of(work, "calls")
    assert max(calls[LATE]) <= max(calls[EARLY]) + SPARE_CALLS


def test_a_delta_frame_is_not_even_looked_at_for_a_caller_of_invoke(work: dict[str, Any]) -> None:
    # About 40 of the 46 frames of a turn are deltas of the call's arguments.
    assert turns_of(work, "frames")[EARLY] == [46] * 5
    # `response.created`, `response.in_progress`, the first output and the terminal event.
    assert max(turns_of(work, "decoded")) <= 4
    # Of these the terminal event alone is parsed, and once for both threads.
    assert max(turns_of(work, "parses")) <= 2


def test_a_turn_wakes_the_io_thread_once(work: dict[str, Any]) -> None:
    assert turns_of(work, "wake-ups")[EARLY] == [1] * 5


def test_one_message_is_converted_in_a_turn(work: dict[str, Any]) -> None:
    # The answer, for its link; the tool's output has a conversion of its own.
    assert max(turns_of(work, "conversions")[1:]) <= 1


def test_the_counters_see_a_history_that_is_sent_again(
    work: dict[str, Any], full_work: dict[str, Any]
) -> None:
    sizes = turns_of(full_work, "bytes sent")
    assert min(sizes[LATE]) > 3 * max(sizes[EARLY])
    calls = turns_of(full_work, "calls")
    assert min(calls[LATE]) > max(calls[EARLY]) + SPARE_CALLS
    assert full_work["received"] > 5 * work["received"]


def test_bytes_of_a_rollout_against_the_wire_floor() -> None:
    sent = {}
    with run_server() as server:
        for driver in ("wire-floor", "ours"):
            job = {"driver": driver, "call": "invoke", "requests": 30}
            urls = {"base_url": f"{server.plain}/v1", "control_url": server.plain}
            result = measure({**job, **urls}, timeout=100)
            assert "error" not in result, result
            assert (result["requests"], result["connections"]) == (30, 1)
            sent[driver] = result["received"]
    assert sent["ours"] <= MOST_BYTES * sent["wire-floor"]
