"""Every command's help reads well, and wrong usage of every command ends with 2 and a remedy."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from langchain_ws_responses._cli import _COMMANDS, main

HEAVY = ("asyncio", "httpx", "langchain", "langchain_core", "langgraph", "openai", "pydantic", "websockets")


def asked(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    try:
        code = main(args)
    except SystemExit as exc:  # from argparse
        code = int(exc.code or 0)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def test_the_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = asked(capsys, "--help")
    assert code == 0
    listed = re.findall(r"^    (\w+) {2,}(\S.*)$", out, re.M)
    assert dict(listed) == {name: summary for name, (summary, _) in _COMMANDS.items()}
    assert "0 done, 1 failed, 2 wrong usage" in out
    assert max(map(len, out.splitlines())) <= 80


def test_without_a_command_the_help_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = asked(capsys)
    assert (code, out) == (2, "")
    assert "doctor" in err


@pytest.mark.parametrize("name", _COMMANDS)
def test_the_help_of_each_command_explains_every_argument(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = asked(capsys, name, "--help")
    assert (code, err) == (0, "")
    assert max(map(len, out.splitlines())) <= 80
    usage, _, rest = out.partition("\n\n")
    flags = set(re.findall(r"--[a-z-]+", usage))
    assert {"--json", "--no-color", "--debug"} <= flags
    for flag in flags:
        # A flag with its words behind it or, where it is long, on the next line.
        assert re.search(rf"^ .*{flag}\b[^\n]*(  \w|\n {{10,}}\w)", rest, re.M), flag


@pytest.mark.parametrize("name", _COMMANDS)
def test_a_flag_that_does_not_exist_is_named(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = asked(capsys, name, "--jsno")
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    # The usage is that of the command, so that its flags can be seen.
    assert err.startswith(f"usage: python -m langchain_ws_responses {name} [-h]")
    assert "--jsno" in err or "required: FILE" in err


def test_a_flag_without_a_command_gets_the_usage_of_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = asked(capsys, "--jsno")
    assert (code, out) == (2, "")
    assert err.startswith("usage: python -m langchain_ws_responses [-h]")
    assert "unrecognized arguments: --jsno" in err


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import json, sys\nfrom langchain_ws_responses._cli import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        f"print(json.dumps(sorted(set({HEAVY!r}) & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
