"""What gevent's patches make of the I/O thread, and what cannot work then.

With `gevent.monkey.patch_all()` the I/O thread is a greenlet of the process's only thread. Sync calls wait
cooperatively, so that works. A second event loop cannot run in that thread.
"""

from __future__ import annotations

import asyncio
import sys

from ..errors import ConfigurationError

__all__ = ["check_greenlets"]


def check_greenlets() -> None:
    """Refuses, before the I/O thread starts, what would wait for ever.

    Raises:
        ConfigurationError: gevent has patched too little, or the caller runs an event loop beside it.
    """
    monkey = sys.modules.get("gevent.monkey")
    if monkey is None or not monkey.is_module_patched("select"):
        return
    if not monkey.is_module_patched("threading"):
        raise ConfigurationError(
            "gevent has patched this process, but not its threads: a turn would wait for ever. Call "
            "`gevent.monkey.patch_all()` without `thread=False`."
        )
    if asyncio._get_running_loop() is not None:
        raise ConfigurationError(
            "Async calls do not work in a process that gevent has patched: the event loop and the sockets' loop would "
            "share one thread. Use `invoke`, `stream` and `batch` in greenlets, or do not patch."
        )
