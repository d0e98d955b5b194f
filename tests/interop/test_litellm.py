"""The LiteLLM proxy between this package and the local server, in both of its WebSocket modes.

Native: the model's provider has a socket of its own (`openai/…`), and LiteLLM passes frames on; it dials only `wss`.
Managed: the provider has none (`hosted_vllm/…`), so LiteLLM keeps the conversation of each connection in memory and
asks over HTTP. Both end a session after `responses_websocket_session_limit_seconds`, 60 at the least, with a bare close
frame; here the tests say when.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import interop as environments
import pytest
import trustme
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from pairs import http_clients, socket_model

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionClosed, ConnectionManager, failure_of
from langchain_ws_responses.testing import (
    Answer,
    ChaosProxy,
    RecordedRequest,
    ResponsesServer,
    text,
    tool_call,
)

KEY = "sk-test-3f9a51c7"  # what `pairs` sends
MODES = {"native": "websocket", "managed": "sse"}
# The test that comes first pays for the start of the proxy, 10 seconds of work.
pytestmark = pytest.mark.timeout(120)


@dataclass
class Hold:
    """Stops the first event of one answer, and tells when it does."""

    reached: threading.Event = field(default_factory=threading.Event)
    free: threading.Event = field(default_factory=threading.Event)


def answer(request: RecordedRequest) -> Answer:
    """Asks for three sums where there is a tool, then names the last one; else says what it sees of the user."""
    done = [item for item in request.seen if item.get("type") == "function_call_output"]
    if not request.tools:
        said = [str(item["content"]) for item in request.seen if item.get("role") == "user"]
        return text(" + ".join(said))
    if len(done) < 3:
        return tool_call("add", {"a": 5, "b": len(done)})
    return text(f"The last sum is {done[-1]['output']}.")


class LiteLLM:
    """The proxy in front of `upstream`."""

    def __init__(self, python: Path, folder: Path, environ: dict[str, str]) -> None:
        self.holds: list[Hold] = []
        self.upstream = ResponsesServer(answer=answer, api_key="sk-upstream", event_gate=self._gate)
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        self.upstream.start()
        self.tls = ChaosProxy(self.upstream, ssl_context=context)
        self.tls.start()

        def model(name: str, provider: str, base: str) -> dict[str, Any]:
            params = {"model": f"{provider}/gpt-5.5", "api_base": base, "api_key": "sk-upstream"}
            return {"model_name": name, "litellm_params": params}

        config = {
            "model_list": [
                model("native", "openai", self.tls.base_url),
                model("managed", "hosted_vllm", self.upstream.base_url),
            ],
            "general_settings": {"master_key": KEY, "responses_websocket_session_limit_seconds": 60},
        }
        # JSON is YAML.
        (folder / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
        self.log = (folder / "log.txt").open("w+", encoding="utf-8")
        self.process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("litellm_proxy.py")), str(folder / "config.yaml")],
            env={
                **environ,
                "SSL_CERT_FILE": str(folder / "ca.pem"),
                # Neither prices nor anything else from the network.
                "LITELLM_LOCAL_MODEL_COST_MAP": "True",
                "NO_PROXY": "127.0.0.1",
            },
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            encoding="utf-8",
        )
        assert self.process.stdout is not None
        ports = (line for line in self.process.stdout if line.strip().isdigit())
        self.port = int(next(ports, 0))
        if not self.port:
            self.log.seek(0)
            pytest.fail(f"LiteLLM did not start:\n{self.log.read()[-2000:]}")

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def expire(self, closed: threading.Semaphore | None = None) -> dict[str, Any]:
        """Ends every session, as the limit would; with `closed`, waits until the client knows of one."""
        url = self.base_url.replace("/v1", "/interop/expire")
        with urllib.request.urlopen(urllib.request.Request(url, method="POST"), timeout=10) as reply:  # noqa: S310
            told: dict[str, Any] = json.loads(reply.read())
        assert closed is None or closed.acquire(timeout=10)
        return told

    def _gate(self, request: RecordedRequest, event: Any) -> Any:
        if not self.holds:
            return None
        hold = self.holds.pop(0)
        hold.reached.set()
        return hold.free

    def stop(self) -> None:
        # Its own way out takes ten seconds, and there is nothing to save.
        self.process.kill()
        self.process.communicate()
        self.log.close()
        self.tls.stop()
        self.upstream.stop()


@pytest.fixture(scope="module")
def litellm(
    environment: Callable[[str], Path], environ: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiteLLM]:
    python = environments.python(environment("litellm"))
    proxy = LiteLLM(python, tmp_path_factory.mktemp("litellm"), environ)
    yield proxy
    proxy.stop()


@pytest.fixture
def closed() -> threading.Semaphore:
    """Counts the connections that the client has seen the end of."""
    return threading.Semaphore(0)


@pytest.fixture
def manager(closed: threading.Semaphore) -> Iterator[ConnectionManager]:
    def note(event: Any) -> None:
        if isinstance(event, ConnectionClosed):
            closed.release()

    with ConnectionManager(hooks=[note]) as made:
        yield made


def add(a: int, b: int) -> str:
    """Add two numbers."""
    return str(a + b)


def sent(messages: list[Any]) -> list[tuple[str, str, int]]:
    found = [message.response_metadata["transport"] for message in messages if isinstance(message, AIMessage)]
    assert {told["kind"] for told in found} <= {"websocket"}
    return [(told["mode"], told["reason"], told["items"]) for told in found]


def connections(messages: list[Any]) -> list[str]:
    return [
        message.response_metadata["transport"]["connection"]
        for message in messages
        if isinstance(message, AIMessage)
    ]


def invoke(agent: Any) -> list[Any]:
    messages: list[Any] = agent.invoke({"messages": [("user", "start")]})["messages"]
    return messages


def astream(agent: Any) -> list[Any]:
    if sys.version_info < (3, 11):
        pytest.skip("LangGraph streams the tokens of async nodes from Python 3.11 on")

    async def run() -> tuple[list[Any], list[str]]:
        state, pieces = {}, []
        given = {"messages": [("user", "start")]}
        async for kind, value in agent.astream(given, stream_mode=["values", "messages"]):
            if kind == "values":
                state = value
            elif not isinstance(value[0], HumanMessage) and value[0].type != "tool" and value[0].text:
                pieces.append(value[0].text)
        return state["messages"], pieces

    messages, pieces = asyncio.run(run())
    assert len(pieces) > 1
    assert "".join(pieces) == messages[-1].text
    return messages


@pytest.mark.parametrize("run", [invoke, astream])
@pytest.mark.parametrize("mode", MODES)
def test_an_agent_calls_its_tools(
    litellm: LiteLLM, manager: ConnectionManager, mode: str, run: Callable[[Any], list[Any]]
) -> None:
    first = len(litellm.upstream.requests)
    model = socket_model(litellm, manager, model=mode)  # type: ignore[arg-type]
    messages = run(create_agent(model, [add], system_prompt="Add."))
    # 5 + 2: the third sum.
    assert messages[-1].text == "The last sum is 7."
    assert [message.text for message in messages if message.type == "tool"] == ["5", "6", "7"]
    assert sent(messages) == [("full", "first_turn", 2)] + [("delta", "chain", 1)] * 3
    assert len(set(connections(messages))) == 1
    upstream = litellm.upstream.requests[first:]
    assert {request.transport for request in upstream} == {MODES[mode]}
    assert {request.model for request in upstream} == {"gpt-5.5"}
    # The model saw the whole conversation at every turn: prompt and question, then a call and its output more.
    assert [len(request.seen) for request in upstream] == [2, 4, 6, 8]
    if mode == "native":
        assert [request.is_delta for request in upstream] == [False, True, True, True]


@pytest.mark.parametrize("mode", MODES)
def test_the_session_limit_during_a_tool(
    litellm: LiteLLM, manager: ConnectionManager, closed: threading.Semaphore, mode: str
) -> None:
    first = len(litellm.upstream.requests)
    told: list[dict[str, Any]] = []

    def add(a: int, b: int) -> str:
        """Add two numbers."""
        if b == 1:
            told.append(litellm.expire(closed))
        return str(a + b)

    model = socket_model(litellm, manager, model=mode)  # type: ignore[arg-type]
    messages = invoke(create_agent(model, [add], system_prompt="Add."))
    assert told[0]["ended"] == 1
    # The limit that LiteLLM took from its configuration, the smallest that it allows.
    assert set(told[0]["limits"]) == {60.0}
    assert messages[-1].text == "The last sum is 7."
    # A new session begins with everything, and goes on in deltas.
    assert [how[0] for how in sent(messages)] == ["full", "delta", "full", "delta"]
    assert len(set(connections(messages))) == 2
    assert [len(request.seen) for request in litellm.upstream.requests[first:]] == [2, 4, 6, 8]


@pytest.mark.parametrize("mode", MODES)
def test_the_session_limit_between_two_questions(
    litellm: LiteLLM, manager: ConnectionManager, closed: threading.Semaphore, mode: str
) -> None:
    model = socket_model(litellm, manager, model=mode)  # type: ignore[arg-type]
    messages: list[Any] = []
    for question in ("one", "two", "three", "four"):
        messages.append(HumanMessage(question))
        messages.append(model.invoke(messages))
        if question == "two":
            assert litellm.expire(closed)["ended"] == 1
    # Managed LiteLLM would answer a delta across its sessions, and lose the beginning in the turn after that.
    assert [message.text for message in messages[1::2]] == [
        "one",
        "one + two",
        "one + two + three",
        "one + two + three + four",
    ]
    assert [how[0] for how in sent(messages)] == ["full", "delta", "full", "delta"]


@pytest.mark.parametrize("mode", MODES)
def test_the_session_limit_while_the_model_thinks(
    litellm: LiteLLM, manager: ConnectionManager, mode: str
) -> None:
    model = socket_model(litellm, manager, model=mode, max_retries=2)  # type: ignore[arg-type]
    begun = [HumanMessage("one"), model.invoke([HumanMessage("one")]), HumanMessage("two")]
    hold = Hold()
    litellm.holds.append(hold)
    answers: list[Any] = []
    caller = threading.Thread(target=lambda: answers.append(model.invoke(begun)))
    caller.start()
    assert hold.reached.wait(10)
    litellm.expire()
    caller.join(20)
    hold.free.set()
    (message,) = answers
    assert message.text == "one + two"
    told = message.response_metadata["transport"]
    assert (told["mode"], told["reason"], told["resends"]) == ("full", "connection_lost", 1)


def test_conversations_that_take_turns_keep_their_managed_sessions(
    litellm: LiteLLM, manager: ConnectionManager
) -> None:
    model = socket_model(litellm, manager, model="managed")  # type: ignore[arg-type]
    talks: list[list[Any]] = [[], []]
    for question in ("one", "two", "three"):
        for number, messages in enumerate(talks):
            messages.append(HumanMessage(f"{question} {number}"))
            messages.append(model.invoke(messages))
    for number, messages in enumerate(talks):
        assert messages[-1].text == f"one {number} + two {number} + three {number}"
        assert [how[0] for how in sent(messages)] == ["full", "delta", "delta"]
        assert len(set(connections(messages))) == 1


@pytest.mark.parametrize("mode", MODES)
def test_conversations_at_once(litellm: LiteLLM, manager: ConnectionManager, mode: str) -> None:
    model = socket_model(litellm, manager, model=mode)  # type: ignore[arg-type]
    talks: list[list[Any]] = [[HumanMessage(f"one {number}")] for number in range(4)]
    for question in ("two", "three"):
        for number, (messages, message) in enumerate(zip(talks, model.batch(talks), strict=True)):
            messages += [message, HumanMessage(f"{question} {number}")]
    for number, message in enumerate(model.batch(talks)):
        assert message.text == f"one {number} + two {number} + three {number}"
        assert sent([message]) == [("delta", "chain", 1)]
    used = {name for messages in talks for name in connections(messages)}
    # Frames that LiteLLM passes on show that there are lanes; a managed session answers one conversation at a time.
    assert len(used) <= 4
    assert len(used) == 4 or mode == "native"


@pytest.mark.parametrize("mode", MODES)
def test_a_warm_up_loses_nothing(litellm: LiteLLM, manager: ConnectionManager, mode: str) -> None:
    model = socket_model(litellm, manager, model=mode)  # type: ignore[arg-type]
    # Managed LiteLLM answers a warm-up itself and throws its input away.
    model.warm_up([HumanMessage("one")])
    message = model.invoke([HumanMessage("one"), AIMessage("yes"), HumanMessage("two")])
    assert message.text == "one + two"


def test_a_model_that_the_proxy_does_not_know(litellm: LiteLLM, manager: ConnectionManager) -> None:
    with pytest.raises(Exception, match="nonesuch") as raised:
        socket_model(litellm, manager, model="nonesuch").invoke("one")  # type: ignore[arg-type]
    assert failure_of(raised.value) is not None


def test_a_wrong_key(litellm: LiteLLM, manager: ConnectionManager) -> None:
    stranger = ChatOpenAIWebSocket(
        model="native",
        base_url=litellm.base_url,
        api_key="sk-stranger",
        manager=manager,
        transport="websocket",
        **http_clients(),
    )
    with pytest.raises(Exception, match=r"40[13]") as raised:
        stranger.invoke("one")
    failure = failure_of(raised.value)
    assert failure is not None
    assert failure.status_code in (401, 403)
