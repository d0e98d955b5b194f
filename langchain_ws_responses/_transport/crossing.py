"""Calls from other threads into an event loop, which is woken once for all that came since it last looked.

A wake-up is a write to a pipe: it costs more than most of what is called, and gives up the interpreter's lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Crossing"]


class Crossing:
    """The way into one loop, for any number of threads.

    Args:
        loop: Where the calls run.

    Attributes:
        loop: The same.
        wakes: How often it was woken.
        ended: Whether the loop will run nothing more; what is `left` is then for who calls.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.wakes, self.ended = 0, False
        self._calls: deque[tuple[contextvars.Context, Callable[..., Any], tuple[Any, ...]]] = deque()
        self._awake = False

    def call(self, callback: Callable[..., Any], *args: Any) -> None:
        """Runs `callback(*args)` on the loop, soon, in order, and in the caller's context.

        Raises:
            RuntimeError: The loop is closed.
        """
        try:
            self._calls.append((contextvars.copy_context(), callback, args))
            if self._awake:
                return
            self._awake = True
            self.wakes += 1
            self.loop.call_soon_threadsafe(self._run)
        except BaseException:
            # A signal's handler may raise at any line, Ctrl-C's does, and other threads may rely on this wake-up. One
            # too many does no harm, and a closed loop takes none.
            self._awake = False
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._run)
            raise

    def left(self) -> Iterator[tuple[contextvars.Context, Callable[..., Any], tuple[Any, ...]]]:
        """Takes out what has not run, each call once, whoever asks."""
        while True:
            try:
                yield self._calls.popleft()
            except IndexError:
                return

    def _run(self) -> None:
        calls = self._calls
        # Only what is there now: who calls all the time must not keep the loop from its sockets.
        for _ in range(len(calls)):
            context, callback, args = calls.popleft()
            try:
                context.run(callback, *args)
            except (SystemExit, KeyboardInterrupt):
                self._go_on()
                raise
            except BaseException as exc:
                about = {"message": f"Exception in callback {callback!r}", "exception": exc}
                self.loop.call_exception_handler(about)
        self._go_on()

    def _go_on(self) -> None:
        if not self._calls:
            self._awake = False
        # Somebody may have called just before the line above, and have seen this side awake.
        if self._calls:
            self._awake = True
            self.loop.call_soon(self._run)
