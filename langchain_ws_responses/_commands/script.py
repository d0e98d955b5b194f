"""Answers of the local server, read from a file.

A script is a JSON array, or JSON Lines: one answer after another. A string is a text message; of an object the first
key names the form and the others are its options, as in `langchain_ws_responses.testing`.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

from .. import testing
from .._cli import UsageError
from ..testing import Answer
from ..testing._script import ErrorShape

__all__ = ["answer_of", "load_function", "load_script"]


def _calls(answers: Any, **options: Any) -> Answer:
    if not isinstance(answers, list):
        raise TypeError("a list of answers is needed")
    return testing.calls(*(answer_of(item) for item in answers), **options)  # type: ignore[arg-type]


def _custom(name: str, input: str = "", **options: Any) -> Answer:
    return testing.custom_tool_call(name, input, **options)


def _failed(code: str, **options: Any) -> Answer:
    return testing.failed(code, **options)


def _error(code: str, **options: Any) -> Answer:
    return testing.error(code=code, **options)


_FORMS: Mapping[str, Callable[..., Answer]] = {
    "text": testing.text,
    "tool_call": testing.tool_call,
    "custom_tool_call": _custom,
    "calls": _calls,
    "reasoning": testing.reasoning,
    "json": testing.json_answer,
    "refusal": testing.refusal,
    "failed": _failed,
    "incomplete": testing.incomplete,
    "error": _error,
    "events": testing.events,
    "drop": testing.drop,
}
# Options that hold an answer themselves.
_INNER = ("then", "answer")
_WORDS = frozenset(
    {
        "text", "tool_call", "custom_tool_call", "refusal", "failed", "incomplete", "error", "input", "call_id",
        "phase", "message", "type", "param",
    }
)  # fmt: skip
_NUMBERS = {
    "chunks": (1, 10**9),
    "drop": (0, 10**9),
    "after_events": (0, 10**9),
    "status": (100, 599),
    "code": (1000, 4999),
}


def _check(name: str, value: Any) -> None:
    """Refuses a value that would fail, or be passed over, only once the answer is asked for."""
    if name in _WORDS and not isinstance(value, str):
        raise TypeError(f"{name!r} must be a string")
    if name in _NUMBERS and not (name == "chunks" and isinstance(value, list)):
        least, most = _NUMBERS[name]
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            what = f"at least {least}" if most == 10**9 else f"from {least} to {most}"
            raise TypeError(f"{name!r} must be a whole number {what}")
    if name == "shape" and value not in get_args(ErrorShape):
        raise TypeError(f"'shape' must be one of {', '.join(get_args(ErrorShape))}")
    if name == "headers" and not (
        isinstance(value, dict) and all(isinstance(inner, str) for inner in value.values())
    ):
        raise TypeError("'headers' must be an object of strings")
    if name == "events" and not (
        isinstance(value, list)
        and all(isinstance(event, dict) and isinstance(event.get("type"), str) for event in value)
    ):
        raise TypeError("'events' must be a list of objects whose 'type' is a string")


def answer_of(value: Any) -> Answer:
    """Makes an answer of its JSON form.

    Args:
        value: A string, or an object such as `{"tool_call": "add", "args": {"a": 1}}`.

    Raises:
        TypeError: It is neither, or an option does not fit.
    """
    if isinstance(value, str):
        return testing.text(value)
    if not isinstance(value, dict) or not value:
        raise TypeError("an answer is a string or an object")
    name, *options = value
    form = _FORMS.get(name)
    if form is None:
        raise TypeError(f"{name!r} is no answer; the first key is one of {', '.join(_FORMS)}")
    for option in value:
        # An error may have no code, and an option that is null has its default.
        if value[option] is not None or (option == name and name != "error"):
            _check(option, value[option])
    given = {option: answer_of(value[option]) if option in _INNER else value[option] for option in options}
    return form(value[name], **given)


def load_script(path: Path) -> list[Answer]:
    """Reads a script.

    Raises:
        UsageError: The file cannot be read, or an answer in it cannot be used.
    """
    answers = []
    for where, value in _values(path, _read(path)):
        try:
            answers.append(answer_of(value))
        except (TypeError, ValueError, AttributeError) as exc:
            raise UsageError(f"{path}, {where}: {exc}.") from exc
        except RecursionError as exc:
            raise UsageError(f"{path}, {where} is nested too deeply.") from exc
    if not answers:
        raise UsageError(
            f"{path} holds no answer. Write one per line, as in {json.dumps({'text': 'Hello'})}."
        )
    return answers


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"cannot read {path}: {exc.strerror}.") from exc
    except UnicodeDecodeError as exc:
        raise UsageError(f"{path} is not UTF-8 text.") from exc


def _values(path: Path, source: str) -> list[tuple[str, Any]]:
    if source.lstrip().startswith("["):
        try:
            values = json.loads(source)
        except ValueError as exc:
            raise UsageError(f"{path} is not JSON: {exc}.") from exc
        except RecursionError as exc:
            raise UsageError(f"{path} is nested too deeply.") from exc
        return [(f"answer {number}", value) for number, value in enumerate(values, 1)]
    found = []
    for number, line in enumerate(source.splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append((f"line {number}", json.loads(line)))
        except ValueError as exc:
            raise UsageError(f"{path}, line {number} is not JSON: {exc}.") from exc
        except RecursionError as exc:
            raise UsageError(f"{path}, line {number} is nested too deeply.") from exc
    return found


def load_function(path: Path) -> Callable[[Any], Any]:
    """Loads the function `answer(request)` of a Python file.

    Raises:
        UsageError: The file cannot be run, or has no such function.
    """
    source = _read(path)
    spec = importlib.util.spec_from_loader(path.stem, loader=None, origin=str(path))
    assert spec is not None  # noqa: S101 - for the type checker: without a loader there is nothing to search
    module = importlib.util.module_from_spec(spec)
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102 - the user's own file, by request
    except Exception as exc:
        raise UsageError(f"{path} cannot be run: {type(exc).__name__}: {exc}.") from exc
    function = getattr(module, "answer", None)
    if not callable(function):
        raise UsageError(
            f"{path} has no function `answer(request)`. It takes a RecordedRequest and returns an answer or a str."
        )
    return function  # type: ignore[no-any-return]
