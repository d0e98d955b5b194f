"""`TraceFile`: what hooks hear, line by line, without anybody waiting for a disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transport_kit import endpoint_of, on_io, run

from langchain_ws_responses import TraceFile
from langchain_ws_responses._transport import trace as trace_module
from langchain_ws_responses._transport.hooks import (
    ConnectionOpened,
    TransportEvent,
    TurnContent,
    TurnEnded,
    TurnSent,
)
from langchain_ws_responses._transport.manager import ConnectionManager
from langchain_ws_responses._types import FailureKind, Phase
from langchain_ws_responses.testing import ResponsesServer

ENV = "LANGCHAIN_WS_RESPONSES_TRACE"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def tell(trace: TraceFile, *events: TransportEvent) -> None:
    """As a manager does: on the I/O thread."""
    on_io(lambda: [trace(event) for event in events])


def test_a_line_holds_all_fields_of_an_event(tmp_path: Path) -> None:
    event = TurnEnded(at=1.25, manager="m1", connection="c1", endpoint="ws://h/v1/responses", turn="t", lane="a",
                      events=3, bytes=10, seconds=0.5, first_event=0.1234567, longest_gap=0.25,
                      failure=FailureKind.SERVER_ERROR, status=500, phase=Phase.STREAMING)  # fmt: skip
    with TraceFile(tmp_path / "t") as trace:
        tell(trace, event)
    head, line = lines_of(tmp_path / "t")
    assert (head["v"], head["event"], head["pid"]) == (1, "trace", os.getpid())
    assert line == {
        "v": 1, "event": "turn_ended", "at": 1.25, "pid": os.getpid(), "manager": "m1", "connection": "c1",
        "endpoint": "ws://h/v1/responses", "turn": "t", "attempt": 1, "kind": "websocket", "lane": "a", "events": 3,
        "bytes": 10, "seconds": 0.5, "first_event": 0.123457, "longest_gap": 0.25, "failure": "server_error",
        "status": 500, "phase": "streaming",
    }  # fmt: skip


def contents(path: Path) -> list[dict[str, Any]]:
    return [line for line in lines_of(path) if line["event"] == "turn_content"]


def test_content_is_written_only_where_it_is_asked_for(tmp_path: Path) -> None:
    heard: list[TransportEvent] = []
    with (
        ResponsesServer("the answer") as server,
        TraceFile(tmp_path / "plain") as plain,
        TraceFile(tmp_path / "full", content=True) as full,
        ConnectionManager(hooks=[plain, full, heard.append]) as manager,
    ):
        response_id = run(manager, endpoint_of(server), "the question").id
        [request] = server.requests
    said = contents(tmp_path / "full")
    assert [(one["turn"], one["attempt"]) for one in said] == [("", 1), ("", 1)]
    assert said[0]["request"]["input"] == request.body["input"] == "the question"
    assert said[1]["answer"]["response"]["id"] == response_id
    assert "the answer" in json.dumps(said[1]["answer"])
    assert b"authorization" not in (tmp_path / "full").read_bytes().lower()
    assert contents(tmp_path / "plain") == []
    assert "turn_content" not in {trace_module.EVENTS[type(event)] for event in heard}


def test_the_environment_has_a_second_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, str(tmp_path / "t"))
    monkeypatch.setattr(trace_module, "_of_environment", {})
    monkeypatch.setenv(f"{ENV}_CONTENT", "1")
    with ResponsesServer("the answer") as server, ConnectionManager() as manager:
        assert run(manager, endpoint_of(server)).id
    [trace] = trace_module._of_environment.values()
    trace.close()
    assert [sorted(one.keys() & {"request", "answer"}) for one in contents(tmp_path / "t")] == [
        ["request"], ["answer"],
    ]  # fmt: skip


def test_content_waits_in_small_numbers_only(tmp_path: Path, stuck_disk: Any) -> None:
    go, reached = stuck_disk
    trace = TraceFile(tmp_path / "t", content=True)
    tell(trace, TurnSent())
    assert reached.wait(10)
    tell(trace, *(TurnContent(request=b"{}") for _ in range(100)))
    assert trace.dropped == 36
    tell(trace, TurnSent())
    assert trace.dropped == 36
    go.set()
    trace.close()


def test_every_event_has_a_word() -> None:
    queue, kinds = [TransportEvent], set()
    while queue:
        kind = queue.pop()
        queue += kind.__subclasses__()
        kinds |= {kind} if not kind.__name__.startswith("_") and kind is not TransportEvent else set()
    assert set(trace_module.EVENTS) == kinds


def test_every_field_is_documented() -> None:
    page = Path(__file__, "../../../../docs/how-to/inspect.md").resolve().read_text(encoding="utf-8")
    for kind, word in trace_module.EVENTS.items():
        assert f"`{word}`" in page
        assert [one.name for one in fields(kind) if f"`{one.name}`" not in page] == [], word


def test_a_managers_turns_are_written(tmp_path: Path) -> None:
    with (
        ResponsesServer() as server,
        TraceFile(tmp_path / "t") as trace,
        ConnectionManager(hooks=[trace]) as manager,
    ):
        assert run(manager, endpoint_of(server)).id
    events = [line["event"] for line in lines_of(tmp_path / "t")]
    assert events == [
        "trace", "connection_opened", "turn_sent", "turn_ended", "connection_retired", "connection_closed",
    ]  # fmt: skip


@pytest.fixture
def stuck_disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A disk that takes nothing until it is told to."""
    go, reached, real = threading.Event(), threading.Event(), os.write

    def write(file: int, data: bytes) -> int:
        reached.set()
        assert go.wait(10)
        return real(file, data)

    monkeypatch.setattr(trace_module.os, "write", write)
    yield go, reached
    go.set()


def test_nobody_waits_for_a_slow_disk(tmp_path: Path, stuck_disk: Any) -> None:
    go, reached = stuck_disk
    trace = TraceFile(tmp_path / "t", max_waiting=3)
    with ResponsesServer() as server, ConnectionManager(hooks=[trace]) as manager:
        tell(trace, ConnectionOpened())
        assert reached.wait(10)
        for _ in range(4):  # the disk still has not taken a byte
            assert run(manager, endpoint_of(server)).id
        assert not go.is_set()
        assert trace.dropped >= 4
        dropped = trace.dropped
    go.set()
    trace.close()
    lines = lines_of(tmp_path / "t")
    told = sum(line["count"] for line in lines if line["event"] == "dropped")
    assert told == trace.dropped >= dropped
    assert len([line for line in lines if line["event"] not in ("dropped", "trace")]) == 4


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="this system has no /dev/full, a disk that is full"
)
def test_a_full_disk_is_told_once_and_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    with (
        TraceFile("/dev/full") as trace,
        ResponsesServer() as server,
        ConnectionManager(hooks=[trace]) as manager,
    ):
        assert run(manager, endpoint_of(server)).id
        assert trace.flush()
        assert run(manager, endpoint_of(server)).id
        assert trace.flush()
    assert [record.getMessage() for record in caplog.records] == [
        "the trace full cannot be written: No space left on device"
    ]


def test_a_file_that_cannot_be_opened_is_told_where_it_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        TraceFile(tmp_path / "nowhere" / "t")


def test_the_environment_names_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENV, str(tmp_path / "t"))
    monkeypatch.setattr(trace_module, "_of_environment", {})
    with ResponsesServer() as server:
        for _ in range(2):  # two managers, one file
            with ConnectionManager() as manager:
                assert run(manager, endpoint_of(server)).id
    [trace] = trace_module._of_environment.values()
    trace.close()
    lines = lines_of(tmp_path / "t")
    assert len({line["manager"] for line in lines if "manager" in line}) == 2
    assert [line["event"] for line in lines].count("trace") == 1
    assert (tmp_path / "t").stat().st_mode & 0o077 == 0


def test_a_file_that_the_environment_names_in_vain_hurts_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(ENV, str(tmp_path / "nowhere" / "t"))
    monkeypatch.setattr(trace_module, "_of_environment", {})
    with ResponsesServer() as server, ConnectionManager() as manager, ConnectionManager():
        assert run(manager, endpoint_of(server)).id
        assert manager.hooks == ()
    assert [record.getMessage() for record in caplog.records] == [
        f"{ENV} names a file that cannot be opened: No such file or directory"
    ]


def test_without_it_nothing_is_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV, raising=False)
    assert ConnectionManager().hooks == ()


CHILDREN = """
import os, sys
from langchain_ws_responses._transport.hooks import TurnSent
from langchain_ws_responses._transport.runtime import runtime
from langchain_ws_responses._transport.trace import TraceFile
trace = TraceFile(sys.argv[1], max_waiting=100_000)
def tell(count):
    for number in range(count):
        runtime().call(trace, TurnSent(turn=str(number), reason="x" * 200, lane=str(os.getpid())))
tell(500)
child = os.fork()
if child == 0:
    tell(500)
    sys.exit(0)
tell(500)
_, status = os.waitpid(child, 0)
sys.exit(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_processes_and_forks_share_a_file_and_exit_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t"
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", CHILDREN, str(path)]
    started = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(2)]
    for process in started:
        _, told = process.communicate(timeout=50)
        assert (process.returncode, told) == (0, b"")
    lines = lines_of(path)
    sent = [line for line in lines if line["event"] == "turn_sent"]
    assert len({line["pid"] for line in lines}) == 4
    assert {line["lane"] for line in sent} == {str(line["pid"]) for line in sent}
    # Parents 1,000 each, children 500: what waited at the fork is written once, by the parent.
    assert len(sent) == 3000


def test_what_comes_after_the_end_is_ignored(tmp_path: Path) -> None:
    trace = TraceFile(tmp_path / "t")
    trace.close()
    trace.close()
    tell(trace, TurnSent())
    assert (tmp_path / "t").read_bytes() == b""
    assert repr(trace) == "<TraceFile t, 0 dropped>"
