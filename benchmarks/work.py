"""`python -m benchmarks work`: what this package does in each turn, counted and not timed.

Counts are the same on every machine, so a test can hold them to what they must be. Functions are counted
where they are looked up, so that a function keeps its count under another name or in another module.
"""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from types import FrameType
from typing import Any

from .clock import Clock
from .drivers import Job
from .processes import control, measure, run_server
from .tables import table
from .workload import call_model

__all__ = ["COUNTED", "main", "work"]

PACKAGE = "langchain_ws_responses"
COUNTED = (
    "conversions",
    "serialisations",
    "parses",
    "hashes",
    "frames",
    "decoded",
    "wake-ups",
    "bytes sent",
    "calls",
)
"""What is counted.

`conversions` are messages that langchain-openai converts, `hashes` the digests made, `frames` what came in and
`decoded` those of them that were looked at, `wake-ups` of an event loop by another thread, `calls` all calls of this
package's own functions, on both threads.
"""
# Names of functions written in C, by what they count for.
_IN_C = {"dumps": "serialisations", "loads": "parses", "digest": "hashes", "hexdigest": "hashes"}
_CONVERTER = "_construct_responses_api_input"
_WAKER = "_write_to_self"


def work(turns: int) -> int:
    """Prints the counts of some turns."""
    result = counted(turns)
    per_turn = result["turns"]
    shown = sorted({1, 2, 10, turns // 2, turns - 1})
    rows = [[name, *(str(per_turn[turn - 1][name]) for turn in shown)] for name in COUNTED]
    print(table("Work a turn", ["count", *(f"turn {turn}" for turn in shown)], rows))
    return 0


def counted(turns: int, **options: Any) -> dict[str, Any]:
    """Counts the work of a rollout in a fresh process.

    Args:
        turns: Requests.
        **options: For the driver, such as `chain="off"`.

    Returns:
        `turns`, a list of counts by name, and `received`, the bytes at the server.

    Raises:
        RuntimeError: The rollout failed.
    """
    with run_server() as server:
        job = {"turns": turns, "base_url": f"{server.plain}/v1", "control": server.plain, "options": options}
        result = measure(job, module="benchmarks.work")
    if "error" in result:
        raise RuntimeError(result["error"])
    return result


# -- in a process of its own ----------------------------------------


def main() -> None:
    """Counts and prints."""
    given = json.loads(sys.argv[1])
    counter = _Counter()
    from langchain_ws_responses._transport.runtime import runtime

    from .drivers import ours
    from .drivers._chat import chat_session

    job, name = Job(given["base_url"], "invoke", given["options"]), call_model(given["turns"])
    model = ours.make_model(job, name)
    with chat_session(job, lambda _job, _name: model, close=lambda made: made.close()) as run:
        run(call_model(3), Clock())
        control(given["control"], "/reset")
        clock = _Marking(counter, model.manager.counters)
        began = threading.Event()
        runtime().call(sys.setprofile, counter)
        runtime().call(began.set)
        began.wait(10)
        sys.setprofile(counter)
        run(name, clock)
        sys.setprofile(None)
    report = control(given["control"], "/report")
    for turn, size in zip(clock.turns, report["sizes"], strict=True):
        turn["bytes sent"] = size
    print(json.dumps({"turns": clock.turns, "received": report["received"]}))


class _Counter:
    """A profile function that only counts."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call":
            code = frame.f_code
            if f"{PACKAGE}/" in code.co_filename.replace("\\", "/"):
                self.counts["calls"] += 1
                if code.co_name == "receive":
                    self.counts["decoded"] += 1
            elif code.co_name == _CONVERTER:
                self.counts["conversions"] += 1
            elif code.co_name == _WAKER:
                self.counts["wake-ups"] += 1
        elif event == "c_call" and PACKAGE in frame.f_globals.get("__name__", ""):
            counted = _IN_C.get(argument.__name__)
            if counted is not None:
                self.counts[counted] += 1


class _Marking(Clock):
    """A clock that notes what was counted between two answers."""

    def __init__(self, counter: _Counter, counters: Any) -> None:
        super().__init__()
        self._counter = counter
        self._counters = counters
        self._before = self._counts()
        self.turns: list[dict[str, int]] = []

    def _counts(self) -> Counter[str]:
        return Counter({**self._counter.counts, "frames": self._counters.frames_received})

    def got(self) -> None:
        """Takes the counts of the turn."""
        super().got()
        now = self._counts()
        self.turns.append({name: now[name] - self._before[name] for name in COUNTED})
        self._before = now


if __name__ == "__main__":
    main()
