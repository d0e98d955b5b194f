"""One model and very many event loops: nothing is bound to any, nothing is left of any, none is ever blocked."""

from __future__ import annotations

import json
import os
import threading

import pytest
from process.kit import SECONDS, counted, python

from langchain_ws_responses.testing import ResponsesServer, hold, text, tool_call

pytestmark = pytest.mark.timeout(SECONDS)
LOOPS = counted(100, 1000)


def test_very_many_loops_one_after_the_other() -> None:
    with ResponsesServer() as server:
        out = python(
            """
            model = make()
            async def ask():
                return (await model.ainvoke("Hello")).text
            async def stream():
                return "".join([chunk.text async for chunk in model.astream("Hello")])
            async def leave():
                # Breaks off in the middle, as somebody who closes a tab.
                async for chunk in model.astream("Hello"):
                    return "left"
            ways = [ask, stream, leave]
            for way in ways:
                asyncio.run(way())
            before = resources()
            for number in range(int(sys.argv[2])):
                assert asyncio.run(ways[number % 3]()), number
            assert model.invoke("Hello").text
            assert resources() == before, (resources(), before)
            while default_manager().stats().in_flight:
                on_io(lambda: None)
            stats = default_manager().stats()
            print(stats.dials, stats.strays, stats.buffered_bytes)
            """,
            server.base_url,
            str(LOOPS),
        )
        assert out == "1 0 0\n"
        assert len(server.connections) == 1
        assert len(server.requests) == LOOPS + 4


DEATHS = {
    "the main coroutine raises": """
        async def main():
            async for chunk in model.astream("first"):
                raise ZeroDivisionError
        try:
            asyncio.run(main())
        except ZeroDivisionError:
            pass
    """,
    "a task is left behind": """
        async def main():
            begun = asyncio.Event()
            async def ask():
                async for chunk in model.astream("first"):
                    begun.set()
            task = asyncio.create_task(ask())
            await begun.wait()
        asyncio.run(main())
    """,
    "it is stopped and closed": """
        loop = asyncio.new_event_loop()
        async def ask():
            async for chunk in model.astream("first"):
                loop.stop()
        task = loop.create_task(ask())
        loop.run_forever()
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
    """,
    "its thread ends with it": """
        async def main():
            async for chunk in model.astream("first"):
                raise SystemExit
        thread = threading.Thread(target=asyncio.run, args=(main(),))
        thread.start()
        thread.join()
    """,
    "an invoke is left behind": """
        async def main():
            task = asyncio.create_task(model.ainvoke("first"))
            while not default_manager().stats().in_flight:
                await asyncio.sleep(0)
        asyncio.run(main())
    """,
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_loop_that_dies_with_a_turn_in_flight(death: str) -> None:
    gate = threading.Event()
    with ResponsesServer(hold(gate, text("one two three", 8), after_events=6), "Second.", "Third.") as server:
        threading.Thread(
            target=lambda: server.wait_for(lambda: len(server.requests) == 3, timeout=60) and gate.set(),
            daemon=True,
        ).start()
        out = python(
            "import textwrap\nmodel = make()\nexec(textwrap.dedent(sys.argv[2]))\n"
            """
print(model.invoke("second").text, asyncio.run(model.ainvoke("third")).text)
while default_manager().stats().in_flight:
    on_io(lambda: None)
print(default_manager().stats().dials)
""",
            server.base_url,
            DEATHS[death],
        )
        gate.set()
        assert out == "Second. Third.\n1\n"
        assert len(server.connections) == 1


def test_a_notebook_s_cells_run_sync_code_inside_its_loop() -> None:
    call = tool_call("add", {"a": 1, "b": 2})
    with ResponsesServer("Uno.", "Due.", "Tre.", "Quattro.", call, "Cinque.", "Sei.") as server:
        out = python(
            """
            from langchain.agents import create_agent
            model = make()
            @tool
            def add(a: int, b: int) -> int:
                "Adds."
                return a + b
            async def kernel():
                # Each line is a cell: the kernel's loop runs all the time.
                print(model.invoke("one").text)
                print("".join(chunk.text for chunk in model.stream("two")))
                print(*sorted(answer.text for answer in model.batch(["three", "four"])))
                print(create_agent(model, [add]).invoke({"messages": [("user", "five")]})["messages"][-1].text)
                print((await model.ainvoke("six")).text)
            asyncio.run(kernel())
            """,
            server.base_url,
        )
        assert out.split() == ["Uno.", "Due.", "Quattro.", "Tre.", "Cinque.", "Sei."]
        assert len(server.connections) == 1


BLOCKING = """
import tempfile, traceback
from blockbuster import blockbuster_ctx
from langchain.agents import create_agent
from langgraph.checkpoint.memory import InMemorySaver
from langchain_ws_responses import ChainSaver, Profile, WebSocketMiddleware

@tool
async def add(a: int, b: int) -> int:
    "Adds."
    return a + b

async def main(entry):
    manager = ConnectionManager(profiles={"127.0.0.1": Profile(name="local", lanes=True, keeps_warm_up=True)})
    model = make(manager=manager)
    with blockbuster_ctx():
        await eval(entry)

# Forked, so that each entry point is the first thing that its process does: the I/O thread starts inside.
assert not runtime().alive
gc.freeze()
said = {}
for name, entry in json.loads(sys.argv[2]).items():
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if child == 0:
            os.dup2(errors.fileno(), 2)
            try:
                asyncio.run(main(entry))
            except BaseException:
                traceback.print_exc()
            sys.stderr.flush()
            os._exit(0)
        os.waitpid(child, 0)
        errors.seek(0)
        said[name] = errors.read().decode()
print(json.dumps(said))
"""
ENTRIES = {
    "ainvoke": "model.ainvoke('one')",
    "astream": "drained(model.astream('one'))",
    "astream_events": "drained(model.astream_events('one', version='v2'))",
    "abatch": "model.abatch(['one', 'two', 'three'])",
    "agenerate": "model.agenerate([[HumanMessage('one')]])",
    "apreconnect": "model.apreconnect()",
    "awarm_up": "model.awarm_up([HumanMessage('one')], [add])",
    "acompact": "model.acompact([HumanMessage('one')])",
    "aclose": "used_and_closed(model)",
    "manager.aclose": "manager.aclose()",
    "async with": "inside(manager)",
    "a model made inside": "make().ainvoke('one')",
    "agent": "agent(model)",
    "ChainSaver": "saver(model)",
}
HELPERS = """
async def drained(chunks):
    async for _ in chunks:
        pass

async def used_and_closed(model):
    await model.ainvoke("one")
    await model.aclose()

async def inside(manager):
    async with manager:
        await make(manager=manager).ainvoke("one")

async def agent(model):
    one = create_agent(model, [add], system_prompt="Be good.", middleware=[WebSocketMiddleware(model)])
    for _ in range(2):
        await one.ainvoke({"messages": [("user", "one")]})
    await drained(one.astream({"messages": [("user", "one")]}, stream_mode="messages"))

async def saver(model):
    keeper = ChainSaver(InMemorySaver(), on_delete="delete_responses")
    one = create_agent(model, [add], checkpointer=keeper)
    config = {"configurable": {"thread_id": "t"}}
    for _ in range(2):
        await one.ainvoke({"messages": [("user", "one")]}, config)
    assert await keeper.aget_tuple(config)
    await drained(keeper.alist(config))
    await drained(one.aget_state_history(config))
    await keeper.adelete_thread("t")
"""


def play(request: object) -> object:
    """Calls the tool where it is offered and was not called yet."""
    seen, tools = request.seen, request.tools  # type: ignore[attr-defined]
    asked = bool(tools) and seen[-1].get("type") != "function_call_output"
    return tool_call("add", {"a": 1, "b": 2}) if asked else text("Done.")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is missing on this system")
def test_first_use_of_every_async_entry_point_blocks_no_loop() -> None:
    """As under `langgraph dev`, which forbids blocking calls on its event loop."""
    # One that blocks, to see that it would be noticed.
    entries = {**ENTRIES, "file": "asyncio.sleep(len(open(os.devnull).read()))"}
    with ResponsesServer(answer=play) as server:
        said = json.loads(python(HELPERS + BLOCKING, server.base_url, json.dumps(entries)))
        assert "BlockingError" in said.pop("file")
        assert said == dict.fromkeys(ENTRIES, "")
        assert len(server.requests) >= len(ENTRIES)
