"""Processes that gevent has patched: sync calls are cooperative, and what cannot work is refused and does not hang."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import textwrap
import threading

import pytest
from process.kit import PROJECT, environment

from langchain_ws_responses.testing import ResponsesServer, hold, text

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("gevent") is None, reason="the package gevent is missing"),
    pytest.mark.timeout(120),
]
PATCHED = """
import gevent.monkey
gevent.monkey.patch_all({options})
import asyncio, logging, sys, time
# In debug mode asyncio warns of every slow callback, and a busy machine has many; errors it still tells.
logging.getLogger("asyncio").setLevel(logging.ERROR)
import gevent
from langchain_ws_responses import ChatOpenAIWebSocket, default_manager, failure_of
from langchain_ws_responses.errors import ConfigurationError
model = ChatOpenAIWebSocket(model="gpt-5.5", api_key="sk-test", base_url=sys.argv[1], transport="websocket")
"""


def patched(server: ResponsesServer, script: str, options: str = "") -> str:
    """Runs a script in a patched process, which must be silent on stderr."""
    source = PATCHED.format(options=options) + textwrap.dedent(script)
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", source, server.base_url],
        cwd=PROJECT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stderr, done.returncode) == ("", 0), done.stdout + done.stderr
    return done.stdout


def test_sync_calls_in_greenlets_share_a_connection_and_let_others_run() -> None:
    with ResponsesServer(event_delay=0.01) as server:
        out = patched(
            server,
            """
            turns = 0
            def tick():
                global turns
                while True:
                    turns += 1
                    gevent.sleep(0)
            assert "alone" in model.invoke("alone").text
            ticker = gevent.spawn(tick)
            jobs = [gevent.spawn(lambda n=n: (n, model.invoke(f"number {n}.").text)) for n in range(20)]
            jobs.append(gevent.spawn(lambda: ("streamed", "".join(c.text for c in model.stream("streamed")))))
            for job in gevent.joinall(jobs, raise_error=True):
                word, said = job.value
                assert f"{word}" in said, (word, said)
            assert turns > 20, turns
            ticker.kill()
            assert [("a" in one.text) for one in model.batch(["a", "a"])] == [True, True]
            stats = default_manager().stats()
            assert stats.in_flight == 0 and stats.connections_open <= 2, stats
            default_manager().close()
            assert "again" in model.invoke("again").text
            print("done")
            """,
        )
    assert out == "done\n"


def test_greenlets_are_killed_time_out_and_end_with_their_process_without_a_word() -> None:
    gate = threading.Event()
    script = """
    try:
        with gevent.Timeout(0.2):
            model.invoke("held")
    except gevent.Timeout:
        print("timed out")
    def begun(count):
        while default_manager().stats().in_flight < count:
            gevent.sleep(0)
    before = default_manager().stats().in_flight
    job = gevent.spawn(model.invoke, "held")
    begun(before + 1)
    job.kill()
    print(model.invoke("free").text, default_manager().stats().waiting)
    jobs = [gevent.spawn(model.invoke, "held") for _ in range(5)]
    begun(before + 6)
    for chunk in model.stream("free"):
        if chunk.text:
            sys.exit()
    """
    with ResponsesServer(
        answer=lambda request: hold(gate, "Held.") if request.last_user_text == "held" else text("Free.")
    ) as server:
        out = patched(server, script)
        gate.set()
    assert out == "timed out\nFree. 0\n"


REFUSED = {
    "async calls": (
        "",
        "asyncio.run(model.ainvoke('Hello'))",
        "Use `invoke`, `stream` and `batch` in greenlets",
    ),
    "threads are not patched": ("thread=False", "model.invoke('Hello')", "without `thread=False`"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_wait_for_ever_is_refused_with_a_remedy(what: str) -> None:
    options, call, remedy = REFUSED[what]
    script = f"""
    try:
        {call}
    except ConfigurationError as exc:
        print(exc)
    """
    with ResponsesServer() as server:
        assert remedy in patched(server, script, options)
        assert server.requests == []
