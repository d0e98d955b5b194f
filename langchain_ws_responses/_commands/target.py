"""The endpoint that a command talks to: found as a model would find it, or the package's own local server."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._cli import Console, UsageError
from .environment import no_environment

if TYPE_CHECKING:
    from .._transport.endpoint import Endpoint

__all__ = ["Target", "configure_target", "seconds", "target_of"]

# Stands where a key is missing: servers on this machine often want none.
_NO_KEY = "no-key"


@dataclass(frozen=True)
class Target:
    """Where to dial.

    Attributes:
        endpoint: The endpoint with its credentials.
        has_key: Whether there is a key to show it.
        local: Whether it is the package's own server.
    """

    endpoint: Endpoint
    has_key: bool
    local: bool


def seconds(value: str) -> float:
    """Reads an argument that is a positive number of seconds."""
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"{value!r} is not a number of seconds above 0")
    return number


def configure_target(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that name an endpoint."""
    group = parser.add_argument_group("endpoint")
    group.add_argument(
        "--base-url", metavar="URL",
        help="as for a model: http(s) or ws(s), such as https://host/v1 (default: OPENAI_BASE_URL, else OpenAI's)",
    )  # fmt: skip
    group.add_argument("--local", action="store_true", help="the package's own local server; needs no key")
    group.add_argument(
        "--timeout", type=seconds, default=10.0, metavar="SECONDS", help="for each step (default 10)"
    )


def _model(base_url: str | None, key: str | None) -> Any:
    """Makes a model, so that address, key, organization and proxy come from where every model takes them."""
    from pydantic import SecretStr

    from .. import ChatOpenAIWebSocket

    given: dict[str, Any] = {} if base_url is None else {"base_url": base_url}
    if key is not None:
        given["api_key"] = SecretStr(key)
    return ChatOpenAIWebSocket(model="none", transport="websocket", **given)


@contextmanager
def target_of(args: argparse.Namespace, console: Console) -> Iterator[Target]:
    """Finds the endpoint that the arguments of `configure_target` name.

    Raises:
        UsageError: It cannot be used.
    """
    if args.local and args.base_url is not None:
        raise UsageError("--local and --base-url exclude each other: choose one.")
    console.status("loading ...")
    from ..errors import ConfigurationError

    with ExitStack() as stack:
        has_key, base_url, key = bool(os.environ.get("OPENAI_API_KEY", "").strip()), args.base_url, None
        if args.local:
            from ..testing import ResponsesServer

            stack.enter_context(no_environment())
            base_url = stack.enter_context(ResponsesServer()).base_url
        if args.local or not has_key:
            key = _NO_KEY
        try:
            endpoint = _model(base_url, key)._endpoint()
        except ConfigurationError as exc:
            raise UsageError(str(exc)) from exc
        console.clear()
        yield Target(endpoint, has_key or args.local, args.local)
