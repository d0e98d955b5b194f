"""`warm_up`, `awarm_up`, `preconnect`: the server has read the beginning before the first turn."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import HumanMessage, SystemMessage
from scenarios.graphs import World, add, essence
from scenarios.keeping import manager_of

from langchain_ws_responses import ManagerClosed, Profile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from langchain_ws_responses.testing import RecordedRequest, ResponsesServer

GOOD = SystemMessage("Be good.")


@pytest.fixture(params=[True, False], ids=["stored", "unstored"])
def world(request: pytest.FixtureRequest, responses_server: ResponsesServer) -> Iterator[World]:
    with manager_of() as manager:
        yield World(responses_server, "invoke", request.param, manager)


def _warm_up(model: Any, way: str, *args: Any, **kwargs: Any) -> bool:
    if way == "async":
        return bool(asyncio.run(model.awarm_up(*args, **kwargs)))
    return bool(model.warm_up(*args, **kwargs))


def _warm_ups(world: World) -> list[RecordedRequest]:
    return [request for request in world.server.requests if request.is_warm_up]


@pytest.mark.parametrize("way", ["sync", "async"])
def test_the_next_turn_sends_only_what_follows(world: World, way: str) -> None:
    model = world.model()
    assert _warm_up(model, way, [GOOD], [add]) is True
    (warm_up,) = _warm_ups(world)
    assert essence(warm_up.items) == [("system", "Be good.")]
    assert [tool["name"] for tool in warm_up.tools] == ["add"]
    assert warm_up.store is world.store
    bound = model.bind_tools([add])
    messages: list[Any] = [GOOD, HumanMessage("a")]
    messages.append(bound.invoke(messages))
    bound.invoke([*messages, HumanMessage("b")])
    assert world.sent() == ["D1", "D1"]
    assert essence(world.requests[0].items) == [("user", "a")]
    assert len(world.server.connections) == 1
    world.check()


@pytest.mark.parametrize("way", ["sync", "async"])
def test_takes_whatever_a_model_takes(world: World, way: str) -> None:
    model = world.model()
    assert _warm_up(model, way, "Hello", reasoning={"effort": "low"}, max_output_tokens=17)
    (warm_up,) = _warm_ups(world)
    assert essence(warm_up.items) == [("user", "Hello")]
    assert warm_up.body["reasoning"] == {"effort": "low"}
    assert warm_up.body["max_output_tokens"] == 17
    model.invoke([HumanMessage("Hello"), HumanMessage("World")])
    assert world.sent() == ["D1"]
    world.check()


def test_tools_alone_can_be_read_in(world: World) -> None:
    model = world.model()
    assert model.warm_up(tools=[add])
    assert _warm_ups(world)[0].items == []
    model.bind_tools([add]).invoke([GOOD, HumanMessage("a")])
    # The prompt came after the warm-up: without it there, it is not what the messages say.
    assert world.sent() == ["F first_turn"]
    assert model.warm_up(tools=[add])
    model.bind_tools([add]).invoke("a")
    assert world.sent()[1] == "D1"
    world.check()


def test_the_socket_is_used_though_auto_would_wait(world: World) -> None:
    """A single question goes over HTTP under `auto`; a warm-up says that more will follow."""
    model = world.model(transport="auto")
    assert model.warm_up([GOOD]) is True
    model.invoke([GOOD, HumanMessage("a")])
    assert world.sent() == ["D1"]
    world.check()


def test_one_beginning_serves_several_conversations_if_it_is_stored(world: World) -> None:
    model = world.model()
    assert model.warm_up([GOOD])
    for words in "abc":
        model.invoke([GOOD, HumanMessage(words)])
    later = "D1" if world.store else "F first_turn"
    assert world.sent() == ["D1", later, later]
    world.check()


def test_the_same_beginning_is_read_in_once(world: World) -> None:
    model = world.model()
    assert model.warm_up([GOOD], [add])
    assert model.warm_up([GOOD], [add])
    assert asyncio.run(model.awarm_up([GOOD], [add]))
    assert len(_warm_ups(world)) == 1
    assert model.warm_up([GOOD])
    assert len(_warm_ups(world)) == 2


def test_two_prompts_on_one_model_are_two_beginnings(world: World) -> None:
    model = world.model()
    heads = [GOOD, SystemMessage("Be bad.")]
    for head in heads:
        assert model.warm_up([head])
    for head in heads:
        model.invoke([head, HumanMessage("a")])
    assert world.sent() == ["D1", "D1"]
    world.check()


@pytest.mark.parametrize(
    "messages",
    [
        [SystemMessage("Be bad."), HumanMessage("one"), HumanMessage("a")],
        [GOOD, HumanMessage("two"), HumanMessage("a")],
        [HumanMessage("one"), HumanMessage("a")],
        [GOOD, HumanMessage("one")],
    ],
    ids=["prompt", "message", "no-prompt", "nothing-follows"],
)
def test_another_beginning_is_sent_in_full(world: World, messages: list[Any]) -> None:
    model = world.model()
    assert model.warm_up([GOOD, HumanMessage("one")])
    model.invoke(messages)
    assert world.sent() == ["F first_turn"]
    world.check()


def test_under_instructions_the_prompt_may_change(world: World) -> None:
    model = world.model(system_mode="instructions")
    assert model.warm_up([GOOD, HumanMessage("one")])
    (warm_up,) = _warm_ups(world)
    assert warm_up.instructions == "Be good."
    model.invoke([SystemMessage("Be bad."), HumanMessage("one"), HumanMessage("two")])
    assert world.sent() == ["D1"]
    assert world.requests[0].instructions == "Be bad."
    world.check()


def test_a_conversation_that_was_restored_can_be_read_in(world: World) -> None:
    model = world.model()
    messages: list[Any] = [GOOD, HumanMessage("a")]
    messages.append(model.invoke(messages))
    world.restart()
    world.manager.close()
    world.manager = manager_of()
    model = world.model()
    assert model.warm_up(messages)
    model.invoke([*messages, HumanMessage("b")])
    assert world.sent()[1] == "D1"
    (warm_up,) = _warm_ups(world)
    assert essence(warm_up.items) == [("system", "Be good."), ("user", "a"), ("assistant", messages[2].text)]
    if not world.store:
        assert world.requests[1].previous_response_id == warm_up.response_id
    world.check()
    world.manager.close()


def test_a_warm_up_that_the_server_lost_costs_one_resend(world: World) -> None:
    model = world.model()
    assert model.warm_up([GOOD])
    world.server.forget(_warm_ups(world)[0].response_id)
    answer = model.invoke([GOOD, HumanMessage("a")])
    assert answer.response_metadata["transport"]["reason"] == "previous_response_not_found"
    assert essence(world.requests[-1].seen) == [("system", "Be good."), ("user", "a")]


@pytest.mark.parametrize(
    ("fields", "connections"), [({"transport": "http"}, 0), ({"chain": "off"}, 1)], ids=["http", "chain-off"]
)
def test_nothing_is_sent_where_nothing_could_be_continued(
    world: World, fields: dict[str, Any], connections: int
) -> None:
    assert world.model(**fields).warm_up([GOOD], [add]) is False
    assert asyncio.run(world.model(**fields).awarm_up([GOOD], [add])) is False
    if connections:
        world.server.wait_for(lambda: len(world.server.connections) == connections)
    assert world.server.requests == []
    assert len(world.server.handshakes) == connections


@pytest.mark.parametrize("profile", [None, Profile(name="gateway", lanes=True)])
def test_an_unknown_server_gets_a_connection_only(
    responses_server: ResponsesServer, profile: Profile | None
) -> None:
    with manager_of(profile) as manager:
        world = World(responses_server, manager=manager)
        model = world.model()
        assert model.keeps_warm_up is False
        assert model.warm_up([GOOD], [add]) is False
        responses_server.wait_for(lambda: len(responses_server.connections) == 1)
        model.invoke([GOOD, HumanMessage("a")])
        assert world.sent() == ["F first_turn"]
        assert len(responses_server.connections) == 1
        world.check()


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_server_that_generates_is_not_continued_and_not_asked_again(world: World, way: str) -> None:
    world.server.config.warm_up = "generate"
    model = world.model()
    assert model.keeps_warm_up is True
    assert _warm_up(model, way, [GOOD, HumanMessage("one")]) is False
    assert model.keeps_warm_up is False
    assert _warm_up(model, way, [GOOD, HumanMessage("one")]) is False
    assert len(_warm_ups(world)) == 1
    model.invoke([GOOD, HumanMessage("one"), HumanMessage("two")])
    assert world.sent() == ["F first_turn"]
    world.check()


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_refused_warm_up_is_no_error(world: World, way: str) -> None:
    world.server.config.model_check = lambda model: False
    model = world.model()
    assert _warm_up(model, way, [GOOD]) is False
    world.server.config.model_check = None
    model.invoke([GOOD, HumanMessage("a")])
    assert world.sent() == ["F first_turn"]
    world.check()


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_refused_handshake_is_no_error(world: World, way: str) -> None:
    world.server.config.refuse_upgrade = 401
    assert _warm_up(world.model(), way, [GOOD]) is False
    assert world.server.requests == []
    assert world.server.handshakes[0].status == 401


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_closed_manager_is_an_error(world: World, way: str) -> None:
    model = world.model()
    world.manager.close()
    with pytest.raises(ManagerClosed):
        _warm_up(model, way, [GOOD])


def test_preconnect_opens_one_connection_that_the_first_turn_uses(world: World) -> None:
    model = world.model()
    model.preconnect()
    model.preconnect()
    asyncio.run(model.apreconnect())
    world.server.wait_for(lambda: len(world.server.connections) == 1)
    assert world.server.requests == []
    model.invoke("a")
    assert len(world.server.handshakes) == 1
    assert world.manager.stats().dials == 1


def test_preconnect_does_nothing_over_http(world: World) -> None:
    world.model(transport="http").preconnect()
    asyncio.run(world.model(transport="http").apreconnect())
    # A dial would have been asked for before this one, and would have come first.
    world.model().preconnect()
    world.server.wait_for(lambda: len(world.server.handshakes) > 0)
    assert world.manager.stats().dials == 1


def test_preconnect_on_a_closed_manager_is_an_error(world: World) -> None:
    model = world.model()
    world.manager.close()
    with pytest.raises(ManagerClosed):
        model.preconnect()
