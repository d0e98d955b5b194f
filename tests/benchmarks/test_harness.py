"""The benchmark itself: a wrong ruler measures nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest
from langchain_core.messages import HumanMessage
from prepared import python
from websockets.sync.client import connect

from benchmarks.__main__ import main
from benchmarks.charts import Bar, Line, bars, lines
from benchmarks.drivers import DRIVERS, EVERY, Job, missing
from benchmarks.drivers._chat import FUNCTIONS
from benchmarks.network import netem_path, paths
from benchmarks.plan import MODES, Options, tasks
from benchmarks.processes import PROJECT, Endpoint, control, environment, measure, run_server
from benchmarks.relay import Link
from benchmarks.results import Key, Results, Stat, growth, near, prefix
from benchmarks.tables import conversations_title, tables
from benchmarks.targets import Row, judge
from benchmarks.workload import ARGUMENTS, TOOL_OUTPUT, TOOLS, call_model, text_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

REQUESTS = 4


@pytest.fixture(scope="module")
def server() -> Iterator[Endpoint]:
    with run_server() as running:
        yield running


def measured(job: Mapping[str, Any], *, module: str = "benchmarks.worker", timeout: float = 100) -> Any:
    """Does what `measure` does, but for the time that imports take."""
    done = python(
        "-m", module, json.dumps(job), cwd=PROJECT, strict=False, seconds=timeout, **environment()
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run(server: Endpoint, driver: str, call: str, **job: Any) -> dict[str, Any]:
    urls = {"base_url": f"{server.plain}/v1", "control_url": server.plain}
    result: dict[str, Any] = measured({"driver": driver, "call": call, "requests": REQUESTS, **urls, **job})
    return result


# -- the workload ----------------------------------------


def test_the_workload_is_the_one_that_the_targets_speak_of() -> None:
    assert len(TOOLS) == 12
    assert 8000 <= sum(len(json.dumps(tool, separators=(",", ":"))) for tool in TOOLS) <= 8192
    assert len(TOOL_OUTPUT) == 4096
    assert json.loads(ARGUMENTS).keys() >= set(TOOLS[0]["parameters"]["required"])


# -- the server ----------------------------------------


def test_the_server_answers_in_three_forms_with_one_content(server: Endpoint) -> None:
    body = {"model": call_model(3), "input": "go"}
    url = f"{server.plain}/v1/responses"
    plain = httpx.post(url, json=body).json()
    streamed = httpx.post(url, json={**body, "stream": True}).text
    events = [json.loads(line[6:]) for line in streamed.splitlines() if line.startswith("data: ")]
    with connect(f"ws://127.0.0.1:{server['plain']}/v1/responses") as socket:
        socket.send(json.dumps({"type": "response.create", "stream_id": "lane_7", **body}))
        frames = [json.loads(socket.recv())]
        while frames[-1]["type"] != "response.completed":
            frames.append(json.loads(socket.recv()))
    assert [frame["type"] for frame in frames] == [event["type"] for event in events]
    assert {frame["stream_id"] for frame in frames} == {"lane_7"}
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))
    calls = [answer["output"] for answer in (plain, events[-1]["response"], frames[-1]["response"])]
    assert [[item["arguments"] for item in output] for output in calls] == [[ARGUMENTS]] * 3
    deltas = [frame["delta"] for frame in frames if frame["type"].endswith("arguments.delta")]
    assert len(deltas) == 40
    assert "".join(deltas) == ARGUMENTS
    # Each answer has ids of its own.
    assert len({output[0]["call_id"] for output in calls}) == 3


@pytest.mark.parametrize("continued", [True, False], ids=["delta", "full"])
def test_the_server_knows_how_far_a_conversation_is(server: Endpoint, continued: bool) -> None:
    client = openai.OpenAI(base_url=f"{server.plain}/v1", api_key="sk-test")
    model, history, kinds = call_model(3), [], []
    given: Any = "go"
    parent: Any = openai.omit
    for _ in range(3):
        answer = client.responses.create(model=model, input=given, previous_response_id=parent)
        kinds.append(answer.output[0].type)
        assert answer.previous_response_id == (parent if continued and parent else None)
        if answer.output[0].type == "function_call":
            output = {"type": "function_call_output", "call_id": answer.output[0].call_id, "output": "x"}
            history += [answer.output[0].model_dump(), output]
            given, parent = ([output], answer.id) if continued else (list(history), openai.omit)
    client.close()
    assert kinds == ["function_call", "function_call", "message"]


def test_the_server_counts_bytes_and_times_of_requests(server: Endpoint) -> None:
    control(server.plain, "/reset", think=0.05)
    with httpx.Client() as client:
        for size in (10, 1000):
            body = {"model": text_model(5), "input": "x" * size}
            client.post(f"{server.plain}/v1/responses", json=body)
    report = control(server.plain, "/report")
    control(server.plain, "/reset")
    assert report["connections"] == 1
    assert report["sizes"][1] - report["sizes"][0] in (990, 991, 992)  # content-length has more digits
    assert report["received"] == sum(report["sizes"])
    assert all(
        written - arrived >= 0.05
        for arrived, written in zip(report["arrived"], report["written"], strict=True)
    )


# -- the drivers ----------------------------------------


# All calls of what is judged, and one of each other client: most of the time goes into importing them.
RUNS = [
    *(("ours", call) for call in EVERY["ours"].calls),
    *(("langchain-floor", call) for call in EVERY["langchain-floor"].calls),
    *((name, EVERY[name].calls[0]) for name in EVERY if name not in ("ours", "langchain-floor")),
]


@pytest.mark.parametrize(("driver", "call"), RUNS)
def test_every_driver_runs_the_same_conversation(server: Endpoint, driver: str, call: str) -> None:
    if why := missing(driver):
        pytest.skip(why)
    result = run(server, driver, call)
    assert result["requests"] == REQUESTS
    assert len(result["turn_cpu"]) == len(result["turn_bytes"]) == REQUESTS
    assert all(gap > 0 for gap in (*result["to_wire"], *result["to_hand"]))
    grows = result["turn_bytes"][-1] > result["turn_bytes"][1] + 2 * len(TOOL_OUTPUT) - 1
    assert grows == driver.endswith("-full")


@pytest.mark.parametrize("name", [call_model(2), text_model(5)])
def test_the_floor_with_whole_messages_says_what_chatopenai_says(server: Endpoint, name: str) -> None:
    def answer(driver: str) -> str:
        job = Job(f"{server.plain}/v1", "invoke", EVERY[driver].options)
        model = EVERY[driver].load().make_model(job, name)
        message = model.bind_tools(FUNCTIONS).invoke([HumanMessage("x")])
        if hasattr(model, "sync_socket"):
            model.sync_socket.close()
        # Each answer of the server has ids of its own.
        return re.sub(r"_\d{12}", "", json.dumps(message.model_dump(), sort_keys=True))

    assert answer("langchain-floor-whole") == answer("chatopenai-full") != answer("langchain-floor")


def test_many_conversations_at_once_share_lanes(server: Endpoint) -> None:
    result = run(server, "ours", "ainvoke", conversations=20)
    assert result["requests"] == 20 * REQUESTS
    assert 0 < result["start_mib"] <= result["peak_mib"]
    # Sixteen in flight to a connection; a busy machine may never have more at once.
    assert result["connections"] in (1, 2)
    assert 0 < result["p50"] <= result["p99"]


@pytest.mark.skipif(sys.platform != "linux", reason="getrusage counts the parent's memory on Linux: not here")
def test_memory_is_that_of_the_client_alone(server: Endpoint) -> None:
    ballast = bytearray(b"x") * (200 * 1024 * 1024)
    urls = {"base_url": f"{server.plain}/v1", "control_url": server.plain}
    result = measure({"driver": "wire-floor", "call": "invoke", "requests": 2, **urls}, timeout=100)
    assert 0 < result["start_mib"] <= result["peak_mib"] < len(ballast) / (1024 * 1024)


def test_a_measurement_that_does_not_add_up_is_an_error(server: Endpoint) -> None:
    assert "error" in measure({"driver": "ours", "call": "invoke"}, timeout=100)
    urls = {"base_url": "http://127.0.0.1:9/v1", "control_url": server.plain}
    refused = measure({"driver": "wire-floor", "call": "invoke", "requests": 2, **urls}, timeout=100)
    assert "refused" in refused["error"]


def test_a_peer_that_is_not_installed_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert missing("ours") is None
    assert missing("pydantic-ai") == "pydantic-ai is not installed (the `bench` extra has it)"


# -- the network ----------------------------------------


def test_a_link_delays_and_shares_its_bandwidth() -> None:
    link = Link(delay=0.02, rate=1000.0)
    assert link.arrival(100, now=1.0) == pytest.approx(1.12)
    assert link.arrival(100, now=1.0) == pytest.approx(1.22)
    assert link.arrival(100, now=5.0) == pytest.approx(5.12)
    assert Link(delay=0.02, rate=None).arrival(10**9, now=1.0) == pytest.approx(1.02)


def test_the_relay_delays_a_client_over_tls() -> None:
    with paths(emulator="relay") as ways:
        job = {"driver": "wire-floor", "call": "invoke", "requests": 3, **ways[0].urls()}
        result = measure(job, extra=ways[0].environment, timeout=100)
    assert "error" not in result, result
    done = result["turn_done"]
    # TCP, TLS and the upgrade take a round trip each before the first request, then each turn takes one.
    assert done[0] >= 4 * 0.04
    assert all(after - before >= 0.04 for before, after in pairwise(done))
    assert "relay" in ways[0].emulator


def test_a_namespace_gets_its_delay_before_its_client_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    enters = '[ "$1 $2" = "netns exec" ] && shift 3 && exec "$@"'
    for name, script in {"ip": enters, "tc": 'echo "tc $*" >&2'}.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    listening = Endpoint({"plain": 1, "tls": 2})
    way = netem_path(40, listening, tmp_path / "server.pem")
    done = subprocess.run([*way.prefix, "echo", '{"a": "b c"}'], capture_output=True, text=True, check=True)
    assert done.stdout == '{"a": "b c"}\n'
    assert [line.split(" root ")[1] for line in done.stderr.splitlines()] == [
        "netem delay 20ms limit 10000",
        "netem delay 20ms rate 20mbit limit 10000",
    ]
    assert way.base_url.endswith(":2/v1")


# -- the plan ----------------------------------------


def options(**changes: Any) -> Options:
    return Options(**{"modes": MODES, "turns": [10, 100], "peers": ["chatopenai-prev"], "runs": 5, **changes})


def test_the_plan_has_floors_ours_and_the_wanted_peers() -> None:
    planned = tasks(options())
    names = {task.key.driver for task in planned if task.key.mode == "rollout"}
    assert names == {"wire-floor", "langchain-floor", "langchain-floor-whole", "ours", "chatopenai-prev"}
    assert {task.job["requests"] for task in planned if task.key.mode == "rollout"} == {100}
    assert {task.key.variant for task in planned if task.key.mode == "conversations"} == {"16", "100", "500"}
    assert len({task.key for task in planned}) == len(planned)


def test_every_peer_can_be_asked_for() -> None:
    for name in DRIVERS:
        assert name in options(peers=list(DRIVERS)).drivers


# -- the results ----------------------------------------


def test_ratios_are_of_medians_with_the_spread_of_rounds() -> None:
    results, mine, floor = Results(), Key("rollout", "ours", "invoke"), Key("rollout", "wire-floor", "invoke")
    for number, (one, other) in enumerate([(2.0, 1.0), (9.0, 3.0), (3.0, 2.0)]):
        results.add(mine, number, {"cpu": one})
        results.add(floor, number, {"cpu": other})
    assert results.ratio(mine, floor, lambda result: result["cpu"]) == Stat(1.5, 1.5, 3.0, 3)
    results.add(Key("rollout", "x", "invoke"), 0, {"error": "broken"})
    assert results.ratio(mine, Key("rollout", "x", "invoke"), lambda result: result["cpu"]) is None
    assert list(results.errors.values()) == ["broken"]


def test_memory_before_the_conversations_is_shown_beside_the_peak() -> None:
    results = Results()
    measured = {"cpu": 2.0, "wall": 4.0, "p99": 0.5, "connections": 8, "start_mib": 98.0, "peak_mib": 153.0}
    results.add(Key("conversations", "ours", "ainvoke", "500"), 0, measured)
    [shown] = tables(results, options(modes=["conversations"], sizes=[500]))
    title, head, _, row, *_ = shown.strip().splitlines()
    assert title == conversations_title(500)
    assert head.split()[-4:] == ["MiB", "before", "peak", "MiB"]
    assert "98" in row
    assert "153" in row


def test_prefixes_and_windows_of_turns() -> None:
    result = {"turn_cpu": [float(turn) for turn in range(1, 101)]}
    assert prefix("turn_cpu", 10)(result) == 55.0
    # Turns 6 to 15, and the last ten that call a tool.
    assert near("turn_cpu", 10)(result) == 10.5
    assert near("turn_cpu", 100)(result) == 94.5
    assert growth(100)(result) == 9.0


def test_a_target_is_passed_missed_or_not_measured() -> None:
    most, least = (
        Row("P1", "x", 2.0, Stat(1.9, 1.5, 2.5, 5)),
        Row("P10", "x", 48, Stat(50, 49, 51, 5), "%", True),
    )
    assert (most.passed, most.clear) == (True, False)
    assert (least.passed, least.clear) == (True, True)
    assert Row("P1", "x", 2.0, Stat(2.1, 2.1, 2.1, 1)).passed is False
    assert Row("P1", "x", 2.0, None).passed is None


def test_all_targets_are_judged() -> None:
    rows = judge(Results(), options())
    assert {row.target for row in rows} == {f"P{number}" for number in range(1, 11)}
    assert {row.passed for row in rows} == {None}


# -- the charts ----------------------------------------


def test_a_line_chart_has_a_label_and_a_dash_for_each_line() -> None:
    drawn = [Line(f"client <{n}>", [(1.0, 1.0 + n), (2.0, 10.0)], ours=n == 0) for n in range(4)]
    root = ET.fromstring(lines("CPU & turns", "turn", "ms", drawn))  # noqa: S314 - made here
    texts = [node.text for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text and text.startswith("client")] == [
        f"client <{n}>: 10" for n in range(4)
    ]
    labels = [
        node for node in root.iter("{http://www.w3.org/2000/svg}text") if "label" in str(node.get("class"))
    ]
    places = sorted(float(str(node.get("y"))) for node in labels)
    assert all(lower - upper >= 14 for upper, lower in pairwise(places))
    dashes = [node.get("stroke-dasharray") for node in root.iter("{http://www.w3.org/2000/svg}polyline")]
    assert len(set(dashes)) == 4


def test_bars_stand_in_order_with_their_values() -> None:
    svg = bars("events", "µs", [Bar("slow", 90, 80, 99), Bar("fast", 9, 8, 10, ours=True)])
    texts = [node.text for node in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]  # noqa: S314
    assert texts == ["events", "fast", "9 µs", "slow", "90 µs"]
    assert "prefers-color-scheme: dark" in svg


# -- the command ----------------------------------------


def test_compare_prints_tables_and_targets_and_writes_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.compare.measure", measured)
    arguments = ["compare", "--quick", "--runs", "1", "--turns", "6", "--mode", "stream", "--peers", "--json"]
    monkeypatch.setattr(
        sys, "argv", ["benchmarks", *arguments, str(tmp_path / "run.json"), "--svg", str(tmp_path)]
    )
    assert main() in (0, 1)
    said = capfd.readouterr().out
    assert "this package, stream" in said
    assert "P5  stream of a long answer: CPU / langchain-floor" in said
    written = json.loads((tmp_path / "run.json").read_text())
    assert written["environment"]["websockets"]
    assert {row["target"] for row in written["targets"]} == {"P5"}
    assert written["errors"] == {}
    assert (tmp_path / "cpu-per-event.svg").read_text().startswith("<svg")
