"""The guards that conftest.py puts around every test."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
import threading
import warnings
from typing import TYPE_CHECKING

import pytest
from langchain_openai import ChatOpenAI
from langchain_openai.chat_models import _client_utils

from langchain_ws_responses.testing import ResponsesServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import LoopbackGuard

# TEST-NET-1 (RFC 5737): belongs to nobody, so that a broken guard still reaches nobody.
OUTSIDE = "192.0.2.1"
DIRTY = ("OPENAI_API_KEY", "LANGSMITH_TRACING", "LANGCHAIN_WS_RESPONSES_TRANSPORT", "https_proxy", "NO_PROXY")


def test_connections_beyond_loopback_are_refused_and_remembered(loopback_guard: LoopbackGuard) -> None:
    with socket.socket() as sock, pytest.raises(RuntimeError, match="loopback only"):
        sock.connect((OUTSIDE, 443))
    with socket.socket(type=socket.SOCK_DGRAM) as sock, pytest.raises(RuntimeError, match="loopback only"):
        sock.sendto(b"", (OUTSIDE, 53))
    with pytest.raises(RuntimeError, match="loopback only"):
        socket.getaddrinfo("api.example.com", 443)
    assert loopback_guard.attempts == [f"{OUTSIDE}:443", f"{OUTSIDE}:53", "api.example.com"]
    loopback_guard.attempts.clear()


def test_an_attempt_in_another_thread_is_remembered(loopback_guard: LoopbackGuard) -> None:
    def reach_out() -> None:
        with socket.socket() as sock, pytest.raises(RuntimeError, match="loopback only"):
            sock.connect((OUTSIDE, 443))

    thread = threading.Thread(target=reach_out)
    thread.start()
    thread.join()
    assert loopback_guard.attempts == [f"{OUTSIDE}:443"]
    loopback_guard.attempts.clear()


def test_loopback_and_names_that_never_resolve_are_not_attempts(loopback_guard: LoopbackGuard) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(("localhost", server.getsockname()[1])) as client,
    ):
        assert client.getpeername() == server.getsockname()
    with pytest.raises(socket.gaierror):
        socket.getaddrinfo("nowhere.invalid", 443)
    assert loopback_guard.attempts == []


def test_the_http_clients_that_langchain_keeps_hold_no_socket_of_a_loop_that_has_ended() -> None:
    with ResponsesServer("Fine.") as server:
        model = ChatOpenAI(model="m", api_key="sk-x", base_url=server.base_url, use_responses_api=True)
        assert asyncio.run(model.ainvoke("Hello")).text == "Fine."
        del model
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("ignore")
            gc.collect()  # what others have left
            warnings.simplefilter("always")
            _client_utils._cached_async_httpx_client.cache_clear()
            gc.collect()
    assert [str(one.message) for one in found] == []


@pytest.fixture(scope="module", autouse=True)
def _dirty_environment() -> Iterator[None]:
    """A developer's shell: set before the function-scoped fixture that cleans it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in DIRTY:
            monkeypatch.setenv(name, "from the developer's shell")
        yield


def test_credentials_proxies_and_tracing_are_not_in_the_environment() -> None:
    assert [name for name in DIRTY if name in os.environ] == []
