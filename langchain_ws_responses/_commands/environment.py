"""Settings that a shell may hold, and how to be without them."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_environment"]

_FOREIGN = ("OPENAI_", "LANGCHAIN_", "LANGSMITH_")


@contextmanager
def no_environment() -> Iterator[None]:
    """Takes away settings of proxies, organizations and tracing: offline means that nothing leaves the machine."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.upper().startswith(_FOREIGN) or name.upper().endswith("_PROXY")
    }
    for name in kept:
        del os.environ[name]
    # Some systems have proxies outside the environment. Only there: the variable alone makes libraries warn.
    if urllib.request.getproxies():
        os.environ["NO_PROXY"] = "*"
    try:
        yield
    finally:
        os.environ.pop("NO_PROXY", None)
        os.environ.update(kept)
