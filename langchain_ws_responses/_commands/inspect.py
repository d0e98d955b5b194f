"""The command `inspect`: what a trace says, as text, as JSON or as a page."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path

from .._cli import CommandError, Console, UsageError

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = (
        "A trace is written while LANGCHAIN_WS_RESPONSES_TRACE names a file, or by a TraceFile among a manager's "
        "hooks. It holds no content."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the trace")
    parser.add_argument(
        "--html", type=Path, metavar="OUT", help="write one self-contained page instead of text"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Reads the trace and shows it."""
    from .._inspect.reading import NotATrace, read

    try:
        trace = read(args.file)
    except NotATrace as exc:
        raise UsageError(str(exc)) from exc
    except OSError as exc:
        raise UsageError(
            f"cannot read {args.file}: {exc.strerror}. Name the file that LANGCHAIN_WS_RESPONSES_TRACE named while "
            "your program ran."
        ) from exc
    if args.html is not None:
        with suppress(OSError):  # it is not there yet
            if args.html.samefile(args.file):
                raise UsageError(f"--html {args.html} is the trace itself. Name another file for the page.")
    # The text says it itself.
    if trace.skipped and (args.json or args.html is not None):
        console.note(f"skipped {trace.skipped} line(s) that could not be read")
    if args.html is not None:
        from .._inspect.page import as_page

        try:
            args.html.write_text(as_page(trace, args.file.name), encoding="utf-8", errors="replace")
        except OSError as exc:
            raise CommandError(
                f"cannot write {args.html}: {exc.strerror}. Name a file in a folder that is there and yours."
            ) from exc
        console.note(f"wrote {args.html}: open it in a browser")
    if args.json:
        from .._inspect.totals import as_json

        console.write_json(as_json(trace))
    elif args.html is None:
        from .._inspect.timeline import as_text

        for line in as_text(trace, console.bold):
            console.write(line)
    return 0
