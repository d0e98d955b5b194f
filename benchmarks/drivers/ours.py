"""This package: `ChatOpenAIWebSocket` over a manager of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any

from ..clock import Clock
from . import Job
from ._chat import achat_session, chat_session


def make_model(job: Job, name: str) -> Any:
    """Makes the model of a session."""
    from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager, Profile

    # The reference service is known to have lanes by its host name; so is this one.
    lanes = {host: Profile(name="benchmark", lanes=True) for host in ("127.0.0.1", "localhost")}
    options: dict[str, Any] = {"chain": "off"} if job.options.get("chain") == "off" else {}
    return ChatOpenAIWebSocket(
        model=name,
        base_url=job.base_url,
        api_key="sk-benchmark",
        transport="websocket",
        manager=ConnectionManager(profiles={**lanes, **_here(job, lanes)}),
        **options,
    )


def _here(job: Job, lanes: dict[str, Any]) -> dict[str, Any]:
    from urllib.parse import urlsplit

    return {str(urlsplit(job.base_url).hostname): lanes["localhost"]}


def session(job: Job) -> AbstractContextManager[Callable[[str, Clock], str]]:
    """One model for all conversations."""
    return chat_session(job, make_model, close=lambda model: model.close())


def asession(job: Job) -> AbstractAsyncContextManager[Callable[[str, Clock], Awaitable[str]]]:
    """One model for all conversations."""
    return achat_session(job, make_model, close=lambda model: model.aclose())
