"""The command `doctor`: looks at everything that a socket needs, and says what to do next."""

from __future__ import annotations

import argparse
import os
import textwrap
from typing import TYPE_CHECKING, Any

from .._cli import Console, UsageError
from .target import configure_target, target_of

if TYPE_CHECKING:
    from .checks import Check

__all__ = ["configure", "run"]

_WIDTH = 79
_INDENT = 18


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = (
        "Looks at Python, packages, key, proxy, DNS, TLS and the WebSocket handshake, then plays two turns against "
        "the package's own server. Nothing is asked of a model. Exit code 1 when something does not work."
    )
    configure_target(parser)
    parser.add_argument(
        "--offline", action="store_true", help="look at this machine only, not at the network"
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Looks, and shows what was found."""
    if args.offline and (args.local or args.base_url is not None):
        raise UsageError("--offline looks at no endpoint: leave --local and --base-url out.")
    console.status("looking at this machine ...")
    found = _examined(args, console)
    console.clear()
    failed = sum(check.status == "FAIL" for check in found)
    if args.json:
        console.write_json({"ok": not failed, "checks": [_as_json(check) for check in found]})
        return 1 if failed else 0
    for check in found:
        for line in _lines(check, console):
            console.write(line)
    console.write("")
    console.write(_summary(found, failed))
    return 1 if failed else 0


def _examined(args: argparse.Namespace, console: Console) -> list[Check]:
    from .checks import Check, check_key, check_packages, check_python, check_settings, check_turns

    found = [check_python(), *check_packages(), *check_settings()]
    if any(check.status == "FAIL" for check in found):
        # What comes next would only fail in harder words.
        return [*found, Check("network", "skip", "mend the above first")]
    if not args.offline:
        found += _on_the_way(args, console)
    else:
        found.append(check_key(os.environ.get("OPENAI_API_KEY"), needed=True))
    console.status("playing two turns ...")
    return [*found, check_turns()]


def _on_the_way(args: argparse.Namespace, console: Console) -> list[Check]:
    import asyncio

    from .checks import Check, check_key
    from .reach import check_endpoint, reach

    key = os.environ.get("OPENAI_API_KEY")
    said = check_key(key, needed=True)
    if said.status == "FAIL":
        return [said]
    try:
        with target_of(args, console) as target:
            if target.local:
                said = Check("key", "ok", "not needed by the package's own server")
            elif not target.has_key and target.endpoint.loopback:
                said = check_key(key, needed=False)
            where = check_endpoint(target)
            if where.status == "FAIL":
                return [said, where]
            return [said, where, *asyncio.run(reach(target, args.timeout, console.status))]
    except UsageError as exc:
        if args.local and args.base_url is not None:
            raise
        return [said, Check("endpoint", "FAIL", "the endpoint cannot be used", str(exc))]


def _as_json(check: Check) -> dict[str, Any]:
    return {
        "name": check.name,
        "status": check.status.lower(),
        "detail": check.detail,
        "next": check.next or None,
    }


def _lines(check: Check, console: Console) -> list[str]:
    status = console.bold(f"{check.status:<4}") if check.status == "FAIL" else f"{check.status:<4}"
    head = textwrap.wrap(check.detail, _WIDTH - _INDENT, break_long_words=False) or [""]
    lines = [f"{status}  {check.name:<11} {head[0]}", *(" " * _INDENT + line for line in head[1:])]
    if check.next:
        hint = textwrap.wrap(f"next: {check.next}", _WIDTH - _INDENT, break_long_words=False)
        lines += [" " * _INDENT + line for line in hint]
    return lines


def _summary(found: list[Check], failed: int) -> str:
    if failed:
        return (
            f"{failed} of {len(found)} checks failed." if failed > 1 else f"1 of {len(found)} checks failed."
        )
    warned = sum(check.status == "warn" for check in found)
    if not warned:
        return "No problem was found."
    return f"Nothing failed; {warned} {'finding needs' if warned == 1 else 'findings need'} a look."
