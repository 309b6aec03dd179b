"""Checks the headers of a client's WebSocket frames before aiohttp reads them: masked, and not too many.

aiohttp silently accepts unmasked frames, where RFC 6455 (5.1) requires a server to close the connection. Nor
does it limit the number of frames with little or no payload, such as fragments of a message, which no other limit
counts. A protocol between the transport and aiohttp therefore parses the frame headers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from .limits import TokenBucket

PROTOCOL_ERROR, POLICY_VIOLATION = 1002, 1008

HEADS_PER_SECOND, HEAD_BURST = 5_000.0, 10_000
"""Rate limit of frames, fragments of messages included. 100 messages of 64 KB in fragments of 1.4 KB are 4,700 frames,
and parsing 10,000 headers takes about 3 ms."""


class BadFrameError(Exception):
    """A frame violates the protocol or exceeds the rate; the connection is closed with `code`."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class FrameHeads:
    """Finds the frame headers (RFC 6455, 5.2) in a byte stream that arrives in arbitrary chunks."""

    __slots__ = ("_begun", "_to_skip")

    def __init__(self) -> None:
        self._begun = b""  # an incomplete header
        self._to_skip = 0  # bytes until the next header

    def count(self, data: bytes, at_most: int) -> int:
        """Return the number of frames that begin in the next bytes.

        Raises:
            BadFrameError: a frame is not masked, or there are more than `at_most`.
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
    """Return the end of the frame that begins at `at`. None if its length has not arrived yet."""
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
    """Forwards a transport's data to the protocol `inner`, until a frame violates the rules.

    `on_end` is called before the transport closes: at the client's last byte, or when the connection is lost. The guard
    replaces `inner` at the transport after the handshake: a client sends no frame before it has the response
    (RFC 6455, 4.1).
    """

    def __init__(
        self,
        inner: asyncio.Protocol,
        clock: Callable[[], float],
        refuse: Callable[[int, str], None],
        on_end: Callable[[], None],
    ) -> None:
        self._inner = inner
        self._on_end = on_end
        self._clock = clock
        self._refuse = refuse
        self._heads = FrameHeads()
        self._bucket = TokenBucket(HEADS_PER_SECOND, HEAD_BURST, clock())
        self._is_broken = False

    def data_received(self, data: bytes) -> None:
        """Check the frame headers, then forward the data. After a violation nothing is forwarded."""
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
        """Forward the call."""
        self._on_end()
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forward the call."""
        self._on_end()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        """Forward the call."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """Forward the call."""
        self._inner.resume_writing()
