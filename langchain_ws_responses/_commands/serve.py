"""The command `serve`: the local server for other tools and languages."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._cli import Console, UsageError
from .serving import add_address, run_until_stopped

if TYPE_CHECKING:
    from ..testing import RecordedRequest, ResponsesServer

__all__ = ["configure", "run"]

# It may run for days: neither records nor stored responses may grow without end.
_KEEP = 1000


def _status(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or not 200 <= int(value) <= 599:
        raise argparse.ArgumentTypeError(f"{value!r} is not an HTTP status from 200 to 599")
    return int(value)


def _seconds(value: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= (seconds := float(value)) < 1e9:
            return seconds
    raise argparse.ArgumentTypeError(f"{value!r} is not a number of seconds")


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = (
        "Prints the base URL and runs until Ctrl-C or SIGTERM. Without --script, --answer and --fake-model it says in "
        "a sentence what it saw. It speaks WebSocket, HTTP JSON and SSE on one port and needs no key."
    )
    add_address(parser)
    answers = parser.add_argument_group("answers")
    answers.add_argument(
        "--script", type=Path, metavar="FILE",
        help='answers in order, as JSON lines or a JSON array, such as {"tool_call": "add", "args": {"a": 1}}',
    )  # fmt: skip
    answers.add_argument("--repeat", action="store_true", help="with --script: begin again at its end")
    answers.add_argument(
        "--answer", type=Path, metavar="FILE.py", help="a Python file with a function answer(request)"
    )
    answers.add_argument(
        "--fake-model", action="store_true",
        help="call the tools that are offered and fill in the schemas that are asked for",
    )  # fmt: skip
    server = parser.add_argument_group("the server")
    server.add_argument(
        "--api-key-env", metavar="NAME", help="ask clients for the key in this environment variable"
    )
    server.add_argument(
        "--no-lanes", action="store_true", help="ignore stream_id, as servers without lanes do"
    )
    server.add_argument(
        "--lifetime", type=_seconds, default=3600.0, metavar="SECONDS",
        help="how long a connection may last (default 3600)",
    )  # fmt: skip
    server.add_argument(
        "--event-delay", type=_seconds, default=0.0, metavar="SECONDS", help="pause before each event"
    )
    server.add_argument(
        "--refuse-upgrade", type=_status, metavar="STATUS",
        help="answer every WebSocket handshake with this HTTP status",
    )  # fmt: skip


def _server(args: argparse.Namespace) -> ResponsesServer:
    """Makes the server that the arguments ask for."""
    if sum(map(bool, (args.script, args.answer, args.fake_model))) > 1:
        raise UsageError("--script, --answer and --fake-model exclude each other: choose one.")
    if args.repeat and not args.script:
        raise UsageError("--repeat needs --script FILE.")
    key = None
    if args.api_key_env is not None:
        key = os.environ.get(args.api_key_env, "").strip()
        if not key:
            raise UsageError(f"the environment variable {args.api_key_env} is not set.")
    from ..testing import ResponsesServer, fake_model
    from .script import load_function, load_script

    script = load_script(args.script) if args.script else []
    answer: Callable[[Any], Any] | None = _Watched(load_function(args.answer)) if args.answer else None
    if args.fake_model:
        answer = fake_model
    elif args.repeat:
        again, script = itertools.cycle(script), []

        def answer(_request: Any) -> Any:
            return next(again)

    return ResponsesServer(
        *script, answer=answer, host=args.host, port=args.port, api_key=key, lanes=not args.no_lanes,
        lifetime=args.lifetime, event_delay=args.event_delay, refuse_upgrade=args.refuse_upgrade, keep=_KEEP,
    )  # fmt: skip


def run(args: argparse.Namespace, console: Console) -> int:
    """Serves until it is told to stop."""
    server = _server(args)

    def failures() -> list[str]:
        answer = server.config.answer
        found = answer.failures if isinstance(answer, _Watched) else []
        return [f"answer() raised {type(failure).__name__}: {failure}" for failure in found]

    run_until_stopped(server, args, console, failures=failures)
    return 0


class _Watched:
    """An answering function whose failures are kept, so that they can be told."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function
        self.failures: list[Exception] = []

    def __call__(self, request: RecordedRequest) -> Any:
        try:
            return self._function(request)
        except Exception as exc:
            self.failures.append(exc)
            raise
