"""What tests of the chat model share: a manager of their own, and no waiting between attempts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from langchain_ws_responses import ConnectionManager
from langchain_ws_responses._transport.retry import set_testing

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def manager() -> Iterator[ConnectionManager]:
    """A manager of the test's own, closed after it."""
    with ConnectionManager() as manager:
        yield manager


@pytest.fixture
def no_backoff() -> Iterator[None]:
    """Attempts follow each other at once."""
    set_testing(True)
    yield
    set_testing(False)
