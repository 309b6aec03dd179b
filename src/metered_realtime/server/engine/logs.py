"""Bounded logs of messages with positions: what a memory engine keeps for those who return. Time is an argument.

Each log belongs to a key (a channel, a peer) and counts its messages from 1. Bounds apply to one log (number, bytes)
and to all together (bytes, age); the oldest messages are dropped, at a cost that is constant on average. `ages` has one
mark for each append, over all logs in order: the marks of a log are its messages, preceded by `stale` ones of messages
that its own bounds have dropped already. They are swept out when they are the larger part.

A log that nobody uses keeps its count, so that those who return find it: the last `MAX_UNUSED_LOGS` of them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from itertools import islice

from .contract import EngineLimits, Envelope, MissedMessages, Position, Stored

MAX_UNUSED_LOGS = 10_000
"""Maximum number of counts that are kept for channels and peers that are gone: 5 MB. Whoever returns to one that is not
kept hears that nobody knows what is lost."""

OVERHEAD = 512
"""Bytes of memory that a message takes besides its payload. They count for the bound of all logs, as otherwise tiny
messages would take several times as much."""

SWEEP_FROM = 1_024
"""Number of stale marks from which on they are swept out."""


class MessageLog:
    """The messages of one key. `offset` is that of the last message."""

    __slots__ = ("bytes", "epoch", "offset", "sizes", "stale", "stored")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.offset = 0
        self.bytes = 0
        self.stale = 0
        self.stored: deque[Stored] = deque()
        self.sizes: deque[int] = deque()

    def __len__(self) -> int:
        return len(self.stored)

    @property
    def position(self) -> Position:
        """The position after the last message."""
        return Position(self.epoch, self.offset)

    def since(self, position: Position) -> MissedMessages:
        """Return what came after a position.

        Of a position in another count, or beyond the end of this one, nobody knows how much is lost. In another count
        all messages are new; beyond the end none is.
        """
        if position.epoch != self.epoch:
            return MissedMessages(tuple(self.stored), None)
        if position.offset > self.offset:
            return MissedMessages((), None)
        before_first = self.offset - len(self.stored)
        skipped = max(0, position.offset - before_first)
        return MissedMessages(tuple(islice(self.stored, skipped, None)), max(0, before_first - position.offset))


class MessageLogs:
    """All logs of one process. `name_epoch` returns the name of a new count, another one each time."""

    def __init__(self, limits: EngineLimits, name_epoch: Callable[[], str]) -> None:
        self._most_messages, self._most_bytes = limits.messages_per_log, limits.bytes_per_log
        self._most_in_all, self._retention = limits.bytes_in_all, limits.retention
        self._name_epoch = name_epoch
        self._logs: dict[Hashable, MessageLog] = {}
        self._unused: dict[Hashable, None] = {}
        self._ages: deque[tuple[float, MessageLog]] = deque()
        self._stale = 0
        self.bytes = 0

    def __contains__(self, key: Hashable) -> bool:
        return key in self._logs

    def __len__(self) -> int:
        return len(self._ages) - self._stale

    def open(self, key: Hashable) -> MessageLog:
        """Return the log of a key for use, with what it has kept. Call `leave` when it is not used any more."""
        self._unused.pop(key, None)
        log = self._logs.get(key)
        if log is None:
            log = self._logs[key] = MessageLog(self._name_epoch())
        return log

    def find(self, key: Hashable) -> MessageLog | None:
        """Return the log of a key, used or not. None if there is none."""
        return self._logs.get(key)

    def leave(self, key: Hashable) -> None:
        """Keep the log of a key for those who return."""
        self._unused.pop(key, None)
        self._unused[key] = None
        if len(self._unused) > MAX_UNUSED_LOGS:
            oldest = next(iter(self._unused))
            del self._unused[oldest]
            log = self._logs.pop(oldest)
            while log.stored:
                self._drop_first(log)
                self._note_stale(log)

    def append(self, log: MessageLog, envelope: Envelope, now: float) -> Stored:
        """Number a message and keep it, dropping old ones as the bounds demand.

        Its payload must not be a part of something larger, such as a frame, which would be kept with it.
        """
        metadata = envelope.metadata
        size = memoryview(envelope.data).nbytes + (0 if metadata is None else memoryview(metadata).nbytes)
        log.offset = offset = log.offset + 1
        stored = Stored(offset, envelope)
        log.stored.append(stored)
        log.sizes.append(size)
        log.bytes += size
        self.bytes += size + OVERHEAD
        ages = self._ages
        ages.append((now, log))
        if len(log.stored) > self._most_messages or log.bytes > self._most_bytes:
            self._trim(log)
            ages = self._ages
        if self.bytes > self._most_in_all or (ages and ages[0][0] < now - self._retention):
            self.expire(now)
        return stored

    def expire(self, now: float) -> None:
        """Drop messages that are too old, and the oldest ones of all that are too many bytes."""
        oldest, most, ages = now - self._retention, self._most_in_all, self._ages
        while ages and (ages[0][0] < oldest or self.bytes > most):
            _, log = ages.popleft()
            if log.stale:
                log.stale -= 1
                self._stale -= 1
            else:
                self._drop_first(log)

    def _trim(self, log: MessageLog) -> None:
        while len(log.stored) > self._most_messages or log.bytes > self._most_bytes:
            self._drop_first(log)
            self._note_stale(log)

    def _drop_first(self, log: MessageLog) -> None:
        log.stored.popleft()
        size = log.sizes.popleft()
        log.bytes -= size
        self.bytes -= size + OVERHEAD

    def _note_stale(self, log: MessageLog) -> None:
        log.stale += 1
        self._stale += 1
        if self._stale > SWEEP_FROM and self._stale > len(self._ages) // 2:
            self._sweep()

    def _sweep(self) -> None:
        kept: deque[tuple[float, MessageLog]] = deque()
        for mark in self._ages:
            log = mark[1]
            if log.stale:
                log.stale -= 1
            else:
                kept.append(mark)
        self._ages, self._stale = kept, 0
