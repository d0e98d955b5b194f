"""Makes the environments of the programs that `tests/interop/` runs beside this package.

    python tools/interop.py                     # all of them
    python tools/interop.py litellm node        # some of them

LiteLLM and the LangGraph development server have dependencies of their own, and openai's JavaScript client needs npm.
So each gets an environment outside the tree, in `LANGCHAIN_WS_RESPONSES_INTEROP` or the user's cache folder; what is
there is left alone. The tests install nothing: they skip what is missing and name this command.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable, Mapping
from pathlib import Path

# What each environment holds. A change here makes a new one; the old one stays until somebody deletes it.
REQUIREMENTS: Mapping[str, tuple[str, ...]] = {
    # One minor version: the tests move the clock of its sessions, which is not a public thing.
    "litellm": ("litellm[proxy]>=1.108,<1.109",),
    # The package itself is read from the tree. What it needs stands in pyproject.toml.
    "langgraph": (
        "langgraph-cli[inmem]>=0.4,<1",
        "langchain>=1.0,<2",
        "langchain-openai>=1.7.2,<2",
        "langgraph-checkpoint-sqlite>=3.0,<4",
        "websockets>=15.0.1,<18",
        "tenacity>=8.2,<10",
        "orjson>=3.10,<4",
        "h11>=0.14,<1",
    ),
    "node": ("openai@7", "ws@8"),
}
# The LangGraph development server needs 3.11; any interpreter of this machine will do.
PYTHON = ">=3.11,<3.14"
_DONE = "complete"


class MissingError(Exception):
    """An environment is not there or cannot be made; the message says why."""


def folder(name: str) -> Path:
    """Where an environment is, or will be."""
    named = os.environ.get("LANGCHAIN_WS_RESPONSES_INTEROP")
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    base = Path(named) if named else Path(cache) / "langchain-ws-responses" / "interop"
    digest = hashlib.sha256(json.dumps([PYTHON, *REQUIREMENTS[name]]).encode()).hexdigest()[:12]
    return base.expanduser().resolve() / f"{name}-{digest}"


def find(name: str) -> Path:
    """Returns the folder of a complete environment.

    Raises:
        MissingError: It is not there.
    """
    if name == "node" and shutil.which("node") is None:
        raise MissingError("Node.js is missing: there is no `node` on PATH")
    path = folder(name)
    if not (path / _DONE).exists():
        raise MissingError(
            f"the environment `{name}` is missing: make it with `python tools/interop.py {name}`"
        )
    return path


def python(path: Path) -> Path:
    """The interpreter of an environment."""
    return path / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _run(*command: object, cwd: Path | None = None) -> None:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        last = "\n".join(done.stdout.strip().splitlines()[-5:])
        raise MissingError(f"`{Path(str(command[0])).name}` failed with exit code {done.returncode}:\n{last}")


def _make_python(path: Path, requirements: tuple[str, ...]) -> None:
    # uv resolves these large trees in seconds; pip takes minutes.
    tool = path.parent / "uv"
    if not (tool / _DONE).exists():
        shutil.rmtree(tool, ignore_errors=True)
        venv.create(tool, with_pip=True)
        _run(python(tool), "-m", "pip", "install", "--quiet", "uv>=0.9,<1")
        (tool / _DONE).touch()
    uv = python(tool).with_name("uv.exe" if sys.platform == "win32" else "uv")
    _run(uv, "venv", "--quiet", "--no-python-downloads", "--python", PYTHON, path)
    _run(uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python(path), *requirements)


def _make_node(path: Path, requirements: tuple[str, ...]) -> None:
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        raise MissingError("there is no `node` and `npm` on PATH")
    path.mkdir(parents=True)
    (path / "package.json").write_text('{"private": true}\n', encoding="utf-8")
    _run(npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", *requirements, cwd=path)


def make(name: str, say: Callable[[str], object] = print) -> Path:
    """Makes an environment unless it is there.

    Raises:
        MissingError: It cannot be made.
    """
    path = folder(name)
    if (path / _DONE).exists():
        say(f"{name}: there already, {path}")
        return path
    say(f"{name}: making {path}")
    path.parent.mkdir(parents=True, exist_ok=True)
    # What an interrupted run left.
    shutil.rmtree(path, ignore_errors=True)
    (_make_node if name == "node" else _make_python)(path, REQUIREMENTS[name])
    (path / _DONE).touch()
    say(f"{name}: made")
    return path


def main() -> int:
    """Makes what the command line names; 1 if something could not be made."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(REQUIREMENTS)}; all if none"
    )
    names = parser.parse_args().names or list(REQUIREMENTS)
    if unknown := [name for name in names if name not in REQUIREMENTS]:
        parser.error(f"no environment is called {unknown[0]!r}; there are {', '.join(REQUIREMENTS)}")
    failed = False
    for name in names:
        try:
            make(name)
        except (MissingError, OSError) as exc:
            failed = True
            print(f"{name}: {exc}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
