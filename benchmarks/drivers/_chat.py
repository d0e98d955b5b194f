"""Conversations of a LangChain chat model, in all four calls."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from ..clock import Clock
from ..workload import PROMPT, SYSTEM, TOOL_OUTPUT, TOOLS
from . import Job

__all__ = ["achat_session", "chat_session"]

# The form that `bind_tools` takes everywhere.
FUNCTIONS = [
    {
        "type": "function",
        "function": {name: value for name, value in tool.items() if name != "type"},
    }
    for tool in TOOLS
]


def _outputs(answer: BaseMessage) -> list[BaseMessage]:
    calls = answer.tool_calls if isinstance(answer, AIMessage) else []
    return [ToolMessage(TOOL_OUTPUT, tool_call_id=str(call["id"])) for call in calls]


def _gathered(chunks: list[AIMessageChunk]) -> AIMessage:
    """The message of a stream, made as cheaply as it can be: adding chunks up is the caller's affair."""
    calls: dict[Any, list[Any]] = {}
    metadata: dict[str, Any] = {}
    texts: list[str] = []
    response_id = None
    for chunk in chunks:
        metadata.update(chunk.response_metadata)
        response_id = chunk.id if str(chunk.id).startswith("resp_") else response_id
        content: Any = chunk.content
        if not isinstance(content, str):
            content = "".join(part.get("text", "") for part in content)
        texts.append(content)
        for call in chunk.tool_call_chunks:
            calls.setdefault(call["index"], []).append(call)
    return AIMessage(
        content="".join(texts),
        id=response_id,
        response_metadata=metadata,
        tool_calls=[_call(parts) for parts in calls.values()],
    )


def _call(parts: list[Any]) -> Any:
    import orjson

    args = orjson.loads("".join(part["args"] or "" for part in parts))
    first = parts[0]
    return {"name": first["name"], "args": args, "id": first["id"], "type": "tool_call"}


@contextmanager
def chat_session(
    job: Job, make: Callable[[Job, str], Any], close: Callable[[Any], None] | None = None
) -> Iterator[Callable[[str, Clock], str]]:
    """One chat model, whatever the conversation's model name is.

    Args:
        job: What to do.
        make: Makes the chat model, given the name of the first conversation's model.
        close: Closes it.
    """
    models: list[Any] = []

    def run(name: str, clock: Clock) -> str:
        if not models:
            models.append(make(job, name))
        bound = _named(models[0], name).bind_tools(FUNCTIONS)
        messages: list[BaseMessage] = [SystemMessage(SYSTEM), HumanMessage(PROMPT)]
        while True:
            clock.work()
            clock.send()
            if job.call == "stream":
                chunks = list(bound.stream(messages))
                clock.got()
                answer: BaseMessage = _gathered(chunks)
            else:
                answer = bound.invoke(messages)
                clock.got()
            outputs = _outputs(answer)
            if not outputs:
                return answer.text
            messages = [*messages, answer, *outputs]

    yield run
    if close is not None:
        for model in models:
            close(model)


def _named(model: Any, name: str) -> Any:
    """The model under the name that the server's script wants, with the same connections."""
    field = "model_name" if "model_name" in type(model).model_fields else "model"
    if getattr(model, field) != name:
        setattr(model, field, name)
    return model


@asynccontextmanager
async def achat_session(
    job: Job, make: Callable[[Job, str], Any], close: Callable[[Any], Awaitable[None]] | None = None
) -> AsyncIterator[Callable[[str, Clock], Awaitable[str]]]:
    """Like `chat_session`; any number of conversations at once."""
    models: list[Any] = []

    async def run(name: str, clock: Clock) -> str:
        if not models:
            models.append(make(job, name))
        bound = _named(models[0], name).bind_tools(FUNCTIONS)
        messages: list[BaseMessage] = [SystemMessage(SYSTEM), HumanMessage(PROMPT)]
        while True:
            await clock.awork()
            clock.send()
            if job.call == "astream":
                chunks = [chunk async for chunk in bound.astream(messages)]
                clock.got()
                answer: BaseMessage = _gathered(chunks)
            else:
                answer = await bound.ainvoke(messages)
                clock.got()
            outputs = _outputs(answer)
            if not outputs:
                return answer.text
            messages = [*messages, answer, *outputs]

    yield run
    if close is not None:
        for model in models:
            await close(model)
