"""A model without a model: it fills in what a request asks for, from the words and numbers in the conversation."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from langchain_ws_responses import _json
from langchain_ws_responses.testing._records import RecordedRequest
from langchain_ws_responses.testing._script import Answer, Output, json_answer, reasoning, text, tool_call

__all__ = ["fake_model"]

_QUOTED = re.compile(r"'([^']+)'|\"([^\"]+)\"|“([^”]+)”")
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_MAX_DEPTH = 16


def fake_model(request: RecordedRequest) -> Answer:
    """Answers like an obliging model, for `ResponsesServer(answer=fake_model)`.

    A JSON schema is filled in; JSON mode gives the keys that the prompt quotes. A tool is called when the request
    demands one, or offers some and the newest item is the user's: the tool that the prompt names, else the first. Else
    it answers in a sentence. Values come from the prompt: numbers in their order, quoted words, else the whole text.
    With `reasoning` it thinks first.

    Args:
        request: The request.
    """
    answer = _answer(request)
    if isinstance(request.body.get("reasoning"), Mapping):
        return reasoning("The request says what to answer.", answer)
    return answer


def _answer(request: RecordedRequest) -> Output:
    prompt = request.last_user_text or ""
    settings = request.body.get("text")
    form = settings.get("format") if isinstance(settings, Mapping) else None
    kind = form.get("type") if isinstance(form, Mapping) else None
    if isinstance(form, Mapping) and kind == "json_schema":
        return json_answer(_Filler(prompt, form.get("schema")).fill())
    if kind == "json_object":
        return json_answer(dict.fromkeys(_quoted(prompt), prompt))
    tool = _wanted_tool(request, prompt)
    if tool is not None:
        return tool_call(str(tool["name"]), _Filler(prompt, tool.get("parameters")).fill())
    outputs = [item.get("output") for item in request.seen if item.get("type") == "function_call_output"]
    if outputs and isinstance(outputs[-1], str):
        return text(f"The tool says: {outputs[-1]}")
    return text(f"You said: {prompt}" if prompt else "You said nothing.")


def _wanted_tool(request: RecordedRequest, prompt: str) -> Mapping[str, Any] | None:
    """Chooses the tool to call, if any."""
    functions = [tool for tool in request.tools if isinstance(tool, dict) and tool.get("type") == "function"]
    choice = request.body.get("tool_choice", "auto")
    if isinstance(choice, Mapping):
        return next((tool for tool in functions if tool.get("name") == choice.get("name")), None)
    if not functions or choice == "none":
        return None
    seen = request.seen
    if choice != "required" and (not seen or seen[-1].get("role") != "user"):
        return None
    return next((tool for tool in functions if str(tool.get("name")) in prompt), functions[0])


def _quoted(prompt: str) -> list[str]:
    return [next(filter(None, found)) for found in _QUOTED.findall(prompt)]


class _Filler:
    """Makes a value that fits a JSON schema.

    Args:
        prompt: Where the values come from.
        schema: The schema.
    """

    def __init__(self, prompt: str, schema: Any) -> None:
        self._schema = schema if isinstance(schema, Mapping) else {}
        self._prompt = prompt
        self._words: Iterator[str] = iter(_quoted(prompt))
        self._numbers: Iterator[str] = iter(_NUMBER.findall(prompt))

    def fill(self) -> Any:
        """Makes the value."""
        value = self._value(self._schema, 0)
        return value if isinstance(value, dict) or "type" in self._schema else {}

    def _value(self, schema: Any, depth: int) -> Any:
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return None
        if "$ref" in schema:
            return self._value(self._referred(str(schema["$ref"])), depth + 1)
        if "const" in schema:
            return schema["const"]
        if schema.get("enum"):
            return schema["enum"][0]
        for name in ("anyOf", "oneOf", "allOf"):
            if schema.get(name):
                return self._value(schema[name][0], depth + 1)
        kind = schema.get("type")
        kind = kind[0] if isinstance(kind, list) and kind else kind
        if kind == "object" or "properties" in schema:
            properties = schema.get("properties") or {}
            return {name: self._value(inner, depth + 1) for name, inner in properties.items()}
        if kind == "array":
            return [self._value(schema["items"], depth + 1)] if "items" in schema else []
        return self._plain(kind, schema)

    def _plain(self, kind: Any, schema: Mapping[str, Any]) -> Any:
        if kind in ("integer", "number"):
            number: Any = _json.loads(next(self._numbers, "1"))
            number = max(number, schema.get("minimum", number))
            number = min(number, schema.get("maximum", number))
            return int(number) if kind == "integer" else number
        if kind == "boolean":
            return True
        return None if kind == "null" else next(self._words, self._prompt or "text")

    def _referred(self, path: str) -> Any:
        found: Any = self._schema
        for part in path.removeprefix("#/").split("/"):
            found = found.get(part) if isinstance(found, Mapping) else None
        return found
