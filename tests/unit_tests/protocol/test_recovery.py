"""What follows a failure: the table of the design, written out by hand."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import pytest

from langchain_ws_responses._protocol.recovery import Action, Decision, Progress, decide, replay_of
from langchain_ws_responses._types import Failure, FailureKind, Phase, Reason, Replay

K, P = FailureKind, Phase
WRITTEN = [P.SENT, P.CREATED, P.STREAMING]
SEEN = {P.CONNECT: 0, P.SENT: 0, P.CREATED: 1, P.STREAMING: 3, P.TERMINAL: 5}

RAISE_SAFE = Decision(Action.RAISE, Replay.SAFE)
RAISE_AMBIGUOUS = Decision(Action.RAISE, Replay.AMBIGUOUS)
RAISE_UNSAFE = Decision(Action.RAISE, Replay.UNSAFE)
AGAIN_NOW = Decision(Action.AGAIN, Replay.SAFE)
AGAIN_LATER = Decision(Action.AGAIN, Replay.SAFE, back_off=True)
RESEND_ONCE = Decision(Action.FULL, Replay.AMBIGUOUS, Reason.CONNECTION_LOST)


def failed(kind: FailureKind, phase: Phase = P.CONNECT, **fields: Any) -> Failure:
    return Failure(kind, phase=phase, **{"events_seen": SEEN[phase], **fields})


def server_error(code: str | None = None, status: int | None = None, phase: Phase = P.SENT) -> Failure:
    return failed(K.SERVER_ERROR, phase, code=code, status=status)


# -- nothing written: the same request again ---


@pytest.mark.parametrize("kind", [K.CONNECTION_LOST, K.FIRST_EVENT_TIMEOUT, K.PROTOCOL_VIOLATION])
def test_before_anything_is_written_the_same_request_is_sent_again(kind: FailureKind) -> None:
    assert decide(failed(kind), Progress(redials=1)) == AGAIN_LATER
    assert decide(failed(kind), Progress(redials=1, side_effects=True, on_ambiguous="raise")) == AGAIN_LATER
    assert decide(failed(kind), Progress(redials=1, attempts=6)) == RAISE_SAFE


@pytest.mark.parametrize("attempts", [1, 6, 7])
@pytest.mark.parametrize("given", [{}, {"side_effects": True, "on_ambiguous": "raise", "resends": 1}])
def test_a_socket_that_was_dead_before_the_send_is_replaced_once_however_few_attempts_are_allowed(
    attempts: int, given: dict[str, Any]
) -> None:
    """As HTTP clients replace a kept connection that the server has closed; a second time it is a failed attempt."""
    progress = Progress(attempts=attempts, **given)
    assert decide(failed(K.CONNECTION_LOST), progress) == Decision(Action.AGAIN, Replay.SAFE, free=True)
    for kind in (K.FIRST_EVENT_TIMEOUT, K.DIAL_FAILED, K.LANES_UNSUPPORTED):
        assert not decide(failed(kind), progress).free
    for phase in WRITTEN:
        assert not decide(failed(K.CONNECTION_LOST, phase), progress).free


def test_a_server_without_lanes_is_asked_again_at_once() -> None:
    assert decide(failed(K.LANES_UNSUPPORTED), Progress()) == AGAIN_NOW


# -- refused with a code that proves no generation ---


@pytest.mark.parametrize(
    "code",
    [
        "websocket_connection_limit_reached",
        "websocket_stream_limit_reached",
        "invalid_stream_id",
        "unknown_stream_id",
        "concurrent_turn_not_supported",
    ],
)
def test_a_refusal_that_proves_no_generation_is_harmless(code: str) -> None:
    for progress in (Progress(), Progress(is_delta=True), Progress(side_effects=True, on_ambiguous="raise")):
        assert decide(server_error(code, 400), progress) == AGAIN_NOW
        assert decide(server_error(code, 400, P.CREATED), progress) == AGAIN_NOW
    assert decide(server_error(code, 400), Progress(attempts=6)) == RAISE_SAFE


@pytest.mark.parametrize("attempts", [1, 6, 7])
@pytest.mark.parametrize("side_effects", [True, False])
def test_a_response_that_is_gone_costs_one_silent_full_send(attempts: int, side_effects: bool) -> None:
    """A lost id must change nothing but the bytes, however few attempts the caller allows."""
    progress = Progress(
        is_delta=True, attempts=attempts, side_effects=side_effects, on_ambiguous="raise", resends=1
    )
    expected = Decision(Action.FULL, Replay.SAFE, Reason.NOT_FOUND)
    assert decide(server_error("previous_response_not_found", 400), progress) == expected
    assert decide(server_error("previous_response_not_found"), progress) == expected


def test_a_response_that_the_caller_named_itself_is_the_callers_matter() -> None:
    failure = server_error("previous_response_not_found", 400)
    assert decide(failure, Progress(is_delta=False)) == RAISE_SAFE


@pytest.mark.parametrize("attempts", [1, 6])
@pytest.mark.parametrize(
    ("kind", "reason"), [(K.PARENT_GONE, Reason.NOT_ALIVE), (K.PARENT_IGNORED, Reason.IGNORED)]
)
def test_a_parent_that_is_gone_or_ignored_costs_one_full_send(
    kind: FailureKind, reason: Reason, attempts: int
) -> None:
    progress = Progress(is_delta=True, attempts=attempts)
    assert decide(failed(kind, P.SENT), progress) == Decision(Action.FULL, Replay.SAFE, reason)


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("rate_limit_exceeded", 429),
        (None, 429),
        ("server_is_overloaded", 503),
        ("server_is_overloaded", None),
        ("slow_down", None),
        ("server_error", 500),
        (None, 502),
        (None, 599),
    ],
)
def test_trouble_that_passes_is_waited_for(code: str | None, status: int | None) -> None:
    failure = server_error(code, status)
    assert decide(failure, Progress()) == AGAIN_LATER
    assert decide(failure, Progress(is_delta=True, side_effects=True, on_ambiguous="raise")) == AGAIN_LATER
    assert decide(failure, Progress(attempts=5)) == AGAIN_LATER
    assert decide(failure, Progress(attempts=6)) == RAISE_SAFE
    assert decide(failure, Progress(attempts=1, max_attempts=1)) == RAISE_SAFE


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached"])
def test_waiting_does_not_fill_an_account(code: str) -> None:
    assert decide(server_error(code, 429), Progress()) == RAISE_SAFE


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, None])
def test_other_refusals_are_raised_at_once(status: int | None) -> None:
    assert decide(server_error("invalid_value", status), Progress()) == RAISE_SAFE
    assert decide(server_error(None, status), Progress(is_delta=True)) == RAISE_SAFE


# -- the outcome is unknown ---


@pytest.mark.parametrize("phase", WRITTEN)
@pytest.mark.parametrize(
    "kind",
    [
        K.CONNECTION_LOST,
        K.FIRST_EVENT_TIMEOUT,
        K.BETWEEN_EVENTS_TIMEOUT,
        K.PROTOCOL_VIOLATION,
        K.LANES_UNSUPPORTED,
    ],
)
@pytest.mark.parametrize("is_delta", [True, False])
def test_a_turn_with_an_unknown_outcome_is_sent_once_more_in_full(
    kind: FailureKind, phase: Phase, is_delta: bool
) -> None:
    failure = failed(kind, phase)
    assert decide(failure, Progress(is_delta=is_delta)) == RESEND_ONCE
    for forbids in ({"on_ambiguous": "raise"}, {"side_effects": True}, {"resends": 1}, {"attempts": 6}):
        assert decide(failure, Progress(is_delta=is_delta, **forbids)) == RAISE_AMBIGUOUS


@pytest.mark.parametrize("phase", [P.CREATED, P.STREAMING])
@pytest.mark.parametrize(("code", "status"), [("server_error", 500), ("slow_down", 503), (None, 502)])
def test_a_server_that_fails_after_it_began_may_have_generated(
    phase: Phase, code: str | None, status: int
) -> None:
    failure = server_error(code, status, phase)
    assert decide(failure, Progress()) == RESEND_ONCE
    assert decide(failure, Progress(side_effects=True)) == RAISE_AMBIGUOUS
    assert decide(failure, Progress(on_ambiguous="raise")) == RAISE_AMBIGUOUS
    assert decide(failure, Progress(resends=1)) == RAISE_AMBIGUOUS


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("websocket_connection_limit_reached", 400),
        ("rate_limit_exceeded", 429),
        ("previous_response_not_found", 400),
    ],
)
def test_output_outweighs_a_code_that_would_prove_no_generation(code: str, status: int) -> None:
    failure = server_error(code, status, P.STREAMING)
    assert replay_of(failure, Progress()) is Replay.AMBIGUOUS
    decision = decide(failure, Progress(is_delta=True, side_effects=True))
    assert decision == RAISE_AMBIGUOUS
    if code != "previous_response_not_found":
        assert decide(failure, Progress(is_delta=True)) == RESEND_ONCE


@pytest.mark.parametrize("phase", [P.CREATED, P.STREAMING])
def test_a_bad_request_is_raised_however_late_it_comes(phase: Phase) -> None:
    assert decide(server_error("invalid_value", 400, phase), Progress()) == RAISE_AMBIGUOUS


def test_after_a_resend_the_turn_stays_ambiguous_whatever_comes_next() -> None:
    """The attempt before the resend may have generated an answer, even if this one provably did not."""
    after = Progress(resends=1, attempts=2)
    assert decide(server_error("invalid_value", 400), after) == RAISE_AMBIGUOUS
    assert decide(failed(K.LEASE_TIMEOUT), after) == RAISE_AMBIGUOUS
    assert decide(failed(K.DIAL_FAILED), after) == RAISE_AMBIGUOUS
    # That alone stops no attempt that can do no harm.
    assert decide(server_error(None, 429), after) == AGAIN_LATER
    assert decide(failed(K.CONNECTION_LOST), dataclasses.replace(after, redials=1)) == AGAIN_LATER


# -- tokens were handed over ---


@pytest.mark.parametrize("kind", list(K))
@pytest.mark.parametrize("phase", WRITTEN)
def test_after_the_first_token_nothing_is_ever_sent_again(kind: FailureKind, phase: Phase) -> None:
    progress = Progress(delivered=1, is_delta=True, may_use_http=True)
    assert decide(failed(kind, phase, status=429), progress) == RAISE_UNSAFE
    assert decide(failed(kind, phase, code="previous_response_not_found"), progress) == RAISE_UNSAFE


# -- dialing ---


@pytest.mark.parametrize(
    ("kind", "status", "over_http"),
    [
        (K.DIAL_FAILED, None, True),
        (K.DIAL_TIMEOUT, None, True),
        (K.HANDSHAKE_REJECTED, 200, True),
        (K.HANDSHAKE_REJECTED, 400, True),
        (K.HANDSHAKE_REJECTED, 404, True),
        (K.HANDSHAKE_REJECTED, 426, True),
        (K.HANDSHAKE_REJECTED, 405, True),
        (K.HANDSHAKE_REJECTED, 501, True),
        (K.HANDSHAKE_REJECTED, 401, False),
        (K.HANDSHAKE_REJECTED, 403, False),
        (K.HANDSHAKE_REJECTED, 407, False),
        (K.HANDSHAKE_REJECTED, 302, False),
        (K.HANDSHAKE_REJECTED, 429, False),
        (K.HANDSHAKE_REJECTED, 503, False),
    ],
)
def test_without_a_socket_http_takes_over_where_it_may_and_can(
    kind: FailureKind, status: int | None, over_http: bool
) -> None:
    failure = failed(kind, status=status)
    assert decide(failure, Progress(may_use_http=False)) == RAISE_SAFE
    expected = Decision(Action.HTTP, Replay.SAFE) if over_http else RAISE_SAFE
    assert decide(failure, Progress(may_use_http=True)) == expected
    assert decide(failure, Progress(may_use_http=True, attempts=9, side_effects=True)) == expected


# -- a frame above the limit ---


def test_a_request_that_is_too_large_for_the_socket_goes_over_http() -> None:
    for phase, replay in ((P.CONNECT, Replay.SAFE), (P.SENT, Replay.AMBIGUOUS)):
        failure = failed(K.MESSAGE_TOO_LARGE, phase, close_code=1009, refused=True)
        assert decide(failure, Progress(may_use_http=True)) == Decision(Action.HTTP, replay)
        refused_by_the_peer = Progress(may_use_http=True, side_effects=True)
        assert decide(failure, refused_by_the_peer) == Decision(Action.HTTP, replay)
        assert decide(failure, Progress(may_use_http=False)) == Decision(Action.RAISE, replay)


@pytest.mark.parametrize(
    ("phase", "refused"), [(P.SENT, False), (P.CREATED, False), (P.CREATED, True), (P.STREAMING, False)]
)
def test_an_answer_that_is_too_large_was_generated(phase: Phase, refused: bool) -> None:
    failure = failed(K.MESSAGE_TOO_LARGE, phase, refused=refused)
    assert decide(failure, Progress(may_use_http=True)) == Decision(Action.HTTP, Replay.AMBIGUOUS)
    for forbids in ({"side_effects": True}, {"on_ambiguous": "raise"}, {"resends": 1}):
        assert decide(failure, Progress(may_use_http=True, **forbids)) == RAISE_AMBIGUOUS


# -- what no further attempt can help ---


@pytest.mark.parametrize("kind", [K.CONFIGURATION, K.LEASE_TIMEOUT, K.TOO_MANY_WAITING])
def test_what_kept_a_turn_from_being_sent_is_raised_and_safe(kind: FailureKind) -> None:
    assert decide(failed(kind), Progress(may_use_http=True)) == RAISE_SAFE


@pytest.mark.parametrize("kind", [K.MANAGER_CLOSED, K.BUFFER_OVERFLOW])
@pytest.mark.parametrize("phase", WRITTEN)
def test_a_turn_that_was_cut_off_in_flight_is_raised_and_ambiguous(kind: FailureKind, phase: Phase) -> None:
    assert decide(failed(kind, phase), Progress(may_use_http=True)) == RAISE_AMBIGUOUS


def test_a_manager_that_was_closed_before_the_send_lost_nothing() -> None:
    assert decide(failed(K.MANAGER_CLOSED), Progress()) == RAISE_SAFE


# -- what holds for the whole table ---


def every_case() -> list[tuple[Failure, Progress]]:
    failures = [
        failed(kind, phase, status=status, code=code)
        for kind, phase, (status, code) in itertools.product(
            K,
            [P.CONNECT, *WRITTEN],
            [(None, None), (400, "previous_response_not_found"), (404, None), (429, None), (500, None)],
        )
    ]
    progresses = [
        Progress(
            delivered=delivered,
            resends=resends,
            is_delta=is_delta,
            side_effects=side_effects,
            on_ambiguous=on_ambiguous,
            may_use_http=may_use_http,
        )
        for delivered, resends, is_delta, side_effects, on_ambiguous, may_use_http in itertools.product(
            (0, 1), (0, 1), (True, False), (True, False), ("resend", "raise"), (True, False)
        )
    ]
    return list(itertools.product(failures, progresses))


def test_the_rules_that_no_case_may_break() -> None:
    cases = every_case()
    for failure, progress in cases:
        decision = decide(failure, progress)
        case = (failure, progress, decision)
        if progress.delivered:
            assert decision == RAISE_UNSAFE, case
            continue
        sends = decision.action is not Action.RAISE
        if sends and decision.replay is Replay.AMBIGUOUS and failure.events_seen:
            assert not progress.side_effects, case
            assert not progress.resends, case
            assert progress.on_ambiguous == "resend", case
        if decision.action is Action.HTTP:
            assert progress.may_use_http, case
        assert (decision.action is Action.FULL) == (decision.reason is not None), case
        assert not decision.back_off or decision.action is Action.AGAIN, case
        assert decision.replay is not Replay.UNSAFE, case
        # Nothing is tried for ever: with the attempts used up only what ends by itself goes on.
        used_up = dataclasses.replace(progress, attempts=progress.max_attempts, redials=1)
        last = decide(failure, used_up)
        assert last.action is not Action.AGAIN, case
    assert len(cases) == 17 * 4 * 5 * 64


def test_a_lost_id_and_a_full_quota_prove_it_also_after_the_first_event() -> None:
    """`response.created` alone is no output: the code still proves that nothing was generated."""
    gone = server_error("previous_response_not_found", 400, P.CREATED)
    assert decide(gone, Progress(is_delta=True)) == Decision(Action.FULL, Replay.SAFE, Reason.NOT_FOUND)
    assert replay_of(server_error(None, 429, P.CREATED), Progress()) is Replay.SAFE
    assert decide(server_error(None, 429, P.CREATED), Progress()) == AGAIN_LATER


def test_a_turn_has_had_one_attempt_and_no_resend_unless_told() -> None:
    assert decide(failed(K.CONNECTION_LOST, P.SENT), Progress(max_attempts=2)) == RESEND_ONCE
    assert decide(failed(K.CONNECTION_LOST, P.SENT), Progress(max_attempts=1)) == RAISE_AMBIGUOUS
    # A caller's own `previous_response_id` is not known to be a delta of ours.
    assert decide(server_error("previous_response_not_found", 400), Progress()) == RAISE_SAFE
