"""`python -m benchmarks compare`: all measurements in random order, tables, targets, JSON and charts."""

from __future__ import annotations

import contextlib
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .charts import write_charts
from .drivers import DRIVERS, EVERY, missing
from .network import Path as NetworkPath
from .network import Unavailable, paths
from .plan import FLOORS, MODES, Options, Task, tasks
from .processes import Endpoint, measure, run_server
from .results import Results
from .tables import environment, tables, verdicts
from .targets import judge

__all__ = ["PEERS", "compare"]

PEERS = [name for name in DRIVERS if name not in (*FLOORS, "ours")]
_TIMEOUT = 900.0


def compare(given: Any) -> int:
    """Runs the comparison.

    Args:
        given: The parsed command line.

    Returns:
        1 if a target was measured and missed, else 0.
    """
    options = _options(given)
    results = Results()
    emulator = ""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(run_server())
        ways: list[NetworkPath] = []
        if "network" in options.modes:
            try:
                ways = stack.enter_context(paths(emulator=given.emulator))
            except Unavailable as exc:
                sys.exit(str(exc))
            emulator = ways[0].emulator
            _say(f"emulated network: {emulator}")
        planned = [task for task in tasks(options, ways) if _available(task)]
        _run(planned, options.runs, server, results, random.Random(given.seed))
    about = environment()
    rows = judge(results, options)
    print("\n".join(f"{name}: {value}" for name, value in about.items()))
    if emulator:
        print(f"emulated network: {emulator}")
    for text in tables(results, options):
        print(text, end="")
    for key, error in results.errors.items():
        print(f"failed: {key}: {error}")
    print(verdicts(rows))
    if given.json:
        _write_json(Path(given.json), about, options, results, [row.data() for row in rows], emulator)
    if given.svg:
        for path in write_charts(Path(given.svg), results, options):
            _say(f"wrote {path}")
    return int(any(row.passed is False for row in rows))


def _options(given: Any) -> Options:
    modes = list(MODES) if "all" in given.mode else given.mode
    wanted = PEERS if given.peers is None else given.peers
    peers = []
    for name in wanted:
        why = missing(name)
        if why is None:
            peers.append(name)
        else:
            _say(f"{name} is left out: {why}")
    if given.quick:
        return Options(
            modes=modes,
            turns=[turns for turns in given.turns if turns <= 30] or [30],
            peers=peers,
            runs=given.runs or 2,
            sizes=[size for size in given.conversations if size <= 100] or [16],
            network_turns=(1, 3, 10, 30),
            quick=True,
        )
    return Options(
        modes=modes,
        turns=sorted(given.turns),
        peers=peers,
        runs=given.runs or 5,
        sizes=sorted(given.conversations),
    )


_told: set[str] = set()


def _available(task: Task) -> bool:
    name = task.key.driver
    why = missing(name) if name in EVERY else None
    if why is not None and name not in _told:
        _told.add(name)
        _say(f"{name} is left out: {why}")
    return why is None


def _run(
    planned: Sequence[Task], runs: int, server: Endpoint, results: Results, order: random.Random
) -> None:
    """Goes through all rounds; in each, the order is another."""
    total = sum(task.runs for task in planned)
    began, done = time.monotonic(), 0
    for number in range(runs):
        now = [task for task in planned if number < task.runs]
        order.shuffle(now)
        for task in now:
            result = _one(task, server)
            results.add(task.key, number, result)
            done += 1
            left = (time.monotonic() - began) / done * (total - done)
            said = result.get("error") or f"{result.get('cpu', 0.0) * 1000:,.0f} ms CPU"
            _say(f"[{done}/{total}, {left / 60:.0f} min left] round {number + 1}: {task.key}: {said}")


def _one(task: Task, server: Endpoint) -> dict[str, Any]:
    job = {**task.job, "driver": task.key.driver, "call": task.key.call}
    path = task.path
    if path is None:
        job |= {"base_url": f"{server.plain}/v1", "control_url": server.plain}
        return measure(job, module=task.module, timeout=_TIMEOUT)
    return measure(
        {**job, **path.urls()},
        module=task.module,
        prefix=path.prefix,
        extra=path.environment,
        timeout=_TIMEOUT,
    )


def _say(text: str) -> None:
    """Progress goes beside the tables, so that they can be piped."""
    print(text, file=sys.stderr, flush=True)


def _write_json(
    path: Path,
    about: dict[str, str],
    options: Options,
    results: Results,
    rows: list[dict[str, Any]],
    emulator: str,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        json.dumps(
            {
                "environment": about,
                "emulator": emulator,
                "options": asdict(options),
                "targets": rows,
                "errors": {str(key): error for key, error in results.errors.items()},
                "measurements": results.data(),
            },
            indent=1,
        )
        + "\n",
        encoding="utf-8",
    )
    _say(f"wrote {path}")
