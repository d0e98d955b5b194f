"""Objects of the openai SDK from parsed frames, without its unions.

The SDK tries the members of a union until one fits: 55 µs for an event, several times that for a whole
response. Every event and item says its `type`, so the class is looked up instead. What comes out behaves
for langchain-openai as the SDK's own object does; where the installed SDK does not know a type, the SDK
itself builds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast, get_args

from openai import BaseModel
from openai.types.responses import (
    Response,
    ResponseError,
    ResponseOutputItem,
    ResponseStreamEvent,
    ResponseTextConfig,
    ResponseUsage,
)
from openai.types.responses.response import IncompleteDetails
from pydantic import ValidationError

from .private import construct_type

__all__ = ["LightEvent", "event_of", "item_of", "response_of"]


class LightEvent:
    """An event as plain attributes, for those that come by the hundred and those that the SDK does not know.

    The keys of the frame are its attributes. Of a known event, a field that the frame lacks is None, as
    in the SDK.
    """

    type: Any = None

    def __init__(self, data: dict[str, Any]) -> None:
        # Shared, not copied: nobody else reads the frame once it is an event.
        self.__dict__ = data

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in self.__dict__.items())})"


def _classes(union: Any) -> dict[str, type[BaseModel]]:
    """The members of one of the SDK's unions by what their `type` may be."""
    return {
        kind: member
        for member in get_args(get_args(union)[0])
        for kind in get_args(member.model_fields["type"].annotation)
    }


def _light(member: type[BaseModel]) -> type[LightEvent]:
    return cast("type[LightEvent]", type(member.__name__, (LightEvent,), dict.fromkeys(member.model_fields)))


_EVENTS = _classes(ResponseStreamEvent)
_ITEMS = _classes(ResponseOutputItem)
# langchain-openai reads attributes of these and nothing else, and an answer has thousands of them.
_LIGHT = {kind: _light(member) for kind, member in _EVENTS.items() if kind.endswith(".delta")}

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
    light = _LIGHT.get(kind)
    if light is not None:
        return light(data)
    event_class = _EVENTS.get(kind)
    if event_class is None:
        return LightEvent(data)
    if isinstance(data.get("response"), dict):
        data = {**data, "response": response_of(data["response"])}
    elif isinstance(data.get("item"), dict):
        data = {**data, "item": item_of(data["item"])}
    return _build(event_class, data)


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


def _build(model: type[BaseModel], data: dict[str, Any]) -> Any:
    """Validates as the SDK's unions do, and like them takes data that does not fit as it is."""
    try:
        return model.model_validate(data)
    except ValidationError:
        return model.construct(**data)
