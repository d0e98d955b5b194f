"""Watching that a response stays within reach while its owner is busy elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Watch"]


@dataclass(eq=False)
class Watch:
    """Somebody will continue from a response soon: its connection is kept, and its loss is told.

    Attributes:
        response_id: The response; replaced when the conversation was primed anew.
        lost: Called on the I/O thread, once per loss, when no live connection holds the response any more.
        told: Whether the present loss was told.
    """

    response_id: str
    lost: Callable[[], None]
    told: bool = False

    def renew(self, response_id: str) -> None:
        """Watches another response from now on."""
        self.response_id = response_id
        self.told = False
