"""The LangChain floor: the wire floor inside a minimal `BaseChatModel`. No chat model can do less.

Its messages hold plain text and no more than it needs. With `whole` they say what ChatOpenAI's say: what that costs is
LangChain's own, which looks at every block of the history in each call, and that of whoever saves the messages.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from typing import Any

import orjson
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.utils.function_calling import convert_to_openai_tool

from ..clock import Clock
from . import Job
from ._chat import achat_session, chat_session
from .wire_floor import TERMINAL, LanePool, headers

_ROLES = {"human": "user", "system": "system"}
_DELTA = b"response.output_text.delta"
_ARGUMENTS = b"response.function_call_arguments.delta"
_ADDED = b"response.output_item.added"
_METADATA = ("id", "created_at", "metadata", "model", "object", "service_tier", "status")


class FloorModel(BaseChatModel):
    """Sends what follows the last answer and believes everything that it is told."""

    model: str
    url: str
    sync_socket: Any = None
    async_socket: Any = None
    lanes: Any = None
    whole: bool = False

    @property
    def _llm_type(self) -> str:
        return "floor"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        """Binds tools in the form of the API."""
        flat = [convert_to_openai_tool(tool) for tool in tools]
        return self.bind(tools=[{"type": "function", "strict": False, **tool["function"]} for tool in flat])

    def _request(self, messages: Sequence[BaseMessage], tools: Sequence[Any]) -> dict[str, Any]:
        start, parent = 0, None
        for index in range(len(messages) - 1, -1, -1):
            if isinstance(messages[index], AIMessage):
                start, parent = index + 1, messages[index].response_metadata["id"]
                break
        items: list[dict[str, Any]] = [
            {"type": "function_call_output", "call_id": message.tool_call_id, "output": message.content}
            if isinstance(message, ToolMessage)
            else {"type": "message", "role": _ROLES[message.type], "content": message.content}
            for message in messages[start:]
        ]
        request: dict[str, Any] = {
            "type": "response.create",
            "model": self.model,
            "tools": tools,
            "input": items,
        }
        if parent is not None:
            request["previous_response_id"] = parent
        return request

    def _frame(self, messages: Sequence[BaseMessage], tools: Sequence[Any]) -> bytes:
        return orjson.dumps(self._request(messages, tools))

    def _connected(self) -> Any:
        if self.sync_socket is None:
            from websockets.sync.client import connect

            # Entered by hand, as the model outlives this call: websockets warns of one that is not entered.
            self.sync_socket = connect(
                self.url, compression=None, max_size=None, additional_headers=headers()
            ).__enter__()
        return self.sync_socket

    async def _aconnected(self) -> Any:
        if self.async_socket is None:
            from websockets.asyncio.client import connect

            self.async_socket = await connect(
                self.url, compression=None, max_size=None, additional_headers=headers()
            )
        return self.async_socket

    def _generate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        socket = self._connected()
        socket.send(self._frame(messages, kwargs.get("tools", ())), text=True)
        while not (frame := socket.recv(decode=False)).startswith(TERMINAL):
            pass
        return _result(frame, self.whole)

    async def _agenerate(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> ChatResult:
        if self.lanes is not None:
            answer = await self.lanes.ask(self._request(messages, kwargs.get("tools", ())))
            return _result(answer, self.whole)
        socket = await self._aconnected()
        await socket.send(self._frame(messages, kwargs.get("tools", ())), text=True)
        while not (frame := await socket.recv(decode=False)).startswith(TERMINAL):
            pass
        return _result(frame, self.whole)

    def _stream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> Iterator[ChatGenerationChunk]:
        socket = self._connected()
        socket.send(self._frame(messages, kwargs.get("tools", ())), text=True)
        while True:
            frame = socket.recv(decode=False)
            chunk = _chunk(frame)
            if chunk is not None:
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
            if frame.startswith(TERMINAL):
                return

    async def _astream(
        self, messages: list[BaseMessage], stop: Any = None, run_manager: Any = None, **kwargs: Any
    ) -> AsyncIterator[ChatGenerationChunk]:
        socket = await self._aconnected()
        await socket.send(self._frame(messages, kwargs.get("tools", ())), text=True)
        while True:
            frame = await socket.recv(decode=False)
            chunk = _chunk(frame)
            if chunk is not None:
                if run_manager:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk
            if frame.startswith(TERMINAL):
                return


def _result(frame: bytes, whole: bool) -> ChatResult:
    response = orjson.loads(frame)["response"]
    message = AIMessage(content="", id=response["id"], response_metadata={"id": response["id"]})
    for item in response["output"]:
        if item["type"] == "function_call":
            args = orjson.loads(item["arguments"])
            message.tool_calls.append(
                {"name": item["name"], "args": args, "id": item["call_id"], "type": "tool_call"}
            )
        else:
            message.content = item["content"][0]["text"]
    if whole:
        _complete(message, response)
    return ChatResult(generations=[ChatGeneration(message=message)])


def _complete(message: AIMessage, response: dict[str, Any]) -> None:
    """Adds what langchain-openai puts into the message of the same answer."""
    message.content = [block for item in response["output"] for block in _blocks(item)]
    message.response_metadata = {
        **{name: response[name] for name in _METADATA if name in response},
        "created_at": float(response["created_at"]),
        "model_provider": "openai",
        "model_name": response["model"],
    }
    usage = response["usage"]
    message.usage_metadata = UsageMetadata(
        input_tokens=usage["input_tokens"],
        output_tokens=usage["output_tokens"],
        total_tokens=usage["total_tokens"],
        input_token_details={"cache_read": usage["input_tokens_details"]["cached_tokens"]},
        output_token_details={"reasoning": usage["output_tokens_details"]["reasoning_tokens"]},
    )


def _blocks(item: dict[str, Any]) -> list[Any]:
    if item["type"] == "function_call":
        return [item]
    return [
        {"type": "text", "text": part["text"], "annotations": part["annotations"], "id": item["id"]}
        for part in item["content"]
    ]


def _chunk(frame: bytes) -> ChatGenerationChunk | None:
    # The type stands at the head, behind `{"type":"`.
    if frame.startswith(_DELTA, 9):
        return ChatGenerationChunk(message=AIMessageChunk(content=orjson.loads(frame)["delta"]))
    if frame.startswith(_ARGUMENTS, 9):
        part = tool_call_chunk(args=orjson.loads(frame)["delta"], index=0)
        return ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[part]))
    if frame.startswith(_ADDED, 9):
        item = orjson.loads(frame)["item"]
        if item["type"] == "function_call":
            part = tool_call_chunk(name=item["name"], args="", id=item["call_id"], index=0)
            return ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[part]))
        return None
    if frame.startswith(TERMINAL):
        response_id = orjson.loads(frame)["response"]["id"]
        return ChatGenerationChunk(
            message=AIMessageChunk(content="", response_metadata={"id": response_id}, chunk_position="last")
        )
    return None


def make_model(job: Job, name: str) -> FloorModel:
    """Makes the model of a session."""
    return FloorModel(model=name, url=job.socket_url, whole=job.options.get("whole", False))


def session(job: Job) -> AbstractContextManager[Callable[[str, Clock], str]]:
    """One model and one socket for all conversations, one after another."""
    return chat_session(job, make_model, close=_close)


def asession(job: Job) -> AbstractAsyncContextManager[Callable[[str, Clock], Awaitable[str]]]:
    """One model and one socket for all conversations, one after another; with `lanes` many at a time."""
    if job.options.get("lanes"):
        return _lane_session(job, job.options["lanes"])
    return achat_session(job, make_model, close=_aclose)


@asynccontextmanager
async def _lane_session(job: Job, size: int) -> AsyncIterator[Callable[[str, Clock], Awaitable[str]]]:
    """One model, whose turns take any free lane of any of its sockets."""
    pool = LanePool(job, size)

    def make(job: Job, name: str) -> FloorModel:
        model = make_model(job, name)
        model.lanes = pool
        return model

    async with achat_session(job, make) as run:
        yield run
    await pool.close()


def _close(model: FloorModel) -> None:
    if model.sync_socket is not None:
        model.sync_socket.close()


async def _aclose(model: FloorModel) -> None:
    if model.async_socket is not None:
        await model.async_socket.close()
