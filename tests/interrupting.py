"""Interrupts at each line of a call, one after the other, as Ctrl-C may do."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import langchain_ws_responses

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
