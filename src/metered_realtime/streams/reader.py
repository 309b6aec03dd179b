"""The reading end of a stream."""

from __future__ import annotations

import asyncio
import codecs
from collections import deque
from typing import TYPE_CHECKING

from ..core.streams.frames import Attributes, Code, Opening, StreamKind
from ..errors import StreamEndedError, StreamEndReason

if TYPE_CHECKING:
    from .stream_channel import StreamChannel

READ_LIMIT = 16 * 1024 * 1024
"""Default limit of `readall`, in bytes or characters: the remote decides how much it sends."""

SMALL_CHUNK = 4096
"""Chunks are joined up to this length, so that single bytes do not cost more memory than large chunks."""


class StreamReader:
    """A stream opened by a remote, from the event `StreamOpened`.

    `async for` yields its chunks: bytes, or str for a text stream. Reading gives the writer credit to continue; an
    unread stream holds at most 256 KiB, and its writer waits. Call `cancel` on a stream that is not wanted.
    """

    def __init__(self, channel: StreamChannel, id: int, opening: Opening) -> None:
        self._channel = channel
        self._id = id
        self._opening = opening
        self._chunks: deque[bytes | str] = deque()
        self._decoder = codecs.getincrementaldecoder("utf-8")() if opening.kind == "text" else None
        self._is_over = False
        self._reason: StreamEndReason | None = None
        self._detail = ""
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<StreamReader {self.topic!r} {'over' if self._is_over else 'open'}>"

    @property
    def topic(self) -> str:
        """Topic of the stream, chosen freely by the remote."""
        return self._opening.topic

    @property
    def attributes(self) -> Attributes:
        """Attributes of the stream, chosen freely by the remote."""
        return dict(self._opening.attributes)

    @property
    def kind(self) -> StreamKind:
        """`bytes` or `text`."""
        return self._opening.kind

    @property
    def total(self) -> int | None:
        """Announced length in bytes, None if the remote has not announced one. A different length ends the stream."""
        return self._opening.total

    @property
    def reason(self) -> StreamEndReason | None:
        """Reason of an early end. None while the stream is open and after a regular end."""
        return self._reason

    def __aiter__(self) -> StreamReader:
        return self

    async def __anext__(self) -> bytes | str:
        chunk = await self._next()
        if chunk is None:
            raise StopAsyncIteration
        return chunk

    async def read(self, n: int) -> bytes | str:
        """Wait for content and return up to `n` bytes, or characters of a text stream. Empty at the end.

        Raises:
            StreamEndedError: the stream ended early. Content that arrived before is returned first.
            ValueError: `n` is not positive.
        """
        if n <= 0:
            raise ValueError(f"n must be above 0, not {n!r}")
        await self._until_some()
        pieces: list[bytes | str] = []
        while n and self._chunks:
            chunk = self._chunks.popleft()
            if len(chunk) > n:
                self._chunks.appendleft(chunk[n:])
                chunk = chunk[:n]
            n -= len(chunk)
            pieces.append(chunk)
        return self._joined(pieces)

    async def readall(self, limit: int = READ_LIMIT) -> bytes | str:
        """Read to the end and return the content. Cancel the stream above `limit` bytes or characters.

        Raises:
            StreamEndedError: the stream ended early, or with `too_large` because of the limit.
            ValueError: `limit` is negative.
        """
        if limit < 0:
            raise ValueError(f"limit must be at least 0, not {limit!r}")
        pieces: list[bytes | str] = []
        size = 0
        async for chunk in self:
            size += len(chunk)
            pieces.append(chunk)
            if size > limit:
                self._stop("too_large", "application", f"more than {limit}")
                raise StreamEndedError("too_large", f"more than {limit}")
        return self._joined(pieces, consume=False)

    def cancel(self, detail: str = "") -> None:
        """Stop the stream: the writer gets `cancelled`, unread content is dropped. Idempotent."""
        self._stop("cancelled", "application", detail)

    def widen(self, count: int) -> None:
        """Increase the window of the writer by `count` bytes, for large streams over paths with a long round trip.

        Raises:
            ValueError: `count` is not positive, or the window would reach 2 GiB.
        """
        self._channel.widen(self._id, count)

    # --- inside

    async def _next(self) -> bytes | str | None:
        await self._until_some()
        if not self._chunks:
            return None
        return self._joined([self._chunks.popleft()])

    async def _until_some(self) -> None:
        while not self._chunks and not self._is_over:
            self._changed.clear()
            await self._changed.wait()
        if not self._chunks and self._reason is not None:
            raise StreamEndedError(self._reason, self._detail)

    def _joined(self, pieces: list[bytes | str], *, consume: bool = True) -> bytes | str:
        """Join pieces, and give the writer credit for them."""
        if self._decoder is None:
            data = b"".join(piece for piece in pieces if isinstance(piece, bytes))
            size, result = len(data), data
        else:
            text = "".join(piece for piece in pieces if isinstance(piece, str))
            size, result = len(text.encode()) if consume else 0, text  # type: ignore[assignment]
        if consume and size:
            self._channel.consumed(self._id, size)
        return result

    def _stop(self, reason: StreamEndReason, code: Code, detail: str) -> None:
        self._chunks.clear()
        self._channel.cancel(self._id, code, detail)
        self._ended(reason, detail)

    # --- for the channel

    def _arrived(self, data: bytes) -> None:
        self._hold(data, final=False)

    def _hold(self, data: bytes, *, final: bool) -> bool:
        """Hold content, decoded if it is text. False if it is not UTF-8; the stream is cancelled then."""
        try:
            chunk = data if self._decoder is None else self._decoder.decode(data, final)
        except UnicodeDecodeError:
            self._stop("protocol_error", "protocol_error", "not UTF-8")
            return False
        if chunk:
            self._append(chunk)
            self._changed.set()
        return True

    def _append(self, chunk: bytes | str) -> None:
        """Hold a chunk, joined with the one before if both are small."""
        if self._chunks and len(self._chunks[-1]) + len(chunk) <= SMALL_CHUNK:
            chunk = self._chunks.pop() + chunk  # type: ignore[operator]
        self._chunks.append(chunk)

    def _ended(self, reason: StreamEndReason | None, detail: str = "") -> None:
        if self._is_over or (reason is None and not self._hold(b"", final=True)):
            return
        self._is_over, self._reason, self._detail = True, reason, detail
        self._changed.set()
