"""One attempt to dial: what the server sees, and what every kind of refusal becomes."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from transport_kit import (
    Connect,
    RawServer,
    answering,
    deaf,
    endpoint_of,
    raw_server,
    read_head,
    run,
    websocket_server,
)

from langchain_ws_responses._protocol.limits import Limits
from langchain_ws_responses._transport.dial import dial
from langchain_ws_responses._transport.endpoint import Endpoint, endpoint_for
from langchain_ws_responses._transport.retry import Failed
from langchain_ws_responses._types import Failure, FailureKind
from langchain_ws_responses._version import __version__
from langchain_ws_responses.errors import ConfigurationError, error_from
from langchain_ws_responses.testing import ResponsesServer

CANARY = "canary-c0ffee"
LIMITS = Limits(connect_timeout=5)


async def open_and_close(endpoint: Endpoint, **options: Any) -> None:
    try:
        connection = await dial(
            endpoint,
            limits=options.pop("limits", LIMITS),
            ssl_context=options.pop("ssl_context", None),
            proxy=options.pop("proxy", None),
            **options,
        )
        await connection.close()
    finally:
        for _ in range(4):  # an aborted transport closes its socket a round later, and this loop ends here
            await asyncio.sleep(0)


def failing(endpoint: Endpoint, **options: Any) -> Failure:
    """The failure of a dial; nothing secret is in it, nor in what it was made from."""
    with pytest.raises(Failed) as caught:
        asyncio.run(open_and_close(endpoint, **options))
    assert caught.value.__cause__ is None
    shown = "".join(traceback.format_exception(caught.type, caught.value, caught.tb))
    failure = caught.value.failure
    error = error_from(failure, replay="safe")  # type: ignore[arg-type]
    for text in (shown, repr(failure), str(failure.headers), repr(error), str(error), repr(error.args)):
        assert CANARY not in text
    return failure


def to(server: Any, **options: Any) -> Endpoint:
    return endpoint_of(server, **{"credential": f"sk-{CANARY}", **options})


# -- what the server sees


def test_the_server_sees_the_credentials_and_header_fields() -> None:
    with ResponsesServer() as server:
        endpoint = endpoint_of(
            server,
            credential="sk-test",
            organization="org-1",
            project="proj-1",
            headers={"X-Team": "blue", "OpenAI-Beta": "x=y"},
            query={"api-version": "1"},
        )
        asyncio.run(open_and_close(endpoint))
        [shake] = server.handshakes
    assert shake.status == 101
    assert shake.path == "/v1/responses?api-version=1"
    seen = dict(shake.headers)
    assert seen["authorization"] == "Bearer sk-test"
    assert seen["openai-organization"] == "org-1"
    assert seen["openai-project"] == "proj-1"
    assert seen["x-team"] == "blue"
    assert seen["openai-beta"] == "x=y"
    assert seen["user-agent"] == f"langchain-ws-responses/{__version__}"
    assert "sec-websocket-extensions" not in seen, "no compression"
    assert "sec-websocket-protocol" not in seen
    assert "origin" not in seen


def test_an_own_authorization_header_is_sent_alone() -> None:
    with websocket_server() as server:
        asyncio.run(open_and_close(endpoint_of(server, headers={"authorization": "Custom abc"})))
        [request] = server.requests
    assert request.headers.get_all("Authorization") == ["Custom abc"]


def test_a_key_that_was_asked_for_is_sent() -> None:
    with ResponsesServer() as server:
        unasked = endpoint_of(server, None)
        for key in ("sk-1", "sk-2\n"):
            asyncio.run(open_and_close(unasked.under(key)))
        sent = [shake.headers["authorization"] for shake in server.handshakes]
    assert sent == ["Bearer sk-1", "Bearer sk-2"]


def test_without_a_key_nothing_is_dialed() -> None:
    with ResponsesServer() as server:
        failure = failing(endpoint_of(server, None))
        assert server.handshakes == []
    assert failure.kind is FailureKind.CONFIGURATION
    assert "No API key" in failure.message


# -- refusals


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (200, "Check `base_url` and any proxy"),
        (301, "Redirects are never followed"),
        (302, "Redirects are never followed"),
        (400, "Check `base_url` and any proxy"),
        (401, "Check the API key"),
        (403, "key, organization and project"),
        (404, "no WebSocket mode"),
        (407, "The proxy wants credentials"),
        (426, "not offered here"),
        (429, "retry-after"),
        (500, "Try again later"),
        (502, "Try again later"),
        (503, "Try again later"),
        (504, "Try again later"),
    ],
)
def test_a_refused_handshake_says_its_status_and_the_remedy(status: int, says: str) -> None:
    with raw_server(answering(f"{status} {CANARY}", {"X-Echo": CANARY}, CANARY.encode())) as server:
        failure = failing(to(server))
    assert failure.kind is FailureKind.HANDSHAKE_REJECTED
    assert failure.status == status
    assert f"HTTP {status}" in failure.message
    assert says in str(error_from(failure, replay="safe"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "value", "seconds"), [("retry-after", "7", 7.0), ("Retry-After-Ms", "250", 0.25)]
)
def test_a_refusal_keeps_how_long_to_wait_and_the_rate_limits(name: str, value: str, seconds: float) -> None:
    headers = {name: value, "x-ratelimit-remaining-requests": "0", "x-request-id": "r1", "set-cookie": CANARY}
    with ResponsesServer(refuse_upgrade=429, refuse_headers=headers) as server:
        failure = failing(to(server))
    assert failure.retry_after == seconds
    assert failure.headers["x-ratelimit-remaining-requests"] == "0"
    assert failure.headers["x-request-id"]
    assert "set-cookie" not in failure.headers


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (json.dumps({"error": {"code": "insufficient_quota", "message": CANARY}}), "insufficient_quota"),
        (json.dumps({"error": {"code": f"bad {CANARY}"}}), None),
        (json.dumps({"error": CANARY}), None),
        (json.dumps([CANARY]), None),
        (CANARY, None),
        ("", None),
    ],
)
def test_the_code_of_a_refusal_is_kept_and_its_words_are_not(body: str, code: str | None) -> None:
    with raw_server(answering("429 Too Many Requests", {}, body.encode())) as server:
        assert failing(to(server)).code == code


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["same origin", "another origin"])
def test_a_redirect_is_never_followed(status: int, where: str) -> None:
    with raw_server(deaf) as other:
        location = f"{other.websocket_url}?{CANARY}" if where == "another origin" else "/v1/elsewhere"
        with raw_server(answering(f"{status} Found", {"Location": location})) as server:
            failure = failing(to(server))
            assert server.count == 1
        assert other.count == 0
    assert (failure.kind, failure.status) == (FailureKind.HANDSHAKE_REJECTED, status)


# -- no connection


def test_a_refused_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    failure = failing(endpoint_for(url=f"ws://127.0.0.1:{port}/v1/responses", credential=CANARY))
    assert failure.kind is FailureKind.DIAL_FAILED
    assert "The connection failed" in failure.message


def test_a_name_that_does_not_resolve() -> None:
    failure = failing(endpoint_for(url="wss://nowhere.invalid/v1/responses", credential=CANARY))
    assert failure.kind is FailureKind.DIAL_FAILED
    assert "Name or service not known" in failure.message


def test_a_server_that_accepts_and_never_answers() -> None:
    with raw_server(deaf) as server:
        failure = failing(to(server), limits=Limits(connect_timeout=0.1))
    assert failure.kind is FailureKind.DIAL_TIMEOUT


def test_a_server_that_stalls_in_the_tls_handshake() -> None:
    with raw_server(deaf) as server:
        endpoint = endpoint_for(url=f"wss://127.0.0.1:{server.port}/v1", credential=CANARY)
        assert failing(endpoint, limits=Limits(connect_timeout=0.1)).kind is FailureKind.DIAL_TIMEOUT


def _hang_up(connection: socket.socket) -> None:
    read_head(connection)


def _babble(connection: socket.socket) -> None:
    read_head(connection)
    connection.sendall(b"220 smtp.example ESMTP " + CANARY.encode() + b"\r\n\r\n")


def _wrong_accept(connection: socket.socket) -> None:
    read_head(connection)
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + CANARY.encode() + b"\r\n\r\n"
    )
    deaf(connection)


@pytest.mark.parametrize("handler", [_hang_up, _babble, _wrong_accept])
def test_a_server_that_is_none(handler: Callable[[socket.socket], None]) -> None:
    def serve(connection: socket.socket) -> None:
        handler(connection)
        connection.close()

    with raw_server(serve) as server:
        failure = failing(to(server))
    assert failure.kind is FailureKind.DIAL_FAILED
    assert failure.message


def test_ipv6() -> None:
    try:
        server = RawServer(answering("503 No"), "::1")
    except OSError:
        pytest.skip("no IPv6 loopback address on this machine")
    try:
        assert failing(to(server)).status == 503
    finally:
        server.close()


# -- TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def _server_tls(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


def test_a_certificate_that_nobody_vouches_for_is_refused(authority: trustme.CA) -> None:
    with websocket_server(ssl=_server_tls(authority, "127.0.0.1")) as server:
        failure = failing(to(server))
        assert server.requests == [], "the key was not sent"
    assert failure.kind is FailureKind.DIAL_FAILED
    assert "certificate was refused" in failure.message
    assert failure.message.endswith(".")
    assert not failure.message.endswith("..")  # OpenSSL ends some of its reasons with a full stop itself


def test_an_own_ssl_context_is_used(authority: trustme.CA) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with websocket_server(ssl=_server_tls(authority, "127.0.0.1")) as server:
        asyncio.run(open_and_close(to(server), ssl_context=context))
        assert len(server.requests) == 1


def test_ssl_cert_file_is_honoured(
    authority: trustme.CA, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with websocket_server(ssl=_server_tls(authority, "127.0.0.1")) as server:
        asyncio.run(open_and_close(to(server)))
        assert len(server.requests) == 1


def test_the_host_name_is_checked(authority: trustme.CA) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with websocket_server(ssl=_server_tls(authority, "other.example")) as server:
        failure = failing(to(server), ssl_context=context)
        assert server.requests == []
    assert "certificate was refused" in failure.message
    assert failure.message.endswith(".")
    assert not failure.message.endswith("..")  # OpenSSL ends some of its reasons with a full stop itself


# -- proxies


def _invalid(port: int = 80) -> Endpoint:
    """An endpoint that only a proxy can reach: its name never resolves here."""
    return endpoint_for(url=f"ws://api.example.invalid:{port}/v1/responses", credential="sk-proxied")


@pytest.mark.parametrize("how", ["argument", "endpoint", "environment", "environment without a scheme"])
def test_a_dial_goes_through_the_proxy(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ResponsesServer(api_key="sk-proxied") as server:
        connect = Connect(server.port)
        with raw_server(connect) as proxy:
            url = f"http://127.0.0.1:{proxy.port}"
            endpoint, options = _invalid(), {}
            if how == "argument":
                options = {"proxy": url}
            elif how == "endpoint":
                endpoint = endpoint_for(url=endpoint.url, credential="sk-proxied", proxy=url)
            else:
                monkeypatch.setenv("HTTP_PROXY", url if how == "environment" else url.partition("//")[2])
            asyncio.run(open_and_close(endpoint, **options))
        assert connect.targets == ["api.example.invalid:80"]
        assert [shake.status for shake in server.handshakes] == [101]
    assert "sk-proxied" not in connect.heads[0], "the key is for the server"


def test_tls_goes_through_the_proxy_end_to_end(
    authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with websocket_server(ssl=_server_tls(authority, "api.example.invalid")) as server:
        connect = Connect(server.port)
        with raw_server(connect) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
            endpoint = endpoint_for(url="wss://api.example.invalid/v1/responses", credential="sk-a")
            asyncio.run(open_and_close(endpoint, ssl_context=context))
        assert connect.targets == ["api.example.invalid:443"]
        assert len(server.requests) == 1


def test_an_explicit_proxy_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "*")
    with ResponsesServer() as server:
        connect = Connect(server.port)
        with raw_server(connect) as proxy:
            asyncio.run(open_and_close(_invalid(), proxy=f"http://127.0.0.1:{proxy.port}"))
        assert len(connect.targets) == 1


def test_no_proxy_goes_straight_to_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ResponsesServer() as server:
        asyncio.run(open_and_close(endpoint_of(server)))
        assert [shake.status for shake in server.handshakes] == [101]


def test_the_proxys_credentials_reach_the_proxy_and_nobody_else() -> None:
    connect = Connect(0, "407 Proxy Authentication Required")
    with raw_server(connect) as proxy:
        url = f"http://user:p%40{CANARY}@127.0.0.1:{proxy.port}"
        failure = failing(_invalid(), proxy=url)
    assert (failure.kind, failure.status) == (FailureKind.HANDSHAKE_REJECTED, 407)
    assert failure.message == "The proxy answered with HTTP 407."
    import base64

    assert base64.b64encode(f"user:p@{CANARY}".encode()).decode() in connect.heads[0]


@pytest.mark.parametrize("where", ["deaf", "refused", "babbling", "unresolved"])
def test_a_proxy_that_does_not_work(where: str) -> None:
    with raw_server(deaf if where == "deaf" else _babble) as proxy:
        port = proxy.port if where in ("deaf", "babbling") else 1
        host = "proxy.invalid" if where == "unresolved" else "127.0.0.1"
        failure = failing(
            endpoint_for(url="wss://api.example.invalid/v1/responses", credential=CANARY),
            proxy=f"http://user:{CANARY}@{host}:{port}",
            limits=Limits(connect_timeout=0.2 if where == "deaf" else 10),
        )
    expected = FailureKind.DIAL_TIMEOUT if where == "deaf" else FailureKind.DIAL_FAILED
    assert failure.kind is expected


@pytest.mark.parametrize(
    "proxy", [f"ftp://u:{CANARY}@p", f"http://u:{CANARY}@p:port", f"socks5://u:{CANARY}@p:1"]
)
def test_a_proxy_that_cannot_be_used_is_a_configuration_error(
    proxy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if proxy.startswith("socks"):
        from websockets.asyncio import client

        async def missing(*_args: Any, **_kwargs: Any) -> Any:
            raise ImportError(CANARY)

        monkeypatch.setattr(client, "connect_socks_proxy", missing)
    monkeypatch.setenv("HTTP_PROXY", proxy)
    failure = failing(_invalid())
    assert failure.kind is FailureKind.CONFIGURATION
    assert "proxy" in failure.message


def test_a_plain_url_never_goes_to_a_proxy_on_another_machine() -> None:
    failure = failing(_invalid(), proxy=f"http://user:{CANARY}@proxy.invalid:1")
    assert failure.kind is FailureKind.CONFIGURATION
    assert "NO_PROXY" in failure.message
    allowed = failing(_invalid(), proxy=f"http://user:{CANARY}@proxy.invalid:1", allow_insecure=True)
    assert allowed.kind is FailureKind.DIAL_FAILED


def test_plain_urls_are_for_this_machine_unless_allowed(make_manager: Any, at_once: None) -> None:
    endpoint = _invalid()
    with pytest.raises(ConfigurationError, match=r"allow_insecure=True") as caught:
        make_manager().check(endpoint)
    assert "sk-proxied" not in str(caught.value)
    assert run(make_manager(allow_insecure=True), endpoint).kind is FailureKind.DIAL_FAILED


# -- logs


class Records(logging.Handler):
    """Everything that any logger says, with tracebacks."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name} {logging.Formatter().format(record)} {record.args!r}")


@pytest.fixture
def everything_logged() -> Iterator[list[str]]:
    records = Records()
    own = ("langchain_ws_responses", "langchain_ws_responses.websocket")
    loggers = [logging.getLogger(name) for name in ("", *own, "websockets", "websockets.client", "asyncio")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    loggers[0].addHandler(records)
    yield records.lines
    loggers[0].removeHandler(records)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_debug_logs_show_what_happens_and_nothing_secret(
    everything_logged: list[str], make_manager: Any
) -> None:
    secrets = [
        f"{CANARY}-{what}" for what in ("key", "org", "proj", "header", "query", "proxy", "prompt", "answer")
    ]
    key, organization, project, header, query, password, prompt, answer = secrets
    with (
        ResponsesServer(answer, f"{answer} {'x' * 300}") as server,
        raw_server(Connect(server.port)) as proxy,
    ):
        manager = make_manager(proxy=f"http://user:{password}@127.0.0.1:{proxy.port}")
        endpoint = endpoint_of(
            server, key, organization=organization, project=project,
            headers={"X-Team": header, "Authorization-Extra": header}, query={"token": query},
        )  # fmt: skip
        assert answer in str(run(manager, endpoint, prompt).response)
        assert answer in str(run(manager, endpoint, f"{prompt} {'y' * 300}").response)
        manager.close()
    text = "\n".join(everything_logged)
    assert [secret for secret in secrets if secret in text] == []
    for useful in (
        "GET /v1/responses",
        "HTTP/1.1 101",
        "Authorization: [masked]",
        "connection is OPEN",
        "TEXT [",
    ):
        assert useful in text, useful


@pytest.mark.parametrize("status", ["302 Found", "401 No", f"502 {CANARY}", f"599 {CANARY}"])
def test_debug_logs_of_refusals_hold_nothing_secret(
    status: str, everything_logged: list[str], make_manager: Any, at_once: None
) -> None:
    told = {"Location": f"/{CANARY}", "X-Echo": CANARY, "Server": CANARY, "Content-Type": f"text/plain; {CANARY}",
            "Retry-After": "0"}  # fmt: skip
    answer = answering(status, told, CANARY.encode())
    with raw_server(answer) as server:
        outcome = run(make_manager(), to(server), CANARY)
    assert outcome.kind is FailureKind.HANDSHAKE_REJECTED
    text = "\n".join(everything_logged)
    assert CANARY not in text
    assert f"HTTP/1.1 {status[:3]}" in text
    assert "Content-Type: [masked]" in text
    assert "Retry-After: 0" in text
