"""Where in a graph an answer was asked for, and what the index and checkpoints say of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = [
    "THREAD_KEY",
    "Commit",
    "Entry",
    "Link",
    "Origin",
    "Thread",
    "is_below",
    "is_given_up",
    "label_of",
    "tasks_of",
]

Link = dict[str, Any]
Thread = tuple[int, str]
"""Whose thread, and its id: the threads of two savers may have one id, and are strangers."""

THREAD_KEY = "thread"
"""In a link of this index or of a checkpoint's metadata: the thread whose own turn made it.

A link that only came in on a message has none: whoever wrote the message may have copied it."""


@dataclass(frozen=True)
class Origin:
    """Where in a graph a turn runs: labels, never preconditions.

    Attributes:
        thread_id: The thread.
        checkpoint_ns: Namespace of the task, its own segment included: `"sub:<task>|model:<task>"`.
        checkpoint_id: The checkpoint that the task's graph started this step from.
        task_id: The task.
        attempt: Which attempt of the task this is, from 1.
        scope: That of the `ChainSaver` that saves the graph's checkpoints.
    """

    thread_id: str
    checkpoint_ns: str
    checkpoint_id: str
    task_id: str
    attempt: int = 1
    scope: int = 0

    @property
    def thread(self) -> Thread:
        """The thread, as one of its saver's."""
        return self.scope, self.thread_id


@dataclass(frozen=True)
class Entry:
    """An answer that no checkpoint of the outermost graph has committed yet.

    Attributes:
        origin: Where it was asked for.
        link: Its link.
        saved: Whether a checkpoint of an inner graph has committed it.
    """

    origin: Origin
    link: Link
    saved: bool = False


@dataclass(frozen=True)
class Commit:
    """What a checkpoint says about chains.

    Attributes:
        chain: The newest links by node.
        newest: Id of the newest response, or empty.
    """

    chain: Mapping[str, Link]
    newest: str


def label_of(ns: str, origin: Origin) -> str:
    """Names the node of a task as a graph sees it: `"model"`, or `"researcher|model"` for one of an inner graph."""
    depth = len(_names(ns))
    return "|".join(_names(origin.checkpoint_ns)[depth:])


def _names(ns: str) -> list[str]:
    """Node names of a namespace, without task ids and call counters."""
    return [part.partition(":")[0] for part in ns.split("|") if part and not part.isdigit()]


def tasks_of(origin: Origin) -> list[str]:
    """The task and all tasks around it."""
    ids = [part.partition(":")[2] for part in origin.checkpoint_ns.split("|")]
    return [origin.task_id, *(task for task in ids if task)]


def is_below(ns: str, task_ns: str) -> bool:
    """Whether a task runs in a graph or in one of its inner graphs."""
    if not ns or task_ns.startswith(ns + "|"):
        return True
    # An inner graph with a memory of its own is saved without task ids.
    return ":" not in ns and _names(task_ns)[: len(names := _names(ns))] == names


def is_given_up(before: Origin, now: Origin) -> bool:
    """Whether a later attempt of the same task has begun."""
    return before.task_id == now.task_id and before.attempt < now.attempt
