"""The send window of a managed channel: messages that the other end may still need, numbered and bounded."""

from __future__ import annotations

from collections import deque

from .frames import (
    CHUNK_HEADER,
    MESSAGE_HEADER,
    URGENT,
    ChannelFrameError,
    HelloFrame,
    encode_chunk,
    encode_message,
)

MAX_WINDOW_MESSAGES = 16_384
MAX_WINDOW_BYTES = 16 * 1024 * 1024
"""Messages kept for the other end until they have arrived: some seconds of a fast path, and affordable for hundreds of
remotes. A single larger message is accepted while the window is empty."""

URGENT_FRACTION = 4
"""A sender requests an acknowledgement each time it has sent one part in this many of its window."""


class Window:
    """The messages of this end that the other end may still need, by number.

    `dropped` counts messages that will not be sent, `resent` those sent again on a later connection.
    """

    def __init__(self, *, reliable: bool, max_messages: int, max_bytes: int) -> None:
        self.max_messages = max_messages
        self.max_bytes = max_bytes
        self.base = 0
        self.bytes = 0
        self.dropped = 0
        self.resent = 0
        self.largest_dropped = 0
        self._reliable = reliable
        self._held: deque[tuple[bytes, int]] = deque()
        self._cursor = 0
        self._offset = 0
        self._high = 0
        self._in_doubt = 0
        self._counted = 0
        self._unasked_messages = 0
        self._unasked_bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    @property
    def has_more(self) -> bool:
        """Whether a message has not been sent completely."""
        return self._cursor < self.base + len(self._held)

    def fits(self, size: int) -> bool:
        """Return whether a message of this size in bytes fits: within both bounds, or alone."""
        return not self._held or (len(self._held) < self.max_messages and self.bytes + size <= self.max_bytes)

    def put(self, payload: bytes, flags: int) -> None:
        """Append a message."""
        self._held.append((payload, flags))
        self.bytes += len(payload)

    def next_frame(self, max_frame: int) -> bytes:
        """Return the next message, or its next chunk, as a frame of at most `max_frame` bytes."""
        payload, flags = self._held[self._cursor - self.base]
        number = self._cursor
        whole = not self._offset and MESSAGE_HEADER + len(payload) <= max_frame
        size = len(payload) if whole else min(max_frame - CHUNK_HEADER, len(payload) - self._offset)
        ends = self._offset + size == len(payload)
        flags |= self._urgency(size, ends)
        if whole:
            frame = encode_message(number, flags, payload)
        else:
            frame = encode_chunk(number, flags, self._offset, payload, size)
        self._offset = 0 if ends else self._offset + size
        self._cursor += ends
        self._high = max(self._high, number + 1)
        if ends and not self._reliable:
            self._pop()
        return frame

    def acknowledge(self, next_number: int) -> None:
        """Remove every message below a number: it has arrived.

        Raises:
            ChannelFrameError: the number is above that of the next message to be sent.
        """
        if next_number > max(self._high, self.base):
            raise ChannelFrameError(f"{next_number} is acknowledged, but {self._high} is the next to be sent")
        if not self._reliable:
            return
        if next_number > self._cursor:  # it arrived on an earlier connection
            self._cursor, self._offset = next_number, 0
        while self.base < next_number:
            self._pop()

    def resume(self, hello: HelloFrame, *, known: bool) -> tuple[int, int]:
        """Resume at the position of the other end. Return how many messages are sent again, and how many are lost."""
        if known:
            self.acknowledge(hello.next)
        self._cursor, self._offset = self.base, 0
        if not self._reliable:
            return 0, self._count_lost(hello.next if known else self._in_doubt)
        if known and self._held and hello.next == self.base and hello.offset < len(self._held[0][0]):
            self._offset = hello.offset
        resent = max(0, self._high - self._cursor)
        self.resent += resent
        return resent, 0

    def _count_lost(self, next_number: int) -> int:
        """Count messages that were sent on earlier connections and have not arrived, each once."""
        lost = max(0, self._in_doubt - max(next_number, self._counted))
        self._counted = self._high = self.base
        self.dropped += lost
        return lost

    def connection_lost(self) -> None:
        """Handle the loss of the connection: messages that were sent may not have arrived."""
        self._offset = 0
        if not self._reliable:
            self._in_doubt = min(self._high, self.base)  # a message sent in part counts as dropped
            self.drop_all()

    def drop_all(self) -> int:
        """Drop every message. Return the number of messages."""
        count = len(self._held)
        self._drop(count)
        return count

    def drop_oldest(self) -> None:
        """Drop the oldest message, if there is one."""
        self._drop(min(1, len(self._held)))

    def drop_for_successor(self) -> int:
        """Drop every message for a new instance of the other end, which has received none. Return their number.

        The numbers are used again.
        """
        count = len(self._held)
        self._held.clear()
        self.bytes = 0
        self.dropped += count
        self._cursor = self._high = self.base
        self._offset = 0
        return count

    def drop_larger(self, size: int) -> int:
        """Drop messages above a size for a new instance of the other end. Return their number.

        Later messages move up to fill the gaps, because that instance has not seen any number yet.
        """
        kept = [(payload, flags) for payload, flags in self._held if len(payload) <= size]
        count = len(self._held) - len(kept)
        if count:
            self.largest_dropped = max(len(payload) for payload, _ in self._held)
            self._held = deque(kept)
            self.bytes = sum(len(payload) for payload, _ in kept)
            self.dropped += count
            self._high = min(self._high, self.base + len(kept))
        return count

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._pop()
        self.dropped += count
        if self._cursor <= self.base:
            self._cursor, self._offset = self.base, 0
        if self._reliable:
            self._high = max(self._high, self.base)

    def _pop(self) -> None:
        payload, _ = self._held.popleft()
        self.bytes -= len(payload)
        self.base += 1

    def _urgency(self, size: int, ends: bool) -> int:
        self._unasked_messages += ends
        self._unasked_bytes += size
        is_due = (
            self._unasked_messages * URGENT_FRACTION >= self.max_messages
            or self._unasked_bytes * URGENT_FRACTION >= self.max_bytes
        )
        if is_due:
            self._unasked_messages = self._unasked_bytes = 0
        return URGENT if is_due else 0
