"""Runs Python programs that begin where slow imports are done: in children of one server process.

Importing takes most programs of the tests longer than all that they do. Where a real start or a real end of an
interpreter matters, tests start one.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["KEPT", "context", "joined", "python", "run_python", "settle"]

PROJECT = Path(__file__).parents[1]
# What a shell has that a Python needs; nothing of the developer's settings.
KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "SYSTEMROOT", "VIRTUAL_ENV")
# One that is not installed is passed by.
_SLOW_IMPORTS = [
    "prepared",
    "docs_kit",
    "httpcore",
    "httpcore2",
    "langchain.agents",
    "langchain.agents.middleware",
    "langchain_openai",
    "langgraph.checkpoint.memory",
    "langgraph.checkpoint.sqlite",
    "langgraph.graph",
    "langgraph.prebuilt",
    "langchain_ws_responses._commands.inspect",
    "langchain_ws_responses._demo.agent",
    "langchain_ws_responses._demo.measure",
    "langchain_ws_responses._langchain.chat_models",
    "langchain_ws_responses._langchain.checkpoint",
    "langchain_ws_responses._langchain.middleware",
    "langchain_ws_responses._langchain.tools",
    "langchain_ws_responses._transport.manager",
    "openai.resources.chat",
    "openai.resources.responses",
    "truststore",
    "websockets.asyncio.client",
]


def context() -> Any:
    """What starts a process where slow imports are done."""
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    found: Any = multiprocessing.get_context(method)
    found.set_forkserver_preload(_SLOW_IMPORTS)
    return found


def python(
    *arguments: object, cwd: Path | None = None, strict: bool = True, seconds: float = 100, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Does what `python ARGUMENTS` does, for a program or a module.

    Args:
        arguments: A path, or `-m` and a module, and what follows.
        cwd: Where; the current directory by default.
        strict: Whether warnings are errors, as with `-W error`.
        seconds: How long it may take.
        environment: Variables beside those that every shell has.
    """
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    argv = list(map(str, arguments))
    with tempfile.TemporaryDirectory(prefix="prepared-") as folder:
        output = Path(folder) / "output"
        given = (argv, cwd or Path.cwd(), {**kept, **environment}, output, strict)
        process = context().Process(target=run_python, args=given, daemon=True)
        process.start()
        if not joined(process, seconds):
            raise subprocess.TimeoutExpired(argv, seconds)
        out, err = (output.with_suffix(f".{name}").read_text(encoding="utf-8") for name in ("out", "err"))
    return subprocess.CompletedProcess(argv, process.exitcode, out, err)


def joined(process: Any, seconds: float) -> bool:
    """Waits for the end of a process, and ends it where it does not come."""
    process.join(seconds)
    if not process.is_alive():
        return True
    process.kill()
    process.join()
    return False


# -- in the child ----------------------------------------


def settle(directory: Path, environment: Mapping[str, str], output: Path) -> None:
    """Makes a child of the server process what a new interpreter in `directory` would be."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    # What the server process has found out from its own environment.
    tempfile.tempdir = None
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(output.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)


def run_python(
    argv: list[str], directory: Path, environment: Mapping[str, str], output: Path, strict: bool = False
) -> None:
    """Does what `python ARGV` does."""
    settle(directory, environment, output)
    if strict:
        warnings.simplefilter("error")
    try:
        if argv[0] == "-m":
            sys.path.insert(0, str(directory))
            sys.argv = argv[1:]
            runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, str((directory / argv[0]).parent))
            sys.argv = argv
            runpy.run_path(argv[0], run_name="__main__")
    finally:
        # A child of multiprocessing leaves without what an interpreter does at its end.
        atexit._run_exitfuncs()
