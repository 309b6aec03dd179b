"""What an SCTP association has received: pure, without sockets, clock or aiortc.

`ReceivedTsns` knows which DATA chunks came and says so in acknowledgements (RFC 9260 section 6.2). `Reassembly` makes
messages of them: per stream, ordered or not, whatever the order of arrival. Both have bounds: what a remote sends
beyond them is refused, and comes again.

TSNs are 32 bits on the wire. Here they count on beyond that, so that they can be compared.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from operator import itemgetter
from struct import Struct

TSN_MASK = 0xFFFF_FFFF
HALF = 0x8000_0000
"""A TSN this far ahead is one behind (serial number arithmetic, RFC 1982)."""

LAST, FIRST, UNORDERED = 1, 2, 4
"""Flags of a DATA chunk (RFC 9260 section 3.3.1)."""

FARTHEST = 0xFFFF
"""How far beyond the cumulative TSN a chunk can be acknowledged: gap blocks have 16 bits for it."""

MAX_BLOCKS = 256
"""Gap blocks and duplicates in one acknowledgement: each takes 4 bytes, and it has to fit a packet."""

MAX_HELD_CHUNKS = 16_384
"""Chunks that wait for others, whatever their size: each costs some 200 bytes beside its data. A window of 1 MiB full
of messages of 64 bytes is as many."""

_SACK = Struct("!BBHLLHH")
_PAIR = Struct("!HH")
_TSN = Struct("!L")


class ReceivedTsns:
    """The TSNs that have arrived: all up to `cumulative`, and those in `blocks` beyond it, as [first, last]."""

    def __init__(self, initial: int) -> None:
        self.cumulative = initial
        self.blocks: list[list[int]] = []
        self.duplicates: list[int] = []

    def add(self, tsn: int) -> int | None:
        """Enter a TSN of the wire and return it unwrapped. None if it was there already; that is noted as well."""
        ahead = (tsn - self.cumulative) & TSN_MASK
        if ahead == 1 and not self.blocks:
            self.cumulative += 1
            return self.cumulative
        place = self.cumulative + ahead
        if 0 < ahead < HALF and self._add_block(place):
            return place
        if len(self.duplicates) < MAX_BLOCKS:
            self.duplicates.append(tsn)
        return None

    def skip_to(self, tsn: int) -> bool:
        """Take everything up to a TSN of the wire for received (RFC 3758 section 3.6). False if it is already."""
        ahead = (tsn - self.cumulative) & TSN_MASK
        if ahead == 0 or ahead >= HALF:
            return False
        self.cumulative += ahead
        self.blocks = [block for block in self.blocks if block[1] > self.cumulative]
        if self.blocks:
            self.blocks[0][0] = max(self.blocks[0][0], self.cumulative + 1)
        self._absorb()
        return True

    def gaps(self) -> list[tuple[int, int]]:
        """Return the blocks as an acknowledgement has them: relative to the cumulative TSN."""
        base = self.cumulative
        return [(first - base, last - base) for first, last in self.blocks[:MAX_BLOCKS] if last - base <= FARTHEST]

    def acknowledgement(self, window: int) -> bytes:
        """Return a SACK chunk (RFC 9260 section 3.3.4), and forget the duplicates."""
        gaps = self.gaps()
        duplicates = self.duplicates[: MAX_BLOCKS - len(gaps)]
        self.duplicates = []
        length = _SACK.size + 4 * (len(gaps) + len(duplicates))
        head = _SACK.pack(3, 0, length, self.cumulative & TSN_MASK, window, len(gaps), len(duplicates))
        if not gaps and not duplicates:
            return head
        return b"".join([head, *(_PAIR.pack(*gap) for gap in gaps), *map(_TSN.pack, duplicates)])

    def _add_block(self, place: int) -> bool:
        blocks = self.blocks
        if blocks and place == blocks[-1][1] + 1:  # most packets behind a lost one continue the last block
            blocks[-1][1] = place
            return True
        index = bisect_right(blocks, place, key=itemgetter(0))
        if index and place <= blocks[index - 1][1]:
            return False
        blocks.insert(index, [place, place])
        if index + 1 < len(blocks) and blocks[index + 1][0] == place + 1:
            blocks[index][1] = blocks.pop(index + 1)[1]
        if index and blocks[index - 1][1] == place - 1:
            blocks[index - 1][1] = blocks.pop(index)[1]
        self._absorb()
        return True

    def _absorb(self) -> None:
        """Count a block in that the cumulative TSN has reached."""
        if self.blocks and self.blocks[0][0] == self.cumulative + 1:
            self.cumulative = self.blocks.pop(0)[1]


class _Run:
    """Fragments of one message with consecutive TSNs (RFC 9260 section 6.9)."""

    __slots__ = ("flags", "last", "parts", "protocol", "sequence", "size", "start")

    def __init__(self, place: int, flags: int, sequence: int, protocol: int, data: bytes) -> None:
        self.start = self.last = place
        self.flags = flags
        self.sequence = sequence
        self.protocol = protocol
        self.parts = [data]
        self.size = len(data)


Message = tuple[int, int, bytes]
"""Stream, payload protocol identifier, data."""


class InboundStream:
    """One stream: runs of fragments by their first and last TSN, and whole messages that wait for their turn."""

    __slots__ = ("by_last", "by_start", "next", "ready")

    def __init__(self) -> None:
        self.next = 0
        self.by_start: dict[int, _Run] = {}
        self.by_last: dict[int, _Run] = {}
        self.ready: dict[int, _Run] = {}

    def join(self, run: _Run) -> _Run:
        """Put a fragment to its neighbours. Return the run that it is part of."""
        before = None if run.flags & FIRST else self.by_last.get(run.start - 1)
        if before is not None and not before.flags & LAST:
            del self.by_last[before.last]
            _append(before, run)
            run = before
        after = None if run.flags & LAST else self.by_start.get(run.last + 1)
        if after is not None and not after.flags & FIRST:
            self.remove(after)
            _append(run, after)
        self.by_start[run.start] = run
        self.by_last[run.last] = run
        return run

    def remove(self, run: _Run) -> None:
        """Forget a run."""
        del self.by_start[run.start]
        del self.by_last[run.last]

    def is_behind(self, sequence: int) -> bool:
        """Tell whether messages of this number have had their turn."""
        return (self.next - sequence - 1) & 0xFFFF < 0x8000

    def take_ready(self) -> Iterator[_Run]:
        """Yield the messages whose turn it is."""
        while (run := self.ready.pop(self.next, None)) is not None:
            self.next = (self.next + 1) & 0xFFFF
            yield run

    def skip(self, sequence: int) -> Iterator[_Run]:
        """Yield what waits up to a number and whose turn it is then. Never goes back (RFC 3758 section 3.6)."""
        if not self.is_behind(sequence):
            ready = self.ready
            behind = sorted((it for it in ready if (sequence - it) & 0xFFFF < 0x8000), key=self._distance)
            self.next = (sequence + 1) & 0xFFFF
            for number in behind:
                yield ready.pop(number)
        yield from self.take_ready()

    def _distance(self, sequence: int) -> int:
        return (sequence - self.next) & 0xFFFF

    def held(self) -> Iterator[_Run]:
        """Yield everything that waits."""
        yield from self.by_start.values()
        yield from self.ready.values()


def _append(run: _Run, tail: _Run) -> None:
    run.parts += tail.parts
    run.size += tail.size
    run.flags |= tail.flags
    run.last = tail.last


class Reassembly:
    """The streams of an association, and what waits in them."""

    def __init__(self) -> None:
        self.streams: dict[int, InboundStream] = {}
        self.held_bytes = 0
        self.held_chunks = 0
        self._gone: int | None = None
        """The last TSN that was given up: what continues it cannot be completed."""

    def take(
        self, place: int, stream_id: int, flags: int, sequence: int, protocol: int, data: bytes
    ) -> Iterable[Message]:
        """Take a chunk that is new. Return the messages that it completes or whose turn it makes it."""
        stream = self.streams.get(stream_id)
        if stream is None:
            stream = self.streams[stream_id] = InboundStream()
        if flags & FIRST and flags & LAST:
            if flags & UNORDERED:
                return ((stream_id, protocol, data),)
            if sequence == stream.next and not stream.ready:
                stream.next = (sequence + 1) & 0xFFFF
                return ((stream_id, protocol, data),)
        self.held_bytes += len(data)
        self.held_chunks += 1
        if not flags & FIRST:
            run = stream.by_last.get(place - 1)
            if run is not None and not run.flags & LAST and place + 1 not in stream.by_start:
                return self._continue(stream, stream_id, run, flags, data)
        return self._place(stream, stream_id, stream.join(_Run(place, flags, sequence, protocol, data)))

    def skip(self, cumulative: int, streams: Iterable[tuple[int, int]]) -> list[Message]:
        """Give up what cannot be completed once everything up to a TSN counts as received. Return what has its turn."""
        self._gone = cumulative
        messages: list[Message] = []
        for stream_id, sequence in streams:
            stream = self.streams.setdefault(stream_id, InboundStream())
            messages += [self._release(stream_id, run) for run in stream.skip(sequence)]
        for stream in self.streams.values():
            for run in [run for run in stream.by_start.values() if _is_hopeless(run, cumulative)]:
                stream.remove(run)
                self._forget(run)
        return messages

    def pop(self, stream_id: int, default: object = None) -> None:
        """Forget a stream that was reset (RFC 6525). Named as a dict names it: aiortc has one in this place."""
        stream = self.streams.pop(stream_id, None)
        for run in stream.held() if stream is not None else ():
            self._forget(run)

    def _continue(self, stream: InboundStream, stream_id: int, run: _Run, flags: int, data: bytes) -> Iterable[Message]:
        """Put a fragment behind the one before it: nearly all of them arrive like this."""
        del stream.by_last[run.last]
        run.last += 1
        run.flags |= flags
        run.size += len(data)
        run.parts.append(data)
        stream.by_last[run.last] = run
        return self._place(stream, stream_id, run) if flags & LAST else ()

    def _place(self, stream: InboundStream, stream_id: int, run: _Run) -> list[Message]:
        """Return what a run that has grown releases."""
        if not run.flags & FIRST and self._gone is not None and run.start == self._gone + 1:
            self._gone = run.last
            stream.remove(run)
            self._forget(run)
            return []
        if not (run.flags & FIRST and run.flags & LAST):
            return []
        stream.remove(run)
        if run.flags & UNORDERED or stream.is_behind(run.sequence):
            return [self._release(stream_id, run)]
        if run.sequence in stream.ready:  # a remote that counts wrongly: the number is taken
            self._forget(run)
            return []
        stream.ready[run.sequence] = run
        return [self._release(stream_id, it) for it in stream.take_ready()]

    def _release(self, stream_id: int, run: _Run) -> Message:
        self._forget(run)
        return stream_id, run.protocol, b"".join(run.parts)

    def _forget(self, run: _Run) -> None:
        self.held_bytes -= run.size
        self.held_chunks -= len(run.parts)


def _is_hopeless(run: _Run, cumulative: int) -> bool:
    """Tell whether the start of a message, or what follows what is there, will not come any more."""
    lacks_start = not run.flags & FIRST and run.start <= cumulative + 1
    lacks_rest = not run.flags & LAST and run.last < cumulative
    return lacks_start or lacks_rest
