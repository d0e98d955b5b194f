"""The settings of one turn as its plan reads them, wherever the caller wrote them down."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from openai import NotGiven, Omit

__all__ = ["gives_input", "has_side_effects", "over_socket", "settled"]

# Fields of the HTTP client's call that are no part of the request.
_CLIENT_ONLY = ("extra_headers", "extra_query", "timeout")
_NOT_OVER_SOCKETS = ("stream", "background")

# Values that say that there is none; openai's client leaves such fields out.
_ABSENT = frozenset({NotGiven, Omit})
# What the plan, the link and the recovery look at.
_READ = frozenset(
    {
        "background",
        "conversation",
        "include",
        "instructions",
        "model",
        "previous_response_id",
        "prompt",
        "store",
        "tools",
    }
)
_REASONING = "reasoning.encrypted_content"

# Hosted tools that act on the world: a request with one is never replayed on an unknown outcome.
_ACTING_TOOLS = frozenset(
    {
        "apply_patch",
        "code_interpreter",
        "computer",
        "computer_use",
        "computer_use_preview",
        "local_shell",
        "mcp",
        "shell",
    }
)
# A conversation keeps the input and the answer of every request; a stored prompt may have tools that act.
_ACTING_FIELDS = ("conversation", "prompt")


def settled(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Puts a request's settings where the plan finds them.

    Args:
        settings: The request as `ChatOpenAI` builds it; `input` only where it is not what the messages say. What
            `extra_body` has of the fields that the plan reads takes the place of the named ones, as it does in openai's
            client.

    Returns:
        The settings of the same request. With `store=False` they ask for encrypted reasoning, without which a full
        send would lose it.
    """
    found = dict(settings)
    extra = found.get("extra_body")
    if isinstance(extra, Mapping) and not _READ.isdisjoint(extra):
        found.update({name: value for name, value in extra.items() if name in _READ})
        found["extra_body"] = {name: value for name, value in extra.items() if name not in _READ}
    # An input that is none has taken the place of what the messages say.
    found = {name: value for name, value in found.items() if type(value) not in _ABSENT or name == "input"}
    if found.get("store") is False:
        include = list(found.get("include") or ())
        if _REASONING not in include:
            found["include"] = [*include, _REASONING]
    return found


def gives_input(settings: Mapping[str, Any]) -> bool:
    """Whether the caller says what the request continues or holds, beside the messages or in their place."""
    extra = settings.get("extra_body")
    return (
        "input" in settings
        or settings.get("previous_response_id") is not None
        or settings.get("conversation") is not None
        or (isinstance(extra, Mapping) and "input" in extra)
    )


def has_side_effects(settings: Mapping[str, Any]) -> bool:
    """Whether a request may do something that must not be done twice."""
    if any(settings.get(name) is not None for name in _ACTING_FIELDS):
        return True
    tools = settings.get("tools") or ()
    return any(isinstance(tool, Mapping) and tool.get("type") in _ACTING_TOOLS for tool in tools)


def over_socket(request: dict[str, Any], text_format: Any) -> dict[str, Any]:
    """Makes of the arguments of `responses.create` what goes into a socket.

    Args:
        request: The arguments; changed.
        text_format: The schema that the answer is parsed with; None for none.
    """
    extra = request.pop("extra_body", None)
    for name in _CLIENT_ONLY:
        request.pop(name, None)
    if isinstance(extra, Mapping):
        request.update(extra)
    for name in _NOT_OVER_SOCKETS:
        request.pop(name, None)
    for name in [name for name, value in request.items() if type(value) in _ABSENT]:
        del request[name]
    if text_format is not None:
        from .private import text_format_param

        request["text"] = {**(request.get("text") or {}), "format": text_format_param(text_format)}
    return request
