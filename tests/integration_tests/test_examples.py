"""The examples, run as a user without a key runs them."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

import pytest
from prepared import python

if TYPE_CHECKING:
    from pathlib import Path

TRANSPORT = re.compile(r"^ +(\{'kind': .*\})$", re.MULTILINE)


def play(project: Path, name: str) -> tuple[str, list[dict[str, Any]]]:
    """What an example prints, and how it says its turns were sent."""
    done = python(project / "examples" / name, strict=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout, [ast.literal_eval(found) for found in TRANSPORT.findall(done.stdout)]


def test_quickstart(project: Path) -> None:
    out, turns = play(project, "quickstart.py")
    assert [(turn["kind"], turn["mode"]) for turn in turns] == [
        ("websocket", "full"),
        ("websocket", "delta"),
        ("websocket", "delta"),
    ]
    assert len({turn["connection"] for turn in turns}) == 1
    # The first is the real output of a tool, the second is what the model made of it: 21 * 9 / 5 + 32.
    assert "tool: 69.8 degrees Fahrenheit" in out
    assert "ai: It is 69.8 degrees Fahrenheit in Lisbon" in out


def test_react_graph(project: Path) -> None:
    out, turns = play(project, "react_graph.py")
    # The second question is a new run of the graph, and yet continues the chain.
    assert [turn["mode"] for turn in turns] == ["full", "delta", "delta", "delta"]
    assert {turn["kind"] for turn in turns} == {"websocket"}
    # Two tool outputs, then the second question, then one output.
    assert [turn["items"] for turn in turns[1:]] == [2, 1, 1]
    assert re.findall(r"tool: (\d+)", out) == ["3", "1", "0"]
    assert out.index("There are 3 apples and 1 pear.") < out.index("There are no plums.")


@pytest.mark.parametrize("name", ["quickstart.py", "react_graph.py"])
def test_an_example_is_short_and_says_how_to_run_it(project: Path, name: str) -> None:
    source = (project / "examples" / name).read_text(encoding="utf-8")
    assert len(source.splitlines()) < 80
    assert f"python examples/{name}" in (ast.get_docstring(ast.parse(source)) or "")
