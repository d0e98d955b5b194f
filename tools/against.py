"""Runs the suite against other versions of dependencies: `tools/against.py websockets==15.0.1 [-- pytest options]`.

A new virtual environment outside the tree gets the project with its test extra and then exactly the versions that are
named, whatever other packages would rather have. Exits with pytest's code.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent


def main(arguments: list[str]) -> int:
    """Makes the environment and runs the tests; returns the exit code."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    pins, options = arguments[:end], arguments[end + 1 :]
    if not pins:
        print(__doc__)
        return 2
    with tempfile.TemporaryDirectory(prefix="against-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / ("Scripts" if os.name == "nt" else "bin") / "python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-e", ".[test]"], cwd=PROJECT, check=True)
        subprocess.run([*pip, "--no-deps", *pins], cwd=PROJECT, check=True)
        names = [re.split("[=<>!~ ]", pin)[0] for pin in pins]
        print(f"{sys.version.split()[0]}, {versions(python, names)}", flush=True)
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *options]
        return subprocess.run(command, cwd=PROJECT, check=False).returncode


def versions(python: str, names: list[str]) -> str:
    """Names and versions of what was asked for and of what matters most, as installed."""
    wanted = sorted({*names, "websockets", "openai", "langchain-openai", "langchain-core", "langgraph"})
    script = (
        "import sys, importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in sys.argv[1:]), sep=', ')"
    )
    done = subprocess.run([python, "-c", script, *wanted], capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
