"""A named group of tracks. Imports neither aiortc nor av, so that publish/subscribe runs without them."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aiortc import MediaStreamTrack

StreamMetadata = dict[str, Any]
"""Metadata of a stream or a track: a JSON object of the application."""

_KINDS = ("audio", "video")


class MediaStream:
    """A group of tracks under one id, as in the W3C `MediaStream`.

    Grouping only: adding or removing a track here does not change what is sent. Remote peers see `id`, which is random
    by default. A track is any object with a `kind` of "audio" or "video". Tracks are compared by identity, and each is
    in a stream only once.

    Raises:
        TypeError: `tracks` is not an iterable of tracks, or `id` is not a str.
        ValueError: `id` is empty or holds white space, which SDP cannot carry.
    """

    def __init__(self, tracks: Iterable[MediaStreamTrack] = (), *, id: str | None = None) -> None:
        self.id: str = uuid.uuid4().hex if id is None else _valid_id(id)
        self._tracks: list[MediaStreamTrack] = []
        if not isinstance(tracks, Iterable):
            raise TypeError(f"tracks must be an iterable of tracks, not {tracks!r}")
        for track in tracks:
            self.add_track(track)

    def get_tracks(self) -> list[MediaStreamTrack]:
        """Return all tracks as a new list, in the order in which they were added."""
        return list(self._tracks)

    def get_audio_tracks(self) -> list[MediaStreamTrack]:
        """Return the audio tracks as a new list, in the order in which they were added."""
        return [track for track in self._tracks if track.kind == "audio"]

    def get_video_tracks(self) -> list[MediaStreamTrack]:
        """Return the video tracks as a new list, in the order in which they were added."""
        return [track for track in self._tracks if track.kind == "video"]

    def add_track(self, track: MediaStreamTrack) -> None:
        """Add a track. Does nothing if it is in the stream already.

        Raises:
            TypeError: `track` has no `kind` of "audio" or "video".
        """
        if getattr(track, "kind", None) not in _KINDS:
            raise TypeError(f"a track must have a kind of 'audio' or 'video', not {track!r}")
        if not any(present is track for present in self._tracks):
            self._tracks.append(track)

    def remove_track(self, track: MediaStreamTrack) -> None:
        """Remove a track. Does nothing if it is not in the stream."""
        self._tracks = [present for present in self._tracks if present is not track]

    def __repr__(self) -> str:
        audio, video = len(self.get_audio_tracks()), len(self.get_video_tracks())
        return f"<MediaStream {self.id} audio={audio} video={video}>"


def _valid_id(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"id must be a str or None, not {value!r}")
    if not value or any(char.isspace() for char in value):
        raise ValueError(f"id must be a non-empty word without white space, not {value!r}")
    return value
