"""The LangChain and LangGraph side: the chat model, links, checkpoints and tools."""

from __future__ import annotations
