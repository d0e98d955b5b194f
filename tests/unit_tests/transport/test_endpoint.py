"""Endpoints: URLs, header fields, keys, and what tells two of them apart."""

from __future__ import annotations

import traceback
from typing import Any

import pytest

from langchain_ws_responses._transport.endpoint import bearer, check_headers, endpoint_for, websocket_url_for
from langchain_ws_responses.errors import ConfigurationError

CANARY = "canary-5f2a"
URL = "wss://api.example.com/v1/responses"


def refused(**options: Any) -> str:
    """What the refusal says; no part of it may show the canary."""
    with pytest.raises(ConfigurationError) as caught:
        endpoint_for(**{"url": URL, "credential": "sk-a", **options})
    shown = "".join(traceback.format_exception(caught.type, caught.value, caught.tb, limit=0))
    assert CANARY not in shown + repr(caught.value) + str(caught.value.args)
    assert caught.value.__cause__ is None
    return str(caught.value)


@pytest.mark.parametrize(
    ("base", "url"),
    [
        ("https://api.openai.com/v1", "wss://api.openai.com/v1/responses"),
        ("https://api.openai.com/v1/", "wss://api.openai.com/v1/responses"),
        ("http://127.0.0.1:8000/v1", "ws://127.0.0.1:8000/v1/responses"),
        ("ws://127.0.0.1:8000/v1", "ws://127.0.0.1:8000/v1/responses"),
        ("wss://gateway.example/a/b/v1//", "wss://gateway.example/a/b/v1/responses"),
        ("https://gateway.example", "wss://gateway.example/responses"),
        ("HTTPS://Gateway.example/v1", "wss://Gateway.example/v1/responses"),
        ("https://[::1]:8443/v1", "wss://[::1]:8443/v1/responses"),
        ("https://x.openai.azure.com/openai/v1?a=1", "wss://x.openai.azure.com/openai/v1/responses?a=1"),
        ("https://gateway.example/v1#part", "wss://gateway.example/v1/responses"),
    ],
)
def test_the_websocket_url_comes_from_the_base_url(base: str, url: str) -> None:
    assert websocket_url_for(base) == url
    assert endpoint_for(url=url, credential="sk-a").url == url


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://host/v1", "'ftp'"),
        ("host/v1", "use http, https, ws or wss"),
        ("", "use http, https, ws or wss"),
        ("https:///v1", "names no host"),
        ("https://host:99999/v1", "is not a URL"),
        ("https://[::1/v1", "is not a URL"),
        (f"https://user:{CANARY}@host/v1", "holds user info"),
        ("https://host/v1 x", "holds a space or a line break"),
        ("https://host/v1\r\nX-Evil: 1", "holds a space or a line break"),
        ("https://host/v1\n", "holds a space or a line break"),
    ],
)
def test_a_base_url_that_cannot_be_used_is_refused_with_the_remedy(url: str, says: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        websocket_url_for(url)
    assert says in str(caught.value)
    assert "base_url" in str(caught.value)
    assert CANARY not in repr(caught.value)


@pytest.mark.parametrize(
    ("query", "written"),
    [
        ({"api-version": "preview"}, "?api-version=preview"),
        ({"a": 1, "b": True, "c": None, "d": 0.5}, "?a=1&b=true&d=0.5"),
        ({"a": ["x", "y z"], "m": {"k": "v"}}, "?a%5B%5D=x&a%5B%5D=y+z&m%5Bk%5D=v"),
        ({"evil": "a&b=c#d\r\n"}, "?evil=a%26b%3Dc%23d%0D%0A"),
        ({}, ""),
        (None, ""),
    ],
)
def test_the_default_query_is_written_as_over_http(query: Any, written: str) -> None:
    endpoint = endpoint_for(url=URL, credential="sk-a", query=query)
    assert endpoint.url == URL + written
    assert endpoint.label == URL


def test_the_default_query_follows_the_urls_own() -> None:
    endpoint = endpoint_for(url=URL + "?own=1", credential="sk-a", query={"more": 2})
    assert endpoint.url == URL + "?own=1&more=2"


@pytest.mark.parametrize(
    "name", ["", "with space", "colon:", "line\r\nX-Evil: 1", "new\nline", "ünlaut", "tab\t", "(x)", 7]
)
def test_header_names_are_tokens(name: Any) -> None:
    assert "not a valid HTTP header name" in refused(headers={name: CANARY})


@pytest.mark.parametrize(
    "value",
    [f"{CANARY}\r\nX-Evil: 1", f"a\n{CANARY}", f"{CANARY}\0", f"{CANARY}\x7f", f"é{CANARY}", f"{CANARY}→"],
)
def test_header_values_are_printable_ascii(value: str) -> None:
    assert "'X-Ok' holds a line break or another character" in refused(headers={"X-Ok": value})
    assert "'OpenAI-Organization' holds" in refused(organization=value)
    assert "'OpenAI-Project' holds" in refused(project=value)


@pytest.mark.parametrize(
    "name",
    ["Host", "connection", "UPGRADE", "Sec-WebSocket-Key", "sec-websocket-extensions", "Transfer-Encoding"],
)
def test_header_fields_of_the_handshake_are_reserved(name: str) -> None:
    assert "belongs to the handshake" in refused(headers={name: CANARY})


def test_header_fields_are_kept_as_given_and_placeholders_left_out() -> None:
    class Omit:
        pass

    assert check_headers({"X-A": " a\tb ", "X-B": Omit(), "X-C": "!#$%"}) == (
        ("X-A", "a\tb"),
        ("X-C", "!#$%"),
    )
    assert check_headers(None) == ()


def test_organization_and_project_are_header_fields_that_own_ones_override() -> None:
    endpoint = endpoint_for(
        url=URL, credential="sk-a", organization="org", project="proj", headers={"openai-project": "mine"}
    )
    assert dict(endpoint.headers) == {"OpenAI-Organization": "org", "openai-project": "mine"}


@pytest.mark.parametrize("key", [None, "", "  ", "\n"])
def test_a_missing_key_names_the_remedy(key: Any) -> None:
    with pytest.raises(ConfigurationError, match="Set OPENAI_API_KEY"):
        bearer(key)


@pytest.mark.parametrize(
    "key", [f"{CANARY}\nx", f"sk {CANARY}", f"{CANARY}\r\nX-Evil: 1", f"{CANARY}é", f"{CANARY}\0"]
)
def test_a_key_with_a_line_break_is_refused_without_showing_it(key: str) -> None:
    assert "Check how it was copied" in refused(credential=key)


def test_white_space_around_a_key_is_taken_off() -> None:
    assert bearer("  sk-a\n") == "Bearer sk-a"
    assert endpoint_for(url=URL, credential="sk-a\n").key == endpoint_for(url=URL, credential="sk-a").key


def test_an_own_authorization_header_stands_for_the_key() -> None:
    endpoint = endpoint_for(url=URL, credential="", headers={"Authorization": "Custom abc"})
    assert dict(endpoint.headers) == {"Authorization": "Custom abc"}


def test_nothing_secret_is_in_the_repr() -> None:
    endpoint = endpoint_for(
        url=f"{URL}?token={CANARY}",
        credential=CANARY,
        organization=CANARY,
        headers={"X-Secret": CANARY},
        query={"q": CANARY},
        proxy=f"http://u:{CANARY}@proxy:1",
    )
    assert repr(endpoint) == f"Endpoint(label={URL!r})"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {}, True),
        ({"credential": "sk-b"}, {}, False),
        ({"organization": "o"}, {}, False),
        ({"project": "p"}, {}, False),
        ({"organization": "p"}, {"project": "p"}, False),
        ({"headers": {"X": "1"}}, {}, False),
        ({"headers": {"X": "1", "Y": "2"}}, {"headers": {"Y": "2", "X": "1"}}, True),
        ({"query": {"a": "1"}}, {}, False),
        ({"proxy": "http://p:1"}, {}, False),
        ({"url": "wss://api.example.com/v2/responses"}, {}, False),
        ({"url": "ws://api.example.com/v1/responses"}, {}, False),
        ({"credential": None}, {}, False),
        ({"credential": None}, {"credential": None}, True),
        ({"headers": {"Authorization": "a"}}, {"headers": {"Authorization": "b"}}, False),
    ],
)
def test_endpoints_that_differ_in_anything_have_different_keys(
    one: dict[str, Any], other: dict[str, Any], same: bool
) -> None:
    keys = [endpoint_for(**{"url": URL, "credential": "sk-a", **options}).key for options in (one, other)]
    assert (keys[0] == keys[1]) is same


def test_an_endpoint_under_a_key_is_that_of_the_key() -> None:
    unasked = endpoint_for(url=URL, credential=None, headers={"X": "1"}, proxy="http://p:1")
    fixed = endpoint_for(url=URL, credential="sk-a", headers={"X": "1"}, proxy="http://p:1")
    assert unasked.under("sk-a") == fixed
    assert unasked.under("sk-a\n").key == fixed.key
    assert len({unasked.key, fixed.key, unasked.under("sk-b").key}) == 3
    with pytest.raises(ConfigurationError, match="Check how it was copied"):
        unasked.under("sk a")


def test_an_own_authorization_header_stands_for_any_key_that_is_asked_for() -> None:
    unasked = endpoint_for(url=URL, credential=None, headers={"authorization": "Custom abc"})
    assert unasked.under("sk-a").key == unasked.under("sk-b").key == unasked.key


def test_the_key_does_not_give_the_credential_away() -> None:
    for key in (
        endpoint_for(url=URL, credential=CANARY).key,
        endpoint_for(url=URL, credential=None).under(CANARY).key,
    ):
        assert CANARY not in key
        assert len(key) == 64


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("api.localhost", True),
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("[::1]", True),
        ("localhost.example.com", False),
        ("10.0.0.1", False),
        ("128.0.0.1", False),
        ("[::2]", False),
        ("127.0.0.1.nip.example", False),
    ],
)
def test_loopback_is_this_machine_only(host: str, loopback: bool) -> None:
    assert endpoint_for(url=f"ws://{host}:80/v1", credential="sk-a").loopback is loopback


@pytest.mark.parametrize(
    ("url", "profile", "lanes"),
    [
        ("wss://api.openai.com/v1/responses", "openai", True),
        ("wss://API.OPENAI.COM:443/v1/responses", "openai", True),
        ("wss://me.openai.azure.com/openai/v1/responses", "azure", None),
        ("wss://api.x.ai/v1/responses", "xai", None),
        ("ws://127.0.0.1:1/v1/responses", "unknown", None),
        ("wss://api.openai.com.example/v1/responses", "unknown", None),
    ],
)
def test_the_profile_comes_from_the_host(url: str, profile: str, lanes: bool | None) -> None:
    endpoint = endpoint_for(url=url, credential="sk-a")
    assert (endpoint.profile.name, endpoint.profile.lanes) == (profile, lanes)
