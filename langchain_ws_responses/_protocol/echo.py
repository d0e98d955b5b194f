"""Passing over the tools that come back in every response.

The server echoes the request in its terminal events. For an agent that is mostly the schemas of its tools, many times
the size of the answer, and nobody here reads them. What came back before in the same bytes is cut out before the frame
is parsed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["Echo"]

# As servers write it. A quote inside a JSON string is escaped, so this is no part of a text.
_KEY = b',"tools":'
_BEGIN = _KEY + b"[{"
_MOST_PLACES = 8
_LEAST, _LONGEST = 1024, 64 * 1024
_MOST_TEXTS = 16
# To find where a text ends takes several times as long as to parse it. What one look costs; each frame whose tools are
# not known brings one.
_PRICE, _CREDIT = 16, 128
_MARK = "\ufffe the tools of the request \ufffe"
_INSTEAD = _KEY + json.dumps(_MARK).encode()


class Echo:
    """Knows the tools that were echoed lately, as they are written. Safe from any thread."""

    def __init__(self) -> None:
        # The last used first. Replaced as a whole: at worst a thread forgets what another one has just found.
        self._texts: tuple[bytes, ...] = ()
        self._credit = _CREDIT

    def parse(self, raw: bytes, loads: Callable[[bytes], Any]) -> Any:
        """Parses a frame.

        Args:
            raw: The frame.
            loads: The JSON parser.

        Returns:
            What `loads` returns; without the `tools` of its `response` where those have come back before.

        Raises:
            ValueError: Whatever `loads` raises. What is passed over was read before: only the rest can be broken.
        """
        for at in _places(raw):
            for text in self._texts:
                if raw.startswith(text, at):
                    if self._texts[0] is not text:
                        self._put_first(text)
                    data = _parse_without(raw, at, at + len(text), loads)
                    if data is not None:
                        return data
        data = loads(raw)
        if self._credit >= _PRICE:
            self._learn(raw, loads)
        else:
            self._credit += 1
        return data

    def _learn(self, raw: bytes, loads: Callable[[bytes], Any]) -> None:
        for at in _places(raw):
            self._credit -= _PRICE
            try:
                # One character for each byte, so that positions are the same; only the end is asked for.
                _, size = json.JSONDecoder().raw_decode(raw[at : at + _LONGEST].decode("latin-1"), len(_KEY))
            except (ValueError, RecursionError):
                # Too long; or with a number of thousands of digits, or deeper than this parser goes.
                continue
            stop = at + size
            if size >= _LEAST and _parse_without(raw, at, stop, loads) is not None:
                self._put_first(raw[at:stop])
                return

    def _put_first(self, text: bytes) -> None:
        others = tuple(known for known in self._texts if known != text)
        self._texts = (text, *others)[:_MOST_TEXTS]


def _places(raw: bytes) -> Iterator[int]:
    """Where tools may stand: those of an output item too, or those inside of a tool."""
    at = -1
    for _ in range(_MOST_PLACES):
        at = raw.find(_BEGIN, at + 1)
        if at < 0:
            return
        yield at


def _parse_without(raw: bytes, start: int, stop: int, loads: Callable[[bytes], Any]) -> Any:
    """Parses a frame with something else in the place of some tools; None if those are not the response's own."""
    data = loads(raw[:start] + _INSTEAD + raw[stop:])
    response = data.get("response") if isinstance(data, dict) else None
    if not isinstance(response, dict) or response.get("tools") != _MARK:
        return None
    del response["tools"]
    return data
