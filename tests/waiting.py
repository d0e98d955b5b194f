"""Waiting for what no event tells of, for as long as a busy machine may take."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from langchain_ws_responses import ConnectionManager

BOUND = 20.0  # seconds that any turn may take on a slow machine; a hang takes for ever


def eventually(predicate: Callable[[], Any], what: str = "") -> None:
    """Waits for something that no event tells of."""
    deadline, pause = time.monotonic() + BOUND, threading.Event()
    while not predicate():
        assert time.monotonic() < deadline, f"it never happened: {what}"
        pause.wait(0.001)


def until_open(manager: ConnectionManager) -> None:
    """Waits until a manager has a connection."""
    eventually(lambda: manager.stats().connections_open, "the connection is open")


def until_lost(manager: ConnectionManager) -> None:
    """Waits until a manager has noticed that its connections are gone: what is sent before that is lost in mid-turn."""
    eventually(lambda: not manager.stats().connections_open, "the loss is noticed")
