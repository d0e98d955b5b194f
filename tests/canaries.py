"""Invented secrets that are easy to find again, and everything that could show them."""

from __future__ import annotations

import base64
import gc
import logging
import pickle
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_core.tracers.base import BaseTracer
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pairs import http_clients
from transport_kit import Connect, raw_server

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager, Limits, TraceFile, otel
from langchain_ws_responses._inspect.page import as_page
from langchain_ws_responses._inspect.reading import Trace, read
from langchain_ws_responses._inspect.timeline import as_text
from langchain_ws_responses._inspect.totals import as_json
from langchain_ws_responses.testing import ResponsesServer

SECRETS = (
    "key",
    "organization",
    "project",
    "proxy-user",
    "proxy-password",
    "header",
    "query",
    "url-query",
    "chain-secret",
)
CONTENT = ("prompt", "tool-output", "tool-arguments", "answer")
EVERYTHING = (*SECRETS, *CONTENT)


def canary(name: str) -> str:
    """The secret of a name."""
    assert name in EVERYTHING
    return f"canary-{name}-c0ffee"


def _shapes(name: str) -> list[str]:
    """How a secret may look where it leaked; its letters need no escaping anywhere."""
    shapes = [canary(name)]
    if name.startswith("proxy"):
        pair = f"{canary('proxy-user')}:{canary('proxy-password')}"
        shapes.append(base64.b64encode(pair.encode()).decode())
    return shapes


def seen_in(shown: str | bytes, names: Iterable[str] = EVERYTHING) -> set[str]:
    """Names of the secrets that a text shows."""
    text = shown.decode("latin-1") if isinstance(shown, bytes) else shown
    return {name for name in names if any(shape in text for shape in _shapes(name))}


def chain_of(exc: BaseException | None) -> list[BaseException]:
    """An exception with all of its causes and contexts, suppressed ones too."""
    chain: list[BaseException] = []
    queue = [exc]
    while queue:
        current = queue.pop()
        if current is not None and not any(current is known for known in chain):
            chain.append(current)
            queue += [current.__cause__, current.__context__]
    return chain


def shown_by(exc: BaseException) -> str:
    """All that an exception could show of itself, of its causes and of its traceback (without local variables)."""
    shown = [*traceback.format_exception(type(exc), exc, exc.__traceback__)]
    for one in chain_of(exc):
        shown += [str(one), repr(one), repr(one.args), repr(vars(one)), repr(getattr(one, "__notes__", ()))]
        shown += traceback.format_tb(one.__traceback__)
        shown += [repr(vars(value)) for value in vars(one).values() if hasattr(value, "__dict__")]
    return "\n".join(shown)


def pickles_of(exc: BaseException) -> bytes:
    """The pickles of every error of ours in the chain."""
    ours = [one for one in chain_of(exc) if type(one).__module__.startswith("langchain_ws_responses")]
    return b"".join(pickle.dumps(one) for one in ours)


class Logs(logging.Handler):
    """All that any logger says at DEBUG: text, arguments, tracebacks and whatever else rides on a record."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.records: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Writes a record down."""
        shown = f"{logging.Formatter().format(record)} {record.args!r} {vars(record)!r}"
        self.records.append((record.name, shown))

    def of(self, *families: str) -> str:
        """What loggers of these families said."""
        return "\n".join(shown for name, shown in self.records if name.split(".")[0] in families)

    def but(self, *families: str) -> str:
        """What all loggers but those of these families said."""
        return "\n".join(shown for name, shown in self.records if name.split(".")[0] not in families)


@contextmanager
def all_logs() -> Iterator[Logs]:
    """Every logger of the process at DEBUG, also those that were made with a level of their own."""
    logs, root = Logs(), logging.getLogger()
    loggers = [root, *(one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger))]
    before = [(one, one.level, one.propagate, one.disabled) for one in loggers]
    for one in loggers:
        one.setLevel(logging.DEBUG)
        one.propagate, one.disabled = True, False
    root.addHandler(logs)
    try:
        yield logs
    finally:
        root.removeHandler(logs)
        for one, level, propagate, disabled in before:
            one.setLevel(level)
            one.propagate, one.disabled = propagate, disabled


class Callbacks(BaseCallbackHandler):
    """What callbacks get beside messages: the serialised model, parameters, tags, metadata and errors."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.errors: list[str] = []
        self.starts = 0

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        """Notes all but the messages, which are content by nature."""
        self.starts += 1
        self.told.append(repr((serialized, kwargs)))

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        """Notes the error; the part of the answer that came before it is content by nature."""
        kwargs.pop("response", None)
        self.errors.append(shown_by(error) + repr(kwargs))

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join([*self.told, *self.errors])


class Tracer(BaseTracer):
    """What a tracer such as LangSmith's would send, inputs and outputs apart."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[Any] = []

    def _persist_run(self, run: Any) -> None:
        self.runs.append(run)

    def _all(self) -> list[Any]:
        found, queue = [], list(self.runs)
        while queue:
            run = queue.pop()
            found.append(run)
            queue += run.child_runs
        return found

    @property
    def frame(self) -> str:
        """Everything but inputs and outputs."""
        return "\n".join(
            repr((run.name, run.serialized, run.extra, run.tags, run.error)) for run in self._all()
        )

    @property
    def whole(self) -> str:
        """Inputs and outputs too."""
        return self.frame + "\n".join(repr((run.inputs, run.outputs, run.events)) for run in self._all())


def living(package: str = "langchain_ws_responses") -> list[Any]:
    """Every object of this package that is alive."""
    # `type()` and not `isinstance`: some objects of others answer for classes that they are not.
    return [one for one in gc.get_objects() if str(type(one).__module__).startswith(package)]


# -- a model full of secrets ----------------------------------------


@tool
def look_up(word: str) -> str:
    """Looks a word up."""
    return canary("tool-output")


HISTORY = [
    HumanMessage(canary("prompt")),
    AIMessage(
        "", tool_calls=[{"name": "look_up", "args": {"word": canary("tool-arguments")}, "id": "call_1"}]
    ),
    ToolMessage(canary("tool-output"), tool_call_id="call_1"),
]


def fields(base_url: str, /, **more: Any) -> dict[str, Any]:
    """A model's fields with a secret in every place that can hold one."""
    return {
        "model": "gpt-5.5",
        "api_key": canary("key"),
        "organization": canary("organization"),
        "base_url": f"{base_url}?token={canary('url-query')}",
        "default_headers": {"X-Team": canary("header"), "OpenAI-Project": canary("project")},
        "default_query": {"signature": canary("query")},
        "chain_secret": canary("chain-secret"),
        "transport": "websocket",
        "max_retries": 0,
        **more,
    }


def model_of(base_url: str, manager: ConnectionManager | None = None, /, **more: Any) -> ChatOpenAIWebSocket:
    return ChatOpenAIWebSocket(**fields(base_url, **{"manager": manager, **http_clients(), **more}))


@dataclass
class Sink:
    """A place where something writes down what happens.

    Attributes:
        read: Gives what it holds.
        hook: What the manager tells, if that is how it hears.
        callback: What LangChain tells, if that is how it hears.
        names: What must not be seen in it: `SECRETS` where content is there by nature.
    """

    read: Callable[[], str | bytes]
    hook: Any = None
    callback: Any = None
    names: tuple[str, ...] = EVERYTHING


def _trace_file(stage: Stage) -> Sink:
    trace = stage.stack.enter_context(TraceFile(stage.folder / "trace.jsonl"))

    def read() -> bytes:
        assert trace.flush()
        return trace.path.read_bytes()

    return Sink(read, hook=trace)


def _inspected(show: Callable[[Trace], str]) -> Callable[[Stage], Sink]:
    """What `inspect` shows of a trace."""

    def make(stage: Stage) -> Sink:
        path = Path(stage.stack.enter_context(TemporaryDirectory()), "trace.jsonl")
        trace = stage.stack.enter_context(TraceFile(path))

        def shown() -> str:
            assert trace.flush()
            return show(read(path) if path.stat().st_size else Trace())

        return Sink(shown, hook=trace)

    return make


def _telemetry(stage: Stage) -> Sink:
    """Spans and metrics."""
    exporter, reader, tracers = InMemorySpanExporter(), InMemoryMetricReader(), TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider(metric_readers=[reader])
    otel.instrument(tracer_provider=tracers, meter_provider=meters)
    stage.stack.callback(otel.uninstrument)

    def shown() -> str:
        spans, data = exporter.get_finished_spans(), reader.get_metrics_data()
        return "\n".join([*(span.to_json() for span in spans), data.to_json() if data is not None else ""])

    return Sink(shown, hook=otel.ConnectionMetrics(meter_provider=meters))


# Whoever writes down what happens adds a line here: every class of error and the sessions are then held against it.
SINKS: dict[str, Callable[[Stage], Sink]] = {
    "trace file": _trace_file,
    "trace page": _inspected(lambda trace: as_page(trace, "trace")),
    "trace text": _inspected(lambda trace: "\n".join(as_text(trace, str))),
    "trace data": _inspected(lambda trace: repr(as_json(trace))),
    "telemetry": _telemetry,
}


@dataclass
class Stage:
    """A model whose socket goes through a proxy that wants credentials, and all that is told meanwhile."""

    stack: ExitStack
    folder: Path
    events: list[Any] = field(default_factory=list)
    manager: Any = None
    server: Any = None

    def __post_init__(self) -> None:
        self.sinks = {name: make(self) for name, make in SINKS.items()}

    @property
    def callbacks(self) -> list[Any]:
        """The sinks that hear from LangChain."""
        return [sink.callback for sink in self.sinks.values() if sink.callback is not None]

    def seen(self) -> dict[str, set[str]]:
        """What must not be seen in the sinks, and is."""
        found = {name: seen_in(sink.read(), sink.names) for name, sink in self.sinks.items()}
        return {name: seen for name, seen in found.items() if seen}

    def serve(self, *answers: Any, **options: Any) -> str:
        """Starts the local server; its base URL."""
        self.server = self.stack.enter_context(ResponsesServer(*answers, **options))
        return str(self.server.base_url)

    def raw(self, handler: Callable[[Any], None]) -> str:
        """Starts a TCP server; its base URL."""
        server = self.stack.enter_context(raw_server(handler))
        return f"http://127.0.0.1:{server.port}/v1"

    def proxy(self, base_url: str) -> int:
        """Starts a proxy in front of a server; its port."""
        port = int(base_url.rpartition(":")[2].split("/")[0])
        return self.stack.enter_context(raw_server(Connect(port))).port

    def manage(self, port: int, **options: Any) -> ConnectionManager:
        """A manager that dials through the proxy on a port."""
        self.manager = ConnectionManager(
            proxy=f"http://{canary('proxy-user')}:{canary('proxy-password')}@127.0.0.1:{port}",
            hooks=[self.events.append, *(sink.hook for sink in self.sinks.values() if sink.hook is not None)],
            **options,
        )
        self.stack.callback(self.manager.close)
        return self.manager

    def model(self, base_url: str, limits: Limits | None = None, **more: Any) -> ChatOpenAIWebSocket:
        return model_of(base_url, self.manage(self.proxy(base_url), limits=limits), **more)
