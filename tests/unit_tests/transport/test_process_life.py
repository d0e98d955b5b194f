"""Exit, fork and threads that outlive their process: silent, and nobody is hurt."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transport_kit import deaf, raw_server

from langchain_ws_responses.testing import ResponsesServer, hold, text

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork and other exits")

PRELUDE = """
import asyncio, logging, os, sys, threading
# In debug mode asyncio warns of every slow callback, and a busy machine has many; errors it still tells.
logging.getLogger("asyncio").setLevel(logging.ERROR)
from transport_kit import AsyncMailbox, ConnectionManager, SyncMailbox, Turn, endpoint_for, runtime
from langchain_ws_responses._protocol.limits import Limits, RetryPolicy
url = sys.argv[1]
endpoint = endpoint_for(url=url, credential="sk-child")
"""


def python(
    script: str, *args: str, project: Path, code: int = 0, when: Callable[[], object] | None = None
) -> str:
    """Runs a script as strictly as Python can; it must be silent on stderr.

    With `when`, a script that reads from stdin goes on once that has returned.
    """
    paths = [str(project), str(project / "tests"), os.environ.get("PYTHONPATH", "")]
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", PRELUDE + textwrap.dedent(script), *args],
        cwd=project,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        if when is not None:
            when()
        try:
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert err == ""
    assert process.returncode == code
    return out


@pytest.fixture
def held() -> Any:
    """A server whose answers stall after two events."""
    go = threading.Event()
    with ResponsesServer(answer=lambda _request: hold(go, text("never finished"), after_events=2)) as server:
        yield server
        go.set()


def test_exit_after_a_turn_with_the_socket_open(project: Path) -> None:
    with ResponsesServer() as server:
        out = python(
            """
            turn = Turn(ConnectionManager(), endpoint).send()
            print(turn.end().types[-1])
            """,
            server.websocket_url,
            project=project,
        )
    assert out == "response.completed\n"


CALLERS = {
    "main thread": """
        turn = Turn(manager, endpoint).send().until("response.in_progress")
    """,
    "daemon thread": """
        ready = threading.Event()
        def call():
            turn = Turn(manager, endpoint).send().until("response.in_progress")
            ready.set()
            turn.end(timeout=60)
        threading.Thread(target=call, daemon=True).start()
        ready.wait(10)
    """,
    "daemon thread that would raise": """
        ready = threading.Event()
        def call():
            turn = Turn(manager, endpoint, mailbox=SyncMailbox()).send()
            seen = []
            while "response.in_progress" not in seen:
                seen += [frame.type for frame in turn.box.get()]
            ready.set()
            while True:
                turn.box.get()
                raise RuntimeError("woken up while the process ends")
        threading.Thread(target=call, daemon=True).start()
        ready.wait(10)
    """,
    "loop in a daemon thread": """
        ready = threading.Event()
        async def main():
            turn = Turn(manager, endpoint, mailbox=AsyncMailbox()).send()
            await turn.box.get()
            ready.set()
            await turn.aend()
        threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
        ready.wait(10)
    """,
    "loop that was closed": """
        async def main():
            turn = Turn(manager, endpoint, mailbox=AsyncMailbox()).send()
            await turn.box.get()
        asyncio.run(main())
    """,
    "many turns": """
        turns = [Turn(manager, endpoint, str(n)).send() for n in range(20)]
        for turn in turns[:10]:
            turn.next()
    """,
}


@pytest.mark.parametrize("caller", CALLERS)
def test_exit_in_mid_stream_is_silent(held: ResponsesServer, caller: str, project: Path) -> None:
    script = "manager = ConnectionManager()\n" + textwrap.dedent(CALLERS[caller])
    python(script, held.websocket_url, project=project)
    assert held.requests


@pytest.mark.parametrize("how", ["exit", "raise", "os._exit"])
def test_every_way_to_exit(held: ResponsesServer, how: str, project: Path) -> None:
    script = (
        "turn = Turn(ConnectionManager(), endpoint).send().until('response.in_progress')\n"
        + {
            "exit": "sys.exit(3)",
            "raise": "sys.excepthook = lambda *_: None\nraise ZeroDivisionError",
            "os._exit": "os._exit(3)",
        }[how]
    )
    python(script, held.websocket_url, project=project, code=1 if how == "raise" else 3)
    assert len(held.requests) == 1


@pytest.mark.parametrize("scheme", ["ws", "wss"])
def test_exit_with_a_dial_in_progress(scheme: str, project: Path) -> None:
    with raw_server(deaf) as server:
        python(
            """
            turn = Turn(ConnectionManager(), endpoint).send()
            sys.stdin.readline()
            """,
            server.websocket_url.replace("ws:", f"{scheme}:"),
            project=project,
            when=lambda: server.accepted.get(timeout=20),
        )
        assert server.count == 1


def test_exit_with_a_dial_through_a_deaf_proxy(project: Path) -> None:
    with raw_server(deaf) as proxy:
        python(
            """
            turn = Turn(ConnectionManager(proxy=sys.argv[2]), endpoint).send()
            sys.stdin.readline()
            """,
            "wss://api.example.invalid/v1/responses",
            f"http://127.0.0.1:{proxy.port}",
            project=project,
            when=lambda: proxy.accepted.get(timeout=20),
        )
        assert proxy.count == 1


def test_exit_is_not_held_up_by_a_resolver_that_hangs(project: Path) -> None:
    """The standard executor would wait for it."""
    script = """
        import socket
        asked = threading.Event()
        def getaddrinfo(*args, **kwargs):
            asked.set()
            threading.Event().wait()
        socket.getaddrinfo = getaddrinfo
        endpoint = endpoint_for(url="ws://nowhere.invalid/v1", credential="sk")
        turn = Turn(ConnectionManager(allow_insecure=True), endpoint).send()
        asked.wait(10)
        print("asked", flush=True)
        """
    assert python(script, "ws://127.0.0.1:1/v1", project=project) == "asked\n"


def test_exit_with_a_failing_dial_in_its_pause(project: Path) -> None:
    with ResponsesServer(refuse_upgrade=503) as server:
        python(
            """
            seen = threading.Event()
            manager = ConnectionManager(hooks=[lambda event: seen.set()],
                                        retry=RetryPolicy(initial_delay=60, max_delay=60, max_elapsed=None))
            turn = Turn(manager, endpoint).send()
            assert seen.wait(10)
            """,
            server.websocket_url,
            project=project,
        )
        assert len(server.handshakes) == 1


# -- fork


FORKED = """
manager = ConnectionManager()
turn = Turn(manager, endpoint, "parent").send().until("response.in_progress")
child = os.fork()
if child == 0:
    assert manager.stats().connections_open == 0
    assert not manager.closed
    manager.abandon(turn.ticket)
    assert not manager.holds(endpoint, "resp_x")
    other = Turn(manager, endpoint, "child").send().until("response.in_progress")
    print(json.dumps(other.outcome.types), flush=True)
    {exit}
else:
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) == 0, status
    open(sys.argv[2], "w").close()
    assert turn.end().types[-1] == "response.completed", turn.outcome
    print("parent done")
"""


@pytest.mark.parametrize("leave", ["sys.exit(0)", "os._exit(0)", "manager.close(); sys.exit(0)"])
def test_a_forked_child_opens_its_own_and_touches_nothing_of_its_parents(
    leave: str, project: Path, tmp_path: Path
) -> None:
    flag = tmp_path / "go"

    class Gate:
        def is_set(self) -> bool:
            return flag.exists()

    with ResponsesServer(answer=lambda _request: hold(Gate(), text("a b c", 3), after_events=2)) as server:
        # Python 3.12 warns of any fork beside a thread: that is what this is about.
        script = "import json, warnings; warnings.simplefilter('ignore')\n" + FORKED.format(exit=leave)
        out = python(script, server.websocket_url, str(flag), project=project)
        assert out == '["response.created", "response.in_progress"]\nparent done\n'
        assert [request.last_user_text for request in server.requests] == ["parent", "child"]
        assert len(server.connections) == 2
        server.wait_for(lambda: server.requests[0].status == "completed")


def test_a_child_of_multiprocessing_works(project: Path) -> None:
    with ResponsesServer() as server:
        out = python(
            """
            import multiprocessing, warnings
            warnings.simplefilter("ignore")
            manager = ConnectionManager()
            assert Turn(manager, endpoint, "parent").send().end().id
            def work(queue):
                queue.put(Turn(manager, endpoint, "child").send().end().types[-1])
            context = multiprocessing.get_context("fork")
            queue = context.SimpleQueue()
            workers = [context.Process(target=work, args=(queue,)) for _ in range(3)]
            for worker in workers:
                worker.start()
            print([queue.get() for _ in workers])
            for worker in workers:
                worker.join()
                assert worker.exitcode == 0
                worker.close()
            queue.close()
            assert Turn(manager, endpoint, "after").send().end().id
            """,
            server.websocket_url,
            project=project,
        )
        assert out == f"{['response.completed'] * 3}\n"
        assert len(server.connections) == 4
        assert sum(request.connection == "conn_1" for request in server.requests) == 2


def test_forks_of_forks_and_a_closed_manager(project: Path) -> None:
    with ResponsesServer() as server:
        out = python(
            """
            import warnings
            warnings.simplefilter("ignore")
            closed, manager = ConnectionManager(), ConnectionManager()
            assert Turn(manager, endpoint).send().end().id
            closed.close()
            for depth in range(3):
                child = os.fork()
                if child:
                    assert os.waitpid(child, 0)[1] == 0
                    break
                assert closed.closed
                assert Turn(manager, endpoint).send().end().id
            else:
                print("innermost", flush=True)
            """,
            server.websocket_url,
            project=project,
        )
        assert out == "innermost\n"
        assert len(server.connections) == 4


def test_many_loops_one_after_the_other_are_silent(project: Path) -> None:
    with ResponsesServer() as server:
        out = python(
            """
            manager = ConnectionManager()
            async def main():
                return await Turn(manager, endpoint, mailbox=AsyncMailbox()).send().aend()
            print(len({asyncio.run(main()).id for _ in range(50)}))
            """,
            server.websocket_url,
            project=project,
        )
        assert out == "50\n"
        assert len(server.connections) == 1


def test_debug_mode_of_asyncio_shows_no_content(project: Path) -> None:
    """Slow callbacks are logged with their arguments."""
    with ResponsesServer() as server:
        out = python(
            """
            logging.basicConfig(stream=sys.stdout, level=logging.DEBUG)
            logging.getLogger("asyncio").setLevel(logging.DEBUG)
            runtime().loop.slow_callback_duration = 0.0
            manager = ConnectionManager()
            assert Turn(manager, endpoint, "canary-prompt").send().end().id
            """,
            server.websocket_url,
            project=project,
        )
    assert "Executing <Handle" in out
    assert "canary-prompt" not in out
    assert "sk-child" not in out
