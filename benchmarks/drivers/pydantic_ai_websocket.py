"""pydantic-ai with `openai_transport="websocket"`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.metadata import version
from typing import Any

from ..clock import Clock
from ..workload import PROMPT, SYSTEM, TOOL_OUTPUT, TOOLS
from . import Job


def missing() -> str | None:
    """Says what the installed version lacks."""
    models: Any = import_module("pydantic_ai.models.openai")
    if "openai_transport" in models.OpenAIResponsesModelSettings.__annotations__:
        return None
    return f"pydantic-ai {version('pydantic-ai-slim')} has no `openai_transport` setting"


def _tools(clock: Clock) -> list[Any]:
    async def use(**_arguments: Any) -> str:
        clock.got()
        await clock.awork()
        clock.send()
        return TOOL_OUTPUT

    # Imported by name: the checkers run without this package.
    tool_class = import_module("pydantic_ai").Tool
    return [
        tool_class.from_schema(
            use, name=tool["name"], description=tool["description"], json_schema=tool["parameters"]
        )
        for tool in TOOLS
    ]


@asynccontextmanager
async def asession(job: Job) -> AsyncIterator[Callable[[str, Clock], Awaitable[str]]]:
    """One model for all conversations; its connection lives as long as the session."""
    library: Any = import_module("pydantic_ai")
    openai: Any = import_module("pydantic_ai.models.openai")
    provider = import_module("pydantic_ai.providers.openai").OpenAIProvider(
        base_url=job.base_url, api_key="sk-benchmark"
    )
    settings = openai.OpenAIResponsesModelSettings(openai_transport="websocket")
    models: dict[str, Any] = {}

    async def run(name: str, clock: Clock) -> str:
        model = models.setdefault(
            name, openai.OpenAIResponsesModel(name, provider=provider, settings=settings)
        )
        agent = library.Agent(model, instructions=SYSTEM, tools=_tools(clock))
        limits = library.UsageLimits(request_limit=None)
        async with agent:
            clock.send()
            if job.call == "astream":
                async with agent.run_stream(PROMPT, usage_limits=limits) as result:
                    text = await result.get_output()
            else:
                text = (await agent.run(PROMPT, usage_limits=limits)).output
            clock.got()
        return str(text)

    yield run
