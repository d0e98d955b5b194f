"""What the openai client would send beside the request: the handshake has the same header fields and parameters."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
from pairs import _http, http_clients, http_model, socket_model

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager
from langchain_ws_responses.errors import ConfigurationError
from langchain_ws_responses.testing import ResponsesServer


def cookies(*domains: str) -> Any:
    jar = _http.Cookies()
    for domain in domains:
        jar.set("sid", f"of {domain}", domain=domain)
    return jar


def sent(request: Any) -> dict[str, str]:
    """The header fields of a request that may be the user's."""
    own = ("authorization", "cookie", "openai-organization", "openai-project")
    return {
        name: value
        for name, value in request.headers.items()
        if name in own or (name.startswith("x-") and not name.startswith("x-stainless"))
    }


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "nothing": ("", {}, {}),
    "environment": ("X-Env: 7", {}, {}),
    "environment and field": ("X-Env: 7\nX-B: 1", {"default_headers": {"x-env": "8"}}, {}),
    "authorization of the environment": ("Authorization: Bearer env", {}, {}),
    "authorization of the environment and a callable": (
        "Authorization: Bearer env",
        {"api_key": lambda: "asked"},
        {},
    ),
    "authorization of a field": (
        "Authorization: Bearer env",
        {"default_headers": {"Authorization": "own"}},
        {},
    ),
    "organization of the environment": ("OpenAI-Organization: env", {"organization": "field"}, {}),
    "header of the HTTP client": ("", {}, {"headers": {"X-A": "1", "User-Agent": "me", "Accept": "text/x"}}),
    "header of the HTTP client and a field": (
        "",
        {"default_headers": {"x-a": "2"}},
        {"headers": {"X-A": "1", "X-B": "3"}},
    ),
    "key and organization of the HTTP client": (
        "",
        {"organization": "field"},
        {
            "headers": {
                "Authorization": "Bearer http",
                "OpenAI-Organization": "http",
                "OpenAI-Project": "http",
            }
        },
    ),
    "cookies": ("", {}, {"cookies": {"sid": "1"}}),
    "cookies of some hosts": ("", {}, {"cookies": cookies("127.0.0.1", "elsewhere.invalid")}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_handshake_has_the_header_fields_of_a_request_over_http(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    environment, fields, options = CASES[case]
    if environment:
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", environment)
    with ResponsesServer() as server:
        http_model(server, **http_clients(**options), **fields).invoke("Hello")
        socket_model(server, manager, **http_clients(**options), **fields).invoke("Hello")
        over_http, over_socket = server.requests
    assert over_socket.transport == "websocket"
    assert sent(over_socket) == sent(over_http)


def test_a_client_for_async_calls_alone_counts_too(manager: ConnectionManager) -> None:
    own = http_clients(headers={"X-A": "1"})["http_async_client"]
    with ResponsesServer() as server:
        socket_model(server, manager, http_async_client=own).invoke("Hello")
        assert sent(server.requests[0])["x-a"] == "1"


def test_parameters_of_the_http_client_are_in_the_address(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        options = http_clients(params={"v": "2", "w": "1"})
        socket_model(server, manager, **options, default_query={"v": "3"}).invoke("Hello")
        assert [shake.path for shake in server.handshakes] == ["/v1/responses?v=3&w=1"]


_OF_THE_HANDSHAKE = ["Connection", "host", "Sec-WebSocket-Key", "Transfer-Encoding", "Upgrade"]


@pytest.mark.parametrize("field", _OF_THE_HANDSHAKE)
@pytest.mark.parametrize("source", ["OPENAI_CUSTOM_HEADERS", "http_client"])
def test_what_others_say_of_the_connection_is_for_http_alone(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch, source: str, field: str
) -> None:
    options: dict[str, Any] = {}
    if source == "http_client":
        options = http_clients(headers={field: "evil", "X-A": "1"})
    else:
        monkeypatch.setenv(source, f"{field}: evil\nX-A: 1")
    with ResponsesServer() as server:
        socket_model(server, manager, **options).invoke("Hello")
        assert server.requests[0].transport == "websocket"
        assert server.requests[0].headers["x-a"] == "1"
        assert "evil" not in server.requests[0].headers.values()


@pytest.mark.parametrize("field", _OF_THE_HANDSHAKE)
@pytest.mark.parametrize("environment", ["", "Connection: close\nHost: h\nUpgrade: h2c"])
def test_what_a_user_says_of_the_connection_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: str, field: str
) -> None:
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", environment)
    with pytest.raises(
        ConfigurationError, match=r"belongs to the handshake\. Take it out of `default_headers`\."
    ):
        ChatOpenAIWebSocket(model="m", api_key="sk-1", default_headers={field: "x"})


@pytest.mark.parametrize("name", ["OPENAI_CUSTOM_HEADERS", "http_client"])
def test_who_differs_in_them_shares_no_socket(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    with ResponsesServer() as server:
        for tenant in ("alice", "bob"):
            options: dict[str, Any] = {}
            if name == "http_client":
                options = http_clients(headers={"X-Tenant": tenant})
            else:
                monkeypatch.setenv(name, f"X-Tenant: {tenant}")
            socket_model(server, manager, **options).invoke("Hello")
        assert [connection.headers["x-tenant"] for connection in server.connections] == ["alice", "bob"]


@pytest.mark.parametrize("field", ["Authorization", "OpenAI-Organization", "OpenAI-Project"])
def test_links_do_not_leave_an_owner_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, field: str
) -> None:
    prints = []
    for owner in ("alice", "bob", "alice"):
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", f"{field}: {owner}")
        model = ChatOpenAIWebSocket(model="m", api_key="sk-1", base_url="https://host.invalid/v1")
        prints.append(model._current_route().key("m").fingerprint([b"x"]))
    assert prints[0] == prints[2] != prints[1]


def test_an_address_that_cannot_be_used_is_refused_as_ever() -> None:
    for url in ("ftp://host.invalid", "wss://host.invalid:99999/v1", "wss://a b/v1"):
        with pytest.raises(ConfigurationError):
            ChatOpenAIWebSocket(model="m", api_key="sk-1", websocket_url=url, **http_clients())


class Transport(_http.HTTPTransport):
    """A transport of the user's own."""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"auth": ("user", "password")}, "`auth`"),
        ({"event_hooks": {"request": [print]}}, "`event_hooks`"),
        ({"transport": Transport(verify=False)}, "`transport`"),
        ({"auth": ("user", "password"), "event_hooks": {"response": [print]}}, "`auth` and `event_hooks`"),
    ],
)
def test_what_a_socket_cannot_do_for_an_http_client_is_told_once(options: dict[str, Any], named: str) -> None:
    given = {"model": "m", "api_key": "sk-1", "base_url": "http://127.0.0.1:9/v1"}
    own = _http.Client(**{"verify": False, **options})
    with pytest.warns(UserWarning, match=f"not its {named}") as told:
        model = ChatOpenAIWebSocket(**given, http_client=own)
    assert [warning.filename for warning in told] == [__file__]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model._current_route()
        model.model_copy(update={"temperature": 0.5})._current_route()
        ChatOpenAIWebSocket(**given, http_client=own, transport="http")
    own.close()
