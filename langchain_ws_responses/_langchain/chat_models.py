"""`ChatOpenAIWebSocket`: ChatOpenAI over one persistent connection, sending only what is new."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, closing
from dataclasses import replace
from typing import Any, Literal, cast

from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult
from langchain_core.prompt_values import ChatPromptValue, PromptValue
from langchain_core.runnables import Runnable
from langchain_openai import ChatOpenAI
from pydantic import ConfigDict, Field, PrivateAttr, SecretStr, field_validator, model_validator

from .chunk_clock import AsyncStreamTurn
from .chunks import ChunkMaker, chunks_of_stream, chunks_of_stream_async
from .client import TURN, AsyncClient, SyncClient
from .compaction import compact_request, window_of
from .explain import explain_message
from .fields import (
    accepted,
    check_arguments,
    hidden_digest,
    secret_fields,
    transport_from_environment,
    warn_of_call,
)
from .payload import HOOK, payload_of, prompt_apart, turns_let_through
from .place import check_place, endpoint_of, route_of
from .ready import awarm_up, remember, warm_up
from .report import observed
from .route import Route, same_fields
from .tool_forms import in_form
from .turn import Turn

__all__ = ["ChatOpenAIWebSocket"]

Transport = Literal["auto", "websocket", "http"]
# What nearly every conversation is made of; all else, and whatever can be made a message, goes to langchain-core.
_MESSAGES = frozenset({AIMessage, HumanMessage, SystemMessage, ToolMessage})


class ChatOpenAIWebSocket(ChatOpenAI):
    """`ChatOpenAI` over the WebSocket mode of the Responses API.

    Takes every field of `ChatOpenAI`; the Responses API is always used. Each answer carries in `response_metadata`
    the link that lets the next turn send only what is new (`"openai_chain"`) and how it was sent (`"transport"`).

    Args:
        manager: The `ConnectionManager` that owns the sockets; the process's `default_manager()` if not given.
        transport: `"websocket"` never uses HTTP, `"http"` never a socket; `"auto"` uses the socket for agents and HTTP
            where a socket cannot pay or cannot be had. Default from `LANGCHAIN_WS_RESPONSES_TRANSPORT`, else `"auto"`.
        chain: `"off"` sends the full input every time.
        system_mode: `"input"` keeps system messages in `input`, as `ChatOpenAI` does; `"instructions"` sends leading
            system text as `instructions`; `"auto"` begins with `input` and goes over to `instructions` in a chain
            whose leading system text changes.
        websocket_url: `ws(s)` URL to dial; derived from `base_url` if not given.
        chain_secret: Key of the links; derived from the API key if not given. Set it to share chains between workers
            whose keys differ, or across the rotation of a key that a callable gives.
        on_ambiguous: When a socket dies after the send and before the answer: `"resend"` the full input once where
            that can do no harm, or `"raise"`.

    Raises:
        ConfigurationError: A URL or header cannot be used.

    Example:
        ```python
        from langchain_ws_responses import ChatOpenAIWebSocket

        model = ChatOpenAIWebSocket(model="gpt-5.5")
        model.invoke("Hello")
        ```
    """

    # pydantic's errors would quote the arguments, the key among them.
    model_config = ConfigDict(hide_input_in_errors=True)

    manager: Any = Field(default=None, exclude=True, repr=False)
    transport: Transport = Field(default_factory=transport_from_environment, validate_default=True)
    chain: Literal["auto", "off"] = "auto"
    system_mode: Literal["auto", "input", "instructions"] = "auto"
    websocket_url: str | None = None
    chain_secret: SecretStr | None = Field(default=None, exclude=True, repr=False)
    on_ambiguous: Literal["resend", "raise"] = "resend"

    _route: Route | None = PrivateAttr(default=None)
    _route_of: tuple[Any, ...] = PrivateAttr(default=())
    _told: set[str] = PrivateAttr(default_factory=set)
    _last: dict[str, Any] = PrivateAttr(default_factory=dict)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Here and not in a validator: pydantic would quote all arguments, the key among them.
        check_place(self)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if getattr(cls, HOOK) is not ChatOpenAIWebSocket._get_request_payload:
            setattr(cls, HOOK, turns_let_through(getattr(cls, HOOK)))

    @model_validator(mode="before")
    @classmethod
    def _accept(cls, values: Any) -> Any:
        """Takes a `ws(s)` base URL apart and cleans the key."""
        return accepted(values) if isinstance(values, dict) else values

    @field_validator("manager")
    @classmethod
    def _check_manager(cls, value: Any) -> Any:
        if value is not None:
            from .._transport.manager import ConnectionManager

            if not isinstance(value, ConnectionManager):
                raise ValueError(f"manager must be a ConnectionManager, not {type(value).__name__}")
        return value

    def _use_responses_api(self, payload: dict[str, Any]) -> bool:
        """Always; also while the fields are being validated, when the model's profile is looked up."""
        return True

    @model_validator(mode="after")
    def _stand_before_the_clients(self) -> ChatOpenAIWebSocket:
        """Puts the turn-aware clients in the place that ChatOpenAI calls."""
        self.use_responses_api = True
        if self.root_client is not None and not isinstance(self.root_client, SyncClient):
            self.root_client = SyncClient(self.root_client)
        if self.root_async_client is not None and not isinstance(self.root_async_client, AsyncClient):
            self.root_async_client = AsyncClient(self.root_async_client)
        return self

    # -- where turns go ----------------------------------------

    def _endpoint(self) -> Any:
        return endpoint_of(self)

    def _current_route(self) -> Route:
        """Returns the route, made anew when a field that it depends on has changed. A turn has that of its key."""
        manager = self.manager
        if manager is None and self.transport != "http":
            from .._transport.manager import default_manager

            manager = default_manager()
        depends = (
            manager,
            self.transport,
            self.chain,
            self.system_mode,
            self.websocket_url,
            self.chain_secret,
            self.on_ambiguous,
            self.openai_api_key,
            self.openai_api_base,
            self.openai_organization,
            self.default_headers,
            self.default_query,
            self.request_timeout,
            self.stream_chunk_timeout,
            self.max_retries,
            self.root_async_client,
        )
        # Read and written once each: pydantic looks private attributes up slowly.
        route = self._route
        if route is None or not same_fields(depends, self._route_of):
            self._route, self._route_of = route, _ = route_of(self, manager), depends
        return route

    def _asked_route(self) -> Route:
        """Returns the route of one turn; a key callable is asked for it, as the openai client asks at each request."""
        route = self._current_route()
        if route.ask is not None:
            self._ensure_sync_client_available()
        return route.asked()

    # -- turns ----------------------------------------

    def _convert_input(self, model_input: LanguageModelInput) -> PromptValue:
        """Takes a list of messages as it is: langchain-core would look at each of a long history twice."""
        if type(model_input) is list and _MESSAGES.issuperset(map(type, model_input)):
            return ChatPromptValue.model_construct(messages=model_input.copy())
        return super()._convert_input(model_input)

    def _get_request_payload(
        self, input_: LanguageModelInput, *, stop: list[str] | None = None, **kwargs: Any
    ) -> dict[str, Any]:
        """Builds the request; a call that carries a turn has planned its request already."""
        turn = kwargs.get(TURN)
        if turn is not None:
            return {TURN: turn}
        return super()._get_request_payload(input_, stop=stop, **kwargs)

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """Binds tools, see `ChatOpenAI`."""
        return super().bind_tools(in_form(tools, kwargs, super().bind_tools), **kwargs)

    def _turn(
        self,
        route: Route,
        messages: list[BaseMessage],
        stop: list[str] | None,
        kwargs: Mapping[str, Any],
        *,
        stream: bool,
        kind: type[Turn] = Turn,
    ) -> Turn:
        given = {**kwargs, "stream": True} if stream else dict(kwargs)
        settings = payload_of(self, ChatOpenAIWebSocket, messages, given, stop)
        turn = kind(route, messages, settings, wants_events=stream)
        over_socket = turn.kind == "websocket"
        if over_socket:
            check_arguments(settings)
        warn_of_call(settings, over_socket=over_socket, chained=route.chain != "off", told=self._told)
        return turn

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        turn = self._turn(self._asked_route(), messages, stop, kwargs, stream=False)
        with observed(turn, self._last, run_manager):
            result = super()._generate(messages, stop, run_manager, **{**kwargs, TURN: turn})
            _stamp(result, turn)
        return result

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        route = await self._current_route().asked_async()
        turn = self._turn(route, messages, stop, kwargs, stream=False)
        with observed(turn, self._last, run_manager):
            result = await super()._agenerate(messages, stop, run_manager, **{**kwargs, TURN: turn})
            _stamp(result, turn)
        return result

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        turn = self._turn(self._asked_route(), messages, stop, kwargs, stream=True)
        self._ensure_sync_client_available()
        chunks = self._own_chunks(turn, kwargs, chunks_of_stream, self.root_client)
        if chunks is None:
            chunks = super()._stream_responses(messages, stop, None, **{**kwargs, TURN: turn})
        with observed(turn, self._last, run_manager), closing(chunks):
            for chunk in chunks:
                _stamp_last(chunk, turn)
                if run_manager:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        route = await self._current_route().asked_async()
        turn = self._turn(route, messages, stop, kwargs, stream=True, kind=AsyncStreamTurn)
        chunks = self._own_chunks(turn, kwargs, chunks_of_stream_async, self.root_async_client)
        if chunks is None:
            # Around every wait langchain-openai puts `asyncio.wait_for`, which costs more than an event does and
            # swallows cancellations before Python 3.12. A turn on a socket has clocks of its own.
            own_clocks = turn.kind == "websocket"
            model = self.model_copy(update={"stream_chunk_timeout": None}) if own_clocks else self
            chunks = ChatOpenAI._astream_responses(model, messages, stop, None, **{**kwargs, TURN: turn})
        with observed(turn, self._last, run_manager):
            async with aclosing(chunks):
                async for chunk in chunks:
                    _stamp_last(chunk, turn)
                    if run_manager:
                        await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                    yield chunk

    def _own_chunks(self, turn: Turn, kwargs: Mapping[str, Any], read: Any, client: Any) -> Any:
        """Chunks that are not made in langchain-openai's loop; None where that one must look after HTTP headers."""
        if turn.kind != "websocket" or self.include_response_headers or getattr(self, "_uses_gateway", False):
            return None
        maker = ChunkMaker(schema=kwargs.get("response_format"), output_version=self.output_version)
        return read(client.stream(turn), maker)

    # -- connection ----------------------------------------

    def preconnect(self) -> None:
        """Starts to open the connection and returns at once; the first turn then finds it ready.

        Raises:
            ConfigurationError: The endpoint cannot be used.
            ManagerClosed: The manager is closed.
        """
        self._asked_route().preconnect()

    async def apreconnect(self) -> None:
        """Like `preconnect`."""
        (await self._current_route().asked_async()).preconnect()

    @property
    def keeps_warm_up(self) -> bool:
        """Whether a warm-up can be continued from: the socket is used and the server is known to keep one."""
        return self._current_route().keeps_warm_up

    def warm_up(
        self, messages: LanguageModelInput | None = None, tools: Sequence[Any] | None = None, **kwargs: Any
    ) -> bool:
        """Lets the server read tools and the beginning of a conversation before the first turn.

        Nothing is generated. The next turn that begins with these messages sends only what follows them. Where the
        server is not known to keep warm-ups, the connection is opened and nothing is sent.

        Args:
            messages: The beginning of the conversation, such as the system prompt.
            tools: What `bind_tools` takes.
            **kwargs: Further settings of the turns to come, as for `bind`.

        Returns:
            Whether a later turn can continue from it. A warm-up that fails is no error.

        Raises:
            ConfigurationError: The endpoint cannot be used.
            ManagerClosed: The manager is closed.
        """
        return self._warm_up(self._asked_route(), messages, tools, kwargs)

    async def awarm_up(
        self, messages: LanguageModelInput | None = None, tools: Sequence[Any] | None = None, **kwargs: Any
    ) -> bool:
        """Like `warm_up`."""
        route = await self._current_route().asked_async()
        route.preconnect()
        return await awarm_up(route, *self._warm_up_request(messages, tools, kwargs))

    def _warm_up(
        self,
        route: Route,
        messages: LanguageModelInput | None,
        tools: Sequence[Any] | None,
        kwargs: dict[str, Any],
    ) -> bool:
        route.preconnect()
        return warm_up(route, *self._warm_up_request(messages, tools, kwargs))

    def _warm_up_request(
        self, messages: LanguageModelInput | None, tools: Sequence[Any] | None, kwargs: dict[str, Any]
    ) -> tuple[list[BaseMessage], dict[str, Any]]:
        if tools:
            kwargs = {**cast("Any", self.bind_tools(tools)).kwargs, **kwargs}
        read = self._convert_input(messages).to_messages() if messages else []
        return read, payload_of(self, ChatOpenAIWebSocket, read, kwargs)

    def compact(self, messages: LanguageModelInput, **kwargs: Any) -> list[BaseMessage]:
        """Shortens a conversation with the provider's `/responses/compact`, over HTTP.

        Args:
            messages: The conversation.
            **kwargs: Further settings, as for `bind`.

        Returns:
            A new conversation that stands for the old one: the leading system messages, what the provider keeps as it
            was, and one compaction item. Put it in the place of the old messages; the next turn starts a new chain.

        Raises:
            openai.APIError: The provider refused or could not be reached.
        """
        if self.root_client is None:
            self._ensure_sync_client_available()
        turn = self._compact_turn(self._asked_route(), messages, kwargs)
        output = self.root_client.compact(turn, compact_request)
        return window_of(turn.messages[: turn.history.head], output)

    async def acompact(self, messages: LanguageModelInput, **kwargs: Any) -> list[BaseMessage]:
        """Like `compact`."""
        turn = self._compact_turn(await self._current_route().asked_async(), messages, kwargs)
        output = await self.root_async_client.compact(turn, compact_request)
        return window_of(turn.messages[: turn.history.head], output)

    def _compact_turn(self, route: Route, messages: LanguageModelInput, kwargs: dict[str, Any]) -> Turn:
        # Leading system text goes to `instructions`, so that it is not melted into the compaction item.
        route = replace(route, transport="http", system_mode="instructions")
        read = self._convert_input(messages).to_messages()
        settings = prompt_apart(payload_of(self, ChatOpenAIWebSocket, read, kwargs))
        return Turn(route, read, settings, wants_events=False)

    def explain(self, message: BaseMessage | None = None) -> str:
        """Says in plain words why a turn was sent as it was.

        Args:
            message: An answer of this package; if not given, the turn that ended last on this model, whoever asked: a
                model and its copies (`bind_tools`, `model_copy`) are often shared by threads.

        Returns:
            How it was sent, why, and what would have to be true for a delta. No content, no response id.
        """
        return explain_message(message, self._last)

    def close(self) -> None:
        """Closes the model's own manager; a model on the default manager leaves that open for others."""
        if self.manager is not None:
            self.manager.close()

    async def aclose(self) -> None:
        """Like `close`, without blocking the event loop."""
        if self.manager is not None:
            await self.manager.aclose()

    # -- LangChain ----------------------------------------

    @classmethod
    def get_lc_namespace(cls) -> list[str]:
        """Returns where LangChain's serialisation finds this class.

        To load what `dumpd` made, name the class and this namespace: `load(data, allowed_objects=[ChatOpenAIWebSocket],
        valid_namespaces=["langchain_ws_responses"], secrets_from_env=True)`.
        """
        return ["langchain_ws_responses"]

    @property
    def lc_secrets(self) -> dict[str, str]:
        """Names the environment variables that stand for secrets in a serialised model, and so in every trace."""
        return {**super().lc_secrets, **secret_fields(self)}

    def _get_llm_string(self, stop: list[str] | None = None, **kwargs: Any) -> str:
        """Returns what a cache of answers knows the model by: what it hides from traces tells models apart here too."""
        return f"{super()._get_llm_string(stop=stop, **kwargs)}---{hidden_digest(self)}"

    def __repr_args__(self) -> Any:
        hidden = self.lc_secrets
        return [
            (name, SecretStr("…") if value is not None and name in hidden else value)
            for name, value in super().__repr_args__()
        ]


# langchain-core asks for the signature of these two in every call, and taking a function apart is slow. A function that
# has been given its signature is not taken apart.
for _function in (ChatOpenAIWebSocket._generate, ChatOpenAIWebSocket._agenerate):
    setattr(_function, "__signature__", inspect.signature(_function))  # noqa: B010


def _stamp(result: ChatResult, turn: Turn) -> None:
    remember(turn)
    for generation in result.generations:
        turn.answer = generation.message
        generation.message.response_metadata.update(turn.metadata())


def _stamp_last(chunk: ChatGenerationChunk, turn: Turn) -> None:
    # On the last chunk only: merging chunks concatenates strings.
    if getattr(chunk.message, "chunk_position", None) == "last":
        remember(turn)
        turn.answer = chunk.message
        chunk.message.response_metadata.update(turn.metadata())
