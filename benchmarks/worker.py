"""One measurement in a process of its own: reads a job as JSON from its argument, prints a result as JSON."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .clock import Clock
from .drivers import EVERY, Job
from .processes import control
from .workload import call_model, text_model

__all__ = ["main"]


def main() -> None:
    """Reads the job from the command line."""
    given = json.loads(sys.argv[1])
    driver = EVERY[given["driver"]]
    job = Job(given["base_url"], given["call"], {**driver.options, **given.get("options", {})})
    measurement = Measurement(given, driver.load(), job)
    if given["call"] in ("invoke", "stream"):
        result = measurement.run()
    else:
        result = asyncio.run(measurement.arun())
    print(json.dumps(result))


class Measurement:
    """One driver at one job.

    Args:
        given: `requests` or `deltas`, and optionally `repeat`, `conversations`, `think`, `pause`, `warm_url`.
        module: The driver's module.
        job: For the driver.
    """

    def __init__(self, given: dict[str, Any], module: Any, job: Job) -> None:
        self.given = given
        self.module = module
        self.job = job
        self.deltas = given.get("deltas")
        self.model = text_model(self.deltas) if self.deltas else call_model(given["requests"])
        self.conversations = int(given.get("conversations", 1))
        self.start_mib = 0.0
        self.clocks: list[Clock] = []
        self.texts: list[str] = []

    @property
    def warm_models(self) -> list[str]:
        """What to run before anything is measured: first calls import and build what later ones find."""
        return [text_model(20)] if self.deltas else [call_model(3), call_model(2)]

    def run(self) -> dict[str, Any]:
        """Measures a sync call."""
        warm = Job(self.given.get("warm_url") or self.job.base_url, self.job.call, self.job.options)
        if warm.base_url != self.job.base_url:
            with self.module.session(warm) as run:
                self._warm(run)
            started = self._start()
            with self.module.session(self.job) as run:
                self._measure(run)
                return self._finish(started)
        with self.module.session(self.job) as run:
            self._warm(run)
            started = self._start()
            self._measure(run)
            return self._finish(started)

    def _warm(self, run: Callable[[str, Clock], str]) -> None:
        for name in self.warm_models:
            run(name, Clock())

    def _measure(self, run: Callable[[str, Clock], str]) -> None:
        for _ in range(self.given.get("repeat", 1)):
            clock = Clock(self.given.get("pause", 0.0))
            self.clocks.append(clock)
            self.texts.append(run(self.model, clock))

    async def arun(self) -> dict[str, Any]:
        """Measures an async call."""
        warm = Job(self.given.get("warm_url") or self.job.base_url, self.job.call, self.job.options)
        if warm.base_url != self.job.base_url:
            async with self.module.asession(warm) as run:
                for name in self.warm_models:
                    await run(name, Clock())
            started = self._start()
            async with self.module.asession(self.job) as run:
                await self._ameasure(run)
                return self._finish(started)
        async with self.module.asession(self.job) as run:
            for name in self.warm_models:
                await run(name, Clock())
            started = self._start()
            await self._ameasure(run)
            return self._finish(started)

    async def _ameasure(self, run: Callable[[str, Clock], Any]) -> None:
        for _ in range(self.given.get("repeat", 1)):
            clocks = [Clock(self.given.get("pause", 0.0)) for _ in range(self.conversations)]
            self.clocks += clocks
            self.texts += await asyncio.gather(*(run(self.model, clock) for clock in clocks))

    # -- the result ----------------------------------------

    def _start(self) -> tuple[float, float]:
        gc.collect()
        self.start_mib = _peak_mib()
        control(self.given["control_url"], "/reset", think=self.given.get("think", 0.0))
        return time.process_time(), time.perf_counter()

    def _finish(self, started: tuple[float, float]) -> dict[str, Any]:
        cpu, wall = time.process_time() - started[0], time.perf_counter() - started[1]
        report = control(self.given["control_url"], "/report")
        control(self.given["control_url"], "/reset")
        repeat = self.given.get("repeat", 1)
        requests = sum(len(clock.received) for clock in self.clocks)
        if len(report["arrived"]) != requests or not all(text.strip() for text in self.texts):
            raise RuntimeError(
                f"{self.given['driver']}: {requests} answers to {len(report['arrived'])} requests, or no text"
            )
        result: dict[str, Any] = {
            "cpu": cpu / repeat,
            "wall": wall / repeat,
            "requests": requests,
            "received": report["received"] / repeat,
            "connections": report["connections"],
            "start_mib": self.start_mib,
            "peak_mib": _peak_mib(),
        }
        if self.conversations > 1:
            return {**result, **self._latencies()}
        return {**result, **self._turns(report, started)}

    def _latencies(self) -> dict[str, Any]:
        taken = sorted(
            received - sent
            for clock in self.clocks
            for sent, received in zip(clock.sent, clock.received, strict=True)
        )
        return {"p50": taken[len(taken) // 2], "p99": taken[int(len(taken) * 0.99)]}

    def _turns(self, report: dict[str, Any], started: tuple[float, float]) -> dict[str, Any]:
        """What each turn took; with `repeat`, in the order of time."""
        sent = [at for clock in self.clocks for at in clock.sent]
        received = [at for clock in self.clocks for at in clock.received]
        return {
            "turn_cpu": [
                after - before
                for clock in self.clocks
                for before, after in zip(clock.cpu, clock.cpu[1:], strict=False)
            ],
            "turn_done": [at - started[1] for at in received],
            "to_wire": [there - here for here, there in zip(sent, report["arrived"], strict=True)],
            "to_hand": [here - there for there, here in zip(report["written"], received, strict=True)],
            "turn_bytes": report["sizes"],
        }


def _peak_mib() -> float:
    # On Linux `getrusage` counts what the parent had when it started this process.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    # KiB, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 if sys.platform != "darwin" else 1024 * 1024)


if __name__ == "__main__":
    main()
