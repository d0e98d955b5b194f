"""`stream_chunk_timeout`: how long an async stream may wait between two events, as over HTTP."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from langchain_openai import StreamChunkTimeoutError

from .._protocol.events import Frame
from .._types import Failure, FailureKind, Replay
from ..errors import REPLAY_TEXT, TransportError, TurnTimeout
from .route import Clocks
from .turn import Turn

__all__ = ["AsyncStreamTurn", "StreamChunkTimeout", "chunk_timeout_of"]

# Where langchain-openai takes the default from.
_ENV = "LANGCHAIN_OPENAI_STREAM_CHUNK_TIMEOUT_S"


def chunk_timeout_of(model: Any) -> float | None:
    """Seconds that the user of a model lets its async streams wait; None where nobody has set that."""
    is_set = "stream_chunk_timeout" in model.model_fields_set or _ENV in os.environ
    return (model.stream_chunk_timeout or None) if is_set else None


class StreamChunkTimeout(TransportError, StreamChunkTimeoutError):
    """No next event within the model's `stream_chunk_timeout`: the error of HTTP, in the tree of this package.

    Args:
        failure: What happened.
        replay: Whether the turn may be sent again without harm.
        advice: What to do next.
        timeout_s: The timeout, in seconds.
        model_name: Name of the model.

    Attributes:
        timeout_s: The same.
        model_name: The same.
        chunks_received: Events that came before.
    """

    kind = FailureKind.BETWEEN_EVENTS_TIMEOUT

    def __init__(
        self,
        failure: Failure,
        *,
        replay: Replay,
        advice: str,
        timeout_s: float = 0.0,
        model_name: str | None = None,
    ) -> None:
        super().__init__(failure, replay=replay, advice=advice)
        self.timeout_s, self.model_name = timeout_s, model_name
        self.chunks_received = failure.events_seen

    def __reduce__(self) -> tuple[Any, ...]:
        return (*super().__reduce__(), {"timeout_s": self.timeout_s, "model_name": self.model_name})


class AsyncStreamTurn(Turn):
    """A turn of an async stream, which `stream_chunk_timeout` bounds beside the other clocks."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seconds, other = self.route.chunk_timeout, self._clocks.between_events
        if self._seconds is not None and other is not None and other < self._seconds:
            self._seconds = None
        if self._seconds is not None:
            self._clocks = Clocks(self._clocks.first_event, self._seconds)

    def take(self, items: Sequence[Frame | Failure]) -> list[Frame]:
        """Takes what the mailbox held, see `Turn`."""
        try:
            return super().take(items)
        except TurnTimeout as exc:
            if self._seconds is None or exc.failure.kind is not FailureKind.BETWEEN_EVENTS_TIMEOUT:
                raise
            failure, replay = exc.failure, exc.replay
        advice = f"{REPLAY_TEXT[replay]} Raise `stream_chunk_timeout` on the model, or set it to None."
        raise StreamChunkTimeout(
            failure, replay=replay, advice=advice, timeout_s=self._seconds, model_name=self.model
        )
