"""Header fields and query parameters that the openai client would send: the handshake has them too."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

__all__ = ["headers_of", "named", "query_of", "warn_of_http_clients"]

# What HTTP libraries send by themselves, and what the openai client sends in its place.
_NOT_THE_USERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "authorization",
        "content-type",
        "user-agent",
    }
)
_PLAIN_TRANSPORTS = frozenset({"AiohttpTransport", "AsyncHTTPTransport", "HTTPTransport"})


def _http_clients(model: Any) -> Iterator[Any]:
    """The user's own HTTP clients; the sync one last, as it wins."""
    if not model.openai_proxy:  # else langchain-openai has made them
        for client in (model.http_async_client, model.http_client):
            if hasattr(client, "build_request"):
                yield client


def _fields_of(client: Any, address: str) -> list[tuple[str, str]]:
    """Asks an HTTP client what it would send; it alone knows which of its cookies go there."""
    try:
        return list(client.build_request("GET", address).headers.items())
    except Exception:  # it cannot read the address: that is told elsewhere, without quoting it
        return []


def headers_of(model: Any, address: str) -> dict[str, Any]:
    """Returns the header fields of a model's requests, the key apart; what is said later wins, as over HTTP.

    Fields that a handshake has of its own are left out, but for those of `default_headers`, whose author can be told.

    Args:
        model: The model.
        address: Where they go: cookies are for some addresses only.
    """
    from .._transport.endpoint import RESERVED

    openai_client = model.root_async_client or model.root_client
    found: dict[str, tuple[str, Any]] = {}
    for client in _http_clients(model):
        for name, value in _fields_of(client, address):
            if name.lower() not in _NOT_THE_USERS:
                found[name.lower()] = (name, value)
    given = {
        "OpenAI-Organization": model.openai_organization or getattr(openai_client, "organization", None),
        "OpenAI-Project": getattr(openai_client, "project", None),
    }
    # There the client keeps its `default_headers`, those of OPENAI_CUSTOM_HEADERS among them.
    custom = getattr(openai_client, "_custom_headers", None) or {}
    for name, value in [*((name, value) for name, value in given.items() if value), *custom.items()]:
        found[str(name).lower()] = (name, value)
    kept = {name: field for name, field in found.items() if name not in RESERVED}
    kept.update((str(name).lower(), (name, value)) for name, value in (model.default_headers or {}).items())
    return dict(kept.values())


def query_of(model: Any) -> dict[str, Any]:
    """Returns the query parameters of a model's requests."""
    found: dict[str, Any] = {}
    for client in _http_clients(model):
        found.update(getattr(client, "params", ()))
    return {**found, **(model.default_query or {})}


def named(headers: dict[str, Any], name: str) -> str | None:
    """Returns the value of a header field, whatever the case of its name."""
    found = [value for given, value in headers.items() if str(given).lower() == name.lower()]
    return found[-1] if found and isinstance(found[-1], str) else None


def warn_of_http_clients(model: Any) -> None:
    """Warns of what a user's HTTP client does to its requests and no socket can do."""
    for client in _http_clients(model):
        unused = [
            name
            for name, used in (
                ("auth", getattr(client, "auth", None) is not None),
                ("event_hooks", any((getattr(client, "event_hooks", None) or {}).values())),
                ("transport", type(getattr(client, "_transport", None)).__name__ not in _PLAIN_TRANSPORTS),
            )
            if used
        ]
        if unused:
            names = " and ".join(f"`{name}`" for name in unused)
            warnings.warn(
                f"The socket takes header fields, cookies and parameters from `http_client`, but not its {names}. "
                'Use `default_headers` or a callable `api_key`, or `transport="http"`.',
                stacklevel=4,
            )
            return
