"""Bounds on the unread messages in all data channels of one remote together."""

from __future__ import annotations

from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

MAX_UNREAD_OF_REMOTE = 32 * 1024 * 1024
"""Maximum unread bytes: two full channels. A bare data channel cannot make the other end wait, and the other end can
open a thousand of them."""

MAX_UNREAD_MESSAGES = 262_144
"""Maximum unread messages of any size: each costs some 100 bytes in addition to its content."""


class HoldsMessages(Protocol):
    """Holds the unread messages of one channel."""

    bytes: int

    def __len__(self) -> int: ...


class UnreadCounter:
    """Counts the unread messages of one remote over all their holders."""

    def __init__(self) -> None:
        self.closed = 0
        """Channels closed because too much was unread."""
        self._holders: WeakSet[Any] = WeakSet()
        self.bytes = 0
        self._messages = 0

    def join(self, holder: HoldsMessages) -> None:
        """Add a holder, which reports each change with `note`."""
        self._holders.add(holder)

    def note(self, size: int, messages: int) -> bool:
        """Count a change in bytes and messages. Return whether the total is within the bounds."""
        self.bytes += size
        self._messages += messages
        if self._is_within():
            return True
        # A holder may have been collected with its messages.
        self.bytes = sum(holder.bytes for holder in self._holders)
        self._messages = sum(map(len, self._holders))
        return self._is_within()

    def _is_within(self) -> bool:
        return self.bytes <= MAX_UNREAD_OF_REMOTE and self._messages <= MAX_UNREAD_MESSAGES


_of_transports: WeakKeyDictionary[Any, UnreadCounter] = WeakKeyDictionary()


def unread_of(channel: Any) -> UnreadCounter:
    """Return the counter of all data channels that share the transport of this one."""
    return unread_on(channel.transport)


def unread_on(transport: Any) -> UnreadCounter:
    """Return the counter of all data channels of a transport."""
    unread = _of_transports.get(transport)
    if unread is None:
        unread = _of_transports[transport] = UnreadCounter()
    return unread


def message_size(message: str | bytes) -> int:
    """Return the size of a message on the wire, in bytes. Text other than ASCII is encoded for it."""
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())
