"""What importing the package costs, and what it gives."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import inspect
import json
import subprocess
import sys

import pytest

import langchain_ws_responses

# Each takes tens to hundreds of milliseconds to import, and a program that never opens a socket needs none.
HEAVY = {
    "asyncio",
    "h11",
    "httpx",
    "langchain",
    "langchain_core",
    "langchain_openai",
    "langgraph",
    "openai",
    "pydantic",
    "tenacity",
    "websockets",
}


def loaded_by(statement: str) -> set[str]:
    """The top-level names of the modules that `statement` loads in a fresh interpreter."""
    script = (
        "import json, sys; before = set(sys.modules)\n"
        f"{statement}\n"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def test_importing_the_package_loads_nothing_heavy() -> None:
    loaded = loaded_by("import langchain_ws_responses")
    assert "langchain_ws_responses" in loaded
    assert loaded & HEAVY == set()


def test_every_public_name_resolves() -> None:
    names = langchain_ws_responses.__all__
    assert len(names) == len(set(names))
    missing = [name for name in names if getattr(langchain_ws_responses, name, None) is None]
    assert missing == []
    assert set(names) <= set(dir(langchain_ws_responses))


def test_public_classes_and_functions_live_where_users_import_them_from() -> None:
    public = {name: getattr(langchain_ws_responses, name) for name in langchain_ws_responses.__all__}
    elsewhere = {
        name: thing.__module__
        for name, thing in public.items()
        if (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ != "langchain_ws_responses"
    }
    assert elsewhere == {}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        langchain_ws_responses.no_such_name  # noqa: B018


def test_the_installed_version_is_the_one_in_the_source() -> None:
    from langchain_ws_responses._version import __version__

    assert importlib.metadata.version("langchain-ws-responses") == __version__


def test_type_checkers_are_told_that_the_package_is_typed() -> None:
    assert importlib.resources.files("langchain_ws_responses").joinpath("py.typed").is_file()
