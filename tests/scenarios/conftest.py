"""The world of a scenario, for every way to run a graph and with and without storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from scenarios.graphs import WAYS, World

from langchain_ws_responses._transport.retry import set_testing
from langchain_ws_responses.testing import ResponsesServer

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How a graph is run."""
    return str(request.param)


@pytest.fixture(params=[True, False], ids=["stored", "unstored"])
def store(request: pytest.FixtureRequest) -> bool:
    """Whether the provider keeps responses."""
    return bool(request.param)


def _world(way: str, *, store: bool) -> Iterator[World]:
    set_testing(True)
    with ResponsesServer() as server:
        world = World(server, way, store)
        yield world
        world.manager.close()
    set_testing(False)


@pytest.fixture
def world(way: str, store: bool) -> Iterator[World]:
    """Each way, with and without storage."""
    yield from _world(way, store=store)


@pytest.fixture
def stored_world(way: str) -> Iterator[World]:
    """Each way, where responses are stored."""
    yield from _world(way, store=True)


@pytest.fixture
def unstored_world(way: str) -> Iterator[World]:
    """Each way, with `store=False`."""
    yield from _world(way, store=False)


@pytest.fixture
def plain_world(store: bool) -> Iterator[World]:
    """With and without storage, where the way does not matter."""
    yield from _world("invoke", store=store)
