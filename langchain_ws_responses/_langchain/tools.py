"""`DeltaToolNode`: a tool node that keeps the model's connection ready while its tools run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.prebuilt import ToolNode

from .ready import KeepReady, enable

__all__ = ["DeltaToolNode"]


class DeltaToolNode(ToolNode):
    """A `ToolNode` for graphs built by hand around a `ChatOpenAIWebSocket`.

    Runs tools as `ToolNode` does. The outputs reach the next model call as `function_call_output` items only, in call
    order and in one create: the model's plan sees to that. What this node adds is time: while the tools run it keeps
    the connection ready. If it is lost, a new one is dialed at once, and with `store=False` the history is read in
    again with a warm-up, where the server is known to keep one.

    Args: those of `ToolNode`.

    Example:
        ```python
        builder.add_node("tools", DeltaToolNode([search, read_file]))
        ```
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        enable()

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Runs the tool calls of the newest assistant message."""
        with KeepReady(messages_in(input, self._messages_key)):
            return super().invoke(input, config, **kwargs)

    async def ainvoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Runs the tool calls of the newest assistant message."""
        with KeepReady(messages_in(input, self._messages_key)):
            return await super().ainvoke(input, config, **kwargs)


def messages_in(state: Any, key: str = "messages") -> Sequence[BaseMessage]:
    """Finds the messages in what a tool node is given.

    Args:
        state: A list of messages, a state as a dict or an object, or a single call with its state.
        key: Where the state keeps its messages.
    """
    if isinstance(state, Mapping):
        inner = state.get("state", state) if "tool_call" in state else state
        found = inner.get(key) if isinstance(inner, Mapping) else getattr(inner, key, None)
    elif isinstance(state, list):
        found = state
    else:
        found = getattr(state, key, None)
    if not isinstance(found, Sequence) or isinstance(found, str):
        return ()
    return [message for message in found if isinstance(message, BaseMessage)]
