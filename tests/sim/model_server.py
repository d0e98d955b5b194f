"""A server for simulations: the wire facts of lanes, memory, storage and lifetime, and nothing else.

It knows nothing of the package. A request says how its answer is to be: `{"seconds", "tokens"}`. Each token is
stamped with conversation, turn and number, so that the caller can tell whose it is.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from sim.world import Network, Wire, World
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

MAX_IN_FLIGHT, MAX_NAMES, LIFETIME = 16, 32, 3600.0


@dataclass
class Job:
    """A create on its way to its terminal event."""

    body: dict[str, Any]
    lane: str | None
    response_id: str
    script: list[tuple[float, dict[str, Any]]] = field(default_factory=list)


class ModelServer:
    """All connections of a server, and the storage behind them.

    Attributes:
        creates: Every request that was taken, in order, with the time.
        killed: Responses in flight when a connection reached the end of its lifetime.
        expired: Connections that the server had to end because of their age.
        slams: Closes every connection right after the handshake.
    """

    def __init__(self, *, lifetime: float = LIFETIME) -> None:
        self.world: World
        self.lifetime = lifetime
        self.stored: set[str] = set()
        self.creates: list[tuple[float, dict[str, Any]]] = []
        self.killed = self.expired = self.busiest = 0
        self.slams = False
        self.sessions: list[Session] = []
        self.ids = (f"resp_{number}" for number in itertools.count())
        self.network = Network(lambda wire: Session(self, wire))


class Session:
    """One connection of the server."""

    def __init__(self, server: ModelServer, wire: Wire) -> None:
        self.server, self.wire, self.loop = server, wire, wire.loop
        self.protocol = ServerProtocol(max_size=None)
        self.queues: dict[str | None, deque[Job]] = {}
        self.memory: dict[str | None, str] = {}
        self.names: set[str] = set()
        self.backlog: deque[Job] = deque()
        self.running: set[str] = set()
        self.open = True
        self.timers: set[Any] = set()
        self.life = self.loop.call_later(server.lifetime, self.expire)
        server.sessions.append(self)

    # -- the wire ---

    def receive(self, data: bytes) -> None:
        self.protocol.receive_data(data)
        for event in self.protocol.events_received():
            if isinstance(event, Request):
                self.accept(event)
            elif isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self.create(json.loads(event.data))
        self.flush()

    def accept(self, request: Request) -> None:
        weather = self.server.network.weather
        if isinstance(weather, int):
            self.protocol.send_response(self.protocol.reject(weather, "Not now."))
            return
        self.protocol.send_response(self.protocol.accept(request))
        if self.server.slams:
            self.protocol.send_close(1008)

    def flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.wire.send(data)
            else:
                self.wire.end()

    def lost(self) -> None:
        self.open = False
        self.life.cancel()
        for timer in self.timers:
            timer.cancel()
        self.server.sessions.remove(self)
        self.server.network.forget(self.wire)

    def say(self, job: Job | None, event: dict[str, Any]) -> None:
        if self.open and self.protocol.state.name == "OPEN":
            named = {"stream_id": job.lane} if job is not None and job.lane is not None else {}
            self.protocol.send_text(json.dumps({**event, **named}).encode())
            self.flush()

    def expire(self) -> None:
        self.server.expired += 1
        self.server.killed += sum(len(queue) for queue in self.queues.values())
        error = {"code": "websocket_connection_limit_reached", "message": "60 minutes."}
        self.say(None, {"type": "error", "status": 400, "error": error})
        self.close(1000)

    def close(self, code: int) -> None:
        if self.protocol.state.name == "OPEN":
            self.protocol.send_close(code)
            self.flush()

    # -- responses ---

    def create(self, body: dict[str, Any]) -> None:
        assert body["type"] == "response.create"
        lane = body.get("stream_id")
        if lane is not None:
            self.names.add(lane)
        assert len(self.names) <= MAX_NAMES, "too many lane names"
        self.server.creates.append((self.loop.time(), body))
        job = Job(body, lane, next(self.server.ids))
        queue = self.queues.setdefault(lane, deque())
        queue.append(job)
        assert len(queue) == 1, "two responses at a time on one lane"
        in_flight = sum(len(waiting) for waiting in self.queues.values())
        self.server.busiest = max(self.server.busiest, in_flight)
        assert in_flight <= MAX_IN_FLIGHT, "too many responses in flight"
        self.begin(job)

    def begin(self, job: Job) -> None:
        parent = job.body.get("previous_response_id")
        if parent is not None and parent not in self.server.stored and parent not in self.memory.values():
            error = {"code": "previous_response_not_found", "message": "Not found."}
            job.script = [(0.05, {"type": "error", "status": 400, "error": error})]
        else:
            job.script = self.answer(job, parent)
        self.schedule(job)

    def answer(self, job: Job, parent: str | None) -> list[tuple[float, dict[str, Any]]]:
        conversation, turn = job.body["conversation"], job.body["turn"]
        response = {"id": job.response_id, "previous_response_id": parent}
        events = [(0.2, {"type": "response.created", "response": response})]
        tokens = job.body["tokens"]
        for number in range(tokens):
            stamp = [conversation, turn, number]
            events.append(
                (job.body["seconds"] / tokens, {"type": "response.output_text.delta", "delta": stamp})
            )
        events.append((0.01, {"type": "response.completed", "response": response}))
        return events

    def schedule(self, job: Job) -> None:
        if job.script:
            timer = self.loop.call_later(job.script[0][0], self.tick, job)
            self.timers = {known for known in self.timers if not known.cancelled() and known is not timer}
            self.timers.add(timer)

    def tick(self, job: Job) -> None:
        self.timers = {timer for timer in self.timers if timer.when() > self.loop.time()}
        _, event = job.script.pop(0)
        if event["type"] == "response.completed":
            self.queues[job.lane].popleft()
            self.memory[job.lane] = job.response_id
            if job.body["store"]:
                self.server.stored.add(job.response_id)
        elif event["type"] == "error":
            self.queues[job.lane].popleft()
            if self.memory.get(job.lane) == job.body.get("previous_response_id"):
                del self.memory[job.lane]
        self.say(job, event)
        self.schedule(job)
