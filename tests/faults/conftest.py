"""One world for all cells of the fault matrix; tests/conftest.py prints the table at the end of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from faults import report
from faults.world import World

from langchain_ws_responses._transport.retry import set_testing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def shared_world() -> Iterator[World]:
    """A server with a broken network in front of it; a cell brings a manager of its own."""
    with World() as world:
        yield world


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    """The world, as new."""
    set_testing(True)
    shared_world.renew()
    yield shared_world
    shared_world.end_cells()
    set_testing(False)


@pytest.fixture(params=report.WAYS)
def way(request: pytest.FixtureRequest) -> str:
    """How the model is called."""
    return str(request.param)
