"""A call is interrupted at each of its lines, as Ctrl-C may do: nothing hangs, nothing is left, the next one works."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pairs import socket_model
from transport_kit import on_io
from waiting import eventually

import langchain_ws_responses
from langchain_ws_responses import ConnectionManager
from langchain_ws_responses.testing import RecordedRequest, ResponsesServer, text

PACKAGE = Path(langchain_ws_responses.__file__).parent


class Interrupt(BaseException):
    """What nobody but the caller can have raised or caught."""


class Lines:
    """Runs something in this thread and interrupts it at the `number`th line of the package that is new, from 0."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.seen: set[tuple[str, int]] = set()
        self.hit = ""

    def run(self, call: Callable[[], object]) -> None:
        before = sys.gettrace()
        sys.settrace(self._enter)
        try:
            call()
        except Interrupt:
            pass
        finally:
            sys.settrace(before)

    def _enter(self, frame: Any, event: str, arg: Any) -> Any:
        file = Path(frame.f_code.co_filename)
        ours = file.is_relative_to(PACKAGE) and not file.is_relative_to(PACKAGE / "testing")
        return self._line if ours else None

    def _line(self, frame: Any, event: str, arg: Any) -> Any:
        line = (frame.f_code.co_filename, frame.f_lineno)
        if event == "line" and not self.hit and line not in self.seen:
            if len(self.seen) == self.number:
                self.hit = f"{Path(line[0]).name}:{line[1]}"
                raise Interrupt
            self.seen.add(line)
        return self._line


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
