"""A saver type for each inner type, with exactly the methods that the inner type overrides.

LangGraph, its server and the conformance suite look at `type(saver)` to learn what a saver can do: a method that is not
`BaseCheckpointSaver`'s own function counts as a capability. So what the inner type leaves to the base must stay the
base's own function here.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import wraps
from typing import TYPE_CHECKING, Any

from langgraph.checkpoint.base import BaseCheckpointSaver

if TYPE_CHECKING:
    from .book import ChainBook
    from .origin import Link

__all__ = ["mirrored"]

_DELETE = "delete"
_CONTEXT = ("__enter__", "__exit__", "__aenter__", "__aexit__")


class _Wrapped:
    """The methods that do more than pass on. Sync stays sync and async stays async."""

    inner: BaseCheckpointSaver[Any]
    _book: ChainBook

    def get_tuple(self, config: Any) -> Any:
        saved = self.inner.get_tuple(config)
        self._book.loaded(config, saved)
        return saved

    async def aget_tuple(self, config: Any) -> Any:
        saved = await self.inner.aget_tuple(config)
        self._book.loaded(config, saved)
        return saved

    def list(
        self, config: Any, *, filter: Any = None, before: Any = None, limit: int | None = None
    ) -> Iterator[Any]:
        found = self.inner.list(config, filter=filter, before=before, limit=limit)
        try:
            for saved in found:
                self._book.listed(saved)
                yield saved
        finally:
            # The inner one may hold a cursor or a lock.
            if hasattr(found, "close"):
                found.close()

    async def alist(
        self, config: Any, *, filter: Any = None, before: Any = None, limit: int | None = None
    ) -> AsyncIterator[Any]:
        found = self.inner.alist(config, filter=filter, before=before, limit=limit)
        try:
            async for saved in found:
                self._book.listed(saved)
                yield saved
        finally:
            if hasattr(found, "aclose"):
                await found.aclose()

    def put(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        metadata, done = self._book.committing(config, checkpoint, metadata, new_versions)
        saved = self.inner.put(config, checkpoint, metadata, new_versions)
        done()
        return saved

    async def aput(self, config: Any, checkpoint: Any, metadata: Any, new_versions: Any) -> Any:
        metadata, done = self._book.committing(config, checkpoint, metadata, new_versions)
        saved = await self.inner.aput(config, checkpoint, metadata, new_versions)
        done()
        return saved

    def put_writes(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        self.inner.put_writes(config, writes, task_id, task_path)
        self._book.written(config, writes, task_id)

    async def aput_writes(
        self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str, task_path: str = ""
    ) -> None:
        await self.inner.aput_writes(config, writes, task_id, task_path)
        self._book.written(config, writes, task_id)

    def delete_thread(self, thread_id: str) -> None:
        doomed = _doomed(self, thread_id)
        self.inner.delete_thread(thread_id)
        self._book.forget(thread_id, doomed)

    async def adelete_thread(self, thread_id: str) -> None:
        doomed = await _adoomed(self, thread_id)
        await self.inner.adelete_thread(thread_id)
        self._book.forget(thread_id, doomed)

    def prune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        thread_ids = [*thread_ids]
        gone = thread_ids if strategy == _DELETE else []
        doomed = [_doomed(self, thread_id) for thread_id in gone]
        self.inner.prune(thread_ids, strategy=strategy)
        for thread_id, links in zip(gone, doomed, strict=True):
            self._book.forget(thread_id, links)

    async def aprune(self, thread_ids: Sequence[str], *, strategy: str = "keep_latest") -> None:
        thread_ids = [*thread_ids]
        gone = thread_ids if strategy == _DELETE else []
        doomed = [await _adoomed(self, thread_id) for thread_id in gone]
        await self.inner.aprune(thread_ids, strategy=strategy)
        for thread_id, links in zip(gone, doomed, strict=True):
            self._book.forget(thread_id, links)


class _Entered:
    """For inner types that are entered themselves: what `with` gives is the saver around them."""

    inner: Any

    def __enter__(self) -> Any:
        self.inner.__enter__()
        return self

    def __exit__(self, *raised: object) -> Any:
        return self.inner.__exit__(*raised)

    async def __aenter__(self) -> Any:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> Any:
        return await self.inner.__aexit__(*raised)


class _WithoutTaskPath:
    """For inner types of before `task_path`: LangGraph passes it to whatever takes it."""

    inner: BaseCheckpointSaver[Any]
    _book: ChainBook

    def put_writes(self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str) -> None:
        self.inner.put_writes(config, writes, task_id)
        self._book.written(config, writes, task_id)

    async def aput_writes(self, config: Any, writes: Sequence[tuple[str, Any]], task_id: str) -> None:
        await self.inner.aput_writes(config, writes, task_id)
        self._book.written(config, writes, task_id)


def _doomed(saver: _Wrapped, thread_id: str) -> list[Link]:
    """The thread's responses that are to be deleted at the provider, read before its checkpoints are gone."""
    from .book import links_of

    links: list[Link] = []
    error = None
    if saver._book.deletions is not None:
        try:
            for saved in saver.inner.list({"configurable": {"thread_id": thread_id}}):
                links += links_of(saved.metadata)
        except Exception as exc:  # the delete itself goes on; it will say what is wrong with the saver
            error = exc
    return saver._book.collected(str(thread_id), links, error)


async def _adoomed(saver: _Wrapped, thread_id: str) -> list[Link]:
    from .book import links_of

    links: list[Link] = []
    error = None
    if saver._book.deletions is not None:
        try:
            async for saved in saver.inner.alist({"configurable": {"thread_id": thread_id}}):
                links += links_of(saved.metadata)
        except Exception as exc:  # as above
            error = exc
    return saver._book.collected(str(thread_id), links, error)


def _passed_on(name: str, method: Any) -> Any:
    """A method, or property, that does no more than the inner one."""
    if isinstance(method, property):
        return property(lambda self: getattr(self.inner, name), doc=method.__doc__)
    if inspect.iscoroutinefunction(method):

        @wraps(method)
        async def awaited(self: Any, *args: Any, **kwargs: Any) -> Any:
            return await getattr(self.inner, name)(*args, **kwargs)

        return awaited

    @wraps(method)
    def called(self: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.inner, name)(*args, **kwargs)

    return called


def mirrored(inner_type: type[BaseCheckpointSaver[Any]]) -> type[BaseCheckpointSaver[Any]]:
    """Makes the base of a saver type.

    Args:
        inner_type: The type of the saver that is wrapped.

    Returns:
        A subclass of `BaseCheckpointSaver` that overrides what `inner_type` overrides, is entered as that is, and
        nothing else.
    """
    body: dict[str, Any] = {"__doc__": f"What {inner_type.__name__} can do."}
    for name, own in vars(BaseCheckpointSaver).items():
        if name.startswith("_") or not (inspect.isfunction(own) or isinstance(own, property)):
            continue
        method = inspect.getattr_static(inner_type, name)
        if method is own:
            continue
        if name in ("put_writes", "aput_writes") and "task_path" not in inspect.signature(method).parameters:
            body[name] = vars(_WithoutTaskPath)[name]
        else:
            body[name] = vars(_Wrapped).get(name) or _passed_on(name, method)
    body.update((name, vars(_Entered)[name]) for name in _CONTEXT if hasattr(inner_type, name))
    return type(f"Mirrored{inner_type.__name__}", (BaseCheckpointSaver,), body)
