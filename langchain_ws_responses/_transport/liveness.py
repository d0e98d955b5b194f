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
        self._interval, self._timeout = limits.ping_interval, limits.ping_timeout
        interval = limits.ping_interval or _DEFAULT_PING_SECONDS
        self._patience = interval + (limits.ping_timeout or _DEFAULT_PING_SECONDS)

    def suspicious(self) -> bool:
        """Whether it should answer a ping before it gets a turn."""
        silent = self._socket.loop.time() - self._socket.heard_at
        # The monotonic clock stands still while the machine sleeps.
        slept = time.time() - self._socket.heard_wall - silent
        return self.doubted or silent > self._patience or slept > _CLOCK_JUMP

    async def until_dead(self) -> bool:
        """Sends keepalive pings; returns True when one met nothing but silence, False when the socket is closed.

        Not the library's own: that one closes politely, and waits ten seconds for a dead peer to do its part. It also
        takes a pong that is late behind a long message for a death.
        """
        while self._interval is not None:
            await asyncio.sleep(self._interval)
            asked_at = self._socket.loop.time()
            try:
                if not await self._pong(self._timeout) and self._socket.heard_at < asked_at:
                    return True
            except ConnectionClosed:
                break
        return False

    async def _pong(self, seconds: float | None) -> bool:
        async def answered() -> None:
            await (await self._socket.ping())

        try:
            await asyncio.wait_for(answered(), seconds)
        except (TimeoutError, asyncio.TimeoutError):
            return False
        return True

    async def answers(self) -> bool:
        """Sends a ping and waits for its answer, for a few seconds at most."""
        try:
            if not await self._pong(_CHECK_SECONDS):
                return False
        except ConnectionClosed:
            return False
        self.doubted = False
        # A pong from before may still have been under way: from now on the clocks go by this one.
        self._socket.heard_at, self._socket.heard_wall = self._socket.loop.time(), time.time()
        return True
