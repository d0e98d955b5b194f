"""`ChaosProxy` against plain sockets: what it does to bytes is judged by the sockets at both ends."""

from __future__ import annotations

import errno
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import trustme

from langchain_ws_responses.testing import ChaosProxy, Fault, ResponsesServer

HELLO = b"hello, this is the server"


class Echo:
    """A TCP server that remembers what it got and sends it back."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1"
        self.got: list[bytes] = []
        self.ended = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self._main = threading.Thread(target=self._run, daemon=True)
        self._main.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            thread.start()
            self._threads.append(thread)

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(65536):
                    self.got.append(data)
                    sock.sendall(data)
            except OSError:
                pass
        self.ended.release()

    def close(self) -> None:
        # A blocked accept is woken by a shutdown, not by a close.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._sockets:
            sock.close() if sock.fileno() < 0 else _hang_up(sock)
        for thread in [self._main, *self._threads]:
            thread.join(5)


def _hang_up(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:
        sock.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def closing() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def _proxy(echo: Echo, closing: ExitStack, **options: Any) -> ChaosProxy:
    return closing.enter_context(ChaosProxy(echo.url, **options))


def _dial(proxy: ChaosProxy, closing: ExitStack) -> socket.socket:
    return closing.enter_context(socket.create_connection(("127.0.0.1", proxy.port), timeout=5))


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            break
        data += piece
    return data


def _ask(sock: socket.socket, data: bytes = HELLO) -> bytes:
    sock.sendall(data)
    return _exactly(sock, len(data))


def _silent(sock: socket.socket) -> bool:
    """Nothing comes, not even an end."""
    sock.settimeout(0.05)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(5)
    return False


def _frame(payload: bytes, opcode: int = 1, *, fin: bool = True, mask: bool = False) -> bytes:
    first = bytes([(0x80 if fin else 0) | opcode])
    flag = 0x80 if mask else 0
    if len(payload) < 126:
        head = bytes([flag | len(payload)])
    elif len(payload) < 2**16:
        head = bytes([flag | 126]) + len(payload).to_bytes(2, "big")
    else:
        head = bytes([flag | 127]) + len(payload).to_bytes(8, "big")
    return first + head + (b"\0\0\0\0" if mask else b"") + payload


REQUEST = b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n"
ACCEPTED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"


def test_passes_bytes_both_ways_and_counts_them(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing)
    sock = _dial(proxy, closing)
    assert _ask(sock) == HELLO
    assert _ask(_dial(proxy, closing), b"x" * 300_000) == b"x" * 300_000
    proxy.wait_for(lambda: proxy.connections[1].bytes_to_client == 300_000)
    assert (proxy.dials, proxy.open) == (2, 2)
    assert proxy.connections[0].bytes_to_server == len(HELLO)
    assert proxy.connections[0].bytes_to_client == len(HELLO)


def test_a_client_that_leaves_is_told_to_the_server(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing)
    sock = _dial(proxy, closing)
    _ask(sock)
    sock.close()
    assert echo.ended.acquire(timeout=5)
    proxy.wait_for(lambda: proxy.open == 0)


def test_a_half_close_still_gets_its_answer(echo: Echo, closing: ExitStack) -> None:
    sock = _dial(_proxy(echo, closing), closing)
    sock.sendall(HELLO)
    sock.shutdown(socket.SHUT_WR)
    assert _exactly(sock, 100) == HELLO


def test_refuse_and_accept(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing, refuse=True)
    port = proxy.port
    with pytest.raises(ConnectionRefusedError):
        _dial(proxy, closing)
    proxy.accept()
    living = _dial(proxy, closing)
    proxy.wait_for(lambda: proxy.dials)
    proxy.refuse()
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        _dial(proxy, closing)
    assert _ask(living) == HELLO
    proxy.heal()
    assert proxy.port == port
    assert _ask(_dial(proxy, closing)) == HELLO


def test_a_deaf_peer_accepts_and_never_answers(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing, faults=[Fault(kind="blackhole")])
    sock = _dial(proxy, closing)
    sock.sendall(HELLO)
    assert _silent(sock)
    assert echo.got == []


def test_reset_is_a_reset(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing)
    proxy.plan(Fault(kind="reset", after_bytes=5), connections=1)
    sock = _dial(proxy, closing)
    sock.sendall(HELLO)
    with pytest.raises(ConnectionResetError) as caught:
        _exactly(sock, 100)
    assert caught.value.errno == errno.ECONNRESET
    assert echo.ended.acquire(timeout=5)
    assert proxy.connections[0].bytes_to_client == 5
    assert _ask(_dial(proxy, closing)) == HELLO


def test_end_is_an_orderly_end_after_exactly_so_many_bytes(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing, faults=[Fault(kind="end", after_bytes=7)])
    sock = _dial(proxy, closing)
    sock.sendall(HELLO)
    assert _exactly(sock, 100) == HELLO[:7]
    assert echo.ended.acquire(timeout=5)


def test_a_blackhole_tells_nobody(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing)
    sock = _dial(proxy, closing)
    assert _ask(sock) == HELLO
    proxy.cut("blackhole")
    sock.sendall(HELLO)
    assert _silent(sock)
    assert echo.got == [HELLO]
    proxy.heal()
    assert _silent(sock)
    assert proxy.open == 1


def test_slow_passes_so_many_bytes_a_second(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing, faults=[Fault(kind="slow", rate=1)])
    sock = _dial(proxy, closing)
    sock.sendall(HELLO)
    assert _exactly(sock, 1) == HELLO[:1]
    assert _silent(sock)
    proxy.heal()
    assert _exactly(sock, len(HELLO) - 1) == HELLO[1:]


def test_fragment_loses_nothing(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing, faults=[Fault(kind="fragment", direction="to_server")])
    # So much that no reader is slow enough to find it all in one piece.
    assert _ask(_dial(proxy, closing), b"x" * 5000) == b"x" * 5000
    assert len(echo.got) > 1
    assert b"".join(echo.got) == b"x" * 5000


def test_garble_breaks_exactly_so_many_bytes(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing, faults=[Fault(kind="garble", after_bytes=3, length=4)])
    answer = _ask(_dial(proxy, closing))
    assert [index for index in range(len(HELLO)) if answer[index] != HELLO[index]] == [3, 4, 5, 6]


def test_freeze_and_thaw_lose_nothing(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing)
    sock = _dial(proxy, closing)
    _ask(sock)
    proxy.freeze()
    sock.sendall(HELLO)
    assert _silent(sock)
    proxy.thaw()
    assert _exactly(sock, len(HELLO)) == HELLO


def test_strikes_one_connection_and_counts_from_then_on(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing)
    first, second = _dial(proxy, closing), _dial(proxy, closing)
    assert (_ask(first), _ask(second)) == (HELLO, HELLO)
    fault = Fault(kind="end", after_bytes=4)
    proxy.strike(fault, connection=proxy.connections[0])
    first.sendall(HELLO)
    assert _exactly(first, 100) == HELLO[:4]
    assert _ask(second) == HELLO
    assert [record.struck for record in proxy.connections] == [[fault], []]
    assert [record.open for record in proxy.connections] == [False, True]


def test_plans_hit_so_many_connections(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing)
    proxy.plan(Fault(kind="end", after_bytes=2), connections=2)
    answers = []
    for _ in range(3):
        sock = _dial(proxy, closing)
        sock.sendall(HELLO)
        answers.append(_exactly(sock, len(HELLO)))
    assert answers == [HELLO[:2], HELLO[:2], HELLO]


@pytest.mark.parametrize("fragment", [False, True])
def test_counts_messages_in_both_directions(echo: Echo, closing: ExitStack, fragment: bool) -> None:
    faults = [Fault(kind="fragment"), Fault(kind="fragment", direction="to_server")] if fragment else []
    proxy = _proxy(echo, closing, faults=faults)
    sock = _dial(proxy, closing)
    # The echo of the request is no 101: the answer is counted as a stream of events.
    up = REQUEST + _frame(b"one", mask=True) + _frame(b"", 9, mask=True) + _frame(b"x" * 200, mask=True)
    up += _frame(b"a", fin=False, mask=True) + _frame(b"", 9, mask=True) + _frame(b"b", 0, mask=True)
    up += _frame(b"y" * 70_000 if not fragment else b"y" * 200, 2, mask=True)
    _ask(sock, up)
    proxy.wait_for(lambda: proxy.connections[0].frames_to_server == 4)
    assert proxy.connections[0].bytes_to_server == len(up)


def test_cuts_after_so_many_messages_and_bytes(echo: Echo, closing: ExitStack) -> None:
    # What comes back is what was sent: an echoed 101 stands for a server's answer.
    messages = [_frame(b"one"), _frame(b"two"), _frame(b"three")]
    stream = ACCEPTED + b"".join(messages)
    for fault, wanted in (
        (Fault(kind="end", after_frames=0), len(ACCEPTED)),
        (Fault(kind="end", after_frames=2), len(ACCEPTED) + len(messages[0]) + len(messages[1])),
        (Fault(kind="end", after_frames=1, after_bytes=3), len(ACCEPTED) + len(messages[0]) + 3),
    ):
        proxy = _proxy(echo, closing, faults=[fault])
        sock = _dial(proxy, closing)
        sock.sendall(stream)
        assert _exactly(sock, len(stream)) == stream[:wanted], fault


def test_counts_frames_from_an_open_connection_on(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing)
    sock = _dial(proxy, closing)
    assert _ask(sock, ACCEPTED + _frame(b"one")) == ACCEPTED + _frame(b"one")
    proxy.strike(Fault(kind="end", after_frames=1))
    sock.sendall(_frame(b"two") + _frame(b"three"))
    assert _exactly(sock, 100) == _frame(b"two")


def test_counts_the_events_of_a_stream_over_http(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing, faults=[Fault(kind="end", after_frames=2)])
    sock = _dial(proxy, closing)
    stream = b"HTTP/1.1 200 OK\r\n\r\ndata: 1\n\ndata: 2\n\ndata: 3\n\n"
    sock.sendall(stream)
    assert _exactly(sock, len(stream)) == stream[: -len("data: 3\n\n")]
    assert proxy.connections[0].frames_to_client == 2


def test_speaks_tls_to_the_client(echo: Echo, closing: ExitStack) -> None:
    authority = trustme.CA()
    server_side, client_side = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server_side)
    authority.configure_trust(client_side)
    proxy = _proxy(echo, closing, ssl_context=server_side)
    assert proxy.base_url == f"https://127.0.0.1:{proxy.port}/v1"
    assert proxy.websocket_url == f"wss://127.0.0.1:{proxy.port}/v1/responses"
    with client_side.wrap_socket(_dial(proxy, closing), server_hostname="localhost") as sock:
        assert _ask(sock) == HELLO


def test_addresses_follow_the_server(closing: ExitStack) -> None:
    server = closing.enter_context(ResponsesServer())
    proxy = closing.enter_context(ChaosProxy(server))
    assert proxy.base_url == server.base_url.replace(str(server.port), str(proxy.port))
    assert proxy.websocket_url == server.websocket_url.replace(str(server.port), str(proxy.port))
    direct = ChaosProxy(server.websocket_url)
    assert direct.base_url.endswith("/v1")


def test_an_upstream_that_is_gone_resets_the_client(closing: ExitStack) -> None:
    server = ResponsesServer().start()
    proxy = closing.enter_context(ChaosProxy(server))
    server.stop()

    def try_it() -> None:
        _dial(proxy, closing).recv(1)

    with pytest.raises(ConnectionResetError):
        try_it()


@pytest.mark.parametrize(("upstream", "host"), [("http://example.com/v1", "127.0.0.1"), (None, "0.0.0.0")])
def test_stays_on_this_machine(upstream: str | None, host: str) -> None:
    with pytest.raises(ValueError, match="loopback"):
        ChaosProxy(upstream or "http://127.0.0.1:1/v1", host=host)


@pytest.mark.parametrize("wrong", [{"after_bytes": -1}, {"after_frames": -1}, {"length": -1}, {"rate": 0}])
def test_faults_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'refuse'; choose one of reset, end"):
        Fault(kind="refuse")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="forwards"):
        Fault(kind="slow", **wrong)


def _proxy_threads() -> int:
    return [thread.name for thread in threading.enumerate()].count("chaos-proxy")


def test_life_is_idempotent_and_leaves_nothing(echo: Echo, caplog: pytest.LogCaptureFixture) -> None:
    before = _proxy_threads()
    proxy = ChaosProxy(echo.url, faults=[Fault(kind="slow")])
    proxy.stop()
    proxy.cut()  # nothing to cut: no error
    for _ in range(2):
        assert proxy.start().start() is proxy
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as sock:
            sock.sendall(HELLO)
            proxy.wait_for(lambda: proxy.open == 1)
            proxy.freeze()
            proxy.stop()
            proxy.stop()
    assert proxy.open == 0
    assert _proxy_threads() == before
    assert caplog.records == []


def test_repr_tells_the_whole_state(echo: Echo, closing: ExitStack) -> None:
    proxy = ChaosProxy(echo.url)
    assert repr(proxy) == "<ChaosProxy [stopped | 0 open, 0 accepted | 0 bytes | 0 faults planned]>"
    closing.enter_context(proxy)
    proxy.plan(Fault(kind="reset"), Fault(kind="end"), connections=9)
    proxy.heal()
    proxy.plan(Fault(kind="slow", rate=1e6))
    _ask(_dial(proxy, closing))
    proxy.refuse()
    assert repr(proxy) == (
        f"<ChaosProxy [127.0.0.1:{proxy.port}, refusing | 1 open, 1 accepted | 50 bytes | 1 faults planned]>"
    )


def test_a_busy_port_is_an_error(closing: ExitStack, echo: Echo) -> None:
    proxy = _proxy(echo, closing)
    with pytest.raises(OSError, match=r"(?i)in use"):
        ChaosProxy(echo.url, port=proxy.port).start()


async def test_works_from_an_event_loop(echo: Echo) -> None:
    async with ChaosProxy(echo.url) as proxy:
        with ExitStack() as closing:
            assert _ask(_dial(proxy, closing)) == HELLO
    assert repr(proxy).startswith("<ChaosProxy [stopped")


def test_waiting_in_vain_is_an_error(echo: Echo, closing: ExitStack) -> None:
    proxy = _proxy(echo, closing)
    with pytest.raises(TimeoutError, match="not true within"):
        proxy.wait_for(lambda: proxy.dials, timeout=0.01)
