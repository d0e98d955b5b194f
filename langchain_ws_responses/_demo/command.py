"""The command `demo`."""

from __future__ import annotations

import argparse
import importlib.util
import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .._cli import CommandError, Console, UsageError
from .report import as_json, as_table, differences, human_bytes, wrapped
from .workspace import SAMPLES, collect

if TYPE_CHECKING:
    from .agent import Kind, Live, Progress
    from .measure import Run

__all__ = ["calls", "configure", "failed_run", "live_endpoint", "need_langchain", "run"]

_MAX_CALLS = 200
_KINDS: tuple[Kind, ...] = ("http", "websocket")
_LABELS = {"http": "HTTP", "websocket": "socket"}
_FAILED: dict[Kind, str] = {"http": "the run over HTTP failed", "websocket": "the run over the socket failed"}
_REMEDY = "Check --model, --base-url, OPENAI_API_KEY and the network."
_LOOPBACK = "On loopback there is no network: the times are the client's own work."


def calls(value: str) -> int:
    """Reads an argument that is a number of tool calls."""
    if not value.isascii() or not value.isdecimal() or not 1 <= int(value) <= _MAX_CALLS:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number from 1 to {_MAX_CALLS}")
    return int(value)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.add_argument(
        "--turns", type=calls, default=20, metavar="N", help="tool calls of the agent (default 20)"
    )
    live = parser.add_argument_group("real service (costs money, sends file contents)")
    live.add_argument("--live", action="store_true", help="use a real endpoint and OPENAI_API_KEY")
    live.add_argument("--model", metavar="NAME", help="with --live: the model")
    live.add_argument("--base-url", metavar="URL", help="with --live: an endpoint other than OpenAI's")


def _live(args: argparse.Namespace) -> Live | None:
    """Checks what belongs to `--live`."""
    if not args.live:
        for name in ("model", "base_url"):
            if getattr(args, name) is not None:
                raise UsageError(
                    f"--{name.replace('_', '-')} needs --live; without it a local script answers."
                )
        return None
    return live_endpoint(args, "--live", "leave --live out to run offline without a key")


def live_endpoint(args: argparse.Namespace, who: str, otherwise: str) -> Live:
    """Checks the arguments that name a real endpoint.

    Args:
        args: With `model` and `base_url`.
        who: What needs them.
        otherwise: What to do without a key.

    Raises:
        UsageError: Something is missing or cannot be used.
        CommandError: LangChain is not installed.
    """
    if not args.model:
        raise UsageError(f"{who} needs --model NAME.")
    if not os.environ.get("OPENAI_API_KEY", "").strip():
        raise UsageError(
            f"{who} needs a key: set OPENAI_API_KEY, or {otherwise}. "
            "For an endpoint that wants no key, set it to any value."
        )
    if args.base_url is not None:
        parts = urlsplit(args.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("--base-url must look like https://api.example.com/v1.")
    need_langchain()
    from .agent import Live

    return Live(args.model, args.base_url)


def need_langchain() -> None:
    """Says what to install where LangChain is missing.

    Raises:
        CommandError: It is.
    """
    if importlib.util.find_spec("langchain") is None:
        raise CommandError(
            "the agent is built with langchain, which is not installed: "
            'pip install "langchain-ws-responses[demo]", or pip install "langchain>=1.2.11,<2".'
        )


def run(args: argparse.Namespace, console: Console) -> int:
    """Runs the demonstration."""
    live = _live(args)
    need_langchain()
    files, samples = collect(Path.cwd())
    for line in wrapped(_opening(files, samples, live)):
        console.note(line)
    console.status("loading ...")
    from .agent import play_live, play_offline

    # Imports and first calls cost more than the whole run: have them behind us before the clocks start.
    for kind in _KINDS:
        play_offline(kind, {name: text.encode() for name, text in SAMPLES.items()}, 1, _silent)
    runs: dict[Kind, Run] = {}
    for kind in _KINDS:
        progress = _progress(console, kind, args.turns)
        try:
            if live is None:
                runs[kind] = play_offline(kind, files, args.turns, progress)
            else:
                runs[kind] = play_live(kind, files, args.turns, progress, live)
        except Exception as exc:
            raise failed_run(kind, exc, live) from exc
    http, socket = runs["http"], runs["websocket"]
    if args.json:
        facts = {
            "mode": "offline" if live is None else "live",
            "model": None if live is None else live.model,
            "files": len(files),
            "sample_files": samples,
            "tool_calls_asked": args.turns,
        }
        console.write_json(as_json(http, socket, facts))
    else:
        _show(console, http, socket, live)
    # A real model may answer differently each time; the script may not.
    return 1 if live is None and differences(http, socket) else 0


def failed_run(kind: Kind, exc: Exception, live: Live | None) -> CommandError:
    """Says which run failed, and what to check."""
    text = f"{_FAILED[kind]}: {type(exc).__name__}: {exc}"
    if live is None:
        return CommandError(text)
    from ..errors import DOCTOR

    # Errors of the socket say the latter themselves.
    return CommandError(f"{text} {_REMEDY}" if DOCTOR in text else f"{text} {_REMEDY} {DOCTOR}")


def _opening(files: dict[str, bytes], samples: int, live: Live | None) -> str:
    found = f"{len(files)} text files ({human_bytes(sum(map(len, files.values())))})"
    source = f"{found}, {samples} of them samples" if samples else f"{found} of this directory"
    if live is None:
        return f"Working on a temporary copy of {source}. Offline: a local script plays the model."
    where = live.base_url or os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE")
    host = urlsplit(where).hostname if where else "api.openai.com"
    return f"Working on a temporary copy of {source}. Parts of them are sent to {host}."


def _silent(number: int, tool: str, about: str, sent: int) -> None:
    """Shows nothing."""


def _progress(console: Console, kind: Kind, calls: int) -> Progress:
    label = _LABELS[kind]

    def show(number: int, tool: str, about: str, sent: int) -> None:
        size = human_bytes(sent)
        if tool:
            printable = "".join(char if char.isprintable() else "?" for char in about)
            short = printable if len(printable) <= 34 else f"...{printable[-31:]}"
            console.status(f"{label:<6} {number:>3}/{calls}  {tool:<9} {short:<34} {size:>8} sent")
        else:
            console.note(f"{label:<6} done: {number} tool calls and the answer, {size} sent")

    return show


def _show(console: Console, http: Run, socket: Run, live: Live | None) -> None:
    for line in ["", *as_table(http, socket, console.bold), ""]:
        console.write(line)
    different = differences(http, socket)
    if not different:
        console.write("Same tool calls, same tool outputs, same final text in both runs.")
    elif live is not None:
        console.write(f"The model chose differently in the second run: {', '.join(different)} differ.")
    else:
        console.write(f"NOT the same in both runs: {', '.join(different)}.")
    if live is None:
        console.write(_LOOPBACK)
    console.write("Bytes are JSON payloads, without headers.")
    for line in ["", *wrapped(socket.answer)]:
        console.write(line)
