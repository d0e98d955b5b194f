"""Limits, the retry policy and the provider profiles: the documented values, and what is refused."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from langchain_ws_responses._protocol.limits import Limits, Profile, RetryPolicy, profile_for

MIB = 1024 * 1024
DEFAULTS: dict[str, Any] = {
    "max_connections": None,
    "max_in_flight": 16,
    "max_lanes": 32,
    "max_waiting": 1024,
    "lease_timeout": 60,
    "max_lifetime": 3300,
    "max_idle": 300,
    "connect_timeout": 10,
    "first_event_timeout": 60,
    "between_events_timeout": 600,
    "ping_interval": 20,
    "ping_timeout": 20,
    "max_message_size": 64 * MIB,
    "max_lane_bytes": 32 * MIB,
    "max_total_bytes": 256 * MIB,
}
RETRY_DEFAULTS: dict[str, Any] = {
    "max_attempts": 6,
    "initial_delay": 0.5,
    "max_delay": 8,
    "max_elapsed": 60,
}
WHOLE = {
    "max_connections",
    "max_in_flight",
    "max_lanes",
    "max_waiting",
    "max_message_size",
    "max_lane_bytes",
    "max_total_bytes",
}
SECONDS = set(DEFAULTS) - WHOLE


def test_the_defaults_are_the_documented_ones() -> None:
    assert dataclasses.asdict(Limits()) == DEFAULTS
    assert dataclasses.asdict(RetryPolicy()) == RETRY_DEFAULTS


@pytest.mark.parametrize("config", [Limits(), RetryPolicy(), Profile(name="x")])
def test_configuration_is_frozen_and_by_keyword_only(config: Any) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, 1)
    with pytest.raises(TypeError, match="positional"):
        type(config)(1)
    assert config == dataclasses.replace(config)
    assert hash(config) == hash(dataclasses.replace(config))


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_none_means_no_limit_except_for_the_limits_of_the_server(name: str) -> None:
    if name in ("max_in_flight", "max_lanes"):
        with pytest.raises(TypeError, match=f"Limits\\({name}=…\\) must be a whole number, not NoneType"):
            Limits(**{name: None})
    else:
        assert getattr(Limits(**{name: None}), name) is None


@pytest.mark.parametrize("name", sorted(DEFAULTS))
@pytest.mark.parametrize("value", [True, False, "5", 5j, [5], b"5"])
def test_what_is_no_number_is_refused_with_the_name_of_the_option(name: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"Limits\\({name}=…\\) must be .*, not {type(value).__name__}"):
        Limits(**{name: value})


@pytest.mark.parametrize("name", sorted(DEFAULTS))
def test_negative_numbers_are_refused_and_zero_where_it_could_never_work(name: str) -> None:
    with pytest.raises(ValueError, match=f"Limits\\({name}=-1\\)"):
        Limits(**{name: -1})
    if name == "max_waiting":
        assert Limits(max_waiting=0).max_waiting == 0
    else:
        with pytest.raises(ValueError, match=f"Limits\\({name}=0\\) must be above zero"):
            Limits(**{name: 0})


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_counts_and_sizes_are_whole_numbers(name: str) -> None:
    with pytest.raises(TypeError, match="whole number, not float"):
        Limits(**{name: 2.0})
    assert getattr(Limits(**{name: 2}), name) == 2


@pytest.mark.parametrize("name", sorted(SECONDS))
def test_times_may_have_a_fraction_but_must_be_numbers(name: str) -> None:
    assert getattr(Limits(**{name: 0.25}), name) == 0.25
    with pytest.raises(ValueError, match=name):
        Limits(**{name: math.nan})


@pytest.mark.parametrize("name", ["initial_delay", "max_delay", "max_elapsed"])
def test_a_retry_policy_may_wait_not_at_all(name: str) -> None:
    assert getattr(RetryPolicy(**{name: 0}), name) == 0
    with pytest.raises(ValueError, match=f"RetryPolicy\\({name}=-1\\)"):
        RetryPolicy(**{name: -1})


def test_a_retry_policy_makes_at_least_one_attempt() -> None:
    assert RetryPolicy(max_attempts=1, max_elapsed=None).max_attempts == 1
    with pytest.raises(ValueError, match="max_attempts"):
        RetryPolicy(max_attempts=0)
    for name in ("max_attempts", "initial_delay", "max_delay"):
        with pytest.raises(TypeError, match=f"RetryPolicy\\({name}=…\\)"):
            RetryPolicy(**{name: None})
    with pytest.raises(TypeError, match="whole number"):
        RetryPolicy(max_attempts=1.5)  # type: ignore[arg-type]


# Host, name, lanes known, lifetime in seconds, WebSocket offered, input of a warm-up kept (the wire facts).
SERVERS = [
    ("api.openai.com", "openai", True, 3600, True, True),
    ("API.OpenAI.com.", "openai", True, 3600, True, True),
    ("my-resource.openai.azure.com", "azure", None, 3600, True, False),
    ("My-Resource.OPENAI.Azure.com", "azure", None, 3600, True, False),
    ("api.x.ai", "xai", None, 1500, True, False),
    ("ai-gateway.vercel.sh", "vercel", None, 3600, True, False),
    ("openrouter.ai", "openrouter", None, 3600, False, False),
    ("127.0.0.1", "unknown", None, 3600, True, False),
    ("localhost", "unknown", None, 3600, True, False),
    ("litellm.example.com", "unknown", None, 3600, True, False),
    ("", "unknown", None, 3600, True, False),
    # Names that only look like a known one.
    ("api.openai.com.example.com", "unknown", None, 3600, True, False),
    ("notapi.openai.com", "unknown", None, 3600, True, False),
    ("evilopenai.azure.com", "unknown", None, 3600, True, False),
    ("openai.azure.com.example.com", "unknown", None, 3600, True, False),
]


@pytest.mark.parametrize(("host", "name", "lanes", "lifetime", "websocket", "keeps"), SERVERS)
def test_what_is_known_about_a_host(
    host: str, name: str, lanes: bool | None, lifetime: float, websocket: bool, keeps: bool
) -> None:
    profile = profile_for(host)
    assert (profile.name, profile.lanes, profile.max_lifetime) == (name, lanes, lifetime)
    assert (profile.websocket, profile.keeps_warm_up) == (websocket, keeps)
