"""Keeping a conversation within reach while nobody talks to the model.

A warm-up lets the server read tools and messages before they are needed. A keeper watches the connection while tools
run: if it is lost, a new one is dialed, and where the lost one held the only copy of the conversation
(`store=False`), the history is read in again, all off the critical path.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage

from ..errors import WebSocketResponsesError
from .links import LINK_KEY
from .route import Route
from .turn import Turn

if TYPE_CHECKING:
    from .._transport.watch import Watch

__all__ = ["KeepReady", "awarm_up", "forget_recent", "remember", "warm_up"]

logger = logging.getLogger("langchain_ws_responses")

_MAX_RECENT = 128
_MAX_PRIMES = 4


@dataclass(frozen=True)
class _Recent:
    """What the last answer of a conversation was made from."""

    route: Route
    settings: dict[str, Any]
    messages: Sequence[BaseMessage]
    stored: bool


_lock = threading.Lock()
_recent: OrderedDict[str, _Recent] = OrderedDict()
_keepers: dict[str, _Keeper] = {}


def remember(turn: Turn) -> None:
    """Notes a turn whose answer asks for tools, so that its conversation can be kept ready while they run.

    Args:
        turn: A turn that has ended.
    """
    link = turn.link
    if link is None or turn.kind != "websocket" or turn.warm_up:
        return
    with _lock:
        _recent.pop(turn.plan.previous_response_id or "", None)
        if turn.asks:
            _recent[link["id"]] = _Recent(turn.route, turn.settings, turn.messages, link["store"])
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
        with _lock:
            keeper = _keepers.get(self._id)
            if keeper is None and (recent := _recent.get(self._id)) is not None:
                keeper = _keepers[self._id] = _Keeper(self._id, recent, self._answer)
            if keeper is None:
                return self
            keeper.users += 1
            self._keeper = keeper
            first = keeper.users == 1
        if first:
            keeper.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        keeper, self._keeper = self._keeper, None
        if keeper is None:
            return
        with _lock:
            keeper.users -= 1
            last = keeper.users == 0
            if last:
                _keepers.pop(keeper.response_id, None)
        if last:
            keeper.stop()


class _Keeper:
    """Watches one conversation for everybody who runs tools of its last answer."""

    def __init__(self, response_id: str, recent: _Recent, answer: AIMessage) -> None:
        self.response_id = response_id
        self.users = 0
        self._recent = recent
        self._answer = answer
        self._primes = 0
        self._watch: Watch | None = None

    def start(self) -> None:
        from .._transport.watch import Watch

        route = self._recent.route
        if route.manager is None or route.endpoint is None or route.manager.closed:
            return
        self._watch = Watch(self.response_id, self._lost)
        route.manager.watch(route.endpoint, self._watch)

    def stop(self) -> None:
        route, watch = self._recent.route, self._watch
        if route.manager is not None and route.endpoint is not None and watch is not None:
            route.manager.unwatch(route.endpoint, watch)

    def _lost(self) -> None:
        """Called on the I/O thread: the connection is gone, or about to be."""
        route = self._recent.route
        manager, endpoint = route.manager, route.endpoint
        if manager is None or endpoint is None or manager.closed or self._primes >= _MAX_PRIMES:
            return
        self._primes += 1
        try:
            manager.preconnect(endpoint)
            if not self._recent.stored and route.keeps_warm_up:
                # Converting a long history takes a while: not on the I/O thread.
                threading.Thread(target=self._prime, name="ws-responses prime", daemon=True).start()
        except Exception as exc:  # being ready is a favour, never an error of the agent
            logger.debug("keeping the connection ready failed: %s", type(exc).__name__)

    def _prime(self) -> None:
        recent = self._recent
        # With the pending calls first, so that only their outputs remain to be sent; without them where the server
        # does not take calls that nobody has answered yet.
        for messages in ([*recent.messages, self._answer], recent.messages):
            turn = _warm_turn(recent.route, messages, dict(recent.settings))
            if turn is None or not self.users:
                return
            try:
                _run(turn)
            except WebSocketResponsesError as exc:
                logger.debug("priming failed: %s", type(exc).__name__)
                continue
            except Exception:
                logger.debug("priming failed", exc_info=True)
                return
            if turn.primed_id is not None and self._watch is not None:
                self._watch.renew(turn.primed_id)
            return


def _warm_turn(route: Route, messages: Sequence[BaseMessage], settings: dict[str, Any]) -> Turn | None:
    """Makes a warm-up, or None where it would not be kept or could not be sent."""
    if not route.keeps_warm_up or route.chain == "off":
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
