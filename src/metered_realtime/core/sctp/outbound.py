"""What an SCTP association has sent and is about to send: pure, without sockets or aiortc; time is an argument.

`Outbound` holds DATA chunks from the moment that they have a TSN until they are acknowledged or given up: those in
flight, those that are lost, and those that the remote has to skip. How much may be in flight is decided in
`CongestionControl`.

TSNs have 32 bits on the wire. Here they do not wrap, so that they can be compared.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

TSN_MASK = 0xFFFF_FFFF
HALF = 0x8000_0000
"""A TSN at least this far ahead is behind (serial number arithmetic, RFC 1982)."""

LAST, FIRST, UNORDERED, ACKNOWLEDGE_NOW = 1, 2, 4, 8
"""Flags of a DATA chunk (RFC 9260 section 3.3.1)."""

QUEUED, FLYING, LOST, ACKED, GIVEN_UP = range(5)
"""States of a chunk. A QUEUED one has a TSN and has not been sent."""

MISSES = 3
"""Acknowledgements that skip a chunk before it counts as lost (RFC 9260 section 7.2.4)."""

MAX_SKIPPED_STREAMS = 256
"""Streams named in one FORWARD TSN: each takes 4 bytes, and it has to fit a packet."""

_DATA = Struct("!BBHLHHL")
_FORWARD = Struct("!BBHL")
_PAIR = Struct("!HH")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
_FLAGS = tuple(bytes((flags,)) for flags in range(256))


class FairQueue:
    """Queues messages, and lets channels take turns: a short message does not wait behind the file of another channel.

    A message is a tuple that begins with its channel. The messages of one channel keep their order.
    """

    def __init__(self) -> None:
        self._queues: dict[Any, deque[tuple[Any, int, bytes]]] = {}
        self._turns: deque[Any] = deque()

    def append(self, message: tuple[Any, int, bytes]) -> None:
        """Queue a message behind those of its channel."""
        queue = self._queues.get(message[0])
        if queue is None:
            self._queues[message[0]] = deque((message,))
            self._turns.append(message[0])
        else:
            queue.append(message)

    def popleft(self) -> tuple[Any, int, bytes]:
        """Remove and return the first message of the channel whose turn it is."""
        turns = self._turns
        queue = self._queues[turns[0]]
        message = queue.popleft()
        if not queue:
            del self._queues[turns.popleft()]
        elif len(turns) > 1:
            turns.rotate(-1)
        return message

    def channels(self) -> Collection[Any]:
        """Return the channels with queued messages."""
        return self._queues.keys()

    def __bool__(self) -> bool:
        return bool(self._turns)

    def __iter__(self) -> Iterator[tuple[Any, int, bytes]]:
        for queue in self._queues.values():
            yield from queue


class PartialReliability:
    """Limits the retransmission of one message (RFC 3758, RFC 7496). Its chunks are given up together."""

    __slots__ = ("chunks", "expires_at", "max_retransmits", "sequence", "stream_id")

    def __init__(self, max_retransmits: int | None, expires_at: float | None) -> None:
        self.max_retransmits = max_retransmits
        self.expires_at = expires_at
        self.chunks: list[Chunk] = []
        self.stream_id = 0
        self.sequence: int | None = None

    def exceeded(self, chunk: Chunk, now: float) -> bool:
        """Return whether a lost chunk must not be sent again."""
        if self.max_retransmits is not None and chunk.times_sent > self.max_retransmits:
            return True
        return self.expires_at is not None and self.expires_at < now


class Chunk:
    """A DATA chunk as on the wire, and its state. `size` is that of its data."""

    __slots__ = ("misses", "reliability", "sent_at", "sent_before", "size", "state", "times_sent", "tsn", "wire")

    def __init__(self, tsn: int, size: int, wire: bytes, reliability: PartialReliability | None) -> None:
        self.tsn = tsn
        self.size = size
        self.wire = wire
        self.reliability = reliability
        self.state = QUEUED
        self.times_sent = 0
        self.misses = 0
        self.sent_at = 0.0
        self.sent_before = 0


def data_chunk(tsn: int, flags: int, stream_id: int, sequence: int, protocol: int, data: bytes) -> bytes:
    """Return a DATA chunk as on the wire, padded (RFC 9260 section 3.3.1)."""
    length = 16 + len(data)
    head = _DATA.pack(0, flags, length, tsn & TSN_MASK, stream_id, sequence, protocol)
    return head + data + _PADDING[length & 3] if length & 3 else head + data


def acknowledged_now(wire: bytes) -> bytes:
    """Return a DATA chunk that requests an immediate acknowledgement (RFC 7053)."""
    return wire[:1] + _FLAGS[wire[1] | ACKNOWLEDGE_NOW] + wire[2:]


@dataclass(slots=True)
class Acknowledged:
    """What an acknowledgement changed. `lost`: it showed that a chunk is lost."""

    bytes: int = 0
    advanced: bool = False
    lost: bool = False
    sent_at: float | None = None
    """Time at which the last chunk up to the cumulative TSN was sent, None if ambiguous (Karn's algorithm)."""


@dataclass(slots=True)
class Outbound:
    """The unacknowledged chunks of an association. `next_tsn` is that of the next message."""

    next_tsn: int
    sacked: int = field(init=False)
    """The cumulative TSN that the remote has acknowledged."""
    skipped: int = field(init=False)
    """The TSN up to which the remote skips what was given up: Advanced.Peer.Ack.Point of RFC 3758."""
    flight: int = 0
    """Bytes of data in flight."""
    queue: deque[Chunk] = field(default_factory=deque)
    chunks: dict[int, Chunk] = field(default_factory=dict)
    """Sent chunks by TSN, all above `sacked` and `skipped`."""
    skipped_streams: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Sequence number and TSN of the last message given up, by stream. Ordered streams only."""
    _lost: list[int] = field(default_factory=list)
    _blocks: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sacked = self.skipped = self.next_tsn - 1

    # --- sending

    def add(
        self,
        data: bytes,
        room: int,
        stream_id: int,
        sequence: int | None,
        protocol: int,
        reliability: PartialReliability | None = None,
    ) -> None:
        """Queue a message in chunks of up to `room` bytes of data, unordered without a sequence number."""
        kind, number = (UNORDERED, 0) if sequence is None else (0, sequence)
        tsn = self.next_tsn
        size = len(data)
        if size <= room:
            wire = data_chunk(tsn, kind | FIRST | LAST, stream_id, number, protocol, data)
            self.queue.append(Chunk(tsn, size, wire, reliability))
            self.next_tsn = tsn + 1
        else:
            for start in range(0, size, room):
                part = data[start : start + room]
                flags = kind | (FIRST if start == 0 else 0) | (LAST if start + room >= size else 0)
                wire = data_chunk(tsn, flags, stream_id, number, protocol, part)
                self.queue.append(Chunk(tsn, len(part), wire, reliability))
                tsn += 1
            self.next_tsn = tsn
        if reliability is not None:
            reliability.stream_id, reliability.sequence = stream_id, sequence
            reliability.chunks = [it for it in self.queue if it.reliability is reliability]

    def next_lost(self) -> Chunk | None:
        """Return the earliest chunk that has to be sent again."""
        while self._lost:
            chunk = self.chunks.get(self._lost[0])
            if chunk is not None and chunk.state == LOST:
                return chunk
            heapq.heappop(self._lost)
        return None

    def launch(self, now: float) -> None:
        """Mark the first chunk of the queue as sent."""
        chunk = self.queue.popleft()
        self.chunks[chunk.tsn] = chunk
        chunk.state = FLYING
        chunk.times_sent = 1
        chunk.sent_at = now
        self.flight += chunk.size

    def launch_again(self, chunk: Chunk, now: float) -> None:
        """Mark a lost chunk as sent again."""
        chunk.state = FLYING
        chunk.misses = 0
        chunk.times_sent += 1
        chunk.sent_at = now
        chunk.sent_before = self.highest_sent + 1  # only later chunks show that it is lost again
        self.flight += chunk.size

    @property
    def highest_sent(self) -> int:
        """The last TSN that was sent."""
        return (self.queue[0].tsn if self.queue else self.next_tsn) - 1

    @property
    def outstanding(self) -> bool:
        """Whether an acknowledgement is expected."""
        return bool(self.chunks) or self.skipped > self.sacked

    def expire(self, now: float) -> None:
        """Mark everything in flight as lost, and what gap blocks reported too: the remote may have dropped it."""
        self._lost.clear()
        self._blocks.clear()
        for chunk in self.chunks.values():
            if chunk.state in (LOST, ACKED):
                chunk.state = FLYING
                self.flight += chunk.size
        for chunk in self.chunks.values():
            if chunk.state == FLYING:
                self._lose(chunk, now)
        self._give_way()

    # --- acknowledgements

    def acknowledge(self, cumulative: int, gaps: Iterable[tuple[int, int]], now: float) -> Acknowledged | None:
        """Handle a SACK (RFC 9260 section 6.2.1). Return None if it is outdated, or of what was never sent."""
        ahead = (cumulative - self.sacked) & TSN_MASK
        if ahead >= HALF or self.sacked + ahead > self.highest_sent:
            return None
        result = Acknowledged()
        if ahead:
            self._advance(self.sacked + ahead, result)
        newest = self._take_gaps(gaps, result)
        if newest is not None:
            self._strike(newest, now, result)
        self._give_way()
        return result

    def _advance(self, cumulative: int, result: Acknowledged) -> None:
        take = self.chunks.pop
        for tsn in range(self.sacked + 1, cumulative + 1):
            chunk = take(tsn, None)
            if chunk is None:
                continue
            if chunk.state == FLYING:
                self.flight -= chunk.size
                result.bytes += chunk.size
                result.sent_at = chunk.sent_at if chunk.times_sent == 1 else None
            elif chunk.state == LOST:
                result.bytes += chunk.size
            chunk.state = ACKED  # its message may be given up because of other chunks
        self.sacked = cumulative
        result.advanced = True

    def _take_gaps(self, gaps: Iterable[tuple[int, int]], result: Acknowledged) -> int | None:
        """Mark what gap blocks report. Return the highest TSN reported for the first time."""
        newest = None
        known, self._blocks = self._blocks, {}
        highest = self.highest_sent
        looked_up_to = self.sacked
        for first, last in sorted(gaps):
            # Blocks do not overlap (RFC 9260 section 3.3.4); overlapping parts are handled once.
            start, end = max(self.sacked + first, looked_up_to + 1), min(self.sacked + last, highest)
            if end < start or first == 0:
                continue
            looked_up_to = end
            self._blocks[start] = end
            # Of a block that starts where one did before only the end is new.
            for tsn in range(known.get(start, start - 1) + 1, end + 1):
                chunk = self.chunks.get(tsn)
                if chunk is not None and chunk.state in (FLYING, LOST):
                    if chunk.state == FLYING:
                        self.flight -= chunk.size
                    chunk.state = ACKED
                    result.bytes += chunk.size
                    newest = tsn if newest is None else max(newest, tsn)
        return newest

    def _strike(self, newest: int, now: float, result: Acknowledged) -> None:
        """Count a miss for each chunk in flight below what was newly reported (HTNA, RFC 9260 section 7.2.4)."""
        position = self.sacked + 1
        for start, end in sorted(self._blocks.items()):
            for tsn in range(position, min(start, newest)):
                chunk = self.chunks.get(tsn)
                if chunk is None or chunk.state != FLYING or newest < chunk.sent_before:
                    continue
                chunk.misses += 1
                if chunk.misses >= MISSES:
                    self._lose(chunk, now)
                    result.lost = True
            position = max(position, end + 1)
            if position > newest:
                break

    # --- partial reliability

    def _lose(self, chunk: Chunk, now: float) -> None:
        if chunk.reliability is not None and chunk.reliability.exceeded(chunk, now):
            self._give_up(chunk.reliability)
            return
        self.flight -= chunk.size
        chunk.state = LOST
        heapq.heappush(self._lost, chunk.tsn)

    def _give_up(self, reliability: PartialReliability) -> None:
        """Give up all chunks of a message, unsent ones included (RFC 3758 section 3.5 A3)."""
        for chunk in reliability.chunks:
            if chunk.state == FLYING:
                self.flight -= chunk.size
            chunk.state = GIVEN_UP

    def _give_way(self) -> None:
        """Advance the TSN up to which the remote skips (RFC 3758 section 3.5 C2)."""
        self.skipped = max(self.skipped, self.sacked)
        # Chunks that were given up before they were sent have TSNs nevertheless.
        while self.queue and self.queue[0].state == GIVEN_UP:
            chunk = self.queue.popleft()
            self.chunks[chunk.tsn] = chunk
        while (next_one := self.chunks.get(self.skipped + 1)) is not None and next_one.state == GIVEN_UP:
            self.skipped += 1
            del self.chunks[self.skipped]
            reliability = next_one.reliability
            if reliability is not None and reliability.sequence is not None:
                self.skipped_streams[reliability.stream_id] = reliability.sequence, self.skipped
        for stream_id, (_, tsn) in list(self.skipped_streams.items()):
            if tsn <= self.sacked:
                del self.skipped_streams[stream_id]

    def skip_chunk(self) -> bytes | None:
        """Return the FORWARD TSN chunk (RFC 3758 section 3.2) that is due, None if there is none."""
        if self.skipped <= self.sacked:
            return None
        named = list(self.skipped_streams.items())[:MAX_SKIPPED_STREAMS]
        head = _FORWARD.pack(192, 0, 8 + 4 * len(named), self.skipped & TSN_MASK)
        return head + b"".join(_PAIR.pack(stream, sequence) for stream, (sequence, _) in named)
