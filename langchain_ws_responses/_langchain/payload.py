"""A subclass's word in the request: its own `_get_request_payload`.

That method is where LangChain's own subclasses change a request, and where users mask what must not leave. It may
change the settings, or the input itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models.base import BaseChatOpenAI
from openai import omit

from .client import TURN
from .conversion import detached, merged
from .messages import items_of

__all__ = ["HOOK", "payload_of", "prompt_apart", "turns_let_through"]

HOOK = "_get_request_payload"
# As they are when this module is imported.
_LANGCHAINS: Callable[..., dict[str, Any]] = getattr(ChatOpenAI, HOOK)
_BASES: Callable[..., dict[str, Any]] = getattr(BaseChatOpenAI, HOOK)


def turns_let_through(own: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """Wraps a subclass's method: it has had its word when the turn was planned, and a planned turn passes by it."""
    if getattr(own, "lets_turns_through", False):
        return own

    @wraps(own)
    def payload(self: Any, input_: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        turn = kwargs.get(TURN)
        return own(self, input_, *args, **kwargs) if turn is None else {TURN: turn}

    payload.lets_turns_through = True  # type: ignore[attr-defined]
    return payload


def payload_of(
    model: Any,
    base: type,
    messages: Sequence[BaseMessage],
    given: Mapping[str, Any],
    stop: list[str] | None = None,
) -> dict[str, Any]:
    """Builds a request's settings, as the model's class wants them.

    Args:
        model: The model.
        base: The class whose method is that of this package.
        messages: The conversation; never changed.
        given: Arguments of the call.
        stop: Stop sequences, as LangChain hands them on; those of the arguments where there are none.

    Returns:
        What `ChatOpenAI` makes of the arguments. It holds `input` where a subclass changed what the messages say.
    """
    if "stop" in given:
        given, stop = {name: value for name, value in given.items() if name != "stop"}, stop or given["stop"]
    if _is_plain(type(model), base):
        return _without_input(_LANGCHAINS(model, [], stop=stop, **given))
    if model.use_previous_response_id:
        # That is for the messages to tell; a subclass is to see all of them.
        model = model.model_copy(update={"use_previous_response_id": False})
    # langchain-openai changes messages in place, and so may the subclass.
    own: dict[str, Any] = getattr(model, HOOK)(list(map(detached, messages)), stop=stop, **given)
    if "input" not in own:
        return {**own, "input": omit}
    store = own.get("store")
    if own["input"] == merged((message, items_of(message, store=store)) for message in messages):
        return _without_input(own)
    plain = _LANGCHAINS(model, list(map(detached, messages)), stop=stop, **given)
    return _without_input(own) if own["input"] == plain["input"] else own


def _is_plain(kind: type, base: type) -> bool:
    """Whether nothing but this package and langchain-openai has a word in the requests of a class."""
    mine = getattr(base, HOOK)
    if getattr(kind, HOOK) is not mine:
        return False
    # Another base class may stand behind this package's, and whoever instruments langchain-openai may have patched it.
    behind = kind.__mro__[kind.__mro__.index(base) + 1]
    return getattr(behind, HOOK) is _LANGCHAINS and getattr(BaseChatOpenAI, HOOK) is _BASES


def _without_input(payload: dict[str, Any]) -> dict[str, Any]:
    """Leaves out the input, which the messages tell."""
    payload.pop("input", None)
    return payload


def prompt_apart(payload: dict[str, Any]) -> dict[str, Any]:
    """Takes leading system text out of an input of a subclass's own, into `instructions`.

    Args:
        payload: A request; never changed.
    """
    items, texts = payload.get("input"), []
    if not isinstance(items, list) or payload.get("instructions") is not None:
        return payload
    for item in items:
        if item.get("role") not in ("system", "developer") or not isinstance(item.get("content"), str):
            break
        texts.append(item["content"])
    if not texts:
        return payload
    return {**payload, "input": items[len(texts) :], "instructions": "\n\n".join(texts)}
