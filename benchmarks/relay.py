"""A relay with delay and bandwidth, for systems without `tc netem`: one process, any number of connections.

What is passed on is delayed by half a round trip each way; towards the server also by the bandwidth. The
first bytes of a connection wait another round trip, which stands for TCP's handshake. There is no slow
start and no loss: large requests do better here than on a real network.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import sys
from typing import Any

__all__ = ["main"]

_PIECE = 16 * 1024
# Beyond this the sender is held up, as by a full send buffer.
_MAX_WAITING = 4 * 1024 * 1024


class Link:
    """One direction of all connections together: they share its bandwidth.

    Args:
        delay: Seconds that each byte travels.
        rate: Bytes a second, or None.
    """

    def __init__(self, delay: float, rate: float | None) -> None:
        self.delay = delay
        self.rate = rate
        self.free_at = 0.0

    def arrival(self, size: int, now: float) -> float:
        """Says when the last of so many bytes, sent now, arrives."""
        self.free_at = max(self.free_at, now) + (size / self.rate if self.rate else 0.0)
        return self.free_at + self.delay


async def _pump(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: Link, opening: float
) -> None:
    """Passes bytes on when they have arrived; ends with the sender or the receiver."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MAX_WAITING // _PIECE)
    ready_at = loop.time() + opening

    async def send() -> None:
        while True:
            at, data = await queue.get()
            if (wait := at - loop.time()) > 0:
                await asyncio.sleep(wait)
            if not data:
                writer.close()
                return
            writer.write(data)
            await writer.drain()

    sender = asyncio.create_task(send())
    try:
        while data := await reader.read(_PIECE):
            await queue.put((max(ready_at + link.delay, link.arrival(len(data), loop.time())), data))
        await queue.put((loop.time() + link.delay, b""))
        await sender
    except OSError:
        pass
    finally:
        sender.cancel()
        writer.close()


async def _serve(port: int, rtt: float, rate: float | None) -> None:
    loop = asyncio.get_running_loop()
    up, down = Link(rtt / 2, rate), Link(rtt / 2, None)
    running: set[Any] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
        for end in (writer, far_writer):
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        both = asyncio.gather(_pump(reader, far_writer, up, rtt), _pump(far_reader, writer, down, 0.0))
        running.add(both)
        await asyncio.wait([both])
        running.discard(both)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=1024)
    print(json.dumps({"relay": server.sockets[0].getsockname()[1]}), flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Relays until standard input closes."""
    parser = argparse.ArgumentParser(prog="benchmarks.relay")
    parser.add_argument("--port", type=int, required=True, help="of the server")
    parser.add_argument("--round-trip", type=float, required=True, help="seconds")
    parser.add_argument("--megabits", type=float, default=None, help="towards the server, a second")
    given = parser.parse_args()
    rate = given.megabits * 1e6 / 8 if given.megabits else None
    asyncio.run(_serve(given.port, given.round_trip, rate))


if __name__ == "__main__":
    main()
