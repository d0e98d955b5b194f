"""The command `record`: a local endpoint in front of a real one that writes a cassette."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from .._cli import CommandError, Console, UsageError
from .serving import add_address, run_until_stopped

__all__ = ["configure", "run"]

_KEY = "OPENAI_API_KEY"


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = (
        "Point a client at the base URL that it prints, then stop it with Ctrl-C or SIGTERM: only then FILE is "
        "written. The key in OPENAI_API_KEY is sent to the upstream in place of the client's, and is never written; "
        "without one the client's is passed on. `replay FILE` plays it."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the cassette to write")
    parser.add_argument(
        "--upstream", metavar="URL", help="the real endpoint (default: OPENAI_BASE_URL, else OpenAI's)"
    )
    parser.add_argument(
        "--api-key-env", metavar="NAME",
        help="the environment variable with its key (default OPENAI_API_KEY)",
    )  # fmt: skip
    parser.add_argument(
        "--secret-env", metavar="NAME", action="append", default=[],
        help="what this environment variable holds must not be in FILE; may be repeated",
    )  # fmt: skip
    parser.add_argument("--force", action="store_true", help="replace FILE if it exists")
    add_address(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Records until it is told to stop, then writes the cassette."""
    if args.file.is_dir():
        raise UsageError(f"{args.file} is a folder. Name a file.")
    if args.file.exists() and not args.force:
        raise UsageError(f"{args.file} exists. Name another file, or replace it with --force.")
    named = [*args.secret_env, *([args.api_key_env] if args.api_key_env else [])]
    unset = [name for name in named if not os.environ.get(name, "").strip()]
    if unset:
        raise UsageError(f"the environment variable {unset[0]} is not set.")
    _check_writable(args.file)
    from ..testing import CassetteError, RecordingServer
    from ..testing._recorder import OPENAI

    upstream = args.upstream or os.environ.get("OPENAI_BASE_URL") or OPENAI
    key = os.environ.get(args.api_key_env or _KEY, "").strip() or None
    try:
        server = RecordingServer(
            args.file, upstream=upstream, api_key=key, host=args.host, port=args.port,
            secrets=[os.environ[name] for name in args.secret_env],
        )  # fmt: skip
    except ValueError as exc:
        raise UsageError(f"--upstream: {exc}.") from None
    if key is None:
        console.note(f"{_KEY} is not set: the key of the client is passed on.")
    run_until_stopped(server, args, console, facts={"file": str(args.file)})
    try:
        count = server.save()
    except CassetteError as exc:
        raise CommandError(str(exc)) from None
    console.note(f"Wrote {args.file}: {count} {'interaction' if count == 1 else 'interactions'}.")
    return 0


def _check_writable(path: Path) -> None:
    """Fails now: at the end it would be too late for what was recorded."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as exc:
        raise UsageError(
            f"cannot write {path}: {exc.strerror}. Name a file in a folder that is there and yours."
        ) from exc
