"""What is measured in which mode."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .drivers import AGENTS, DRIVERS
from .network import Path as NetworkPath
from .results import Key

__all__ = ["MODES", "SIZES", "Options", "Task", "tasks"]

MODES = ("rollout", "stream", "conversations", "network")
FLOORS = (
    "wire-floor",
    "wire-floor-lanes",
    "langchain-floor",
    "langchain-floor-lanes",
    "langchain-floor-whole",
    "langchain-floor-whole-lanes",
)
# Without a history, or with a network in between, it is the LangChain floor.
_ROLLOUT_ONLY = "langchain-floor-whole"
_STREAM_REPEAT = 5
_IMPORT_REPEAT = 4
THINKING_TURNS = 12
THINKING_SECONDS = 1.0
SLOW_TURNS = 3
SLOW_SECONDS = 6.0
SIZES = (16, 100, 500)
"""Numbers of conversations at a time."""
NETWORK_TURNS = 30
"""Tool turns of every client over the emulated network."""


@dataclass(frozen=True)
class Options:
    """What was asked for.

    Attributes:
        modes: Of `MODES`.
        turns: Requests of a rollout; the longest is run, the others are its beginnings.
        peers: Names of drivers beside the floors and this package.
        runs: Rounds.
        sizes: Numbers of conversations at a time.
        deltas: Of a streamed answer.
        network_turns: Tool turns over the emulated network.
        quick: Leaves out what takes long.
    """

    modes: Sequence[str]
    turns: Sequence[int]
    peers: Sequence[str]
    runs: int
    sizes: Sequence[int] = SIZES
    deltas: int = 2000
    network_turns: Sequence[int] = (1, 3, 10, 30, 100)
    quick: bool = False

    @property
    def drivers(self) -> list[str]:
        """Floors, this package and the peers."""
        return [name for name in DRIVERS if name in (*FLOORS, "ours") or name in self.peers]


@dataclass(frozen=True)
class Task:
    """One measurement that is repeated.

    Attributes:
        key: What it is.
        job: For the worker, without URLs.
        runs: Rounds that it takes part in.
        module: What does it.
        path: The emulated network that it uses.
    """

    key: Key
    job: dict[str, Any]
    runs: int
    module: str = "benchmarks.worker"
    path: NetworkPath | None = field(default=None, compare=False)


def tasks(options: Options, paths: Sequence[NetworkPath] = ()) -> list[Task]:
    """Lists what the options ask for."""
    made: list[Task] = []
    if "rollout" in options.modes:
        made += [*_rollouts(options), *_agents(options)]
        import_key = Key("imports", "ours", "import")
        made.append(Task(import_key, {"repeat": _IMPORT_REPEAT}, options.runs, "benchmarks.imports"))
    if "stream" in options.modes:
        made += _streams(options)
    if "conversations" in options.modes:
        made += _conversations(options)
    if "network" in options.modes:
        for path in paths:
            made += _network(options, path)
    return made


def _rollouts(options: Options) -> Iterable[Task]:
    requests = max(options.turns)
    for name in options.drivers:
        if name.endswith("-lanes"):
            continue
        for call in DRIVERS[name].calls:
            if _too_much(options, name, call):
                continue
            yield Task(Key("rollout", name, call), {"requests": requests}, options.runs)


def _agents(options: Options) -> Iterable[Task]:
    for name, driver in AGENTS.items():
        model = driver.options["model"]
        if model in options.drivers and not (options.quick and model == "chatopenai-full"):
            yield Task(Key("agent", name, "invoke"), {"requests": max(options.turns)}, options.runs)


def _too_much(options: Options, name: str, call: str) -> bool:
    """The slowest client is measured in one sync and one streamed form only."""
    return name == "chatopenai-full" and (call.startswith("a") or (options.quick and call != "invoke"))


def _streams(options: Options) -> Iterable[Task]:
    for name in options.drivers:
        # One answer has no history: what differs between the two forms of a client is not in it.
        if name.endswith("-lanes") or name in ("chatopenai-full", "agents-full", _ROLLOUT_ONLY):
            continue
        for call in DRIVERS[name].calls:
            job = {"deltas": options.deltas, "repeat": _STREAM_REPEAT}
            yield Task(Key("stream", name, call), job, options.runs)


def _conversations(options: Options) -> Iterable[Task]:
    for size in options.sizes:
        for name in options.drivers:
            if name in ("langchain-floor", "agents-prev", "agents-full", _ROLLOUT_ONLY):
                continue  # one turn at a time on their one socket
            peer = name not in (*FLOORS, "ours")
            # Half a minute of CPU and more: enough rounds to see that they are far away.
            runs = min(options.runs, 2) if peer and size > 100 else options.runs
            if options.quick and peer and (size > 100 or name == "chatopenai-full"):
                continue
            job = {"requests": 10, "conversations": size}
            yield Task(Key("conversations", name, "ainvoke", str(size)), job, runs)


def _network(options: Options, path: NetworkPath) -> Iterable[Task]:
    long, main = max(options.network_turns), min(NETWORK_TURNS, max(options.network_turns))
    for name in options.drivers:
        if name.endswith("-lanes") or name == _ROLLOUT_ONLY:
            continue
        call = "invoke" if "invoke" in DRIVERS[name].calls else "ainvoke"
        ours = name in ("wire-floor", "ours", "chatopenai-full", "chatopenai-prev")
        job: dict[str, Any] = {"requests": (long if ours else main) + 1}
        yield Task(Key("network", name, call, f"{path.name}"), job, options.runs, path=path)
        if name not in ("ours", "chatopenai-full", "chatopenai-prev") or options.quick:
            continue
        few = min(options.runs, 2)
        thinking = {"requests": THINKING_TURNS + 1, "think": THINKING_SECONDS}
        yield Task(Key("network", name, call, f"{path.name}, thinking"), thinking, few, path=path)
        slow = {"requests": SLOW_TURNS + 1, "pause": SLOW_SECONDS}
        yield Task(Key("network", name, call, f"{path.name}, slow tools"), slow, few, path=path)
