"""Frames that do not belong to an answer, sent along with its events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from langchain_ws_responses import _json
from langchain_ws_responses.testing._events import TERMINAL, Event
from langchain_ws_responses.testing._script import ErrorAnswer, Insert

if TYPE_CHECKING:
    from langchain_ws_responses.testing._engine import Sink

__all__ = ["InsertingSink"]


class InsertingSink:
    """Passes events on, with other frames before, between or after them.

    Args:
        inner: Where they go.
        inserts: What is put in.
    """

    def __init__(self, inner: Sink, inserts: Sequence[Insert]) -> None:
        self._inner = inner
        self._waiting = sorted(inserts, key=lambda one: one.after_events)
        self._count = 0

    async def send(self, event: Event) -> None:
        """Sends one event, and what is due before it; after the terminal one all the rest."""
        await self._flush(self._count)
        await self._inner.send(event)
        self._count += 1
        if event.get("type") in TERMINAL:
            await self._flush(None)

    async def fail(self, answer: ErrorAnswer) -> None:
        """Sends an error."""
        await self._flush(self._count)
        await self._inner.fail(answer)

    async def raw(self, frame: str | bytes) -> None:
        """Sends something that is no event."""
        await self._inner.raw(frame)

    async def drop(self, code: int | None) -> None:
        """Cuts the connection."""
        await self._flush(self._count)
        await self._inner.drop(code)

    async def _flush(self, count: int | None) -> None:
        while self._waiting and (count is None or self._waiting[0].after_events <= count):
            for frame in self._waiting.pop(0).frames:
                if isinstance(frame, (str, bytes)):
                    await self._inner.raw(frame)
                elif "stream_id" in frame:
                    await self._inner.raw(_json.dumps(frame).decode())
                else:
                    await self._inner.send(dict(frame))
