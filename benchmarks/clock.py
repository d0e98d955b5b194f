"""When things happened, as the client sees it."""

from __future__ import annotations

import asyncio
import time

__all__ = ["Clock"]


class Clock:
    """Marks of one conversation.

    A driver calls `send` when it has all that the next request needs, and `got` when the
    answer is in its hands.

    Args:
        pause: Seconds that each tool takes.

    Attributes:
        sent: Wall time of each `send`.
        received: Wall time of each `got`.
        cpu: CPU time of the process at the start and at each `got`.
    """

    def __init__(self, pause: float = 0.0) -> None:
        self.pause = pause
        self.sent: list[float] = []
        self.received: list[float] = []
        self.cpu: list[float] = [time.process_time()]

    def send(self) -> None:
        """The tool's output, or the question, is there."""
        self.sent.append(time.perf_counter())

    def got(self) -> None:
        """The answer is there."""
        self.received.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def work(self) -> None:
        """Takes the time that a tool takes."""
        if self.pause and self.received:
            time.sleep(self.pause)

    async def awork(self) -> None:
        """Like `work`."""
        if self.pause and self.received:
            await asyncio.sleep(self.pause)
