"""The index of links: by thread and fingerprint, bounded, and in step with the checkpoints."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from waiting import eventually

from langchain_ws_responses import ChainSaver
from langchain_ws_responses._langchain.index import INDEX, ChainIndex, with_known_links
from langchain_ws_responses._langchain.origin import Commit, Entry, Origin, is_below, label_of, tasks_of
from langchain_ws_responses._protocol.chain import ChainKey, History, digest

if TYPE_CHECKING:
    from collections.abc import Iterator


class Route:
    """As much of a route as the index looks at."""

    def __init__(self, manager: Any = None, endpoint: Any = None) -> None:
        self.manager = manager
        self.endpoint = endpoint


class Manager:
    pass


ROUTE: Any = Route()
A, B = (0, "a"), (0, "b")


def link(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": f"resp_{name}", "fp": f"fp_{name}", "store": True, **fields}


def origin(checkpoint: str = "1", ns: str = "model:t1", thread: str = "a", attempt: int = 1) -> Origin:
    return Origin(thread, ns, checkpoint, ns.rpartition(":")[2], attempt)


def noted(index: ChainIndex, name: str, where: Origin | None = None, **fields: Any) -> None:
    index.note(where or origin(), link(name, **fields), ROUTE, on_socket=False)


def commit(index: ChainIndex, parent: str, checkpoint: str, ns: str = "", thread: str = "a") -> list[str]:
    """Commits what a checkpoint commits; the names of the answers."""
    entries = index.uncommitted((0, thread), ns, parent, checkpoint)
    chain = {label_of(ns, entry.origin): entry.link for entry in entries}
    newest = entries[-1].link["id"] if entries else ""
    index.committed((0, thread), ns, checkpoint, Commit(chain, newest), entries)
    return [entry.link["id"].removeprefix("resp_") for entry in entries]


def pending(index: ChainIndex, thread: str = "a") -> list[str]:
    known = index.peek((0, thread))
    return [] if known is None else [entry.link["id"].removeprefix("resp_") for entry in known.pending]


# --- look-ups -----------------------------------------------------------------------------------------------


def test_nothing_is_known_at_first() -> None:
    index = ChainIndex()
    assert index.lookup(A, "fp_x") is None
    assert index.peek(A) is None
    assert index.uncommitted(A, "", "", "9") == []
    assert index.forget(A) == []
    assert index.place(A) is None
    assert index.routes() == []


def test_answer_is_found_before_and_after_its_checkpoint() -> None:
    index = ChainIndex()
    noted(index, "x")
    assert index.lookup(A, "fp_x") == link("x", thread="a")
    assert commit(index, "1", "2") == ["x"]
    assert pending(index) == []
    assert index.lookup(A, "fp_x") == link("x", thread="a")


def test_answer_is_found_in_its_thread_only() -> None:
    index = ChainIndex()
    noted(index, "x")
    assert index.lookup(B, "fp_x") is None


def test_newest_of_two_answers_with_one_fingerprint_is_found() -> None:
    index = ChainIndex()
    noted(index, "old", fp="same")
    commit(index, "1", "2")
    noted(index, "new", origin("2"), fp="same")
    assert index.lookup(A, "same") == link("new", fp="same", thread="a")
    commit(index, "2", "3")
    assert index.lookup(A, "same") == link("new", fp="same", thread="a")


def test_answer_noted_twice_is_there_once() -> None:
    index = ChainIndex()
    index.written([Entry(origin(), link("x"))])
    noted(index, "x")
    assert pending(index) == ["x"]
    assert index.lookup(A, "fp_x") == link("x", thread="a")


def test_what_a_message_brought_is_nobodys_own() -> None:
    index = ChainIndex()
    index.written([Entry(origin(), link("x"))])
    assert index.lookup(A, "fp_x") == link("x")
    assert index.forget(A) == []


# --- commits ------------------------------------------------------------------------------------------------


def test_checkpoint_commits_the_answers_of_its_own_step_only() -> None:
    """With durability "async" the next step may have its answer before this step's checkpoint is saved."""
    index = ChainIndex()
    noted(index, "first", origin("1"))
    noted(index, "second", origin("2"))
    assert commit(index, "1", "2") == ["first"]
    assert pending(index) == ["second"]
    assert commit(index, "2", "3") == ["second"]


def test_checkpoint_at_the_end_of_a_run_commits_all_its_steps() -> None:
    index = ChainIndex()
    for step, name in enumerate("xyz", 2):
        noted(index, name, origin(str(step)))
    assert commit(index, "1", "5") == ["x", "y", "z"]


def test_first_checkpoint_of_a_thread_has_no_parent() -> None:
    index = ChainIndex()
    noted(index, "x", origin("1"))
    assert commit(index, "", "2") == ["x"]


def test_inner_graph_and_the_graph_around_it_both_commit() -> None:
    index = ChainIndex()
    noted(index, "x", origin("5", "sub:t1|model:t2"))
    noted(index, "other", origin("5", "elsewhere:t3|model:t4"))
    assert commit(index, "5", "6", ns="sub:t1") == ["x"]
    assert pending(index) == ["x", "other"]
    assert commit(index, "1", "7") == ["x", "other"]
    assert pending(index) == []


def test_what_a_checkpoint_said_is_remembered() -> None:
    index = ChainIndex()
    noted(index, "x")
    commit(index, "1", "2")
    known = index.peek(A)
    assert known is not None
    assert known.commits["", "2"] == Commit({"model": link("x", thread="a")}, "resp_x")
    assert known.current == ("", "2")


def test_later_attempt_replaces_the_answer_of_an_earlier_one() -> None:
    index = ChainIndex()
    noted(index, "one", origin(attempt=1))
    noted(index, "two", origin(attempt=2))
    assert pending(index) == ["two"]
    # It was stored all the same, and goes when the thread goes.
    assert index.forget(A) == [link("one", thread="a"), link("two", thread="a")]


def test_several_answers_of_one_attempt_are_all_kept() -> None:
    index = ChainIndex()
    noted(index, "one")
    noted(index, "two")
    assert commit(index, "1", "2") == ["one", "two"]


# --- loads --------------------------------------------------------------------------------------------------


def test_loaded_links_are_found() -> None:
    index = ChainIndex()
    index.load(A, "", "7", Commit({"model": link("x")}, "resp_x"), [link("y")])
    assert index.lookup(A, "fp_x") == link("x")
    assert index.lookup(A, "fp_y") == link("y")


def test_checkpoint_that_a_run_goes_on_from_wins_over_a_younger_response() -> None:
    index = ChainIndex()
    old, young = link("old", fp="same"), link("young", fp="same")
    index.load(A, "", "2", Commit({"model": young}, ""))
    index.load(A, "", "1", Commit({"model": old}, ""))
    assert index.lookup(A, "same") == young
    index.load(A, "", "1", Commit({"model": old}, ""), replaces=True)
    assert index.lookup(A, "same") == old


def test_link_on_a_message_wins_over_nothing() -> None:
    index = ChainIndex()
    index.load(A, "", "1", Commit({"model": link("x")}, ""))
    index.load(A, "", "1", Commit({}, ""), [link("forged", fp="fp_x")], replaces=True)
    assert index.lookup(A, "fp_x") == link("x")


def test_listing_pushes_nothing_out() -> None:
    index = ChainIndex(max_links=2, max_commits=2)
    for name in "xy":
        index.load(A, "", name, Commit({"model": link(name)}, ""))
    for name in "wvu":
        index.load(A, "", name, Commit({"model": link(name)}, ""), listed=True)
    known = index.peek(A)
    assert known is not None
    assert list(known.links) == ["fp_x", "fp_y"]
    assert list(known.commits) == [("", "x"), ("", "y")]
    assert known.current == ("", "y")


def test_listed_links_are_the_first_to_go() -> None:
    index = ChainIndex(max_links=2)
    index.load(A, "", "2", Commit({"model": link("new")}, ""))
    index.load(A, "", "1", Commit({"model": link("old")}, ""), listed=True)
    index.load(A, "", "3", Commit({"model": link("newest")}, ""))
    assert index.lookup(A, "fp_old") is None
    assert index.lookup(A, "fp_new") is not None


def test_waiting_answers_are_dropped_at_the_next_load() -> None:
    index = ChainIndex()
    noted(index, "orphan")
    index.discard(A, "", set())
    assert pending(index) == []
    assert index.lookup(A, "fp_orphan") is None
    assert commit(index, "1", "2") == []


def test_answers_of_tasks_whose_writes_were_saved_go_on_waiting() -> None:
    index = ChainIndex()
    noted(index, "done", origin(ns="model:t1"))
    noted(index, "inner", origin(ns="sub:t2|model:t9"))
    noted(index, "failed", origin(ns="model:t3"))
    index.discard(A, "", {"t1", "t2"})
    assert pending(index) == ["done", "inner"]


def test_load_of_an_inner_graph_drops_its_own_answers_only() -> None:
    index = ChainIndex()
    noted(index, "ours", origin("5", "sub:t1|model:t2"))
    noted(index, "sibling", origin("5", "sub:t8|model:t9"))
    index.discard(A, "sub:t1", set())
    assert pending(index) == ["sibling"]


def test_load_of_an_inner_graph_keeps_what_it_has_committed() -> None:
    """It may be called again in the same step, before the graph around it commits."""
    index = ChainIndex()
    noted(index, "x", origin("5", "sub:t1|model:t2"))
    commit(index, "5", "6", ns="sub")
    index.discard(A, "sub", set())
    assert commit(index, "1", "9") == ["x"]


def test_forgotten_thread_gives_back_its_own_uncommitted_answers() -> None:
    index = ChainIndex()
    noted(index, "orphan")
    index.discard(A, "", set())
    noted(index, "committed")
    commit(index, "1", "2")
    noted(index, "waiting", origin("2"))
    assert [entry["id"] for entry in index.forget(A)] == ["resp_orphan", "resp_waiting"]
    assert index.peek(A) is None
    assert "0/" in repr(index)


# --- bounds -------------------------------------------------------------------------------------------------


def total(index: ChainIndex) -> int:
    return int(repr(index).partition("threads, ")[2].partition(" ")[0])


def test_thread_unused_for_longest_is_forgotten_first() -> None:
    index = ChainIndex(max_threads=2)
    for thread in ("a", "b"):
        noted(index, thread, origin(thread=thread))
    noted(index, "again", origin(thread="a"))
    noted(index, "c", origin(thread="c"))
    assert index.peek(B) is None
    assert index.peek(A) is not None
    assert total(index) == 3


def test_oldest_links_of_a_thread_are_forgotten_first() -> None:
    index = ChainIndex(max_links=3)
    for number in range(5):
        noted(index, str(number), origin(str(number)))
        commit(index, str(number), str(number + 1))
    known = index.peek(A)
    assert known is not None
    assert list(known.links) == ["fp_2", "fp_3", "fp_4"]


def test_link_that_is_looked_up_stays_longer() -> None:
    index = ChainIndex(max_links=2)
    for number in range(2):
        index.load(A, "", str(number), Commit({"model": link(str(number))}, ""))
    index.lookup(A, "fp_0")
    index.load(A, "", "2", Commit({"model": link("2")}, ""))
    assert index.lookup(A, "fp_0") is not None
    assert index.lookup(A, "fp_1") is None


def test_waiting_answers_and_checkpoints_are_bounded() -> None:
    index = ChainIndex(max_links=3, max_commits=2)
    for number in range(6):
        noted(index, str(number), origin("1", f"model:t{number}"))
        index.written([Entry(origin("1", f"model:t{number}"), link(f"w{number}"))])
        index.committed(A, "", f"c{number}", Commit({}, ""), [])
    known = index.peek(A)
    assert known is not None
    assert len(known.pending) == 3
    assert list(known.commits) == [("", "c4"), ("", "c5")]
    assert total(index) == known.size


def test_all_together_is_bounded() -> None:
    index = ChainIndex(max_total=20)
    for number in range(50):
        noted(index, str(number), origin(thread=f"t{number % 10}"))
    assert total(index) <= 20
    assert index.peek((0, "t9")) is not None


# --- where a turn went ----------------------------------------------------------------------------------------


def test_place_is_that_of_the_newest_turn_over_a_socket() -> None:
    index = ChainIndex()
    manager = Manager()
    route: Any = Route(manager, "endpoint")
    index.note(origin(), link("x"), route, on_socket=True)
    index.note(origin(), link("y"), ROUTE, on_socket=False)
    assert index.place(A) == (manager, "endpoint")
    assert set(index.routes()) == {route, ROUTE}


def test_index_keeps_neither_manager_nor_route_alive() -> None:
    index = ChainIndex()
    manager = Manager()
    route: Any = Route(manager, "endpoint")
    index.note(origin(), link("x"), route, on_socket=True)
    del manager, route
    # `gc.collect` does nothing while another thread collects.
    eventually(lambda: (gc.collect(), index.routes())[1] == [], "nobody holds the route")
    assert index.place(A) is None


# --- where a turn runs ----------------------------------------------------------------------------------------


@pytest.fixture
def active(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(INDEX, "active", True)
    yield
    INDEX.clear()


@pytest.mark.usefixtures("active")
def test_here_is_nowhere_outside_a_graph() -> None:
    assert INDEX.here() is None


class PassesOn(InMemorySaver):
    """A saver around another one, like the one that LangGraph's server puts around an app's own."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.around = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self.around, name)


@pytest.mark.usefixtures("active")
@pytest.mark.parametrize("around", [lambda saver: saver, PassesOn], ids=["itself", "inside another"])
def test_here_tells_saver_thread_step_and_task(around: Any) -> None:
    saver = ChainSaver(InMemorySaver())
    found: list[Origin | None] = []
    graph: Any = StateGraph(dict)
    graph.add_node("node", lambda _: found.append(INDEX.here()))
    graph.add_edge(START, "node")
    app = graph.compile(checkpointer=around(saver))
    app.invoke({"x": 1}, {"configurable": {"thread_id": "a"}})
    before = next(
        state for state in app.get_state_history({"configurable": {"thread_id": "a"}}) if state.next
    )
    task = before.tasks[0].id
    checkpoint = before.config["configurable"]["checkpoint_id"]
    assert found == [Origin("a", f"node:{task}", checkpoint, task, 1, saver._book.scope)]


@pytest.mark.usefixtures("active")
def test_here_is_nowhere_where_another_saver_saves() -> None:
    ChainSaver(InMemorySaver())
    found: list[Origin | None] = []
    graph: Any = StateGraph(dict)
    graph.add_node("node", lambda _: found.append(INDEX.here()))
    graph.add_edge(START, "node")
    graph.compile(checkpointer=InMemorySaver()).invoke({"x": 1}, {"configurable": {"thread_id": "a"}})
    assert found == [None]


@pytest.mark.usefixtures("active")
def test_here_is_nowhere_without_a_checkpointer() -> None:
    found: list[Origin | None] = []
    graph: Any = StateGraph(dict)
    graph.add_node("node", lambda _: found.append(INDEX.here()))
    graph.add_edge(START, "node")
    graph.compile().invoke({"x": 1})
    assert found == [None]


def test_here_asks_nothing_while_no_saver_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setitem(
        sys.modules, "langgraph.runtime", SimpleNamespace(get_runtime=lambda: asked.append("asked"))
    )
    assert ChainIndex().here() is None
    assert asked == []


@pytest.mark.parametrize("info", [None, SimpleNamespace()], ids=["none", "an older langgraph"])
def test_here_is_nowhere_without_information(info: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = SimpleNamespace(execution_info=info)
    module = SimpleNamespace(get_runtime=lambda: runtime)
    monkeypatch.setitem(sys.modules, "langgraph.runtime", module)
    index = ChainIndex()
    index.active = True
    assert index.here() is None


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ns", "task_ns", "label"),
    [
        ("", "model:t1", "model"),
        ("", "researcher:t1|model:t2", "researcher|model"),
        ("researcher:t1", "researcher:t1|model:t2", "model"),
        ("researcher", "researcher:t1|model:t2", "model"),
        ("", "researcher:t1|2|model:t2", "researcher|model"),
    ],
)
def test_label_names_the_node_as_the_graph_sees_it(ns: str, task_ns: str, label: str) -> None:
    assert label_of(ns, origin(ns=task_ns)) == label


@pytest.mark.parametrize(
    ("ns", "task_ns", "below"),
    [
        ("", "model:t1", True),
        ("sub:t1", "sub:t1|model:t2", True),
        ("sub:t1", "sub:t3|model:t2", False),
        ("sub:t1", "sub:t12|model:t2", False),
        ("sub", "sub:t1|model:t2", True),
        ("sub", "subway:t1|model:t2", False),
        ("sub|deep", "sub:t1|deep:t2|model:t3", True),
        ("sub|deep", "sub:t1|model:t3", False),
    ],
)
def test_task_runs_in_a_graph_or_not(ns: str, task_ns: str, below: bool) -> None:
    assert is_below(ns, task_ns) is below


def test_tasks_around_a_task() -> None:
    assert tasks_of(Origin("a", "sub:t1|2|model:t2", "1", "t2")) == ["t2", "t1", "t2"]


# --- links for the plan -----------------------------------------------------------------------------------------

KEY = ChainKey(b"secret", ["scope"])
DIGESTS = [digest(name.encode()) for name in ("question", "answer", "more", "second", "last")]


def history(*links: tuple[int, Any], head: int = 0) -> History:
    return History(digests=DIGESTS, head=head, links=list(links))


def known_at(index: ChainIndex, *positions: int, head: int = 0) -> None:
    for position in positions:
        fp = KEY.fingerprint(DIGESTS[head : position + 1])
        index.load(A, "", str(position), Commit({"model": link(str(position), fp=fp)}, ""))


def alive(response_id: str, stored: bool) -> bool:
    return stored


def test_message_without_a_link_gets_the_one_of_its_fingerprint() -> None:
    index = ChainIndex()
    known_at(index, 1, 3)
    found = with_known_links(history((3, None), (1, None)), origin(), KEY, alive, index=index)
    assert found is not None
    # The newest will do: nothing older is looked up.
    assert [(position, entry and entry["id"]) for position, entry in found.links] == [
        (3, "resp_3"),
        (1, None),
    ]


def test_older_link_is_looked_up_where_the_newest_is_not_alive() -> None:
    index = ChainIndex()
    known_at(index, 1, 3)
    given = history((3, None), (1, None))
    found = with_known_links(given, origin(), KEY, lambda name, _: name != "resp_3", index=index)
    assert found is not None
    assert [entry["id"] for _, entry in found.links] == ["resp_3", "resp_1"]


def test_older_link_is_looked_up_where_the_newest_would_send_nothing() -> None:
    index = ChainIndex()
    known_at(index, 3, 4)
    found = with_known_links(history((4, None), (3, None)), origin(), KEY, alive, index=index)
    assert found is not None
    assert [entry["id"] for _, entry in found.links] == ["resp_4", "resp_3"]


def test_link_of_the_message_itself_stays() -> None:
    index = ChainIndex()
    known_at(index, 1, 3)
    own = link("own")
    found = with_known_links(history((3, own), (1, None)), origin(), KEY, alive, index=index)
    assert found is not None
    assert [entry["id"] for _, entry in found.links] == ["resp_own", "resp_1"]


def test_only_messages_after_the_one_that_can_be_continued_are_looked_up() -> None:
    index = ChainIndex()
    known_at(index, 1)
    assert (
        with_known_links(history((3, link("own")), (1, None)), origin(), KEY, alive, after=3, index=index)
        is None
    )


def test_leading_system_messages_are_no_part_of_the_fingerprint() -> None:
    index = ChainIndex()
    known_at(index, 3, head=1)
    assert with_known_links(history((3, None), head=1), origin(), KEY, alive, index=index) is not None
    assert with_known_links(history((3, None)), origin(), KEY, alive, index=index) is None


def test_nothing_is_hashed_for_a_thread_without_entries() -> None:
    class NoKey:
        def fingerprint(self, digests: Any) -> str:
            raise AssertionError("hashed")

    key: Any = NoKey()
    assert with_known_links(history((3, None)), origin(), key, alive, index=ChainIndex()) is None


def test_search_is_bounded() -> None:
    counted: list[int] = []

    class Counting:
        def fingerprint(self, digests: Any) -> str:
            counted.append(len(digests))
            return "unknown"

    index = ChainIndex()
    noted(index, "x")
    many = History(digests=DIGESTS * 100, head=0, links=[(number, None) for number in range(499, -1, -1)])
    key: Any = Counting()
    assert with_known_links(many, origin(), key, alive, index=index) is None
    assert len(counted) == 64


# --- process --------------------------------------------------------------------------------------------------


def test_many_threads_at_once_lose_nothing() -> None:
    index = ChainIndex(max_threads=64)
    start = threading.Barrier(8)

    def work(number: int) -> list[str]:
        start.wait(10)
        found = []
        for step in range(200):
            thread = f"t{number}"
            name = f"{number}-{step}"
            where = Origin(thread, f"model:{step}", f"{step:04}", str(step))
            noted(index, name, where)
            found += commit(index, f"{step:04}", f"{step + 1:04}", thread=thread)
            assert index.lookup((0, thread), f"fp_{name}") is not None
        return found

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    for number, found in enumerate(results):
        assert found == [f"{number}-{step}" for step in range(200)]
    assert total(index) == sum(known.size for number in range(8) if (known := index.peek((0, f"t{number}"))))


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=100
    )
    return done.stdout.strip()


def test_neither_the_model_nor_the_index_imports_langgraph() -> None:
    script = (
        "import sys\n"
        "from langchain_ws_responses import ChatOpenAIWebSocket\n"
        "import langchain_ws_responses._langchain.index, langchain_ws_responses._langchain.origin\n"
        "print([name for name in sys.modules if name.split('.')[0] == 'langgraph'])"
    )
    assert run(script) == "[]"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is missing on this system")
def test_child_of_a_fork_starts_with_an_empty_index_and_a_free_lock() -> None:
    script = (
        "import os\n"
        "from langchain_ws_responses._langchain.index import INDEX\n"
        "from langchain_ws_responses._langchain.origin import Commit\n"
        "INDEX.active = True\n"
        "INDEX.load('a', '', '1', Commit({'m': {'id': 'r', 'fp': 'f'}}, ''))\n"
        "with INDEX._lock:\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        os._exit(0 if INDEX.lookup('a', 'f') is None and INDEX.active else 1)\n"
        "print(os.waitpid(child, 0)[1], INDEX.lookup('a', 'f') is not None)"
    )
    assert run(script) == "0 True"
