"""Tools that are bound again and again look to the API as `ChatOpenAI` writes them, and are written once."""

from __future__ import annotations

import gc
import uuid
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from langchain_core.tools import BaseTool, InjectedToolArg, StructuredTool, Tool, tool
from langchain_openai import ChatOpenAI, custom_tool
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from langchain_ws_responses import ChatOpenAIWebSocket
from langchain_ws_responses._langchain import tool_forms as module
from langchain_ws_responses._langchain.remembered import Table

HTTP = ChatOpenAI(model="gpt-5.5", api_key="sk-test", use_responses_api=True)
SOCKET = ChatOpenAIWebSocket(model="gpt-5.5", api_key="sk-test", transport="http")
SCHEMA: dict[str, Any] = {
    "title": "Look",
    "type": "object",
    "properties": {
        "path": {"type": "string", "title": "Path", "description": "Where"},
        "parsed": {"type": "array", "items": {"$ref": "#/$defs/Kind"}},
    },
    "required": ["path"],
    "$defs": {"Kind": {"type": "string", "enum": ["a", "b"]}},
}


class Where(BaseModel):
    """A place."""

    path: str = Field(description="A path")
    depth: int = 3


class Elsewhere(BaseModel):
    """Another place."""

    city: str


class Typed(TypedDict):
    """A typed dict."""

    name: Annotated[str, ..., "Whose"]


class Clock(StructuredTool):
    """A tool whose schema is another one each time it is asked."""

    name: str = "clock"
    description: str = "Tells the time."
    args_schema: Any = SCHEMA

    @property
    def tool_call_schema(self) -> Any:
        return {**SCHEMA, "properties": {str(uuid.uuid4()): {"type": "string"}}}


@tool
def plain(path: str, hidden: Annotated[str, InjectedToolArg], depth: int | None = None) -> str:
    """Lists a folder."""
    return ""


@tool(args_schema=Where, extras={"defer_loading": True, "other": 1})
def deferred(path: str, depth: int) -> str:
    """Is loaded when it is looked for."""
    return ""


@custom_tool
def code(source: str) -> str:
    """Runs code."""
    return ""


def function(query: str) -> str:
    """Asks something."""
    return query


def structured(**given: Any) -> StructuredTool:
    return StructuredTool(
        **{"name": "look", "description": "Looks.", "args_schema": SCHEMA, "func": function, **given}
    )


KINDS: dict[str, Callable[[], Any]] = {
    "tool": lambda: plain,
    "extras": lambda: deferred,
    "json schema": structured,
    "pydantic schema": lambda: structured(args_schema=Where),
    "empty description": lambda: structured(description=""),
    "text that JSON escapes": lambda: structured(description='"\\\x00\ud83d\ude00ä'),
    "custom": lambda: code,
    "single input": lambda: Tool("ask", function, "Asks."),
    "dict": lambda: {"type": "function", "function": {"name": "f", "parameters": SCHEMA}},
    "schema dict": lambda: {**SCHEMA, "description": "Looks."},
    "built in": lambda: {"type": "web_search"},
    "pydantic class": lambda: Where,
    "typed dict": lambda: Typed,
    "function": lambda: function,
}


@pytest.fixture(autouse=True)
def _fresh_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_table", Table(4_096))


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What langchain-openai has to write itself, in order."""
    seen: list[Any] = []
    bind = ChatOpenAI.bind_tools

    def counted(self: ChatOpenAI, tools: Any, **kwargs: Any) -> Any:
        seen.extend(each for each in tools if isinstance(each, BaseTool))
        return bind(self, tools, **kwargs)

    monkeypatch.setattr(ChatOpenAI, "bind_tools", counted)
    return seen


def bound(model: ChatOpenAI, tools: Any, **settings: Any) -> dict[str, Any]:
    binding: Any = model.bind_tools(tools, **settings)
    kwargs: dict[str, Any] = binding.kwargs
    return kwargs


@pytest.mark.parametrize("strict", [None, True, False, 1], ids=repr)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tool_is_bound_as_chat_openai_binds_it(kind: str, strict: Any) -> None:
    one = KINDS[kind]()
    for settings in ({}, {"tool_choice": "any"}, {"parallel_tool_calls": False, "seed": 1}):
        expected = bound(HTTP, [one], strict=strict, **settings)
        for _ in range(2):
            # With their types: 1 is not True to the API.
            assert repr(bound(SOCKET, [one], strict=strict, **settings)) == repr(expected)


def test_many_at_once_in_any_order() -> None:
    tools = [make() for make in KINDS.values()]
    for many in (tools, tools[::-1], tuple(tools[3:]), tools * 2):
        assert bound(SOCKET, many) == bound(HTTP, many)
    assert bound(SOCKET, iter([plain, code]))["tools"] == bound(HTTP, [plain, code])["tools"]


def test_the_choice_of_a_tool_is_found_among_known_ones() -> None:
    for _ in range(2):
        given = bound(SOCKET, [plain, structured()], tool_choice="plain")
        assert given["tool_choice"] == {"type": "function", "function": {"name": "plain"}}


def test_a_tool_is_written_once(written: list[Any]) -> None:
    look = structured()
    for _ in range(3):
        bound(SOCKET, [look, plain])
    assert written == [look, plain]
    bound(SOCKET, [plain], strict=True)
    bound(SOCKET, [look, plain])
    assert written == [look, plain, plain]


def test_a_response_format_may_have_a_say_in_it() -> None:
    for strict in (None, False, True, None):
        given: dict[str, Any] = {"response_format": Where, "strict": strict}
        assert bound(SOCKET, [plain], **given) == bound(HTTP, [plain], **given)


def test_one_is_not_true() -> None:
    for strict in (True, 1, False, 0, None):
        assert repr(bound(SOCKET, [plain], strict=strict)) == repr(bound(HTTP, [plain], strict=strict))


def _schema_changed(one: StructuredTool) -> None:
    assert isinstance(one.args_schema, dict)
    one.args_schema["properties"]["parsed"]["items"] = {"type": "integer"}


CHANGES: dict[str, Callable[[StructuredTool], None]] = {
    "name": lambda one: setattr(one, "name", "other"),
    "description": lambda one: setattr(one, "description", "Looks away."),
    "another schema": lambda one: setattr(one, "args_schema", Where),
    "a schema changed in place": _schema_changed,
    "one as true": lambda one: one.args_schema["properties"]["path"].update(default=True),  # type: ignore[index,union-attr]
    "extras": lambda one: setattr(one, "extras", {"defer_loading": True}),
    "extras changed in place": lambda one: one.extras.update(defer_loading=False),  # type: ignore[union-attr]
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_a_tool_is_seen(change: str) -> None:
    def made() -> StructuredTool:
        schema: Any = {
            **SCHEMA,
            "properties": {name: dict(value) for name, value in SCHEMA["properties"].items()},
        }
        schema["properties"]["path"]["default"] = 1
        return structured(args_schema=schema, extras={"other": 1})

    one, untouched = made(), made()
    before = bound(SOCKET, [one])
    CHANGES[change](one)
    after = bound(SOCKET, [one])
    CHANGES[change](untouched)
    assert repr(after) == repr(bound(HTTP, [untouched]))
    assert repr(after) != repr(before)


def test_another_class_of_the_same_name_is_another_schema() -> None:
    one = structured(args_schema=Where)
    bound(SOCKET, [one])
    one.args_schema = Elsewhere
    assert bound(SOCKET, [one]) == bound(HTTP, [structured(args_schema=Elsewhere)])


def test_a_copy_is_a_tool_of_its_own() -> None:
    one = structured()
    bound(SOCKET, [one])
    other = one.model_copy(update={"description": "Looks away."})
    assert bound(SOCKET, [other, one]) == bound(HTTP, [other, one])


def test_a_tool_that_works_out_its_schema_is_asked_each_time() -> None:
    clock = Clock()
    assert bound(SOCKET, [clock]) != bound(SOCKET, [clock])


def test_what_a_caller_does_to_a_binding_is_not_seen_by_the_next() -> None:
    expected = bound(HTTP, [plain, structured()])
    for _ in range(3):
        given = bound(SOCKET, [plain, structured()])
        assert given == expected
        for form in given["tools"]:
            form["function"]["parameters"]["properties"].clear()
            form["function"]["description"] = "gone"


@pytest.mark.parametrize(
    "foreign", [{"a"}, object(), ("a",), float("nan")], ids=lambda value: type(value).__name__
)
def test_what_cannot_be_watched_is_written_every_time(foreign: Any, written: list[Any]) -> None:
    one = structured(args_schema={**SCHEMA, "x": foreign})
    first, second = bound(SOCKET, [one]), bound(SOCKET, [one])
    assert repr(first) == repr(second) == repr(bound(HTTP, [one]))
    assert written.count(one) == 3


def test_what_is_refused_is_refused_every_time() -> None:
    one = structured(
        args_schema={"properties": {"x": {"$ref": "#/$defs/Nowhere"}}, "type": "object", "title": "x"}
    )
    told = []
    for model in (HTTP, SOCKET, SOCKET):
        with pytest.raises(KeyError) as caught:
            bound(model, [one])
        told.append(str(caught.value))
    assert len(set(told)) == 1


def test_dead_tools_are_forgotten_and_the_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    tools = [structured(name=f"look_{number}") for number in range(5)]
    bound(SOCKET, tools)
    assert len(module._table) == 5
    del tools[:2]
    gc.collect()
    assert list(module._table) == [id(one) for one in tools]
    monkeypatch.setattr(module._table, "most", 2)
    more = structured(name="more")
    bound(SOCKET, [more])
    assert list(module._table) == [id(tools[2]), id(more)]
