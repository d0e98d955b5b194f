"""Answers whose `tool_calls` were edited: the original call is nowhere on the wire."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
from answers import VERSIONS, invoked, streamed, turn_with
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_openai.chat_models.base import _construct_responses_api_input
from pairs import socket_model

from langchain_ws_responses._langchain.messages import items_of
from langchain_ws_responses.testing import ResponsesServer
from langchain_ws_responses.testing import tool_call as call

if TYPE_CHECKING:
    from collections.abc import Callable

    from langchain_ws_responses import ConnectionManager

STORES = (None, True, False)


def langchain_items(message: BaseMessage, store: bool | None) -> list[dict[str, Any]]:
    """What langchain-openai makes of a copy: it changes some messages."""
    return _construct_responses_api_input([copy.deepcopy(message)], store=store)


REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "secret thoughts"}
MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "I will look.", "annotations": []}],
}
DELETE = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "call_1",
    "name": "delete",
    "arguments": '{"path": "/original"}',
    "status": "completed",
}
LIST = {**DELETE, "id": "fc_2", "call_id": "call_2", "name": "list", "arguments": '{"depth": 1}'}
CUSTOM = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_3", "name": "shell", "input": "rm -r"}
SAID = [REASONING, MESSAGE, DELETE, LIST]
TEXT_ITEM = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "I will look.", "annotations": []}],
}


def function_call(name: str, arguments: str, call_id: str) -> dict[str, Any]:
    return {"type": "function_call", "name": name, "arguments": arguments, "call_id": call_id}


DELETE_ITEM = function_call("delete", '{"path": "/original"}', "call_1")
LIST_ITEM = function_call("list", '{"depth": 1}', "call_2")


def _edit_args(message: AIMessage) -> list[dict[str, Any]]:
    message.tool_calls = [{**message.tool_calls[0], "args": {"path": "/elsewhere/ü"}}, message.tool_calls[1]]
    return [function_call("delete", '{"path": "/elsewhere/ü"}', "call_1"), LIST_ITEM]


def _edit_number(message: AIMessage) -> list[dict[str, Any]]:
    message.tool_calls = [message.tool_calls[0], {**message.tool_calls[1], "args": {"depth": True}}]
    return [DELETE_ITEM, function_call("list", '{"depth": true}', "call_2")]


def _edit_name(message: AIMessage) -> list[dict[str, Any]]:
    message.tool_calls = [{**message.tool_calls[0], "name": "trash"}, message.tool_calls[1]]
    return [function_call("trash", '{"path": "/original"}', "call_1"), LIST_ITEM]


def _edit_id(message: AIMessage) -> list[dict[str, Any]]:
    message.tool_calls = [{**message.tool_calls[0], "id": "call_9"}, message.tool_calls[1]]
    return [function_call("delete", '{"path": "/original"}', "call_9"), LIST_ITEM]


def _drop_one(message: AIMessage) -> list[dict[str, Any]]:
    message.tool_calls = message.tool_calls[1:]
    return [LIST_ITEM]


def _drop_all(message: AIMessage) -> list[dict[str, Any]]:
    message.tool_calls = []
    return []


def _add_one(message: AIMessage) -> list[dict[str, Any]]:
    message.tool_calls = [
        *message.tool_calls,
        {"type": "tool_call", "name": "stat", "args": {}, "id": "call_5"},
    ]
    return [DELETE_ITEM, LIST_ITEM, function_call("stat", "{}", "call_5")]


def _reorder(message: AIMessage) -> list[dict[str, Any]]:
    message.tool_calls = message.tool_calls[::-1]
    return [LIST_ITEM, DELETE_ITEM]


EDITS = (_edit_args, _edit_number, _edit_name, _edit_id, _drop_one, _drop_all, _add_one, _reorder)
# "v0" keeps a call's arguments and name in `tool_calls` alone: such edits are on the wire without a rebuild.
UNSEEN_IN_V0 = (_edit_args, _edit_number, _edit_name)


@pytest.mark.parametrize("make", [invoked, streamed], ids=["invoke", "stream"])
@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
@pytest.mark.parametrize("store", STORES)
def test_an_edited_answer_is_rebuilt_from_its_text_and_calls(
    edit: Callable[[AIMessage], list[dict[str, Any]]],
    version: str,
    make: Callable[..., AIMessage],
    store: bool | None,
) -> None:
    message = make(turn_with(SAID), version)
    items_of(message, store=store)
    calls = edit(message)
    before = copy.deepcopy(message)
    items = items_of(message, store=store)
    if version == "v0" and edit in UNSEEN_IN_V0:
        said = [{k: v for k, v in item.items() if k not in ("id", "status")} for item in items]
        assert [item for item in said if item["type"] == "function_call"] == calls
    else:
        assert items == [TEXT_ITEM, *calls]
    assert message == before
    if edit is _edit_args:
        assert "/original" not in json.dumps(items)
    if edit in (_drop_one, _drop_all):
        assert "delete" not in json.dumps(items)


def test_an_unedited_answer_keeps_its_ids_and_reasoning() -> None:
    for version in VERSIONS:
        text = json.dumps(items_of(invoked(turn_with(SAID), version), store=None))
        assert all(item["id"] in text for item in SAID), version


def test_phases_and_refusals_survive_a_rebuild() -> None:
    phased = {**MESSAGE, "phase": "commentary"}
    refusal = {**MESSAGE, "id": "msg_2", "content": [{"type": "refusal", "refusal": "No."}]}
    message = invoked(turn_with([phased, refusal, DELETE]), "responses/v1")
    message.tool_calls = []
    assert items_of(message, store=None) == [
        {**TEXT_ITEM, "phase": "commentary"},
        {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_custom_call_stays_custom_when_its_input_is_edited(version: str) -> None:
    message = invoked(turn_with([REASONING, CUSTOM]), version)
    message.tool_calls[0]["args"] = {"__arg1": "ls"}
    assert items_of(message, store=None) == [
        {"type": "custom_tool_call", "name": "shell", "input": "ls", "call_id": "call_3"}
    ]
    message.tool_calls[0]["args"] = {"command": "ls"}
    assert items_of(message, store=None) == [function_call("shell", '{"command": "ls"}', "call_3")]


@pytest.mark.parametrize("side", ["content", "tool_calls"])
def test_after_a_disputed_call_everything_is_sent_as_tool_calls_have_it(
    manager: ConnectionManager, side: str
) -> None:
    with ResponsesServer(call("pay", {"card": "4111"}), "Paid.") as server:
        model = socket_model(server, manager, output_version="responses/v1")
        answer = model.invoke("Pay.")
        if side == "content":
            answer.content = json.loads(json.dumps(answer.content).replace("4111", "****"))
        else:
            answer.tool_calls[0]["args"] = {"card": "****"}
        result = ToolMessage("paid", tool_call_id=answer.tool_calls[0]["id"])
        model.invoke([HumanMessage("Pay."), answer, result])
        assert server.requests[-1].is_full
        sent = next(item for item in server.requests[-1].seen if item.get("type") == "function_call")
        assert json.loads(sent["arguments"]) == answer.tool_calls[0]["args"]


def test_what_belongs_to_a_call_stays_with_it() -> None:
    message = invoked(turn_with([{**DELETE, "namespace": "files"}, LIST]), "responses/v1")
    message.tool_calls[0]["args"] = {"path": "/elsewhere"}
    first, second = items_of(message, store=None)
    assert first == {**function_call("delete", '{"path": "/elsewhere"}', "call_1"), "namespace": "files"}
    assert second == LIST_ITEM


def test_items_that_a_later_message_answers_survive_a_rebuild() -> None:
    computer = {
        "type": "computer_call",
        "id": "cu_1",
        "call_id": "call_c",
        "action": {"type": "screenshot"},
        "pending_safety_checks": [],
        "status": "completed",
    }
    approval = {
        "type": "mcp_approval_request",
        "id": "mcpr_1",
        "arguments": "{}",
        "name": "tool",
        "server_label": "s",
    }
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed"}
    message = invoked(turn_with([REASONING, search, computer, approval, DELETE]), "responses/v1")
    message.tool_calls = []
    assert items_of(message, store=None) == [
        {key: value for key, value in computer.items() if key != "id"},
        approval,
    ]


def test_invalid_calls_are_compared_and_rebuilt_too() -> None:
    broken = {**LIST, "arguments": '{"depth": '}
    message = invoked(turn_with([REASONING, DELETE, broken]), "responses/v1")
    assert [item.get("id") for item in items_of(message, store=None)] == ["rs_1", "fc_1", "fc_2"]
    message.tool_calls[0]["args"] = {}
    assert items_of(message, store=None) == [
        function_call("delete", "{}", "call_1"),
        function_call("list", '{"depth": ', "call_2"),
    ]
    message = invoked(turn_with([REASONING, DELETE, broken]), "responses/v1")
    message.invalid_tool_calls = []
    assert items_of(message, store=None) == [DELETE_ITEM]
    message = invoked(turn_with([REASONING, broken, DELETE]), "v0")
    assert items_of(message, store=None) == langchain_items(message, None)
    message.invalid_tool_calls = []
    assert items_of(message, store=None) == [DELETE_ITEM]


def test_invalid_calls_in_another_order_are_an_edit_in_v0() -> None:
    broken = [{**DELETE, "arguments": "{"}, {**LIST, "arguments": "["}]
    message = invoked(turn_with([REASONING, *broken]), "v0")
    assert items_of(message, store=None) == langchain_items(message, None)
    message.invalid_tool_calls.reverse()
    assert items_of(message, store=None) == [
        function_call("list", "[", "call_2"),
        function_call("delete", "{", "call_1"),
    ]


def test_arguments_that_nothing_repairs_are_not_the_ones_of_a_call() -> None:
    message = invoked(turn_with([REASONING, {**DELETE, "arguments": "nonsense"}]), "responses/v1")
    message.tool_calls = [{"type": "tool_call", "name": "delete", "args": {}, "id": "call_1"}]
    message.invalid_tool_calls = []
    assert items_of(message, store=None) == [function_call("delete", "{}", "call_1")]


def test_calls_repaired_by_a_stream_are_not_edits() -> None:
    cut = {**DELETE, "arguments": '{"path": "/orig'}
    for arguments in (cut["arguments"], ""):
        message = streamed(turn_with([REASONING, {**cut, "arguments": arguments}]), "responses/v1")
        assert items_of(message, store=None) == langchain_items(message, None)


def test_calls_emptied_beside_the_raw_ones_are_gone() -> None:
    raw = {"id": "call_1", "type": "function", "function": {"name": "delete", "arguments": "{}"}}
    message = AIMessage("Wait.", additional_kwargs={"tool_calls": [raw]})
    assert "delete" in json.dumps(items_of(message, store=None))
    message.tool_calls = []
    assert "delete" not in json.dumps(items_of(message, store=None))
