"""Wire items, digests and histories, and that nothing remembered outlives an edit."""

from __future__ import annotations

import copy
import gc
import json
import threading
from typing import TYPE_CHECKING, Any

import pytest
from answers import VERSIONS, invoked, recorded, streamed, turns_of
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_openai.chat_models.base import _construct_responses_api_input

from langchain_ws_responses._langchain import messages as module
from langchain_ws_responses._langchain.meaning import meaning_of_message
from langchain_ws_responses._langchain.messages import digest_of, history_of, instructions_of, items_of
from langchain_ws_responses._langchain.remembered import Table
from langchain_ws_responses._protocol.chain import ChainKey, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

STORES = (None, True, False)
KEY = ChainKey(b"a secret", ["scope"])


def langchain_items(message: BaseMessage, store: bool | None) -> list[dict[str, Any]]:
    """What langchain-openai makes of a copy: it changes some messages."""
    return _construct_responses_api_input([copy.deepcopy(message)], store=store)


def assert_as_langchain(message: BaseMessage) -> None:
    before = copy.deepcopy(message)
    for store in STORES:
        items = items_of(message, store=store)
        assert items == langchain_items(before, store)
        assert items_of(message, store=store) == items
    assert message == before
    assert message.__dict__ == before.__dict__


# --- Items: as langchain-openai converts them -------------------------------------------------------------

_text = st.text(max_size=20)
_kwargs = st.fixed_dictionaries(
    {},
    optional={
        "name": _text,
        "type": st.sampled_from(["computer_call_output", "other"]),
        "acknowledged_safety_checks": st.just([{"id": "sc_1", "code": "c", "message": "m"}]),
        "__openai_role__": st.sampled_from(["system", "developer", "user"]),
        "tool_calls": st.just([]),
    },
)
_input_blocks = st.lists(
    st.one_of(
        st.builds(lambda text: {"type": "text", "text": text}, _text),
        st.builds(lambda text: {"type": "input_text", "text": text}, _text),
        st.just({"type": "text", "text": "cached", "prompt_cache_breakpoint": True}),
        st.just({"type": "text", "text": "cached", "extras": {"prompt_cache_breakpoint": True}}),
        st.just({"type": "image_url", "image_url": {"url": "https://e.example/a.png", "detail": "low"}}),
        st.just({"type": "image", "base64": "aGk=", "mime_type": "image/png"}),
        st.just({"type": "input_image", "image_url": "data:image/png;base64,aGk="}),
        st.just({"type": "file", "file": {"file_id": "file_1"}}),
    ),
    max_size=3,
)
_plain = st.one_of(
    st.builds(HumanMessage, content=_text, additional_kwargs=_kwargs, name=st.none() | _text),
    st.builds(SystemMessage, content=_text, additional_kwargs=_kwargs, name=st.none() | _text),
    st.builds(
        ToolMessage,
        content=_text,
        additional_kwargs=_kwargs,
        tool_call_id=_text,
        name=st.none() | _text,
        status=st.sampled_from(["success", "error"]),
        artifact=st.none() | st.lists(st.integers()),
    ),
)
_rich = st.one_of(
    st.builds(HumanMessage, content=_input_blocks, additional_kwargs=_kwargs),
    st.builds(SystemMessage, content=_input_blocks),
    st.builds(ToolMessage, content=_input_blocks, additional_kwargs=_kwargs, tool_call_id=_text),
)


@settings(max_examples=150, deadline=None)
@given(_plain | _rich)
def test_items_are_those_of_langchain(message: BaseMessage) -> None:
    assert_as_langchain(message)


@pytest.mark.parametrize(
    "message",
    [
        ChatMessage("hi", role="critic"),
        FunctionMessage("4", name="add"),
        AIMessage("hi"),
        AIMessage("", tool_calls=[{"name": "f", "args": {"ä": 1}, "id": "call_1"}]),
        AIMessage(
            "",
            invalid_tool_calls=[
                {"type": "invalid_tool_call", "name": "f", "args": "{", "id": "call_1", "error": "e"}
            ],
        ),
        AIMessage(
            "",
            additional_kwargs={
                "tool_calls": [
                    {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
                ]
            },
        ),
        AIMessage(["a", {"type": "text", "text": "b"}]),
        AIMessage([{"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}]),
        AIMessageChunk(
            content=[{"type": "text", "text": "b", "index": 0}],
            tool_call_chunks=[
                {"type": "tool_call_chunk", "name": "f", "args": "{}", "id": "call_1", "index": 1}
            ],
        ),
        ToolMessage([{"type": "custom_tool_call_output", "output": "ok"}], tool_call_id="call_1"),
        ToolMessage(
            "data:image/png;base64,aGk=",
            tool_call_id="call_1",
            additional_kwargs={
                "type": "computer_call_output",
                "acknowledged_safety_checks": [{"id": "sc_1"}],
            },
        ),
        ToolMessage(
            [{"type": "non_standard", "value": {"type": "computer_call_output", "output": {}}}],
            tool_call_id="call_1",
            additional_kwargs={"acknowledged_safety_checks": [{"id": "sc_1"}]},
        ),
        HumanMessage([{"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}]),
    ],
    ids=lambda message: f"{message.type}-{str(message.content)[:20]}",
)
def test_less_common_messages_are_converted_as_langchain_does(message: BaseMessage) -> None:
    assert_as_langchain(message)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", recorded())
def test_recorded_answers_are_converted_as_langchain_does(name: str, version: str, streams_dir: Path) -> None:
    seen = 0
    for turn in turns_of(name, streams_dir):
        if turn[-1]["type"] == "response.completed":
            seen += 1
            assert_as_langchain(invoked(turn, version))
            assert_as_langchain(streamed(turn, version))
    assert seen or name == "ws_live_gateway_rejects_steering"


class Unwalked(str):
    """Text that nobody may look at character by character."""

    __slots__ = ()

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("walked through the text")


@pytest.mark.parametrize("kwargs", [{}, {"type": "computer_call_output"}])
def test_a_tool_s_output_is_not_walked_through(kwargs: dict[str, Any]) -> None:
    message = ToolMessage("", tool_call_id="call_1", additional_kwargs=kwargs)
    message.content = Unwalked("x" * 100)
    expected = langchain_items(ToolMessage("x" * 100, tool_call_id="call_1", additional_kwargs=kwargs), None)
    assert items_of(message, store=None) == expected
    assert digest_of(message)


def test_what_langchain_refuses_is_refused() -> None:
    with pytest.raises(ValueError, match="additional_tools"):
        items_of(HumanMessage([{"type": "additional_tools", "tools": []}]), store=None)


# --- Memory -----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _fresh_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_table", Table(65_536))


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The types of the messages that are converted, in order."""
    seen: list[str] = []
    convert = module.convert

    def counted(message: BaseMessage) -> list[dict[str, Any]]:
        seen.append(message.type)
        return convert(message)

    monkeypatch.setattr(module, "convert", counted)
    return seen


def test_a_message_is_converted_and_hashed_once(conversions: list[str]) -> None:
    content: Any = [{"type": "text", "text": "a"}]
    messages = [HumanMessage(content), ToolMessage(content, tool_call_id="call_1"), SystemMessage(content)]
    first = history_of(messages)
    items = [items_of(message, store=None) for message in messages]
    again = history_of(messages)
    assert (again.digests, again.head, again.text_head) == (first.digests, first.head, first.text_head)
    assert list(again.links) == list(first.links) == []
    assert all(items_of(message, store=False) is item for message, item in zip(messages, items, strict=True))
    assert conversions == ["human", "tool", "system"]


def test_a_text_is_hashed_once_and_nothing_is_kept_of_its_items(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[BaseMessage] = []
    make = module._hash
    monkeypatch.setattr(
        module, "_hash", lambda message, entry: (hashed.append(message), make(message, entry))[1]
    )
    messages = [HumanMessage("a"), ToolMessage("b", tool_call_id="call_1"), SystemMessage("c")]
    for _ in range(2):
        assert history_of(messages).digests == [
            digest_of(message.model_copy(deep=True)) for message in messages
        ]
        assert [items_of(message, store=None) for message in messages] == [
            langchain_items(message, None) for message in messages
        ]
    assert [sum(message is seen for seen in hashed) for message in messages] == [1, 1, 1]
    assert {entry.items for entry in module._table.values()} == {None}


def test_conversations_that_grow_convert_only_what_is_new(conversions: list[str]) -> None:
    messages: list[BaseMessage] = [HumanMessage("a")]
    for number in range(5):
        history_of(messages)
        messages.append(ToolMessage(str(number), tool_call_id="call_1"))
    assert conversions == ["human", "tool", "tool", "tool", "tool"]


def test_every_way_a_conversation_changes_is_seen() -> None:
    said = [HumanMessage(str(number)) for number in range(9)]
    conversations = [
        said[:4],
        said[:6],
        said[:6],  # the same again
        said[:3],  # back to an earlier message
        said[:4] + said[6:],  # a sibling
        said[:4] + said[7:],  # and another
        said[2:6],  # the oldest are gone
        said[3:7],
        [said[8], *said[:6]],  # a new first message
        said[:2] + said[3:6],  # one is gone from the middle
        [said[1], said[0], *said[2:6]],
        [],
        [said[3]] * 3,
    ]
    for messages in conversations:
        expected = [digest_of(HumanMessage(message.text)) for message in messages]
        assert history_of(messages).digests == expected


def test_a_prompt_made_anew_leaves_the_rest_known(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[BaseMessage] = [HumanMessage("a"), HumanMessage("b")]
    history_of([SystemMessage("It is 1 pm."), *messages])
    looked_at: list[BaseMessage] = []
    look = module._entry_of
    monkeypatch.setattr(module, "_entry_of", lambda message: (looked_at.append(message), look(message))[1])
    prompt, newest = SystemMessage("It is 2 pm."), HumanMessage("c")
    history_of([prompt, *messages, newest])
    assert {id(message) for message in looked_at} == {id(prompt), id(newest)}


def test_old_messages_are_compared_in_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    messages: list[BaseMessage] = [HumanMessage("0")]
    looked_at: list[str] = []
    look = module._entry_of
    monkeypatch.setattr(
        module, "_entry_of", lambda message: (looked_at.append(message.text), look(message))[1]
    )
    for number in range(1, 5):
        history_of(messages)
        messages = [*messages, HumanMessage(str(number))]
    assert looked_at == ["0", "1", "2", "3"]


def test_a_turn_goes_on_from_the_fingerprint_of_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[ChainKey] = []
    hasher = ChainKey.hasher
    monkeypatch.setattr(ChainKey, "hasher", lambda key: (begun.append(key), hasher(key))[1])
    messages: list[BaseMessage] = [SystemMessage("s"), HumanMessage("0")]
    prints = []
    for number in range(1, 5):
        prints.append(history_of(messages).fingerprint(KEY, len(messages)))
        messages = [*messages, HumanMessage(str(number))]
    assert begun == [KEY]
    digests = [digest_of(message) for message in messages]
    assert prints == [KEY.fingerprint(digests[1:stop]) for stop in range(2, 6)]


def test_a_conversation_that_was_parted_has_a_fingerprint_for_each_part() -> None:
    shared: list[BaseMessage] = [HumanMessage("0"), HumanMessage("1")]
    history_of(shared).fingerprint(KEY, 2)
    for text in ("this", "that", "this"):
        history = history_of([*shared, HumanMessage(text), HumanMessage("and so on")])
        assert history.fingerprint(KEY, 4) == KEY.fingerprint(history.digests)


def test_what_is_kept_of_a_conversation_is_kept_once() -> None:
    messages: list[BaseMessage] = [HumanMessage("0")]
    for number in range(1, 9):
        history_of(messages)
        messages = [*messages, HumanMessage(str(number))][-5:]
    runs = [entry.run for entry in module._table.values() if entry.run is not None]
    assert [len(run.digests) for run in runs] == [5]


def _answer() -> AIMessage:
    arguments = {"deep": [{"n": 1, "flag": True, "x": None}]}
    call = {"type": "function_call", "call_id": "call_1", "name": "f", "id": "fc_1"}
    return AIMessage(
        content=[
            {"type": "text", "text": "Hi", "annotations": [{"type": "file_path", "index": 1}]},
            {**call, "arguments": json.dumps(arguments)},
        ],
        tool_calls=[{"name": "f", "args": arguments, "id": "call_1"}],
        response_metadata={"id": "resp_1", "model_provider": "openai"},
        additional_kwargs={"refusal": "no", "list": [1]},
    )


def _v0() -> AIMessage:
    return AIMessage(content=[{"type": "text", "text": "Hi"}], id="msg_1", response_metadata={"id": "resp_1"})


def _by_hand() -> AIMessage:
    return AIMessage(content=[{"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}"}])


def _set(path: str, value: Any) -> Callable[[Any], None]:
    """An edit in place: `path` is Python after the message's name."""

    def edit(message: Any) -> None:
        exec(f"message.{path} = value", {"message": message, "value": value})  # noqa: S102

    edit.__name__ = f"{path}={value!r}"
    return edit


EDITS = [
    (lambda: HumanMessage("a"), _set("content", "b")),
    (lambda: HumanMessage([{"type": "text", "text": "a"}]), _set("content[0]['text']", "b")),
    (
        lambda: HumanMessage([{"type": "image_url", "image_url": {"url": "a"}}]),
        _set("content[0]['image_url']['url']", "b"),
    ),
    (lambda: SystemMessage("a"), _set("additional_kwargs['__openai_role__']", "developer")),
    (lambda: ToolMessage("a", tool_call_id="1"), _set("tool_call_id", "2")),
    (
        lambda: ToolMessage("a", tool_call_id="1"),
        _set("additional_kwargs['type']", "computer_call_output"),
    ),
    (_answer, _set("content[0]['text']", "Bye")),
    (_answer, _set("content[0]['annotations'][0]['index']", 2)),
    (_answer, _set("content[0]['annotations'][0]['index']", True)),
    (_answer, _set("content[0]['annotations'][0]['index']", 1.0)),
    (_answer, _set("tool_calls[0]['args']['deep'][0]['n']", 2)),
    (_answer, _set("tool_calls[0]['args']['deep'][0]['n']", True)),
    (_answer, _set("tool_calls[0]['args']['deep'][0]['n']", 1.0)),
    (_answer, _set("tool_calls[0]['args']['deep'][0]['flag']", 1)),
    (_answer, _set("tool_calls[0]['args']['deep'][0]['x']", 0)),
    (_answer, _set("additional_kwargs['refusal']", "yes")),
    (_v0, _set("response_metadata['id']", None)),
    (_v0, _set("id", "lc_1")),
    (_by_hand, _set("response_metadata['id']", "resp_1")),
    (_by_hand, _set("response_metadata['model_provider']", "openai")),
]


@pytest.mark.parametrize(("make", "edit"), EDITS, ids=lambda value: value.__name__)
def test_an_edit_in_place_is_noticed(
    make: Callable[[], BaseMessage], edit: Callable[[BaseMessage], None]
) -> None:
    message = make()
    digest_of(message)
    for store in STORES:
        items_of(message, store=store)
    edit(message)
    # A message that never was remembered tells what is right.
    fresh = message.model_copy(deep=True)
    assert digest_of(message) == digest_of(fresh)
    for store in STORES:
        # As JSON: to Python, 1, 1.0 and True are the same.
        assert json.dumps(items_of(message, store=store)) == json.dumps(items_of(fresh, store=store))
    untouched = make()
    assert (digest_of(message), json.dumps(items_of(message, store=None))) != (
        digest_of(untouched),
        json.dumps(items_of(untouched, store=None)),
    )


@pytest.mark.parametrize("grows", [0, 1, 3])
@pytest.mark.parametrize(("make", "edit"), EDITS, ids=lambda value: value.__name__)
def test_an_edit_in_the_middle_of_a_conversation_is_noticed(
    make: Callable[[], BaseMessage], edit: Callable[[BaseMessage], None], grows: int
) -> None:
    message = make()
    messages: list[BaseMessage] = [SystemMessage("s"), HumanMessage("a"), message, HumanMessage("b")]
    first = history_of(messages)
    before = first.digests
    assert first.fingerprint(KEY, 4) == KEY.fingerprint(before[1:])
    messages += [HumanMessage(str(number)) for number in range(grows)]
    assert history_of(messages).digests[:4] == before
    edit(message)
    after = history_of(messages).digests
    assert after == [digest_of(each.model_copy(deep=True)) for each in messages]
    # And once more, from what the look at the edited one left.
    again = history_of(messages)
    assert again.digests == after
    assert again.fingerprint(KEY, len(after)) == KEY.fingerprint(after[1:])


def test_metadata_may_grow_without_a_new_conversion() -> None:
    message = _answer()
    items = items_of(message, store=None)
    message.response_metadata["openai_chain"] = {"v": 1}
    message.response_metadata["transport"] = {"kind": "websocket"}
    assert items_of(message, store=None) is items
    assert list(history_of([message]).links) == [(0, {"v": 1})]


class Incomparable:
    """Like an array: a comparison has no truth."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("ambiguous")

    __hash__ = None  # type: ignore[assignment]


def test_artifacts_of_any_class_do_no_harm(conversions: list[str]) -> None:
    message = ToolMessage("a", tool_call_id="1", artifact=Incomparable())
    first = digest_of(message)
    assert digest_of(message) == first
    assert conversions == ["tool"]
    message.artifact = Incomparable()
    assert digest_of(message) == first
    assert conversions == ["tool", "tool"]


@pytest.mark.parametrize(
    "foreign", [{1: "a"}, ("a",), {"a"}, Incomparable()], ids=lambda value: type(value).__name__
)
def test_what_cannot_be_watched_is_converted_every_time(foreign: Any, conversions: list[str]) -> None:
    message = HumanMessage("a", additional_kwargs={"foreign": foreign})
    assert digest_of(message) == digest_of(message) == digest_of(HumanMessage("a"))
    assert conversions == ["human", "human", "human"]
    assert id(message) not in module._table


def test_the_parsed_object_of_an_answer_is_not_in_the_way() -> None:
    message = AIMessage([{"type": "text", "text": "{}"}], additional_kwargs={"parsed": Incomparable()})
    assert items_of(message, store=None) is items_of(message, store=None)


def test_dead_messages_are_forgotten() -> None:
    message = HumanMessage("a")
    digest_of(message)
    assert len(module._table) == 1
    del message
    gc.collect()
    assert module._table == {}


def test_the_memory_is_bounded_and_the_oldest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._table, "most", 3)
    messages = [HumanMessage(str(number)) for number in range(5)]
    history_of(messages)
    assert list(module._table) == [id(message) for message in messages[2:]]
    assert history_of(messages).digests == [digest_of(HumanMessage(str(number))) for number in range(5)]


def test_threads_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._table, "most", 7)
    messages = [HumanMessage(str(number % 20)) for number in range(60)]
    expected = [digest_of(message) for message in messages]
    found: list[Any] = []

    def work() -> None:
        for _ in range(40):
            found.append(history_of([message.model_copy() for message in messages]).digests == expected)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 160
    assert len(module._table) <= 7


# --- Digests and histories ----------------------------------------------------------------------------------


def test_an_answer_s_digest_is_that_of_its_meaning() -> None:
    message = _answer()
    assert digest_of(message) == digest(meaning_of_message(message))


def test_every_other_digest_is_that_of_the_wire_items() -> None:
    said = HumanMessage("Ähm", name="ann", id="1")
    assert digest_of(said) == digest_of(HumanMessage("Ähm"))
    others = [
        HumanMessage("ähm"),
        SystemMessage("Ähm"),
        ToolMessage("Ähm", tool_call_id="1"),
        AIMessage("Ähm"),
        HumanMessage([{"type": "text", "text": "Ähm"}]),
    ]
    assert digest_of(said) not in [digest_of(message) for message in others]
    wire = b'[{"content":"\xc3\x84hm","role":"user","type":"message"}]'
    assert digest_of(said) == digest(b"input\n" + wire)


def test_a_history_holds_what_the_plan_looks_at() -> None:
    link = {"v": 1, "id": "resp_2"}
    messages = [
        SystemMessage("s"),
        SystemMessage("t"),
        HumanMessage("a"),
        AIMessage("b", response_metadata={"openai_chain": "not a mapping"}),
        SystemMessage("u"),
        AIMessage("c"),
        HumanMessage("d"),
        AIMessage("e", response_metadata={"openai_chain": link}),
        HumanMessage("f"),
    ]
    history = history_of(messages)
    assert history.digests == [digest_of(message) for message in messages]
    assert history.head == 2
    # Newest first, and as often as somebody asks.
    for _ in range(2):
        assert list(history.links) == [(7, link), (5, None), (3, None)]
    assert history.text_head
    del messages[7].response_metadata["openai_chain"]
    assert next(iter(history_of(messages).links)) == (7, None)


def test_an_empty_history_and_one_of_instructions_only() -> None:
    assert history_of([]).digests == []
    assert history_of([]).head == 0
    assert history_of([SystemMessage("s")]).head == 1
    assert instructions_of([]) == ""


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Be kind.", "Be kind."),
        ([{"type": "text", "text": "Be"}, {"type": "input_text", "text": "kind."}], "Be\n\nkind."),
        ([{"type": "text", "text": "Be kind.", "id": "1", "extras": {"a": 1}}], "Be kind."),
        ([], ""),
        ([{"type": "text", "text": "cached", "prompt_cache_breakpoint": {}}], None),
        ([{"type": "text", "text": "cached", "extras": {"prompt_cache_breakpoint": {}}}], None),
        ([{"type": "image_url", "image_url": {"url": "u"}}], None),
        ([{"type": "additional_tools", "tools": []}], None),
    ],
)
def test_only_plain_system_text_can_be_instructions(content: Any, text: str | None) -> None:
    messages = [SystemMessage("First."), SystemMessage(content), HumanMessage("a"), SystemMessage("later")]
    assert history_of(messages).text_head is (text is not None)
    if text is not None:
        assert instructions_of(messages) == "\n\n".join(part for part in ("First.", text) if part)
