"""Messages larger than what a data channel takes, in pieces, between ends that both know how.

A piece is a binary message: the byte 0xC1, which begins neither MessagePack ("never used") nor UTF-8; a byte of
flags, 1 for the last piece and 2 for a message that is given up; the number of the message as 32 bits, big endian;
then bytes of the message. The pieces of one message come in order; those of several may alternate.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

MARK = 0xC1
LAST = 1
ABANDONED = 2

CHUNK_SIZE = 64_000
"""Bytes of a message in one piece: below 64 KiB with its header, which every implementation takes in one message, and
small enough that other calls get their turn."""

MAX_MESSAGE_SIZE = 8 * 1024 * 1024
"""Bytes of a whole message. How many values it may have is in `message_cost`."""

MAX_PARTIAL = 8
"""Messages of one channel that may arrive in pieces at once. Ours send one after the other."""

MAX_PARTIAL_BYTES = 2 * MAX_MESSAGE_SIZE
"""Bytes of all channels of one remote that wait for the rest of their message, which may never come."""

_HEADER = struct.Struct(">BBI")
_MAX_NUMBER = 0xFFFF_FFFF


class ChunkError(Exception):
    """Pieces that exceed what is taken, or make no sense."""


def is_chunk(message: str | bytes) -> bool:
    """Tell whether a message is a piece of another one."""
    return isinstance(message, bytes) and message[:1] == b"\xc1"


def split(number: int, message: bytes) -> Iterator[bytes]:
    """Cut a message into pieces, in the order in which they are sent."""
    for start in range(0, len(message), CHUNK_SIZE):
        flags = LAST if start + CHUNK_SIZE >= len(message) else 0
        yield _HEADER.pack(MARK, flags, number & _MAX_NUMBER) + message[start : start + CHUNK_SIZE]


def abandoned(number: int) -> bytes:
    """Return the piece that tells that the rest of a message is not coming."""
    return _HEADER.pack(MARK, ABANDONED, number & _MAX_NUMBER)


@dataclass(slots=True)
class PartialBytes:
    """How many bytes wait for the rest of their message, over all channels of a remote."""

    count: int = 0


class MessageReassembly:
    """Puts the pieces of one channel together again."""

    def __init__(self, waiting: PartialBytes | None = None) -> None:
        self._partial: dict[int, bytearray] = {}
        self._waiting = waiting if waiting is not None else PartialBytes()

    def add(self, chunk: bytes) -> bytes | None:
        """Take a piece, and return the message if it was the last one.

        Raises:
            ChunkError: too many, too large, or not a piece. Everything of the message is forgotten.
        """
        if len(chunk) < _HEADER.size:
            raise ChunkError("a piece without a header")
        _, flags, number = _HEADER.unpack_from(chunk)
        if flags & ABANDONED:
            self._forget(number)
            return None
        message = self._append(number, chunk)
        if not flags & LAST:
            return None
        self._forget(number)
        return bytes(message)

    def clear(self) -> None:
        """Forget what is not complete: the channel has ended."""
        for number in tuple(self._partial):
            self._forget(number)

    def _append(self, number: int, chunk: bytes) -> bytearray:
        message = self._partial.setdefault(number, bytearray())
        size = len(chunk) - _HEADER.size
        self._waiting.count += size
        message += memoryview(chunk)[_HEADER.size :]
        is_too_much = len(message) > MAX_MESSAGE_SIZE or self._waiting.count > MAX_PARTIAL_BYTES
        if is_too_much or len(self._partial) > MAX_PARTIAL:
            self._forget(number)
            raise ChunkError("more in pieces than is taken")
        return message

    def _forget(self, number: int) -> None:
        self._waiting.count -= len(self._partial.pop(number, b""))
