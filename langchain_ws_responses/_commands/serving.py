"""What the commands that run a local endpoint until they are stopped have in common."""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._cli import CommandError, Console

if TYPE_CHECKING:
    from ..testing import RecordedRequest
    from ..testing._listener import LocalServer

__all__ = ["add_address", "run_until_stopped"]

_DEFAULT_PORT = 8765
_PATIENCE = 1.0
_LOCAL_HOSTS = ("127.0.0.1", "::1", "localhost")


def _port(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or int(value) > 65535:
        raise argparse.ArgumentTypeError(f"{value!r} is not a port from 0 to 65535")
    return int(value)


def add_address(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that say where to listen, and how much to say."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument(
        "--port", type=_port, default=_DEFAULT_PORT, metavar="N",
        help=f"port to listen on; 0 takes a free one (default {_DEFAULT_PORT})",
    )  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="do not write a line for each request")


def run_until_stopped(
    server: LocalServer,
    args: argparse.Namespace,
    console: Console,
    *,
    facts: Mapping[str, Any] | None = None,
    failures: Callable[[], Sequence[str]] = list,
) -> None:
    """Serves until Ctrl-C or SIGTERM, and writes a line for each request.

    Args:
        server: What serves.
        args: The arguments of `add_address`.
        console: Where it is written.
        facts: What `--json` says beside the addresses.
        failures: Gives everything that went wrong so far.

    Raises:
        CommandError: The address is taken.
    """
    try:
        server.start()
    except OSError as exc:
        raise CommandError(f"cannot listen on {args.host}:{args.port}: {_why_not(exc)}") from exc
    journal = _Journal(server, console, quiet=args.quiet, failures=failures)
    try:
        _announce(server, args, console, facts or {})
        while True:
            # The wait ends now and then: not every system lets Ctrl-C through to a thread that waits for ever.
            with contextlib.suppress(TimeoutError):
                server.wait_for(journal.has_news, _PATIENCE)
            journal.tell()
    except (KeyboardInterrupt, SystemExit):
        # The latter is SIGTERM, as the command line turns it: to stop is what it was asked for.
        server.stop()
        # What ended just now, also by the stop, has not been told yet.
        journal.tell()
        console.note("Stopped.")
    finally:
        server.stop()


def _why_not(exc: OSError) -> str:
    """Says why an address cannot be listened on, and what to do."""
    unknown = isinstance(exc, socket.gaierror)
    # Where no address is this machine's, asyncio says so without a number from Python 3.13 on.
    if unknown or exc.errno in (None, errno.EADDRNOTAVAIL):
        why = exc.strerror if unknown else os.strerror(errno.EADDRNOTAVAIL)
        return f"{why}. Give --host an address of this machine, such as 127.0.0.1."
    # asyncio puts a sentence with the address in the place of the system's words.
    return f"{os.strerror(exc.errno or 0)}. Choose another port with --port, or a free one with --port 0."


def _announce(
    server: LocalServer, args: argparse.Namespace, console: Console, facts: Mapping[str, Any]
) -> None:
    if args.json:
        addresses = {"base_url": server.base_url, "websocket_url": server.websocket_url, "pid": os.getpid()}
        console.write_json({**addresses, **facts})
    else:
        console.write(f"base_url       {server.base_url}")
        console.write(f"websocket_url  {server.websocket_url}")
    if args.host not in _LOCAL_HOSTS:
        console.note("Other machines can reach this address: it is a test server, without encryption.")
    console.note("Ctrl-C stops it.")


class _Journal:
    """Writes a line for each request that has ended, and for everything that went wrong."""

    def __init__(
        self, server: LocalServer, console: Console, *, quiet: bool, failures: Callable[[], Sequence[str]]
    ) -> None:
        self._server, self._console, self._quiet, self._failures = server, console, quiet, failures
        self._open: list[RecordedRequest] = []
        self._known = self._told = 0

    def has_news(self) -> bool:
        """Whether there is something to tell."""
        # By their numbers: the server may have forgotten older ones.
        new = [request for request in self._server.requests.copy() if request.number > self._known]
        known = max([self._known, *(request.number for request in new)])
        # Both or neither: Ctrl-C may come between any two calls.
        self._open, self._known = self._open + new, known
        return bool(self._ended()) or len(self._failures()) > self._told

    def tell(self) -> None:
        """Writes what has come to an end since the last time."""
        self.has_news()
        for request in self._ended():
            line = _line(request)
            self._open.remove(request)
            if not self._quiet:
                self._console.note(line)
        for failure in self._failures()[self._told :]:
            self._told += 1
            self._console.error(failure)

    def _ended(self) -> list[RecordedRequest]:
        return [request for request in self._open if request.status not in ("queued", "in_progress")]


def _line(request: RecordedRequest) -> str:
    mode = "delta" if request.is_delta else "full" if request.generate else "warm-up"
    mode = "compact" if request.kind == "compact" else mode
    where = "/".join(part for part in (request.connection, request.stream_id) if part)
    end = request.status if request.error_code is None else f"{request.status} ({request.error_code})"
    return f"{request.transport:<9} {where:<12} {mode:<7} {len(request.items):>3} items {request.raw_bytes:>8} B  {end}"
