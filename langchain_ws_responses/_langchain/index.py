"""Which response belongs to which conversation, for states that keep no link of their own.

A graph whose state holds only text hands the model assistant messages that it made anew. Their fingerprint still
proves which response they came from, if somebody remembers it by fingerprint. That is this index: one per process,
scoped by saver and thread, filled by turns and by the checkpoints that a `ChainSaver` saves and loads.

Nothing here is believed: a link that is found goes through the same verification as one on a message. So an entry
that is stale, evicted or forged costs a full send at worst.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from .._protocol.chain import ChainKey, History
from .origin import THREAD_KEY, Commit, Entry, Link, Origin, Thread, is_below, is_given_up, tasks_of

if TYPE_CHECKING:
    from .route import Route

__all__ = ["INDEX", "SCOPE_NAME", "ChainIndex", "Known", "with_known_links"]

# How many assistant messages without a link are hashed in search of one. Each costs a hash over all before it.
_MAX_SEARCHED = 64
_MAX_ORPHANS = 256

SCOPE_NAME = "_chain_scope"
"""What a `ChainSaver` is known by where a turn runs, also through a saver around it that passes attributes on."""


@dataclass(eq=False)
class Known:
    """What is known of one thread. Only the index changes it.

    Attributes:
        links: Committed links by fingerprint, the newest last.
        pending: Answers that wait for a checkpoint, the newest last.
        orphans: Links of stored answers of its own that no checkpoint names.
        dropped: How many more of these there were.
        commits: What checkpoints say, by namespace and id.
        current: The checkpoint that was saved or taken in last: there is nothing new in it.
        manager: Weak reference to the manager of the newest turn over a socket.
        endpoint: Where that turn went.
    """

    links: OrderedDict[str, Link] = field(default_factory=OrderedDict)
    pending: list[Entry] = field(default_factory=list)
    orphans: deque[Link] = field(default_factory=lambda: deque(maxlen=_MAX_ORPHANS))
    dropped: int = 0
    commits: dict[tuple[str, str], Commit] = field(default_factory=dict)
    current: tuple[str, str] | None = None
    manager: Callable[[], Any] | None = None
    endpoint: Any = None

    def has(self, fp: str) -> bool:
        """Whether a link with this fingerprint is here, committed or not."""
        return fp in self.links or any(entry.link["fp"] == fp for entry in self.pending)

    def orphan(self, entries: Iterable[Entry]) -> None:
        """Keeps what must be deleted with the thread, though no checkpoint names it."""
        for entry in entries:
            if THREAD_KEY in entry.link and entry.link.get("store") is True:
                self.dropped += len(self.orphans) == _MAX_ORPHANS
                self.orphans.append(entry.link)

    @property
    def size(self) -> int:
        """How many entries it holds."""
        return len(self.links) + len(self.pending) + len(self.orphans) + len(self.commits)


class ChainIndex:
    """Links by thread and fingerprint, and the answers that wait for a checkpoint. Safe from any thread.

    Args:
        max_threads: Threads remembered; the one unused for longest is forgotten first.
        max_links: Links, and as many waiting answers, per thread; the oldest are forgotten first.
        max_commits: Checkpoints per thread whose chains are remembered.
        max_total: All of these together.
    """

    def __init__(
        self,
        *,
        max_threads: int = 4096,
        max_links: int = 256,
        max_commits: int = 64,
        max_total: int = 65_536,
    ) -> None:
        self.max_threads = max_threads
        self.max_links = max_links
        self.max_commits = max_commits
        self.max_total = max_total
        self.active = False
        self.clear()

    def clear(self) -> None:
        """Forgets everything; whether it is in use stays as it was."""
        # A new lock as well: after a fork the old one may be held by a thread that is not there.
        self._lock = threading.Lock()
        self._threads: OrderedDict[Thread, Known] = OrderedDict()
        self._routes: weakref.WeakSet[Route] = weakref.WeakSet()
        self._total = 0

    def __repr__(self) -> str:
        state = "" if self.active else "unused | "
        return f"<ChainIndex [{state}{len(self._threads)}/{self.max_threads} threads, {self._total} entries]>"

    # -- for turns ----------------------------------------

    def here(self) -> Origin | None:
        """Returns where in a graph the caller stands; None outside, and where no `ChainSaver` saves."""
        config = sys.modules.get("langgraph.config") if self.active else None
        if config is None:
            return None
        try:
            configurable = config.get_config()["configurable"]
            scope = getattr(configurable.get("__pregel_checkpointer"), SCOPE_NAME, None)
            info = configurable["__pregel_runtime"].execution_info
            if info.thread_id is None or type(scope) is not int:
                return None
            return Origin(
                str(info.thread_id),
                str(info.checkpoint_ns),
                str(info.checkpoint_id),
                str(info.task_id),
                int(getattr(info, "node_attempt", 1)),
                scope,
            )
        except (AttributeError, KeyError, RuntimeError):
            # Not inside a graph, or a langgraph without this information.
            return None

    def note(self, origin: Origin, link: Mapping[str, Any], route: Route, *, on_socket: bool) -> None:
        """Notes the answer of a turn, until a checkpoint commits it.

        Args:
            origin: Where the turn ran.
            link: The link of its answer.
            route: Where it went.
            on_socket: Whether it went over a socket, so that one is worth opening for this thread.
        """
        own = {**link, THREAD_KEY: origin.thread_id}
        with self._lock:
            known, size = self._open(origin.thread)
            before = [entry for entry in known.pending if is_given_up(entry.origin, origin)]
            if before:
                known.orphan(before)
                known.pending = [entry for entry in known.pending if entry not in before]
            # A message may have brought the same link here already.
            known.pending = [entry for entry in known.pending if entry.link["id"] != own["id"]]
            known.pending.append(Entry(origin, own))
            if len(known.pending) > self.max_links:
                known.orphan(known.pending[: -self.max_links])
                del known.pending[: -self.max_links]
            if on_socket and route.manager is not None:
                known.manager, known.endpoint = weakref.ref(route.manager), route.endpoint
            self._routes.add(route)
            self._close(known, size)

    def lookup(self, thread: Thread, fp: str) -> Link | None:
        """Finds the link with a fingerprint: an answer of the run at hand first, then a committed one."""
        with self._lock:
            known = self._threads.get(thread)
            if known is None:
                return None
            for entry in reversed(known.pending):
                if entry.link["fp"] == fp:
                    return entry.link
            link = known.links.get(fp)
            if link is not None:
                known.links.move_to_end(fp)
            return link

    # -- for savers ----------------------------------------

    def peek(self, thread: Thread) -> Known | None:
        """Returns what is known of a thread, to read from without the lock; None if nothing is."""
        return self._threads.get(thread)

    def written(self, entries: Iterable[Entry]) -> None:
        """Notes answers that came in on the messages which a task wrote.

        Args:
            entries: Those that the index does not have.
        """
        with self._lock:
            for entry in entries:
                known, size = self._open(entry.origin.thread)
                known.pending.append(entry)
                known.orphan(known.pending[: -self.max_links])
                del known.pending[: -self.max_links]
                self._close(known, size)

    def uncommitted(self, thread: Thread, ns: str, parent: str, checkpoint_id: str) -> list[Entry]:
        """Returns the answers that a new checkpoint commits, oldest first.

        These are the ones asked for by steps that began at its parent or later, and before the new one existed:
        checkpoint ids are ordered in time, also between a graph and its inner graphs. The next step may be well on
        its way when a checkpoint is saved, and its answers must not slip in.
        """
        known = self._threads.get(thread)
        if known is None or not known.pending:
            return []
        with self._lock:
            return [
                entry
                for entry in known.pending
                if parent <= entry.origin.checkpoint_id < checkpoint_id
                and is_below(ns, entry.origin.checkpoint_ns)
            ]

    def committed(
        self, thread: Thread, ns: str, checkpoint_id: str, commit: Commit, entries: Collection[Entry]
    ) -> None:
        """Notes that a checkpoint was saved.

        Args:
            thread: Its thread.
            ns: Its namespace.
            checkpoint_id: Its id.
            commit: What it says.
            entries: What `uncommitted` gave.
        """
        with self._lock:
            known = self._threads.get(thread)
            if known is not None and not entries:
                # Most checkpoints commit no answer: this is every saver's every step, so it is kept short.
                self._total += self._remember(known, ns, checkpoint_id, commit)
                return
            known, size = self._open(thread)
            self._settle(known, ns, entries)
            if not ns:
                # A checkpoint names a limited number of answers.
                named = {link["id"] for link in commit.chain.values()}
                known.orphan(entry for entry in entries if entry.link["id"] not in named)
            for link in commit.chain.values():
                self._add(known, link, newest=False, replaces=False)
            self._remember(known, ns, checkpoint_id, commit)
            self._close(known, size)

    def load(
        self,
        thread: Thread,
        ns: str,
        checkpoint_id: str,
        commit: Commit,
        links: Iterable[Link] = (),
        *,
        replaces: bool = False,
        listed: bool = False,
    ) -> None:
        """Takes in what a loaded checkpoint holds.

        Args:
            thread: Its thread.
            ns: Its namespace.
            checkpoint_id: Its id.
            commit: What it says.
            links: Further links, from its messages; these never win over what is known.
            replaces: Whether a run goes on from it: then what it says wins over other links with the same
                fingerprint, so that an old checkpoint is not continued from a younger response.
            listed: Whether it is one of a listing, which goes from new to old: it must not push out what is newer.
        """
        with self._lock:
            known, size = self._open(thread)
            for link in links:
                self._add(known, link, newest=not listed, replaces=False)
            for link in commit.chain.values():
                self._add(known, link, newest=not listed, replaces=replaces)
            if not listed:
                self._remember(known, ns, checkpoint_id, commit)
            elif len(known.commits) < self.max_commits:
                known.commits.setdefault((ns, checkpoint_id), commit)
            self._close(known, size)

    def discard(self, thread: Thread, ns: str, done: AbstractSet[str]) -> None:
        """Drops waiting answers when a thread is loaded: no checkpoint will commit them any more.

        Args:
            thread: The thread.
            ns: The graph that is loaded.
            done: Tasks whose writes were saved: they are not run again, so their answers go on waiting.
        """
        known = self._threads.get(thread)
        if known is None or not known.pending:
            return
        with self._lock:
            size = known.size
            kept: list[Entry] = []
            for entry in known.pending:
                ours = is_below(ns, entry.origin.checkpoint_ns) and not (ns and entry.saved)
                if ours and done.isdisjoint(tasks_of(entry.origin)):
                    known.orphan([entry])
                else:
                    kept.append(entry)
            known.pending = kept
            self._total += known.size - size

    def forget(self, thread: Thread) -> list[Link]:
        """Forgets a thread.

        Returns:
            The links of its own answers that no checkpoint has.
        """
        with self._lock:
            known = self._threads.pop(thread, None)
            if known is None:
                return []
            self._total -= known.size
            waiting = [entry.link for entry in known.pending]
            return [link for link in (*known.orphans, *waiting) if link.get(THREAD_KEY) == thread[1]]

    def place(self, thread: Thread) -> tuple[Any, Any] | None:
        """Returns manager and endpoint of the thread's newest turn over a socket."""
        known = self._threads.get(thread)
        if known is None or known.manager is None:
            return None
        manager = known.manager()
        return None if manager is None else (manager, known.endpoint)

    def routes(self) -> list[Route]:
        """Returns the routes of the models whose turns were noted and that still exist."""
        with self._lock:
            return list(self._routes)

    # -- under the lock ----------------------------------------

    def _open(self, thread: Thread) -> tuple[Known, int]:
        known = self._threads.get(thread)
        if known is None:
            known = self._threads[thread] = Known()
        else:
            self._threads.move_to_end(thread)
        return known, known.size

    def _close(self, known: Known, size: int) -> None:
        self._total += known.size - size
        while len(self._threads) > self.max_threads or (
            self._total > self.max_total and len(self._threads) > 1
        ):
            self._total -= self._threads.popitem(last=False)[1].size

    def _settle(self, known: Known, ns: str, entries: Collection[Entry]) -> None:
        for entry in entries:
            self._add(known, entry.link, newest=True, replaces=True)
        done = {entry.link["id"] for entry in entries}
        if not ns:
            known.pending = [entry for entry in known.pending if entry.link["id"] not in done]
        else:
            # The graphs around it have yet to commit them.
            known.pending = [
                replace(entry, saved=True) if entry.link["id"] in done else entry for entry in known.pending
            ]

    def _add(self, known: Known, link: Link, *, newest: bool, replaces: bool) -> None:
        links, fp = known.links, link["fp"]
        if fp in links:
            if not replaces:
                return
        elif not newest and len(links) >= self.max_links:
            return
        links[fp] = link
        links.move_to_end(fp, last=newest)
        while len(links) > self.max_links:
            links.popitem(last=False)

    def _remember(self, known: Known, ns: str, checkpoint_id: str, commit: Commit) -> int:
        """Keeps what a checkpoint says; by how much the thread has grown."""
        place = (ns, checkpoint_id)
        commits = known.commits
        before = len(commits)
        commits[place] = commit
        known.current = place
        if len(commits) > self.max_commits:
            del commits[next(iter(commits))]
        return len(commits) - before


def with_known_links(
    history: History,
    origin: Origin,
    key: ChainKey,
    alive: Callable[[str, bool], bool],
    *,
    after: int = -1,
    index: ChainIndex | None = None,
) -> History | None:
    """Gives assistant messages without a link the link that the index has for them.

    Args:
        history: What the plan is made from.
        origin: Where the turn runs.
        key: Makes fingerprints.
        alive: Whether a response, given its id and whether it was stored, can still be continued.
        after: Only messages after this position are of use.
        index: The process's own if not given.

    Returns:
        A copy of `history` with the links that were found, or None if there are none. Newest first, and only as far
        as the first that can be continued: the plan looks no further.
    """
    index = INDEX if index is None else index
    if index.peek(origin.thread) is None:
        return None
    found: dict[int, Any] = {}
    last, searched = len(history.digests) - 1, 0
    for position, link in history.links:
        if position <= after or searched >= _MAX_SEARCHED:
            break
        if link is not None:
            continue
        searched += 1
        known = index.lookup(origin.thread, key.fingerprint(history.digests[history.head : position + 1]))
        if known is not None:
            found[position] = known
            if position < last and alive(known["id"], known["store"]):
                break
    if not found:
        return None
    return replace(history, links=[(position, found.get(position, link)) for position, link in history.links])


INDEX = ChainIndex()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=INDEX.clear)
