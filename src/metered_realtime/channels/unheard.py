"""How much may wait for readers in all data channels of one remote together."""

from __future__ import annotations

from typing import Any, Protocol
from weakref import WeakKeyDictionary, WeakSet

MAX_UNHEARD_OF_REMOTE = 32 * 1024 * 1024
"""Bytes: two channels of which one is read late may be full. A bare channel cannot make the other end wait, and the
other end can open a thousand."""

MAX_UNHEARD_MESSAGES = 262_144
"""Messages of any size: each costs some 100 bytes beside what is in it."""


class Holder(Protocol):
    """What keeps messages of one channel."""

    bytes: int

    def __len__(self) -> int: ...


class Unheard:
    """The messages of one remote that wait, whatever keeps them."""

    def __init__(self) -> None:
        self.closed = 0
        """Channels that were closed because nobody read them."""
        self._holders: WeakSet[Any] = WeakSet()
        self.bytes = 0
        self._messages = 0

    def join(self, holder: Holder) -> None:
        """Count what something keeps from now on. It tells each change."""
        self._holders.add(holder)

    def note(self, size: int, messages: int) -> bool:
        """Note a change. Return whether all that waits is within the bounds."""
        self.bytes += size
        self._messages += messages
        if self._is_within():
            return True
        # Something may have gone without a word, with what it kept.
        self.bytes = sum(holder.bytes for holder in self._holders)
        self._messages = sum(map(len, self._holders))
        return self._is_within()

    def _is_within(self) -> bool:
        return self.bytes <= MAX_UNHEARD_OF_REMOTE and self._messages <= MAX_UNHEARD_MESSAGES


_of_transports: WeakKeyDictionary[Any, Unheard] = WeakKeyDictionary()


def unheard_of(channel: Any) -> Unheard:
    """Return what counts for all data channels that share the transport of this one."""
    return unheard_on(channel.transport)


def unheard_on(transport: Any) -> Unheard:
    """Return what counts for all data channels of a transport."""
    unheard = _of_transports.get(transport)
    if unheard is None:
        unheard = _of_transports[transport] = Unheard()
    return unheard


def message_size(message: str | bytes) -> int:
    """Return the bytes of a message on the wire. Text is encoded once for it, unless it is ASCII."""
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())
