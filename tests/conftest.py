"""What every test gets: an environment without credentials, no network beyond loopback, a local server."""

from __future__ import annotations

import fnmatch
import gc
import ipaddress
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_ws_responses.testing import ResponsesServer

PROJECT = Path(__file__).resolve().parent.parent

# What the libraries under test read from the environment; matched without regard to case (http_proxy).
_CLEARED = ("OPENAI_*", "AZURE_OPENAI_*", "LANGCHAIN_*", "LANGSMITH_*", "*_PROXY")


def pytest_configure() -> None:
    """What a shell starts in the background ignores SIGINT, and so would every command that the tests interrupt."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What thousands of tests are made of stays to the end: no collection of garbage has to look at it again."""
    # Its plugin imports it in the end in any case, and it asks the collector who holds an object.
    import hypothesis

    assert hypothesis
    gc.collect()
    gc.freeze()


class NetworkAccessError(RuntimeError):
    """A test reached for the network.

    Not an `OSError`: code under test would take that for a lost connection and retry.
    """


class LoopbackGuard:
    """Refuses and remembers every attempt to leave this machine.

    Remembering matters because code under test may swallow the exception, or raise it in a thread of its own.
    """

    def __init__(self) -> None:
        self.attempts: list[str] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the guard in front of the socket calls through which Python code leaves the machine."""
        for name in ("connect", "connect_ex", "sendto"):
            monkeypatch.setattr(socket.socket, name, self._guarded(getattr(socket.socket, name)))
        getaddrinfo = socket.getaddrinfo

        def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
            self._check_name(host)
            return getaddrinfo(host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)

    def _guarded(self, original: Any) -> Any:
        def guarded(sock: socket.socket, *args: Any) -> Any:
            # The address comes last, after the data and the flags of sendto.
            if sock.family in (socket.AF_INET, socket.AF_INET6) and not _is_loopback(args[-1][0]):
                self._refuse(f"{args[-1][0]}:{args[-1][1]}")
            return original(sock, *args)

        return guarded

    def _check_name(self, host: Any) -> None:
        name = host.decode() if isinstance(host, bytes) else host
        if not name or name == "localhost" or _is_address(name):
            return
        if name.endswith(".invalid"):
            # Reserved never to resolve (RFC 6761): tests of failed look-ups use it, and need no resolver.
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        self._refuse(name)

    def _refuse(self, target: str) -> None:
        self.attempts.append(target)
        raise NetworkAccessError(f"tests may use loopback only, not {target}")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


@pytest.fixture(autouse=True)
def loopback_guard(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackGuard]:
    """No test leaves this machine, in whichever thread it tries."""
    guard = LoopbackGuard()
    guard.install(monkeypatch)
    yield guard
    if guard.attempts:
        pytest.fail(f"the test tried to reach {', '.join(guard.attempts)}; tests may use loopback only")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The developer's keys, proxies and tracing settings neither help nor disturb a test."""
    for name in list(os.environ):
        if any(fnmatch.fnmatchcase(name.upper(), pattern) for pattern in _CLEARED):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def http_without_kept_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """LangChain keeps its HTTP clients for the last 128 base URLs, and they keep connections of loops that have ended.

    The client of the 129th throws out the oldest, whose socket is then found unclosed in the middle of another test.
    """
    module = sys.modules.get("langchain_openai.chat_models._client_utils")
    limits = getattr(module, "_DEFAULT_CONNECTION_LIMITS", None)
    if limits is not None:
        none_kept = type(limits)(max_connections=limits.max_connections, max_keepalive_connections=0)
        monkeypatch.setattr(module, "_DEFAULT_CONNECTION_LIMITS", none_kept)


@pytest.fixture
def project() -> Path:
    """The root of the source tree."""
    return PROJECT


@pytest.fixture
def streams_dir() -> Path:
    """The recorded event streams, which live beside the project and not in it."""
    path = PROJECT.parent / "shared" / "streams"
    if not path.is_dir():
        pytest.skip("no recorded streams: ../shared/streams is missing beside the project root")
    return path


@pytest.fixture
def responses_server() -> Iterator[ResponsesServer]:
    """A started `ResponsesServer` that gives its default answers."""
    # Imported here: most tests of the lower floors need neither the server nor what it imports.
    from langchain_ws_responses.testing import ResponsesServer

    with ResponsesServer() as server:
        yield server


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hands what a worker noted of the fault matrix to the process that prints."""
    report = sys.modules.get("faults.report")
    output = getattr(session.config, "workeroutput", None)
    if report is not None and output is not None:
        output["fault_matrix"] = report.dump()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Takes what a worker noted."""
    dumped = getattr(node, "workeroutput", {}).get("fault_matrix")
    if dumped:
        from faults import report

        report.load(dumped)


def _standard_counts(stats: dict[str, list[Any]]) -> dict[str, int]:
    """Counts what became of LangChain's standard suites."""
    counts = {
        outcome: sum("test_standard_suites.py" in getattr(report, "nodeid", "") for report in reports)
        for outcome, reports in stats.items()
        if outcome in ("passed", "failed", "error", "skipped", "xfailed")
    }
    return {outcome: count for outcome, count in counts.items() if count}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the count of the standard suites and the table of the fault matrix."""
    counts = _standard_counts(terminalreporter.stats)
    if counts:
        terminalreporter.section("LangChain's standard suites")
        terminalreporter.write_line(", ".join(f"{count} {outcome}" for outcome, count in counts.items()))
    report = sys.modules.get("faults.report")
    table = [] if report is None else list(report.lines())
    if table:
        terminalreporter.section("fault matrix")
        for line in table:
            terminalreporter.write_line(line)
