"""Streams to and from one remote: the shell around `core.streams`, and the channels under it.

Whoever needs a stream first opens a channel with the protocol `metered.streams.1`, and the other end uses the same one.
If both open one at the same moment there are two, each with streams of its own: nothing has to be undone. A channel
that ends takes its streams with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from ..core import streams as core
from ..core.stream_frames import Code, Opening, StreamProtocolError
from ..errors import MeteredRealtimeError, StreamEndedError, StreamEndReason
from ..events import DCClose, DCError, DCMessage, DCOpen
from .stream_reader import StreamReader
from .stream_writer import StreamWriter

LABEL = "metered.streams"
PROTOCOL = "metered.streams.1"
"""What a browser shows as `channel.label` and `channel.protocol` of the channel that carries streams."""

MAX_BUFFERED = 131_072
"""Bytes that wait in the channel itself, four frames: what a stream that has its turn waits for at the most."""

OPEN_PAUSE = 0.1
"""Seconds until another channel is tried after one that never opened: a lost connection is replaced in about that."""


class MessageChannel(Protocol):
    """What streams need of a channel. `DataChannel` has it."""

    @property
    def ready_state(self) -> str: ...
    async def send(self, data: str | bytes) -> None: ...
    def close(self) -> None: ...
    def on(self, event_type: Any, handler: Any) -> Any: ...


class StreamChannel:
    """One channel and its streams. `announce` is told of each stream that the other end opens."""

    def __init__(
        self, channel: MessageChannel, announce: Callable[[StreamReader], None], ended: Callable[[StreamChannel], None]
    ) -> None:
        self.is_over = False
        self._channel = channel
        self._announce = announce
        self._tell_end = ended
        self._mux = core.StreamMultiplexer()
        self._writers: dict[int, StreamWriter] = {}
        self._readers: dict[int, StreamReader] = {}
        self._pump: asyncio.Task[None] | None = None
        self._opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        channel.on(DCOpen, self._on_open)
        channel.on(DCMessage, self._on_message)
        channel.on(DCError, lambda event: self.end("connection_lost", str(event.err)))
        channel.on(DCClose, lambda event: self.end("connection_lost"))
        if channel.ready_state == "open":
            self._on_open(None)

    async def until_open(self) -> bool:
        """Return, once that is decided, whether the channel is open."""
        await asyncio.shield(self._opened)
        return not self.is_over

    # --- for the writers

    def open(self, writer: StreamWriter, opening: Opening) -> int:
        """Open a stream of a writer, which is told how it goes on."""
        try:
            id = self._mux.open(opening)
        except core.TooManyStreamsError as error:
            raise StreamEndedError("too_many_streams", str(error)) from None
        self._writers[id] = writer
        self._kick()
        return id

    def write(self, id: int, data: bytes) -> None:
        """Take content of a stream."""
        self._mux.write(id, data)
        self._kick()

    def pending(self, id: int) -> int:
        """Return how many bytes of a stream wait to be sent."""
        return self._mux.pending(id)

    def finish(self, id: int) -> None:
        """Note that a stream is complete."""
        self._mux.end(id)
        self._kick()

    def abort(self, id: int, detail: str) -> None:
        """Give up a stream."""
        self._writers.pop(id, None)
        self._mux.abort(id, "application", detail)
        self._kick()

    # --- for the readers

    def consumed(self, id: int, count: int) -> None:
        """Note that a reader has taken bytes."""
        self._mux.consumed(id, count)
        self._kick()

    def widen(self, id: int, count: int) -> None:
        """Let a stream have more on the way."""
        self._mux.widen(id, count)
        self._kick()

    def cancel(self, id: int, code: Code, detail: str) -> None:
        """Ask the writer of a stream to stop."""
        self._readers.pop(id, None)
        self._mux.cancel(id, code, detail)
        self._kick()

    # --- the channel

    def end(self, reason: StreamEndReason, detail: str = "") -> None:
        """End every stream with a reason, and the channel. Idempotent."""
        if self.is_over:
            return
        self.is_over = True
        if not self._opened.done():
            self._opened.set_result(None)
        if self._pump is not None:
            self._pump.cancel()
        streams: list[StreamWriter | StreamReader] = [*self._writers.values(), *self._readers.values()]
        self._writers.clear()
        self._readers.clear()
        self._channel.close()
        self._tell_end(self)
        for stream in streams:
            stream._ended(reason, detail)

    def _on_open(self, event: object) -> None:
        if not self._opened.done():
            self._opened.set_result(None)
        self._kick()

    def _kick(self) -> None:
        if not self.is_over and self._opened.done() and (self._pump is None or self._pump.done()):
            self._pump = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        """Send what there is. One task at a time, so frames keep their order."""
        try:
            while (frame := self._mux.next_frame()) is not None:
                await self._channel.send(frame)
                id = int.from_bytes(frame[1:5], "big")
                if (writer := self._writers.get(id)) is not None:
                    writer._sent()
        except MeteredRealtimeError as error:
            asyncio.get_running_loop().call_soon(self.end, "connection_lost", str(error))

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
                self._announce(reader)
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
    """The streams to and from one remote, over all its connections.

    `make` opens a channel to it; `announce` is told of every stream that it opens.
    """

    def __init__(self, make: Callable[[], MessageChannel], announce: Callable[[StreamReader], None]) -> None:
        self._make = make
        self._announce = announce
        self._own: StreamChannel | None = None
        self._theirs: StreamChannel | None = None

    async def channel(self) -> StreamChannel:
        """Return the channel for a new stream once it is open: the remote's if there is one, else the own one.

        A connection that is lost before has carried nothing yet: the next one will do.

        Raises:
            MeteredRealtimeError: the remote has left.
        """
        while True:
            chosen = self._theirs or self._own
            if chosen is None:
                chosen = self._own = StreamChannel(self._make(), self._announce, self._ended)
            if await chosen.until_open():
                return chosen
            await asyncio.sleep(OPEN_PAUSE)

    def take(self, channel: MessageChannel) -> None:
        """Use a channel that the remote opened. A further one replaces the first, which it must have lost."""
        old = self._theirs
        self._theirs = StreamChannel(channel, self._announce, self._ended)
        if old is not None:
            old.end("connection_lost")

    def end(self, reason: StreamEndReason) -> None:
        """End every stream."""
        for channel in (self._own, self._theirs):
            if channel is not None:
                channel.end(reason)

    def _ended(self, channel: StreamChannel) -> None:
        if channel is self._own:
            self._own = None
        if channel is self._theirs:
            self._theirs = None
