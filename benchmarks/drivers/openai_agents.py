"""openai-agents over its WebSocket session: full history, or `auto_previous_response_id`. Tracing is off."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from ..clock import Clock
from ..workload import PROMPT, SYSTEM, TOOL_OUTPUT, TOOLS
from . import Job


def _tools(clock: Clock) -> list[Any]:
    from agents import FunctionTool

    async def use(_context: Any, _arguments: str) -> str:
        # The library owns the loop: its tool is where the answer is in hand and where its output is ready.
        clock.got()
        await clock.awork()
        clock.send()
        return TOOL_OUTPUT

    return [
        FunctionTool(
            name=tool["name"],
            description=tool["description"],
            params_json_schema=tool["parameters"],
            on_invoke_tool=use,
            strict_json_schema=False,
        )
        for tool in TOOLS
    ]


@asynccontextmanager
async def asession(job: Job) -> AsyncIterator[Callable[[str, Clock], Awaitable[str]]]:
    """One session, one socket."""
    import agents

    agents.set_tracing_disabled(True)
    auto = bool(job.options.get("auto_previous_response_id"))
    async with agents.responses_websocket_session(api_key="sk-benchmark", base_url=job.base_url) as running:

        async def run(model: str, clock: Clock) -> str:
            agent = agents.Agent(name="bench", instructions=SYSTEM, tools=_tools(clock), model=model)
            clock.send()
            given: dict[str, Any] = {"auto_previous_response_id": auto, "max_turns": 10_000}
            if job.call == "astream":
                result: Any = running.run_streamed(agent, PROMPT, **given)
                async for _ in result.stream_events():
                    pass
            else:
                result = await running.run(agent, PROMPT, **given)
            clock.got()
            return str(result.final_output)

        yield run
