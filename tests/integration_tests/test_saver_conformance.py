"""The published conformance suite for checkpointers: a wrapped saver does exactly what the bare one does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import postgres
import pytest
from savers import KINDS, report

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BASE = {"put", "put_writes", "get_tuple", "list", "delete_thread"}
PRUNE = {"prune"} if postgres.prunes() else set()
# Written down by hand: the suite calls a saver complete even if it found no method to test at all.
DETECTED = {
    "memory": BASE,
    "sqlite": BASE,
    "async-sqlite": BASE,
    "postgres": BASE | PRUNE,
    "async-postgres": BASE | PRUNE,
}


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    if reason := postgres.missing():
        pytest.skip(reason)
    with postgres.postgres() as address:
        yield address


@pytest.mark.parametrize("kind", KINDS)
async def test_wrapped_saver_gets_exactly_the_results_of_the_bare_one(
    kind: str, request: pytest.FixtureRequest
) -> None:
    dsn = request.getfixturevalue("dsn") if "postgres" in kind else ""
    bare = await report(kind, wrap=False, dsn=dsn)
    wrapped = await report(kind, wrap=True, dsn=dsn)
    assert wrapped == bare
    assert wrapped["base"]
    found = {name for name, result in wrapped["results"].items() if result["detected"]}
    assert found == DETECTED[kind]


def test_the_same_holds_under_strict_msgpack(project: Path) -> None:
    # LangGraph reads the variable when it is imported.
    env = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"}
    done = subprocess.run(
        [sys.executable, "savers.py", "memory", "sqlite", "async-sqlite"],
        cwd=project / "tests",
        env=env,
        capture_output=True,
        check=False,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    reports = json.loads(done.stdout)
    assert set(reports) == {"memory", "sqlite", "async-sqlite"}
    for kind, (bare, wrapped) in reports.items():
        assert wrapped == bare
        assert wrapped["base"], kind
