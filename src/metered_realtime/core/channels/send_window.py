"""What one end of a channel has accepted and the other end may still need: numbered, bounded, handed out in order."""

from __future__ import annotations

from collections import deque

from .frames import (
    CHUNK_HEADER,
    MESSAGE_HEADER,
    URGENT,
    FrameError,
    Hello,
    encode_chunk,
    encode_message,
)

MAX_WINDOW_MESSAGES = 16_384
MAX_WINDOW_BYTES = 16 * 1024 * 1024
"""What is kept for one end until it has arrived: some seconds of a fast link, and what one can afford for hundreds of
remotes. A single larger message is taken when nothing else waits."""

URGENT_FRACTION = 4
"""A sender asks for an acknowledgement each time that this fraction of its window has been handed out."""


class Window:
    """The messages of this end that the other one may still need, by number. `dropped` counts those given up."""

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
        """Tell whether something has not been handed out."""
        return self._cursor < self.base + len(self._held)

    def fits(self, size: int) -> bool:
        """Tell whether a message has room: within both bounds, or alone."""
        return not self._held or (len(self._held) < self.max_messages and self.bytes + size <= self.max_bytes)

    def put(self, payload: bytes, flags: int) -> None:
        """Keep a message as the last one."""
        self._held.append((payload, flags))
        self.bytes += len(payload)

    def next_frame(self, max_frame: int) -> bytes:
        """Hand out the next message, or the next chunk of it, in a frame of at most that many bytes."""
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
        """Forget what has arrived: everything below a number.

        Raises:
            FrameError: such messages were not handed out.
        """
        if next_number > max(self._high, self.base):
            raise FrameError(f"{next_number} is acknowledged, {self._high} is the next to be sent")
        if not self._reliable:
            return
        if next_number > self._cursor:  # it came on the connection before, and is not needed again
            self._cursor, self._offset = next_number, 0
        while self.base < next_number:
            self._pop()

    def resume(self, hello: Hello, *, known: bool) -> tuple[int, int]:
        """Go on from where the other end is. Return how many messages go out again, and how many are given up."""
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
        """Count what was handed out on earlier connections and has not arrived, each message once."""
        lost = max(0, self._in_doubt - max(next_number, self._counted))
        self._counted = self._high = self.base
        self.dropped += lost
        return lost

    def connection_lost(self) -> None:
        """Take note that what was handed out may not have arrived."""
        self._offset = 0
        if not self._reliable:
            self._in_doubt = min(self._high, self.base)  # what went out in part only is dropped, and counted as that
            self.drop_all()

    def drop_all(self) -> int:
        """Give up everything. Return how many messages that is."""
        count = len(self._held)
        self._drop(count)
        return count

    def drop_oldest(self) -> None:
        """Give up one message."""
        self._drop(min(1, len(self._held)))

    def begin_anew(self) -> int:
        """Give up everything, for an end that has had none of it: what comes next takes its place. Return how many."""
        count = len(self._held)
        self._held.clear()
        self.bytes = 0
        self.dropped += count
        self._cursor = self._high = self.base
        self._offset = 0
        return count

    def drop_larger(self, size: int) -> int:
        """Give up the messages over a size, for an end that has had none of them. Return how many.

        Those behind them move up: their numbers mean nothing to that end yet.
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
