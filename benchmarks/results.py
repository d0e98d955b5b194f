"""Results of many measurements, as medians with their spread and as ratios within one run."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Key", "Measure", "Results", "Stat", "field", "growth", "near", "prefix"]

Measure = Callable[[Mapping[str, Any]], float]


@dataclass(frozen=True, order=True)
class Key:
    """What was measured.

    Attributes:
        mode: `rollout`, `stream`, `conversations`, `agent`, `imports` or `network`.
        driver: The driver's name.
        call: `invoke`, `ainvoke`, `stream` or `astream`.
        variant: What else sets it apart, such as the number of conversations.
    """

    mode: str
    driver: str
    call: str
    variant: str = ""

    def __str__(self) -> str:
        return " ".join(part for part in (self.mode, self.driver, self.call, self.variant) if part)


@dataclass(frozen=True)
class Stat:
    """A median and the smallest and largest value of all rounds."""

    median: float
    low: float
    high: float
    count: int


class Results:
    """Measurements by key and round."""

    def __init__(self) -> None:
        self.rounds: dict[Key, dict[int, dict[str, Any]]] = {}
        self.errors: dict[Key, str] = {}

    def add(self, key: Key, number: int, result: dict[str, Any]) -> None:
        """Takes the result of one measurement."""
        if "error" in result:
            self.errors[key] = result["error"]
        else:
            self.rounds.setdefault(key, {})[number] = result

    def has(self, key: Key) -> bool:
        """Whether there is at least one result."""
        return key in self.rounds

    def of(self, key: Key, measure: Measure) -> Stat | None:
        """Returns a measure over all rounds; None where nothing was measured."""
        return _stat([measure(result) for result in self.rounds.get(key, {}).values()])

    def ratio(self, key: Key, other: Key, measure: Measure) -> Stat | None:
        """Returns the ratio of two medians, with the spread of the ratios of single rounds."""
        mine, theirs = self.rounds.get(key, {}), self.rounds.get(other, {})
        if not mine or not theirs:
            return None
        mid = statistics.median(map(measure, mine.values())) / statistics.median(
            map(measure, theirs.values())
        )
        pairs = [
            measure(mine[number]) / measure(theirs[number]) for number in mine.keys() & theirs.keys()
        ] or [mid]
        return Stat(mid, min(pairs), max(pairs), len(pairs))

    def load(self, data: list[dict[str, Any]]) -> None:
        """Takes what `data` returned, in this process or another."""
        for entry in data:
            key = Key(*(entry[name] for name in ("mode", "driver", "call", "variant")))
            for number, result in enumerate(entry["runs"]):
                self.add(key, number, result)

    def data(self) -> list[dict[str, Any]]:
        """Returns everything, for JSON."""
        return [
            {**asdict(key), "runs": [result for _, result in sorted(rounds.items())]}
            for key, rounds in sorted(self.rounds.items())
        ]


def _stat(values: list[float]) -> Stat | None:
    if not values:
        return None
    return Stat(statistics.median(values), min(values), max(values), len(values))


def field(name: str) -> Measure:
    """Makes a measure: one value."""
    return lambda result: float(result[name])


def prefix(name: str, requests: int) -> Measure:
    """Makes a measure: the sum of a list of one value per turn over its first turns.

    The first ten turns of a rollout of a hundred are a rollout of ten: nothing knows what will follow.
    """
    return lambda result: float(sum(result[name][:requests]))


def near(name: str, turn: int) -> Measure:
    """Makes a measure: the median of a list of one value per turn, over the ten turns around one."""

    def measure(result: Mapping[str, Any]) -> float:
        values = result[name]
        # The last turn answers with text, and is left out.
        end = min(max(turn + 5, 10), len(values) - 1)
        return float(statistics.median(values[max(end - 10, 1) : end]))

    return measure


def growth(turn: int) -> Measure:
    """Makes a measure: the CPU of turns around one against that of turns around the tenth."""
    early, late = near("turn_cpu", 10), near("turn_cpu", turn)
    return lambda result: late(result) / early(result)
