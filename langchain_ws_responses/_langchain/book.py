"""What a `ChainSaver` reads from and adds to the checkpoints that pass through it. No I/O but a handshake's start."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import count, islice
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage

from .._protocol.chain import LINK_FIELDS
from .index import INDEX, Known
from .links import LINK_KEY
from .origin import THREAD_KEY, Commit, Entry, Link, Origin, Thread, label_of
from .remembered import Remembered, Table

if TYPE_CHECKING:
    from .._transport.manager import ConnectionManager
    from .deletions import Deletions
    from .route import Route

__all__ = ["RESPONSE_ID_KEY", "ChainBook", "links_of"]

logger = logging.getLogger("langchain_ws_responses")

RESPONSE_ID_KEY = "openai_response_id"
"""In a checkpoint's metadata: the newest response, flat, because filters of some savers match no nested values."""

# LangGraph puts this into the config of a run, and not into that of `get_state` and its like.
_RUN_KEY = "__pregel_runtime"
# Older messages carry their links themselves.
_MAX_SCANNED = 64
_MAX_LABELS = 64
_MAX_PER_LABEL = 32
_MAX_TEXT = 512
_OPTIONAL = ("node", "conn")
_SEQUENCES = (list, tuple)  # made once: a union in the call would be made at each
_NOTHING = Commit({}, "")
_MAX_SAVERS = 1024
_numbers = count(1)
# Writes that say how a task ended, not that it has done its work.
_NO_RESULT = frozenset({"__error__", "__interrupt__", "__resume__", "__scheduled__", "__error_source_node__"})


def links_of(metadata: Any) -> list[Link]:
    """Returns the links in a checkpoint's metadata."""
    return list(_commit_of(metadata).chain.values())


class _Saver(Remembered):
    __slots__ = ("scope",)

    scope: int


_savers: Table[_Saver] = Table(_MAX_SAVERS)


def _scope_of(inner: Any) -> int:
    """Gives a saver a number: the same each time, and no other one's. An `id` may come again."""
    known = _savers.get(id(inner))
    if known is not None and known() is inner:
        return known.scope
    scope = next(_numbers)
    try:
        entry = _savers.entry(_Saver, inner)
    except TypeError:  # of a type without weak references
        return scope
    entry.scope = scope
    _savers.add(entry)
    return scope


class ChainBook:
    """The bookkeeping of a `ChainSaver`, shared by its clones.

    Args:
        inner: The checkpointer that saves; those who share one share what is known of its threads.
        manager: Opens connections; by default the manager of the thread's newest turn.
        route: Gives the route of the model that the saver was given, or None.
        deletions: Where stored responses are deleted, if they are.

    Attributes:
        scope: Tells its threads from those of other checkpointers with the same ids.
    """

    def __init__(
        self,
        inner: Any,
        *,
        manager: ConnectionManager | None,
        route: Callable[[], Route | None],
        deletions: Deletions | None,
    ) -> None:
        self.manager = manager
        self.route = route
        self.deletions = deletions
        self.scope = _scope_of(inner)

    def _thread(self, configurable: Any) -> Thread:
        return self.scope, str(configurable.get("thread_id"))

    # -- saving ----------------------------------------

    def committing(
        self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any
    ) -> tuple[Any, Callable[[], None]]:
        """Looks at a checkpoint that is about to be saved.

        Args:
            config: As for `put`.
            checkpoint: As for `put`.
            metadata: As for `put`; not changed.
            new_versions: As for `put`.

        Returns:
            The metadata to save, and what to call once it is saved.
        """
        configurable = config.get("configurable") or {}
        thread, ns = self._thread(configurable), configurable.get("checkpoint_ns") or ""
        values = checkpoint.get("channel_values") or {}
        known = INDEX.peek(thread)
        brought = _brought(known, [values[name] for name in new_versions or () if name in values])
        if not brought and known is None:
            return metadata, _nothing
        parent, checkpoint_id = configurable.get("checkpoint_id") or "", checkpoint["id"]
        commit = (known.commits.get((ns, parent)) if known is not None else None) or _commit_of(metadata)
        entries: list[Entry] = []
        if known is not None and known.pending:
            entries = INDEX.uncommitted(thread, ns, parent, checkpoint_id)
        if brought:
            # Last come those that turns of this process noted: they are the newest.
            entries = [*_entries(thread, ns, parent, "", brought), *entries]
        if entries:
            commit = _merged(commit, ns, entries)
        if not commit.chain:
            return metadata, _nothing
        metadata = {**metadata, LINK_KEY: dict(commit.chain), RESPONSE_ID_KEY: commit.newest}
        return metadata, lambda: INDEX.committed(thread, ns, checkpoint_id, commit, entries)

    def written(self, config: Any, writes: Any, task_id: str) -> None:
        """Takes in the links on the messages that a task wrote, for the checkpoint that will follow.

        A channel that saves only differences has no messages in its checkpoints: here they pass by.
        """
        configurable = config.get("configurable") or {}
        thread = self._thread(configurable)
        brought = _brought(INDEX.peek(thread), (value for _, value in writes))
        if brought:
            ns, parent = configurable.get("checkpoint_ns") or "", configurable.get("checkpoint_id") or ""
            INDEX.written(_entries(thread, ns, parent, task_id, brought))

    # -- loading ----------------------------------------

    def loaded(self, config: Any, saved: Any) -> None:
        """Takes in a checkpoint that was asked for; at the start of a run, makes ready for it."""
        configurable = config.get("configurable") or {}
        # LangGraph also asks, with an explicit None, whether a checkpoint that a run goes on from is the latest one.
        runs = _RUN_KEY in configurable and not (
            "checkpoint_id" in configurable
            and configurable["checkpoint_id"] is None
            and not configurable.get("checkpoint_ns")
        )
        if saved is not None:
            self._take(saved, replaces=runs)
        if not runs:
            return
        thread, ns = self._thread(configurable), configurable.get("checkpoint_ns") or ""
        pending = (saved.pending_writes if saved is not None else None) or ()
        INDEX.discard(thread, ns, {str(write[0]) for write in pending if write[1] not in _NO_RESULT})
        if saved is not None and not ns:
            self._preconnect(thread)

    def listed(self, saved: Any) -> None:
        """Takes in a checkpoint of a listing."""
        self._take(saved, listed=True)

    def _take(self, saved: Any, *, replaces: bool = False, listed: bool = False) -> None:
        configurable = saved.config.get("configurable") or {}
        thread, ns = self._thread(configurable), configurable.get("checkpoint_ns") or ""
        checkpoint_id = saved.checkpoint["id"]
        known = INDEX.peek(thread)
        if known is not None and known.current == (ns, checkpoint_id):
            return
        commit = _commit_of(saved.metadata)
        brought = _brought(known, (saved.checkpoint.get("channel_values") or {}).values())
        links = [link for raw in brought if (link := _clean(raw)) is not None]
        if commit.chain or links:
            INDEX.load(thread, ns, checkpoint_id, commit, links, replaces=replaces, listed=listed)

    def _preconnect(self, thread: Thread) -> None:
        """Starts the handshake that the first turn of a run would wait for; the run is none the wiser if it fails."""
        try:
            place = INDEX.place(thread)
            route = self.route() if place is None else None
            # A key is asked for at turns, where their callers are.
            if place is None and route is not None and route.manager is not None and route.ask is None:
                place = (route.manager, route.endpoint)
            if place is None or place[1] is None:
                return
            manager, endpoint = self.manager or place[0], place[1]
            if not manager.closed and not manager.is_open(endpoint) and manager.may_dial(endpoint):
                manager.preconnect(endpoint)
        except Exception:
            logger.debug("no connection could be made ready", exc_info=True)

    # -- deleting ----------------------------------------

    def collected(self, thread_id: str, links: Iterable[Link], error: Exception | None = None) -> list[Link]:
        """Picks what to delete at the provider, from what the thread's checkpoints say."""
        from .deletions import deletable

        if error is not None and self.deletions is not None:
            self.deletions.fail(thread_id, "", f"its checkpoints cannot be listed: {type(error).__name__}")
        return deletable(links, thread_id)

    def forget(self, thread_id: str, doomed: list[Link]) -> None:
        """Forgets a thread that was deleted, and has its stored responses deleted."""
        thread_id = str(thread_id)
        self._free_lanes((self.scope, thread_id))
        known = INDEX.peek((self.scope, thread_id))
        orphans = INDEX.forget((self.scope, thread_id))
        if self.deletions is not None:
            if known is not None and known.dropped:
                self.deletions.fail(thread_id, "", f"{known.dropped} were too many to remember")
            self.deletions.submit(thread_id, self.collected(thread_id, [*doomed, *orphans]))

    @staticmethod
    def _free_lanes(thread: Thread) -> None:
        """Gives the thread's lanes to other conversations."""
        place, known = INDEX.place(thread), INDEX.peek(thread)
        if place is None or known is None:
            return
        own = [*known.links.values(), *(entry.link for entry in known.pending)]
        ids = [link["id"] for link in own if link.get(THREAD_KEY) == thread[1]]
        place[0].give_up(place[1], ids)


def _nothing() -> None:
    return None


def _brought(known: Known | None, values: Iterable[Any]) -> list[Link]:
    """The links on assistant messages in channel values or writes that the index does not have yet, oldest first.

    Looks from the newest message back to the first whose link is known: those before it were seen with it.
    """
    links: list[Link] = []
    for value in values:
        if isinstance(value, _SEQUENCES):
            found: list[Link] = []
            # Not `isinstance`: that of pydantic's classes costs ten times this.
            for message in islice(reversed(value), _MAX_SCANNED):
                metadata = getattr(message, "response_metadata", None)
                if metadata and (link := _link_on(message, metadata)) is not None:
                    if known is not None and known.has(link["fp"]):
                        break
                    found.append(link)
            found.reverse()
            links += found
        elif metadata := getattr(value, "response_metadata", None):
            link = _link_on(value, metadata)
            if link is not None and not (known is not None and known.has(link["fp"])):
                links.append(link)
    return links


def _link_on(message: Any, metadata: Any) -> Link | None:
    link = metadata.get(LINK_KEY) if type(metadata) is dict else None
    if type(link) is dict and isinstance(link.get("fp"), str) and isinstance(message, AIMessage):
        return link
    return None


def _entries(thread: Thread, ns: str, parent: str, task_id: str, links: Iterable[Link]) -> list[Entry]:
    """Makes entries of links that messages brought. They are nobody's own: a message may be a client's."""
    entries = []
    for raw in links:
        link = _clean(raw)
        if link is not None:
            node = link.get("node", "")
            node = "" if "|" in node or ":" in node else node
            where = f"{ns}|{node}:{task_id}".lstrip("|")
            origin = Origin(thread[1], where, parent, task_id, scope=thread[0])
            entries.append(Entry(origin, link))
    return entries


def _clean(raw: Any, *, own: bool = False) -> Link | None:
    """Copies a link, as far as it is one: what a client wrote must not swell, or break, every checkpoint after it."""
    if not isinstance(raw, Mapping):
        return None
    link: Link = {}
    for name, kind in LINK_FIELDS.items():
        value = raw.get(name)
        if type(value) is not kind or (isinstance(value, str) and not _harmless(value)):
            return None
        link[name] = value
    for name in (*_OPTIONAL, THREAD_KEY) if own else _OPTIONAL:
        value = raw.get(name)
        if isinstance(value, str) and _harmless(value):
            link[name] = value
    return link


def _harmless(text: str) -> bool:
    return len(text) <= _MAX_TEXT and (text.isprintable() or not text)


def _commit_of(metadata: Any) -> Commit:
    """Reads a checkpoint's metadata."""
    raw = metadata.get(LINK_KEY) if isinstance(metadata, Mapping) else None
    if not isinstance(raw, Mapping):
        return _NOTHING
    chain = {
        label: link
        for label, value in raw.items()
        if isinstance(label, str) and (link := _clean(value, own=True)) is not None
    }
    newest = metadata.get(RESPONSE_ID_KEY)
    return Commit(chain, newest if isinstance(newest, str) else "")


def _merged(base: Commit, ns: str, entries: list[Entry]) -> Commit:
    """What a checkpoint says: what its parent said, with the newest links of the nodes that answered since.

    Where a node answered several times in the step (`Send`, `batch`, several questions), the newest link stands under
    the node's name and the others beside it, under `name#2` and so on.
    """
    answered: dict[str, list[Link]] = {}
    for entry in reversed(entries):
        links = answered.setdefault(label_of(ns, entry.origin), [])
        own = entry.link.get(THREAD_KEY) is not None
        if not links or (own and len(links) < _MAX_PER_LABEL):
            links.append(entry.link)
    chain = {label: link for label, link in base.chain.items() if label.partition("#")[0] not in answered}
    for label, links in reversed(answered.items()):
        for number, link in reversed(list(enumerate(links, 1))):
            chain[label if number == 1 else f"{label}#{number}"] = link
    for label in list(chain)[:-_MAX_LABELS]:
        del chain[label]
    return Commit(chain, entries[-1].link["id"])
