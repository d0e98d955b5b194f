"""The one I/O thread.

Every socket of the process lives on one event loop in one thread, for sync and async callers alike. It starts with
the first call and never blocks the caller's event loop while it does so; after `fork` the child starts its own.
"""

from __future__ import annotations

import _thread
import asyncio
import atexit
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from .crossing import Crossing
from .greenlets import check_greenlets

__all__ = ["Runtime", "keep_inherited", "runtime"]

logger = logging.getLogger("langchain_ws_responses")

_EXIT_SECONDS = 2.0
_SLOW_SECONDS = 5.0
T = TypeVar("T")


class _LookUps(ThreadPoolExecutor):
    """Runs what blocks (name resolution) in a thread each that never holds up the process's exit.

    The standard executor's threads are joined at exit, for as long as a resolver takes to give up. The base class
    is only there because event loops insist on it.
    """

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        future: Future[T] = Future()

        def run() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as exc:  # whoever waits for the future gets it
                future.set_exception(exc)
            else:
                future.set_result(result)

        _thread.start_new_thread(run, ())
        return future


class _Registered:
    """Bound methods to call one day, as long as their owners live; registered from any thread.

    Each change is one step that no other thread or fork can come into: a lock might be held in a forked child.
    """

    def __init__(self) -> None:
        self._known: set[weakref.WeakMethod[Callable[[], None]]] = set()

    def add(self, callback: Callable[[], None]) -> None:
        self._known.add(weakref.WeakMethod(callback, self._known.discard))

    def call(self) -> None:
        for known in self._known.copy():
            if (callback := known()) is not None:
                callback()


class Runtime:
    """An event loop in a thread of its own, started by the first `call`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = threading.Lock()
        self._at_exit = _Registered()
        self._in_child = _Registered()
        self._at_loss = _Registered()
        self._thread_id: int | None = None
        self._crossing: Crossing | None = None
        self._exiting = False

    @property
    def alive(self) -> bool:
        """Whether the thread runs in this process."""
        return self._loop is not None and self._pid == os.getpid()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop, started if it does not run yet."""
        loop = self._loop
        if loop is None or self._pid != os.getpid():
            # A new thread would find managers whose sockets belong to the loop that is just being ended.
            self.hold_at_exit()
            loop = self._start()
        return loop

    def now(self) -> float:
        """The clock of the I/O thread, from any thread."""
        loop = self._loop
        return time.monotonic() if loop is None else loop.time()

    def inside(self) -> bool:
        """Whether the calling thread is the I/O thread."""
        return self._thread_id == threading.get_ident() and self.alive

    def call(self, callback: Callable[..., Any], *args: Any) -> None:
        """Runs `callback(*args)` on the I/O thread, soon. Safe from any thread, never blocks."""
        loop = self.loop
        while (crossing := self._crossing) is None or crossing.loop is not loop:  # another one has just begun
            loop = self.loop
        try:
            crossing.call(callback, *args)
        except RuntimeError:  # it was closed just now
            self.hold_at_exit()
            if not crossing.ended:
                raise
        if crossing.ended:
            self._again(crossing)

    def at_exit(self, callback: Callable[[], None]) -> None:
        """Registers a bound method to call on the I/O thread when the interpreter exits; its owner may die before."""
        self._at_exit.add(callback)

    def in_child(self, callback: Callable[[], None]) -> None:
        """Registers a bound method to call in a forked child before anything else runs there."""
        self._in_child.add(callback)

    def at_loss(self, callback: Callable[[], None]) -> None:
        """Registers a bound method to call on the I/O thread when its loop has ended although nobody ended it."""
        self._at_loss.add(callback)

    def _start(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is not None and self._pid == os.getpid():
                return self._loop
            check_greenlets()
            # The loop is made here and works as a queue before its thread has come up, so nobody waits for the
            # thread: `threading.Thread.start` would block, which event loops under observation do not allow.
            # The kind is fixed: a policy's own loops may not survive a fork.
            loop = asyncio.SelectorEventLoop()
            loop.set_default_executor(_LookUps(1))
            # In debug mode asyncio prints slow callbacks; on a busy machine every one is, at exit too.
            loop.slow_callback_duration = _SLOW_SECONDS
            ended = threading.Lock()
            ended.acquire()
            try:
                _thread.start_new_thread(self._run, (loop, ended))
            except BaseException:
                loop.close()
                raise
            self._crossing = Crossing(loop)
            self._pid, self._loop, self._ended = os.getpid(), loop, ended
            return loop

    def _run(self, loop: asyncio.AbstractEventLoop, ended: threading.Lock) -> None:
        self._thread_id = threading.get_ident()
        threading.current_thread().name = "ws-responses I/O"
        asyncio.set_event_loop(loop)
        try:
            self._serve(loop)
            _finish(loop)
        except BaseException:  # the interpreter is going away: nothing may be printed
            logger.debug("the I/O thread ended with an exception", exc_info=True)
        finally:
            if self._loop is loop:
                self._loop = None
            ended.release()

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        """Runs the loop until it is stopped; if a callback ends it, who waits is told and the next call starts anew."""
        try:
            loop.run_forever()
            why = "stop"
        except BaseException as exc:  # such as `SystemExit`: no loop catches that
            why = type(exc).__name__
        crossing = self._crossing
        if self._loop is not loop or crossing is None or self._exiting:
            return
        logger.error("a callback ended the I/O thread (%s); what was on it is lost", why)
        try:
            # No other loop has begun yet: nobody else looks at what these change.
            self._at_loss.call()
        finally:
            self._loop, crossing.ended = None, True
            self._again(crossing)

    def _again(self, crossing: Crossing) -> None:
        """Lets the next loop run what a lost one did not."""
        for context, callback, args in crossing.left():
            context.run(self.call, callback, *args)

    def stop(self) -> None:
        """Ends the thread. The next `call` starts a new one."""
        loop, ended = self._loop, self._ended
        if loop is None or self._pid != os.getpid() or self.inside():
            return
        self._loop = None

        def end() -> None:
            try:
                self._at_exit.call()
            finally:
                loop.stop()

        with contextlib.suppress(RuntimeError):  # it has ended by itself
            loop.call_soon_threadsafe(end)
            ended.acquire(timeout=_EXIT_SECONDS)

    def exit(self) -> None:
        """Ends the thread for good: the interpreter is going away."""
        self._exiting = True
        self.stop()

    def hold_at_exit(self) -> None:
        """Never returns to a daemon thread while the interpreter goes away: what it would raise would be printed."""
        mine = threading.get_ident() in (self._thread_id, threading.main_thread().ident)
        if self._exiting and not mine:
            threading.Event().wait()

    def forget(self) -> None:
        """Drops what a forked child inherited, without touching it: the parent goes on using it."""
        if self._loop is not None:
            keep_inherited((self._loop, self._crossing))
        self._lock = threading.Lock()
        self._loop, self._thread_id, self._crossing = None, None, None
        self._in_child.call()


def _finish(loop: asyncio.AbstractEventLoop) -> None:
    """Cancels what is left, lets it end, and closes the loop."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=_EXIT_SECONDS / 2))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(_settle())
    loop.close()


async def _settle() -> None:
    """Lets aborted transports close their sockets: they do so one or two rounds later."""
    for _ in range(4):
        await asyncio.sleep(0)


# What forked children inherited is kept alive here: destructors would act on file descriptors shared with the parent.
_INHERITED: list[object] = []
_RUNTIME = Runtime()


def runtime() -> Runtime:
    """Returns the process's I/O thread."""
    return _RUNTIME


def keep_inherited(thing: object) -> None:
    """Keeps something that a forked child inherited from ever being destroyed, also when the child exits."""
    _INHERITED.append(thing)
    with contextlib.suppress(ImportError, AttributeError):
        import ctypes

        # A list of this module is emptied at exit; a reference that nobody owns is not.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


atexit.register(_RUNTIME.exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_RUNTIME.forget)
