"""The office on a virtual clock."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sim.callers import Office
from sim.model_server import ModelServer
from sim.world import World

SEED = 20261101


@pytest.fixture
def open_office(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Office]]:
    """Makes an office; keyword arguments are the manager's, and the server's `lifetime`."""
    state = random.getstate()

    def make(*, lifetime: float = 3600.0, **options: Any) -> Office:
        server = ModelServer(lifetime=lifetime)
        server.world = World(monkeypatch, server.network, SEED)
        return Office(server.world, server, **options)

    yield make
    random.setstate(state)
