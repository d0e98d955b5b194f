"""Scrubbing and matching on their own, with data that nobody thought of."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from langchain_ws_responses.testing._matching import DEFAULT_MATCH, differences, meaning
from langchain_ws_responses.testing._scrub import SCRUBBED, Secrets, scrub_key_like

SECRET = 'a "secret" of\nmine'
CUTS = st.integers(1, len(SECRET) - 1)
WORDS = st.sampled_from(["", "hi", "id", "type", "delta", "<", SECRET, f"x{SECRET}y", SECRET[:7], SECRET[7:]])
DATA = st.recursive(
    WORDS | st.none() | st.booleans() | st.integers(-5, 5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=12,
)


def streamed(cut: int) -> list[dict[str, Any]]:
    where = {"type": "response.output_text.delta", "item_id": "m", "content_index": 0}
    pieces = ["It is ", SECRET[:cut], SECRET[cut:], "!"]
    return [{**where, "delta": piece} for piece in pieces]


@settings(max_examples=300, deadline=None)
@given(data=DATA)
@example(data=[{"type": [], "delta": ""}])
def test_a_known_secret_is_replaced_or_found(data: Any) -> None:
    secrets = Secrets(known={"mine": SECRET})
    scrubbed = secrets.data(data)
    there = json.dumps(SECRET)[1:-1] in json.dumps(scrubbed)
    # Only a name of the protocol, or a key of an object, is left as it is; that is what the check is for.
    assert not there or secrets.left_in(scrubbed) == ["mine"]
    assert secrets.data(scrubbed) == scrubbed


@given(cut=CUTS)
def test_a_secret_that_comes_in_pieces_is_replaced(cut: int) -> None:
    secrets = Secrets(known={"mine": SECRET})
    assert secrets.left_in(streamed(cut)) == ["mine"]
    scrubbed = secrets.data(streamed(cut))
    assert "".join(event["delta"] for event in scrubbed) == f"It is {SCRUBBED}!"
    assert len(scrubbed) == 4
    assert secrets.left_in(scrubbed) == []


@pytest.mark.parametrize(
    "text",
    [
        "Is it a task-based or a desk-top thing?", "https://example.com/a@b", "AKIA is a prefix", "risk-free offers",
        "Bearer of bad news", "call_0123456789abcdefghij", "resp_0123456789abcdefghij0123456789",
    ],
)  # fmt: skip
def test_ordinary_words_are_left_alone(text: str) -> None:
    assert scrub_key_like(text) == text


@settings(max_examples=200, deadline=None)
@given(first=DATA, second=DATA)
def test_differences_are_found_exactly_where_data_differs(first: Any, second: Any) -> None:
    assert differences(first, first) == []
    same = json.dumps(first, sort_keys=True) == json.dumps(second, sort_keys=True)
    assert (differences(first, second, "x") == []) is same


def asked(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


CALL = {"type": "function_call", "name": "f", "arguments": '{"a": 1}', "call_id": "c"}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hm."}]}


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ([SAID, CALL], [CALL, SAID], True),
        ([{**CALL, "id": "fc_1", "status": "completed"}], [{**CALL, "arguments": '{"a":1}'}], True),
        ([CALL], [{**CALL, "call_id": "d"}], False),
        ([SAID, {"type": "reasoning", "summary": []}], [SAID], True),
        ([SAID, {"type": "web_search_call", "id": "ws_1"}], [SAID], True),
        ([asked("a")], [asked([{"type": "input_text", "text": "a"}])], True),
        ([asked("a")], [{**asked("a"), "role": "assistant"}], False),
        ([asked("a"), asked("b")], [asked("ab")], False),
    ],
)  # fmt: skip
def test_what_means_the_same_to_a_model(first: list[Any], second: list[Any], same: bool) -> None:
    one, other = (meaning({"model": "m"}, items, DEFAULT_MATCH) for items in (first, second))
    assert (differences(one, other) == []) is same


def test_instructions_mean_the_same_as_a_leading_system_message() -> None:
    leading = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "a"}]
    one = meaning({"model": "m"}, leading, DEFAULT_MATCH)
    other = meaning({"model": "m", "instructions": "Be brief."}, leading[1:], DEFAULT_MATCH)
    assert differences(one, other) == []
    later = meaning({"model": "m"}, [leading[1], leading[0]], DEFAULT_MATCH)
    assert differences(one, later) != []
