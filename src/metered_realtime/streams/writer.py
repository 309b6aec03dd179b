"""The writing end of a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING

from ..core.streams.frames import Attributes, Opening, StreamKind
from ..errors import StreamEndedError, StreamEndReason

if TYPE_CHECKING:
    from .stream_channel import RemoteStreams, StreamChannel

WRITE_AHEAD = 65_536
"""Bytes of a stream that may wait to be sent when `write` returns: two frames."""


class StreamWriter:
    """A stream to a remote, from `RemotePeer.open_stream`. Use it with `async with`.

    Entering opens the stream. Leaving ends it and waits until the remote has read everything, or aborts it after an
    exception.
    """

    def __init__(self, streams: RemoteStreams, opening: Opening) -> None:
        self._streams = streams
        self._opening = opening
        self._channel: StreamChannel | None = None
        self._id = 0
        self._is_over = False
        self._reason: StreamEndReason | None = None
        self._detail = ""
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<StreamWriter {self.topic!r} {'over' if self._is_over else 'open'}>"

    @property
    def topic(self) -> str:
        """Topic of the stream."""
        return self._opening.topic

    @property
    def attributes(self) -> Attributes:
        """Attributes of the stream."""
        return dict(self._opening.attributes)

    @property
    def kind(self) -> StreamKind:
        """`bytes` or `text`."""
        return self._opening.kind

    @property
    def reason(self) -> StreamEndReason | None:
        """Reason of an early end. None while the stream is open and after a regular end."""
        return self._reason

    async def __aenter__(self) -> StreamWriter:
        """Open the stream, and a connection if there is none. Wait for it without a limit.

        Raises:
            StreamEndedError: `too_many_streams`, or the stream was aborted before.
            MeteredRealtimeError: the remote has left.
            ValueError: the stream has been opened already.
        """
        self._raise_if_failed()
        channel = await self._streams.channel()
        self._raise_if_failed()  # it may have been aborted in the meantime
        if self._channel is not None:
            raise ValueError("the stream has been opened already")
        self._id = channel.open(self, self._opening)
        self._channel = channel
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.abort(type(error).__name__)
            return
        try:
            await self.finish()
        except BaseException:
            self.abort("left before the end")
            raise

    async def write(self, data: bytes | bytearray | memoryview | str) -> None:
        """Send content of any length: text for a text stream, bytes otherwise.

        Wait for the network and the reader, until at most 64 KiB of the stream are unsent. Cancelling does not withdraw
        the content.

        Raises:
            StreamEndedError: the stream ended; its `reason` tells why.
            TypeError: `data` has the wrong type for the stream.
            ValueError: the content exceeds the announced total, or the stream has been ended.
        """
        content = self._encoded(data)
        channel = await self._writable()
        channel.write(self._id, content)
        await self._writable()

    async def finish(self) -> None:
        """End the stream and wait until the remote has read everything. Called on leaving `async with`.

        Raises:
            StreamEndedError: the stream was not read to its end.
            ValueError: less than the announced total was written, or the stream has not been opened.
        """
        if not self._is_over:
            self._opened_channel().finish(self._id)
            await self.wait_ended()
        self._raise_if_failed()

    def abort(self, detail: str = "") -> None:
        """Abort the stream: the reader gets `aborted` after content that was sent before. Idempotent."""
        if not self._is_over and self._channel is not None:
            self._channel.abort(self._id, detail)
        self._ended("aborted", detail)

    async def wait_ended(self) -> StreamEndReason | None:
        """Wait until the stream has ended, and return the reason: None if the remote has read everything.

        Raises:
            ValueError: the stream has not been opened.
        """
        if not self._is_over:
            self._opened_channel()
        while not self._is_over:
            self._changed.clear()
            await self._changed.wait()
        return self._reason

    def _encoded(self, data: bytes | bytearray | memoryview | str) -> bytes:
        wanted = str if self.kind == "text" else (bytes, bytearray, memoryview)
        if not isinstance(data, wanted):
            raise TypeError(f"this stream carries {self.kind}, not {type(data).__name__}")
        return data.encode() if isinstance(data, str) else bytes(data)

    async def _writable(self) -> StreamChannel:
        """Wait for room, and return the channel."""
        channel = self._opened_channel()
        while not self._is_over and channel.pending(self._id) > WRITE_AHEAD:
            self._changed.clear()
            await self._changed.wait()
        self._raise_if_failed()
        if self._is_over:
            raise ValueError("the stream has been ended")
        return channel

    def _opened_channel(self) -> StreamChannel:
        if self._channel is None:
            self._raise_if_failed()
            raise ValueError("the stream has not been opened: use `async with`")
        return self._channel

    def _raise_if_failed(self) -> None:
        if self._reason is not None:
            raise StreamEndedError(self._reason, self._detail)

    # --- for the channel

    def _sent(self) -> None:
        self._changed.set()

    def _ended(self, reason: StreamEndReason | None, detail: str = "") -> None:
        if not self._is_over:
            self._is_over, self._reason, self._detail = True, reason, detail
            self._changed.set()


def raise_if_failed(writer: StreamWriter) -> None:
    """Raise StreamEndedError if a stream has ended early."""
    writer._raise_if_failed()


def watch_connection(writer: StreamWriter, watcher: Callable[[bool], None]) -> AbstractContextManager[None]:
    """Call a watcher when the connection under an open stream is lost (False), and when there is one again (True)."""
    return writer._opened_channel().watched(watcher)
