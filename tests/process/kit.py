"""What the tests of process life share: strict Python processes that must be silent."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent.parent
# The full numbers take minutes. Read here: the tests' environment is emptied of this project's variables.
FULL = os.environ.get("LANGCHAIN_WS_RESPONSES_FULL_COUNTS") == "1"

# What a test may take: on a busy machine a process that ends may need seconds for it.
SECONDS = 3600 if FULL else 600

PRELUDE = """
import asyncio, gc, json, logging, os, sys, threading, warnings
from langchain_core.messages import HumanMessage
from langchain_core.tools import tool
# In debug mode asyncio warns of every slow callback, and a busy machine has many; errors it still tells.
logging.getLogger("asyncio").setLevel(logging.ERROR)
from pairs import socket_model
from transport_kit import on_io, runtime
from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager, default_manager

class Server:
    base_url = sys.argv[1]

def make(**fields):
    return socket_model(Server, fields.pop("manager", None), **fields)

def resources():
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()
"""


def counted(reduced: int, full: int) -> int:
    """How often a test does what it does."""
    return full if FULL else reduced


def environment() -> dict[str, str]:
    """The environment in which a script finds the project and the helpers of the tests."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(PROJECT), str(PROJECT / "tests")])}


def python(script: str, *args: str, code: int = 0, blame: bool = True, file: Path | None = None) -> str:
    """Runs a script as strictly as Python can; it must be silent on stderr.

    Args:
        script: What to run, after `PRELUDE`.
        *args: Its arguments; the first is a base URL.
        code: What it must exit with.
        blame: Whether every warning is an error.
        file: Where to put the script, for what needs a main module that can be imported.
    """
    source = PRELUDE + textwrap.dedent(script)
    if file is not None:
        file.write_text(source)
    strict = ["-X", "dev", "-W", "error"] if blame else []
    done = subprocess.run(
        [sys.executable, *strict, *(["-c", source] if file is None else [str(file)]), *args],
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS - 20,
        check=False,
    )
    assert done.stderr == "", done.stderr
    assert done.returncode == code, done.stdout
    return done.stdout
