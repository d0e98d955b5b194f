"""The command `replay`: a cassette as a local endpoint."""

from __future__ import annotations

import argparse
from pathlib import Path

from .._cli import CommandError, Console, UsageError
from .serving import add_address, run_until_stopped

__all__ = ["configure", "run"]


def _names(value: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in value.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError("name at least one field, as in --match-on model,input")
    return names


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = (
        "Answers each request with what FILE has for one of the same meaning, over WebSocket and HTTP alike, each "
        "answer once, until Ctrl-C or SIGTERM. Exit code 1 when a request was not in it. No key is needed."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a cassette, as `record` writes them")
    parser.add_argument(
        "--match-on", type=_names, metavar="NAMES",
        help="what must be the same, by commas (default model,input,tools,format)",
    )  # fmt: skip
    add_address(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Replays until it is told to stop."""
    if args.file.is_dir():
        raise UsageError(f"{args.file} is a folder. Name a cassette.")
    if not args.file.is_file():
        raise UsageError(f"there is no cassette {args.file}. Write one with `record {args.file}`.")
    from ..testing import CassetteError, ReplayServer

    chosen = {} if args.match_on is None else {"match_on": args.match_on}
    try:
        server = ReplayServer(args.file, host=args.host, port=args.port, **chosen)
    except CassetteError as exc:
        raise CommandError(str(exc)) from None
    except ValueError as exc:
        raise UsageError(f"{exc}.") from None
    facts = {"file": str(args.file), "answers": server.left}
    run_until_stopped(server, args, console, facts=facts, failures=lambda: server.mismatches)
    if server.left:
        console.note(f"Recorded answers never asked for: {server.left}.")
    return 1 if server.mismatches else 0
