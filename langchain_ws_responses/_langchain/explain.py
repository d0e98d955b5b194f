"""Says in plain words why a turn was sent as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.messages import BaseMessage

from .links import TRANSPORT_KEY

__all__ = ["explain", "explain_message"]

# Reason: why, and what would have to be true for a delta; None where the caller chose.
_REASONS: dict[str, tuple[str, str | None]] = {
    "chain": ("an earlier answer of this conversation is unchanged and can still be continued", None),
    "first_turn": (
        "the conversation has no answer yet that could be continued",
        "from the second turn on, when the first answer stands in the messages, or after warm_up() with this beginning",
    ),
    "chain_off": ('the model has chain="off"', 'chain="auto"'),
    "no_link": (
        "no answer in the messages carries a link: they came from elsewhere, or the state keeps only their text",
        "keep the messages that the model returned, with their response_metadata, or use a ChainSaver",
    ),
    "bad_link": (
        "the link of an answer is not one of this model's: made with another key, endpoint or organization, or changed",
        "one endpoint and one chain_secret for all who continue this conversation",
    ),
    "history_changed": (
        "messages before the newest answer are not those that it was made from: edited, removed, summarised",
        "leave earlier messages as they are; nothing in them may change from turn to turn, such as the time",
    ),
    "system_changed": (
        "the system prompt is another one than at the last turn",
        'the same prompt; with system_mode="auto" the next turn is a delta again, whatever the prompt',
    ),
    "model_changed": (
        "the answers in the messages were made by another model",
        "the same model name; a conversation that goes on with this one has deltas from the next turn on",
    ),
    "not_alive": (
        "the answer lived only in the memory of a connection (store=False), and that connection is gone or is not used",
        "a connection that lives on, or store=True; DeltaToolNode and WebSocketMiddleware keep it ready",
    ),
    "nothing_new": (
        "the messages end in the newest answer: a delta would be empty",
        "a message after the answer",
    ),
    "previous_response_not_found": (
        "the server no longer had the response that a delta named, so everything was sent in the same call",
        "a server that keeps its responses (its retention time, the same account and region)",
    ),
    "previous_response_ignored": (
        "the server answered without continuing the response that a delta named, as some gateways do",
        "an endpoint that supports previous_response_id",
    ),
    "connection_lost": (
        "the socket died in the middle of the turn, so everything was sent again on another one",
        "nothing on your side: the next turn is a delta again",
    ),
    "stream_limit": (
        "the server refused the lane or the connection, so everything was sent again elsewhere",
        "nothing on your side: the next turn is a delta again",
    ),
    "caller": (
        "the call had a previous_response_id, a conversation or an input of its own, which is sent as given",
        "leave them out, and what a _get_request_payload of your own changes of the input: the messages tell what can "
        "be continued",
    ),
    "warm_up": ("it was a warm-up: the server reads, and generates nothing", None),
}


def explain(transport: Mapping[str, Any]) -> str:
    """Explains what `response_metadata["transport"]` says.

    Args:
        transport: That dict.

    Returns:
        A few sentences.
    """
    mode, reason = str(transport.get("mode", "")), str(transport.get("reason", ""))
    items, size = transport.get("items", 0), transport.get("bytes", 0)
    over = _over(transport)
    what = "one item" if items == 1 else f"{items} items"
    # Nothing is said of what has not come about: a turn that failed before it was sent has no bytes and no connection.
    bytes_sent = f", {size:,} bytes" if size else ""
    if mode == "delta":
        parts = [f"Sent as a delta {over}: only {what} that the server did not have yet{bytes_sent}."]
    else:
        parts = [f"Sent in full {over}: {what}{bytes_sent}."]
    why, remedy = _REASONS.get(reason, (reason or "no reason is given", None))
    parts.append(f"Why ({reason}): {why}.")
    if mode != "delta" and remedy is not None:
        parts.append(f"For a delta: {remedy}.")
    resends = transport.get("resends", 0)
    if resends:
        times = "once" if resends == 1 else f"{resends} times"
        parts.append(f"It was sent again {times} before it was answered; nobody saw an answer twice.")
    if transport.get("kind") == "http":
        parts.append(
            'Why HTTP: the model has transport="http", or "auto" found no socket to use: a single question without '
            "tools opens none, and after a failed dial, or a frame that was too large, HTTP takes over."
        )
    return " ".join(parts)


def _over(transport: Mapping[str, Any]) -> str:
    if transport.get("kind") == "http":
        return "over HTTP"
    if not transport.get("connection"):
        return "over the socket"
    lane = f", lane {transport['lane']}" if transport.get("lane") else ""
    state = "had carried a turn before" if transport.get("reused") else "was new"
    return f"over the socket (connection {transport['connection']}{lane}, which {state})"


def explain_message(message: BaseMessage | None, last: Mapping[str, Any]) -> str:
    """Explains an answer, or a model's last turn.

    Args:
        message: The answer; None for the last turn.
        last: What the model noted of its last turn.
    """
    if message is not None:
        transport = message.response_metadata.get(TRANSPORT_KEY)
        if not isinstance(transport, Mapping):
            return (
                'This message does not say how it was sent: it has no response_metadata["transport"]. Answers of this '
                "model have it, and in a stream the last chunk."
            )
        return explain(transport)
    if "turn" not in last:
        return "This model has not sent anything yet."
    transport, error = last["turn"]
    if not error:
        return explain(transport)
    if not transport["bytes"] and not transport["connection"]:
        return (
            f"The last turn ended with {error} before an answer came. It was planned as: {explain(transport)}"
        )
    return f"The last turn ended with {error} before its answer was complete. {explain(transport)}"
