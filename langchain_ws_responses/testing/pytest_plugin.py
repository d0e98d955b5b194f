"""The pytest plugin: `responses_server`, `chaos_proxy` and `ws_cassette`.

pytest loads this module at every start where the package is installed, so it imports nothing before a fixture is used.
The fixtures are plain ones, for sync and async tests alike, under any async plugin; everything that they start runs in
threads of its own.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from langchain_ws_responses.testing import ChaosProxy, RecordingServer, ReplayServer, ResponsesServer

_PASSED = pytest.StashKey[bool]()
# Read by openai and langchain-openai; they would lead past the local server.
_ELSEWHERE = ("OPENAI_API_BASE", "OPENAI_PROXY")
_LOOPBACK = "127.0.0.1,localhost"
_MARKERS = (
    "responses_server(*answers, **options): the script and the options of the `ResponsesServer` of the fixture "
    "`responses_server`",
    "chaos_proxy(*faults): faults of every connection through the fixture `chaos_proxy`",
    "ws_cassette(name, *, record_mode, upstream, match_on, allow_unused, scrubbers, secrets, record_headers): the file "
    "of the fixture `ws_cassette`, and what is done with it",
)
_MODES = ("none", "once", "all")
_OF_A_REPLAY = ("match_on", "scrubbers", "allow_unused")
_OF_A_RECORDING = ("upstream", "scrubbers", "secrets", "record_headers")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the option and the setting for cassettes."""
    words = (
        "what the fixture ws_cassette does: none (replay only), once (record where there is no cassette), "
        "all (record anew)"
    )
    group = parser.getgroup("langchain-ws-responses")
    group.addoption("--ws-record-mode", choices=_MODES, help=f"{words}; the default is none")
    parser.addini("ws_record_mode", f"{words}; where CI is set, only --ws-record-mode counts", default="none")


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
    args, options = (marker.args, marker.kwargs) if marker is not None else ((), {})
    try:
        server = ResponsesServer(*args, **options)
    except TypeError as exc:
        text = f"responses_server: the marker does not fit ResponsesServer: {exc}."
        raise pytest.fail.Exception(text, pytrace=False) from None
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
            raise _complaint("responses_server", exc) from exc.__cause__


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


@pytest.fixture
def ws_cassette_dir(request: pytest.FixtureRequest) -> Path:
    """The folder of a test's cassettes, `cassettes/NAME_OF_THE_MODULE` beside it; override it for another one."""
    return request.path.parent / "cassettes" / request.path.stem


@pytest.fixture
def ws_cassette_config() -> dict[str, Any]:
    """Options of every cassette, such as `scrubbers`, those of the marker; override it to set some."""
    return {}


@pytest.fixture
def ws_cassette(
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
    ws_cassette_dir: Path,
    ws_cassette_config: dict[str, Any],
) -> Iterator[ReplayServer | RecordingServer]:
    """An endpoint that replays this test's cassette, or records it where the record mode says so.

    `OPENAI_BASE_URL` leads to it. Recording needs the real `OPENAI_API_KEY`; the endpoint is the one that
    `OPENAI_BASE_URL` named before, or OpenAI's. A recording is kept after a test that passed.
    """
    from langchain_ws_responses.testing import CassetteError, RecordingServer, ReplayServer, set_testing

    marker = request.node.get_closest_marker("ws_cassette")
    args, marked = (marker.args, marker.kwargs) if marker is not None else ((), {})
    options = {**ws_cassette_config, **marked}
    _check_options(options)
    mode = _record_mode(request.config, options)
    path = ws_cassette_dir / (args[0] if args else f"{_file_name(request.node)}.jsonl")
    server: ReplayServer | RecordingServer
    if mode == "all" or (mode == "once" and not path.exists()):
        chosen = {name: value for name, value in options.items() if name in _OF_A_RECORDING}
        chosen.setdefault("upstream", os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1")
        key = os.environ.get("OPENAI_API_KEY")
        if not key:
            pytest.fail(f"ws_cassette: recording {path} needs OPENAI_API_KEY.", pytrace=False)
        server = RecordingServer(path, api_key=key, **chosen)
    else:
        chosen = {name: value for name, value in options.items() if name in _OF_A_REPLAY}
        try:
            server = ReplayServer(path, **chosen)
        except CassetteError as exc:
            hint = "" if path.exists() else " Run pytest with --ws-record-mode=once and a key."
            raise pytest.fail.Exception(f"ws_cassette: {exc}{hint}", pytrace=False) from None
        except (TypeError, ValueError) as exc:
            raise pytest.fail.Exception(f"ws_cassette: {exc}.", pytrace=False) from None
    with set_testing(not server.recording):
        server.start()
        try:
            point_at(server.base_url, monkeypatch)
            yield server
        finally:
            server.stop()
    if request.node.stash.get(_PASSED, True):
        try:
            server.assert_exhausted()
            if isinstance(server, RecordingServer):
                server.save()
        except (AssertionError, CassetteError) as exc:
            raise _complaint("ws_cassette", exc) from exc.__cause__


def _complaint(fixture: str, exc: Exception) -> BaseException:
    """What pytest prints, once and without a traceback; with one where something was raised in the server."""
    return pytest.fail.Exception(f"{fixture}: {exc}", pytrace=exc.__cause__ is not None)


def _check_options(options: dict[str, Any]) -> None:
    known = {"record_mode", *_OF_A_REPLAY, *_OF_A_RECORDING}
    unknown = sorted(set(options) - known)
    if unknown:
        pytest.fail(
            f"ws_cassette: unknown option {unknown[0]!r}; there are {', '.join(sorted(known))}.",
            pytrace=False,
        )


def _record_mode(config: pytest.Config, options: dict[str, Any]) -> str:
    """The command line's, then none where CI is set, then the marker's, then the setting."""
    given: str | None = config.getoption("--ws-record-mode")
    if given is None and os.environ.get("CI", "").lower() not in ("", "0", "false"):
        given = "none"
    mode = given or options.get("record_mode") or config.getini("ws_record_mode")
    if mode not in _MODES:
        pytest.fail(
            f"ws_cassette: unknown record mode {mode!r}; use one of {', '.join(_MODES)}.", pytrace=False
        )
    return str(mode)


def _file_name(node: pytest.Item) -> str:
    owner = getattr(node, "cls", None)
    name = node.name if owner is None else f"{owner.__name__}.{node.name}"
    return re.sub(r"[^\w.\-\[\]]", "-", name)


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
