"""A subclass's word in the request: its own `_get_request_payload`.

That method is where LangChain's own subclasses change a request, and where users mask what must not leave. It may
change the settings, or the input itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

from langchain_core.messages import BaseMessage

from .client import TURN
from .conversion import detached

__all__ = ["HOOK", "payload_of", "turns_let_through"]

HOOK = "_get_request_payload"


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
    stop: list[str] | None,
    given: Mapping[str, Any],
) -> dict[str, Any]:
    """Builds a request's settings, as the model's class wants them.

    Args:
        model: The model.
        base: The class whose method is that of this package.
        messages: The conversation; never changed.
        stop: Stop sequences, as LangChain hands them on.
        given: Arguments of the call.

    Returns:
        What `ChatOpenAI` makes of the arguments. It holds `input` where a subclass changed what the messages say.
    """
    build: Callable[..., dict[str, Any]] = getattr(super(base, model), HOOK)
    if getattr(type(model), HOOK) is getattr(base, HOOK):
        return without_input(build([], stop=stop, **given))
    # langchain-openai changes messages in place, and so may the subclass.
    own: dict[str, Any] = getattr(model, HOOK)(list(map(detached, messages)), stop=stop, **given)
    plain = build(list(map(detached, messages)), stop=stop, **given)
    return without_input(own) if own.get("input") == plain.get("input") else own


def without_input(payload: dict[str, Any]) -> dict[str, Any]:
    """Leaves out the input, which the messages tell."""
    payload.pop("input", None)
    return payload
