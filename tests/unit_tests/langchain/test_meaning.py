"""The meaning of an answer is the same in every shape, and another after every edit."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any, get_args

import pytest
from answers import VERSIONS, answer_of, invoked, messages_of, recorded, streamed, turn_with, turns_of
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage
from langchain_openai.chat_models.base import _construct_responses_api_input
from openai.types.responses import Response, ResponseOutputItem

from langchain_ws_responses._langchain.calls import made_by_provider
from langchain_ws_responses._langchain.meaning import HOSTED_TYPES, meaning_of_message, meaning_of_output

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

TEXT = {"type": "output_text", "text": "It is sunny.", "annotations": []}
MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [TEXT],
}
REFUSAL = {**MESSAGE, "id": "msg_2", "content": [{"type": "refusal", "refusal": "I cannot."}]}
CALL = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "weather",
    "arguments": '{"city": "Oslo", "days": 1}',
    "status": "completed",
}
OTHER_CALL = {**CALL, "id": "fc_2", "call_id": "call_2", "arguments": '{"city": "Rome", "days": 2}'}
CUSTOM = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_3", "name": "run", "input": "ls"}
REASONING = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}]}

HOSTED: dict[str, dict[str, Any]] = {
    "apply_patch_call": {
        "call_id": "call_p",
        "operation": {"type": "delete_file", "path": "a.txt"},
        "status": "completed",
    },
    "apply_patch_call_output": {"call_id": "call_p", "status": "completed", "output": "done"},
    "code_interpreter_call": {
        "code": "1",
        "container_id": "cntr_1",
        "outputs": [{"type": "logs", "logs": "1"}],
        "status": "completed",
    },
    "compaction": {"encrypted_content": "xyz"},
    "computer_call": {
        "call_id": "call_c",
        "action": {"type": "screenshot"},
        "pending_safety_checks": [],
        "status": "completed",
    },
    "file_search_call": {"queries": ["q"], "status": "completed", "results": None},
    "image_generation_call": {"result": "aGk=", "status": "completed", "output_format": "png"},
    "mcp_approval_request": {"arguments": "{}", "name": "tool", "server_label": "s"},
    "mcp_call": {"arguments": "{}", "name": "tool", "server_label": "s", "output": "done"},
    "mcp_list_tools": {"server_label": "s", "tools": [{"name": "tool", "input_schema": {}}]},
    "tool_search_call": {"arguments": {"query": "x"}, "execution": "server", "status": "completed"},
    "tool_search_output": {"execution": "server", "status": "completed", "tools": []},
    "web_search_call": {"action": {"type": "search", "query": "q"}, "status": "completed"},
}


def hosted(kind: str) -> dict[str, Any]:
    item_id = "ig_1" if kind == "image_generation_call" else f"item_{kind}"
    return {"type": kind, "id": item_id, **HOSTED[kind]}


@pytest.mark.parametrize("name", recorded())
def test_every_recorded_answer_means_the_same_in_every_shape(name: str, streams_dir: Path) -> None:
    finished = [turn for turn in turns_of(name, streams_dir) if answer_of(turn)]
    unfinished = name == "ws_live_gateway_rejects_steering"
    assert bool(finished) is not unfinished
    for turn in finished:
        expected = meaning_of_output(answer_of(turn)["output"])
        for shape, message in messages_of(turn):
            assert meaning_of_message(message) == expected, shape


@pytest.mark.parametrize("name", recorded())
def test_the_sdk_s_objects_mean_what_the_received_data_means(name: str, streams_dir: Path) -> None:
    answers = [answer for turn in turns_of(name, streams_dir) if (answer := answer_of(turn))]
    meanings = [meaning_of_output(answer["output"]) for answer in answers]
    assert meanings == [meaning_of_output(Response.construct(**answer).output) for answer in answers]


def test_the_meaning_is_what_the_answer_says() -> None:
    output = [REASONING, hosted("web_search_call"), MESSAGE, REFUSAL, CALL, CUSTOM]
    assert json.loads(meaning_of_output(output)) == [
        "It is sunny.",
        "I cannot.",
        [["weather", {"city": "Oslo", "days": 1}, "call_1"], ["run", {"__arg1": "ls"}, "call_3"]],
        [],
        [hosted("web_search_call")],
        [],
    ]


def test_a_listing_of_tools_does_not_count() -> None:
    expected = meaning_of_output([MESSAGE])
    assert meaning_of_output([hosted("mcp_list_tools"), MESSAGE]) == expected
    for shape, message in messages_of(turn_with([hosted("mcp_list_tools"), MESSAGE])):
        assert meaning_of_message(message) == expected, shape


@pytest.mark.parametrize("kind", sorted(HOSTED_TYPES))
def test_a_hosted_item_counts_in_every_shape(kind: str) -> None:
    expected = meaning_of_output([hosted(kind), MESSAGE])
    assert expected != meaning_of_output([MESSAGE])
    for shape, message in messages_of(turn_with([hosted(kind), MESSAGE])):
        assert meaning_of_message(message) == expected, shape


def test_items_that_langchain_drops_are_the_ones_that_do_not_count() -> None:
    """The SDK knows more types of items than langchain-openai keeps; a new one in either shows up here."""
    spoken = {"message", "function_call", "custom_tool_call", "reasoning"}
    known = {
        kind
        for cls in get_args(get_args(ResponseOutputItem)[0])
        for kind in get_args(cls.model_fields["type"].annotation)
    }
    kept = {
        kind
        for kind in known - spoken
        if "ig_7"
        in str(
            invoked(turn_with([{"type": kind, "id": "ig_7", **HOSTED.get(kind, {})}]), "responses/v1").content
        )
    }
    assert kept == HOSTED_TYPES | {"mcp_list_tools"}


_words = st.text(st.characters(codec="utf-8"), max_size=12)
_names = st.from_regex(r"[a-z]{1,8}", fullmatch=True)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | _words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def outputs(draw: Callable[[Any], Any]) -> list[dict[str, Any]]:
    """Output with ids as the service gives them: each once."""
    items: list[dict[str, Any]] = []
    kinds = st.sampled_from(["message", "call", "custom", "reasoning", "hosted"])
    for number, kind in enumerate(draw(st.lists(kinds, max_size=5))):
        if kind == "message":
            parts = draw(st.lists(_words, min_size=1, max_size=2))
            content = [{**TEXT, "text": part} for part in parts]
            items.append({**MESSAGE, "id": f"msg_{number}", "content": content})
        elif kind == "call":
            arguments = json.dumps(draw(st.dictionaries(_words, _json, max_size=3)))
            ids = {"id": f"fc_{number}", "call_id": f"call_{number}"}
            items.append({**CALL, **ids, "name": draw(_names), "arguments": arguments})
        elif kind == "custom":
            ids = {"id": f"ctc_{number}", "call_id": f"call_{number}"}
            items.append({**CUSTOM, **ids, "name": draw(_names), "input": draw(_words)})
        elif kind == "reasoning":
            items.append({**REASONING, "id": f"rs_{number}"})
        else:
            items.append({**hosted(draw(st.sampled_from(sorted(HOSTED_TYPES)))), "id": f"ig_{number}"})
    return items


@settings(max_examples=40, deadline=None)
@given(outputs())
def test_invented_answers_mean_the_same_in_every_shape(output: list[dict[str, Any]]) -> None:
    turn = turn_with(output)
    expected = meaning_of_output(output)
    for shape, message in messages_of(turn):
        assert meaning_of_message(message) == expected, shape


SAID = [REASONING, hosted("web_search_call"), MESSAGE, REFUSAL, CALL, OTHER_CALL]


def _text(message: AIMessage) -> None:
    block = next(block for block in message.content if block["type"] == "text" and block["text"])
    block["text"] = "It rains."


def _refusal(message: AIMessage) -> None:
    if "refusal" in message.additional_kwargs:
        message.additional_kwargs["refusal"] = "I will not."
        return
    blocks = [block.get("value", block) for block in message.content]
    next(block for block in blocks if block.get("type") == "refusal")["refusal"] = "I will not."


def _args(message: AIMessage) -> None:
    message.tool_calls[0]["args"] = {"city": "Oslo", "days": True}


def _name(message: AIMessage) -> None:
    message.tool_calls[0]["name"] = "forecast"


def _call_id(message: AIMessage) -> None:
    message.tool_calls[0]["id"] = "call_9"


def _order(message: AIMessage) -> None:
    message.tool_calls.reverse()


def _one_call_less(message: AIMessage) -> None:
    del message.tool_calls[1]


def _no_calls(message: AIMessage) -> None:
    message.tool_calls = []


def _invalid(message: AIMessage) -> None:
    message.invalid_tool_calls = [
        {"type": "invalid_tool_call", "name": "x", "args": "{", "id": "call_7", "error": None}
    ]


def _no_search(message: AIMessage) -> None:
    message.additional_kwargs.pop("tool_outputs", None)
    message.content = [block for block in message.content if "search" not in str(block)]


def _no_search_result(message: AIMessage) -> None:
    message.additional_kwargs.pop("tool_outputs", None)
    gone = ("server_tool_result", "web_search_call")
    message.content = [block for block in message.content if block["type"] not in gone]


EDITS = (
    _text,
    _refusal,
    _args,
    _name,
    _call_id,
    _order,
    _one_call_less,
    _no_calls,
    _invalid,
    _no_search,
    _no_search_result,
)


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_an_edit_changes_the_meaning_in_every_shape(edit: Callable[[AIMessage], None]) -> None:
    original = meaning_of_output(SAID)
    for shape, message in messages_of(turn_with(SAID)):
        assert meaning_of_message(message) == original, shape
        edit(message)
        assert meaning_of_message(message) != original, shape


@pytest.mark.parametrize("item", [CALL, CUSTOM], ids=["function", "custom"])
def test_a_call_that_is_edited_in_the_content_alone_means_what_no_output_does(item: dict[str, Any]) -> None:
    seen = set()
    for shape, message in messages_of(turn_with([item, MESSAGE, OTHER_CALL])):
        # In "v1" both are one object, as long as nothing has stored them.
        message.tool_calls = copy.deepcopy(message.tool_calls)
        original = meaning_of_message(message)
        for path in _leaves({"content": message.content}):
            if path[-1] not in ("arguments", "city", "input", "name"):
                continue
            edited = [_with_leaf(message, path, text) for text in ("[redacted]", "[gone]")]
            assert edited[0].tool_calls == edited[1].tool_calls == message.tool_calls
            meanings = {original, *map(meaning_of_message, edited)}
            # Two redactions are two things: what was sent of the one does not stand for the other.
            assert len(meanings) == 3, (shape, path)
            seen.add(path[-1])
    assert seen >= ({"arguments", "name", "city"} if item is CALL else {"input", "name"})


@pytest.mark.parametrize("version", VERSIONS)
def test_an_answer_without_one_of_its_calls_in_the_content_means_what_no_output_does(version: str) -> None:
    message = invoked(turn_with([CUSTOM, MESSAGE, {**CUSTOM, "call_id": "call_4"}]), version)
    original = meaning_of_message(message)
    message.content = message.content[:-1]
    assert len(message.tool_calls) == 2
    assert meaning_of_message(message) not in (original, meaning_of_output([CUSTOM, MESSAGE]))


CITED = {"type": "url_citation", "url": "http://u", "title": "t", "start_index": 0, "end_index": 1}
DETAILED = {
    "apply_patch_call": {"operation": {"type": "update_file", "path": "a.txt", "diff": "+b"}},
    "computer_call": {"action": {"type": "type", "text": "secret"}},
    "file_search_call": {
        "queries": ["q"],
        "results": [
            {"file_id": "f", "filename": "n", "score": 0.5, "text": "found", "attributes": {"a": "b"}}
        ],
    },
    "image_generation_call": {"result": "aGk=", "quality": "high", "revised_prompt": "a cat", "size": "1x1"},
    "mcp_approval_request": {"arguments": '{"who":"Ann"}'},
    "mcp_call": {
        "arguments": '{ "who" : "Ann" }',
        "output": None,
        "error": {"type": "http_error", "code": 403, "message": "no access"},
        "status": "failed",
    },
    "web_search_call": {"action": {"type": "open_page", "url": "http://u"}},
}


def _leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of all texts, but for those that say what a thing is and which."""
    if isinstance(value, str):
        yield path
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in ("type", "id", "call_id", "tool_call_id"):
                yield from _leaves(item, (*path, key))
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _leaves(item, (*path, number))


# What only says how a picture was made.
FORMAT = ("output_format", "quality", "size", "status")


def _with_leaf(message: AIMessage, path: tuple[Any, ...], text: str) -> AIMessage:
    edited = message.model_copy(deep=True)
    place: Any = {"content": edited.content, "additional_kwargs": edited.additional_kwargs}
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = text
    return edited


@pytest.mark.parametrize("kind", sorted(HOSTED_TYPES))
def test_whatever_is_redacted_that_would_be_sent_changes_the_meaning(kind: str) -> None:
    """What would be sent is what langchain-openai makes of the message."""
    cited = {**MESSAGE, "content": [{**TEXT, "annotations": [CITED]}]}
    for item in (hosted(kind), {**hosted(kind), **DETAILED.get(kind, {})}):
        for shape, message in messages_of(turn_with([item, cited])):
            seen = set()
            original = meaning_of_message(message)
            for path in _leaves({"content": message.content, "additional_kwargs": message.additional_kwargs}):
                if kind == "image_generation_call" and path[-1] in FORMAT:
                    continue
                edited = _with_leaf(message, path, "[redacted]")
                if sent(edited) != sent(message):
                    assert meaning_of_message(edited) != original, (shape, path)
                    seen.add(path)
            assert len(seen) > 1, shape


def sent(message: AIMessage) -> Any:
    """What goes on the wire, or the kind of error where langchain-openai cannot tell."""
    try:
        return [
            _construct_responses_api_input([message.model_copy(deep=True)], store=store)
            for store in (True, False)
        ]
    except Exception as exc:
        return type(exc)


@pytest.mark.parametrize("kind", sorted(DETAILED))
def test_details_of_hosted_items_mean_the_same_in_every_shape(kind: str) -> None:
    said = [{**hosted(kind), **DETAILED[kind]}, MESSAGE]
    for shape, message in messages_of(turn_with(said)):
        # "v1" loses the prompt that the picture was made from: sent in full.
        lost = kind == "image_generation_call" and shape.startswith("v1")
        assert (meaning_of_message(message) == meaning_of_output(said)) is not lost, shape


def test_citations_count() -> None:
    said = [{**MESSAGE, "content": [{**TEXT, "annotations": [CITED]}]}]
    assert meaning_of_output(said) != meaning_of_output([MESSAGE])
    for version in VERSIONS:
        assert meaning_of_message(invoked(turn_with(said), version)) == meaning_of_output(said)


def test_what_cannot_be_sent_means_nothing_that_was_answered() -> None:
    message = AIMessage([{"type": "text", "text": "Hi.", "annotations": ["no annotation"]}])
    assert sent(message) is TypeError
    assert json.loads(meaning_of_message(message))[4] == [None]


@pytest.mark.parametrize("version", VERSIONS)
def test_ids_names_and_reasoning_do_not_matter(version: str) -> None:
    said = [{**REASONING, "id": "rs_9"}, {**MESSAGE, "id": "msg_9"}, {**CALL, "id": "fc_9"}]
    message = invoked(turn_with(said), version)
    message.name = "researcher"
    message.id = "run-1"
    assert meaning_of_message(message) == meaning_of_output([MESSAGE, CALL])


def test_arguments_that_are_not_json_are_an_invalid_call() -> None:
    cut = {**CALL, "arguments": '{"city": "Os'}
    expected = meaning_of_output([cut])
    assert json.loads(expected)[2:4] == [[], [["weather", '{"city": "Os', "call_1"]]]
    assert expected != meaning_of_output([CALL])
    for version in VERSIONS:
        assert meaning_of_message(invoked(turn_with([cut]), version)) == expected
        # A stream repairs them, and nothing on the message tells that from an edit: sent in full.
        assert meaning_of_message(streamed(turn_with([cut]), version)) != expected


def test_empty_arguments_mean_no_arguments() -> None:
    said = [{**CALL, "arguments": ""}]
    for shape, message in messages_of(turn_with(said)):
        assert meaning_of_message(message) == meaning_of_output(said), shape


def test_control_characters_in_arguments_are_taken_as_langchain_takes_them() -> None:
    said = [{**CALL, "arguments": '{"city": "a\nb"}'}]
    assert json.loads(meaning_of_output(said))[2] == [["weather", {"city": "a\nb"}, "call_1"]]
    assert meaning_of_message(invoked(turn_with(said), "responses/v1")) == meaning_of_output(said)


@pytest.mark.parametrize("arguments", [None, "[1]", "7"])
def test_arguments_that_are_no_object_are_never_a_call(arguments: Any) -> None:
    assert json.loads(meaning_of_output([{**CALL, "arguments": arguments or None}]))[2] in (
        [],
        [["weather", {}, "call_1"]],
    )


def test_hand_written_calls_count_and_removed_ones_do_not() -> None:
    block = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": CALL["arguments"]}
    hand_written = AIMessage(content=[{"type": "text", "text": "Wait."}, block])
    assert not made_by_provider(hand_written)
    plain = AIMessage(content=[{"type": "text", "text": "Wait."}])
    assert meaning_of_message(hand_written) != meaning_of_message(plain)
    for removed in (
        AIMessage(content=[{"type": "text", "text": "Wait."}, {**block, "id": "fc_1"}]),
        AIMessage(
            content=[{"type": "text", "text": "Wait."}, block],
            response_metadata={"model_provider": "openai"},
        ),
        AIMessage(
            content=[
                {"type": "text", "text": "Wait."},
                {"type": "tool_call", "id": "call_1", "name": "w", "args": {}, "extras": {"item_id": "fc_1"}},
            ]
        ),
    ):
        assert made_by_provider(removed)
        assert meaning_of_message(removed) == meaning_of_message(plain)


def test_plain_text_means_the_same_as_text_blocks() -> None:
    expected = meaning_of_output([MESSAGE])
    assert meaning_of_message(AIMessage("It is sunny.")) == expected
    assert not made_by_provider(AIMessage("It is sunny."))
    blocks = ["It is ", {"type": "text", "text": None}, {"type": "output_text", "text": "sunny."}]
    assert meaning_of_message(AIMessage(blocks)) == expected


def test_reading_changes_nothing() -> None:
    for _, message in messages_of(turn_with([*SAID, CUSTOM])):
        before = copy.deepcopy(message)
        meaning_of_message(message)
        assert message == before
