"""Every block of the README and the docs runs, and prints what the page says."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from docs_kit import PROJECT, Block, blocks_of, check_command, check_program, run_page, seems_like

from langchain_ws_responses import testing

PAGES = [
    *(PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "AGENTS.md", "examples/README.md")),
    *sorted((PROJECT / "docs").rglob("*.md")),
    *sorted((PROJECT / "docs").rglob("*.mdx")),
]
PAGES = [page for page in PAGES if page.exists()]
# Their commands run for minutes, or change files: what they name is checked.
FOR_DEVELOPERS = ("CONTRIBUTING.md", "AGENTS.md")
MOST_NOT_RUN = 8


def name_of(page: Path) -> str:
    return page.relative_to(PROJECT).as_posix()


def runs(block: Block) -> bool:
    return block.language not in ("", "text") and not block.not_run


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if any(map(runs, blocks_of(page))) and name_of(page) not in FOR_DEVELOPERS],
    ids=name_of,
)
def test_blocks_run(page: Path, tmp_path: Path) -> None:
    # The tutorial is for people without a key.
    assert run_page(page, tmp_path, key="tutorial" not in page.parts) == ""


@pytest.mark.parametrize("name", FOR_DEVELOPERS)
def test_commands_for_developers_exist(name: str) -> None:
    blocks = blocks_of(PROJECT / name)
    assert {block.language for block in blocks} <= {"bash", "text"}
    commands = [
        part
        for block in blocks
        if block.language == "bash"
        for line in block.code.splitlines()
        for part in line.split(" && ")
    ]
    assert commands
    for command in commands:
        check_program(command)


def test_few_blocks_are_not_run_and_each_says_why() -> None:
    left_out = [
        f"{name_of(page)}: {block.not_run}" for page in PAGES for block in blocks_of(page) if block.not_run
    ]
    assert len(left_out) <= MOST_NOT_RUN, left_out
    assert [line for line in left_out if "ci:" not in line and len(line.partition(": ")[2]) < 15] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:|/)([^)#]+)", page.read_text(encoding="utf-8"))
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert missing == []


def test_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=environment, check=False)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0
    assert "# Troubleshooting" in (tmp_path / "llms-full.txt").read_text(encoding="utf-8")
    page = (tmp_path / "reference" / "api" / "testing" / "index.html").read_text(encoding="utf-8")
    told = set(re.findall(r'id="langchain_ws_responses\.testing\.(\w+)"', page))
    assert set(testing.__all__) - told == {"Clock"}  # an alias of a type of the standard library


def test_the_table_of_contents_for_programs_is_current() -> None:
    done = subprocess.run(
        [sys.executable, "tools/llms.py", "--check"], capture_output=True, text=True, cwd=PROJECT, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- docstrings ----------------------------------------------------------------

# What the examples in docstrings take for granted.
GRANTED = """
import os
from langchain.agents import create_agent
from langgraph.graph import MessagesState, StateGraph
from langchain_ws_responses import *
from langchain_ws_responses.otel import *
from langchain_ws_responses.testing import *


def search(query: str) -> str:
    '''Searches.'''
    return query


read_file, tools, question = search, [search], {"messages": [("user", "Hello")]}
model = ChatOpenAIWebSocket(model="gpt-5.5")
agent = create_agent(model, tools)
builder = StateGraph(MessagesState)
"""


def examples() -> list[str]:
    """The Python blocks of all docstrings; one with a gap for the reader's own code is only compiled."""
    found = []
    for path in sorted((PROJECT / "langchain_ws_responses").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                found += re.findall(r"```python\n(.*?)```", ast.get_docstring(node) or "", re.DOTALL)
    return [textwrap.dedent(code) for code in found]


def test_examples_in_docstrings_run(tmp_path: Path) -> None:
    found = examples()
    assert len(found) >= 10
    for example in found:
        compile(example, "docstring", "exec")
    page = fenced("python", GRANTED) + "".join(
        fenced("python", code) for code in found if "...  #" not in code
    )
    (tmp_path / "run").mkdir()
    assert run_page(page_of(tmp_path, page), tmp_path / "run", key=True) == ""


# -- LangChain's documentation ----------------------------------------------------------

LANGCHAIN_PAGES = PROJECT / "docs" / "langchain-pages"
# The sections of the templates of LangChain's documentation.
CHAT_SECTIONS = (
    "## Overview", "### Details", "### Features", "## Setup", "### Credentials", "### Installation",
    "## Instantiation", "## Invocation", "## API reference",
)  # fmt: skip


def test_chat_page_has_the_sections_of_the_template() -> None:
    page = (LANGCHAIN_PAGES / "chat" / "openai_websocket.mdx").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ .+$", page, re.MULTILINE)
    assert [heading for heading in headings if heading in CHAT_SECTIONS] == list(CHAT_SECTIONS)


@pytest.mark.parametrize("page", sorted(LANGCHAIN_PAGES.rglob("*.mdx")), ids=name_of)
def test_langchain_page_is_well_formed(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert re.match(r'---\ntitle: "[^"]+ integrations?"\ndescription: "[^"]+"\n---\n\n[A-Z]', text)
    tags = re.findall(r"<(/?)([A-Z]\w+)", text)
    for name in {name for _, name in tags}:
        assert tags.count(("", name)) == tags.count(("/", name))
    packages = set(re.findall(r"(?:pip install(?: -U)?|uv add) (\S+)", text))
    assert packages == {"langchain-ws-responses"}


# -- the runner itself --------------------------------------------------------------


def page_of(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def fenced(language: str, code: str) -> str:
    return f"```{language}\n{code}\n```\n\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (fenced("python", "1 / 0"), "ZeroDivisionError"),
        (fenced("python", "print('a')  # b"), "not ['b']"),
        (fenced("python", "import warnings\nwarnings.warn('old')"), "UserWarning"),
        (fenced("python", "print(1)") + fenced('text title="Output"', "2"), "it printed\n1"),
        (fenced("bash", "false"), "exit code 1"),
        (fenced("bash", "true  # exit code 1"), "exit code 0"),
        (fenced("bash", "pip install langchain-ws-responses[nothing]"), "no extra nothing"),
        (fenced("json", "{"), "JSONDecodeError"),
        (fenced("diff", "-import a\n+import"), "SyntaxError"),
        (fenced('text title="a.py"', "a") + fenced('diff title="a.py"', "-b\n+c"), "does not fit a.py"),
        (fenced("python", "import os\nos._exit(0)"), "ended early"),
    ],
)
def test_a_page_that_is_wrong_is_noticed(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert says in run_page(page_of(tmp_path, text), tmp_path / "run", key=False)


def test_blocks_of_a_page_go_on_from_each_other(tmp_path: Path) -> None:
    text = (
        fenced("python", "word = 'said'")
        + fenced("python", "print(word)")
        + fenced('text title="Output"', "s…d")
        + fenced('python title="tool.py"', "import os, sys\nos.mkdir(sys.argv[1])")
        + fenced('diff title="tool.py"', "-os.mkdir(sys.argv[1])\n+os.mkdir(sys.argv[2])")
        + fenced("bash", "pip install 'langchain-ws-responses[demo]'\npython tool.py - once")
        + fenced("python", "import os\nos.rmdir('once')")
        + "<!-- not run: it would never end -->\n"
        + fenced("bash", "sleep infinity")
    )
    (tmp_path / "run").mkdir()
    assert run_page(page_of(tmp_path, text), tmp_path / "run", key=False) == ""


@pytest.mark.parametrize(
    ("shown", "printed", "same"),
    [
        ("a\nb", "a\nb\n", True),
        ("a\n…\nd", "a\nb\nc\nd\n", True),
        ("a\n…\nd", "a\nd\n", True),
        ("a … c", "a 12 ms c", True),
        ("a.c", "abc", False),
        ("a     … ms", "a 1.25 ms", True),
        ("a b", "ab", False),
        ("a", "a\nb", False),
    ],
)
def test_shown_output_is_compared(shown: str, printed: str, same: bool) -> None:
    assert seems_like(shown, printed) is same


def test_a_block_that_nothing_can_check_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing here can check 'rust'"):
        blocks_of(page_of(tmp_path, fenced("rust", "fn main() {}")))
    with pytest.raises(ValueError, match="not closed"):
        blocks_of(page_of(tmp_path, "```python\n"))


def test_only_known_packages_are_named() -> None:
    assert check_command('.venv/bin/pip install -e ".[test]"')
    assert check_command("pip install 'langchain>=1.0'")
    assert not check_command("python -m langchain_ws_responses demo")
    with pytest.raises(ValueError, match="no dependency"):
        check_command("pip install left-pad")


def test_only_programs_that_exist_are_named() -> None:
    check_program("LANGCHAIN_WS_RESPONSES_FULL_COUNTS=1 .venv/bin/python -m pytest -n 0 tests/process")
    check_program("PYTHON=python3.10 .ci/run")
    for wrong in (".venv/bin/no-such-tool", "python -m no_such_module", ".venv/bin/python tools/none.py"):
        with pytest.raises(ValueError, match="there is no"):
            check_program(wrong)


def test_tests_that_are_named_as_evidence_are_there() -> None:
    text = (PROJECT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(test_\w+)`", text))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (PROJECT / "tests").rglob("*.py"))
    defined = set(re.findall(r"^(?:async )?def (test_\w+)", sources, re.MULTILINE))
    assert len(named) > 30
    assert named - defined == set()
