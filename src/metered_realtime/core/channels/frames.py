"""The frames of a channel that survives its connection, as bytes and as objects. docs/data_channels.md has the layout.

Every frame is one binary message of a data channel, big-endian, and begins with its type. Numbers count messages from
0 in each direction and stay below 2**53, so that JavaScript can hold them. Session ids are random, never 0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

PROTOCOL = "metered.channel.1"
"""The subprotocol (RFC 8832) of a channel whose messages are sent again until they have arrived."""

LOSSY_PROTOCOL = "metered.channel.1.lossy"
"""The subprotocol of one whose messages are given up when their connection is."""

MAX_FRAME = 65_536
"""Bytes of a frame, header included: what every end takes, also one that names no `max-message-size` (RFC 8841)."""

MIN_CHUNK = 1_024
"""Bytes of a chunk that is not the last one of its message. Crumbs would cost a receiver more memory than they fill."""

MAX_NUMBER = 2**53 - 1

HELLO, MESSAGE, CHUNK, ACK, SKIP, CLOSE = range(1, 7)

TEXT = 1
"""Flag: the message is text, in UTF-8."""

URGENT = 2
"""Flag: acknowledge at once, the sender is about to run out of room."""

_HELLO = struct.Struct("!BQQQQII")
_MESSAGE = struct.Struct("!BBQ")
_CHUNK = struct.Struct("!BBQII")
_NUMBER = struct.Struct("!BQ")
_CLOSE = struct.Struct("!BB")

MESSAGE_HEADER = _MESSAGE.size
CHUNK_HEADER = _CHUNK.size


class FrameError(Exception):
    """The other end broke the rules of the channel: a malformed frame, or one that makes no sense."""


@dataclass(frozen=True, slots=True)
class Hello:
    """Who an end is and what it has. The first frame of each end on each connection, and a request to send again.

    `session` sends from number `base` on. Of the other end's session `known` (0: none yet) everything below `next` has
    arrived, and `offset` bytes of `next`. Messages of up to `max_message` bytes are taken.
    """

    session: int
    base: int
    known: int
    next: int
    offset: int
    max_message: int


@dataclass(slots=True)
class Part:
    """A message, or `payload` at `offset` of one of `total` bytes."""

    number: int
    is_text: bool
    is_urgent: bool
    offset: int
    total: int
    payload: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Ack:
    """Everything below `next` has arrived."""

    next: int


@dataclass(frozen=True, slots=True)
class Skip:
    """Nothing below `base` will be sent any more."""

    base: int


@dataclass(frozen=True, slots=True)
class Close:
    """The channel is closed. `reason` is 0 for a plain close, 1 after broken rules."""

    reason: int


Frame = Hello | Part | Ack | Skip | Close


def encode_hello(hello: Hello) -> bytes:
    """Return the frame."""
    return _HELLO.pack(
        HELLO, hello.session, hello.base, hello.known, hello.next, hello.offset, hello.max_message
    )  # fmt: skip


def encode_message(number: int, flags: int, payload: bytes) -> bytes:
    """Return the frame of a whole message."""
    return _MESSAGE.pack(MESSAGE, flags, number) + payload


def encode_chunk(number: int, flags: int, offset: int, payload: bytes, size: int) -> bytes:
    """Return the frame of `size` bytes at `offset` of a message."""
    chunk = memoryview(payload)[offset : offset + size]
    return b"".join((_CHUNK.pack(CHUNK, flags, number, offset, len(payload)), chunk))


def encode_ack(next_number: int) -> bytes:
    """Return the frame."""
    return _NUMBER.pack(ACK, next_number)


def encode_skip(base: int) -> bytes:
    """Return the frame."""
    return _NUMBER.pack(SKIP, base)


def encode_close(reason: int) -> bytes:
    """Return the frame."""
    return _CLOSE.pack(CLOSE, reason)


def decode(frame: bytes) -> Frame:
    """Read a frame of the other end. Chunks refer to it, messages are copies.

    Raises:
        FrameError: it is not one.
    """
    if not 2 <= len(frame) <= MAX_FRAME:
        raise FrameError(f"a frame of {len(frame)} bytes")
    try:
        return _READERS[frame[0]](frame)
    except KeyError:
        raise FrameError(f"a frame of type {frame[0]}") from None
    except struct.error as error:
        raise FrameError(f"a frame of type {frame[0]}: {error}") from None


def _read_message(frame: bytes) -> Part:
    _, flags, number = _MESSAGE.unpack_from(frame)
    _check_number(number)
    payload = frame[MESSAGE_HEADER:]
    return Part(number, bool(flags & TEXT), bool(flags & URGENT), 0, len(payload), payload)


def _read_chunk(frame: bytes) -> Part:
    _, flags, number, offset, total = _CHUNK.unpack_from(frame)
    _check_number(number)
    payload = memoryview(frame)[CHUNK_HEADER:]
    end = offset + len(payload)
    if end > total or (end < total and len(payload) < MIN_CHUNK) or not payload:
        raise FrameError(f"a chunk of {len(payload)} bytes at {offset} of {total}")
    return Part(number, bool(flags & TEXT), bool(flags & URGENT), offset, total, payload)


def _read_hello(frame: bytes) -> Hello:
    _, session, base, known, next_number, offset, max_message = _HELLO.unpack(frame)
    _check_number(base)
    _check_number(next_number)
    if session == 0:
        raise FrameError("a session without an id")
    return Hello(session, base, known, next_number, offset, max_message)


def _read_number(frame: bytes) -> int:
    number: int = _NUMBER.unpack(frame)[1]
    _check_number(number)
    return number


def _check_number(number: int) -> None:
    if number > MAX_NUMBER:
        raise FrameError(f"the number {number}")


_READERS: dict[int, Callable[[bytes], Frame]] = {
    HELLO: _read_hello,
    MESSAGE: _read_message,
    CHUNK: _read_chunk,
    ACK: lambda frame: Ack(_read_number(frame)),
    SKIP: lambda frame: Skip(_read_number(frame)),
    CLOSE: lambda frame: Close(_CLOSE.unpack(frame)[1]),
}
