"""The server's answers, serialised before anybody asks.

An answer is one run of bytes with marks of fixed width in the places of ids; to answer means to replace the
marks. As the service does, `response.created`, `response.in_progress` and the terminal event echo the
request's tools.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from .workload import ARGUMENTS, CALL_DELTAS, SYSTEM, TEXT_DELTAS, TOOL_NAME, TOOLS, pieces

__all__ = ["Body", "body_for"]

# Neither character occurs in the texts of the workload.
_ID = "~" * 12
_PARENT = "^" * 12
_LANE = "|"
_CREATED_AT = 1_790_000_000


class Body:
    """One answer in the three forms in which it can be asked for.

    Args:
        events: The events, with marks in the places of ids.
        parent: Whether the response names the one that it continues.
    """

    def __init__(self, events: list[dict[str, Any]], *, parent: bool) -> None:
        self._parent = parent
        self._events = events
        self._sockets: dict[int, bytes] = {}
        self._sse = b"".join(
            b"event: " + event["type"].encode() + b"\ndata: " + _dump(event) + b"\n\n" for event in events
        )
        self._json = _dump(events[-1]["response"])
        self.count = len(events)

    def frames(self, number: str, parent: str, lane: bytes) -> bytes:
        """Returns the answer as WebSocket frames, ready for the transport."""
        template = self._sockets.get(len(lane))
        if template is None:
            name = {"stream_id": _LANE * len(lane)} if lane else {}
            template = b"".join(_frame(_dump({**event, **name})) for event in self._events)
            self._sockets[len(lane)] = template
        filled = self._fill(template, number, parent)
        return filled.replace(_LANE.encode() * len(lane), lane) if lane else filled

    def sse(self, number: str, parent: str) -> bytes:
        """Returns the answer as server-sent events."""
        return self._fill(self._sse, number, parent)

    def json(self, number: str, parent: str) -> bytes:
        """Returns the finished response."""
        return self._fill(self._json, number, parent)

    def _fill(self, template: bytes, number: str, parent: str) -> bytes:
        filled = template.replace(_ID.encode(), number.encode())
        return filled.replace(_PARENT.encode(), parent.encode()) if self._parent else filled


@cache
def body_for(model: str, *, text: bool, parent: bool) -> Body:
    """Makes the answer of a model.

    Args:
        model: The request's, which is echoed.
        text: Text instead of a tool call; as many deltas as the name says, if it says so.
        parent: Whether the request continued a response.
    """
    kind, _, count = model.removeprefix("bench-").partition("-")
    deltas = int(count) if kind == "text" else TEXT_DELTAS
    head = _response(model, parent=parent)
    middle, item = _text(deltas) if text else _call()
    usage = {
        "input_tokens": 4000,
        "input_tokens_details": {"cached_tokens": 3000},
        "output_tokens": 50,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 4050,
    }
    final = {**head, "status": "completed", "output": [item], "usage": usage, "completed_at": _CREATED_AT + 1}
    events = [
        {"type": "response.created", "response": head},
        {"type": "response.in_progress", "response": head},
        *middle,
        {"type": "response.completed", "response": final},
    ]
    return Body(
        [{"type": event.pop("type"), "sequence_number": n, **event} for n, event in enumerate(events)],
        parent=parent,
    )


def _response(model: str, *, parent: bool) -> dict[str, Any]:
    absent = dict.fromkeys(
        (
            "error",
            "incomplete_details",
            "instructions",
            "max_output_tokens",
            "max_tool_calls",
            "user",
            "usage",
        )
    )
    return {
        "id": f"resp_{_ID}",
        "object": "response",
        "created_at": _CREATED_AT,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        **absent,
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": f"resp_{_PARENT}" if parent else None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "tool_choice": "auto",
        "tools": list(TOOLS),
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "metadata": {},
    }


def _call() -> tuple[list[dict[str, Any]], dict[str, Any]]:
    place = {"item_id": f"fc_{_ID}", "output_index": 0}
    item = {
        "id": f"fc_{_ID}",
        "type": "function_call",
        "status": "completed",
        "arguments": ARGUMENTS,
        "call_id": f"call_{_ID}",
        "name": TOOL_NAME,
    }
    started = {**item, "status": "in_progress", "arguments": ""}
    kind = "response.function_call_arguments"
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": started},
        *(
            {"type": f"{kind}.delta", **place, "delta": part, "obfuscation": "x7Qm2Lp9Zt"[: n % 10]}
            for n, part in enumerate(pieces(ARGUMENTS, CALL_DELTAS))
        ),
        {"type": f"{kind}.done", **place, "arguments": ARGUMENTS},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
    ], item


def _text(deltas: int) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    words = [f"{word} " for word in SYSTEM.split()]
    said = [words[n % len(words)] for n in range(deltas)]
    place = {"item_id": f"msg_{_ID}", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "annotations": [], "logprobs": [], "text": "".join(said)}
    item = {
        "id": f"msg_{_ID}",
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }
    started = {**item, "status": "in_progress", "content": []}
    kind = "response.output_text"
    return [
        {"type": "response.output_item.added", "output_index": 0, "item": started},
        {"type": "response.content_part.added", **place, "part": {**part, "text": ""}},
        *(
            {
                "type": f"{kind}.delta",
                **place,
                "delta": word,
                "logprobs": [],
                "obfuscation": "x7Qm2Lp9Zt"[: n % 10],
            }
            for n, word in enumerate(said)
        ),
        {"type": f"{kind}.done", **place, "text": part["text"], "logprobs": []},
        {"type": "response.content_part.done", **place, "part": part},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
    ], item


def _dump(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _frame(payload: bytes) -> bytes:
    """One unmasked text frame of RFC 6455."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload
