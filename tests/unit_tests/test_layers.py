"""The shape of the package: floors, purity of floor 1, sizes."""

from __future__ import annotations

import ast
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = "langchain_ws_responses"
MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60
FLOOR_0 = {f"{PACKAGE}.{name}" for name in ("errors", "_types", "_json", "_version")}
FLOOR_1 = f"{PACKAGE}._protocol"
# In the standard library, but I/O or scheduling: the shells above do that.
IMPURE = {
    "asyncio",
    "concurrent",
    "http",
    "multiprocessing",
    "select",
    "selectors",
    "signal",
    "socket",
    "socketserver",
    "ssl",
    "subprocess",
    "threading",
}


def long_functions(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every function above the limit, nested ones and methods too, with its number of lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield node.name, lines


def imported_modules(tree: ast.AST, package: str) -> Iterator[str]:
    """The absolute name of everything that a module of `package` imports, wherever it does so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            if base == PACKAGE:
                # `from . import errors` names modules, not things in the package.
                yield from (f"{base}.{alias.name}" for alias in node.names)
            else:
                yield base


def allowed_on_floor_1(name: str) -> bool:
    top = name.partition(".")[0]
    if top in sys.stdlib_module_names:
        return top not in IMPURE
    return name in FLOOR_0 or name == FLOOR_1 or name.startswith(f"{FLOOR_1}.")


@pytest.fixture
def modules(project: Path) -> dict[Path, str]:
    """Every module of the package with its source."""
    found = {path: path.read_text(encoding="utf-8") for path in sorted((project / PACKAGE).rglob("*.py"))}
    assert len(found) > 3, "the package was not found"
    return found


def test_no_module_is_too_long(modules: dict[Path, str], project: Path) -> None:
    long = {
        str(path.relative_to(project)): len(source.splitlines())
        for path, source in modules.items()
        if len(source.splitlines()) > MAX_MODULE_LINES
    }
    assert long == {}


def test_no_function_is_too_long(modules: dict[Path, str], project: Path) -> None:
    long = [
        f"{path.relative_to(project)}: {name} has {lines} lines"
        for path, source in modules.items()
        for name, lines in long_functions(ast.parse(source))
    ]
    assert long == []


def test_floor_1_imports_the_pure_standard_library_and_what_is_below_it(modules: dict[Path, str]) -> None:
    floor_1 = {path: source for path, source in modules.items() if path.parent.name == "_protocol"}
    assert floor_1
    foreign = [
        f"{path.name} imports {name}"
        for path, source in floor_1.items()
        for name in imported_modules(ast.parse(source), FLOOR_1)
        if not allowed_on_floor_1(name)
    ]
    assert foreign == []


def test_imports_point_down(project: Path) -> None:
    lint = "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"
    done = subprocess.run(
        [sys.executable, "-c", lint, "--no-cache"], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_a_nested_function_counts_for_itself_and_for_the_one_around_it() -> None:
    inner = "\n".join(["    async def inner():", *["        pass"] * MAX_FUNCTION_LINES])
    tree = ast.parse(f"class A:\n  def outer():\n{inner}\n  def short():\n    pass\n")
    assert dict(long_functions(tree)) == {"outer": MAX_FUNCTION_LINES + 2, "inner": MAX_FUNCTION_LINES + 1}


@pytest.mark.parametrize(
    ("line", "allowed"),
    [
        ("import json", True),
        ("from collections.abc import Mapping", True),
        ("from .. import errors", True),
        ("from ..errors import TransportError", True),
        ("from . import lanes", True),
        ("from .lanes import Lane", True),
        ("from langchain_ws_responses import _types", True),
        ("from langchain_ws_responses._protocol.lanes import Lane", True),
        ("import asyncio", False),
        ("import openai", False),
        ("from pydantic import BaseModel", False),
        ("def f():\n    import orjson", False),
        ("from .. import _transport", False),
        ("from .._transport.manager import ConnectionManager", False),
        ("from langchain_ws_responses import ConnectionManager", False),
        ("import langchain_ws_responses", False),
    ],
)
def test_the_check_of_floor_1_knows_what_is_foreign(line: str, allowed: bool) -> None:
    assert [allowed_on_floor_1(name) for name in imported_modules(ast.parse(line), FLOOR_1)] == [allowed]
