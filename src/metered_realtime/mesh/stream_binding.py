"""What a remote has to do with streams: channels for them, and who is told of new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..core.stream_frames import Attributes, Opening, StreamKind, encode_opening
from ..emitter import AsyncEventEmitter
from ..errors import StreamEndReason
from ..events import StreamOpened
from ..log import Logger
from .data_channel import DataChannel
from .stream_reader import StreamReader
from .stream_writer import StreamWriter
from .streams import LABEL, MAX_BUFFERED, PROTOCOL, RemoteStreams

if TYPE_CHECKING:
    from aiortc import RTCDataChannel

    from .remote_peer import RemotePeer
    from .transfers import FileTransfers


class StreamBinding:
    """Streams of one remote. `files` takes those that carry files."""

    def __init__(self, remote: RemotePeer, files: FileTransfers | None, logger: Logger) -> None:
        self._remote = remote
        self._files = files
        self._logger = logger
        self._streams = RemoteStreams(self._make, self._announce)

    def open(self, topic: str, attributes: Attributes | None, kind: StreamKind, total: int | None) -> StreamWriter:
        """Return a writer that opens its stream on entering."""
        opening = Opening(topic=topic, kind=kind, attributes=dict(attributes or {}), total=total)
        encode_opening(opening)
        return StreamWriter(self._streams, opening)

    def takes(self, channel: RTCDataChannel) -> bool:
        """Use a channel that the remote opened for streams. False if it is for something else."""
        if getattr(channel, "protocol", "") != PROTOCOL or not channel.ordered:
            return False
        if channel.maxRetransmits is not None or channel.maxPacketLifeTime is not None:
            return False  # frames may get lost: let the program see what it is
        self._streams.take(self._wrapped(channel))
        return True

    def end(self, reason: StreamEndReason) -> None:
        """End every stream: the connection was replaced, or the remote has left."""
        self._streams.end(reason)

    def _make(self) -> DataChannel:
        return self._wrapped(self._remote.create_data_channel(LABEL, protocol=PROTOCOL))

    def _wrapped(self, channel: Any) -> DataChannel:
        return DataChannel(channel, max_buffered_amount=MAX_BUFFERED, logger=self._logger)

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
