"""A call is cancelled at each of its awaits, one after the other: nothing is left, nobody else notices."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from typing import Any

import pytest
from pairs import socket_model
from transport_kit import on_io
from waiting import eventually

from langchain_ws_responses import ConnectionManager, Limits
from langchain_ws_responses.testing import RecordedRequest, ResponsesServer, text

CHUNKS = 6


def answer(request: RecordedRequest) -> Any:
    return text(f"This answers {request.last_user_text}.", CHUNKS)


@types.coroutine
def cancelled_at(number: int, call: Coroutine[Any, Any, Any]) -> Generator[Any, Any, Any]:
    """Runs a coroutine and cancels its task while it waits for the `number`th time, from 0."""
    waits, task = 0, asyncio.current_task()
    assert task is not None
    given: Any = None
    thrown: BaseException | None = None
    while True:
        try:
            waited = call.send(given) if thrown is None else call.throw(thrown)
        except StopIteration as end:
            return end.value
        if waits == number:
            asyncio.get_running_loop().call_soon(task.cancel)
        waits, thrown = waits + 1, None
        try:
            given = yield waited
        except BaseException as exc:  # it is the coroutine's to deal with
            thrown = exc


async def _cancelled_at(number: int, call: Coroutine[Any, Any, Any]) -> Any:
    """The same as a coroutine: from Python 3.12 on a task takes nothing else."""
    return await cancelled_at(number, call)


async def ask(model: Any, way: str) -> str:
    if way == "ainvoke":
        return str((await model.ainvoke("the one")).text)
    return "".join([chunk.text async for chunk in model.astream("the one")])


async def was_cancelled(model: Any, way: str, number: int) -> bool:
    """Cancels at one await, beside a sibling and before another turn; False: the call was over before."""
    here = asyncio.all_tasks()
    beside = asyncio.create_task(model.ainvoke("the sibling"))
    task = asyncio.create_task(_cancelled_at(number, ask(model, way)))
    done = await asyncio.gather(task, return_exceptions=True)
    cancelled = isinstance(done[0], asyncio.CancelledError)
    assert cancelled or done == ["This answers the one."]
    assert (await beside).text == "This answers the sibling."
    assert (await model.ainvoke("the next")).text == "This answers the next."
    assert asyncio.all_tasks() == here
    return cancelled


@pytest.mark.parametrize("connected", [True, False])
@pytest.mark.parametrize("way", ["ainvoke", "astream"])
def test_cancelled_at_every_await(way: str, connected: bool) -> None:
    with ResponsesServer(answer=answer, event_delay=0.002) as server:
        number, cancelled = 0, True
        kept = ConnectionManager(limits=Limits(max_connections=1))
        with kept:
            while cancelled:
                # With a socket that is open, and with one that has to be dialled while the call waits.
                manager = kept if connected else ConnectionManager(limits=Limits(max_connections=1))
                model = socket_model(server, manager)
                cancelled = asyncio.run(was_cancelled(model, way, number))
                eventually(lambda m=manager: m.stats().in_flight == 0, "every lane drains")  # type: ignore[misc]
                # First on the I/O thread: what it was just at, and what the caller left it to do, is then done.
                assert on_io(lambda m=manager: m._buffers.live) == set()  # type: ignore[misc]
                stats = manager.stats()
                assert (stats.waiting, stats.buffered_bytes, stats.dials) == (0, 0, 1)
                number += 1
                if not connected:
                    manager.close()
        assert number > (2 if way == "ainvoke" else 4), "hardly anything was cancelled"
