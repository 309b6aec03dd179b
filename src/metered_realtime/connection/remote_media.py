"""The streams and tracks that a remote sends, over all its connections, and their events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..core.negotiation.signals import DescribedTrack, MetadataBook, MetadataSignal
from ..events import Event, PictureRefused, StreamAdded, StreamRemoved, Track, TrackEnded
from ..media.stream import MediaStream

if TYPE_CHECKING:
    from .sections import Incoming

RETURN_TIMEOUT = 12.0
"""Seconds after a replaced connection is up within which a stream has to be back before it counts as removed. What
is sent is in the first offer or answer; a lost offer is sent again after 5 s, and may be lost again."""


class RemoteMedia:
    """The tracks of one remote. A replaced connection brings its streams again, as new objects."""

    def __init__(self, emit: Callable[[Event], None]) -> None:
        self._emit = emit
        self._metadata = MetadataBook()
        self._streams: dict[str, MediaStream] = {}
        self._incoming: dict[str, Incoming] = {}
        self._missing: dict[str, MediaStream] = {}
        self._missing_tracks: dict[str, Incoming] = {}
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def streams(self) -> list[MediaStream]:
        """The streams that it sends, in the order in which they came."""
        return list(self._streams.values())

    @property
    def incoming(self) -> list[Incoming]:
        """The tracks that it sends."""
        return list(self._incoming.values())

    @property
    def metadata(self) -> list[dict[str, Any]]:
        """The metadata of the tracks that it sends, where there is any."""
        signalled = [it.track_id for it in self._incoming.values()]
        found = (self._metadata.find(it.track_id, it.track.kind, it.stream_id, signalled) for it in self.incoming)
        return [it for it in found if it is not None]

    def store_metadata(self, signal: MetadataSignal) -> None:
        """Store the metadata that the remote sent for a track."""
        self._metadata.apply_signal(signal)

    def change(self, removed: Sequence[Incoming], added: Sequence[Incoming]) -> None:
        """Apply the changes of one description: emit the ends of tracks and streams, then each new track before its new
        stream.

        All of them at once: a stream whose tracks are replaced is not removed, and the metadata of a later track is not
        mistaken for that of an earlier one.
        """
        for incoming in removed:
            self._incoming.pop(incoming.mid, None)
            for stream_id in incoming.stream_ids:
                if stream_id in self._streams:
                    self._streams[stream_id].remove_track(incoming.track)
        self._incoming.update((incoming.mid, incoming) for incoming in added)
        for incoming in removed:
            self._emit(TrackEnded(incoming.track))
        self._drop_streams(keep={stream_id for incoming in added for stream_id in incoming.stream_ids})
        new = [DescribedTrack(it.track_id, it.track.kind, it.stream_id) for it in added]
        self._metadata.describe(new, [it.track_id for it in self._incoming.values()])
        for incoming in added:
            self._announce(incoming)

    def _drop_streams(self, keep: set[str]) -> None:
        for stream in self.streams:
            if not stream.get_tracks() and stream.id not in keep:
                del self._streams[stream.id]
                self._emit(StreamRemoved(stream))

    def _announce(self, incoming: Incoming) -> None:
        self._missing_tracks.pop(incoming.track_id, None)
        signalled = [it.track_id for it in self._incoming.values()]
        metadata = self._metadata.find(incoming.track_id, incoming.track.kind, incoming.stream_id, signalled)
        new = [MediaStream(id=stream_id) for stream_id in incoming.stream_ids if stream_id not in self._streams]
        self._streams.update((stream.id, stream) for stream in new)
        streams = tuple(self._streams[stream_id] for stream_id in incoming.stream_ids)
        for stream in streams:
            self._missing.pop(stream.id, None)
            stream.add_track(incoming.track)
        incoming.track.on_refused = lambda *what: self._emit(PictureRefused(*what))
        self._emit(Track(incoming.track, streams, metadata))
        for stream in new:
            self._emit(StreamAdded(stream, metadata))

    def reset(self) -> None:
        """Expect everything to come back on another connection."""
        self.disconnected()
        self._missing.update(self._streams)
        self._missing_tracks.update((it.track_id, it) for it in self._incoming.values())
        self._streams.clear()
        self._incoming.clear()

    def connected(self) -> None:
        """Handle the connection coming up: what does not come back soon has been removed meanwhile."""
        if (self._missing or self._missing_tracks) and self._deadline is None:
            self._deadline = asyncio.get_running_loop().call_later(RETURN_TIMEOUT, self._give_up_missing)

    def disconnected(self) -> None:
        """Handle the connection being down: nothing can come back for now."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up_missing(self) -> None:
        self._deadline = None
        tracks, self._missing_tracks = self._missing_tracks, {}
        missing, self._missing = self._missing, {}
        for incoming in tracks.values():
            self._emit(TrackEnded(incoming.track))
        for stream in missing.values():
            self._emit(StreamRemoved(stream))
