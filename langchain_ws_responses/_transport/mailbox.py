"""Delivery from the I/O thread to one caller.

Items cross in batches: a caller is woken once for all that came in since it last looked.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import weakref
from collections import deque
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from .crossing import Crossing

__all__ = ["AsyncMailbox", "Mailbox", "SyncMailbox"]

# Windows does not interrupt who waits for a lock: Ctrl-C is noticed between two waits.
_AT_ONCE: float | None = 0.5 if sys.platform == "win32" else None


class Mailbox(Protocol):
    """Where the I/O thread puts the events of one turn."""

    def put(self, items: list[Any], size: int) -> bool:
        """Hands over items of `size` bytes; False if nobody can ever take them."""

    def discard(self) -> None:
        """Throws away what was put and not yet taken."""

    @property
    def pending(self) -> int:
        """Bytes that were put and not yet taken."""


class _Counted:
    """Counts bytes with one writer per counter, so that no lock is needed."""

    __slots__ = ("_discarded_bytes", "_put_bytes", "_taken_bytes")

    def __init__(self) -> None:
        self._put_bytes = 0
        self._discarded_bytes = 0
        self._taken_bytes = 0

    @property
    def pending(self) -> int:
        return self._put_bytes - self._discarded_bytes - self._taken_bytes


class SyncMailbox(_Counted):
    """For a caller that blocks its thread."""

    __slots__ = ("_queue",)

    def __init__(self) -> None:
        super().__init__()
        self._queue: SimpleQueue[tuple[list[Any], int]] = SimpleQueue()

    def put(self, items: list[Any], size: int) -> bool:
        """Hands over items; called on the I/O thread."""
        self._put_bytes += size
        self._queue.put((items, size))
        return True

    def discard(self) -> None:
        """Throws away what waits; called on the I/O thread."""
        while True:
            try:
                _, size = self._queue.get_nowait()
            except Empty:
                return
            self._discarded_bytes += size

    def get(self) -> list[Any]:
        """Waits for the next items."""
        while True:
            try:
                items, size = self._queue.get(timeout=_AT_ONCE)
            except Empty:
                continue
            self._taken_bytes += size
            return items


_here = threading.local()


def _crossing() -> Crossing:
    """The way into the running loop, the same for all mailboxes on it: they are woken together."""
    loop = asyncio.get_running_loop()
    known: Crossing | None = _here.last() if hasattr(_here, "last") else None
    if known is None or known.loop is not loop:
        known = Crossing(loop)
        _here.last = weakref.ref(known)  # it lives as long as a mailbox that uses it
    return known


class AsyncMailbox(_Counted):
    """For a caller on an event loop: the loop is woken only when the box goes from empty to non-empty."""

    __slots__ = ("_awake", "_crossing", "_items", "_waiter")

    def __init__(self) -> None:
        super().__init__()
        self._crossing = _crossing()
        self._items: deque[tuple[list[Any], int]] = deque()
        self._awake = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, items: list[Any], size: int) -> bool:
        """Hands over items; called on the I/O thread."""
        if self._crossing.loop.is_closed():
            return False
        self._put_bytes += size
        self._items.append((items, size))
        if not self._awake:
            self._awake = True
            try:
                self._crossing.call(self._wake)
            except RuntimeError:  # the caller's loop was closed just now
                return False
        return True

    def discard(self) -> None:
        """Throws away what waits; called on the I/O thread."""
        while True:
            try:
                _, size = self._items.popleft()
            except IndexError:
                return
            self._discarded_bytes += size

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> list[Any]:
        """Waits for the next items."""
        while True:
            try:
                items, size = self._items.popleft()
            except IndexError:
                pass
            else:
                self._taken_bytes += size
                return items
            # Not in the handler: while this waits, the error would keep itself and its traceback.
            await self._wait()

    async def _wait(self) -> None:
        self._awake = False
        if self._items:  # put just before the line above, by somebody who saw this side awake
            return
        self._waiter = self._crossing.loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
