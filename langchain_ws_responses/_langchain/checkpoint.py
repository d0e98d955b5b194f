"""`ChainSaver`: a checkpointer that knows which response belongs to which state."""

from __future__ import annotations

import inspect
from collections.abc import Collection
from copy import deepcopy
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from langgraph.checkpoint.base import BaseCheckpointSaver

from .book import ChainBook
from .deletions import Deletions
from .index import INDEX, SCOPE_NAME
from .saver_types import mirrored

if TYPE_CHECKING:
    from .._transport.manager import ConnectionManager
    from .chat_models import ChatOpenAIWebSocket
    from .route import Route

__all__ = ["ChainSaver"]

_ON_DELETE = ("forget", "delete_responses")


class ChainSaver(BaseCheckpointSaver[Any]):
    """Wraps any checkpointer and indexes which response belongs to which state.

    The model is right without it. It adds: deltas for states that keep only text or parsed output, also after a
    restart; in each checkpoint's metadata `"openai_chain"` (the newest links, by node) and `"openai_response_id"` (the
    newest response), to look a checkpoint up by; a handshake that begins when a run loads its thread; and, if wanted,
    stored responses that go when their thread goes.

    What the inner saver can do, this one can do, and nothing else: its type is made for the type of the inner one. What
    the inner one raises is raised unchanged. Attributes that are not found here are the inner saver's.

    Args:
        inner: The checkpointer that saves, such as `InMemorySaver()` or what `SqliteSaver.from_conn_string` yields.
        manager: Opens the connection when a thread is loaded; by default the manager of the thread's newest turn.
        model: A model, to know the endpoint, and the credentials for deleting, also after a restart. By default those
            of the models whose turns this process has seen.
        on_delete: What `delete_thread` does beside deleting the checkpoints (so does `prune` with
            `strategy="delete"`): `"forget"` forgets the thread; `"delete_responses"` also has the responses that the
            thread's own turns had stored deleted at the provider, in the background; see `deletions`. A thread that is
            only pruned to its latest checkpoint keeps them all: the latest response rests on those before it.

    Attributes:
        inner: The checkpointer that saves.

    Raises:
        TypeError: `inner`, `manager` or `model` is something else.
        ValueError: `on_delete` is neither.

    Example:
        ```python
        from langgraph.checkpoint.memory import InMemorySaver
        from langchain_ws_responses import ChainSaver

        saver = ChainSaver(InMemorySaver())
        ```
    """

    inner: BaseCheckpointSaver[Any]

    def __new__(cls, inner: Any = None, **options: Any) -> ChainSaver:
        _check_inner(inner)
        saver: ChainSaver = object.__new__(_saver_type(cls, type(inner)))  # type: ignore[arg-type]
        return saver

    def __init__(
        self,
        inner: BaseCheckpointSaver[Any],
        *,
        manager: ConnectionManager | None = None,
        model: ChatOpenAIWebSocket | None = None,
        on_delete: Literal["forget", "delete_responses"] = "forget",
    ) -> None:
        # Not the base's: it would give the inner saver another serde.
        if on_delete not in _ON_DELETE:
            raise ValueError(f'on_delete must be "forget" or "delete_responses", not {on_delete!r}')
        _check_options(manager, model)
        self._deletions = Deletions(self._routes)
        self._model = model
        self._book = ChainBook(
            inner,
            manager=manager,
            route=self._route,
            deletions=self._deletions if on_delete == "delete_responses" else None,
        )
        setattr(self, SCOPE_NAME, self._book.scope)
        self.inner = inner
        INDEX.active = True

    # -- what differs from the base for every inner type ----------------------------------------

    @property
    def serde(self) -> Any:
        """The inner saver's serializer."""
        return self.inner.serde

    @serde.setter
    def serde(self, value: Any) -> None:
        self.inner.serde = value

    def with_allowlist(self, extra_allowlist: Collection[tuple[str, ...]]) -> ChainSaver:
        """Returns this saver over the inner one with a wider msgpack allowlist; both share all that is remembered."""
        inner = self.inner.with_allowlist(extra_allowlist)
        return self if inner is self.inner else self._over(inner)

    def _over(self, inner: BaseCheckpointSaver[Any]) -> ChainSaver:
        clone: ChainSaver = object.__new__(type(self))
        clone.__dict__.update(self.__dict__)
        clone.inner = inner
        return clone

    def __copy__(self) -> ChainSaver:
        return self._over(self.inner)

    def __deepcopy__(self, memo: dict[int, Any]) -> ChainSaver:
        # What is remembered is shared, as by every clone: it holds threads and locks.
        return self._over(deepcopy(self.inner, memo))

    def __getattr__(self, name: str) -> Any:
        # What begins and ends with underscores is a question to the type, and not every one that asks `copy` or
        # `pickle` has an inner saver yet.
        if name.startswith("__") or "inner" not in self.__dict__:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return getattr(self.inner, name)

    def __repr__(self) -> str:
        return f"<ChainSaver over {type(self.inner).__name__}>"

    # -- looking inside ----------------------------------------

    @property
    def deletions(self) -> Deletions:
        """Stored responses on their way out: how many are `pending`, were `deleted`, and which `failed`."""
        return self._deletions

    def _route(self) -> Route | None:
        return None if self._model is None else self._model._current_route()

    def _routes(self) -> list[Route]:
        route = self._route()
        return INDEX.routes() if route is None else [route, *INDEX.routes()]


@lru_cache(maxsize=64)
def _saver_type(cls: type[ChainSaver], inner_type: type[BaseCheckpointSaver[Any]]) -> type[ChainSaver]:
    """Makes the type of savers over one type; below a user's subclass, whose own methods come first."""
    name = f"{cls.__name__}[{inner_type.__name__}]"
    body = {"__module__": cls.__module__, "__doc__": cls.__doc__, "__qualname__": name}
    return type(name, (cls, mirrored(inner_type)), body)


def _check_inner(inner: Any) -> None:
    if isinstance(inner, ChainSaver):
        raise TypeError("ChainSaver got a ChainSaver; pass the checkpointer inside it.")
    if isinstance(inner, BaseCheckpointSaver):
        return
    if inspect.isclass(inner):
        what = f"the class {inner.__name__}. Pass an instance of it"
    elif hasattr(inner, "__enter__"):
        what = (
            f"a context manager ({type(inner).__name__}). Enter it and pass what it yields: "
            "`with SqliteSaver.from_conn_string(...) as inner: ChainSaver(inner)`"
        )
    elif hasattr(inner, "__aenter__"):
        what = (
            f"an async context manager ({type(inner).__name__}). Enter it and pass what it yields: "
            "`async with AsyncSqliteSaver.from_conn_string(...) as inner: ChainSaver(inner)`"
        )
    else:
        what = f"{inner!r}" if inner is None or isinstance(inner, bool) else f"a {type(inner).__name__}"
        what += ". Pass a checkpointer, such as `InMemorySaver()`"
    raise TypeError(f"ChainSaver needs an instance of BaseCheckpointSaver, not {what}.")


def _check_options(manager: Any, model: Any) -> None:
    if manager is not None:
        from .._transport.manager import ConnectionManager

        if not isinstance(manager, ConnectionManager):
            raise TypeError(f"manager must be a ConnectionManager, not {type(manager).__name__}")
    if model is not None:
        from .chat_models import ChatOpenAIWebSocket

        if not isinstance(model, ChatOpenAIWebSocket):
            raise TypeError(
                f"model must be a ChatOpenAIWebSocket, not {type(model).__name__}: pass it as it was before bind_tools "
                "and the like."
            )
