"""A model there and back through LangChain's serialisation, and what traces are told of it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.load import dumpd, load
from langchain_core.runnables import RunnableBinding
from pydantic import SecretStr

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager, with_websocket
from langchain_ws_responses.testing import ResponsesServer, fake_model

if TYPE_CHECKING:
    from collections.abc import Iterator

# LangChain says that its `load` may still change.
pytestmark = pytest.mark.filterwarnings("ignore:The function `load` is in beta")
KEY = "sk-canary-of-serialisation"
SECRET = "secret-canary-of-serialisation"


@pytest.fixture
def server() -> Iterator[ResponsesServer]:
    with ResponsesServer(answer=fake_model, api_key=KEY) as server:
        yield server


@pytest.fixture
def model(server: ResponsesServer) -> Iterator[ChatOpenAIWebSocket]:
    with ConnectionManager() as manager:
        yield ChatOpenAIWebSocket(
            model="gpt-test", api_key=SecretStr(KEY), base_url=server.base_url, transport="websocket", chain="off",
            system_mode="instructions", on_ambiguous="raise", temperature=0.5, max_retries=1, manager=manager,
            chain_secret=SecretStr(SECRET), default_headers={"x-tenant": SECRET}, organization="org-" + SECRET,
        )  # fmt: skip


def loaded(data: Any) -> Any:
    namespaces = ChatOpenAIWebSocket.get_lc_namespace()
    return load(
        data, allowed_objects=[ChatOpenAIWebSocket, RunnableBinding], valid_namespaces=namespaces,
        secrets_from_env=True,
    )  # fmt: skip


def test_a_model_comes_back_with_its_settings_and_with_secrets_of_the_environment(
    model: ChatOpenAIWebSocket, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = json.loads(json.dumps(dumpd(model)))
    assert (data["type"], data["id"]) == ("constructor", ["langchain_ws_responses", "ChatOpenAIWebSocket"])
    assert KEY not in json.dumps(data)
    assert SECRET not in json.dumps(data)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-the-environment")
    back = loaded(data)
    assert type(back) is ChatOpenAIWebSocket
    assert back.openai_api_key == SecretStr(KEY)
    assert back.openai_organization == "org-of-the-environment"
    kept = (
        "transport",
        "chain",
        "system_mode",
        "on_ambiguous",
        "temperature",
        "max_retries",
        "openai_api_base",
    )
    assert {name: getattr(back, name) for name in kept} == {name: getattr(model, name) for name in kept}
    # Sockets, headers and chains are not data.
    assert (back.manager, back.chain_secret, back.default_headers) == (None, None, None)


def test_what_comes_back_works(model: ChatOpenAIWebSocket, monkeypatch: pytest.MonkeyPatch) -> None:
    bound = model.model_copy(update={"default_headers": None, "openai_organization": None}).bind(max_tokens=7)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    back = loaded(dumpd(bound))
    assert isinstance(back, RunnableBinding)
    with ConnectionManager() as manager:
        back.bound.manager = manager
        answer = back.invoke("Hello")
    assert answer.text == "You said: Hello"
    assert answer.response_metadata["transport"]["kind"] == "websocket"


def test_a_model_that_was_taken_over_is_told_to_traces_like_its_own_kind(model: ChatOpenAIWebSocket) -> None:
    from langchain.chat_models import init_chat_model

    taken = with_websocket(init_chat_model("openai:gpt-test", api_key=KEY, temperature=0.25, max_tokens=9))
    params = taken._get_ls_params(stop=["x"])
    told = {"ls_provider", "ls_model_name", "ls_model_type", "ls_temperature", "ls_max_tokens", "ls_stop"}
    assert {name: params[name] for name in told} == {
        "ls_provider": "openai", "ls_model_name": "gpt-test", "ls_model_type": "chat", "ls_temperature": 0.25,
        "ls_max_tokens": 9, "ls_stop": ["x"],
    }  # fmt: skip
    assert model._get_ls_params(model="other")["ls_model_name"] == "other"
    assert KEY not in json.dumps(params)


def test_a_model_stays_configurable(model: ChatOpenAIWebSocket, server: ResponsesServer) -> None:
    from langchain_core.runnables import ConfigurableField

    configurable = model.configurable_fields(temperature=ConfigurableField(id="heat"))
    configurable.with_config(configurable={"heat": 0.125}).invoke("Hello")
    configurable.invoke("Hello")
    assert [request.body["temperature"] for request in server.requests] == [0.125, 0.5]
    assert len(server.connections) == 1
