"""Messages larger than a data channel carries, split into chunks, between two ends that support it.

A chunk is a binary message: the byte 0xC1, which starts neither MessagePack ("never used") nor UTF-8; a byte of flags,
1 for the last chunk and 2 for a message that is abandoned; the number of the message as 32 bits, big endian; then bytes
of the message. The chunks of one message arrive in order; those of several messages may alternate.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MARK = 0xC1
LAST = 1
ABANDONED = 2

CHUNK_SIZE = 64_000
"""Bytes of a message in one chunk: below 64 KiB with its header, which every implementation accepts in one message, and
small enough that other calls get their turn."""

MAX_MESSAGE_SIZE = 8 * 1024 * 1024
"""Bytes of a whole message. `message_cost` bounds how many values it has."""

MAX_PARTIAL = 8
"""Messages of one channel that may arrive in chunks at once. This implementation sends one after the other."""

MAX_PARTIAL_BYTES = 2 * MAX_MESSAGE_SIZE
"""Bytes of incomplete messages over all channels of one remote. The rest of them may never arrive."""

_HEADER = struct.Struct(">BBI")
_MAX_NUMBER = 0xFFFF_FFFF


class ChunkError(Exception):
    """A chunk that is malformed, or exceeds a bound."""


def is_chunk(message: str | bytes) -> bool:
    """Return whether a message is a chunk of another one."""
    return isinstance(message, bytes) and message[:1] == b"\xc1"


def split(number: int, message: bytes) -> Iterator[bytes]:
    """Split a message into chunks, in the order in which they are sent."""
    for start in range(0, len(message), CHUNK_SIZE):
        flags = LAST if start + CHUNK_SIZE >= len(message) else 0
        yield _HEADER.pack(MARK, flags, number & _MAX_NUMBER) + message[start : start + CHUNK_SIZE]


def abandoned(number: int) -> bytes:
    """Return the chunk that abandons a message: its other chunks are not sent."""
    return _HEADER.pack(MARK, ABANDONED, number & _MAX_NUMBER)


@dataclass(slots=True)
class PartialBytes:
    """Bytes of incomplete messages, over all channels of a remote."""

    count: int = 0


class MessageReassembly:
    """Reassembles the chunks of one channel. `partial` is shared by the channels of a remote."""

    def __init__(self, partial: PartialBytes | None = None) -> None:
        self._messages: dict[int, bytearray] = {}
        self._partial = partial if partial is not None else PartialBytes()

    def add_chunk(self, chunk: bytes) -> bytes | None:
        """Add a chunk, and return its message if it was the last one.

        Raises:
            ChunkError: the chunk is malformed, or exceeds a bound. What has arrived of its message is dropped.
        """
        if len(chunk) < _HEADER.size:
            raise ChunkError("a chunk without a header")
        _, flags, number = _HEADER.unpack_from(chunk)
        if flags & ABANDONED:
            self._drop(number)
            return None
        message = self._append(number, chunk)
        if not flags & LAST:
            return None
        self._drop(number)
        return bytes(message)

    def clear(self) -> None:
        """Drop the incomplete messages: the channel has ended."""
        for number in tuple(self._messages):
            self._drop(number)

    def _append(self, number: int, chunk: bytes) -> bytearray:
        message = self._messages.setdefault(number, bytearray())
        size = len(chunk) - _HEADER.size
        self._partial.count += size
        message += memoryview(chunk)[_HEADER.size :]
        is_too_much = len(message) > MAX_MESSAGE_SIZE or self._partial.count > MAX_PARTIAL_BYTES
        if is_too_much or len(self._messages) > MAX_PARTIAL:
            self._drop(number)
            raise ChunkError("too many chunks, or too many bytes in them")
        return message

    def _drop(self, number: int) -> None:
        self._partial.count -= len(self._messages.pop(number, b""))
