"""ChatOpenAI over HTTP: with the full history, or with `use_previous_response_id`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any

from ..clock import Clock
from . import Job
from ._chat import achat_session, chat_session


def make_model(job: Job, name: str) -> Any:
    """Makes the model of a session."""
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    return ChatOpenAI(
        model=name,
        base_url=job.base_url,
        api_key=SecretStr("sk-benchmark"),
        use_responses_api=True,
        use_previous_response_id=bool(job.options.get("use_previous_response_id")),
    )


def session(job: Job) -> AbstractContextManager[Callable[[str, Clock], str]]:
    """One model for all conversations."""
    return chat_session(job, make_model)


def asession(job: Job) -> AbstractAsyncContextManager[Callable[[str, Clock], Awaitable[str]]]:
    """One model for all conversations."""
    return achat_session(job, make_model)
