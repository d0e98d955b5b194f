"""The example of tests, run by pytest as a user runs it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_runs import run_pytest

if TYPE_CHECKING:
    from pathlib import Path


def test_the_example_of_tests_passes_without_a_key(project: Path, tmp_path: Path) -> None:
    source = (project / "examples" / "test_your_agent.py").read_text(encoding="utf-8")
    assert len(source.splitlines()) < 80
    run = run_pytest(tmp_path, source)
    assert len(run.outcomes) == 4
    assert [*run.outcomes.values()] == [["passed"]] * 4, run.out
