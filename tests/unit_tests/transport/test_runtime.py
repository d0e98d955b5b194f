"""The I/O thread: started once, by whoever comes first, and gone without a trace."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import socket
import sys
import threading
import weakref
from typing import Any

import pytest
from blockbuster import BlockBuster
from transport_kit import on_io
from waiting import eventually

from langchain_ws_responses._transport.runtime import Runtime, runtime


@pytest.fixture
def own() -> Any:
    """A runtime beside the process's."""
    made = Runtime()
    yield made
    made.stop()


def ask(own: Runtime, work: Any) -> Any:
    answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
    own.call(lambda: answer.put(work()))
    return answer.get(timeout=10)


def test_it_starts_with_the_first_call(own: Runtime) -> None:
    assert not own.alive
    assert ask(own, threading.get_ident) != threading.get_ident()
    assert own.alive


def test_calls_run_in_order_on_one_thread(own: Runtime) -> None:
    seen: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for number in range(100):
        own.call(lambda number=number: seen.put((number, threading.get_ident())))  # type: ignore[misc]
    got = [seen.get(timeout=10) for _ in range(100)]
    assert [number for number, _ in got] == list(range(100))
    assert len({thread for _, thread in got}) == 1


def test_many_threads_start_one(own: Runtime) -> None:
    barrier, seen = threading.Barrier(20), queue.SimpleQueue[Any]()

    def start() -> None:
        barrier.wait(10)
        own.call(lambda: seen.put(threading.get_ident()))

    threads = [threading.Thread(target=start) for _ in range(20)]
    for thread in threads:
        thread.start()
    assert len({seen.get(timeout=10) for _ in range(20)}) == 1
    for thread in threads:
        thread.join(10)


def test_it_knows_its_own_thread(own: Runtime) -> None:
    assert not own.inside()
    assert ask(own, own.inside)
    assert not own.inside()


def test_the_clock_is_the_loops(own: Runtime) -> None:
    before = own.now()
    there = ask(own, lambda: asyncio.get_running_loop().time())
    assert before <= there <= own.now()


def test_stopping_calls_who_registered_and_the_next_call_starts_anew(own: Runtime) -> None:
    class Owner:
        def __init__(self) -> None:
            self.threads: list[int] = []

        def gone(self) -> None:
            self.threads.append(threading.get_ident())

    owner, forgotten = Owner(), Owner()
    calls = forgotten.threads
    own.at_exit(owner.gone)
    own.at_exit(forgotten.gone)
    del forgotten
    first = ask(own, threading.get_ident)
    own.stop()
    own.stop()
    assert not own.alive
    assert owner.threads == [first]
    assert calls == [], "it does not keep its owner alive"
    assert ask(own, lambda: "again") == "again"


def test_nobody_who_registers_is_forgotten_for_another_who_does_meanwhile(
    own: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Owner:
        called = False

        def gone(self) -> None:
            self.called = True

    first, second = Owner(), Owner()
    others = [second]

    class Reference(weakref.WeakMethod[Any]):
        def __new__(cls, *args: Any) -> Any:
            if others:  # as another thread may come in anywhere
                own.at_exit(others.pop().gone)
            return super().__new__(cls, *args)

    monkeypatch.setattr(weakref, "WeakMethod", Reference)
    own.at_exit(first.gone)
    ask(own, threading.get_ident)
    own.stop()
    assert (first.called, second.called) == (True, True)


def test_stopping_ends_tasks_and_closes_the_loop(own: Runtime) -> None:
    ended = threading.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    tasks: list[Any] = []
    ask(own, lambda: tasks.append(asyncio.get_running_loop().create_task(wait())))
    loop = own.loop
    own.stop()
    assert ended.is_set()
    assert loop.is_closed()


def test_stopping_on_its_own_thread_does_nothing(own: Runtime) -> None:
    ask(own, own.stop)
    assert own.alive


def test_a_thread_that_cannot_start_leaves_nothing_half_done(
    own: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    import _thread

    def refuse(*_args: Any) -> int:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(_thread, "start_new_thread", refuse)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            own.call(lambda: None)
    assert not own.alive
    assert ask(own, lambda: "works later") == "works later"


def test_starting_blocks_no_loop(own: Runtime) -> None:
    blockbuster = BlockBuster(scanned_modules=["langchain_ws_responses._transport"])
    done = threading.Event()

    async def main() -> None:
        blockbuster.activate()
        try:
            own.call(done.set)
        finally:
            blockbuster.deactivate()

    asyncio.run(main())
    assert done.wait(10)


def test_look_ups_run_beside_the_loop_and_leave_no_thread(own: Runtime) -> None:
    before = threading.active_count()
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    async def look_up() -> None:
        loop = asyncio.get_running_loop()
        thread = await asyncio.to_thread(threading.get_ident)
        addresses = await loop.getaddrinfo("localhost", 80, type=socket.SOCK_STREAM)
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)
        results.put((thread, bool(addresses)))

    tasks: list[Any] = []
    own.call(lambda: tasks.append(asyncio.get_running_loop().create_task(look_up())))
    thread, found = results.get(timeout=10)
    assert thread != ask(own, threading.get_ident)
    assert found
    assert threading.active_count() <= before + 2, "the I/O thread, and a look-up that is just ending"


def test_a_look_up_may_be_cancelled(own: Runtime) -> None:
    release, ended = threading.Event(), threading.Event()

    async def look_up() -> None:
        try:
            await asyncio.wait_for(asyncio.to_thread(release.wait, 10), 0.02)
        except asyncio.TimeoutError:
            ended.set()

    tasks: list[Any] = []
    own.call(lambda: tasks.append(asyncio.get_running_loop().create_task(look_up())))
    assert ended.wait(10)
    release.set()


def test_the_process_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert runtime() is runtime()
    assert on_io(runtime().inside)


# -- a callback that ends the loop


class Owner:
    """Somebody who has something on the loop."""

    def __init__(self, own: Runtime) -> None:
        self.told: queue.SimpleQueue[int] = queue.SimpleQueue()
        own.at_loss(self.lost)

    def lost(self) -> None:
        self.told.put(threading.get_ident())


@pytest.mark.parametrize("end", [sys.exit, lambda: asyncio.get_running_loop().stop()], ids=["exit", "stop"])
def test_a_loop_that_is_ended_from_within_is_told_of_and_replaced(own: Runtime, end: Any) -> None:
    owner = Owner(own)
    first, loop = ask(own, threading.get_ident), own.loop
    own.call(end)
    assert owner.told.get(timeout=10) == first
    assert ask(own, asyncio.get_running_loop) is not loop
    eventually(loop.is_closed, "the lost loop is closed")
    own.stop()
    assert owner.told.empty(), "an end that was wanted is no loss"


def test_what_was_handed_over_before_the_end_is_run_by_the_next_loop(own: Runtime) -> None:
    go, seen = threading.Event(), queue.SimpleQueue[Any]()
    who: contextvars.ContextVar[str] = contextvars.ContextVar("who")
    lost = ask(own, asyncio.get_running_loop)
    own.call(go.wait, 10)
    own.call(sys.exit)
    for name in ("a", "b"):
        call = lambda: own.call(lambda: seen.put((who.get(), asyncio.get_running_loop() is lost)))  # noqa: E731
        contextvars.Context().run(lambda name=name, call=call: (who.set(name), call()))
    go.set()
    assert [seen.get(timeout=10) for _ in range(2)] == [("a", False), ("b", False)]


def test_no_call_is_lost_to_a_loop_that_ends_meanwhile(own: Runtime) -> None:
    answered: queue.SimpleQueue[int] = queue.SimpleQueue()

    def work(offset: int) -> None:
        for number in range(50):
            own.call(answered.put, offset + number)
            if number % 10 == 5:
                own.call(sys.exit)

    threads = [threading.Thread(target=work, args=(1000 * index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    got = [answered.get(timeout=10) for _ in range(200)]
    assert sorted(got) == sorted(1000 * index + number for index in range(4) for number in range(50))
