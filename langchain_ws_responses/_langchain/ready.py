"""Keeping a conversation within reach while nobody talks to the model.

A warm-up lets the server read tools and messages before they are needed. A keeper watches the connection while tools
run: if it is lost, a new one is dialed, and where the lost one held the only copy of the conversation
(`store=False`), the history is read in again, all off the critical path.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage

from ..errors import ServerEventError, WebSocketResponsesError
from .links import LINK_KEY
from .route import Route
from .turn import Turn

if TYPE_CHECKING:
    from .._transport.watch import Watch

__all__ = ["KeepReady", "awarm_up", "enable", "forget_recent", "remember", "warm_up"]

logger = logging.getLogger("langchain_ws_responses")

_MAX_RECENT = 128
# Re-readings of one conversation while one answer's tools run: a connection that keeps dying is not worth more.
_MAX_PRIMES = 4
_MAX_LOSSES = 32


@dataclass
class _Recent:
    """What the last answer of a conversation was made from.

    Attributes:
        route: Where its turns go.
        settings: The request without `input`.
        messages: What the model saw.
        stored: Whether the provider stored the answer.
        held: The response that stands for the conversation: the answer, or a warm-up that read it in anew.
        primes: How often it was read in anew.
    """

    route: Route
    settings: dict[str, Any] = field(repr=False)
    messages: Sequence[BaseMessage] = field(repr=False)
    stored: bool
    held: str
    primes: int = 0


# It may be taken again by its holder: a collection of garbage can end a `KeepReady` at any allocation.
_lock = threading.RLock()
_enabled = False
_recent: OrderedDict[str, _Recent] = OrderedDict()
_keepers: dict[str, _Keeper] = {}


def _forget_all() -> None:
    """A forked child keeps nothing: connections and threads are the parent's, and the lock may be taken."""
    global _lock  # noqa: PLW0603 - the old one may be held by a thread that does not exist here
    _lock = threading.RLock()
    _recent.clear()
    _keepers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def enable() -> None:
    """Begins to note what `KeepReady` needs; before somebody may use that, nothing is noted."""
    global _enabled  # noqa: PLW0603 - notes are the process's
    _enabled = True


def remember(turn: Turn) -> None:
    """Notes a turn whose answer asks for tools, so that its conversation can be kept ready while they run.

    Args:
        turn: A turn that has ended.
    """
    link = turn.link
    if not _enabled or link is None or turn.warm_up:
        return
    with _lock:
        # The conversation has moved on: nobody will run the tools of its earlier answer.
        _recent.pop(_response_id(turn.messages) or "", None)
        if turn.asks and turn.kind == "websocket":
            _recent[link["id"]] = _Recent(
                turn.route, turn.settings, turn.messages, link["store"], held=link["id"]
            )
            while len(_recent) > _MAX_RECENT:
                _recent.popitem(last=False)


def forget_recent(messages: Sequence[BaseMessage]) -> None:
    """Lets go of a conversation that has ended."""
    response_id = _response_id(messages)
    if response_id is not None:
        with _lock:
            _recent.pop(response_id, None)


def _answer_of(messages: Sequence[BaseMessage]) -> AIMessage | None:
    return next((message for message in reversed(messages) if isinstance(message, AIMessage)), None)


def _response_id(messages: Sequence[BaseMessage]) -> str | None:
    answer = _answer_of(messages)
    link = answer.response_metadata.get(LINK_KEY) if answer is not None else None
    response_id = link.get("id") if isinstance(link, dict) else None
    return response_id if isinstance(response_id, str) else None


class KeepReady:
    """Context manager: keeps the conversation that ends in `messages` within reach.

    Does nothing where the newest answer did not come over a socket of this process. Never blocks and never raises.

    Args:
        messages: The conversation, or its end; the newest assistant message carries the link.
    """

    def __init__(self, messages: Sequence[BaseMessage]) -> None:
        self._answer = _answer_of(messages)
        self._id = _response_id(messages)
        self._keeper: _Keeper | None = None

    def __enter__(self) -> KeepReady:
        if self._answer is None or self._id is None:
            return self
        try:
            with _lock:
                keeper = self._keeper = _keepers.get(self._id)
                if keeper is None and (recent := _recent.get(self._id)) is not None:
                    keeper = self._keeper = _keepers[self._id] = _Keeper(self._id, recent, self._answer)
                if keeper is None:
                    return self
                first = not keeper.users
                keeper.users.add(self)
            if first:
                keeper.start()
            return self
        except BaseException:  # Ctrl-C: nobody leaves what was not entered
            self.__exit__()
            raise

    def __exit__(self, *exc_info: object) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        with _lock:
            keeper.users.discard(self)
            last = not keeper.users
            if last and _keepers.get(keeper.response_id) is keeper:
                del _keepers[keeper.response_id]
        if last:
            keeper.stop()


class _Keeper:
    """Watches one conversation for everybody who runs tools of its last answer."""

    def __init__(self, response_id: str, recent: _Recent, answer: AIMessage) -> None:
        from .._transport.watch import Watch

        self.response_id = response_id
        self.users: set[KeepReady] = set()
        self._recent = recent
        self._answer = answer
        self._watch: Watch = Watch(recent.held, self._lost)
        self._priming = False
        self._losses = 0

    def start(self) -> None:
        route = self._recent.route
        if route.manager is None or route.endpoint is None or route.manager.closed:
            return
        try:
            route.manager.watch(route.endpoint, self._watch)
        except Exception as exc:  # the process is going away
            logger.debug("watching a conversation failed: %s", type(exc).__name__)

    def stop(self) -> None:
        route = self._recent.route
        if route.manager is None or route.endpoint is None:
            return
        try:
            route.manager.unwatch(route.endpoint, self._watch)
        except Exception as exc:  # as above
            logger.debug("ending a watch failed: %s", type(exc).__name__)

    def _lost(self) -> None:
        """Called on the I/O thread: the connection is gone, or about to be."""
        route, recent = self._recent.route, self._recent
        manager, endpoint = route.manager, route.endpoint
        if manager is None or endpoint is None or manager.closed:
            return
        self._losses += 1
        # The next loss is news again: the new connection may die as well.
        self._watch.told = self._losses >= _MAX_LOSSES
        try:
            manager.preconnect(endpoint)
            if recent.stored or self._priming or recent.primes >= _MAX_PRIMES or not route.keeps_warm_up:
                return
            recent.primes += 1
            self._priming = True
            # Converting a long history takes a while: not on the I/O thread.
            threading.Thread(target=self._prime, name="ws-responses prime", daemon=True).start()
        except Exception as exc:  # being ready is a favour, never an error of the agent
            self._priming = False
            logger.debug("keeping the connection ready failed: %s", type(exc).__name__)

    def _prime(self) -> None:
        try:
            held = self._read_in()
        except Exception as exc:  # as above
            held = None
            logger.debug("reading a conversation in anew failed: %s", type(exc).__name__)
        self._priming = False
        if held is None:
            return
        self._recent.held = self._watch.response_id = held
        # The connection may have been lost again meanwhile; and nobody must be left watching.
        self.start()
        if not self.users:
            self.stop()

    def _read_in(self) -> str | None:
        """Lets the server read the conversation in anew; returns the response that stands for it."""
        recent = self._recent
        # With the pending calls first, so that only their outputs remain to be sent; without them where the server
        # does not take calls that nobody has answered yet.
        for messages in ([*recent.messages, self._answer], recent.messages):
            if not self.users:
                return None
            turn = _warm_turn(recent.route, messages, dict(recent.settings))
            if turn is None:
                return None
            try:
                _run(turn)
            except ServerEventError as exc:
                logger.debug("a warm-up was refused: %s", exc.code)
                continue
            return turn.primed_id
        return None


def _warm_turn(route: Route, messages: Sequence[BaseMessage], settings: dict[str, Any]) -> Turn | None:
    """Makes a warm-up, or None where it would not be kept or could not be sent."""
    if not route.keeps_warm_up or route.chain == "off" or "input" in settings:
        return None
    settings.pop("text_format", None)
    turn = Turn(route, messages, settings, wants_events=False, warm_up=True)
    return turn if turn.kind == "websocket" else None


def _run(turn: Turn) -> None:
    from .._transport.mailbox import SyncMailbox

    mailbox = SyncMailbox()
    try:
        turn.start(mailbox)
        while turn.kind == "websocket" and not turn.done:
            turn.take(mailbox.get())
    finally:
        turn.abandon()


def warm_up(route: Route, messages: Sequence[BaseMessage], settings: dict[str, Any]) -> bool:
    """Sends a warm-up and waits for it.

    Args:
        route: Where it goes.
        messages: What the server shall have read.
        settings: The request without `input`.

    Returns:
        Whether a later turn can continue from it.
    """
    try:
        turn = _warm_turn(route, messages, settings)
        if turn is None:
            return False
        if route.is_primed(turn.history, turn.model, settings.get("tools")):
            return True
        _run(turn)
    except WebSocketResponsesError as exc:
        logger.debug("the warm-up failed: %s", type(exc).__name__)
        return False
    return turn.primed_id is not None


async def awarm_up(route: Route, messages: Sequence[BaseMessage], settings: dict[str, Any]) -> bool:
    """Like `warm_up`, for async callers."""
    from .._transport.mailbox import AsyncMailbox

    turn: Turn | None = None
    try:
        turn = _warm_turn(route, messages, settings)
        if turn is None:
            return False
        if route.is_primed(turn.history, turn.model, settings.get("tools")):
            return True
        mailbox = AsyncMailbox()
        turn.start(mailbox)
        while turn.kind == "websocket" and not turn.done:
            turn.take(await mailbox.get())
    except WebSocketResponsesError as exc:
        logger.debug("the warm-up failed: %s", type(exc).__name__)
        return False
    finally:
        if turn is not None:
            turn.abandon()
    return turn.primed_id is not None
