"""The files that the demonstration works on: a bounded copy of a directory, and what may be done with it.

Nothing here writes outside a temporary directory, follows a link, or runs what a file contains.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

__all__ = ["SAMPLES", "Workspace", "collect"]

_MAX_FILES = 40
_MAX_FILE_BYTES = 64 * 1024
_MAX_TOTAL_BYTES = 512 * 1024
# Bounds the time in a home directory with millions of files.
_MAX_ENTRIES = 4000
_FEW = 3
_SKIPPED_DIRECTORIES = frozenset(
    {"__pycache__", "node_modules", "site-packages", "venv", "env", "build", "dist"}
)
# The demonstration never shows what is likely to be secret, and with `--live` files leave the machine.
_PRIVATE = re.compile(
    r"secret|credential|passw|token|id_rsa|id_ed25519|\.(pem|key|p12|pfx|kdbx)$", re.IGNORECASE
)

_SEARCH_HITS = 20
_SEARCH_WIDTH = 100
_READ_LINES = 40
_READ_WIDTH = 160
_RUN_SECONDS = 20
# Both look at the text of a file and never execute it. Input and output are UTF-8 whatever the locale says.
_PROGRAMS = {
    "compile": """
import ast, pathlib, sys
source = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
try:
    nodes = list(ast.walk(ast.parse(source)))
except (SyntaxError, ValueError) as exc:
    print(f"does not compile: line {getattr(exc, 'lineno', 0)}: {getattr(exc, 'msg', exc)}")
else:
    kinds = [type(node).__name__ for node in nodes]
    functions = kinds.count("FunctionDef") + kinds.count("AsyncFunctionDef")
    print(f"compiles: {functions} functions, {kinds.count('ClassDef')} classes")
""",
    "count": """
import pathlib, sys
text = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")
print(f"counted: {len(text.splitlines())} lines, {len(text.split())} words")
""",
}

SAMPLES: Mapping[str, str] = {
    "sample/inventory.py": '''"""A small inventory."""


class Inventory:
    """Counts things by name."""

    def __init__(self) -> None:
        self.items: dict[str, int] = {}

    def add(self, name: str, count: int = 1) -> None:
        self.items[name] = self.items.get(name, 0) + count

    def remove(self, name: str, count: int = 1) -> None:
        left = self.items.get(name, 0) - count
        if left < 0:
            raise ValueError(f"there are not {count} of {name}")
        self.items[name] = left
''',
    "sample/report.py": '''"""Prints an inventory."""

from inventory import Inventory


def report(inventory: Inventory) -> str:
    lines = [f"{name:<10} {count:>5}" for name, count in sorted(inventory.items.items())]
    return "\\n".join(lines)


if __name__ == "__main__":
    shelf = Inventory()
    shelf.add("apples", 3)
    shelf.add("pears")
    print(report(shelf))
''',
    "sample/notes.md": """# Notes

- The inventory counts items by name; removing more than there is is an error.
- The report prints one line for each name, sorted.
- Open question: should a name with a count of zero be in the report?
""",
    "sample/settings.toml": """[report]
width = 10
sorted = true

[inventory]
name = "shelf"
""",
}


def _text(path: str, size: int) -> bytes | None:
    """Reads a file if it is text that a model could work with."""
    if not 0 < size <= _MAX_FILE_BYTES:
        return None
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
        text = content.decode()
    except (OSError, UnicodeDecodeError):
        return None
    return None if "\0" in text or len(content) > _MAX_FILE_BYTES else content


def _entries(directory: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as found:
            entries = [entry for _, entry in zip(range(_MAX_ENTRIES), found, strict=False)]
    except OSError:
        return []
    if any(entry.name == "pyvenv.cfg" for entry in entries):
        return []
    return sorted((entry for entry in entries if _speakable(entry.name)), key=lambda entry: entry.name)


def _speakable(name: str) -> bool:
    """Whether a name can be shown, sent and typed: no hidden files, control characters or stray bytes."""
    return not name.startswith(".") and name.isprintable() and not _PRIVATE.search(name)


def collect(directory: Path) -> tuple[dict[str, bytes], int]:
    """Picks the text files of a directory, those near the top first.

    Args:
        directory: Where to look; nothing in it is changed.

    Returns:
        Content by relative path, and how many of them are samples because there was too little to work on.
    """
    files: dict[str, bytes] = {}
    waiting = deque([""])
    total = seen = 0
    while waiting and seen < _MAX_ENTRIES and len(files) < _MAX_FILES:
        prefix = waiting.popleft()
        for entry in _entries(directory / prefix):
            seen += 1
            name = f"{prefix}{entry.name}"
            try:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _SKIPPED_DIRECTORIES:
                        waiting.append(f"{name}/")
                    continue
                if not entry.is_file(follow_symlinks=False):
                    continue
                content = _text(entry.path, entry.stat(follow_symlinks=False).st_size)
            except OSError:
                continue
            if content is not None and total + len(content) <= _MAX_TOTAL_BYTES and len(files) < _MAX_FILES:
                files[name] = content
                total += len(content)
    samples = {} if len(files) >= _FEW else {name: text.encode() for name, text in SAMPLES.items()}
    added = {name: content for name, content in samples.items() if name not in files}
    return {**files, **added}, len(added)


class Workspace:
    """A temporary copy of some files, with the four things that an agent may do to it.

    Every method returns text for a model to read, of bounded length, and never raises for a wrong argument.

    Args:
        root: The copy.
        names: The files in it; no other path is ever opened.
    """

    def __init__(self, root: Path, names: list[str]) -> None:
        self.root = root
        self.names = names

    @classmethod
    @contextmanager
    def of(cls, files: Mapping[str, bytes]) -> Iterator[Workspace]:
        """Makes a copy and deletes it at the end."""
        with tempfile.TemporaryDirectory(prefix="langchain-ws-responses-demo-") as name:
            root = Path(name)
            for path, content in files.items():
                target = root / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content)
            yield cls(root, list(files))

    def search(self, text: str) -> str:
        """Finds lines."""
        hits = [
            (name, number, line.strip())
            for name in self.names
            for number, line in enumerate(self._lines(name), 1)
            if text and text in line
        ]
        head = f"{len(hits)} lines in {len({name for name, _, _ in hits})} files contain {text!r}"
        shown = [f"{name}:{number}: {line}"[:_SEARCH_WIDTH] for name, number, line in hits[:_SEARCH_HITS]]
        more = [f"({len(hits) - len(shown)} more)"] if len(hits) > len(shown) else []
        return "\n".join([head, *shown, *more])

    def read(self, path: str, start: int) -> str:
        """Shows lines of a file."""
        if path not in self.names:
            return self._unknown(path)
        lines = self._lines(path)
        first = min(max(1, start), max(1, len(lines)))
        shown = [line[:_READ_WIDTH] for line in lines[first - 1 : first - 1 + _READ_LINES]]
        head = f"{path}, lines {first}-{first - 1 + len(shown)} of {len(lines)}"
        return "\n".join([head, *shown])

    def edit(self, path: str, line: int, text: str) -> str:
        """Replaces a line, in the copy."""
        if path not in self.names:
            return self._unknown(path)
        lines = self._lines(path)
        if not 1 <= line <= len(lines) or len(text) > 2 * _READ_WIDTH or len(text.splitlines()) > 1:
            return f"not changed: give one line of text and a line number from 1 to {len(lines)}"
        before, lines[line - 1] = lines[line - 1], text
        (self.root / path).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
        return f"changed line {line} of {path} from {len(before)} to {len(text)} characters"

    def run(self, command: str, path: str) -> str:
        """Runs one of the harmless programs on a file, in a process of its own."""
        if path not in self.names:
            return self._unknown(path)
        if command not in _PROGRAMS:
            return f"unknown command {command[:_READ_WIDTH]!r}: use one of {', '.join(_PROGRAMS)}"
        program = [sys.executable, "-I", "-S", "-X", "utf8", "-W", "ignore", "-c", _PROGRAMS[command], path]
        try:
            done = subprocess.run(  # noqa: S603 - a fixed program on a file of the copy
                program, cwd=self.root, capture_output=True, text=True, encoding="utf-8", errors="replace",
                timeout=_RUN_SECONDS, check=False, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as exc:
            return f"the command failed: {type(exc).__name__}"
        if done.returncode:
            return f"the command failed with exit code {done.returncode}"
        return done.stdout.strip()[: 2 * _READ_WIDTH]

    def _lines(self, name: str) -> list[str]:
        # Not `splitlines`: form feeds and the like are no line ends to an editor or a compiler.
        text = (self.root / name).read_bytes().decode()
        lines = text.replace("\r\n", "\n").split("\n")
        return lines[:-1] if lines[-1] == "" else lines

    def _unknown(self, path: str) -> str:
        return f"no such file: {path[:_READ_WIDTH]!r}; search shows the names of files"
