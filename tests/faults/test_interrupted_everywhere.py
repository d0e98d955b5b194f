"""A call is interrupted at each of its lines, as Ctrl-C may do: nothing hangs, nothing is left, the next one works."""

from __future__ import annotations

from typing import Any

import pytest
from interrupting import Lines
from pairs import socket_model
from transport_kit import on_io
from waiting import eventually

from langchain_ws_responses import ConnectionManager
from langchain_ws_responses.testing import RecordedRequest, ResponsesServer, text


def answer(request: RecordedRequest) -> Any:
    return text(f"This answers {request.last_user_text}.")


def ask(model: Any, way: str) -> None:
    if way == "invoke":
        model.invoke("the one")
        return
    chunks = model.stream("the one")
    next(chunks)
    chunks.close()


# A weak reference's callback and a generator that is collected have nobody to raise to.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("way", ["invoke", "stream"])
def test_interrupted_at_every_line(way: str) -> None:
    with ResponsesServer(answer=answer) as server, ConnectionManager() as manager:
        model = socket_model(server, manager)
        ask(model, way)  # what happens at the first call only is then done
        number, hit = 0, "the beginning"
        while hit:
            lines = Lines(number)
            lines.run(lambda: ask(model, way))
            number, hit = number + 1, lines.hit
            # The way to the I/O thread is open: this waits for it, but not for ever.
            on_io(lambda: None)
            eventually(lambda: manager.stats().in_flight == 0, f"every lane is free after {hit}")
            assert on_io(lambda: manager._buffers.live) == set(), hit
            assert manager.stats().waiting == 0, hit
        assert model.invoke("the next").text == "This answers the next."
        assert number > 200, "hardly anything was interrupted"
        assert len(server.connections) == 1
