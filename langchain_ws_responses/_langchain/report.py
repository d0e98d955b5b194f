"""What is told of a turn from the caller's side: to the manager's hooks, and to observers in the caller's context.

Hooks hear of attempts, on the I/O thread. Observers see whole turns, in the thread and the context of whoever calls the
model: that is where a span must begin to have the right parent.
"""

from __future__ import annotations

import logging
import random
import sys
import time
from typing import TYPE_CHECKING, Any, Protocol

import openai

from .._types import Failure, FailureKind, Phase, Reason

if TYPE_CHECKING:
    from .._protocol.recovery import Decision
    from .._transport.tell import Note
    from .turn import Turn

logger = logging.getLogger("langchain_ws_responses")

__all__ = ["Observer", "Report", "add_observer", "node_name", "observed", "remove_observer", "report_of"]


def node_name() -> str:
    """The LangGraph node that the model is called from: a label, never a precondition."""
    if "langgraph" not in sys.modules:
        return ""
    from langchain_core.runnables.config import var_child_runnable_config

    config = var_child_runnable_config.get()
    node = (config or {}).get("metadata", {}).get("langgraph_node", "")
    return node if isinstance(node, str) else ""


class Report:
    """Tells nobody of a turn: no hook listens."""

    def note(self, items: int) -> Note | None:
        """An attempt over the socket begins."""
        return None

    def retrying(self, failure: Failure, decision: Decision, wait: float = 0.0) -> None:
        """An attempt over the socket failed, and another one follows."""

    def http_begins(self) -> None:
        """A request is about to go out."""

    def http_event(self) -> None:
        """An event of the answer has come."""

    def http_sent(self, size: int) -> None:
        """The answer has begun: the request's size is known now."""

    def http_refused(self, reason: Reason, kind: FailureKind) -> None:
        """The answer cannot be used, and the full input follows."""

    def ended(self, error: BaseException | None) -> None:
        """The caller's call is over."""


_NOBODY = Report()


def report_of(turn: Turn) -> Report:
    """Returns what tells of a turn."""
    manager = turn.route.manager
    return _ToHooks(turn) if manager is not None and manager.hooks else _NOBODY


class _ToHooks(Report):
    """Tells the hooks of a turn's manager what only the caller's side knows.

    Args:
        turn: The turn.
    """

    def __init__(self, turn: Turn) -> None:
        # Nobody who does not look at them waits for the classes of all events at import.
        from .._transport import hooks, tell

        self._hooks, self._note = hooks, tell.Note
        self._turn = turn
        self.label = f"{random.getrandbits(48):012x}"
        self._node = node_name()
        self._attempt = 0
        self._http: _OverHttp | None = None

    def note(self, items: int) -> Note:
        self._attempt += 1
        return self._note(
            turn=self.label, attempt=self._attempt, items=items, model=self._turn.model, node=self._node
        )

    def retrying(self, failure: Failure, decision: Decision, wait: float = 0.0) -> None:
        reason = decision.reason or (Reason.CONNECTION_LOST if decision.action.value == "full" else "")
        self._tell(
            self._hooks.TurnRetrying,
            connection=failure.connection,
            action=decision.action.value,
            reason=str(reason),
            failure=failure.kind,
            wait=wait,
        )

    # -- over HTTP ----------------------------------------

    def http_begins(self) -> None:
        self._attempt += 1
        self._http = _OverHttp()

    def http_event(self) -> None:
        if self._http is not None:
            self._http.heard()

    def http_sent(self, size: int) -> None:
        http, plan = self._http, self._turn.plan
        if http is None or http.told:
            return
        http.told = True
        self._tell(
            self._hooks.TurnSent,
            at=http.at,
            kind="http",
            mode=plan.mode.value,
            reason=plan.reason.value,
            items=self._turn.items,
            bytes=size,
            model=self._turn.model,
            node=self._node,
        )

    def http_refused(self, reason: Reason, kind: FailureKind) -> None:
        self._http_ends(kind, None, Phase.SENT)
        self._tell(self._hooks.TurnRetrying, action="full", reason=reason.value, failure=kind)

    def ended(self, error: BaseException | None) -> None:
        if error is None:
            self._http_ends(None, None, Phase.TERMINAL)
        elif isinstance(error, openai.APIError):
            self._http_ends(_kind_of(error), getattr(error, "status_code", None), Phase.SENT)
        else:  # the caller is gone, or could not read the answer
            self._http_ends(None, None, Phase.SENT)

    def _http_ends(self, kind: FailureKind | None, status: int | None, phase: Phase) -> None:
        http = self._http
        if http is None:
            return
        self.http_sent(0)
        self._http = None
        self._tell(
            self._hooks.TurnEnded,
            kind="http",
            events=http.events,
            seconds=time.monotonic() - http.began,
            first_event=http.first - http.began if http.events else None,
            longest_gap=http.gap,
            failure=kind,
            status=status,
            phase=phase,
        )

    def _tell(self, cls: Any, **fields: Any) -> None:
        route = self._turn.route
        if route.manager is not None:
            endpoint = route.endpoint.label if route.endpoint is not None else ""
            route.manager.tell(cls, endpoint=endpoint, turn=self.label, attempt=self._attempt, **fields)


class _OverHttp:
    """The clocks of one request."""

    def __init__(self) -> None:
        self.at, self.began = time.time(), time.monotonic()
        self.told = False
        self.events = 0
        self.first = self.last = self.gap = 0.0

    def heard(self) -> None:
        now = time.monotonic()
        self.events += 1
        if self.events == 1:
            self.first = now
        else:
            self.gap = max(self.gap, now - self.last)
        self.last = now


def _kind_of(error: openai.APIError) -> FailureKind:
    if isinstance(error, openai.APITimeoutError):
        return FailureKind.FIRST_EVENT_TIMEOUT
    if isinstance(error, openai.APIConnectionError):
        return FailureKind.CONNECTION_LOST
    return FailureKind.SERVER_ERROR


# -- observers ----------------------------------------


class Observer(Protocol):
    """Sees whole turns, in the caller's thread and context."""

    def begin(self, turn: Turn) -> Any:
        """A turn begins; what is returned comes back at its end."""
        ...

    def end(self, token: Any, turn: Turn, error: BaseException | None) -> None:
        """The turn has ended well, or with an error, or the caller has gone (`GeneratorExit`, a cancellation)."""
        ...


_observers: tuple[Observer, ...] = ()


def add_observer(observer: Observer) -> None:
    """Lets an observer see every turn of the process from now on."""
    global _observers  # noqa: PLW0603 - replaced as a whole, so that readers need no lock
    _observers = (*_observers, observer)


def remove_observer(observer: Observer) -> None:
    """Ends that."""
    global _observers  # noqa: PLW0603 - as above
    _observers = tuple(one for one in _observers if one is not observer)


def _tell_tracers(run_manager: Any, transport: dict[str, Any]) -> None:
    """Puts how a turn was sent into the metadata of its run, before the run ends.

    LangChain fixes a run's metadata when it starts, and how a turn is sent is known later. Its own tracer adds token
    counts in this way at the end.
    """
    told = {
        "transport": transport["kind"],
        **{name: transport[name] for name in ("mode", "reason", "lane", "reused")},
    }
    for handler in run_manager.handlers:
        runs = getattr(handler, "run_map", None)
        run = runs.get(str(run_manager.run_id)) if isinstance(runs, dict) else None
        extra = getattr(run, "extra", None)
        if isinstance(extra, dict):
            # A new dict: runs of one batch share theirs. What the user has set wins.
            extra["metadata"] = {**told, **(extra.get("metadata") or {})}


class observed:
    """Context manager around the whole of a turn, in the caller's context.

    Args:
        turn: The turn.
        last: Holds how the model's last turn was sent; gets this one's when it has ended.
        run_manager: Knows the tracers of the run.
    """

    __slots__ = ("_last", "_run_manager", "_tokens", "_turn")

    def __init__(self, turn: Turn, last: dict[str, Any], run_manager: Any = None) -> None:
        self._turn = turn
        self._last = last
        self._run_manager = run_manager
        self._tokens: list[tuple[Observer, Any]] = []

    def __enter__(self) -> None:
        if _observers:
            self._tokens = [(observer, observer.begin(self._turn)) for observer in _observers]

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        turn = self._turn
        transport = turn.transport()
        self._last["turn"] = (transport, type(error).__name__ if error is not None else "")
        if self._run_manager is not None:
            _tell_tracers(self._run_manager, transport)
        turn.report.ended(error)
        for observer, token in self._tokens:
            try:
                observer.end(token, turn, error)
            except Exception as exc:  # who looks on must not break a turn
                logger.error("an observer failed: %s", type(exc).__name__)
