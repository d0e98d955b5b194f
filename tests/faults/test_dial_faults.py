"""The matrix, third part: everything that can happen to a dial.

The oracle is the tree of errors of the design: every one of these is raised as SAFE in the phase `connect`, after no
more attempts than the policy allows, and none before the policy is used up where another attempt can help.
"""

from __future__ import annotations

import socket
import ssl
import zlib
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import openai
import pytest
import trustme
from faults.raw_server import RawServer, answer, upgrade
from faults.report import WAYS, note, same
from langchain_core.messages import HumanMessage

from langchain_ws_responses import Phase, Replay
from langchain_ws_responses.errors import ConnectionLost, DialFailed, DialTimeout, HandshakeRejected
from langchain_ws_responses.testing import ChaosProxy, Fault, drop

if TYPE_CHECKING:
    from collections.abc import Iterator

    from faults.world import World

ATTEMPTS = 3  # of the cells' policy

# status: (class over HTTP, attempts)
REFUSALS: dict[int, tuple[type[Exception], int]] = {
    200: (openai.APIStatusError, 1),
    302: (openai.APIStatusError, 1),
    401: (openai.AuthenticationError, 1),
    403: (openai.PermissionDeniedError, 1),
    404: (openai.NotFoundError, 1),
    426: (openai.APIStatusError, 1),
    429: (openai.RateLimitError, ATTEMPTS),
    500: (openai.InternalServerError, ATTEMPTS),
    502: (openai.InternalServerError, ATTEMPTS),
    503: (openai.InternalServerError, ATTEMPTS),
    504: (openai.InternalServerError, ATTEMPTS),
}


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.parametrize("status", REFUSALS)
def test_a_refused_upgrade(world: World, status: int, way: str) -> None:
    http, attempts = REFUSALS[status]
    cell = world.cell(way=way)
    cell.begin_cold()
    config = world.server.config
    config.refuse_upgrade = status
    config.refuse_headers = {429: {"retry-after": "0"}, 302: {"location": "/v1/responses"}}.get(status, {})
    error = cell.check_error(
        cell.start(), HandshakeRejected, http, Replay.SAFE, phase=Phase.CONNECT, status_code=status
    )
    assert cell.manager.stats().dials == attempts
    if status == 429:
        assert error.response.headers["retry-after"] == "0"
    config.refuse_upgrade = None
    cell.check_next()
    cell.check_dials(attempts + 1)
    note(f"upgrade answered {status}", "connect", way, "E")
    if status in (502, 503, 504):
        same(f"upgrade answered {status}", "upgrade answered 500")


@pytest.mark.parametrize("status", [429, 503])
def test_a_passing_refusal_is_waited_out(world: World, status: int, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin_cold()
    world.server.config.refuse_upgrade = status

    def cure(event: Any) -> None:
        if type(event).__name__ == "DialRetrying":
            world.server.config.refuse_upgrade = None

    cell.manager.hooks = (cure,)
    cell.check_next(cell.check_answer(cell.start(), resends=0))
    cell.check_dials(2)
    note(f"upgrade answered {status}, passing", "connect", way, "D")


def test_a_redirect_to_another_origin_never_gets_the_key(world: World, closing: ExitStack, way: str) -> None:
    other = closing.enter_context(RawServer(answer("200 OK")))
    cell = world.cell(way=way)
    cell.begin_cold()
    world.server.config.refuse_upgrade = 302
    world.server.config.refuse_headers = {"location": f"http://127.0.0.1:{other.port}/v1/responses"}
    cell.check_error(cell.start(), HandshakeRejected, openai.APIStatusError, Replay.SAFE, status_code=302)
    assert other.heads == []
    world.server.config.refuse_upgrade = None
    cell.check_next()
    note("upgrade answered 302, elsewhere", "connect", way, "E")


@pytest.mark.parametrize("kind", ["refused", "accepted and deaf", "RST"])
def test_nobody_there(world: World, kind: str, way: str) -> None:
    # The dial that works in the end must be quicker, on a busy machine too.
    cell = world.cell(way=way, limits={"connect_timeout": 0.4} if kind == "accepted and deaf" else {})
    cell.begin_cold()
    if kind == "refused":
        world.proxy.refuse()
    else:
        world.proxy.plan(Fault(kind="reset" if kind == "RST" else "blackhole"))
    late = kind == "accepted and deaf"
    cell.check_error(
        cell.start(),
        DialTimeout if late else DialFailed,
        openai.APITimeoutError if late else openai.APIConnectionError,
        Replay.SAFE,
        phase=Phase.CONNECT,
    )
    assert cell.manager.stats().dials == ATTEMPTS
    world.proxy.heal()
    cell.check_next()
    cell.check_dials(ATTEMPTS + 1)
    note(f"{kind}, lasting", "connect", way, "E")


@pytest.mark.parametrize("phase", ["sent", "idle"])
def test_the_reconnect_is_refused(world: World, phase: str, way: str) -> None:
    cell = world.cell(way=way)
    cell.begin(sibling=False)
    world.proxy.refuse()
    if phase == "idle":
        world.proxy.cut()
        turn = cell.start()
    else:
        cell.play(drop(0, None))
        turn = cell.start()
    turn.wait()
    # What was lost in mid-turn may have been generated; the refused resend changes nothing about that.
    handed = len([request for request in cell.requests if request.status != "completed"])
    replay = Replay.AMBIGUOUS if phase == "sent" else Replay.SAFE
    if phase == "idle" and handed:
        replay = Replay.AMBIGUOUS  # it was written before the loss showed
    cell.check_error(turn, DialFailed, openai.APIConnectionError, replay, phase=Phase.CONNECT)
    world.proxy.heal()
    cell.check_next()
    cell.check_dials(1 + ATTEMPTS + 1)
    note("refused, lasting", phase, way, "E")


def test_no_such_name(world: World, way: str) -> None:
    cell = world.cell(way=way, base_url="https://nowhere.invalid/v1")
    cell.begin_cold()
    cell.check_error(cell.start(), DialFailed, openai.APIConnectionError, Replay.SAFE, phase=Phase.CONNECT)
    assert cell.manager.stats().dials == ATTEMPTS
    _next_elsewhere(world, cell)
    note("no such name", "connect", way, "E")


def _next_elsewhere(world: World, cell: Any) -> None:
    """The manager goes on serving other endpoints."""
    model = world.model(cell.manager, world.proxy.base_url, {"transport": "websocket"})
    assert model.invoke([HumanMessage(f"«{cell.tag}» again")]).text.startswith(f"<{cell.tag}/")


@pytest.mark.parametrize("kind", ["unknown authority", "wrong host", "stall"])
def test_tls_goes_wrong(world: World, closing: ExitStack, kind: str, way: str) -> None:
    authority, theirs, ours = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), None
    authority.issue_cert("other.example" if kind == "wrong host" else "127.0.0.1").configure_cert(theirs)
    if kind != "unknown authority":
        ours = ssl.create_default_context()
        authority.configure_trust(ours)
    proxy = closing.enter_context(ChaosProxy(world.server, ssl_context=theirs))
    if kind == "stall":
        proxy.plan(Fault(kind="blackhole"))
    cell = world.cell(
        way=way,
        base_url=f"https://127.0.0.1:{proxy.port}/v1",
        manager={"ssl_context": ours},
        limits={"connect_timeout": 0.3 if kind == "stall" else 5},
    )
    cell.begin_cold()
    error = cell.check_error(
        cell.start(),
        DialTimeout if kind == "stall" else DialFailed,
        openai.APITimeoutError if kind == "stall" else openai.APIConnectionError,
        Replay.SAFE,
        phase=Phase.CONNECT,
    )
    assert ("certificate" in str(error)) == (kind in ("unknown authority", "wrong host"))
    cell.check_dials(ATTEMPTS)
    _next_elsewhere(world, cell)
    note(f"TLS: {kind}", "connect", way, "E")


def test_tls_goes_right(world: World, closing: ExitStack, way: str) -> None:
    """The cure for the test above: the same proxy, trusted."""
    authority, theirs, ours = (
        trustme.CA(),
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.create_default_context(),
    )
    authority.issue_cert("127.0.0.1").configure_cert(theirs)
    authority.configure_trust(ours)
    proxy = closing.enter_context(ChaosProxy(world.server, ssl_context=theirs))
    cell = world.cell(way=way, base_url=proxy.base_url, manager={"ssl_context": ours})
    cell.begin(sibling=False)
    turn, gate = cell.run_to("sent")
    proxy.cut()
    gate.open()
    cell.check_next(cell.check_answer(turn, resends=1))
    cell.check_dials(2)
    note("TLS: RST", "sent", way, "R")


def test_a_proxy_wants_credentials(world: World, closing: ExitStack, way: str) -> None:
    wall = closing.enter_context(RawServer(answer("407 Proxy Authentication Required")))
    cell = world.cell(way=way, manager={"proxy": f"http://user:canary-pw@127.0.0.1:{wall.port}"})
    cell.begin_cold()
    turn = cell.start()
    cell.check_error(
        turn, HandshakeRejected, openai.APIStatusError, Replay.SAFE, phase=Phase.CONNECT, status_code=407
    )
    assert "canary" not in repr(turn.error)
    assert wall.heads[0].startswith(b"CONNECT ")
    cell.check_dials(1)
    note("proxy answers 407", "connect", way, "E")


# -- compression that nobody offered


def test_an_uninvited_extension_is_refused(world: World, closing: ExitStack, way: str) -> None:
    def serve(sock: socket.socket, head: bytes) -> None:
        sock.sendall(upgrade(head, "sec-websocket-extensions: permessage-deflate"))

    server = closing.enter_context(RawServer(serve))
    cell = world.cell(way=way, base_url=f"http://127.0.0.1:{server.port}/v1")
    cell.begin_cold()
    cell.check_error(cell.start(), DialFailed, openai.APIConnectionError, Replay.SAFE, phase=Phase.CONNECT)
    cell.check_dials(ATTEMPTS)
    assert all(b"permessage-deflate" not in head for head in server.heads), "compression was offered"
    note("deflate, agreed to uninvited", "connect", way, "E")


def test_a_deflate_bomb_is_never_inflated(world: World, closing: ExitStack) -> None:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = squeeze.compress(b"\0" * 2**26) + squeeze.flush(zlib.Z_SYNC_FLUSH)
    frame = b"\xc1\x7f" + len(bomb).to_bytes(8, "big") + bomb  # final, compressed, text

    def serve(sock: socket.socket, head: bytes) -> None:
        sock.sendall(upgrade(head))
        sock.recv(65536)  # the create
        sock.sendall(frame)  # and no answer to the close that follows

    server = closing.enter_context(RawServer(serve))
    cells = [world.cell(way=way, base_url=f"http://127.0.0.1:{server.port}/v1") for way in WAYS]
    for cell in cells:
        cell.begin_cold()
    turns = [cell.start() for cell in cells]
    for cell, turn in zip(cells, turns, strict=True):
        cell.check_error(turn, ConnectionLost, openai.APIConnectionError, Replay.AMBIGUOUS, phase=Phase.SENT)
        assert cell.manager.stats().bytes_received == 0
        cell.check_dials(2)  # the resend meets the same
        note("deflate bomb", "sent", cell.way, "E")
