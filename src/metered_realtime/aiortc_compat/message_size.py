"""How large a message the other end of a data channel takes: aiortc knows, and has no public name for it."""

from __future__ import annotations

from typing import Any

DEFAULT_MAX_MESSAGE_SIZE = 65_536
"""What a description without `max-message-size` means (RFC 8841 section 6.1)."""

UNLIMITED = 2**32 - 1
"""What a `max-message-size` of 0 is taken for: the other end takes messages of any size (RFC 8841 section 6)."""


def max_message_size(channel: Any) -> int:
    """Return the maximum size of one message to the remote, in bytes: the default until the remote has named one."""
    size = getattr(getattr(channel, "transport", None), "_remote_max_message_size", DEFAULT_MAX_MESSAGE_SIZE)
    return int(size) or UNLIMITED
