"""A trace as one self-contained page: no network, light and dark, readable without colour and without scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from datetime import datetime, timezone
from html import escape
from importlib.resources import files
from statistics import median
from typing import Any

from .._demo.report import human_bytes, human_seconds
from .._version import __version__
from .reading import Attempt, Trace
from .totals import SORTS, human_gap, totals
from .waterfall import LETTERS, NAMES, patterns, waterfall

__all__ = ["as_page"]

_MEANINGS = {
    "delta": "only what is new",
    "full": "the whole conversation",
    "warmup": "read in ahead, nothing generated",
    "resend": "sent again after a failure",
    "http": "not over a socket",
}
_COLUMNS = (
    ("#", True),
    ("at", True),
    ("sent as", False),
    ("because", False),
    ("connection", False),
    ("lane", False),
    ("items", True),
    ("bytes", True),
    ("first event", True),
    ("longest gap", True),
    ("all", True),
    ("outcome", False),
)


def as_page(trace: Trace, name: str) -> str:
    """Writes the page.

    Args:
        trace: The trace.
        name: What to call it.

    Returns:
        An HTML document. Whatever the trace says is escaped, and the page's policy runs no script but its own.
    """
    script = _asset("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    every = totals(trace)
    title = f"Trace {name}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark"><meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{_asset('page.css')}</style></head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(_subtitle(trace, every))}</p></header>\n<main>\n"
        f"{_cards(trace, every)}\n"
        '<section aria-labelledby="h-waterfall"><h2 id="h-waterfall">Waterfall</h2>'
        f'{_legend(every)}<div class="scroll" tabindex="0" role="region" aria-label="Waterfall, scrolls sideways">'
        f"{waterfall(trace) if trace.attempts or trace.connections else '<p>No turns in this trace.</p>'}</div>"
        '<p class="hint">Point at a bar, or reach it with the Tab key, to see its bytes and its reason; Enter leads to '
        "its row. The pale strip on top of a bar is the wait for the first event. Arrows lead from a failed attempt "
        "to the next one; a fork continues a response on another lane; long pauses are cut.</p></section>\n"
        f"{_table(trace)}\n{_reasons(every)}\n</main>\n"
        f"<footer>langchain-ws-responses {escape(__version__)}. This page holds no content, no key and no response id."
        '</footer>\n<div id="tip" role="tooltip" hidden></div>\n'
        f"<script>{script}</script>\n</body></html>\n"
    )


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _subtitle(trace: Trace, every: dict[str, Any]) -> str:
    begun = datetime.fromtimestamp(trace.started, tz=timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    parts = [f"from {begun}", f"{human_seconds(every['seconds'])} long"]
    if every["processes"] > 1:
        parts.append(f"{every['processes']} processes")
    if trace.skipped:
        parts.append(f"{trace.skipped} lines could not be read")
    if trace.dropped:
        parts.append(f"{trace.dropped} events are missing because the disk was too slow")
    return ", ".join(parts)


def _cards(trace: Trace, every: dict[str, Any]) -> str:
    sizes = {
        mode: [one.bytes for one in trace.attempts if one.mode == mode and one.bytes]
        for mode in ("delta", "full")
    }
    typical = " / ".join(human_bytes(median(some)) if some else "-" for some in sizes.values())
    cards = (
        ("turns, requests", f"{every['turns']}, {every['requests']}"),
        ("sent", human_bytes(every["bytes_sent"])),
        ("received", human_bytes(every["bytes_received"])),
        ("delta / full, median", typical),
        ("first event, median", human_seconds(every["median_first_event"])),
        ("longest gap", human_gap(every["longest_gap"])),
        ("connections, lanes", f"{every['connections']}, {every['lanes']}"),
        ("recovered, failed", f"{every['recoveries']}, {every['failures']}"),
    )
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in cards)
    return f'<dl class="cards" aria-label="Totals">{items}</dl>'


def _swatch(sort: str) -> str:
    return (
        f'<svg class="swatch" width="26" height="18" aria-hidden="true"><rect width="26" height="18" rx="3" '
        f'fill="url(#p-{sort})"/><text class="letter" x="13" y="13">{LETTERS[sort]}</text></svg>'
    )


def _legend(every: dict[str, Any]) -> str:
    items = "".join(
        f"<li>{_swatch(sort)}<b>{every[sort]}</b> {NAMES[sort]}<small>{_MEANINGS[sort]}</small></li>"
        for sort in SORTS
    )
    hidden = f'<svg width="0" height="0" aria-hidden="true"><defs>{patterns()}</defs></svg>'
    return f'{hidden}<ul class="legend" aria-label="Legend">{items}</ul>'


def _table(trace: Trace) -> str:
    head = "".join(
        f'<th scope="col"{" class=n" if number else ""}>{escape(name)}</th>' for name, number in _COLUMNS
    )
    rows = "".join(_row(number, one, trace) for number, one in enumerate(trace.attempts, 1))
    return (
        '<section aria-labelledby="h-table"><h2 id="h-table">Requests</h2><div class="scroll" tabindex="0" '
        'role="region" aria-label="Requests, scrolls sideways"><table><caption>Every request, in the order of '
        f"sending</caption><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _row(number: int, one: Attempt, trace: Trace) -> str:
    sort = one.sort if one.sort in NAMES else "full"
    whole = one.ended - one.sent if one.ended is not None else None
    then = f"; then {one.follows}" if one.follows else ""
    values = (
        str(number),
        f"+{one.sent - trace.started:.3f} s",
        "",
        f"{one.reason}{' (fork)' if one.fork else ''}" or "-",
        one.connection or "-",
        one.lane or "-",
        str(one.items),
        human_bytes(one.bytes),
        human_seconds(one.first_event),
        human_gap(one.longest_gap),
        human_seconds(whole),
        f"{one.outcome}{then}",
    )
    cells = "".join(_cells(values, sort, failed=bool(one.failure)))
    return f'<tr id="r{number}" data-sort="{sort}">{cells}</tr>'


def _cells(values: tuple[str, ...], sort: str, *, failed: bool) -> Iterator[str]:
    for (name, number), value in zip(_COLUMNS, values, strict=True):
        if name == "sent as":
            yield f"<td>{_swatch(sort)} {NAMES[sort]}</td>"
            continue
        if name == "outcome":
            yield f'<td class="outcome{" failed" if failed else ""}">{escape(value)}</td>'
            continue
        yield f"<td{' class=n' if number else ''}>{escape(value)}</td>"


def _reasons(every: dict[str, Any]) -> str:
    if not every["full_reasons"]:
        return ""
    items = "".join(
        f"<li><code>{escape(reason)}</code> {count}</li>" for reason, count in every["full_reasons"].items()
    )
    return (
        '<section aria-labelledby="h-reasons"><h2 id="h-reasons">Why everything had to be sent</h2>'
        f'<ul class="reasons">{items}</ul></section>'
    )
