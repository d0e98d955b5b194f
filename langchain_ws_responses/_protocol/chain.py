"""The plan of a turn: continue which response, and send what.

Messages are the truth, response ids are hints. A link says "response X was made from exactly these messages".
It is believed only when its signature fits and when its fingerprint, computed anew over the messages at hand,
is the same.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from json.encoder import encode_basestring_ascii as _quoted
from typing import Any

from .._types import Reason, SendMode

__all__ = [
    "LINK_FIELDS",
    "LINK_VERSION",
    "Begun",
    "ChainKey",
    "History",
    "Plan",
    "digest",
    "loadable",
    "plan",
    "proves",
]

LINK_VERSION = 1
_SIZE = 32
_NO_SYSTEM = "0"
# What the ids begin with that the LiteLLM proxy makes: "litellm:" in base64.
_LITELLM = "resp_bGl0ZWxsbTp"


# From this size on hashlib lets other threads run, and takes the interpreter back when they let go of it: for a
# tool's output that may be a hundred times what the hashing takes. A large image may well be hashed beside them.
_SHARED_FROM = 2048
_LARGE = 256 * 1024


def _hash_on(hasher: Any, content: bytes) -> Any:
    size = len(content)
    if size < _SHARED_FROM or size >= _LARGE:
        hasher.update(content)
        return hasher
    view = memoryview(content)
    for start in range(0, size, _SHARED_FROM - 1):
        hasher.update(view[start : start + _SHARED_FROM - 1])
    return hasher


def digest(content: bytes) -> bytes:
    """Returns the digest of one message's content."""
    digested: bytes = _hash_on(blake2b(digest_size=_SIZE), content).digest()
    return digested


def loadable(response_id: str, stored: bool) -> bool:
    """Says whether any connection can continue a response, or only the one that made it.

    The LiteLLM proxy in its managed mode keeps histories per connection. On another one it hands the id on, and
    answers; but what it then remembers begins there, so that the turn after would be made without the beginning.

    Args:
        response_id: Its id.
        stored: Whether the server says that it stored it.
    """
    return stored and not response_id.startswith(_LITELLM)


class ChainKey:
    """Makes and checks links for one endpoint, model, organization, project and secret.

    Args:
        secret: What only the owner of the conversation knows.
        scope: What a link must not leave: endpoint, organization, project, model.
    """

    def __init__(self, secret: bytes, scope: Sequence[str | None]) -> None:
        master = blake2b(secret, digest_size=_SIZE, person=b"chain").digest()
        named = json.dumps(list(scope)).encode()
        self._key = blake2b(named, key=master, digest_size=_SIZE, person=b"scope").digest()

    def fingerprint(self, digests: Sequence[bytes]) -> str:
        """Hashes the digests of a run of messages, in order."""
        return str(_hash_on(self.hasher(), b"".join(digests)).hexdigest())

    def hasher(self) -> Any:
        """Begins a fingerprint."""
        return blake2b(key=self._key, digest_size=20, person=b"fp")

    def system(self, digests: Sequence[bytes]) -> str:
        """Hashes the leading system messages; a fixed word where there are none."""
        if not digests:
            return _NO_SYSTEM
        return blake2b(b"".join(digests), key=self._key, digest_size=12, person=b"system").hexdigest()

    def sign(self, link: Mapping[str, Any]) -> str:
        """Signs what a link claims."""
        # The JSON array of these six, written by hand: every turn checks one link and makes another.
        claim = (
            f"[{link['v']}, {_quoted(link['id'])}, {_quoted(link['fp'])}, {_quoted(link['sys'])}, "
            f"{'true' if link['store'] else 'false'}, {_quoted(link['model'])}]"
        )
        return blake2b(claim.encode(), key=self._key, digest_size=20, person=b"sig").hexdigest()

    def make_link(
        self, *, response_id: str, fp: str, system: str, store: bool, model: str, node: str, conn: str
    ) -> dict[str, Any]:
        """Makes the link for an answer: a plain dict of str, int and bool."""
        link: dict[str, Any] = {
            "v": LINK_VERSION,
            "id": response_id,
            "fp": fp,
            "sys": system,
            "model": model,
            "store": store,
            "node": node,
        }
        if conn:
            link["conn"] = conn
        link["sig"] = self.sign(link)
        return link


LINK_FIELDS: dict[str, type] = {
    "v": int,
    "id": str,
    "fp": str,
    "sys": str,
    "sig": str,
    "model": str,
    "store": bool,
}
"""What every link has, and of which type."""


def _well_formed(link: Any) -> bool:
    return (
        isinstance(link, Mapping)
        and all(type(link.get(name)) is kind for name, kind in LINK_FIELDS.items())
        and link["v"] == LINK_VERSION
    )


class Begun:
    """How far the fingerprint of a run of messages has come, so that the next turn hashes only what is new.

    It belongs to one run of digests: what it knows of one is wrong for any other that is no continuation of it.

    Args:
        before: That of a run that this one continues.
    """

    __slots__ = ("_at",)

    def __init__(self, before: Begun | None = None) -> None:
        # One tuple, replaced as a whole: threads may ask at the same time. Its hasher is never added to.
        self._at: tuple[ChainKey | None, int, Any] = (None, 0, None) if before is None else before._at

    def hasher(self, key: ChainKey, digests: Sequence[bytes], head: int, stop: int) -> Any:
        """Returns the hasher of a fingerprint, which must not be added to.

        Args:
            key: Whose fingerprint.
            digests: The run's, behind the leading ones that are no part of it.
            head: How many those are.
            stop: Where it ends in `digests`.
        """
        owner, count, hasher = self._at
        if owner is not key or count > stop - head:
            count, hasher = 0, key.hasher()
        new = digests[head + count : stop]
        hasher = _hash_on(hasher.copy(), b"".join(new))
        self._at = (key, count + len(new), hasher)
        return hasher


@dataclass(frozen=True)
class History:
    """The messages of a turn, as far as the plan looks at them.

    Attributes:
        digests: One per message, in order.
        head: How many leading messages are system messages.
        links: `(position, link)` of every assistant message, newest first; None stands for no link. May be lazy, and
            is gone through any number of times.
        text_head: Whether the leading system messages are plain text, so that `instructions` can hold them.
        begun: What was hashed already of the messages behind the leading system messages.
    """

    digests: Sequence[bytes]
    head: int
    links: Iterable[tuple[int, Any]]
    text_head: bool = True
    begun: Begun = field(default_factory=Begun, repr=False, compare=False)

    def fingerprint(self, key: ChainKey, stop: int, then: bytes = b"") -> str:
        """Hashes the digests of the messages from the leading system messages up to `stop`.

        Args:
            key: Whose fingerprint.
            stop: Position behind the last message.
            then: Digest of one more message, or nothing.
        """
        hasher = self.begun.hasher(key, self.digests, self.head, stop)
        if then:
            hasher = hasher.copy()
            hasher.update(then)
        return str(hasher.hexdigest())


@dataclass(frozen=True)
class Plan:
    """How a turn is sent.

    Attributes:
        mode: Full or delta.
        reason: Why.
        start: Position of the first message to send (0 in a full send).
        previous_response_id: What is continued, or None.
        stored: Whether any connection can continue that response.
        instructions: Whether the leading system text goes to `instructions` instead of `input`.
        link: The link that was followed, or None.
    """

    mode: SendMode
    reason: Reason
    start: int = 0
    previous_response_id: str | None = None
    stored: bool = True
    instructions: bool = False
    link: Mapping[str, Any] | None = None


def plan(
    history: History,
    *,
    key: ChainKey,
    model: str,
    system_mode: str,
    alive: Callable[[str, bool], bool],
) -> Plan:
    """Finds the newest answer that can be continued.

    Args:
        history: The messages.
        key: Checks links.
        model: The model that is asked.
        system_mode: `"auto"`, `"input"` or `"instructions"`.
        alive: Says whether a response, given its id and whether any connection could load it, can be continued.

    Returns:
        A delta where a link proves one; else a full send with the reason why the newest link was no use.
    """
    mode = system_mode if history.text_head else "input"
    system = key.system(history.digests[: history.head])
    refusals: list[Reason] = []
    instructions = mode == "instructions"
    for position, link in history.links:
        refusal = _refusal(history, position, link, key=key, model=model)
        if refusal is None:
            continues = link["sys"] == ("" if mode == "instructions" else system)
            if mode == "auto" and link["sys"] == "":
                # This chain went over to `instructions` before, and stays there.
                continues = instructions = True
            if not continues:
                refusal = Reason.SYSTEM_CHANGED
                instructions = instructions or mode == "auto"
            elif position == len(history.digests) - 1:
                refusal = Reason.NOTHING_NEW
            elif not alive(link["id"], loadable(link["id"], link["store"])):
                refusal = Reason.NOT_ALIVE
            else:
                return Plan(
                    SendMode.DELTA,
                    Reason.CHAIN,
                    start=position + 1,
                    previous_response_id=link["id"],
                    stored=loadable(link["id"], link["store"]),
                    instructions=link["sys"] == "",
                    link=link,
                )
        refusals.append(refusal)
    return Plan(SendMode.FULL, _why(refusals), instructions=instructions)


def proves(
    history: History, position: int, link: Any, *, key: ChainKey, model: str, instructions: bool
) -> bool:
    """Whether a link proves that its response was made from exactly the messages up to `position`.

    Args:
        history: The messages.
        position: Where the link stands.
        link: The link, or None.
        key: Checks it.
        model: The model that is asked.
        instructions: Whether the leading system text is sent apart from the input.
    """
    if _refusal(history, position, link, key=key, model=model) is not None:
        return False
    system = "" if instructions else key.system(history.digests[: history.head])
    return bool(link["sys"] == system)


def _refusal(history: History, position: int, link: Any, *, key: ChainKey, model: str) -> Reason | None:
    """Says why a link proves nothing, or None if it proves that its response was made from these messages."""
    if link is None:
        return Reason.NO_LINK
    if not _well_formed(link):
        return Reason.BAD_LINK
    if link["model"] != model:
        return Reason.MODEL_CHANGED
    if not hmac.compare_digest(key.sign(link).encode(), link["sig"].encode("utf-8", "replace")):
        return Reason.BAD_LINK
    if history.fingerprint(key, position + 1) != link["fp"]:
        return Reason.HISTORY_CHANGED
    return None


def _why(refusals: Sequence[Reason]) -> Reason:
    """The newest link's trouble; an answer that never had a link says less than an older one that has."""
    if not refusals:
        return Reason.FIRST_TURN
    return next((reason for reason in refusals if reason is not Reason.NO_LINK), Reason.NO_LINK)
