"""Settings that a shell may hold, and how to be without them."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_environment"]

_FOREIGN = ("OPENAI_", "LANGCHAIN_", "LANGSMITH_")
# A trace is a file of this machine, and whoever names one wants to see what is sent here.
_KEPT = "LANGCHAIN_WS_RESPONSES_TRACE"


@contextmanager
def no_environment() -> Iterator[None]:
    """Takes away settings of proxies, organizations and LangSmith: offline means that nothing leaves the machine."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if (name.upper().startswith(_FOREIGN) or name.upper().endswith("_PROXY"))
        and not name.startswith(_KEPT)
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
