"""What the hub writes: replies, snapshots, presence, and what was missed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from ...core.wire.frames import (
    MAX_SERVER_FRAME,
    DirectFrame,
    LostFrame,
    MessageFrame,
    PresenceEntry,
    PresenceFrame,
    ServerFrame,
    encode,
)
from ..engine.contract import Member, MissedMessages, Position, Stored
from ..routing import METADATA, OFFSETS, Channel, Subscriber
from .recovery import replay

SNAPSHOT_PAGE = 3_500
"""Maximum number of peers in a snapshot frame without metadata: ids of 128 escaped characters stay within the limit."""

HELD_BYTES = 1_048_576
"""Maximum size of the directs that wait for the outcome of a subscribe, as many as fit into an outbox. Beyond it they
are written at once: a client may then hear from a peer that it does not know yet, but loses nothing."""


class HubWriter:
    """Writes frames to subscribers. `seal` turns an encoded frame into the argument of their `write`.

    Attributes:
        is_silent: Whether presence is not sent any more.
    """

    def __init__(self, seal: Callable[[bytes], bytes]) -> None:
        self._seal = seal
        self.is_silent = False

    def pack(self, frame: ServerFrame) -> bytes:
        """Return a frame as it is written."""
        return self._seal(encode(frame))

    def reply(self, subscriber: Subscriber, frame: ServerFrame) -> None:
        """Write a frame to one subscriber."""
        subscriber.write(self._seal(encode(frame)))

    def message(self, channel: str, stored: Stored, wishes: int) -> bytes:
        """Return the frame of a message for subscribers that wish this."""
        sent = stored.envelope
        return self._seal(
            encode(
                MessageFrame(
                    channel,
                    sent.sender,
                    sent.data,
                    sent.metadata if wishes & METADATA else None,
                    stored.offset if wishes & OFFSETS else None,
                )
            )
        )

    def direct(self, stored: Stored, with_offset: bool) -> bytes:
        """Return the frame of a direct."""
        sent = stored.envelope
        return self._seal(
            encode(DirectFrame(sent.sender, sent.data, sent.metadata, stored.offset if with_offset else None))
        )

    def hold(self, subscriber: Subscriber, frame: bytes) -> None:
        """Write a direct, after the outcomes of the subscribes that are under way."""
        if not subscriber.joins:
            return subscriber.write(frame)
        held = subscriber.held = subscriber.held if subscriber.held is not None else deque()
        held.append((next(reversed(subscriber.joins)), frame))
        subscriber.held_bytes += len(frame)
        if subscriber.held_bytes > HELD_BYTES:
            self._write_first(subscriber, held, None)
        return None

    def write_held(self, subscriber: Subscriber) -> None:
        """Write the directs that wait for nothing any more."""
        held = subscriber.held
        if held is not None:
            self._write_first(subscriber, held, next(iter(subscriber.joins), None))

    def _write_first(self, subscriber: Subscriber, held: deque[tuple[int, bytes]], before: int | None) -> None:
        while held and (before is None or held[0][0] < before):
            frame = held.popleft()[1]
            subscriber.held_bytes -= len(frame)
            subscriber.write(frame)
        if not held:
            subscriber.held = None

    def lost(self, subscriber: Subscriber, channel: str | None, position: Position, count: int | None) -> None:
        """Report to a subscriber that messages of a channel, or directs, cannot be delivered."""
        frame = self.pack(LostFrame(position.epoch, position.offset, channel, count))
        if channel is None:
            self.hold(subscriber, frame)
        else:
            subscriber.write(frame)

    def replay(
        self,
        subscriber: Subscriber,
        channel: str | None,
        missed: MissedMessages,
        end: Position,
        render: Callable[[Stored], bytes],
    ) -> None:
        """Write what a subscriber has missed in a channel, or of its directs, as far as it may still get it."""
        own_id = None if channel is None else subscriber.peer_id
        again = replay(missed, end, own_id, subscriber.recoverable, render)
        subscriber.recoverable -= again.size
        subscriber.charge(again.size)
        if again.lost != 0:
            self.lost(subscriber, channel, again.position, again.lost)
        for frame in again.frames:
            subscriber.write(frame)

    def announce(self, channel: Channel, name: str, joined: Sequence[Member], left: Sequence[Member]) -> None:
        """Tell the subscribers of a channel who came and went, except of their own peer."""
        if self.is_silent or not (joined or left):
            return
        subjects = {member.peer_id for member in (*joined, *left)}
        packed = self.pack(PresenceFrame(name, entries(joined), entries(left)))
        for subscriber in channel.subscribers:
            if not subscriber.grant.permits("presence"):
                continue
            if subscriber.peer_id not in subjects:
                subscriber.write(packed)
            elif len(subjects) > 1:
                own_id = subscriber.peer_id
                self.reply(subscriber, PresenceFrame(name, entries(joined, own_id), entries(left, own_id)))

    def snapshot(self, subscriber: Subscriber, name: str, members: Sequence[Member]) -> None:
        """Send a snapshot, in one frame if possible: clients take the first one for the whole roster.

        A snapshot that would exceed the frame size of clients is sent without metadata, and only if the ids alone are
        too many, in several frames.
        """
        others = entries(members, subscriber.peer_id)
        if sum(map(_size, others)) < MAX_SERVER_FRAME:  # otherwise it is too large in any case
            frame = encode(PresenceFrame(name, others, ()))
            if len(frame) < MAX_SERVER_FRAME:
                subscriber.charge(len(frame))
                subscriber.write(self._seal(frame))
                return
        bare = [PresenceEntry(entry.peer_id) for entry in others]
        for start in range(0, len(bare), SNAPSHOT_PAGE):
            page = self.pack(PresenceFrame(name, tuple(bare[start : start + SNAPSHOT_PAGE]), ()))
            subscriber.charge(len(page))
            subscriber.write(page)


def entries(members: Iterable[Member], without: str | None = None) -> tuple[PresenceEntry, ...]:
    """Return peers as presence frames have them, except one."""
    return tuple(
        PresenceEntry(member.peer_id, member.metadata, member.expelled)
        for member in members
        if member.peer_id != without
    )


def _size(entry: PresenceEntry) -> int:
    """Return the minimum size of an entry in a snapshot, in bytes."""
    return len(entry.peer_id) + (0 if entry.metadata is None else memoryview(entry.metadata).nbytes)
