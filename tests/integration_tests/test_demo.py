"""`python -m langchain_ws_responses demo`, run as a user runs it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prepared import python

from langchain_ws_responses._demo.measure import Sent, gaps
from langchain_ws_responses._demo.report import human_bytes, human_seconds
from langchain_ws_responses._demo.workspace import Workspace, collect
from langchain_ws_responses.testing import Answer, ResponsesServer, text, tool_call

if TYPE_CHECKING:
    from collections.abc import Mapping

    from langchain_ws_responses.testing import RecordedRequest

CLOSED = "http://127.0.0.1:9"
TOOLS = {"search", "read_file", "edit_file", "run"}
# What the demo may work on, and what it must never open.
TEXT_FILES = {
    "README.md": "# A project\n\nIt will import things.\n",
    "app.py": "import os\nimport os.path\n\n\ndef main():\n    return os.path.join('a', 'b')\n",
    "pkg/util.py": '"""Helpers."""\n\nimport re\n\nWORD = re.compile("[a-z]+")\n',
    "pkg/data/täble.csv": "name,count\nimport duty,3\n",
}
OFF_LIMITS = {
    ".env": b"KEY=import me\n",
    ".git/config": b"import = x\n",
    "my-venv/pyvenv.cfg": b"home = import\n",
    "my-venv/lib.py": b"import venv\n",
    "node_modules/x.js": b"import x\n",
    "credentials.txt": b"import = secret\n",
    "server.pem": b"import\n",
    "image.bin": b"import\x00\x01\x02",
    "latin.txt": b"import caf\xe9\n",
    "huge.txt": b"import\n" * 200_000,
    "empty.txt": b"",
}
# Lines with "import" in TEXT_FILES, counted by hand: 1 + 2 + 1 + 1.
IMPORT_LINES = 5


def environment(**extra: str) -> dict[str, str]:
    """An environment without anything of the developer's shell that matters here."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "SYSTEMROOT", "VIRTUAL_ENV")
    return {**{name: os.environ[name] for name in kept if name in os.environ}, **extra}


def write_project(root: Path) -> Path:
    contents = {**{name: value.encode() for name, value in TEXT_FILES.items()}, **OFF_LIMITS}
    for name, content in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "link.txt").symlink_to(root / ".env")
    (root / "loop").symlink_to(root)
    return root


def snapshot(root: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(root)): (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else b"")
        for path in sorted(root.rglob("*"))
    }


class Place:
    """A working directory and a directory for temporary files."""

    def __init__(self, root: Path, temporary: Path) -> None:
        self.root, self.temporary = root, temporary
        temporary.mkdir()

    def command(self, *args: str) -> list[str]:
        return [sys.executable, "-m", "langchain_ws_responses", *args]

    def run(
        self, *args: str, env: Mapping[str, str] | None = None, code: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        if code is None:
            command = ("-m", "langchain_ws_responses", *args)
            return python(*command, cwd=self.root, strict=False, **self.environment(env))
        return subprocess.run(
            [sys.executable, "-c", code], cwd=self.root, env=self.environment(env), capture_output=True,
            encoding="utf-8", timeout=100, check=False,
        )  # fmt: skip

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        return environment(TMPDIR=str(self.temporary), PYTHONUTF8="1", **(extra or {}))

    def leftovers(self) -> list[str]:
        return [path.name for path in self.temporary.iterdir()]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "project").mkdir()
    return Place(write_project(tmp_path / "project"), tmp_path / "temporary")


class Played:
    """One run of the whole demo that several tests look at."""

    def __init__(self, root: Path) -> None:
        (root / "project").mkdir()
        place = Place(write_project(root / "project"), root / "temporary")
        before = snapshot(place.root)
        self.done = place.run("demo", "--json")
        self.unchanged = snapshot(place.root) == before
        self.leftovers = place.leftovers()

    def result(self) -> Any:
        assert self.done.returncode == 0, self.done.stderr
        return json.loads(self.done.stdout)

    def run(self, kind: str) -> Any:
        return self.result()["runs"][kind]


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    return Played(tmp_path_factory.mktemp("demo"))


# -- the comparison


def test_the_socket_run_sends_once_in_full_and_then_deltas_on_one_connection(played: Played) -> None:
    run = played.run("websocket")
    assert (run["full"], run["connections"], run["turns"]) == (1, 1, 21)
    assert run["delta"] >= 20
    # Each turn sends what is new, so the last one is not larger than the first few.
    assert run["bytes_per_turn"][-1] < 2 * max(run["bytes_per_turn"][:4])


def test_the_http_run_sends_the_whole_history_every_time(played: Played) -> None:
    run = played.run("http")
    assert (run["full"], run["delta"], run["turns"], run["connections"]) == (21, 0, 21, 1)
    assert run["bytes_per_turn"] == sorted(run["bytes_per_turn"])
    assert played.run("websocket")["bytes_sent"] < run["bytes_sent"] / 2


def test_both_runs_do_the_same_twenty_calls_on_the_files_of_the_directory(played: Played) -> None:
    http, socket = played.run("http"), played.run("websocket")
    assert len(http["tool_calls"]) == 20
    assert http["tool_calls"] == socket["tool_calls"]
    assert http["answer"] == socket["answer"] != ""
    assert played.result()["same"] is True
    assert {call["name"] for call in http["tool_calls"]} == TOOLS
    assert {call["args"]["path"] for call in http["tool_calls"] if "path" in call["args"]} == set(TEXT_FILES)
    # Both Python files compile still after a remark was added to one of their lines.
    assert "2 compiled" in http["answer"] or "3 compiled" in http["answer"]
    assert "did not compile" not in http["answer"]


def test_times_and_totals_add_up(played: Played) -> None:
    for kind in ("http", "websocket"):
        run = played.run(kind)
        assert run["bytes_sent"] == sum(run["bytes_per_turn"])
        waits = run["tool_output_to_request_seconds"]
        assert len(waits["each"]) == 20
        assert 0 < min(waits["each"]) <= waits["median"] <= max(waits["each"])
        assert sum(waits["each"]) < run["total_seconds"] < 10
    ratio = played.result()["ratios"]["bytes_sent"]
    expected = played.run("http")["bytes_sent"] / played.run("websocket")["bytes_sent"]
    assert ratio == pytest.approx(expected, abs=0.001)


def test_nothing_is_left_behind(played: Played) -> None:
    assert played.result()["mode"] == "offline"
    assert played.unchanged
    assert played.leftovers == []


def test_progress_is_plain_lines_on_stderr(played: Played) -> None:
    lines = played.done.stderr.splitlines()
    for label in ("HTTP", "socket"):
        shown = [line.split()[1] for line in lines if line.startswith(label) and "done" not in line]
        assert shown == [f"{number}/20" for number in range(1, 21)]
    assert "\r" not in played.done.stderr
    assert "\x1b" not in played.done.stderr
    assert max(map(len, lines)) <= 80


# -- what people read


def test_table_and_summary_are_readable_at_80_columns_without_colour(place: Place) -> None:
    done = place.run("demo", "--turns", "4")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    cells = {line[:33].strip(): line[33:].split() for line in lines}
    assert cells["turns"] == ["5", "5"]
    assert cells["sent in full"] == ["5", "1"]
    assert cells["sent as a delta"] == ["0", "4"]
    assert cells["connections"] == ["1", "1"]
    assert {"bytes sent", "tool output to request (median)", "total time"} <= set(cells)
    assert "Same tool calls, same tool outputs, same final text in both runs." in lines
    assert any("On loopback there is no network" in line for line in lines)
    assert max(map(len, lines)) <= 80
    assert "\x1b" not in done.stdout
    assert f"searched for import ({IMPORT_LINES} matching lines)" in done.stdout


def test_it_runs_in_an_empty_directory_and_takes_nothing_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    place = Place(tmp_path / "empty", tmp_path / "temporary")
    hostile = {
        "HTTP_PROXY": CLOSED, "ALL_PROXY": CLOSED, "OPENAI_PROXY": CLOSED, "OPENAI_BASE_URL": CLOSED,
        "OPENAI_API_KEY": "sk-of-the-shell", "LANGSMITH_TRACING": "true", "LANGSMITH_ENDPOINT": CLOSED,
        "LANGCHAIN_WS_RESPONSES_TRANSPORT": "http", "LANGCHAIN_WS_RESPONSES_TRACE": str(tmp_path / "trace"),
    }  # fmt: skip
    done = place.run("demo", "--turns", "4", "--json", env=hostile)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["files"] == result["sample_files"] > 0
    assert result["runs"]["websocket"]["delta"] == 4
    assert "sk-of-the-shell" not in done.stdout + done.stderr
    assert list(place.root.iterdir()) == []
    assert place.leftovers() == []
    # But for the trace, which is a file of one's own: it has the turns of the socket run.
    lines = [json.loads(line) for line in (tmp_path / "trace").read_text("utf-8").splitlines()]
    assert [line["mode"] for line in lines if line["event"] == "turn_sent"][-5:] == ["full", *["delta"] * 4]


# -- wrong usage and failures


@pytest.mark.parametrize(
    ("args", "remedy"),
    [
        ([], "COMMAND"),
        (["dmeo"], "demo"),
        (["demo", "--tunrs", "3"], "--tunrs"),
        (["demo", "--turns", "0"], "from 1 to"),
        (["demo", "--turns", "many"], "from 1 to"),
        (["demo", "--live", "--model", "m"], "set OPENAI_API_KEY"),
        (["demo", "--live"], "--model NAME"),
        (["demo", "--model", "m"], "--live"),
        (["demo", "--base-url", CLOSED], "--live"),
    ],
)
def test_wrong_usage_says_what_to_do(place: Place, args: list[str], remedy: str) -> None:
    done = place.run(*args)
    assert done.returncode == 2
    assert done.stdout == ""
    assert remedy in done.stderr
    assert "Traceback" not in done.stderr


def test_without_langchain_it_says_what_to_install(place: Place) -> None:
    code = (
        "import sys; sys.modules['langchain'] = None\n"
        "from langchain_ws_responses._cli import main; sys.exit(main(['demo']))"
    )
    done = place.run(code=code)
    assert done.returncode == 1
    assert "pip install" in done.stderr
    assert "Traceback" not in done.stderr


def test_help_loads_nothing_heavy(place: Place) -> None:
    code = (
        "import sys\nfrom langchain_ws_responses._cli import main\n"
        "try: main(['demo', '--help'])\nexcept SystemExit: pass\n"
        "print(*{'langchain', 'langchain_core', 'openai', 'websockets'} & set(sys.modules), sep='!')"
    )
    done = place.run(code=code)
    assert done.returncode == 0
    assert "--turns" in done.stdout
    assert done.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_quietly_and_cleans_up(place: Place, number: int, code: int) -> None:
    with subprocess.Popen(
        place.command("demo", "--turns", "200"), cwd=place.root, env=place.environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8",
    ) as process:  # fmt: skip
        assert process.stderr is not None
        assert any(line.startswith("HTTP") for line in process.stderr), "it never got to work"
        assert place.leftovers() != []
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert out == ""
    assert "Traceback" not in err
    assert place.leftovers() == []


# -- live, against an endpoint that is not OpenAI's


def searches_three_times(request: RecordedRequest) -> Answer:
    asked = sum(item.get("type") == "function_call_output" for item in request.seen)
    return tool_call("search", {"text": f"word {asked}"}) if asked < 3 else text("Nothing of the kind.")


def test_live_uses_the_endpoint_the_model_and_the_key(place: Place) -> None:
    with ResponsesServer(answer=searches_three_times, api_key="sk-live") as server:
        done = place.run(
            "demo", "--live", "--json", "--model", "some-model", "--base-url", server.base_url,
            "--turns", "3", env={"OPENAI_API_KEY": "sk-live"},
        )  # fmt: skip
        requests = server.requests
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["mode"], result["model"]) == ("live", "some-model")
    by_transport = {
        "http": [request for request in requests if request.transport == "http"],
        "websocket": [request for request in requests if request.transport == "websocket"],
    }
    for kind, seen in by_transport.items():
        run = result["runs"][kind]
        assert {request.model for request in seen} == {"some-model"}
        assert run["turns"] == len(seen) == 4
        assert run["connections"] == 1
        assert run["answer"] == "Nothing of the kind."
        assert run["delta"] == sum(request.is_delta for request in seen) == (3 if kind == "websocket" else 0)
        assert run["bytes_per_turn"] == [request.raw_bytes for request in seen]
        assert len(run["tool_output_to_request_seconds"]["each"]) == 3
    assert "sk-live" not in done.stdout + done.stderr


def test_an_endpoint_without_sockets_fails_with_a_reason(place: Place) -> None:
    with ResponsesServer(answer=searches_three_times, refuse_upgrade=404) as server:
        done = place.run(
            "demo", "--live", "--model", "m", "--base-url", server.base_url, env={"OPENAI_API_KEY": "sk-live"}
        )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "the run over the socket failed" in done.stderr
    assert "404" in done.stderr
    assert done.stderr.count("langchain_ws_responses doctor`") == 1
    assert "Traceback" not in done.stderr
    assert "sk-live" not in done.stderr
    assert place.leftovers() == []


def test_an_endpoint_that_is_not_there_fails_with_the_next_step(place: Place) -> None:
    with socket.socket() as taken:  # bound, so that nobody else gets it, and never listening
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        done = place.run(
            "demo", "--live", "--model", "m", "--base-url", url, env={"OPENAI_API_KEY": "sk-live"}
        )
    assert (done.returncode, done.stdout) == (1, "")
    assert "the run over HTTP failed" in done.stderr
    assert done.stderr.count("langchain_ws_responses doctor`") == 1
    assert "Traceback" not in done.stderr


def test_debug_shows_where_an_error_came_from(place: Place) -> None:
    done = place.run("demo", "--live", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert "error: --live needs --model NAME." in done.stderr


# -- the parts


def test_only_visible_text_files_are_collected(tmp_path: Path) -> None:
    files, samples = collect(write_project(tmp_path))
    assert {name: content.decode() for name, content in files.items()} == TEXT_FILES
    assert samples == 0


def test_few_files_are_joined_by_samples(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("one\n")
    files, samples = collect(tmp_path)
    assert "one.txt" in files
    assert samples == len(files) - 1 > 0


def test_a_huge_directory_is_cut_short(tmp_path: Path) -> None:
    for number in range(300):
        (tmp_path / f"{number:03}.txt").write_text("x" * 20_000)
    files, _ = collect(tmp_path)
    assert 3 <= len(files) <= 100
    assert sum(map(len, files.values())) <= 1_000_000


def test_tools_stay_within_the_copy(tmp_path: Path) -> None:
    outside = tmp_path / "outside.txt"
    outside.write_text("untouched\n")
    with Workspace.of({"a.py": b"x = 1\ny = 2\n"}) as space:
        for path in (str(outside), "../outside.txt", "a.py/../../outside.txt", "", "."):
            assert "no such file" in space.read(path, 1)
            assert "no such file" in space.edit(path, 1, "changed")
            assert "no such file" in space.run("count", path)
        assert "unknown command" in space.run("rm", "a.py")
        assert "not changed" in space.edit("a.py", 3, "z = 3")
        assert "not changed" in space.edit("a.py", 1, "two\nlines")
        assert space.edit("a.py", 2, "y = (").startswith("changed line 2")
        assert (space.root / "a.py").read_text() == "x = 1\ny = (\n"
        assert space.run("compile", "a.py").startswith("does not compile: line 2")
        assert space.run("count", "a.py") == "counted: 2 lines, 6 words"
        root = space.root
    assert not root.exists()
    assert outside.read_text() == "untouched\n"


def test_running_never_executes_the_file(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    source = f"open({str(mark)!r}, 'w').close()\n"
    with Workspace.of({"a.py": source.encode(), "ast.py": source.encode()}) as space:
        assert space.run("compile", "a.py") == "compiles: 0 functions, 0 classes"
    assert not mark.exists()


def test_outputs_are_bounded() -> None:
    with Workspace.of({"long.txt": b"word " * 5000 + b"\n" + b"word\n" * 5000}) as space:
        assert len(space.search("word")) < 3000
        assert len(space.read("long.txt", 1)) < 8000
        assert space.search("word").startswith("5001 lines in 1 files")


def test_a_wait_is_measured_from_the_last_output_before_the_request() -> None:
    sent = [Sent(1.0, 10, "full"), Sent(3.0, 10, "delta"), Sent(4.0, 10, "delta"), Sent(9.0, 10, "delta")]
    assert gaps([1.5, 2.75, 8.0], sent) == [0.25, 1.0]


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_940, "99.9 kB"),
        (123_456, "123 kB"),
        (2_500_000, "2.5 MB"),
    ],
)
def test_bytes_in_human_units(count: int, shown: str) -> None:
    assert human_bytes(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(None, "-"), (0.00123, "1.2 ms"), (0.25, "250 ms"), (0.9999, "1.00 s"), (12.345, "12.35 s")],
)
def test_seconds_in_human_units(seconds: float | None, shown: str) -> None:
    assert human_seconds(seconds) == shown
