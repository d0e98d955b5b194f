"""Objects of the openai SDK from parsed frames, without its unions and mostly without its classes.

The SDK tries the members of a union until one fits: 55 µs for an event, several times that for a whole
response. Every event and item says its `type`, so the class is looked up instead. And langchain-openai only
reads attributes and calls `model_dump`: where a response or an item has nothing but the plain values that all
answers have, it becomes an object with those two abilities, and no model is validated. Everything else is
built by the SDK's own class, or where the installed SDK does not know a type, by the SDK itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from sys import intern
from typing import Any, cast, get_args

from openai import BaseModel
from openai.types.responses import (
    Response,
    ResponseError,
    ResponseOutputItem,
    ResponseOutputRefusal,
    ResponseOutputText,
    ResponseStreamEvent,
    ResponseTextConfig,
    ResponseUsage,
)
from openai.types.responses.response import IncompleteDetails
from pydantic import ValidationError

from .private import construct_type

__all__ = ["LightEvent", "event_of", "item_of", "light_response_of", "response_of"]


class LightEvent:
    """An event as plain attributes, where langchain-openai reads no more, and where the SDK does not know it.

    The keys of the frame are its attributes. Of a known event, a field that the frame lacks is None, as
    in the SDK.
    """

    type: Any = None

    def __init__(self, data: dict[str, Any]) -> None:
        # Shared, not copied: nobody else reads the frame once it is an event.
        self.__dict__ = data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"


class _LightModel(LightEvent):
    """An item, a part or the usage as plain attributes that can be dumped."""

    def model_dump(self, **_kwargs: Any) -> dict[str, Any]:
        """Dumps like the SDK's model with `exclude_none`; its values are plain, so the mode does not matter."""
        return {name: value for name, value in self.__dict__.items() if value is not None}


class _LightUsage(LightEvent):
    """The usage of a response."""

    def model_dump(self) -> dict[str, Any]:
        """Returns the counts."""
        return self.__dict__


class _LightResponse(LightEvent):
    """A response with nothing but what every answer has."""

    id = created_at = error = incomplete_details = metadata = model = object = None
    service_tier = status = usage = user = None
    output: Any = ()
    previous_response_id = store = None

    @property
    def text(self) -> Any:
        """The text configuration, which only structured output asks for."""
        value = self._text
        return _build(ResponseTextConfig, value) if isinstance(value, dict) else value

    _text: Any = None

    def model_dump(self, **_kwargs: Any) -> dict[str, Any]:
        """Dumps what langchain-openai picks out of a dumped response."""
        values = self.__dict__
        return {name: values[name] for name in _DUMPED if values.get(name) is not None}


def _classes(union: Any) -> dict[str, type[BaseModel]]:
    """The members of one of the SDK's unions by what their `type` may be."""
    return {
        kind: member
        for member in get_args(get_args(union)[0])
        for kind in get_args(member.model_fields["type"].annotation)
    }


def _light(member: type[BaseModel], base: type[LightEvent] = LightEvent) -> type[LightEvent]:
    return cast("type[LightEvent]", type(member.__name__, (base,), dict.fromkeys(member.model_fields)))


_EVENTS = _classes(ResponseStreamEvent)
_ITEMS = _classes(ResponseOutputItem)
# langchain-openai reads attributes of these and nothing else, and every answer has them, some by the thousand.
_LIGHT = {
    kind: _light(member)
    for kind, member in _EVENTS.items()
    if kind.endswith(".delta")
    or kind.startswith(("response.content_part.", "response.output_item."))
    or kind
    in {
        "response.completed",
        "response.created",
        "response.function_call_arguments.done",
        "response.in_progress",
        "response.incomplete",
        "response.output_text.done",
    }
}
_Call, _Message, _Reasoning = (
    _light(_ITEMS[kind], _LightModel) for kind in ("function_call", "message", "reasoning")
)
_Text, _Refusal = _light(ResponseOutputText), _light(ResponseOutputRefusal)
_CALL_NEEDS = ("arguments", "call_id", "name")
_REASONING_KEYS = frozenset({"content", "encrypted_content", "id", "status", "summary", "type"})
_PLAIN_TEXT = frozenset({str, type(None)})
_NUMBERS = frozenset({int, type(None)})
_DUMPED = ("id", "created_at", "metadata", "model", "object", "service_tier", "status", "user")
# Read by langchain-openai or by this package, and plain text or nothing in every answer.
_TEXTS = ("id", "model", "object", "service_tier", "status", "user", "previous_response_id")
_SAID_AGAIN = ("model", "object", "service_tier", "status", "user")
_CALL_SAYS_AGAIN = ("name", "status", "type")
# Rare, and read as objects of their classes.
_RARE = ("error", "incomplete_details")

# What langchain-openai reads of a response, beside `output`; the objects among it by their class.
_READ: dict[str, type[BaseModel] | None] = {
    "created_at": None,
    "error": ResponseError,
    "id": None,
    "incomplete_details": IncompleteDetails,
    "metadata": None,
    "model": None,
    "object": None,
    "service_tier": None,
    "status": None,
    "text": ResponseTextConfig,
    "usage": ResponseUsage,
    "user": None,
}
# The request comes back in every response: tools, instructions, settings; often many times the answer's size.
_ECHOED = frozenset(Response.model_fields) - _READ.keys() - {"output"}
_PLAIN = (str, int, float, bool)
_FLOATS = frozenset(
    name
    for name, field in Response.model_fields.items()
    if float in (field.annotation, *get_args(field.annotation))
)


@cache
def _empty() -> Response:
    """A response without content to copy from; not made at import, because pydantic needs 30 ms for the class."""
    return Response.construct()


def event_of(data: dict[str, Any]) -> Any:
    """Builds the event of a frame.

    Args:
        data: The parsed frame. The event may keep it.

    Returns:
        An object with the attributes that langchain-openai reads: of the SDK's class for this `type`, or a
        `LightEvent` for deltas and for events that the SDK does not know.
    """
    kind = data.get("type")
    if not isinstance(kind, str):
        return LightEvent(data)
    if isinstance(data.get("response"), dict):
        data = {**data, "response": light_response_of(data["response"])}
    elif isinstance(data.get("item"), dict):
        data = {**data, "item": _light_item(data["item"]) or item_of(data["item"])}
    light = _LIGHT.get(kind)
    if light is not None:
        return light(data)
    event_class = _EVENTS.get(kind)
    return LightEvent(data) if event_class is None else _build(event_class, data)


def item_of(data: Any) -> Any:
    """Builds an output item.

    Args:
        data: One element of `output`, or the `item` of an event.

    Returns:
        An object of the SDK's class for its `type`; of an unknown type, what the SDK makes of it.
    """
    if isinstance(data, dict):
        kind = data.get("type")
        item_class = _ITEMS.get(kind) if isinstance(kind, str) else None
        if item_class is not None:
            return _build(item_class, data)
    return construct_type(type_=ResponseOutputItem, value=data)


def response_of(data: Mapping[str, Any]) -> Response:
    """Builds a response, for a terminal event or as the result of `create`.

    Args:
        data: The `response` object of an event, or the body of an HTTP response.

    Returns:
        A response that langchain-openai reads as it reads the SDK's own. What it never reads of the
        echoed request (tools, instructions and other structured settings) is left out.
    """
    fields: dict[str, Any] = {}
    for name, value in data.items():
        if value is None or isinstance(value, _PLAIN):
            fields[name] = float(value) if name in _FLOATS and isinstance(value, int) else value
        elif name == "output":
            fields[name] = [item_of(item) for item in value] if isinstance(value, list) else value
        elif name not in _ECHOED:
            model = _READ.get(name)
            fields[name] = value if model is None or not isinstance(value, dict) else _build(model, value)
    return _empty().model_copy(update=fields)


def light_response_of(data: Mapping[str, Any]) -> Any:
    """Builds a response for langchain-openai's converters.

    Args:
        data: As for `response_of`.

    Returns:
        An object with the attributes and the `model_dump` that the converters use; what `response_of` returns where
        the response holds anything out of the ordinary.
    """
    if not _is_plain(data):
        return response_of(data)
    output = []
    for item in data.get("output") or ():
        light = _light_item(item)
        if light is None:
            return response_of(data)
        output.append(light)
    fields: dict[str, Any] = {name: data.get(name) for name in _TEXTS}
    _share(fields, _SAID_AGAIN)
    fields["output"], fields["_text"] = output, data.get("text")
    fields["metadata"], fields["store"] = data.get("metadata"), data.get("store")
    created, usage = data.get("created_at"), data.get("usage")
    fields["created_at"] = None if created is None else float(created)
    fields["usage"] = None if usage is None else _LightUsage(usage)
    return _LightResponse(fields)


def _is_plain(data: Mapping[str, Any]) -> bool:
    """Whether a response has only plain values where langchain-openai looks."""
    find = data.get
    if not {type(find(name)) for name in _TEXTS} <= _PLAIN_TEXT or any(
        find(name) is not None for name in _RARE
    ):
        return False
    created, metadata, usage = find("created_at"), find("metadata"), find("usage")
    return (
        (created is None or type(created) is int or type(created) is float)
        and type(find("output")) is list
        and (metadata is None or (type(metadata) is dict and set(map(type, metadata.values())) <= {str}))
        and (usage is None or (type(usage) is dict and _is_plain_usage(usage)))
    )


def _is_plain_usage(usage: Mapping[str, Any]) -> bool:
    return all(
        type(value) in _NUMBERS or (type(value) is dict and set(map(type, value.values())) <= _NUMBERS)
        for value in usage.values()
    )


def _light_item(item: Any) -> Any:
    """Builds an output item without the SDK; None where it holds anything out of the ordinary."""
    if type(item) is not dict:
        return None
    kind = item.get("type")
    if kind == "function_call":
        plain = set(map(type, item.values())) <= _PLAIN_TEXT
        if not plain or any(item.get(name) is None for name in _CALL_NEEDS):
            return None
        _share(item, _CALL_SAYS_AGAIN)
        return _Call(item)
    if kind == "message":
        return _light_message(item)
    if kind == "reasoning" and item.keys() <= _REASONING_KEYS:
        plain = all(
            type(value) in _PLAIN_TEXT
            or (type(value) is list and all(type(part) is dict and _is_text(part) for part in value))
            for value in item.values()
        )
        return _Reasoning(item) if plain and type(item.get("summary")) is list else None
    return None


def _share(fields: dict[str, Any], names: tuple[str, ...]) -> None:
    """Lets the messages of all conversations have the same texts where answers say the same again and again."""
    for name in names:
        value = fields.get(name)
        if value:
            fields[name] = intern(value)


def _is_text(part: dict[str, Any]) -> bool:
    return part.keys() == {"text", "type"} and type(part["text"]) is type(part["type"]) is str


def _light_message(item: dict[str, Any]) -> Any:
    parts = item.get("content")
    if (
        type(parts) is not list
        or type(item.get("id")) is not str
        or type(item.get("phase")) not in _PLAIN_TEXT
    ):
        return None
    content = []
    for part in parts:
        kind = part.get("type") if type(part) is dict else None
        if kind == "output_text" and type(part.get("text")) is str and part.get("annotations") == []:
            if "parsed" in part:
                return None
            content.append(_Text(part))
        elif kind == "refusal" and type(part.get("refusal")) is str:
            content.append(_Refusal(part))
        else:
            return None
    return _Message({**item, "content": content})


def _build(model: type[BaseModel], data: dict[str, Any]) -> Any:
    """Validates as the SDK's unions do, and like them takes data that does not fit as it is."""
    try:
        return model.model_validate(data)
    except ValidationError:
        return model.construct(**data)
