"""One turn, from the plan to the metadata of its answer, with its recoveries.

The same code serves sync and async callers: they differ only in how they wait for the mailbox.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessage, BaseMessage

from .. import _json
from .._protocol.chain import History, Plan, digest, plan
from .._protocol.events import EventKind, Frame, FrameError
from .._protocol.recovery import Action, Progress, decide
from .._types import Failure, FailureKind, Phase, Reason, Replay, SendMode
from ..errors import ConfigurationError, WebSocketResponsesError, error_from
from .compaction import compacted
from .conversion import merged
from .index import INDEX, with_known_links
from .links import LINK_KEY, TRANSPORT_KEY
from .meaning import meaning_of_output
from .messages import history_of, instructions_of, items_of, repeats
from .report import node_name, report_of
from .route import Route, clocks_of
from .settings import gives_input, has_side_effects, over_socket, settled

if TYPE_CHECKING:
    from .._transport.mailbox import Mailbox
    from .._transport.ticket import Ticket

__all__ = ["Turn"]

# Output that nothing but its outputs can follow.
_CALLS = frozenset({"function_call", "custom_tool_call", "computer_call", "apply_patch_call"})


class Turn:
    """One create to its terminal event.

    Args:
        route: Where it goes.
        messages: What the model must see.
        settings: The request as `ChatOpenAI` builds it; `input` only where it is not what the messages say.
        wants_events: Whether the caller looks at more than the terminal event.
        warm_up: Nothing is generated: the server reads what a later turn will continue from.
    """

    def __init__(
        self,
        route: Route,
        messages: Sequence[BaseMessage],
        settings: Mapping[str, Any],
        *,
        wants_events: bool,
        warm_up: bool = False,
    ) -> None:
        self.route = route
        self.messages = messages
        self.settings = settings = settled(settings)
        self.wants_events = wants_events
        self.warm_up = warm_up
        self.model = str(settings.get("model") or "")
        self.store: bool | None = settings.get("store")
        self.kind = "http"
        self.done = False
        self.ticket: Ticket | None = None
        self._mailbox: Mailbox | None = None
        self._history: History | None = None
        self.left_over: list[Frame | Failure] = []
        self._held: list[Frame] = []
        self._clocks = clocks_of(settings["timeout"]) if "timeout" in settings else route.clocks
        self._delivered = 0
        self._attempts = 0
        self._asked = False
        self._began = time.monotonic()
        self._resends = 0
        self._ambiguous_resends = 0
        self._redials = 0
        self.items = 0
        self._bytes = 0
        self.answer: BaseMessage | None = None
        self.report = report_of(self)
        self.link: dict[str, Any] | None = None
        self.primed_id: str | None = None
        self.asks = False
        self._as_given = gives_input(settings)
        self._origin = INDEX.here()
        self.plan = self._first_plan()
        if self.uses_socket():
            self.kind = "websocket"
        else:
            self._go_to_http()

    # -- the plan ----------------------------------------

    @property
    def history(self) -> History:
        """The messages as the plan sees them."""
        if self._history is None:
            self._history = history_of(self.messages)
        return self._history

    @property
    def _system_mode(self) -> str:
        # The caller's own `instructions` are not touched: system messages then stay in the input.
        return "input" if self.settings.get("instructions") is not None else self.route.system_mode

    def _first_plan(self) -> Plan:
        if self._as_given:
            return Plan(SendMode.FULL, Reason.CALLER)
        if self.route.chain == "off":
            return Plan(SendMode.FULL, Reason.CHAIN_OFF, instructions=self._instructs())
        if not self.route.continues:
            return Plan(SendMode.FULL, Reason.IGNORED, instructions=self._instructs())
        history, key = self.route.with_primed(self.history, self.model), self.route.key(self.model)
        given: dict[str, Any] = {"key": key, "model": self.model, "alive": self.route.alive}
        planned = plan(history, system_mode=self._system_mode, **given)
        if self._origin is not None:
            # A state that keeps only text has no links; a `ChainSaver` remembers them.
            after = planned.start - 1
            known = with_known_links(history, self._origin, key, self.route.alive, after=after)
            if known is not None:
                planned = plan(known, system_mode=self._system_mode, **given)
        if planned.mode is SendMode.DELTA and repeats(self.messages, planned.start):
            # The service refuses an item that the chain has already.
            return Plan(SendMode.FULL, Reason.HISTORY_CHANGED, instructions=planned.instructions)
        return planned

    def _instructs(self) -> bool:
        return self._system_mode == "instructions" and self.history.text_head

    def _full_plan(self, reason: Reason) -> Plan:
        return Plan(SendMode.FULL, reason, instructions=self.plan.instructions)

    def uses_socket(self) -> bool:
        """Decides between socket and HTTP."""
        if self.settings.get("background"):
            if self.route.transport == "websocket":
                raise ConfigurationError(
                    '`background=True` has no meaning in the WebSocket mode. Use `transport="auto"` or `"http"`.'
                )
            return False
        agent = (
            self.warm_up
            or bool(self.settings.get("tools"))
            or any(isinstance(message, AIMessage) for message in self.messages)
        )
        return self.route.uses_socket(agent=agent)

    # -- the request ----------------------------------------

    def _request(self) -> dict[str, Any]:
        """The request as data: settings, what is continued, and the items to send."""
        if self._asked:
            self._look_again()
        self._asked = True
        request = {name: value for name, value in self.settings.items() if name != "text_format"}
        if self.plan.instructions and self.history.head:
            request["instructions"] = instructions_of(self.messages)
        if self.plan.previous_response_id is not None:
            request["previous_response_id"] = self.plan.previous_response_id
        if self.warm_up:
            request["generate"] = False
        if "input" not in request:
            request["input"] = self._input()
        given = request["input"]
        self.items = len(given) if isinstance(given, list) else int(isinstance(given, str))
        return request

    def _look_again(self) -> None:
        """What is sent again is what the messages say by now: the link must say the same, and a delta be one still."""
        before, self._history = self._history, None
        if before is None or self.plan.mode is not SendMode.DELTA:
            return
        if self.history.digests[: self.plan.start] != before.digests[: self.plan.start]:
            self.plan = self._full_plan(Reason.HISTORY_CHANGED)

    def _input(self) -> list[dict[str, Any]]:
        start = max(self.plan.start, self.history.head if self.plan.instructions else 0)
        messages = self.messages[start:]
        parts: list[tuple[BaseMessage, list[dict[str, Any]]]] = []
        beginning = None
        if self.plan.mode is SendMode.FULL and not self._as_given and self.route.chain != "off":
            beginning = compacted(self)
        if beginning is not None:
            position, cut = beginning
            newest = self.messages[position]
            parts = [
                (each, items_of(each, store=self.store)) for each in self.messages[start : self.history.head]
            ]
            parts.append((newest, items_of(newest, store=self.store)[cut:]))
            messages = self.messages[position + 1 :]
        parts += [(message, items_of(message, store=self.store)) for message in messages]
        return merged(parts)

    def body(self) -> bytes:
        """The request as it goes into the socket, without `type` and `stream_id`."""
        return _json.dumps(over_socket(self._request(), self.settings.get("text_format")))

    def http_request(self) -> dict[str, Any]:
        """The request as keyword arguments of `responses.create` or `responses.parse`."""
        request = self._request()
        self.report.http_begins()
        if (text_format := self.settings.get("text_format")) is not None:
            request["text_format"] = text_format
        return request

    # -- over the socket ----------------------------------------

    def start(self, mailbox: Mailbox) -> None:
        """Sends the turn; its events arrive in `mailbox`.

        Raises:
            WebSocketResponsesError: It could not even be queued.
        """
        self._mailbox = mailbox
        self._submit(0.0)

    def _submit(self, delay: float) -> None:
        from .._transport.ticket import Ticket

        route = self.route
        manager, endpoint, mailbox = route.manager, route.endpoint, self._mailbox
        # `uses_socket` says no without them.
        assert manager is not None  # noqa: S101
        assert endpoint is not None  # noqa: S101
        assert mailbox is not None  # noqa: S101
        self._attempts += 1
        self._held.clear()
        body = self.body()
        parent, stored = self._continued()
        self.ticket = Ticket(
            endpoint,
            body,
            mailbox,
            parent=parent,
            stored=stored,
            keeps=self.store is not False,
            wants_events=self.wants_events,
            first_event_timeout=self._clocks.first_event,
            between_events_timeout=self._clocks.between_events,
            max_dials=route.max_dials,
            delay=delay,
            mode=SendMode.WARMUP.value if self.warm_up else self.plan.mode.value,
            reason=Reason.WARM_UP.value if self.warm_up else self.plan.reason.value,
            note=self.report.note(self.items),
        )
        manager.submit(self.ticket)

    def _continued(self) -> tuple[str | None, bool]:
        """The response that the request continues, and whether any connection could load it."""
        given = self.settings.get("previous_response_id")
        # The caller's own: whether it can be continued is for the server to say. Only where it is known to live in the
        # memory of a connection must the turn go there.
        if (
            self.store is False
            and self._attempts == 1
            and isinstance(given, str)
            and self.route.alive(given, False)
        ):
            return given, False
        return self.plan.previous_response_id, self.plan.stored

    def take(self, items: Sequence[Frame | Failure]) -> list[Frame]:
        """Takes what the mailbox held.

        Args:
            items: Frames and at most one failure; or what `left_over` holds, which comes before the mailbox.

        Returns:
            The frames to hand to the caller, in order. Frames that carry no output are kept back until output
            follows: until then the turn can be sent again unseen. After `done` nothing more comes; if `kind` has
            become `http`, the turn goes on there.

        Raises:
            WebSocketResponsesError: The turn failed for good.
        """
        frames: list[Frame] = []
        self.left_over = []
        for item in items:
            if isinstance(item, Failure):
                if frames:
                    # What came before the failure is the caller's, however late the caller looked.
                    self.left_over = [item]
                    break
                self._recover(item)
                return frames
            self._held.append(item)
            if not (self._delivered or frames or item.kind is EventKind.OUTPUT or item.kind.is_terminal):
                continue
            frames += self._held
            self._held.clear()
            if item.kind.is_terminal:
                self._finish_frame(item)
        self._delivered += len(frames)
        return frames

    def _recover(self, failure: Failure) -> None:
        progress = Progress(
            delivered=self._delivered,
            attempts=self._attempts - self._redials,
            resends=self._ambiguous_resends,
            redials=self._redials,
            is_delta=self.plan.mode is SendMode.DELTA,
            side_effects=has_side_effects(self.settings),
            on_ambiguous=self.route.on_ambiguous,
            may_use_http=self.route.transport == "auto" and not self.warm_up,
            max_attempts=self.route.max_attempts,
        )
        decision = decide(failure, progress)
        if decision.action is Action.RAISE:
            self.done = True
            raise error_from(failure, replay=decision.replay)
        self._resends += failure.phase is not Phase.CONNECT
        self._ambiguous_resends += decision.replay is Replay.AMBIGUOUS
        self._redials += decision.free
        if decision.action is Action.HTTP:
            self.report.retrying(failure, decision)
            self.kind = "http"
            self._go_to_http()
            return
        if decision.reason is Reason.IGNORED:
            self.route.ignored += 1
        if decision.action is Action.FULL:
            self.plan = self._full_plan(decision.reason or Reason.CONNECTION_LOST)
        delay = self._pause(failure) if decision.back_off else 0.0
        if delay is None:
            self.done = True
            raise error_from(failure, replay=decision.replay)
        if failure.phase is not Phase.CONNECT and self.route.manager is not None:
            self.route.manager.counters.resends += 1
        self.report.retrying(failure, decision, delay)
        self._submit(delay)

    def _pause(self, failure: Failure) -> float | None:
        """Seconds to wait before the next attempt; None if that is longer than the policy lets a turn take."""
        from .._transport.retry import back_off

        policy = self.route.retry
        delay = back_off(policy, self._attempts, failure.retry_after)
        late = time.monotonic() - self._began + delay
        return None if policy.max_elapsed is not None and late > policy.max_elapsed else delay

    def _go_to_http(self) -> None:
        """A response that only a socket's memory held cannot be continued over HTTP."""
        if self.plan.mode is SendMode.DELTA and not self.plan.stored:
            self.plan = self._full_plan(Reason.NOT_ALIVE)

    def _finish_frame(self, frame: Frame) -> None:
        self.done = True
        try:
            response = frame.response
        except FrameError:
            return
        if frame.kind is not EventKind.FAILED:
            self.finish(
                response.get("id"), response.get("output") or (), stored=response.get("store") is not False
            )

    def violation(self, error: FrameError) -> WebSocketResponsesError:
        """Makes the error for a frame that turned out to be broken only when it was read."""
        failure = Failure(
            FailureKind.PROTOCOL_VIOLATION,
            phase=Phase.STREAMING,
            message=f"{error}.",
            events_seen=self._delivered,
        )
        return error_from(failure, replay=Replay.UNSAFE if self._delivered > 1 else Replay.AMBIGUOUS)

    def abandon(self) -> None:
        """The caller is gone."""
        if not self.done and self.ticket is not None and self.route.manager is not None:
            self.done = True
            self.route.manager.abandon(self.ticket)

    # -- over HTTP ----------------------------------------

    @property
    def may_repeat(self) -> bool:
        """Whether the HTTP client may try again by itself: it does so on unknown outcomes too."""
        free = self.route.on_ambiguous == "resend" and not self._ambiguous_resends
        as_http = self.route.transport == "http" or bool(self.settings.get("background"))
        return as_http or (free and not has_side_effects(self.settings))

    def sent_over_http(self, size: int) -> None:
        """Notes that a request went out."""
        self._bytes = size
        self._attempts += 1
        self.report.http_sent(size)
        if self.route.manager is not None:
            self.route.manager.counters.http += 1
            self.route.manager.counters.count(self.plan.mode.value, self.plan.reason.value)

    def resends_after(self, code: str | None) -> bool:
        """After an HTTP error: whether to send the full input now."""
        if code != "previous_response_not_found" or self.plan.mode is not SendMode.DELTA:
            return False
        self._full_over_http(Reason.NOT_FOUND, FailureKind.SERVER_ERROR)
        return True

    def was_ignored(self, named: Any) -> bool:
        """Whether the server answered without the response that the request continued; the plan is then full.

        Args:
            named: `previous_response_id` of the response, or a placeholder where the server names none.
        """
        if self.plan.mode is not SendMode.DELTA or named is not None:
            return False
        self.route.ignored += 1
        self._full_over_http(Reason.IGNORED, FailureKind.PARENT_IGNORED)
        return True

    def _full_over_http(self, reason: Reason, kind: FailureKind) -> None:
        self.report.http_refused(reason, kind)
        self.plan = self._full_plan(reason)
        self._resends += 1

    # -- the answer ----------------------------------------

    def finish(self, response_id: Any, output: Sequence[Any], *, stored: bool) -> None:
        """Makes the link of the answer.

        Args:
            response_id: The response's id.
            output: Its output items, as data or as the SDK's objects.
            stored: Whether the server says that it stored it.
        """
        self.done = True
        if self._as_given or self.route.chain == "off" or not isinstance(response_id, str) or not response_id:
            return
        history, key = self.history, self.route.key(self.model)
        answer = b"" if self.warm_up else digest(meaning_of_output(output))
        connection = self.ticket.connection if self.kind == "websocket" and self.ticket is not None else None
        link = key.make_link(
            response_id=response_id,
            fp=history.fingerprint(key, len(history.digests), answer),
            system="" if self.plan.instructions else key.system(history.digests[: history.head]),
            store=self.store is not False and stored,
            model=self.model,
            node=node_name(),
            conn=connection.label if connection is not None else "",
        )
        if not self.warm_up:
            self.link = link
            self.asks = any(_kind_of(item) in _CALLS for item in output)
            if self._origin is not None:
                INDEX.note(self._origin, link, self.route, on_socket=self.kind == "websocket")
        elif output:
            # This server remembers something else than the messages, and every warm-up costs an answer.
            self.route.generates_warm_ups = True
        elif self.route.keeps_warm_up:
            self.route.prime(len(self.messages), link, self.settings.get("tools"))
            self.primed_id = response_id

    def transport(self) -> dict[str, Any]:
        """How it was sent, as far as it has come."""
        ticket = self.ticket if self.kind == "websocket" else None
        connection = ticket.connection if ticket is not None else None
        return {
            "kind": self.kind,
            "mode": self.plan.mode.value,
            "reason": self.plan.reason.value,
            "items": self.items,
            "bytes": ticket.sent_bytes if ticket is not None else self._bytes,
            "connection": connection.label if connection is not None else "",
            "lane": ticket.lane_name if ticket is not None else "",
            "reused": ticket.reused if ticket is not None else False,
            "resends": self._resends,
        }

    def metadata(self) -> dict[str, Any]:
        """What the answer's `response_metadata` gets."""
        transport = self.transport()
        if self.link is None:
            return {TRANSPORT_KEY: transport}
        return {TRANSPORT_KEY: transport, LINK_KEY: self.link}


def _kind_of(item: Any) -> Any:
    return item.get("type") if isinstance(item, Mapping) else getattr(item, "type", None)
