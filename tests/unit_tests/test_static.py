"""The checkers, so that the one command that runs the tests runs them too."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

CHECKS = {
    "ruff-check": ["ruff", "check", "--no-fix"],
    "ruff-format": ["ruff", "format", "--check", "--diff"],
    "mypy": ["mypy", "--strict", "langchain_ws_responses"],
}


# mypy reads LangChain and openai from source when its cache is cold.
@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", CHECKS.values(), ids=CHECKS.keys())
def test_checker_has_nothing_to_say(command: list[str], project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=290,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
