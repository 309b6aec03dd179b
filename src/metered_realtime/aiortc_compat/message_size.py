"""How large a message the other end of a data channel takes: aiortc knows, and has no public name for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # RPC over the server needs no aiortc
    from aiortc.rtcsctptransport import RTCSctpTransport

DEFAULT_MAX_MESSAGE_SIZE = 65_535
"""Bytes for a remote that names no `max-message-size`. RFC 8841 section 6.1 says 64K; pion closes a channel on a
message of exactly that size, for which its buffer lacks a byte."""

UNLIMITED = 2**32 - 1
"""What a `max-message-size` of 0 is taken for: the other end takes messages of any size (RFC 8841 section 6)."""


def assume_default(sctp: RTCSctpTransport) -> None:
    """Send no larger messages than the default, unless the remote names a size."""
    sctp._remote_max_message_size = DEFAULT_MAX_MESSAGE_SIZE


def max_message_size(channel: Any) -> int:
    """Return the maximum size of one message to the remote, in bytes: the default until the remote has named one."""
    size = getattr(getattr(channel, "transport", None), "_remote_max_message_size", DEFAULT_MAX_MESSAGE_SIZE)
    return int(size) or UNLIMITED
