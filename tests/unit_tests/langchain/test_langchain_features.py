"""What LangChain does around a model: callbacks, events, wrappers, copies, caches, switches."""

from __future__ import annotations

import asyncio
import copy
import enum
import pickle
import subprocess
import sys
import uuid
import warnings
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.callbacks import AsyncCallbackHandler, BaseCallbackHandler
from langchain_core.load import dumpd, dumps
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.rate_limiters import BaseRateLimiter
from langchain_core.runnables import ConfigurableField
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from openai import NotGiven, Omit
from pairs import KEY, WAYS, bare, http_model, outcome, run, settings_of, socket_model, without_ids
from waiting import until_lost

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager, response_link
from langchain_ws_responses.testing import ResponsesServer, error, reasoning, text, tool_call

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@tool
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


# -- callbacks and events ----------------------------------------


class Recorder(BaseCallbackHandler):
    """Writes down what it is told, in order."""

    def __init__(self) -> None:
        self.log: list[tuple[str, Any]] = []

    def on_chat_model_start(self, serialized: Any, messages: Any, **kwargs: Any) -> None:
        params = {k: v for k, v in kwargs["invocation_params"].items() if k not in ("_type",)}
        self.log.append(("start", ([[bare(m) for m in batch] for batch in messages], params)))

    def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.log.append(("token", (without_ids(token), bare(kwargs["chunk"].message, ids=False))))

    def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        generations = [[bare(g.message, ids=False) for g in batch] for batch in response.generations]
        self.log.append(("end", (generations, response.llm_output)))

    def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.log.append(("error", type(error).__name__))


class AsyncRecorder(AsyncCallbackHandler):
    """The same for async callers."""

    def __init__(self) -> None:
        self.inner = Recorder()
        self.log = self.inner.log

    async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        self.inner.on_chat_model_start(*args, **kwargs)

    async def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
        self.inner.on_llm_new_token(token, **kwargs)

    async def on_llm_end(self, response: Any, **kwargs: Any) -> None:
        self.inner.on_llm_end(response, **kwargs)

    async def on_llm_error(self, error: BaseException, **kwargs: Any) -> None:
        self.inner.on_llm_error(error, **kwargs)


ANSWERS = {
    "text": text("One two three."),
    "call": tool_call("add", {"a": 1, "b": 2}),
    "error": error(status=400, message="No."),
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("way", WAYS)
def test_callbacks_are_told_the_same_in_the_same_order(
    manager: ConnectionManager, way: str, answer: str, streaming: bool
) -> None:
    """With `streaming=True` also `invoke` streams, and tells every token."""
    logs = []
    with ResponsesServer(ANSWERS[answer], ANSWERS[answer]) as server:
        for model in (http_model, lambda *args, **kwargs: socket_model(args[0], manager, **kwargs)):
            recorder = AsyncRecorder() if way.startswith("a") else Recorder()
            made = model(server, callbacks=[recorder], **({"streaming": True} if streaming else {}))
            _, failure = outcome(made.bind_tools([add]), way, "Hello")
            assert (failure is None) == (answer != "error")
            logs.append(recorder.log)
    expected, told = logs
    assert told == expected
    tokens = [kind for kind, _ in told].count("token")
    assert (tokens > 0) == (answer != "error" and (streaming or "stream" in way))
    assert told[-1][0] == ("error" if answer == "error" else "end")


def test_last_token_callback_sees_the_metadata_that_the_caller_sees(manager: ConnectionManager) -> None:
    seen: list[Any] = []

    class Handler(BaseCallbackHandler):
        def on_llm_new_token(self, token: str, **kwargs: Any) -> None:
            seen.append(kwargs["chunk"].message.response_metadata.get("transport"))

    with ResponsesServer("One two.") as server:
        chunks = list(socket_model(server, manager, callbacks=[Handler()]).stream("Hello"))
        assert seen[-1] == chunks[-1].response_metadata["transport"]
        assert set(map(str, seen[:-1])) == {"None"}


async def test_astream_events_tell_the_same_story(manager: ConnectionManager) -> None:
    stories = []
    with ResponsesServer("One two.", "One two.") as server:
        for model in (http_model(server), socket_model(server, manager)):
            story = []
            async for event in model.astream_events("Hello", {"run_id": uuid.UUID(int=3)}, version="v2"):
                data = {k: bare(v, ids=False) for k, v in event["data"].items() if k != "input"}
                story.append((event["event"], data))
            stories.append(story)
    assert stories[1] == stories[0]
    assert [kind for kind, _ in stories[1]][:2] == ["on_chat_model_start", "on_chat_model_stream"]


# -- wrappers ----------------------------------------


def test_bind_with_config_and_bind_tools_share_the_connection(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        model = socket_model(server, manager)
        wrapped = [
            model,
            model.bind(top_logprobs=1),
            model.bind_tools([add]),
            model.with_config(tags=["a"]),
            model.model_copy(),
            model.model_copy(update={"temperature": 0.2}),
            copy.copy(model),
        ]
        for each in wrapped:
            each.invoke("Hello")
        assert len(server.requests) == len(wrapped)
        assert len(server.connections) == 1


@pytest.mark.parametrize("way", WAYS)
def test_fallback_takes_over_when_the_socket_is_refused(
    manager: ConnectionManager, no_backoff: None, way: str
) -> None:
    with ResponsesServer(refuse_upgrade=403) as broken, ResponsesServer() as server:
        model = socket_model(broken, manager).with_fallbacks([socket_model(server, manager)])
        answers = run(model, way, "Hello")
        assert "Hello" in "".join(answer.text for answer in answers)
        assert len(broken.handshakes) == 1


def test_with_retry_repeats_an_error_that_it_is_told_to(manager: ConnectionManager) -> None:
    import openai

    with ResponsesServer(error(status=409, message="Busy."), "Hi.") as server:
        model = socket_model(server, manager).with_retry(
            retry_if_exception_type=(openai.ConflictError,), wait_exponential_jitter=False
        )
        assert model.invoke("Hello").text == "Hi."
        assert len(server.requests) == 2


def test_configurable_fields_keep_manager_and_settings(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        model = socket_model(server, manager).configurable_fields(
            model_name=ConfigurableField(id="model"), transport=ConfigurableField(id="transport")
        )
        model.invoke("Hello")
        model.invoke("Hello", {"configurable": {"model": "gpt-6"}})
        model.invoke("Hello", {"configurable": {"transport": "http"}})
        assert [request.model for request in server.requests] == ["gpt-5.5", "gpt-6", "gpt-5.5"]
        assert [request.transport for request in server.requests] == ["websocket", "websocket", "http"]
        assert len(server.connections) == 1


# -- copies ----------------------------------------


def test_deepcopy_and_pickle_do_what_they_do_with_chatopenai(manager: ConnectionManager) -> None:
    given: dict[str, Any] = {"model": "gpt-5.5", "api_key": KEY}
    for copier in (copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError) as expected:
            copier(ChatOpenAI(**given))
        with pytest.raises(TypeError) as refused:
            copier(ChatOpenAIWebSocket(**given))
        assert str(refused.value) == str(expected.value)
        with pytest.raises(TypeError, match=r"manager.*default one|cannot pickle"):
            copier(ChatOpenAIWebSocket(**given, manager=manager))


def test_client_stand_ins_can_be_copied(manager: ConnectionManager) -> None:
    with ResponsesServer("Hi.") as server:
        client = copy.copy(socket_model(server, manager).root_client)
        assert client.responses.create(model="gpt-5.5", input="x").output_text == "Hi."


def test_serialised_model_names_its_class_and_holds_no_secret(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        model = socket_model(server, manager, chain_secret="s3cret-of-chains")
        data = dumpd(model)
        assert data["id"] == ["langchain_ws_responses", "ChatOpenAIWebSocket"]
        assert "manager" not in data["kwargs"]
        for told in (dumps(model), repr(model), str(model)):
            assert "s3cret-of-chains" not in told
            assert KEY not in told


# -- cache, rate limiter, switches ----------------------------------------


def test_cached_answer_does_not_corrupt_the_chain(manager: ConnectionManager) -> None:
    with ResponsesServer("One.", "Two.", "Three.") as server:
        model = socket_model(server, manager, cache=InMemoryCache())
        first = model.invoke([HumanMessage("First?")])
        cached = model.invoke([HumanMessage("First?")])
        assert len(server.requests) == 1
        assert cached.text == first.text
        for answer in (first, cached):
            link = response_link(answer)
            assert link is not None
            assert link["id"] == server.requests[0].response_id
        model.invoke([HumanMessage("First?"), cached, HumanMessage("Second?")])
        # A cached answer put where it was not given proves nothing.
        model.invoke([HumanMessage("Other?"), cached, HumanMessage("Second?")])
        delta, full = server.requests[1:]
        assert [item["content"] for item in delta.items] == ["Second?"]
        assert delta.is_delta
        assert not full.is_delta
        assert [item["role"] for item in full.seen] == ["user", "assistant", "user"]


class Tenant(enum.Enum):
    """Is sent by its name, as every value that is no text and no number."""

    ALICE = "a"
    BOB = "b"


class Texts(str, enum.Enum):
    """Is sent as `Texts.ALICE`, though it is text."""

    ALICE = "a"


_APART: dict[str, tuple[Any, Any]] = {
    "headers": ({"default_headers": {"X-Tenant": "alice"}}, {"default_headers": {"X-Tenant": "bob"}}),
    "order of headers": (
        {"default_headers": {"X-A": "1", "X-B": "2"}},
        {"default_headers": {"X-B": "2", "X-A": "1"}},
    ),
    "organization": ({"organization": "org-a"}, {"organization": "org-b"}),
    "query": ({"default_query": {"tenant": "a"}}, {"default_query": {"tenant": "b"}}),
    "UUIDs": tuple({"default_query": {"tenant": uuid.UUID(int=number)}} for number in (1, 2)),
    "enum": tuple({"default_query": {"tenant": tenant}} for tenant in Tenant),
    "inside a query": tuple({"default_query": {"of": {"tenants": [tenant]}}} for tenant in Tenant),
    "query of the address": (
        {"base_url": "http://h.invalid/v1?t=a"},
        {"base_url": "http://h.invalid/v1?t=b"},
    ),
    "address": ({"base_url": "http://a.invalid/v1"}, {"base_url": "http://b.invalid/v1"}),
    "key": ({"api_key": "sk-a"}, {"api_key": "sk-b"}),
    "none": ({}, {}),
    "headers or none": ({}, {"default_headers": {"X-Tenant": "alice"}}),
}


@pytest.mark.parametrize("what", _APART)
def test_a_cache_tells_apart_what_it_tells_apart_over_http(what: str) -> None:
    def known_by(cls: Any, fields: dict[str, Any]) -> str:
        return str(
            cls(**{"model": "gpt-5.5", "api_key": KEY, "use_responses_api": True, **fields})._get_llm_string()
        )

    one, other = _APART[what]
    over_http = known_by(ChatOpenAI, one) == known_by(ChatOpenAI, other)
    assert (known_by(ChatOpenAIWebSocket, one) == known_by(ChatOpenAIWebSocket, other)) is over_http
    assert known_by(ChatOpenAIWebSocket, one) == known_by(ChatOpenAIWebSocket, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Texts.ALICE, "a"),
        ({"a": 1}, [["a", 1]]),
        ({"UUID": str(uuid.UUID(int=1))}, uuid.UUID(int=1)),
        (None, "None"),
        # Plain `ChatOpenAI` sorts the names for its cache, and fails.
        ({1: "a", "x": "c"}, {1: "b", "x": "c"}),
        ({1: "a", "1": "b"}, {1: "c", "1": "b"}),
    ],
)
def test_a_cache_tells_apart_what_only_looks_alike(one: Any, other: Any) -> None:
    known_by = [
        ChatOpenAIWebSocket(model="m", api_key=KEY, default_query={"tenant": value})._get_llm_string()
        for value in (one, other)
    ]
    assert known_by[0] != known_by[1]


@pytest.mark.parametrize("kind", [Omit, NotGiven])
def test_a_cache_knows_a_model_that_takes_a_default_out(kind: Any) -> None:
    known_by = {
        ChatOpenAIWebSocket(model="m", api_key=KEY, default_query={"tenant": kind()})._get_llm_string()
        for _ in range(2)
    }
    assert len(known_by) == 1


def test_a_shared_cache_does_not_give_one_tenant_what_another_one_was_told(
    manager: ConnectionManager,
) -> None:
    cache = InMemoryCache()
    with ResponsesServer(answer=lambda request: f"for {request.headers['x-tenant']}") as server:
        told = [
            socket_model(server, manager, cache=cache, default_headers={"X-Tenant": name})
            .invoke("Who am I?")
            .text
            for name in ("alice", "bob", "alice")
        ]
        assert told == ["for alice", "for bob", "for alice"]
        assert len(server.requests) == 2, "the third one is in the cache"
        assert "alice" not in "".join(known_by for _, known_by in cache._cache)


def test_what_a_cache_knows_a_model_by_is_the_same_in_every_process(project: Path) -> None:
    fields = {"model": "m", "api_key": KEY, "organization": "org", "default_headers": {"X-A": "1"}}
    script = (
        f"from langchain_ws_responses import *; print(ChatOpenAIWebSocket(**{fields!r})._get_llm_string())"
    )
    told = subprocess.run(
        [sys.executable, "-c", script], cwd=project, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == ChatOpenAIWebSocket(**fields)._get_llm_string()


async def test_cached_answer_of_an_async_call_is_the_same(manager: ConnectionManager) -> None:
    with ResponsesServer("One.") as server:
        model = socket_model(server, manager, cache=InMemoryCache())
        first = await model.ainvoke("First?")
        cached = await model.ainvoke("First?")
        assert len(server.requests) == 1
        assert cached.response_metadata == first.response_metadata


class CountingLimiter(BaseRateLimiter):
    """Lets everybody through and counts them."""

    def __init__(self) -> None:
        self.calls = 0

    def acquire(self, *, blocking: bool = True) -> bool:
        self.calls += 1
        return True

    async def aacquire(self, *, blocking: bool = True) -> bool:
        return self.acquire(blocking=blocking)


@pytest.mark.parametrize("way", WAYS)
def test_rate_limiter_is_asked_once_for_each_call(manager: ConnectionManager, way: str) -> None:
    limiter = CountingLimiter()
    with ResponsesServer("Hi.") as server:
        run(socket_model(server, manager, rate_limiter=limiter), way, "Hello")
    assert limiter.calls == 1


@pytest.mark.parametrize("disabled", [True, "tool_calling"])
@pytest.mark.parametrize("way", ["stream", "astream"])
def test_disabled_streaming_gives_one_piece_as_over_http(
    manager: ConnectionManager, way: str, disabled: Any
) -> None:
    with ResponsesServer("One two.", "One two.") as server:
        oracle = http_model(server, disable_streaming=disabled).bind_tools([add])
        model = socket_model(server, manager, disable_streaming=disabled).bind_tools([add])
        expected = run(oracle, way, "Hello")
        answers = run(model, way, "Hello")
        assert [bare(m, ids=False) for m in answers] == [bare(m, ids=False) for m in expected]
        assert answers[-1].response_metadata["transport"]["mode"] == "full"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("transport", ["http", "websocket"])
def test_response_headers_are_included_where_there_are_some(
    manager: ConnectionManager, transport: str, way: str
) -> None:
    with ResponsesServer("Hi.", "Hi.") as server:
        expected = run(http_model(server, include_response_headers=True), way, "Hello")
        model = socket_model(server, manager, transport=transport, include_response_headers=True)
        answers = run(model, way, "Hello")
        headers = answers[0].response_metadata["headers"]
        if transport == "http":
            assert headers.keys() == expected[0].response_metadata["headers"].keys()
            assert headers["x-request-id"]
        else:
            assert headers == {}
        assert len(answers) == len(expected)


def test_stream_over_http_that_is_never_read_is_closed(manager: ConnectionManager) -> None:
    with ResponsesServer("Hi.") as server:
        model = socket_model(server, manager, transport="http", include_response_headers=True)
        chunks = model.stream("Hello")
        next(chunks)
        chunks.close()
        assert [request.transport for request in server.requests] == ["sse"]


# -- settings of a single call ----------------------------------------


@pytest.fixture
def told() -> Iterator[list[warnings.WarningMessage]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield caught


@pytest.mark.parametrize("name", ["extra_headers", "extra_query"])
def test_setting_that_no_socket_can_carry_is_warned_of_once(
    manager: ConnectionManager, told: list[warnings.WarningMessage], name: str
) -> None:
    with ResponsesServer() as server:
        model = socket_model(server, manager)
        for _ in range(3):
            model.invoke("Hello", **{name: {"X-Mine": "1"}})
        list(model.bind(**{name: {"X-Mine": "1"}}).stream("Hello"))
        mine = [str(w.message) for w in told if name in str(w.message)]
        assert len(mine) == 1
        assert "default_" in mine[0]
        assert all(name not in request.body for request in server.requests)


def test_header_of_a_call_that_goes_over_http_is_sent_without_a_warning(
    manager: ConnectionManager, told: list[warnings.WarningMessage]
) -> None:
    with ResponsesServer() as server:
        model = socket_model(server, manager, transport="auto")
        model.invoke("Hello", extra_headers={"X-Mine": "1"})
        assert server.requests[0].headers["x-mine"] == "1"
        assert not [w for w in told if "extra_headers" in str(w.message)]


def test_default_headers_and_query_go_with_the_handshake(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        model = socket_model(server, manager, default_headers={"X-Mine": "1"}, default_query={"v": "2"})
        model.invoke("Hello")
        assert server.handshakes[0].headers["x-mine"] == "1"
        assert server.handshakes[0].path == "/v1/responses?v=2"


@pytest.mark.parametrize("way", WAYS)
def test_own_previous_response_id_is_sent_as_given(
    manager: ConnectionManager, told: list[warnings.WarningMessage], way: str
) -> None:
    with ResponsesServer("One.", "Two.", "Three.") as server:
        model = socket_model(server, manager)
        first = model.invoke("First?")
        response_id = server.requests[0].response_id
        for _ in range(2):
            answers = run(model, way, "Second?", previous_response_id=response_id)
        second = server.requests[1]
        assert second.previous_response_id == response_id
        assert [item["content"] for item in second.items] == ["Second?"]
        assert answers[-1].response_metadata["transport"]["reason"] == "caller"
        # What the model saw is not what the messages say: no link can vouch for it.
        assert response_link(answers[-1]) is None
        assert response_link(first) is not None
        assert len([w for w in told if "previous_response_id" in str(w.message)]) == 1


def test_use_previous_response_id_is_answered_by_the_plan(manager: ConnectionManager) -> None:
    """ChatOpenAI would drop the edit: it sends what follows the newest id, whatever became of the rest."""
    with ResponsesServer() as server:
        model = socket_model(server, manager, use_previous_response_id=True)
        history: list[Any] = [HumanMessage("First?")]
        history += [model.invoke(history), HumanMessage("Second?")]
        model.invoke(history)
        model.invoke([HumanMessage("Edited?"), *history[1:]])
        _, delta, full = server.requests
        assert delta.is_delta
        assert not full.is_delta
        assert full.seen[0]["content"] == "Edited?"


@pytest.mark.parametrize("way", WAYS)
def test_background_goes_over_http_or_is_refused(manager: ConnectionManager, way: str) -> None:
    with ResponsesServer() as server:
        run(socket_model(server, manager, transport="auto").bind_tools([add]), way, "Hello", background=True)
        assert [request.body["background"] for request in server.requests] == [True]
        assert server.requests[0].transport != "websocket"
        _, refused = outcome(socket_model(server, manager), way, "Hello", background=True)
        assert isinstance(refused, ValueError)
        assert "background" in str(refused)
        assert "http" in str(refused)
        assert len(server.requests) == 1


def test_encrypted_reasoning_is_asked_for_where_nothing_is_stored(manager: ConnectionManager) -> None:
    with ResponsesServer(answer=lambda _: reasoning("Hm.", "Done.")) as server:
        model = socket_model(server, manager, store=False, include=["message.output_text.logprobs"])
        first = model.invoke("First?")
        assert server.requests[0].body["include"] == [
            "message.output_text.logprobs",
            "reasoning.encrypted_content",
        ]
        server.drop_connections()
        until_lost(manager)
        model.invoke([HumanMessage("First?"), first, HumanMessage("Second?")])
        full = server.requests[1]
        assert not full.is_delta
        assert [item["type"] for item in full.items] == ["message", "reasoning", "message", "message"]
        assert full.items[1]["encrypted_content"]
        assert model.include == ["message.output_text.logprobs"]


@pytest.mark.parametrize("timeout", [0.05, (5.0, 0.05), pytest.param("httpx", id="object with read")])
@pytest.mark.parametrize("per_call", [False, True])
def test_timeout_ends_a_turn_that_says_nothing(
    manager: ConnectionManager, no_backoff: None, per_call: bool, timeout: Any
) -> None:
    import threading

    import openai

    from langchain_ws_responses import failure_of
    from langchain_ws_responses.testing import hold

    if timeout == "httpx":
        timeout = openai.Timeout(5.0, read=0.05)
    gate = threading.Event()
    with ResponsesServer(answer=lambda _: hold(gate, "late")) as server:
        model = socket_model(
            server, manager, on_ambiguous="raise", **({} if per_call else {"timeout": timeout})
        )
        with pytest.raises(openai.APITimeoutError) as raised:
            model.invoke("Hello", **({"timeout": timeout} if per_call else {}))
        gate.set()
        failure = failure_of(raised.value)
        assert failure is not None
        assert failure.failure.kind == "first_event_timeout"
        assert "0.05 s" in str(failure)
        assert all("timeout" not in request.body for request in server.requests)


def test_two_models_with_different_settings_ask_for_different_things(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        model = socket_model(server, manager, model="gpt-4.1")
        model.invoke("Hello")
        model.temperature = 0.7
        model.invoke("Hello")
        first, second = map(settings_of, server.requests)
        assert "temperature" not in first
        assert second == {**first, "temperature": 0.7}
        assert isinstance(model, ChatOpenAIWebSocket)


def test_history_from_another_model_class_is_sent_whole(manager: ConnectionManager) -> None:
    with ResponsesServer("One.", "Two.") as server:
        history = [HumanMessage("First?"), http_model(server).invoke("First?"), HumanMessage("Second?")]
        answer = socket_model(server, manager).invoke(history)
        assert answer.response_metadata["transport"]["reason"] == "no_link"
        assert [item["role"] for item in server.requests[1].seen] == ["user", "assistant", "user"]
        assert without_ids(answer.id) == "resp_…"
        assert isinstance(answer, AIMessage)


def test_closing_a_model_closes_its_own_manager_only() -> None:
    from langchain_ws_responses import default_manager

    with ResponsesServer() as server, ConnectionManager() as manager:
        own = socket_model(server, manager)
        own.invoke("Hello")
        own.close()
        assert manager.closed
        shared = socket_model(server, None)
        shared.close()
        asyncio.run(shared.aclose())
        assert not default_manager().closed
