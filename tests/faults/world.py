"""The stage of the fault matrix: a conversation with tool outputs, a sibling turn beside it, and a fault.

Every generation of the server stamps its tokens with conversation, generation and number, so that a token that
was doubled, lost or taken from another turn shows in the answer itself.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import openai
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from waiting import BOUND, eventually, until_open

from langchain_ws_responses import (
    ChatOpenAIWebSocket,
    ConnectionManager,
    Limits,
    Replay,
    RetryPolicy,
    failure_of,
)
from langchain_ws_responses.testing import (
    Answer,
    ChaosProxy,
    RecordedRequest,
    ResponsesServer,
    calls,
    hold,
    text,
    tool_call,
)

KEY = "sk-test-3f9a51c7"
OUTPUTS = {"call_a": "the output of a", "call_b": "the output of b"}
EVENTS = {"sent": 0, "created": 2, "text": 5, "arguments": 4, "end": 99}
_TAG = re.compile(r"«([^»]+)»")
_TOKEN = re.compile(r"<([^/>]+)/(\d+)/(\d+)>")


class Gate:
    """A stall of the server's; tells when it has come there."""

    def __init__(self) -> None:
        self._reached, self._open = threading.Event(), threading.Event()

    def is_set(self) -> bool:
        self._reached.set()
        return self._open.is_set()

    def open(self) -> None:
        self._open.set()

    def wait_until_reached(self) -> None:
        assert self._reached.wait(BOUND), "the server never came to the stall"


class World:
    """A server, a proxy in front of it, and what the server is to play for which conversation."""

    def __init__(self, **server: Any) -> None:
        self.server = ResponsesServer(answer=self._answer, **server)
        self.proxy = ChaosProxy(self.server)
        self.plays: dict[str, deque[Answer]] = {}
        self.generations = itertools.count(1)
        self.numbers = itertools.count(1)
        # One for all: the HTTP client behind the models keeps connections that belong to a loop.
        self.loop = asyncio.new_event_loop()
        self._looping = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._models: dict[Any, ChatOpenAIWebSocket] = {}
        self._cells: list[Cell] = []

    def __enter__(self) -> World:
        self.server.start()
        self.proxy.start()
        self._looping.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.end_cells()
        self.proxy.stop()
        self.server.stop()
        asyncio.run_coroutine_threadsafe(self._close_models(), self.loop).result(BOUND)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._looping.join(BOUND)
        self.loop.close()

    async def _close_models(self) -> None:
        for model in self._models.values():
            await model.root_async_client.close()

    def renew(self) -> None:
        """Undoes what an earlier cell has left."""
        self.plays.clear()
        self.proxy.heal()
        config = self.server.config
        config.refuse_upgrade, config.refuse_headers = None, {}
        config.lanes, config.concurrent, config.max_lanes = True, "queue", 32
        config.max_message_size = 64 * 2**20

    def end_cells(self) -> None:
        while self._cells:
            self._cells.pop().end()

    def cell(self, **options: Any) -> Cell:
        cell = Cell(self, **options)
        self._cells.append(cell)
        return cell

    def model(self, manager: ConnectionManager, base_url: str, fields: dict[str, Any]) -> ChatOpenAIWebSocket:
        """A model; those with the same settings share their HTTP clients, which are slow to make."""
        key = (base_url, repr(sorted(fields.items())))
        if key not in self._models:
            self._models[key] = ChatOpenAIWebSocket(
                model="gpt-5.5", api_key=KEY, base_url=base_url, manager=manager, **fields
            )
        return self._models[key].model_copy(update={"manager": manager})

    def _answer(self, request: RecordedRequest) -> Answer:
        tag = _tag_of(request.seen)
        plays = self.plays.get(tag)
        return plays.popleft() if plays else self.stamped(tag)

    def stamped(self, tag: str) -> Answer:
        """A text whose tokens say where they come from."""
        generation = next(self.generations)
        tokens = [f"<{tag}/{generation}/{number}>" for number in range(3)]
        return text("".join(tokens), tokens)

    def stamped_call(self, tag: str) -> Answer:
        """A tool call whose argument says where it comes from."""
        return tool_call("look", {"at": f"<{tag}/{next(self.generations)}/0>" + "." * 40}, f"call_{tag}")


def _tag_of(items: list[dict[str, Any]]) -> str:
    for item in items:
        content = item.get("content")
        found = _TAG.search(content if isinstance(content, str) else str(content))
        if item.get("role") == "user" and found:
            return found[1]
    return ""


class Running:
    """A turn in a thread of its own, and what has come of it so far."""

    def __init__(
        self,
        model: Any,
        way: str,
        messages: list[BaseMessage],
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.pieces: list[Any] = []
        self.error: BaseException | None = None
        self.seconds = 0.0
        self._model, self._way, self._messages, self._loop = model, way, messages, loop
        self.began = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        model, messages = self._model, self._messages
        try:
            if self._way == "invoke":
                self.pieces.append(model.invoke(messages))
            elif self._way == "stream":
                for chunk in model.stream(messages):
                    self.pieces.append(chunk)
            else:
                assert self._loop is not None
                asyncio.run_coroutine_threadsafe(self._arun(), self._loop).result()
        except Exception as exc:
            self.error = exc
        self.seconds = time.monotonic() - self.began

    async def _arun(self) -> None:
        if self._way == "ainvoke":
            self.pieces.append(await self._model.ainvoke(self._messages))
            return
        async for chunk in self._model.astream(self._messages):
            self.pieces.append(chunk)

    @property
    def text(self) -> str:
        return "".join(_text(piece) for piece in list(self.pieces))

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> Running:
        self._thread.join(BOUND)
        assert self.done, "the turn hangs"
        assert self.seconds < BOUND / 2, f"the turn took {self.seconds:.1f} s"
        return self

    def message(self) -> AIMessage:
        """The whole answer."""
        self.wait()
        assert self.error is None, f"{type(self.error).__name__}: {self.error}"
        whole = self.pieces[0]
        for piece in self.pieces[1:]:
            whole += piece
        assert isinstance(whole, (AIMessage, AIMessageChunk))
        return whole


def _text(piece: Any) -> str:
    parts = [piece.content] if isinstance(piece.content, str) else [b.get("text", "") for b in piece.content]
    parts += [str(chunk["args"] or "") for chunk in getattr(piece, "tool_call_chunks", ())]
    if not isinstance(piece, AIMessageChunk):
        parts += [str(call["args"].get("at", "")) for call in piece.tool_calls]
    return "".join(parts)


def tokens_of(value: str, tag: str) -> list[tuple[int, int]]:
    """Generation and number of every token; all of them must be this conversation's."""
    found = _TOKEN.findall(value)
    assert {owner for owner, _, _ in found} <= {tag}, f"foreign tokens in {value!r}"
    return [(int(generation), int(number)) for _, generation, number in found]


class Cell:
    """One manager with one conversation that has tool outputs to deliver, and a sibling conversation.

    Args:
        world: The stage.
        way: How the turn that meets the fault is called.
        limits: Of the manager, short.
        manager: Further options of the manager.
        base_url: Where to dial, the proxy by default.
        tools: Tools of the turn that meets the fault.
        fields: Of the model.
    """

    def __init__(
        self,
        world: World,
        *,
        way: str = "invoke",
        limits: dict[str, Any] | None = None,
        manager: dict[str, Any] | None = None,
        base_url: str | None = None,
        tools: list[Any] | None = None,
        **fields: Any,
    ) -> None:
        self.world, self.way = world, way
        self.tag, self.beside = (f"c{next(world.numbers)}{kind}" for kind in ("main", "side"))
        self.manager = ConnectionManager(
            limits=Limits(**{"connect_timeout": 5, "lease_timeout": 10, **(limits or {})}),
            retry=RetryPolicy(max_attempts=3, max_elapsed=20),
            **(manager or {}),
        )
        given = {"transport": "websocket", **fields}
        self.base_url = base_url or world.proxy.base_url
        self.model = world.model(self.manager, self.base_url, given)
        patient = {name: value for name, value in given.items() if name != "timeout"}
        self.sibling_model = world.model(self.manager, self.base_url, {**patient, "timeout": 30})
        self.bound: Any = self.model.bind(tools=tools) if tools else self.model
        self.history: list[BaseMessage] = []
        self.sibling: Running | None = None
        self._sibling_gate = Gate()
        self._gates: list[Gate] = [self._sibling_gate]

    # -- before the fault

    def begin(self, *, sibling: bool = True) -> None:
        """Opens the connection: a turn that asks for two tools, and a sibling that is in the middle of its answer."""
        wanted = calls(tool_call("a", {}, "call_a"), tool_call("b", {}, "call_b"))
        self.play(wanted)
        asked = HumanMessage(f"«{self.tag}» use both tools")
        # `transport="auto"` sends a single question over HTTP, unless there is a socket.
        self.model.preconnect()
        until_open(self.manager)
        answer = self.sibling_model.invoke([asked])
        assert [call["id"] for call in answer.tool_calls] == list(OUTPUTS)
        self.history = [
            asked,
            answer,
            *(ToolMessage(output, tool_call_id=i) for i, output in OUTPUTS.items()),
        ]
        if sibling:
            self.begin_sibling()

    def begin_cold(self) -> None:
        """A history with tool outputs that no connection knows of."""
        made = [{"name": name[-1], "args": {}, "id": name, "type": "tool_call"} for name in OUTPUTS]
        self.history = [
            HumanMessage(f"«{self.tag}» use both tools"),
            AIMessage("", tool_calls=made),
            *(ToolMessage(output, tool_call_id=i) for i, output in OUTPUTS.items()),
        ]

    def begin_sibling(self) -> None:
        before = self.manager.stats().frames_received
        beside = self.world.plays.setdefault(self.beside, deque())
        beside.append(hold(self._sibling_gate, self.world.stamped(self.beside), 5))
        self.sibling = Running(self.sibling_model, "invoke", [HumanMessage(f"«{self.beside}» hello")])
        self._sibling_gate.wait_until_reached()
        eventually(lambda: self.manager.stats().frames_received >= before + 5, "the sibling's events arrive")

    def begin_sibling_refused(self) -> None:
        """A sibling whose first send the server refuses."""
        self.sibling = Running(self.sibling_model, "invoke", [HumanMessage(f"«{self.beside}» hello")])
        self.sibling.wait()

    def redial(self) -> None:
        """Has the connection replaced: a server looks at its settings when a connection begins."""
        self.check_sibling(survives=True)
        self.manager.drain()
        self._sibling_gate = Gate()
        self._gates.append(self._sibling_gate)
        self.begin_sibling()

    def play(self, *answers: Answer) -> None:
        """What the server plays for this conversation next."""
        self.world.plays.setdefault(self.tag, deque()).extend(answers)

    def events_of(self, phase: str) -> int:
        return EVENTS[phase]

    def held(self, gate: Gate) -> Answer:
        """An answer that waits for a gate before its first event."""
        return hold(gate, self.answer_for("text"))

    def gate(self) -> Gate:
        made = Gate()
        self._gates.append(made)
        return made

    # -- the fault

    def start(self) -> Running:
        """Starts the turn that meets the fault."""
        return Running(self.bound, self.way, self.history, self.world.loop)

    def answer_for(self, phase: str) -> Answer:
        return self.world.stamped_call(self.tag) if phase == "arguments" else self.world.stamped(self.tag)

    def run_to(
        self, phase: str, after: Callable[[Answer], Answer] = lambda answer: answer
    ) -> tuple[Running, Gate]:
        """Starts the turn and lets its first generation come as far as the phase.

        Args:
            phase: Where it stops.
            after: Makes the server's answer of the plain one.

        Returns:
            The turn, and the gate behind which the answer goes on.
        """
        gate = self.gate()
        self.play(hold(gate, after(self.answer_for(phase)), EVENTS[phase]))
        before = self.manager.stats().frames_received
        turn = self.start()
        gate.wait_until_reached()
        least = {"end": 10 if phase == "end" else 0}.get(phase, EVENTS[phase])
        eventually(lambda: self.manager.stats().frames_received >= before + least, "the events arrive")
        if phase in ("text", "end") and self.streams:
            eventually(lambda: f"<{self.tag}/" in turn.text, "the first token is handed over")
        if phase == "arguments" and self.streams:
            eventually(lambda: turn.text, "the first arguments are handed over")
        return turn, gate

    @property
    def streams(self) -> bool:
        return self.way in ("stream", "astream")

    # -- what came of it

    def check_answer(self, turn: Running, *, resends: int | None = None, http: bool = False) -> AIMessage:
        """The right final answer: one generation's tokens, each once and in order, that saw every tool output."""
        message = turn.message()
        tokens = tokens_of(turn.text, self.tag)
        assert tokens, f"no answer: {message!r}"
        wanted = 1 if message.tool_calls else 3
        assert tokens == [(tokens[0][0], number) for number in range(wanted)], turn.text
        how = message.response_metadata["transport"]
        assert how["kind"] == ("http" if http else "websocket")
        if resends is not None:
            assert how["resends"] == resends, how
        self.check_outputs()
        return message

    def check_outputs(self) -> None:
        """Every request of the turn let the model see every tool output, once."""
        mine = [request for request in self.requests if request.kind == "create"]
        for request in mine[1 if len(self.history[1].response_metadata) else 0 :]:
            if request.error_code == "previous_response_not_found":
                continue
            seen = [item.get("output") for item in request.seen if item.get("type") == "function_call_output"]
            assert seen == list(OUTPUTS.values()), request

    @property
    def requests(self) -> list[RecordedRequest]:
        """What the server got for this conversation, in full or as a delta."""
        found = []
        for request in self.world.server.requests[-200:]:
            items = request.seen or request.items
            ids = {item.get("call_id") for item in items}
            if _tag_of(items) == self.tag or (not _tag_of(items) and ids & OUTPUTS.keys() and found):
                found.append(request)
        return found

    def check_error(
        self, turn: Running, ours: type[Exception], http: type[Exception], replay: Replay, **fields: Any
    ) -> Any:
        """The documented error, and nothing handed over twice."""
        turn.wait()
        found = failure_of(turn.error)
        assert found is not None, f"no error of ours: {turn.error!r}, answered {turn.text!r}"
        assert type(found) is ours or isinstance(found, ours), repr(found)
        assert isinstance(turn.error, http), repr(turn.error)
        assert isinstance(turn.error, openai.OpenAIError)
        assert found.replay is replay, (found.replay, found)
        for name, value in fields.items():
            assert getattr(found, name) == value, (name, getattr(found, name), found)
        tokens = tokens_of(turn.text, self.tag)
        assert len({generation for generation, _ in tokens}) <= 1
        assert tokens == sorted(set(tokens))
        if replay is Replay.UNSAFE:
            assert turn.pieces, "unsafe, but nothing was handed over"
        elif replay is Replay.SAFE:
            assert not tokens
        assert KEY not in f"{turn.error!r} {turn.error} {found!r} {found} {found.__cause__!r}"
        return found

    def check_sibling(self, *, survives: bool) -> None:
        """The turn beside it finishes; where the socket survived, on its first send."""
        sibling = self.sibling
        assert sibling is not None
        self._sibling_gate.open()
        message = sibling.message()
        tokens = tokens_of(sibling.text, self.beside)
        assert tokens == [(tokens[0][0], number) for number in range(3)]
        resends = message.response_metadata["transport"]["resends"]
        assert resends == (0 if survives else 1), message.response_metadata["transport"]

    def check_next(self, answer: AIMessage | None = None) -> AIMessage:
        """The next turn works and sees everything: the same one again after an error, else a further one."""
        self.open_gates()
        self.world.plays.pop(self.tag, None)
        messages = list(self.history)
        if answer is not None:
            messages.append(answer)
            messages += [ToolMessage("found", tool_call_id=call["id"]) for call in answer.tool_calls]
            messages.append(HumanMessage("and then?"))
        turn = Running(self.sibling_model, "invoke", messages)
        message = turn.message()
        tokens = tokens_of(turn.text, self.tag)
        assert tokens == [(tokens[0][0], number) for number in range(3)]
        seen = self.requests[-1].seen
        outputs = [item["output"] for item in seen if item.get("type") == "function_call_output"]
        assert outputs[:2] == list(OUTPUTS.values())
        return message

    def check_dials(self, most: int) -> None:
        dials = self.manager.stats().dials
        assert dials <= most, f"{dials} dials"

    # -- the end

    def open_gates(self) -> None:
        for gate in self._gates:
            gate.open()

    def end(self) -> None:
        self.open_gates()
        if self.sibling is not None:
            self.sibling.wait()
        self.world.proxy.heal()
        self.world.proxy.cut()  # a swallowed close would be waited for
        self.manager.close()
