"""What a remote has to do with streams: the channel for them, and who is told of new ones."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from ..channels.options import ChannelOptions
from ..channels.registry import RemoteChannels, Reservation
from ..core.streams.frames import Attributes, Opening, StreamKind, encode_opening
from ..emitter import AsyncEventEmitter
from ..errors import StreamEndReason
from ..events import StreamOpened
from .reader import StreamReader
from .stream_channel import LABEL, MAX_BUFFERED, MAX_FRAME, WINDOW_BYTES, RemoteStreams
from .writer import StreamWriter

if TYPE_CHECKING:
    from ..files.transfers import FileTransfers
    from ..mesh.remote_peer import RemotePeer


class StreamBinding:
    """Streams of one remote, over one of its channels. `files` takes those that carry files."""

    def __init__(self, remote: RemotePeer, channels: RemoteChannels, files: FileTransfers | None) -> None:
        self._remote = remote
        self._files = files
        self._streams = RemoteStreams(partial(channels.open_reserved, LABEL), self._announce)
        options = ChannelOptions(window_bytes=WINDOW_BYTES, max_message_size=MAX_FRAME)
        channels.reserve(LABEL, Reservation(options=options, max_buffered=MAX_BUFFERED, taken=self._streams.take))

    def open(self, topic: str, attributes: Attributes | None, kind: StreamKind, total: int | None) -> StreamWriter:
        """Return a writer that opens its stream on entering."""
        opening = Opening(topic=topic, kind=kind, attributes=dict(attributes or {}), total=total)
        encode_opening(opening)
        return StreamWriter(self._streams, opening)

    def end(self, reason: StreamEndReason, detail: str = "") -> None:
        """End every stream: the remote has left, or its connection was given up."""
        self._streams.end(reason, detail)

    def _announce(self, reader: StreamReader) -> None:
        """Hand a new stream to the files or to the program; refuse it if nobody would ever read it."""
        if self._files is not None and self._files.takes(self._remote, reader):
            return
        emitters: list[AsyncEventEmitter] = [self._remote, *([self._files.peer] if self._files is not None else [])]
        is_wanted = any(_has_takers(emitter) for emitter in emitters)
        for emitter in emitters:
            emitter.emit(StreamOpened(self._remote, reader))
        if not is_wanted:
            reader._stop("not_taken", "not_taken", "")


def _has_takers(emitter: AsyncEventEmitter) -> bool:
    """Tell whether somebody asked for streams. Who listens to every event only watches."""
    return bool(emitter._handlers.get(StreamOpened) or emitter._streams.get(StreamOpened))
