"""The matrix, first part: what networks and closing servers do in the middle of a turn, and to an idle socket.

The oracle is the recovery table of the design, written down by hand: a lost socket is answered by one full resend
as long as nothing was handed to the caller, and raised after that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import openai
import pytest
from faults.report import WAYS, note, same
from faults.world import Cell, Running
from waiting import until_lost

from langchain_ws_responses import Phase, Replay
from langchain_ws_responses.errors import ConnectionLost, TurnTimeout
from langchain_ws_responses.testing import Fault, drop

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.world import World

IN_TURN = ("sent", "created", "text", "arguments", "end")
# invoke and ainvoke, then stream and astream: what follows when the socket is lost in a phase.
LOST = {"sent": "RR", "created": "RR", "text": "RE", "arguments": "RE", "end": "RE"}
PINGS = {"ping_interval": 0.3, "ping_timeout": 0.3}
CLOCKS = {"first_event_timeout": 0.5, "between_events_timeout": 0.5}
ACTING = [{"type": "code_interpreter", "container": {"type": "auto"}}]


def by_network(*faults: Fault) -> Callable[[Cell, str], Running]:
    """Strikes between two events of the turn, or the idle socket."""

    def strike(cell: Cell, phase: str) -> Running:
        if phase == "idle":
            cell.world.proxy.strike(*faults)
            return cell.start()
        turn, gate = cell.run_to(phase)
        cell.world.proxy.strike(*faults)
        gate.open()
        return turn

    return strike


def by_server(code: int) -> Callable[[Cell, str], Running]:
    """Closes in order, in the middle of the turn or of nothing."""

    def close(cell: Cell, phase: str) -> Running:
        if phase == "idle":
            cell.world.server.drop_connections(code=code)
            return cell.start()
        turn, gate = cell.run_to(phase, lambda answer: drop(cell.events_of(phase), code, answer))
        gate.open()
        return turn

    return close


LOSSES: dict[str, tuple[Callable[[Cell, str], Running], dict[str, Any], int | None]] = {
    # how it is done, limits, close code in the error
    "RST": (by_network(Fault(kind="reset")), {}, None),
    "FIN without a close frame": (by_network(Fault(kind="end")), {}, None),
    "FIN in the middle of a frame": (by_network(Fault(kind="end", after_bytes=9)), {}, None),
    "garbled frame header": (by_network(Fault(kind="garble", length=1)), {}, 1002),
    "close 1000": (by_server(1000), {}, 1000),
}
ALIKE = {"close 1001": 1001, "close 1008": 1008, "close 1011": 1011, "close 1012": 1012, "close 1013": 1013}


def check_loss(cell: Cell, turn: Running, phase: str, way: str, code: int | None) -> str:
    """Holds one cell against the table."""
    wanted = LOST[phase][way in ("stream", "astream")]
    answer = None
    if wanted == "R":
        answer = cell.check_answer(turn, resends=1)
    else:
        cell.check_error(
            turn,
            ConnectionLost,
            openai.APIConnectionError,
            Replay.UNSAFE,
            phase=Phase.STREAMING,
            close_code=code,
        )
    cell.check_sibling(survives=False)
    cell.check_next(answer)
    cell.check_dials(2)
    return wanted


@pytest.mark.parametrize("phase", IN_TURN)
@pytest.mark.parametrize("kind", LOSSES)
def test_a_socket_lost_in_mid_turn(world: World, kind: str, phase: str, way: str) -> None:
    strike, limits, code = LOSSES[kind]
    cell = world.cell(way=way, limits=limits)
    cell.begin()
    turn = strike(cell, phase)
    note(kind, phase, way, check_loss(cell, turn, phase, way, code))


# Found by nothing but pings: the four ways meet these together, because each has to wait.
SILENT = {"blackhole": Fault(kind="blackhole"), "one byte a second": Fault(kind="slow", rate=1)}


@pytest.mark.parametrize("phase", [*IN_TURN, "idle"])
@pytest.mark.parametrize("kind", SILENT)
def test_a_silent_socket_is_found_by_pings(world: World, kind: str, phase: str) -> None:
    cells = [world.cell(way=way, limits=PINGS) for way in WAYS]
    for cell in cells:
        cell.begin(sibling=phase != "idle")
    stops = [] if phase == "idle" else [cell.run_to(phase) for cell in cells]
    world.proxy.strike(SILENT[kind])
    for _, gate in stops:
        gate.open()
    turns = [turn for turn, _ in stops] or [cell.start() for cell in cells]
    for cell, turn in zip(cells, turns, strict=True):
        if phase == "idle":
            answer = cell.check_answer(turn)
            letter = "R" if answer.response_metadata["transport"]["resends"] else "D"
            cell.check_next(answer)
            cell.check_dials(2)
        else:
            letter = check_loss(cell, turn, phase, cell.way, None)
        note(kind, phase, cell.way, letter)


@pytest.mark.parametrize("phase", ["sent", "text"])
@pytest.mark.parametrize("kind", ALIKE)
def test_other_close_codes_are_the_same_to_the_code(world: World, kind: str, phase: str, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    turn = by_server(ALIKE[kind])(cell, phase)
    note(kind, phase, way, check_loss(cell, turn, phase, way, ALIKE[kind]))
    same(kind, "close 1000")


@pytest.mark.parametrize("kind", [*LOSSES, "close 1001"])
def test_an_idle_socket_is_lost(world: World, kind: str, way: str) -> None:
    strike, limits, _ = LOSSES.get(kind) or (by_server(1001), {}, None)
    cell = world.cell(way=way, limits=limits)
    cell.begin(sibling=False)
    if kind in ("RST", "FIN without a close frame"):
        world.proxy.cut("reset" if kind == "RST" else "end")
        until_lost(cell.manager)
        turn = cell.start()
    else:
        turn = strike(cell, "idle")
    answer = cell.check_answer(turn)
    resends = answer.response_metadata["transport"]["resends"]
    assert resends == 0 or kind not in ("RST", "FIN without a close frame"), "the loss was known"
    assert resends <= 1
    cell.check_next(answer)
    cell.check_dials(2)
    note(kind, "idle", way, "R" if resends else "D")


CONNECT_FAULTS = {
    "RST": [Fault(kind="reset")],
    "RST in mid-handshake": [Fault(kind="reset", after_bytes=30)],
    "FIN without a close frame": [Fault(kind="end", after_bytes=0)],
    "FIN in the middle of a frame": [Fault(kind="end", after_bytes=30)],
    "FIN straight after the 101": [Fault(kind="end", after_frames=0)],
    "blackhole": [Fault(kind="blackhole")],
    "one byte a second": [Fault(kind="slow", rate=1)],
    "garbled frame header": [Fault(kind="garble", length=9)],
}


@pytest.mark.parametrize("kind", CONNECT_FAULTS)
def test_the_first_dial_fails_and_the_next_works(world: World, kind: str, way: str) -> None:
    # Two of them are found by the clock alone; the dial after them must be quicker, on a busy machine too.
    silent = kind in ("blackhole", "one byte a second")
    cell = world.cell(way=way, limits={"connect_timeout": 0.8} if silent else {})
    cell.begin_cold()
    world.proxy.plan(*CONNECT_FAULTS[kind], connections=1)
    turn = cell.start()
    answer = cell.check_answer(turn)
    resends = answer.response_metadata["transport"]["resends"]
    assert resends == 0 or kind == "FIN straight after the 101", "nothing was sent before"
    cell.check_next(answer)
    cell.check_dials(2)
    note(kind, "connect", way, "R" if resends else "D")


# -- nothing is lost, only late


HARMLESS = {
    "one-byte fragments": [Fault(kind="fragment"), Fault(kind="fragment", direction="to_server")],
    "freeze and thaw": [Fault(kind="freeze")],
}


@pytest.mark.parametrize("phase", [*IN_TURN, "idle"])
@pytest.mark.parametrize("kind", HARMLESS)
def test_late_bytes_are_no_fault(world: World, kind: str, phase: str, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    turn = by_network(*HARMLESS[kind])(cell, phase)
    if kind == "freeze and thaw":
        world.proxy.thaw()
    answer = cell.check_answer(turn, resends=0)
    cell.check_sibling(survives=True)
    cell.check_next(answer)
    cell.check_dials(1)
    note(kind, phase, way, "A")


@pytest.mark.parametrize("kind", HARMLESS)
def test_a_late_handshake_is_no_fault(world: World, kind: str, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin_cold()
    world.proxy.plan(*HARMLESS[kind], connections=1)
    before = world.proxy.dials
    turn = cell.start()
    if kind == "freeze and thaw":
        world.proxy.wait_for(lambda: world.proxy.dials > before and world.proxy.connections[-1].struck)
        world.proxy.thaw()
    answer = cell.check_answer(turn, resends=0)
    cell.check_next(answer)
    cell.check_dials(1)
    note(kind, "connect", way, "A")


@pytest.mark.parametrize("phase", IN_TURN)
def test_a_stall_is_a_timeout_of_one_turn(world: World, phase: str) -> None:
    """Before the first event, in the middle, and with a terminal event that never comes."""
    kind = {"sent": "no first event", "end": "missing terminal event"}.get(phase, "stall in the middle")
    cells = [world.cell(way=way, limits=CLOCKS) for way in WAYS]
    for cell in cells:
        cell.begin()
    turns = [cell.run_to(phase)[0] for cell in cells]
    for cell, turn in zip(cells, turns, strict=True):
        answer, letter = None, LOST[phase][cell.streams]
        if letter == "R":
            answer = cell.check_answer(turn, resends=1)
        else:
            cell.check_error(
                turn,
                TurnTimeout,
                openai.APITimeoutError,
                Replay.UNSAFE,
                phase=Phase.STREAMING,
                close_code=None,
            )
        cell.check_sibling(survives=True)
        cell.check_next(answer)
        cell.check_dials(1)
        note(kind, phase, cell.way, letter)


def test_a_server_that_never_answers_is_tried_twice(world: World) -> None:
    cells = [world.cell(way=way, limits=CLOCKS) for way in WAYS]
    for cell in cells:
        cell.begin()
        cell.play(cell.held(cell.gate()), cell.held(cell.gate()))
    turns = [cell.start() for cell in cells]
    for cell, turn in zip(cells, turns, strict=True):
        cell.check_error(
            turn, TurnTimeout, openai.APITimeoutError, Replay.AMBIGUOUS, phase=Phase.SENT, events_seen=0
        )
        assert len(cell.requests) == 3  # the first turn, the send and one resend
        cell.check_sibling(survives=True)
        cell.check_next()
        cell.check_dials(1)
        note("no first event, twice", "sent", cell.way, "E")


# -- what must not be sent again


@pytest.mark.parametrize("phase", ["sent", "created", "end"])
@pytest.mark.parametrize("why", ["on_ambiguous=raise", "a tool that acts"])
def test_an_unknown_outcome_is_not_repeated_where_that_could_do_harm(
    world: World, why: str, phase: str, way: str
) -> None:
    options: dict[str, Any] = {"tools": ACTING} if why == "a tool that acts" else {"on_ambiguous": "raise"}
    cell = world.cell(way=way, **options)
    cell.begin()
    turn = by_network(Fault(kind="reset"))(cell, phase)
    handed = cell.streams and phase == "end"
    cell.check_error(
        turn,
        ConnectionLost,
        openai.APIConnectionError,
        Replay.UNSAFE if handed else Replay.AMBIGUOUS,
        phase={"sent": Phase.SENT, "created": Phase.CREATED, "end": Phase.STREAMING}[phase],
    )
    generations = [request for request in cell.requests if request.generate]
    assert len(generations) == 2  # the first turn and this one
    cell.check_next()
    cell.check_dials(2)
    note(f"RST, {why}", phase, way, "E")


@pytest.mark.parametrize("why", ["on_ambiguous=raise", "a tool that acts"])
def test_what_was_never_sent_is_always_repeated(world: World, why: str, way: str) -> None:
    options: dict[str, Any] = {"tools": ACTING} if why == "a tool that acts" else {"on_ambiguous": "raise"}
    cell = world.cell(way=way, **options)
    cell.begin_cold()
    world.proxy.plan(Fault(kind="reset", after_bytes=10), connections=1)
    answer = cell.check_answer(cell.start(), resends=0)
    cell.check_next(answer)
    cell.check_dials(2)
    note(f"RST, {why}", "connect", way, "D")


def test_one_resend_and_not_two(world: World, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin()
    cell.play(drop(0, None), drop(0, None))
    turn = cell.start()
    cell.check_error(turn, ConnectionLost, openai.APIConnectionError, Replay.AMBIGUOUS, phase=Phase.SENT)
    assert len(cell.requests) == 3  # the first turn, the send and one resend
    cell.check_next()
    cell.check_dials(3)
    note("RST, twice", "sent", way, "E")


@pytest.mark.parametrize("phase", ["sent", "end", "idle"])
def test_without_storage_a_loss_costs_a_full_send(world: World, phase: str, way: str) -> None:
    cell = world.cell(way=way, store=False)
    cell.begin(sibling=False)
    world_strike = by_network(Fault(kind="reset"))
    if phase == "idle":
        world.proxy.cut()
        until_lost(cell.manager)
        turn = cell.start()
    else:
        turn = world_strike(cell, phase)
    answer = None
    if phase == "end" and cell.streams:
        cell.check_error(turn, ConnectionLost, openai.APIConnectionError, Replay.UNSAFE)
        letter = "E"
    else:
        answer = cell.check_answer(turn, resends=0 if phase == "idle" else 1)
        assert answer.response_metadata["transport"]["mode"] == "full"
        letter = "D" if phase == "idle" else "R"
    cell.check_next(answer)
    cell.check_dials(2)
    note("RST, store=False", phase, way, letter)
