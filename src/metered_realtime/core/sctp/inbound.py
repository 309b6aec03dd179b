"""What an SCTP association has received: pure, without sockets, clock or aiortc.

`ReceivedTsns` keeps track of the DATA chunks that have arrived, and writes acknowledgements (RFC 9260 section 6.2).
`ChunkReassembly` makes messages of them: per stream, ordered or not, whatever the order of arrival. Both are bounded:
what a remote sends beyond that is refused, and comes again.

TSNs have 32 bits on the wire. Here they do not wrap, so that they can be compared.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from operator import itemgetter
from struct import Struct

TSN_MASK = 0xFFFF_FFFF
HALF = 0x8000_0000
"""A TSN at least this far ahead is behind (serial number arithmetic, RFC 1982)."""

LAST, FIRST, UNORDERED = 1, 2, 4
"""Flags of a DATA chunk (RFC 9260 section 3.3.1)."""

FARTHEST = 0xFFFF
"""How far beyond the cumulative TSN a chunk can be acknowledged: gap blocks have 16 bits for it."""

MAX_BLOCKS = 256
"""Gap blocks and duplicates in one acknowledgement: each takes 4 bytes, and it has to fit a packet."""

MAX_HELD_CHUNKS = 16_384
"""Chunks that wait for others, whatever their size: each costs some 300 bytes beside its data. A window of 1 MiB holds
as many messages of 64 bytes."""

_SACK = Struct("!BBHLLHH")
_PAIR = Struct("!HH")
_TSN = Struct("!L")


class ReceivedTsns:
    """The TSNs that have arrived: all up to `cumulative`, and beyond it those in `blocks`, as [first, last]."""

    def __init__(self, initial: int) -> None:
        self.cumulative = initial
        self.blocks: list[list[int]] = []
        self.duplicates: list[int] = []

    def add(self, tsn: int) -> int | None:
        """Add a TSN of the wire and return it unwrapped, or None for a duplicate, which is noted."""
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
        """Count all up to a TSN of the wire as received (RFC 3758 section 3.6). Return False if it is already."""
        ahead = (tsn - self.cumulative) & TSN_MASK
        if ahead == 0 or ahead >= HALF:
            return False
        self.cumulative += ahead
        del self.blocks[: bisect_right(self.blocks, self.cumulative, key=itemgetter(1))]
        if self.blocks:
            self.blocks[0][0] = max(self.blocks[0][0], self.cumulative + 1)
        self._absorb()
        return True

    def gaps(self) -> list[tuple[int, int]]:
        """Return the blocks relative to the cumulative TSN, as in an acknowledgement."""
        base = self.cumulative
        return [(first - base, last - base) for first, last in self.blocks[:MAX_BLOCKS] if last - base <= FARTHEST]

    def acknowledgement(self, window: int) -> bytes:
        """Return a SACK chunk (RFC 9260 section 3.3.4), and clear the duplicates."""
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
        """Merge the first block if the cumulative TSN has reached it."""
        if self.blocks and self.blocks[0][0] == self.cumulative + 1:
            self.cumulative = self.blocks.pop(0)[1]


class _Run:
    """Fragments of one message with consecutive TSNs (RFC 9260 section 6.9)."""

    __slots__ = ("flags", "last", "parts", "protocol", "sequence", "size", "start", "stream_id")

    def __init__(self, place: int, stream_id: int, flags: int, sequence: int, protocol: int, data: bytes) -> None:
        self.start = self.last = place
        self.stream_id = stream_id
        self.flags = flags
        self.sequence = sequence
        self.protocol = protocol
        self.parts = [data]
        self.size = len(data)

    def append(self, tail: _Run) -> None:
        """Append the fragments of another run, moving the shorter list."""
        if len(tail.parts) > len(self.parts):
            tail.parts[:0] = self.parts
            self.parts = tail.parts
        else:
            self.parts += tail.parts
        self.size += tail.size
        self.flags |= tail.flags
        self.last = tail.last


Message = tuple[int, int, bytes]
"""Stream, payload protocol identifier, data."""


class _Fragments:
    """Runs of incomplete messages by their first and last TSN, which no two streams share, and by stream."""

    def __init__(self) -> None:
        self.by_start: dict[int, _Run] = {}
        self.by_last: dict[int, _Run] = {}
        self._of_stream: dict[int, dict[int, _Run]] = {}

    def join(self, run: _Run) -> _Run:
        """Join a fragment with its neighbours. Return the resulting run."""
        before = None if run.flags & FIRST else self.by_last.get(run.start - 1)
        if before is not None and not before.flags & LAST and before.stream_id == run.stream_id:
            self.remove(before)
            before.append(run)
            run = before
        after = None if run.flags & LAST else self.by_start.get(run.last + 1)
        if after is not None and not after.flags & FIRST and after.stream_id == run.stream_id:
            self.remove(after)
            run.append(after)
        self.by_start[run.start] = run
        self.by_last[run.last] = run
        self._of_stream.setdefault(run.stream_id, {})[run.start] = run
        return run

    def remove(self, run: _Run) -> None:
        """Remove a run."""
        del self.by_start[run.start]
        del self.by_last[run.last]
        runs = self._of_stream[run.stream_id]
        del runs[run.start]
        if not runs:
            del self._of_stream[run.stream_id]

    def of_stream(self, stream_id: int) -> list[_Run]:
        """Return the runs of a stream."""
        return list(self._of_stream.get(stream_id, {}).values())

    def ending_between(self, before: int | None, after: int) -> Iterable[_Run]:
        """Return the runs with an edge in a range of TSNs, and possibly others.

        It walks through the range or through all runs, whichever is shorter, so that many small steps cost no more than
        one large one.
        """
        if before is None or after - before >= len(self.by_start):
            return list(self.by_start.values())
        edges = (index.get(place) for place in range(before, after + 1) for index in (self.by_start, self.by_last))
        return {id(run): run for run in edges if run is not None}.values()


class _Turns:
    """Complete messages of an ordered stream that wait for earlier ones, by sequence number."""

    def __init__(self) -> None:
        self.waiting: dict[int, _Run] = {}

    def take(self, number: int) -> tuple[list[_Run], int]:
        """Remove the messages whose turn it is, from a sequence number on. Return them and the next number."""
        runs = []
        while (run := self.waiting.pop(number, None)) is not None:
            runs.append(run)
            number = (number + 1) & 0xFFFF
        return runs, number

    def take_until(self, first: int, last: int) -> list[_Run]:
        """Remove and return the messages between two sequence numbers, in order."""
        distance = (last - first) & 0xFFFF
        if distance < len(self.waiting):
            numbers = [(first + step) & 0xFFFF for step in range(distance + 1)]
        else:
            numbers = sorted(self.waiting, key=lambda number: (number - first) & 0xFFFF)
            numbers = [number for number in numbers if (number - first) & 0xFFFF <= distance]
        return [self.waiting.pop(number) for number in numbers if number in self.waiting]


def _is_behind(sequence: int, following: int) -> bool:
    """Return whether the turn of a sequence number is over when `following` comes next."""
    return (following - sequence - 1) & 0xFFFF < 0x8000


class ChunkReassembly:
    """Makes messages of the chunks of all streams. A stream in which nothing waits costs one number."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.held_chunks = 0
        self._next: dict[int, int] = {}
        self._turns: dict[int, _Turns] = {}
        self._fragments = _Fragments()
        self._gone: int | None = None
        """The last TSN that was given up: fragments that continue it cannot be completed."""

    def take(
        self, place: int, stream_id: int, flags: int, sequence: int, protocol: int, data: bytes
    ) -> Iterable[Message]:
        """Add a new chunk. Return the messages that it completes, and those whose turn comes after them."""
        if flags & FIRST and flags & LAST:
            if flags & UNORDERED:
                return ((stream_id, protocol, data),)
            if sequence == self._next.get(stream_id, 0) and stream_id not in self._turns:
                self._next[stream_id] = (sequence + 1) & 0xFFFF
                return ((stream_id, protocol, data),)
        self.held_bytes += len(data)
        self.held_chunks += 1
        fragments = self._fragments
        if not flags & FIRST:
            run = fragments.by_last.get(place - 1)
            if (
                run is not None
                and run.stream_id == stream_id
                and not run.flags & LAST
                and place + 1 not in fragments.by_start
            ):
                return self._continue(run, flags, data)
        return self._place(fragments.join(_Run(place, stream_id, flags, sequence, protocol, data)))

    def skip(self, cumulative: int, streams: Iterable[tuple[int, int]]) -> list[Message]:
        """Give up what cannot be completed once all up to a TSN counts as received. Return the released messages.

        The time depends on the streams and TSNs that are named, not on the number of streams.
        """
        before, self._gone = self._gone, cumulative
        messages = [message for stream_id, sequence in streams for message in self._skip_to(stream_id, sequence)]
        for run in self._fragments.ending_between(before, cumulative + 1):
            if _is_hopeless(run, cumulative):
                self._fragments.remove(run)
                self._forget(run)
        return messages

    def pop(self, stream_id: int, default: object = None) -> None:
        """Remove a stream that was reset (RFC 6525). Named as in a dict, which aiortc has in this place."""
        self._next.pop(stream_id, None)
        for run in self._fragments.of_stream(stream_id):
            self._fragments.remove(run)
            self._forget(run)
        turns = self._turns.pop(stream_id, None)
        for run in turns.waiting.values() if turns is not None else ():
            self._forget(run)

    def _continue(self, run: _Run, flags: int, data: bytes) -> Iterable[Message]:
        """Append a fragment to the one before it, as nearly all of them arrive."""
        by_last = self._fragments.by_last
        del by_last[run.last]
        run.last += 1
        run.flags |= flags
        run.size += len(data)
        run.parts.append(data)
        by_last[run.last] = run
        return self._place(run) if flags & LAST else ()

    def _place(self, run: _Run) -> list[Message]:
        """Return the messages that a longer run releases."""
        if not run.flags & FIRST and self._gone is not None and run.start == self._gone + 1:
            self._gone = run.last
            self._fragments.remove(run)
            self._forget(run)
            return []
        if not (run.flags & FIRST and run.flags & LAST):
            return []
        self._fragments.remove(run)
        following = self._next.get(run.stream_id, 0)
        if run.flags & UNORDERED or _is_behind(run.sequence, following):
            return [self._release(run)]
        turns = self._turns.setdefault(run.stream_id, _Turns())
        if run.sequence in turns.waiting:  # a faulty remote: the number is in use
            self._forget(run)
            return []
        turns.waiting[run.sequence] = run
        return self._take_turns(run.stream_id, turns, following)

    def _skip_to(self, stream_id: int, sequence: int) -> list[Message]:
        """Release messages up to a number, and those whose turn is next. Never goes back (RFC 3758 section 3.6)."""
        following = self._next.get(stream_id, 0)
        turns = self._turns.get(stream_id)
        messages: list[Message] = []
        if not _is_behind(sequence, following):
            if turns is not None:
                messages = [self._release(run) for run in turns.take_until(following, sequence)]
            following = self._next[stream_id] = (sequence + 1) & 0xFFFF
        return messages + self._take_turns(stream_id, turns, following) if turns is not None else messages

    def _take_turns(self, stream_id: int, turns: _Turns, following: int) -> list[Message]:
        runs, self._next[stream_id] = turns.take(following)
        if not turns.waiting:
            self._turns.pop(stream_id, None)
        return [self._release(run) for run in runs]

    def _release(self, run: _Run) -> Message:
        self._forget(run)
        return run.stream_id, run.protocol, b"".join(run.parts)

    def _forget(self, run: _Run) -> None:
        self.held_bytes -= run.size
        self.held_chunks -= len(run.parts)


def _is_hopeless(run: _Run, cumulative: int) -> bool:
    """Return whether the start or the rest of a message will not arrive any more."""
    lacks_start = not run.flags & FIRST and run.start <= cumulative + 1
    lacks_rest = not run.flags & LAST and run.last < cumulative
    return lacks_start or lacks_rest
