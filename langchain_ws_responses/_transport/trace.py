"""A trace: what hooks hear, as one JSON object per line, for `python -m langchain_ws_responses inspect`.

Whoever tells must not wait for a disk: events go into a bounded queue, and a thread writes them. When the disk is too
slow they are dropped and counted. Every write appends whole lines, so that several processes can share a file. A file
that has become too large is put aside as `NAME.1`, in the place of an older one.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import logging
import os
import queue
import stat
import threading
import time
from pathlib import Path
from typing import Any

from .. import _json
from .._version import __version__
from .hooks import (
    ConnectionClosed,
    ConnectionOpened,
    ConnectionRetired,
    DialGivenUp,
    DialRetrying,
    TransportEvent,
    TurnContent,
    TurnEnded,
    TurnRefused,
    TurnRetrying,
    TurnSent,
)
from .runtime import runtime

__all__ = ["EVENTS", "TRACE_ENV", "TRACE_VERSION", "TraceFile", "trace_of_environment"]

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be put aside either
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("langchain_ws_responses")

TRACE_ENV = "LANGCHAIN_WS_RESPONSES_TRACE"
CONTENT_ENV = "LANGCHAIN_WS_RESPONSES_TRACE_CONTENT"
MAX_BYTES_ENV = "LANGCHAIN_WS_RESPONSES_TRACE_MAX_BYTES"
TRACE_VERSION = 1
EVENTS: dict[type[TransportEvent], str] = {
    ConnectionOpened: "connection_opened",
    ConnectionRetired: "connection_retired",
    ConnectionClosed: "connection_closed",
    DialRetrying: "dial_retrying",
    DialGivenUp: "dial_given_up",
    TurnSent: "turn_sent",
    TurnEnded: "turn_ended",
    TurnRefused: "turn_refused",
    TurnRetrying: "turn_retrying",
    TurnContent: "turn_content",
}
_CLOSE_SECONDS = 2.0
_MOST_AT_ONCE = 256
_MOST_CONTENT = 64
_MAX_BYTES = 100_000_000


class _Mark:
    """A place in what waits to be written.

    Args:
        last: Nothing follows it.
    """

    def __init__(self, *, last: bool = False) -> None:
        self.reached = threading.Event()
        self.last = last


class _Appended:
    """A file that several processes append to, until it is full.

    Args:
        path: The file.
        max_bytes: Where it is put aside; `None` for never.
    """

    def __init__(self, path: Path, max_bytes: int | None) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._file = self._open()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, data: bytes) -> None:
        """Appends."""
        while data:
            data = data[os.write(self._file, data) :]

    def begun_anew(self) -> bool:
        """Puts a full file aside, here or as another process has done; says whether a new one was begun."""
        if self._max_bytes is None or fcntl is None:
            return False
        now = os.fstat(self._file)
        if not stat.S_ISREG(now.st_mode) or (now.st_size < self._max_bytes and self._is_ours(now)):
            return False
        # Whoever comes second finds that it is done. `lockf` locks forks out as well, which share the open file.
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        try:
            if self._is_ours(now):
                self._path.replace(f"{self._path}.1")
        finally:
            fcntl.lockf(self._file, fcntl.LOCK_UN)
        full, self._file = self._file, self._open()
        os.close(full)
        return True

    def _is_ours(self, now: os.stat_result) -> bool:
        try:
            return os.path.samestat(now, self._path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """Closes it."""
        os.close(self._file)


class TraceFile:
    """A hook that appends what it hears to a file, one JSON object per line. No content, no key, no response id.

    Args:
        path: The file; made if it is not there, readable by its owner only. Several processes may share it.
        content: Also writes what goes over sockets, prompts and answers with their response ids; never a header or key.
        max_waiting: Events that may wait for the disk; further ones are dropped and counted.
        max_bytes: A larger file is put aside as `NAME.1`, in the place of an older one; `None` for no limit. On Windows
            there is none.

    Attributes:
        dropped: Events dropped so far.
        wants_content: Whether it hears of content.

    Raises:
        OSError: The file cannot be opened.
        TypeError: `max_bytes` is no whole number.
        ValueError: `max_bytes` is not above zero.

    Example:
        ```python
        with TraceFile("trace.jsonl") as trace, ConnectionManager(hooks=[trace]) as manager:
            ChatOpenAIWebSocket(model="gpt-5.5", manager=manager).invoke("Hello")
        ```
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        content: bool = False,
        max_waiting: int = 10_000,
        max_bytes: int | None = _MAX_BYTES,
    ) -> None:
        if max_bytes is not None:
            if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
                raise TypeError(f"max_bytes must be a whole number or None, not {max_bytes!r}")
            if max_bytes <= 0:
                raise ValueError(f"max_bytes={max_bytes} must be above zero; None is no limit")
        self.path = Path(path)
        self.wants_content = content
        self.dropped = 0
        self._max_waiting = max_waiting
        self._file = _Appended(self.path, max_bytes)
        self._closed = False
        self._last: _Mark | None = None
        self._at_exit_of_child: Any = None
        self._begin()
        # Imported where somebody traces, as it is not light.
        from multiprocessing.process import parent_process
        from multiprocessing.util import register_after_fork

        atexit.register(self.close)
        # The children of `multiprocessing` leave without `atexit`, but not without its own finalizers.
        register_after_fork(self, TraceFile._flush_at_exit_of_child)
        if parent_process() is not None:
            self._flush_at_exit_of_child()

    def _flush_at_exit_of_child(self) -> None:
        from multiprocessing.util import Finalize

        self._at_exit_of_child = Finalize(None, self.flush, exitpriority=0)

    def _begin(self) -> None:
        self._pid = os.getpid()
        # Made anew in a forked child: what waits is the parent's to write.
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._running = False
        self._told_dropped = self.dropped = 0

    def __call__(self, event: TransportEvent, /) -> None:
        """Takes one event. Never waits."""
        if self._closed:
            return
        if self._pid != os.getpid():
            self._begin()
        # Content may be large: no more than a few of it wait.
        most = _MOST_CONTENT if isinstance(event, TurnContent) else self._max_waiting
        if self._waiting.qsize() >= most:
            self.dropped += 1
            return
        self._waiting.put(event)
        if not self._running:
            self._running = self._start()

    def _start(self) -> bool:
        try:
            # `threading.Thread.start` would wait for the thread.
            _thread.start_new_thread(self._write_on, (self._waiting, self._pid))
        except RuntimeError:  # the interpreter is going away
            return False
        return True

    # -- on the writer's thread ----------------------------------------

    def _write_on(self, waiting: queue.SimpleQueue[Any], pid: int) -> None:
        threading.current_thread().name = "ws-responses trace"
        self._write(waiting, pid)

    def _write(self, waiting: queue.SimpleQueue[Any], pid: int) -> None:
        """Writes what comes, up to the last mark."""
        told, fresh = False, True
        lines = [_header(pid)]
        while True:
            items = [waiting.get()]
            with contextlib.suppress(queue.Empty):
                while len(items) < _MOST_AT_ONCE:
                    items.append(waiting.get_nowait())
            lines += [_line(item, pid) for item in items if not isinstance(item, _Mark)]
            if self.dropped > self._told_dropped:
                count, self._told_dropped = self.dropped - self._told_dropped, self.dropped
                lines.append(_json.dumps({**_head("dropped", pid), "count": count}))
            try:
                if self._file.begun_anew() and not fresh:
                    lines.insert(0, _header(pid))
                self._file.write(b"".join(line + b"\n" for line in lines))
            except OSError as exc:
                if not told:
                    told = True
                    logger.warning("the trace %s cannot be written: %s", self.path.name, exc.strerror)
            lines, fresh = [], False
            marks = [item for item in items if isinstance(item, _Mark)]
            for mark in marks:
                mark.reached.set()
            if any(mark.last for mark in marks):
                return

    # -- life ----------------------------------------

    def flush(self, timeout: float = _CLOSE_SECONDS) -> bool:
        """Waits until what was told so far is written; not on the I/O thread.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether it is written.
        """
        # Nobody reads what is put behind the last mark.
        return self._wait(_Mark(), timeout) if self._last is None else self._last.reached.wait(timeout)

    def _wait(self, mark: _Mark, timeout: float) -> bool:
        io = runtime()
        try:
            if io.alive and not io.inside():  # behind what is on its way to the hooks
                io.call(self._put, mark)
            else:
                self._put(mark)
        except RuntimeError:  # it ended just now
            self._put(mark)
        return mark.reached.wait(timeout)

    def _put(self, mark: _Mark) -> None:
        ours = self._pid == os.getpid()
        if ours and self._running:
            self._waiting.put(mark)
            return
        if ours and not self._waiting.empty():
            # An interpreter that goes away lets no thread start any more, from Python 3.12 on.
            self._waiting.put(_Mark(last=True))
            self._write(self._waiting, self._pid)
        mark.reached.set()

    def close(self) -> None:
        """Writes what is left and closes the file. May be called more than once."""
        if self._closed:
            return
        atexit.unregister(self.close)
        if self._at_exit_of_child is not None:
            self._at_exit_of_child.cancel()
        self._last = _Mark(last=True)
        written = self._wait(self._last, _CLOSE_SECONDS)
        self._closed = True
        if written:
            self._file.close()

    def __enter__(self) -> TraceFile:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<TraceFile {self.path.name}, {self.dropped} dropped>"


def _head(event: str, pid: int, at: float | None = None) -> dict[str, Any]:
    moment = time.time() if at is None else at
    return {"v": TRACE_VERSION, "event": event, "at": round(moment, 6), "pid": pid}


def _header(pid: int) -> bytes:
    return _json.dumps({**_head("trace", pid), "version": __version__})


def _line(event: TransportEvent, pid: int) -> bytes:
    """Writes one event as JSON; the labels of enums are their words."""
    line = _head(EVENTS.get(type(event), "other"), pid, event.at)
    for name, value in vars(event).items():
        if isinstance(value, bytes):
            if value:
                line[name] = _said(value)
        elif name != "at":
            line[name] = round(value, 6) if isinstance(value, float) else value
    return _json.dumps(line)


def _said(text: bytes) -> Any:
    """Content as data, or as text where the other side did not write JSON."""
    try:
        return _json.loads(text)
    except ValueError:
        return text.decode("utf-8", "replace")


_of_environment: dict[str, TraceFile | None] = {}


def trace_of_environment() -> tuple[TraceFile, ...]:
    """Returns the trace that `LANGCHAIN_WS_RESPONSES_TRACE` asks for: one for all managers of the process."""
    path = os.environ.get(TRACE_ENV)
    if not path:
        return ()
    path = str(Path(path).absolute())
    if path not in _of_environment:
        try:
            content = os.environ.get(CONTENT_ENV, "").lower() in ("1", "true", "yes")
            _of_environment[path] = TraceFile(path, content=content, max_bytes=_max_bytes())
        except OSError as exc:
            # An agent must not fail because nobody can watch it.
            logger.warning("%s names a file that cannot be opened: %s", TRACE_ENV, exc.strerror)
            _of_environment[path] = None
    trace = _of_environment[path]
    return () if trace is None else (trace,)


def _max_bytes() -> int | None:
    """The limit that the environment sets; 0 takes it away."""
    text = os.environ.get(MAX_BYTES_ENV, "").strip()
    if text and not (text.isascii() and text.isdecimal()):
        logger.warning("%s is no number of bytes: the limit stays at %d", MAX_BYTES_ENV, _MAX_BYTES)
        text = ""
    return int(text or _MAX_BYTES) or None
