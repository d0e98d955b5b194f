"""A TCP server of a few lines, for what no proper server does."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import socket
import threading
from collections.abc import Callable


class RawServer:
    """Calls a function with every connection and the head of its first request.

    Args:
        serve: Gets the socket and the head; what it leaves open stays so until the server is closed.
    """

    def __init__(self, serve: Callable[[socket.socket, bytes], None]) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heads: list[bytes] = []
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            thread = threading.Thread(target=self._one, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _one(self, sock: socket.socket) -> None:
        try:
            head = b""
            while b"\r\n\r\n" not in head and (data := sock.recv(65536)):
                head += data
            self.heads.append(head)
            self._serve(sock, head)
            while sock.recv(65536):  # an unread request would turn the end into a reset
                pass
        except OSError:
            pass

    def __enter__(self) -> RawServer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # A blocked accept is woken by a shutdown, not by a close.
        self._listener.shutdown(socket.SHUT_RDWR)
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        for sock in [*self._sockets, self._listener]:
            sock.close()


def answer(status: str, *fields: str) -> Callable[[socket.socket, bytes], None]:
    """Answers every request with a status and closes."""

    def serve(sock: socket.socket, head: bytes) -> None:
        lines = [f"HTTP/1.1 {status}", "content-length: 0", "connection: close", *fields, "", ""]
        sock.sendall("\r\n".join(lines).encode())
        sock.shutdown(socket.SHUT_WR)

    return serve


def upgrade(head: bytes, *fields: str) -> bytes:
    """The 101 that fits a request."""
    key = re.search(rb"(?i)sec-websocket-key: *(\S+)", head)
    assert key is not None
    digest = hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()  # noqa: S324 - RFC 6455
    lines = ["HTTP/1.1 101 Switching Protocols", "upgrade: websocket", "connection: Upgrade"]
    lines += [f"sec-websocket-accept: {base64.b64encode(digest).decode()}", *fields, "", ""]
    return "\r\n".join(lines).encode()
