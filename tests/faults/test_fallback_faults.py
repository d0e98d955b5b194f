"""The matrix, sixth part: faults of HTTP after `transport="auto"` has fallen back to it.

The socket is refused and the breaker open. What HTTP promises is what `ChatOpenAI` promises, with the openai client's
own retries; where a repetition could do harm it makes none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest
from faults.report import note
from faults.world import OUTPUTS, tokens_of
from langchain_core.messages import HumanMessage, ToolMessage
from pairs import http_model, outcome
from waiting import eventually

from langchain_ws_responses.testing import calls, drop, error, hold, tool_call

if TYPE_CHECKING:
    from faults.world import Cell, Running, World

ACTING = [
    {"type": "mcp", "server_label": "s", "server_url": "https://example.invalid", "require_approval": "never"}
]
QUICK = {"retry-after-ms": "1"}


def fallen(world: World, **options: Any) -> Cell:
    """A conversation with tool outputs to deliver, over HTTP because no socket can be had."""
    cell = world.cell(transport="auto", **{"max_retries": 1, **options})
    world.server.config.refuse_upgrade = 426
    cell.model.preconnect()
    eventually(lambda: list(cell.manager.stats().breakers.values()) == ["open"], "the breaker opens")
    cell.play(calls(tool_call("a", {}, "call_a"), tool_call("b", {}, "call_b")))
    asked = HumanMessage(f"«{cell.tag}» use both tools")
    answer = cell.sibling_model.invoke([asked])
    cell.history = [asked, answer, *(ToolMessage(o, tool_call_id=name) for name, o in OUTPUTS.items())]
    return cell


def check_raised(cell: Cell, turn: Running, http: type[BaseException]) -> None:
    """What HTTP raises, and nothing that was handed over came twice."""
    turn.wait()
    assert isinstance(turn.error, http), repr(turn.error)
    tokens = tokens_of(turn.text, cell.tag)
    assert tokens == sorted(set(tokens))
    assert len({generation for generation, _ in tokens}) <= 1
    cell.check_outputs()


def check_end(cell: Cell, answer: Any) -> None:
    """The next turn works, continues where it can, and nobody has dialled again."""
    following = cell.check_next(answer)
    how = following.response_metadata["transport"]
    assert (how["kind"], how["mode"]) == ("http", "delta")
    cell.check_dials(1)
    assert cell.manager.stats().in_flight == 0


def generated(cell: Cell) -> int:
    """How often the model was asked for the turn that met the fault."""
    return len(cell.requests) - 1


def test_a_passing_500_is_waited_out(world: World, way: str) -> None:
    cell = fallen(world, way=way)
    cell.play(error(status=500, code="server_error", headers=QUICK))
    answer = cell.check_answer(cell.start(), resends=0, http=True)
    assert generated(cell) == 2
    check_end(cell, answer)
    note("HTTP fallback: 500, passing", "sent", way, "H")


def test_a_lasting_500_is_raised(world: World, way: str) -> None:
    cell = fallen(world, way=way)
    cell.play(*[error(status=500, code="server_error", headers=QUICK) for _ in range(3)])
    check_raised(cell, cell.start(), openai.InternalServerError)
    assert generated(cell) == 2
    check_end(cell, None)
    note("HTTP fallback: 500, lasting", "sent", way, "E")


@pytest.mark.parametrize("phase", ["sent", "text"])
def test_a_connection_that_is_reset(world: World, phase: str, way: str) -> None:
    cell = fallen(world, way=way)
    broken = drop(cell.events_of(phase), None, world.stamped(cell.tag))
    raised = phase == "text" and cell.streams
    if raised:
        # What plain ChatOpenAI raises is the oracle.
        question = [HumanMessage("«plain» hello")]
        world.plays["plain"] = type(world.plays[cell.tag])([broken])
        _, plain = outcome(http_model(world.server), way, question)
        assert plain is not None
    cell.play(broken)
    turn = cell.start()
    answer = None
    if raised:
        check_raised(cell, turn, type(plain))
        assert turn.text, "tokens were handed over"
        assert generated(cell) == 1
    else:
        answer = cell.check_answer(turn, resends=0, http=True)
        assert generated(cell) == 2
    check_end(cell, answer)
    note("HTTP fallback: RST", phase, way, "E" if raised else "H")


@pytest.mark.parametrize("phase", ["sent", "text"])
def test_an_answer_that_stalls(world: World, phase: str, way: str) -> None:
    cell = fallen(world, way=way, timeout=0.6)
    gate = cell.gate()
    cell.play(hold(gate, world.stamped(cell.tag), cell.events_of(phase)))
    raised = phase == "text" and cell.streams
    turn = cell.start()
    answer = None
    if raised:
        check_raised(cell, turn, Exception)
        assert "imeout" in type(turn.error).__name__
        assert turn.text, "tokens were handed over"
    else:
        answer = cell.check_answer(turn, resends=0, http=True)
        assert generated(cell) == 2
    gate.open()
    check_end(cell, answer)
    note("HTTP fallback: timeout", phase, way, "E" if raised else "H")


CAREFUL: dict[str, dict[str, Any]] = {"side effects": {"tools": ACTING}, "raise": {"on_ambiguous": "raise"}}


@pytest.mark.parametrize("careful", CAREFUL)
def test_what_must_not_be_repeated_is_not_repeated_by_the_http_client_either(
    world: World, careful: str, way: str
) -> None:
    cell = fallen(world, way=way, **CAREFUL[careful])
    cell.play(drop(0))
    check_raised(cell, cell.start(), openai.APIConnectionError)
    assert generated(cell) == 1
    check_end(cell, None)
    note(f"HTTP fallback: RST, {careful}", "sent", way, "E")


@pytest.mark.parametrize("alone", [{"transport": "http"}, {"model_kwargs": {"background": True}}])
def test_where_no_socket_is_asked_for_the_http_client_does_as_with_chatopenai(
    world: World, alone: dict[str, Any]
) -> None:
    cell = world.cell(**{"transport": "auto", "max_retries": 1, "tools": ACTING, **alone})
    cell.begin_cold()
    cell.play(error(status=429, code="rate_limit_exceeded", headers=QUICK))
    cell.check_answer(cell.start(), resends=0, http=True)
    assert cell.manager.stats().dials == 0


def test_a_turn_that_was_resent_once_is_not_resent_again_over_http(world: World, way: str) -> None:
    cell = world.cell(way=way, transport="auto")
    cell.begin(sibling=False)
    turn, gate = cell.run_to("sent")
    world.server.config.refuse_upgrade = 426
    cell.play(drop(0))
    world.proxy.cut()
    gate.open()
    check_raised(cell, turn, openai.APIConnectionError)
    assert generated(cell) == 2
    cell.check_next()
    note("RST, then HTTP fallback: RST", "sent", way, "E")
