"""What a trace comes to: totals, and all of it as data."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import asdict
from typing import Any

from .reading import Attempt, Trace

__all__ = ["SORTS", "as_json", "human_gap", "totals"]

SORTS = ("delta", "full", "warmup", "resend", "http")


def totals(trace: Trace) -> dict[str, Any]:
    """Adds a trace up.

    Returns:
        Counts, bytes and seconds by documented names.
    """
    sent = [one for one in trace.attempts if one.sort != "refused"]
    sorts = Counter(one.sort for one in sent)
    firsts = [one.first_event for one in sent if one.first_event is not None]
    return {
        "seconds": round(trace.seconds, 6),
        "processes": len({group.partition("/")[0] for group in trace.groups}),
        "connections": len(trace.connections),
        "lanes": sum(len(one.lanes) for one in trace.connections),
        "turns": len({(one.group, one.turn or id(one)) for one in trace.attempts}),
        "requests": len(sent),
        **{sort: sorts[sort] for sort in SORTS},
        "bytes_sent": sum(one.bytes for one in sent),
        "bytes_received": sum(one.received for one in sent),
        "full_reasons": dict(Counter(one.reason for one in sent if one.mode == "full").most_common()),
        "recoveries": sum(bool(one.again) for one in trace.attempts),
        "failures": sum(_failed(one) for one in trace.attempts),
        "failed_dials": len(trace.dials),
        "median_first_event": round(statistics.median(firsts), 6) if firsts else None,
        "longest_gap": round(max((one.longest_gap for one in sent), default=0.0), 6),
        "events_dropped": trace.dropped,
        "lines_skipped": trace.skipped,
    }


def _failed(one: Attempt) -> bool:
    """Whether its caller was told of a failure."""
    return bool(one.failure) and not one.again


def as_json(trace: Trace) -> dict[str, Any]:
    """All of a trace as plain data; times are seconds since the epoch."""
    return {
        "started": trace.started,
        "totals": totals(trace),
        "connections": [asdict(one) for one in trace.connections],
        "requests": [{**asdict(one), "sort": one.sort, "fork": one.fork} for one in trace.attempts],
        "dials": [asdict(one) for one in trace.dials],
    }


def human_gap(seconds: float) -> str:
    """A pause, or a dash where there was none worth telling."""
    from .._demo.report import human_seconds

    return human_seconds(seconds) if seconds >= 0.0005 else "-"
