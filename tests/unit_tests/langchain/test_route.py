"""What a model's turns have in common: clocks, secrets, sides of a decision that need no server."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import openai
import pytest
from pydantic import SecretStr

from langchain_ws_responses import ChatOpenAIWebSocket, Limits
from langchain_ws_responses._langchain.route import (
    Clocks,
    Route,
    clocks_for,
    clocks_of,
    secret_for,
)
from langchain_ws_responses._protocol.chain import ChainKey

LIMITS = Limits(first_event_timeout=60, between_events_timeout=600)


@pytest.mark.parametrize(
    ("timeout", "expected"),
    [
        (None, Clocks(60, 600)),
        (5, Clocks(5, 5)),
        (2.5, Clocks(2.5, 2.5)),
        ((1.0, 7.0), Clocks(7, 7)),
        ((1.0, 7.0, 3.0, 4.0), Clocks(7, 7)),
        (openai.Timeout(9.0, read=4.0), Clocks(4, 4)),
        (openai.Timeout(None), Clocks(None, None)),
    ],
)
def test_what_the_user_set_wins_over_the_limits(timeout: Any, expected: Clocks) -> None:
    assert clocks_for(LIMITS, timeout) == expected


def test_no_timeout_for_a_call_means_no_limit() -> None:
    assert clocks_of(None) == Clocks(None, None)


def test_secret_comes_from_the_user_then_the_key_then_the_process() -> None:
    secrets = [
        secret_for(SecretStr("s"), "k"),
        secret_for(None, "k"),
        secret_for(SecretStr("k"), None),
        secret_for(None, ""),
    ]
    assert len(set(secrets)) == 4
    assert secret_for(SecretStr("s"), "other") == secrets[0]
    assert secret_for(None, "k\n") == secrets[1]
    assert secret_for(None, None) == secret_for(None, " ") == secrets[3]


def model(**fields: Any) -> ChatOpenAIWebSocket:
    return ChatOpenAIWebSocket(
        **{"model": "m", "api_key": "sk-1", "base_url": "https://host.invalid/v1", **fields}
    )


def test_route_is_made_anew_when_a_field_that_it_depends_on_changes() -> None:
    made = model()
    first = made._current_route()
    assert made._current_route() is first
    made.temperature = 0.5
    assert made._current_route() is first
    for name, value in (
        ("chain", "off"),
        ("system_mode", "input"),
        ("on_ambiguous", "raise"),
        ("max_retries", 7),
        ("transport", "websocket"),
        ("request_timeout", 3.0),
        ("websocket_url", "wss://other.invalid/v1/responses"),
        ("openai_api_key", SecretStr("sk-2")),
        ("chain_secret", SecretStr("s")),
        ("default_headers", {"X-Mine": "1"}),
    ):
        before = made._current_route()
        setattr(made, name, value)
        after = made._current_route()
        assert after is not before, name
        assert made._current_route() is after
    assert after.endpoint is not None
    assert after.endpoint.label == "wss://other.invalid/v1/responses"
    assert after.max_attempts == 8
    assert after.clocks == Clocks(3.0, 3.0)
    assert first.endpoint is not None
    assert after.endpoint.key != first.endpoint.key


def test_copies_share_a_route_until_they_differ() -> None:
    made = model()
    first = made._current_route()
    same = made.model_copy(update={"temperature": 0.1})
    assert same._current_route() is first
    other = made.model_copy(update={"chain": "off"})
    assert other._current_route() is not first
    assert made._current_route() is first


def test_keys_of_models_differ_and_are_bounded() -> None:
    route = model()._current_route()
    key = route.key("a")
    assert isinstance(key, ChainKey)
    assert route.key("a") is key
    prints = {route.key(f"m{number}").fingerprint([b"x"]) for number in range(200)}
    assert len(prints) == 200
    assert route.key("a").fingerprint([b"x"]) == key.fingerprint([b"x"])
    assert len(route._keys) <= 65


def test_repr_of_a_route_holds_no_secret() -> None:
    made = model(chain_secret="s3cret", api_key="sk-very-own", organization="org")
    told = repr(made._current_route())
    assert "s3cret" not in told
    assert "sk-very-own" not in told
    asked = model(api_key=lambda: "sk-very-own")._current_route().asked()
    assert asked.api_key == "sk-very-own"
    assert "sk-very-own" not in repr(asked)


def print_under(route: Route) -> str:
    """The fingerprint of the same message under the key of a route."""
    return route.key("m").fingerprint([b"x"])


def test_route_under_a_key_is_kept_and_shares_no_socket_and_no_link_with_another_one() -> None:
    base = model(api_key=lambda: "unused")._current_route()
    one, other = base.under("sk-1"), base.under("sk-2")
    assert base.under("sk-1") is one
    assert one.endpoint is not None
    assert other.endpoint is not None
    assert one.endpoint.key != other.endpoint.key
    assert print_under(one) != print_under(other)
    assert print_under(one) == print_under(model(api_key="sk-1")._current_route())
    # Who was not asked has made no link, and nobody can make one in its name.
    nobody = ChainKey(b"", [*base.scope, "m"]).fingerprint([b"x"])
    assert print_under(base) not in (print_under(one), print_under(other), nobody)


def test_routes_under_keys_that_were_replaced_do_not_pile_up() -> None:
    base = model(api_key=lambda: "unused")._current_route()
    newest = [base.under(f"sk-{number}") for number in range(3000)][-1]
    assert base.under("sk-2999") is newest
    assert len(base._under) <= 1024


def test_a_key_in_use_stays_known_however_many_others_come_and_go() -> None:
    base = model(api_key=lambda: "unused")._current_route()
    used, unused = base.under("sk-used"), base.under("sk-unused")
    for number in range(3 * 1024):
        base.under(f"sk-{number}")
        assert base.under("sk-used") is used
    assert base.under("sk-unused") is not unused


def test_a_key_that_is_thrown_out_while_it_is_used_does_no_harm() -> None:
    class Emptied(OrderedDict[str, Route]):
        """Another thread makes room between two steps of this one."""

        def get(self, key: str, default: Any = None) -> Any:
            found = super().get(key, default)
            self.clear()
            return found

    base = replace(model(api_key=lambda: "unused")._current_route(), _under=Emptied())
    route = base.under("sk-1")
    assert base.under("sk-1") is route


def test_what_was_learned_of_a_server_holds_under_every_key() -> None:
    base = model(api_key=lambda: "unused")._current_route()
    base.under("sk-1").ignored += 2
    base.under("sk-1").generates_warm_ups = True
    assert not base.under("sk-2").continues
    assert not base.under("sk-2").keeps_warm_up
    assert model()._current_route().continues


@pytest.mark.parametrize(("secret", "options"), [(None, {"api_key": "sk-1"}), ("shared", {})])
def test_what_a_key_made_is_deleted_under_it_unless_links_are_shared(
    secret: str | None, options: Any
) -> None:
    route = model(api_key=lambda: "unused", chain_secret=secret)._current_route().under("sk-1")
    assert route.owner_options == options
    assert route.client_options == {"api_key": "sk-1"}
    assert model(chain_secret=secret)._current_route().owner_options == {}


def test_links_do_not_leave_an_authorization_header_of_the_user() -> None:
    def print_of(**headers: Any) -> str:
        return print_under(model(default_headers=headers)._current_route())

    assert len({print_of(), print_of(Authorization="a"), print_of(authorization="b")}) == 3
    assert print_of(Authorization="a") == print_of(authorization="a")


def test_route_of_a_model_for_http_needs_neither_manager_nor_endpoint() -> None:
    route = model(transport="http")._current_route()
    assert (route.manager, route.endpoint) == (None, None)
    assert route.uses_socket(agent=True) is False
    assert route.alive("resp_1", True) is True
    assert route.alive("resp_1", False) is False


@pytest.mark.parametrize(
    ("transport", "is_open", "may_dial", "agent", "expected"),
    [
        ("websocket", False, False, False, True),
        ("http", True, True, True, False),
        ("auto", True, False, False, True),
        ("auto", False, True, True, True),
        ("auto", False, True, False, False),
        ("auto", False, False, True, False),
    ],
)
def test_rules_of_auto(transport: str, is_open: bool, may_dial: bool, agent: bool, expected: bool) -> None:
    route = model()._current_route()
    route.transport = transport
    fake: Any = SimpleNamespace(is_open=lambda _: is_open, may_dial=lambda _: may_dial)
    route.manager = fake
    assert route.uses_socket(agent=agent) is expected
