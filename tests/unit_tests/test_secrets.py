"""No error shows a secret: every class of error is raised for real while canaries stand in everything that is secret.

A new place where what happens is written down (a trace, spans, a cassette) is one more line in `canaries.SINKS`.
Where a canary may be seen it is said at that place, with the reason. `test_secrets_in_sessions.py` looks at what goes
well.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from canaries import (
    HISTORY,
    Callbacks,
    Stage,
    Tracer,
    all_logs,
    canary,
    look_up,
    model_of,
    pickles_of,
    seen_in,
    shown_by,
)
from langchain_core.load import dumpd, dumps
from langchain_core.messages import HumanMessage
from transport_kit import deaf, on_io, read_head

from langchain_ws_responses import ChatOpenAIWebSocket, Limits, errors, failure_of
from langchain_ws_responses._transport.retry import set_testing
from langchain_ws_responses.errors import ConfigurationError
from langchain_ws_responses.testing import drop, error, hold, raw, text


@pytest.fixture(autouse=True)
def at_once() -> Iterator[None]:
    set_testing(True)
    yield
    set_testing(False)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with ExitStack() as stack:
        yield Stage(stack, tmp_path)


# -- every class of error, for real ----------------------------------------


def echo(status: str) -> Callable[[Any], None]:
    """A server (or gateway) that throws back whatever it was sent: in its status line, header fields and body."""

    def handler(connection: Any) -> None:
        head = read_head(connection).decode("latin-1")
        flat = " ".join(head.split())
        lines = "".join(f"X-Echo-{n}: {line}\r\n" for n, line in enumerate(head.splitlines()) if line)
        body = json.dumps({"error": {"code": flat, "message": head}}).encode()
        connection.sendall(
            f"HTTP/1.1 {status} {flat[:500]}\r\n{lines}Set-Cookie: {canary('key')}\r\n"
            f"Location: http://127.0.0.1:1/?{canary('key')}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        deaf(connection)
        connection.close()

    return handler


def refused(status: str) -> Callable[[Stage], ChatOpenAIWebSocket]:
    return lambda stage: stage.model(stage.raw(echo(status)))


def closed_port(stage: Stage) -> ChatOpenAIWebSocket:
    return model_of("http://127.0.0.1:1/v1", stage.manage(1))


def readable_by_others(stage: Stage) -> ChatOpenAIWebSocket:
    return model_of("http://host.invalid/v1", stage.manage(1))


def deaf_server(stage: Stage) -> ChatOpenAIWebSocket:
    def handler(connection: Any) -> None:
        deaf(connection)
        connection.close()

    return stage.model(stage.raw(handler), Limits(connect_timeout=0.1))


def babbling_server(stage: Stage) -> ChatOpenAIWebSocket:
    def handler(connection: Any) -> None:
        connection.sendall(b"220 " + read_head(connection) + b"\r\n\r\n")
        connection.close()

    return stage.model(stage.raw(handler))


def playing(answer: Any, **options: Any) -> Callable[[Stage], ChatOpenAIWebSocket]:
    """A model and a server that plays one thing for as long as it is asked."""
    more = {"limits": options.pop("limits", None), **options}
    return lambda stage: stage.model(stage.serve(answer=lambda _request: answer), **more)


def stalling(stage: Stage) -> Any:
    """An answer that never ends while the test runs."""
    gate = threading.Event()
    stage.stack.callback(gate.set)
    return hold(gate, text(canary("answer"), 8), after_events=5)


def timing_out(**clock: float) -> Callable[[Stage], ChatOpenAIWebSocket]:
    return lambda stage: stage.model(stage.serve(answer=lambda _request: stalling(stage)), **clock)


def crowded(**limits: Any) -> Callable[[Stage], ChatOpenAIWebSocket]:
    """A model whose only place is taken."""

    def make(stage: Stage) -> ChatOpenAIWebSocket:
        base_url = stage.serve(answer=lambda _request: stalling(stage))
        model = stage.model(base_url, Limits(max_connections=1, max_in_flight=1, **limits))
        model.preconnect()
        while not stage.manager.stats().connections_open:
            on_io(lambda: None)
        other = model.stream([HumanMessage(canary("prompt"))])
        next(other)
        stage.stack.callback(other.close)
        return model

    return make


def overflowing(stage: Stage) -> ChatOpenAIWebSocket:
    long = text(f"{canary('answer')} " * 2000, 400)
    # One byte: whoever reads at full speed still has a whole event waiting at some moment.
    return stage.model(stage.serve(answer=lambda _request: long), Limits(max_lane_bytes=1))


def closed(stage: Stage) -> ChatOpenAIWebSocket:
    model = stage.model(stage.serve())
    model.close()
    return model


def leaking_event(status: int, code: str) -> Any:
    """An `error` event whose header fields are secret; its words are the server's and passed on as over HTTP."""
    headers = {"Set-Cookie": canary("key"), "Authorization": canary("key"), "x-request-id": "req_1"}
    return error(status=status, code=code, message="It went wrong.", headers=headers)


BROKEN_FRAME = raw(['{"type":"response.created","response":{"id":"' + canary("answer") + '",,}}'])
FAULTS: dict[str, tuple[Callable[[Stage], ChatOpenAIWebSocket], str]] = {
    "a key in the clear": (readable_by_others, "ConfigurationError"),
    "302": (refused("302"), "HandshakeRejected"),
    "400": (refused("400"), "HandshakeRejectedBadRequest"),
    "401": (refused("401"), "HandshakeRejectedAuthentication"),
    "403": (refused("403"), "HandshakeRejectedPermissionDenied"),
    "404": (refused("404"), "HandshakeRejectedNotFound"),
    "409": (refused("409"), "HandshakeRejectedConflict"),
    "422": (refused("422"), "HandshakeRejectedUnprocessableEntity"),
    "429": (refused("429"), "HandshakeRejectedRateLimit"),
    "500": (refused("500"), "HandshakeRejectedInternalServer"),
    "nobody there": (closed_port, "DialFailed"),
    "no HTTP": (babbling_server, "DialFailed"),
    "deaf": (deaf_server, "DialTimeout"),
    "lost": (playing(drop(4, answer=canary("answer")), on_ambiguous="raise"), "ConnectionLost"),
    "lost with a reason": (playing(drop(4, 1011), on_ambiguous="raise"), "ConnectionLost"),
    "stalled": (timing_out(timeout=0.2), "TurnTimeout"),
    "stalled stream": (timing_out(stream_chunk_timeout=0.2), "StreamChunkTimeout"),
    "no lane": (crowded(lease_timeout=0.05), "LeaseTimeout"),
    "too many": (crowded(max_waiting=0), "TooManyWaiting"),
    "too large": (
        playing(text(canary("answer") * 2000), limits=Limits(max_message_size=10_000), on_ambiguous="raise"),
        "MessageTooLarge",
    ),
    "overflow": (overflowing, "BufferOverflow"),
    "broken frame": (playing(BROKEN_FRAME, on_ambiguous="raise"), "ProtocolViolation"),
    "no event": (playing(raw([json.dumps([canary("answer")])]), on_ambiguous="raise"), "ProtocolViolation"),
    "closed": (closed, "ManagerClosed"),
    "event without a status": (
        playing(error(status=None, code="odd", message="No.", type=None)),
        "ServerEventError",
    ),
    "event 402": (playing(leaking_event(402, "odd")), "ServerEventErrorAPIStatus"),
    "event 400": (playing(leaking_event(400, "invalid_prompt")), "ServerEventErrorBadRequest"),
    "event 401": (playing(leaking_event(401, "invalid_api_key")), "ServerEventErrorAuthentication"),
    "event 403": (playing(leaking_event(403, "permission_denied")), "ServerEventErrorPermissionDenied"),
    "event 404": (playing(leaking_event(404, "model_not_found")), "ServerEventErrorNotFound"),
    "event 409": (playing(leaking_event(409, "conflict_error")), "ServerEventErrorConflict"),
    "event 422": (playing(leaking_event(422, "odd")), "ServerEventErrorUnprocessableEntity"),
    "event 429": (playing(leaking_event(429, "insufficient_quota")), "ServerEventErrorRateLimit"),
    "event 500": (playing(leaking_event(500, "server_error")), "ServerEventErrorInternalServer"),
}
ABSTRACT = {"WebSocketResponsesError", "TransportError"}


def test_every_class_of_error_has_a_fault_that_raises_it() -> None:
    classes, queue = set(), [errors.WebSocketResponsesError]
    while queue:
        cls = queue.pop()
        classes.add(cls.__name__)
        queue += cls.__subclasses__()
    assert {name for _, name in FAULTS.values()} == classes - ABSTRACT


def call(model: Any, way: str, config: Any) -> None:
    """Asks in one of the ways; a stream is read late, when much of it has piled up."""
    if way == "invoke":
        model.invoke(HISTORY, config)
        return

    async def stream() -> None:
        chunks = model.astream(HISTORY, config)
        await chunks.__anext__()
        if model.manager.limits.max_lane_bytes == 20_000:
            while model.manager.stats().in_flight:  # noqa: ASYNC110 - what piles up wakes nobody
                await asyncio.sleep(0)
        async for _ in chunks:
            pass

    asyncio.run(stream())


@pytest.mark.parametrize("way", ["invoke", "astream"])
@pytest.mark.parametrize("key", [canary("key") + "\r\nX: 1", [canary("key")]], ids=["line break", "no text"])
def test_a_key_that_a_callable_gives_is_not_shown_when_it_is_refused(
    stage: Stage, key: Any, way: str
) -> None:
    callbacks, tracer = Callbacks(), Tracer()
    with all_logs() as logs:
        model = stage.model(stage.serve(), api_key=lambda: key)
        with pytest.raises(ConfigurationError) as raised:
            call(model, way, {"callbacks": [callbacks, tracer, *stage.callbacks]})
    shown = shown_by(raised.value) + logs.but() + callbacks.text + tracer.frame + repr(model) + dumps(model)
    assert (seen_in(shown), seen_in(pickles_of(raised.value))) == (set(), set())
    assert stage.seen() == {}
    assert callbacks.errors


@pytest.mark.parametrize("way", ["invoke", "astream"])
@pytest.mark.parametrize("fault", FAULTS)
def test_no_error_shows_a_secret_anywhere(stage: Stage, fault: str, way: str) -> None:
    make, name = FAULTS[fault]
    if name in ("BufferOverflow", "StreamChunkTimeout"):
        way = "astream"  # only a stream piles up, or has this clock
    callbacks, tracer = Callbacks(), Tracer()
    with all_logs() as logs:
        model = make(stage)
        bound = model.bind_tools([look_up])
        with pytest.raises(Exception) as raised:  # noqa: PT011 - what it is, is looked at below
            call(model, way, {"callbacks": [callbacks, tracer, *stage.callbacks]})
        stage.manager.close()
    ours = failure_of(raised.value)
    assert type(ours).__name__ == name, repr(raised.value)
    sinks = {
        "the error": shown_by(raised.value) + shown_by(ours),
        "its pickle": pickles_of(raised.value),
        "logs": logs.but(),
        "callbacks": callbacks.text,
        "traces": tracer.frame,
        "hooks": repr(stage.events),
        "manager": repr(stage.manager) + repr(stage.manager.stats()),
        "explanation": model.explain(),
        "model": repr(model) + str(model) + repr(bound) + dumps(model) + json.dumps(dumpd(bound)),
    }
    assert {sink: seen for sink, shown in sinks.items() if (seen := seen_in(shown))} == {}
    assert stage.seen() == {}
    # The sinks are not empty, or nothing would be proved.
    assert pickles_of(raised.value)
    assert callbacks.errors
    assert "ws_responses.reason" in stage.sinks["telemetry"].read()
    assert model.explain().startswith("The last turn ended with ")
    assert "HTTP" in logs.but() or name in (
        "ConfigurationError",
        "DialFailed",
        "ManagerClosed",
        "DialTimeout",
    )
