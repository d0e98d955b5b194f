"""The matrix, fifth part: what `transport="auto"` does when a socket cannot be had, and when it can again."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import openai
import pytest
from faults.report import note
from faults.world import World

from langchain_ws_responses import ConnectionManager, Phase, Replay
from langchain_ws_responses.errors import ConnectionLost, HandshakeRejected
from langchain_ws_responses.testing import Fault, drop

if TYPE_CHECKING:
    from faults.world import Cell

NO_MODE = (200, 400, 404, 426)
PAUSES = (5.0, 10.0, 20.0)  # of the breaker, give or take a fifth


class Later(ConnectionManager):
    """A manager whose clock can be moved forward."""

    offset = 0.0

    def now(self) -> float:
        return super().now() + self.offset


def _later(cell: Cell) -> Later:
    manager = cell.manager
    manager.__class__ = Later
    assert isinstance(manager, Later)
    return manager


@pytest.fixture
def dead_port() -> Any:
    """A port that nothing listens on, and nothing else gets."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.mark.parametrize("status", NO_MODE)
def test_no_such_mode_goes_over_http(world: World, status: int, way: str) -> None:
    cell = world.cell(way=way, transport="auto")
    cell.begin_cold()
    world.server.config.refuse_upgrade = status
    answer = cell.check_answer(cell.start(), resends=0, http=True)
    stats = cell.manager.stats()
    assert (stats.dials, stats.http, list(stats.breakers.values())) == (1, 1, ["open"])
    # Nobody pays for it again, and the chain goes on.
    following = cell.check_next(answer)
    assert following.response_metadata["transport"]["mode"] == "delta"
    assert cell.manager.stats().dials == 1
    note(f"upgrade answered {status}, auto", "connect", way, "H")


def test_a_socket_that_cannot_be_had_goes_over_http(world: World, dead_port: int, way: str) -> None:
    url = f"ws://127.0.0.1:{dead_port}/v1/responses"
    cell = world.cell(way=way, transport="auto", websocket_url=url)
    cell.begin_cold()
    answer = cell.check_answer(cell.start(), resends=0, http=True)
    assert cell.manager.stats().dials == 3
    cell.check_next(answer)
    cell.check_dials(3)
    note("refused, auto", "connect", way, "H")


@pytest.mark.parametrize("status", [401, 503])
def test_what_http_would_meet_too_is_raised(world: World, status: int, way: str) -> None:
    cell = world.cell(way=way, transport="auto")
    cell.begin_cold()
    world.server.config.refuse_upgrade = status
    http = openai.AuthenticationError if status == 401 else openai.InternalServerError
    cell.check_error(cell.start(), HandshakeRejected, http, Replay.SAFE, phase=Phase.CONNECT)
    assert cell.manager.stats().http == 0
    note(f"upgrade answered {status}, auto", "connect", way, "E")


@pytest.mark.parametrize("phase", ["sent", "text"])
def test_a_request_above_the_servers_limit_goes_over_http(world: World, phase: str, way: str) -> None:
    cell = world.cell(way=way, transport="auto")
    cell.begin(sibling=False)
    if phase == "sent":
        cell.play(drop(0, 1009))
        answer = cell.check_answer(cell.start(), resends=1, http=True)
        note("close 1009, auto", phase, way, "H")
    else:
        turn, gate = cell.run_to("text", lambda answer: drop(5, 1009, answer))
        gate.open()
        if cell.streams:
            answer = None
            cell.check_error(turn.wait(), Exception, openai.APIConnectionError, Replay.UNSAFE)
        else:
            answer = cell.check_answer(turn, resends=1, http=True)
        note("close 1009, auto", phase, way, "E" if cell.streams else "H")
    cell.check_next(answer)


def test_an_unknown_outcome_is_not_repeated_over_http_either(world: World, way: str) -> None:
    cell = world.cell(way=way, transport="auto", on_ambiguous="raise")
    cell.begin(sibling=False)
    turn, gate = cell.run_to("sent")
    world.proxy.cut()
    world.server.config.refuse_upgrade = 426
    gate.open()
    cell.check_error(turn, ConnectionLost, openai.APIConnectionError, Replay.AMBIGUOUS, phase=Phase.SENT)
    assert cell.manager.stats().http == 0
    note("RST, then 426, auto, raise", "sent", way, "E")


def test_a_lost_socket_that_does_not_come_back_goes_over_http(world: World, way: str) -> None:
    cell = world.cell(way=way, transport="auto")
    cell.begin(sibling=False)
    turn, gate = cell.run_to("sent")
    world.server.config.refuse_upgrade = 426
    world.proxy.cut()
    gate.open()
    answer = cell.check_answer(turn, http=True)
    cell.check_next(answer)
    cell.check_dials(2)
    note("RST, then 426, auto", "sent", way, "H")


def test_the_breaker_opens_probes_and_closes(world: World, way: str) -> None:
    cell = world.cell(way=way, transport="auto")
    manager = _later(cell)
    cell.begin_cold()
    world.server.config.refuse_upgrade = 426

    def state() -> str:
        return next(iter(manager.stats().breakers.values()), "closed")

    dials = 0
    for pause in PAUSES:
        dials += 1
        cell.check_answer(cell.start(), http=True)
        assert (manager.stats().dials, state()) == (dials, "open")
        # As long as it is open, no turn pays for a dial.
        manager.offset += pause * 0.7
        cell.check_answer(cell.start(), http=True)
        assert (manager.stats().dials, state()) == (dials, "open")
        # The pause doubles: only now is there a trial again, and it is one.
        manager.offset += pause * 0.6
        assert state() == "half_open"
    world.server.config.refuse_upgrade = None
    cell.check_answer(cell.start(), resends=0)
    assert (manager.stats().dials, state()) == (dials + 1, "closed")
    cell.check_next()
    assert manager.stats().dials == dials + 1
    note("breaker, auto", "connect", way, "H")


def test_a_trial_that_hangs_lets_nobody_else_wait(world: World, way: str) -> None:
    """Half open: one turn tries, the others go over HTTP meanwhile."""
    cell = world.cell(way=way, transport="auto")
    manager = _later(cell)
    cell.begin_cold()
    world.server.config.refuse_upgrade = 426
    cell.check_answer(cell.start(), http=True)
    manager.offset += PAUSES[0] * 1.3
    world.server.config.refuse_upgrade = None
    world.proxy.plan(Fault(kind="freeze"), connections=1)
    before = world.proxy.dials
    trial = cell.start()
    world.proxy.wait_for(lambda: world.proxy.dials > before)
    cell.check_answer(cell.start(), http=True)
    world.proxy.thaw()
    cell.check_answer(trial, resends=0)
    assert manager.stats().breakers == {}
    note("breaker, a trial that hangs", "connect", way, "D")
