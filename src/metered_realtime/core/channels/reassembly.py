"""What arrives on a channel that survives its connection: each message once, whole, and in order if it is reliable."""

from __future__ import annotations

from .frames import FrameError, Part

MAX_PARTIALS = 16
"""Incomplete messages that a lossy channel keeps. Only an unordered one has more than one; the oldest goes first."""

REORDER_WINDOW = 4_096
"""Messages by which a late one may lag on an unordered channel. Older ones count as duplicates."""


class InOrder:
    """Takes messages in the order of their numbers, and each one once. What skips one is a gap, and not taken."""

    def __init__(self, max_message: int) -> None:
        self.next = 0
        self.duplicates = 0
        self.gap = False
        self._max_message = max_message
        self._partial: bytearray | None = None

    @property
    def offset(self) -> int:
        """The bytes that are here of the message `next`."""
        return len(self._partial) if self._partial is not None else 0

    def start(self, base: int) -> None:
        """Expect another session, from a number on."""
        self.next = base
        self._partial = None
        self.gap = False

    def skip(self, base: int) -> int:
        """Expect nothing below a number any more. Return how many messages will never come."""
        missed = max(0, base - self.next)
        if missed:
            self.start(base)
        return missed

    def take(self, part: Part) -> bytes | None:
        """Take a part. Return the message that it completes.

        Raises:
            FrameError: the message is larger than this end said it takes.
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

    def _complete(self, part: Part, news: bytes | memoryview) -> bytes | None:
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
    """Takes messages as they come, with holes where some were lost. Same surface as `InOrder`."""

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
        """Expect another session, from a number on."""
        self.next = self._floor = base
        self._seen.clear()
        self._partials.clear()
        self._partial_bytes = 0

    def skip(self, base: int) -> int:
        """Take note that nothing below a number comes any more."""
        self.next = max(self.next, base)
        return 0

    def connection_lost(self) -> None:
        """Give up what is not complete: nobody sends the rest, and the last message counts as not seen."""
        while self.next - 1 in self._partials:
            self.next -= 1
        for number in tuple(self._partials):
            self._forget(number)

    def take(self, part: Part) -> bytes | None:
        """Take a part. Return the message that it completes.

        Raises:
            FrameError: the message is larger than this end said it takes.
        """
        _check_size(part, self._max_message)
        if part.number < self._floor or part.number in self._seen:
            self.duplicates += part.offset == 0
            return None
        self.next = max(self.next, part.number + 1)
        if len(part.payload) == part.total:
            return self._finish(part.number, bytes(part.payload))
        return self._collect(part)

    def _collect(self, part: Part) -> bytes | None:
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
        """Keep a chunk, unless it is here already. Return by how many bytes that makes this larger."""
        added = 0 if offset in self._by_offset else len(payload)
        self._by_offset.setdefault(offset, payload)
        self.size += added
        return added

    def join(self) -> bytes | None:
        """Return the message. None if chunks overlap: such ones do not come from an honest sender."""
        end = 0
        for offset in sorted(self._by_offset):
            if offset != end:
                return None
            end += len(self._by_offset[offset])
        return b"".join(self._by_offset[offset] for offset in sorted(self._by_offset))


def _check_size(part: Part, max_message: int) -> None:
    if part.total > max_message:
        raise FrameError(f"a message of {part.total} bytes, {max_message} are taken")
