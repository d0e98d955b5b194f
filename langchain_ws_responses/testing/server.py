"""`ResponsesServer`: a strict local server of the Responses API on one port of this machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from langchain_ws_responses.testing._describe import describe, summary
from langchain_ws_responses.testing._engine import Config, EventGate, Reactive
from langchain_ws_responses.testing._gate import Clock
from langchain_ws_responses.testing._listener import LocalServer
from langchain_ws_responses.testing._script import Answer, as_answer

__all__ = ["ResponsesServer"]

_PATIENCE = 10.0
_GRACE = 1.0
T = TypeVar("T")


class ResponsesServer(LocalServer):
    """A local server that speaks the Responses API over WebSocket, HTTP JSON and SSE.

    It runs in a daemon thread of its own and keeps a record of every request with what the model saw.
    Use it as a context manager, sync or async; leaving it checks that the script was played to its end.

    Args:
        answers: Scripted answers, one per create that generates. A `str` is a text message, and a list of answers
            is one response.
        answer: Answers what the script does not: a function from the recorded request to an answer.
            Without both, the server says in a sentence what it saw. What it asks of the server itself (`forget`,
            `age`, `drop_connections`) happens when it has returned, before its answer.
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
        keep: Records of each kind, and stored responses, to keep; beyond it the oldest are forgotten. `None` keeps all.

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
        keep: int | None = None,
    ) -> None:
        config = Config(
            answer, api_key, lanes, concurrent, max_in_flight, max_lanes, lifetime, warm_up, model_check,
            refuse_upgrade, dict(refuse_headers or {}), event_delay, event_gate, max_message_size, keep,
        )  # fmt: skip
        super().__init__(config, [as_answer(item) for item in answers], host, port, clock)

    def _leave(self, *, clean: bool) -> None:
        super()._leave(clean=clean)
        if clean:
            self.assert_exhausted()

    def __repr__(self) -> str:
        state = f"{self._host}:{self._port}" if self._thread is not None else "stopped"
        open_now = sum(record.open for record in self.connections)
        return (
            f"<ResponsesServer [{state} | {open_now} open, {len(self.connections)} accepted | "
            f"{len(self.requests)} requests, {len(self._engine.script)} answers left]>"
        )

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
            total = self._engine.taken + len(left)
            raise AssertionError(
                "\n".join([f"{len(left)} of {total} scripted answers never asked for:", *lines])
            )

    def assert_all_answered(self) -> None:
        """Checks that no request came after the last scripted answer.

        Raises:
            AssertionError: There was one; the message says which.
        """
        if self._engine.unscripted:
            lines = [f"  request {request.number}: {summary(request)}" for request in self._engine.unscripted]
            raise AssertionError("\n".join(["No answer was scripted for:", *lines]))

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
