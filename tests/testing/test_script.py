"""Answers, the clock and the lane order of the local server, each on its own."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from langchain_ws_responses import testing
from langchain_ws_responses.testing import (
    AdjustableClock,
    Answer,
    calls,
    custom_tool_call,
    drop,
    error,
    events,
    failed,
    incomplete,
    json_answer,
    reasoning,
    refusal,
    text,
    tool_call,
)
from langchain_ws_responses.testing._describe import describe, transcript
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


class Weather(BaseModel):
    city: str
    warm: bool = True


def test_structured_output_may_be_a_pydantic_model_with_its_defaults() -> None:
    assert json_answer(Weather(city="Oslo")).parts[0].text == '{"city":"Oslo","warm":true}'


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (text("Sunny."), "text('Sunny.')"),
        (tool_call("f", {"a": 1}), "tool_call('f', '{\"a\":1}')"),
        (custom_tool_call("sh", "ls"), "custom_tool_call('sh', 'ls')"),
        (calls(tool_call("f"), tool_call("g")), "calls(tool_call('f', '{}'), tool_call('g', '{}'))"),
        (reasoning("Hm.", "Yes."), "calls(reasoning('Hm.'), text('Yes.'))"),
        (refusal("No."), "refusal('No.')"),
        (failed("overloaded"), "failed('overloaded')"),
        (incomplete(), "incomplete('max_output_tokens')"),
        (error(code="odd", status=429), "error(code='odd', status=429)"),
        (drop(answer="Cut."), "drop(text('Cut.'))"),
        (events([{"type": "a"}, {"type": "b"}]), "events([2 events])"),
        (calls(), "an empty response"),
    ],
)
def test_an_answer_is_written_as_the_call_that_makes_it(answer: Answer, words: str) -> None:
    assert describe(answer) == words


def test_long_answers_are_written_without_their_middle() -> None:
    words = describe(text("a" * 500 + "b" * 500))
    assert len(words) < 90
    assert words.startswith("text('aaa")
    assert words.endswith("bbb')")


def test_a_transcript_has_a_line_for_each_item_but_reasoning() -> None:
    seen = [
        {"role": "user", "content": "How?"},
        {"type": "reasoning", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So."}]},
        {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "1"},
        {"type": "function_call_output", "output": [{"type": "input_text", "text": "done"}], "call_id": "1"},
        {"type": "compaction", "encrypted_content": "x"},
    ]
    assert transcript(seen) == ["user: How?", "assistant: So.", "call: f({})", "output: done", "[compaction]"]


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
