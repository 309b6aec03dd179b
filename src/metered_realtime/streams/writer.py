"""The end of a stream that writes."""

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
"""Bytes of a stream that may wait to be sent while its program prepares the next: two frames."""


class StreamWriter:
    """A stream to a remote, from `RemotePeer.open_stream`. Use it with `async with`.

    Entering opens it. Leaving ends it and waits until the remote has read everything; with an exception it aborts it.
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
        """What it was opened for."""
        return self._opening.topic

    @property
    def attributes(self) -> Attributes:
        """What it was opened with."""
        return dict(self._opening.attributes)

    @property
    def kind(self) -> StreamKind:
        """`bytes` or `text`."""
        return self._opening.kind

    @property
    def reason(self) -> StreamEndReason | None:
        """Why it ended early. None while it is open and after a regular end."""
        return self._reason

    async def __aenter__(self) -> StreamWriter:
        """Open the stream, and the connection if there is none. Waits for it without a limit.

        Raises:
            StreamEndedError: `too_many_streams`, or it was aborted before.
            MeteredRealtimeError: the remote has left.
            ValueError: it has been opened already.
        """
        self._raise_if_failed()
        channel = await self._streams.channel()
        self._raise_if_failed()  # it may have been aborted meanwhile
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
        """Send content of any length; return when nearly all of it is on its way. Text for a text stream, else bytes.

        Waits for the slower of the network and the remote's reader. Cancelling takes back nothing that was taken.

        Raises:
            StreamEndedError: the stream ended; `reason` says why.
            TypeError: not what the stream carries.
            ValueError: more than the announced total.
        """
        content = self._encoded(data)
        channel = await self._writable()
        channel.write(self._id, content)
        await self._writable()

    async def finish(self) -> None:
        """End the stream and wait until the remote has read everything. Called on leaving `async with`.

        Raises:
            StreamEndedError: it was not read to the end.
            ValueError: less than the announced total was written, or it has not been opened.
        """
        if not self._is_over:
            self._opened_channel().finish(self._id)
            await self.wait_ended()
        self._raise_if_failed()

    def abort(self, detail: str = "") -> None:
        """Give up: what is on its way may arrive, the reader then gets `aborted`. Idempotent."""
        if not self._is_over and self._channel is not None:
            self._channel.abort(self._id, detail)
        self._ended("aborted", detail)

    async def wait_ended(self) -> StreamEndReason | None:
        """Return, when the stream has ended, why: None if the remote has read everything.

        Raises:
            ValueError: it has not been opened.
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
        """Return the channel once there is room."""
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
