"""Where a model's turns go: endpoint, manager, keys and switches, derived from its fields once."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from .._protocol.chain import ChainKey, History, loadable
from .._protocol.limits import Limits, RetryPolicy
from .keys import AskKey, asked, asked_async

if TYPE_CHECKING:
    from .._transport.dial import Endpoint
    from .._transport.manager import ConnectionManager

__all__ = ["Clocks", "Route", "asked_within", "clocks_for", "clocks_of", "same_fields", "secret_for"]

# Stands in where there is no key, or none yet.
_PROCESS_SECRET = secrets.token_bytes(32)
_MAX_KEYS = 64
# Keys of a callable whose routes are kept: each user may have one of their own, and each rotation gives another.
_MAX_UNDER = 1024
_MAX_PRIMED = 64
_IGNORED_TWICE = 2
_asked_here: ContextVar[list[Route] | None] = ContextVar("asked_here", default=None)


@dataclass(frozen=True)
class Clocks:
    """Seconds that a turn may take; None for no limit."""

    first_event: float | None
    between_events: float | None


def clocks_for(limits: Limits, timeout: Any) -> Clocks:
    """Combines the manager's limits with what the user set on the model.

    Args:
        limits: The manager's.
        timeout: The model's `timeout`: seconds, a `(connect, read)` pair or an object with `read`; None if not set.
    """
    if timeout is not None:
        return clocks_of(timeout)
    return Clocks(limits.first_event_timeout, limits.between_events_timeout)


def clocks_of(timeout: Any) -> Clocks:
    """Reads a `timeout` as the openai client takes it; over HTTP it bounds each read, here each wait for an event.

    Args:
        timeout: Seconds, a `(connect, read, …)` tuple, an object with `read`, or None for no limit.
    """
    if isinstance(timeout, int | float):
        seconds: float | None = float(timeout)
    elif isinstance(timeout, Sequence) and len(timeout) > 1:
        seconds = timeout[1]
    else:
        seconds = getattr(timeout, "read", None)
    return Clocks(seconds, seconds)


def secret_for(chain_secret: SecretStr | None, api_key: str | None) -> bytes:
    """Returns what keys the links: the user's secret, else the API key, else one of this process."""
    if chain_secret is not None:
        return b"user:" + chain_secret.get_secret_value().encode()
    return b"key:" + api_key.strip().encode() if api_key and api_key.strip() else _PROCESS_SECRET


def same_fields(now: tuple[Any, ...], before: tuple[Any, ...]) -> bool:
    """Whether the fields that a route was made of are unchanged.

    By identity, which no field can fake, and by value only for plain ones.
    """
    if len(now) != len(before):
        return False
    for a, b in zip(now, before, strict=True):
        if a is not b and not (isinstance(a, str | int | float) and a == b):
            return False
    return True


@contextmanager
def asked_within() -> Iterator[list[Route]]:
    """Gives a list of the routes whose key callables are asked inside the block, in its context and below."""
    routes: list[Route] = []
    token = _asked_here.set(routes)
    try:
        yield routes
    finally:
        _asked_here.reset(token)


@dataclass(frozen=True)
class _Primed:
    """A warm-up: how many messages the server has read, with which tools, and the link to continue from."""

    count: int
    link: dict[str, Any]
    tools: Any


@dataclass(eq=False)
class _Learned:
    """What turns have shown of a model's server, whatever their key."""

    ignored: int = 0
    generates_warm_ups: bool = False


@dataclass(eq=False)
class Route:
    """What every turn of one model has in common.

    Attributes:
        endpoint: Where to dial; None with `transport="http"`. Where `ask` is set it has no key yet.
        manager: Owns the sockets; None with `transport="http"`.
        transport: `auto`, `websocket` or `http`.
        chain: `auto` or `off`.
        system_mode: `auto`, `input` or `instructions`.
        on_ambiguous: `resend` or `raise`.
        clocks: Seconds that a turn may take.
        chunk_timeout: Seconds that an async stream may wait between two events, if that was set.
        http_chunk_timeout: The same once a stream has moved to HTTP, where langchain-openai's default counts, too.
        max_attempts: Attempts at a turn.
        max_dials: Attempts at dialing that a turn waits for; None leaves it to the manager.
        retry: Bounds of the waits between attempts.
        secret: Keys the links.
        scope: What a link must not leave, the model apart.
        client: The openai client that stored responses are deleted with; None where the model has no sync one.
        ask: Gives the key of each turn, whose route is then `asked()`; None where the key is fixed, or was asked for.
        api_key: The key that was asked for.
    """

    endpoint: Endpoint | None
    manager: ConnectionManager | None
    transport: str
    chain: str
    system_mode: str
    on_ambiguous: str
    clocks: Clocks
    max_attempts: int
    max_dials: int | None
    retry: RetryPolicy
    secret: bytes = field(repr=False)
    scope: tuple[str | None, ...] = field(repr=False)
    client: Any = field(default=None, repr=False)
    chunk_timeout: float | None = None
    http_chunk_timeout: float | None = None
    ask: AskKey | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)
    _learned: _Learned = field(default_factory=_Learned, repr=False)
    _under: OrderedDict[str, Route] = field(default_factory=OrderedDict, repr=False)
    _primed: OrderedDict[tuple[str, str], _Primed] = field(default_factory=OrderedDict, repr=False)
    _keys: dict[str, ChainKey] = field(default_factory=dict, repr=False)

    # -- under which key ----------------------------------------

    def asked(self) -> Route:
        """Returns the route of one turn of a sync caller, which asks for its key; see `keys.asked`."""
        return self if self.ask is None else self.under(asked(self.ask))

    async def asked_async(self) -> Route:
        """Like `asked`, for an async caller."""
        return self if self.ask is None else self.under(await asked_async(self.ask))

    def under(self, key: object) -> Route:
        """Returns the route of turns under a key: neither sockets nor links are shared with another one.

        Raises:
            ConfigurationError: Nobody can send such a key.
        """
        if not isinstance(key, str) or (route := self._under.get(key)) is None:
            route = self._made_under(key)
        else:
            with suppress(KeyError):  # another thread may just have made room
                self._under.move_to_end(key)
        if (noted := _asked_here.get()) is not None:
            noted.append(route)
        return route

    def is_of(self, other: Route) -> bool:
        """Whether this is another route, or the route of one of its turns, under whichever key."""
        return self._learned is other._learned

    def _made_under(self, key: object) -> Route:
        from .._transport.endpoint import checked_key

        text = checked_key(key)
        route = replace(
            self,
            endpoint=None if self.endpoint is None else self.endpoint.under(text),
            secret=secret_for(None, text) if self.secret is _PROCESS_SECRET else self.secret,
            ask=None,
            api_key=text,
            _under=OrderedDict(),
            _primed=OrderedDict(),
            _keys={},
        )
        if len(self._under) >= _MAX_UNDER:
            for oldest in list(self._under)[: _MAX_UNDER // 2]:
                self._under.pop(oldest, None)
        return self._under.setdefault(str(key), route)

    @property
    def client_options(self) -> dict[str, Any]:
        """What the openai client must be told to send a turn's request under the key that was asked for."""
        return {} if self.api_key is None else {"api_key": self.api_key}

    @property
    def owner_options(self) -> dict[str, Any]:
        """The same for what a link names later: who shares links between keys may use any, so a fresh one."""
        return self.client_options if self.secret.startswith(b"key:") else {}

    def preconnect(self) -> None:
        """Starts to open the connection and returns at once.

        Raises:
            ConfigurationError: The endpoint cannot be used.
            ManagerClosed: The manager is closed.
        """
        if self.manager is not None and self.endpoint is not None:
            self.manager.preconnect(self.endpoint)

    # -- what was learned ----------------------------------------

    @property
    def ignored(self) -> int:
        """How often the server answered without continuing the response that it was told to."""
        return self._learned.ignored

    @ignored.setter
    def ignored(self, times: int) -> None:
        self._learned.ignored = times

    @property
    def generates_warm_ups(self) -> bool:
        """Whether the server was seen to generate where nothing was to be generated."""
        return self._learned.generates_warm_ups

    @generates_warm_ups.setter
    def generates_warm_ups(self, seen: bool) -> None:
        self._learned.generates_warm_ups = seen

    # -- links ----------------------------------------

    def key(self, model: str) -> ChainKey:
        """Returns what makes and checks the links of one model."""
        key = self._keys.get(model)
        if key is None:
            if len(self._keys) >= _MAX_KEYS:
                self._keys.clear()
            key = self._keys[model] = ChainKey(self.secret, [*self.scope, model])
        return key

    @property
    def keeps_warm_up(self) -> bool:
        """Whether the server is known to keep the input of a warm-up: some gateways throw it away."""
        if self.manager is None or self.endpoint is None or self.chain == "off" or self.generates_warm_ups:
            return False
        return self.manager.profile_of(self.endpoint).keeps_warm_up

    def prime(self, count: int, link: dict[str, Any], tools: Any) -> None:
        """Notes that the server has read tools and the first `count` messages of a conversation in a warm-up."""
        # With the prompt: two agents on one model may have read in nothing but their prompts.
        self._primed[link["fp"], link["sys"]] = _Primed(count, link, tools)
        while len(self._primed) > _MAX_PRIMED:
            self._primed.popitem(last=False)

    def is_primed(self, history: History, model: str, tools: Any) -> bool:
        """Whether a warm-up stands for exactly these messages and tools and can still be continued."""
        whole = len(history.digests)
        return any(
            primed.count == whole and primed.tools == tools
            for primed in self._primed_for(history, model, whole)
        )

    def with_primed(self, history: History, model: str) -> History:
        """Adds the warm-ups that stand for a beginning of these messages: they can be continued like answers."""
        if not self._primed:
            return history
        found = self._primed_for(history, model, len(history.digests) - 1)
        if not found:
            return history
        links = [*history.links, *((primed.count - 1, primed.link) for primed in found)]
        return replace(history, links=sorted(links, key=lambda entry: entry[0], reverse=True))

    def _primed_for(self, history: History, model: str, most: int) -> list[_Primed]:
        """Finds the living warm-ups that stand for a beginning of at most so many messages."""
        key, head = self.key(model), history.head
        counts = {
            primed.count
            for primed in list(self._primed.values())
            if head <= primed.count <= most and self.alive(primed.link["id"], primed.link["store"])
        }
        prompts = ("", key.system(history.digests[:head]))
        found = []
        for count in counts:
            fp = key.fingerprint(history.digests[head:count])
            for prompt in prompts:
                primed = self._primed.get((fp, prompt))
                if primed is not None and primed.count == count:
                    found.append(primed)
        return found

    @property
    def continues(self) -> bool:
        """Whether the server is believed to continue responses at all: some gateways answer without the history."""
        return self.ignored < _IGNORED_TWICE

    def alive(self, response_id: str, stored: bool) -> bool:
        """Whether a response can still be continued, as far as is known here."""
        if loadable(response_id, stored):
            return True
        if self.manager is None or self.endpoint is None:
            return False
        return self.manager.holds(self.endpoint, response_id)

    def uses_socket(self, *, agent: bool) -> bool:
        """Decides between socket and HTTP for one turn.

        Args:
            agent: Tools are bound, or the history has an assistant turn: more turns are likely to follow.
        """
        if self.manager is None or self.endpoint is None or self.transport == "http":
            return False
        if self.transport == "websocket":
            return True
        if self.manager.is_open(self.endpoint):
            return True
        return agent and self.manager.may_dial(self.endpoint)
