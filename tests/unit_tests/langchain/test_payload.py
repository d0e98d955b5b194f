"""A subclass that has its word in the request is heard, as it is over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from pairs import KEY, WAYS, http_clients, run
from pydantic import BaseModel

from langchain_ws_responses import ChatOpenAIWebSocket, response_link
from langchain_ws_responses._langchain import payload as payload_module
from langchain_ws_responses.testing import ResponsesServer, text

if TYPE_CHECKING:
    from langchain_ws_responses import ConnectionManager

CARD = "4111 1111"


def masked(value: Any) -> Any:
    return json.loads(json.dumps(value).replace(CARD, "****"))


class InFlex:
    """Changes settings alone."""

    def _get_request_payload(self, input_: Any, *, stop: Any = None, **kwargs: Any) -> dict[str, Any]:
        payload: dict[str, Any] = super()._get_request_payload(input_, stop=stop, **kwargs)  # type: ignore[misc]
        return {**payload, "service_tier": "flex"}


class Masking:
    """Changes what is said."""

    def _get_request_payload(self, input_: Any, *, stop: Any = None, **kwargs: Any) -> dict[str, Any]:
        payload: dict[str, Any] = super()._get_request_payload(input_, stop=stop, **kwargs)  # type: ignore[misc]
        payload["input"] = masked(payload["input"])
        return payload


class MaskingMessages:
    """Changes the messages themselves, in place."""

    def _get_request_payload(self, input_: Any, *, stop: Any = None, **kwargs: Any) -> dict[str, Any]:
        for message in input_:
            message.content = masked(message.content)
        payload: dict[str, Any] = super()._get_request_payload(input_, stop=stop, **kwargs)  # type: ignore[misc]
        return payload


def pair(*mixins: type) -> tuple[type[ChatOpenAI], type[ChatOpenAIWebSocket]]:
    """The same subclass over HTTP and of the class under test."""
    return type("Plain", (*mixins, ChatOpenAI), {}), type("Ours", (*mixins, ChatOpenAIWebSocket), {})


def conversation(model: Any, way: str) -> list[Any]:
    history: list[Any] = [SystemMessage("Be brief."), HumanMessage(f"Pay with {CARD}.")]
    for _ in range(2):
        answers = run(model, way, history)
        whole = answers[0]
        for chunk in answers[1:]:
            whole = whole + chunk
        history += [whole, HumanMessage(f"Really, with {CARD}?")]
    return history


def models(server: ResponsesServer, manager: ConnectionManager, kinds: Any, **fields: Any) -> tuple[Any, Any]:
    plain, ours = kinds
    common = {
        "model": "gpt-5.5",
        "api_key": KEY,
        "max_retries": 0,
        "base_url": server.base_url,
        **http_clients(),
    }
    return (
        plain(use_responses_api=True, **common),
        ours(manager=manager, **common, **{"transport": "websocket", **fields}),
    )


def what_was_said(server: ResponsesServer) -> list[Any]:
    """The conversation as the model saw it, turn by turn, without ids."""
    return [
        [
            (
                item["role"],
                item["content"] if isinstance(item["content"], str) else item["content"][0]["text"],
            )
            for item in request.seen
        ]
        for request in server.requests
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("transport", ["websocket", "http", "auto"])
@pytest.mark.parametrize("mixin", [Masking, MaskingMessages])
def test_what_a_subclass_masks_leaves_masked(
    manager: ConnectionManager, mixin: type, transport: str, way: str
) -> None:
    kinds = pair(mixin, InFlex)
    with ResponsesServer("One.", "Two.") as expected:
        conversation(models(expected, manager, kinds)[0], way)
        with ResponsesServer("One.", "Two.") as server:
            history = conversation(models(server, manager, kinds, transport=transport)[1], way)
            assert what_was_said(server) == what_was_said(expected)
            assert [request.body["service_tier"] for request in server.requests] == ["flex", "flex"]
            assert all(request.is_full for request in server.requests)
    assert CARD not in str(what_was_said(server))
    # The state keeps what it held, and links would claim what was not said.
    assert history[1].content == f"Pay with {CARD}."
    assert [history[at].response_metadata["transport"]["reason"] for at in (2, 4)] == ["caller", "caller"]
    assert response_link(history[2]) is None


@pytest.mark.parametrize("way", WAYS)
def test_a_subclass_that_changes_settings_alone_still_sends_deltas(
    manager: ConnectionManager, way: str
) -> None:
    with ResponsesServer("One.", "Two.") as server:
        conversation(models(server, manager, pair(InFlex))[1], way)
        first, second = server.requests
        assert (first.is_full, second.is_delta) == (True, True)
        assert [each.body["service_tier"] for each in (first, second)] == ["flex", "flex"]
        assert len(second.items) == 1


def test_a_masking_class_is_heard_wherever_it_stands(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    masking = type("MaskingChat", (Masking, ChatOpenAI), {})
    behind = type("Behind", (ChatOpenAIWebSocket, masking), {})
    with ResponsesServer("One.", "Two.") as server:
        models(server, manager, (masking, behind))[1].invoke(f"Pay with {CARD}.")
        # As those do it who instrument a library.
        original = ChatOpenAI._get_request_payload
        monkeypatch.setattr(
            ChatOpenAI, "_get_request_payload", lambda *args, **kwargs: masked(original(*args, **kwargs))
        )
        models(server, manager, (ChatOpenAI, ChatOpenAIWebSocket))[1].invoke(f"Pay with {CARD}.")
        assert what_was_said(server) == [[("user", "Pay with ****.")]] * 2


@pytest.mark.parametrize("transport", ["websocket", "http"])
def test_a_subclass_sees_the_whole_conversation_whoever_tells_what_is_continued(
    manager: ConnectionManager, transport: str
) -> None:
    """`use_previous_response_id` of `ChatOpenAI` sends the newest messages alone."""
    for mixin, newest in ((Masking, 4), (InFlex, 1)):
        with ResponsesServer("One.", "Two.") as server:
            fields = {"use_previous_response_id": True, "transport": transport}
            conversation(models(server, manager, pair(mixin), **fields)[1], "invoke")
            assert [len(request.items) for request in server.requests] == [2, newest]
            assert (CARD in str(what_was_said(server))) == (mixin is InFlex)
            assert [len(request.seen) for request in server.requests] == [2, 4]


class Prompting(Masking):
    """Sends a stored prompt in the place of all input."""

    def _get_request_payload(self, input_: Any, *, stop: Any = None, **kwargs: Any) -> dict[str, Any]:
        payload = super()._get_request_payload(input_, stop=stop, **kwargs)
        del payload["input"]
        return {**payload, "prompt": {"id": "pmpt_1"}}


class Telling(Masking):
    """Sends a text."""

    def _get_request_payload(self, input_: Any, *, stop: Any = None, **kwargs: Any) -> dict[str, Any]:
        return {**super()._get_request_payload(input_, stop=stop, **kwargs), "input": "Say something."}


@pytest.mark.parametrize("transport", ["websocket", "http"])
@pytest.mark.parametrize(("mixin", "sent", "items"), [(Prompting, None, 0), (Telling, "Say something.", 1)])
def test_an_input_of_any_form_is_sent_as_it_is(
    manager: ConnectionManager, mixin: type, sent: Any, items: int, transport: str
) -> None:
    with ResponsesServer("One.", "Two.") as server:
        plain, ours = models(server, manager, pair(mixin), transport=transport)
        plain.invoke(f"Pay with {CARD}.")
        answer = ours.invoke(f"Pay with {CARD}.")
        assert [request.body.get("input") for request in server.requests] == [sent, sent]
        assert answer.response_metadata["transport"]["items"] == items


def test_langchain_converts_nothing_where_a_subclass_leaves_the_input_alone(
    manager: ConnectionManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for what it makes for the subclass to look at."""
    converted: list[int] = []
    original = payload_module._LANGCHAINS

    def counted(model: Any, input_: Any, **kwargs: Any) -> Any:
        converted.append(len(input_))
        return original(model, input_, **kwargs)

    monkeypatch.setattr(payload_module, "_LANGCHAINS", counted)
    with ResponsesServer("One.", "Two.") as server:
        model = models(server, manager, pair(InFlex))[1]
        conversation(model, "invoke")
    assert converted == []


def test_a_subclass_of_a_subclass_is_heard_once(manager: ConnectionManager) -> None:
    asked: list[int] = []

    class Counting(ChatOpenAIWebSocket):
        def _get_request_payload(self, input_: Any, *, stop: Any = None, **kwargs: Any) -> dict[str, Any]:
            asked.append(len(input_))
            return super()._get_request_payload(input_, stop=stop, **kwargs)

    class Flexible(InFlex, Counting):
        pass

    with ResponsesServer("One.") as server:
        model = models(server, manager, (ChatOpenAI, Flexible))[1]
        model.invoke("Hello.")
        assert server.requests[0].body["service_tier"] == "flex"
    assert asked == [1]


def test_a_masking_subclass_parses_answers(manager: ConnectionManager) -> None:
    class Payment(BaseModel):
        amount: int

    with ResponsesServer(text('{"amount": 3}')) as server:
        model = models(server, manager, pair(Masking))[1]
        assert model.with_structured_output(Payment).invoke(f"Pay 3 with {CARD}.") == Payment(amount=3)
        assert what_was_said(server) == [[("user", "Pay 3 with ****.")]]
        assert server.requests[0].body["text"]["format"]["name"] == "Payment"


def test_a_masking_subclass_warms_up_and_compacts_masked(manager: ConnectionManager) -> None:
    with ResponsesServer() as server:
        model = models(server, manager, pair(Masking))[1]
        history = [SystemMessage(f"They have {CARD}."), HumanMessage(f"Pay with {CARD}.")]
        assert model.warm_up(history) is False
        model.compact(history)
        assert [(request.kind, request.instructions, len(request.items)) for request in server.requests] == [
            ("compact", "They have ****.", 1)
        ]
        assert CARD not in str(server.requests[0].body)


def test_stop_sequences_may_be_given_to_warm_ups_and_compaction_as_to_turns(
    manager: ConnectionManager,
) -> None:
    with ResponsesServer("One.") as server:
        model = models(server, manager, (ChatOpenAI, ChatOpenAIWebSocket))[1]
        assert model.bind(stop=["."]).invoke("a").text == "One."
        model.warm_up([HumanMessage("a")], stop=["."])
        assert model.compact([HumanMessage("a")], stop=["."])
        assert [request.kind for request in server.requests if request.generate] == ["create", "compact"]
