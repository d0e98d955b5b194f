"""Watching that a response stays within reach while its owner is busy elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Watch"]


@dataclass(eq=False)
class Watch:
    """Somebody will continue from a response soon: its connection is kept, and its loss is told.

    Attributes:
        response_id: The response; replaced when the conversation was read in anew.
        lost: Called on the I/O thread when no live connection holds the response any more.
        told: Whether the present loss was told; the owner clears it to be told of the next one.
    """

    response_id: str
    lost: Callable[[], None]
    told: bool = False
