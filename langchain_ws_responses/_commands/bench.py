"""The command `bench`: the demo's comparison on the user's own endpoint, several times over."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .._cli import Console, UsageError
from .._demo.command import calls, failed_run, live_endpoint, need_langchain

if TYPE_CHECKING:
    from .._demo.agent import Kind, Live, Progress
    from .._demo.measure import Run

__all__ = ["configure", "run"]

_MAX_ROUNDS = 100
_KINDS: tuple[Kind, Kind] = ("http", "websocket")
_LABELS = {"http": "HTTP", "websocket": "one socket"}
_COLUMNS = (30, 24, 24)


def _rounds(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or not 1 <= int(value) <= _MAX_ROUNDS:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number from 1 to {_MAX_ROUNDS}")
    return int(value)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = (
        "Costs money: each round runs an agent twice, over HTTP and over one socket, on sample files that come with "
        "the package. The key is read from OPENAI_API_KEY. With --local the package's own server and a script answer "
        "instead, without a key."
    )
    parser.add_argument(
        "--turns", type=calls, default=20, metavar="N", help="tool calls of the agent (default 20)"
    )
    parser.add_argument(
        "--rounds", type=_rounds, default=3, metavar="N", help="runs of each kind (default 3)"
    )
    group = parser.add_argument_group("endpoint")
    group.add_argument("--model", metavar="NAME", help="the model")
    group.add_argument("--base-url", metavar="URL", help="default: OPENAI_BASE_URL, else OpenAI's")
    group.add_argument("--local", action="store_true", help="the package's own local server; needs no key")


def run(args: argparse.Namespace, console: Console) -> int:
    """Runs the rounds and shows medians."""
    live = _endpoint(args)
    need_langchain()
    console.status("loading ...")
    from .._demo.agent import play_offline
    from .._demo.workspace import SAMPLES

    files = {name: text.encode() for name, text in SAMPLES.items()}
    # Imports and first calls would be charged to the first run.
    for kind in _KINDS:
        play_offline(kind, files, 1, lambda *_: None)
    runs: dict[Kind, list[Run]] = {kind: [] for kind in _KINDS}
    for number in range(args.rounds):
        # What goes first meets a colder server: take turns.
        for kind in _KINDS if number % 2 == 0 else _KINDS[::-1]:
            runs[kind].append(_played(kind, files, args, live, _progress(console, kind, number, args)))
            last = runs[kind][-1]
            console.note(f"{_LABELS[kind]:<10} {number + 1}/{args.rounds}  {last.seconds:.2f} s")
    facts = {"model": args.model, "local": args.local, "tool_calls_asked": args.turns, "rounds": args.rounds}
    if args.json:
        console.write_json({**facts, "runs": {kind: _as_json(runs[kind]) for kind in _KINDS}})
    else:
        _show(console, runs, local=args.local)
    return 0


def _endpoint(args: argparse.Namespace) -> Live | None:
    if not args.local:
        return live_endpoint(args, "bench", "use --local to try it without a key")
    if args.model is not None or args.base_url is not None:
        raise UsageError("--local has a model of its own: leave --model and --base-url out.")
    return None


def _played(
    kind: Kind, files: dict[str, bytes], args: argparse.Namespace, live: Live | None, progress: Progress
) -> Run:
    from .._demo.agent import play_live, play_offline

    try:
        if live is None:
            return play_offline(kind, files, args.turns, progress)
        return play_live(kind, files, args.turns, progress, live)
    except Exception as exc:
        raise failed_run(kind, exc, live) from exc


def _progress(console: Console, kind: Kind, number: int, args: argparse.Namespace) -> Progress:
    def show(done: int, tool: str, _about: str, _sent: int) -> None:
        if tool and console.live:
            console.status(f"{_LABELS[kind]:<10} {number + 1}/{args.rounds}  call {done}/{args.turns}")

    return show


def _per_turn(run: Run) -> float:
    return run.seconds / max(1, len(run.sent))


def _as_json(runs: Sequence[Run]) -> dict[str, Any]:
    return {
        "turns": [len(run.sent) for run in runs],
        "tool_calls": [len(run.calls) for run in runs],
        "full": [run.count("full") for run in runs],
        "delta": [run.count("delta") for run in runs],
        "connections": [run.connections for run in runs],
        "bytes_sent": [run.bytes for run in runs],
        "total_seconds": [run.seconds for run in runs],
        "seconds_per_turn": {
            "median": statistics.median(map(_per_turn, runs)),
            "each": [_per_turn(run) for run in runs],
        },
    }


def _show(console: Console, runs: dict[Kind, list[Run]], *, local: bool) -> None:
    from .._demo.report import human_bytes, human_seconds

    def cells(label: str, texts: Sequence[str]) -> str:
        return f"{label:<{_COLUMNS[0]}}" + "".join(
            f"{text:>{width}}" for text, width in zip(texts, _COLUMNS[1:], strict=True)
        )

    def rows(label: str, value: Callable[[Run], float | None], form: Callable[[Any], str]) -> list[str]:
        found = [[number for run in runs[kind] if (number := value(run)) is not None] for kind in _KINDS]
        lines = [cells(label, [form(statistics.median(each)) if each else "-" for each in found])]
        if any(each and min(each) != max(each) for each in found):
            ranges = [f"{form(min(each))} to {form(max(each))}" if each else "-" for each in found]
            lines.append(cells("  range", ranges))
        return lines

    lines = [
        "",
        console.bold(cells("median of the rounds", [_LABELS[kind] for kind in _KINDS])),
        "-" * sum(_COLUMNS),
        *rows("turns", lambda run: len(run.sent), lambda count: f"{count:g}"),
        *rows("sent as a delta", lambda run: run.count("delta"), lambda count: f"{count:g}"),
        *rows("bytes sent", lambda run: run.bytes, human_bytes),
        *rows("tool output to request", lambda run: run.gap, human_seconds),
        *rows("time per turn", _per_turn, human_seconds),
        *rows("total time", lambda run: run.seconds, human_seconds),
        "",
        "A model may choose differently each time: compare the time per turn.",
    ]
    if local:
        lines[-1] = "On loopback there is no network: the times are the client's own work."
    for line in lines:
        console.write(line)
