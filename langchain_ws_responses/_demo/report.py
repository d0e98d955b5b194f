"""Shows two runs side by side, for people and for programs."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from .measure import Run

__all__ = ["as_json", "as_table", "differences", "human_bytes", "human_seconds", "ratios", "wrapped"]

_WIDTH = 79
_COLUMNS = (33, 14, 14, 16)


def human_bytes(count: float) -> str:
    """Bytes with three digits and a decimal unit."""
    for unit in ("B", "kB", "MB"):
        if count < 999.5 or unit == "MB":
            break
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" or count >= 99.95 else f"{count:.1f} {unit}"


def human_seconds(seconds: float | None) -> str:
    """Seconds, or milliseconds where that reads better."""
    if seconds is None:
        return "-"
    if seconds >= 0.9995:
        return f"{seconds:.2f} s"
    return f"{seconds * 1000:.1f} ms" if seconds < 0.09995 else f"{seconds * 1000:.0f} ms"


def _ratio(http: float | None, socket: float | None) -> float | None:
    return round(http / socket, 3) if http is not None and socket else None


def ratios(http: Run, socket: Run) -> dict[str, float | None]:
    """How many times more HTTP took."""
    return {
        "bytes_sent": _ratio(http.bytes, socket.bytes),
        "tool_output_to_request_seconds": _ratio(http.gap, socket.gap),
        "total_seconds": _ratio(http.seconds, socket.seconds),
    }


def differences(http: Run, socket: Run) -> list[str]:
    """What differed between the runs: tool calls, their outputs, or the answer."""
    found = []
    if [call[:2] for call in http.calls] != [call[:2] for call in socket.calls]:
        found.append("tool calls")
    elif http.calls != socket.calls:
        found.append("tool outputs")
    if http.answer != socket.answer:
        found.append("final text")
    return found


def _run_json(run: Run) -> dict[str, Any]:
    return {
        "turns": len(run.sent),
        "tool_calls": [{"name": name, "args": args} for name, args, _ in run.calls],
        "full": run.count("full"),
        "delta": run.count("delta"),
        "bytes_sent": run.bytes,
        "bytes_per_turn": [request.bytes for request in run.sent],
        "connections": run.connections,
        "tool_output_to_request_seconds": {"median": run.gap, "each": run.gaps},
        "total_seconds": run.seconds,
        "answer": run.answer,
    }


def as_json(http: Run, socket: Run, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Makes the object that `--json` prints.

    Args:
        http: The run over HTTP.
        socket: The run over one socket.
        facts: What both runs have in common.
    """
    different = differences(http, socket)
    return {
        **facts,
        "same": not different,
        "differences": different,
        "runs": {"http": _run_json(http), "websocket": _run_json(socket)},
        "ratios": ratios(http, socket),
    }


def as_table(http: Run, socket: Run, bold: Callable[[str], str]) -> list[str]:
    """Makes the lines of the table.

    Args:
        http: The run over HTTP.
        socket: The run over one socket.
        bold: Emphasises a line.
    """
    ratio = ratios(http, socket)

    def row(label: str, left: str, right: str, times: float | None = None) -> str:
        shown = "" if times is None else f"{times:.1f} x" if times < 99.95 else f"{times:.0f} x"
        cells = (f"{label:<{_COLUMNS[0]}}", f"{left:>{_COLUMNS[1]}}", f"{right:>{_COLUMNS[2]}}")
        return ("".join(cells) + f"{shown:>{_COLUMNS[3]}}").rstrip()

    head = row("", "HTTP", "one socket") + f"{'HTTP / socket':>{_COLUMNS[3]}}"
    return [
        bold(head),
        "-" * sum(_COLUMNS),
        row("turns", str(len(http.sent)), str(len(socket.sent))),
        row("  sent in full", str(http.count("full")), str(socket.count("full"))),
        row("  sent as a delta", str(http.count("delta")), str(socket.count("delta"))),
        row("bytes sent", human_bytes(http.bytes), human_bytes(socket.bytes), ratio["bytes_sent"]),
        row(
            "  by the last turn alone",
            human_bytes(http.sent[-1].bytes),
            human_bytes(socket.sent[-1].bytes),
            _ratio(http.sent[-1].bytes, socket.sent[-1].bytes),
        ),
        row("connections", str(http.connections), str(socket.connections)),
        row(
            "tool output to request (median)",
            human_seconds(http.gap),
            human_seconds(socket.gap),
            ratio["tool_output_to_request_seconds"],
        ),
        row(
            "total time",
            human_seconds(http.seconds),
            human_seconds(socket.seconds),
            ratio["total_seconds"],
        ),
    ]


def wrapped(text: str) -> list[str]:
    """Breaks a paragraph into lines; text of a model may be long and hold anything."""
    printable = "".join(char if char.isprintable() else " " for char in text)
    return textwrap.wrap(textwrap.shorten(printable, 1200, placeholder=" ..."), _WIDTH)
