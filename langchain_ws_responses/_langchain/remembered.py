"""What is known of objects that cannot be hashed, for as long as they live."""

from __future__ import annotations

import weakref
from typing import Any, TypeVar

__all__ = ["Remembered", "Table"]


class Remembered(weakref.ref[Any]):
    """What is known of one object: the reference itself, so that a table of thousands has one object for each."""

    __slots__ = ("key",)

    key: int


Entry = TypeVar("Entry", bound=Remembered)


class Table(dict[int, Entry]):
    """Entries by the `id` of their object, the oldest first. An entry whose object died is gone.

    There is no lock, which a thread that forks could take along: every step is one operation of a dict. At worst an
    object's end takes what another thread has just entered for a new object in the same place, which is then found out
    anew.

    Args:
        most: How many entries are kept.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        # One bound method for all entries.
        self._gone = self._forget

    def entry(self, kind: type[Entry], of: Any) -> Entry:
        """Makes an entry, which `add` may put in later."""
        made = kind(of, self._gone)
        made.key = id(of)
        return made

    def add(self, entry: Entry) -> None:
        """Puts an entry in as the newest; the oldest makes room for it."""
        self.pop(entry.key, None)
        self[entry.key] = entry
        while len(self) > self.most:
            try:
                self.pop(next(iter(self)), None)
            except (RuntimeError, StopIteration):
                # Another thread came between the two steps, or an object's end.
                continue

    def _forget(self, entry: Any) -> None:
        key = entry.key
        if self.get(key) is entry:
            # Not `del`: another thread may have been faster.
            self.pop(key, None)
