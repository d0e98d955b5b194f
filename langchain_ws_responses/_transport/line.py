"""A socket that is read one message after another, where nothing has to be quick."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .framing import Socket

__all__ = ["Line"]


class Line:
    """Takes what a socket hands over in batches, and gives it out singly.

    Args:
        socket: The socket; it hands its messages to nobody else from now on.
    """

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self._messages: asyncio.Queue[bytes | None] = asyncio.Queue()
        socket.attach(self._take, lambda: self._messages.put_nowait(None))

    def _take(self, messages: list[bytes]) -> None:
        for message in messages:
            self._messages.put_nowait(message)

    async def receive(self) -> bytes:
        """Waits for the next message.

        Raises:
            ConnectionClosed: The connection is gone, and all that it brought was given out.
        """
        message = await self._messages.get()
        if message is None:
            self._messages.put_nowait(None)  # for whoever asks again
            raise self.socket.protocol.close_exc
        return message

    async def close(self) -> None:
        """Closes the socket."""
        await self.socket.close()
