"""The examples of what graphs do to their state, run as a user runs them, without a key and with one."""

from __future__ import annotations

import ast
import importlib.util
import re
from typing import TYPE_CHECKING, Any

import pytest
from prepared import python

from langchain_ws_responses.testing import RecordedRequest, ResponsesServer, tool_call

if TYPE_CHECKING:
    from pathlib import Path

OURS = [
    "human_in_the_loop.py",
    "time_travel.py",
    "map_reduce.py",
    "supervisor.py",
    "deep_agent.py",
    "resume_sqlite.py",
    "text_only_state.py",
]
SENT = re.compile(r"(full|delta) \((\w+)\), (\d+) items")
FIRST = ("full", "first_turn", 1)

needs_deepagents = pytest.mark.skipif(
    importlib.util.find_spec("deepagents") is None,
    reason="the package deepagents is missing; it needs Python 3.11 or newer",
)


def delta(items: int = 1) -> tuple[str, str, int]:
    return "delta", "chain", items


def play(project: Path, name: str, *arguments: object, server: ResponsesServer | None = None) -> str:
    """What an example prints; with a server, as somebody with a key for it runs it."""
    access = {"OPENAI_API_KEY": "sk-test", "OPENAI_BASE_URL": server.base_url} if server is not None else {}
    done = python(project / "examples" / name, *arguments, **access)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def turns(out: str) -> list[tuple[str, str, int]]:
    return [(mode, reason, int(items)) for mode, reason, items in SENT.findall(out)]


def texts(items: list[dict[str, Any]]) -> list[str]:
    """What a model reads: messages, arguments of calls, outputs of tools."""
    found = []
    for item in items:
        value = item.get("content") or item.get("arguments") or item.get("output")
        found.append(value if isinstance(value, str) else "".join(part["text"] for part in value))
    return found


def seen(request: RecordedRequest) -> list[str]:
    return texts(request.seen)


# -- human in the loop ----------------------------------------


def test_human_in_the_loop(project: Path) -> None:
    out = play(project, "human_in_the_loop.py")
    shown, saw = out.split("the model's last turn saw:")
    assert "waiting for approval: {'to': 'ada@example.com', 'subject': 'Review'}" in shown
    assert "sent 'Review on Friday at 10' to ada@example.com" in shown
    assert "sent 'Review' to" not in out
    assert "Review on Friday at 10" in saw
    first, second = turns(out)
    assert first == FIRST
    # Some versions of langchain edit the call in the message, which must be sent in full; others tell of the edit.
    assert second in (delta(), ("full", "history_changed", 3))


def test_human_in_the_loop_with_a_key(project: Path) -> None:
    call = tool_call("send_email", {"to": "ada@example.com", "subject": "Hello"})
    with ResponsesServer(call, "It is out.") as server:
        out = play(project, "human_in_the_loop.py", server=server)
    assert "ai: It is out." in out
    assert "what the model saw" not in out
    assert "sent 'Review on Friday at 10' to ada@example.com" in seen(server.requests[-1])[-1]


# -- time travel ----------------------------------------


def test_time_travel(project: Path) -> None:
    out = play(project, "time_travel.py")
    branches, saw = out.split("what the model saw:")
    # Each branch shows its first answer again: it is the same one.
    edited = ("full", "history_changed", 3)
    assert turns(branches) == [FIRST, delta(), FIRST, delta(), FIRST, edited]
    ids = re.findall(r"-> (resp_\w+)", branches)
    assert len(ids) == 6
    assert ids[0] == ids[2] == ids[4]
    assert len(set(ids)) == 4
    assert re.findall(r"continues (\w+): (.*)", saw) == [
        ("None", "['A slogan for apples?']"),
        (ids[0], "['A slogan for apples?', 'Shorter, please.']"),
        (ids[0], "['A slogan for apples?', 'In French, please.']"),
        ("None", "['A slogan for pears?', 'Shorter, please.']"),
    ]


def test_time_travel_with_a_key(project: Path) -> None:
    with ResponsesServer("Crunch!", "Crisp!", "Croque !", "Juicy!") as server:
        out = play(project, "time_travel.py", server=server)
    assert out.index("Crisp!") < out.index("Croque !") < out.index("Juicy!")
    assert [seen(request) for request in server.requests] == [
        ["A slogan for apples?"],
        ["A slogan for apples?", "Crunch!", "Shorter, please."],
        ["A slogan for apples?", "Crunch!", "In French, please."],
        ["A slogan for pears?", "Crunch!", "Shorter, please."],
    ]
    assert {request.transport for request in server.requests} == {"websocket"}


# -- map-reduce ----------------------------------------


def test_map_reduce(project: Path) -> None:
    out = play(project, "map_reduce.py")
    assert turns(out) == [FIRST, delta(), delta(), delta(), delta()]
    workers = re.findall(r"^write '(.*)': .* lane (\w+)$", out, re.MULTILINE)
    assert sorted(topic for topic, _ in workers) == ["How to brew it", "Where it grows", "Who drinks it"]
    assert "Tea: <about Where it grows> <about How to brew it> <about Who drinks it>" in out
    assert "all turns after the outline continue it: True" in out


def test_map_reduce_with_a_key(project: Path) -> None:
    def answer(request: RecordedRequest) -> str:
        asked = request.last_user_text or ""
        return "Leaves\n\nWater" if asked.startswith("Outline") else asked.rpartition(": ")[2].lower()

    with ResponsesServer(answer=answer) as server:
        play(project, "map_reduce.py", server=server)
    outline, *workers, join = server.requests
    assert sorted(texts(worker.items)[0] for worker in workers) == [
        "One sentence about: Leaves",
        "One sentence about: Water",
    ]
    assert {request.previous_response_id for request in (*workers, join)} == {outline.response_id}
    assert len({worker.stream_id for worker in workers}) == 2
    assert texts(join.items) == ["Make one paragraph of these:\nleaves\nwater"]


# -- supervisor ----------------------------------------


def test_supervisor(project: Path) -> None:
    out = play(project, "supervisor.py")
    system_and_question, once = ("full", "first_turn", 2), ("full", "system_changed", 3)
    assert turns(out) == [system_and_question, once, delta(), delta()]
    assert re.findall(r"^ +ai (\w+) *: ", out, re.MULTILINE) == [
        "supervisor",
        "billing",
        "billing",
        "supervisor",
    ]
    assert "tool invoice   : invoice 7: 40 euros, paid" in out
    prompts = re.findall(r"under the prompt: You (lead|are billing)", out)
    assert prompts == ["lead", "are billing", "are billing", "lead"]


def test_supervisor_with_a_key(project: Path) -> None:
    script = tool_call("to_billing"), tool_call("to_supervisor"), "I do not know."
    with ResponsesServer(*script) as server:
        play(project, "supervisor.py", server=server)
    last = server.requests[-1]
    assert last.instructions.startswith("You lead a support team.")
    assert "Is invoice 7 paid?" in seen(last)
    assert seen(last)[-1] == "It is the turn of supervisor."
    # The first prompt went as a system message; none may be left of it under another's.
    assert not any(item.get("role") == "system" for item in last.seen)
    assert [tool["name"] for tool in last.tools] == ["to_billing"]


# -- deepagents ----------------------------------------


@needs_deepagents
def test_deep_agent(project: Path) -> None:
    out = play(project, "deep_agent.py")
    agents = re.findall(r"^ *(main agent|researcher): ", out, re.MULTILINE)
    assert agents == ["main agent", "researcher", "researcher", "researcher", "main agent"]
    begin = ("full", "first_turn", 2)
    assert turns(out) == [begin, begin, delta(), delta(), delta()]
    assert "the main agent's last turn saw: Oslo: 717710, Bergen: 291940." in out


def test_deep_agent_without_deepagents(project: Path, tmp_path: Path) -> None:
    path = str(project / "examples" / "deep_agent.py")
    (tmp_path / "without.py").write_text(
        f"import sys, runpy; sys.modules['deepagents'] = None; runpy.run_path({path!r}, run_name='__main__')"
    )
    done = python(tmp_path / "without.py")
    assert done.returncode == 1
    assert "pip install deepagents" in done.stderr
    assert "Python 3.11 or newer" in done.stderr
    assert "Traceback" not in done.stderr


# -- SQLite, and text only ----------------------------------------


def test_resume_sqlite(project: Path) -> None:
    out = play(project, "resume_sqlite.py")
    assert turns(out) == [FIRST, delta(), delta()]
    assert re.findall(r"(\d+) messages loaded", out) == ["0", "2", "4"]
    assert "(an answer to ['I am Ada.', 'What is my name?', 'Spell it.'])" in out


def test_resume_sqlite_in_two_processes(project: Path, tmp_path: Path) -> None:
    with ResponsesServer() as server:
        play(project, "resume_sqlite.py", tmp_path / "threads.sqlite", server=server)
        answered = server.requests[-1].response_id
        out = play(project, "resume_sqlite.py", tmp_path / "threads.sqlite", server=server)
    assert turns(out) == [delta(), delta(), delta()]
    assert server.requests[3].previous_response_id == answered
    assert seen(server.requests[3])[0] == "I am Ada."
    assert len(server.requests[3].seen) == 7
    assert len(server.connections) == 6


def test_text_only_state(project: Path) -> None:
    out = play(project, "text_only_state.py")
    bare, saver = out.split("ChainSaver:")
    assert turns(bare) == [FIRST, ("full", "no_link", 3)]
    assert turns(saver) == [FIRST, delta()]
    # Whatever was sent: the model saw the same.
    assert re.findall(r"I see (\d) messages", bare) == re.findall(r"I see (\d) messages", saver) == ["1", "3"]


def test_text_only_state_in_two_processes(project: Path, tmp_path: Path) -> None:
    with ResponsesServer() as server:
        play(project, "text_only_state.py", tmp_path / "threads.sqlite", server=server)
        answered = server.requests[-1].response_id
        out = play(project, "text_only_state.py", tmp_path / "threads.sqlite", server=server)
    bare, saver = out.split("ChainSaver:")
    assert turns(bare) == [("full", "no_link", 5), ("full", "no_link", 7)]
    assert turns(saver) == [delta(), delta()]
    assert server.requests[6].previous_response_id == answered
    assert [len(request.seen) for request in server.requests] == [1, 3, 1, 3, 5, 7, 5, 7]


# -- all of them ----------------------------------------


@pytest.mark.parametrize("name", OURS)
def test_an_example_is_short_and_says_how_to_run_it(project: Path, name: str) -> None:
    source = (project / "examples" / name).read_text(encoding="utf-8")
    assert len(source.splitlines()) < 80
    said = ast.get_docstring(ast.parse(source)) or ""
    assert f"python examples/{name}" in said
    assert "OPENAI_API_KEY" in said


def test_the_list_of_examples_is_complete(project: Path) -> None:
    folder = project / "examples"
    listed = re.findall(r"^\| \[`(\w+\.py)`\]\(\1\) \| ", (folder / "README.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(path.name for path in folder.glob("*.py"))
