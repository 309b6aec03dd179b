"""The WebSocket frames that come from a client, looked at before aiohttp takes them: masked, and not too many.

aiohttp reads frames without a mask like any other, and hides whether there was one. RFC 6455 (5.1) has the server close
the connection. It also puts no bound on frames that are hardly more than a head: pieces of a message, which no other
bound counts. So a protocol stands between the transport and aiohttp that follows the heads of the frames.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .limits import TokenBucket

PROTOCOL_ERROR, POLICY_VIOLATION = 1002, 1008

HEADS_PER_SECOND, HEAD_BURST = 5_000.0, 10_000
"""Frames, pieces of messages included. 100 messages of 64 KB in pieces of 1.4 KB are 4,700, and looking at 10,000 heads
takes some 3 ms."""


class BadFrameError(Exception):
    """Frames that end the connection with a close code."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class FrameHeads:
    """Follows the heads of frames (RFC 6455, 5.2) through bytes that come in any pieces."""

    __slots__ = ("_begun", "_to_skip")

    def __init__(self) -> None:
        self._begun = b""  # the beginning of a head
        self._to_skip = 0  # bytes until the next head

    def count(self, data: bytes, at_most: int) -> int:
        """Return how many frames begin in the next bytes.

        Raises:
            BadFrameError: one is not masked, or there are more than `at_most`.
        """
        if self._begun:
            data, self._begun = self._begun + data, b""
        count, at, size = 0, self._to_skip, len(data)
        while at < size:
            end = _end_of_frame(data, at)
            if end is None:
                self._begun, at = data[at:], size
                break
            count, at = count + 1, end
            if count > at_most:
                raise BadFrameError(POLICY_VIOLATION, "too many frames")
        self._to_skip = at - size
        return count


def _end_of_frame(data: bytes, at: int) -> int | None:
    """Return where a frame ends that begins at `at`. None if its length is not there yet."""
    if len(data) < at + 2:
        return None
    second = data[at + 1]
    if second < 0x80:
        raise BadFrameError(PROTOCOL_ERROR, "frames of clients are masked")
    length = second - 0x80
    if length < 126:
        return at + 6 + length
    extended = 2 if length == 126 else 8
    if len(data) < at + 2 + extended:
        return None
    return at + 6 + extended + int.from_bytes(data[at + 2 : at + 2 + extended])


class FrameGuard(asyncio.Protocol):
    """Passes everything on to another protocol, until frames come that must not.

    It takes the place of `inner` at its transport when the handshake is over: a client sends nothing before it has the
    answer (RFC 6455, 4.1).
    """

    def __init__(self, inner: asyncio.Protocol, clock: Callable[[], float], refuse: Callable[[int, str], None]) -> None:
        self._inner = inner
        self._clock = clock
        self._refuse = refuse
        self._heads = FrameHeads()
        self._bucket = TokenBucket(HEADS_PER_SECOND, HEAD_BURST, clock())
        self._is_broken = False

    def data_received(self, data: bytes) -> None:
        """Look at the heads of the frames first. After a fault nothing is passed on."""
        if self._is_broken:
            return
        try:
            self._bucket.charge(self._heads.count(data, self._bucket.left(self._clock())))
        except BadFrameError as fault:
            self._is_broken = True
            self._refuse(fault.code, fault.reason)
        else:
            self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """Pass it on."""
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass it on."""
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Pass it on."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Pass it on."""
        self._inner.resume_writing()
