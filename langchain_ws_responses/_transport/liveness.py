"""Whether an open socket can be trusted with a turn: a frozen process or a slept laptop leaves dead ones open."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from websockets.exceptions import ConnectionClosed

from .._protocol.limits import Limits

if TYPE_CHECKING:
    from .dial import Socket

__all__ = ["Liveness"]

# A ping is answered within a round trip; who does not answer in this time is better replaced.
_CHECK_SECONDS = 3.0
_DEFAULT_PING_SECONDS = 20.0
# More than clocks are ever adjusted by in normal operation.
_CLOCK_JUMP = 10.0


class Liveness:
    """Watches one socket.

    Args:
        socket: Notes when it last heard from the other side.
        limits: Say how long silence is normal: keepalive pings would have been answered or missed by then.

    Attributes:
        doubted: Something else speaks against the socket, such as a turn without an answer.
    """

    def __init__(self, socket: Socket, limits: Limits) -> None:
        self.doubted = False
        self._socket = socket
        interval = limits.ping_interval or _DEFAULT_PING_SECONDS
        self._patience = interval + (limits.ping_timeout or _DEFAULT_PING_SECONDS)

    def suspicious(self) -> bool:
        """Whether it should answer a ping before it gets a turn."""
        silent = self._socket.loop.time() - self._socket.heard_at
        # The monotonic clock stands still while the machine sleeps.
        slept = time.time() - self._socket.heard_wall - silent
        return self.doubted or silent > self._patience or slept > _CLOCK_JUMP

    async def answers(self) -> bool:
        """Sends a ping and waits for its answer, for a few seconds at most."""

        async def answered() -> None:
            await (await self._socket.ping())

        try:
            await asyncio.wait_for(answered(), _CHECK_SECONDS)
        except (TimeoutError, asyncio.TimeoutError, ConnectionClosed):
            return False
        self.doubted = False
        # A pong from before may still have been under way: from now on the clocks go by this one.
        self._socket.heard_at, self._socket.heard_wall = self._socket.loop.time(), time.time()
        return True
