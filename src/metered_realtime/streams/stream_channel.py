"""Streams to and from one remote: the shell around `core.streams.multiplexer`, and the channel that carries them.

All streams of a pair share one `ManagedChannel`, which the end that needs it first opens. Frames that are not delivered
when a connection is lost are sent on the next one, so streams only pause. They end with the channel: when the remote
leaves or restarts, or when its connection is given up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from ..channels.managed_channel import ManagedChannel
from ..core.streams import multiplexer as core
from ..core.streams.frames import HEADER_BYTES, MAX_CHUNK, Code, Opening, StreamProtocolError
from ..errors import ChannelClosedError, ChannelProtocolError, StreamEndedError, StreamEndReason
from ..events import ChannelResumed, DCClose, DCError, DCMessage, DCOpen, Event
from .reader import StreamReader
from .writer import StreamWriter

LABEL = "metered.streams.1"
"""Label of the channel that carries streams. Its number is the version of the protocol."""

MAX_BUFFERED = 131_072
"""Bytes in the buffer of the data channel, four frames: they delay every frame of a stream."""

WINDOW_BYTES = 4 * 1024 * 1024
"""Unacknowledged bytes of all streams, kept to be sent again: 40 MB/s at a round trip of 100 ms."""

MAX_FRAME = HEADER_BYTES + MAX_CHUNK
"""Maximum frame size, in bytes."""

OPEN_PAUSE = 0.1
"""Seconds before another channel is opened after one that ended before it was open."""


class StreamChannel:
    """The channel and its streams, for as long as the other end is the same program."""

    max_message = MAX_FRAME

    def __init__(self, channel: ManagedChannel, owner: RemoteStreams) -> None:
        self.is_over = False
        self._channel = channel
        self._owner = owner
        self._loop = asyncio.get_running_loop()
        self._mux = core.StreamMultiplexer()
        self._writers: dict[int, StreamWriter] = {}
        self._readers: dict[int, StreamReader] = {}
        self._watchers: set[Callable[[bool], None]] = set()
        self._will_send = False
        self._handlers: dict[type[Event], Callable[[Any], None]] = {
            DCOpen: self._on_open,
            ChannelResumed: self._on_resumed,
            DCMessage: self._on_message,
            DCError: self._on_error,
            DCClose: lambda event: self.end("connection_lost", "the other end closed the channel"),
        }
        for event_type, handler in self._handlers.items():
            channel.on(event_type, handler)
        channel.feed_from(self)

    async def until_open(self) -> bool:
        """Wait until the channel is connected, for the first time or again. Return False if it ends first."""
        try:
            await self._channel.wait_open()
        except ChannelClosedError:
            return False
        return not self.is_over

    @contextlib.contextmanager
    def watched(self, watcher: Callable[[bool], None]) -> Iterator[None]:
        """Call a watcher when the connection is lost (False), and when there is one again (True)."""
        self._watchers.add(watcher)
        if self._channel.ready_state != "open":
            watcher(False)
        try:
            yield
        finally:
            self._watchers.discard(watcher)

    # --- for the writers

    def open(self, writer: StreamWriter, opening: Opening) -> int:
        """Open a stream and return its number. The writer is notified of its progress.

        Raises:
            StreamEndedError: `too_many_streams`.
        """
        try:
            id = self._mux.open(opening)
        except core.TooManyStreamsError as error:
            raise StreamEndedError("too_many_streams", str(error)) from None
        self._writers[id] = writer
        self._kick()
        return id

    def write(self, id: int, data: bytes) -> None:
        """Queue content of a stream."""
        self._mux.write(id, data)
        self._kick()

    def pending(self, id: int) -> int:
        """Return the bytes of a stream that wait to be sent."""
        return self._mux.pending(id)

    def finish(self, id: int) -> None:
        """End a stream after its queued content."""
        self._mux.end(id)
        self._kick()

    def abort(self, id: int, detail: str) -> None:
        """Abort a stream."""
        self._writers.pop(id, None)
        self._mux.abort(id, "application", detail)
        self._kick()

    # --- for the readers

    def consumed(self, id: int, count: int) -> None:
        """Give the writer credit for bytes that were read."""
        self._mux.consumed(id, count)
        self._kick()

    def widen(self, id: int, count: int) -> None:
        """Increase the window of a stream."""
        self._mux.widen(id, count)
        self._kick()

    def cancel(self, id: int, code: Code, detail: str) -> None:
        """Ask the writer of a stream to stop."""
        self._readers.pop(id, None)
        self._mux.cancel(id, code, detail)
        self._kick()

    # --- the channel

    def end(self, reason: StreamEndReason, detail: str = "") -> None:
        """End every stream with a reason, then the channel. Idempotent."""
        if self.is_over:
            return
        self._let_go()
        if reason == "protocol_error":
            self._channel.fail(ChannelProtocolError(f"streams: {detail}"))
        elif reason != "peer_left":  # the channel ends with the remote, which the server informs
            self._channel.close()
        self._end_streams(reason, detail)

    def _let_go(self) -> None:
        self.is_over = True
        self._owner.ended(self)
        for event_type, handler in self._handlers.items():
            self._channel.off(event_type, handler)

    def _end_streams(self, reason: StreamEndReason, detail: str) -> None:
        streams: list[StreamWriter | StreamReader] = [*self._writers.values(), *self._readers.values()]
        self._writers.clear()
        self._readers.clear()
        for stream in streams:
            stream._ended(reason, detail)

    def next_message(self) -> bytes | None:
        """Return the next frame to send, None if there is none now."""
        frame = self._mux.next_frame()
        if frame is not None:
            writer = self._writers.get(int.from_bytes(frame[1:HEADER_BYTES], "big"))
            if writer is not None:
                writer._sent()
        return frame

    def connection_lost(self) -> None:
        """Handle the loss of the connection: nothing is sent until there is another one."""
        self._tell_watchers(False)

    def _tell_watchers(self, is_connected: bool) -> None:
        for watcher in tuple(self._watchers):
            watcher(is_connected)

    def _kick(self) -> None:
        """Schedule sending for the next turn of the event loop, so that consecutive writes share frames."""
        if not self._will_send and not self.is_over:
            self._will_send = True
            self._loop.call_soon(self._send)

    def _send(self) -> None:
        self._will_send = False
        if not self.is_over:
            self._channel.has_more()

    def _on_open(self, event: object) -> None:
        if self._channel.max_message_size < MAX_FRAME:
            self.end("protocol_error", f"the other end accepts {self._channel.max_message_size} bytes, not {MAX_FRAME}")
        else:
            self._tell_watchers(True)

    def _on_resumed(self, event: ChannelResumed) -> None:
        if event.restarted:  # it does not know these streams, and numbers its own from 1
            self._let_go()
            self._owner.use_channel(self._channel)._on_open(event)
            self._end_streams("connection_lost", "the other end has begun anew")
        else:
            self._on_open(event)

    def _on_error(self, event: DCError) -> None:
        """End the streams: a conforming end drops no messages, so the other end violates the protocol."""
        self.end("protocol_error", str(event.err))

    def _on_message(self, event: DCMessage) -> None:
        if self.is_over:
            return
        try:
            effects = self._mux.receive(event.data)
        except StreamProtocolError as error:
            self.end("protocol_error", str(error))
            return
        for effect in effects:
            self._perform(effect)
        self._kick()

    def _perform(self, effect: core.Effect) -> None:
        match effect:
            case core.Opened(id, opening):
                reader = self._readers[id] = StreamReader(self, id, opening)
                self._owner.announce(reader)
            case core.Arrived(id, data):
                self._readers[id]._arrived(data)
            case core.Ended(id):
                self._readers.pop(id)._ended(None)
            case core.Aborted(id, code, detail):
                self._readers.pop(id)._ended("aborted" if code == "application" else code, detail)
            case core.Cancelled(id, code, detail):
                self._writers.pop(id)._ended("cancelled" if code == "application" else code, detail)
            case core.Finished(id):
                self._writers.pop(id)._ended(None)


class RemoteStreams:
    """The streams to and from one remote.

    `open` returns the channel that carries them, opened if necessary; `announce` is called with each stream of the
    remote.
    """

    def __init__(self, open: Callable[[], ManagedChannel], announce: Callable[[StreamReader], None]) -> None:
        self._open = open
        self.announce = announce
        self._current: StreamChannel | None = None

    async def channel(self) -> StreamChannel:
        """Wait until the channel for a new stream is connected, and return it.

        Raises:
            MeteredRealtimeError: the remote has left.
        """
        while True:
            chosen = self._current if self._current is not None else self.use_channel(self._open())
            if await chosen.until_open():
                return chosen
            await asyncio.sleep(OPEN_PAUSE)

    def use_channel(self, channel: ManagedChannel) -> StreamChannel:
        """Carry streams over a channel from now on."""
        self._current = StreamChannel(channel, self)
        return self._current

    def end(self, reason: StreamEndReason, detail: str = "") -> None:
        """End every stream."""
        if self._current is not None:
            self._current.end(reason, detail)

    def ended(self, channel: StreamChannel) -> None:
        """Handle the end of a channel."""
        if channel is self._current:
            self._current = None
