"""What every client does: the same conversation, the same tools, the same answers.

The model's name tells the server how to answer, because a name is the one thing that every client passes on
as it is: `bench-call-30` calls a tool until the 30th request of a conversation and answers that one with
text, `bench-text-2000` answers with 2,000 text deltas.
"""

from __future__ import annotations

import json
from itertools import cycle, islice
from typing import Any

__all__ = [
    "ARGUMENTS",
    "PROMPT",
    "SYSTEM",
    "TEXT_DELTAS",
    "TOOLS",
    "TOOL_NAME",
    "TOOL_OUTPUT",
    "call_model",
    "text_model",
]

_TEXT = (
    "agent reads file path search result line number value table query index module function test error log "
    "build change review patch merge branch commit state cache token socket frame lane turn reply plan step"
)
_WORDS = _TEXT.split()
_SYSTEM_BYTES = 2 * 1024
_SCHEMA_BYTES = 8 * 1024
_OUTPUT_BYTES = 4 * 1024
_TOOL_COUNT = 12
TEXT_DELTAS = 40
"""Deltas of a text answer that ends a rollout, about as many as a call's arguments have."""
CALL_DELTAS = 40


def _prose(size: int, start: int = 0) -> str:
    """Returns `size` characters of words, the same every time."""
    words = " ".join(islice(cycle(_WORDS[start:] + _WORDS[:start]), size // 4 + 2))
    return words[:size].rstrip().ljust(size, ".")


def _tool(number: int, size: int) -> dict[str, Any]:
    """Makes a tool in the form of the Responses API whose JSON has `size` bytes."""
    names = _WORDS[number : number + 4]
    tool = {
        "type": "function",
        "name": f"tool_{number:02d}",
        "description": "",
        "parameters": {
            "type": "object",
            "properties": {
                name: {"type": "string", "description": _prose(60, number + place)}
                for place, name in enumerate(names)
            },
            "required": names[:2],
            "additionalProperties": False,
        },
        "strict": False,
    }
    tool["description"] = _prose(size - len(json.dumps(tool, separators=(",", ":"))), number)
    return tool


SYSTEM = _prose(_SYSTEM_BYTES)
PROMPT = "Find out why the build fails, and mend it."
TOOL_OUTPUT = _prose(_OUTPUT_BYTES, 7)
TOOLS: tuple[dict[str, Any], ...] = tuple(_tool(n, _SCHEMA_BYTES // _TOOL_COUNT) for n in range(_TOOL_COUNT))
TOOL_NAME: str = TOOLS[0]["name"]
ARGUMENTS: str = json.dumps({name: _prose(45, 11) for name in TOOLS[0]["parameters"]["properties"]})


def call_model(requests: int) -> str:
    """Names the model that ends a conversation at its `requests`-th request."""
    return f"bench-call-{requests}"


def text_model(deltas: int) -> str:
    """Names the model that answers at once, in so many deltas."""
    return f"bench-text-{deltas}"


def pieces(text: str, count: int) -> list[str]:
    """Cuts a text into `count` parts of about the same length."""
    return [text[len(text) * n // count : len(text) * (n + 1) // count] for n in range(count)]
