"""The model of the offline demonstration: it decides each step from the outputs that it has seen.

It sees what a model would see. Over HTTP that is the history in the request; over the socket it is what the server
kept of the chain and the new items. If a delta left something out, the next step would differ.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..testing import Answer, RecordedRequest, text, tool_call

__all__ = ["Player", "Step", "steps_of"]

_FALLBACK_WORDS = ("import", "the", "name", "return", "version", "class", "a", "e", "i", "o", "s", "t")
_WORD = re.compile(r"[A-Za-z_]{4,30}")
_FOUND = re.compile(r"(\d+) lines in (\d+) files contain")
_READ = re.compile(r"(?P<path>.+), lines (?P<first>\d+)-(?P<last>\d+) of (?P<all>\d+)")
_LONGEST_EDIT = 120


@dataclass(frozen=True)
class Step:
    """One tool call with its output."""

    name: str
    args: Mapping[str, Any]
    output: str

    @property
    def path(self) -> str:
        """The file that it was about."""
        return str(self.args.get("path", ""))


def steps_of(items: Iterable[Mapping[str, Any]]) -> list[Step]:
    """Pairs the calls and outputs of a conversation, in order."""
    found: dict[str, tuple[str, str]] = {}
    steps = []
    for item in items:
        if item.get("type") == "function_call":
            found[str(item["call_id"])] = (str(item["name"]), str(item["arguments"]))
        elif item.get("type") == "function_call_output":
            name, arguments = found[str(item["call_id"])]
            steps.append(Step(name, json.loads(arguments), str(item["output"])))
    return steps


class Player:
    """Searches, reads, edits and runs in turn, then sums up.

    Args:
        calls: Tool calls before the summary.
    """

    def __init__(self, calls: int) -> None:
        self._calls = calls

    def __call__(self, request: RecordedRequest) -> Answer:
        """Answers a request."""
        steps = steps_of(request.seen)
        if len(steps) >= self._calls:
            return text(_summary(steps))
        listed = [line[2:] for line in (request.last_user_text or "").splitlines() if line.startswith("- ")]
        last = steps[-1] if steps else None
        if last is None or last.name == "run":
            return tool_call("search", {"text": _next_word(steps)})
        if last.name == "search":
            path = _next_file(steps, listed)
            return tool_call("read_file", {"path": path, "start": _next_line(steps, path)})
        if last.name == "read_file" and (change := _change(last)) is not None:
            return tool_call("edit_file", change)
        command = "compile" if last.path.endswith(".py") else "count"
        return tool_call("run", {"command": command, "path": last.path})


def _next_word(steps: Sequence[Step]) -> str:
    """The most frequent word of what was read that was not yet searched."""
    searched = {step.args["text"] for step in steps if step.name == "search"}
    words = Counter(word for step in steps if step.name == "read_file" for word in _WORD.findall(step.output))
    ranked = sorted(words, key=lambda word: (-words[word], word)) if searched else []
    return next((word for word in [*ranked, *_FALLBACK_WORDS] if word not in searched), "u")


def _next_file(steps: Sequence[Step], listed: Sequence[str]) -> str:
    """The least read file, among those the one with the most hits in the last search."""
    read = Counter(step.path for step in steps if step.name == "read_file")
    hits = Counter(line.partition(":")[0] for line in steps[-1].output.splitlines()[1:])
    return min(listed, key=lambda name: (read[name], -hits[name], listed.index(name)))


def _next_line(steps: Sequence[Step], path: str) -> int:
    """Where reading stopped the last time; the top again after the end."""
    for step in reversed(steps):
        if step.name == "read_file" and step.path == path and (head := _READ.match(step.output)):
            return int(head["last"]) + 1 if int(head["last"]) < int(head["all"]) else 1
    return 1


def _change(step: Step) -> dict[str, Any] | None:
    """Adds a remark to the first line that can take one."""
    head = _READ.match(step.output)
    if head is None:
        return None
    remark = "  # looked at" if step.path.endswith(".py") else "  (looked at)"
    for number, line in enumerate(step.output.split("\n")[1:], int(head["first"])):
        # A backslash at the end continues the line, and a remark behind it would not compile.
        if line.strip() and len(line) < _LONGEST_EDIT and not line.endswith("\\"):
            return {"path": step.path, "line": number, "text": line + remark}
    return None


def _summary(steps: Sequence[Step]) -> str:
    """Tells what the outputs said."""
    found = [match for step in steps if step.name == "search" and (match := _FOUND.match(step.output))]
    heads = [match for step in steps if step.name == "read_file" and (match := _READ.match(step.output))]
    lines = sum(int(head["last"]) - int(head["first"]) + 1 for head in heads)
    changed = sum(step.name == "edit_file" and step.output.startswith("changed") for step in steps)
    checks = [step for step in steps if step.name == "run"]
    compiled = [step for step in checks if step.output.startswith("compiles:")]
    broken = [step for step in checks if step.output.startswith("does not compile")]
    words = [str(step.args["text"]) for step in steps if step.name == "search"]
    counted = len(checks) - len(compiled) - len(broken)
    results = ((len(compiled), "compiled"), (len(broken), "did not compile"), (counted, "counted"))
    told = ", ".join(f"{count} {result}" for count, result in results if count)
    return (
        f"In {_some(len(steps), 'step')}: searched for {', '.join(words)} "
        f"({_some(sum(int(match[1]) for match in found), 'matching line')}); "
        f"read {_some(lines, 'line')} of {_some(len({head['path'] for head in heads}), 'file')}; "
        f"changed {_some(changed, 'line')} in the copy; ran {_some(len(checks), 'check')}"
        f"{f' ({told})' if told else ''}."
    )


def _some(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
