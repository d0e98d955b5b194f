"""Tools in the form of the API, remembered per tool object.

Agents bind the same tools before every turn, and langchain-core then writes every schema anew: for a dozen tools that
takes as long as all else that a turn needs of this package. What is remembered is believed only while all that the form
is made of is as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from langchain_core.tools import StructuredTool

from .. import _json
from .remembered import Remembered, Table

__all__ = ["in_form"]


class _Known(Remembered):
    """The forms of one tool, by `strict`, and what they were made of."""

    __slots__ = ("forms", "made_of")

    forms: dict[bool | None, bytes]
    made_of: tuple[Any, ...]


_table: Table[_Known] = Table(4_096)


def in_form(tools: Iterable[Any], settings: Mapping[str, Any], bind: Callable[..., Any]) -> list[Any]:
    """Puts known tools into the form of the API.

    Args:
        tools: What `bind_tools` takes.
        settings: What `bind_tools` takes beside them.
        bind: langchain-openai's `bind_tools`.

    Returns:
        For each tool its form as a dict of its own, which `bind` leaves as it is; or the tool itself, where it is of a
        kind that may be another one each time.

    Raises:
        Exception: Whatever `bind` raises.
    """
    strict = settings.get("strict")
    if not (strict is None or isinstance(strict, bool)):
        # 1 equals True, but is not the same to the API.
        return list(tools)
    # A class of somebody else's may work out its description or schema when it is asked.
    return [_form_of(tool, strict, bind) if type(tool) is StructuredTool else tool for tool in tools]


def _form_of(tool: StructuredTool, strict: bool | None, bind: Callable[..., Any]) -> Any:
    try:
        made_of = (tool.name, tool.description, _fixed(tool.args_schema), _fixed(tool.extras))
    except (TypeError, ValueError):
        # Something in it has no JSON form, so that its changes would not be noticed.
        return tool
    known = _table.get(id(tool))
    if known is None or known.made_of != made_of:
        known = _table.entry(_Known, tool)
        known.forms, known.made_of = {}, made_of
        _table.add(known)
    text = known.forms.get(strict)
    if text is not None:
        return _json.loads(text)
    form = bind([tool], strict=strict).kwargs["tools"][0]
    try:
        text = _json.dumps(form)
        if _json.loads(text) == form:
            known.forms[strict] = text
    except (TypeError, ValueError):
        pass
    return form


def _fixed(value: Any) -> Any:
    """Something that differs once `value` is changed in place; a class is a class, to langchain-core as well."""
    return value if value is None or isinstance(value, type) else _json.dumps(value)
