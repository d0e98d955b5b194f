"""JSON for the wire: fast where it can be, and as forgiving as HTTP where it must be."""

from __future__ import annotations

import enum
import json
import math
import tracemalloc
from datetime import datetime, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from langchain_ws_responses._json import canonical, dumps, loads

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    # Lone: a pair of surrogates is read back as the one character that it stands for.
    | st.sampled_from(["\ud83d", "a\udc00"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


class Tool(BaseModel):
    """A model as users pass it: an alias, a field that was never set, a value with its own JSON form."""

    name: str
    in_: str = Field(alias="in")
    at: datetime = datetime(2026, 1, 2, tzinfo=timezone.utc)
    extra: int | None = None


@given(_JSON)
def test_what_is_written_is_read_back_by_the_standard_library(value: Any) -> None:
    assert json.loads(dumps(value)) == value
    assert json.loads(canonical(value)) == value


def test_the_text_is_compact_and_utf_8() -> None:
    assert dumps({"a": [1, "é"], "b": None}) == '{"a":[1,"é"],"b":null}'.encode()


def test_a_text_that_waits_holds_no_more_memory_than_it_needs() -> None:
    value = {"output": 4096 * "a"}
    dumps(value)
    tracemalloc.start()
    try:
        kept = [dumps(value) for _ in range(50)]
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1.1 * sum(map(len, kept))


@pytest.mark.parametrize(
    "value",
    [
        {"a": "\ud83d"},
        {"\udc00": 1},
        {"n": 2**64},
        {"n": -(2**80)},
        [2**64, {"b": "é", "a": None}],
    ],
)
def test_what_the_fast_writer_refuses_is_written_all_the_same(value: Any) -> None:
    assert json.loads(dumps(value)) == value
    assert json.loads(canonical(value)) == value
    assert b" " not in dumps(value)


@pytest.mark.parametrize("value", [{1: "a", "b": {2.5: None}}, {True: [1]}, {None: {"z": 1, "a": {3: 4}}}])
def test_keys_that_are_no_strings_are_written_as_over_http(value: Any) -> None:
    expected = json.dumps(value, separators=(",", ":"))
    assert dumps(value).decode() == expected
    assert json.loads(canonical(value)) == json.loads(expected)


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("text", ["null", ":null", "[null", ",null,", '":null,"', "x:nullx"])
def test_a_text_that_looks_like_null_is_none(text: str, number: float) -> None:
    assert (
        dumps({"a": text, text: [text]})
        == json.dumps({"a": text, text: [text]}, separators=(",", ":")).encode()
    )
    with pytest.raises(ValueError, match="Out of range float"):
        dumps({"a": text, text: [number, text]})


def test_nesting_beyond_the_fast_writer_is_written_all_the_same() -> None:
    value: Any = "core"
    for _ in range(300):
        value = {"a": [value]}
    assert json.loads(dumps(value)) == value
    assert json.loads(canonical(value)) == value


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: [x], lambda x: {"a": [{"b": x}]}, lambda x: [2**64, x]]
)
def test_a_float_that_json_does_not_have_is_refused_as_over_http(number: float, wrap: Any) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        dumps(wrap(number))
    # For hashing it is another value than null.
    assert canonical(wrap(number)) != canonical(wrap(None))
    assert canonical(wrap(number)) == canonical(wrap(number))


@pytest.mark.parametrize(
    "value",
    [
        {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        {"output": '{"found":null,"all":[null,1]}'},
        [None, 1.5, {"a": None}],
        None,
    ],
)
def test_schemas_and_outputs_with_null_take_the_fast_way(value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    written = json.dumps(value, separators=(",", ":")).encode()
    monkeypatch.delattr(json, "dumps")
    assert (dumps(value), canonical(value)) == (written, written)


@given(_JSON, st.sampled_from([math.nan, math.inf, -math.inf]), st.booleans())
def test_a_float_that_json_does_not_have_is_found_among_others(
    value: Any, number: float, first: bool
) -> None:
    both = [None, number, value] if first else {"a": value, "b": {"c": [None, number]}}
    with pytest.raises(ValueError, match="Out of range float"):
        dumps(both)


def test_null_and_the_word_null_are_written() -> None:
    assert dumps({"a": None, "b": "null"}) == b'{"a":null,"b":"null"}'
    moment = datetime(2026, 1, 2, tzinfo=timezone.utc)
    assert dumps({"a": None, "at": moment}) == b'{"a":null,"at":"2026-01-02T00:00:00+00:00"}'


def test_models_are_written_as_over_http() -> None:
    tool = Tool.model_validate({"name": "search", "in": "query"})
    expected = {"tools": [{"name": "search", "in": "query"}]}
    assert json.loads(dumps({"tools": [tool]})) == expected
    assert json.loads(canonical({"tools": [tool]})) == expected
    # Beside something that only the standard library can write too.
    assert json.loads(dumps({"tools": [tool], "n": 2**64})) == {**expected, "n": 2**64}
    with_date = Tool.model_validate({"name": "a", "in": "b", "at": "2026-01-02T00:00:00Z"})
    assert json.loads(dumps(with_date)) == {"name": "a", "in": "b", "at": "2026-01-02T00:00:00Z"}


def test_a_str_enum_is_its_value() -> None:
    class Effort(str, enum.Enum):
        LOW = "low"

    assert dumps({"effort": Effort.LOW}) == b'{"effort":"low"}'


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, {"a": b"bytes"}, {"f": print}, Tool],
    ids=["object", "set", "bytes", "function", "class"],
)
def test_what_has_no_json_form_is_a_type_error_that_names_the_type(value: Any) -> None:
    odd = value if not isinstance(value, dict) else next(iter(value.values()))
    for write in (dumps, canonical):
        with pytest.raises(TypeError, match=f"{type(odd).__name__} is not JSON serializable"):
            write(value)


def test_a_circle_is_a_value_error() -> None:
    circle: list[Any] = []
    circle.append(circle)
    for write in (dumps, canonical):
        with pytest.raises(ValueError, match="Circular"):
            write(circle)


def test_equal_data_has_one_canonical_text() -> None:
    assert canonical({"b": 1, "a": {"d": 2, "c": 3}}) == b'{"a":{"c":3,"d":2},"b":1}'
    assert canonical({"b": 2**64, "a": 1}) == canonical({"a": 1, "b": 2**64})


@given(_JSON, _JSON)
def test_different_data_has_different_canonical_texts(one: Any, other: Any) -> None:
    # The oracle is the standard library's own text, which tells 1, 1.0 and True apart.
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (canonical(one) == canonical(other)) is same


@given(_JSON)
def test_a_frame_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    text = json.dumps(value)
    try:
        expected = json.loads(text)
        read = loads(text)
    except ValueError:
        # A lone surrogate: not valid for the fast reader.
        assert "\\ud" in text
        return
    assert read == expected or any(abs(number) >= 2**63 for number in numbers(expected))
    assert loads(text.encode()) == read


def numbers(value: Any) -> list[float]:
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers(item)]
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [value] if isinstance(value, (int, float)) else []


@pytest.mark.parametrize("text", [b"", b"{", b"nul", b"NaN", b'{"a":\xff}', "{'a':1}", b"[" * 5000])
def test_what_is_not_json_is_a_value_error(text: bytes | str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        loads(text)
