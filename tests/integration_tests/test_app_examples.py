"""The examples that are servers, handlers and notebooks, run without a key."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def load(path: Path) -> ModuleType:
    """Imports an example as the program does that finds it by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def modes(messages: list[Any]) -> list[str]:
    return [message.response_metadata["transport"]["mode"] for message in messages if message.type == "ai"]


# -- the app for `langgraph dev`; tests/interop/test_langgraph_dev.py runs it there -----------------


async def test_the_agent_app_answers_without_a_key(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = project / "examples" / "agent_app"
    config = json.loads((folder / "langgraph.json").read_text(encoding="utf-8"))
    app, saving = (
        load(folder / path.partition(":")[0])
        for path in (config["graphs"]["agent"], config["checkpointer"]["path"])
    )
    monkeypatch.setenv("CHECKPOINTS", str(tmp_path / "checkpoints.sqlite"))
    thread: Any = {"configurable": {"thread_id": "1"}}
    try:
        async with saving.saver() as saver:
            graph = app.graph.copy(update={"checkpointer": saver})
            await graph.ainvoke({"messages": [("user", "How many apples?")]}, thread)
            state = await graph.ainvoke({"messages": [("user", "And pears?")]}, thread)
            newest = await saver.aget_tuple(thread)
    finally:
        app.server.stop()
    assert [message.text for message in state["messages"] if message.type == "ai" and message.text] == [
        "There are 3 apples.",
        "There are 1 pears.",
    ]
    assert modes(state["messages"]) == ["full", "delta", "delta", "delta"]
    assert newest.metadata["openai_response_id"] == state["messages"][-1].response_metadata["id"]
