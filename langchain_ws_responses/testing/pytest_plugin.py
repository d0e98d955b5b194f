"""The pytest plugin: `responses_server` and `chaos_proxy`.

pytest loads this module at every start where the package is installed, so it imports nothing before a fixture is used.
The fixtures are plain ones, for sync and async tests alike, under any async plugin; everything that they start runs in
threads of its own.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from langchain_ws_responses.testing import ChaosProxy, ResponsesServer

_PASSED = pytest.StashKey[bool]()
# Read by openai and langchain-openai; they would lead past the local server.
_ELSEWHERE = ("OPENAI_API_BASE", "OPENAI_PROXY")
_LOOPBACK = "127.0.0.1,localhost"
_MARKERS = (
    "responses_server(*answers, **options): the script and the options of the `ResponsesServer` of the fixture "
    "`responses_server`",
    "chaos_proxy(*faults): faults of every connection through the fixture `chaos_proxy`",
)


def pytest_configure(config: pytest.Config) -> None:
    """Registers the markers."""
    for marker in _MARKERS:
        config.addinivalue_line("markers", marker)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Notes whether a test passed: beside the failure itself, what was left over then is only noise."""
    report = yield
    if call.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.fixture
def responses_server(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ResponsesServer]:
    """A started `ResponsesServer` of this test's own, which answers only what the test has scripted.

    `OPENAI_BASE_URL` and `OPENAI_API_KEY` lead to it, so that models need no arguments and nothing reaches the real
    service. After a test that passed, answers that were never asked for and requests without an answer are errors.
    Back-off is off meanwhile. Options come from the marker:
    `@pytest.mark.responses_server("first answer", lanes=False)`.
    """
    from langchain_ws_responses.testing import ResponsesServer, set_testing

    marker = request.node.get_closest_marker("responses_server")
    server = ResponsesServer(*marker.args, **marker.kwargs) if marker is not None else ResponsesServer()
    server.add()  # no script is a script, too
    with set_testing(True):
        server.start()
        try:
            point_at(server.base_url, monkeypatch)
            yield server
        finally:
            server.stop()
    if request.node.stash.get(_PASSED, True):
        try:
            server.assert_all_answered()
            server.assert_exhausted()
        except AssertionError as exc:
            # With its cause, if something was raised in the server.
            pytest.fail(f"responses_server: {exc}", pytrace=exc.__cause__ is not None)


@pytest.fixture
def chaos_proxy(
    request: pytest.FixtureRequest, responses_server: ResponsesServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ChaosProxy]:
    """A started `ChaosProxy` in front of `responses_server`; `OPENAI_BASE_URL` leads to it."""
    from langchain_ws_responses.testing import ChaosProxy

    marker = request.node.get_closest_marker("chaos_proxy")
    with ChaosProxy(responses_server, faults=() if marker is None else marker.args) as proxy:
        point_at(proxy.base_url, monkeypatch)
        yield proxy


def point_at(base_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leads clients that read the environment to a local endpoint, past proxies and without a real key."""
    monkeypatch.setenv("OPENAI_BASE_URL", base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    for name in _ELSEWHERE:
        monkeypatch.delenv(name, raising=False)
    for name in ("NO_PROXY", "no_proxy"):
        others = os.environ.get(name, "")
        if not others.endswith(_LOOPBACK):
            monkeypatch.setenv(name, f"{others},{_LOOPBACK}" if others else _LOOPBACK)
