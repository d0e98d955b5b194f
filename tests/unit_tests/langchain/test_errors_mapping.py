"""Errors: whatever the server or the user does wrong, the caller gets what HTTP would have raised, and no secret."""

from __future__ import annotations

import pickle
import traceback
from typing import TYPE_CHECKING, Any

import openai
import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import ContextOverflowError
from pairs import KEY, WAYS, http_model, outcome, socket_model
from pydantic import ValidationError

from langchain_ws_responses import ChatOpenAIWebSocket, failure_of
from langchain_ws_responses._protocol.events import PARSED_AT_ONCE
from langchain_ws_responses.errors import ConfigurationError, HandshakeRejected, ProtocolViolation
from langchain_ws_responses.testing import ResponsesServer, error, failed, incomplete, raw

if TYPE_CHECKING:
    from langchain_ws_responses import ConnectionManager

# status, code, type: what the service says over HTTP. The code or the type must tell the status where a frame
# holds none.
FAULTS = {
    400: ("invalid_prompt", "invalid_request_error"),
    401: ("invalid_api_key", "authentication_error"),
    403: ("permission_denied", "permission_error"),
    404: ("model_not_found", "not_found_error"),
    409: ("conflict_error", "conflict_error"),
    422: ("unprocessable", "invalid_request_error"),
    429: ("rate_limit_exceeded", "rate_limit_error"),
    500: ("server_error", "server_error"),
    503: ("server_is_overloaded", "server_error"),
}
SHAPES = ("nested", "status_code", "flat", "bare")
HEADERS = {"retry-after": "0", "x-ratelimit-remaining-requests": "0"}


def library_classes(exc: BaseException) -> set[type]:
    """The classes of an error that users of openai and LangChain can name."""
    libraries = ("openai", "langchain_openai", "langchain_core", "builtins")
    return {cls for cls in type(exc).__mro__ if cls.__module__.split(".")[0] in libraries}


def fault(status: int, shape: str = "nested", **more: Any) -> Any:
    code, kind = FAULTS[status]
    message = f"It went wrong with {status}."
    return error(
        status=status,
        code=code,
        type=kind,
        message=message,
        param="model",
        headers=HEADERS,
        shape=shape,
        **more,
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", FAULTS)
def test_error_event_raises_what_http_raises(manager: ConnectionManager, status: int, way: str) -> None:
    with ResponsesServer(fault(status)) as server:
        _, expected = outcome(http_model(server), way, "Hello")
        assert isinstance(expected, openai.APIStatusError)
        for shape in SHAPES:
            if status == 422 and shape in ("flat", "bare"):
                continue  # no code or type stands for 422
            for after_events in (0, 1, 2, 4, 99):
                server.add(fault(status, shape, after_events=after_events))
                _, raised = outcome(socket_model(server, manager), way, "Hello")
                where = f"{shape} after {after_events}: {raised!r}"
                assert isinstance(raised, openai.APIStatusError), where
                assert library_classes(raised) >= library_classes(expected), where
                assert raised.status_code == status or shape in ("flat", "bare"), where
                assert f"It went wrong with {status}." in str(raised), where
                assert (raised.body or {})["code"] == FAULTS[status][0], where
                assert raised.response.headers.items() >= HEADERS.items() or shape == "flat", where
                ours = failure_of(raised)
                assert ours is not None, where
                assert (ours.code, ours.param) == (FAULTS[status][0], "model"), where
                assert ours.replay == expected_replay(way, after_events, status), where
                assert ours.phase == expected_phase(after_events), where
                assert KEY not in leaks(raised), where


def expected_replay(way: str, after_events: int, status: int) -> str:
    """What a resend could do, from the table of the design: tokens were handed over, may have been made, or not."""
    if after_events >= 4:
        return "unsafe" if "stream" in way else "ambiguous"
    # Before output a 429 proves that nothing was generated.
    return "safe" if after_events == 0 or status == 429 else "ambiguous"


def expected_phase(after_events: int) -> str:
    """The server says created, in progress, item added, part added, and then gives text."""
    return {0: "sent", 1: "created", 2: "created"}.get(after_events, "streaming")


def leaks(exc: BaseException | None) -> str:
    """All that an error could show of itself."""
    told, seen = [], set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        # Each by itself: with all that it came from, each would be written again for every one that came of it.
        told += [str(exc), repr(exc), repr(exc.args), repr(vars(exc))]
        told += traceback.format_exception(exc, chain=False)
        exc = exc.__cause__ or exc.__context__
    return "\n".join(told)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
def test_overflowing_context_is_langchains_own_error(
    manager: ConnectionManager, shape: str, way: str
) -> None:
    def overflow(shape: str) -> Any:
        return error(
            status=400,
            code="context_length_exceeded",
            message="Input tokens exceed the configured limit of 272000 tokens.",
            shape=shape,
            param="input",
        )

    with ResponsesServer(overflow("nested"), overflow(shape)) as server:
        _, expected = outcome(http_model(server), way, "Hello")
        assert isinstance(expected, ContextOverflowError)
        _, raised = outcome(socket_model(server, manager), way, "Hello")
        assert library_classes(raised) >= library_classes(expected)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "answer",
    [failed(), failed("rate_limit_exceeded", "Slow."), incomplete("content_filter"), incomplete(text="Half")],
    ids=["failed", "failed for the rate", "filtered", "cut"],
)
def test_failed_and_incomplete_responses_end_as_over_http(
    manager: ConnectionManager, answer: Any, way: str
) -> None:
    with ResponsesServer(answer, answer) as server:
        expected_seen, expected = outcome(http_model(server), way, "Hello")
        seen, raised = outcome(socket_model(server, manager), way, "Hello")
        assert type(raised) is type(expected)
        assert str(raised) == str(expected)
        assert [message.text for message in seen] == [message.text for message in expected_seen]
        assert len(server.requests) == 2


class Hearing(BaseCallbackHandler):
    """Notes what callbacks and traces are told of a model call that failed."""

    def __init__(self) -> None:
        self.metadata: list[dict[str, Any]] = []

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.metadata += [one.message.response_metadata for [one] in kwargs["response"].generations]


@pytest.mark.parametrize("way", ["invoke", "ainvoke"])
def test_callbacks_are_told_the_body_of_a_failed_response(manager: ConnectionManager, way: str) -> None:
    over_http, over_socket = Hearing(), Hearing()
    schema = {"type": "function", "description": "x" * 200, "parameters": {}}
    tools = [{**schema, "name": f"tool_{number}"} for number in range(9)]
    sorry = failed("server_error", "Sorry.")
    with ResponsesServer("One.", "Two.", sorry, sorry) as server:
        model = socket_model(server, manager, callbacks=[over_socket])
        for _ in range(3):  # the tools come back each time, and are passed over from the second time on
            outcome(model, way, "Hello", tools=tools)
        outcome(http_model(server, callbacks=[over_http]), way, "Hello", tools=tools)
    [expected], [told] = over_http.metadata, over_socket.metadata
    own = {"id", "created_at"}
    assert {**told["body"], **dict.fromkeys(own)} == {**expected["body"], **dict.fromkeys(own)}
    assert told["body"]["error"] == {"code": "server_error", "message": "Sorry."}
    assert len(told["body"]["tools"]) == len(tools)
    assert told["status_code"] == expected["status_code"]


def test_turn_after_a_failed_response_is_sent_whole_and_right(manager: ConnectionManager) -> None:
    with ResponsesServer("One.", failed(), "Two.") as server:
        model = socket_model(server, manager)
        history = [("human", "First?"), model.invoke("First?"), ("human", "Second?")]
        _, raised = outcome(model, "invoke", history)
        assert isinstance(raised, ValueError)
        assert model.invoke(history).text == "Two."
        assert [item.get("role") for item in server.requests[2].seen] == ["user", "assistant", "user"]


# -- handshakes ----------------------------------------

REFUSALS = {
    401: (openai.AuthenticationError, "API key"),
    403: (openai.PermissionDeniedError, "may use this endpoint"),
    404: (openai.NotFoundError, "base_url"),
    426: (openai.APIStatusError, 'transport="auto"'),
    429: (openai.RateLimitError, "retry-after"),
    500: (openai.InternalServerError, "later"),
    503: (openai.InternalServerError, "later"),
    302: (openai.APIStatusError, "final address"),
    200: (openai.OpenAIError, "base_url"),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("status", REFUSALS)
def test_refused_handshake_names_the_remedy(
    manager: ConnectionManager, no_backoff: None, status: int, way: str
) -> None:
    cls, remedy = REFUSALS[status]
    headers = {"retry-after": "7", "location": "https://elsewhere.invalid/"}
    with ResponsesServer(refuse_upgrade=status, refuse_headers=headers) as server:
        _, raised = outcome(socket_model(server, manager), way, "Hello")
        assert isinstance(raised, cls)
        assert remedy in str(raised)
        ours = failure_of(raised)
        assert isinstance(ours, HandshakeRejected)
        assert (ours.replay, ours.phase, ours.status_code) == ("safe", "connect", status)
        assert KEY not in leaks(raised)
        if status == 429:
            assert isinstance(raised, openai.RateLimitError)
            assert raised.response.headers["retry-after"] == "7"
        assert len(server.handshakes) == 1
        assert not server.requests


def test_refused_dial_is_a_connection_error(manager: ConnectionManager, no_backoff: None) -> None:
    model = ChatOpenAIWebSocket(
        model="gpt-5.5",
        base_url="http://127.0.0.1:9/v1",
        api_key=KEY,
        manager=manager,
        transport="websocket",
        max_retries=0,
    )
    with pytest.raises(openai.APIConnectionError) as raised:
        model.invoke("Hello")
    assert "base_url" in str(failure_of(raised.value))
    assert KEY not in leaks(raised.value)


# -- frames that are none ----------------------------------------

CREATED = '{"type":"response.created","response":{"id":"resp_1","previous_response_id":null,"output":[]}}'
BROKEN = {
    "no JSON": ["this is no JSON " + KEY],
    "no object": ['["' + KEY + '"]'],
    "no type": ['{"kind":"' + KEY + '"}'],
    "binary": [b"\xff\xfe" + KEY.encode()],
    "broken delta": [CREATED, '{"type":"response.output_text.delta","delta":"' + KEY + '",,}'],
    "broken end": [CREATED, '{"type":"response.completed","response":{"id":"' + KEY + '",,}}'],
    # Long ones are read only by whoever waits for them.
    "broken long end": [
        CREATED,
        '{"type":"response.completed","response":{"id":"'
        + KEY
        + '","tools":"'
        + PARSED_AT_ONCE * "t"
        + '",,}}',
    ],
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("frames", BROKEN)
def test_frame_that_is_no_event_is_a_violation_that_quotes_nothing(
    manager: ConnectionManager, frames: str, way: str
) -> None:
    if frames == "broken delta" and "stream" not in way:
        frames = "broken end"  # a call without a stream never reads deltas
    with ResponsesServer(raw(BROKEN[frames]), "Fine.") as server:
        model = socket_model(server, manager, on_ambiguous="raise")
        _, raised = outcome(model, way, "Hello")
        assert isinstance(raised, openai.APIConnectionError)
        ours = failure_of(raised)
        assert isinstance(ours, ProtocolViolation)
        assert 'transport="http"' in str(ours)
        assert KEY not in leaks(raised)
        assert model.invoke("Hello").text == "Fine."


# -- what the user gets wrong ----------------------------------------


def made(**fields: Any) -> ChatOpenAIWebSocket:
    return ChatOpenAIWebSocket(
        **{"model": "gpt-5.5", "base_url": "https://host.invalid/v1", "api_key": KEY, **fields}
    )


BAD_FIELDS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown scheme": ({"base_url": "ftp://host.invalid/v1"}, "https://host/v1"),
    "no scheme": ({"base_url": "host.invalid/v1"}, "https://host/v1"),
    "scheme of the socket": ({"websocket_url": "ftp://host.invalid/v1/responses"}, "https://host/v1"),
    "no host": ({"base_url": "https:///v1"}, "https://host/v1"),
    "key with a line break": ({"api_key": f"{KEY}\nX-Evil: 1"}, "how it was copied"),
    "key with a space": ({"api_key": f"{KEY} x"}, "how it was copied"),
    "header name": ({"default_headers": {"X-Evil\r\nX": KEY}}, "default_headers"),
    "header value": ({"default_headers": {"X-Mine": f"{KEY}\r\nX: 1"}}, "line break"),
    "header of the handshake": ({"default_headers": {"Sec-WebSocket-Key": KEY}}, "default_headers"),
    "organization": ({"organization": f"org\n{KEY}"}, "line break"),
}


@pytest.mark.parametrize("fault", BAD_FIELDS)
def test_field_that_cannot_be_used_is_refused_with_its_remedy(fault: str) -> None:
    fields, remedy = BAD_FIELDS[fault]
    with pytest.raises(ConfigurationError) as raised:
        made(**fields)
    assert remedy in str(raised.value)
    assert KEY not in leaks(raised.value)
    assert isinstance(raised.value, ValueError)
    assert isinstance(raised.value, openai.OpenAIError)
    again = pickle.loads(pickle.dumps(raised.value))  # noqa: S301 - made two lines above
    assert str(again) == str(raised.value)


@pytest.mark.parametrize(
    "fault", ["key with a line break", "key with a space", "unknown scheme", "no scheme"]
)
def test_field_is_refused_over_http_too(fault: str) -> None:
    fields, remedy = BAD_FIELDS[fault]
    with pytest.raises(ConfigurationError) as raised:
        made(**fields, transport="http")
    assert remedy in str(raised.value)
    assert KEY not in leaks(raised.value)


@pytest.mark.parametrize("transport", ["auto", "http"])
@pytest.mark.parametrize("key", [None, "", "  "])
def test_missing_key_names_the_variable(key: str | None, transport: str) -> None:
    with pytest.raises(openai.OpenAIError, match="OPENAI_API_KEY"):
        ChatOpenAIWebSocket(model="gpt-5.5", api_key=key, transport=transport)


@pytest.mark.parametrize("where", ["field", "environment"])
@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_line_break_at_the_end_of_the_key_does_no_harm(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch, transport: str, where: str
) -> None:
    given: dict[str, Any] = {}
    if where == "environment":
        monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    else:
        given["api_key"] = f" {KEY}\n"
    with ResponsesServer(api_key=KEY) as server:
        model = ChatOpenAIWebSocket(
            model="gpt-5.5", base_url=server.base_url, manager=manager, transport=transport, **given
        )
        assert "Hello" in model.invoke("Hello").text


@pytest.mark.parametrize(
    "fields", [{"n": 0}, {"temperature": "hot"}, {"transport": "smoke"}, {"manager": KEY}]
)
def test_validation_error_quotes_no_argument(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as raised:
        ChatOpenAIWebSocket(**{"api_key": KEY, "model": "m", **fields})
    assert KEY not in leaks(raised.value)


@pytest.mark.parametrize("key", ["", "a b", 5])
def test_callable_key_that_gives_no_key_is_a_configuration_error(
    manager: ConnectionManager, key: Any
) -> None:
    with ResponsesServer() as server:
        model = ChatOpenAIWebSocket(
            model="gpt-5.5",
            base_url=server.base_url,
            api_key=lambda: key,
            manager=manager,
            transport="websocket",
        )
        with pytest.raises(ConfigurationError):
            model.invoke("Hello")
