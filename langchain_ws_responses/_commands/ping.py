"""The command `ping`: how long a dial, a warm-up and round trips take."""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from .._cli import CommandError, Console, UsageError
from .target import Target, configure_target, target_of

if TYPE_CHECKING:
    from .probe import Turn

__all__ = ["configure", "run"]

_MAX_COUNT = 1000
_QUESTION = "Answer with the word: pong"
_LOCAL = (
    "The server is on this machine and there is no network: the times are the",
    "programs' own work.",
)


def _count(value: str) -> int:
    if not value.isascii() or not value.isdecimal() or not 1 <= int(value) <= _MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number from 1 to {_MAX_COUNT}")
    return int(value)


def configure(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments."""
    parser.epilog = (
        "Without --model nothing is asked of a model and nothing is paid for: one dial, then WebSocket ping frames. "
        "The key is read from OPENAI_API_KEY."
    )
    parser.add_argument("--count", type=_count, default=5, metavar="N", help="round trips (default 5)")
    parser.add_argument(
        "--model", metavar="NAME",
        help="also send a warm-up and N one-word questions to this model (costs a few tokens each)",
    )  # fmt: skip
    configure_target(parser)


@dataclass
class Times:
    """What was measured, in seconds."""

    dial: float = 0.0
    pings: list[float] = field(default_factory=list)
    warm_up: Turn | None = None
    responses: list[Turn] = field(default_factory=list)


def run(args: argparse.Namespace, console: Console) -> int:
    """Measures and shows."""
    with target_of(args, console) as target:
        if not target.has_key and not target.endpoint.loopback:
            raise UsageError(
                f"there is no key for {target.endpoint.label}: set OPENAI_API_KEY, or use --local."
            )
        times = _measured(target, args, console)
    if args.json:
        console.write_json(_as_json(target, times))
        return 0
    for line in _table(target, times, console.bold):
        console.write(line)
    return 0


def _measured(target: Target, args: argparse.Namespace, console: Console) -> Times:
    import asyncio

    from websockets.exceptions import ConnectionClosed

    from .._protocol.events import FrameError
    from .._transport.retry import Failed
    from ..errors import DOCTOR
    from .advice import next_step

    try:
        return asyncio.run(_measure(target, args, console.status))
    except Failed as exc:
        # Its cause and context are left out: they may quote what nobody should see.
        message = f"{exc.failure.message} {next_step(exc.failure)} {DOCTOR}"
    except ConnectionClosed as exc:
        code = exc.rcvd.code if exc.rcvd is not None else None
        message = f"the server closed the connection ({code or 'without a close frame'}). {DOCTOR}"
    except (TimeoutError, asyncio.TimeoutError):
        message = f"no answer within {args.timeout:g} s. Raise --timeout if the server needs longer. {DOCTOR}"
    except FrameError as exc:
        message = f"{exc}: it does not speak this API. Check --base-url. {DOCTOR}"
    finally:
        console.clear()
    raise CommandError(message)


async def _measure(target: Target, args: argparse.Namespace, tell: Callable[[str], None]) -> Times:
    from .probe import create, opened, ping

    times, wait = Times(), args.timeout
    tell(f"dialing {target.endpoint.label} ...")
    line, times.dial = await opened(target.endpoint, wait)
    try:
        for number in range(args.count):
            tell(f"ping {number + 1}/{args.count}")
            times.pings.append(await ping(line, wait))
        if args.model is not None:
            body = {"model": args.model, "input": _QUESTION, "store": False}
            # A server that is not known to keep warm-ups may generate, and charge, where nothing was asked for.
            if target.endpoint.profile.keeps_warm_up or target.endpoint.loopback:
                tell("warm-up")
                times.warm_up = _checked(await create(line, {**body, "generate": False}, wait))
            for number in range(args.count):
                tell(f"response {number + 1}/{args.count}")
                body["max_output_tokens"] = 16
                times.responses.append(_checked(await create(line, body, wait)))
    finally:
        await line.close()
    return times


def _checked(turn: Turn) -> Turn:
    if turn.failure is not None:
        raise CommandError(f"the server answered with an error: {turn.failure}. Check --model and the key.")
    return turn


def _as_json(target: Target, times: Times) -> dict[str, Any]:
    def shown(turn: Turn | None) -> dict[str, Any] | None:
        if turn is None:
            return None
        facts = asdict(turn)
        return {
            "first_event_seconds": facts["first"],
            "total_seconds": facts["total"],
            "bytes_sent": facts["sent"],
        }

    return {
        "endpoint": target.endpoint.label,
        "server": target.endpoint.profile.name,
        "local": target.local,
        "dial_seconds": times.dial,
        "ping_seconds": {"median": statistics.median(times.pings), "each": times.pings},
        "warm_up": shown(times.warm_up),
        "responses": [shown(turn) for turn in times.responses],
    }


def _table(target: Target, times: Times, bold: Callable[[str], str]) -> list[str]:
    lines = [
        target.endpoint.label,
        bold(f"{'':<14}{'n':>4}{'min':>12}{'median':>12}{'max':>12}"),
        _row("dial", [times.dial]),
        _row("ping", times.pings),
    ]
    if times.warm_up is not None:
        lines.append(_row("warm-up", [times.warm_up.total]))
    if times.responses:
        lines.append(_row("first event", [turn.first for turn in times.responses]))
        lines.append(_row("response", [turn.total for turn in times.responses]))
    if target.endpoint.loopback:
        lines += ["", *_LOCAL]
    return lines


def _row(label: str, seconds: Sequence[float]) -> str:
    shown = (min(seconds), statistics.median(seconds), max(seconds))
    return f"{label:<14}{len(seconds):>4}" + "".join(f"{value * 1000:>9.1f} ms" for value in shown)
