"""`inspect`: a trace as text, as data and as a page, and what it says to files that are none."""

from __future__ import annotations

import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from langchain_ws_responses._cli import main
from langchain_ws_responses._inspect.axis import Axis
from langchain_ws_responses._inspect.reading import read
from tools.show_trace import record

if TYPE_CHECKING:
    from collections.abc import Callable

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&\x1b[2J\ud800"


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run with a warm-up, a fork, a full send, resends and a fallback; what its answers say of themselves."""
    path = tmp_path_factory.mktemp("trace") / "trace.jsonl"
    return path, record(path)


def inspect(capsys: pytest.CaptureFixture[str], *args: Any) -> tuple[int, str, str]:
    code = main(["inspect", *map(str, args)])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, said.out, said.err


def lines(*events: dict[str, Any]) -> str:
    return "".join(json.dumps({"v": 1, "pid": 7, **event}) + "\n" for event in events)


def sent(at: float, turn: str, /, **fields: Any) -> dict[str, Any]:
    return {
        "event": "turn_sent", "at": at, "manager": "m", "connection": "c1", "endpoint": "ws://h/v1", "turn": turn,
        "attempt": 1, "kind": "websocket", "lane": "a", "mode": "delta", "reason": "chain", "items": 1, "bytes": 100,
        "reused": True, "waited": 0.0, "model": "gpt-5.5", "node": "", **fields,
    }  # fmt: skip


def ended(at: float, turn: str, /, **fields: Any) -> dict[str, Any]:
    return {
        "event": "turn_ended", "at": at, "manager": "m", "connection": "c1", "endpoint": "ws://h/v1", "turn": turn,
        "attempt": 1, "kind": "websocket", "lane": "a", "events": 5, "bytes": 1000, "seconds": 1.0,
        "first_event": 0.25, "longest_gap": 0.125, "failure": None, "status": None, "phase": "terminal", **fields,
    }  # fmt: skip


def axis_of(path: Path, turns: int, pause: float) -> Axis:
    """A line with quick turns on it, one after the other."""
    at = [11.0 + number * pause for number in range(turns)]
    path.write_text(
        "".join(lines(sent(one, f"t{one}"), ended(one + 0.001, f"t{one}", seconds=0.001)) for one in at)
    )
    return Axis(read(path), 150.0, 915.0)


def steps(function: Callable[[], Any]) -> int:
    """How many lines of Python a call runs through, those of loops each time."""
    found = 0

    def count(_frame: Any, event: str, _arg: Any) -> Any:
        nonlocal found
        found += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        function()
    finally:
        sys.settrace(before)
    return found


# -- what it says ----------------------------------------


def test_a_run_as_data_says_what_its_answers_say(capsys: Any, recorded: Any) -> None:
    path, told = recorded
    code, out, _ = inspect(capsys, path, "--json")
    assert code == 0
    data = json.loads(out)
    found = [
        (one["kind"], one["mode"], one["reason"], one["items"], one["bytes"]) for one in data["requests"]
    ]
    for what, metadata in told.items():
        names = ("kind", "mode", "reason", "items", "bytes")
        assert tuple(metadata[name] for name in names) in found, what
    totals = data["totals"]
    assert (totals["warmup"], totals["full"], totals["resend"], totals["http"]) == (1, 1, 2, 1)
    assert totals["full_reasons"] == {
        "system_changed": 1, "previous_response_not_found": 1, "connection_lost": 1,
    }  # fmt: skip
    assert (totals["recoveries"], totals["failures"], totals["failed_dials"]) == (3, 0, 1)
    assert any(one["fork"] for one in data["requests"])
    assert [one["why"] for one in data["connections"]] == ["lost", "drained"]


def test_a_run_as_text_says_it_lane_by_lane(capsys: Any, recorded: Any) -> None:
    code, out, _ = inspect(capsys, recorded[0])
    assert code == 0
    assert re.search(
        r"connection c1 to ws://127\.0\.0\.1:\d+/v1/responses, open at .*\(lost, 1 turn lost\)", out
    )
    assert re.search(r"resend +previous_response_not_found +10 +7\.\d kB", out)
    assert "failed: server_error (400), then sent again in full: previous_response_not_found" in out
    assert re.search(r"over HTTP\n.* HTTP +chain", out)
    assert "handshake_rejected (426), given up for" in out
    assert "1 full, 1 warm-up, 2 resends, 1 over HTTP" in out


def test_one_turn_to_the_letter(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "t"
    opened = {"event": "connection_opened", "at": 10.5, "manager": "m", "connection": "c1", "endpoint": "ws://h/v1",
              "seconds": 0.5, "attempts": 2}  # fmt: skip
    path.write_text(lines(opened, sent(11.0, "t1"), ended(12.0, "t1")))
    code, out, err = inspect(capsys, path)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "       when  sent as  because                      items    bytes   first     gap      all",
        "",
        "connection c1 to ws://h/v1, open at +0.500s after 2 dials in 500 ms",
        "  lane a",
        "    +1.000s  delta    chain                            1    100 B  250 ms  125 ms   1.00 s",
        "",
        "1 turn in 2.00 s: 1 delta, 0 full, 0 warm-ups, 0 resends, 0 over HTTP",
        "100 B sent, 1.0 kB received over 1 connection and 1 lane; first event after 250 ms (median), longest gap "
        "125 ms",
    ]


def test_processes_are_kept_apart(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "t"
    one, other = sent(1.0, "t1"), {**sent(1.5, "t2"), "pid": 8}
    path.write_text(lines(one, other))
    code, out, _ = inspect(capsys, path)
    assert code == 0
    assert "connection c1 of process 7 to" in out
    assert "connection c1 of process 8 to" in out
    assert out.count("no end in the trace") == 2


def test_a_turn_that_was_sent_twice_is_one_turn_and_two_requests(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "t"
    again = {
        "event": "turn_retrying", "at": 12.0, "turn": "t1", "attempt": 1, "action": "full",
        "reason": "connection_lost", "failure": "connection_lost", "wait": 0.0, "kind": "websocket",
    }  # fmt: skip
    path.write_text(
        lines(
            sent(11.0, "t1"),
            ended(12.0, "t1", failure="connection_lost"),
            again,
            sent(12.0, "t1", attempt=2),
            ended(13.0, "t1", attempt=2),
        )
    )
    _, out, _ = inspect(capsys, path)
    assert "1 turn, 2 requests in 2.00 s: 1 delta, 0 full, 0 warm-ups, 1 resend, 0 over HTTP" in out
    inspect(capsys, path, "--html", tmp_path / "o.html")
    assert "<dt>turns, requests</dt><dd>1, 2</dd>" in (tmp_path / "o.html").read_text(encoding="utf-8")


# -- bad input ----------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot read {path}: No such file or directory."),
        (b"", "{path} is empty: nothing has been traced yet."),
        (b"\n \n", "{path} is empty"),
        (b"hello\nworld\n", "{path} is not a trace: none of its lines could be read."),
        (b"\x89PNG\r\n\x1a\n\x00\xff", "{path} is not a trace"),
        (b'{"a": 1}\n[]\n1\nnull\n', "{path} is not a trace"),
        (b"[" * 100_000, "{path} is not a trace"),
        (b'{"v": 2, "event": "turn_sent", "at": 1, "pid": 1}\n', "{path} was written by a newer version"),
    ],
)
@pytest.mark.parametrize("output", ["text", "json", "html"])
def test_a_file_that_is_no_trace(
    capsys: Any, tmp_path: Path, content: bytes | None, said: str, output: str
) -> None:
    path = tmp_path / "t"
    if content is not None:
        path.write_bytes(content)
    more = {"text": [], "json": ["--json"], "html": ["--html", tmp_path / "out.html"]}[output]
    code, out, err = inspect(capsys, path, *more)
    assert (code, out) == (2, "")
    assert err.startswith("error: " + said.format(path=path))
    assert not (tmp_path / "out.html").exists()


def test_a_folder_is_no_trace(capsys: Any, tmp_path: Path) -> None:
    code, _, err = inspect(capsys, tmp_path)
    assert code == 2
    assert err.startswith(
        f"error: cannot read {tmp_path}: Is a directory. Name the file that LANGCHAIN_WS_RES"
    )


def test_broken_lines_are_skipped_and_counted(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "t"
    bad = [
        '{"v": 1, "event": "turn_sent", "at": 11.0',
        json.dumps(sent(11.0, "t2", bytes="many")),
        json.dumps({"v": 1, "pid": 7, **sent(float("nan"), "t3")}),
        json.dumps({"v": 1, "pid": 7, **ended(1e400, "t3")}),
        json.dumps({"v": 1, "pid": 7, "event": "turn_sent", "at": 1.0}),
        json.dumps({"v": 1, "pid": 7, **sent(1.0, "t4", waited=-1)}),
    ]
    strange = json.dumps({"v": 1, "pid": 7, "event": "from_the_future", "at": 1.0})
    path.write_text(lines(sent(11.0, "t1"), ended(12.0, "t1")) + "\n".join([*bad, strange]) + "\n")
    code, out, err = inspect(capsys, path)
    assert (code, err) == (0, "")
    assert "1 turn in 1.00 s" in out
    assert f"{len(bad)} lines could not be read" in out
    # What is read by a program or a browser does not say it where a person would see it.
    code, _, err = inspect(capsys, path, "--json")
    assert (code, err) == (0, f"skipped {len(bad)} line(s) that could not be read\n")


def test_a_page_that_cannot_be_written(capsys: Any, recorded: Any, tmp_path: Path) -> None:
    out = tmp_path / "nowhere" / "out.html"
    code, _, err = inspect(capsys, recorded[0], "--html", out)
    assert (code, err) == (
        1, f"error: cannot write {out}: No such file or directory. Name a file in a folder that is there and yours.\n"
    )  # fmt: skip


@pytest.mark.parametrize("pause", [0.01, 0.5], ids=["none is cut", "all are cut"])
def test_a_long_trace_is_drawn_in_steps_that_grow_with_it(tmp_path: Path, pause: float) -> None:
    found = []
    for turns in (200, 400):
        axis = axis_of(tmp_path / "t", turns, pause)
        assert len(axis.cuts) == (0 if pause < 0.1 else turns - 1)
        found.append(steps(lambda: (axis(1e9), axis(11.0 + turns * pause / 2))) + steps(axis.ticks))  # noqa: B023
    assert found[1] < 3 * found[0]
    assert steps(lambda: axis(1e9)) < 20


def test_many_pauses_leave_room_for_what_is_between_them(tmp_path: Path) -> None:
    axis = axis_of(tmp_path / "t", 100, 10.0)
    places = [axis(11.0 + number * 10.0 + late) for number in range(100) for late in (0.0, 0.001)]
    assert places == sorted(places)
    assert (places[0], places[-1]) == (150.0, pytest.approx(150.0 + 915.0))
    widths = [right - left for left, right in zip(places[::2], places[1::2], strict=True)]
    assert widths == pytest.approx([widths[0]] * 100, rel=0.01)
    assert 100 * widths[0] > 0.4 * 915
    assert [left for left, _, _ in axis.cuts] == pytest.approx(places[1:-1:2])
    assert len(axis.ticks()) < 100


@pytest.mark.parametrize("name", ["t", "./t", "hard", "soft"])
def test_a_page_never_replaces_the_trace(
    capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    trace, content = Path("t"), lines(sent(11.0, "t1"), ended(12.0, "t1"))
    trace.write_text(content)
    Path("hard").hardlink_to(trace)
    Path("soft").symlink_to(trace)
    code, out, err = inspect(capsys, trace, "--html", name)
    assert (code, out) == (2, "")
    assert err.startswith(f"error: --html {Path(name)} is the trace itself. Name another file")
    assert trace.read_text() == content


def test_a_trace_without_turns(capsys: Any, tmp_path: Path) -> None:
    path = tmp_path / "t"
    path.write_text(lines({"event": "trace", "at": 1.0, "version": "0.1.0"}))
    code, out, _ = inspect(capsys, path)
    assert code == 0
    assert (
        "0 B sent, 0 B received over 0 connections and 0 lanes\n" in out
    )  # and no times that there were not
    assert inspect(capsys, path, "--html", tmp_path / "o.html")[0] == 0
    assert "No turns in this trace." in (tmp_path / "o.html").read_text(encoding="utf-8")


# -- what others wrote into a trace ----------------------------------------


class Page(HTMLParser):
    """Tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def hostile_trace(path: Path) -> Path:
    names = ("manager", "connection", "endpoint", "turn", "lane", "mode", "reason", "model", "node")
    bad = dict.fromkeys(names, HOSTILE)
    closed = {"event": "connection_closed", "at": 3.0, "code": 1, "lost": 0, "why": HOSTILE, **bad}
    dial = {"event": "dial_given_up", "at": 3.0, "kind": HOSTILE, "status": 1, "pause": 1.0, **bad}
    again = {"event": "turn_retrying", "at": 2.5, "attempt": 1, "action": HOSTILE, "failure": HOSTILE, **bad}
    path.write_text(
        lines(sent(1.0, "", **bad), ended(2.0, "", **bad, failure=HOSTILE), again, closed, dial),
        encoding="utf-8",
    )
    return path


def test_what_a_trace_says_never_becomes_markup(capsys: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    code, _, _ = inspect(capsys, hostile_trace(tmp_path / "t"), "--html", out)
    assert code == 0
    text = out.read_text(encoding="utf-8")
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not [one for one in page.attributes if one[1].startswith("on")]
    assert text.count("alert(1)") > 5, "it is there, as text"
    assert "<script>alert" not in text


def test_what_a_trace_says_never_moves_the_cursor(capsys: Any, tmp_path: Path) -> None:
    code, out, _ = inspect(capsys, hostile_trace(tmp_path / "t"))
    assert code == 0
    assert "alert(1)" in out
    assert "\x1b" not in out


def test_a_page_needs_nothing_from_elsewhere(capsys: Any, recorded: Any, tmp_path: Path) -> None:
    out = tmp_path / "out.html"
    code, said, err = inspect(capsys, recorded[0], "--html", out)
    assert (code, said, err) == (0, "", f"wrote {out}: open it in a browser\n")
    page = Page(out.read_text(encoding="utf-8"))
    loads = [
        one for one in page.attributes if one[1] in ("src", "href", "srcset", "data", "poster", "action")
    ]
    assert loads
    assert all(value.startswith("#") for _, _, value in loads)
    [policy] = [
        value for tag, _, value in page.attributes if tag == "meta" and value.startswith("default-src")
    ]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-")
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, _, value in loads} <= set(ids), "every bar leads to a row"


def test_content_is_shown_nowhere(capsys: Any, tmp_path: Path) -> None:
    path, out = tmp_path / "t", tmp_path / "out.html"
    said = {**ended(12.0, "t1"), "event": "turn_content", "request": {"input": "a secret plan"}}
    path.write_text(lines(sent(11.0, "t1"), said, ended(12.0, "t1")))
    shown = [inspect(capsys, path, *more) for more in ([], ["--json"], ["--html", out])]
    assert [(code, "secret" in text) for code, text, _ in shown] == [(0, False)] * 3
    assert "secret" not in out.read_text(encoding="utf-8")
    assert "skipped" not in "".join(err for *_, err in shown)


def test_json_and_page_in_one_go(capsys: Any, recorded: Any, tmp_path: Path) -> None:
    code, out, _ = inspect(capsys, recorded[0], "--html", tmp_path / "o.html", "--json")
    assert code == 0
    assert json.loads(out)["totals"]["http"] == 1
    assert (tmp_path / "o.html").exists()
