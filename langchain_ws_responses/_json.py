"""JSON for the wire: `orjson`, with the standard library for what `orjson` refuses.

`orjson` refuses lone surrogates, integers above 64 bits and other things that the standard library accepts;
a conversation that worked over HTTP must not fail here because of them.
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import Any

import orjson

__all__ = ["canonical", "dumps", "loads"]

# Keys that are no strings are rare, and to allow for them doubles the time: they are tried in a second round.
_PLAIN = (0, orjson.OPT_NON_STR_KEYS)
_SORTED = (orjson.OPT_SORT_KEYS, orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
# A value that is null, or a string that looks like one. One pattern: to look through a long text takes as long as to
# write it.
_NULL = re.compile(rb"null(?<=[:\[,]null)")


def _default(value: Any) -> Any:
    """Turns a pydantic model (tools, schemas, content parts) into plain data."""
    dump = getattr(value, "model_dump", None)
    if dump is not None and not isinstance(value, type):
        return dump(mode="json", exclude_unset=True, by_alias=True)
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def _has_nan(value: Any, text: bytes) -> bool:
    """Whether `orjson` wrote `null` for a float that is not a number."""
    # Not every "null": the schema of nearly every tool has the type of that name.
    if _NULL.search(text) is None and text != b"null":
        return False
    # What is of a class of its own may not be comparable.
    with contextlib.suppress(Exception):
        # A number that is none was read again as None. The standard library's encoder takes four times as long.
        if orjson.loads(text) == value:
            return False
    try:
        json.dumps(value, default=_default, allow_nan=False)
    except ValueError:
        return True
    except TypeError:  # a type that only `orjson` knows
        return False
    return False


def dumps(value: Any) -> bytes:
    """Serialises a request.

    Args:
        value: Plain data; pydantic models are dumped as HTTP would.

    Returns:
        UTF-8 text without spaces.

    Raises:
        TypeError: Something in `value` has no JSON form.
        ValueError: A float is not a JSON number, or the structure is circular.
    """
    text = _written(value, _PLAIN)
    if text is not None:
        # `orjson` leaves its buffer as it grew, five times the text where that holds a long string; a request may
        # wait for its lane with hundreds of others.
        return bytes(memoryview(text))
    return json.dumps(value, default=_default, separators=(",", ":"), allow_nan=False).encode()


def canonical(value: Any) -> bytes:
    """Serialises `value` with sorted keys, so that equal data gives equal bytes."""
    text = _written(value, _SORTED)
    if text is not None:
        return text
    return json.dumps(value, default=_default, separators=(",", ":"), sort_keys=True).encode()


def _written(value: Any, rounds: tuple[int, int]) -> bytes | None:
    """What `orjson` writes; None where it refuses the value or would write it wrongly."""
    for options in rounds:
        try:
            text = orjson.dumps(value, _default, options)
        except orjson.JSONEncodeError:
            continue
        return None if _has_nan(value, text) else text
    return None


def loads(text: str | bytes) -> Any:
    """Parses one frame.

    Raises:
        ValueError: The text is not JSON, or not UTF-8.
    """
    return orjson.loads(text)
