"""Delivery from the I/O thread to one caller.

Items cross in batches: a caller is woken once for all that came in since it last looked.
"""

from __future__ import annotations

import asyncio
from collections import deque
from queue import SimpleQueue
from typing import Any, Protocol

__all__ = ["AsyncMailbox", "Mailbox", "SyncMailbox"]


class Mailbox(Protocol):
    """Where the I/O thread puts the events of one turn."""

    def put(self, items: list[Any], size: int) -> bool:
        """Hands over items of `size` bytes; False if nobody can ever take them."""

    @property
    def pending(self) -> int:
        """Bytes that were put and not yet taken."""


class _Counted:
    """Counts bytes with one writer per counter, so that no lock is needed."""

    def __init__(self) -> None:
        self._put_bytes = 0
        self._taken_bytes = 0

    @property
    def pending(self) -> int:
        return self._put_bytes - self._taken_bytes


class SyncMailbox(_Counted):
    """For a caller that blocks its thread."""

    def __init__(self) -> None:
        super().__init__()
        self._queue: SimpleQueue[tuple[list[Any], int]] = SimpleQueue()

    def put(self, items: list[Any], size: int) -> bool:
        """Hands over items; called on the I/O thread."""
        self._put_bytes += size
        self._queue.put((items, size))
        return True

    def get(self) -> list[Any]:
        """Waits for the next items."""
        items, size = self._queue.get()
        self._taken_bytes += size
        return items


class AsyncMailbox(_Counted):
    """For a caller on an event loop: the loop is woken only when the box goes from empty to non-empty."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._items: deque[tuple[list[Any], int]] = deque()
        self._awake = False
        self._waiter: asyncio.Future[None] | None = None

    def put(self, items: list[Any], size: int) -> bool:
        """Hands over items; called on the I/O thread."""
        self._put_bytes += size
        self._items.append((items, size))
        if not self._awake:
            self._awake = True
            try:
                self._loop.call_soon_threadsafe(self._wake)
            except RuntimeError:  # the caller's loop is closed
                return False
        return True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def get(self) -> list[Any]:
        """Waits for the next items."""
        while not self._items:
            self._awake = False
            if self._items:  # put between the two lines above
                break
            self._waiter = self._loop.create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        items, size = self._items.popleft()
        self._taken_bytes += size
        return items
