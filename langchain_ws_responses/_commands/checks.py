"""What `doctor` finds out on this machine, without a network."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .._version import __version__

__all__ = ["Check", "Status", "check_key", "check_packages", "check_python", "check_settings", "check_turns"]

Status = Literal["ok", "warn", "FAIL", "skip"]
_NAME = "langchain-ws-responses"
_OLDEST = (3, 10)
_TRANSPORTS = ("auto", "websocket", "http")
_TRANSPORT_ENV = "LANGCHAIN_WS_RESPONSES_TRANSPORT"
# Not required, but worth knowing when something is reported.
_ALSO = ("openai", "langchain", "python-socks")


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: What was looked at.
        status: `ok`; `warn`: it works but may surprise; `FAIL`: it does not work; `skip`: not looked at.
        detail: What was found.
        next: What to do; empty when there is nothing to do.
    """

    name: str
    status: Status
    detail: str
    next: str = ""


def check_python() -> Check:
    """Whether this Python runs the package."""
    found = f"{platform.python_version()} ({platform.python_implementation()}) on {platform.system()}"
    if sys.version_info < _OLDEST:
        return Check("python", "FAIL", found, "Install Python 3.10 or newer.")
    return Check("python", "ok", found)


def installed_version(name: str) -> str | None:
    """The installed version of a distribution."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_packages(
    requires: list[str] | None = None, version_of: Callable[[str], str | None] = installed_version
) -> list[Check]:
    """Compares what the package asks for with what is installed.

    Args:
        requires: Requirements; those of the installed package if not given.
        version_of: Finds the version of a distribution.
    """
    from packaging.requirements import Requirement

    if requires is None:
        try:
            requires = importlib.metadata.requires(_NAME) or []
        except importlib.metadata.PackageNotFoundError:
            return [Check(
                "packages", "warn", f"{_NAME} {__version__} runs from a source tree that is not installed",
                "Install it (pip install -e .): only then is it known which versions it asks for.",
            )]  # fmt: skip
    wanted = [Requirement(text) for text in requires]
    wanted = [item for item in wanted if item.marker is None or item.marker.evaluate({"extra": ""})]
    found, wrong = [f"{_NAME} {__version__}"], []
    for item in wanted:
        version = version_of(item.name)
        if version is None:
            wrong.append(Check("packages", "FAIL", f"{item.name} is missing", f'pip install "{item}"'))
        elif not item.specifier.contains(version, prereleases=True):
            wrong.append(
                Check(
                    "packages", "FAIL", f"{item.name} {version} is installed, {item.specifier} is needed",
                    f'pip install "{item}"',
                )
            )  # fmt: skip
        else:
            found.append(f"{item.name} {version}")
    found += [f"{name} {version}" for name in _ALSO if (version := version_of(name)) is not None]
    return [*wrong, Check("packages", "ok", ", ".join(found))]


def check_key(value: str | None, *, needed: bool) -> Check:
    """Whether there is a key that can be sent. The key itself is never shown.

    Args:
        value: `OPENAI_API_KEY`.
        needed: Whether the endpoint will want one.
    """
    from .._transport.endpoint import bearer
    from ..errors import ConfigurationError

    if value is None or not value.strip():
        if not needed:
            return Check("key", "ok", "OPENAI_API_KEY is not set; this endpoint may not want one")
        return Check("key", "warn", "OPENAI_API_KEY is not set", "Set it; --local looks at everything else.")
    try:
        bearer(value)
    except ConfigurationError as exc:
        return Check("key", "FAIL", "OPENAI_API_KEY is set but cannot be sent", exc.message)
    return Check("key", "ok", "OPENAI_API_KEY is set")


def check_settings() -> list[Check]:
    """Whether environment variables of this package say something that it understands."""
    value = os.environ.get(_TRANSPORT_ENV)
    if not value:
        return []
    if value not in _TRANSPORTS:
        return [Check("settings", "FAIL", f"{_TRANSPORT_ENV} has a value that is unknown",
                      f"Set it to one of {', '.join(_TRANSPORTS)}, or unset it.")]  # fmt: skip
    if value == "http":
        return [Check("settings", "warn", f"{_TRANSPORT_ENV}=http: no model opens a socket",
                      "Unset it to use sockets.")]  # fmt: skip
    return [Check("settings", "ok", f"{_TRANSPORT_ENV}={value}")]


def check_turns() -> Check:
    """Plays two turns against the package's own server: do the installed versions work together?"""
    from pydantic import SecretStr

    from .. import ChatOpenAIWebSocket, ConnectionManager
    from ..testing import ResponsesServer
    from .environment import no_environment

    with no_environment(), ResponsesServer() as server, ConnectionManager() as manager:
        model = ChatOpenAIWebSocket(
            model="none", base_url=server.base_url, api_key=SecretStr("no-key"), transport="websocket",
            manager=manager, max_retries=0,
        )  # fmt: skip
        try:
            first = model.invoke("Hello")
            second = model.invoke([("user", "Hello"), first, ("user", "And again")])
        except Exception as exc:
            return Check(
                "self-test", "FAIL", f"a turn against the local server failed: {type(exc).__name__}: {exc}",
                "Compare the versions above with those of a fresh virtual environment.",
            )  # fmt: skip
    mode = second.response_metadata["transport"]["mode"]
    if mode != "delta":
        reason = second.response_metadata["transport"]["reason"]
        return Check("self-test", "FAIL", f"the second turn was sent in full ({reason})",
                     "Compare the versions above with those of a fresh virtual environment.")  # fmt: skip
    return Check("self-test", "ok", "a full turn and a delta against the package's own server")
