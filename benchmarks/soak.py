"""A long run under chaos: `python -m benchmarks.soak --minutes 3`.

A thousand conversations, with tool calls, over a few sockets with lanes. The server and the network in front of it
fail all the time: errors before and in the middle of answers, frames that belong to nobody, connections that are
reset, closed, cut, frozen or turned into black holes. Every token is stamped with conversation, turn, attempt and
number, and every answer says what the model saw, so that nothing can be lost, doubled or mixed up unnoticed.

The exit code is 1 when a figure is missed. The server runs in a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import gc
import json
import os
import platform
import random
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
    message_chunk_to_message,
)

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager, Limits, RetryPolicy, failure_of
from langchain_ws_responses._protocol.limits import Profile
from langchain_ws_responses._transport.runtime import runtime

from .chaos import TOKENS

__all__ = ["main"]

KEY = "sk-soak"
IN_FLIGHT = 256
# A turn that takes longer has been forgotten.
PATIENCE = 90.0
LIFE = 4
TOOLS = [
    {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
]


# -- the other process ---


class Other:
    """The server's process, seen from this one."""

    def __init__(self, options: argparse.Namespace) -> None:
        numbers = [options.seed, options.share, options.every]
        command = [sys.executable, "-m", "benchmarks.chaos", *map(str, numbers)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )
        self.base_url: str = self._line()["base_url"]

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the server's process has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self) -> dict[str, Any]:
        """What has happened there so far."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._line()

    def stop(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


# -- this process: conversations that check every token ---


@dataclass
class Book:
    """What was counted.

    Attributes:
        turns: Answers that were right.
        told: Turns that ended with a documented error, by its kind.
        lost: Turns without an end, tokens or tool outputs that never came.
        doubled: Tokens that came twice, and what the model saw twice.
        foreign: Tokens or content of another conversation, turn or attempt.
        notes: The first few things that were wrong.
    """

    turns: int = 0
    streams: int = 0
    told: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    doubled: int = 0
    foreign: int = 0
    notes: list[str] = field(default_factory=list)

    def wrong(self, what: str, note: str) -> None:
        """Counts a mistake."""
        setattr(self, what, getattr(self, what) + 1)
        if len(self.notes) < 20:
            self.notes.append(f"{what}: {note[:300]}")


class Conversation:
    """One chain of turns that never stops."""

    def __init__(
        self, number: int, model: Any, book: Book, gate: asyncio.Semaphore, pause: float = 1.0
    ) -> None:
        self.number, self.model, self.book, self.gate = number, model, book, gate
        self.pause = pause
        self.random = random.Random(number)
        self.turn = 0
        self.messages: list[BaseMessage] = []

    async def run(self, over: Callable[[], bool], until: float) -> None:
        """Talks until it is over; a chain begins anew every few turns, so that memory has a bound.

        Args:
            over: Whether it is.
            until: When it will be, on the monotonic clock: no pause is longer.
        """
        while not over():
            self.turn += 1
            if self.turn % LIFE == 1:
                self.messages = []
            await self._turn(over)
            pause = self.random.expovariate(1 / self.pause)
            await asyncio.sleep(min(pause, max(until - time.monotonic(), 0)))

    async def _turn(self, over: Callable[[], bool]) -> None:
        before = len(self.messages)
        for attempt in range(1, 50):
            del self.messages[before:]
            self.messages.append(HumanMessage(f"c{self.number} t{self.turn} a{attempt}"))
            if await self._answered(attempt) or over():
                return

    async def _answered(self, attempt: int) -> bool:
        """Asks, and does the tool call if there is one; False: an error was told."""
        while True:
            async with self.gate:
                message = await self._ask()
            if message is None:
                return False
            self._check(message, attempt)
            self.messages.append(message)
            if not message.tool_calls:
                return True
            output = f"c{self.number} t{self.turn} a{attempt} tool output"
            self.messages.append(ToolMessage(output, tool_call_id=str(message.tool_calls[0]["id"])))

    async def _ask(self) -> AIMessage | None:
        call = self._stream if self.random.random() < 0.5 else self._invoke
        try:
            return await asyncio.wait_for(call(), PATIENCE)
        except (TimeoutError, asyncio.TimeoutError) as exc:
            if failure_of(exc) is None:
                self.book.wrong("lost", f"c{self.number} t{self.turn}: no end within {PATIENCE:g} s")
                return None
            self._tell(exc)
        except Exception as exc:
            self._tell(exc)
        return None

    def _tell(self, exc: Exception) -> None:
        told = failure_of(exc)
        if told is None:
            self.book.wrong("lost", f"an error that is not documented: {exc!r}")
        else:
            self.book.told[f"{told.failure.kind} {told.replay}"] += 1

    async def _invoke(self) -> AIMessage:
        message: AIMessage = await self.model.ainvoke(self.messages)
        return message

    async def _stream(self) -> AIMessage:
        whole: Any = None
        self.book.streams += 1
        async for chunk in self.model.astream(self.messages):
            whole = chunk if whole is None else whole + chunk
        message = message_chunk_to_message(whole)
        assert isinstance(message, AIMessage)
        return message

    def _check(self, message: AIMessage, attempt: int) -> None:
        """Every token once, in order, nobody else's; and the model saw exactly this conversation."""
        said: str = message.text
        if message.tool_calls:
            args = message.tool_calls[0]["args"]
            said = f"{args.get('stamp')}{args.get('saw')}"
        mine = [f"[{self.number},{self.turn},{attempt},{number}]" for number in range(TOKENS)]
        users = sum(isinstance(one, HumanMessage) for one in self.messages)
        outputs = sum(isinstance(one, ToolMessage) for one in self.messages)
        if said == "".join(mine) + f"u{users}o{outputs}":
            self.book.turns += 1
            return
        note = f"c{self.number} t{self.turn} a{attempt} with u{users}o{outputs} got {said}"
        stamps = re.findall(r"\[[\d,]+\]", said)
        if "FOREIGN" in said or any(stamp not in mine for stamp in stamps):
            self.book.wrong("foreign", note)
        elif len(set(stamps)) < len(stamps):
            self.book.wrong("doubled", note)
        else:
            saw = re.search(r"u(\d+)o(\d+)$", said)
            more = saw is not None and (int(saw[1]), int(saw[2])) > (users, outputs)
            self.book.wrong("doubled" if more else "lost", note)


# -- what the process uses ---


def memory() -> float:
    """Resident memory in MiB, without what the allocator merely keeps."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
    with Path("/proc/self/statm").open() as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20


def _entries(folder: str) -> int:
    return sum(1 for _ in Path(folder).iterdir())


async def counts() -> dict[str, int]:
    """File descriptors, threads, and tasks of the caller's and of the I/O loop."""
    io_tasks: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    here, there = asyncio.get_running_loop(), runtime()

    def count() -> None:
        number = len(asyncio.all_tasks(there.loop))
        here.call_soon_threadsafe(io_tasks.set_result, number)

    there.call(count)
    return {
        "fds": _entries("/proc/self/fd"),
        "threads": _entries("/proc/self/task"),
        "tasks": len(asyncio.all_tasks()),
        "I/O tasks": await io_tasks,
    }


def slope(samples: list[tuple[float, float]]) -> float:
    """MiB in ten minutes, by least squares."""
    if len(samples) < 3:
        return 0.0
    mean_x = sum(x for x, _ in samples) / len(samples)
    mean_y = sum(y for _, y in samples) / len(samples)
    over = sum((x - mean_x) ** 2 for x, _ in samples)
    return 600.0 * sum((x - mean_x) * (y - mean_y) for x, y in samples) / over


@dataclass
class Run:
    """One soak, and what it measured."""

    options: argparse.Namespace
    other: Other
    book: Book = field(default_factory=Book)
    samples: list[tuple[float, float]] = field(default_factory=list)
    most_open: int = 0
    before: dict[str, int] = field(default_factory=dict)
    after: dict[str, int] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    dials: int = 0
    seconds: float = 0.0

    async def watch(self, manager: ConnectionManager, began: float) -> None:
        """Prints progress and takes samples."""
        told = began
        while True:
            await asyncio.sleep(1.0)
            now, stats, book = time.monotonic(), manager.stats(), self.book
            self.most_open = max(self.most_open, stats.connections_open)
            if now - told < self.options.progress:
                continue
            told = now
            known = await asyncio.to_thread(self.other.ask)
            self.faults, self.dials = Counter(known["faults"]), known["dials"]
            used = memory()
            self.samples.append((now - began, used))
            print(
                f"{now - began:6.0f} s  {book.turns:7} turns {book.turns / (now - began):5.0f}/s  "
                f"{self.faults.total():6} faults  {sum(book.told.values()):5} told  {book.lost} lost  "
                f"{book.doubled} doubled  {book.foreign} foreign  {stats.connections_open:3} open  "
                f"{stats.in_flight:4} in flight  {stats.waiting:4} waiting  {used:6.1f} MiB",
                flush=True,
            )

    async def go(self) -> None:
        """The whole run, from an idle process to an idle process."""
        options = self.options
        runtime().call(int)  # the I/O thread lives as long as the process: it is no leak
        await asyncio.to_thread(int)
        self.before = await counts()
        manager = ConnectionManager(
            limits=Limits(
                max_connections=options.sockets, ping_interval=3, ping_timeout=3, max_lifetime=options.lifetime,
                max_waiting=None,
            ),
            retry=RetryPolicy(max_attempts=8, initial_delay=0.1, max_delay=2),
            profiles={"127.0.0.1": Profile(name="soak", lanes=True)},
        )  # fmt: skip
        model = ChatOpenAIWebSocket(
            model="gpt-5.5", api_key=KEY, base_url=self.other.base_url, manager=manager, transport="websocket"
        ).bind_tools(TOOLS)
        unstored = model.bind(store=False)
        gate, began = asyncio.Semaphore(IN_FLIGHT), time.monotonic()
        watch = asyncio.create_task(self.watch(manager, began))
        talks = [
            Conversation(number, model if number % 2 else unstored, self.book, gate, options.pause)
            for number in range(1, options.conversations + 1)
        ]
        until = began + options.seconds

        def over() -> bool:
            return time.monotonic() >= until and self.book.turns >= options.turns

        await asyncio.gather(*(talk.run(over, until) for talk in talks))
        self.seconds = time.monotonic() - began
        watch.cancel()
        await asyncio.gather(watch, return_exceptions=True)
        self.stats = manager.stats()
        await manager.aclose()
        del model, unstored, talks, manager
        for _ in range(50):  # sockets close a few rounds later
            self.after = await counts()
            if self.after == self.before:
                break
            gc.collect()
            await asyncio.sleep(0.1)

    def report(self) -> bool:
        """Prints the figures; True: all are met."""
        book, stats = self.book, self.stats
        known = self.other.ask()
        self.faults, self.dials = Counter(known["faults"]), known["dials"]
        warm = [sample for sample in self.samples if sample[0] > self.seconds / 2]
        rise, grown = slope(warm), (max(y for _, y in warm) - warm[0][1]) if warm else 0.0
        long = self.seconds >= 900
        figures = [
            ("minutes", f"{self.seconds / 60:.1f}", True),
            ("turns answered", f"{book.turns} ({book.streams} streamed)", book.turns > 0),
            (
                "faults injected",
                f"{self.faults.total()} {dict(sorted(self.faults.items()))}",
                bool(self.faults),
            ),
            ("errors told", f"{sum(book.told.values())} {dict(sorted(book.told.items()))}", True),
            ("lost", str(book.lost), book.lost == 0),
            ("doubled", str(book.doubled), book.doubled == 0),
            ("foreign", str(book.foreign), book.foreign == 0),
            ("sockets at most", str(self.most_open), 0 < self.most_open <= self.options.sockets),
            ("dials", str(self.dials), True),
            ("sends", f"{stats.delta} delta, {stats.full} full, {stats.resends} resends", stats.delta > 0),
            ("rotations", str(stats.rotations), True),
            (
                "memory after warm-up",
                f"{rise:+.2f} MiB in 10 min, at most {grown:+.2f} MiB, from {len(warm)} samples",
                # A short run cannot tell a slope from noise.
                rise < 1.0 if long else grown < 24.0,
            ),
            ("before", str(self.before), True),
            ("after", str(self.after), self.after == self.before),
        ]
        cores, system = len(os.sched_getaffinity(0)), f"{platform.system()} {platform.release()}"
        python = f"{platform.python_implementation()} {platform.python_version()}"
        print(f"\n{datetime.now(timezone.utc):%Y-%m-%d}, {system}, {cores} cores, {python}")
        for name, value, met in figures:
            print(f"{'ok    ' if met else 'MISSED'} {name:20} {value}")
        for note in book.notes:
            print(f"       {note}")
        return all(met for _, _, met in figures)


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--turns", type=int, default=0, help="go on until so many answers were right")
    parser.add_argument("--conversations", type=int, default=1000)
    parser.add_argument(
        "--pause", type=float, default=1.0, help="seconds between two turns of a conversation"
    )
    parser.add_argument("--sockets", type=int, default=32, help="at most so many connections")
    parser.add_argument("--lifetime", type=float, default=20.0, help="seconds until a connection is rotated")
    parser.add_argument("--share", type=float, default=0.15, help="share of the answers that are disturbed")
    parser.add_argument("--every", type=float, default=3.0, help="seconds between faults of the network")
    parser.add_argument("--progress", type=float, default=10.0, help="seconds between two lines")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    options.seconds = options.minutes * 60
    if not Path("/proc/self/statm").exists():
        print("the soak reads /proc: it needs Linux")
        return 2
    run = Run(options, Other(options))
    try:
        asyncio.run(run.go())
        met = run.report()
    finally:
        run.other.stop()
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
