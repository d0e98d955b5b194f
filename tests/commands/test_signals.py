"""Ctrl-C and SIGTERM that come where Python drops what their handlers raise."""

from __future__ import annotations

import pytest
from command_line import program

DROPS = """
import signal, sys, threading, weakref
from types import SimpleNamespace
from langchain_ws_responses import _cli


class Thing:
    pass


def meanwhile(_reference):
    signal.raise_signal(signal.{name})
    for _ in range(1_000):  # some Pythons look for signals only where a loop goes round
        pass


def run(args, console):
    thing = Thing()
    watched = weakref.ref(thing, meanwhile)
    del thing
    console.note("dropped")
    threading.Event().wait(30)
    console.note("never told")
    return 0


_cli._command = lambda name: SimpleNamespace(configure=lambda parser: None, run=run)
sys.exit(_cli.main(["demo"]))
"""


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_signal_in_a_callback_of_a_weak_reference_is_not_lost(name: str, code: int) -> None:
    done = program(DROPS.format(name=name))
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == "dropped\n"


OTHERS = """
import sys
from types import SimpleNamespace
from langchain_ws_responses import _cli


class Thing:
    def __del__(self):
        raise ValueError("a defect of somebody's")


def run(args, console):
    Thing()
    return 0


hook = sys.unraisablehook
_cli._command = lambda name: SimpleNamespace(configure=lambda parser: None, run=run)
code = _cli.main(["demo"])
assert sys.unraisablehook is hook
sys.exit(code)
"""


def test_what_else_python_drops_is_reported_as_ever() -> None:
    done = program(OTHERS)
    assert done.returncode == 0
    assert "ValueError: a defect of somebody's" in done.stderr
