"""OpenTelemetry: spans and metrics by the conventions for generative AI, under the right parent, never twice."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from opentelemetry import context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pairs import WAYS, outcome, run, socket_model

from langchain_ws_responses import ConnectionManager, otel
from langchain_ws_responses._transport.retry import set_testing
from langchain_ws_responses.testing import ResponsesServer, drop, error, hold, incomplete, text, tool_call


class Telemetry:
    """What was exported."""

    def __init__(self, **options: Any) -> None:
        self.exporter, self.reader = InMemorySpanExporter(), InMemoryMetricReader()
        self.tracers, self.meters = TracerProvider(), MeterProvider(metric_readers=[self.reader])
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        otel.instrument(tracer_provider=self.tracers, meter_provider=self.meters, **options)

    @property
    def spans(self) -> list[Any]:
        return list(self.exporter.get_finished_spans())

    def points(self) -> dict[str, list[Any]]:
        data = self.reader.get_metrics_data()
        found: dict[str, list[Any]] = {}
        for of_resource in data.resource_metrics if data else ():
            for of_scope in of_resource.scope_metrics:
                for metric in of_scope.metrics:
                    found[metric.name] = list(metric.data.data_points)
        return found


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    set_testing(True)
    yield Telemetry()
    otel.uninstrument()
    set_testing(False)


@pytest.fixture
def manager() -> Iterator[ConnectionManager]:
    with ConnectionManager() as manager:
        yield manager


@pytest.mark.parametrize("way", WAYS)
def test_a_turn_is_a_span_of_the_conventions(
    telemetry: Telemetry, manager: ConnectionManager, way: str
) -> None:
    with ResponsesServer(text("one two", 2)) as server:
        model = socket_model(server, manager, model="gpt-4.1", temperature=0.5, max_tokens=50)
        answers = run(model, way, "x")
        port = server.port
    [span] = telemetry.spans
    usage = next(one.usage_metadata for one in reversed(answers) if one.usage_metadata)
    assert span.name == "chat gpt-4.1"
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    wanted = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-4.1",
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.response.model": "gpt-4.1",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": usage["input_tokens"],
        "gen_ai.usage.output_tokens": usage["output_tokens"],
        "openai.api.type": "responses",
        "server.address": "127.0.0.1",
        "server.port": port,
    }
    assert {name: span.attributes.get(name) for name in wanted} == wanted
    assert span.attributes.get("gen_ai.request.stream") == (True if "stream" in way else None)
    assert span.instrumentation_scope.name == "langchain_ws_responses"


def test_a_turn_says_how_it_was_sent(telemetry: Telemetry, manager: ConnectionManager) -> None:
    with ResponsesServer("one", "two") as server:
        model, messages = socket_model(server, manager), [HumanMessage("x")]
        messages += [model.invoke(messages), HumanMessage("y")]
        transport = model.invoke(messages).response_metadata["transport"]
    _, span = telemetry.spans
    own = {
        name.removeprefix("ws_responses."): value
        for name, value in span.attributes.items()
        if name.startswith("ws_responses.")
    }
    first, gap = own.pop("first_event"), own.pop("longest_gap")
    assert 0 <= first <= (span.end_time - span.start_time) / 1e9
    assert 0 <= gap <= (span.end_time - span.start_time) / 1e9
    names = ("mode", "reason", "items", "resends", "connection", "lane", "reused")
    assert own == {
        "transport": transport["kind"], "request.bytes": transport["bytes"],
        **{name: transport[name] for name in names},
    }  # fmt: skip
    assert own["mode"] == "delta"


@pytest.mark.parametrize("way", WAYS)
def test_the_caller_is_the_parent(telemetry: Telemetry, manager: ConnectionManager, way: str) -> None:
    with ResponsesServer(text("one two", 2)) as server:
        model = socket_model(server, manager)
        with telemetry.tracers.get_tracer("app").start_as_current_span("agent") as agent:
            run(model, way, "x")
    turn = next(span for span in telemetry.spans if span.name.startswith("chat"))
    assert turn.parent.span_id == agent.get_span_context().span_id
    assert agent.start_time <= turn.start_time <= turn.end_time <= agent.end_time


def test_callers_at_the_same_time_are_not_mixed_up(telemetry: Telemetry, manager: ConnectionManager) -> None:
    tracer = telemetry.tracers.get_tracer("app")
    both, wanted = threading.Barrier(2), {}

    async def ask(model: Any, name: str) -> None:
        with tracer.start_as_current_span(name) as span:
            wanted[name] = span.get_span_context().span_id
            await asyncio.gather(*(model.ainvoke(name) for _ in range(3)))

    def thread(model: Any, name: str) -> None:
        both.wait()
        asyncio.run(ask(model, name))

    with ResponsesServer(answer=lambda _request: "one") as server:
        model = socket_model(server, manager)
        threads = [threading.Thread(target=thread, args=(model, name)) for name in ("a", "b")]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
    parents = [span.parent.span_id for span in telemetry.spans if span.name.startswith("chat")]
    assert sorted(parents) == sorted([*wanted.values()] * 3)


def test_metrics_follow_the_conventions(telemetry: Telemetry, manager: ConnectionManager) -> None:
    with ResponsesServer("one", "two") as server:
        model, messages = socket_model(server, manager), [HumanMessage("x")]
        first = model.invoke(messages)
        second = model.invoke([*messages, first, HumanMessage("y")])
        sizes = [request.raw_bytes for request in server.requests]
        port = server.port
    points = telemetry.points()
    labels = {
        "gen_ai.operation.name": "chat", "gen_ai.provider.name": "openai", "gen_ai.request.model": "gpt-5.5",
        "gen_ai.response.model": "gpt-5.5", "server.address": "127.0.0.1", "server.port": port,
    }  # fmt: skip
    [duration] = points["gen_ai.client.operation.duration"]
    assert (dict(duration.attributes), duration.count) == (labels, 2)
    assert duration.explicit_bounds[:3] == (0.01, 0.02, 0.04)
    assert duration.explicit_bounds[-1] == 81.92
    tokens = {point.attributes["gen_ai.token.type"]: point for point in points["gen_ai.client.token.usage"]}
    for kind in ("input", "output"):
        counts = [answer.usage_metadata[f"{kind}_tokens"] for answer in (first, second)]
        assert tokens[kind].sum == sum(counts)
        assert dict(tokens[kind].attributes) == {**labels, "gen_ai.token.type": kind}
    assert tokens["input"].explicit_bounds[-1] == 67108864
    told = {point.attributes["ws_responses.mode"]: point for point in points["ws_responses.request.size"]}
    assert [told[mode].sum for mode in ("full", "delta")] == sizes
    assert told["delta"].attributes["ws_responses.reason"] == "chain"
    assert sum(point.count for point in points["ws_responses.turn.duration"]) == 2


def test_a_failure_is_an_error_without_words(telemetry: Telemetry, manager: ConnectionManager) -> None:
    with ResponsesServer(error(code="invalid_prompt", message="the prompt says so", status=400)) as server:
        outcome(socket_model(server, manager), "invoke", "x")
    with ResponsesServer(drop(1)) as other_server:
        outcome(socket_model(other_server, manager, on_ambiguous="raise"), "invoke", "x")
    refused, lost = telemetry.spans
    for span, asked in ((refused, server), (lost, other_server)):
        assert span.attributes["ws_responses.request.bytes"] == asked.requests[0].raw_bytes
    assert refused.status.status_code is lost.status.status_code is StatusCode.ERROR
    assert refused.status.description is lost.status.description is None
    assert (refused.attributes["error.type"], lost.attributes["error.type"]) == ("400", "connection_lost")
    assert refused.events == lost.events == ()
    [one, other] = telemetry.points()["gen_ai.client.operation.duration"]
    assert {one.attributes["error.type"], other.attributes["error.type"]} == {"400", "connection_lost"}


def test_resends_and_what_ended_an_answer(telemetry: Telemetry, manager: ConnectionManager) -> None:
    with ResponsesServer(drop(1), tool_call("look", {}), incomplete("max_output_tokens", "one")) as server:
        model = socket_model(server, manager, max_retries=None)
        model.invoke("x")
        model.invoke("y")
    resent, cut = telemetry.spans
    assert resent.attributes["ws_responses.resends"] == 1
    assert resent.attributes["gen_ai.response.finish_reasons"] == ("tool_calls",)
    assert cut.attributes["gen_ai.response.finish_reasons"] == ("length",)
    [resends] = telemetry.points()["ws_responses.resends"]
    assert (resends.value, resends.attributes["ws_responses.reason"]) == (1, "connection_lost")


def test_a_stream_that_is_left_is_no_error(telemetry: Telemetry, manager: ConnectionManager) -> None:
    go = threading.Event()
    with ResponsesServer(answer=lambda _: hold(go, text("one two", 2), after_events=5)) as server:
        chunks = socket_model(server, manager).stream("x")
        next(chunks)
        chunks.close()
        go.set()
    [span] = telemetry.spans
    assert span.status.status_code is StatusCode.UNSET
    assert span.attributes["ws_responses.abandoned"] is True
    assert "error.type" not in span.attributes


def test_an_exporter_that_fails_breaks_no_turn(
    telemetry: Telemetry, manager: ConnectionManager, caplog: pytest.LogCaptureFixture, monkeypatch: Any
) -> None:
    def broken(*_args: Any, **_options: Any) -> None:
        raise ValueError("no")

    monkeypatch.setattr(telemetry.tracers._active_span_processor, "on_start", broken)
    with ResponsesServer("one") as server:
        assert socket_model(server, manager).invoke("x").text == "one"
    assert "an observer failed: ValueError" in caplog.messages


# -- not twice ----------------------------------------


def only_own(telemetry: Telemetry) -> bool:
    """Whether a turn was reported without anything that another instrumentation reports."""
    [span] = [span for span in telemetry.spans if span.instrumentation_scope.name == "langchain_ws_responses"]
    points = telemetry.points()
    assert "ws_responses.turn.duration" in points
    own = not any(name.startswith("gen_ai.") for name in (*span.attributes, *points))
    assert (span.name, span.kind) == (
        ("ws_responses turn", SpanKind.INTERNAL) if own else ("chat gpt-5.5", SpanKind.CLIENT)
    )
    assert span.attributes["ws_responses.mode"] == "full"
    return own


def instrumentor(monkeypatch: pytest.MonkeyPatch, module: str, *, active: bool) -> None:
    """An instrumentation as `opentelemetry.instrumentation.instrumentor` makes them: one instance per class."""

    class SomeInstrumentor:
        _instance: Any = None
        _is_instrumented_by_opentelemetry = False

        def __new__(cls) -> Any:
            raise AssertionError("nobody asked for it")

    SomeInstrumentor._instance = object.__new__(SomeInstrumentor)
    SomeInstrumentor._instance._is_instrumented_by_opentelemetry = active
    made = types.ModuleType(module)
    made.SomeInstrumentor = SomeInstrumentor  # type: ignore[attr-defined]
    made.BaseInstrumentor = object  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module, made)


@pytest.mark.parametrize("transport", ["websocket", "http"])
@pytest.mark.parametrize("active", [True, False])
@pytest.mark.parametrize(
    "module", ["opentelemetry.instrumentation.langchain", "openinference.instrumentation.openai"]
)
def test_what_another_instrumentation_reports_is_left_to_it(
    telemetry: Telemetry,
    manager: ConnectionManager,
    monkeypatch: Any,
    module: str,
    active: bool,
    transport: str,
) -> None:
    instrumentor(monkeypatch, module, active=active)
    with ResponsesServer("one") as server:
        socket_model(server, manager, transport=transport).invoke("x")
    # Those of openai see its HTTP client only.
    assert only_own(telemetry) is (active and ("langchain" in module or transport == "http"))


@pytest.mark.parametrize(
    "attributes", [{"gen_ai.operation.name": "chat"}, {"openinference.span.kind": "LLM"}]
)
def test_a_span_of_this_model_call_is_not_repeated(
    telemetry: Telemetry, manager: ConnectionManager, attributes: dict[str, str]
) -> None:
    with (
        ResponsesServer("one") as server,
        telemetry.tracers.get_tracer("other").start_as_current_span("chat", attributes=attributes),
    ):
        socket_model(server, manager).invoke("x")
    assert only_own(telemetry)


def test_a_span_around_it_is(telemetry: Telemetry, manager: ConnectionManager) -> None:
    with (
        ResponsesServer("one") as server,
        telemetry.tracers.get_tracer("other").start_as_current_span(
            "invoke_agent", attributes={"gen_ai.operation.name": "invoke_agent"}
        ),
    ):
        socket_model(server, manager).invoke("x")
    assert not only_own(telemetry)


@pytest.mark.parametrize("word", ["suppress_language_model_instrumentation", "suppress_instrumentation"])
def test_suppression_is_honoured(telemetry: Telemetry, manager: ConnectionManager, word: str) -> None:
    token = context.attach(context.set_value(word, True))
    try:
        with ResponsesServer("one") as server:
            socket_model(server, manager).invoke("x")
    finally:
        context.detach(token)
    if word == "suppress_instrumentation":
        assert telemetry.spans == []
        assert telemetry.points() == {}
    else:
        assert only_own(telemetry)


def test_langsmith_exports_runs_itself(
    telemetry: Telemetry, manager: ConnectionManager, monkeypatch: Any
) -> None:
    monkeypatch.setenv("LANGSMITH_OTEL_ENABLED", "true")
    with ResponsesServer("one") as server:
        socket_model(server, manager).invoke("x")
    assert only_own(telemetry)


@pytest.mark.parametrize("gen_ai", [True, False])
def test_the_user_decides(manager: ConnectionManager, monkeypatch: Any, gen_ai: bool) -> None:
    telemetry = Telemetry(gen_ai=gen_ai)
    instrumentor(monkeypatch, "opentelemetry.instrumentation.langchain", active=gen_ai)
    try:
        with ResponsesServer("one") as server:
            socket_model(server, manager).invoke("x")
    finally:
        otel.uninstrument()
    assert only_own(telemetry) is not gen_ai


def test_a_second_call_replaces_the_first_and_then_there_is_an_end(
    telemetry: Telemetry, manager: ConnectionManager
) -> None:
    other = Telemetry()
    with ResponsesServer("one", "two") as server:
        model = socket_model(server, manager)
        model.invoke("x")
        otel.uninstrument()
        otel.uninstrument()
        model.invoke("x")
    assert (len(telemetry.spans), len(other.spans)) == (0, 1)


# -- connections ----------------------------------------


def test_connections_are_counted(telemetry: Telemetry) -> None:
    hook = otel.ConnectionMetrics(meter_provider=telemetry.meters)
    with ResponsesServer("one") as server, ConnectionManager(hooks=[hook]) as manager:
        socket_model(server, manager).invoke("x")
        [opened] = telemetry.points()["ws_responses.connections.open"]
        assert (opened.value, dict(opened.attributes)) == (1, {"server.address": "127.0.0.1"})
        server.config.refuse_upgrade = 426
        manager.close()
    with ConnectionManager(hooks=[hook]) as manager:
        outcome(socket_model(server, manager), "invoke", "x")
    points = telemetry.points()
    assert points["ws_responses.connections.open"][0].value == 0
    assert points["ws_responses.connections.closed"][0].attributes["ws_responses.why"] == "closed"
    assert points["ws_responses.dial.duration"][0].count == 1
    assert points["ws_responses.dials.failed"][0].attributes["error.type"] == "dial_failed"


# -- without it ----------------------------------------


def test_without_the_api_it_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import langchain_ws_responses\n"
        "try:\n    from langchain_ws_responses import otel\n"
        "except ImportError as exc:\n    print(exc)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    assert 'pip install "langchain-ws-responses[otel]"' in done.stdout


def test_without_an_sdk_nothing_happens(manager: ConnectionManager) -> None:
    otel.instrument()
    try:
        with ResponsesServer("one") as server:
            assert socket_model(server, manager).invoke("x").text == "one"
        assert not trace.get_current_span().is_recording()
    finally:
        otel.uninstrument()


def test_nothing_else_loads_the_api() -> None:
    code = (
        "import sys, langchain_ws_responses._langchain.chat_models\n"
        "print('langchain_ws_responses.otel' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout == "False\n"
