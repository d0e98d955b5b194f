"""The command that makes the environments, and what tests say where one is missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import interop as environments
import pytest


def run(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(project / "tools" / "interop.py"), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("name", environments.REQUIREMENTS)
def test_what_is_missing_names_the_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANGCHAIN_WS_RESPONSES_INTEROP", str(tmp_path))
    # Node itself is there or not; here it is the package that is missing.
    monkeypatch.setattr("shutil.which", lambda program: f"/bin/{program}")
    with pytest.raises(environments.MissingError, match=rf"`python tools/interop\.py {name}`"):
        environments.find(name)


def test_a_missing_node_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program: None)
    with pytest.raises(environments.MissingError, match=r"Node\.js is missing"):
        environments.find("node")


def test_half_an_environment_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGCHAIN_WS_RESPONSES_INTEROP", str(tmp_path))
    environments.folder("litellm").mkdir(parents=True)
    with pytest.raises(environments.MissingError):
        environments.find("litellm")
    (environments.folder("litellm") / "complete").touch()
    assert environments.find("litellm") == environments.folder("litellm")


def test_other_requirements_are_another_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    before = environments.folder("litellm")
    monkeypatch.setattr(environments, "REQUIREMENTS", {"litellm": ("litellm[proxy]>=2",)})
    assert environments.folder("litellm") != before


def test_a_name_that_it_does_not_know(project: Path) -> None:
    done = run(project, "nonesuch")
    assert done.returncode == 2
    assert "'nonesuch'" in done.stderr
    assert "litellm, langgraph, node" in done.stderr


def test_what_cannot_be_made_says_why(project: Path, tmp_path: Path) -> None:
    done = run(project, "node", LANGCHAIN_WS_RESPONSES_INTEROP=str(tmp_path), PATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == "node: there is no `node` and `npm` on PATH\n"


def test_what_is_there_is_left_alone(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANGCHAIN_WS_RESPONSES_INTEROP", str(tmp_path))
    folder = environments.folder("node")
    folder.mkdir(parents=True)
    (folder / "complete").touch()
    done = run(project, "node")
    assert (done.returncode, done.stderr) == (0, "")
    assert "there already" in done.stdout
    assert [path.name for path in folder.iterdir()] == ["complete"]
