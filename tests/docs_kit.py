"""Runs the code blocks of a documentation page, in order, as a reader would.

- Blocks of Python share one namespace, like cells of a notebook; with `title="name.py"` they are written to that file
  instead. A `print(…)  # word` must print the word.
- Shell blocks run in a directory of the page, where `.venv` is this environment. What makes an environment or installs
  is checked and not run.
- A block with `title="Output"` is what the block before it prints; `…` stands for anything in a line, a line of its
  own for any lines.
- JSON, TOML, YAML and diffs are parsed; a diff with `title="name.py"` changes that file.
- A block behind `<!-- not run: why -->` is left out.

Python runs in children of one server process, which has imported what is slow to import.
"""

from __future__ import annotations

import ast
import contextlib
import io
import json
import os
import re
import shlex
import subprocess
import sys
import traceback
import warnings
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from prepared import context, joined, run_python, settle

from langchain_ws_responses.testing import ResponsesServer

__all__ = ["PROJECT", "Block", "blocks_of", "check_command", "check_program", "run_page", "seems_like"]

PROJECT = Path(__file__).parents[1]
_FENCE = re.compile(r"^(?P<indent>\s*)(?P<fence>`{3,})(?P<language>[\w-]*)\s*(?P<rest>.*)$")
_NOT_RUN = re.compile(r"^\s*(?:<!--|\{/\*) (?:not run: (?P<why>.+?)|(?P<ci>ci:\w+)) (?:-->|\*/\})\s*$")
_TITLE = re.compile(r'title="(?P<title>[^"]+)"')
# A `print` whose output the page shows in a comment behind it.
_SHOWN = re.compile(r"^\s*print\(.*\)\s+# (\S+)$", re.MULTILINE)
_SHELL = ("bash", "console", "sh")
_PARSED = ("json", "toml", "yaml", "diff")
_PLAIN = ("", "text", "plaintext", "ini", "dockerfile", "nginx")
_SECONDS = 50
# No other plugin than this package's, and no complaint that the server process had imported it before.
_FOR_PYTEST = {
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PYTEST_PLUGINS": "langchain_ws_responses.testing.pytest_plugin",
    "PYTEST_ADDOPTS": "-p no:cacheprovider -W ignore::pytest.PytestAssertRewriteWarning",
}


class _Wrong(Exception):
    """A block does not do what the page says."""


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        line: Where its code begins, counted from 1.
        language: The word behind the fence.
        title: The file that the code belongs into, or `Output`; empty without one.
        code: The text between the fences.
        not_run: Why it is not run here; empty for a block that is.
    """

    line: int
    language: str
    title: str
    code: str
    not_run: str


def blocks_of(page: Path) -> list[Block]:
    """Finds the fenced blocks of a page.

    Raises:
        ValueError: A fence is not closed, or its language is one that nothing here can check.
    """
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    at, reason = 0, ""
    while at < len(lines):
        line = lines[at]
        at += 1
        opened = _FENCE.match(line)
        if opened is None:
            if marker := _NOT_RUN.match(line):
                reason = marker["why"] or marker["ci"]
            elif line.strip():
                reason = ""
            continue
        indent, fence, begin = opened["indent"], opened["fence"], at
        while at < len(lines) and lines[at].strip() != fence:
            at += 1
        if at == len(lines):
            raise ValueError(f"{page.name}:{begin}: the block is not closed")
        title = _TITLE.search(opened["rest"])
        code = "\n".join(text.removeprefix(indent) for text in lines[begin:at]) + "\n"
        language = opened["language"]
        if language not in ("python", *_SHELL, *_PARSED, *_PLAIN):
            raise ValueError(f"{page.name}:{begin}: nothing here can check {language!r}")
        found.append(Block(begin + 1, language, title["title"] if title else "", code, reason))
        at, reason = at + 1, ""
    return found


# -- what a page shows ------------------------------------------------------


def seems_like(shown: str, printed: str) -> bool:
    """Whether a program printed what a page shows; `…` stands for anything, and how many blanks there are is free."""
    pattern = ""
    shown, printed = (re.sub(r"[ \t]+", " ", text) for text in (shown, printed))
    for line in shown.rstrip().splitlines():
        if line.strip() == "…":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in line.rstrip().split("…")) + r"\n"
    said = "".join(f"{line.rstrip()}\n" for line in printed.rstrip().splitlines())
    return re.fullmatch(pattern, said) is not None


def _parse(block: Block) -> None:
    """Raises where data or a diff of Python is malformed."""
    if block.language == "json":
        json.loads(block.code)
    elif block.language == "yaml":
        import yaml

        yaml.safe_load(block.code)
    elif block.language == "toml":
        if sys.version_info >= (3, 11):
            import tomllib

            tomllib.loads(block.code)
    else:
        wrong = [line for line in block.code.splitlines() if line and line[0] not in "+- "]
        if wrong:
            raise ValueError(f"not a line of a diff: {wrong[0]}")
        for sign in "+-":
            ast.parse("\n".join(line[1:] for line in block.code.splitlines() if line[:1] in (sign, " ")))


def _applied(block: Block, path: Path) -> str:
    """The text of a file after a diff of one place."""
    old, new = (
        "".join(f"{line[1:]}\n" for line in block.code.splitlines() if line[:1] in (sign, " "))
        for sign in "-+"
    )
    before = path.read_text(encoding="utf-8")
    if before.count(old) != 1:
        raise _Wrong(f"the diff does not fit {path.name}")
    return before.replace(old, new)


# -- shell ------------------------------------------------------------------


def _extras() -> tuple[set[str], set[str]]:
    """This project's extras, and the packages that it names anywhere."""
    text = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    optional = text.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^([\w-]+) = \[", optional, re.MULTILINE))
    named = set(re.findall(r'"([A-Za-z][\w.-]*)(?:\[[\w,-]+\])?[<>=~"; ]', text))
    return extras, named


def check_command(command: str) -> bool:
    """Whether a command only prepares an environment, which is not done here.

    Raises:
        ValueError: It does so, and names something that does not exist.
    """
    words = command.replace('"', "").replace("'", "").split()
    if words[1:3] == ["-m", "venv"]:
        return True
    if words[:2] == ["uv", "add"]:
        words = ["pip", "install", *words[2:]]
    if "install" not in words or not any(word.endswith("pip") for word in words[:3]):
        return False
    extras, named = _extras()
    for word in words[words.index("install") + 1 :]:
        if word.startswith("-"):
            continue
        name, _, rest = word.partition("[")
        wanted = {extra for extra in rest.partition("]")[0].split(",") if extra}
        name = re.split(r"[<>=~]", name)[0]
        if name in (".", "langchain-ws-responses", "../langchain-ws-responses"):
            if wanted - extras:
                raise ValueError(f"{command}: no extra {min(wanted - extras)}")
        elif name not in named:
            raise ValueError(f"{command}: {name} is no dependency of this project")
    return True


def check_program(command: str) -> None:
    """Checks a command for those who work on the code, which takes too long, or changes too much, to be run here.

    Raises:
        ValueError: It names a program, module or path that does not exist.
    """
    words = [word for word in shlex.split(command, comments=True) if not re.match(r"^\w+=", word)]
    if not words or check_command(command):
        return
    program = PROJECT / words[0]
    if words[0].startswith(".venv/bin/"):
        program = Path(sys.executable).parent / Path(words[0]).name
    missing = [] if program.exists() else [words[0]]
    if words[1:2] == ["-m"]:
        missing += [] if find_spec(words[2]) else [words[2]]
    missing += [
        word
        for word in words[1:]
        if re.fullmatch(r"[\w-]+(/[\w.-]+)+", word) and not (PROJECT / word).exists()
    ]
    if missing:
        raise ValueError(f"{command}: there is no {missing[0]}")


def _python_command(words: list[str]) -> tuple[dict[str, str], list[str]] | None:
    """Takes a call of Python apart: its variables and its arguments; None for any other command."""
    variables = {}
    while words and re.match(r"^\w+=", words[0]):
        name, _, variables[name] = words[0].partition("=")
        words = words[1:]
    if (
        len(words) < 2
        or Path(words[0]).name not in ("python", "python3")
        or set("|&;<>$*") & set("".join(words))
    ):
        return None
    if words[1:3] == ["-m", "pytest"]:
        variables |= _FOR_PYTEST
    return variables, words[1:]


# -- in a child process -----------------------------------------------------


def _run_cells(calls: Connection, directory: Path, environment: dict[str, str], output: Path) -> None:
    """Runs blocks as they come, in one namespace; `None` ends it."""
    settle(directory, environment, output)
    sys.path.insert(0, str(directory))
    warnings.simplefilter("error")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    while (call := calls.recv()) is not None:
        name, code = call
        out, wrong = io.StringIO(), ""
        try:
            with contextlib.redirect_stdout(out):
                exec(compile(code, name, "exec"), namespace)  # noqa: S102
        except Exception:
            wrong = traceback.format_exc()
        calls.send((out.getvalue(), wrong))


# -- a page -----------------------------------------------------------------


class _Player:
    """Runs the blocks of one page."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self._directory = directory
        self._environment = environment
        self._output = directory / ".output"
        self._context = context()
        self._cells: Connection | None = None
        self._process: Any = None

    def block(self, block: Block, name: str) -> str:
        """Runs a block and returns what it printed."""
        if block.language in _PARSED:
            _parse(block)
        if block.title:
            path = self._directory / block.title
            path.parent.mkdir(parents=True, exist_ok=True)
            code = _applied(block, path) if block.language == "diff" else block.code
            path.write_text(code, encoding="utf-8")
            if block.language == "python":
                ast.parse(block.code)
            return ""
        if block.language in _SHELL:
            lines = block.code.replace("\\\n", " ").splitlines()
            return "".join(self._line(line) for line in lines)
        return self._cell(block.code, name) if block.language == "python" else ""

    def _cell(self, code: str, name: str) -> str:
        if self._cells is None:
            self._cells, theirs = self._context.Pipe()
            arguments = (theirs, self._directory, self._environment, self._output.with_name(".cells"))
            self._process = self._context.Process(target=_run_cells, args=arguments, daemon=True)
            self._process.start()
            theirs.close()
        self._cells.send((name, code))
        if not self._cells.poll(_SECONDS):
            raise _Wrong(f"still running after {_SECONDS} s")
        try:
            printed, wrong = self._cells.recv()
        except EOFError:
            raise _Wrong("the process ended early") from None
        missing = [word for word in _SHOWN.findall(code) if word not in printed.split()]
        if wrong or missing:
            raise _Wrong(wrong or f"it printed\n{printed}\nand not {missing}")
        return str(printed)

    def _line(self, line: str) -> str:
        line, _, note = line.partition("  # ")
        wanted = [part.strip() for part in line.split(" && ") if part.strip() and not part.startswith("#")]
        wanted = [part for part in wanted if not check_command(part)]
        if not wanted:
            return ""
        python = _python_command(shlex.split(wanted[0])) if len(wanted) == 1 else None
        if python is None:
            code, out, err = self._bash(" && ".join(wanted))
        else:
            code, out, err = self._python(*python)
        expected = re.match(r"exit code (\d+)", note)
        if code != (int(expected[1]) if expected else 0):
            raise _Wrong(f"{line}\nexit code {code}\n{out}\n{err}")
        return out + err if expected else out  # a page shows how a command fails

    def _bash(self, command: str) -> tuple[int, str, str]:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    def _python(self, variables: dict[str, str], argv: list[str]) -> tuple[int, str, str]:
        arguments = (argv, self._directory, {**self._environment, **variables}, self._output)
        process = self._context.Process(target=run_python, args=arguments, daemon=True)
        process.start()
        self._join(process)
        out, err = (
            self._output.with_suffix(f".{name}").read_text(encoding="utf-8") for name in ("out", "err")
        )
        return process.exitcode, out, err

    @staticmethod
    def _join(process: Any) -> None:
        if not joined(process, _SECONDS):
            raise _Wrong(f"still running after {_SECONDS} s")

    def finish(self) -> None:
        """Ends the process of the Python blocks, which must end in silence."""
        if self._cells is None:
            return
        with contextlib.suppress(OSError):
            self._cells.send(None)
        self._cells.close()
        self._join(self._process)
        said = self._output.with_name(".cells.err").read_text(encoding="utf-8")
        if said or self._process.exitcode:
            raise _Wrong(f"the process ended with {self._process.exitcode} and said\n{said}")


def run_page(page: Path, directory: Path, *, key: bool) -> str:
    """Runs the blocks of a page.

    Args:
        page: The page.
        directory: An empty directory, where its files are written and its commands run.
        key: Whether the environment has a key and points at a local server; without, as a newcomer's.

    Returns:
        What went wrong, with the line; nothing where nothing did.
    """
    foreign = ("OPENAI_", "LANGCHAIN_", "LANGSMITH_", "PYTEST_", "COV_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    # Commands find this environment, by name and as `.venv`.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    (directory / ".venv").symlink_to(Path(sys.executable).parent.parent)
    (directory / "examples").symlink_to(PROJECT / "examples")
    with contextlib.ExitStack() as stack:
        if key:
            server = stack.enter_context(ResponsesServer())
            environment.update(OPENAI_API_KEY="sk-test", OPENAI_BASE_URL=server.base_url)
        player = _Player(directory, environment)
        at = f"{page.name}: at its end"
        try:
            printed = ""
            for block in blocks_of(page):
                at = f"{page.name}:{block.line}"
                if block.title == "Output":
                    if not seems_like(block.code, printed):
                        raise _Wrong(f"it printed\n{printed}\nnot\n{block.code}")
                elif not block.not_run:
                    printed = player.block(block, at)
            player.finish()
        except Exception as exc:
            return f"{at}: {exc if isinstance(exc, _Wrong) else repr(exc)}"
    return ""
