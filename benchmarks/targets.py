"""The targets P1 to P10, and whether a run reaches them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .plan import NETWORK_TURNS, Options
from .results import Key, Measure, Results, Stat, field, growth, near, prefix

__all__ = ["Row", "judge"]

_EARLY = 10


@dataclass(frozen=True)
class Row:
    """One line of a target.

    Attributes:
        target: `P1` to `P10`.
        what: What is compared.
        limit: What it may be.
        measured: What it is; None where it was not measured.
        unit: Of all three; empty for a ratio.
        at_least: The limit is a lower one.
    """

    target: str
    what: str
    limit: float
    measured: Stat | None
    unit: str = ""
    at_least: bool = False

    @property
    def passed(self) -> bool | None:
        """Whether the median keeps the limit; None where nothing was measured."""
        if self.measured is None:
            return None
        if self.at_least:
            return self.measured.median >= self.limit
        return self.measured.median <= self.limit

    @property
    def clear(self) -> bool:
        """Whether all rounds agree with the median about the limit."""
        stat = self.measured
        return stat is None or (stat.low >= self.limit) == (stat.high >= self.limit)

    def data(self) -> dict[str, Any]:
        """Returns it for JSON."""
        stat = self.measured
        return {
            "target": self.target,
            "what": self.what,
            "limit": self.limit,
            "at_least": self.at_least,
            "unit": self.unit,
            "measured": stat.median if stat else None,
            "low": stat.low if stat else None,
            "high": stat.high if stat else None,
            "rounds": stat.count if stat else 0,
            "passed": self.passed,
        }


_cpu, _received = field("cpu"), field("received")


def judge(results: Results, options: Options) -> list[Row]:
    """Judges what the options asked for."""
    rows: list[Row] = []
    if "rollout" in options.modes:
        rows += [*_rollout(results, max(options.turns)), *_agent_and_import(results)]
    if "stream" in options.modes:
        rows += _stream(results)
    if "conversations" in options.modes:
        rows += _conversations(results, max(options.sizes))
    if "network" in options.modes:
        rows += _network(results, options)
    return sorted(rows, key=lambda row: int(row.target[1:]))


def _rollout(results: Results, turns: int) -> Iterator[Row]:
    cpu = prefix("turn_cpu", turns)

    def against(target: str, call: str, peer: str, peer_call: str, limit: float) -> Row:
        mine, theirs = Key("rollout", "ours", call), Key("rollout", peer, peer_call)
        other = peer if peer_call == call else f"{peer} {peer_call}"
        return Row(target, f"{turns} turns, {call}: CPU / {other}", limit, results.ratio(mine, theirs, cpu))

    for call in ("invoke", "ainvoke"):
        yield against("P1", call, "langchain-floor", call, 2.0)
        yield against("P1", call, "chatopenai-prev", call, 1 / 4)
        yield against("P1", call, "openai-websocket", call, 1 / 7)
        yield against("P1", call, "agents-prev", "ainvoke", 1 / 7)
        yield against("P1", call, "agents-full", "ainvoke", 1 / 7)
        yield against("P1", call, "chatopenai-full", "invoke", 1 / 50)
    for call in ("stream", "astream"):
        yield against("P2", call, "langchain-floor", call, 1.6)
        yield against("P2", call, "chatopenai-prev", call, 1 / 3)
    for call in ("invoke", "ainvoke", "stream", "astream"):
        key = Key("rollout", "ours", call)
        yield Row("P3", f"{call}: turn {turns} / turn 10, CPU", 1.1, results.of(key, growth(turns)))
    for call in ("invoke", "ainvoke"):
        for turn in sorted({_EARLY, turns}):
            stat = _milliseconds(results.of(Key("rollout", "ours", call), near("to_wire", turn)))
            yield Row("P4", f"{call}: tool output to wire, turn {turn}", 0.6, stat, "ms")
    mine, floor = Key("rollout", "ours", "invoke"), Key("rollout", "wire-floor", "invoke")
    yield Row("P6", f"{turns} turns: bytes / wire floor", 1.05, results.ratio(mine, floor, _received))


def _milliseconds(stat: Stat | None) -> Stat | None:
    return _scaled(stat, 1000)


def _scaled(stat: Stat | None, factor: float) -> Stat | None:
    if stat is None:
        return None
    return Stat(stat.median * factor, stat.low * factor, stat.high * factor, stat.count)


def _agent_and_import(results: Results) -> Iterator[Row]:
    mine, floor = Key("agent", "agent-ours", "invoke"), Key("agent", "agent-langchain-floor", "invoke")
    what = "create_agent + ChainSaver: CPU / LangChain floor + InMemorySaver"
    yield Row("P8", what, 1.3, results.ratio(mine, floor, _cpu))
    extra = results.of(Key("imports", "ours", "import"), field("extra_cpu"))
    yield Row("P9", "import beyond langchain_openai, CPU", 30, _milliseconds(extra), "ms")


def _stream(results: Results) -> Iterator[Row]:
    for call, limit in (("invoke", 2.0), ("ainvoke", 2.0), ("stream", 1.6), ("astream", 1.6)):
        mine, floor = Key("stream", "ours", call), Key("stream", "langchain-floor", call)
        yield Row(
            "P5",
            f"{call} of a long answer: CPU / langchain-floor",
            limit,
            results.ratio(mine, floor, _cpu),
        )
    for call in ("stream", "astream"):
        mine, peer = Key("stream", "ours", call), Key("stream", "chatopenai-prev", call)
        ratio = results.ratio(mine, peer, _cpu)
        yield Row("P5", f"{call} of a long answer: CPU / ChatOpenAI", 1 / 3, ratio)


def _conversations(results: Results, size: int) -> Iterator[Row]:
    def key(name: str) -> Key:
        return Key("conversations", name, "ainvoke", str(size))

    mine = key("ours")
    floor = results.ratio(mine, key("wire-floor-lanes"), _cpu)
    yield Row("P7", f"{size} conversations: CPU / wire floor with lanes", 2.5, floor)
    peer = results.ratio(mine, key("chatopenai-prev"), _cpu)
    yield Row("P7", f"{size} conversations: CPU / chatopenai-prev", 1 / 6, peer)
    opened = results.of(mine, field("connections"))
    yield Row("P7", f"{size} conversations: connections", 32, opened, "sockets")
    peak = results.of(mine, field("peak_mib"))
    yield Row("P7", f"{size} conversations: peak memory", 130, peak, "MiB")


def _network(results: Results, options: Options) -> Iterator[Row]:
    turns = min(NETWORK_TURNS, max(options.network_turns))
    for milliseconds, saving in ((40, 48), (80, 35)):
        name = f"{milliseconds} ms"
        wall = _wall_after(turns + 1)
        mine = Key("network", "ours", "invoke", name)
        floor = results.ratio(mine, Key("network", "wire-floor", "invoke", name), wall)
        yield Row("P10", f"{turns} tool turns at {name}: wall / wire floor", 1.05, floor)
        full = results.ratio(mine, Key("network", "chatopenai-full", "invoke", name), wall)
        saved = Stat(*_saved(full), full.count) if full else None
        what = f"{turns} tool turns at {name}: wall less than chatopenai-full"
        yield Row("P10", what, saving, saved, "%", at_least=True)


def _wall_after(requests: int) -> Measure:
    """Seconds from the start, the dial included, to the answer of a request."""
    return lambda result: float(result["turn_done"][min(requests, len(result["turn_done"])) - 1])


def _saved(ratio: Stat) -> tuple[float, float, float]:
    return (100 * (1 - ratio.median), 100 * (1 - ratio.high), 100 * (1 - ratio.low))
