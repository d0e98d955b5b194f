"""What the tests of keep-ready share: agents whose socket is cut while a tool runs, never by the clock."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import HumanMessage
from langchain_core.tools import StructuredTool
from scenarios.graphs import World, tool_graph

from langchain_ws_responses import ConnectionManager, DeltaToolNode, Profile, WebSocketMiddleware
from langchain_ws_responses._langchain import ready
from langchain_ws_responses._transport.runtime import runtime
from langchain_ws_responses.testing import RecordedRequest, ResponsesServer, calls, text, tool_call

KEEPS = Profile(name="local", lanes=True, keeps_warm_up=True)
KINDS = ("node", "middleware")


def manager_of(profile: Profile | None = KEEPS, **fields: Any) -> ConnectionManager:
    """A manager that knows the local server as told."""
    return ConnectionManager(profiles={} if profile is None else {"127.0.0.1": profile}, **fields)


def on_io_thread(look: Callable[[], Any]) -> Any:
    """Looks at something on the I/O thread, after all that was asked of it before."""
    done, found = threading.Event(), []

    def call() -> None:
        found.append(look())
        done.set()

    runtime().call(call)
    assert done.wait(10)
    return found[0]


def join_threads() -> None:
    """Waits for the threads that read conversations in."""
    for thread in threading.enumerate():
        if thread.name in ("ws-responses prime", "ws-responses warm-up"):
            thread.join(10)
            assert not thread.is_alive()


@dataclass(eq=False)
class Bench:
    """An agent with one kind of keep-ready, and a tool that does what the test wants.

    Attributes:
        world: Its server, manager and models.
        kind: `node` for `DeltaToolNode`, `middleware` for `WebSocketMiddleware`.
        act: What the tool does; the result is its output.
    """

    world: World
    kind: str
    act: Callable[[str], Any] = field(default=lambda name: "done")

    @property
    def server(self) -> ResponsesServer:
        """The server."""
        return self.world.server

    @property
    def warm_ups(self) -> list[RecordedRequest]:
        """Every warm-up that has ended, in order."""
        return [
            request
            for request in self.server.requests
            if request.is_warm_up and request.status in ("completed", "error")
        ]

    def agent(self, model: Any | None = None) -> Any:
        """Makes the agent."""

        def work(name: str) -> Any:
            """Works."""
            return self.act(name)

        async def awork(name: str) -> Any:
            """Works."""
            return await asyncio.to_thread(self.act, name)

        tool = StructuredTool.from_function(work, awork, name="work", description="Works.")
        model = model or self.world.model()
        if self.kind == "node":
            return tool_graph(model, [tool], tool_node=DeltaToolNode)
        return create_agent(model, [tool], middleware=[WebSocketMiddleware()])

    def ask(self, *names: str) -> None:
        """Lets the model call the tool with each of these names, all in one answer, and then end."""
        wanted = [tool_call("work", {"name": name}, f"c-{name}") for name in names]
        self.server.add(calls(*wanted), text("end"))

    def run(self, agent: Any = None, config: Any = None) -> Any:
        """Runs the agent to its end."""
        return self.world.run(agent or self.agent(), {"messages": [HumanMessage("go")]}, config)

    def lose(self, code: int | None = None) -> None:
        """Loses the connection, and waits until another one is open."""
        before = len(self.server.connections)
        self.server.drop_connections(code=code)
        self.reopened(before)

    def reopened(self, before: int) -> None:
        """Waits until there is one more connection than before."""
        self.server.wait_for(lambda: len(self.server.connections) > before)

    def settle(self, count: int) -> None:
        """Waits until so many warm-ups have ended, for the server and for those who sent them."""
        self.server.wait_for(lambda: len(self.warm_ups) >= count)
        join_threads()

    def check_nothing_left(self) -> None:
        """Checks that no thread, watch, keeper or note of this conversation is left."""
        join_threads()
        pools = list(self.world.manager._pools.values())
        assert on_io_thread(lambda: [watch for pool in pools for watch in pool.watches]) == []
        assert ready._keepers == {}
        assert [known for known in ready._recent.values() if known.route.manager is self.world.manager] == []
