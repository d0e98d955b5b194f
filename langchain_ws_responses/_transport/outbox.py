"""Frames on their way into one socket, in order. What is not yet handed to the socket counts as not sent."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from .._types import Phase
from .framing import SHORT

if TYPE_CHECKING:
    from .framing import Socket
    from .ticket import Ticket

__all__ = ["Outbox"]

_AT_ONCE = 4 * SHORT


class Outbox:
    """Writes short frames at once, all that wait in one go, and long ones in a task, one by one.

    Args:
        socket: Where to.
        written: Is told of each frame that was handed to the socket, with its size.
        name: Of the task.
    """

    def __init__(self, socket: Socket, written: Callable[[Ticket, int], None], name: str) -> None:
        self._socket = socket
        self._written = written
        self._frames: deque[tuple[Ticket, bytes]] = deque()
        self._long = asyncio.Event()
        self._due = False
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._write_long(), name=name)

    def add(self, ticket: Ticket, frame: bytes) -> None:
        """Writes a frame soon."""
        self._frames.append((ticket, frame))
        if not self._due:
            # Not now: a close that has come in already is read first, and then nothing is lost on a dead socket.
            self._due = True
            self._loop.call_soon(self._write)

    def take_out(self, ticket: Ticket) -> bool:
        """Takes a turn's frame out; False if it was written already."""
        entry = next((entry for entry in self._frames if entry[0] is ticket), None)
        if entry is not None:
            self._frames.remove(entry)
        return entry is not None

    def end(self) -> None:
        """Forgets what was not written: the socket is gone."""
        self._task.cancel()
        self._frames.clear()

    def _write(self) -> None:
        self._due = False
        frames, written, size = self._frames, list[tuple["Ticket", bytes]](), 0
        if frames and self._socket.takes_at_once:
            while frames and len(frames[0][1]) <= SHORT and size < _AT_ONCE:
                written.append(frames.popleft())
                size += len(written[-1][1])
        if written:
            for ticket, _ in written:
                ticket.phase = Phase.SENT
            self._socket.write_at_once([frame for _, frame in written])
            for ticket, frame in written:
                self._written(ticket, len(frame))
        if frames:
            self._long.set()

    async def _write_long(self) -> None:
        while True:
            await self._long.wait()
            while self._frames:
                if self._socket.state is not State.OPEN:
                    return  # what is still here was never sent; who reads tells everybody
                ticket, frame = self._frames.popleft()
                ticket.phase = Phase.SENT
                try:
                    await self._socket.send(frame, text=True)
                except ConnectionClosed:
                    return
                self._written(ticket, len(frame))
                del ticket, frame  # the next turn may be long in coming
            self._long.clear()
