#!/usr/bin/env python3
"""Builds the distributions, looks at them, and runs the tests against the installed wheel, far from the source tree.

    python tools/check_wheel.py                          # every Python from 3.10 on that is found
    python tools/check_wheel.py --python python3.12 tests/standard
    python tools/check_wheel.py --lowest                 # with the lowest versions that pyproject.toml allows

The wheel is built from the sdist, so that an sdist which lacks a file fails here. Exit code 1 when anything fails.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "langchain_ws_responses"
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
# What is not for users: the tests of the source text, and files that only a clone needs.
ABOUT_THE_SOURCE = (
    "tests/unit_tests/test_static.py",
    "tests/unit_tests/test_layers.py",
    "tests/unit_tests/test_docs.py",
    "tests/unit_tests/test_docs_complete.py",
    "tests/unit_tests/protocol/test_coverage.py",
)
ONLY_IN_A_CLONE = (".ci/", ".github/", ".gitignore")
# Test tools that ask for newer versions than the package does: their tests skip themselves where they are missing.
NEEDS_NEWER = ("openai-agents", "deepagents", "langgraph-api", "langgraph-cli")


class Failed(Exception):
    """A check failed; the message says which."""


def say(text: str) -> None:
    """Writes a line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def call(*command: str | Path, cwd: Path | None = None) -> str:
    """Runs a command; its output matters only when it fails."""
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"{' '.join(str(part) for part in command[:6])} failed:\n{done.stdout[-4000:]}")
    return done.stdout


def environment(python: str, where: Path) -> Path:
    """Makes a fresh virtual environment; returns its Python."""
    call(python, "-m", "venv", where)
    return where / ("Scripts" if sys.platform == "win32" else "bin") / "python"


def install(python: Path, *what: str) -> None:
    """Installs requirements, with uv where it is to be had: it takes seconds for what takes pip minutes."""
    uv = shutil.which("uv")
    if uv is None:
        call(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what)
    else:
        call(uv, "pip", "install", "--quiet", "--python", python, *what)


def pythons() -> list[str]:
    """Finds one interpreter of each version."""
    found = []
    for version in VERSIONS:
        managed = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
        for candidate in [shutil.which(f"python{version}"), *managed, sys.executable]:
            if candidate and runs(str(candidate), version):
                found.append(str(candidate))
                break
    return found


def runs(python: str, version: str) -> bool:
    """Whether an interpreter works and is of a version: to be on PATH is not enough."""
    show = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", show], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.stdout.strip() == version


def section(name: str) -> list[str]:
    """Reads a list of requirements of pyproject.toml; Python 3.10 has no parser for it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    block = re.search(rf"^{name} = \[\n(.*?)^\]", text, re.M | re.S)
    if block is None:
        raise Failed(f"pyproject.toml has no list {name}")
    lines = (line.strip() for line in block[1].splitlines())
    return [line.rstrip(",").strip('"') for line in lines if line.startswith('"')]


def lowest(requirements: Iterable[str]) -> list[str]:
    """Turns lower bounds into pins: `a>=1.2,<2` becomes `a==1.2`."""
    pins = []
    for requirement in requirements:
        bound = re.match(r"([A-Za-z0-9_.-]+)\s*>=\s*([0-9.]+)", requirement)
        if bound is None:
            raise Failed(f"{requirement!r} has no lower bound")
        pins.append(f"{bound[1]}=={bound[2]}")
    return pins


# -- the distributions


def build(scratch: Path) -> tuple[Path, Path]:
    """Builds sdist and wheel and checks their metadata as an index would."""
    tools = environment(sys.executable, scratch / "tools")
    install(tools, "build", "twine")
    call(tools, "-m", "build", "--outdir", scratch / "dist", ROOT)
    (sdist,) = (scratch / "dist").glob("*.tar.gz")
    (wheel,) = (scratch / "dist").glob("*.whl")
    call(tools, "-m", "twine", "check", "--strict", sdist, wheel)
    return sdist, wheel


def check_contents(sdist: Path, wheel: Path) -> None:
    """Compares the distributions with the tree."""
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / PACKAGE).rglob("*.py")}
    if missing := modules - inside:
        raise Failed(f"the wheel lacks {sorted(missing)}")
    if f"{PACKAGE}/py.typed" not in inside:
        raise Failed("the wheel lacks py.typed: type checkers would ignore its annotations")
    if strangers := {name for name in inside if not name.startswith((PACKAGE + "/", PACKAGE + "-"))}:
        raise Failed(f"the wheel holds {sorted(strangers)}")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    if not (ROOT / ".git").exists():
        return
    tracked = call("git", "ls-files", cwd=ROOT).splitlines()
    lost = [name for name in tracked if name not in packed and not name.startswith(ONLY_IN_A_CLONE)]
    if lost:
        raise Failed(f"the sdist lacks {lost}")


# -- the tests


def unpacked(sdist: Path, where: Path) -> Path:
    """Lays out what the tests need, and not the package."""
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(where, filter="data")
        else:
            archive.extractall(where)  # noqa: S202 - built here a minute ago
    (tree,) = where.iterdir()
    shutil.rmtree(tree / PACKAGE)
    return tree


def check_python(
    python: str, wheel: Path, sdist: Path, scratch: Path, args: argparse.Namespace
) -> tuple[str, bool]:
    """Installs the wheel for one Python and runs the tests; returns a line for the summary."""
    inside = environment(python, scratch / "venv")
    tests = section("test")
    if args.lowest:
        left_out = tuple(NEEDS_NEWER)
        tests = [requirement for requirement in tests if not requirement.startswith(left_out)]
        constraints = scratch / "lowest.txt"
        constraints.write_text("\n".join(lowest(section("dependencies"))))
        install(inside, str(wheel), *tests, "--constraint", str(constraints))
    else:
        install(inside, f"{PACKAGE.replace('_', '-')}[test] @ {wheel.as_uri()}")
    tree = unpacked(sdist, scratch / "tree")
    where = call(inside, "-c", f"import {PACKAGE}; print({PACKAGE}.__file__)", cwd=tree).strip()
    if not Path(where).is_relative_to(scratch / "venv"):
        raise Failed(f"the tests would import {where}, which is not the installed wheel")
    checked = (
        "from langchain_ws_responses._commands.checks import check_packages\n"
        "print(*(f'{check.status}: {check.detail}' for check in check_packages()), sep='\\n')"
    )
    say(call(inside, "-c", checked, cwd=tree).strip())
    ignored = [option for name in ABOUT_THE_SOURCE for option in ("--ignore", name)]
    began = time.monotonic()
    command = [
        str(inside),
        *["-m", "pytest", "-q", "-p", "no:cacheprovider"],
        *ignored,
        *args.options,
        *args.tests,
    ]
    last = "no output"
    with subprocess.Popen(
        command, cwd=tree, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = line.strip() or last
    version = call(inside, "--version").strip()
    return f"{version}: {last} ({time.monotonic() - began:.0f} s)", process.returncode == 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the checks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tests", nargs="*", default=["tests"], help="tests to run (default: all)")
    parser.add_argument("--python", action="append", default=[], metavar="PATH", help="may be repeated")
    parser.add_argument("--lowest", action="store_true", help="lowest versions of the runtime dependencies")
    parser.add_argument(
        "--options", type=str.split, default=[], metavar="TEXT", help="for pytest, as in --options='-n 2 -x'"
    )
    parser.add_argument(
        "--keep", type=Path, metavar="DIR", help="copy sdist and wheel there when all has passed"
    )
    args = parser.parse_args(argv)
    chosen = args.python or pythons()
    lines, good = [], True
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        try:
            say("building sdist and wheel")
            sdist, wheel = build(scratch)
            check_contents(sdist, wheel)
            say(f"{sdist.name} and {wheel.name} are complete, their metadata is valid")
            for number, python in enumerate(chosen):
                say(f"{python}: installing and testing")
                place = scratch / str(number)
                place.mkdir()
                line, passed = check_python(python, wheel, sdist, place, args)
                lines.append(line)
                good = good and passed
                say(line)
                shutil.rmtree(place)
            if args.keep and good:
                args.keep.mkdir(parents=True, exist_ok=True)
                for built in (sdist, wheel):
                    shutil.copy(built, args.keep)
        except Failed as exc:
            say(f"error: {exc}")
            good = False
    print("\n".join(["", *lines]))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
