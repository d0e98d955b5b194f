"""The command line: `python -m langchain_ws_responses COMMAND`.

A command is a module with `configure(parser)` and `run(args, console)`. It is imported to build the parser, so it
imports what is heavy only when it runs. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import _thread
import argparse
import contextlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, TextIO, cast

from ._version import __version__

__all__ = ["CommandError", "Console", "UsageError", "main"]

_PROGRAM = "python -m langchain_ws_responses"
# Name, one line of help, and where the command lives.
_COMMANDS: Mapping[str, tuple[str, str]] = {
    "demo": ("compare an agent over HTTP with the same agent over one socket", "._demo.command"),
    "doctor": ("look at everything that a socket needs, and say what to do next", "._commands.doctor"),
    "ping": ("measure a dial, a warm-up and round trips", "._commands.ping"),
    "inspect": ("show what a trace says, lane by lane or as a page", "._commands.inspect"),
    "bench": ("compare HTTP and one socket on your own endpoint, several times", "._commands.bench"),
    "record": ("record a conversation with a real endpoint as a cassette", "._commands.record"),
    "replay": ("serve a cassette as an endpoint", "._commands.replay"),
    "serve": ("run the local server for other tools and languages", "._commands.serve"),
}
_EPILOG = """\
COMMAND --help shows the arguments of a command. Every command takes --json.
Exit codes: 0 done, 1 failed, 2 wrong usage.

examples:
  demo                    what is saved, without a key
  doctor                  why is there no socket, and what to do next?
  ping --local            a dial and round trips on this machine
  serve --port 8765       a server of this API for tests in any language
"""


class UsageError(Exception):
    """The command was called in a way that cannot work; exit code 2. The message says what to do."""


class CommandError(Exception):
    """The command failed; exit code 1. The message says what to do."""


class _Terminated(SystemExit):
    """SIGTERM came."""


class _OutputClosed(Exception):
    """Nobody reads the output any more, as after `| head`."""


class Command(Protocol):
    """What a command's module offers."""

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Adds the command's own arguments."""
        ...

    def run(self, args: argparse.Namespace, console: Console) -> int:
        """Does the work and returns the exit code."""
        ...


class Console:
    """Results on `out`, everything else on `err`.

    Args:
        color: `False` never colours; otherwise terminals get colours unless `NO_COLOR` is set.
        out: Where results go.
        err: Where progress and errors go.
    """

    def __init__(self, *, color: bool = True, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self._out = sys.stdout if out is None else out
        self._err = sys.stderr if err is None else err
        allowed = color and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._color = allowed and self._out.isatty()
        # Moving the cursor back is no colour, but a dumb terminal cannot do it either.
        self.live = self._err.isatty() and os.environ.get("TERM") != "dumb"
        self._status = ""

    def write(self, text: str) -> None:
        """Writes a line of the result."""
        self.clear()
        self._print(self._out, text)

    def write_json(self, value: Any) -> None:
        """Writes the result as JSON. ASCII only: it must pass through any terminal and pipe."""
        self.write(json.dumps(value, indent=2))

    def note(self, text: str) -> None:
        """Writes a line of progress."""
        self.clear()
        self._print(self._err, text)

    def status(self, text: str) -> None:
        """Shows how far the work is: on a terminal in place of the last status, else as a line."""
        if not self.live:
            self._print(self._err, text)
            return
        text = text[:79]
        padding = " " * (len(self._status) - len(text))
        self._status = text
        self._print(self._err, f"\r{text}{padding}", end="")

    def clear(self) -> None:
        """Takes the status away."""
        if self._status:
            blank, self._status = " " * len(self._status), ""
            self._print(self._err, f"\r{blank}\r", end="")

    def bold(self, text: str) -> str:
        """Emphasises text where colours are on."""
        return f"\x1b[1m{text}\x1b[0m" if self._color else text

    def error(self, text: str) -> None:
        """Writes an error."""
        self.note(f"error: {text}")

    @staticmethod
    def _print(stream: TextIO, text: str, end: str = "\n") -> None:
        try:
            stream.write(text + end)
            stream.flush()
        except BrokenPipeError:
            raise _OutputClosed from None


def _parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Makes the parser, and one for each command."""
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    group = common.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="print one JSON object; progress goes to stderr")
    group.add_argument("--no-color", action="store_true", help="no colours (NO_COLOR does the same)")
    group.add_argument("--debug", action="store_true", help="show where an error came from")
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="The WebSocket mode of the OpenAI Responses API for LangChain and LangGraph.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"langchain-ws-responses {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    each: dict[str, argparse.ArgumentParser] = {}
    for name, (summary, _) in _COMMANDS.items():
        each[name] = command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            parents=[common],
            allow_abbrev=False,
        )
        _command(name).configure(command)
    return parser, each


def _command(name: str) -> Command:
    return cast("Command", import_module(_COMMANDS[name][1], __package__))


@contextlib.contextmanager
def _orderly_termination() -> Iterator[None]:
    """Turns SIGTERM into an exception, so that temporary files are removed then too, and keeps both it and Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signum: int, _frame: object) -> None:
        raise _Terminated(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with _nothing_dropped({KeyboardInterrupt: signal.SIGINT, _Terminated: signal.SIGTERM}):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _nothing_dropped(signals: Mapping[type[BaseException], signal.Signals]) -> Iterator[None]:
    """Sends a signal once more whose exception came up where Python only reports and drops it.

    That is so in finalizers and callbacks of weak references, and threads that end have those.

    Args:
        signals: The exceptions of their handlers, with what raised them.
    """
    reported = sys.unraisablehook
    again: list[threading.Timer] = []

    def hook(dropped: sys.UnraisableHookArgs) -> None:
        if dropped.exc_type not in signals:
            reported(dropped)
            return
        # Not from here: what is raised in the hook is dropped as well.
        timer = threading.Timer(0.01, _interrupt, [signals[dropped.exc_type]])
        timer.daemon = True
        timer.start()
        again.append(timer)

    sys.unraisablehook = hook
    try:
        yield
    finally:
        sys.unraisablehook = reported
        for timer in again:
            timer.cancel()


def _interrupt(number: signal.Signals) -> None:
    """Sends a signal to the main thread."""
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)  # it also wakes a thread that waits
    else:
        _thread.interrupt_main(number)


def _forgiving(*streams: TextIO) -> None:
    """Lets names that the terminal's encoding lacks be printed in escaped form."""
    for stream in streams:
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: Arguments without the program's name; those of the process if not given.

    Returns:
        The exit code.

    Raises:
        SystemExit: From argparse: after `--help` and `--version`, or with 2 after wrong arguments.
    """
    _forgiving(sys.stdout, sys.stderr)
    parser, each = _parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:  # argparse would show the usage of the program, not of the command
        each.get(args.command, parser).error(f"unrecognized arguments: {' '.join(unknown)}")
    if args.command is None:
        parser.print_help(sys.stderr)
        return 2
    console = Console(color=not args.no_color)
    try:
        with _orderly_termination():
            return _command(args.command).run(args, console)
    except _OutputClosed:
        # The interpreter flushes at exit: give it something that can be flushed.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        console.clear()
        return 130
    except UsageError as exc:
        return _report(console, str(exc), 2, debug=args.debug)
    except CommandError as exc:
        return _report(console, str(exc), 1, debug=args.debug)
    except Exception as exc:
        text = f"{type(exc).__name__}: {exc} (--debug shows where)"
        return _report(console, text, 1, debug=args.debug)


def _report(console: Console, text: str, code: int, *, debug: bool) -> int:
    if debug:
        console.note(traceback.format_exc().rstrip())
    console.error(text)
    return code
