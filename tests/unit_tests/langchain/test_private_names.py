"""The canary: private names of langchain-openai and openai are there and do what this package counts on."""

from __future__ import annotations

import ast
import importlib
import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage
from openai.types.responses import Response, ResponseOutputItem, ResponseOutputMessage
from pydantic import BaseModel

import langchain_ws_responses

INSTALLED = (
    f"with langchain-openai {version('langchain-openai')} and openai {version('openai')}: "
    "adapt langchain_ws_responses/_langchain/private.py"
)
TEXT = {"type": "output_text", "text": '{"number": 7}', "annotations": []}
MESSAGE = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [TEXT]}


class Answer(BaseModel):
    number: int


@pytest.mark.parametrize(
    ("module", "name", "parameters"),
    [
        ("langchain_openai.chat_models.base", "_construct_responses_api_input", ["messages", "store"]),
        (
            "langchain_openai.chat_models._client_utils",
            "_astream_with_chunk_timeout",
            ["source", "timeout", "model_name"],
        ),
        ("openai._models", "construct_type", ["value", "type_", "metadata"]),
        (
            "openai.lib._parsing._responses",
            "parse_response",
            ["text_format", "input_tools", "response"],
        ),
        ("openai.lib._parsing._responses", "type_to_text_format_param", ["type_"]),
    ],
)
def test_the_name_is_there_with_its_parameters(module: str, name: str, parameters: list[str]) -> None:
    function: Any = getattr(importlib.import_module(module), name, None)
    assert function is not None, f"{module}.{name} is gone {INSTALLED}"
    found = list(inspect.signature(function).parameters)
    assert found == parameters, f"{module}.{name} takes {found} {INSTALLED}"


def private() -> Any:
    return importlib.import_module("langchain_ws_responses._langchain.private")


def test_messages_become_wire_items() -> None:
    block = {"type": "text", "text": "Hi", "id": "msg_1"}
    messages = [HumanMessage("Hello"), AIMessage([block])]
    answer = {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hi", "annotations": []}],
    }
    asked = {"type": "message", "role": "user", "content": "Hello"}
    items = private().construct_responses_api_input(messages, store=None)
    assert items == [asked, {**answer, "id": "msg_1"}], f"items are {items} {INSTALLED}"
    items = private().construct_responses_api_input(messages, store=False)
    assert items == [asked, answer], f"without store, items are {items} {INSTALLED}"


def test_unknown_types_are_built_as_some_member_of_the_union() -> None:
    item = private().construct_type(type_=ResponseOutputItem, value={"type": "new", "id": "x", "more": 1})
    found = (type(item), item.type, item.id, item.more)
    assert found == (ResponseOutputMessage, "new", "x", 1), f"the SDK made {found} {INSTALLED}"


def test_the_parser_reads_the_schema_s_class_from_a_response() -> None:
    parsed = private().parse_response(
        text_format=Answer, input_tools=None, response=Response.construct(id="resp_1", output=[MESSAGE])
    )
    assert parsed.output_parsed == Answer(number=7), f"parsed {parsed.output_parsed!r} {INSTALLED}"


def test_a_class_becomes_a_text_format() -> None:
    found = private().text_format_param(Answer)
    assert found.pop("schema")["properties"].keys() == {"number"}, f"a schema of {found} {INSTALLED}"
    assert found == {"type": "json_schema", "strict": True, "name": "Answer"}, f"{found} {INSTALLED}"


def test_the_client_keeps_the_header_fields_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-A: 1\nX-B: 2")
    found = openai.OpenAI(api_key="k", default_headers={"X-B": "3"})._custom_headers
    assert dict(found) == {"X-A": "1", "X-B": "3"}, f"{found} {INSTALLED}"


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [] if node.level else [f"{node.module}.{alias.name}" for alias in node.names]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def test_no_other_module_imports_private_names() -> None:
    package = Path(str(langchain_ws_responses.__file__)).parent
    found: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            for name in _imported(node):
                if name.split(".")[0] in ("langchain_openai", "openai") and "._" in name:
                    found.setdefault(path.name, set()).add(name)
    assert found.keys() == {"private.py"}, found
