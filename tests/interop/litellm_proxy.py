"""The LiteLLM proxy with a clock that a test moves: python litellm_proxy.py CONFIG, in LiteLLM's own environment.

It prints its port when it listens, and ends when its standard input does. `POST /interop/expire` ends every open
session as if its `responses_websocket_session_limit_seconds` were over: what happens then is LiteLLM's own code.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import threading
from collections.abc import Awaitable
from typing import Any

os.environ["CONFIG_FILE_PATH"] = sys.argv[1]

import uvicorn
from litellm.proxy.proxy_server import app
from litellm.proxy.response_api_endpoints import endpoints


class Clock:
    """Stands where the endpoint's module looks for `asyncio`: only `wait_for` is another."""

    def __init__(self) -> None:
        self.limits: list[float] = []
        self.sessions: set[asyncio.Future[Any]] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def wait_for(self, session: Awaitable[Any], timeout: float) -> Any:
        self.limits.append(timeout)
        over = asyncio.get_running_loop().create_future()
        self.sessions.add(over)
        try:
            task = asyncio.ensure_future(session)
            await asyncio.wait([task, over], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise asyncio.TimeoutError
            return task.result()
        finally:
            self.sessions.discard(over)


clock: Any = Clock()
if not hasattr(endpoints, "_resolve_responses_ws_session_limit_seconds"):
    sys.exit("this LiteLLM limits its sessions in another manner")
endpoints.asyncio = clock


@app.post("/interop/expire")
async def expire() -> dict[str, Any]:
    over = list(clock.sessions)
    for session in over:
        session.set_result(None)
    return {"ended": len(over), "limits": clock.limits}


class Server(uvicorn.Server):
    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        sys.stdout.write(f"{listening.getsockname()[1]}\n")
        sys.stdout.flush()


listening = socket.create_server(("127.0.0.1", 0))
server = Server(uvicorn.Config(app, log_level="warning"))


def wait_for_the_end() -> None:
    sys.stdin.read()
    server.should_exit = True


threading.Thread(target=wait_for_the_end, daemon=True).start()
server.run(sockets=[listening])
