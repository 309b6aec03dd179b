"""Reassembly of the messages that arrive on a managed channel: each once and whole, in order if it is reliable."""

from __future__ import annotations

from .frames import ChannelFrameError, MessagePart

MAX_PARTIALS = 16
"""Incomplete messages that a lossy channel keeps; the oldest is dropped first. Only an unordered one has several."""

REORDER_WINDOW = 4_096
"""Numbers by which a message may be late on an unordered channel. Older ones count as duplicates."""


class InOrder:
    """Delivers messages in the order of their numbers, each once. A part behind a gap is discarded."""

    def __init__(self, max_message: int) -> None:
        self.next = 0
        self.duplicates = 0
        self.gap = False
        self._max_message = max_message
        self._partial: bytearray | None = None

    @property
    def offset(self) -> int:
        """Bytes of the message `next` that have arrived."""
        return len(self._partial) if self._partial is not None else 0

    def start(self, base: int) -> None:
        """Reset for a new instance of the other end, which starts at this number."""
        self.next = base
        self._partial = None
        self.gap = False

    def skip(self, base: int) -> int:
        """Skip the messages below a number. Return how many will never arrive."""
        missed = max(0, base - self.next)
        if missed:
            self.start(base)
        return missed

    def add_part(self, part: MessagePart) -> bytes | None:
        """Add a part. Return the message that it completes, None if there is none.

        Raises:
            ChannelFrameError: the message exceeds the announced maximum of this end.
        """
        _check_size(part, self._max_message)
        have = self.offset
        if part.number > self.next or (part.number == self.next and part.offset > have):
            self.gap = True
            return None
        if part.number < self.next or part.offset + len(part.payload) < have:
            self.duplicates += part.offset == 0
            return None
        self.gap = False
        return self._complete(part, part.payload[have - part.offset :] if have > part.offset else part.payload)

    def _complete(self, part: MessagePart, news: bytes | memoryview) -> bytes | None:
        if len(news) == part.total:
            message = bytes(news)
        else:
            if self._partial is None:
                self._partial = bytearray()
            self._partial += news
            if len(self._partial) < part.total:
                return None
            message = bytes(self._partial)
        self._partial = None
        self.next += 1
        return message


class AtMostOnce:
    """Delivers messages as they arrive; lost ones are left out. Same interface as `InOrder`."""

    def __init__(self, max_message: int) -> None:
        self.next = 0
        self.duplicates = 0
        self.gap = False
        self.offset = 0
        self._max_message = max_message
        self._floor = 0
        self._seen: set[int] = set()
        self._partials: dict[int, _Chunks] = {}
        self._partial_bytes = 0

    def start(self, base: int) -> None:
        """Reset for a new instance of the other end, which starts at this number."""
        self.next = self._floor = base
        self._seen.clear()
        self._partials.clear()
        self._partial_bytes = 0

    def skip(self, base: int) -> int:
        """Skip the messages below a number. Return 0: losses are not counted here."""
        self.next = max(self.next, base)
        return 0

    def connection_lost(self) -> None:
        """Drop incomplete messages, which will not be continued. The last ones count as not seen."""
        while self.next - 1 in self._partials:
            self.next -= 1
        for number in tuple(self._partials):
            self._forget(number)

    def add_part(self, part: MessagePart) -> bytes | None:
        """Add a part. Return the message that it completes, None if there is none.

        Raises:
            ChannelFrameError: the message exceeds the announced maximum of this end.
        """
        _check_size(part, self._max_message)
        if part.number < self._floor or part.number in self._seen:
            self.duplicates += part.offset == 0
            return None
        self.next = max(self.next, part.number + 1)
        if len(part.payload) == part.total:
            return self._finish(part.number, bytes(part.payload))
        return self._collect(part)

    def _collect(self, part: MessagePart) -> bytes | None:
        chunks = self._partials.setdefault(part.number, _Chunks())
        self._partial_bytes += chunks.add(part.offset, bytes(part.payload))
        if chunks.size < part.total:
            self._give_up_oldest(keep=part.number)
            return None
        message = chunks.join()
        if message is not None:
            return self._finish(part.number, message)
        self._forget(part.number)
        return None

    def _finish(self, number: int, message: bytes) -> bytes:
        self._forget(number)
        self._seen.add(number)
        if len(self._seen) > 2 * REORDER_WINDOW:
            self._floor = max(self._floor, self.next - REORDER_WINDOW)
            self._seen = {it for it in self._seen if it >= self._floor}
        return message

    def _give_up_oldest(self, keep: int) -> None:
        while len(self._partials) > MAX_PARTIALS or self._partial_bytes > self._max_message:
            oldest = next((it for it in self._partials if it != keep), keep)
            self._forget(oldest)

    def _forget(self, number: int) -> None:
        chunks = self._partials.pop(number, None)
        self._partial_bytes -= chunks.size if chunks is not None else 0


class _Chunks:
    """The chunks of one message, by offset."""

    def __init__(self) -> None:
        self.size = 0
        self._by_offset: dict[int, bytes] = {}

    def add(self, offset: int, payload: bytes) -> int:
        """Add a chunk, unless it is a duplicate. Return the number of bytes added."""
        added = 0 if offset in self._by_offset else len(payload)
        self._by_offset.setdefault(offset, payload)
        self.size += added
        return added

    def join(self) -> bytes | None:
        """Return the message. None if chunks overlap, which a conforming sender never causes."""
        end = 0
        for offset in sorted(self._by_offset):
            if offset != end:
                return None
            end += len(self._by_offset[offset])
        return b"".join(self._by_offset[offset] for offset in sorted(self._by_offset))


def _check_size(part: MessagePart, max_message: int) -> None:
    if part.total > max_message:
        raise ChannelFrameError(f"a message of {part.total} bytes, the maximum is {max_message}")
