"""Programs that this project did not write, in environments of their own: `python tools/interop.py` makes them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(PROJECT / "tools"))

import interop as environments  # noqa: E402 - tools/ is no package

# Where another program may find its own files; keys, proxies and tracing of the developer are not among them.
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "SYSTEMROOT", "TMPDIR")


@pytest.fixture(scope="session")
def environment() -> Callable[[str], Path]:
    """Finds an environment, or skips with the reason."""

    def find(name: str) -> Path:
        try:
            return environments.find(name)
        except environments.MissingError as exc:
            pytest.skip(str(exc))

    return find


@pytest.fixture(scope="session")
def environ() -> dict[str, str]:
    """What another program's process gets."""
    return {key: os.environ[key] for key in KEPT if key in os.environ}
