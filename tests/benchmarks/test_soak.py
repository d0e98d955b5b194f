"""The soak: a few seconds of it, and that it would see what it is there to see."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage

from benchmarks.soak import Book, Conversation, slope

# Read here: the tests' environment is emptied of this project's variables. The figure's run takes three minutes.
MINUTES = float(os.environ.get("LANGCHAIN_WS_RESPONSES_SOAK_MINUTES", "0"))
LINUX = pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="the soak reads /proc, which is missing"
)


def soak(project: Path, *options: str, seconds: float) -> str:
    """Runs the command, and returns what it printed."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "benchmarks.soak", *options]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def figure(out: str, name: str) -> str:
    found = re.search(rf"^ok +{name} +(.*)$", out, re.MULTILINE)
    assert found is not None, out
    return found[1]


@LINUX
@pytest.mark.timeout(120)
def test_a_few_seconds_of_chaos_lose_nothing(project: Path) -> None:
    sizes = ["--conversations", "20", "--sockets", "4", "--lifetime", "2", "--every", "1"]
    out = soak(project, "--minutes", "0.03", "--turns", "40", "--progress", "1", *sizes, seconds=110)
    assert int(figure(out, "turns answered").split()[0]) >= 40
    assert int(figure(out, "faults injected").split()[0]) > 3
    assert [figure(out, name) for name in ("lost", "doubled", "foreign")] == ["0", "0", "0"]
    assert int(figure(out, "sockets at most")) <= 4


@LINUX
@pytest.mark.skipif(not MINUTES, reason="opt in: LANGCHAIN_WS_RESPONSES_SOAK_MINUTES=3 is missing")
@pytest.mark.timeout(120 + MINUTES * 90)
def test_minutes_of_chaos_lose_nothing(project: Path) -> None:
    out = soak(project, "--minutes", str(MINUTES), seconds=100 + MINUTES * 90)
    assert [figure(out, name) for name in ("lost", "doubled", "foreign")] == ["0", "0", "0"]
    assert int(figure(out, "turns answered").split()[0]) > 1000


STAMPS = [f"[7,2,1,{number}]" for number in range(4)]


@pytest.mark.parametrize(
    ("said", "what"),
    [
        ("".join(STAMPS) + "u2o1", None),
        ("".join(STAMPS[:3]) + "u2o1", "lost"),
        ("", "lost"),
        ("".join(STAMPS), "lost"),
        ("".join(STAMPS) + "u2o0", "lost"),
        ("".join(STAMPS) + "u1o1", "lost"),
        ("".join([*STAMPS[:2], *STAMPS[1:]]) + "u2o1", "doubled"),
        ("".join(STAMPS) + "u2o2", "doubled"),
        ("".join(STAMPS) + "u3o1", "doubled"),
        ("".join([*STAMPS, "[8,2,1,0]"]) + "u2o1", "foreign"),
        ("".join(STAMPS[:3]) + "[7,2,2,3]u2o1", "foreign"),
        ("".join(STAMPS) + "u2o1FOREIGN", "foreign"),
    ],
)
def test_whatever_is_wrong_with_an_answer_is_counted(said: str, what: str | None) -> None:
    book = Book()
    talk = Conversation(7, None, book, asyncio.Semaphore(1))
    talk.turn = 2
    talk.messages = [HumanMessage("c7 t1 a1"), ToolMessage("x", tool_call_id="1"), HumanMessage("c7 t2 a1")]
    talk._check(AIMessage(said), 1)
    counted: dict[str, Any] = {"lost": book.lost, "doubled": book.doubled, "foreign": book.foreign}
    assert counted == {name: int(name == what) for name in counted}
    assert book.turns == (what is None)


def test_the_slope_is_in_mib_in_ten_minutes() -> None:
    assert slope([(0.0, 100.0), (60.0, 101.0), (120.0, 102.0), (180.0, 103.0)]) == pytest.approx(10.0)
    assert slope([(0.0, 100.0), (60.0, 100.0), (120.0, 100.0)]) == pytest.approx(0.0)
