"""`python -m benchmarks memory`: tables and cost of a very long conversation."""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
import weakref
from collections import deque
from collections.abc import Iterator
from typing import Any

from .clock import Clock
from .drivers import DRIVERS, Job
from .processes import control, measure, run_server
from .tables import table
from .workload import call_model

__all__ = ["main", "memory"]

PACKAGE = "langchain_ws_responses"
LIMIT = 1.2
"""The cost of the last turn against that of the tenth."""
_WINDOW = 10
_DEPTH = 4
_CONTAINERS = (dict, list, set, deque, weakref.WeakSet, weakref.WeakValueDictionary)
# What remains of a conversation that is gone must not grow with its length; tables are swept now and then.
_LEFT_OVER = 256


def memory(turns: int, runs: int) -> int:
    """Runs the conversation in fresh processes; returns 1 if a limit is missed."""
    ratios: list[float] = []
    floors: dict[str, list[float]] = {"langchain-floor": [], "langchain-floor-whole": []}
    last: dict[str, Any] = {}
    with run_server() as server:
        for number in range(runs):
            job = {"turns": turns, "base_url": f"{server.plain}/v1", "control_url": server.plain}
            for driver, measured in floors.items():
                measured.append(_measured({**job, "driver": driver})["ratio"])
            last = _measured({**job, "driver": "ours"})
            ratios.append(last["ratio"])
            print(f"round {number + 1}: turn {turns} / turn 10: {last['ratio']:.2f}", file=sys.stderr)
    marks = [str(mark) for mark in last["marks"]]
    names = sorted({name for mark in marks for name in last["tables"][mark]} | last["gone"].keys())
    rows = [
        [
            name,
            *(str(last["tables"][mark].get(name, 0)) for mark in marks),
            str(last["gone"].get(name, 0)),
        ]
        for name in names
    ]
    head = ["table or buffer", *(f"turn {mark}" for mark in marks), "conversation dropped"]
    print(table("Entries in this package's own tables", head, rows))
    cpu = [f"turn {mark}: {last['cpu'][str(mark)] * 1000:.2f} ms" for mark in last["marks"]]
    print("CPU a turn, last round: " + ", ".join(cpu))
    middle = statistics.median(ratios)
    kept = [
        f"{name}: {size}" for name, size in last["gone"].items() if size > _LEFT_OVER + _start(last, name)
    ]
    good = middle <= LIMIT
    print(
        f"cost of turn {turns} / turn 10: {middle:.2f} ({min(ratios):.2f} to {max(ratios):.2f}), "
        f"limit {LIMIT}: {'pass' if good else 'FAIL'}"
    )
    # LangChain looks at every message of the history in each call, whatever the model does.
    plain, whole = (statistics.median(measured) for measured in floors.values())
    print(f"the LangChain floor, for comparison: {plain:.2f}, with whole messages {whole:.2f}")
    print(f"tables after the conversation: {'pass' if not kept else 'FAIL: ' + ', '.join(kept)}")
    return int(not good or bool(kept))


def _measured(job: dict[str, Any]) -> dict[str, Any]:
    result = measure(job, module="benchmarks.memory")
    if error := result.get("error"):
        sys.exit(f"failed: {error}")
    return result


def _start(result: dict[str, Any], name: str) -> int:
    return int(result["before"].get(name, 0))


# -- in a process of its own ----------------------------------------


def main() -> None:
    """Runs one long conversation and prints what was seen."""
    given = json.loads(sys.argv[1])
    print(json.dumps(_conversation(given)))


class _Watching(Clock):
    """A clock that takes a census at some turns, outside of what is measured."""

    def __init__(self, marks: list[int], manager: Any) -> None:
        super().__init__()
        self.marks = marks
        self.manager = manager
        self.tables: dict[str, dict[str, int]] = {}
        self.spent: list[float] = []

    def send(self) -> None:
        super().send()
        self.cpu[-1] = time.process_time()

    def got(self) -> None:
        super().got()
        self.spent.append(self.cpu[-1] - self.cpu[-2])
        turn = len(self.received)
        if turn in self.marks:
            self.tables[str(turn)] = dict(census(self.manager))


def _conversation(given: dict[str, Any]) -> dict[str, Any]:
    from .drivers import _chat

    turns, driver = given["turns"], DRIVERS[given["driver"]]
    job = Job(given["base_url"], "invoke", driver.options)
    model = driver.load().make_model(job, call_model(turns))
    manager = getattr(model, "manager", None)
    control(given["control_url"], "/reset")
    with _chat.chat_session(job, lambda _job, _name: model) as run:
        run(call_model(3), Clock())
        gc.collect()
        before = dict(census(manager))
        marks = sorted({10, 100, turns // 2, turns} & set(range(1, turns + 1)))
        clock = _Watching(marks, manager)
        run(call_model(turns), clock)
        gc.collect()
        gone = dict(census(manager))
    windows = {mark: clock.spent[max(mark - _WINDOW - 1, 1) : mark - 1] for mark in marks}
    windows[10] = clock.spent[4:14]
    cpu = {str(mark): statistics.median(window) for mark, window in windows.items()}
    return {
        "marks": marks,
        "tables": clock.tables,
        "before": before,
        "gone": gone,
        "cpu": cpu,
        "ratio": cpu[str(turns)] / cpu["10"],
    }


def census(*roots: Any) -> Iterator[tuple[str, int]]:
    """Counts the entries of every container that the package holds on to.

    Args:
        *roots: Objects whose attributes are looked through, beside the package's modules.

    Yields:
        Where a container is, by names, and how many entries it has; those of constant tables too.
    """
    seen: set[int] = set()
    for name, module in sorted(sys.modules.items()):
        if name == PACKAGE or name.startswith(f"{PACKAGE}."):
            for attribute, value in list(vars(module).items()):
                yield from _sizes(f"{name.removeprefix(PACKAGE + '.')}.{attribute}", value, seen, 0)
    for root in roots:
        yield from _sizes(type(root).__name__, root, seen, 0)


def _sizes(name: str, value: Any, seen: set[int], depth: int) -> Iterator[tuple[str, int]]:
    if id(value) in seen or depth > _DEPTH:
        return
    if isinstance(value, _CONTAINERS):
        seen.add(id(value))
        last = name.rpartition(".")[2]
        # Tables of constants are as long as they were; only what can change is listed.
        if not last.isupper() and not last.endswith("__"):
            yield name, len(value)
        inside: list[Any] = list(value.values() if isinstance(value, dict) else value)
        for item in inside[:3]:
            if type(item).__module__.startswith(PACKAGE):
                yield from _sizes(f"{name}[]", item, seen, depth + 1)
    elif type(value).__module__.startswith(PACKAGE) and hasattr(value, "__dict__"):
        seen.add(id(value))
        for attribute, inner in list(vars(value).items()):
            yield from _sizes(f"{name}.{attribute}", inner, seen, depth + 1)


if __name__ == "__main__":
    main()
