"""The frames of a managed channel, as bytes and as objects. docs/data_channels.md has the layout.

Every frame is one binary message of a data channel, big-endian, and starts with its type. Numbers count messages from
0 in each direction and stay below 2**53, so that JavaScript can represent them. Instance ids are random, never 0.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

PROTOCOL = "metered.channel.1"
"""Subprotocol (RFC 8832) of a reliable channel, which sends messages again until they have arrived."""

LOSSY_PROTOCOL = "metered.channel.1.lossy"
"""Subprotocol of a lossy channel, which drops its messages when their connection is lost."""

MAX_FRAME = 65_536
"""Maximum frame size in bytes, header included: every end accepts it, even without `max-message-size` (RFC 8841)."""

MIN_CHUNK = 1_024
"""Minimum size in bytes of every chunk but the last of a message. Smaller ones cost the receiver more memory in
overhead than in content."""

MAX_NUMBER = 2**53 - 1

HELLO, MESSAGE, CHUNK, ACK, SKIP, CLOSE = range(1, 7)

TEXT = 1
"""Flag: the message is text, in UTF-8."""

URGENT = 2
"""Flag: acknowledge at once, because the window of the sender is filling up."""

_HELLO = struct.Struct("!BQQQQII")
_MESSAGE = struct.Struct("!BBQ")
_CHUNK = struct.Struct("!BBQII")
_NUMBER = struct.Struct("!BQ")
_CLOSE = struct.Struct("!BB")

MESSAGE_HEADER = _MESSAGE.size
CHUNK_HEADER = _CHUNK.size


class ChannelFrameError(Exception):
    """The other end violated the protocol of the channel: a frame is malformed, or invalid in this state."""


@dataclass(frozen=True, slots=True)
class HelloFrame:
    """The identity and the position of an end: its first frame on each connection, and a request to send again.

    `instance_id` identifies the end, which sends messages from number `base` on. `known` is the instance id of the
    other end, 0 if there is none yet; of its messages, everything below `next` has arrived, and `offset` bytes of
    `next`. Messages of up to `max_message` bytes are accepted.
    """

    instance_id: int
    base: int
    known: int
    next: int
    offset: int
    max_message: int


@dataclass(slots=True)
class MessagePart:
    """A whole message, or a chunk of one: `payload` starts at `offset` of `total` bytes."""

    number: int
    is_text: bool
    is_urgent: bool
    offset: int
    total: int
    payload: bytes | memoryview


@dataclass(frozen=True, slots=True)
class AckFrame:
    """Every message below `next` has arrived."""

    next: int


@dataclass(frozen=True, slots=True)
class SkipFrame:
    """No message below `base` will be sent any more."""

    base: int


@dataclass(frozen=True, slots=True)
class CloseFrame:
    """The channel is closed. `reason` is 0 for a regular close, 1 after a protocol violation."""

    reason: int


ChannelFrame = HelloFrame | MessagePart | AckFrame | SkipFrame | CloseFrame


def encode_hello(hello: HelloFrame) -> bytes:
    """Encode a hello frame."""
    return _HELLO.pack(
        HELLO, hello.instance_id, hello.base, hello.known, hello.next, hello.offset, hello.max_message
    )  # fmt: skip


def encode_message(number: int, flags: int, payload: bytes) -> bytes:
    """Encode a whole message."""
    return _MESSAGE.pack(MESSAGE, flags, number) + payload


def encode_chunk(number: int, flags: int, offset: int, payload: bytes, size: int) -> bytes:
    """Encode a chunk of a message: `size` bytes from `offset` on."""
    chunk = memoryview(payload)[offset : offset + size]
    return b"".join((_CHUNK.pack(CHUNK, flags, number, offset, len(payload)), chunk))


def encode_ack(next_number: int) -> bytes:
    """Encode an acknowledgement of every message below a number."""
    return _NUMBER.pack(ACK, next_number)


def encode_skip(base: int) -> bytes:
    """Encode a skip frame: no message below `base` will be sent."""
    return _NUMBER.pack(SKIP, base)


def encode_close(reason: int) -> bytes:
    """Encode a close frame."""
    return _CLOSE.pack(CLOSE, reason)


def decode(frame: bytes) -> ChannelFrame:
    """Decode a frame. The payload of a chunk is a view of the frame, that of a whole message a copy.

    Raises:
        ChannelFrameError: the frame is malformed.
    """
    if not 2 <= len(frame) <= MAX_FRAME:
        raise ChannelFrameError(f"a frame of {len(frame)} bytes")
    try:
        return _READERS[frame[0]](frame)
    except KeyError:
        raise ChannelFrameError(f"a frame of type {frame[0]}") from None
    except struct.error as error:
        raise ChannelFrameError(f"a frame of type {frame[0]}: {error}") from None


def _read_message(frame: bytes) -> MessagePart:
    _, flags, number = _MESSAGE.unpack_from(frame)
    _check_number(number)
    payload = frame[MESSAGE_HEADER:]
    return MessagePart(number, bool(flags & TEXT), bool(flags & URGENT), 0, len(payload), payload)


def _read_chunk(frame: bytes) -> MessagePart:
    _, flags, number, offset, total = _CHUNK.unpack_from(frame)
    _check_number(number)
    payload = memoryview(frame)[CHUNK_HEADER:]
    end = offset + len(payload)
    if end > total or (end < total and len(payload) < MIN_CHUNK) or not payload:
        raise ChannelFrameError(f"a chunk of {len(payload)} bytes at {offset} of {total}")
    return MessagePart(number, bool(flags & TEXT), bool(flags & URGENT), offset, total, payload)


def _read_hello(frame: bytes) -> HelloFrame:
    _, instance_id, base, known, next_number, offset, max_message = _HELLO.unpack(frame)
    _check_number(base)
    _check_number(next_number)
    if instance_id == 0:
        raise ChannelFrameError("an instance id of 0")
    return HelloFrame(instance_id, base, known, next_number, offset, max_message)


def _read_number(frame: bytes) -> int:
    number: int = _NUMBER.unpack(frame)[1]
    _check_number(number)
    return number


def _check_number(number: int) -> None:
    if number > MAX_NUMBER:
        raise ChannelFrameError(f"the number {number}")


_READERS: dict[int, Callable[[bytes], ChannelFrame]] = {
    HELLO: _read_hello,
    MESSAGE: _read_message,
    CHUNK: _read_chunk,
    ACK: lambda frame: AckFrame(_read_number(frame)),
    SKIP: lambda frame: SkipFrame(_read_number(frame)),
    CLOSE: lambda frame: CloseFrame(_CLOSE.unpack(frame)[1]),
}
