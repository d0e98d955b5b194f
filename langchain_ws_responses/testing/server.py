"""`ResponsesServer`: a strict local server of the Responses API on one port of this machine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar

from langchain_ws_responses.testing._describe import describe, summary
from langchain_ws_responses.testing._engine import Config, Engine, EventGate, Lost, Reactive
from langchain_ws_responses.testing._gate import AdjustableClock, Clock
from langchain_ws_responses.testing._http import HttpPeer
from langchain_ws_responses.testing._records import (
    RecordedConnection,
    RecordedHandshake,
    RecordedRequest,
)
from langchain_ws_responses.testing._script import Answer, as_answer
from langchain_ws_responses.testing._stream import Stream
from langchain_ws_responses.testing._websocket import WebSocketPeer, wants_upgrade

__all__ = ["ResponsesServer"]

_PATIENCE = 10.0
_GRACE = 1.0
T = TypeVar("T")


class ResponsesServer:
    """A local server that speaks the Responses API over WebSocket, HTTP JSON and SSE.

    It runs in a daemon thread of its own and keeps a record of every request with what the model saw.
    Use it as a context manager, sync or async; leaving it checks that the script was played to its end.

    Args:
        answers: Scripted answers, one per create that generates. A `str` is a text message, and a list of answers
            is one response.
        answer: Answers what the script does not: a function from the recorded request to an answer.
            Without both, the server says in a sentence what it saw.
        host: Address to listen on.
        port: Port to listen on; 0 takes a free one.
        api_key: When set, any other bearer gets 401.
        lanes: `False` ignores `stream_id`, never echoes it and runs one response at a time.
        concurrent: Without lanes, what a second create meets: `"queue"` or the error of `"reject"`.
        max_in_flight: Responses in flight per connection; more wait.
        max_lanes: Named lanes per connection.
        lifetime: Seconds that a connection may last; `None` for ever.
        warm_up: What `generate: false` does: `"keep"` its input, `"generate"` anyway, or `"drop"` its input.
        model_check: Says whether a model exists.
        clock: The monotonic clock that `age` moves.
        refuse_upgrade: Status that every WebSocket handshake is refused with.
        refuse_headers: Headers of that refusal, such as `retry-after`.
        event_delay: Seconds between events.
        event_gate: A gate before every event, or a function from request and event to a gate or `None`.
        max_message_size: Larger frames are closed with 1009.

    Example:
        ```python
        with ResponsesServer(tool_call("add", {"a": 1, "b": 2}), "3") as server:
            ...  # point a client at `server.base_url`
        ```
    """

    def __init__(
        self,
        *answers: Answer | Sequence[Answer] | str,
        answer: Reactive | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        api_key: str | None = None,
        lanes: bool = True,
        concurrent: Literal["queue", "reject"] = "queue",
        max_in_flight: int = 16,
        max_lanes: int = 32,
        lifetime: float | None = 3600.0,
        warm_up: Literal["keep", "generate", "drop"] = "keep",
        model_check: Callable[[Any], bool] | None = None,
        clock: Clock | None = None,
        refuse_upgrade: int | None = None,
        refuse_headers: Mapping[str, str] | None = None,
        event_delay: float = 0.0,
        event_gate: EventGate | None = None,
        max_message_size: int = 64 * 2**20,
    ) -> None:
        self.config = Config(
            answer, api_key, lanes, concurrent, max_in_flight, max_lanes, lifetime, warm_up, model_check,
            refuse_upgrade, dict(refuse_headers or {}), event_delay, event_gate, max_message_size,
        )  # fmt: skip
        if isinstance(clock, AdjustableClock):
            self.clock = clock
        else:
            self.clock = AdjustableClock() if clock is None else AdjustableClock(clock)
        self._host, self._wanted_port, self._port = host, port, 0
        self._changed = threading.Condition()
        script = [as_answer(item) for item in answers]
        self._engine = Engine(self.config, script, self.clock, self._notify)
        self._life = threading.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._peers: set[WebSocketPeer] = set()

    # -- life

    def start(self) -> ResponsesServer:
        """Starts the server; does nothing when it runs.

        Raises:
            OSError: The address is in use or not ours.
        """
        with self._life:
            if self._thread is not None:
                return self
            ready = threading.Event()
            failure: list[OSError] = []
            thread = threading.Thread(
                target=self._main, args=(ready, failure), name="responses-server", daemon=True
            )
            thread.start()
            ready.wait()
            if failure:
                thread.join()
                raise failure[0]
            self._thread = thread
        return self

    def stop(self) -> None:
        """Stops the server and closes every connection; does nothing when it is stopped."""
        with self._life:
            thread, loop, stop = self._thread, self._loop, self._stop
            if thread is None or loop is None or stop is None:
                return
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            self._thread = self._loop = self._stop = None

    def __enter__(self) -> ResponsesServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if kind is None:
            self.assert_exhausted()

    async def __aenter__(self) -> ResponsesServer:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)
        if kind is None:
            self.assert_exhausted()

    def __repr__(self) -> str:
        state = f"{self._host}:{self._port}" if self._thread is not None else "stopped"
        open_now = sum(record.open for record in self.connections)
        return (
            f"<ResponsesServer [{state} | {open_now} open, {len(self.connections)} accepted | "
            f"{len(self.requests)} requests, {len(self._engine.script)} answers left]>"
        )

    # -- addresses and records

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._port

    @property
    def base_url(self) -> str:
        """The `base_url` for clients: `http://host:port/v1`."""
        return f"http://{self._host}:{self._port}/v1"

    @property
    def websocket_url(self) -> str:
        """The WebSocket endpoint: `ws://host:port/v1/responses`."""
        return f"ws://{self._host}:{self._port}/v1/responses"

    @property
    def requests(self) -> list[RecordedRequest]:
        """Every create and compaction of every transport, in order of arrival."""
        return self._engine.requests

    @property
    def connections(self) -> list[RecordedConnection]:
        """Every accepted WebSocket, in order."""
        return self._engine.connections

    @property
    def handshakes(self) -> list[RecordedHandshake]:
        """Every attempt to upgrade, in order."""
        return self._engine.handshakes

    def wait_for(self, predicate: Callable[[], T], timeout: float = 5.0) -> T:
        """Waits until the records satisfy `predicate`, without polling.

        Args:
            predicate: Called after every change to the records.
            timeout: Seconds.

        Returns:
            The true value of `predicate`.

        Raises:
            TimeoutError: It stayed false.
        """
        with self._changed:
            if not self._changed.wait_for(predicate, timeout):
                raise TimeoutError(f"not true within {timeout:g} s: {self!r}")
            return predicate()

    def assert_exhausted(self) -> None:
        """Checks that the script was played to its end and that nothing raised in the server.

        Raises:
            AssertionError: Scripted answers are left over, or an answering function or the server itself
                raised (then that is the cause).
        """
        for failure in self._engine.failures:
            raise AssertionError(f"{type(failure).__name__} was raised in the server: {failure}") from failure
        left = list(self._engine.script)
        if left:
            first = self._engine.taken + 1
            lines = [f"  answer {number}: {describe(answer)}" for number, answer in enumerate(left, first)]
            asked = f"{len(left)} scripted answers were never asked for ({self._engine.taken} were):"
            raise AssertionError("\n".join([asked, *lines]))

    def assert_all_answered(self) -> None:
        """Checks that no request came after the last scripted answer.

        Raises:
            AssertionError: There was one; the message says which.
        """
        if self._engine.unscripted:
            lines = [
                f"  request {1 + self.requests.index(request)}: {summary(request)}"
                for request in self._engine.unscripted
            ]
            asked = f"{len(lines)} requests came for which no answer was scripted:"
            raise AssertionError("\n".join([asked, *lines]))

    # -- things that happen to a server

    def add(self, *answers: Answer | Sequence[Answer] | str) -> None:
        """Appends answers to the script; a list of them is one response, such as parallel tool calls.

        From here on a request that finds the script at its end is refused, unless the server has an `answer` function.
        """
        self._engine.scripted = True
        self._engine.script.extend(as_answer(item) for item in answers)

    def clear(self) -> None:
        """Takes back the answers that nobody has asked for yet."""
        self._engine.script.clear()

    def age(self, *, minutes: float = 0, seconds: float = 0) -> None:
        """Moves the clock; connections past their lifetime are told so and closed, idle or not."""
        self.clock.advance(minutes * 60 + seconds)
        self._call(self._expire)

    def drop_connections(self, *, code: int | None = None) -> None:
        """Loses every WebSocket.

        Args:
            code: Close code of a clean close; `None` resets the TCP connections.
        """

        async def drop() -> None:
            for peer in list(self._peers):
                if code is None:
                    peer.reset()
                    await peer.done.wait()
                else:
                    await peer.close(code)

        self._call(drop)

    def forget(self, response_id: str | None = None) -> None:
        """Evicts a response, or all of them, from every memory and from storage."""

        async def forget() -> None:
            if response_id is None:
                self._engine.store.clear()
            else:
                self._engine.store.remove(response_id)
            for peer in self._peers:
                peer.memory.forget(response_id)

        self._call(forget)

    def _call(self, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` on the server's loop and waits for it."""
        loop = self._loop
        if loop is None:
            return

        async def run() -> None:
            await work()

        asyncio.run_coroutine_threadsafe(run(), loop).result(_PATIENCE)

    # -- the thread

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _main(self, ready: threading.Event, failure: list[OSError]) -> None:
        try:
            asyncio.run(self._serve(ready))
        except OSError as exc:
            failure.append(exc)
        finally:
            ready.set()

    async def _serve(self, ready: threading.Event) -> None:
        stop = asyncio.Event()
        server = await asyncio.start_server(self._accept, self._host, self._wanted_port)
        self._port = server.sockets[0].getsockname()[1]
        self._loop, self._stop = asyncio.get_running_loop(), stop
        ready.set()
        await stop.wait()
        server.close()
        await asyncio.gather(*(peer.close(1001) for peer in self._peers))
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A plain function: asyncio would log the cancellation of a coroutine of its own as an error.
        task = asyncio.get_running_loop().create_task(self._connection(Stream(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connection(self, stream: Stream) -> None:
        try:
            head = await stream.read_head()
            if wants_upgrade(head):
                await self._websocket(stream, head)
            elif head:
                await HttpPeer(self._engine, stream).run(head)
        except Lost:
            pass
        except Exception as exc:
            # A defect of the server must fail the test that met it, not vanish in a thread.
            self._engine.failures.append(exc)
        except asyncio.CancelledError:
            stream.abort()
            raise
        finally:
            stream.close(_GRACE)
            await stream.wait_closed()

    async def _websocket(self, stream: Stream, head: bytes) -> None:
        peer = WebSocketPeer(self._engine, stream)
        self._peers.add(peer)
        lifetime = self.config.lifetime
        timer = None
        if lifetime is not None:
            timer = asyncio.get_running_loop().call_later(lifetime, self._expire_soon)
        try:
            await peer.run(head)
        finally:
            self._peers.discard(peer)
            if timer is not None:
                timer.cancel()

    def _expire_soon(self) -> None:
        task = asyncio.get_running_loop().create_task(self._expire())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _expire(self) -> None:
        for peer in list(self._peers):
            if peer.expired():
                await peer.expire()
