"""What is told to the turns of a connection that is gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._types import Failure, FailureKind, Phase

if TYPE_CHECKING:
    from .dial import Socket
    from .ticket import Ticket

__all__ = ["close_code", "what_was_lost"]


def close_code(socket: Socket) -> int | None:
    """The code of the close frame that ended it: the other side's, or ours if we found the fault."""
    protocol = socket.protocol
    if protocol.close_rcvd is not None:
        return int(protocol.close_rcvd.code)
    sent = protocol.close_sent
    return int(sent.code) if sent is not None and sent.code > 1001 else None


def what_was_lost(
    ticket: Ticket, cause: Failure | None, code: int | None, *, large: bool
) -> tuple[FailureKind, str, int | None]:
    """Says why a turn ended with its connection.

    Args:
        ticket: The turn.
        cause: What was found out before the connection ended.
        code: Of the close frame.
        large: Whether a frame of this turn was above the size limit.

    Returns:
        The kind of the failure, its message, and the close code where it says more.
    """
    if ticket.phase is Phase.CONNECT:
        return FailureKind.CONNECTION_LOST, "The connection was lost before the turn was written.", code
    if cause is not None and cause.kind is not FailureKind.SERVER_ERROR:
        return cause.kind, cause.message, None
    if large:
        return FailureKind.MESSAGE_TOO_LARGE, "A frame was above the size limit (close code 1009).", code
    text = f"close code {code}" if code is not None else "no close frame"
    message = f"The connection was lost in the middle of the turn ({text})."
    if cause is not None:
        message = f"The server ended the connection with the error {cause.code}."
    return FailureKind.CONNECTION_LOST, message, code
