"""The streams of a remote, over one of its managed channels."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from ..channels.options import ChannelOptions
from ..channels.registry import RemoteChannels, Reservation
from ..core.streams.frames import Attributes, Opening, StreamKind, encode_opening
from ..errors import StreamEndReason
from .reader import StreamReader
from .stream_channel import LABEL, MAX_BUFFERED, MAX_FRAME, WINDOW_BYTES, RemoteStreams
from .writer import StreamWriter


class StreamObserver(Protocol):
    """Notified of the streams that a remote opens."""

    def stream_opened(self, reader: StreamReader) -> bool:
        """Handle a stream of the remote. False if nothing will ever read it; it is refused then."""


class StreamBinding:
    """Opens streams to one remote, and announces those that it opens."""

    def __init__(self, observer: StreamObserver, channels: RemoteChannels) -> None:
        self._observer = observer
        self._streams = RemoteStreams(partial(channels.open_reserved, LABEL), self._announce)
        options = ChannelOptions(window_bytes=WINDOW_BYTES, max_message_size=MAX_FRAME)
        opened = self._streams.use_channel
        channels.reserve(LABEL, Reservation(options=options, max_buffered=MAX_BUFFERED, opened=opened))

    def open(self, topic: str, attributes: Attributes | None, kind: StreamKind, total: int | None) -> StreamWriter:
        """Return a writer that opens its stream on entering.

        Raises:
            ValueError: the topic or an attribute is invalid, or they are too large.
        """
        opening = Opening(topic=topic, kind=kind, attributes=dict(attributes or {}), total=total)
        encode_opening(opening)
        return StreamWriter(self._streams, opening)

    def end(self, reason: StreamEndReason, detail: str = "") -> None:
        """End every stream: the remote has left, or its connection was given up."""
        self._streams.end(reason, detail)

    def _announce(self, reader: StreamReader) -> None:
        if not self._observer.stream_opened(reader):
            reader._stop("not_taken", "not_taken", "")
