"""Breaks floor 1 on purpose, one small change at a time, and counts the changes that its tests notice.

    python tools/mutate.py                      # all modules of floor 1
    python tools/mutate.py lanes limits         # some of them

Each mutant of a module is judged by the module's own test file. A mutant runs in a forked process that has imported
everything but the package, so it costs little more than the tests themselves. Needs a system with `fork`.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
PACKAGE = "langchain_ws_responses._protocol"
SOURCES = PROJECT / "langchain_ws_responses" / "_protocol"
TESTS = PROJECT / "tests" / "unit_tests" / "protocol"
SECONDS = 60

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


@dataclass
class Site:
    """A place that can be changed.

    Attributes:
        line: Where it is.
        before: The code as it is.
        apply: Changes the tree, and returns the code as it is then.
    """

    line: int
    before: str
    apply: Callable[[], str]


@dataclass
class Mutant:
    """One change, and what came of it."""

    module: str
    number: int
    line: int
    before: str
    after: str = ""
    verdict: str = ""


class Finder(ast.NodeVisitor):
    """Collects the places of a module that can be changed."""

    def __init__(self) -> None:
        self.sites: list[Site] = []

    def _add(self, node: ast.AST, holder: ast.AST, field: str, position: int | None, new: ast.AST) -> None:
        old = ast.unparse(node)

        def apply() -> str:
            ast.copy_location(new, node)
            ast.fix_missing_locations(new)
            if position is None:
                setattr(holder, field, new)
            else:
                getattr(holder, field)[position] = new
            return ast.unparse(new)

        self.sites.append(Site(getattr(node, "lineno", 0), old, apply))

    def generic_visit(self, node: ast.AST) -> None:
        """Looks at what stands below a node."""
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list"):
                continue
            children = value if isinstance(value, list) else [value]
            for position, child in enumerate(children):
                if isinstance(child, ast.AST) and not _is_docstring(node, field, position, child):
                    place = position if isinstance(value, list) else None
                    for new in _changes(child, field):
                        self._add(child, node, field, place, new)
                    if not isinstance(child, ast.JoinedStr) and not _is_for_others(child):
                        self.visit(child)


def _is_docstring(node: ast.AST, field: str, position: int, child: ast.AST) -> bool:
    """Also the bare texts below attributes and enum members."""
    return field == "body" and isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)


def _is_for_others(node: ast.AST) -> bool:
    """Imports, and what type checkers and `import *` read."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    targets = node.targets if isinstance(node, ast.Assign) else []
    return any(isinstance(target, ast.Name) and target.id in ("__all__", "__slots__") for target in targets)


def _changes(node: ast.AST, field: str) -> Iterator[ast.AST]:
    """What could stand in the place of a node."""
    if isinstance(node, ast.Compare):
        yield from _comparisons(node)
    elif isinstance(node, ast.BoolOp):
        yield ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        yield ast.BinOp(node.left, _OPERATORS[type(node.op)](), node.right)
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.stmt):
        yield from _statements(node)
    if field == "test" and isinstance(node, ast.Name | ast.Attribute | ast.Call | ast.BoolOp | ast.NamedExpr):
        yield ast.UnaryOp(ast.Not(), node)


def _comparisons(node: ast.Compare) -> Iterator[ast.AST]:
    for position, operator in enumerate(node.ops):
        if (other := _COMPARISONS.get(type(operator))) is not None:
            operators = [*node.ops[:position], other(), *node.ops[position + 1 :]]
            yield ast.Compare(node.left, operators, node.comparators)


def _constants(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, str | bytes):
        yield ast.Constant(value + (b"XX" if isinstance(value, bytes) else "XX"))  # type: ignore[operator]


def _statements(node: ast.stmt) -> Iterator[ast.AST]:
    if isinstance(node, ast.Return) and not (node.value is None or _is_none(node.value)):
        yield ast.Return(ast.Constant(None))
    elif isinstance(
        node, ast.Assign | ast.AugAssign | ast.Expr | ast.Delete | ast.Raise
    ) and not _is_for_others(node):
        yield ast.Pass()
    elif isinstance(node, ast.Continue):
        yield ast.Break()
    elif isinstance(node, ast.Break):
        yield ast.Continue()


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def sites_of(module: str) -> tuple[ast.Module, list[Site]]:
    """Parses a module and finds what can be changed in it."""
    tree = ast.parse((SOURCES / f"{module}.py").read_text(encoding="utf-8"))
    finder = Finder()
    finder.visit(tree)
    return tree, finder.sites


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the changed code in the place of the module."""

    def __init__(self, name: str, path: Path, code: CodeType) -> None:
        self._name, self._path, self._code = name, path, code

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        """Finds the one module."""
        if name != self._name:
            return None
        return importlib.util.spec_from_file_location(name, self._path, loader=self)

    def create_module(self, spec: Any) -> ModuleType | None:
        """Leaves it to the import system."""
        return None

    def exec_module(self, module: ModuleType) -> None:
        """Runs the changed code."""
        exec(self._code, module.__dict__)  # noqa: S102 - our own module, with one change


def judge(module: str, tree: ast.Module) -> None:
    """Runs the tests of a module against a changed tree, in a process of its own, and never returns."""
    import pytest

    code = 70
    try:
        signal.alarm(SECONDS)  # its default action ends the process
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        path = SOURCES / f"{module}.py"
        sys.meta_path.insert(0, Loader(f"{PACKAGE}.{module}", path, compile(tree, str(path), "exec")))
        options = ["-x", "-q", "-c", os.devnull, "--rootdir", str(PROJECT), "--import-mode=importlib"]
        options += ["-p", "no:cacheprovider", "-p", "_hypothesis_pytestplugin", "-W", "ignore"]
        code = int(pytest.main([*options, str(TESTS / f"test_{module}.py")]))
    except BaseException:
        code = 70
    os._exit(code)


def verdict_of(status: int) -> str:
    """Reads how a judging process ended."""
    if os.WIFSIGNALED(status):
        return "timeout" if os.WTERMSIG(status) == signal.SIGALRM else "killed"
    code = os.WEXITSTATUS(status)
    return "survived" if code == 0 else "killed"


def prepare() -> None:
    """Imports what every judging process needs, and makes properties repeatable and short."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]
    import _hypothesis_pytestplugin
    import hypothesis
    import openai
    import pytest

    assert all((_hypothesis_pytestplugin, openai, pytest))  # noqa: S101 - imported for the forks to have them
    hypothesis.settings.register_profile(
        "mutants", derandomize=True, max_examples=60, database=None, deadline=None
    )
    hypothesis.settings.load_profile("mutants")


def healthy(module: str) -> bool:
    """Whether the tests pass without any change, so that a failure means something."""
    child = os.fork()
    if child == 0:
        judge(module, ast.parse((SOURCES / f"{module}.py").read_text(encoding="utf-8")))
    return verdict_of(os.waitpid(child, 0)[1]) == "survived"


def run(modules: list[str], jobs: int) -> list[Mutant]:
    """Judges every mutant of the modules."""
    todo = [
        Mutant(module, number, site.line, site.before)
        for module in modules
        for number, site in enumerate(sites_of(module)[1])
    ]
    running: dict[int, Mutant] = {}
    started = told = time.monotonic()
    for done in range(len(todo) + jobs):
        if done >= jobs and running:
            child, status = os.wait()
            running.pop(child).verdict = verdict_of(status)
        if done < len(todo):
            mutant = todo[done]
            tree, sites = sites_of(mutant.module)
            mutant.after = sites[mutant.number].apply()
            child = os.fork()
            if child == 0:
                judge(mutant.module, tree)
            running[child] = mutant
        if time.monotonic() - told > 10:
            told = time.monotonic()
            print(f"{min(done, len(todo))}/{len(todo)} mutants, {told - started:.0f} s", flush=True)
    while running:
        child, status = os.wait()
        running.pop(child).verdict = verdict_of(status)
    return todo


def _short(code: str) -> str:
    first, *more = code.splitlines()
    return (first[:90] + " …") if more or len(first) > 90 else first


def report(mutants: list[Mutant]) -> float:
    """Prints the survivors and the table.

    Mutants whose tests did not end count as killed, and are printed too: on a busy machine that may say little.

    Returns:
        The share that was killed, in per cent.
    """
    for mutant in mutants:
        if mutant.verdict != "killed":
            where = f"{mutant.module}.py:{mutant.line}"
            print(f"{mutant.verdict:9} {where}  {_short(mutant.before)}  ->  {_short(mutant.after)}")
    print(f"\n{'module':12} {'mutants':>8} {'killed':>8} {'survived':>9} {'share':>7}")
    for name in [*sorted({mutant.module for mutant in mutants}), "all"]:
        mine = [mutant for mutant in mutants if name in (mutant.module, "all")]
        lived = sum(mutant.verdict == "survived" for mutant in mine)
        share = 100 * (len(mine) - lived) / max(1, len(mine))
        print(f"{name:12} {len(mine):8} {len(mine) - lived:8} {lived:9} {share:6.1f}%")
    return share


def main() -> int:
    """Runs the command line."""
    known = sorted(path.stem for path in SOURCES.glob("*.py") if path.stem != "__init__")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("modules", nargs="*", choices=[*known, []], help="modules of floor 1; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time (default 2)")
    parser.add_argument("--least", type=float, default=90.0, help="per cent that must be killed (default 90)")
    parser.add_argument("--json", type=Path, help="also write every mutant with its verdict to this file")
    options = parser.parse_args()
    modules = options.modules or known
    prepare()
    for module in modules:
        if not healthy(module):
            print(f"the tests of {module} fail without any change: nothing can be said about mutants")
            return 2
    mutants = run(modules, options.jobs)
    share = report(mutants)
    if options.json:
        options.json.write_text(json.dumps([vars(mutant) for mutant in mutants], indent=1), encoding="utf-8")
    return 0 if share >= options.least else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
    sys.exit(130)
