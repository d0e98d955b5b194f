"""Response objects, event sequences and error bodies, shaped like the recorded ones. Pure: no I/O."""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from langchain_ws_responses.testing._script import (
    CallPart,
    CustomCallPart,
    Output,
    Part,
    ReasoningPart,
    RefusalPart,
    TextPart,
)

__all__ = [
    "TERMINAL",
    "ApiError",
    "Event",
    "Player",
    "error_body",
    "error_frame",
    "new_id",
    "response_object",
]

Event = dict[str, Any]
Item = dict[str, Any]

TERMINAL = frozenset({"response.completed", "response.failed", "response.incomplete", "error"})


@dataclass
class ApiError(Exception):
    """A request that the service refuses."""

    status: int
    code: str | None
    message: str
    param: str | None = None
    type: str = "invalid_request_error"
    headers: Mapping[str, str] | None = field(default=None)

    def __str__(self) -> str:
        return self.message


def new_id(prefix: str) -> str:
    """Makes an id that no other server in this process has given out."""
    return f"{prefix}_{secrets.token_hex(24)}"


def _secret() -> str:
    return "gAAAAAB" + secrets.token_urlsafe(48)


def error_body(error: ApiError) -> dict[str, Any]:
    """Builds the body of an HTTP error."""
    return {
        "error": {
            "message": error.message,
            "type": error.type,
            "param": error.param,
            "code": error.code,
        }
    }


def error_frame(error: ApiError) -> Event:
    """Builds the `error` frame as the live service nests it."""
    frame: Event = {
        "type": "error",
        "status": error.status,
        "error": {
            "type": error.type,
            "code": error.code,
            "message": error.message,
            "param": error.param,
        },
    }
    if error.headers:
        frame["headers"] = dict(error.headers)
    return frame


def _tool(tool: Any) -> Any:
    if isinstance(tool, Mapping) and tool.get("type") == "function":
        return {"description": None, "strict": True, **tool}
    return tool


def response_object(body: Mapping[str, Any], response_id: str, created_at: int) -> dict[str, Any]:
    """Builds a response in progress that echoes the settings of `body`, nulls included."""

    def echo(key: str, default: Any = None) -> Any:
        value = body.get(key)
        return default if value is None else value

    wanted = echo("text", {})
    response: dict[str, Any] = {
        "id": response_id,
        "object": "response",
        "created_at": created_at,
        "status": "in_progress",
        "background": False,
        "completed_at": None,
        "error": None,
        "frequency_penalty": echo("frequency_penalty", 0.0),
        "incomplete_details": None,
        "instructions": echo("instructions"),
        "max_output_tokens": echo("max_output_tokens"),
        "max_tool_calls": echo("max_tool_calls"),
        "model": echo("model", ""),
        "moderation": None,
        "output": [],
        "parallel_tool_calls": echo("parallel_tool_calls", True),
        "presence_penalty": echo("presence_penalty", 0.0),
        "previous_response_id": echo("previous_response_id"),
        "prompt_cache_key": echo("prompt_cache_key"),
        "prompt_cache_retention": echo("prompt_cache_retention"),
        "reasoning": {"effort": None, "summary": None, **echo("reasoning", {})},
        "safety_identifier": echo("safety_identifier"),
        "service_tier": echo("service_tier", "auto"),
        "store": echo("store", True),
        "temperature": echo("temperature", 1.0),
        "text": {
            "format": {"type": "text"},
            "verbosity": "medium",
            **(wanted if isinstance(wanted, dict) else {}),
        },
        "tool_choice": echo("tool_choice", "auto"),
        "tools": [_tool(tool) for tool in echo("tools", [])],
        "top_logprobs": echo("top_logprobs", 0),
        "top_p": echo("top_p", 1.0),
        "truncation": echo("truncation", "disabled"),
        "usage": None,
        "user": echo("user"),
        "metadata": echo("metadata", {}),
    }
    conversation = body.get("conversation")
    if conversation is not None:
        response["conversation"] = {"id": conversation} if isinstance(conversation, str) else conversation
    return response


class Player:
    """Makes the events of one response, in order, each with its `sequence_number`.

    Args:
        response: The response in progress, from `response_object`.
        output: What it generates.
        encrypted: Whether reasoning items carry `encrypted_content`.
        obfuscation: Whether deltas are padded, as the service does by default.
        prefix: Finished items that come first, such as a compaction.
    """

    def __init__(
        self,
        response: dict[str, Any],
        output: Output,
        *,
        encrypted: bool = False,
        obfuscation: bool = True,
        prefix: tuple[Item, ...] = (),
    ) -> None:
        self.response = response
        self.items: list[Item] = []
        self.steered = False
        self._output = output
        self._encrypted = encrypted
        self._obfuscation = obfuscation
        self._prefix = prefix
        self._sequence = 0

    def event(self, kind: str, **fields: Any) -> Event:
        """Makes an event with the next `sequence_number`."""
        made = {"type": kind, **fields, "sequence_number": self._sequence}
        self._sequence += 1
        return made

    def opening(self) -> Iterator[Event]:
        """Yields `response.created` and `response.in_progress`."""
        yield self.event("response.created", response=dict(self.response))
        yield self.event("response.in_progress", response=dict(self.response))

    def body(self) -> Iterator[Event]:
        """Yields the events of the output items; stops early once `steered` is set."""
        for item in self._prefix:
            yield from self._whole(item)
        for part in self._output.parts:
            if self.steered:
                return
            yield from self._part(part)

    def closing(self, usage: Mapping[str, Any], completed_at: int, tier: str = "default") -> Event:
        """Makes the terminal event, whose response holds all items."""
        status, reason = self._output.status, self._output.reason
        calls = any(item["type"] in ("function_call", "custom_tool_call") for item in self.items)
        if self.steered and status == "completed" and not calls:
            status, reason = "incomplete", "steered"
        # The service encrypts reasoning anew for the terminal event; clients must not compare whole items.
        items = [
            {**item, "encrypted_content": _secret()}
            if item.get("type") == "reasoning" and self._encrypted and "encrypted_content" in item
            else item
            for item in self.items
        ]
        final = {
            **self.response,
            "status": status,
            "output": items,
            "usage": dict(usage),
            "service_tier": tier,
        }
        if status == "completed":
            final["completed_at"] = completed_at
        elif status == "incomplete":
            final["incomplete_details"] = {"reason": reason}
        else:
            final["error"] = {"code": self._output.code, "message": self._output.message}
            final["usage"] = None
        return self.event(f"response.{status}", response=final)

    def _part(self, part: Part) -> Iterator[Event]:
        if isinstance(part, TextPart):
            return self._text(part)
        if isinstance(part, RefusalPart):
            return self._refusal(part)
        if isinstance(part, ReasoningPart):
            return self._reasoning(part)
        if isinstance(part, CallPart):
            return self._call(part)
        return self._custom_call(part)

    def _pad(self, delta: str) -> dict[str, str]:
        return {"obfuscation": secrets.token_urlsafe(16)[: 16 - len(delta) % 16]} if self._obfuscation else {}

    def _added(self, item: Item) -> Event:
        return self.event("response.output_item.added", item=item, output_index=len(self.items))

    def _done(self, item: Item) -> Event:
        index = len(self.items)
        self.items.append(item)
        return self.event("response.output_item.done", item=item, output_index=index)

    def _whole(self, item: Item) -> Iterator[Event]:
        yield self._added(item)
        yield self._done(item)

    def _text(self, part: TextPart) -> Iterator[Event]:
        item: Item = {"id": new_id("msg"), "type": "message", "status": "in_progress", "content": []}
        if part.phase is not None:
            item["phase"] = part.phase
        item["role"] = "assistant"
        where = {"content_index": 0, "item_id": item["id"], "output_index": len(self.items)}
        empty = {"type": "output_text", "annotations": [], "logprobs": [], "text": ""}
        yield self._added(item)
        yield self.event("response.content_part.added", **where, part=empty)
        said: list[str] = []
        for chunk in part.chunks:
            if self.steered:
                break
            said.append(chunk)
            yield self.event(
                "response.output_text.delta", **where, delta=chunk, logprobs=[], **self._pad(chunk)
            )
        whole = "".join(said)
        full = {**empty, "text": whole}
        yield self.event("response.output_text.done", **where, logprobs=[], text=whole)
        yield self.event("response.content_part.done", **where, part=full)
        cut = len(said) < len(part.chunks) or self._output.status == "incomplete"
        yield self._done({**item, "status": "incomplete" if cut else "completed", "content": [full]})

    def _refusal(self, part: RefusalPart) -> Iterator[Event]:
        item: Item = {
            "id": new_id("msg"), "type": "message", "status": "in_progress", "content": [],
            "role": "assistant",
        }  # fmt: skip
        where = {"content_index": 0, "item_id": item["id"], "output_index": len(self.items)}
        yield self._added(item)
        yield self.event("response.content_part.added", **where, part={"type": "refusal", "refusal": ""})
        for chunk in part.chunks:
            yield self.event("response.refusal.delta", **where, delta=chunk, **self._pad(chunk))
        full = {"type": "refusal", "refusal": part.text}
        yield self.event("response.refusal.done", **where, refusal=part.text)
        yield self.event("response.content_part.done", **where, part=full)
        yield self._done({**item, "status": "completed", "content": [full]})

    def _reasoning(self, part: ReasoningPart) -> Iterator[Event]:
        item: Item = {"id": new_id("rs"), "type": "reasoning", "summary": []}
        secret = part.encrypted and self._encrypted
        where = {"item_id": item["id"], "output_index": len(self.items)}
        yield self._added({**item, "encrypted_content": _secret()} if secret else item)
        summary: list[dict[str, str]] = []
        for index, whole in enumerate(part.summary):
            place = {**where, "summary_index": index}
            yield self.event(
                "response.reasoning_summary_part.added", **place, part={"type": "summary_text", "text": ""}
            )
            half = (len(whole) + 1) // 2
            for chunk in filter(None, (whole[:half], whole[half:])):
                yield self.event(
                    "response.reasoning_summary_text.delta", **place, delta=chunk, **self._pad(chunk)
                )
            full = {"type": "summary_text", "text": whole}
            yield self.event("response.reasoning_summary_text.done", **place, text=whole)
            yield self.event("response.reasoning_summary_part.done", **place, part=full)
            summary.append(full)
        item = {**item, "summary": summary}
        yield self._done({**item, "encrypted_content": _secret()} if secret else item)

    def _call(self, part: CallPart) -> Iterator[Event]:
        item: Item = {
            "id": new_id("fc"), "type": "function_call", "status": "in_progress", "arguments": "",
            "call_id": part.call_id or new_id("call"), "name": part.name,
        }  # fmt: skip
        where = {"item_id": item["id"], "output_index": len(self.items)}
        yield self._added(item)
        half = (len(part.arguments) + 1) // 2
        for chunk in filter(None, (part.arguments[:half], part.arguments[half:])):
            yield self.event(
                "response.function_call_arguments.delta", delta=chunk, **where, **self._pad(chunk)
            )
        yield self.event("response.function_call_arguments.done", arguments=part.arguments, **where)
        yield self._done({**item, "status": "completed", "arguments": part.arguments})

    def _custom_call(self, part: CustomCallPart) -> Iterator[Event]:
        item: Item = {
            "id": new_id("ctc"), "type": "custom_tool_call", "status": "in_progress", "input": "",
            "call_id": part.call_id or new_id("call"), "name": part.name,
        }  # fmt: skip
        where = {"item_id": item["id"], "output_index": len(self.items)}
        yield self._added(item)
        if part.input:
            yield self.event(
                "response.custom_tool_call_input.delta", delta=part.input, **where, **self._pad(part.input)
            )
        yield self.event("response.custom_tool_call_input.done", input=part.input, **where)
        yield self._done({**item, "status": "completed", "input": part.input})
