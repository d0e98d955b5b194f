"""Message chunks from the events of a stream.

langchain-openai's converter decides what a chunk looks like. It needs 50 µs for a delta, most of it in pydantic, and
an answer has thousands of deltas that differ in nothing but their text. So for these two kinds, text and
arguments, the converter makes one chunk, and the others are made after it as after a mould. Every other event
goes to the converter.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any, cast

import openai
from langchain_core.messages import AIMessageChunk
from langchain_core.outputs import ChatGenerationChunk

from .private import chunk_of_event, handle_api_error, handle_bad_request

if TYPE_CHECKING:
    from typing import TypeGuard

__all__ = ["ChunkMaker", "chunks_of_stream", "chunks_of_stream_async"]

_TEXT = "response.output_text.delta"
_ARGUMENTS = "response.function_call_arguments.delta"
_DELTAS = frozenset({_TEXT, _ARGUMENTS})
_JSON_SPACE = " \t\n\r"
_set = object.__setattr__


class _Mould:
    """Makes objects of a pydantic class that differ from a given one in a few fields, without validating them."""

    def __init__(self, model: Any) -> None:
        self._class: Any = type(model)
        self._values = dict(model.__dict__)
        # Containers are made anew for each object; what a field of the example holds must be plain otherwise.
        self._containers = {
            name: type(value) for name, value in self._values.items() if type(value) in (list, dict)
        }
        self._set_fields = model.__pydantic_fields_set__
        self._has_extra = model.__pydantic_extra__ is not None

    def cast(self, **fields: Any) -> Any:
        """Makes an object with these fields; lists and dicts that are not among them are empty."""
        made = self._class.__new__(self._class)
        values = self._values.copy()
        for name, kind in self._containers.items():
            values[name] = kind()
        values.update(fields)
        _set(made, "__dict__", values)
        _set(made, "__pydantic_fields_set__", self._set_fields.copy())
        _set(made, "__pydantic_extra__", {} if self._has_extra else None)
        _set(made, "__pydantic_private__", None)
        return made


class ChunkMaker:
    """Turns the events of one turn into chunks, in their order.

    Args:
        schema: The `response_format` of the call, as langchain-openai's converter takes it.
        output_version: The model's.
    """

    def __init__(self, *, schema: Any, output_version: str | None) -> None:
        self._schema = schema
        self._output_version = output_version
        self._index = self._output_index = self._sub_index = -1
        self._output_indices: dict[str, int] = {}
        # "v0" makes another shape of each chunk.
        self._moulds: dict[str, tuple[_Mould, _Mould]] | None = {} if output_version != "v0" else None
        self._has_reasoning = False

    def chunk_of(self, event: Any) -> ChatGenerationChunk | None:
        """Returns the chunk of an event, or None where it has none.

        Args:
            event: As the SDK's stream or `event_of` gives it.

        Raises:
            ValueError: The event says that the response failed.
        """
        kind = event.type
        if kind in _DELTAS and self._moulds is not None:
            chunk = self._text(event) if kind == _TEXT else self._arguments(event)
            if chunk is not None:
                return chunk
        self._index, self._output_index, self._sub_index, chunk = chunk_of_event(
            event,
            self._index,
            self._output_index,
            self._sub_index,
            schema=self._schema,
            metadata={},
            has_reasoning=self._has_reasoning,
            output_version=self._output_version,
            item_output_indices=self._output_indices,
        )
        if chunk is not None and "reasoning" in chunk.message.additional_kwargs:
            self._has_reasoning = True
        if kind in _DELTAS and self._moulds is not None and _is_example(chunk):
            self._moulds[kind] = (_Mould(chunk.message), _Mould(chunk))
        return chunk

    def _text(self, event: Any) -> ChatGenerationChunk | None:
        mould, delta = self._mould(_TEXT, event), event.delta
        if mould is None or type(event.content_index) is not int:
            return None
        self._advance(event, event.content_index)
        content = [{"type": "text", "text": delta, "index": self._index}]
        return _cast(mould, delta, content=content)

    def _arguments(self, event: Any) -> ChatGenerationChunk | None:
        mould, delta = self._mould(_ARGUMENTS, event), event.delta
        # langchain-core parses every fragment as if it were a whole. Only one that begins an object can become a call.
        if mould is None or not delta or delta.lstrip(_JSON_SPACE).startswith("{"):
            return None
        self._advance(event, None)
        index = self._index
        part = {"name": None, "args": delta, "id": None, "index": index, "type": "tool_call_chunk"}
        broken = {"name": None, "args": delta, "id": None, "error": None, "type": "invalid_tool_call"}
        return _cast(
            mould,
            "",
            content=[{"type": "function_call", "arguments": delta, "index": index}],
            tool_call_chunks=[part],
            invalid_tool_calls=[broken],
        )

    def _mould(self, kind: str, event: Any) -> tuple[_Mould, _Mould] | None:
        """The mould for an event with plain values; None where there is none yet, or the event is odd."""
        plain = type(event.delta) is str and type(event.output_index) is int
        return self._moulds.get(kind) if plain and self._moulds is not None else None

    def _advance(self, event: Any, sub_index: int | None) -> None:
        """Counts content blocks as langchain-openai does: each output item, and each part of its content."""
        output_index, item_id = event.output_index, event.item_id
        if item_id is not None:
            # An item keeps the place that its first event gave it.
            output_index = self._output_indices.setdefault(item_id, output_index)
        if self._output_index != output_index or (sub_index is not None and self._sub_index != sub_index):
            self._index += 1
        if sub_index is not None:
            self._sub_index = sub_index
        self._output_index = output_index


def _is_example(chunk: ChatGenerationChunk | None) -> TypeGuard[ChatGenerationChunk]:
    """Whether others can be made after a chunk: nothing in it but what `_text` and `_arguments` replace."""
    if chunk is None or type(chunk) is not ChatGenerationChunk or type(chunk.message) is not AIMessageChunk:
        return False
    message, replaced = (
        chunk.message,
        {"content", "tool_call_chunks", "invalid_tool_calls", "response_metadata"},
    )
    return (
        message.response_metadata == _METADATA
        and not message.__pydantic_extra__
        and not message.__pydantic_private__
        and not any(
            isinstance(value, list | dict) and value
            for name, value in message.__dict__.items()
            if name not in replaced
        )
    )


_METADATA = {"model_provider": "openai"}


def _cast(moulds: tuple[_Mould, _Mould], text: str, **fields: Any) -> ChatGenerationChunk:
    message, generation = moulds
    chunk = generation.cast(text=text, message=message.cast(response_metadata=_METADATA.copy(), **fields))
    return cast("ChatGenerationChunk", chunk)


def chunks_of_stream(events: Any, maker: ChunkMaker) -> Iterator[ChatGenerationChunk]:
    """Yields the chunks of a turn; its errors become those that langchain-openai raises.

    Args:
        events: A context manager whose value is an iterator of events.
        maker: Makes the chunks.
    """
    try:
        with events as opened:
            for event in opened:
                chunk = maker.chunk_of(event)
                if chunk is not None:
                    yield chunk
    except openai.BadRequestError as exc:
        handle_bad_request(exc)
    except openai.APIError as exc:
        handle_api_error(exc)


async def chunks_of_stream_async(events: Any, maker: ChunkMaker) -> AsyncIterator[ChatGenerationChunk]:
    """Like `chunks_of_stream`; the value of the context manager has `batches`, an async iterator of many at a time."""
    try:
        async with events as opened:
            async for batch in opened.batches():
                for event in batch:
                    chunk = maker.chunk_of(event)
                    if chunk is not None:
                        yield chunk
    except openai.BadRequestError as exc:
        handle_bad_request(exc)
    except openai.APIError as exc:
        handle_api_error(exc)
