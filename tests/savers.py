"""Every saver that the tests wrap, and the published conformance suite run against it, bare and wrapped."""

from __future__ import annotations

import asyncio
import inspect
import json
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.conformance import checkpointer_test, validate
from langgraph.checkpoint.memory import InMemorySaver

from langchain_ws_responses import ChainSaver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KINDS = ("memory", "sqlite", "async-sqlite", "postgres", "async-postgres")
SYNC = ("sqlite", "postgres")


@asynccontextmanager
async def bare_saver(kind: str, dsn: str = "") -> AsyncIterator[BaseCheckpointSaver[Any]]:
    """An empty saver of a kind."""
    if kind == "memory":
        yield InMemorySaver()
    elif kind == "sqlite":
        from langgraph.checkpoint.sqlite import SqliteSaver

        with SqliteSaver.from_conn_string(":memory:") as saver:
            yield saver
    elif kind == "async-sqlite":
        from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

        async with AsyncSqliteSaver.from_conn_string(":memory:") as saver:
            yield saver
    elif kind == "postgres":
        from langgraph.checkpoint.postgres import PostgresSaver

        with PostgresSaver.from_conn_string(dsn) as saver:
            saver.setup()
            empty(dsn)
            yield saver
    else:
        from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

        async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
            await saver.setup()
            empty(dsn)
            yield saver


def empty(dsn: str) -> None:
    """Takes all checkpoints out of a PostgreSQL."""
    import psycopg

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("TRUNCATE checkpoints, checkpoint_blobs, checkpoint_writes")


class SyncFace(BaseCheckpointSaver[Any]):
    """Lets the suite, which is async, drive a sync saver through the sync methods that its type overrides."""

    def __init__(self, saver: BaseCheckpointSaver[Any]) -> None:
        self.saver = saver
        super().__init__(serde=saver.serde)

    def get_next_version(self, current: Any, channel: Any) -> Any:
        return self.saver.get_next_version(current, channel)

    @staticmethod
    def over(saver: BaseCheckpointSaver[Any]) -> SyncFace:
        body: dict[str, Any] = {}
        for name, base in vars(BaseCheckpointSaver).items():
            sync = name[1:]
            if inspect.isfunction(base) and name.startswith("a") and hasattr(type(saver), sync):
                overridden = getattr(type(saver), sync) is not getattr(BaseCheckpointSaver, sync)
                if overridden:
                    body[name] = _listing if name == "alist" else _calling(sync)
        return type("SyncFace", (SyncFace,), body)(saver)


def _calling(name: str) -> Any:
    async def call(self: SyncFace, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.saver, name)(*args, **kwargs)

    return call


async def _listing(self: SyncFace, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
    for saved in self.saver.list(*args, **kwargs):
        yield saved


async def report(kind: str, *, wrap: bool, dsn: str = "") -> dict[str, Any]:
    """Runs the whole suite."""

    @checkpointer_test(name=kind)
    async def factory() -> AsyncIterator[BaseCheckpointSaver[Any]]:
        async with bare_saver(kind, dsn) as bare:
            saver = ChainSaver(bare) if wrap else bare
            yield SyncFace.over(saver) if kind in SYNC else saver

    found = await validate(factory)
    return {"base": found.passed_all_base(), "all": found.passed_all(), **found.to_dict()}


if __name__ == "__main__":
    kinds = sys.argv[1:]
    reports = {kind: [asyncio.run(report(kind, wrap=wrap)) for wrap in (False, True)] for kind in kinds}
    json.dump(reports, sys.stdout)
