"""Each module of floor 1 is covered to its last branch by its own test file, examples alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

MODULES = ["chain", "connection", "echo", "events", "lanes", "limits", "recovery"]


def run(command: list[str], project: Path, data_file: Path) -> str:
    environment = {
        **os.environ,
        "COVERAGE_FILE": str(data_file),
        # Starting the plugins of everything that is installed takes longer than the tests.
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def covered(module: str, project: Path, tmp_path: Path) -> dict[str, Any]:
    """Runs a module's own test file and returns what was covered of the module."""
    data_file, report = tmp_path / "data", tmp_path / "report.json"
    source = project / "langchain_ws_responses" / "_protocol" / f"{module}.py"
    test_file = project / "tests" / "unit_tests" / "protocol" / f"test_{module}.py"
    # Without the project's settings: neither its exclusions nor its plugins take part in the proof. Properties
    # are left out, because a branch that only a random example reaches is not covered for certain.
    ini = ["-c", os.devnull, "--rootdir", str(project), "--import-mode=importlib", "-p", "no:cacheprovider"]
    only_examples = ["-p", "_hypothesis_pytestplugin", "-m", "not hypothesis"]
    watch = ["coverage", "run", f"--rcfile={os.devnull}", "--branch", f"--include={source}"]
    out = run([*watch, "-m", "pytest", "-q", *ini, *only_examples, str(test_file)], project, data_file)
    assert " passed" in out
    run(["coverage", "json", f"--rcfile={os.devnull}", "-o", str(report)], project, data_file)
    files = json.loads(report.read_text(encoding="utf-8"))["files"]
    assert len(files) == 1
    return dict(next(iter(files.values())))


def test_every_module_of_floor_1_is_looked_at(project: Path) -> None:
    found = (project / "langchain_ws_responses" / "_protocol").glob("*.py")
    assert sorted(path.stem for path in found if path.stem != "__init__") == MODULES


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_covered_by_its_own_tests(module: str, project: Path, tmp_path: Path) -> None:
    result = covered(module, project, tmp_path)
    summary = result["summary"]
    assert summary["num_statements"] > 20
    assert summary["excluded_lines"] == 0
    assert result["missing_lines"] == []
    assert result["missing_branches"] == []
