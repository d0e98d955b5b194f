"""A server on an event loop in a thread of its own: its life, and how other threads wait for it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ThreadedServer"]

_PATIENCE = 10.0
T = TypeVar("T")


class ThreadedServer:
    """What the servers and the proxy of this package have in common.

    Args:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        self._life = threading.Lock()
        self._thread: threading.Thread | None = None
        self._thread_id: int | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> Self:
        """Starts it; does nothing when it runs.

        Raises:
            OSError: The address is in use or not ours.
            OverflowError: There is no such port.
        """
        with self._life:
            if self._thread is not None:
                return self
            ready, failure = threading.Event(), list[Exception]()
            thread = threading.Thread(target=self._main, args=(ready, failure), name=self._name, daemon=True)
            thread.start()
            ready.wait()
            if failure:
                thread.join()
                raise failure[0]
            self._thread = thread
        return self

    def stop(self) -> None:
        """Stops it and closes every connection; does nothing when it is stopped."""
        with self._life:
            thread, loop, stop = self._thread, self._loop, self._stop
            if thread is None or loop is None or stop is None:
                return
            loop.call_soon_threadsafe(stop.set)
            thread.join()
            self._thread = self._loop = self._stop = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave(clean=kind is None)

    async def __aenter__(self) -> Self:
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._leave, clean=kind is None)

    def wait_for(self, predicate: Callable[[], T], timeout: float = 5.0) -> T:
        """Waits until the records satisfy `predicate`, without polling.

        Args:
            predicate: Called after every change to the records.
            timeout: Seconds.

        Returns:
            The true value of `predicate`.

        Raises:
            TimeoutError: It stayed false.
        """
        with self._changed:
            if not self._changed.wait_for(predicate, timeout):
                raise TimeoutError(f"not true within {timeout:g} s: {self!r}")
            return predicate()

    def _leave(self, *, clean: bool) -> None:
        """Ends a `with` block; `clean` says that nothing was raised in it."""
        self.stop()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _call(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Runs `work` on the server's loop and waits for it; on the loop itself nobody can wait, and it runs soon."""
        loop = self._loop
        if loop is None:
            return
        if self._thread_id == threading.get_ident():
            self._spawn(work())
        else:
            asyncio.run_coroutine_threadsafe(work(), loop).result(_PATIENCE)

    # -- the thread

    def _main(self, ready: threading.Event, failure: list[Exception]) -> None:
        try:
            asyncio.run(self._run(ready))
        except Exception as exc:
            if ready.is_set():
                raise
            failure.append(exc)
        finally:
            ready.set()

    async def _run(self, ready: threading.Event) -> None:
        stop = asyncio.Event()
        await self._open()
        self._thread_id = threading.get_ident()
        self._loop, self._stop = asyncio.get_running_loop(), stop
        ready.set()
        await stop.wait()
        await self._close()

    async def _open(self) -> None:
        """Opens the port."""
        raise NotImplementedError

    async def _close(self) -> None:
        """Closes the port and what came through it."""
        raise NotImplementedError

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs `work` as a task that `_end_tasks` ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end_tasks(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
