"""A fast scripted server in a process of its own: WebSocket, HTTP JSON and SSE on one port.

It answers with bytes made before and looks at requests without parsing them, so that it is not what is
measured. It counts what it receives and notes when, on the clock that all processes of a machine share
(`time.perf_counter`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from .answers import Body, body_for

__all__ = ["main"]

_MODEL = re.compile(rb'"model"\s*:\s*"(bench-[a-z]+-(\d+))"')
_PARENT = re.compile(rb'\s*:\s*"resp_(\d{8})(\d{4})"')
_LANE = re.compile(rb'\s*:\s*"([A-Za-z0-9_.\-]{1,256})"')
_STREAM = re.compile(rb"\s*:\s*true")
_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)


@dataclass
class Book:
    """What was received since the last reset.

    Attributes:
        think: Seconds from a request to its answer.
        connections: Connections that asked for an answer.
        arrived: When the first byte of each request came in.
        written: When each answer was handed to the transport.
        sizes: Bytes received for each request, with all headers.
    """

    think: float = 0.0
    connections: int = 0
    arrived: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    received: int = 0
    numbers: int = 0


class Server:
    """What all connections share."""

    def __init__(self) -> None:
        self.book = Book()

    def answer(self, body: bytes) -> tuple[Body, str, str]:
        """Chooses the answer to a request, and the ids that go into it."""
        found = _MODEL.search(body, 0) if len(body) < 65536 else None
        found = found or _MODEL.search(body, max(body.find(b'"model"'), 0))
        if found is None:
            raise ValueError("a request names no model of the benchmark")
        model, count = found[1].decode(), int(found[2])
        parent = _after(body, b'"previous_response_id"', _PARENT)
        # How far a conversation is, a delta says with its parent's id and a full request with its outputs.
        depth = int(parent[2]) + 1 if parent else body.count(b'"function_call_output"')
        text = model.startswith("bench-text") or depth >= count - 1
        self.book.numbers += 1
        number = f"{self.book.numbers % 10**8:08d}{depth:04d}"
        made = body_for(model, text=text, parent=parent is not None)
        return made, number, (parent[1] + parent[2]).decode() if parent else ""

    def control(self, path: str, body: bytes) -> Any:
        """Answers the benchmark itself."""
        if path == "/reset":
            self.book = Book(**json.loads(body or b"{}"), numbers=self.book.numbers)
            return {}
        book = self.book
        return {
            "connections": book.connections,
            "arrived": book.arrived,
            "written": book.written,
            "sizes": book.sizes,
            "received": book.received,
        }


def _after(body: bytes, name: bytes, value: re.Pattern[bytes]) -> re.Match[bytes] | None:
    """Matches the value behind a key; in half a megabyte a plain search is fast, a pattern is not."""
    at = body.find(name)
    return value.match(body, at + len(name)) if at >= 0 else None


class Connection(asyncio.Protocol):
    """One connection: the first line decides what it speaks."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._buffer = bytearray()
        self._socket: ServerProtocol | None = None
        self._first = 0.0
        self._bytes = 0
        self._book: Book | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Takes what came in."""
        if not self._first:
            self._first = time.perf_counter()
        self._bytes += len(data)
        if self._socket is not None:
            self._on_socket(data)
            return
        self._buffer += data
        while self._http():
            pass

    # -- HTTP ----------------------------------------

    def _http(self) -> bool:
        """Takes one request from the buffer; False if it is not complete."""
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self._buffer[:end])
        if b"upgrade: websocket" in head.lower():
            data, self._buffer = bytes(self._buffer), bytearray()
            self._socket = ServerProtocol(max_size=None)
            self._on_socket(data)
            return False
        length = _LENGTH.search(head)
        total = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) < total:
            return False
        body = bytes(self._buffer[end + 4 : total])
        del self._buffer[:total]
        path = head.split(b" ", 2)[1].decode()
        if path.endswith("/responses"):
            self._respond(body)
        else:
            self._first, self._bytes = 0.0, 0
            self._write_http(json.dumps(self._server.control(path, body)).encode(), "application/json")
        return True

    def _respond(self, body: bytes) -> None:
        made, number, parent = self._server.answer(body)
        if _after(body, b'"stream"', _STREAM):
            self._later(lambda: self._write_http(made.sse(number, parent), "text/event-stream"))
        else:
            self._later(lambda: self._write_http(made.json(number, parent), "application/json"))

    def _write_http(self, body: bytes, kind: str) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)

    # -- WebSocket ----------------------------------------

    def _on_socket(self, data: bytes) -> None:
        socket = self._socket
        assert socket is not None
        socket.receive_data(data)
        for event in socket.events_received():
            if isinstance(event, Request):
                self._first = 0.0
                socket.send_response(socket.accept(event))
            elif isinstance(event, Frame) and event.opcode in (Opcode.TEXT, Opcode.CONT):
                self._on_frame(event)
        for out in socket.data_to_send():
            if out:
                self._transport.write(out)
            else:
                self._transport.close()

    def _on_frame(self, frame: Frame) -> None:
        self._buffer += frame.data
        if not frame.fin:
            return
        body = bytes(self._buffer)
        self._buffer.clear()
        made, number, parent = self._server.answer(body)
        lane = _after(body, b'"stream_id"', _LANE)
        self._later(lambda: self._transport.write(made.frames(number, parent, lane[1] if lane else b"")))

    # -- both ----------------------------------------

    def _later(self, write: Callable[[], None]) -> None:
        """Books the request and writes the answer, after the time to think."""
        book = self._server.book
        if self._book is not book:
            self._book = book
            book.connections += 1
        place = len(book.arrived)
        book.arrived.append(self._first)
        book.sizes.append(self._bytes)
        book.received += self._bytes
        book.written.append(0.0)
        self._first, self._bytes = 0.0, 0

        def answer() -> None:
            if not self._transport.is_closing():
                book.written[place] = time.perf_counter()
                write()

        if book.think:
            asyncio.get_running_loop().call_later(book.think, answer)
        else:
            answer()


async def _serve(host: str, certificate: str | None) -> None:
    loop, server = asyncio.get_running_loop(), Server()
    plain = await loop.create_server(lambda: Connection(server), host, 0, backlog=2048)
    ports = {"plain": plain.sockets[0].getsockname()[1]}
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        secure = await loop.create_server(lambda: Connection(server), host, 0, ssl=context, backlog=2048)
        ports["tls"] = secure.sockets[0].getsockname()[1]
    print(json.dumps(ports), flush=True)
    # The parent's end of the pipe closes when it ends, however it ends.
    await loop.run_in_executor(None, sys.stdin.read)


def main() -> None:
    """Serves until standard input closes."""
    parser = argparse.ArgumentParser(prog="benchmarks.server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--certificate")
    given = parser.parse_args()
    asyncio.run(_serve(given.host, given.certificate))


if __name__ == "__main__":
    main()
