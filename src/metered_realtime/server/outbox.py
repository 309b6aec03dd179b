"""The frames on their way to a client: written at once, or joined when several clients are heard at a time. Bounded.

The system call is most of the cost of a delivery, and what is left of it goes to the layers above `write(2)`.

- A frame that is the only one of its turn of the event loop is written at once, to the socket itself while its
  transport holds nothing. With TLS, or without file descriptors, it is queued as well.
- Further frames of the turn are queued, and the turn ends with one write for each client that has some, however many
  were published. While turns have several frames, those of the next turns are queued from the first one on.

Nothing waits for more to come: the writes that end a turn run before any frame that has arrived since is handled.

Invariants:
- Frames reach the client in the order of `write`, once each, or not at all.
- The socket itself is written to only while its transport holds nothing, and never after `end`. The owner calls it
  before the transport can close the socket: no other connection gets what is written to a descriptor that is reused.
- What is queued and what the transport holds never exceed the limit together, except for one frame alone.
- A client that is slow, or whose connection fails, changes nothing for the others.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable

from .metrics.times import Durations

BUSY_TIME = 0.05
"""Seconds after a turn with several frames in which the first frame of a turn is queued, too: more are likely."""

CAN_WRITE = os.name == "posix"
"""Whether sockets are file descriptors."""

NO_DESCRIPTOR = -1
"""As the sockets of closed transports have it."""


class LoopTurn:
    """A turn of the event loop: whether frames are joined in it, and who has some.

    Attributes:
        durations: How long the writes at the end of turns took.
        joins: Whether frames are queued until the end of the turn.
        outboxes: Those with queued frames.
    """

    def __init__(self) -> None:
        self.durations = Durations()
        self.joins = False
        self.outboxes: list[Outbox] = []
        self._causes = 0
        self._busy_until = 0.0
        self._is_ending = False

    def count_cause(self, now: float) -> None:
        """Count a frame of a client, or anything else that causes writes. `now` is the time of the event loop."""
        self._causes += 1
        if self._causes == 1:
            self.joins = now < self._busy_until
            self.end_soon()
        elif self._causes == 2:
            self.joins = True
            self._busy_until = now + BUSY_TIME

    def end_soon(self) -> None:
        """Have the turn end before the next one. Idempotent."""
        if not self._is_ending:
            self._is_ending = True
            asyncio.get_running_loop().call_soon(self.end)

    def end(self) -> None:
        """Write what is queued, and begin the next turn."""
        self._causes, self.joins, self._is_ending = 0, False, False
        if self.outboxes:
            began = time.perf_counter()
            outboxes = self.outboxes.copy()
            self.outboxes.clear()
            for outbox in outboxes:
                outbox.flush()
            self.durations.note(time.perf_counter() - began)


class Outbox:
    """The frames to one client. `on_full` is called for a frame that exceeds the limit, which is not sent."""

    __slots__ = (
        "_fd",
        "_frames",
        "_is_closing",
        "_is_direct",
        "_limit",
        "_on_full",
        "_space_left",
        "_transport",
        "_turn",
    )

    def __init__(self, transport: asyncio.Transport, turn: LoopTurn, limit: int, on_full: Callable[[], None]) -> None:
        self._transport = transport
        self._is_closing = transport.is_closing
        self._turn = turn
        self._limit = self._space_left = limit
        self._on_full = on_full
        self._frames: list[bytes] | None = None  # those of this turn
        self._fd = _descriptor_of(transport)
        self._is_direct = False  # whether the socket may be written to: the transport is known to hold nothing

    @property
    def unsent_bytes(self) -> int:
        """The number of bytes that wait for the client."""
        if self._is_closing():
            return 0
        return self._transport.get_write_buffer_size() + sum(map(len, self._frames or ()))

    def write(self, frame: bytes) -> None:
        """Send a sealed frame, now or at the end of the turn."""
        # What Python costs in a delivery is here: hence no call that can be spared.
        if not self._is_direct or self._turn.joins:
            return self._queue(frame)
        try:
            sent = os.write(self._fd, frame)
        except OSError:
            sent = 0  # no room in the system, or a broken connection, which the transport will find too
        if sent != len(frame):
            self._hand_over(frame[sent:])
        return None

    def end(self) -> None:
        """Stop writing to the socket: it is closed soon, and its descriptor becomes another connection's."""
        self._fd, self._is_direct = NO_DESCRIPTOR, False

    def flush(self) -> None:
        """Write what is queued. It is dropped if the transport is closing."""
        frames, self._frames = self._frames, None
        if frames is None or self._is_closing():
            return
        data = frames[0] if len(frames) == 1 else b"".join(frames)
        if self._fd == NO_DESCRIPTOR or self._transport.get_write_buffer_size():
            self._is_direct = False
            self._transport.write(data)
        else:
            self._is_direct = True
            self._space_left = self._limit
            try:
                sent = os.write(self._fd, data)
            except OSError:
                sent = 0
            if sent != len(data):
                self._hand_over(data[sent:])

    def _queue(self, frame: bytes) -> None:
        size = len(frame)
        if size > self._space_left and not self._has_space(size):
            return self._on_full()
        self._space_left -= size
        if self._frames is not None:
            self._frames.append(frame)
        else:
            self._frames = [frame]
            outboxes = self._turn.outboxes
            if not outboxes:
                self._turn.end_soon()
            outboxes.append(self)
        return None

    def _hand_over(self, rest: bytes) -> None:
        self._is_direct = False
        if not self._is_closing():
            self._transport.write(rest)
            self._space_left = self._limit - self._transport.get_write_buffer_size()

    def _has_space(self, size: int) -> bool:
        # `_space_left` is a lower bound, since the transport drains without notice: ask it only when the space seems
        # used up. What the system takes at once does not count.
        self.flush()
        if self._is_closing():
            return True  # and what is written is dropped
        waiting = self._transport.get_write_buffer_size()
        self._space_left = self._limit - waiting
        return size <= self._space_left or not waiting


def _descriptor_of(transport: asyncio.Transport) -> int:
    """Return the file descriptor of a socket that may be written to beside its transport, if there is one."""
    if not CAN_WRITE or transport.get_extra_info("sslcontext") is not None:
        return NO_DESCRIPTOR
    found = transport.get_extra_info("socket")
    return NO_DESCRIPTOR if found is None else int(found.fileno())
