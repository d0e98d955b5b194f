"""`with_websocket`: a model that somebody else has made, over the WebSocket mode."""

from __future__ import annotations

from typing import Any

from langchain_openai import ChatOpenAI

from .chat_models import ChatOpenAIWebSocket
from .fields import carried_over

__all__ = ["with_websocket"]


def with_websocket(model: ChatOpenAI, /, **fields: Any) -> ChatOpenAIWebSocket:
    """Turns a `ChatOpenAI` into a `ChatOpenAIWebSocket` with the same settings.

    Args:
        model: For example what `init_chat_model("openai:gpt-5.5")` returns.
        **fields: Further fields, such as `manager` or `transport`; they win over the model's.

    Returns:
        A new model; `model` stays as it is. Of a subclass of `ChatOpenAIWebSocket`, one of that class.

    Raises:
        TypeError: Not a `ChatOpenAI`, or of a subclass, whose own methods and defaults would be lost.
    """
    # Not `isinstance`: older versions of pydantic read an attribute of `model` for it, and what `init_chat_model` makes
    # to be configured later has none before it knows its model.
    if not issubclass(type(model), ChatOpenAI):
        raise TypeError(
            f"with_websocket takes a ChatOpenAI, not {type(model).__name__}. Call it before bind_tools and the like; "
            "for Azure use ChatOpenAI with base_url='https://NAME.openai.azure.com/openai/v1'."
        )
    kind: type[Any] = type(model)
    if issubclass(kind, ChatOpenAIWebSocket):
        return kind(**carried_over(model, fields))
    if kind is not ChatOpenAI:
        raise TypeError(
            f"with_websocket cannot take over what {kind.__name__} changes of ChatOpenAI. Derive that class from "
            "ChatOpenAIWebSocket, and make the model with it."
        )
    return ChatOpenAIWebSocket(**carried_over(model, fields))
