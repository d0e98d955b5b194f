"""Chunks made after a mould are those that langchain-openai's converter makes, in every respect."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from answers import VERSIONS, recorded, turn_with, turns_of
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai.chat_models.base import _convert_responses_chunk_to_generation_chunk

from langchain_ws_responses._langchain import chunks
from langchain_ws_responses._langchain.chunks import ChunkMaker
from langchain_ws_responses._langchain.events import event_of

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

Made = list[ChatGenerationChunk | str]


def ours(events: Iterable[dict[str, Any]], version: str | None) -> Made:
    maker = ChunkMaker(schema=None, output_version=version)
    made: Made = []
    for event in events:
        try:
            chunk = maker.chunk_of(event_of(copy.deepcopy(event)))
        except Exception as exc:
            return [*made, repr(exc)]
        if chunk is not None:
            made.append(chunk)
    return made


def theirs(events: Iterable[dict[str, Any]], version: str | None) -> Made:
    index = output_index = sub_index = -1
    seen: dict[str, int] = {}
    has_reasoning = False
    made: Made = []
    for event in events:
        try:
            index, output_index, sub_index, chunk = _convert_responses_chunk_to_generation_chunk(
                event_of(copy.deepcopy(event)),
                index,
                output_index,
                sub_index,
                metadata={},
                has_reasoning=has_reasoning,
                output_version=version,
                item_output_indices=seen,
            )
        except Exception as exc:
            return [*made, repr(exc)]
        if chunk is not None:
            has_reasoning = has_reasoning or "reasoning" in chunk.message.additional_kwargs
            made.append(chunk)
    return made


def everything(made: Made) -> list[Any]:
    """All that pydantic keeps of each chunk, as text, so that 1, 1.0 and True differ."""
    return [
        chunk
        if isinstance(chunk, str)
        else [
            (
                type(part),
                # The message of a chunk is the second part.
                repr(sorted((name, value) for name, value in part.__dict__.items() if name != "message")),
                sorted(part.__pydantic_fields_set__),
                part.__pydantic_extra__,
                part.__pydantic_private__,
            )
            for part in (chunk, chunk.message)
        ]
        for chunk in made
    ]


@pytest.mark.parametrize("version", [None, *VERSIONS])
@pytest.mark.parametrize("name", recorded())
def test_recorded_streams_give_the_converter_s_chunks(
    name: str, version: str | None, streams_dir: Path
) -> None:
    for turn in turns_of(name, streams_dir):
        events = [event for event in turn if event["type"] != "error"]
        assert everything(ours(events, version)) == everything(theirs(events, version))


_texts = st.sampled_from(
    ["", " ", "Hi", '{"a"', "{}", ' {"b": 1}', "[1", '"x"', "}", "12", "nul", "\\", "é\n"]
)
_indexes = st.integers(0, 2)
_ids = st.sampled_from(["item_1", "item_2", None])
_odd = st.sampled_from([None, 1, 1.5, True, ["x"], {"y": 1}])
_events = st.fixed_dictionaries(
    {
        "type": st.sampled_from(
            [
                "response.output_text.delta",
                "response.function_call_arguments.delta",
                "response.output_text.done",
            ]
        ),
        "delta": _texts,
        "output_index": _indexes,
        "content_index": _indexes,
        "item_id": _ids,
    }
)
_odd_events = st.builds(
    lambda event, name, value: {**event, name: value},
    _events,
    st.sampled_from(["delta", "output_index", "content_index", "item_id"]),
    _odd,
)


@settings(max_examples=150, deadline=None)
@given(events=st.lists(_events | _odd_events, max_size=8), version=st.sampled_from([None, *VERSIONS]))
def test_any_order_of_deltas_gives_the_converter_s_chunks(
    events: list[dict[str, Any]], version: str | None
) -> None:
    assert everything(ours(events, version)) == everything(theirs(events, version))


ITEMS = [
    {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Hello you", "annotations": []}],
    },
    {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "name": "f",
        "arguments": '{"a": 1}',
        "status": "completed",
    },
]


def test_the_comparison_sees_a_difference() -> None:
    turn = turn_with(ITEMS)
    changed = copy.deepcopy(turn)
    next(event for event in changed if event["type"] == "response.output_text.delta")["delta"] += "!"
    assert everything(ours(turn, None)) != everything(theirs(changed, None))


def test_only_the_first_delta_of_a_kind_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def converter(event: Any, *args: Any, **kwargs: Any) -> Any:
        asked.append(event.type)
        return _convert_responses_chunk_to_generation_chunk(event, *args, **kwargs)

    monkeypatch.setattr(chunks, "chunk_of_event", converter)
    place = {"output_index": 0, "content_index": 0, "item_id": "msg_1"}
    text = {"type": "response.output_text.delta", **place}
    arguments = {"type": "response.function_call_arguments.delta", **place}
    made = ours([{**kind, "delta": f"part {n}"} for kind in (text, arguments) for n in range(50)], None)
    assert len(made) == 100
    assert asked == [text["type"], arguments["type"]]


def test_chunks_of_a_mould_share_nothing() -> None:
    text = {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "msg_1"}
    first, second, third = ours([{**text, "delta": word} for word in ("a", "b", "c")], None)
    assert isinstance(second, ChatGenerationChunk)
    before = everything([first, third])
    for part in (second, second.message):
        for value in part.__dict__.values():
            if isinstance(value, list):
                value.append("changed")
            elif isinstance(value, dict):
                value["changed"] = True
        part.__pydantic_fields_set__.clear()
    second.message.response_metadata["changed"] = True
    assert everything([first, third]) == before
    assert everything(ours([{**text, "delta": "a"}], None)) == everything([first])
