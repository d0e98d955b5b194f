"""openai's own `responses.connect()`, with deltas written by hand: the caller keeps the ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import openai

from ..clock import Clock
from . import Job
from .wire_floor import first, following


def _final(model: str, response: Any) -> tuple[dict[str, Any] | None, str]:
    """The next request, or the text of the last answer."""
    items = [{"type": item.type, "call_id": getattr(item, "call_id", None)} for item in response.output]
    request = following(model, {"id": response.id, "output": items})
    return request, "" if request else response.output_text


@contextmanager
def session(job: Job) -> Iterator[Callable[[str, Clock], str]]:
    """One socket, blocking."""
    with (
        openai.OpenAI(api_key="sk-benchmark", base_url=job.base_url) as client,
        client.responses.connect() as connection,
    ):

        def run(model: str, clock: Clock) -> str:
            request: Any = first(model)
            text = ""
            while request is not None:
                clock.work()
                clock.send()
                connection.send(request)
                for event in connection:
                    if event.type == "response.completed":
                        clock.got()
                        request, text = _final(model, event.response)
                        break
            return text

        yield run


@asynccontextmanager
async def asession(job: Job) -> AsyncIterator[Callable[[str, Clock], Awaitable[str]]]:
    """A socket for each conversation at a time."""
    sockets: list[Any] = []
    idle: list[Any] = []
    client = openai.AsyncOpenAI(api_key="sk-benchmark", base_url=job.base_url)

    async def run(model: str, clock: Clock) -> str:
        if idle:
            connection = idle.pop()
        else:
            connection = await client.responses.connect().enter()
            sockets.append(connection)
        request: Any = first(model)
        text = ""
        while request is not None:
            await clock.awork()
            clock.send()
            await connection.send(request)
            async for event in connection:
                if event.type == "response.completed":
                    clock.got()
                    request, text = _final(model, event.response)
                    break
        idle.append(connection)
        return text

    yield run
    await asyncio.gather(*(connection.close() for connection in sockets))
    await client.close()
