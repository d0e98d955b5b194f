"""Keeps secrets out of recordings: what is replaced, and the check that nothing known is left. Pure: no I/O."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any
from urllib.parse import quote

__all__ = ["ALLOWED_HEADERS", "SCRUBBED", "Scrubber", "Secrets", "allowed", "check_allowed", "scrub_key_like"]

Scrubber = Callable[[str], str]

SCRUBBED = "<scrubbed>"
# What a replay or a reader has a use for. Everything else stays out, whatever it is called.
ALLOWED_HEADERS = frozenset(
    {"content-type", "openai-processing-ms", "openai-version", "retry-after", "retry-after-ms"}
)
_NEVER = re.compile(r"auth|cookie|key|token|secret|session|credential|password|organization|project", re.I)
_KEY_LIKE = re.compile(
    r"""
      \b(?:sk|pk|rk)-[A-Za-z0-9_*\-]{12,}          # OpenAI and those that took its form; also the masked form
    | \bxai-[A-Za-z0-9_\-]{16,}
    | \bgh[pousr]_[A-Za-z0-9]{20,} | \bgithub_pat_[A-Za-z0-9_]{20,} | \bglpat-[A-Za-z0-9_\-]{16,}
    | \b(?:AKIA|ASIA)[0-9A-Z]{16}\b
    | \bAIza[0-9A-Za-z_\-]{30,}
    | \bxox[abeprs]-[A-Za-z0-9\-]{10,}
    | \bhf_[A-Za-z0-9]{20,} | \blsv2_[a-z]{2}_[A-Za-z0-9_]{16,}
    | \beyJ[A-Za-z0-9_\-]{8,}\.eyJ[A-Za-z0-9_\-]{8,}\.[A-Za-z0-9_\-]*
    | -----BEGIN\ [A-Z ]*PRIVATE\ KEY-----.*?-----END\ [A-Z ]*PRIVATE\ KEY-----
    | (?<=earer\ )[A-Za-z0-9._~+/=\-]{16,}
    | (?<=://)[^/\s:@"]+:[^/\s@"]+(?=@)            # user info of a URL
    """,
    re.VERBOSE | re.DOTALL,
)
# Names of the protocol, by which the parts of a recording find each other.
_STRUCTURE = frozenset(
    {"call_id", "id", "item_id", "object", "previous_response_id", "response_id", "role", "status", "type"}
)
# Shorter ones would be found everywhere.
_SHORTEST = 6


def scrub_key_like(text: str) -> str:
    """Replaces what looks like a key, a token or a password in a URL."""
    return _KEY_LIKE.sub(SCRUBBED, text)


def check_allowed(names: Iterable[str]) -> frozenset[str]:
    """Checks header names that are to be recorded as well.

    Raises:
        ValueError: One of them carries credentials.
    """
    wanted = frozenset(name.lower() for name in names)
    bad = sorted(name for name in wanted if _NEVER.search(name))
    if bad:
        raise ValueError(f"the header {bad[0]!r} may carry credentials and is never recorded")
    return ALLOWED_HEADERS | wanted


def allowed(headers: Mapping[str, str], names: frozenset[str]) -> dict[str, str]:
    """Picks the headers that may be recorded."""
    return {name.lower(): value for name, value in headers.items() if name.lower() in names}


class Secrets:
    """Replaces secrets in data, and finds those that are left.

    Args:
        scrubbers: Functions of the user, applied to every string that is no name of the protocol.
        known: Secrets by a name that may be shown.
    """

    def __init__(self, scrubbers: Iterable[Scrubber] = (), known: Mapping[str, str] | None = None) -> None:
        self._scrubbers = tuple(scrubbers)
        self._known: dict[str, str] = {}
        for name, value in (known or {}).items():
            self.learn(name, value)

    def learn(self, name: str, value: str) -> None:
        """Takes note of a secret, under a name that may be shown."""
        value = value.strip()
        if len(value) >= _SHORTEST:
            self._known[value] = name

    def text(self, text: str) -> str:
        """Scrubs one string."""
        for secret in self._known:
            text = text.replace(secret, SCRUBBED)
        text = scrub_key_like(text)
        for scrubber in self._scrubbers:
            text = scrubber(text)
        return text

    def data(self, value: Any) -> Any:
        """Scrubs every string of JSON data but names of the protocol; streamed text as the whole that it is."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, list):
            return [self.data(item) for item in self._joined(value)]
        if isinstance(value, dict):
            return {
                key: inner if key in _STRUCTURE and isinstance(inner, str) else self.data(inner)
                for key, inner in value.items()
            }
        return value

    def _joined(self, values: list[Any]) -> list[Any]:
        """Where the deltas of a text together hold what must go, puts the scrubbed whole into the first of them."""
        runs: dict[str, list[int]] = {}
        for index, value in enumerate(values):
            if isinstance(value, dict) and isinstance(value.get("delta"), str):
                runs.setdefault(_run_of(value), []).append(index)
        changed = list(values)
        for indexes in runs.values():
            whole = "".join(values[index]["delta"] for index in indexes)
            if (scrubbed := self.text(whole)) != whole:
                for index in indexes:
                    changed[index] = {**values[index], "delta": scrubbed if index == indexes[0] else ""}
        return changed

    def left_in(self, value: Any) -> list[str]:
        """Names of the known secrets that data still holds: plainly, encoded, or cut into deltas."""
        shown = json.dumps(value, ensure_ascii=False) + json.dumps(value)
        shown += "".join(_whole_texts(value))
        return sorted(
            {name for secret, name in self._known.items() if any(s in shown for s in _forms(secret))}
        )


def _run_of(event: Mapping[str, Any]) -> str:
    keys = ("type", "item_id", "output_index", "content_index", "summary_index")
    return repr([event.get(key) for key in keys])  # in data of others any of them may be a list


def _whole_texts(value: Any) -> Iterable[str]:
    """The texts that the deltas in data add up to."""
    if isinstance(value, dict):
        for inner in value.values():
            yield from _whole_texts(inner)
    elif isinstance(value, list):
        texts: dict[str, str] = {}
        for item in value:
            if isinstance(item, dict) and isinstance(item.get("delta"), str):
                texts[_run_of(item)] = texts.get(_run_of(item), "") + item["delta"]
            else:
                yield from _whole_texts(item)
        yield from texts.values()


def _forms(secret: str) -> set[str]:
    """How a secret may be written."""
    encoded = base64.b64encode(secret.encode()).decode().rstrip("=")
    # Only the part that does not depend on what follows.
    whole = encoded[: len(secret.encode()) // 3 * 4]
    return {secret, json.dumps(secret)[1:-1], quote(secret, safe=""), whole} - {""}
