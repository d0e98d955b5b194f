"""The checkpointer of `langgraph.json`: SQLite, wrapped so that every checkpoint knows its response.

The development server enters `saver` once per event loop. Any checkpointer with async methods can stand inside.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

from langchain_ws_responses import ChainSaver


@asynccontextmanager
async def saver() -> AsyncIterator[BaseCheckpointSaver[str]]:
    path = os.environ.get("CHECKPOINTS", "checkpoints.sqlite")
    async with AsyncSqliteSaver.from_conn_string(path) as inner:
        yield ChainSaver(inner)
