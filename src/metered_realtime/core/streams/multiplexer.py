"""Many streams over one reliable, ordered channel of messages: credit, and turns.

A stream has one direction. Its life at the writing end, and at the reading end:

    writing     open -> write ... -> end -> (FINISHED arrives) gone        abort or CANCEL: gone at once
    reading     (OPEN arrives) -> (DATA arrives), consumed ... -> (END arrives) -> all consumed, FINISHED is sent: gone
                                                                           cancel or ABORT: gone at once

Invariants, whatever the other end sends:

- Content that has arrived and is not consumed never exceeds the credit given: `WINDOW` per stream, plus `widen`.
- Consumed content is returned as credit, a quarter of the window at a time, so a writer never waits for credit while
  its reader has nothing to read.
- A stream with credit and content is served once in each round, whatever the other streams do.
- A frame for a stream that is gone is ignored: it was in flight when the stream ended.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from .frames import (
    ABORT,
    CANCEL,
    CREDIT,
    DATA,
    END,
    FINISHED,
    MAX_CHUNK,
    MAX_CREDIT,
    MAX_ID,
    OPEN,
    Code,
    Opening,
    StreamFrame,
    StreamProtocolError,
    decode_opening,
    decode_stop,
    encode,
    encode_opening,
    encode_stop,
    parse,
)

WINDOW = 262_144
"""Initial credit of a stream, in bytes: 5 MB/s at a round trip of 50 ms, and a bounded loss at a reset."""

REFILL = WINDOW // 4
"""Bytes of credit returned at once: two frames of data for each small frame of credit."""

MAX_STREAMS = 128
"""Maximum streams in one direction: with the window, a remote can make this end hold 32 MiB."""

MAX_REPLIES = 1024
"""Maximum queued replies to the frames of a remote. More means that it does not read, or floods this end."""


class TooManyStreamsError(ValueError):
    """`MAX_STREAMS` streams are already open in this direction."""


@dataclass(frozen=True, slots=True)
class Opened:
    """The other end opened a stream."""

    id: int
    opening: Opening


@dataclass(frozen=True, slots=True)
class Arrived:
    """Content of an inbound stream arrived."""

    id: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ended:
    """The content of an inbound stream has arrived completely."""

    id: int


@dataclass(frozen=True, slots=True)
class Aborted:
    """The writer of an inbound stream aborted it."""

    id: int
    code: Code
    detail: str


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The reader of an outbound stream cancelled it."""

    id: int
    code: Code
    detail: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The reader of an outbound stream has read everything."""

    id: int


Effect = Opened | Arrived | Ended | Aborted | Cancelled | Finished


@dataclass(slots=True)
class _Outbound:
    total: int | None
    credit: int = WINDOW
    pieces: deque[memoryview] = field(default_factory=deque)
    pending: int = 0
    written: int = 0
    ending: bool = False
    end_sent: bool = False

    @property
    def is_ready(self) -> bool:
        if self.pending:
            return self.credit > 0
        return self.ending and not self.end_sent

    def pop(self, room: int) -> bytes:
        """Remove and return up to `room` bytes. Small writes share a frame."""
        popped = []
        while room and self.pieces:
            piece = self.pieces.popleft()
            if len(piece) > room:
                self.pieces.appendleft(piece[room:])
                piece = piece[:room]
            room -= len(piece)
            self.pending -= len(piece)
            popped.append(piece)
        return b"".join(popped)


@dataclass(slots=True)
class _Inbound:
    total: int | None
    credit: int = WINDOW
    arrived: int = 0
    unread: int = 0
    owed: int = 0
    ended: bool = False


class StreamMultiplexer:
    """One end of the channel. `next_frame` returns the frame to send, `receive` the effects of one that arrived.

    `ignored` counts the frames for streams that are gone.
    """

    def __init__(self) -> None:
        self.ignored = 0
        self._last_id = 0
        self._last_remote_id = 0
        self._outbound: dict[int, _Outbound] = {}
        self._inbound: dict[int, _Inbound] = {}
        self._control: deque[bytes] = deque()
        self._replies = 0  # frames in `_control` that answer the other end
        self._credit_due: dict[int, int] = {}
        self._turns: deque[int] = deque()
        self._waiting: set[int] = set()

    # --- streams that this end writes

    def open(self, opening: Opening) -> int:
        """Open a stream and return its number.

        Raises:
            TooManyStreamsError: `MAX_STREAMS` are open.
            ValueError: the topic or the attributes are invalid.
        """
        if len(self._outbound) >= MAX_STREAMS or self._last_id >= MAX_ID:
            raise TooManyStreamsError(f"{len(self._outbound)} streams are open")
        payload = encode_opening(opening)
        self._last_id += 1
        self._outbound[self._last_id] = _Outbound(opening.total)
        self._control.append(encode(OPEN, self._last_id, payload))
        return self._last_id

    def write(self, id: int, data: bytes) -> None:
        """Queue content until it can be sent. Check `pending` before writing more.

        Raises:
            ValueError: the stream has been ended, or the content exceeds the announced total.
        """
        stream = self._outbound[id]
        if stream.ending:
            raise ValueError("the stream has been ended")
        if stream.total is not None and stream.written + len(data) > stream.total:
            raise ValueError(f"the content exceeds the {stream.total} bytes announced")
        if data:
            stream.pieces.append(memoryview(data))
            stream.pending += len(data)
            stream.written += len(data)
            self._take_turn(id)

    def pending(self, id: int) -> int:
        """Return the unsent bytes of a stream. 0 for one that is gone."""
        stream = self._outbound.get(id)
        return stream.pending if stream is not None else 0

    def end(self, id: int) -> None:
        """End a stream after its pending content.

        Raises:
            ValueError: less than the announced total was written.
        """
        stream = self._outbound[id]
        if stream.total is not None and stream.written < stream.total:
            raise ValueError(f"only {stream.written} of the {stream.total} bytes announced were written")
        stream.ending = True
        self._take_turn(id)

    def abort(self, id: int, code: Code, detail: str) -> None:
        """Abort a stream; pending content is not sent. No effect on one that is gone."""
        if self._outbound.pop(id, None) is not None:
            self._control.append(encode(ABORT, id, encode_stop(code, detail)))

    # --- streams that this end reads

    def consumed(self, id: int, count: int) -> None:
        """Count bytes that were read, which gives the writer credit. No effect on a stream that is gone."""
        stream = self._inbound.get(id)
        if stream is None:
            return
        stream.unread -= count
        if stream.ended:
            self._finish_if_read(id, stream)
        else:
            self._owe(id, stream, count)

    def widen(self, id: int, count: int) -> None:
        """Give a stream `count` bytes of credit in addition to its window.

        Raises:
            ValueError: `count` is not positive, or the credit would exceed `MAX_CREDIT`.
        """
        stream = self._inbound.get(id)
        room = MAX_CREDIT if stream is None else MAX_CREDIT - stream.credit - stream.owed - stream.unread
        if not 1 <= count <= room:
            raise ValueError(f"count must be from 1 to {room}, not {count!r}")
        if stream is not None and not stream.ended:
            self._owe(id, stream, count)

    def cancel(self, id: int, code: Code, detail: str) -> None:
        """Ask the writer to stop, and forget the stream. No effect on one that is gone."""
        stream = self._inbound.pop(id, None)
        self._credit_due.pop(id, None)
        if stream is not None:
            self._control.append(encode(CANCEL, id, encode_stop(code, detail)))
            self._replies += 1  # the other end may open further streams without reading this frame

    # --- the channel

    def next_frame(self) -> bytes | None:
        """Return the next frame to send, None if there is none. Control frames and credit precede content."""
        if self._control:
            self._replies = min(self._replies, len(self._control) - 1)
            return self._control.popleft()
        if self._credit_due:
            id = next(iter(self._credit_due))
            return encode(CREDIT, id, self._credit_due.pop(id).to_bytes(4, "big"))
        while self._turns:
            id = self._turns.popleft()
            self._waiting.discard(id)
            stream = self._outbound.get(id)
            if stream is not None and stream.is_ready:
                return self._content(id, stream)
        return None

    def receive(self, message: bytes | str) -> list[Effect]:
        """Process a message of the channel and return its effects.

        Raises:
            StreamProtocolError: the other end violated the protocol. The channel cannot continue.
        """
        frame = parse(message)
        if frame.type == OPEN:
            return self._opened(frame)
        if frame.type in (DATA, END, ABORT):
            inbound = self._inbound.get(frame.id)
            if inbound is not None:
                return self._read(frame, inbound)
            known = frame.id <= self._last_remote_id
        else:
            outbound = self._outbound.get(frame.id)
            if outbound is not None:
                return self._written(frame, outbound)
            known = frame.id <= self._last_id
        if not known:
            raise StreamProtocolError(f"stream {frame.id} was never opened")
        self.ignored += 1
        return []

    # --- inside

    def _take_turn(self, id: int) -> None:
        if id not in self._waiting and self._outbound[id].is_ready:
            self._waiting.add(id)
            self._turns.append(id)

    def _content(self, id: int, stream: _Outbound) -> bytes:
        if not stream.pending:
            stream.end_sent = True  # it stays until FINISHED arrives, so that both ends count the same streams
            return encode(END, id)
        chunk = stream.pop(min(MAX_CHUNK, stream.credit))
        stream.credit -= len(chunk)
        self._take_turn(id)
        return encode(DATA, id, chunk)

    def _opened(self, frame: StreamFrame) -> list[Effect]:
        if frame.id <= self._last_remote_id:
            raise StreamProtocolError(f"stream {frame.id} was opened before")
        self._check_replies()
        opening = decode_opening(frame.payload)
        self._last_remote_id = frame.id
        if len(self._inbound) >= MAX_STREAMS:
            self._reply(encode(CANCEL, frame.id, encode_stop("too_many_streams", "")))
            return []
        self._inbound[frame.id] = _Inbound(opening.total)
        return [Opened(frame.id, opening)]

    def _read(self, frame: StreamFrame, stream: _Inbound) -> list[Effect]:
        if frame.type == ABORT:
            code, detail = decode_stop(frame.payload)
            self._forget_inbound(frame.id)
            return [Aborted(frame.id, code, detail)]
        if stream.ended:
            raise StreamProtocolError(f"stream {frame.id} continues after its end")
        if frame.type == DATA:
            return self._arrived(frame, stream)
        if stream.total is not None and stream.arrived < stream.total:
            raise StreamProtocolError(f"stream {frame.id} ends after {stream.arrived} of {stream.total} bytes")
        stream.ended = True
        self._finish_if_read(frame.id, stream)
        return [Ended(frame.id)]

    def _arrived(self, frame: StreamFrame, stream: _Inbound) -> list[Effect]:
        size = len(frame.payload)
        if size > stream.credit:
            raise StreamProtocolError(f"stream {frame.id} sent {size} bytes with a credit of {stream.credit}")
        if stream.total is not None and stream.arrived + size > stream.total:
            raise StreamProtocolError(f"stream {frame.id} sent more than the {stream.total} bytes it announced")
        stream.credit -= size
        stream.arrived += size
        stream.unread += size
        return [Arrived(frame.id, frame.payload)]

    def _written(self, frame: StreamFrame, stream: _Outbound) -> list[Effect]:
        if frame.type == CANCEL:
            code, detail = decode_stop(frame.payload)
            del self._outbound[frame.id]
            return [Cancelled(frame.id, code, detail)]
        if frame.type == FINISHED:
            if not stream.end_sent:
                raise StreamProtocolError(f"stream {frame.id} is finished before its end")
            del self._outbound[frame.id]
            return [Finished(frame.id)]
        return self._credited(frame, stream)

    def _credited(self, frame: StreamFrame, stream: _Outbound) -> list[Effect]:
        count = int.from_bytes(frame.payload, "big")
        if not 1 <= count <= MAX_CREDIT - stream.credit:
            raise StreamProtocolError(f"stream {frame.id} is given a credit of {count} more")
        stream.credit += count
        self._take_turn(frame.id)
        return []

    def _owe(self, id: int, stream: _Inbound, count: int) -> None:
        stream.owed += count
        if stream.owed >= REFILL:
            stream.credit += stream.owed
            self._credit_due[id] = self._credit_due.get(id, 0) + stream.owed
            stream.owed = 0

    def _finish_if_read(self, id: int, stream: _Inbound) -> None:
        if not stream.unread:
            self._forget_inbound(id)
            self._reply(encode(FINISHED, id))

    def _forget_inbound(self, id: int) -> None:
        self._inbound.pop(id, None)
        self._credit_due.pop(id, None)

    def _check_replies(self) -> None:
        if self._replies >= MAX_REPLIES:
            raise StreamProtocolError(f"{self._replies} answers wait to be taken")

    def _reply(self, frame: bytes) -> None:
        self._check_replies()
        self._replies += 1
        self._control.append(frame)
