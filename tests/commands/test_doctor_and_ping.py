"""`doctor` and `ping` where it works and in four places where it does not; the outputs stand in the docs."""

from __future__ import annotations

import json
import os
import re
import socket
import ssl
import threading
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trustme
from transport_kit import Connect, raw_server, websocket_server

from langchain_ws_responses._cli import main
from langchain_ws_responses.testing import RecordedRequest, ResponsesServer, error, failed

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "doctor.md"
UPDATE = "LANGCHAIN_WS_RESPONSES_UPDATE_DOCS"
# Set to rewrite the page. Read here: tests run without such variables.
UPDATING = bool(os.environ.get(UPDATE))
KEY = "sk-canary-of-the-doctor"
PASSWORD = "pass-canary-of-the-proxy"
PLACES = ("server", "closed-port", "http-only", "bad-certificate", "refusing-proxy")


class _HttpOnly(BaseHTTPRequestHandler):
    """Knows nothing of upgrades, and opens no tunnel."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_error(404)

    def do_CONNECT(self) -> None:
        self.send_error(403)

    def log_message(self, *args: object) -> None:
        """Writes nothing."""


@contextmanager
def http_only(context: ssl.SSLContext | None = None) -> Iterator[int]:
    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *args: object) -> None:
            """Clients that give up during TLS are what is tested."""

        def get_request(self) -> tuple[Any, Any]:
            found, address = super().get_request()
            if context is None:
                return found, address
            wrapped = context.wrap_socket(found, server_side=True, do_handshake_on_connect=False)
            return wrapped, address

    with Server(("127.0.0.1", 0), _HttpOnly) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def unknown_authority() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context


@contextmanager
def place(name: str, patch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Sets a place up; gives the arguments that lead there."""
    patch.setenv("OPENAI_API_KEY", KEY)
    with ExitStack() as stack:
        if name == "server":
            server = stack.enter_context(ResponsesServer(api_key=KEY))
            yield ["--base-url", server.base_url]
        elif name == "closed-port":
            # Bound, so that nobody else gets it, and never listening.
            taken = stack.enter_context(socket.socket())
            taken.bind(("127.0.0.1", 0))
            yield ["--base-url", f"http://127.0.0.1:{taken.getsockname()[1]}/v1"]
        elif name == "http-only":
            yield ["--base-url", f"http://127.0.0.1:{stack.enter_context(http_only())}/v1"]
        elif name == "bad-certificate":
            port = stack.enter_context(http_only(unknown_authority()))
            yield ["--base-url", f"https://localhost:{port}/v1"]
        else:
            port = stack.enter_context(http_only())
            patch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@127.0.0.1:{port}")
            yield ["--base-url", "https://api.example.com/v1"]


def call(*args: str) -> int:
    try:
        return main(args)
    except SystemExit as exc:  # from argparse
        return int(exc.code or 0)


def plain(output: str) -> str:
    """Takes out of an output what differs from run to run."""
    output = re.sub(r"^ok    python .*$", "ok    python      …", output, flags=re.M)
    output = re.sub(r"^ok    packages (.|\n {18})*$", "ok    packages    …", output, flags=re.M)
    output = re.sub(r":\d{4,5}\b", ":8765", output)
    output = re.sub(r"(?<! ) \d+\.\d ms", " 1.0 ms", output)
    return re.sub(r" {2,}\d+\.\d ms", lambda found: f"{'1.0 ms':>{len(found[0])}}", output)


def told(capsys: pytest.CaptureFixture[str]) -> str:
    """What a terminal keeps: the result and errors, without progress."""
    shown = capsys.readouterr()
    assert KEY not in shown.out + shown.err
    assert PASSWORD not in shown.out + shown.err
    assert "Traceback" not in shown.err
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    return "\n".join([*shown.out.splitlines(), *errors])


@pytest.mark.parametrize("name", PLACES)
def test_the_docs_show_what_is_printed(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parts, codes = [], []
    with place(name, monkeypatch) as args:
        for command in ("doctor", "ping"):
            codes.append(call(command, *args))
            parts.append(f"$ python -m langchain_ws_responses {command} {' '.join(args)}\n{told(capsys)}\n")
    assert codes == ([0, 0] if name == "server" else [1, 1])
    printed = plain("\n".join(parts))
    page = PAGE.read_text(encoding="utf-8")
    block = re.compile(rf"(<!-- output:{name} -->\n```text\n)(.*?)(```)", re.S)
    if UPDATING:
        PAGE.write_text(block.sub(lambda found: found[1] + printed + found[3], page), encoding="utf-8")
        return
    shown = block.search(page)
    assert shown is not None
    assert shown[2] == printed, f"run this test with {UPDATE}=1 to bring the page up to date"


def checks_of(capsys: pytest.CaptureFixture[str]) -> tuple[bool, dict[str, dict[str, Any]]]:
    result = json.loads(capsys.readouterr().out)
    return result["ok"], {check["name"]: check for check in result["checks"]}


@pytest.mark.parametrize(
    ("name", "step", "word"),
    [
        ("closed-port", "tcp", "Connection refused"),
        ("http-only", "handshake", "404"),
        ("bad-certificate", "tls", "certificate"),
        ("refusing-proxy", "tunnel", "403"),
    ],
)
def test_doctor_finds_the_step_that_fails(
    name: str, step: str, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with place(name, monkeypatch) as args:
        assert call("doctor", "--json", *args) == 1
    good, found = checks_of(capsys)
    assert not good
    assert [check["name"] for check in found.values() if check["status"] == "fail"] == [step]
    assert word in found[step]["detail"]
    assert found[step]["next"]
    assert found["self-test"]["status"] == "ok"
    assert found["ping"]["status"] == "skip"


@pytest.mark.parametrize(("days", "status"), [(40, "ok"), (5, "warn")])
def test_doctor_looks_at_the_certificate_through_a_proxy(
    days: int, status: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    authority, host = trustme.CA(organization_name="Vouching Ltd"), "api.example.invalid"
    end = datetime.now(timezone.utc) + timedelta(days=days, hours=1)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host, not_after=end).configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with websocket_server(ssl=context) as server:
        connect = Connect(server.port)
        with raw_server(connect) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@127.0.0.1:{proxy.port}")
            assert call("doctor", "--json", "--base-url", f"https://{host}/v1") == 0
    shown = capsys.readouterr()
    assert PASSWORD not in shown.out + shown.err
    found = {check["name"]: check for check in json.loads(shown.out)["checks"]}
    # The name is looked up by the proxy alone.
    assert set(connect.targets) == {f"{host}:443"}
    assert found["proxy"]["detail"] == f"http://127.0.0.1:{proxy.port} (environment)"
    assert found["tls"]["status"] == status
    assert f"certificate by Vouching Ltd, {days} days left" in found["tls"]["detail"]
    passed = ("tunnel", "handshake", "ping", "self-test")
    assert {found[name]["status"] for name in passed} == {"ok"}


@pytest.mark.parametrize(
    ("reply", "step", "word"),
    [
        ("407 Proxy Authentication Required", "tunnel", "credentials"),
        ("garbage", "tunnel", "CONNECT"),
    ],
)
def test_doctor_tells_what_a_proxy_wants(
    reply: str, step: str, word: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with raw_server(Connect(1, reply)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        assert call("doctor", "--json", "--base-url", "https://api.example.invalid/v1") == 1
    _, found = checks_of(capsys)
    assert found[step]["status"] == "fail"
    assert word in found[step]["next"]


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 407, 426, 429, 500, 502, 503])
def test_every_answer_to_the_upgrade_has_a_next_step(
    status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ResponsesServer(refuse_upgrade=status) as server:
        assert call("doctor", "--json", "--base-url", server.base_url) == 1
        _, found = checks_of(capsys)
        assert call("ping", "--base-url", server.base_url) == 1
    assert str(status) in found["handshake"]["detail"]
    assert len(found["handshake"]["next"]) > 10
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert str(status) in error
    assert found["handshake"]["next"] in error


def test_without_a_key_the_way_is_looked_at_and_nothing_is_sent(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("doctor", "--json", "--base-url", "https://nowhere.invalid/v1") == 1
    _, found = checks_of(capsys)
    assert (found["key"]["status"], found["dns"]["status"]) == ("warn", "fail")
    assert "nowhere.invalid" in found["dns"]["detail"]
    with ResponsesServer() as server:
        assert call("doctor", "--json", "--base-url", server.base_url) == 0
    _, found = checks_of(capsys)
    assert found["key"]["status"] == "ok"
    assert call("doctor", "--json", "--offline") == 0
    _, found = checks_of(capsys)
    assert set(found) == {"python", "packages", "key", "self-test"}


def test_local_takes_nothing_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "OPENAI_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert call("doctor", "--local", "--json") == 0
    good, found = checks_of(capsys)
    assert good
    assert found["proxy"]["detail"] == "none"
    assert call("ping", "--local", "--json", "--count", "2") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["local"] is True
    assert os.environ["OPENAI_PROXY"] == "http://192.0.2.1:9"


@pytest.mark.parametrize(
    ("key", "transport", "failing"),
    [("sk\u00e9", "", "key"), ("sk a", "", "key"), ("sk-a", "sockets", "settings")],
)
def test_settings_that_cannot_work_are_found(
    key: str, transport: str, failing: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.setenv("LANGCHAIN_WS_RESPONSES_TRANSPORT", transport)
    assert call("doctor", "--json", "--base-url", "http://127.0.0.1:1/v1") == 1
    shown = capsys.readouterr()
    found = {check["name"]: check for check in json.loads(shown.out)["checks"]}
    assert found[failing]["status"] == "fail"
    assert found[failing]["next"]
    assert key not in shown.out + shown.err or key == "sk-a"


def test_versions_that_do_not_fit_are_found() -> None:
    from langchain_ws_responses._commands.checks import check_packages

    asked = ["orjson>=3.10,<4", "h11>=0.14", "missing-one>=1", 'other; extra == "test"', "fine"]
    installed = {"orjson": "4.0", "h11": "0.13.9", "fine": "1.0"}
    found = check_packages(asked, installed.get)
    assert [(check.status, check.detail, check.next) for check in found[:-1]] == [
        ("FAIL", "orjson 4.0 is installed, <4,>=3.10 is needed", 'pip install "orjson<4,>=3.10"'),
        ("FAIL", "h11 0.13.9 is installed, >=0.14 is needed", 'pip install "h11>=0.14"'),
        ("FAIL", "missing-one is missing", 'pip install "missing-one>=1"'),
    ]
    assert "fine 1.0" in found[-1].detail
    assert "other" not in found[-1].detail


# -- ping


def test_ping_measures_what_it_sends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ResponsesServer(api_key=KEY) as server:
        args = ("--base-url", server.base_url, "--json", "--count", "3")
        assert call("ping", *args) == 0
        assert server.requests == []
        assert call("ping", *args, "--model", "mine") == 0
        sent = server.requests
        assert len(server.connections) == 2
    out = capsys.readouterr().out
    first, second = (json.loads(part + "}") for part in out.split("\n}\n")[:2])
    assert first["responses"] == []
    assert first["warm_up"] is None
    assert [request.generate for request in sent] == [False, True, True, True]
    assert {(request.model, request.store) for request in sent} == {("mine", False)}
    assert [turn["bytes_sent"] for turn in second["responses"]] == [r.raw_bytes for r in sent[1:]]
    for turn in second["responses"]:
        assert 0 < turn["first_event_seconds"] <= turn["total_seconds"] < 10
    assert len(second["ping_seconds"]["each"]) == 3
    assert 0 < min(second["ping_seconds"]["each"]) <= second["ping_seconds"]["median"]
    assert second["dial_seconds"] > 0


def refuses(request: RecordedRequest) -> Any:
    if request.model == "failing":
        return failed("server_error")
    return error(code="model_not_found", status=404)


@pytest.mark.parametrize(("model", "code"), [("failing", "server_error"), ("unknown", "model_not_found")])
def test_ping_tells_an_error_of_the_server(
    model: str, code: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ResponsesServer(answer=refuses) as server:
        assert call("ping", "--base-url", server.base_url, "--model", model) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert f"error: the server answered with an error: {code}" in shown.err


@pytest.mark.parametrize(
    ("args", "remedy"),
    [
        (["ping", "--cuont", "3"], "--cuont"),
        (["ping", "--count", "0"], "from 1 to"),
        (["ping", "--timeout", "0"], "number of seconds"),
        (["ping", "--base-url", "nope"], "https://host/v1"),
        (["ping", "--local", "--base-url", "http://127.0.0.1:1/v1"], "choose one"),
        (["ping", "--base-url", "https://api.example.com/v1"], "set OPENAI_API_KEY"),
        (["doctor", "--offline", "--local"], "leave --local"),
        (["doctor", "--local", "--base-url", "http://127.0.0.1:1/v1"], "choose one"),
    ],
)
def test_wrong_usage_says_what_to_do(
    args: list[str], remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(*args) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert remedy in shown.err
    assert "Traceback" not in shown.err
