"""Where a page lists what the code has, it lists all of it."""

from __future__ import annotations

import dataclasses
import re
from argparse import ArgumentParser
from collections.abc import Iterator
from pathlib import Path

import pytest
from docs_kit import PROJECT

import langchain_ws_responses
from langchain_ws_responses import (
    ChatOpenAIWebSocket,
    FailureKind,
    Limits,
    Phase,
    Profile,
    Reason,
    Replay,
    RetryPolicy,
    Stats,
    TransportEvent,
    errors,
)
from langchain_ws_responses import _cli as cli
from langchain_ws_responses._langchain.links import ResponseLink
from langchain_ws_responses._protocol import recovery

PACKAGE = PROJECT / "langchain_ws_responses"
REFERENCE = PROJECT / "docs" / "reference"
VARIABLE = re.compile(
    r"\b(?:LANGCHAIN|LANGSMITH|OPENAI|OTEL|SSL_CERT)_[A-Z_]+[A-Z]\b|\b[A-Z]+_PROXY\b|\bNO_COLOR\b"
)


def text(name: str) -> str:
    return (REFERENCE / name).read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    """The text below a heading, to the next one of the same rank or above."""
    found = re.search(rf"^(#+) .*{re.escape(title)}.*$", page, re.MULTILINE)
    assert found is not None, title
    rest = page[found.end() :]
    after = re.search(rf"^#{{1,{len(found[1])}}} ", rest, re.MULTILINE)
    return rest[: after.start()] if after else rest


def rows(part: str) -> dict[str, list[str]]:
    """The rows of the tables of a text, by the words in their first cell."""
    found = {}
    for line in part.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in line.strip("|").split(" | ")]
            for name in re.findall(r"`([^`]+)`", cells[0]):
                found[name] = cells[1:]
    return found


def members(enum: type) -> set[str]:
    return {str(member) for member in enum}


def test_reasons() -> None:
    listed = rows(text("reasons.md"))
    assert set(listed) == members(Reason)
    assert all(len(cells) == 3 and all(cells) for cells in listed.values())


@pytest.mark.parametrize("enum", [Replay, Phase, FailureKind])
def test_enums_of_errors(enum: type) -> None:
    assert set(rows(section(text("errors.md"), f"`{enum.__name__}`"))) == members(enum)


def test_error_classes() -> None:
    named = set(errors.__all__) - {"failure_of"}
    assert set(rows(section(text("errors.md"), "The tree"))) == named


@pytest.mark.parametrize("kind", list(FailureKind))
def test_what_a_failure_is_raised_as(kind: FailureKind) -> None:
    raised = type(errors.error_from(errors.Failure(kind), replay=Replay.SAFE))
    told = rows(section(text("errors.md"), "`FailureKind`"))[kind.value][0]
    assert told.startswith(f"`{raised.__name__}`")


@pytest.mark.parametrize("config", [Limits, RetryPolicy, Profile])
def test_limits_and_their_defaults(config: type) -> None:
    listed = rows(section(text("limits.md"), f"`{config.__name__}`"))
    defaults = {
        field.name: "required" if field.default is dataclasses.MISSING else f"`{field.default}`"
        for field in dataclasses.fields(config)
    }
    assert {name: cells[0] for name, cells in listed.items()} == defaults


def test_stats() -> None:
    names = {field.name for field in dataclasses.fields(Stats)}
    assert set(rows(section(text("stats-and-hooks.md"), "stats()"))) == names


def events() -> Iterator[str]:
    for name in langchain_ws_responses.__all__:
        value = getattr(langchain_ws_responses, name)
        if isinstance(value, type) and issubclass(value, TransportEvent):
            yield name


def test_hooks() -> None:
    listed = re.findall(r"^::: langchain_ws_responses\.(\w+)$", text("stats-and-hooks.md"), re.MULTILINE)
    assert set(listed) == {*events(), "Hook", "TraceFile"}


def test_metadata() -> None:
    page = text("metadata.md")
    assert set(rows(section(page, "`openai_chain`"))) == set(ResponseLink.__annotations__)


def test_every_public_name_is_in_the_reference() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in REFERENCE.rglob("*.md"))
    missing = [
        name
        for name in langchain_ws_responses.__all__
        if name != "__version__" and not re.search(rf"(?:`|responses\.){name}\b", pages)
    ]
    assert missing == []


def test_fields_of_the_model() -> None:
    own = set(ChatOpenAIWebSocket.model_fields) - set(ChatOpenAIWebSocket.__mro__[1].model_fields)
    docstring = ChatOpenAIWebSocket.__doc__ or ""
    readme = section((PROJECT / "README.md").read_text(encoding="utf-8"), "Options")
    assert [name for name in own if f"{name}:" not in docstring] == []
    assert [name for name in own if f"`{name}`" not in readme] == []


def test_methods_of_the_model() -> None:
    page = text("api/model.md")
    listed = set(re.findall(r"\w+", page[page.index("members:") :].splitlines()[0])) - {"members"}
    # What LangChain asks for is not for users to call.
    own = {
        name
        for name in vars(ChatOpenAIWebSocket)
        if name.islower() and not name.startswith(("_", "model_", "lc_"))
    }
    # What is as `ChatOpenAI` has it is described there.
    assert listed == own - {"get_lc_namespace", "bind_tools"}


def test_statuses_that_lead_to_http() -> None:
    page = (PROJECT / "docs" / "explanation" / "when-http.md").read_text(encoding="utf-8")
    line = next(line for line in page.splitlines() if "refuses the upgrade" in line)
    assert set(re.findall(r"\b\d{3}\b", line)) == {str(status) for status in recovery.NO_MODE_HERE}


def test_environment_variables() -> None:
    read: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        code = path.read_text(encoding="utf-8")
        read |= {name for name in VARIABLE.findall(code) if f'"{name}"' in code}
    assert read
    assert read - set(rows(text("environment.md"))) == set()


@pytest.mark.parametrize("command", list(cli._COMMANDS))
def test_commands_and_their_options(command: str) -> None:
    parser = ArgumentParser(add_help=False)
    cli._command(command).configure(parser)
    part = section(text("cli.md"), f"`{command}`")
    options = {
        name
        for action in parser._actions
        for name in (action.option_strings or [action.metavar or action.dest])
    }
    told = set(re.findall(r"`(--?[\w-]+|[A-Z]+)\b", part))
    assert options - told == set()


def test_every_page_is_in_the_navigation() -> None:
    import yaml

    class Loader(yaml.SafeLoader):
        """Knows that the configuration may name Python objects."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    listed: list[str] = []

    def collect(entry: object) -> None:
        if isinstance(entry, str):
            listed.append(entry)
        for inner in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            collect(inner)

    collect(yaml.load((PROJECT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"])  # noqa: S506
    docs = PROJECT / "docs"
    pages = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    pages = {page for page in pages if not page.startswith("langchain-pages/")}
    assert pages - set(listed) == set()
    assert set(listed) - pages == set()


def test_the_reference_is_there() -> None:
    assert Path(REFERENCE / "api").is_dir()
