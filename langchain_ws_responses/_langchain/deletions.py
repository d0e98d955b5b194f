"""Deletes stored responses at the provider, in the background."""

from __future__ import annotations

import hmac
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextvars import Context, copy_context
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .._protocol.limits import RetryPolicy
from .origin import THREAD_KEY, Link

if TYPE_CHECKING:
    from .route import Route

    _Work = tuple[str, Link, Route, Context]

__all__ = ["Deletions", "FailedDeletion", "deletable"]

logger = logging.getLogger("langchain_ws_responses")

_MAX_WORKERS = 4
_MAX_FAILED = 1000
_GONE = 404
_RETRIED_STATUS = frozenset({408, 409, 425, 429})
_NO_MODEL = "no model that made it is known: pass model= to ChainSaver"
_NO_CLIENT = "the model has no sync client, because its api_key is an async callable"


@dataclass(frozen=True)
class FailedDeletion:
    """A response that is still stored at the provider.

    Attributes:
        thread_id: The thread that was deleted.
        response_id: The response, or empty if its id could not be found out.
        error: Why, without any payload.
    """

    thread_id: str
    response_id: str
    error: str


def deletable(links: Iterable[Any], thread_id: str) -> list[Link]:
    """Picks the links of responses that this thread's own turns had stored; each response once.

    A thread that was copied names responses of its original, and a message may bring a link that its writer copied
    from elsewhere: neither is this thread's to delete.

    Args:
        links: Candidates.
        thread_id: The thread.
    """
    mine = {
        link["id"]: link
        for link in links
        if isinstance(link, dict) and link.get(THREAD_KEY) == thread_id and link.get("store") is True
    }
    return list(mine.values())


class Deletions:
    """Stored responses on their way out at the provider.

    A few daemon threads work off what is submitted, each request retried with back-off. What is still `pending` when
    the process ends stays stored: call `wait` before. A forked child begins with nothing pending: that is its parent's.

    Args:
        routes: Gives the routes that may have made a response.
        retry: How a request is tried again.

    Attributes:
        deleted: How many responses are gone, those that were gone before included.
    """

    def __init__(self, routes: Callable[[], Sequence[Route]], *, retry: RetryPolicy | None = None) -> None:
        from .._transport.runtime import runtime

        self.deleted = 0
        self._routes = routes
        self._retry = retry or RetryPolicy()
        self._failed: deque[FailedDeletion] = deque(maxlen=_MAX_FAILED)
        self._begin()
        runtime().in_child(self._begin)

    def _begin(self) -> None:
        # A forked child has none of the threads: one of them may hold the lock.
        self._changed = threading.Condition()
        self._queue: deque[_Work] = deque()
        self._busy = 0
        self._workers = 0

    @property
    def pending(self) -> int:
        """How many responses wait for their deletion."""
        return len(self._queue) + self._busy

    @property
    def failed(self) -> tuple[FailedDeletion, ...]:
        """The newest 1,000 responses that could not be deleted."""
        return tuple(self._failed)

    def __repr__(self) -> str:
        return f"<Deletions [{self.pending} pending, {self.deleted} deleted, {len(self._failed)} failed]>"

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until nothing is pending.

        Args:
            timeout: Seconds; None for no limit.

        Returns:
            Whether nothing is pending.
        """
        with self._changed:
            return self._changed.wait_for(lambda: not self.pending, timeout)

    def submit(self, thread_id: str, links: Iterable[Link]) -> None:
        """Has responses deleted; returns at once and never raises.

        Args:
            thread_id: The thread that was deleted.
            links: From `deletable`. Each is sent only to where a model's key proves that it was made. A key callable is
                asked for its key in the background, in this context.
        """
        routes = self._routes()
        # After a restart no route is left of the keys that a callable gave: whose key it was shows when it is asked.
        asking = [route for route in routes if route.ask is not None]
        work: list[_Work] = []
        for link in links:
            makers = [route for route in routes if _made_by(route, link)] or asking
            route = next((route for route in makers if route.client is not None), None)
            if route is None:
                self.fail(thread_id, link["id"], _NO_CLIENT if makers else _NO_MODEL)
            else:
                # A key callable is asked in the context of whoever deletes the thread.
                work.append((thread_id, link, route, copy_context()))
        with self._changed:
            self._queue.extend(work)
            while self._workers < min(_MAX_WORKERS, len(self._queue)):
                self._workers += 1
                threading.Thread(target=self._work, name="response-deletion", daemon=True).start()

    def fail(self, thread_id: str, response_id: str, error: str) -> None:
        """Notes what could not be deleted."""
        self._failed.append(FailedDeletion(thread_id, response_id, error))
        logger.warning(
            "response %s of the deleted thread %s is still stored at the provider: %s",
            response_id or "(unknown)",
            thread_id,
            error,
        )

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._queue:
                    self._workers -= 1
                    return
                thread_id, link, route, context = self._queue.popleft()
                self._busy += 1
            try:
                error = context.run(self._delete, link, route)
            except BaseException as exc:  # a key callable's: it ends no thread that other responses wait for
                error = type(exc).__name__
            if error is not None:
                self.fail(thread_id, link["id"], error)
            with self._changed:
                self._busy -= 1
                self.deleted += error is None
                self._changed.notify_all()

    def _delete(self, link: Link, route: Route) -> str | None:
        """Deletes one response; why it could not, or None."""
        from .._transport.retry import back_off

        if not _made_by(route, link):
            route = route.asked()
            if not _made_by(route, link):
                return _NO_MODEL
        attempt = 0
        while True:
            attempt += 1
            try:
                # Retried here, so that one policy decides.
                client = route.client.with_options(max_retries=0, **route.owner_options)
                client.responses.delete(link["id"])
            except Exception as exc:
                status = getattr(exc, "status_code", None)
                if status == _GONE:
                    return None
                if attempt >= self._retry.max_attempts or not _worth_retrying(exc):
                    # The class and the status: texts of errors may quote what was sent.
                    return type(exc).__name__ + ("" if status is None else f" ({status})")
                time.sleep(back_off(self._retry, attempt))
            else:
                return None


def _made_by(route: Route, link: Link) -> bool:
    """Whether the signature proves that this model's credentials made the response."""
    try:
        signature = route.key(link["model"]).sign(link)
        return hmac.compare_digest(signature.encode(), link["sig"].encode("utf-8", "replace"))
    except (AttributeError, KeyError, TypeError):
        return False


def _worth_retrying(error: Exception) -> bool:
    import openai

    if isinstance(error, openai.APIStatusError):
        return error.status_code in _RETRIED_STATUS or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError)
