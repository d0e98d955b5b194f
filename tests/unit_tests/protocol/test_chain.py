"""The plan: a delta only where a link proves it, and a reason for every full send."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from langchain_ws_responses._protocol.chain import (
    LINK_VERSION,
    Begun,
    ChainKey,
    History,
    Plan,
    digest,
    plan,
    proves,
)
from langchain_ws_responses._types import Reason, SendMode

SECRET = b"the key of one tenant"
SCOPE = ("https://api.openai.com/v1", "org", "project", "m")


@dataclass(frozen=True)
class Message:
    """A message as far as these tests need one: who speaks, what is said, which link it carries."""

    role: str
    text: str
    link: Any = None

    @property
    def digest(self) -> bytes:
        return digest(f"{self.role}:{self.text}".encode())


def history(messages: Sequence[Message], *, text_head: bool = True) -> History:
    head = 0
    while head < len(messages) and messages[head].role == "system":
        head += 1
    links = [(at, message.link) for at, message in enumerate(messages) if message.role == "ai"]
    return History([message.digest for message in messages], head, links[::-1], text_head)


def key(secret: bytes = SECRET, scope: Sequence[str | None] = SCOPE) -> ChainKey:
    return ChainKey(secret, scope)


def answered(
    messages: Sequence[Message],
    response_id: str,
    text: str = "an answer",
    *,
    instructions: bool = False,
    chain_key: ChainKey | None = None,
    **changes: Any,
) -> list[Message]:
    """The messages and the answer to them, which carries the link that was made for it."""
    chain_key = chain_key or key()
    answer = Message("ai", text)
    made_from = history([*messages, answer])
    fields: dict[str, Any] = {
        "response_id": response_id,
        "fp": chain_key.fingerprint(made_from.digests[made_from.head :]),
        "system": "" if instructions else chain_key.system(made_from.digests[: made_from.head]),
        "store": True,
        "model": "m",
        "node": "agent",
        "conn": "c1",
        **changes,
    }
    return [*messages, replace(answer, link=chain_key.make_link(**fields))]


def planned(
    messages: Sequence[Message],
    *,
    chain_key: ChainKey | None = None,
    model: str = "m",
    system_mode: str = "auto",
    alive: Callable[[str, bool], bool] = lambda response_id, stored: True,
    text_head: bool = True,
) -> Plan:
    return plan(
        history(messages, text_head=text_head),
        key=chain_key or key(),
        model=model,
        system_mode=system_mode,
        alive=alive,
    )


def full(result: Plan, reason: Reason, *, instructions: bool = False) -> bool:
    return result == Plan(SendMode.FULL, reason, instructions=instructions)


SYSTEM, QUESTION, MORE = Message("system", "be brief"), Message("human", "hi"), Message("human", "more")


# -- the ordinary life of a chain ---


def test_a_first_turn_goes_in_full() -> None:
    assert full(planned([SYSTEM, QUESTION]), Reason.FIRST_TURN)
    assert full(planned([]), Reason.FIRST_TURN)


def test_a_second_turn_sends_what_is_new() -> None:
    messages = [*answered([SYSTEM, QUESTION], "r1"), MORE, Message("human", "and more")]
    result = planned(messages)
    assert result.mode is SendMode.DELTA
    assert result.reason is Reason.CHAIN
    assert (result.start, result.previous_response_id, result.stored) == (3, "r1", True)
    assert (result.instructions, result.link) == (False, messages[2].link)


def test_the_newest_answer_is_continued() -> None:
    messages = answered([*answered([QUESTION], "r1"), MORE], "r2", "another")
    result = planned([*messages, Message("tool", "42")])
    assert (result.previous_response_id, result.start) == ("r2", 4)


def test_an_answer_in_between_without_a_link_costs_nothing_but_bytes() -> None:
    messages = [*answered([QUESTION], "r1"), MORE, Message("ai", "by hand"), Message("human", "go on")]
    result = planned(messages)
    assert (result.mode, result.previous_response_id, result.start) == (SendMode.DELTA, "r1", 2)


def test_answers_that_never_had_a_link_say_so() -> None:
    assert full(planned([QUESTION, Message("ai", "by hand"), MORE]), Reason.NO_LINK)


def test_with_nothing_new_an_older_answer_is_continued_and_never_an_empty_delta_sent() -> None:
    messages = answered([*answered([QUESTION], "r1"), MORE], "r2")
    result = planned(messages)
    assert (result.mode, result.previous_response_id, result.start) == (SendMode.DELTA, "r1", 2)
    assert full(planned(answered([QUESTION], "r1")), Reason.NOTHING_NEW)


@pytest.mark.parametrize("stored", [True, False])
def test_only_a_living_response_is_continued(stored: bool) -> None:
    messages = [*answered([QUESTION], "r1", store=stored), MORE]
    asked: list[tuple[str, bool]] = []

    def alive(response_id: str, was_stored: bool) -> bool:
        asked.append((response_id, was_stored))
        return was_stored

    result = planned(messages, alive=alive)
    assert asked == [("r1", stored)]
    if stored:
        assert (result.mode, result.stored) == (SendMode.DELTA, True)
    else:
        assert full(result, Reason.NOT_ALIVE)


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_what_litellm_answered_is_continued_only_where_it_was_made(provider: str) -> None:
    # The proxy keeps managed histories per connection, and truncates them without a word on another one.
    inner = f"litellm:custom_llm_provider:{provider};model_id:1;response_id:resp_1"
    response_id = "resp_" + base64.b64encode(inner.encode()).decode()
    messages = [*answered([QUESTION], response_id, store=True), MORE]
    asked: list[tuple[str, bool]] = []
    result = planned(messages, alive=lambda *given: bool(asked.append(given)) or True)
    assert asked == [(response_id, False)]
    # Nor may the transport take it to another connection.
    assert (result.mode, result.stored) == (SendMode.DELTA, False)
    assert full(planned(messages, alive=lambda _, loads: loads), Reason.NOT_ALIVE)


def test_an_older_response_that_lives_is_better_than_none() -> None:
    messages = [*answered([*answered([QUESTION], "r1"), MORE], "r2"), MORE]
    result = planned(messages, alive=lambda response_id, _: response_id == "r1")
    assert (result.mode, result.previous_response_id, result.start) == (SendMode.DELTA, "r1", 2)
    assert full(planned(messages, alive=lambda *_: False), Reason.NOT_ALIVE)


def test_an_unproved_link_is_never_asked_for() -> None:
    messages = [*answered([QUESTION], "r1"), MORE]
    messages[0] = Message("human", "hello")

    def alive(response_id: str, stored: bool) -> bool:
        raise AssertionError("a response that nobody proved was looked up")

    assert full(planned(messages, alive=alive), Reason.HISTORY_CHANGED)


# -- links ---


def test_a_link_is_a_plain_dict() -> None:
    link = answered([QUESTION], "r1", store=False)[-1].link
    assert type(link) is dict
    assert {name: type(value) for name, value in link.items()} == {
        "v": int,
        "id": str,
        "fp": str,
        "sys": str,
        "model": str,
        "store": bool,
        "node": str,
        "conn": str,
        "sig": str,
    }
    assert (link["v"], link["id"], link["model"], link["store"]) == (LINK_VERSION, "r1", "m", False)
    assert (link["node"], link["conn"]) == ("agent", "c1")
    assert json.loads(json.dumps(link)) == link
    assert (
        planned([Message("human", "hi"), replace(Message("ai", "an answer"), link=link), MORE]).link == link
    )


def test_a_link_without_a_connection_does_not_name_one() -> None:
    assert "conn" not in answered([QUESTION], "r1", conn="")[-1].link


def test_a_link_holds_neither_the_secret_nor_a_text() -> None:
    text = json.dumps(answered([SYSTEM, QUESTION], "r1")[-1].link)
    for hidden in (SECRET.decode(), SYSTEM.text, QUESTION.text, "an answer", *SCOPE[:3]):
        assert hidden not in text


@pytest.mark.parametrize(
    "value",
    [
        "r1",
        7,
        [],
        {},
        {"id": "r1"},
        ("id", "r1"),
        True,
    ],
)
def test_what_is_no_link_proves_nothing(value: Any) -> None:
    messages = [QUESTION, Message("ai", "an answer", value), MORE]
    assert full(planned(messages), Reason.BAD_LINK)


@pytest.mark.parametrize("field", ["v", "id", "fp", "sys", "sig", "model", "store"])
@pytest.mark.parametrize("value", [None, 2, 1.0, True, "x", b"x", [], {}, ..., "é", "\ud800"])
def test_a_field_of_another_kind_or_value_breaks_the_link(field: str, value: Any) -> None:
    messages = [*answered([QUESTION], "r1", store=False), MORE]
    link = dict(messages[1].link)
    if value is ...:
        del link[field]
    else:
        link[field] = value
    messages[1] = replace(messages[1], link=link)
    result = planned(messages)
    changed_model = field == "model" and isinstance(value, str)
    assert full(result, Reason.MODEL_CHANGED if changed_model else Reason.BAD_LINK)


def test_labels_may_change_because_they_prove_nothing() -> None:
    messages = [*answered([QUESTION], "r1"), MORE]
    link = {**messages[1].link, "node": "other", "conn": "other", "added": 1}
    messages[1] = replace(messages[1], link=link)
    assert planned(messages).mode is SendMode.DELTA


def test_a_forged_id_is_refused() -> None:
    """Graph input is user input: it must not name another tenant's response."""
    messages = [*answered([QUESTION], "r1"), MORE]
    messages[1] = replace(messages[1], link={**messages[1].link, "id": "resp_of_somebody_else"})
    assert full(planned(messages), Reason.BAD_LINK)


def test_a_link_that_claims_to_be_stored_is_refused() -> None:
    messages = [*answered([QUESTION], "r1", store=False), MORE]
    messages[1] = replace(messages[1], link={**messages[1].link, "store": True})
    assert full(planned(messages), Reason.BAD_LINK)


def test_a_link_copied_to_another_conversation_proves_nothing() -> None:
    link = answered([QUESTION], "r1")[-1].link
    assert full(
        planned([Message("human", "other"), Message("ai", "an answer", link), MORE]), Reason.HISTORY_CHANGED
    )
    assert full(
        planned([QUESTION, Message("ai", "another answer", link), MORE]),
        Reason.HISTORY_CHANGED,
    )


def test_a_link_copied_to_another_place_of_its_conversation_proves_nothing() -> None:
    messages = [*answered([QUESTION], "r1"), MORE, Message("ai", "by hand"), Message("human", "go on")]
    messages[3] = replace(messages[3], link=messages[1].link)
    messages[1] = replace(messages[1], link=None)
    assert full(planned(messages), Reason.HISTORY_CHANGED)


@pytest.mark.parametrize(
    "other",
    [
        key(b"the key of another tenant"),
        key(b""),
        key(scope=("https://eu.api.openai.com/v1", "org", "project", "m")),
        key(scope=("https://api.openai.com/v1", "org2", "project", "m")),
        key(scope=("https://api.openai.com/v1", None, "project", "m")),
        key(scope=("https://api.openai.com/v1", "org", "project2", "m")),
        key(scope=("https://api.openai.com/v1", "org", None, "m")),
        key(scope=("https://api.openai.com/v1", "org", "project", "m2")),
        # The same characters, cut elsewhere.
        key(scope=("https://api.openai.com/v1", "orgproject", "", "m")),
        key(scope=("https://api.openai.com/v1", 'org", "project', "m")),
    ],
)
def test_a_link_does_not_leave_its_tenant_endpoint_and_project(other: ChainKey) -> None:
    messages = [*answered([QUESTION], "r1"), MORE]
    assert full(planned(messages, chain_key=other), Reason.BAD_LINK)
    assert planned(messages).mode is SendMode.DELTA


def test_a_shared_secret_shares_chains() -> None:
    messages = [*answered([QUESTION], "r1"), MORE]
    assert planned(messages, chain_key=key(bytes(SECRET), list(SCOPE))).mode is SendMode.DELTA


def test_a_chain_is_not_continued_under_another_model() -> None:
    messages = [*answered([QUESTION], "r1"), MORE]
    assert full(planned(messages, model="m2"), Reason.MODEL_CHANGED)
    back = answered(messages, "r2", chain_key=key(scope=(*SCOPE[:3], "m2")), model="m2")
    result = planned([*back, MORE])
    assert (result.mode, result.previous_response_id, result.start) == (SendMode.DELTA, "r1", 2)


def test_the_newest_links_trouble_is_the_reason() -> None:
    older = answered([QUESTION], "r1", chain_key=key(b"another"))
    newer = answered([*older, MORE], "r2", store=False)
    assert full(planned([*newer, MORE], alive=lambda *_: False), Reason.NOT_ALIVE)
    unlinked = [*older, MORE, Message("ai", "by hand"), MORE]
    assert full(planned(unlinked), Reason.BAD_LINK)


def test_digests_differ_where_the_content_does() -> None:
    contents = [b"", b"a", b"b", b"a ", b"ab"]
    digests = [digest(content) for content in contents]
    assert len(set(digests)) == len(contents)
    assert {len(value) for value in digests} == {32}
    assert digest(b"a") == digests[1]


# -- system messages ---

BRIEF, LONG = Message("system", "be brief"), Message("system", "be long")


def after_system_change(system_mode: str, **kwargs: Any) -> Plan:
    messages = [*answered([BRIEF, QUESTION], "r1"), MORE]
    messages[0] = LONG
    return planned(messages, system_mode=system_mode, **kwargs)


def test_a_new_system_prompt_starts_the_chain_anew() -> None:
    assert full(after_system_change("input"), Reason.SYSTEM_CHANGED)
    assert full(after_system_change("auto"), Reason.SYSTEM_CHANGED, instructions=True)


def test_system_text_that_instructions_cannot_hold_stays_in_the_input() -> None:
    assert full(after_system_change("auto", text_head=False), Reason.SYSTEM_CHANGED)
    first = planned([BRIEF, QUESTION], system_mode="instructions", text_head=False)
    assert full(first, Reason.FIRST_TURN)
    assert full(planned([BRIEF, QUESTION], system_mode="instructions"), Reason.FIRST_TURN, instructions=True)


@pytest.mark.parametrize("mode", ["auto", "instructions"])
@pytest.mark.parametrize(
    "system", [[BRIEF], [LONG], [BRIEF, LONG], []], ids=["same", "other", "more", "none"]
)
def test_a_chain_with_instructions_outlives_every_change_of_system_text(
    mode: str, system: list[Message]
) -> None:
    tail = [*answered([BRIEF, QUESTION], "r1", instructions=True)[1:], MORE]
    result = planned([*system, *tail], system_mode=mode)
    assert (result.mode, result.previous_response_id) == (SendMode.DELTA, "r1")
    assert (result.instructions, result.start) == (True, len(system) + 2)


def test_a_chain_with_instructions_is_left_where_system_text_must_be_in_the_input() -> None:
    messages = [*answered([BRIEF, QUESTION], "r1", instructions=True), MORE]
    assert full(planned(messages, system_mode="input"), Reason.SYSTEM_CHANGED)
    assert full(planned(messages, text_head=False), Reason.SYSTEM_CHANGED)


def test_a_chain_with_system_input_is_left_where_it_must_be_in_instructions() -> None:
    messages = [*answered([BRIEF, QUESTION], "r1"), MORE]
    assert full(planned(messages, system_mode="instructions"), Reason.SYSTEM_CHANGED, instructions=True)


def test_system_input_that_did_not_change_is_continued_in_the_input() -> None:
    messages = [*answered([BRIEF, QUESTION], "r1"), MORE]
    for mode in ("auto", "input"):
        result = planned(messages, system_mode=mode)
        assert (result.mode, result.instructions) == (SendMode.DELTA, False)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([], [BRIEF]),
        ([BRIEF], []),
        ([BRIEF], [BRIEF, LONG]),
        ([BRIEF, LONG], [LONG, BRIEF]),
        ([BRIEF], [LONG]),
    ],
)
def test_every_change_of_the_leading_system_messages_counts(
    before: list[Message], after: list[Message]
) -> None:
    tail = [*answered([*before, QUESTION], "r1")[len(before) :], MORE]
    assert full(planned([*after, *tail], system_mode="input"), Reason.SYSTEM_CHANGED)
    assert planned([*before, *tail], system_mode="input").mode is SendMode.DELTA


def test_a_system_message_in_the_middle_is_part_of_the_history() -> None:
    messages = [*answered([QUESTION, BRIEF, QUESTION], "r1"), MORE]
    assert planned(messages).mode is SendMode.DELTA
    messages[1] = LONG
    assert full(planned(messages), Reason.HISTORY_CHANGED)


def test_going_back_to_the_first_system_text_goes_back_to_its_chain() -> None:
    first = answered([BRIEF, QUESTION], "r1")
    second = answered([LONG, *first[1:], MORE], "r2", instructions=True)
    result = planned([BRIEF, *second[1:], MORE], system_mode="input")
    assert (result.previous_response_id, result.start, result.instructions) == ("r1", 3, False)


# -- one link by itself ---


def proved(messages: Sequence[Message], position: int, **changes: Any) -> bool:
    arguments: dict[str, Any] = {"key": key(), "model": "m", "instructions": False, **changes}
    return proves(history(messages), position, messages[position].link, **arguments)


def test_a_link_proves_the_messages_up_to_its_own() -> None:
    messages = [*answered([BRIEF, QUESTION], "r1"), MORE]
    assert proved(messages, 2)
    assert proved([*messages[:3], Message("human", "whatever follows")], 2)
    assert proved(messages[:3], 2)  # whether anything is new is not the question here


def test_a_link_proves_nothing_about_other_messages_models_or_keys() -> None:
    messages = [*answered([BRIEF, QUESTION], "r1"), MORE]
    assert not proved([BRIEF, Message("human", "edited"), *messages[2:]], 2)
    assert not proved([LONG, *messages[1:]], 2)
    assert not proved(messages, 2, model="m2")
    assert not proved(messages, 2, key=key(b"another"))
    assert not proved(messages, 1)  # a message without a link
    assert not proves(history(messages), 1, messages[2].link, key=key(), model="m", instructions=False)


def test_a_link_proves_only_what_was_said_in_the_same_way() -> None:
    as_input = [*answered([BRIEF, QUESTION], "r1"), MORE]
    apart = [*answered([BRIEF, QUESTION], "r1", instructions=True), MORE]
    assert not proved(as_input, 2, instructions=True)
    assert not proved(apart, 2)
    assert proved(apart, 2, instructions=True)
    assert proved([LONG, *apart[1:]], 2, instructions=True)


# -- properties ---

_TEXTS = st.sampled_from(["a", "b", "ab", "", "a:b"])
_ROLES = st.sampled_from(["system", "human", "tool"])
_TURNS = st.lists(
    st.tuples(st.lists(st.builds(Message, _ROLES, _TEXTS), min_size=1, max_size=3), _TEXTS),
    min_size=1,
    max_size=4,
)


def conversation(turns: list[tuple[list[Message], str]], *, instructions: bool = False) -> list[Message]:
    messages: list[Message] = []
    for number, (asked, text) in enumerate(turns):
        messages = answered([*messages, *asked], f"r{number}", text, instructions=instructions)
    return messages


@given(_TURNS, st.booleans(), st.sampled_from(["auto", "input"]))
def test_a_conversation_that_nobody_touched_is_always_continued(
    turns: list[tuple[list[Message], str]], stored: bool, mode: str
) -> None:
    messages = conversation(turns)
    result = planned([*messages, MORE], system_mode=mode)
    assert (result.mode, result.previous_response_id) == (SendMode.DELTA, f"r{len(turns) - 1}")
    assert result.start == len(messages)


@given(_TURNS, st.data())
def test_after_any_edit_no_later_link_is_followed(
    turns: list[tuple[list[Message], str]], data: st.DataObject
) -> None:
    messages = conversation(turns)
    before = [(message.role, message.text) for message in messages]
    at = data.draw(st.integers(0, len(messages) - 1), label="position")
    edit = data.draw(st.sampled_from(["text", "role", "drop", "insert", "swap"]), label="edit")
    edited = list(messages)
    if edit == "text":
        edited[at] = replace(edited[at], text=edited[at].text + "!")
    elif edit == "role":
        roles = [role for role in ("system", "human", "tool", "ai") if role != edited[at].role]
        edited[at] = replace(edited[at], role=data.draw(st.sampled_from(roles), label="role"))
    elif edit == "drop":
        del edited[at]
    elif edit == "insert":
        edited.insert(at, data.draw(st.builds(Message, _ROLES, _TEXTS), label="inserted"))
    else:
        other = data.draw(st.integers(0, len(messages) - 1), label="other position")
        edited[at], edited[other] = edited[other], edited[at]
    result = planned([*edited, MORE], system_mode="input")
    if result.mode is SendMode.FULL:
        assert (result.start, result.previous_response_id) == (0, None)
        return
    # The oracle: what is continued was made from exactly the messages that are not sent again.
    kept = [(message.role, message.text) for message in edited[: result.start]]
    made_from = before[
        : 1
        + next(
            at
            for at, message in enumerate(messages)
            if message.role == "ai" and message.link["id"] == result.previous_response_id
        )
    ]
    assert kept == made_from
    assert result.start <= len(edited)


@given(_TURNS, st.data())
def test_with_instructions_only_the_leading_system_text_may_change(
    turns: list[tuple[list[Message], str]], data: st.DataObject
) -> None:
    messages = conversation(turns, instructions=True)
    head = history(messages).head
    at = data.draw(st.integers(0, len(messages) - 1), label="position")
    edited = list(messages)
    edited[at] = replace(edited[at], text=edited[at].text + "!")
    result = planned([*edited, MORE], system_mode="auto")
    if at < head:
        assert result.previous_response_id == f"r{len(turns) - 1}"
    else:
        assert result.mode is SendMode.FULL or result.start <= at


def test_links_of_version_1_keep_their_form() -> None:
    """Links lie in checkpoints for months: another hash would need another version, or every chain begins anew."""

    def hashed(content: bytes, size: int, **how: Any) -> Any:
        return hashlib.blake2b(content, digest_size=size, **how)

    master = hashed(b"a secret", 32, person=b"chain").digest()
    own = hashed(b'["https://api.example.com", null, "gpt-5.5"]', 32, key=master, person=b"scope").digest()
    messages = [hashed(text, 32).digest() for text in (b"one", b"two")]
    fp = hashed(b"".join(messages), 20, key=own, person=b"fp").hexdigest()
    system = hashed(b"".join(messages), 12, key=own, person=b"system").hexdigest()

    key = ChainKey(b"a secret", ["https://api.example.com", None, "gpt-5.5"])
    digests = [digest(b"one"), digest(b"two")]
    assert (key.fingerprint(digests), key.system(digests), key.system([])) == (fp, system, "0")
    claim = json.dumps([1, "resp_1", fp, system, True, "gpt-5.5"]).encode()
    link = key.make_link(
        response_id="resp_1", fp=fp, system=system, store=True, model="gpt-5.5", node="n", conn="c1"
    )
    assert link == {
        "v": 1,
        "id": "resp_1",
        "fp": fp,
        "sys": system,
        "model": "gpt-5.5",
        "store": True,
        "node": "n",
        "conn": "c1",
        "sig": hashed(claim, 20, key=own, person=b"sig").hexdigest(),
    }


@pytest.mark.parametrize("word", ["plain", 'a "quote" and \\', "é 漢 😀", "\n\t\x00", "\ud800", ""])
@pytest.mark.parametrize("stored", [True, False])
def test_a_claim_is_signed_as_the_json_that_it_is(word: str, stored: bool) -> None:
    master = hashlib.blake2b(b"a secret", digest_size=32, person=b"chain").digest()
    own = hashlib.blake2b(b'["scope"]', key=master, digest_size=32, person=b"scope").digest()
    link = {"v": 1, "id": word, "fp": word, "sys": word, "store": stored, "model": word}
    claim = json.dumps([1, word, word, word, stored, word]).encode()
    expected = hashlib.blake2b(claim, key=own, digest_size=20, person=b"sig").hexdigest()
    assert ChainKey(b"a secret", ["scope"]).sign(link) == expected


@pytest.mark.parametrize(
    "size", [0, 1, 2046, 2047, 2048, 2049, 4093, 4094, 4095, 70_000, 262_143, 262_144, 300_000]
)
def test_hashes_do_not_depend_on_the_pieces_that_they_are_made_of(size: int) -> None:
    content = bytes(index * 7 % 251 for index in range(size))
    assert digest(content) == hashlib.blake2b(content, digest_size=32).digest()
    master = hashlib.blake2b(b"a secret", digest_size=32, person=b"chain").digest()
    own = hashlib.blake2b(b'["scope"]', key=master, digest_size=32, person=b"scope").digest()
    expected = hashlib.blake2b(content, key=own, digest_size=20, person=b"fp").hexdigest()
    assert ChainKey(b"a secret", ["scope"]).fingerprint([content[:100], content[100:]]) == expected


# -- fingerprints that go on from what was hashed ----------------------------------------


class Read(list[bytes]):
    """Digests that note which of them are read."""

    def __init__(self, digests: Sequence[bytes]) -> None:
        super().__init__(digests)
        self.positions: list[int] = []

    def __getitem__(self, index: Any) -> Any:
        self.positions += range(len(self))[index] if isinstance(index, slice) else [index]
        return super().__getitem__(index)


def digests_of(*texts: str) -> list[bytes]:
    return [digest(text.encode()) for text in texts]


@given(
    head=st.integers(0, 2),
    count=st.integers(0, 90),
    asked=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 90), st.booleans()), max_size=12),
)
def test_a_fingerprint_is_the_same_whatever_was_asked_before(
    head: int, count: int, asked: list[tuple[str, int, bool]]
) -> None:
    keys = {name: key(scope=[name]) for name in "ab"}
    digests = digests_of(*(str(number) for number in range(head + count)))
    asked_of = History(digests, head, [])
    for name, length, more in asked:
        stop, then = head + min(length, count), digest(b"then") if more else b""
        whole = [*digests[head:stop], *([then] if more else [])]
        assert asked_of.fingerprint(keys[name], stop, then) == keys[name].fingerprint(whole)


def test_only_what_is_new_is_hashed() -> None:
    mine, answer = key(), digest(b"an answer")
    first = Read(digests_of("s", "a", "b"))
    turn = History(first, 1, [])
    assert turn.fingerprint(mine, 3, answer) == mine.fingerprint([*list(first)[1:], answer])
    assert first.positions == [1, 2]
    second = Read([*first, answer, *digests_of("c")])
    turn = History(second, 1, [], begun=Begun(turn.begun))
    assert turn.fingerprint(mine, 4) == mine.fingerprint(list(second)[1:4])
    assert turn.fingerprint(mine, 5, answer) == mine.fingerprint([*list(second)[1:], answer])
    assert second.positions == [3, 4]


def test_what_one_continuation_hashed_is_not_part_of_another() -> None:
    mine = key()
    begun = History(digests_of("a", "b"), 0, [])
    begun.fingerprint(mine, 2)
    one, other = (
        History(digests_of("a", "b", text, "d"), 0, [], begun=Begun(begun.begun)) for text in ("c", "C")
    )
    prints = [each.fingerprint(mine, 4) for each in (one, other)]
    assert prints == [mine.fingerprint(digests_of("a", "b", text, "d")) for text in ("c", "C")]
    assert begun.fingerprint(mine, 2) == mine.fingerprint(digests_of("a", "b"))


def test_an_earlier_end_is_hashed_anew() -> None:
    mine = key()
    read = Read(digests_of("a", "b", "c"))
    turn = History(read, 0, [])
    for stop in (3, 2):
        assert turn.fingerprint(mine, stop) == mine.fingerprint(list(read)[:stop])
    assert read.positions == [0, 1, 2, 0, 1]


def test_no_more_is_hashed_than_there_is() -> None:
    mine = key()
    turn = History(digests_of("a", "b"), 0, [])
    assert turn.fingerprint(mine, 3) == mine.fingerprint(digests_of("a", "b"))
    longer = History(digests_of("a", "b", "c"), 0, [], begun=Begun(turn.begun))
    assert longer.fingerprint(mine, 3) == mine.fingerprint(digests_of("a", "b", "c"))
