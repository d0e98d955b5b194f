"""Managers that are closed after the test, and tests without waiting between attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from transport_kit import Events

from langchain_ws_responses._transport.manager import ConnectionManager
from langchain_ws_responses._transport.retry import set_testing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def make_manager() -> Iterator[Callable[..., ConnectionManager]]:
    """Makes managers and closes them."""
    made: list[ConnectionManager] = []

    def make(**options: Any) -> ConnectionManager:
        made.append(ConnectionManager(**options))
        return made[-1]

    yield make
    for manager in made:
        manager.close()


@pytest.fixture
def events() -> Events:
    """Collects what the manager tells its hooks."""
    return Events()


@pytest.fixture
def manager(make_manager: Callable[..., ConnectionManager], events: Events) -> ConnectionManager:
    """A manager with the default limits."""
    return make_manager(hooks=[events])


@pytest.fixture
def at_once() -> Iterator[None]:
    """No waiting between attempts."""
    set_testing(True)
    yield
    set_testing(False)
