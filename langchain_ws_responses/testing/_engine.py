"""Runs one create from its checks to its terminal event, for every transport."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

from langchain_ws_responses.testing._describe import summary
from langchain_ws_responses.testing._events import (
    TERMINAL,
    ApiError,
    Event,
    Item,
    Player,
    new_id,
    response_object,
)
from langchain_ws_responses.testing._gate import AdjustableClock, Gate
from langchain_ws_responses.testing._insert import InsertingSink
from langchain_ws_responses.testing._plan import Plan, unwrap
from langchain_ws_responses.testing._records import RecordedRequest, Records
from langchain_ws_responses.testing._script import (
    Answer,
    ErrorAnswer,
    EventsAnswer,
    Output,
    RawAnswer,
    as_answer,
    text,
)
from langchain_ws_responses.testing._state import (
    Memory,
    Node,
    Store,
    check_items,
    input_items,
    not_found,
    open_calls,
    rough_tokens,
)

__all__ = ["Config", "Engine", "Lost", "Sink", "Turn"]

Reactive = Callable[[RecordedRequest], Answer | Sequence[Answer] | str]
EventGate = Gate | Callable[[RecordedRequest, Event], Gate | None]
_POLL = 0.002


class Lost(Exception):
    """The connection went away in the middle of an answer, by script or by the client."""


class Sink(Protocol):
    """Where a turn's events go."""

    async def send(self, event: Event) -> None:
        """Sends one event."""

    async def fail(self, answer: ErrorAnswer) -> None:
        """Sends an error in the transport's own form."""

    async def raw(self, frame: str | bytes) -> None:
        """Sends something that is no event."""

    async def drop(self, code: int | None) -> None:
        """Cuts the connection."""


@dataclass
class Config:
    """Settings of a server; all may be changed while it runs."""

    answer: Reactive | None = None
    api_key: str | None = None
    lanes: bool = True
    concurrent: Literal["queue", "reject"] = "queue"
    max_in_flight: int = 16
    max_lanes: int = 32
    lifetime: float | None = 3600.0
    warm_up: Literal["keep", "generate", "drop"] = "keep"
    model_check: Callable[[Any], bool] | None = None
    refuse_upgrade: int | None = None
    refuse_headers: Mapping[str, str] = field(default_factory=dict)
    event_delay: float = 0.0
    event_gate: EventGate | None = None
    max_message_size: int = 64 * 2**20
    keep: int | None = None
    # Whether input is refused that the model could not be given; a recording was accepted once.
    strict: bool = True
    compact: Callable[[RecordedRequest], tuple[int, Any]] | None = None


@dataclass(eq=False)
class Turn:
    """A create while it waits and runs.

    Attributes:
        request: Its record.
        sink: Where its events go.
        memory: The connection's memory; `None` over HTTP.
        lane: The lane that it occupies.
        steers: Steering input accepted so far, as (id, input).
        player: What makes its events, once it runs.
    """

    request: RecordedRequest
    sink: Sink
    memory: Memory | None = None
    lane: str | None = None
    steers: list[tuple[str, Any]] = field(default_factory=list)
    player: Player | None = None
    accepts_steering: bool = False
    new_items: list[Item] = field(default_factory=list)
    before: list[Item] = field(default_factory=list)


class Engine:
    """The part of the server that knows what a response is.

    Args:
        config: Settings.
        script: Scripted answers, in order.
        clock: The server's clock.
        changed: Called after every change to the records.
    """

    def __init__(
        self, config: Config, script: Sequence[Answer], clock: AdjustableClock, changed: Callable[[], None]
    ) -> None:
        self.config = config
        self.script: deque[Answer] = deque(script)
        self.scripted = bool(script)
        self.clock = clock
        self.changed = changed
        self.store = Store()
        self.records = Records()
        self.failures: list[BaseException] = []
        self.unscripted: list[RecordedRequest] = []
        self.taken = 0
        self.pending_steers: dict[str, list[Any]] = {}
        self.active: list[Turn] = []

    def wall_time(self) -> int:
        """Unix time on the server's clock."""
        return int(time.time() + self.clock.offset)

    def record(self, request: RecordedRequest) -> None:
        """Writes a request down, before anything is answered."""
        self.records.request(request)
        if (keep := self.config.keep) is not None:
            self.records.forget(keep)
            self.store.shrink(keep)
        self.changed()

    async def run(self, turn: Turn) -> None:
        """Answers one create, and the successors that steering starts."""
        current: Turn | None = turn
        while current is not None:
            current = await self._run_one(current)

    async def _run_one(self, turn: Turn) -> Turn | None:
        request = turn.request
        request.status = "in_progress"
        self.active.append(turn)
        try:
            self._resolve(turn)
            return await self._generate(turn)
        except ApiError as error:
            self._end(turn, "error", error.code)
            await turn.sink.fail(_as_error_answer(error))
        except (Lost, asyncio.CancelledError):
            self._end(turn, "dropped", None)
            raise
        finally:
            self.active.remove(turn)
        return None

    # -- before the answer

    def _resolve(self, turn: Turn) -> None:
        """Finds out what the model would see, and refuses what the service would refuse."""
        request, config = turn.request, self.config
        if config.model_check is not None and not config.model_check(request.model):
            message = f"The requested model '{request.model}' does not exist."
            raise ApiError(400, "model_not_found", message, "model")
        request.items = input_items(request.body.get("input"))
        items = [self._dereference(item) for item in request.items]
        previous = request.previous_response_id
        if previous is not None:
            request.parent = self._parent(turn, previous)
            for steered in self.pending_steers.pop(previous, []):
                items = input_items(steered) + items
        request.resolved = items
        generate = request.generate or config.warm_up == "generate"
        if config.strict:
            check_items(request.seen, generate=generate)

    def _parent(self, turn: Turn, previous: str) -> Node:
        node = None if turn.memory is None else turn.memory.find(previous)
        turn.request.from_memory = node is not None
        if node is None:
            stored = self.store.get(previous)
            node = None if stored is None else stored.node
        if node is None:
            raise not_found(previous)
        return node

    def _dereference(self, item: Item) -> Item:
        if item.get("type") != "item_reference":
            return item
        found = self.store.item(str(item.get("id")))
        if found is None:
            raise ApiError(404, None, f"Item with id '{item.get('id')}' not found.", "input")
        return found

    # -- the answer

    def next_answer(self, request: RecordedRequest) -> Answer:
        """Chooses the answer: the script first, then the answering function, then the default."""
        if request.is_warm_up:
            # A script tells a conversation; a warm-up that some gateway answers is no part of it.
            return Output() if self.config.warm_up != "generate" else self._react(request)
        if self.script:
            self.taken += 1
            return self.script.popleft()
        if self.scripted and self.config.answer is None:
            self.unscripted.append(request)
            message = (
                f"The script of this server has no answer left for request {request.number} ({summary(request)}). "
                "Add one with `add`."
            )
            raise ApiError(400, "script_exhausted", message)
        return self._react(request)

    def _react(self, request: RecordedRequest) -> Answer:
        if self.config.answer is None:
            seen, last = request.seen, request.last_user_text
            return text(f"I saw {len(seen)} items; the last user message was: {last!r}.")
        try:
            return as_answer(self.config.answer(request))
        except Exception as exc:
            self.failures.append(exc)
            message = f"The answering function raised {type(exc).__name__}."
            raise ApiError(400, "answer_failed", message) from exc

    async def _generate(self, turn: Turn) -> Turn | None:
        plan = unwrap(self.next_answer(turn.request))
        if self.config.answer is not None:
            await asyncio.sleep(0)  # what the function has asked of the server comes before its answer
        if plan.inserts:
            turn.sink = InsertingSink(turn.sink, plan.inserts)
        if plan.error is not None and plan.error.after_events == 0:
            await self._hold(turn, plan, 0)
            self._end(turn, "error", plan.error.code)
            await turn.sink.fail(plan.error)
            return None
        if isinstance(plan.answer, RawAnswer):
            await self._hold(turn, plan, 0)
            for frame in plan.answer.frames:
                await turn.sink.raw(frame)
            self._end(turn, "completed", None)
            return None
        if isinstance(plan.answer, EventsAnswer):
            await self._play(turn, plan, (dict(event) for event in plan.answer.events))
        else:
            assert isinstance(plan.answer, Output)
            await self._play(turn, plan, self._events(turn, plan.answer))
        return await self._after_steering(turn)

    def _events(self, turn: Turn, output: Output) -> Iterator[Event]:
        """Makes the events of a generated response."""
        request, body = turn.request, turn.request.body
        request.response_id = new_id("resp")
        response = response_object(body, request.response_id, self.wall_time())
        include = body.get("include")
        options = body.get("stream_options")
        turn.player = player = Player(
            response,
            output,
            encrypted=isinstance(include, list) and "reasoning.encrypted_content" in include,
            obfuscation=not (isinstance(options, dict) and options.get("include_obfuscation") is False),
            prefix=self._compaction(turn),
        )
        turn.accepts_steering = turn.memory is not None
        yield from player.opening()
        yield from player.body()
        yield player.closing(self._usage(turn, player.items), self.wall_time())

    def _compaction(self, turn: Turn) -> tuple[Item, ...]:
        rules = turn.request.body.get("context_management")
        limits = [
            rule["compact_threshold"]
            for rule in (rules if isinstance(rules, list) else [])
            if isinstance(rule, dict) and isinstance(rule.get("compact_threshold"), (int, float))
        ]
        if not limits or not turn.request.generate or self._tokens(turn) <= min(limits):
            return ()
        turn.request.compacted = True
        return (compaction_item(),)

    def _tokens(self, turn: Turn) -> int:
        parent = turn.request.parent
        return (0 if parent is None else parent.tokens) + rough_tokens(turn.request.resolved or [])

    def _usage(self, turn: Turn, items: Sequence[Item]) -> dict[str, Any]:
        body, parent = turn.request.body, turn.request.parent
        settings = [value for value in (body.get("instructions"), body.get("tools")) if value]
        spent = self._tokens(turn) + rough_tokens(settings)
        cached = parent.tokens if parent is not None and turn.request.from_memory else 0
        thinking = rough_tokens([item for item in items if item.get("type") == "reasoning"])
        made = rough_tokens(items)
        return {
            "input_tokens": spent,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": made,
            "output_tokens_details": {"reasoning_tokens": thinking},
            "total_tokens": spent + made,
        }

    async def _play(self, turn: Turn, plan: Plan, events: Iterator[Event]) -> None:
        """Sends events, stalling, failing and cutting where the plan says so."""
        count = 0
        while True:
            # Stall before the event is made: steering that comes meanwhile must be able to change it.
            await self._hold(turn, plan, count)
            if turn.player is not None:
                turn.player.steered = bool(turn.steers)
            event = next(events, None)
            if event is None:
                # Recorded events may end without a terminal one.
                self._end(turn, "dropped", None)
                return
            final = event.get("type") in TERMINAL
            if final:
                await self._hold(turn, plan, count, late=True)
            await self._wait_gate(turn, event)
            if plan.cut is not None and (count >= plan.cut[0] or final):
                self._end(turn, "dropped", None)
                await turn.sink.drop(plan.cut[1])
                raise Lost
            if plan.error is not None and (count >= plan.error.after_events or final):
                self._end(turn, "error", plan.error.code)
                await turn.sink.fail(plan.error)
                return
            if final:
                # Remember first: the client may continue as soon as it has read the frame.
                self._commit(turn, event)
            await turn.sink.send(event)
            count += 1

    async def _hold(self, turn: Turn, plan: Plan, count: int, *, late: bool = False) -> None:
        """Stalls at the gates that stand here; at the terminal event also at those never reached."""
        for after, gate in plan.holds:
            if after > count if late else after == count:
                await _until(partial(_free, gate, turn))

    async def _wait_gate(self, turn: Turn, event: Event) -> None:
        rule = self.config.event_gate
        gate = rule if rule is None or isinstance(rule, Gate) else rule(turn.request, event)
        if gate is not None:
            await _until(gate.is_set)
        if self.config.event_delay:
            await asyncio.sleep(self.config.event_delay)

    # -- after the answer

    def _commit(self, turn: Turn, event: Event) -> None:
        """Remembers a finished response."""
        request, response = turn.request, event.get("response")
        turn.accepts_steering = False
        if event["type"] == "error" or not isinstance(response, dict):
            detail = event.get("error") if isinstance(event.get("error"), dict) else event
            self._end(turn, "error", detail.get("code") if isinstance(detail, dict) else None)
            return
        request.response_id = response.get("id")
        status = event["type"].removeprefix("response.")
        node = None if status == "failed" else self._node(turn, response)
        if request.store and isinstance(request.response_id, str):
            self.store.put(response, request.resolved or [], node)
        if turn.memory is not None and node is not None:
            turn.memory.latest[turn.lane] = node
        code = response["error"].get("code") if isinstance(response.get("error"), dict) else None
        self._end(turn, status, code)

    def _node(self, turn: Turn, response: dict[str, Any]) -> Node:
        request = turn.request
        output = [item for item in response.get("output") or [] if isinstance(item, dict)]
        if request.compacted:
            return Node(str(request.response_id), tuple(output), None, rough_tokens(output))
        kept = [] if request.is_warm_up and self.config.warm_up == "drop" else list(request.resolved or [])
        items = (*kept, *output)
        before = 0 if request.parent is None else request.parent.tokens
        return Node(str(request.response_id), items, request.parent, before + rough_tokens(items))

    def _end(self, turn: Turn, status: Any, code: str | None) -> None:
        request = turn.request
        turn.accepts_steering = False
        if request.status not in ("queued", "in_progress"):
            return
        request.status, request.error_code = status, code
        previous = request.previous_response_id
        if status in ("error", "failed") and turn.memory is not None and previous is not None:
            turn.memory.evict(turn.lane, previous)
        self.changed()

    async def _after_steering(self, turn: Turn) -> Turn | None:
        """Starts the successor of a steered response, or says why it must wait."""
        if not turn.steers or turn.player is None:
            return None
        request, player = turn.request, turn.player
        stub = {"previous_response_id": request.response_id}
        if request.status not in ("completed", "incomplete"):
            for steer_id, given in turn.steers:
                await turn.sink.send(
                    steer_failed(
                        player, "successor_creation_failed", {**stub, "id": steer_id, "input": given}
                    )
                )
            return None
        waiting = open_calls(player.items)
        if waiting:
            needed = [_required(item) for item in waiting]
            self.pending_steers[str(request.response_id)] = [given for _, given in reversed(turn.steers)]
            for steer_id, _ in turn.steers:
                event = player.event(
                    "response.steer.pending",
                    reason="waiting_for_required_input",
                    required_input=needed,
                    steer={"id": steer_id, **stub},
                )
                await turn.sink.send(event)
            return None
        items = [item for _, given in turn.steers for item in input_items(given)]
        body = {**request.body, "previous_response_id": request.response_id, "input": items}
        following = RecordedRequest(
            request.transport, body, 0, request.headers, self.clock(), request.connection, request.stream_id,
            list(items), "successor",
        )  # fmt: skip
        self.record(following)
        return Turn(following, turn.sink, turn.memory, turn.lane)


def _free(gate: Gate, turn: Turn) -> bool:
    # Steering ends a stall: the response stops at the next safe boundary.
    return gate.is_set() or bool(turn.steers)


async def _until(ready: Callable[[], bool]) -> None:
    while not ready():  # noqa: ASYNC110 - gates belong to other threads and wake no loop
        await asyncio.sleep(_POLL)


def compaction_item() -> Item:
    """Makes a compaction item."""
    return {"id": new_id("cmp"), "type": "compaction", "encrypted_content": new_id("gAAAAAB")}


def steer_failed(player: Player | None, code: str, steer: dict[str, Any]) -> Event:
    """Makes `response.steer.failed`."""
    error = {"type": "invalid_request_error", "code": code, "message": f"Steering failed: {code}."}
    if player is None:
        return {"type": "response.steer.failed", "error": error, "steer": steer, "sequence_number": 0}
    return player.event("response.steer.failed", error=error, steer=steer)


def _required(item: Mapping[str, Any]) -> dict[str, Any]:
    if item["type"] == "function_call":
        return {"type": "function_call_output", "call_id": item["call_id"], "name": item["name"]}
    return {"type": "custom_tool_call_output", "call_id": item["call_id"]}


def _as_error_answer(error: ApiError) -> ErrorAnswer:
    return ErrorAnswer(error.code, error.message, error.status, error.type, error.param, error.headers)
