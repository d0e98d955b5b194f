"""`python -m benchmarks profile`: where the CPU time of a rollout goes, on all threads.

A timer interrupts the main thread some thousand times a second; what it was doing counts for as much CPU
time as the thread has used since the last time. Signals reach the main thread only, so there are two
processes: in the first the caller is in the main thread, in the second the I/O thread is. Interrupted waits
are left out and their share goes to the rest. Unlike a tracing profiler this does not make small functions
look slow.
"""

from __future__ import annotations

import _thread
import asyncio
import json
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import Any

from .clock import Clock
from .drivers import Job
from .processes import measure, run_server
from .tables import environment, table
from .workload import call_model

__all__ = ["main", "profile"]

PACKAGE = "langchain_ws_responses"
SOCKET = "this package, the socket"
ABOVE = "this package, above the socket"
LIMIT = 0.15
"""Share of the time in this package's own code above LangChain's and the socket's, in an agent's rollout."""
# What every client of the protocol must do in some library: frames, JSON, events, the I/O thread. Planning a turn is
# this package's own idea, wherever it stands.
_SOCKET_MODULES = ("_transport", "_protocol", "_json")
_PLANNING = ("_protocol.chain", "_protocol.recovery")
_INTERVAL = 0.0002
# A thread whose innermost frame is one of these waits, or is being looked at already.
_WAITS = frozenset({"select", "get", "wait", "acquire", "_tick"})
# Who answers for a frame, by the top package of its file. Helpers of the standard library and of pydantic
# count for whoever called them; an event loop that called nobody counts for itself.
_OWNERS = {
    PACKAGE: PACKAGE,
    "langchain_core": "LangChain",
    "langchain_openai": "LangChain",
    "langchain": "LangChain",
    "langgraph": "LangChain",
    "langsmith": "LangChain",
    "openai": "openai",
    "websockets": "websockets",
    "asyncio": "event loop",
    "selectors.py": "event loop",
    "benchmarks": "the benchmark's loop",
}
_SHOWN = 30
_IO_MODULE = "langchain_ws_responses._transport.runtime"


def profile(turns: int, call: str, repeat: int, *, agent: bool) -> int:
    """Profiles rollouts in fresh processes and prints the shares.

    Args:
        turns: Of a rollout.
        call: How the chat model is called.
        repeat: Rollouts.
        agent: An agent of `create_agent` with a checkpointer calls it, and not the benchmark's loop.

    Returns:
        1 if the limit, which is one for agents, is missed.
    """
    spent: dict[tuple[str, str, str], float] = {}
    with run_server() as server:
        for thread in ("caller", "I/O thread"):
            job = {
                "turns": turns,
                "call": call,
                "repeat": repeat,
                "thread": thread,
                "agent": agent,
                "base_url": f"{server.plain}/v1",
            }
            result = measure(job, module="benchmarks.profiling")
            if "error" in result:
                sys.exit(f"failed: {result['error']}")
            print(f"{thread}: {result['samples']} samples", file=sys.stderr)
            for owner, function, seconds in result["spent"]:
                spent[(thread, owner, function)] = seconds / repeat / turns
    about = environment()
    what = "create_agent + ChainSaver" if agent else "the chat model alone"
    print(f"{what}, {call}, {repeat} rollouts of {turns} turns; {about['cpu']}, {about['python']}")
    _print(spent)
    own = sum(seconds for (_, owner, _), seconds in spent.items() if owner == ABOVE) / sum(spent.values())
    judged = f" (limit {100 * LIMIT:.0f} %): {'pass' if own < LIMIT else 'FAIL'}" if agent else ""
    print(f"own code above LangChain's and the socket's: {100 * own:.1f} %{judged}")
    return int(agent and own >= LIMIT)


def _print(spent: dict[tuple[str, str, str], float]) -> None:
    total = sum(spent.values())
    owners, threads, modules, functions = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    for (thread, owner, function), seconds in spent.items():
        for counter, name in ((owners, owner), (threads, thread), (functions, function)):
            counter[name] += seconds  # type: ignore[assignment]
        if owner in (SOCKET, ABOVE):
            modules[function.partition(":")[0]] += seconds  # type: ignore[assignment]
    for title, counter, most in (
        ("By owner", owners, None),
        ("By thread", threads, None),
        ("This package by module", modules, None),
        ("Functions, what they call in C and in the standard library included", functions, _SHOWN),
    ):
        rows = [
            [name, f"{100 * seconds / total:.1f} %", f"{1e6 * seconds:.0f}"]
            for name, seconds in counter.most_common(most)
        ]
        print(table(title, ["", "share", "µs a turn"], rows), end="")


# -- in a process of its own ----------------------------------------


def main() -> None:
    """Profiles and prints what was counted."""
    given = json.loads(sys.argv[1])
    sampler = Sampler()
    if given["thread"] == "caller":
        _rollouts(given, sampler)
    else:
        _with_loop_in_main(given, sampler)
    print(json.dumps({"samples": sampler.samples, "spent": sampler.result()}))


def _rollouts(given: dict[str, Any], sampler: Sampler) -> None:
    """Runs the rollouts; the sampler looks at the main thread, whichever this is."""
    from .drivers import EVERY

    driver = EVERY["agent-ours" if given["agent"] else "ours"]
    ours: Any = driver.load()
    # Each conversation has a name of its own, which is the thread that an agent's checkpointer keeps it in.
    names = [call_model(given["turns"] + number) for number in range(given["repeat"])]
    job = Job(given["base_url"], given["call"], driver.options)
    if given["call"] in ("invoke", "stream"):
        with ours.session(job) as run:
            run(call_model(3), Clock())
            with sampler:
                for name in names:
                    run(name, Clock())
        return

    async def rollouts() -> None:
        async with ours.asession(job) as run:
            await run(call_model(3), Clock())
            with sampler:
                for name in names:
                    await run(name, Clock())

    asyncio.run(rollouts())


def _with_loop_in_main(given: dict[str, Any], sampler: Sampler) -> None:
    """Lets the package's I/O thread be the main thread, and the caller another one."""
    handed: SimpleQueue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = SimpleQueue()
    start = _thread.start_new_thread

    def start_here(function: Any, arguments: Any, *rest: Any) -> int:
        if _IO_MODULE not in getattr(function, "__module__", ""):
            return start(function, arguments, *rest)
        handed.put((function, arguments))
        return threading.main_thread().ident or 0

    _thread.start_new_thread = start_here
    sampler.install()

    def rollouts() -> None:
        try:
            _rollouts(given, sampler)
        finally:
            handed.put(None)
            stop()

    def stop() -> None:
        from langchain_ws_responses._transport.runtime import runtime

        if runtime().alive:
            runtime().call(runtime().loop.stop)

    threading.Thread(target=rollouts, daemon=True).start()
    found = handed.get()
    if found is None:
        raise RuntimeError("the package started no I/O thread that could be watched")
    found[0](*found[1])


class Sampler:
    """Samples the main thread while it is entered; `install` must have been called in it."""

    def __init__(self) -> None:
        self.samples = 0
        self._spent: Counter[tuple[str, str]] = Counter()
        self._waited = 0.0
        self._last = 0.0
        self._on = False

    def install(self) -> None:
        """Sets the handler; only the main thread may do so."""
        signal.signal(signal.SIGALRM, self._tick)

    def __enter__(self) -> Sampler:
        if threading.current_thread() is threading.main_thread():
            self.install()
        self._on = True
        signal.setitimer(signal.ITIMER_REAL, _INTERVAL, _INTERVAL)
        return self

    def __exit__(self, *exc_info: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        self._on = False

    def _tick(self, _number: int, frame: FrameType | None) -> None:
        now = time.thread_time()
        if self._on and frame is not None and self._last:
            spent = now - self._last
            if frame.f_code.co_name in _WAITS:
                self._waited += spent
            else:
                self.samples += 1
                self._spent[_owner(frame)] += spent  # type: ignore[assignment]
        # Not `now`: the sampler's own work counts for nobody.
        self._last = time.thread_time()

    def result(self) -> list[tuple[str, str, float]]:
        """Returns owner, function and seconds, with the waits' share spread over all."""
        total = sum(self._spent.values())
        factor = (total + self._waited) / total if total else 0.0
        return [(owner, function, spent * factor) for (owner, function), spent in self._spent.items()]


def _owner(frame: FrameType) -> tuple[str, str]:
    """Who answers for a sample, and the function."""
    at: FrameType | None = frame
    while at is not None:
        top, module = _place(at.f_code.co_filename)
        owner = _OWNERS.get(top)
        if owner == PACKAGE:
            owner = _part(module.removeprefix(f"{PACKAGE}."))
        if owner is not None:
            return owner, f"{module}:{getattr(at.f_code, 'co_qualname', at.f_code.co_name)}"
        at = at.f_back
    return "other", frame.f_code.co_name


def _part(module: str) -> str:
    return SOCKET if module.startswith(_SOCKET_MODULES) and not module.startswith(_PLANNING) else ABOVE


_places: dict[str, tuple[str, str]] = {}


def _place(filename: str) -> tuple[str, str]:
    """The top package of a file, and its module's name."""
    known = _places.get(filename)
    if known is None:
        parts = Path(filename).parts
        start = next((at for at in range(len(parts) - 1, -1, -1) if parts[at] in _OWNERS), len(parts) - 1)
        # The outermost part that names an owner: `openai` has a folder of the same name inside.
        while start > 0 and parts[start - 1] in _OWNERS and parts[start - 1] != "benchmarks":
            start -= 1
        known = _places[filename] = (parts[start], ".".join(parts[start:]).removesuffix(".py"))
    return known


if __name__ == "__main__":
    main()
