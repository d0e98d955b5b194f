"""Which proxy: the environment's variables by the HTTP client's rules, and URLs that can be used."""

from __future__ import annotations

from urllib.parse import urlsplit

import pytest

from langchain_ws_responses._transport import proxy as module
from langchain_ws_responses._transport.proxy import check_proxy, environment_proxy, proxy_url
from langchain_ws_responses.errors import ConfigurationError

CANARY = "canary-77b1"
TLS = "wss://api.example.com/v1/responses"
PLAIN = "ws://api.example.com:8080/v1/responses"


@pytest.mark.parametrize(
    ("url", "environment", "proxy"),
    [
        (TLS, {}, None),
        (TLS, {"HTTPS_PROXY": "http://s:1"}, "http://s:1"),
        (TLS, {"HTTP_PROXY": "http://p:1"}, None),
        (PLAIN, {"HTTP_PROXY": "http://p:1"}, "http://p:1"),
        (PLAIN, {"HTTPS_PROXY": "http://s:1"}, None),
        (TLS, {"ALL_PROXY": "http://a:1"}, "http://a:1"),
        (PLAIN, {"ALL_PROXY": "http://a:1"}, "http://a:1"),
        (TLS, {"HTTPS_PROXY": "http://s:1", "ALL_PROXY": "http://a:1"}, "http://s:1"),
        (TLS, {"https_proxy": "http://lower:1", "HTTPS_PROXY": "http://upper:1"}, "http://lower:1"),
        (TLS, {"WSS_PROXY": "http://w:1"}, None),
        (TLS, {"HTTPS_PROXY": ""}, None),
        (TLS, {"HTTPS_PROXY": "", "ALL_PROXY": "http://a:1"}, "http://a:1"),
    ],
)
def test_the_schemes_variable_comes_before_all_proxy(
    url: str, environment: dict[str, str], proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert environment_proxy(url) == proxy


@pytest.mark.parametrize(
    ("url", "no_proxy", "spared"),
    [
        (TLS, "*", True),
        (TLS, "api.example.com", True),
        (TLS, "API.Example.COM", True),
        (TLS, "example.com", True),
        (TLS, ".example.com", True),
        (TLS, "xample.com", False),
        (TLS, "other.org, example.com ,x", True),
        (TLS, "other.org", False),
        (TLS, "", False),
        (TLS, ",,", False),
        ("wss://example.com/v1", ".example.com", False),
        ("wss://example.com/v1", "example.com", True),
        (TLS, "api.example.com:443", True),
        (TLS, "api.example.com:8443", False),
        (PLAIN, "example.com:8080", True),
        (PLAIN, "example.com:80", False),
        ("ws://api.example.com/v1", "example.com:80", True),
        (TLS, "https://api.example.com", True),
        (TLS, "https://example.com", False),
        (TLS, "http://api.example.com", False),
        (PLAIN, "http://api.example.com", True),
        (TLS, "all://api.example.com", True),
        ("ws://127.0.0.1:9/v1", "127.0.0.1", True),
        ("ws://127.0.0.1:9/v1", "27.0.0.1", False),
        ("ws://[::1]:9/v1", "::1", True),
        ("ws://[::1]:9/v1", "[::1]", True),
        ("ws://[::1]:9/v1", "[::1]:9", True),
        ("ws://[::1]:9/v1", "[::1]:8", False),
        ("ws://localhost:9/v1", "localhost", True),
        ("ws://api.localhost:9/v1", "localhost", False),
    ],
)
def test_no_proxy_wins_over_every_variable(
    url: str, no_proxy: str, spared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://p:1")
    monkeypatch.setenv("HTTPS_PROXY", "http://p:1")
    monkeypatch.setenv("ALL_PROXY", "http://p:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert environment_proxy(url) == (None if spared else "http://p:1")


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ("http://proxy:3128", "http://proxy:3128"),
        ("proxy:3128", "http://proxy:3128"),
        ("https://proxy/", "https://proxy"),
        ("socks5h://proxy:1080", "socks5h://proxy:1080"),
        ("http://[::1]:3128", "http://[::1]:3128"),
    ],
)
def test_a_proxy_without_a_scheme_is_an_http_proxy(given: str, means: str) -> None:
    assert check_proxy(given).geturl() == means


@pytest.mark.parametrize(
    "given",
    [
        f"ftp://u:{CANARY}@proxy",
        f"http://u:{CANARY}@",
        f"http://u:{CANARY}@proxy:port",
        f"http://{CANARY}@proxy",
        "",
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_without_showing_it(given: str) -> None:
    with pytest.raises(ConfigurationError, match="Write it as http://") as caught:
        check_proxy(given)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "before_17"),
    [
        ("http://user:p%40ss%3Aword@proxy:1", "http://user:p@ss:word@proxy:1"),
        ("http://user:plain@proxy:1", "http://user:plain@proxy:1"),
        ("http://us%3Aer:x@proxy:1", "http://us%3Aer:x@proxy:1"),
        ("http://user:a%2Fb@proxy:1", "http://user:a%2Fb@proxy:1"),
        ("http://user:%C3%A9@proxy:1", "http://user:%C3%A9@proxy:1"),
        ("http://proxy:1", "http://proxy:1"),
    ],
)
@pytest.mark.parametrize("version", [16, 17])
def test_credentials_are_written_as_the_library_needs_them(
    given: str, before_17: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SENT_AS_WRITTEN", version < 17)
    assert proxy_url(check_proxy(given)) == (before_17 if version < 17 else given)
    assert urlsplit(before_17).hostname == "proxy"
