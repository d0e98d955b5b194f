"""The socket: the websockets library for the handshake and for control frames, a short way for text frames.

Nearly every frame is a whole text frame, and an answer has dozens or thousands of them. They are cut out of what
one read brought and handed over together. Whatever is not such a frame (control frames, fragments, frames that are
too large, masked or broken) goes to the library as it came, which answers or refuses it as the standard says. It
always gets whole frames, so it never misses where one begins.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from websockets.asyncio.client import ClientConnection
from websockets.frames import Frame, Opcode
from websockets.protocol import State

try:
    from websockets.speedups import apply_mask
except ImportError:  # a platform without the compiled part
    from websockets.utils import apply_mask

if TYPE_CHECKING:
    from websockets.http11 import Request, Response

__all__ = ["CLOSE_SECONDS", "SHORT", "Socket"]

# How long the other side may take to hang up after a close, while turns wait to be sent elsewhere.
CLOSE_SECONDS = 1.0
_END_OF_HEAD = b"\r\n\r\n"
_WHOLE_TEXT = 0x81  # the last fragment, no extension, text
_DATA = frozenset({Opcode.CONT, Opcode.TEXT, Opcode.BINARY})
# The library's own mark for a full write buffer: what is shorter is written without waiting.
SHORT = 32 * 1024
_MASKS = 4 * 64


class Socket(ClientConnection):
    """A connection that hands over messages in batches, and notes when it last heard from the other side.

    Args:
        *args: For the library.
        limit: Bytes of a message; None for no limit.
        **kwargs: For the library.

    Attributes:
        heard_at: When bytes last came in, on the loop's clock.
        heard_wall: The same on the wall clock, which goes on while the machine sleeps.
    """

    heard_at: float = 0.0
    heard_wall: float = 0.0
    _dooming = False

    def __init__(self, *args: Any, limit: int | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head: bytes | None = b""
        # A log of every frame is the library's affair, and it is asked for where something is to be found out.
        self._direct = not self.debug
        self._rest = bytearray()
        self._need = 0
        self._masks = b""
        self._fragmented = False
        self._parts: list[bytes] = []
        self._early: list[bytes] = []
        self._take: Callable[[list[bytes]], None] | None = None
        self._lost: Callable[[], None] | None = None
        self._over = False
        self._limit = sys.maxsize if limit is None else limit

    def attach(self, take: Callable[[list[bytes]], None], lost: Callable[[], None]) -> None:
        """Names who gets the messages from now on, those that have come already included.

        Args:
            take: Gets the messages of one read, in order.
            lost: Is told when the connection is gone.
        """
        self._take, self._lost = take, lost
        early, self._early = self._early, []
        self._hand_over(early)
        if self._over:
            lost()

    @property
    def takes_at_once(self) -> bool:
        """Whether what is written now is not held up by what was written before."""
        transport: Any = self.transport
        return (
            self._direct
            and self.protocol.state is State.OPEN
            and not transport.get_write_buffer_size()
            and not transport.is_closing()
        )

    def write_at_once(self, messages: Sequence[bytes]) -> None:
        """Writes text messages in one go; only where `takes_at_once`, and each no longer than `SHORT`."""
        self.transport.write(b"".join(part for message in messages for part in self._framed(message)))

    def _framed(self, message: bytes) -> tuple[bytes, ...]:
        """A whole text frame of RFC 6455, masked. The library asks the system for each mask, this for many at once."""
        if len(self._masks) < 4:
            self._masks = os.urandom(_MASKS)
        mask, self._masks = self._masks[:4], self._masks[4:]
        size = len(message)
        if size < 126:
            head = bytes((_WHOLE_TEXT, 0x80 | size))
        elif size < 65536:
            head = b"\x81\xfe" + size.to_bytes(2, "big")
        else:
            head = b"\x81\xff" + size.to_bytes(8, "big")
        return head, mask, apply_mask(message, mask)

    def data_received(self, data: bytes) -> None:
        """Takes bytes from the transport."""
        self.heard_at, self.heard_wall = self.loop.time(), time.time()
        if self._head is not None:
            self._handshake(data)
        elif self._direct:
            self._split(data)
        else:
            super().data_received(data)
        if not self._dooming and self.protocol.state is State.CLOSING:
            # Either side has said that it is over. Nobody waits longer for the other one to hang up.
            self._dooming = True
            self.loop.call_later(CLOSE_SECONDS, self.transport.abort)

    def _handshake(self, data: bytes) -> None:
        """Gives the library the response's head alone: what follows it are frames."""
        assert self._head is not None  # noqa: S101 - for the type checker
        seen = self._head + data
        end = seen.find(_END_OF_HEAD)
        if end < 0:
            self._head = seen[-3:]
            super().data_received(data)
            return
        cut = end + len(_END_OF_HEAD) - len(self._head)
        self._head = None
        super().data_received(data[:cut])
        self._direct = self._direct and self.protocol.state is State.OPEN
        if rest := data[cut:]:
            if self._direct:
                self._split(rest)
            else:
                super().data_received(rest)

    def _split(self, data: bytes) -> None:
        """Cuts whole text frames out of what came, and leaves other frames to the library."""
        if self._rest:
            self._rest += data
            if len(self._rest) < self._need:
                return
            data = bytes(self._rest)
            self._rest.clear()
        at, end, messages = 0, len(data), list[bytes]()
        self._need = 2
        while True:
            at = self._whole(data, at, messages)
            if end - at < 2:
                break
            size, start = data[at + 1], at + 2
            if size > 125:
                start += 2 if size == 126 else 8
                if start > end and size < 128:
                    self._need = start - at
                    break
                # A masked frame is one that the library refuses.
                size = int.from_bytes(data[at + 2 : start], "big") if size < 128 else sys.maxsize
            stop = start + size
            if size > self._limit or size == sys.maxsize:
                stop = end
            elif stop > end:
                self._need = stop - at
                break
            elif (
                data[at] == _WHOLE_TEXT and not self._fragmented
            ):  # a long one, or a very short one at the end
                messages.append(data[start:stop])
                at = stop
                continue
            self._hand_over(messages)
            messages = []
            self._pass_on(data[at:stop], whole=stop - start == size)
            at = stop
            if not self._direct:
                if rest := data[at:]:
                    super().data_received(rest)
                return
        self._rest += data[at:]
        self._hand_over(messages)

    def _whole(self, data: bytes, at: int, messages: list[bytes]) -> int:
        """Takes the frames that are as nearly all are: whole texts of less than 64 KiB. Returns where they end."""
        last, end, limit = len(data) - 4, len(data), self._limit
        if self._fragmented:
            return at
        while at <= last and data[at] == _WHOLE_TEXT:
            size = data[at + 1]
            start = at + 2
            if size > 125:
                if size != 126:
                    return at
                size = data[at + 2] << 8 | data[at + 3]
                start = at + 4
            stop = start + size
            if stop > end or size > limit:
                return at
            messages.append(data[start:stop])
            at = stop
        return at

    def _pass_on(self, frame: bytes, *, whole: bool) -> None:
        """Leaves one frame to the library, or all that comes where it will refuse it."""
        opcode = frame[0] & 0x0F
        if opcode <= Opcode.BINARY:
            self._fragmented = not frame[0] & 0x80
        super().data_received(frame)
        self._direct = whole and self.protocol.state is State.OPEN

    def process_event(self, event: Frame | Request | Response) -> None:
        """Takes a frame from the library; fragments are put together here."""
        if not isinstance(event, Frame) or event.opcode not in _DATA:
            super().process_event(event)
            return
        self._parts.append(bytes(event.data))
        if event.fin:
            message = b"".join(self._parts)
            self._parts.clear()
            self._hand_over([message])

    def _hand_over(self, messages: list[bytes]) -> None:
        if not messages:
            return
        if self._take is None:
            self._early += messages
        else:
            self._take(messages)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the connection."""
        super().connection_lost(exc)
        self._over = True
        if self._lost is not None:
            self._lost()
