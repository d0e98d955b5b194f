"""API keys that a callable gives: asked once for each turn, where the turn is called."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable

from ..errors import ConfigurationError

__all__ = ["AskKey", "asked", "asked_async"]

AskKey = Callable[[], str | Awaitable[str]]


def asked(ask: AskKey) -> object:
    """Asks for a key, in the caller's thread and context. What the callable raises is the caller's.

    Raises:
        ConfigurationError: Only an event loop could wait for the key.
    """
    key = ask()
    if inspect.isawaitable(key):
        if inspect.iscoroutine(key):
            key.close()
        raise ConfigurationError(
            "The API key callable is async. Use async methods (ainvoke, astream), or a callable that returns the key."
        )
    return key


async def asked_async(ask: AskKey) -> object:
    """Asks for a key, on the caller's loop and in its context; a callable that may block does so in a thread."""
    if inspect.iscoroutinefunction(ask):
        return await ask()
    key = await asyncio.to_thread(ask)
    return await key if inspect.isawaitable(key) else key
