"""The clients that are measured, one small module each.

A driver module has `session(job)` for the calls `invoke` and `stream`, `asession(job)` for `ainvoke` and
`astream`, or both. Each is a context manager that yields a function: it runs one conversation of `requests`
requests, with the marks of a `Clock`, and returns the last answer's text. Many of them may run at once
where the call is async.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

__all__ = ["DRIVERS", "Driver", "Job", "missing"]

SYNC, ASYNC = ("invoke", "stream"), ("ainvoke", "astream")


@dataclass
class Job:
    """What one process does.

    Attributes:
        base_url: Base URL of the API, with `/v1`.
        call: `invoke`, `ainvoke`, `stream` or `astream`.
        options: The driver's own options.
    """

    base_url: str
    call: str
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def socket_url(self) -> str:
        """Where WebSockets are dialled."""
        return "ws" + self.base_url.removeprefix("http") + "/responses"


@dataclass(frozen=True)
class Driver:
    """One client in one configuration.

    Attributes:
        module: Its module here.
        label: For tables and charts.
        calls: What it can do.
        requires: Packages beyond those that this project needs.
        options: For the module.
    """

    module: str
    label: str
    calls: tuple[str, ...]
    requires: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)

    def load(self) -> Any:
        """Imports the module."""
        return import_module(f"{__name__}.{self.module}")


ALL = (*SYNC, *ASYNC)
DRIVERS: dict[str, Driver] = {
    "wire-floor": Driver("wire_floor", "wire floor", ("invoke", "ainvoke")),
    "wire-floor-lanes": Driver("wire_floor", "wire floor, 16 lanes", ("ainvoke",), options={"lanes": 16}),
    "langchain-floor": Driver("langchain_floor", "LangChain floor", ALL),
    "langchain-floor-lanes": Driver(
        "langchain_floor", "LangChain floor, 16 lanes", ("ainvoke",), options={"lanes": 16}
    ),
    "langchain-floor-whole": Driver(
        "langchain_floor", "LangChain floor, whole messages", ("invoke", "ainvoke"), options={"whole": True}
    ),
    "langchain-floor-whole-lanes": Driver(
        "langchain_floor",
        "LangChain floor, whole messages, 16 lanes",
        ("ainvoke",),
        options={"lanes": 16, "whole": True},
    ),
    "ours": Driver("ours", "this package", ALL),
    "chatopenai-prev": Driver(
        "chatopenai", "ChatOpenAI, previous id", ALL, options={"use_previous_response_id": True}
    ),
    "chatopenai-full": Driver("chatopenai", "ChatOpenAI, full history", ALL),
    "openai-websocket": Driver("openai_websocket", "openai responses.connect()", ("invoke", "ainvoke")),
    "agents-prev": Driver(
        "openai_agents", "openai-agents, previous id", ASYNC, ("agents",), {"auto_previous_response_id": True}
    ),
    "agents-full": Driver("openai_agents", "openai-agents, full history", ASYNC, ("agents",)),
    "pydantic-ai": Driver("pydantic_ai_websocket", "pydantic-ai, WebSocket", ASYNC, ("pydantic_ai",)),
}
# `create_agent` on top of a chat model; judged on its own.
AGENTS: dict[str, Driver] = {
    f"agent-{name}": Driver(
        "agent", f"create_agent, {label}", ("invoke",), ("langchain",), {"model": name, **options}
    )
    for name, label, options in (
        ("ours", "this package + ChainSaver(InMemorySaver)", {"chain_saver": True}),
        ("langchain-floor", "LangChain floor + InMemorySaver", {}),
        (
            "langchain-floor-whole",
            "LangChain floor, whole messages + InMemorySaver",
            {"whole": True},
        ),
        ("chatopenai-prev", "ChatOpenAI, previous id + InMemorySaver", {"use_previous_response_id": True}),
        ("chatopenai-full", "ChatOpenAI, full history + InMemorySaver", {}),
    )
}
EVERY = {**DRIVERS, **AGENTS}


def missing(name: str) -> str | None:
    """Says why a driver cannot run here, or None if it can."""
    driver = EVERY[name]
    for package in driver.requires:
        if importlib.util.find_spec(package) is None:
            return f"{package.replace('_', '-')} is not installed (the `bench` extra has it)"
    check = getattr(driver.load(), "missing", None) if driver.requires else None
    reason: str | None = check() if check else None
    return reason
