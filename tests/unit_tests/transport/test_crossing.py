"""Calls from other threads into a loop: in order, in their own contexts, with one wake-up for many."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from langchain_ws_responses._transport.crossing import Crossing

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="nobody")


async def until(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), 10)


async def test_what_comes_while_the_loop_is_busy_costs_one_wake_up() -> None:
    crossing, heard, done = Crossing(asyncio.get_running_loop()), list[int](), asyncio.Event()

    def call() -> None:
        for number in range(100):
            crossing.call(heard.append, number)
        crossing.call(done.set)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()  # the loop is held up meanwhile
    await until(done)
    assert heard == list(range(100))
    assert crossing.wakes == 1
    done.clear()
    crossing.call(done.set)
    await until(done)
    assert crossing.wakes == 2


async def test_each_call_runs_in_the_context_of_its_caller() -> None:
    crossing, heard, done = Crossing(asyncio.get_running_loop()), list[str](), asyncio.Event()

    def call(name: str) -> None:
        WHO.set(name)
        crossing.call(lambda: heard.append(WHO.get()))

    for name in ("a", "b"):
        contextvars.Context().run(call, name)
    crossing.call(lambda: heard.append(WHO.get()))
    crossing.call(done.set)
    await until(done)
    assert heard == ["a", "b", "nobody"]


async def test_a_call_that_fails_is_reported_and_the_next_ones_run() -> None:
    loop, done = asyncio.get_running_loop(), asyncio.Event()
    reported: list[Any] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    crossing = Crossing(loop)

    def fail() -> None:
        raise ZeroDivisionError

    crossing.call(fail)
    crossing.call(done.set)
    await until(done)
    assert [type(one) for one in reported] == [ZeroDivisionError]


async def test_who_calls_from_inside_does_not_keep_the_loop_from_its_sockets() -> None:
    crossing, order, done = Crossing(asyncio.get_running_loop()), list[str](), asyncio.Event()

    def again() -> None:
        order.append("call")
        if len(order) > 20:
            done.set()
        else:
            crossing.call(again)

    def other() -> None:
        order.append("other")
        if not done.is_set():
            asyncio.get_running_loop().call_soon(other)

    crossing.call(again)
    asyncio.get_running_loop().call_soon(other)
    await until(done)
    assert order[:6] == ["call", "other"] * 3 or order[:6] == ["other", "call"] * 3


async def test_many_calls_from_many_threads_are_never_forgotten() -> None:
    crossing, heard, done = Crossing(asyncio.get_running_loop()), list[int](), asyncio.Event()

    def take(number: int) -> None:
        heard.append(number)
        if len(heard) == 20_000:
            done.set()

    threads = [
        threading.Thread(target=lambda: [crossing.call(take, number) for number in range(5_000)])  # type: ignore[func-returns-value]
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    await until(done)
    assert sorted(heard) == sorted([*range(5_000)] * 4)


def test_a_closed_loop_is_told_every_time() -> None:
    loop = asyncio.new_event_loop()
    crossing = Crossing(loop)
    loop.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            crossing.call(print)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_a_signals_handler_raises_in_a_wake_up_strands_nobody(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, heard = asyncio.new_event_loop(), list[str]()
    crossing, wake = Crossing(loop), loop.call_soon_threadsafe

    def interrupted(*_: Any) -> None:
        monkeypatch.setattr(loop, "call_soon_threadsafe", wake)
        crossing.call(heard.append, "another thread's")  # which sees that somebody wakes the loop
        raise error

    monkeypatch.setattr(loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(error):
        crossing.call(heard.append, "the interrupted one's")
    wake(loop.stop)
    loop.run_forever()
    assert "another thread's" in heard
    crossing.call(heard.append, "later")
    crossing.call(loop.stop)
    loop.run_forever()
    loop.close()
    assert heard[-1] == "later"


def test_an_exit_in_a_call_does_not_lose_the_next_one() -> None:
    loop, heard = asyncio.new_event_loop(), list[str]()
    crossing = Crossing(loop)

    def leave() -> None:
        raise SystemExit

    crossing.call(leave)
    crossing.call(heard.append, "later")
    crossing.call(loop.stop)
    with pytest.raises(SystemExit):
        loop.run_forever()
    loop.run_forever()
    loop.close()
    assert heard == ["later"]
