"""What the fault matrix found, cell by cell, and the table that is printed after a run."""

from __future__ import annotations

from collections.abc import Iterator

WAYS = ("invoke", "stream", "ainvoke", "astream")
PHASES = ("connect", "sent", "created", "text", "arguments", "end", "idle")

LEGEND = (
    "one letter each for invoke, stream, ainvoke, astream:",
    "A answered by the first send   R answered by a resend   D answered after dialing again",
    "H answered over HTTP           E the documented error   . cannot happen in this phase",
    "= the code does the same as in the row that is named",
)

# Faults that are one and the same to the code, and the row that stands for them in the other phases.
SAME: dict[str, str] = {}

_cells: dict[tuple[str, str, str], str] = {}
_order: list[str] = []


def note(kind: str, phase: str, way: str, letter: str) -> None:
    """Writes down how one cell ended."""
    if kind not in _order:
        _order.append(kind)
    _cells[kind, phase, way] = letter


def same(kind: str, row: str) -> None:
    """Says that a kind is the same to the code as another row."""
    SAME[kind] = row


def dump() -> list[list[list[str]]]:
    """What was noted in this process, to be carried to the one that prints."""
    return [[[*cell, letter] for cell, letter in _cells.items()], [list(pair) for pair in SAME.items()]]


def load(dumped: list[list[list[str]]]) -> None:
    """Adds what another process noted."""
    for kind, phase, way, letter in dumped[0]:
        note(kind, phase, way, letter)
    for kind, row in dumped[1]:
        same(kind, row)


def lines() -> Iterator[str]:
    """The table."""
    if not _cells:
        return
    width = max(map(len, _order))
    yield f"{'':{width}}  " + "  ".join(f"{phase:9}" for phase in PHASES)
    for kind in sorted(_order):
        row = []
        for phase in PHASES:
            letters = [_cells.get((kind, phase, way), "") for way in WAYS]
            empty = "=" if kind in SAME else "."
            row.append("".join(letter or empty for letter in letters) if any(letters) else empty)
        named = f"  = {SAME[kind]}" if kind in SAME else ""
        yield f"{kind:{width}}  " + "  ".join(f"{cell:9}" for cell in row).rstrip() + named
    totals = {letter: list(_cells.values()).count(letter) for letter in "ARDHE"}
    yield ""
    yield from LEGEND
    yield f"{len(_cells)} cells: " + ", ".join(f"{count} {letter}" for letter, count in totals.items())
