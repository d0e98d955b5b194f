"""What a hostile or broken server can make a process keep: never more than the limits, whatever it announces."""

from __future__ import annotations

import socket
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faults.raw_server import RawServer, upgrade
from process.kit import PROJECT, environment

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="/proc is missing: it needs Linux"),
    pytest.mark.timeout(120),
]
MIB = 2**20
GIB = 2**30
MOST = 150.0
SCRIPT = """
import gc, sys
from transport_kit import Turn
from langchain_ws_responses import ConnectionManager
from langchain_ws_responses._transport.endpoint import endpoint_for

def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024

with ConnectionManager() as manager:
    before = peak()
    turn = Turn(manager, endpoint_for(url=sys.argv[1], credential="sk-test")).send()
    kind = turn.end(60).kind.value
print(kind, peak() - before)
"""


def frames(first: int, size: int, count: int, payload: bytes) -> Iterator[bytes]:
    """One message: its first frame, then continuations."""
    for number in range(count):
        last = 0x80 if number == count - 1 else 0
        yield bytes([last | (first if number == 0 else 0), 127]) + size.to_bytes(8, "big") + payload


def announced() -> Iterator[bytes]:
    """A frame of 1 GiB, a piece at a time."""
    yield bytes([0x81, 127]) + GIB.to_bytes(8, "big")
    for _ in range(GIB // MIB):
        yield b" " * MIB


def fragmented() -> Iterator[bytes]:
    """A message of 1 GiB in frames that are small."""
    return frames(0x01, 256 * 1024, GIB // (256 * 1024), b" " * (256 * 1024))


def deflated() -> Iterator[bytes]:
    """A megabyte that would become 1 GiB, compressed although nobody agreed to that."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = 64 * (squeeze.compress(bytes(16 * MIB)) + squeeze.flush(zlib.Z_FULL_FLUSH))
    return frames(0x41, len(bomb), 1, bomb)


BOMBS: dict[str, tuple[Callable[[], Iterator[bytes]], set[str]]] = {
    "announced": (announced, {"message_too_large"}),
    "fragmented": (fragmented, {"message_too_large"}),
    "deflated": (deflated, {"connection_lost", "protocol_violation"}),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_message_of_a_gibibyte_costs_no_more_than_the_limit_on_messages(bomb: str) -> None:
    pieces, kinds = BOMBS[bomb]

    def serve(sock: socket.socket, head: bytes) -> None:
        sock.sendall(upgrade(head))
        sock.recv(65536)  # the create
        for piece in pieces():
            sock.sendall(piece)

    with RawServer(serve) as server:
        url = f"ws://127.0.0.1:{server.port}/v1/responses"
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, url],
            cwd=PROJECT,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    kind, grown = done.stdout.split()
    assert kind in kinds
    assert float(grown) < MOST, f"{grown} MiB"
