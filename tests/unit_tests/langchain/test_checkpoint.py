"""`ChainSaver` itself: it can do what the saver inside can do, and adds no more than two keys to the metadata."""

from __future__ import annotations

import copy
import dataclasses
import gc
import inspect
import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext
from contextvars import ContextVar, copy_context
from itertools import count, repeat
from typing import TYPE_CHECKING, Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.base import BaseCheckpointSaver, empty_checkpoint
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from waiting import BOUND

from langchain_ws_responses import ChainSaver, ChatOpenAIWebSocket, ConnectionManager
from langchain_ws_responses._langchain import book
from langchain_ws_responses._langchain.deletions import Deletions, FailedDeletion, deletable
from langchain_ws_responses._langchain.index import INDEX
from langchain_ws_responses._langchain.origin import Origin
from langchain_ws_responses._protocol.chain import ChainKey
from langchain_ws_responses._protocol.limits import RetryPolicy
from langchain_ws_responses._transport.retry import set_testing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

THREAD = "thread-1"
KEY = ChainKey(b"secret", ["scope", "gpt-test"])


@pytest.fixture(autouse=True)
def fresh_index(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # One saver at a time: what `noted` notes is of whichever is there.
    monkeypatch.setattr(book, "_numbers", repeat(0))
    INDEX.clear()
    yield
    INDEX.clear()


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    set_testing(True)
    yield
    set_testing(False)


def link(name: str, *, store: bool = True, node: str = "model") -> dict[str, Any]:
    return KEY.make_link(
        response_id=f"resp_{name}",
        fp=f"fp-{name}",
        system="0",
        store=store,
        model="gpt-test",
        node=node,
        conn="",
    )


def own(name: str, thread: str = THREAD, **fields: Any) -> dict[str, Any]:
    return {**link(name, **fields), "thread": thread}


def answer(name: str, **fields: Any) -> AIMessage:
    return AIMessage(name, response_metadata={"openai_chain": link(name, **fields)})


def config(checkpoint_id: str | None = None, *, run: bool = False, ns: str = "") -> Any:
    configurable: dict[str, Any] = {"thread_id": THREAD, "checkpoint_ns": ns}
    if checkpoint_id is not None:
        configurable["checkpoint_id"] = checkpoint_id
    if run:
        configurable["__pregel_runtime"] = object()
    return {"configurable": configurable}


def checkpoint(number: int, **values: Any) -> Any:
    return {
        **empty_checkpoint(),
        "id": f"{number:08}",
        "channel_values": values,
        "channel_versions": dict.fromkeys(values, number),
    }


def put(saver: Any, number: int, parent: int | None = None, **values: Any) -> Any:
    """Saves a checkpoint and returns its metadata as the saver inside has it."""
    before = None if parent is None else f"{parent:08}"
    given = {"source": "loop", "step": number, "parents": {}}
    written = dict(given)
    saver.put(config(before), checkpoint(number, **values), given, dict.fromkeys(values, number))
    assert given == written, "the caller's metadata was changed"
    return metadata(saver, number)


def metadata(saver: Any, number: int) -> Any:
    return saver.inner.get_tuple(config(f"{number:08}")).metadata


def ids(chain: dict[str, Any]) -> dict[str, str]:
    return {label: entry["id"] for label, entry in chain.items()}


class Route:
    """As much of a route as notes and deletions look at."""

    manager = None
    endpoint = None
    ask = None

    def __init__(self, client: Any = None, **owner_options: Any) -> None:
        self.client, self.owner_options = client, owner_options

    def key(self, model: str) -> ChainKey:
        return KEY


ROUTE: Any = Route()


def noted(name: str, step: int, node: str = "model", task: str = "t1", **fields: Any) -> None:
    where = Origin(THREAD, f"{node}:{task}", f"{step:08}", task)
    INDEX.note(where, link(name, node=node, **fields), ROUTE, on_socket=False)


# --- what can be wrapped ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inner", "said"),
    [
        (None, "not None. Pass a checkpointer"),
        (True, "not True. Pass a checkpointer"),
        ({}, "not a dict. Pass a checkpointer"),
        (InMemorySaver, "the class InMemorySaver. Pass an instance of it"),
        (SqliteSaver.from_conn_string(":memory:"), "with SqliteSaver.from_conn_string"),
        (AsyncSqliteSaver.from_conn_string(":memory:"), "async with AsyncSqliteSaver.from_conn_string"),
    ],
    ids=["None", "True", "dict", "class", "context manager", "async context manager"],
)
def test_what_is_no_saver_is_refused_with_what_to_pass(inner: Any, said: str) -> None:
    with pytest.raises(TypeError, match="needs an instance of BaseCheckpointSaver") as caught:
        ChainSaver(inner)
    assert said in str(caught.value)


def test_chain_saver_in_a_chain_saver_is_refused() -> None:
    with pytest.raises(TypeError, match="pass the checkpointer inside it"):
        ChainSaver(ChainSaver(InMemorySaver()))


def test_no_argument_is_refused() -> None:
    with pytest.raises(TypeError):
        ChainSaver()  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"on_delete": "drop"}, ValueError, '"forget" or "delete_responses"'),
        ({"manager": "manager"}, TypeError, "manager must be a ConnectionManager, not str"),
        ({"model": "gpt-5.5"}, TypeError, "model must be a ChatOpenAIWebSocket, not str"),
    ],
)
def test_wrong_options_are_refused(options: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        ChainSaver(InMemorySaver(), **options)


# --- what it can do -----------------------------------------------------------------------------------------

PUBLIC = [name for name in vars(BaseCheckpointSaver) if not name.startswith("_")]


class Bare(BaseCheckpointSaver[Any]):
    """Overrides nothing."""


class Partial(BaseCheckpointSaver[Any]):
    """Overrides one extension, and is asked by others."""

    def copy_thread(self, source_thread_id: str, target_thread_id: str) -> None:
        self.copied = (source_thread_id, target_thread_id)

    async def adelete_for_runs(self, run_ids: Any) -> None:
        self.deleted = list(run_ids)

    @property
    def config_specs(self) -> list[Any]:
        return ["spec"]


@pytest.mark.parametrize("inner_type", [Bare, Partial, InMemorySaver, SqliteSaver, AsyncSqliteSaver])
def test_type_overrides_exactly_what_the_inner_type_overrides(inner_type: type) -> None:
    saver = type(ChainSaver(object.__new__(inner_type)))

    def overridden(cls: type) -> set[str]:
        base = vars(BaseCheckpointSaver)
        return {name for name in PUBLIC if inspect.getattr_static(cls, name) is not base[name]}

    # These two are the inner saver's whatever its type.
    assert overridden(saver) - {"serde", "with_allowlist"} == overridden(inner_type) - {
        "serde",
        "with_allowlist",
    }


def test_types_are_made_once_and_named_after_what_they_wrap() -> None:
    first, second = ChainSaver(InMemorySaver()), ChainSaver(InMemorySaver())
    assert type(first) is type(second)
    assert type(first).__name__ == "ChainSaver[InMemorySaver]"
    assert isinstance(first, ChainSaver)
    assert isinstance(first, BaseCheckpointSaver)
    assert repr(first) == "<ChainSaver over InMemorySaver>"


async def test_other_methods_are_passed_on() -> None:
    inner = Partial()
    saver: Any = ChainSaver(inner)
    saver.copy_thread("a", target_thread_id="b")
    await saver.adelete_for_runs(["run"])
    assert (inner.copied, inner.deleted, saver.config_specs) == (("a", "b"), ["run"], ["spec"])
    assert inspect.iscoroutinefunction(type(saver).adelete_for_runs)


@pytest.mark.parametrize("name", ["put_writes", "aput_writes"])
def test_task_path_is_named_because_langgraph_looks_for_it(name: str) -> None:
    saver = ChainSaver(InMemorySaver())
    assert "task_path" in inspect.signature(getattr(saver, name)).parameters


async def test_saver_of_before_task_path_is_not_given_one() -> None:
    class Old(InMemorySaver):
        def put_writes(self, config: Any, writes: Any, task_id: str) -> None:  # type: ignore[override]
            super().put_writes(config, writes, task_id)

        async def aput_writes(self, config: Any, writes: Any, task_id: str) -> None:  # type: ignore[override]
            await super().aput_writes(config, writes, task_id)

    saver = ChainSaver(Old())
    assert "task_path" not in inspect.signature(saver.put_writes).parameters
    assert "task_path" not in inspect.signature(saver.aput_writes).parameters
    put(saver, 1)
    saver.put_writes(config("00000001"), [("channel", "sync")], "t1")
    saved = saver.get_tuple(config("00000001"))
    assert saved is not None
    assert saved.pending_writes == [("t1", "channel", "sync")]


def test_methods_of_a_subclass_come_first() -> None:
    class Mine(ChainSaver):
        def get_tuple(self, config: Any) -> Any:
            return ("mine", super().get_tuple(config))

    saver = Mine(InMemorySaver())
    assert saver.get_tuple(config()) == ("mine", None)
    assert isinstance(saver, Mine)


def test_attributes_are_those_of_the_inner_saver_but_no_dunders() -> None:
    inner = InMemorySaver()
    saver: Any = ChainSaver(inner)
    assert saver.storage is inner.storage
    with pytest.raises(AttributeError, match="no_such_thing"):
        saver.no_such_thing  # noqa: B018
    inner.__asked_of_the_type__ = 1  # type: ignore[attr-defined]
    assert not hasattr(saver, "__asked_of_the_type__")
    assert not hasattr(saver, "__len__")
    # Before there is an inner saver: `copy` and `pickle` ask early.
    with pytest.raises(AttributeError, match="anything"):
        object.__new__(type(saver)).anything  # noqa: B018


def test_saver_over_an_empty_one_is_true() -> None:
    class Sized(InMemorySaver):
        def __len__(self) -> int:
            return 0

    assert not Sized()
    assert ChainSaver(Sized())


def test_serde_is_the_inner_saver_s() -> None:
    inner = InMemorySaver()
    saver = ChainSaver(inner)
    assert saver.serde is inner.serde
    saver.serde = other = JsonPlusSerializer()
    assert inner.serde is other


def test_versions_are_the_inner_saver_s() -> None:
    assert isinstance(ChainSaver(InMemorySaver()).get_next_version(None, None), str)
    assert ChainSaver(Bare()).get_next_version(None, None) == 1


def test_copy_shares_what_is_inside() -> None:
    saver = ChainSaver(InMemorySaver())
    clone = copy.copy(saver)
    assert clone is not saver
    assert (type(clone), clone.inner, clone.deletions) == (type(saver), saver.inner, saver.deletions)


def test_deep_copy_has_checkpoints_of_its_own() -> None:
    saver = ChainSaver(InMemorySaver(serde=JsonPlusSerializer(allowed_msgpack_modules=())))
    put(saver, 1)
    twice = copy.deepcopy([saver, saver])
    clone = twice[0]
    assert clone is twice[1]
    assert (type(clone), clone.deletions) == (type(saver), saver.deletions)
    assert clone.inner is not saver.inner
    put(clone, 2, 1)
    assert (len(list(saver.list(config()))), len(list(clone.list(config())))) == (1, 2)


def test_deep_copy_of_what_cannot_be_copied_says_so_as_the_inner_saver_does() -> None:
    class Open(InMemorySaver):
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("an open file")

    with pytest.raises(TypeError, match="an open file"):
        copy.deepcopy(ChainSaver(Open()))


@pytest.mark.parametrize("swallows", [False, True])
async def test_is_entered_as_the_inner_saver_is(swallows: bool) -> None:
    seen: list[Any] = []

    class Entered(InMemorySaver):
        def __enter__(self) -> Entered:
            seen.append("enter")
            return self

        def __exit__(self, kind: Any, *_: Any) -> bool:  # type: ignore[override]
            seen.append(kind)
            return swallows

        async def __aenter__(self) -> Entered:
            seen.append("aenter")
            return self

        async def __aexit__(self, kind: Any, *_: Any) -> bool:  # type: ignore[override]
            seen.append(kind)
            return swallows

    saver: Any = ChainSaver(Entered())
    raised = nullcontext() if swallows else pytest.raises(KeyError)
    with saver as entered:
        assert entered is saver
    with raised, saver:
        raise KeyError
    async with saver as entered:
        assert entered is saver
    with raised:
        async with saver:
            raise KeyError
    assert seen == ["enter", None, "enter", KeyError, "aenter", None, "aenter", KeyError]


@pytest.mark.parametrize("kind", [InMemorySaver, SqliteSaver, AsyncSqliteSaver])
def test_can_be_entered_only_where_the_inner_saver_can(kind: type[BaseCheckpointSaver[Any]]) -> None:
    wrapped = type(ChainSaver(kind.__new__(kind)))
    for name in ("__enter__", "__exit__", "__aenter__", "__aexit__"):
        assert hasattr(wrapped, name) is hasattr(kind, name)


def test_allowlist_makes_a_clone_over_a_clone_and_leaves_the_original_alone() -> None:
    strict = JsonPlusSerializer(allowed_msgpack_modules=())
    inner = InMemorySaver(serde=strict)
    saver = ChainSaver(inner)
    before = saver.serde
    clone = saver.with_allowlist({("some.module", "Name")})
    assert type(clone) is type(saver)
    assert clone is not saver
    assert clone.inner is not inner
    assert clone.serde is not before
    assert saver.serde is before
    put(clone, 1, value="shared")
    assert saver.get_tuple(config()) is not None


def test_allowlist_that_changes_nothing_gives_the_same_saver() -> None:
    class Same(InMemorySaver):
        def with_allowlist(self, extra_allowlist: Any) -> Same:  # type: ignore[override]
            return self

    saver = ChainSaver(Same())
    assert saver.with_allowlist(set()) is saver


def test_dataclass_in_the_state_stays_one_under_strict_msgpack() -> None:
    """LangGraph tells a saver what may be read back; a saver that swallows that gives dicts instead."""
    script = (
        "import dataclasses, typing\n"
        "from langgraph.checkpoint.memory import InMemorySaver\n"
        "from langgraph.graph import START, StateGraph\n"
        "from langchain_ws_responses import ChainSaver\n"
        "@dataclasses.dataclass\n"
        "class Note:\n"
        "    text: str\n"
        "State = typing.TypedDict('State', {'note': Note})\n"
        "graph = StateGraph(State)\n"
        "graph.add_node('n', lambda state: {'note': Note('written')})\n"
        "graph.add_edge(START, 'n')\n"
        "saver = ChainSaver(InMemorySaver())\n"
        "config = {'configurable': {'thread_id': 't'}}\n"
        "graph.compile(checkpointer=saver).invoke({'note': Note('given')}, config)\n"
        "print(graph.compile(checkpointer=saver).get_state(config).values)"
    )
    env = {**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=100, env=env
    )
    assert done.stdout.strip() == "{'note': Note(text='written')}"


# --- errors of the inner saver --------------------------------------------------------------------------------


class Broken(InMemorySaver):
    error = RuntimeError("disk full")

    def _fail(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error

    async def _afail(self, *args: Any, **kwargs: Any) -> Any:
        raise self.error

    put = put_writes = get_tuple = list = delete_thread = prune = _fail  # type: ignore[assignment]
    aput = aput_writes = aget_tuple = adelete_thread = aprune = _afail  # type: ignore[assignment]

    async def alist(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        raise self.error
        yield


CALLS: dict[str, tuple[Any, ...]] = {
    "put": (config(), checkpoint(1), {}, {}),
    "put_writes": (config("1"), [("messages", answer("x"))], "t1"),
    "get_tuple": (config(),),
    "delete_thread": (THREAD,),
}


@pytest.mark.parametrize("on_delete", ["forget", "delete_responses"])
@pytest.mark.parametrize("name", [*CALLS, "list"])
async def test_error_of_the_inner_saver_comes_through_unchanged(name: str, on_delete: Any) -> None:
    saver: Any = ChainSaver(Broken(), on_delete=on_delete)
    if name == "list":
        with pytest.raises(RuntimeError) as caught:
            list(saver.list(config()))
        with pytest.raises(RuntimeError) as acaught:
            [saved async for saved in saver.alist(config())]
    else:
        with pytest.raises(RuntimeError) as caught:
            getattr(saver, name)(*CALLS[name])
        with pytest.raises(RuntimeError) as acaught:
            await getattr(saver, f"a{name}")(*CALLS[name])
    assert caught.value is Broken.error
    assert acaught.value is Broken.error
    assert INDEX.peek((0, THREAD)) is None


def test_answers_wait_on_when_a_checkpoint_could_not_be_saved() -> None:
    class Once(InMemorySaver):
        broken = True

        def put(self, *args: Any, **kwargs: Any) -> Any:
            if self.broken:
                self.broken = False
                raise RuntimeError("try again")
            return super().put(*args, **kwargs)

    saver = ChainSaver(Once())
    noted("x", 1)
    with pytest.raises(RuntimeError):
        put(saver, 2, 1)
    assert ids(put(saver, 2, 1)["openai_chain"]) == {"model": "resp_x"}


# --- metadata -------------------------------------------------------------------------------------------------


def test_checkpoint_names_the_answers_that_it_commits() -> None:
    saver = ChainSaver(InMemorySaver())
    noted("x", 1)
    noted("y", 1, node="critic", task="t2")
    found = put(saver, 2, 1)
    assert found["openai_chain"] == {"model": own("x"), "critic": own("y", node="critic")}
    assert found["openai_response_id"] == "resp_y"
    assert {key: found[key] for key in ("source", "step", "parents")} == {
        "source": "loop",
        "step": 2,
        "parents": {},
    }


def test_checkpoint_without_answers_has_the_callers_metadata() -> None:
    saver = ChainSaver(InMemorySaver())
    assert put(saver, 1, messages=[HumanMessage("hi")]) == {"source": "loop", "step": 1, "parents": {}}


def test_later_checkpoints_carry_on_what_their_parent_said() -> None:
    saver = ChainSaver(InMemorySaver())
    noted("x", 1)
    noted("c", 1, node="critic", task="t2")
    put(saver, 2, 1)
    assert ids(put(saver, 3, 2)["openai_chain"]) == {"model": "resp_x", "critic": "resp_c"}
    noted("y", 3)
    assert ids(put(saver, 4, 3)["openai_chain"]) == {"model": "resp_y", "critic": "resp_c"}
    # Another branch from the second one knows nothing of it.
    fork = put(saver, 5, 2)
    assert ids(fork["openai_chain"]) == {"model": "resp_x", "critic": "resp_c"}
    assert fork["openai_response_id"] == "resp_c"


def test_answers_of_one_node_in_one_step_stand_side_by_side() -> None:
    saver = ChainSaver(InMemorySaver())
    for name in ("x", "y", "z"):
        noted(name, 1, task=name)
    found = put(saver, 2, 1)
    assert ids(found["openai_chain"]) == {"model": "resp_z", "model#2": "resp_y", "model#3": "resp_x"}
    noted("next", 2)
    assert ids(put(saver, 3, 2)["openai_chain"]) == {"model": "resp_next"}


def test_metadata_stays_small() -> None:
    saver = ChainSaver(InMemorySaver())
    for number in range(200):
        noted(f"n{number}", 1, node=f"node{number % 100}", task=f"t{number}")
    found = put(saver, 2, 1)
    assert len(found["openai_chain"]) == 64
    assert found["openai_response_id"] == "resp_n199"
    assert len(json.dumps(found)) < 64 * 512


def test_links_on_messages_are_taken_in() -> None:
    saver = ChainSaver(InMemorySaver())
    messages: list[Any] = [
        HumanMessage("hi"),
        answer("x"),
        HumanMessage("more"),
        answer("y"),
        HumanMessage("z"),
    ]
    found = put(saver, 1, messages=messages)
    # Not this thread's own: a message may come from anywhere.
    assert found["openai_chain"] == {"model": link("y")}
    assert found["openai_response_id"] == "resp_y"
    assert INDEX.lookup((0, THREAD), "fp-x") == link("x")


def test_single_message_and_tuple_are_looked_at_too() -> None:
    saver = ChainSaver(InMemorySaver())
    assert ids(put(saver, 1, last=answer("x"))["openai_chain"]) == {"model": "resp_x"}
    assert ids(put(saver, 2, 1, last=(answer("y"),))["openai_chain"]) == {"model": "resp_y"}


def test_channels_that_did_not_change_are_not_looked_at() -> None:
    saver = ChainSaver(InMemorySaver())
    saver.put(config(), checkpoint(1, messages=[answer("x")]), {"step": 1}, {})
    assert metadata(saver, 1) == {"step": 1}


def test_links_in_writes_belong_to_the_checkpoint_that_follows() -> None:
    saver = ChainSaver(InMemorySaver())
    put(saver, 1)
    saver.put_writes(config("00000001"), [("messages", [answer("x")]), ("branch", None)], "t1")
    assert "openai_chain" not in metadata(saver, 1)
    assert ids(put(saver, 2, 1)["openai_chain"]) == {"model": "resp_x"}


async def test_async_methods_do_the_same() -> None:
    saver = ChainSaver(InMemorySaver())
    await saver.aput(config(), checkpoint(1), {"step": 1}, {})
    await saver.aput_writes(config("00000001"), [("messages", [answer("x")])], "t1")
    await saver.aput(config("00000001"), checkpoint(2), {"step": 2}, {})
    assert ids(metadata(saver, 2)["openai_chain"]) == {"model": "resp_x"}
    INDEX.clear()
    assert await saver.aget_tuple(config()) is not None
    assert INDEX.lookup((0, THREAD), "fp-x") == link("x")
    INDEX.clear()
    assert len([saved async for saved in saver.alist(config())]) == 2
    assert INDEX.lookup((0, THREAD), "fp-x") == link("x")
    await saver.adelete_thread(THREAD)
    assert INDEX.peek((0, THREAD)) is None


@pytest.mark.parametrize(
    "forged",
    [
        {"id": 7},
        {"id": "x" * 600},
        {"id": "nul\x00"},
        {"store": "yes"},
        {"sig": None},
        {"model": ["m"]},
    ],
    ids=["number", "huge", "nul", "text for bool", "none", "list"],
)
def test_what_is_no_link_stays_out_of_the_metadata(forged: dict[str, Any]) -> None:
    message = AIMessage("x", response_metadata={"openai_chain": {**link("x"), **forged}})
    saver = ChainSaver(InMemorySaver())
    assert put(saver, 1, messages=[message, RemoveMessage(id="1")]) == {
        "source": "loop",
        "step": 1,
        "parents": {},
    }


def test_additions_to_a_link_stay_out_of_the_metadata() -> None:
    forged = {**link("x"), "thread": THREAD, "extra": "x" * 10_000, "node": "n" * 10_000}
    message = AIMessage("x", response_metadata={"openai_chain": forged})
    found = put(ChainSaver(InMemorySaver()), 1, messages=[message])
    expected = {key: value for key, value in link("x").items() if key != "node"}
    assert found["openai_chain"] == {"": expected}


def test_only_assistant_messages_have_links() -> None:
    message = HumanMessage("x", response_metadata={"openai_chain": link("x")})
    assert "openai_chain" not in put(ChainSaver(InMemorySaver()), 1, messages=[message])


@pytest.mark.parametrize("broken", [None, "text", {"model": "text"}, {"model": {"id": "x"}}, {7: {}}])
def test_foreign_metadata_under_our_key_is_let_be(broken: Any) -> None:
    inner = InMemorySaver()
    inner.put(config(), checkpoint(1), {"openai_chain": broken}, {})  # type: ignore[typeddict-unknown-key]
    saver = ChainSaver(inner)
    saved = saver.get_tuple(config())
    assert saved is not None
    assert saved.metadata["openai_chain"] == broken  # type: ignore[typeddict-item]
    assert INDEX.peek((0, THREAD)) is None


# --- loading --------------------------------------------------------------------------------------------------


def restart(saver: ChainSaver) -> ChainSaver:
    INDEX.clear()
    return ChainSaver(saver.inner)


def test_loading_brings_links_of_metadata_and_messages_back() -> None:
    saver = ChainSaver(InMemorySaver())
    noted("x", 1)
    put(saver, 2, 1, messages=[answer("m")])
    saver = restart(saver)
    saved = saver.get_tuple(config())
    assert saved == saver.inner.get_tuple(config())
    assert INDEX.lookup((0, THREAD), "fp-x") == own("x")
    assert INDEX.lookup((0, THREAD), "fp-m") == link("m")
    assert ids(put(saver, 3, 2)["openai_chain"]) == {"model": "resp_x"}


def test_run_discards_what_no_checkpoint_committed() -> None:
    saver = ChainSaver(InMemorySaver())
    put(saver, 1)
    noted("orphan", 1)
    saver.get_tuple(config())
    assert INDEX.lookup((0, THREAD), "fp-orphan") is not None
    saver.get_tuple(config(run=True))
    assert INDEX.lookup((0, THREAD), "fp-orphan") is None
    assert "openai_chain" not in put(saver, 2, 1)


@pytest.mark.parametrize(
    ("channel", "kept"),
    [("messages", True), ("__error__", False), ("__interrupt__", False), ("__resume__", False)],
)
def test_answer_of_a_task_with_saved_results_outlives_the_load(channel: str, kept: bool) -> None:
    saver = ChainSaver(InMemorySaver())
    put(saver, 1)
    noted("x", 1, task="t1")
    saver.put_writes(config("00000001"), [(channel, "written")], "t1")
    saver.get_tuple(config(run=True))
    assert (INDEX.lookup((0, THREAD), "fp-x") is not None) is kept


def test_listing_ends_the_inner_listing() -> None:
    ended: list[str] = []

    class Listing(InMemorySaver):
        def list(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
            try:
                yield from super().list(*args, **kwargs)
            finally:
                ended.append("ended")

    saver = ChainSaver(Listing())
    put(saver, 1)
    put(saver, 2, 1)
    found = saver.list(config())
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert ended == ["ended"]


async def test_async_listing_ends_the_inner_listing() -> None:
    ended: list[str] = []

    class Listing(InMemorySaver):
        async def alist(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            try:
                async for saved in super().alist(*args, **kwargs):
                    yield saved
            finally:
                ended.append("ended")

    saver = ChainSaver(Listing())
    put(saver, 1)
    put(saver, 2, 1)
    found = saver.alist(config())
    await anext(found)
    await found.aclose()  # type: ignore[attr-defined]
    assert ended == ["ended"]


def test_listing_that_is_a_plain_list_will_do() -> None:
    class Plain(InMemorySaver):
        def list(self, *args: Any, **kwargs: Any) -> Any:
            return [*super().list(*args, **kwargs)]

    saver = ChainSaver(Plain())
    put(saver, 1)
    assert len(list(saver.list(config()))) == 1


def test_filter_before_and_limit_are_passed_on() -> None:
    saver = ChainSaver(InMemorySaver())
    for number in range(1, 5):
        put(saver, number, number - 1 or None)

    def found(**options: Any) -> list[int]:
        return [saved.metadata["step"] for saved in saver.list(config(), **options)]

    assert found(filter={"step": 2}) == [2]
    assert found(before=config("00000003")) == [2, 1]
    assert found(limit=1) == [4]


def test_failing_manager_does_not_disturb_a_load() -> None:
    saver = ChainSaver(InMemorySaver())
    put(saver, 1)
    asked: list[str] = []

    class Failing:
        closed = False

        def is_open(self, endpoint: Any) -> bool:
            asked.append(endpoint)
            raise RuntimeError("broken")

    manager = Failing()
    route: Any = Route()
    route.manager, route.endpoint = manager, "endpoint"
    INDEX.note(Origin(THREAD, "model:t1", "0", "t1"), link("x"), route, on_socket=True)
    assert saver.get_tuple(config(run=True)) is not None
    assert asked == ["endpoint"]


# --- deleting -------------------------------------------------------------------------------------------------


class Client:
    """An openai client whose answers to DELETE are given."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[str] = []
        self.options: dict[str, Any] = {}
        self.responses = self

    def with_options(self, **options: Any) -> Client:
        self.options = options
        return self

    def delete(self, response_id: str) -> None:
        self.asked.append(response_id)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if outcome is not None:
            raise outcome


def status(code: int) -> openai.APIStatusError:
    class Answered(openai.APIStatusError):
        def __init__(self) -> None:
            Exception.__init__(self, "secret text")
            self.status_code = code

    return Answered()


def lost() -> openai.APIConnectionError:
    return openai.APIConnectionError(request=None)  # type: ignore[arg-type]


def deletions(client: Any, **policy: Any) -> Deletions:
    route: Any = Route(client)
    return Deletions(lambda: [route], retry=RetryPolicy(**policy) if policy else None)


@pytest.mark.parametrize(
    ("outcomes", "asked"),
    [([], 1), ([status(500)], 2), ([lost(), status(429)], 3), ([status(404)], 1)],
    ids=["at once", "after 500", "after a loss and 429", "gone already"],
)
def test_response_is_deleted_in_the_end(outcomes: list[Any], asked: int) -> None:
    client = Client(*outcomes)
    work = deletions(client)
    work.submit(THREAD, [own("x")])
    assert work.wait(10)
    assert (work.deleted, work.failed, work.pending) == (1, (), 0)
    assert client.asked == ["resp_x"] * asked
    # The client's own retries would multiply with these.
    assert client.options == {"max_retries": 0}


@pytest.mark.parametrize(
    ("outcomes", "asked", "error"),
    [
        ([status(401)], 1, "Answered (401)"),
        ([lost()] * 3, 3, "APIConnectionError"),
        ([ValueError("x")], 1, "ValueError"),
    ],
)
def test_failure_is_reported_without_its_text(
    outcomes: list[Any], asked: int, error: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = Client(*outcomes)
    work = deletions(client, max_attempts=3)
    work.submit(THREAD, [own("x")])
    assert work.wait(10)
    assert work.failed == (FailedDeletion(THREAD, "resp_x", error),)
    assert (work.deleted, len(client.asked)) == (0, asked)
    assert "resp_x" in caplog.text
    assert error in caplog.text
    assert "secret text" not in caplog.text
    assert repr(work) == "<Deletions [0 pending, 0 deleted, 1 failed]>"


def test_one_failure_does_not_hold_up_the_others() -> None:
    client = Client(status(403))
    work = deletions(client)
    work.submit(THREAD, [own(str(number)) for number in range(50)])
    assert work.wait(10)
    assert (work.deleted, len(work.failed)) == (49, 1)
    assert sorted(client.asked) == sorted(f"resp_{number}" for number in range(50))


def test_submitting_does_not_wait() -> None:
    go = threading.Event()

    class Slow(Client):
        def delete(self, response_id: str) -> None:
            assert go.wait(10)
            super().delete(response_id)

    work = deletions(Slow())
    work.submit(THREAD, [own(str(number)) for number in range(10)])
    assert work.pending == 10
    assert not work.wait(0)
    go.set()
    assert work.wait(10)
    assert work.deleted == 10


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is missing on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("locked", [False, True], ids=["free", "locked"])
def test_child_of_a_fork_deletes_what_is_its_own(locked: bool) -> None:
    begun, go = threading.Event(), threading.Event()
    parent = os.getpid()

    class Slow(Client):
        def delete(self, response_id: str) -> None:
            if os.getpid() == parent:
                begun.set()
                assert go.wait(BOUND)
            super().delete(response_id)

    client = Slow()
    work = deletions(client)
    work.submit(THREAD, [own(str(number)) for number in range(10)])
    assert begun.wait(BOUND)
    with work._changed if locked else nullcontext():
        child = os.fork()
        if not child:
            signal.alarm(int(BOUND))  # a lock that nobody gives back
            client.asked.clear()
            pending = work.pending
            work.submit(THREAD, [own("of the child")])
            right = work.wait(BOUND) and client.asked == ["resp_of the child"] and not pending
            os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert work.pending == 10
    go.set()
    assert work.wait(BOUND)
    assert work.deleted == 10
    assert sorted(client.asked) == sorted(f"resp_{number}" for number in range(10))


@pytest.mark.parametrize("case", ["no model", "other key", "forged id", "no client"])
def test_response_that_no_known_model_made_is_reported(case: str) -> None:
    client = Client()
    known: Any = Route(None if case == "no client" else client)
    if case == "other key":
        known.key = lambda model: ChainKey(b"other", ["scope", model])
    wanted = own("x")
    if case == "forged id":
        wanted["id"] = "resp_of_somebody_else"
    work = Deletions(lambda: [] if case == "no model" else [known])
    work.submit(THREAD, [wanted])
    assert work.wait(10)
    assert client.asked == []
    assert [failed.response_id for failed in work.failed] == [wanted["id"]]
    assert ("no sync client" if case == "no client" else "pass model=") in work.failed[0].error


def test_model_with_a_client_is_preferred_to_one_without() -> None:
    client = Client()
    routes: Any = [Route(None), Route(client), Route(None)]
    work = Deletions(lambda: routes)
    work.submit(THREAD, [own("x")])
    assert work.wait(10)
    assert client.asked == ["resp_x"]


def test_response_is_deleted_under_its_own_key_and_in_the_context_of_who_deletes() -> None:
    user: ContextVar[str] = ContextVar("user")
    seen: list[str] = []

    class Asking(Client):
        def delete(self, response_id: str) -> None:
            seen.append(user.get("nobody"))

    client = Asking()
    route: Any = Route(client, api_key="sk-1")
    work = Deletions(lambda: [route])
    for name in ("alice", "bob"):
        copy_context().run(lambda name=name: (user.set(name), work.submit(THREAD, [own(name)])))
        assert work.wait(10)
    assert seen == ["alice", "bob"]
    assert client.options == {"max_retries": 0, "api_key": "sk-1"}


def test_key_is_not_asked_for_when_a_thread_is_loaded() -> None:
    def never() -> str:
        raise AssertionError("there is no turn")

    with ConnectionManager() as manager:
        model = ChatOpenAIWebSocket(
            model="m", api_key=never, base_url="http://127.0.0.1:9/v1", manager=manager, transport="websocket"
        )
        saver = ChainSaver(InMemorySaver(), model=model)
        put(saver, 1)
        assert saver.get_tuple(config(run=True)) is not None
        assert manager.stats().dials == 0


@pytest.mark.parametrize("answers", [40, 280])
def test_answers_that_a_checkpoint_has_no_room_for_are_deleted_too(answers: int) -> None:
    client = Client()
    saver = ChainSaver(InMemorySaver(), on_delete="delete_responses")
    saver._deletions._routes = lambda: [Route(client)]
    put(saver, 1)
    for number in range(answers):
        noted(f"n{number}", 1, task=f"t{number}")
    put(saver, 2, 1)
    saver.delete_thread(THREAD)
    assert saver.deletions.wait(10)
    assert (len(set(client.asked)), saver.deletions.failed) == (answers, ())


def test_answers_that_are_too_many_to_remember_are_reported(caplog: pytest.LogCaptureFixture) -> None:
    client = Client()
    saver = ChainSaver(InMemorySaver(), on_delete="delete_responses")
    saver._deletions._routes = lambda: [Route(client)]
    for number in range(600):  # none is ever committed: 256 wait, 256 are kept to be deleted
        noted(f"n{number}", 1, task=f"t{number}")
    saver.delete_thread(THREAD)
    assert saver.deletions.wait(10)
    assert len(set(client.asked)) == 512
    (failed,) = saver.deletions.failed
    assert (failed.thread_id, failed.response_id) == (THREAD, "")
    assert failed.error == "88 were too many to remember"
    assert "88 were too many" in caplog.text


def test_savers_know_nothing_of_each_others_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "_numbers", count())
    clients = Client(), Client()
    savers = [ChainSaver(InMemorySaver(), on_delete="delete_responses") for _ in clients]
    for saver, client in zip(savers, clients, strict=True):
        saver._deletions._routes = lambda client=client: [Route(client)]
    for name, step in (("committed", 1), ("interrupted", 3)):
        noted(name, step)  # of the first saver
    for saver in (savers[1], savers[0]):
        put(saver, 2, 1)
    assert "openai_response_id" not in metadata(savers[1], 2)
    assert metadata(savers[0], 2)["openai_response_id"] == "resp_committed"
    assert savers[1].get_tuple(config(run=True)) is not None
    savers[1].delete_thread(THREAD)
    assert savers[1].deletions.wait(10)
    assert clients[1].asked == []
    savers[0].delete_thread(THREAD)
    assert savers[0].deletions.wait(10)
    assert sorted(clients[0].asked) == ["resp_committed", "resp_interrupted"]


def test_savers_over_one_checkpointer_share_what_they_know(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(book, "_numbers", count())
    inner = InMemorySaver()
    saver, again, other = ChainSaver(inner), ChainSaver(inner), ChainSaver(InMemorySaver())
    noted("x", 1)
    put(again, 2, 1)
    assert metadata(saver, 2)["openai_response_id"] == "resp_x"
    put(other, 2, 1)
    assert "openai_response_id" not in metadata(other, 2)


def test_only_own_stored_responses_are_deletable_and_each_once() -> None:
    links = [
        own("x"),
        own("x"),
        own("y", thread="other"),
        own("z", store=False),
        link("message"),
        None,
        "text",
    ]
    assert deletable(links, THREAD) == [own("x")]


def test_deleting_collects_from_every_checkpoint_of_every_branch() -> None:
    client = Client()
    route: Any = Route(client)
    saver = ChainSaver(InMemorySaver(), on_delete="delete_responses")
    for step, name in enumerate(("x", "y", "z"), 1):
        noted(name, step)
        put(saver, step + 1, step)
    noted("branch", 2)
    put(saver, 9, 2)
    saver = ChainSaver(restart(saver).inner, on_delete="delete_responses")
    INDEX.note(Origin("elsewhere", "m:t", "1", "t"), link("other"), route, on_socket=False)
    saver.delete_thread(THREAD)
    assert saver.deletions.wait(10)
    assert sorted(client.asked) == ["resp_branch", "resp_x", "resp_y", "resp_z"]
    assert saver.get_tuple(config()) is None


async def test_thread_is_deleted_even_if_its_checkpoints_cannot_be_listed() -> None:
    class Unlisted(InMemorySaver):
        def list(self, *args: Any, **kwargs: Any) -> Any:
            raise OSError("unreadable")

        async def alist(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            raise OSError("unreadable")
            yield

    saver = ChainSaver(Unlisted(), on_delete="delete_responses")
    put(saver, 1)
    saver.delete_thread(THREAD)
    assert saver.get_tuple(config()) is None
    put(saver, 1)
    await saver.adelete_thread(THREAD)
    assert saver.get_tuple(config()) is None
    assert (
        saver.deletions.failed
        == (FailedDeletion(THREAD, "", "its checkpoints cannot be listed: OSError"),) * 2
    )


class Pruning(InMemorySaver):
    def prune(self, thread_ids: Any, *, strategy: str = "keep_latest") -> None:
        if strategy == "delete":
            for thread_id in thread_ids:
                super().delete_thread(thread_id)

    async def aprune(self, thread_ids: Any, *, strategy: str = "keep_latest") -> None:
        self.prune(thread_ids, strategy=strategy)


@pytest.mark.parametrize("way", ["prune", "aprune"])
@pytest.mark.parametrize("strategy", ["keep_latest", "delete"])
async def test_pruning(strategy: str, way: str) -> None:
    client = Client()
    route: Any = Route(client)
    INDEX.note(Origin("elsewhere", "m:t", "1", "t"), link("other"), route, on_socket=False)
    saver = ChainSaver(Pruning(), on_delete="delete_responses")
    noted("x", 1)
    put(saver, 2, 1)
    # An iterator can be read once.
    if way == "prune":
        saver.prune(iter([THREAD]), strategy=strategy)  # type: ignore[arg-type]
    else:
        await saver.aprune(iter([THREAD]), strategy=strategy)  # type: ignore[arg-type]
    assert saver.deletions.wait(10)
    deleted = strategy == "delete"
    assert client.asked == (["resp_x"] if deleted else [])
    assert (INDEX.peek((0, THREAD)) is None) is deleted


def test_deletions_outlive_the_saver() -> None:
    go, gone_now = threading.Event(), threading.Event()

    class Slow(Client):
        def delete(self, response_id: str) -> None:
            assert go.wait(10)
            gone_now.set()

    route: Any = Route(Slow())
    saver = ChainSaver(InMemorySaver(), on_delete="delete_responses")
    INDEX.note(Origin("elsewhere", "m:t", "1", "t"), link("other"), route, on_socket=False)
    noted("x", 1)
    put(saver, 2, 1)
    saver.delete_thread(THREAD)
    del saver
    gc.collect()
    go.set()
    assert gone_now.wait(10)


# --- options --------------------------------------------------------------------------------------------------


def test_manager_and_model_are_taken() -> None:
    with ConnectionManager() as manager:
        model = ChatOpenAIWebSocket(
            model="gpt-test", api_key="key", base_url="http://127.0.0.1:1/v1", manager=manager
        )
        saver = ChainSaver(InMemorySaver(), manager=manager, model=model)
        put(saver, 1)
        assert saver.get_tuple(config()) is not None
        assert manager.stats().dials == 0


def test_failed_deletion_cannot_be_changed() -> None:
    failed = FailedDeletion(THREAD, "resp_x", "why")
    with pytest.raises(dataclasses.FrozenInstanceError):
        failed.error = "other"  # type: ignore[misc]
