"""One connection through a `ChaosProxy`: two pipes, and what happens to them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

__all__ = ["ChaosConnection", "Fault", "Link", "Planned"]

Direction = Literal["to_client", "to_server"]
Kind = Literal["reset", "end", "blackhole", "slow", "fragment", "garble", "freeze"]

READ = 2**16
_TICK = 0.05
_SHORT, _LONG = 126, 127


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Something that happens to a connection, once it has carried enough.

    Counting begins when the connection is accepted, or when the fault is put on an open one. With both counts,
    `after_bytes` begins where `after_frames` ends: in the middle of a frame. Without any it happens at once; at
    the acceptance of a connection that is before anything reached the server.

    Attributes:
        kind: `"reset"`: RST on both sides. `"end"`: FIN to the client, without a close frame. `"blackhole"`:
            nothing passes any more in either direction, nobody is told (a deaf peer, if it comes at once).
            `"slow"`: `rate` bytes a second. `"fragment"`: one byte at a time. `"garble"`: the next `length` bytes
            are turned into others. `"freeze"`: nothing passes until `thaw`, and nothing is lost.
        direction: Where bytes are counted, slowed, fragmented or garbled.
        after_bytes: Bytes that still pass.
        after_frames: WebSocket messages (over HTTP: events of an SSE stream) that still pass; 0 is right after the
            handshake.
        rate: Bytes a second for `"slow"`.
        length: Bytes for `"garble"`.
    """

    kind: Kind
    direction: Direction = "to_client"
    after_bytes: int | None = None
    after_frames: int | None = None
    rate: float = 1.0
    length: int = 1

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"there is no fault {self.kind!r}; choose one of {', '.join(get_args(Kind))}")
        counts = (self.after_bytes, self.after_frames, self.length)
        if any(count is not None and count < 0 for count in counts) or self.rate <= 0:
            raise ValueError("a fault counts forwards: no negative counts, and a rate above zero")


@dataclass(eq=False)
class ChaosConnection:
    """One connection through the proxy.

    Attributes:
        number: 1 for the first.
        open: Whether it is open.
        bytes_to_client: Bytes passed on from the server.
        bytes_to_server: Bytes passed on from the client.
        frames_to_client: WebSocket messages or SSE events passed on from the server.
        frames_to_server: WebSocket messages passed on from the client.
        struck: What has happened to it, in order.
    """

    number: int
    open: bool = True
    bytes_to_client: int = 0
    bytes_to_server: int = 0
    frames_to_client: int = 0
    frames_to_server: int = 0
    struck: list[Fault] = field(default_factory=list)


@dataclass(eq=False)
class _Armed:
    """A fault that waits for its moment."""

    fault: Fault
    frames: int | None
    bytes: int | None

    @property
    def due(self) -> bool:
        return self.frames is None and not self.bytes


@dataclass(eq=False)
class Planned:
    fault: Fault
    left: int | None


class _Frames:
    """Finds where WebSocket messages, or the events of an SSE stream, end in a stream of bytes."""

    def __init__(self) -> None:
        self.began = False
        self._framed = False
        self._head = b""
        self._left = 0
        self._ends = False

    def feed(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Yields offsets in `data`, with 0 for the end of the handshake and 1 for that of a message."""
        start = 0
        if not self.began:
            before = len(self._head)
            self._head += data
            end = self._head.find(b"\r\n\r\n") + 4
            if end < 4:
                return
            first, _, rest = self._head[:end].lower().partition(b"\r\n")
            self._framed = b" 101 " in first + b" " or (
                first[:4] == b"get " and b"upgrade: websocket" in rest
            )
            self.began, self._head, start = True, b"", end - before
            yield start, 0
        yield from self._messages(data, start) if self._framed else self._events(data, start)

    def _messages(self, data: bytes, start: int) -> Iterator[tuple[int, int]]:
        while start < len(data):
            if not self._left:
                size, header = _header(self._head + data[start : start + 14])
                if not header:
                    self._head += data[start:]
                    return
                first = (self._head + data[start : start + 1])[0]
                # Control frames (8 and above) are no messages; the last fragment ends one.
                self._ends = bool(first & 0x80) and first & 0x0F < 8
                start += header - len(self._head)
                self._head, self._left = b"", size
            step = min(self._left, len(data) - start)
            start, self._left = start + step, self._left - step
            if not self._left and self._ends:
                yield start, 1

    def _events(self, data: bytes, start: int) -> Iterator[tuple[int, int]]:
        while (end := data.find(b"\n\n", start)) >= 0:
            start = end + 2
            yield start, 1


def _header(data: bytes) -> tuple[int, int]:
    """Reads a frame header: bytes of the payload and of the header; 0 of the header where it is not complete."""
    if len(data) < 2:
        return 0, 0
    size, more = data[1] & 0x7F, 0
    if size in (_SHORT, _LONG):
        more = 2 if size == _SHORT else 8
        size = int.from_bytes(data[2 : 2 + more], "big")
    header = 2 + more + (4 if data[1] & 0x80 else 0)
    return (size, header) if len(data) >= header else (0, 0)


class _Pipe:
    """One direction of a connection."""

    def __init__(self, link: Link, direction: Direction) -> None:
        self._link = link
        self._direction = direction
        self._frames = _Frames()
        self._armed: list[_Armed] = []
        self.writer: asyncio.StreamWriter | None = None
        self.rate: float | None = None
        self.fragment = False
        self.garble = 0

    def arm(self, fault: Fault) -> None:
        self._armed.append(_Armed(fault, fault.after_frames, fault.after_bytes))
        if fault.after_frames == 0 and self._frames.began:
            self._armed[-1].frames = None
        self._strike()

    def heal(self) -> None:
        self._armed.clear()
        self.rate, self.fragment, self.garble = None, False, 0

    async def run(self, reader: asyncio.StreamReader) -> None:
        """Passes bytes on until the end of the stream."""
        while True:
            data = await reader.read(READ)
            if not data:
                return
            start = 0
            for end, messages in self._frames.feed(data):
                await self._pass(data[start:end])
                start = end
                self._at_boundary(messages)
            await self._pass(data[start:])

    async def _pass(self, data: bytes) -> None:
        while data:
            counting = [armed for armed in self._armed if armed.frames is None]
            due = min((armed.bytes or 0 for armed in counting), default=len(data))
            piece, data = data[:due], data[due:]
            await self._write(piece)
            for armed in counting:
                armed.bytes = (armed.bytes or 0) - len(piece)
            self._strike()

    def _at_boundary(self, messages: int) -> None:
        """A message, or the handshake, has passed."""
        if messages and not self._link.deaf:
            self._link.count(self._direction, 0, messages)
        for armed in self._armed:
            if armed.frames is not None:
                armed.frames = max(0, armed.frames - messages) or None
        self._strike()

    def _strike(self) -> None:
        for armed in [armed for armed in self._armed if armed.due]:
            if armed in self._armed:  # the one before may have ended everything
                self._armed.remove(armed)
                self._link.strike(armed.fault)

    async def _write(self, data: bytes) -> None:
        link = self._link
        await link.thawed.wait()
        if self.writer is None:
            return
        if self.garble:
            broken, data = data[: self.garble], data[self.garble :]
            self.garble -= len(broken)
            data = bytes(byte ^ 0x5A for byte in broken) + data
        size = 1 if self.fragment else max(1, int(self.rate * _TICK)) if self.rate else len(data)
        for start in range(0, len(data), size):
            if link.deaf:
                return
            piece = data[start : start + size]
            self.writer.write(piece)
            await self.writer.drain()
            link.count(self._direction, len(piece), 0)
            if self.rate is not None:
                await asyncio.sleep(size / self.rate)
            elif self.fragment:
                await asyncio.sleep(0)  # lets the other side read it as a piece of its own


class Link:
    """One client and its connection to the server."""

    def __init__(
        self,
        record: ChaosConnection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        changed: Callable[[], None],
    ) -> None:
        self.record = record
        self.deaf = False
        self.thawed = asyncio.Event()
        self.thawed.set()
        self.pipes = {"to_client": _Pipe(self, "to_client"), "to_server": _Pipe(self, "to_server")}
        self.pipes["to_client"].writer = writer
        self._changed = changed
        self._client = (reader, writer)
        self._server: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._over = asyncio.Event()

    def count(self, direction: Direction, size: int, frames: int) -> None:
        """Notes what has passed."""
        record = self.record
        if direction == "to_client":
            record.bytes_to_client += size
            record.frames_to_client += frames
        else:
            record.bytes_to_server += size
            record.frames_to_server += frames
        self._changed()

    async def run(self, faults: Iterable[Fault], upstream: tuple[str, int]) -> None:
        """Serves the connection to its end."""
        try:
            for fault in faults:
                self.pipes[fault.direction].arm(fault)
            if not self._over.is_set() and not self.deaf:
                self._server = await asyncio.open_connection(*upstream, limit=READ)
                self.pipes["to_server"].writer = self._server[1]
            await self._carry()
        except OSError:
            self.reset()
        finally:
            self.record.open = False
            for _, writer in self._sides():
                writer.transport.abort()
            for _, writer in self._sides():
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            self._changed()

    def _sides(self) -> list[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        return [self._client] if self._server is None else [self._client, self._server]

    async def _carry(self) -> None:
        up = asyncio.create_task(self._pump("to_server", self._client[0]))
        tasks: list[asyncio.Task[Any]] = [up, asyncio.create_task(self._over.wait())]
        if self._server is not None:
            tasks.append(asyncio.create_task(self._pump("to_client", self._server[0])))
        try:
            # A client that leaves ends everything; a server that leaves is passed on, unless nobody may know.
            await asyncio.wait([up, tasks[1]], return_when=asyncio.FIRST_COMPLETED)
            if up.done() and self._server is not None and not self.deaf and not self._over.is_set():
                await asyncio.wait([tasks[1], tasks[2]], timeout=1, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _pump(self, direction: Direction, reader: asyncio.StreamReader) -> None:
        try:
            await self.pipes[direction].run(reader)
        except OSError:
            self.reset()
            return
        writer = self.pipes[direction].writer
        await self.thawed.wait()
        if self.deaf or writer is None or writer.is_closing():
            return
        with contextlib.suppress(OSError):
            if writer.can_write_eof():
                writer.write_eof()
            else:
                writer.close()

    def strike(self, fault: Fault) -> None:
        """Does what a fault says."""
        self.record.struck.append(fault)
        pipe = self.pipes[fault.direction]
        if fault.kind == "reset":
            self.reset()
        elif fault.kind == "end":
            self.end()
        elif fault.kind == "blackhole":
            self.deaf = True
        elif fault.kind == "slow":
            pipe.rate = fault.rate
        elif fault.kind == "fragment":
            pipe.fragment = True
        elif fault.kind == "garble":
            pipe.garble = fault.length
        else:
            self.thawed.clear()
        self._changed()

    def reset(self) -> None:
        """RST to both sides."""
        for _, writer in self._sides():
            sock = writer.get_extra_info("socket")
            if sock is not None and not writer.is_closing():
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        self._finished()

    def end(self) -> None:
        """FIN to the client; the server's side is dropped."""
        writer = self._client[1]
        writer.close()
        if self._server is not None:
            self._server[1].transport.abort()
        self._finished()

    def _finished(self) -> None:
        self.record.open = False
        for pipe in self.pipes.values():
            pipe.heal()
        self._over.set()

    def heal(self) -> None:
        """Ends what lasts. A blackhole does not end: what it swallowed is gone."""
        for pipe in self.pipes.values():
            pipe.heal()
        self.thawed.set()
