"""Tools that come back again and again are passed over; nothing else is, and nothing of the answer is touched."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ws_responses._protocol import echo as module
from langchain_ws_responses._protocol.echo import Echo


class Parser:
    """A JSON parser that notes how long the texts are."""

    def __init__(self) -> None:
        self.sizes: list[int] = []

    def __call__(self, raw: bytes) -> Any:
        self.sizes.append(len(raw))
        return json.loads(raw)


def tools(*names: str, size: int = 2000, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "name": name, "description": "d" * size, **more} for name in names]


def frame(sent: Any, *, output: Any = (), spaced: bool = False, **more: Any) -> bytes:
    response = {"id": "resp_1", "output": list(output), "tools": sent, "top_p": 1.0, **more}
    event = {"type": "response.completed", "response": response}
    return json.dumps(event, separators=None if spaced else (",", ":"), ensure_ascii=False).encode()


def without(raw: bytes) -> Any:
    data = json.loads(raw)
    del data["response"]["tools"]
    return data


def test_tools_that_come_back_are_passed_over() -> None:
    seen, parser = Echo(), Parser()
    first, second = frame(tools("f")), frame(tools("f"), output=[{"type": "message"}], id="resp_2")
    assert seen.parse(first, parser) == json.loads(first)
    assert parser.sizes[0] == len(first)
    parser.sizes.clear()
    assert seen.parse(second, parser) == without(second)
    assert len(parser.sizes) == 1
    assert parser.sizes[0] < 300


def test_other_tools_are_parsed() -> None:
    seen, parser = Echo(), Parser()
    for names in (["f"], ["g"], ["f", "g"], ["f" * 2]):
        raw = frame(tools(*names))
        assert seen.parse(raw, parser) == json.loads(raw)
    for names in (["f", "g"], ["f"], ["g"]):
        raw = frame(tools(*names))
        assert seen.parse(raw, parser) == without(raw)


@pytest.mark.parametrize(("size", "kept"), [(1023, False), (1024, True), (65_536, True), (65_537, False)])
def test_short_and_very_long_tools_are_not_kept(size: int, kept: bool) -> None:
    seen = Echo()
    around = len(b',"tools":') + len(json.dumps(tools("f", size=0), separators=(",", ":")))
    raw = frame(tools("f", size=size - around))
    assert seen.parse(raw, json.loads) == json.loads(raw)
    assert seen.parse(raw, json.loads) == (without(raw) if kept else json.loads(raw))


@pytest.mark.parametrize("sent", [[], None, "tools", ["f" * 2000], {"type": "f" * 2000}])
def test_what_is_no_list_of_tools_is_parsed(sent: Any) -> None:
    seen = Echo()
    raw = frame(sent)
    assert [seen.parse(raw, json.loads) for _ in range(2)] == [json.loads(raw)] * 2


def test_spaces_make_no_difference_to_the_answer() -> None:
    seen = Echo()
    raw = frame(tools("f"), spaced=True)
    assert [seen.parse(raw, json.loads) for _ in range(2)] == [json.loads(raw)] * 2


def test_tools_of_an_output_item_are_output() -> None:
    listed = {"type": "mcp_list_tools", "tools": tools("f")}
    seen = Echo()
    for output in ([listed], [listed, listed], [], [listed]):
        raw = frame(tools("f"), output=output)
        assert seen.parse(raw, json.loads) in (json.loads(raw), without(raw))
    # Known by now, and not those of the response.
    alone = frame([], output=[listed])
    assert seen.parse(alone, json.loads) == json.loads(alone)


def test_tools_behind_those_of_an_output_item_are_passed_over() -> None:
    listed = {"type": "mcp_list_tools", "name": "m", "tools": tools("other")}
    seen, parser = Echo(), Parser()
    raw = frame(tools("f"), output=[listed])
    seen.parse(raw, parser)
    parser.sizes.clear()
    assert seen.parse(raw, parser) == without(raw)
    assert len(parser.sizes) == 1


def test_behind_some_others_tools_are_passed_over_and_behind_too_many_parsed() -> None:
    listed = [{"type": "mcp_list_tools", "tools": tools(f"m{number}")} for number in range(8)]
    seen = Echo()
    raw = frame(tools("f"), output=listed)
    assert [seen.parse(raw, json.loads) for _ in range(2)] == [json.loads(raw)] * 2
    seen, fewer = Echo(), frame(tools("f"), output=listed[1:])
    assert seen.parse(fewer, json.loads) == json.loads(fewer)
    assert seen.parse(fewer, json.loads) == without(fewer)


def test_tools_behind_longer_ones_are_passed_over() -> None:
    raw = frame(tools("f"), output=[{"type": "m", "tools": tools("other", size=100_000)}])
    seen = Echo()
    assert seen.parse(raw, json.loads) == json.loads(raw)
    assert seen.parse(raw, json.loads) == without(raw)


def test_tools_inside_of_tools_belong_to_them() -> None:
    seen = Echo()
    raw = frame([{"type": "namespace", "name": "n", "tools": tools("f")}])
    assert seen.parse(raw, json.loads) == json.loads(raw)
    assert seen.parse(raw, json.loads) == without(raw)
    inner = frame(tools("f"))
    assert seen.parse(inner, json.loads) == json.loads(inner)


def test_a_text_that_looks_like_tools_is_text() -> None:
    seen = Echo()
    raw = frame(tools("f"))
    seen.parse(raw, json.loads)
    text = raw[raw.index(b',"tools":') : raw.index(b',"top_p"')].decode()
    quoting = frame(
        [], output=[{"type": "message", "text": text}, {"type": "message", "text": text + chr(92)}]
    )
    assert seen.parse(quoting, json.loads) == json.loads(quoting)


def test_of_two_equal_keys_the_last_one_counts() -> None:
    seen = Echo()
    raw = frame(tools("f"))
    seen.parse(raw, json.loads)
    twice = raw.replace(b',"top_p"', b',"tools":[1],"top_p"')
    assert seen.parse(twice, json.loads) == json.loads(twice)
    other_way = raw.replace(b',"tools":', b',"tools":[1],"tools":')
    assert seen.parse(other_way, json.loads) == without(raw)


@pytest.mark.parametrize("more", ["é 漢 😀", '"quote" \\ \n', "\u2028\x7f"])
def test_any_text_may_stand_in_tools(more: str) -> None:
    seen = Echo()
    raw = frame(tools("f", note=more), output=[{"text": more}])
    assert seen.parse(raw, orjson.loads) == json.loads(raw)
    assert seen.parse(raw, orjson.loads) == without(raw)


def test_a_broken_frame_is_broken_with_known_tools_too() -> None:
    seen = Echo()
    raw = frame(tools("f"))
    seen.parse(raw, json.loads)
    for broken in (raw[:-1], raw.replace(b'"top_p":1.0', b'"top_p":')):
        with pytest.raises(ValueError, match="line 1"):
            seen.parse(broken, json.loads)


@pytest.mark.parametrize(
    "around",
    ['{"a":1,"tools":%s}', '[{"a":1,"tools":%s}]', '{"response":[],"tools":%s}', '{"response":1,"tools":%s}'],
)
def test_tools_of_what_is_no_response_are_parsed(around: str) -> None:
    raw = (around % json.dumps(tools("f"), separators=(",", ":"))).encode()
    seen = Echo()
    # Looked for, and known from a response.
    assert seen.parse(raw, json.loads) == json.loads(raw)
    assert seen.parse(frame(tools("f")), json.loads) == json.loads(frame(tools("f")))
    assert seen.parse(frame(tools("f")), json.loads) == without(frame(tools("f")))
    assert seen.parse(raw, json.loads) == json.loads(raw)


@pytest.mark.parametrize("refused", [ValueError, RecursionError])
def test_what_only_the_other_parser_reads_is_read_by_it(
    refused: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise refused

    raw = frame(tools("f"))
    monkeypatch.setattr(module.json.JSONDecoder, "raw_decode", refuse)
    seen = Echo()
    assert [seen.parse(raw, orjson.loads) for _ in range(2)] == [orjson.loads(raw)] * 2


def test_no_more_of_a_frame_is_looked_at_than_would_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    look = json.JSONDecoder.raw_decode

    def measured(decoder: json.JSONDecoder, text: str, idx: int = 0) -> Any:
        looked_at.append(len(text))
        return look(decoder, text, idx)

    raw = frame(tools("f", "g", size=500_000), output=[{"type": "m", "tools": tools("f")}])
    monkeypatch.setattr(module.json.JSONDecoder, "raw_decode", measured)
    assert Echo().parse(raw, orjson.loads) == orjson.loads(raw)
    assert looked_at == [65_536, 65_536]


def test_the_last_used_are_kept() -> None:
    seen, parser = Echo(), Parser()
    raws = [frame(tools(f"f{number}")) for number in range(17)]
    for raw in raws:
        for _ in range(20):
            known = seen.parse(raw, json.loads)
        assert known == without(raw)
        seen.parse(raws[0], json.loads)
    for raw in (raws[0], *raws[2:]):
        parser.sizes.clear()
        seen.parse(raw, parser)
        assert parser.sizes[0] < 300
    parser.sizes.clear()
    seen.parse(raws[1], parser)
    assert parser.sizes[0] == len(raws[1])


def test_tools_that_never_come_back_cost_little(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[int] = []
    number = 0
    look = json.JSONDecoder.raw_decode

    def counted(decoder: json.JSONDecoder, text: str, idx: int = 0) -> Any:
        if idx:  # the beginning is the whole frame's
            looked_at.append(number)
        return look(decoder, text, idx)

    monkeypatch.setattr(module.json.JSONDecoder, "raw_decode", counted)
    seen = Echo()
    for number in range(160):
        raw = frame(tools(f"f{number}"))
        assert seen.parse(raw, orjson.loads) == json.loads(raw)
    # Eight at once, and then one in seventeen.
    assert looked_at == [*range(8), *range(24, 160, 17)]
    # Those that do come back are found nevertheless.
    lasting = frame(tools("lasting"))
    results = [seen.parse(lasting, orjson.loads) for _ in range(20)]
    assert results[-1] == without(lasting)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["", "tools", ',"tools":[{', "é", chr(92)]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "tools", "response", "output"]), inner, max_size=3)
    ),
    max_leaves=8,
)
SETS = [tools("f", size=1100), tools("g", size=1100), tools("f", "g", size=600), [{"a": 1}], []]


@given(
    st.lists(
        st.tuples(JSON, st.sampled_from(SETS), st.booleans(), JSON),
        min_size=1,
        max_size=6,
    )
)
def test_what_comes_out_is_the_frame_or_the_frame_without_its_tools(
    frames: list[tuple[Any, Any, bool, Any]],
) -> None:
    seen = Echo()
    for before, sent, nested, after in frames:
        output = [before, {"type": "mcp_list_tools", "tools": sent}] if nested else [before]
        raw = frame(sent, output=output, metadata=after)
        assert seen.parse(raw, orjson.loads) in (json.loads(raw), without(raw))


def test_recorded_responses_are_read_the_same(streams_dir: Any) -> None:
    seen, passed_over = Echo(), 0
    for path in sorted(streams_dir.glob("*/*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            data = json.loads(line)
            event = data.get("event", data) if isinstance(data, dict) else {}
            if not isinstance(event.get("response"), dict):
                continue
            raw = orjson.dumps(event)
            for _ in range(2):
                found = seen.parse(raw, orjson.loads)
                if "tools" in event["response"] and "tools" not in found["response"]:
                    passed_over += 1
                    assert found == without(raw)
                else:
                    assert found == event
    assert passed_over > 10
