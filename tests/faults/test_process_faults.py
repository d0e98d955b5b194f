"""The matrix, fourth part: callers that go away, stop or never read, and a server that is frozen.

Fork, exit at any moment and threads that die are held in the tests of the transport's process life.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import openai
import pytest
from faults.report import note
from faults.world import EVENTS
from langchain_core.messages import HumanMessage
from transport_kit import on_io
from waiting import eventually

from langchain_ws_responses import (
    ChatOpenAIWebSocket,
    ConnectionManager,
    Limits,
    Replay,
    RetryPolicy,
    failure_of,
)
from langchain_ws_responses.errors import BufferOverflow, ConnectionLost
from langchain_ws_responses.testing import Fault, events, hold, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.world import World

IN_TURN = ("sent", "created", "text", "end")


def _drained(cell: Any) -> None:
    """The abandoned turn's lane is free again after its terminal event, and the sibling never noticed."""
    cell.check_sibling(survives=True)
    cell.open_gates()
    eventually(lambda: cell.manager.stats().in_flight == 0, "the abandoned lane drains")
    assert cell.manager.stats().waiting == 0
    cell.check_next()
    cell.check_dials(1)


@pytest.mark.parametrize("phase", IN_TURN)
@pytest.mark.parametrize("way", ["ainvoke", "astream"])
def test_a_task_is_cancelled(world: World, phase: str, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    gate = cell.gate()
    cell.play(hold(gate, world.stamped(cell.tag), EVENTS[phase]))

    async def call() -> None:
        if way == "ainvoke":
            await cell.model.ainvoke(cell.history)
            return
        async with aclosing(cell.model.astream(cell.history)) as chunks:
            async for _ in chunks:
                pass

    async def cancel() -> None:
        task = asyncio.create_task(call())
        await asyncio.to_thread(gate.wait_until_reached)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    _drained(cell)
    note("task cancelled", phase, way, "E")


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
def test_a_task_is_cancelled_while_it_dials(world: World, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin_cold()
    world.proxy.plan(Fault(kind="freeze"), connections=1)
    before = world.proxy.dials

    async def call() -> None:
        if way == "ainvoke":
            await cell.model.ainvoke(cell.history)
        else:
            async for _ in cell.model.astream(cell.history):
                pass

    async def cancel() -> None:
        task = asyncio.create_task(call())
        await asyncio.to_thread(world.proxy.wait_for, lambda: world.proxy.dials > before)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    world.proxy.thaw()
    cell.check_next()
    assert len(cell.requests) == 1, "the cancelled turn was never sent"
    note("task cancelled", "connect", way, "E")


# langchain-core's own generator awaits a callback when it is collected, and there is no loop to do so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("phase", ["text", "end"])
def test_the_callers_loop_is_closed_in_mid_stream(world: World, phase: str) -> None:
    cell = world.cell(way="astream")
    cell.begin()
    gate = cell.gate()
    cell.play(hold(gate, world.stamped(cell.tag), EVENTS[phase]))
    loop = asyncio.new_event_loop()
    stream = cell.model.astream(cell.history)
    loop.run_until_complete(anext(stream))
    loop.close()
    del stream
    gc.collect()
    _drained(cell)
    note("caller's loop closed", phase, "astream", "E")


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_consumer_stops_early(world: World, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    gate = cell.gate()
    cell.play(hold(gate, world.stamped(cell.tag), EVENTS["text"]))
    if way == "stream":
        stream = cell.model.stream(cell.history)
        next(stream)
        stream.close()  # type: ignore[attr-defined]
    else:

        async def take_one() -> None:
            async with aclosing(cell.model.astream(cell.history)) as chunks:
                await anext(chunks)

        asyncio.run(take_one())
    _drained(cell)
    note("consumer stops early", "text", way, "E")


@pytest.mark.parametrize("way", ["stream", "astream"])
def test_a_consumer_never_reads(world: World, way: str) -> None:
    cell = world.cell(way=way, limits={"max_lane_bytes": 50_000})
    cell.begin()
    tokens = ["x" * 1000] * 200
    gate = cell.gate()
    cell.play(hold(gate, text("".join(tokens), tokens), EVENTS["text"]))

    def overflows() -> bool:
        gate.open()
        return cell.manager.stats().in_flight == 1  # the sibling's

    if way == "stream":
        stream = cell.model.stream(cell.history)
        next(stream)
        eventually(overflows, "the server has sent everything")
        with pytest.raises(openai.APIConnectionError) as caught:
            list(stream)
    else:

        async def never() -> None:
            chunks = cell.model.astream(cell.history)
            await anext(chunks)
            eventually(overflows, "the server has sent everything")
            async for _ in chunks:
                pass

        with pytest.raises(openai.APIConnectionError) as caught:
            asyncio.run(never())
    error = failure_of(caught.value)
    assert isinstance(error, BufferOverflow)
    assert error.replay.value == "unsafe"
    assert cell.manager.stats().buffered_bytes == 0
    _drained(cell)
    note("consumer never reads", "text", way, "E")


def test_a_consumer_pauses_until_its_answer_is_over(world: World) -> None:
    """What it has not read is above the total: it must go, and not the turns whose callers read."""
    cell = world.cell(way="stream", limits={"max_total_bytes": 200_000})
    cell.begin()
    said = [{"type": "output_text", "text": "x" * 300_000, "annotations": []}]
    whole = {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": said}
    response = {"id": "resp_long", "status": "in_progress", "output": []}
    token = {"item_id": "m", "output_index": 0, "content_index": 0, "delta": "x", "logprobs": []}
    answer = events(
        [
            {"type": "response.created", "response": response},
            {"type": "response.output_text.delta", **token},
            {
                "type": "response.completed",
                "response": {**response, "status": "completed", "output": [whole]},
            },
        ]
    )
    gate = cell.gate()
    cell.play(hold(gate, answer, 2))
    stream = cell.model.stream(cell.history)
    next(stream)
    gate.open()
    eventually(lambda: cell.manager.stats().in_flight == 1, "its answer is over, and the sibling's is not")
    _drained(cell)
    with pytest.raises(openai.APIConnectionError) as caught:
        list(stream)
    error = failure_of(caught.value)
    assert isinstance(error, BufferOverflow)
    assert error.replay is Replay.UNSAFE
    assert cell.manager.stats().buffered_bytes == 0
    note("consumer pauses until the end", "end", "stream", "E")


# -- a server that is stopped, as a debugger or a full machine does it

_SERVER = """
import sys
from langchain_ws_responses.testing import ResponsesServer
with ResponsesServer(answer=lambda request: "fine") as server:
    print(server.base_url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def frozen_server() -> Iterator[tuple[int, str]]:
    if not hasattr(signal, "SIGSTOP"):
        pytest.skip("no SIGSTOP on this system")
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process.pid, process.stdout.readline().strip()
    finally:
        os.kill(process.pid, signal.SIGCONT)
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


@pytest.mark.parametrize("patience", ["outlasts it", "gives up"])
def test_a_frozen_server(frozen_server: tuple[int, str], patience: str, world: World) -> None:
    pid, base_url = frozen_server
    thawed: list[str] = []

    def thaw(event: Any) -> None:
        name = type(event).__name__
        if name == ("TurnSent" if patience == "outlasts it" else "ConnectionClosed"):
            thawed.append(name)
            os.kill(pid, signal.SIGCONT)

    pings = {"ping_interval": 0.2, "ping_timeout": 0.2} if patience == "gives up" else {}
    with ConnectionManager(limits=Limits(**pings), retry=RetryPolicy(max_attempts=3)) as manager:
        model = ChatOpenAIWebSocket(
            model="gpt-5.5", api_key="sk-test", base_url=base_url, manager=manager, transport="websocket"
        )
        first = model.invoke("hello")
        os.kill(pid, signal.SIGSTOP)
        # One of its threads is told first, and on a busy machine another one goes on answering until that has run.
        assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        manager.hooks = (thaw,)
        answer = model.invoke([HumanMessage("hello"), first, HumanMessage("and?")])
        assert answer.text == "fine"
        assert thawed
        resends = answer.response_metadata["transport"]["resends"]
        assert resends == (0 if patience == "outlasts it" else 1)
        assert manager.stats().dials == 1 + resends
    note(f"SIGSTOP, the client {patience}", "sent", "invoke", "R" if resends else "A")


# -- a hog in the process, or the process itself stopped


@pytest.mark.parametrize("phase", ["sent", "text"])
def test_the_io_thread_is_starved_beyond_every_clock(world: World, phase: str, way: str) -> None:
    """What came meanwhile is read before the clocks are believed: as after SIGSTOP, or beside code with the GIL."""
    clocks = {
        "first_event_timeout": 0.4,
        "between_events_timeout": 0.4,
        "ping_interval": 0.2,
        "ping_timeout": 0.2,
    }
    cell = world.cell(way=way, limits=clocks, on_ambiguous="raise")
    cell.begin()
    turn, gate = cell.run_to(phase)

    def starve() -> None:
        until = time.monotonic() + 0.7
        gate.open()
        while time.monotonic() < until or cell.requests[-1].status != "completed":
            pass

    on_io(starve)
    answer = cell.check_answer(turn, resends=0)
    cell.check_sibling(survives=True)
    cell.check_next(answer)
    cell.check_dials(1)
    note("CPU hog, I/O thread starved", phase, way, "A")


def test_hogs_in_other_threads(world: World, way: str) -> None:
    over = threading.Event()

    def hog() -> None:
        while not over.is_set():
            sum(range(2000))

    hogs = [threading.Thread(target=hog, daemon=True) for _ in range(2)]
    cell = world.cell(way=way, limits={"ping_interval": 0.5, "ping_timeout": 0.5})
    cell.begin()
    for one in hogs:
        one.start()
    try:
        answer = cell.check_answer(cell.start(), resends=0)
        cell.check_sibling(survives=True)
        cell.check_next(answer)
        cell.check_dials(1)
    finally:
        over.set()
        for one in hogs:
            one.join()
    note("CPU hogs in other threads", "sent", way, "A")


def test_frozen_for_good_once_tokens_are_out(world: World) -> None:
    """The proxy freezes in place of the server: the moment must be exact."""
    cell = world.cell(way="stream", limits={"ping_interval": 0.3, "ping_timeout": 0.3})
    cell.begin()
    turn, _ = cell.run_to("text")
    world.proxy.freeze()
    cell.check_error(turn, ConnectionLost, openai.APIConnectionError, Replay.UNSAFE)
    cell.check_sibling(survives=False)
    cell.check_next()
    note("frozen for good", "text", "stream", "E")
