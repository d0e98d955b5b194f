"""Answers, the clock and the lane order of the local server, each on its own."""

from __future__ import annotations

from typing import Any

import pytest

from langchain_ws_responses import testing
from langchain_ws_responses.testing import (
    AdjustableClock,
    calls,
    custom_tool_call,
    error,
    failed,
    json_answer,
    reasoning,
    text,
    tool_call,
)
from langchain_ws_responses.testing._script import as_answer
from langchain_ws_responses.testing._state import LaneQueue


def test_text_is_split_as_asked() -> None:
    assert text("abcdef").parts[0].chunks == ("ab", "cd", "ef")
    assert text("abcde", chunks=2).parts[0].chunks == ("abc", "de")
    assert text("abc", chunks=["a", "bc"]).parts[0].chunks == ("a", "bc")
    assert text("").parts[0].chunks == ()
    with pytest.raises(ValueError, match="add up"):
        text("abc", chunks=["a", "b"])


def test_arguments_may_be_data_or_text() -> None:
    assert tool_call("f", {"a": [1]}).parts[0].arguments == '{"a":[1]}'
    assert tool_call("f", '{"broken').parts[0].arguments == '{"broken'
    assert tool_call("f").parts[0].arguments == "{}"
    assert json_answer({"ä": 1}).parts[0].text == '{"ä":1}'


def test_answers_are_equal_by_value_and_frozen() -> None:
    assert text("a") == text("a")
    with pytest.raises(AttributeError):
        text("a").status = "failed"  # type: ignore[misc]


def test_answers_combine() -> None:
    both = calls(tool_call("a"), custom_tool_call("b", "x"), text="t")
    assert [type(part).__name__ for part in both.parts] == ["TextPart", "CallPart", "CustomCallPart"]
    thought = reasoning(["a", "b"], failed("c", "m"))
    assert (thought.status, thought.code, len(thought.parts)) == ("failed", "c", 1)
    with pytest.raises(TypeError, match="plain answers"):
        calls(failed())


def test_what_an_answering_function_may_return() -> None:
    assert as_answer("a") == text("a")
    assert as_answer([tool_call("a", {}, "1"), tool_call("b", {}, "2")]) == calls(
        tool_call("a", {}, "1"), tool_call("b", {}, "2")
    )
    assert as_answer([error(code="x")]) == error(code="x")
    bad: list[Any] = [None, 7, [], [text("a"), error()], {"a": 1}]
    for value in bad:
        with pytest.raises(TypeError):
            as_answer(value)


def test_the_clock_goes_forward_only() -> None:
    now = [100.0]
    clock = AdjustableClock(lambda: now[0])
    clock.advance(60)
    now[0] += 1
    assert clock() == 161.0
    assert clock.offset == 60
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(-1)


def test_the_lane_queue_keeps_order_and_limit() -> None:
    queue: LaneQueue[str] = LaneQueue()
    for lane, job in [("a", "a1"), ("a", "a2"), ("b", "b1"), (None, "d1"), ("b", "b2")]:
        queue.submit(lane, job)
    assert queue.start(2) == [("a", "a1"), ("b", "b1")]
    assert queue.start(2) == []
    queue.finish("b")
    # The default lane's job came before the second one of lane b.
    assert queue.start(2) == [(None, "d1")]
    queue.finish("a")
    assert queue.start(2) == [("a", "a2")]
    assert queue.busy
    assert queue.clear() == ["b2"]


def test_public_names_live_in_the_package() -> None:
    homes = {name: getattr(getattr(testing, name), "__module__", None) for name in testing.__all__}
    wrong = {name: home for name, home in homes.items() if home != testing.__name__}
    assert set(wrong) <= {"Clock"}
