"""Runs `python -m langchain_ws_responses` as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Done", "program", "run", "started"]

# What a shell has that a Python needs; nothing of the developer's settings.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "SYSTEMROOT", "VIRTUAL_ENV")
Done = subprocess.CompletedProcess[str]


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    return {**kept, "PYTHONUTF8": "1", "PYTHONWARNINGS": "error", **(extra or {})}


def run(*args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done:
    """Runs a command to its end."""
    return _python("-m", "langchain_ws_responses", *args, env=env, cwd=cwd)


def program(code: str) -> Done:
    """Runs a program that calls the command line itself."""
    return _python("-c", code)


def _python(*args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None) -> Done:
    return subprocess.run(
        [sys.executable, *args], cwd=cwd, env=_environment(env), capture_output=True, encoding="utf-8", timeout=100,
        check=False,
    )  # fmt: skip


@contextmanager
def started(
    *args: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[subprocess.Popen[str]]:
    """Starts a command that runs until it is told to stop; a test that fails leaves none behind."""
    process = subprocess.Popen(
        [sys.executable, "-m", "langchain_ws_responses", *args], cwd=cwd, env=_environment(env),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    )  # fmt: skip
    with process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
