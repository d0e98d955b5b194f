"""Takes an answer apart: what is played, and what holds, cuts or breaks it on the way."""

from __future__ import annotations

from dataclasses import dataclass, field

from langchain_ws_responses.testing._gate import Gate
from langchain_ws_responses.testing._script import Answer, Drop, ErrorAnswer, Hold, Insert, text

__all__ = ["Plan", "unwrap"]


@dataclass
class Plan:
    """An answer with its stalls and its cut pulled out."""

    answer: Answer
    holds: list[tuple[int, Gate]] = field(default_factory=list)
    cut: tuple[int, int | None] | None = None
    error: ErrorAnswer | None = None
    inserts: list[Insert] = field(default_factory=list)


def unwrap(answer: Answer) -> Plan:
    """Takes an answer apart."""
    plan = Plan(answer)
    while True:
        inner = plan.answer
        if isinstance(inner, Hold):
            plan.holds.append((inner.after_events, inner.gate))
            plan.answer = inner.answer
        elif isinstance(inner, Drop):
            plan.cut = plan.cut or (inner.after_events, inner.code)
            plan.answer = inner.answer
        elif isinstance(inner, Insert):
            plan.inserts.append(inner)
            plan.answer = inner.answer
        elif isinstance(inner, ErrorAnswer):
            plan.error = plan.error or inner
            plan.answer = inner.answer or text("This answer breaks off.")
        else:
            return plan
