"""The errors: what `except` catches, what they say, and what they keep to themselves."""

from __future__ import annotations

import builtins
import copy
import pickle
import re
import sys
import traceback
from typing import Any

import langchain_core.exceptions
import openai
import pytest
from langchain_openai.chat_models import base as langchain_base

from langchain_ws_responses import errors
from langchain_ws_responses._types import Failure, FailureKind, Phase, Reason, Replay, SendMode
from langchain_ws_responses.errors import error_from, failure_of

K = FailureKind
SECRET = "sk-proj-0123456789"

# Written by hand from the documented tree: the class, its parent here, and the `openai` class that it also is.
TREE = [
    ("WebSocketResponsesError", "OpenAIError", "OpenAIError"),
    ("ConfigurationError", "WebSocketResponsesError", "OpenAIError"),
    ("TransportError", "WebSocketResponsesError", "OpenAIError"),
    ("HandshakeRejected", "TransportError", "APIStatusError"),
    ("DialFailed", "TransportError", "APIConnectionError"),
    ("DialTimeout", "DialFailed", "APITimeoutError"),
    ("ConnectionLost", "TransportError", "APIConnectionError"),
    ("TurnTimeout", "TransportError", "APITimeoutError"),
    ("LeaseTimeout", "TransportError", "APITimeoutError"),
    ("TooManyWaiting", "TransportError", "APIConnectionError"),
    ("MessageTooLarge", "TransportError", "APIConnectionError"),
    ("BufferOverflow", "TransportError", "APIConnectionError"),
    ("ProtocolViolation", "TransportError", "APIConnectionError"),
    ("ManagerClosed", "TransportError", "APIConnectionError"),
    ("ServerEventError", "WebSocketResponsesError", "APIError"),
]

CLASS_OF = {
    K.CONFIGURATION: "ConfigurationError",
    K.HANDSHAKE_REJECTED: "HandshakeRejected",
    K.DIAL_FAILED: "DialFailed",
    K.DIAL_TIMEOUT: "DialTimeout",
    K.CONNECTION_LOST: "ConnectionLost",
    K.FIRST_EVENT_TIMEOUT: "TurnTimeout",
    K.BETWEEN_EVENTS_TIMEOUT: "TurnTimeout",
    K.LEASE_TIMEOUT: "LeaseTimeout",
    K.TOO_MANY_WAITING: "TooManyWaiting",
    K.SERVER_ERROR: "ServerEventError",
    K.MESSAGE_TOO_LARGE: "MessageTooLarge",
    K.BUFFER_OVERFLOW: "BufferOverflow",
    K.PROTOCOL_VIOLATION: "ProtocolViolation",
    K.PARENT_GONE: "ConnectionLost",
    K.PARENT_IGNORED: "ProtocolViolation",
    K.LANES_UNSUPPORTED: "ProtocolViolation",
    K.MANAGER_CLOSED: "ManagerClosed",
}

# What the `openai` client raises over HTTP.
OVER_HTTP = {
    400: openai.BadRequestError,
    401: openai.AuthenticationError,
    403: openai.PermissionDeniedError,
    404: openai.NotFoundError,
    409: openai.ConflictError,
    422: openai.UnprocessableEntityError,
    429: openai.RateLimitError,
    500: openai.InternalServerError,
    502: openai.InternalServerError,
    503: openai.InternalServerError,
    529: openai.InternalServerError,
}


def every_error() -> list[errors.WebSocketResponsesError]:
    made = [
        error_from(Failure(kind, phase=Phase.SENT, message="It failed."), replay=replay)
        for kind in K
        for replay in Replay
    ]
    for kind in (K.HANDSHAKE_REJECTED, K.SERVER_ERROR):
        for status in (200, 302, 400, 401, 403, 404, 407, 409, 413, 422, 426, 429, 500, 503):
            made.append(error_from(Failure(kind, status=status, message="It failed."), replay=Replay.SAFE))
    return made


# -- the tree ---


@pytest.mark.parametrize(("name", "parent", "like"), TREE)
def test_each_class_stands_where_the_tree_says(name: str, parent: str, like: str) -> None:
    cls = getattr(errors, name)
    assert issubclass(cls, getattr(errors, parent, None) or getattr(openai, parent))
    assert issubclass(cls, getattr(openai, like))
    assert issubclass(cls, errors.WebSocketResponsesError)
    assert f"{name} " in (errors.__doc__ or "")
    assert name in errors.__all__


def test_the_tree_names_every_public_class_and_no_more() -> None:
    assert {name for name, _, _ in TREE} | {"failure_of"} == set(errors.__all__)


def test_a_timeout_is_a_connection_error_and_a_bad_option_a_value_error() -> None:
    assert issubclass(errors.TurnTimeout, openai.APIConnectionError)
    assert issubclass(errors.ConfigurationError, ValueError)
    assert not issubclass(errors.ConfigurationError, openai.APIError)
    assert not issubclass(errors.ServerEventError, errors.TransportError)
    assert not issubclass(errors.DialFailed, openai.APITimeoutError)


def test_every_kind_of_failure_has_its_class() -> None:
    assert set(CLASS_OF) == set(K)
    for kind, name in CLASS_OF.items():
        error = error_from(Failure(kind, message="It failed."), replay=Replay.SAFE)
        assert isinstance(error, getattr(errors, name)), kind
        assert error.failure.kind is kind


@pytest.mark.parametrize(("status", "expected"), OVER_HTTP.items())
@pytest.mark.parametrize("kind", [K.SERVER_ERROR, K.HANDSHAKE_REJECTED])
def test_a_status_raises_what_http_would_have_raised(
    kind: FailureKind, status: int, expected: type[openai.APIStatusError]
) -> None:
    headers = {"retry-after": "7", "x-request-id": "req_1"}
    failure = Failure(kind, status=status, code="c", param="p", message="No.", headers=headers)
    error = error_from(failure, replay=Replay.SAFE)
    assert isinstance(error, expected)
    assert isinstance(error, getattr(errors, CLASS_OF[kind]))
    assert (error.status_code, error.code, error.param) == (status, "c", "p")
    assert error.response.status_code == status
    assert error.response.headers["retry-after"] == "7"
    assert error.request_id == "req_1"
    assert error.body == {"type": None, "code": "c", "message": "No.", "param": "p"}


@pytest.mark.parametrize("status", [402, 405, 408, 413, 418, 426])
@pytest.mark.parametrize("kind", [K.SERVER_ERROR, K.HANDSHAKE_REJECTED])
def test_a_status_without_a_class_of_its_own_is_a_status_error(kind: FailureKind, status: int) -> None:
    error = error_from(Failure(kind, status=status, message="No."), replay=Replay.SAFE)
    assert isinstance(error, openai.APIStatusError)
    assert isinstance(error, getattr(errors, CLASS_OF[kind]))
    assert error.response.status_code == status
    assert not isinstance(error, tuple(OVER_HTTP.values()))


@pytest.mark.parametrize("status", [None, 200, 302])
def test_an_error_event_without_a_status_is_the_error_of_a_stream(status: int | None) -> None:
    error = error_from(Failure(K.SERVER_ERROR, status=status, code="odd", message="No."), replay=Replay.SAFE)
    assert type(error) is errors.ServerEventError
    assert isinstance(error, openai.APIError)
    assert not isinstance(error, openai.APIStatusError)
    assert (error.code, error.status_code) == ("odd", status)


@pytest.mark.parametrize("status", [200, 301, 302, 307, 101])
def test_an_upgrade_that_ends_elsewhere_keeps_its_status(status: int) -> None:
    error = error_from(Failure(K.HANDSHAKE_REJECTED, status=status, message="No."), replay=Replay.SAFE)
    assert type(error) is errors.HandshakeRejected
    assert (error.status_code, error.response.status_code) == (status, status)


# -- fields ---


def test_an_error_has_fields_to_branch_on() -> None:
    failure = Failure(
        K.CONNECTION_LOST,
        phase=Phase.STREAMING,
        message="It broke.",
        code="c",
        param="p",
        close_code=1006,
        events_seen=9,
    )
    error = error_from(failure, replay=Replay.UNSAFE)
    assert (error.code, error.param, error.status_code) == ("c", "p", None)
    assert (error.replay, error.phase) == (Replay.UNSAFE, Phase.STREAMING)
    assert (error.close_code, error.events_seen, error.failure) == (1006, 9, failure)
    assert error.replay == "unsafe"
    assert str(error.phase) == "streaming"


@pytest.mark.parametrize("word", [*K, *Phase, *Replay, *Reason, *SendMode])
def test_words_are_strings_that_print_as_themselves(word: Any) -> None:
    assert isinstance(word, str)
    assert word == word.value
    assert str(word) == f"{word}" == word.value
    assert re.fullmatch(r"[a-z_]+", word.value)


def test_a_plain_message_is_enough() -> None:
    error = errors.ConfigurationError("`base_url` is not a URL. Write it as https://host/v1.")
    assert str(error) == "`base_url` is not a URL. Write it as https://host/v1."
    assert (error.message, error.args) == (str(error), (str(error),))
    assert (error.failure.kind, error.phase, error.replay) == (K.CONFIGURATION, Phase.CONNECT, Replay.SAFE)
    assert errors.ManagerClosed("Closed.").failure.kind is K.MANAGER_CLOSED


@pytest.mark.parametrize("error", every_error(), ids=lambda error: f"{type(error).__name__}-{error.replay}")
def test_errors_survive_pickle_and_copy(error: errors.WebSocketResponsesError) -> None:
    copies = [copy.copy(error), copy.deepcopy(error)]
    copies += [pickle.loads(pickle.dumps(error, number)) for number in range(2, pickle.HIGHEST_PROTOCOL + 1)]  # noqa: S301 - its own
    for again in copies:
        assert type(again) is type(error)
        assert (str(again), again.args, again.failure) == (str(error), error.args, error.failure)
        assert (again.replay, again.advice, again.status_code) == (
            error.replay,
            error.advice,
            error.status_code,
        )


# -- words ---


@pytest.mark.parametrize("error", every_error(), ids=lambda error: f"{type(error).__name__}-{error.replay}")
def test_a_message_says_what_happened_and_ends_with_what_to_do(error: errors.WebSocketResponsesError) -> None:
    assert str(error).startswith("It failed.")
    assert str(error) == error.message
    if error.failure.kind is K.CONFIGURATION:
        return  # whoever finds the bad option knows the remedy and writes it into the message
    assert error.advice
    assert str(error).endswith(error.advice)
    last = re.split(r"(?<=\.) ", str(error))[-1]
    assert re.match(
        r"(Call|Check|Correct|Raise|Read|Redirects|Run|Send|The proxy wants|The WebSocket mode is not|Try|Use|Wait"
        r"|This endpoint has no)\b",
        last,
    ), last
    assert last.endswith(".")


REMEDIES = [
    (K.HANDSHAKE_REJECTED, 401, "API key"),
    (K.HANDSHAKE_REJECTED, 403, "project"),
    (K.HANDSHAKE_REJECTED, 404, "base_url"),
    (K.HANDSHAKE_REJECTED, 407, "proxy URL"),
    (K.HANDSHAKE_REJECTED, 426, 'transport="auto"'),
    (K.HANDSHAKE_REJECTED, 429, "retry-after"),
    (K.HANDSHAKE_REJECTED, 302, "base_url"),
    (K.HANDSHAKE_REJECTED, 400, "base_url"),
    (K.HANDSHAKE_REJECTED, 503, "later"),
    (K.DIAL_FAILED, None, "network"),
    (K.DIAL_TIMEOUT, None, "connect_timeout"),
    (K.FIRST_EVENT_TIMEOUT, None, "first_event_timeout"),
    (K.BETWEEN_EVENTS_TIMEOUT, None, "between_events_timeout"),
    (K.LEASE_TIMEOUT, None, "lease_timeout"),
    (K.TOO_MANY_WAITING, None, "max_waiting"),
    (K.MESSAGE_TOO_LARGE, None, 'transport="http"'),
    (K.BUFFER_OVERFLOW, None, "max_lane_bytes"),
    (K.PROTOCOL_VIOLATION, None, "base_url"),
    (K.MANAGER_CLOSED, None, "ConnectionManager"),
    (K.SERVER_ERROR, 401, "API key"),
    (K.SERVER_ERROR, 404, "model name"),
    (K.SERVER_ERROR, 429, "retry-after"),
    (K.SERVER_ERROR, 400, "request"),
    (K.SERVER_ERROR, 500, "later"),
]


@pytest.mark.parametrize(("kind", "status", "remedy"), REMEDIES)
def test_the_remedy_is_named(kind: FailureKind, status: int | None, remedy: str) -> None:
    error = error_from(Failure(kind, status=status, message="No."), replay=Replay.SAFE)
    assert remedy in error.advice
    # Where no connection came about, there is something that looks further.
    dialing = kind in (K.DIAL_FAILED, K.DIAL_TIMEOUT, K.HANDSHAKE_REJECTED)
    assert ("langchain_ws_responses doctor`" in error.advice) is dialing


def test_a_message_says_whether_the_turn_may_be_sent_again() -> None:
    words = {
        replay: str(error_from(Failure(K.CONNECTION_LOST, message="It broke."), replay=replay))
        for replay in Replay
    }
    assert "safe" in words[Replay.SAFE]
    assert "may have generated" in words[Replay.AMBIGUOUS]
    assert "already delivered" in words[Replay.UNSAFE]


def test_the_servers_code_is_in_the_text_once() -> None:
    error = error_from(
        Failure(K.SERVER_ERROR, code="odd_code", status=400, message="No."), replay=Replay.SAFE
    )
    assert str(error) == "No. (code: odd_code) Correct the request."
    named = Failure(K.SERVER_ERROR, code="odd_code", status=400, message="It is odd_code.")
    assert str(error_from(named, replay=Replay.SAFE)) == "It is odd_code. Correct the request."


# -- secrets ---


@pytest.mark.parametrize("kind", list(K))
def test_no_header_of_the_answer_is_shown(kind: FailureKind) -> None:
    failure = Failure(kind, status=429, message="No.", headers={"x-debug": SECRET, "retry-after": "1"})
    error = error_from(failure, replay=Replay.SAFE)
    shown = [
        str(error),
        repr(error),
        repr(error.args),
        repr(error.failure),
        repr(getattr(error, "body", None)),
    ]
    try:
        raise error
    except errors.WebSocketResponsesError:
        shown.append(traceback.format_exc())
    assert not [text for text in shown if SECRET in text]


def test_the_request_in_an_error_is_a_placeholder() -> None:
    for error in every_error():
        if isinstance(error, openai.APIError):
            assert str(error.request.url) == "wss://responses.invalid/v1/responses"
            assert "authorization" not in error.request.headers
            assert error.request.content == b""


@pytest.mark.parametrize(
    "headers", [{"x-é": "a"}, {"x": "é"}, {"x": "\ud800"}, {"": ""}, {"content-length": "x"}]
)
def test_odd_headers_make_no_odd_error(headers: dict[str, str]) -> None:
    failure = Failure(K.SERVER_ERROR, status=429, message="No.", headers={**headers, "retry-after": "3"})
    error = error_from(failure, replay=Replay.SAFE)
    assert isinstance(error, openai.RateLimitError)
    assert error.response.headers["retry-after"] == "3"


# -- finding them again ---


def lost() -> errors.WebSocketResponsesError:
    return error_from(Failure(K.CONNECTION_LOST, phase=Phase.SENT, message="No."), replay=Replay.AMBIGUOUS)


def test_an_error_is_found_as_itself_and_nothing_in_nothing() -> None:
    error = lost()
    assert failure_of(error) is error
    assert failure_of(None) is None
    assert failure_of(ValueError("other")) is None


def test_an_error_is_found_behind_causes_and_contexts() -> None:
    error = lost()

    def explicit() -> None:
        try:
            raise error
        except errors.WebSocketResponsesError as exc:
            raise RuntimeError("wrapped") from exc

    def implicit() -> None:
        try:
            explicit()
        except RuntimeError:
            raise KeyError("while handling")  # noqa: B904 - an implicit context is what is tested

    def hidden() -> None:
        try:
            implicit()
        except KeyError:
            raise LookupError("from nothing") from None

    for raises in (explicit, implicit, hidden):
        with pytest.raises(Exception, match=r".") as caught:
            raises()
        assert failure_of(caught.value) is error


def test_the_nearest_error_is_found() -> None:
    near, far = lost(), lost()
    near.__cause__ = far
    outer = RuntimeError("outer")
    outer.__cause__, outer.__context__ = ValueError("empty"), near
    assert failure_of(outer) is near


def test_a_circle_of_causes_ends() -> None:
    one, other = RuntimeError("one"), RuntimeError("other")
    one.__cause__, other.__cause__ = other, one
    assert failure_of(one) is None


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups need Python 3.11")
def test_an_error_is_found_in_exception_groups() -> None:
    error = lost()
    wrapped = RuntimeError("wrapped")
    wrapped.__cause__ = error
    group = builtins.ExceptionGroup  # type: ignore[attr-defined,unused-ignore]
    assert failure_of(group("outer", [ValueError(1), group("inner", [KeyError(2), wrapped])])) is error
    assert failure_of(group("outer", [ValueError(1)])) is None


@pytest.mark.parametrize(
    "value", [7, None, "text", {"a": 1}, [1, None, "x"], lambda: ()], ids=lambda value: type(value).__name__
)
def test_another_meaning_of_exceptions_does_no_harm(value: Any) -> None:
    odd = RuntimeError("odd")
    odd.exceptions = value  # type: ignore[attr-defined]
    assert failure_of(odd) is None
    odd.__cause__ = error = lost()
    assert failure_of(odd) is error


# -- LangChain's own mapping ---


def mapped(error: errors.WebSocketResponsesError) -> BaseException:
    """What LangChain raises for an error, called as `ChatOpenAI` calls it."""
    try:
        try:
            raise error
        except openai.BadRequestError as exc:
            langchain_base._handle_openai_bad_request(exc)
        except openai.APIError as exc:
            langchain_base._handle_openai_api_error(exc)
    except Exception as exc:
        return exc
    raise AssertionError("nothing was raised")


# The failure, and the class over HTTP that LangChain's subclass must still be.
MAPPED = [
    (Failure(K.SERVER_ERROR, status=400, code="invalid_value", message="No."), openai.BadRequestError),
    (Failure(K.SERVER_ERROR, status=401, message="No."), openai.AuthenticationError),
    (Failure(K.SERVER_ERROR, status=403, message="No."), openai.PermissionDeniedError),
    (Failure(K.SERVER_ERROR, status=404, message="No."), openai.NotFoundError),
    (Failure(K.SERVER_ERROR, status=409, message="No."), openai.ConflictError),
    (Failure(K.SERVER_ERROR, status=429, message="No."), openai.RateLimitError),
    (Failure(K.SERVER_ERROR, status=503, message="No."), openai.InternalServerError),
    (Failure(K.SERVER_ERROR, message="No."), openai.APIError),
    (Failure(K.HANDSHAKE_REJECTED, status=401, message="No."), openai.AuthenticationError),
    (Failure(K.HANDSHAKE_REJECTED, status=426, message="No."), openai.APIStatusError),
    (Failure(K.CONNECTION_LOST, message="No."), openai.APIConnectionError),
    (Failure(K.FIRST_EVENT_TIMEOUT, message="No."), openai.APITimeoutError),
    (Failure(K.LEASE_TIMEOUT, message="No."), openai.APITimeoutError),
    (Failure(K.MANAGER_CLOSED, message="No."), openai.APIConnectionError),
]


@pytest.mark.parametrize(
    ("failure", "expected"), MAPPED, ids=[f"{failure.kind}-{failure.status}" for failure, _ in MAPPED]
)
def test_langchain_maps_the_errors_as_it_maps_those_of_http(
    failure: Failure, expected: type[openai.APIError]
) -> None:
    error = error_from(failure, replay=Replay.SAFE)
    raised = mapped(error)
    assert isinstance(raised, expected)
    assert failure_of(raised) is error
    if raised is not error:
        assert raised.__cause__ is error
        assert str(error) in str(raised) or isinstance(raised, openai.APITimeoutError)


@pytest.mark.parametrize(
    "failure",
    [
        Failure(
            K.SERVER_ERROR,
            status=400,
            code="context_length_exceeded",
            param="input",
            message="Your input exceeds the context window of this model. Please adjust your input.",
        ),
        Failure(K.SERVER_ERROR, status=400, code="context_length_exceeded", message="Too long."),
        Failure(K.SERVER_ERROR, message="Your input exceeds the context window of this model."),
    ],
)
def test_langchain_recognises_an_overflow_of_the_context(failure: Failure) -> None:
    error = error_from(failure, replay=Replay.SAFE)
    raised = mapped(error)
    assert isinstance(raised, langchain_core.exceptions.ContextOverflowError)
    assert failure_of(raised) is error
