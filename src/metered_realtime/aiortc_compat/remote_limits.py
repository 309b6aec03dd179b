"""What a data channel's transport knows and aiortc does not tell: how large a message the other end takes."""

from __future__ import annotations

from typing import Any

UNLIMITED = 2**32 - 1
"""For an end that takes messages of any size: `max-message-size` 0 (RFC 8841 section 6)."""


def remote_max_message_size(channel: Any) -> int:
    """Return the bytes of a message that the other end takes: 65,536 before it has said so, as RFC 8841 has it."""
    return int(channel.transport._remote_max_message_size) or UNLIMITED
