"""Mailboxes: batches, wake-ups, counting, closed loops."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections import deque
from queue import Empty
from typing import Any

import pytest

from langchain_ws_responses._transport import mailbox
from langchain_ws_responses._transport.mailbox import AsyncMailbox, SyncMailbox


def put_from_thread(box: Any, *batches: tuple[list[Any], int]) -> list[bool]:
    """Puts as the I/O thread does."""
    alive: list[bool] = []
    thread = threading.Thread(target=lambda: alive.extend(box.put(items, size) for items, size in batches))
    thread.start()
    thread.join()
    return alive


def test_a_sync_caller_gets_the_batches_in_order_and_they_are_counted() -> None:
    box = SyncMailbox()
    assert put_from_thread(box, (["a", "b"], 10), (["c"], 5)) == [True, True]
    assert box.pending == 15
    assert box.get() == ["a", "b"]
    assert box.pending == 5
    assert box.get() == ["c"]
    assert box.pending == 0


def test_a_sync_caller_waits() -> None:
    box = SyncMailbox()
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.extend(box.get()))
    thread.start()
    box.put(["late"], 1)
    thread.join(10)
    assert got == ["late"]


def test_a_sync_caller_that_waits_in_pieces_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Waits:
        """As on Windows: a signal is handled between two waits, and not in one."""

        def __init__(self, *ends: Any) -> None:
            self.ends = list(ends)

        def get(self, timeout: float) -> Any:
            assert timeout == 0.5
            end = self.ends.pop(0)
            if isinstance(end, tuple):
                return end
            raise end

    monkeypatch.setattr(mailbox, "_AT_ONCE", 0.5)
    box: Any = SyncMailbox()
    box._queue = Waits(Empty, Empty, (["late"], 1), Empty, KeyboardInterrupt)
    assert box.get() == ["late"]
    with pytest.raises(KeyboardInterrupt):
        box.get()


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_what_is_discarded_is_neither_delivered_nor_counted(kind: str) -> None:
    box: Any = SyncMailbox() if kind == "sync" else AsyncMailbox()
    box.put(["old"], 100)
    box.discard()
    assert box.pending == 0
    box.put(["new"], 7)
    assert box.pending == 7
    assert (box.get() if kind == "sync" else await box.get()) == ["new"]
    assert box.pending == 0


async def test_an_async_caller_waits_and_gets_the_batches_in_order() -> None:
    box = AsyncMailbox()
    getting = asyncio.ensure_future(box.get())
    await asyncio.sleep(0)
    assert not getting.done()
    put_from_thread(box, (["a"], 1), (["b"], 2))
    assert await getting == ["a"]
    assert await box.get() == ["b"]
    assert box.pending == 0


async def test_the_loop_is_woken_once_for_all_that_came_since_it_last_looked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    box = AsyncMailbox()
    getting = asyncio.ensure_future(box.get())
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    woken: list[Any] = []
    original = loop.call_soon_threadsafe

    def counting(callback: Any, *args: Any, **kwargs: Any) -> Any:
        woken.append(callback)
        return original(callback, *args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)
    put_from_thread(box, *[([number], 1) for number in range(100)])
    assert [await getting] + [await box.get() for _ in range(99)] == [[number] for number in range(100)]
    assert len(woken) == 1
    getting = asyncio.ensure_future(box.get())
    await asyncio.sleep(0)
    put_from_thread(box, (["again"], 1))
    assert await getting == ["again"]
    assert len(woken) == 2


async def test_mailboxes_of_one_loop_are_woken_together(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes = [AsyncMailbox() for _ in range(50)]
    getting = [asyncio.ensure_future(box.get()) for box in boxes]
    await asyncio.sleep(0)
    loop = asyncio.get_running_loop()
    woken: list[Any] = []
    original = loop.call_soon_threadsafe

    def counting(callback: Any, *args: Any, **kwargs: Any) -> Any:
        woken.append(callback)
        return original(callback, *args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counting)

    def put_all() -> None:
        for number, box in enumerate(boxes):
            box.put([number], 1)

    thread = threading.Thread(target=put_all)
    thread.start()
    thread.join()
    assert await asyncio.gather(*getting) == [[number] for number in range(50)]
    assert len(woken) == 1


def test_a_second_loop_of_a_thread_has_a_way_of_its_own() -> None:
    kept: list[AsyncMailbox] = []

    async def receive() -> list[Any]:
        box = AsyncMailbox()
        kept.append(box)
        getting = asyncio.ensure_future(box.get())
        await asyncio.sleep(0)
        put_from_thread(box, (["here"], 1))
        return await asyncio.wait_for(getting, 10)

    assert [asyncio.run(receive()) for _ in range(2)] == [["here"], ["here"]]
    assert put_from_thread(kept[0], (["late"], 1)) == [False]


async def test_a_caller_that_waits_keeps_no_error_and_its_frames() -> None:
    box = AsyncMailbox()
    getting = asyncio.ensure_future(box.get())
    await asyncio.sleep(0)
    # By `type`: somebody else's dead weak proxy raises when it is asked for its class.
    handled = [one for one in gc.get_objects() if issubclass(type(one), IndexError) and _in_mailbox(one)]
    assert handled == []
    box.put(["late"], 1)
    assert await getting == ["late"]


def _in_mailbox(error: IndexError) -> bool:
    trace = error.__traceback__
    return trace is not None and trace.tb_frame.f_code.co_filename == mailbox.__file__


async def test_a_cancelled_wait_loses_nothing() -> None:
    box = AsyncMailbox()
    getting = asyncio.ensure_future(box.get())
    await asyncio.sleep(0)
    getting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await getting
    put_from_thread(box, (["kept"], 1))
    assert await box.get() == ["kept"]


@pytest.mark.parametrize("awake", [False, True])
def test_a_caller_whose_loop_is_closed_is_known_to_be_gone(awake: bool) -> None:
    async def make() -> AsyncMailbox:
        box = AsyncMailbox()
        if awake:
            put_from_thread(box, (["never taken"], 1))
        return box

    box = asyncio.run(make())
    assert put_from_thread(box, (["x"], 1)) == [False]


async def test_many_events_from_another_thread_all_arrive() -> None:
    """Races between taking the last batch and putting the next one must not lose a wake-up."""
    box = AsyncMailbox()
    thread = threading.Thread(target=lambda: [box.put([number], 1) for number in range(20_000)])
    thread.start()
    got: list[int] = []
    while len(got) < 20_000:
        got += await asyncio.wait_for(box.get(), 10)
    thread.join()
    assert got == list(range(20_000))


async def test_what_is_put_while_the_caller_is_falling_asleep_is_noticed() -> None:
    """The I/O thread saw the caller awake and did not wake it, just before the caller stopped being so."""
    box = AsyncMailbox()
    box.put(["first"], 1)
    late = [(["late"], 1)]

    class Racing(deque[Any]):
        def popleft(self) -> Any:
            try:
                return super().popleft()
            except IndexError:
                if late:
                    box.put(*late.pop())
                raise

    box._items = Racing(box._items)
    assert await box.get() == ["first"]
    assert await asyncio.wait_for(box.get(), 5) == ["late"]
