"""What users write into the model's fields and calls: taken apart, cleaned and carried over."""

from __future__ import annotations

import hashlib
import hmac
import inspect
import json
import os
import warnings
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from openai import NotGiven, Omit
from pydantic import SecretStr

__all__ = [
    "accepted",
    "carried_over",
    "check_arguments",
    "hidden_digest",
    "secret_fields",
    "transport_from_environment",
    "warn_of_call",
]

_TRANSPORT_ENV = "LANGCHAIN_WS_RESPONSES_TRANSPORT"
_SOCKET_SCHEMES = {"ws://": "http://", "wss://": "https://"}
# What ChatOpenAI makes anew for every model.
_MADE = frozenset({"client", "async_client", "root_client", "root_async_client"})
_MADE_FOR_PROXY = frozenset({"http_client", "http_async_client"})
# What a serialised model names in the place of a value; a tenant, a password or a token may stand in any of them.
_SECRETS = {
    "chain_secret": "LANGCHAIN_WS_RESPONSES_CHAIN_SECRET",
    "default_headers": "LANGCHAIN_WS_RESPONSES_DEFAULT_HEADERS",
    "default_query": "LANGCHAIN_WS_RESPONSES_DEFAULT_QUERY",
    "openai_organization": "OPENAI_ORG_ID",
    "openai_proxy": "OPENAI_PROXY",
}
# An address is worth seeing, but for a query.
_SECRET_QUERIES = {
    "openai_api_base": "OPENAI_API_BASE",
    "websocket_url": "LANGCHAIN_WS_RESPONSES_WEBSOCKET_URL",
}
# Of no use as a secret: it sets these digests apart from others, and has to be the same in every process.
_DIGESTED = b"langchain-ws-responses hidden fields"
_PLAIN = frozenset({bool, float, int, str})
_KEY_NAMES = ("api_key", "openai_api_key")
_BASE_NAMES = ("base_url", "openai_api_base")


def transport_from_environment() -> str:
    """Returns the default of the field `transport`."""
    return os.environ.get(_TRANSPORT_ENV) or "auto"


def accepted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Cleans the arguments of a model before pydantic sees them.

    A `ws(s)` base URL is taken apart: the socket dials it, HTTP uses the matching `http(s)` URL. Blanks and line
    breaks around the API key are taken off: HTTP libraries quote a key that has them in their errors.

    Args:
        values: The arguments; not changed.
    """
    given = dict(values)
    name = next((name for name in _BASE_NAMES if given.get(name)), "base_url")
    base = given.get(name) or os.environ.get("OPENAI_API_BASE") or os.environ.get("OPENAI_BASE_URL")
    for scheme, plain in _SOCKET_SCHEMES.items():
        if isinstance(base, str) and base.lower().startswith(scheme):
            address = base[len(scheme) :]
            path, mark, query = address.partition("?")
            given[name] = plain + address
            if given.get("websocket_url") is None:
                given["websocket_url"] = scheme + path.rstrip("/") + "/responses" + mark + query
    name = next((name for name in _KEY_NAMES if given.get(name) is not None), "api_key")
    key = given.get(name)
    if key is None:
        key = os.environ.get("OPENAI_API_KEY")
    text = key.get_secret_value() if isinstance(key, SecretStr) else key
    if isinstance(text, str) and text != text.strip():
        given[name] = SecretStr(text.strip())
    return given


def _has_default_profile(model: Any) -> bool:
    """Whether a model's profile is the one that langchain-openai knows for it, and not the user's own."""
    resolve = getattr(model, "_resolve_model_profile", None)
    return resolve is not None and getattr(model, "profile", None) == resolve()


def carried_over(model: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Collects the settings of one model for another.

    Args:
        model: A `ChatOpenAI`.
        fields: Further settings, by name or alias; they win.
    """
    aliases = {info.alias: name for name, info in type(model).model_fields.items() if info.alias}
    named = {aliases.get(name, name): value for name, value in fields.items()}
    left_out = set(_MADE)
    if model.openai_proxy:
        left_out |= _MADE_FOR_PROXY
    if "openai_api_base" in named:
        # It may have been derived from the base URL that is replaced.
        left_out.add("websocket_url")
    if _has_default_profile(model):
        # Ours may have other abilities, for it always uses the Responses API.
        left_out.add("profile")
    settings = {
        name: getattr(model, name)
        for name in model.model_fields_set
        if name in type(model).model_fields and name not in left_out
    }
    return {**settings, **named}


# Every supported SDK knows these. Importing its resources to look at their signature takes longer than a turn.
_ALWAYS_KNOWN = frozenset(
    {
        "include",
        "input",
        "instructions",
        "max_output_tokens",
        "metadata",
        "model",
        "parallel_tool_calls",
        "previous_response_id",
        "prompt_cache_key",
        "reasoning",
        "service_tier",
        "store",
        "stream",
        "temperature",
        "text",
        "text_format",
        "tool_choice",
        "tools",
        "top_p",
        "truncation",
        "user",
    }
)


@lru_cache(maxsize=1)
def _known_arguments() -> frozenset[str]:
    from openai.resources.responses import Responses

    return frozenset(inspect.signature(Responses.create).parameters) | {"text_format"}


def check_arguments(settings: Mapping[str, Any]) -> None:
    """Refuses what the openai client would refuse to send over HTTP.

    Raises:
        TypeError: An argument that `responses.create` does not have.
    """
    if settings.keys() <= _ALWAYS_KNOWN:
        return
    unknown = settings.keys() - _known_arguments()
    if unknown:
        raise TypeError(
            f"Responses.create() got an unexpected keyword argument {min(unknown)!r}. "
            "Put what the installed openai package does not know into `extra_body`."
        )


_PER_CALL = {
    "extra_headers": (
        "`extra_headers` of a single call cannot be sent over a socket, which has one set of headers. "
        'Use `default_headers` on the model, or `transport="http"`.'
    ),
    "extra_query": (
        "`extra_query` of a single call cannot be sent over a socket, which has one URL. "
        'Use `default_query` on the model, or `transport="http"`.'
    ),
    "previous_response_id": (
        "A `previous_response_id` of your own is sent as given, with all messages of the call as input. "
        "Leave it out: the messages tell what can be continued."
    ),
}


def warn_of_call(settings: Mapping[str, Any], *, over_socket: bool, chained: bool, told: set[str]) -> None:
    """Warns of settings of a call that do not do what they say, once for each model.

    Args:
        settings: The request.
        over_socket: Whether it goes over a socket.
        chained: Whether the model continues responses by itself.
        told: What was warned of already; grows.
    """
    for name, text in _PER_CALL.items():
        applies = chained if name == "previous_response_id" else over_socket
        if applies and settings.get(name) and name not in told:
            told.add(name)
            warnings.warn(text, stacklevel=4)


def secret_fields(model: Any) -> dict[str, str]:
    """Names the fields of a model that no `repr`, no serialised form and so no trace may show.

    Args:
        model: A `ChatOpenAIWebSocket`.

    Returns:
        The name that stands for each value in a serialised model.
    """
    # A model whose making failed has none of its fields, and a traceback may still show it.
    values = {name: getattr(model, name, None) or "" for name in _SECRET_QUERIES}
    queries = {name: key for name, key in _SECRET_QUERIES.items() if "?" in values[name]}
    return {**_SECRETS, **queries}


def _as_sent(value: Any) -> Any:
    """Writes a value as JSON that differs wherever what is sent differs: a request holds the `str` of most values."""
    if isinstance(value, Mapping):
        # A name may stand there twice, as a number and as text; only the names can be sorted.
        pairs = [(str(name), _as_sent(inner)) for name, inner in value.items()]
        return {"": sorted(pairs, key=lambda pair: pair[0])}
    if isinstance(value, (list, tuple)):
        return [_as_sent(inner) for inner in value]
    if value is None or type(value) in _PLAIN:
        return value
    if type(value) in (NotGiven, Omit):  # these stand for nothing, and `str` shows where in memory
        return {type(value).__qualname__: None}
    return {type(value).__qualname__: str(value)}


def hidden_digest(model: Any) -> str:
    """Stands for the values that a serialised model hides, where models that differ in them must not be mixed up.

    The key and `chain_secret` are left out: answers do not depend on them.

    Args:
        model: A `ChatOpenAIWebSocket`.

    Returns:
        The same for the same values in any process; empty where there are none.
    """
    ours = secret_fields(model).keys() - {"chain_secret"}
    values = {name: value for name in ours if (value := getattr(model, name, None))}
    if not values:
        return ""
    text = json.dumps(_as_sent(values))
    return hmac.new(_DIGESTED, text.encode(), hashlib.sha256).hexdigest()
