"""Runs pytest on a user's test file in a process of its own, and tells how each test ended."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PLUGIN = "langchain_ws_responses.testing.pytest_plugin"


@dataclass
class Run:
    """One run of pytest.

    Attributes:
        code: Its exit code.
        out: All that it printed.
        outcomes: By test: `"passed"`, `"failed"`, `"error"` or `"skipped"`, in order; a test that fails and then errs
            has both.
        messages: By test: what pytest said about each of them.
    """

    code: int
    out: str
    outcomes: dict[str, list[str]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)


def run_pytest(
    folder: Path,
    source: str,
    *args: str,
    plugins: tuple[str, ...] = (PLUGIN,),
    env: Mapping[str, str] | None = None,
) -> Run:
    """Writes `test_user.py` and runs it with exactly these plugins; warnings are errors."""
    (folder / "test_user.py").write_text(source, encoding="utf-8")
    ini = folder / "pytest.ini"
    if not ini.exists():
        ini.write_text("[pytest]\naddopts = --strict-markers\nfilterwarnings = error\n", encoding="utf-8")
    report = folder / "report.xml"
    loaded = [word for name in plugins for word in ("-p", name)]
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *loaded,
            f"--junitxml={report}",
            *args,
        ],
        cwd=folder,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "CI": "", **(env or {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    run = Run(done.returncode, done.stdout + done.stderr)
    if report.exists():
        for case in ET.parse(report).iter("testcase"):  # noqa: S314 - written by pytest just now
            name = case.get("name", "")
            bad = [child for child in case if child.tag in ("failure", "error", "skipped")]
            words = {"failure": "failed"}
            run.outcomes.setdefault(name, []).extend(
                [words.get(child.tag, child.tag) for child in bad] or ["passed"]
            )
            run.messages[name] = run.messages.get(name, "") + "\n".join(
                f"{child.get('message', '')}\n{child.text or ''}" for child in bad
            )
    return run
