"""A trace as text: what happened on every lane, in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .._demo.report import human_bytes, human_seconds
from .reading import Attempt, Connection, Trace
from .totals import human_gap, totals

__all__ = ["as_text", "printable"]

_WORDS = {"warmup": "warm-up", "http": "HTTP", "refused": "not sent"}


def printable(text: str) -> str:
    """Text that cannot move a terminal's cursor."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def as_text(trace: Trace, bold: Callable[[str], str]) -> Iterator[str]:
    """Writes a trace line by line.

    Args:
        trace: The trace.
        bold: Emphasises a text.
    """
    yield (
        f"{'when':>11}  {'sent as':<8} {'because':<28} {'items':>5} {'bytes':>8} {'first':>7} {'gap':>7} {'all':>8}"
    )
    for connection in trace.connections:
        yield ""
        yield bold(printable(_title(trace, connection)))
        for lane in connection.lanes:
            yield f"  lane {printable(lane)}" if lane else "  no lanes"
            for one in trace.on_lane(connection, lane):
                yield from _attempt(trace, one)
    for title, some in (
        ("over HTTP", trace.over_http()),
        ("never sent", [one for one in trace.attempts if one.sort == "refused"]),
    ):
        if some:
            yield ""
            yield bold(title)
            for one in some:
                yield from _attempt(trace, one)
    if trace.dials:
        yield ""
        yield bold("failed dials")
        for dial in trace.dials:
            status = f" ({dial.status})" if dial.status is not None else ""
            then = "given up for" if dial.given_up else "tried again after"
            yield f"  {_when(trace, dial.at)}  {printable(dial.kind)}{status}, {then} {human_seconds(dial.wait)}"
    yield ""
    yield from _sum(trace, bold)


def _when(trace: Trace, at: float) -> str:
    return f"+{at - trace.started:.3f}s".rjust(9)


def _title(trace: Trace, one: Connection) -> str:
    where = f" of process {one.group.partition('/')[0]}" if len(trace.groups) > 1 else ""
    title = f"connection {one.label}{where} to {one.endpoint}"
    if one.opened is not None:
        dials = f" after {one.dials} dials" if one.dials > 1 else ""
        title += f", open at +{one.opened - trace.started:.3f}s{dials} in {human_seconds(one.dialing)}"
    if one.closed is not None:
        code = f", code {one.code}" if one.code is not None else ""
        lost = f", {_plural(one.lost, 'turn')} lost" if one.lost else ""
        title += f", gone at +{one.closed - trace.started:.3f}s ({one.why}{code}{lost})"
    return title


def _attempt(trace: Trace, one: Attempt) -> Iterator[str]:
    sort = _WORDS.get(one.sort, one.sort)
    reason = f"{one.reason} (fork)" if one.fork else one.reason
    seconds = one.ended - one.sent if one.ended is not None else None
    yield printable(
        f"  {_when(trace, one.sent)}  {sort:<8} {reason:<28} {one.items:>5} {human_bytes(one.bytes):>8} "
        f"{human_seconds(one.first_event):>7} {human_gap(one.longest_gap):>7} {human_seconds(seconds):>8}"
    )
    if one.outcome != "done":
        follows = f", then {one.follows}" if one.follows else ""
        yield printable(f"{'':13}{one.outcome}{follows}")


def _sum(trace: Trace, bold: Callable[[str], str]) -> Iterator[str]:
    every = totals(trace)
    # A turn that was sent again is one turn in two requests: the kinds behind it add up to the requests.
    requests = "" if every["requests"] == every["turns"] else f", {_plural(every['requests'], 'request')}"
    yield bold(
        f"{_plural(every['turns'], 'turn')}{requests} in {human_seconds(every['seconds'])}: {every['delta']} delta, "
        f"{every['full']} full, {_plural(every['warmup'], 'warm-up')}, {_plural(every['resend'], 'resend')}, "
        f"{every['http']} over HTTP"
    )
    waits = []
    if every["median_first_event"] is not None:
        waits.append(f"first event after {human_seconds(every['median_first_event'])} (median)")
    if (gap := human_gap(every["longest_gap"])) != "-":
        waits.append(f"longest gap {gap}")
    yield (
        f"{human_bytes(every['bytes_sent'])} sent, {human_bytes(every['bytes_received'])} received over "
        f"{_plural(every['connections'], 'connection')} and {_plural(every['lanes'], 'lane')}"
        + (f"; {', '.join(waits)}" if waits else "")
    )
    if every["full_reasons"]:
        reasons = ", ".join(f"{printable(reason)} {count}" for reason, count in every["full_reasons"].items())
        yield f"full because of: {reasons}"
    if every["recoveries"] or every["failures"]:
        yield f"{every['recoveries']} recovered, {every['failures']} failed for the caller"
    if trace.dropped:
        yield f"{_plural(trace.dropped, 'event')} missing: the disk was too slow"
    if trace.skipped:
        yield f"{_plural(trace.skipped, 'line')} could not be read"
