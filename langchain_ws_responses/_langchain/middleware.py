"""`WebSocketMiddleware`: for `create_agent` and deepagents, what `DeltaToolNode` is for graphs built by hand."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from langchain_core.messages import SystemMessage

from .chat_models import ChatOpenAIWebSocket
from .ready import KeepReady, enable, forget_recent
from .route import asked_within
from .tools import messages_in

try:
    from langchain.agents.middleware import AgentMiddleware
except ModuleNotFoundError as exc:  # pragma: no cover - `langchain` is in the test extra
    raise ModuleNotFoundError(
        "WebSocketMiddleware needs the package langchain: pip install 'langchain>=1.2.11'", name=exc.name
    ) from exc

if TYPE_CHECKING:
    from .route import Route

__all__ = ["WebSocketMiddleware"]

logger = logging.getLogger("langchain_ws_responses")


@dataclass(frozen=True)
class _Learned:
    """What the newest call under one key was made with; `steady` if its prompt was that of the call before."""

    tools: list[Any]
    system: SystemMessage | None
    settings: dict[str, Any]
    steady: bool


class WebSocketMiddleware(AgentMiddleware[Any, Any, Any]):
    """Keeps the connection of an agent's `ChatOpenAIWebSocket` ready.

    Before the agent runs, the connection is opened and, where the server is known to keep warm-ups, tools and system
    prompt are read in ahead of the first turn: those that were last sent under the same key, unless the prompt has just
    changed. While tools run, a lost connection is dialed anew and the history read in again. Nothing of this is waited
    for but a key callable, which is asked before the agent runs too, and nothing of it can fail the agent. With any
    other model it does nothing.

    Args:
        model: The agent's model, so that the very first run can be prepared too; learned from the first call otherwise.
        warm_up: Whether to read in tools and system prompt before the first turn.

    Example:
        ```python
        agent = create_agent(model, tools, middleware=[WebSocketMiddleware(model)])
        ```
    """

    def __init__(self, model: ChatOpenAIWebSocket | None = None, *, warm_up: bool = True) -> None:
        super().__init__()
        if model is not None and not isinstance(model, ChatOpenAIWebSocket):
            raise TypeError(
                f"WebSocketMiddleware takes a ChatOpenAIWebSocket, not {type(model).__name__}: "
                "make one with with_websocket(model), and give it to the agent too."
            )
        self.tools = []
        self._model = model
        enable()
        self._warm_up = warm_up
        # By route: what was said under one tenant's key is nothing to another's.
        self._learned: WeakKeyDictionary[Route, _Learned] = WeakKeyDictionary()

    # -- before and after ------------------------------------------

    def before_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Opens the connection and reads in tools and system prompt, in the background."""
        try:
            if (model := self._model) is not None:
                self._get_ready(model, model._asked_route(), state)
        except Exception as exc:  # the first turn will tell it better
            logger.debug("getting ready for an agent failed: %s", type(exc).__name__)
        return None

    async def abefore_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Like `before_agent`."""
        try:
            if (model := self._model) is not None:
                self._get_ready(model, await model._current_route().asked_async(), state)
        except Exception as exc:  # as above
            logger.debug("getting ready for an agent failed: %s", type(exc).__name__)
        return None

    def _get_ready(self, model: ChatOpenAIWebSocket, route: Route, state: Any) -> None:
        route.preconnect()
        fresh = not any(message.type == "ai" for message in messages_in(state))
        learned = self._learned.get(route)
        if self._warm_up and learned is not None and learned.steady and fresh and route.keeps_warm_up:
            args = (model, route, learned)
            threading.Thread(
                target=self._read_ahead, args=args, name="ws-responses warm-up", daemon=True
            ).start()

    @staticmethod
    def _read_ahead(model: ChatOpenAIWebSocket, route: Route, learned: _Learned) -> None:
        system = [learned.system] if learned.system is not None else []
        try:
            model._warm_up(route, system, learned.tools or None, learned.settings)
        except Exception as exc:  # as above
            logger.debug("the warm-up failed: %s", type(exc).__name__)

    def after_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Lets go of what was kept for this run."""
        forget_recent(messages_in(state))
        return None

    async def aafter_agent(self, state: Any, runtime: Any) -> dict[str, Any] | None:
        """Like `after_agent`."""
        return self.after_agent(state, runtime)

    # -- around calls ----------------------------------------------

    def _learn(self, request: Any, asked: list[Route]) -> None:
        try:
            if isinstance(request.model, ChatOpenAIWebSocket):
                self._learn_of(request.model, request, asked)
        except Exception as exc:  # the answer is there
            logger.debug("learning from a call failed: %s", type(exc).__name__)

    def _learn_of(self, model: ChatOpenAIWebSocket, request: Any, asked: list[Route]) -> None:
        self._model = model
        route = model._current_route()
        # The call's own route: whose key it went under, only the call knew.
        routes = {route} if route.ask is None else {used for used in asked if used.is_of(route)}
        if len(routes) != 1:
            return
        (route,) = routes
        system = getattr(request, "system_message", None)
        if system is None and (prompt := getattr(request, "system_prompt", None)):
            system = SystemMessage(prompt)  # langchain 1.0 has the text only
        before = self._learned.get(route)
        steady = before is None or before.system == system
        self._learned[route] = _Learned(list(request.tools), system, dict(request.model_settings), steady)

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Learns which model, tools and prompt the agent uses."""
        with asked_within() as asked:
            answer = handler(request)
        self._learn(request, asked)
        return answer

    async def awrap_model_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Like `wrap_model_call`."""
        with asked_within() as asked:
            answer = await handler(request)
        self._learn(request, asked)
        return answer

    def wrap_tool_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """Keeps the connection ready while a tool runs."""
        with KeepReady(messages_in(request.state)):
            return handler(request)

    async def awrap_tool_call(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> Any:
        """Like `wrap_tool_call`."""
        with KeepReady(messages_in(request.state)):
            return await handler(request)
