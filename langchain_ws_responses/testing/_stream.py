"""A byte stream over asyncio that never raises for a client that went away in a rude manner."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from typing import Any

from langchain_ws_responses import _json
from langchain_ws_responses.testing._engine import Lost

__all__ = ["Stream", "parse_json"]

_READ = 2**18


def parse_json(data: str | bytes) -> Any:
    """Parses JSON as leniently as the service: lone surrogates and large integers pass.

    Raises:
        ValueError: It is not JSON, or not UTF-8.
    """
    try:
        return _json.loads(data)
    except ValueError:
        return json.loads(data)


class Stream:
    """One accepted connection.

    Args:
        reader: Its input.
        writer: Its output.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._drain = asyncio.Lock()

    async def read(self) -> bytes:
        """Reads some bytes; none at the end, however it came."""
        try:
            return await self._reader.read(_READ)
        except OSError:
            return b""

    async def read_head(self) -> bytes:
        """Reads at least one request head, and whatever came with it."""
        data = b""
        while b"\r\n\r\n" not in data and len(data) < 2**17:
            more = await self.read()
            if not more:
                break
            data += more
        return data

    async def write(self, data: bytes) -> None:
        """Writes bytes and waits while the client reads too slowly.

        Raises:
            Lost: The client is gone.
        """
        if self._writer.is_closing():
            raise Lost
        self._writer.write(data)
        try:
            # One waiter at a time: older Python versions allow no more.
            async with self._drain:
                await self._writer.drain()
        except OSError:
            raise Lost from None

    def half_close(self) -> None:
        """Says that no more bytes will come."""
        if not self._writer.is_closing():
            with contextlib.suppress(OSError):
                self._writer.write_eof()

    def close(self, grace: float) -> None:
        """Ends the connection in order; after `grace` seconds unsent bytes are dropped."""
        self._writer.close()
        asyncio.get_running_loop().call_later(grace, self._writer.transport.abort)

    def abort(self) -> None:
        """Ends the connection now; unsent bytes are dropped."""
        self._writer.transport.abort()

    def reset(self) -> None:
        """Ends the connection with a reset, as a crashed peer or a hard network fault would."""
        sock = self._writer.get_extra_info("socket")
        if sock is not None and not self._writer.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def wait_closed(self) -> None:
        """Waits until the socket is released."""
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
