"""How large a message the other end of a data channel takes: aiortc knows, and has no public name for it."""

from __future__ import annotations

from typing import Any

DEFAULT_MAX_MESSAGE_SIZE = 65_536
"""What a description without `max-message-size` means (RFC 8841 section 6.1)."""

UNLIMITED = 16 * 1024 * 1024
"""What a `max-message-size` of 0 is taken for: the other end takes any, but this one does not buffer any."""


def max_message_size(channel: Any) -> int:
    """Return the bytes of one message that the remote takes."""
    size = getattr(getattr(channel, "transport", None), "_remote_max_message_size", DEFAULT_MAX_MESSAGE_SIZE)
    return int(size) or UNLIMITED
