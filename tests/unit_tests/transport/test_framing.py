"""The short way for text frames, beside the library's own parser: the same messages, answers and refusals."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from langchain_ws_responses._transport.framing import Socket

LIMIT = 70_000
URI = parse_uri("ws://127.0.0.1/v1/responses")


class Transport(asyncio.Transport):
    """Keeps what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.waiting = self.writes = 0
        self.closing = False

    def write(self, data: Any) -> None:
        self.written += data
        self.writes += 1

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return self.waiting

    def is_closing(self) -> bool:
        return self.closing

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = True


@dataclass
class Heard:
    """What came of some bytes."""

    messages: list[bytes] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    lost: int = 0

    def take(self, messages: list[bytes]) -> None:
        self.messages += messages
        self.batches.append(len(messages))

    def end(self) -> None:
        self.lost += 1


def protocol() -> ClientProtocol:
    """With a mask that can be foreseen, so that what is written can be compared."""
    return ClientProtocol(URI, max_size=LIMIT, logger=logging.getLogger("test.framing"))


def shake(client: ClientProtocol) -> bytes:
    """Lets a client begin; returns the server's answer."""
    server = ServerProtocol()
    client.send_request(client.connect())
    server.receive_data(b"".join(client.data_to_send()))
    server.send_response(server.accept(server.events_received()[0]))  # type: ignore[arg-type]
    return b"".join(server.data_to_send())


def connected() -> tuple[Socket, Transport, bytes]:
    client, transport = protocol(), Transport()
    head = shake(client)
    socket = Socket(client, limit=LIMIT, ping_interval=None)
    socket.connection_made(transport)
    socket.response_rcvd = asyncio.get_running_loop().create_future()
    return socket, transport, head


def cut(data: bytes, source: random.Random) -> Iterator[bytes]:
    """Pieces as a network may deliver them."""
    while data:
        size = source.choice([1, 2, 3, 5, 130, 1500, 66_000, len(data)])
        yield data[:size]
        data = data[size:]


def expected(data: bytes) -> tuple[list[bytes], ClientProtocol, bytes]:
    """What the library makes of the same bytes, all at once."""
    client = protocol()
    client.receive_data(shake(client))
    client.receive_data(data)
    messages, parts = [], b""
    for event in client.events_received():
        if isinstance(event, Response) or event.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            continue
        parts += bytes(event.data)
        if event.fin:
            messages.append(parts)
            parts = b""
    return messages, client, b"".join(client.data_to_send())


def wire(opcode: Opcode, data: bytes, *, fin: bool = True, mask: bool = False) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=mask)


def text(size: int = 40) -> bytes:
    return wire(Opcode.TEXT, b"x" * size)


def run(work: Callable[[], Any]) -> Any:
    async def inside() -> Any:
        return work()

    return asyncio.run(inside())


def check(data: bytes, seed: int) -> None:
    """Compares both ways on one stream of bytes."""
    source = random.Random(seed)  # noqa: S311 - the same at each run
    messages, client, _ = expected(data)

    def work() -> None:
        socket, transport, head = connected()
        heard = Heard()
        early = source.random() < 0.5
        if early:
            socket.attach(heard.take, heard.end)
        for piece in cut(head + data, source):
            socket.data_received(piece)
        if not early:
            socket.attach(heard.take, heard.end)
        assert heard.messages == messages
        assert socket.protocol.state is client.state
        for name in ("close_sent", "close_rcvd", "close_rcvd_then_sent"):
            assert getattr(socket.protocol, name) == getattr(client, name), name
        assert type(socket.protocol.parser_exc) is type(client.parser_exc)
        assert pongs(bytes(transport.written)) == pongs(expected(data)[2])

    run(work)


def pongs(written: bytes) -> list[tuple[Opcode, bytes]]:
    """The frames in what a client wrote, unmasked."""
    frames = []
    while written:
        opcode, size, start = Opcode(written[0] & 0x0F), written[1] & 0x7F, 2
        if size == 126:
            size, start = int.from_bytes(written[2:4], "big"), 4
        mask, data = written[start : start + 4], written[start + 4 : start + 4 + size]
        frames.append((opcode, bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))))
        written = written[start + 4 + size :]
    return frames


CLOSE = wire(Opcode.CLOSE, b"\x03\xe8bye")
STREAMS = {
    "one": text(),
    "sizes": b"".join(text(size) for size in (0, 1, 125, 126, 127, 65_535, 65_536, LIMIT)),
    "ping between": text() + wire(Opcode.PING, b"p") + text() + wire(Opcode.PONG, b"q") + text(),
    "fragments": text(3)
    + wire(Opcode.TEXT, b"a" * 200, fin=False)
    + wire(Opcode.PING, b"p")
    + wire(Opcode.CONT, b"b" * 70, fin=False)
    + wire(Opcode.CONT, b"c")
    + text(4),
    "binary": wire(Opcode.BINARY, b"b") + text(),
    "text inside fragments": wire(Opcode.TEXT, b"a", fin=False) + text() + text(),
    "continues nothing": text() + wire(Opcode.CONT, b"a") + text(),
    "too large": text() + text(LIMIT + 1) + text(),
    "fragments too large": wire(Opcode.TEXT, b"a" * LIMIT, fin=False) + wire(Opcode.CONT, b"b") + text(),
    "masked": text() + wire(Opcode.TEXT, b"abc", mask=True) + text(),
    "masked and long": text() + wire(Opcode.TEXT, b"a" * 500, mask=True) + text(),
    "reserved bit": text() + b"\xc1\x03abc" + text(),
    "unknown opcode": text() + b"\x83\x01a" + text(),
    "long ping": text() + b"\x89\x7e\x00\x80" + b"p" * 128 + text(),
    "absurd size": text() + b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff" + text(),
    "close": text() + CLOSE + text(),
    "broken close": text() + wire(Opcode.CLOSE, b"\x03") + text(),
}


@pytest.mark.parametrize("name", STREAMS)
def test_both_ways_hear_the_same(name: str) -> None:
    for seed in range(30):
        check(STREAMS[name], seed)


def test_both_ways_hear_the_same_of_random_streams() -> None:
    for seed in range(400):
        source = random.Random(seed)  # noqa: S311 - the same at each run
        frames = [
            source.choice(list(STREAMS.values())) if source.random() < 0.1 else text(source.randrange(300))
            for _ in range(8)
        ]
        data = bytearray(b"".join(frames))
        if source.random() < 0.5:
            data[source.randrange(len(data))] ^= 1 << source.randrange(8)
        check(bytes(data), seed)


def test_the_frames_of_one_read_are_one_batch() -> None:
    def work() -> Heard:
        socket, _, head = connected()
        heard = Heard()
        socket.attach(heard.take, heard.end)
        socket.data_received(head + text() * 5 + text()[:7])
        socket.data_received(text()[7:] + text() * 2)
        return heard

    heard = run(work)
    assert heard.batches == [5, 3]


def test_what_came_before_anybody_listened_is_kept_in_order() -> None:
    def work() -> Heard:
        socket, _, head = connected()
        socket.data_received(head + text(1) + text(2))
        socket.data_received(wire(Opcode.TEXT, b"xx", fin=False) + wire(Opcode.CONT, b"x"))
        socket.connection_lost(None)
        heard = Heard()
        socket.attach(heard.take, heard.end)
        return heard

    heard = run(work)
    assert [len(message) for message in heard.messages] == [1, 2, 3]
    assert heard.lost == 1


def test_a_loss_is_told_once() -> None:
    def work() -> Heard:
        socket, _, head = connected()
        heard = Heard()
        socket.attach(heard.take, heard.end)
        socket.data_received(head + text()[:5])
        socket.connection_lost(ConnectionResetError())
        return heard

    heard = run(work)
    assert (heard.messages, heard.lost) == ([], 1)


def test_a_refused_handshake_is_the_librarys_affair() -> None:
    def work() -> Socket:
        socket, _, _ = connected()
        body = b"HTTP/1.1 429 Too Many\r\nContent-Length: 4\r\nRetry-After: 3\r\n\r\n\x81\x02ab"
        for piece in cut(body, random.Random(1)):  # noqa: S311
            socket.data_received(piece)
        return socket

    socket = run(work)
    assert socket.response is not None
    assert (socket.response.status_code, bytes(socket.response.body or b"")) == (429, b"\x81\x02ab")
    assert socket.response.headers["retry-after"] == "3"


def test_a_log_of_every_frame_is_still_to_be_had(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="test.framing")

    def work() -> Heard:
        socket, _, head = connected()
        heard = Heard()
        socket.attach(heard.take, heard.end)
        socket.data_received(head + text(11))
        return heard

    assert run(work).messages == [b"x" * 11]
    assert "< TEXT" in caplog.text


# -- writing


def test_it_is_known_whether_a_message_would_wait() -> None:
    def work() -> list[bool]:
        socket, transport, head = connected()
        told = [socket.takes_at_once]
        socket.data_received(head)
        told.append(socket.takes_at_once)
        transport.waiting = 1
        told.append(socket.takes_at_once)
        transport.waiting, transport.closing = 0, True
        told.append(socket.takes_at_once)
        transport.closing = False
        socket.data_received(CLOSE)
        return [*told, socket.takes_at_once]

    assert run(work) == [False, True, False, False, False]


def test_messages_are_written_in_one_go_and_each_with_a_mask_of_its_own() -> None:
    messages = [b"", b"a" * 125, b"b" * 126, b"c" * 65_535, b"d" * 65_536, *[b"same"] * 200]

    def work() -> tuple[bytes, int]:
        socket, transport, head = connected()
        socket.data_received(head)
        transport.writes = 0
        socket.write_at_once(messages)
        return bytes(transport.written), transport.writes

    written, writes = run(work)
    assert writes == 1
    server = ServerProtocol(max_size=None)
    client = protocol()
    client.send_request(client.connect())
    server.receive_data(b"".join(client.data_to_send()))
    server.send_response(server.accept(server.events_received()[0]))  # type: ignore[arg-type]
    server.receive_data(written)
    frames = [event for event in server.events_received() if isinstance(event, Frame)]
    assert [bytes(frame.data) for frame in frames] == messages
    assert {(frame.opcode, frame.fin) for frame in frames} == {(Opcode.TEXT, True)}
    masks = {written[at + 2 : at + 6] for at in range(len(written) - 2000, len(written), 10)}
    assert len(masks) == 200
