"""The wire floor: `websockets`, `orjson` and a loop that looks for the terminal event."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import orjson

from ..clock import Clock
from ..workload import PROMPT, SYSTEM, TOOL_OUTPUT, TOOLS
from . import Job

TERMINAL = b'{"type":"response.completed"'
_LANE = re.compile(rb'"stream_id":"([^"]+)"')


def headers() -> dict[str, str]:
    """What a client sends with the upgrade."""
    return {"Authorization": "Bearer sk-benchmark"}


def first(model: str) -> dict[str, Any]:
    """The first request of a conversation."""
    messages = [
        {"type": "message", "role": "system", "content": SYSTEM},
        {"type": "message", "role": "user", "content": PROMPT},
    ]
    return {"type": "response.create", "model": model, "tools": TOOLS, "input": messages}


def following(model: str, response: dict[str, Any]) -> dict[str, Any] | None:
    """The request after an answer; None where there is nothing left to do."""
    outputs = [
        {"type": "function_call_output", "call_id": item["call_id"], "output": TOOL_OUTPUT}
        for item in response["output"]
        if item["type"] == "function_call"
    ]
    if not outputs:
        return None
    return {
        "type": "response.create",
        "model": model,
        "tools": TOOLS,
        "previous_response_id": response["id"],
        "input": outputs,
    }


def text_of(response: dict[str, Any]) -> str:
    """The text of a last answer."""
    text: str = response["output"][0]["content"][0]["text"]
    return text


@contextmanager
def session(job: Job) -> Iterator[Callable[[str, Clock], str]]:
    """One socket, blocking."""
    from websockets.sync.client import connect

    with connect(job.socket_url, compression=None, max_size=None, additional_headers=headers()) as socket:

        def run(model: str, clock: Clock) -> str:
            request: dict[str, Any] | None = first(model)
            response: dict[str, Any] = {}
            while request is not None:
                clock.work()
                clock.send()
                socket.send(orjson.dumps(request), text=True)
                while not (frame := socket.recv(decode=False)).startswith(TERMINAL):
                    pass
                response = orjson.loads(frame)["response"]
                clock.got()
                request = following(model, response)
            return text_of(response)

        yield run


class Lanes:
    """One socket whose lanes carry a turn each."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self.waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self.reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        while True:
            frame = await self.socket.recv(decode=False)
            if frame.startswith(TERMINAL):
                name = _LANE.search(frame)
                assert name is not None
                self.waiting.pop(name[1]).set_result(frame)

    async def ask(self, request: dict[str, Any], lane: str) -> bytes:
        """Sends a request and waits for its terminal event."""
        done = self.waiting[lane.encode()] = asyncio.get_running_loop().create_future()
        await self.socket.send(orjson.dumps({**request, "stream_id": lane}), text=True)
        answered: bytes = await done
        return answered


@asynccontextmanager
async def asession(job: Job) -> AsyncIterator[Callable[[str, Clock], Awaitable[str]]]:
    """A socket for each conversation, or with the option `lanes` a socket for that many."""
    if job.options.get("lanes"):
        async with _lane_session(job, job.options["lanes"]) as run:
            yield run
        return
    from websockets.asyncio.client import connect

    sockets: list[Any] = []
    idle: list[Any] = []

    async def one(model: str, clock: Clock) -> str:
        if idle:
            socket = idle.pop()
        else:
            socket = await connect(
                job.socket_url, compression=None, max_size=None, additional_headers=headers()
            )
            sockets.append(socket)
        request: dict[str, Any] | None = first(model)
        response: dict[str, Any] = {}
        while request is not None:
            await clock.awork()
            clock.send()
            await socket.send(orjson.dumps(request), text=True)
            while not (frame := await socket.recv(decode=False)).startswith(TERMINAL):
                pass
            response = orjson.loads(frame)["response"]
            clock.got()
            request = following(model, response)
        idle.append(socket)
        return text_of(response)

    yield one
    await asyncio.gather(*(socket.close() for socket in sockets))


class LanePool:
    """Sockets with lanes; one more is opened whenever every lane is taken."""

    def __init__(self, job: Job, size: int) -> None:
        self._job = job
        self._size = size
        self._opened: list[asyncio.Task[Lanes]] = []
        self._free: list[tuple[asyncio.Task[Lanes], str]] = []

    async def _open(self) -> Lanes:
        from websockets.asyncio.client import connect

        url = self._job.socket_url
        return Lanes(
            await connect(url, compression=None, max_size=None, additional_headers=headers(), max_queue=None)
        )

    async def ask(self, request: dict[str, Any]) -> bytes:
        """Sends a request on a free lane and waits for its terminal event."""
        if not self._free:
            connection = asyncio.create_task(self._open())
            self._opened.append(connection)
            self._free.extend((connection, f"lane_{number:02d}") for number in range(self._size))
        connection, lane = taken = self._free.pop()
        answer = await (await connection).ask(request, lane)
        self._free.append(taken)
        return answer

    async def close(self) -> None:
        """Closes the sockets."""
        for task in self._opened:
            (await task).reader.cancel()
            await (await task).socket.close()


@asynccontextmanager
async def _lane_session(job: Job, size: int) -> AsyncIterator[Callable[[str, Clock], Awaitable[str]]]:
    pool = LanePool(job, size)

    async def one(model: str, clock: Clock) -> str:
        request: dict[str, Any] | None = first(model)
        response: dict[str, Any] = {}
        while request is not None:
            clock.send()
            response = orjson.loads(await pool.ask(request))["response"]
            clock.got()
            request = following(model, response)
        return text_of(response)

    yield one
    await pool.close()
