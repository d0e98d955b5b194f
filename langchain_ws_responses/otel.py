"""OpenTelemetry: a span and metrics for each turn, after the semantic conventions for generative AI.

```python
from langchain_ws_responses import otel

otel.instrument()
```

Only the API is needed (`pip install "langchain-ws-responses[otel]"`); without an SDK nothing is recorded.
Spans and metrics hold no content, no key and no response id.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

try:
    from opentelemetry import context, metrics, trace
except ImportError as exc:
    raise ImportError(
        'langchain_ws_responses.otel needs the OpenTelemetry API: pip install "langchain-ws-responses[otel]".'
    ) from exc

from ._langchain.report import add_observer, remove_observer
from ._transport.hooks import ConnectionClosed, ConnectionOpened, DialGivenUp, DialRetrying, TransportEvent
from ._version import __version__
from .errors import failure_of

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider
    from opentelemetry.util.types import AttributeValue

    from ._langchain.turn import Turn

__all__ = ["ConnectionMetrics", "instrument", "uninstrument"]

_NAME = "langchain_ws_responses"
_DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_TOKENS = tuple(4**power for power in range(14))
_SIZES = tuple(4**power for power in range(4, 15))
# What other instrumentations leave in the context, or in the span of the model call that they report themselves.
_SUPPRESS_ALL = "suppress_instrumentation"
_SUPPRESS_MODELS = "suppress_language_model_instrumentation"
_OPERATIONS = frozenset({"chat", "generate_content", "text_completion"})
_OF_LANGCHAIN = (
    "opentelemetry.instrumentation.langchain",
    "opentelemetry.instrumentation.genai.langchain",
    "openinference.instrumentation.langchain",
)
_OF_OPENAI = (
    "opentelemetry.instrumentation.openai",
    "opentelemetry.instrumentation.openai_v2",
    "opentelemetry.instrumentation.genai.openai",
    "openinference.instrumentation.openai",
)
_PROVIDERS = {
    "api.x.ai": "x_ai",
    ".openai.azure.com": "azure.ai.openai",
    ".services.ai.azure.com": "azure.ai.openai",
}
_PARAMETERS = {
    "temperature": "gen_ai.request.temperature",
    "top_p": "gen_ai.request.top_p",
    "max_output_tokens": "gen_ai.request.max_tokens",
}
_FINISHED = {"max_output_tokens": "length"}


def instrument(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
    gen_ai: bool | None = None,
) -> None:
    """Reports every turn of every model of this process from now on; a second call replaces the first.

    Args:
        tracer_provider: Where spans go; the global provider if not given.
        meter_provider: Where metrics go; the global provider if not given.
        gen_ai: Whether to report `gen_ai.*`. If not given, it is left out of a turn that another instrumentation of
            LangChain or openai reports as well.
    """
    global _observer  # noqa: PLW0603 - there is one for the process
    with _lock:
        if _observer is not None:
            remove_observer(_observer)
        _observer = _Observer(tracer_provider, meter_provider, gen_ai)
        add_observer(_observer)


def uninstrument() -> None:
    """Reports no more turns."""
    global _observer  # noqa: PLW0603 - as above
    with _lock:
        if _observer is not None:
            remove_observer(_observer)
        _observer = None


@dataclass(frozen=True)
class _Began:
    """Where and when a turn began: the caller's context makes the span's parent."""

    context: Context
    wall: int
    clock: float


class _Observer:
    """Makes a span of a turn when it has ended: only then is it known how it was sent, and who else reports it."""

    def __init__(
        self,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        gen_ai: bool | None,
    ) -> None:
        self._gen_ai = gen_ai
        self._tracer = trace.get_tracer(_NAME, __version__, tracer_provider)
        meter = metrics.get_meter(_NAME, __version__, meter_provider)
        self._operation = meter.create_histogram(
            "gen_ai.client.operation.duration",
            unit="s",
            description="GenAI operation duration.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._tokens = meter.create_histogram(
            "gen_ai.client.token.usage",
            unit="{token}",
            description="Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=_TOKENS,
        )
        self._duration = meter.create_histogram(
            "ws_responses.turn.duration",
            unit="s",
            description="Duration of a turn, resends included.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._size = meter.create_histogram(
            "ws_responses.request.size",
            unit="By",
            description="Size of a turn's last request.",
            explicit_bucket_boundaries_advisory=_SIZES,
        )
        self._resends = meter.create_counter(
            "ws_responses.resends", unit="{resend}", description="Turns that were sent again."
        )

    def begin(self, turn: Turn) -> _Began:
        return _Began(context.get_current(), time.time_ns(), time.monotonic())

    def end(self, token: _Began, turn: Turn, error: BaseException | None) -> None:
        if context.get_value(_SUPPRESS_ALL, token.context):
            return
        gen_ai = self._gen_ai if self._gen_ai is not None else not _reported_elsewhere(turn, token.context)
        seconds = time.monotonic() - token.clock
        failed = _error_type(error)
        own = _own_attributes(turn, error)
        request = _request_attributes(turn)
        answer = _answer_attributes(turn)
        every = {**own, **request, **answer, **_request_parameters(turn)} if gen_ai else own
        span = self._tracer.start_span(
            f"chat {turn.model}".rstrip() if gen_ai else "ws_responses turn",
            context=token.context,
            kind=trace.SpanKind.CLIENT if gen_ai else trace.SpanKind.INTERNAL,
            attributes={**every, **failed},
            start_time=token.wall,
        )
        if failed:
            span.set_status(trace.StatusCode.ERROR)
        self._measure(own, failed, turn, seconds)
        if gen_ai:
            model = {name: value for name, value in answer.items() if name == "gen_ai.response.model"}
            self._measure_gen_ai({**request, **model}, answer, failed, seconds)
        span.end(token.wall + int(seconds * 1e9))

    def _measure(
        self, own: dict[str, AttributeValue], failed: dict[str, str], turn: Turn, seconds: float
    ) -> None:
        names = ("ws_responses.transport", "ws_responses.mode", "ws_responses.reason")
        labels = {**{name: own[name] for name in names}, **failed}
        self._duration.record(seconds, labels)
        transport = turn.transport()
        if transport["bytes"]:
            self._size.record(transport["bytes"], labels)
        if transport["resends"]:
            self._resends.add(transport["resends"], labels)

    def _measure_gen_ai(
        self,
        labels: dict[str, AttributeValue],
        answer: dict[str, AttributeValue],
        failed: dict[str, str],
        seconds: float,
    ) -> None:
        labels = {name: value for name, value in labels.items() if name != "openai.api.type"}
        self._operation.record(seconds, {**labels, **failed})
        for kind in ("input", "output"):
            count = answer.get(f"gen_ai.usage.{kind}_tokens")
            if isinstance(count, int):
                self._tokens.record(count, {**labels, "gen_ai.token.type": kind})


# -- what is said of a turn ----------------------------------------


def _own_attributes(turn: Turn, error: BaseException | None) -> dict[str, AttributeValue]:
    transport = turn.transport()
    told: dict[str, AttributeValue] = {
        "ws_responses.transport": transport["kind"],
        "ws_responses.mode": transport["mode"],
        "ws_responses.reason": transport["reason"],
        "ws_responses.items": transport["items"],
        "ws_responses.request.bytes": transport["bytes"],
        "ws_responses.resends": transport["resends"],
    }
    if transport["kind"] == "websocket":
        told["ws_responses.connection"] = transport["connection"]
        told["ws_responses.lane"] = transport["lane"]
        told["ws_responses.reused"] = transport["reused"]
        ticket = turn.ticket
        if ticket is not None and ticket.events and ticket.sent_at:
            told["ws_responses.first_event"] = max(0.0, ticket.first_at - ticket.sent_at)
            told["ws_responses.longest_gap"] = ticket.longest_gap
    if error is not None and not isinstance(error, Exception):  # cancelled, or a stream that was left
        told["ws_responses.abandoned"] = True
    return told


def _request_attributes(turn: Turn) -> dict[str, AttributeValue]:
    url = urlsplit(str(turn.route.scope[0] or ""))
    told: dict[str, AttributeValue] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": _provider(url.hostname or ""),
        "openai.api.type": "responses",
    }
    if turn.model:
        told["gen_ai.request.model"] = turn.model
    if url.hostname:
        told["server.address"] = url.hostname
        told["server.port"] = url.port or (80 if url.scheme in ("http", "ws") else 443)
    return told


def _provider(host: str) -> str:
    return next(
        (name for end, name in _PROVIDERS.items() if host == end or (end[0] == "." and host.endswith(end))),
        "openai",
    )


def _request_parameters(turn: Turn) -> dict[str, AttributeValue]:
    told: dict[str, AttributeValue] = {
        name: turn.settings[key]
        for key, name in _PARAMETERS.items()
        if isinstance(turn.settings.get(key), int | float)
    }
    if turn.wants_events:
        told["gen_ai.request.stream"] = True
    return told


def _answer_attributes(turn: Turn) -> dict[str, AttributeValue]:
    message: Any = turn.answer
    if message is None:
        return {}
    metadata = message.response_metadata
    told: dict[str, AttributeValue] = {}
    model = metadata.get("model_name") or metadata.get("model")
    if isinstance(model, str):
        told["gen_ai.response.model"] = model
    told["gen_ai.response.finish_reasons"] = (_finish_reason(message, metadata),)
    usage = getattr(message, "usage_metadata", None)
    if usage:
        told["gen_ai.usage.input_tokens"] = usage["input_tokens"]
        told["gen_ai.usage.output_tokens"] = usage["output_tokens"]
        cached = (usage.get("input_token_details") or {}).get("cache_read")
        reasoning = (usage.get("output_token_details") or {}).get("reasoning")
        if isinstance(cached, int):
            told["gen_ai.usage.cache_read.input_tokens"] = cached
        if isinstance(reasoning, int):
            told["gen_ai.usage.reasoning.output_tokens"] = reasoning
    return told


def _finish_reason(message: Any, metadata: dict[str, Any]) -> str:
    details = metadata.get("incomplete_details")
    if isinstance(details, dict) and isinstance(reason := details.get("reason"), str):
        return _FINISHED.get(reason, reason)
    return "tool_calls" if _asks(message) else "stop"


def _asks(message: Any) -> bool:
    """Whether an answer, or the last chunk of one, calls tools."""
    return bool(getattr(message, "tool_calls", None) or getattr(message, "tool_call_chunks", None))


def _error_type(error: BaseException | None) -> dict[str, str]:
    if not isinstance(error, Exception):
        return {}
    ours = failure_of(error)
    failure = getattr(ours, "failure", None)
    status = getattr(error, "status_code", None)
    if failure is not None and failure.kind.value != "server_error":
        return {"error.type": failure.kind.value}
    return {"error.type": str(status) if isinstance(status, int) else type(error).__qualname__}


# -- who else reports it ----------------------------------------


def _reported_elsewhere(turn: Turn, where: Context) -> bool:
    """Whether another instrumentation reports this turn as a model call."""
    if context.get_value(_SUPPRESS_MODELS, where):
        return True
    attributes = getattr(trace.get_current_span(where), "attributes", None) or {}
    if (
        attributes.get("gen_ai.operation.name") in _OPERATIONS
        or attributes.get("openinference.span.kind") == "LLM"
    ):
        return True
    if _is_active(_OF_LANGCHAIN) or os.environ.get("LANGSMITH_OTEL_ENABLED", "").lower() == "true":
        return True
    # Those of openai wrap its HTTP client, and see nothing of what goes over a socket.
    return turn.kind == "http" and _is_active(_OF_OPENAI)


def _is_active(modules: tuple[str, ...]) -> bool:
    """Whether one of these instrumentations has been switched on."""
    for name in modules:
        for word, value in list(vars(sys.modules.get(name, object)).items()):
            # Asking for an instance would make one, or set the one there is back.
            instance = value.__dict__.get("_instance") if word.endswith("Instrumentor") else None
            if getattr(instance, "_is_instrumented_by_opentelemetry", False):
                return True
    return False


class ConnectionMetrics:
    """A hook for a manager: how many connections are open, why they went, and how many dials failed.

    Args:
        meter_provider: Where metrics go; the global provider if not given.

    Example:
        ```python
        manager = ConnectionManager(hooks=[ConnectionMetrics()])
        ```
    """

    def __init__(self, *, meter_provider: MeterProvider | None = None) -> None:
        meter = metrics.get_meter(_NAME, __version__, meter_provider)
        self._open = meter.create_up_down_counter(
            "ws_responses.connections.open", unit="{connection}", description="Connections that are open."
        )
        self._closed = meter.create_counter(
            "ws_responses.connections.closed",
            unit="{connection}",
            description="Connections that went, by why.",
        )
        self._handshake = meter.create_histogram(
            "ws_responses.dial.duration",
            unit="s",
            description="Dials that succeeded, retries included.",
            explicit_bucket_boundaries_advisory=_DURATIONS,
        )
        self._failed = meter.create_counter(
            "ws_responses.dials.failed", unit="{dial}", description="Dials that failed, by kind of failure."
        )

    def __call__(self, event: TransportEvent, /) -> None:
        """Takes one event."""
        where = {"server.address": urlsplit(event.endpoint).hostname or ""}
        if isinstance(event, ConnectionOpened):
            self._open.add(1, where)
            self._handshake.record(event.seconds, where)
        elif isinstance(event, ConnectionClosed):
            self._open.add(-1, where)
            self._closed.add(1, {**where, "ws_responses.why": event.why})
        elif isinstance(event, DialRetrying | DialGivenUp):
            self._failed.add(1, {**where, "error.type": event.kind.value})


_lock = threading.Lock()
_observer: _Observer | None = None
