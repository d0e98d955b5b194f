"""`create_agent` with a checkpointer, on one of the chat models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..clock import Clock
from ..workload import PROMPT, SYSTEM, TOOL_OUTPUT, TOOLS
from . import DRIVERS, Job


def missing() -> str | None:
    """Nothing beyond langchain."""
    return None


def _tools(clock: Clock) -> list[Any]:
    from langchain_core.tools import StructuredTool

    def use(**_arguments: Any) -> str:
        clock.got()
        clock.work()
        clock.send()
        return TOOL_OUTPUT

    return [
        StructuredTool(
            name=tool["name"], description=tool["description"], args_schema=tool["parameters"], func=use
        )
        for tool in TOOLS
    ]


@contextmanager
def session(job: Job) -> Iterator[Callable[[str, Clock], str]]:
    """One chat model and one saver for all conversations, each a thread of its own."""
    from langchain.agents import create_agent
    from langgraph.checkpoint.memory import InMemorySaver

    module: Any = DRIVERS[job.options["model"]].load()
    saver: Any = InMemorySaver()
    if job.options.get("chain_saver"):
        from langchain_ws_responses import ChainSaver

        saver = ChainSaver(saver)
    models: list[Any] = []

    def run(name: str, clock: Clock) -> str:
        if not models:
            models.append(module.make_model(job, name))
        model = models[0]
        setattr(model, "model" if job.options["model"].startswith("langchain-floor") else "model_name", name)
        agent: Any = create_agent(model, _tools(clock), system_prompt=SYSTEM, checkpointer=saver)
        config: Any = {"configurable": {"thread_id": name}, "recursion_limit": 10_000}
        clock.send()
        result = agent.invoke({"messages": [("user", PROMPT)]}, config)
        clock.got()
        return str(result["messages"][-1].text)

    yield run
    close = getattr(models[0], "close", None) if models else None
    if close is not None:
        close()
