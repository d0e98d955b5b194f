"""The link on an assistant message: the record that lets its chain be continued."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, cast

from langchain_core.messages import BaseMessage

__all__ = ["LINK_KEY", "TRANSPORT_KEY", "ResponseLink", "response_link"]

LINK_KEY = "openai_chain"
TRANSPORT_KEY = "transport"


class ResponseLink(TypedDict, total=False):
    """What `response_metadata["openai_chain"]` holds.

    Attributes:
        v: Version of this record.
        id: The response's id.
        fp: Keyed hash over all messages up to and including this answer, leading system messages apart.
        sys: Keyed hash over the leading system messages; empty where they went to `instructions`.
        sig: Keyed hash over the claim.
        model: The model that was asked.
        store: Whether the provider stored the response.
        node: The LangGraph node that asked, or empty.
        conn: The connection that carried it, if it was one.
    """

    v: int
    id: str
    fp: str
    sys: str
    sig: str
    model: str
    store: bool
    node: str
    conn: str


def response_link(message: BaseMessage) -> ResponseLink | None:
    """Returns the link that a message carries.

    Args:
        message: Any message.

    Returns:
        A copy of the link, or None where there is none. It is not verified here: a model does that before it
        continues from it.
    """
    link = message.response_metadata.get(LINK_KEY)
    if not isinstance(link, Mapping) or not isinstance(link.get("id"), str):
        return None
    return cast("ResponseLink", dict(cast("Mapping[str, Any]", link)))
