"""Where the turns of a model go, found out from its fields."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from .._protocol.limits import Limits, RetryPolicy
from .chunk_clock import chunk_timeout_of
from .outgoing import headers_of, named, query_of, warn_of_http_clients
from .route import Route, clocks_for, secret_for

if TYPE_CHECKING:
    from .._transport.endpoint import Endpoint

__all__ = ["check_place", "endpoint_of", "route_of"]


def _client(model: Any) -> Any:
    return model.root_async_client or model.root_client


def _base_url(model: Any) -> str:
    client = _client(model)
    return str(
        client.base_url if client is not None else model.openai_api_base or "https://api.openai.com/v1"
    )


def _fixed_key(model: Any) -> str | None:
    """The key, if it is no callable."""
    key = model.openai_api_key
    if callable(key):
        return None
    return key.get_secret_value() if isinstance(key, SecretStr) else getattr(_client(model), "api_key", "")


def _headers(model: Any) -> dict[str, Any]:
    address = model.websocket_url or f"{_base_url(model).rstrip('/')}/responses"
    return headers_of(model, re.sub("^ws", "http", address))


def endpoint_of(model: Any) -> Endpoint:
    """Returns what a model's socket is dialed with.

    Raises:
        ConfigurationError: Something in it cannot be used.
    """
    from .._transport.endpoint import endpoint_for, websocket_url_for

    return endpoint_for(
        url=model.websocket_url or websocket_url_for(_base_url(model)),
        credential=_fixed_key(model),
        headers=_headers(model),
        query=query_of(model),
        proxy=model.openai_proxy or None,
    )


def check_place(model: Any) -> None:
    """Builds the endpoint early, so that what cannot be used is found where it was written.

    Raises:
        ConfigurationError: Something in it cannot be used.
    """
    key = model.openai_api_key
    if model.transport != "http" and (callable(key) or isinstance(key, SecretStr)):
        endpoint_of(model)
        warn_of_http_clients(model)
    elif isinstance(key, SecretStr):
        from .._transport.endpoint import endpoint_for

        # Key and scheme alone are judged: HTTP libraries quote a key that they cannot send.
        scheme = _base_url(model).partition(":")[0]
        endpoint_for(url=f"{scheme}://localhost", credential=key.get_secret_value())


def route_of(model: Any, manager: Any) -> Route:
    """Makes the route of a model.

    Args:
        model: The model.
        manager: Owns its sockets; None with `transport="http"`.

    Raises:
        ConfigurationError: The endpoint cannot be used.
    """
    headers = _headers(model)
    limits = manager.limits if manager is not None else Limits()
    retry = manager.retry if manager is not None else RetryPolicy()
    own = named(headers, "Authorization")
    key = model.openai_api_key
    return Route(
        endpoint=None if model.transport == "http" else endpoint_of(model),
        manager=manager,
        transport=model.transport,
        chain=model.chain,
        system_mode=model.system_mode,
        on_ambiguous=model.on_ambiguous,
        clocks=clocks_for(limits, model.request_timeout),
        chunk_timeout=chunk_timeout_of(model),
        http_chunk_timeout=model.stream_chunk_timeout,
        max_attempts=retry.max_attempts if model.max_retries is None else model.max_retries + 1,
        max_dials=None if model.max_retries is None else model.max_retries + 1,
        retry=retry,
        secret=secret_for(model.chain_secret, own or _fixed_key(model)),
        scope=(
            _base_url(model).rstrip("/"),
            named(headers, "OpenAI-Organization"),
            named(headers, "OpenAI-Project"),
        ),
        client=model.root_client,
        ask=key if own is None and callable(key) else None,
    )
