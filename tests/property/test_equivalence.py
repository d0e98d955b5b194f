"""Equivalence by generation: any conversation gives over the socket what it gives over HTTP with the full history.

Every conversation is held twice: by plain `ChatOpenAI`, which sends the whole history over HTTP each time, and by the
model under test. The server's answers are a hash of what its model saw, so that one wrong item anywhere changes
everything that follows. `EQUIVALENCE_CONVERSATIONS` sets how many conversations are made.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.messages.utils import message_chunk_to_message
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from pairs import http_model, socket_model
from scenarios.graphs import essence, thread, tool_graph, wire

from langchain_ws_responses import ConnectionManager
from langchain_ws_responses._transport.retry import set_testing
from langchain_ws_responses.testing import ResponsesServer, calls, text, tool_call

CONVERSATIONS = int(os.environ.get("EQUIVALENCE_CONVERSATIONS", "60"))
MODELS = ("gpt-5.5", "gpt-5.5-mini")
SERDE = JsonPlusSerializer()


def generated(share: float) -> Any:
    return settings(
        max_examples=max(5, int(CONVERSATIONS * share)),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


# -- the server ----------------------------------------


def view(items: Sequence[dict[str, Any]], instructions: str | None) -> list[Any]:
    """What a model sees, with the leading system text as one entry wherever it stands."""
    told = essence(items)
    head = 0
    while head < len(told) and told[head][0] == "system":
        head += 1
    texts = [instructions] if instructions is not None else [entry[1] for entry in told[:head]]
    return [("system", "\n\n".join(texts)), *told[head:]]


def react(request: Any) -> Any:
    """An answer that nobody can give who saw anything else."""
    told = view(request.seen, request.instructions)
    value = hashlib.sha256(json.dumps([request.model, told]).encode()).hexdigest()
    kind = int(value[:4], 16) % 6
    # Calls wear off, so that every tool loop ends.
    depth = sum(entry[0] == "output" for entry in told[-3:])
    if depth or kind < 3:
        return text(f"said {value[:12]}")
    count = 1 if kind < 5 else 2
    asked = [
        tool_call("work", {"n": int(value[8 * n : 8 * n + 6], 16)}, f"c{n}{value[:10]}") for n in range(count)
    ]
    return calls(*asked, text=f"calling {value[:6]}" if kind == 4 else None)


@pytest.fixture(scope="module")
def server() -> Iterator[ResponsesServer]:
    set_testing(True)
    with ResponsesServer(answer=react) as server:
        yield server
    set_testing(False)


# -- conversations ----------------------------------------

words = st.sampled_from(["a", "b", "c", "d\n\ne", "ü"])
index = st.integers(0, 11)
OPERATIONS = st.one_of(
    st.tuples(st.just("say"), words),
    st.tuples(st.just("say"), words),
    st.tuples(st.just("say"), words),
    st.tuples(st.just("edit"), index, words),
    st.tuples(st.just("edit_calls"), index),
    st.tuples(st.just("remove"), index),
    st.tuples(st.just("insert"), index, words),
    st.tuples(st.just("fork"), index),
    st.tuples(st.just("switch"), index),
    st.tuples(st.just("retry")),
    st.tuples(st.just("restart")),
    st.tuples(st.just("drop")),
    st.tuples(st.just("forget")),
    st.tuples(st.just("parallel"), st.lists(words, min_size=2, max_size=4)),
    st.tuples(st.just("system"), st.sampled_from([None, "Be good.", "Be bad."])),
    st.tuples(st.just("model"), st.sampled_from(MODELS)),
    st.tuples(st.just("way"), st.sampled_from(["invoke", "stream", "ainvoke"])),
)


@dataclass(eq=False)
class Pair:
    """One conversation, held twice: `full` by plain ChatOpenAI, `ours` by the model under test."""

    server: ResponsesServer
    store: bool
    mode: str
    full: list[BaseMessage] = field(default_factory=list)
    ours: list[BaseMessage] = field(default_factory=list)
    branches: list[tuple[list[BaseMessage], list[BaseMessage]]] = field(default_factory=list)
    system: str | None = None
    name: str = MODELS[0]
    way: str = "invoke"
    manager: ConnectionManager = field(default_factory=ConnectionManager)
    modes: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.plain: dict[str, ChatOpenAI] = {}
        self.models: dict[str, Any] = {}

    # -- asking

    def _head(self) -> list[BaseMessage]:
        return [] if self.system is None else [SystemMessage(self.system)]

    def _models(self) -> tuple[Any, Any]:
        fields: dict[str, Any] = {"model": self.name}
        if not self.store:
            fields["store"] = False
        if self.name not in self.plain:
            self.plain[self.name] = http_model(self.server, **fields)
        if self.name not in self.models:
            self.models[self.name] = socket_model(
                self.server, self.manager, system_mode=self.mode, max_retries=3, **fields
            )
        return self.plain[self.name], self.models[self.name]

    def _call(self, model: Any, messages: list[BaseMessage]) -> BaseMessage:
        if self.way == "ainvoke":
            answer: BaseMessage = asyncio.run(model.ainvoke(messages))
            return answer
        if self.way == "stream":
            whole: Any = None
            for chunk in model.stream(messages):
                whole = chunk if whole is None else whole + chunk
            return message_chunk_to_message(whole)
        single: BaseMessage = model.invoke(messages)
        return single

    def ask(self) -> None:
        """One call of each model, and a look at what the server saw."""
        plain, model = self._models()
        expected = plain.invoke([*self._head(), *self.full])
        before = len(self.server.requests)
        answer = self._call(model, [*self._head(), *self.ours])
        held = view(wire([*self._head(), *self.full]), None)
        (request,) = self._since(before)
        assert view(request.seen, request.instructions) == held
        assert request.items
        self._compare([expected], [answer])
        self.full.append(expected)
        self.ours.append(answer)

    def _since(self, before: int) -> list[Any]:
        """The requests of our model; deltas onto what the server had lost were answered by a full send."""
        requests = self.server.requests[before:]
        lost = [request for request in requests if request.error_code == "previous_response_not_found"]
        assert all(request.transport == "websocket" for request in requests)
        kept = [request for request in requests if request not in lost]
        assert all(request.status == "completed" for request in kept)
        for request in kept:
            self.modes["delta" if request.is_delta else "full"] += 1
        return kept

    @staticmethod
    def _compare(full: Sequence[BaseMessage], ours: Sequence[BaseMessage]) -> None:
        assert [plain(message) for message in ours] == [plain(message) for message in full]

    # -- operations

    def say(self, word: str) -> None:
        """A question, its answer, and the tools that it asks for."""
        for messages in (self.full, self.ours):
            messages.append(HumanMessage(word))
        self.ask()
        self._work()

    def _work(self) -> None:
        for _ in range(3):
            if not self._run_tools():
                return
            self.ask()

    def _run_tools(self) -> bool:
        asked = self.full[-1].tool_calls if isinstance(self.full[-1], AIMessage) else []
        for call in asked:
            for messages in (self.full, self.ours):
                messages.append(ToolMessage(f"did {call['args']}", tool_call_id=call["id"]))
        return bool(asked)

    def edit(self, at: int, word: str) -> None:
        """Other words in any message."""
        at %= len(self.full)
        self.full[at] = reworded(self.full[at], word)
        self.ours[at] = reworded(self.ours[at], word)

    def edit_calls(self, at: int) -> None:
        """Other arguments in a call; plain ChatOpenAI would send the old ones, so its message is made anew."""
        calling = [n for n, message in enumerate(self.full) if getattr(message, "tool_calls", None)]
        if calling:
            at = calling[at % len(calling)]
            changed = [{**call, "args": {"n": -1}} for call in self.full[at].tool_calls]  # type: ignore[attr-defined]
            self.full[at] = AIMessage(self.full[at].text, tool_calls=changed)
            self.ours[at] = self.ours[at].model_copy(update={"tool_calls": changed})

    def remove(self, at: int) -> None:
        """A message is gone; calls go with their outputs."""
        start = end = at % len(self.full)
        while start > 0 and isinstance(self.full[start], ToolMessage):
            start -= 1
        while end + 1 < len(self.full) and isinstance(self.full[end + 1], ToolMessage):
            end += 1
        if end - start + 1 < len(self.full):
            del self.full[start : end + 1]
            del self.ours[start : end + 1]

    def insert(self, at: int, word: str) -> None:
        """A message by hand, where it does not come between a call and its outputs."""
        at %= len(self.full)
        if not isinstance(self.full[at], ToolMessage):
            for messages in (self.full, self.ours):
                messages.insert(at, HumanMessage(word) if word < "c" else AIMessage(word))

    def fork(self, at: int) -> None:
        """Goes on from an earlier point; the branch that is left can be taken up again."""
        at %= len(self.full)
        if at and not isinstance(self.full[at], ToolMessage):
            self.branches.append((list(self.full), list(self.ours)))
            del self.full[at:]
            del self.ours[at:]

    def switch(self, number: int) -> None:
        """Takes up another branch."""
        if self.branches:
            full, ours = self.branches[number % len(self.branches)]
            self.branches[number % len(self.branches)] = (self.full, self.ours)
            self.full, self.ours = list(full), list(ours)

    def retry(self) -> None:
        """The last answer was lost after it came: it is asked for again."""
        if self.full and isinstance(self.full[-1], AIMessage) and len(self.full) > 1:
            del self.full[-1], self.ours[-1]
            if not isinstance(self.full[-1], AIMessage):
                self.ask()
                self._work()

    def restart(self) -> None:
        """A new process: models, connections and message objects are new."""
        self.manager.close()
        self.manager = ConnectionManager()
        self.models.clear()
        self.ours = SERDE.loads_typed(SERDE.dumps_typed(self.ours))

    def drop(self) -> None:
        """Every connection is lost."""
        self.server.drop_connections()

    def forget(self) -> None:
        """The provider loses every response."""
        self.server.forget()

    def parallel(self, several: list[str]) -> None:
        """Branches from here, asked side by side."""
        if not self.full or isinstance(self.full[-1], HumanMessage):
            return
        plain_model, model = self._models()
        asked = [HumanMessage(f"{word}{number}") for number, word in enumerate(several)]
        expected = [plain_model.invoke([*self._head(), *self.full, word]) for word in asked]
        before = len(self.server.requests)
        answers = model.batch([[*self._head(), *self.ours, word] for word in asked])
        held = [view(wire([*self._head(), *self.full, word]), None) for word in asked]
        seen = [view(request.seen, request.instructions) for request in self._since(before)]
        assert sorted(map(repr, seen)) == sorted(map(repr, held))
        self._compare(expected, answers)
        here = (list(self.full), list(self.ours))
        for word, full, ours in zip(asked, expected, answers, strict=True):
            self.full, self.ours = [*here[0], word, full], [*here[1], word, ours]
            self._run_tools()
            self.branches.append((self.full, self.ours))
        self.full, self.ours = map(list, self.branches[-len(asked)])

    def apply(self, operation: tuple[Any, ...]) -> None:
        """Does one operation to both."""
        name, *arguments = operation
        if name in ("system", "way"):
            setattr(self, name, arguments[0])
        elif name == "model":
            self.name = arguments[0]
        else:
            getattr(self, name)(*arguments)


def plain(message: BaseMessage) -> tuple[Any, ...]:
    """What a message says, without the ids that servers and libraries draw."""
    called = [(call["name"], call["args"], call["id"]) for call in getattr(message, "tool_calls", ())]
    return (message.type, message.text, called, getattr(message, "tool_call_id", None))


def reworded(message: BaseMessage, word: str) -> BaseMessage:
    """The message with other words; calls, ids and metadata stay."""
    content: Any = word
    if isinstance(message.content, list):
        # Only what is said is edited: blocks that repeat the calls stay.
        kept = [block for block in message.content if isinstance(block, dict) and block["type"] != "text"]
        content = [{"type": "text", "text": word, "annotations": []}, *kept]
    return message.model_copy(update={"content": content})


# Each operation once where it matters, so that none depends on chance.
SAY = ("say", "a")
EVERY = [
    [SAY, ("system", "Be bad."), SAY, SAY, ("system", None), SAY],
    [SAY, SAY, SAY, ("edit_calls", 0), SAY, ("edit_calls", 1), SAY],
    [SAY, ("edit", 0, "b"), SAY, ("edit", 3, "c"), SAY, ("insert", 2, "c"), SAY],
    [SAY, SAY, ("remove", 1), SAY, ("remove", 0), SAY],
    [SAY, ("fork", 2), SAY, ("switch", 0), SAY, ("retry",), SAY],
    [SAY, ("restart",), SAY, ("drop",), SAY, ("forget",), SAY],
    [SAY, ("parallel", ["a", "b", "c"]), SAY, ("switch", 1), SAY],
    [SAY, ("model", MODELS[1]), SAY, ("model", MODELS[0]), SAY],
    [("way", "stream"), SAY, SAY, ("way", "ainvoke"), SAY, SAY],
]


def _with_examples(test: Any) -> Any:
    for operations in EVERY:
        for store in (True, False):
            test = example(operations=operations, store=store, mode="auto")(test)
    return test


@generated(1)
@_with_examples
@given(
    operations=st.lists(OPERATIONS, min_size=3, max_size=14),
    store=st.booleans(),
    mode=st.sampled_from(["auto", "input", "instructions"]),
)
def test_any_conversation_is_the_same_over_the_socket(
    server: ResponsesServer, operations: list[tuple[Any, ...]], store: bool, mode: str
) -> None:
    server.requests.clear()
    pair = Pair(server, store, mode)
    try:
        pair.say("begin")
        for operation in operations:
            pair.apply(operation)
        if pair.full and not isinstance(pair.full[-1], HumanMessage):
            pair.say("end")
        pair._compare(pair.full, pair.ours)
    finally:
        pair.manager.close()
    event(f"deltas: {pair.modes['delta'] > 0}")
    assert server._engine.failures == []


# -- graphs ----------------------------------------


@tool
def work(n: int) -> str:
    """Works."""
    return f"did {n}"


def _history(graph: Any) -> list[Any]:
    """Every checkpoint, oldest first: the messages that it holds and what comes next."""
    return [
        ([plain(message) for message in snapshot.values.get("messages", ())], snapshot.next)
        for snapshot in reversed(list(graph.get_state_history(thread())))
    ]


STEPS = st.one_of(
    st.tuples(st.just("say"), words),
    st.tuples(st.just("say"), words),
    st.tuples(st.just("edit"), index, words),
    st.tuples(st.just("travel"), index, words),
)


@generated(0.2)
@given(steps=st.lists(STEPS, min_size=2, max_size=6), store=st.booleans())
def test_any_graph_run_leaves_the_same_checkpoints(
    server: ResponsesServer, steps: list[tuple[Any, ...]], store: bool
) -> None:
    server.requests.clear()
    fields: dict[str, Any] = {} if store else {"store": False}
    with ConnectionManager() as manager:
        graphs = [
            tool_graph(http_model(server, **fields), [work], checkpointer=InMemorySaver()),
            tool_graph(socket_model(server, manager, **fields), [work], checkpointer=InMemorySaver()),
        ]
        for name, *arguments in [("say", "begin"), *steps, ("say", "end")]:
            for graph in graphs:
                _step(graph, name, arguments)
        assert _history(graphs[1]) == _history(graphs[0])
    over_socket = [request for request in server.requests if request.transport == "websocket"]
    over_http = [request for request in server.requests if request.transport == "http"]
    told = [view(request.seen, request.instructions) for request in over_socket if request.error_code is None]
    assert told == [view(request.seen, request.instructions) for request in over_http]
    assert server._engine.failures == []


def _step(graph: Any, name: str, arguments: list[Any]) -> None:
    if name == "say":
        graph.invoke({"messages": [HumanMessage(arguments[0])]}, thread())
        return
    at, word = arguments
    if name == "edit":
        messages = graph.get_state(thread()).values["messages"]
        graph.update_state(thread(), {"messages": [reworded(messages[at % len(messages)], word)]})
        return
    past = [snapshot for snapshot in graph.get_state_history(thread()) if not snapshot.next]
    config = past[at % len(past)].config
    graph.invoke({"messages": [HumanMessage(word)]}, config)
