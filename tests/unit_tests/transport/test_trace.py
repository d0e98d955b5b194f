"""`TraceFile`: what hooks hear, line by line, without anybody waiting for a disk."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import weakref
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
        _, told = process.communicate(timeout=100)
        assert (process.returncode, told) == (0, b"")
    lines = lines_of(path)
    sent = [line for line in lines if line["event"] == "turn_sent"]
    assert len({line["pid"] for line in lines}) == 4
    assert {line["lane"] for line in sent} == {str(line["pid"]) for line in sent}
    # Parents 1,000 each, children 500: what waited at the fork is written once, by the parent.
    assert len(sent) == 3000


def test_what_waits_is_written_where_no_thread_may_start_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As at the end of an interpreter from Python 3.12 on, when the first event came just before it.
    def refused(*_args: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    on_io(lambda: None)  # its thread runs
    with TraceFile(tmp_path / "t") as trace:
        with monkeypatch.context() as patch:
            patch.setattr(trace_module._thread, "start_new_thread", refused)
            tell(trace, TurnSent(turn="1"), TurnSent(turn="2"))
            assert trace.flush()
        assert [line.get("turn") for line in lines_of(tmp_path / "t")] == [None, "1", "2"]
        tell(trace, TurnSent(turn="3"))
    assert [line["turn"] for line in lines_of(tmp_path / "t") if line["event"] == "turn_sent"] == [
        "1",
        "2",
        "3",
    ]


POOL = """
import multiprocessing, os, sys
from langchain_ws_responses._transport.hooks import TurnSent
from langchain_ws_responses._transport.runtime import runtime
from langchain_ws_responses._transport.trace import TraceFile
trace = None
def tell(path):
    global trace
    trace = trace or TraceFile(path, max_waiting=100_000)
    for number in range(2000):
        runtime().call(trace, TurnSent(turn=str(number), reason="x" * 200))
if __name__ == "__main__":
    if sys.argv[2] == "fork":
        tell(sys.argv[1])  # so that the child inherits the trace
    child = multiprocessing.get_context(sys.argv[2]).Process(target=tell, args=[sys.argv[1]])
    child.start()
    child.join()
    sys.exit(child.exitcode)
"""


@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_children_of_multiprocessing_write_what_waits_before_they_leave(tmp_path: Path, how: str) -> None:
    if how not in multiprocessing.get_all_start_methods():
        pytest.skip("this system has no fork")
    path, program = tmp_path / "t", tmp_path / "program.py"
    program.write_text(POOL)
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(program), str(path), how]
    done = subprocess.run(command, capture_output=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    sent = [line for line in lines_of(path) if line["event"] == "turn_sent"]
    assert len(sent) == (4000 if how == "fork" else 2000)


# -- size ----------------------------------------

rotates = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not rename a file that is open")


@rotates
def test_a_file_that_is_full_is_put_aside_and_the_one_before_it_goes(tmp_path: Path) -> None:
    path = tmp_path / "t"
    with TraceFile(path, max_bytes=2000) as trace:
        for number in range(30):
            tell(trace, TurnSent(turn=str(number), reason="x" * 300))
            assert trace.flush()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["t", "t.1"]
    old, new = lines_of(tmp_path / "t.1"), lines_of(path)
    # Each begins with a line that says what it is, and nothing is lost between the two.
    assert (old[0]["event"], new[0]["event"]) == ("trace", "trace")
    turns = [int(line["turn"]) for line in old + new if line["event"] == "turn_sent"]
    assert turns == list(range(turns[0], 30))
    assert 2000 <= (tmp_path / "t.1").stat().st_size < 3000
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("limit", ["x", 1.5, True, 0, -1])
def test_a_limit_that_is_none_is_refused_before_a_file_is_made(tmp_path: Path, limit: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"max_bytes(=-?\d)? must be"):
        TraceFile(tmp_path / "t", max_bytes=limit)
    assert not (tmp_path / "t").exists()


@rotates
def test_processes_that_share_a_file_put_it_aside_once(tmp_path: Path) -> None:
    path = tmp_path / "t"
    with TraceFile(path, max_bytes=2000) as one, TraceFile(path, max_bytes=2000) as other:
        tell(other, TurnSent(turn="first"))
        assert other.flush()
        tell(one, TurnSent(turn="long", reason="x" * 2000))
        assert one.flush()
        tell(one, TurnSent(turn="after"))
        assert one.flush()
        tell(other, TurnSent(turn="too"))  # its file has another name by now
        assert other.flush()
    names = [[line.get("turn") for line in lines_of(one)] for one in (tmp_path / "t.1", path)]
    assert names == [[None, "first", None, "long"], [None, "after", None, "too"]]


@rotates
def test_a_file_that_was_taken_away_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "t"
    with TraceFile(path) as trace:
        tell(trace, TurnSent(turn="1"))
        assert trace.flush()
        path.rename(tmp_path / "elsewhere")
        tell(trace, TurnSent(turn="2"))
        assert trace.flush()
    assert [line.get("turn") for line in lines_of(path)] == [None, "2"]


@pytest.mark.parametrize(
    ("value", "limit", "warned"),
    [("", 100_000_000, 0), ("5000", 5000, 0), ("0", None, 0), ("1 MB", 100_000_000, 1)],
)
def test_the_environment_sets_the_limit(
    value: str, limit: int | None, warned: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setenv(ENV, str(tmp_path / "t"))
    monkeypatch.setenv(f"{ENV}_MAX_BYTES", value)
    monkeypatch.setattr(trace_module, "_of_environment", {})
    asked: list[int | None] = []

    class Asked(TraceFile):
        def __init__(self, *args: Any, max_bytes: int | None, **more: Any) -> None:
            asked.append(max_bytes)
            super().__init__(*args, max_bytes=max_bytes, **more)

    monkeypatch.setattr(trace_module, "TraceFile", Asked)
    [trace] = trace_module.trace_of_environment()
    trace.close()
    assert asked == [limit]
    assert len(caplog.records) == warned


def test_what_comes_after_the_end_is_ignored(tmp_path: Path) -> None:
    trace = TraceFile(tmp_path / "t")
    trace.close()
    trace.close()
    tell(trace, TurnSent())
    assert (tmp_path / "t").read_bytes() == b""
    assert repr(trace) == "<TraceFile t, 0 dropped>"


def test_what_is_closed_is_written_and_nobody_waits_for_it(tmp_path: Path) -> None:
    with TraceFile(tmp_path / "t") as trace:
        tell(trace, TurnSent())
    assert trace.flush(0)


def test_what_a_stuck_disk_kept_from_being_written_is_not_said_to_be(
    tmp_path: Path, stuck_disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, reached = stuck_disk
    monkeypatch.setattr(trace_module, "_CLOSE_SECONDS", 0.0)
    with TraceFile(tmp_path / "t") as trace:
        tell(trace, TurnSent(turn="1"))
        assert reached.wait(10)
    assert not trace.flush(0)
    go.set()
    assert trace.flush(10)
    trace._file.close()
    assert [line.get("turn") for line in lines_of(tmp_path / "t")] == [None, "1"]


def test_a_child_of_multiprocessing_keeps_no_closed_trace(tmp_path: Path) -> None:
    trace = TraceFile(tmp_path / "t")
    trace._flush_at_exit_of_child()  # as there
    trace.close()
    gone = weakref.ref(trace)
    del trace
    gc.collect()
    assert gone() is None
