"""Our objects behave for langchain-openai as those that a real client builds from the same bytes."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, get_args

import openai
import pytest
from answers import STREAMS, VERSIONS, answer_of, http_client, recorded, turn_with, turns_of
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_openai.chat_models.base import (
    _construct_lc_result_from_responses_api,
    _convert_responses_chunk_to_generation_chunk,
)
from openai._models import construct_type
from openai.lib._parsing._responses import parse_response
from openai.types.responses import (
    Response,
    ResponseOutputItem,
    ResponseStreamEvent,
    ResponseTextDeltaEvent,
)
from pydantic import BaseModel

from langchain_ws_responses._langchain.events import (
    LightEvent,
    event_of,
    item_of,
    light_response_of,
    response_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class Sdk:
    """Builds objects as the SDK does, for single events."""

    @staticmethod
    def event(data: Any) -> Any:
        return construct_type(type_=ResponseStreamEvent, value=copy.deepcopy(data))

    @staticmethod
    def response(data: Any) -> Any:
        return construct_type(type_=Response, value=copy.deepcopy(data))


def exactly(value: Any) -> str:
    """A value as text, so that 1, 1.0 and True differ."""
    return json.dumps(value, sort_keys=True, default=repr)


def chunks_of(events: Iterable[Any], version: str) -> list[str]:
    """What langchain-openai makes of events, one entry each; the last one may be its exception."""
    index = output_index = sub_index = -1
    seen: dict[str, int] = {}
    made: list[str] = []
    for event in events:
        try:
            index, output_index, sub_index, chunk = _convert_responses_chunk_to_generation_chunk(
                event,
                index,
                output_index,
                sub_index,
                metadata={},
                output_version=version,
                item_output_indices=seen,
            )
        except Exception as exc:
            made.append(f"{type(exc).__name__}: {exc}")
            break
        made.append(exactly((index, output_index, sub_index, chunk and chunk.message.model_dump())))
    return made


def result_of(response: Any, version: str, schema: Any = None) -> str:
    """What langchain-openai makes of a whole response."""
    try:
        result = _construct_lc_result_from_responses_api(response, schema=schema, output_version=version)
    except Exception as exc:
        return f"{type(exc).__name__}: {exc}"
    return exactly(result.generations[0].message.model_dump())


def client_for(turn: list[dict[str, Any]]) -> openai.OpenAI:
    return openai.OpenAI(api_key="test", http_client=http_client(turn))


@pytest.mark.parametrize("name", recorded())
def test_recorded_streams_give_the_chunks_that_the_sdk_gives(name: str, streams_dir: Path) -> None:
    for turn in turns_of(name, streams_dir):
        # The SDK's stream raises these itself, as our client does; they never reach langchain-openai.
        events = [event for event in turn if event["type"] != "error"]
        stream = client_for(events).responses.create(model="gpt-test", input="hello", stream=True)
        theirs = list(stream)
        assert len(theirs) == len(events)
        for version in VERSIONS:
            ours = [event_of(copy.deepcopy(event)) for event in events]
            assert chunks_of(ours, version) == chunks_of(theirs, version)


@pytest.mark.parametrize("name", recorded())
def test_recorded_answers_give_the_message_that_the_sdk_gives(name: str, streams_dir: Path) -> None:
    for answer in filter(None, map(answer_of, turns_of(name, streams_dir))):
        last = {"type": "response.completed", "response": answer}
        theirs = client_for([last]).responses.create(model="gpt-test", input="hello")
        for version in VERSIONS:
            expected = result_of(theirs, version)
            assert result_of(response_of(answer), version) == expected
            assert result_of(light_response_of(answer), version) == expected


def test_the_comparison_sees_differences() -> None:
    turn = turn_with([MESSAGE])
    changed = turn_with([{**MESSAGE, "content": [{**TEXT, "text": "Bye"}]}])
    for version in VERSIONS:
        ours = [chunks_of(map(event_of, events), version) for events in (turn, changed)]
        assert ours[0] != ours[1]
        results = [result_of(response_of(answer_of(events)), version) for events in (turn, changed)]
        assert results[0] != results[1]


TEXT = {"type": "output_text", "text": "Hi", "annotations": []}
MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [TEXT]}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "f",
    "arguments": '{"a": 1}',
    "status": "completed",
    "async": True,
}
PLAIN_CALL = {name: value for name, value in CALL.items() if name != "async"}
SUMMARY = {"type": "summary_text", "text": "Hm."}
REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [SUMMARY],
    "encrypted_content": "abc",
    "status": None,
}
UNKNOWN = {"type": "hologram_call", "id": "h_1", "beams": [{"angle": 1}], "content": [{"type": "beam"}]}


def _varied() -> list[dict[str, Any]]:
    """Events of each recorded type, once for each recording."""
    events: dict[str, dict[str, Any]] = {}
    for event in turn_with([MESSAGE, CALL, UNKNOWN]):
        events[f"invented {event['type']} {event.get('item', {}).get('type')}"] = event
    for path in STREAMS.glob("*"):
        for turn in turns_of(path.name, STREAMS) if path.is_dir() and path.name != "http_errors" else ():
            for event in turn:
                item = event.get("item") or {}
                events.setdefault(f"{event['type']} {item.get('type')}", event)
    return list(events.values())


VARIED = _varied()


def _without(event: dict[str, Any]) -> list[dict[str, Any]]:
    """The event with each single key missing, also from its item, part, response and their content."""
    variants = []
    for key in event:
        if key != "type":
            variants.append({name: value for name, value in event.items() if name != key})
        if isinstance(inner := event[key], dict):
            variants += [
                {**event, key: {name: value for name, value in inner.items() if name != gone}}
                for gone in inner
            ]
            variants += [{**event, key: {**inner, gone: None}} for gone in inner]
            for part in inner.get("output") or inner.get("content") or ():
                variants += [
                    {**event, key: {**inner, name: [{k: v for k, v in part.items() if k != gone}]}}
                    for name in ("output", "content")
                    if name in inner
                    for gone in (part if isinstance(part, dict) else ())
                ]
    return variants


@pytest.mark.parametrize(
    "event", VARIED, ids=lambda event: f"{event['type']} {(event.get('item') or {}).get('type', '')}"
)
def test_events_that_lack_a_key_are_taken_as_the_sdk_takes_them(event: dict[str, Any]) -> None:
    for variant in _without(event):
        if "type" not in (variant.get("item") or {"type": 1}):
            # The SDK takes such an item for a member of the union at random; so do we, by asking the SDK.
            assert type(event_of(variant).item) is type(Sdk.event(variant).item)
        ours, theirs = event_of(copy.deepcopy(variant)), Sdk.event(variant)
        assert chunks_of([ours], "responses/v1") == chunks_of([theirs], "responses/v1"), variant


_scalars = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-2, 2) | st.text(max_size=3)
_values = st.one_of(
    _scalars, st.lists(_scalars, max_size=2), st.dictionaries(st.text(max_size=3), _scalars, max_size=2)
)
_READ_FIELDS = (
    "id",
    "created_at",
    "error",
    "incomplete_details",
    "metadata",
    "model",
    "object",
    "service_tier",
    "status",
    "user",
    "text",
)


@settings(max_examples=150, deadline=None)
@given(
    changes=st.dictionaries(st.sampled_from((*_READ_FIELDS, "tools", "tool_choice", "new_key")), _values),
    gone=st.sets(st.sampled_from([*_READ_FIELDS[1:], "usage", "tools", "instructions"]), max_size=3),
)
def test_odd_responses_are_taken_as_the_sdk_takes_them(changes: dict[str, Any], gone: set[str]) -> None:
    for output in ([MESSAGE, CALL, UNKNOWN], [REASONING, MESSAGE, PLAIN_CALL]):
        answer = {**answer_of(turn_with(output)), **changes}
        answer = {name: value for name, value in answer.items() if name not in gone}
        for version in VERSIONS:
            expected = result_of(Sdk.response(answer), version)
            assert result_of(response_of(answer), version) == expected
            assert result_of(light_response_of(answer), version) == expected


_parts = st.lists(
    st.fixed_dictionaries(
        {"type": st.sampled_from(["output_text", "refusal", "summary_text", "reasoning_text", "other"])},
        optional={
            "text": _values,
            "annotations": _values,
            "refusal": _values,
            "parsed": _values,
            "extra": _values,
        },
    )
    | _scalars,
    max_size=2,
)
_ITEM_KEYS = (
    "id",
    "call_id",
    "name",
    "arguments",
    "status",
    "role",
    "phase",
    "content",
    "summary",
    "encrypted_content",
    "namespace",
    "async",
    "new_key",
)


# pydantic warns when an SDK object that was built around odd values is dumped.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@settings(max_examples=120, deadline=None)
@given(
    item=st.sampled_from([MESSAGE, PLAIN_CALL, REASONING]),
    changes=st.dictionaries(st.sampled_from(_ITEM_KEYS), _values | _parts, max_size=3),
    gone=st.sets(st.sampled_from(_ITEM_KEYS), max_size=2),
    usage=st.dictionaries(
        st.sampled_from(["input_tokens", "output_tokens", "total_tokens", "input_tokens_details", "new_key"]),
        _values,
        max_size=3,
    )
    | st.none(),
)
def test_odd_items_are_taken_as_the_sdk_takes_them(
    item: dict[str, Any], changes: dict[str, Any], gone: set[str], usage: dict[str, Any] | None
) -> None:
    odd = {name: value for name, value in {**item, **changes}.items() if name not in gone}
    answer = {**answer_of(turn_with([])), "output": [MESSAGE, odd], "usage": usage}
    for version in VERSIONS:
        assert result_of(light_response_of(answer), version) == result_of(Sdk.response(answer), version)
    for kind in ("response.output_item.added", "response.output_item.done"):
        event = {"type": kind, "item": odd, "output_index": 0, "sequence_number": 1}
        ours, theirs = event_of(copy.deepcopy(event)), Sdk.event(event)
        assert chunks_of([ours], "responses/v1") == chunks_of([theirs], "responses/v1")


class Answer(BaseModel):
    number: int


FORMAT = {
    "format": {
        "type": "json_schema",
        "name": "Answer",
        "schema": {"type": "object", "properties": {"number": {"type": "integer"}}},
        "strict": True,
    }
}
STRUCTURED = {
    **answer_of(turn_with([{**MESSAGE, "content": [{**TEXT, "text": '{"number": 7}'}]}])),
    "text": FORMAT,
    "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True}],
}


@pytest.mark.parametrize("schema", [Answer, {"title": "Answer"}])
def test_structured_output_is_parsed_as_from_the_sdk_s_response(schema: Any) -> None:
    for version in VERSIONS:
        ours = result_of(response_of(STRUCTURED), version, schema)
        assert ours == result_of(Sdk.response(STRUCTURED), version, schema)
        assert '"parsed"' in ours


def test_the_sdk_s_parser_takes_our_response() -> None:
    ours, theirs = (
        parse_response(text_format=Answer, input_tools=None, response=response)
        for response in (response_of(STRUCTURED), Sdk.response(STRUCTURED))
    )
    assert ours.output_parsed == Answer(number=7)
    for version in VERSIONS:
        assert result_of(ours, version) == result_of(theirs, version)


def test_events_are_of_the_sdk_s_classes_except_the_frequent_ones() -> None:
    members = get_args(get_args(ResponseStreamEvent)[0])
    kinds = [kind for member in members for kind in get_args(member.model_fields["type"].annotation)]
    assert len(kinds) == len(set(kinds)) > 50
    for member in members:
        for kind in get_args(member.model_fields["type"].annotation):
            event = event_of({"type": kind, "sequence_number": 1, "extra": "kept"})
            assert event.type == kind
            assert event.extra == "kept"
            assert isinstance(event, LightEvent if kind.endswith(".delta") else (member, LightEvent))
            for name in member.model_fields if isinstance(event, LightEvent) else ():
                assert hasattr(event, name)


def test_items_are_of_the_sdk_s_classes() -> None:
    members = get_args(get_args(ResponseOutputItem)[0])
    kinds = [kind for member in members for kind in get_args(member.model_fields["type"].annotation)]
    assert len(kinds) == len(set(kinds)) > 20
    for member in members:
        for kind in get_args(member.model_fields["type"].annotation):
            assert type(item_of({"type": kind})) is member


@pytest.mark.parametrize("item", [UNKNOWN, {"id": "x"}, {"type": ["list"]}, "text", None, []], ids=repr)
def test_items_of_unknown_types_are_what_the_sdk_makes_of_them(item: Any) -> None:
    ours, theirs = item_of(item), Sdk.response({"output": [item]}).output[0]
    assert type(ours) is type(theirs)
    assert ours == theirs
    if isinstance(item, dict):
        assert ours.to_dict(warnings=False) == theirs.to_dict(warnings=False)


def test_a_delta_has_the_fields_of_its_class_and_what_the_frame_adds() -> None:
    event = event_of({"type": "response.output_text.delta", "delta": "Hi", "obfuscation": "xyz"})
    assert (event.delta, event.obfuscation) == ("Hi", "xyz")
    for name in set(ResponseTextDeltaEvent.model_fields) - {"type", "delta"}:
        assert getattr(event, name) is None
    assert not hasattr(event, "item")
    assert repr(event) == (
        "ResponseTextDeltaEvent(type='response.output_text.delta', delta='Hi', obfuscation='xyz')"
    )


@pytest.mark.parametrize("data", [{"type": "codex.rate_limits", "plan": "x"}, {"plan": "x"}, {"type": 7}])
def test_events_of_unknown_types_are_plain_and_ignored(data: dict[str, Any]) -> None:
    event = event_of(dict(data))
    assert isinstance(event, LightEvent)
    assert event.type == data.get("type")
    assert not hasattr(event, "item")
    assert chunks_of([event], "responses/v1") == [exactly((-1, -1, -1, None))]


def test_what_the_service_echoes_is_left_out_and_what_is_new_is_kept() -> None:
    answer = {**STRUCTURED, "instructions": "Be kind.", "new_key": {"a": 1}, "store": False, "top_p": 1}
    before = copy.deepcopy(answer)
    response = response_of(answer)
    assert answer == before
    assert response.tools is None
    assert response.new_key == {"a": 1}
    assert response.store is False
    assert exactly(response.top_p) == "1.0"
    assert response.instructions == "Be kind."
    assert response_of({"id": "resp_2"}).to_dict() == {"id": "resp_2"}
    assert not hasattr(response_of({"id": "resp_2"}), "new_key")


def test_messages_share_the_texts_that_all_answers_say() -> None:
    call = {
        "type": "function_call",
        "id": "fc_1",
        "call_id": "call_1",
        "arguments": "{}",
        "status": "completed",
    }
    answer = {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-of-a-test",
        "status": "completed",
        "service_tier": "default",
        "output": [{**call, "name": "tool_of_a_test"}],
    }
    # Parsed anew, as each frame is: equal texts are different objects then.
    one, other = (light_response_of(json.loads(json.dumps(answer))) for _ in range(2))
    for name in ("model", "object", "service_tier", "status"):
        assert getattr(one, name) == answer[name]
        assert getattr(one, name) is getattr(other, name)
    for name in ("name", "status", "type"):
        assert getattr(one.output[0], name) is getattr(other.output[0], name)
    assert one.output[0].arguments is not other.output[0].arguments
