"""What a run is measured by: requests, connections and the moments when tools ended."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from .._transport.hooks import ConnectionOpened, TransportEvent, TurnSent

if TYPE_CHECKING:
    from ..testing import ResponsesServer

__all__ = ["Meter", "Run", "Sent", "gaps", "server_sent"]


@dataclass(frozen=True)
class Sent:
    """One request.

    Attributes:
        at: When, on the monotonic clock.
        bytes: Size of its JSON.
        mode: `"full"`, `"delta"`, or `"warmup"`.
    """

    at: float
    bytes: int
    mode: str


@dataclass
class Meter:
    """Counts what the clients themselves send; its methods are their hooks."""

    sent: list[Sent] = field(default_factory=list)
    connections: int = 0

    def on_transport(self, event: TransportEvent) -> None:
        """Takes an event of the connection manager."""
        if isinstance(event, TurnSent):
            self.sent.append(Sent(time.monotonic(), event.bytes, event.mode))
        elif isinstance(event, ConnectionOpened):
            self.connections += 1

    def on_request(self, request: Any) -> None:
        """Takes a request of httpx, just before it goes out."""
        request.extensions["trace"] = self._on_trace
        self.sent.append(Sent(time.monotonic(), len(request.content), "full"))

    def _on_trace(self, name: str, _info: Any) -> None:
        self.connections += name == "connection.connect_tcp.complete"


def server_sent(server: ResponsesServer) -> list[Sent]:
    """Lists the requests as the local server received them."""
    return [
        Sent(
            request.at,
            request.raw_bytes,
            "delta" if request.is_delta else "full" if request.generate else "warmup",
        )
        for request in list(server.requests)
    ]


def gaps(tools_ended: Sequence[float], sent: Sequence[Sent]) -> list[float]:
    """Seconds between the last tool output before a request and that request.

    Args:
        tools_ended: When each tool call returned.
        sent: The requests, in order.
    """
    found = []
    for before, request in pairwise(sent):
        ended = [moment for moment in tools_ended if before.at < moment <= request.at]
        if ended:
            found.append(request.at - max(ended))
    return found


@dataclass(frozen=True)
class Run:
    """One agent run and what it took.

    Attributes:
        calls: Name, arguments and output of each tool call.
        answer: The final text.
        sent: The requests.
        connections: Connections opened.
        gaps: Seconds between a tool's output and the next request.
        seconds: Total time.
    """

    calls: list[tuple[str, dict[str, Any], str]]
    answer: str
    sent: list[Sent]
    connections: int
    gaps: list[float]
    seconds: float

    def count(self, mode: str) -> int:
        """Requests of a mode."""
        return sum(request.mode == mode for request in self.sent)

    @property
    def bytes(self) -> int:
        """Bytes of all requests."""
        return sum(request.bytes for request in self.sent)

    @property
    def gap(self) -> float | None:
        """The median gap."""
        return statistics.median(self.gaps) if self.gaps else None
