"""A `responses.create`-shaped client over the manager: what ChatOpenAI calls instead of openai's own.

ChatOpenAI builds requests and reads answers itself; between the two it calls `root_client.responses`. These classes
stand there. A call that carries a `Turn` goes where the turn says, any other goes to the openai client untouched.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import aclosing
from typing import Any

import openai

from .. import _json
from .._protocol.events import EventKind, Frame, FrameError
from ..errors import http_response
from .events import event_of, light_response_of, response_of
from .turn import Turn

__all__ = ["TURN", "AsyncClient", "SyncClient"]

TURN = "_turn"
_ENDED_WELL = frozenset({"response.completed", "response.incomplete"})


def _refuse_hooks(name: str) -> None:
    """Keeps `copy` and `pickle` from asking the object behind a stand-in that is not even made yet."""
    if name.startswith("__"):
        raise AttributeError(name)


class _Over:
    """An object with some of its attributes replaced; it is made only when another one is asked for."""

    def __init__(self, inner: Callable[[], Any], **replaced: Any) -> None:
        self._inner = inner
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        _refuse_hooks(name)
        return getattr(self.__dict__["_inner"](), name)


class _RawResponse:
    """What `with_raw_response` gives: the parsed answer and the headers."""

    def __init__(self, parsed: Any, headers: Any = None, http_response: Any = None) -> None:
        self._parsed = parsed
        self.headers: Any = headers if headers is not None else {}
        if http_response is not None:
            self.http_response = http_response

    def parse(self) -> Any:
        """Returns the answer, or the stream of events."""
        return self._parsed


def _size(request: Any) -> int:
    """Bytes of an HTTP request's body, as far as the client still has it."""
    try:
        return len(request.content)
    except Exception:  # a streamed body is not kept
        return 0


def _named(response: Any) -> Any:
    """`previous_response_id` of a response; a placeholder where the server does not write the key at all."""
    if "previous_response_id" not in getattr(response, "model_fields_set", ()):
        return ""
    return response.previous_response_id


def _answer(turn: Turn, frame: Frame) -> Any:
    """Makes the SDK's response object of a terminal frame."""
    text_format = turn.settings.get("text_format")
    try:
        if text_format is None:
            return light_response_of(frame.response)
        response = response_of(frame.response)
    except FrameError as exc:
        raise turn.violation(exc) from None
    from .private import parse_response

    return parse_response(text_format=text_format, input_tools=turn.settings.get("tools"), response=response)


def _raw_answer(turn: Turn, frame: Frame) -> _RawResponse:
    answer = _answer(turn, frame)
    if frame.kind is not EventKind.FAILED:
        return _RawResponse(answer)
    # langchain-openai raises an error, with the response that this says and traces show.
    body = _json.dumps(_json.loads(frame.raw).get("response"))
    return _RawResponse(answer, http_response=http_response(200, {}, body))


def _event(turn: Turn, frame: Frame) -> Any:
    try:
        return event_of(frame.data)
    except FrameError as exc:
        raise turn.violation(exc) from None


def _under_key(turn: Turn, inner: Any, **options: Any) -> Any:
    """The openai client under the key that the turn was planned with, which it would else ask for once more."""
    options |= turn.route.client_options
    return inner.with_options(**options) if options else inner


def _http(turn: Turn, inner: Any) -> Any:
    """The openai client for a turn over HTTP: without retries where a repeated turn could do harm."""
    return _under_key(turn, inner) if turn.may_repeat else _under_key(turn, inner, max_retries=0)


def _after_status_error(turn: Turn, error: openai.APIStatusError) -> bool:
    """Notes a refused HTTP request; whether to try again with the full input."""
    turn.sent_over_http(_size(error.request))
    return turn.resends_after(error.code)


def _http_answer(turn: Turn, raw: Any) -> _RawResponse | None:
    """Reads an HTTP answer; None where the server ignored the response to continue."""
    turn.sent_over_http(_size(raw.http_request))
    response = raw.parse()
    if turn.was_ignored(_named(response)):
        return None
    _finish(turn, response)
    return _RawResponse(response, raw.headers, raw.http_response)


def _finish(turn: Turn, response: Any) -> None:
    # Not every server writes every key, and the SDK's objects have no attribute for what is missing.
    output = getattr(response, "output", None) or ()
    stored = getattr(response, "store", None) is not False
    turn.finish(getattr(response, "id", None), output, stored=stored)


def _passes(turn: Turn, event: Any) -> bool:
    """Looks at an event of an HTTP stream; False where the server ignored the response to continue."""
    turn.report.http_event()
    if event.type == "response.created":
        return not turn.was_ignored(_named(event.response))
    if event.type in _ENDED_WELL:
        _finish(turn, event.response)
    return True


class _EventStream:
    """The events of one turn, for a sync caller."""

    def __init__(self, turn: Turn, inner: Any) -> None:
        self._turn = turn
        self._inner = inner
        self._events = self._iterate()
        self._opened: Any = None

    def __enter__(self) -> _EventStream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Any]:
        events: Iterator[Any] = self._events
        return events

    def close(self) -> None:
        """Ends the turn for this caller; the rest of the answer is swallowed."""
        self._events.close()
        self._turn.abandon()
        if self._opened is not None:
            self._opened.close()

    def open_over_http(self) -> Any:
        """Sends the request now and returns the headers, which are asked for before the events."""
        self._opened = self._open()
        return self._opened.response.headers

    def _iterate(self) -> Any:
        from .._transport.mailbox import SyncMailbox

        turn = self._turn
        try:
            if turn.kind == "websocket":
                mailbox = SyncMailbox()
                turn.start(mailbox)
                while turn.kind == "websocket" and not turn.done:
                    for frame in turn.take(turn.left_over or mailbox.get()):
                        yield _event(turn, frame)
            if turn.kind == "http":
                yield from self._over_http()
        finally:
            turn.abandon()

    def _open(self) -> Any:
        turn = self._turn
        while True:
            try:
                stream = _http(turn, self._inner).responses.create(**turn.http_request())
            except openai.APIStatusError as exc:
                if _after_status_error(turn, exc):
                    continue
                raise
            turn.sent_over_http(_size(stream.response.request))
            return stream

    def _over_http(self) -> Iterator[Any]:
        turn = self._turn
        while True:
            stream, self._opened = self._opened or self._open(), None
            with stream:
                for event in stream:
                    if not _passes(turn, event):
                        break
                    yield event
                else:
                    return


class _AsyncEventStream:
    """The events of one turn, for an async caller."""

    def __init__(self, turn: Turn, inner: Any) -> None:
        self._turn = turn
        self._inner = inner
        self._batches = self._read()
        # langchain-openai bounds the waits of a stream that begins over HTTP.
        self._chunk_timeout = turn.route.http_chunk_timeout if turn.kind == "websocket" else None
        self._events: Any = None
        self._opened: Any = None

    async def __aenter__(self) -> _AsyncEventStream:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    def __aiter__(self) -> AsyncIterator[Any]:
        if self._events is None:
            self._events = self._iterate()
        events: AsyncIterator[Any] = self._events
        return events

    async def aclose(self) -> None:
        """Ends the turn for this caller; the rest of the answer is swallowed."""
        # To close a generator that never ran begins it, which a loop that is about to end complains of.
        if self._events is not None:
            await self._events.aclose()
        await self._batches.aclose()
        self._turn.abandon()
        if self._opened is not None:
            await self._opened.close()

    async def open_over_http(self) -> Any:
        """Sends the request now and returns the headers, which are asked for before the events."""
        self._opened = await self._open()
        return self._opened.response.headers

    def batches(self) -> AsyncIterator[Iterable[Any]]:
        """The events in as many pieces as they came in: each step of an async iterator costs as much as an event."""
        batches: AsyncIterator[Iterable[Any]] = self._batches
        return batches

    async def _iterate(self) -> Any:
        async for batch in self._batches:
            for event in batch:
                yield event

    async def _read(self) -> Any:
        from .._transport.mailbox import AsyncMailbox

        turn = self._turn
        try:
            if turn.kind == "websocket":
                mailbox = AsyncMailbox()
                turn.start(mailbox)
                while turn.kind == "websocket" and not turn.done:
                    frames = turn.take(turn.left_over or await mailbox.get())
                    # Read one by one: what comes before a broken frame is the caller's.
                    yield (_event(turn, frame) for frame in frames)
            if turn.kind == "http":
                async for event in self._over_http():
                    yield (event,)
        finally:
            turn.abandon()

    async def _open(self) -> Any:
        turn = self._turn
        while True:
            try:
                stream = await _http(turn, self._inner).responses.create(**turn.http_request())
            except openai.APIStatusError as exc:
                if _after_status_error(turn, exc):
                    continue
                raise
            turn.sent_over_http(_size(stream.response.request))
            return stream

    async def _over_http(self) -> AsyncIterator[Any]:
        from .private import within_chunk_timeout

        turn = self._turn
        while True:
            stream, self._opened = self._opened or await self._open(), None
            events: Any = within_chunk_timeout(stream, self._chunk_timeout, model_name=turn.model)
            async with stream, aclosing(events):
                async for event in events:
                    if not _passes(turn, event):
                        break
                    yield event
                else:
                    return


class SyncClient:
    """Stands for `root_client`; everything but turns goes to the openai client behind it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        raw = _Over(lambda: inner.responses.with_raw_response, create=self._raw, parse=self._raw)
        self.responses = _Over(lambda: inner.responses, create=self._create, with_raw_response=raw)
        streams = _Over(lambda: inner.with_raw_response.responses, create=self._raw_stream)
        self.with_raw_response = _Over(lambda: inner.with_raw_response, responses=streams)

    def __getattr__(self, name: str) -> Any:
        _refuse_hooks(name)
        return getattr(self.__dict__["_inner"], name)

    def _create(self, **kwargs: Any) -> Any:
        turn = kwargs.get(TURN)
        return self._inner.responses.create(**kwargs) if turn is None else self.stream(turn)

    def stream(self, turn: Turn) -> _EventStream:
        """Returns the events of a turn: a context manager whose value is their iterator."""
        return _EventStream(turn, self._inner)

    def compact(self, turn: Turn, request: Callable[[Turn], dict[str, Any]]) -> Any:
        """Compacts the conversation of a turn; returns the items of the new window."""
        while True:
            try:
                return _under_key(turn, self._inner).responses.compact(**request(turn)).output
            except openai.APIStatusError as exc:
                if not turn.resends_after(exc.code):
                    raise

    def _raw_stream(self, **kwargs: Any) -> Any:
        turn = kwargs.get(TURN)
        if turn is None:
            return self._inner.with_raw_response.responses.create(**kwargs)
        stream = _EventStream(turn, self._inner)
        return _RawResponse(stream, stream.open_over_http() if turn.kind == "http" else None)

    def _raw(self, **kwargs: Any) -> Any:
        turn: Turn | None = kwargs.get(TURN)
        if turn is None:
            return self._inner.responses.with_raw_response.create(**kwargs)
        if turn.kind == "websocket" and (frame := self._collect(turn)) is not None:
            return _raw_answer(turn, frame)
        return self._over_http(turn)

    def _collect(self, turn: Turn) -> Frame | None:
        """Waits for the terminal event; None where the turn has moved to HTTP."""
        from .._transport.mailbox import SyncMailbox

        mailbox = SyncMailbox()
        frames: list[Frame] = []
        try:
            turn.start(mailbox)
            while turn.kind == "websocket" and not turn.done:
                frames = turn.take(turn.left_over or mailbox.get())
        finally:
            turn.abandon()
        return frames[-1] if turn.kind == "websocket" else None

    def _over_http(self, turn: Turn) -> _RawResponse:
        raw_client = _http(turn, self._inner).responses.with_raw_response
        while True:
            request = turn.http_request()
            call = raw_client.parse if "text_format" in request else raw_client.create
            try:
                answer = _http_answer(turn, call(**request))
            except openai.APIStatusError as exc:
                if _after_status_error(turn, exc):
                    continue
                raise
            if answer is not None:
                return answer


class AsyncClient:
    """Stands for `root_async_client`; everything but turns goes to the openai client behind it."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        raw = _Over(lambda: inner.responses.with_raw_response, create=self._raw, parse=self._raw)
        self.responses = _Over(lambda: inner.responses, create=self._create, with_raw_response=raw)
        streams = _Over(lambda: inner.with_raw_response.responses, create=self._raw_stream)
        self.with_raw_response = _Over(lambda: inner.with_raw_response, responses=streams)

    def __getattr__(self, name: str) -> Any:
        _refuse_hooks(name)
        return getattr(self.__dict__["_inner"], name)

    async def _create(self, **kwargs: Any) -> Any:
        turn = kwargs.get(TURN)
        return await self._inner.responses.create(**kwargs) if turn is None else self.stream(turn)

    def stream(self, turn: Turn) -> _AsyncEventStream:
        """Returns the events of a turn: an async context manager whose value is their iterator."""
        return _AsyncEventStream(turn, self._inner)

    async def compact(self, turn: Turn, request: Callable[[Turn], dict[str, Any]]) -> Any:
        """Compacts the conversation of a turn; returns the items of the new window."""
        while True:
            try:
                client = _under_key(turn, self._inner)
                return (await client.responses.compact(**request(turn))).output
            except openai.APIStatusError as exc:
                if not turn.resends_after(exc.code):
                    raise

    async def _raw_stream(self, **kwargs: Any) -> Any:
        turn = kwargs.get(TURN)
        if turn is None:
            return await self._inner.with_raw_response.responses.create(**kwargs)
        stream = _AsyncEventStream(turn, self._inner)
        return _RawResponse(stream, await stream.open_over_http() if turn.kind == "http" else None)

    async def _raw(self, **kwargs: Any) -> Any:
        turn: Turn | None = kwargs.get(TURN)
        if turn is None:
            return await self._inner.responses.with_raw_response.create(**kwargs)
        if turn.kind == "websocket" and (frame := await self._collect(turn)) is not None:
            return _raw_answer(turn, frame)
        return await self._over_http(turn)

    async def _collect(self, turn: Turn) -> Frame | None:
        """Waits for the terminal event; None where the turn has moved to HTTP."""
        from .._transport.mailbox import AsyncMailbox

        mailbox = AsyncMailbox()
        frames: list[Frame] = []
        try:
            turn.start(mailbox)
            while turn.kind == "websocket" and not turn.done:
                frames = turn.take(turn.left_over or await mailbox.get())
        finally:
            turn.abandon()
        return frames[-1] if turn.kind == "websocket" else None

    async def _over_http(self, turn: Turn) -> _RawResponse:
        raw_client = _http(turn, self._inner).responses.with_raw_response
        while True:
            request = turn.http_request()
            call = raw_client.parse if "text_format" in request else raw_client.create
            try:
                answer = _http_answer(turn, await call(**request))
            except openai.APIStatusError as exc:
                if _after_status_error(turn, exc):
                    continue
                raise
            if answer is not None:
                return answer
