"""The tracks, streams and metadata that every current and future remote is sent."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from .signals import MetadataSignal


class AlreadyAttachedError(Exception):
    """The track is already attached, with another stream."""


@dataclass(frozen=True, slots=True)
class Attachment:
    """A local track as it is offered. `track_id` and `stream_id` are its msid in new sections."""

    track: Any
    stream: Any | None
    track_id: str
    stream_id: str | None
    kind: str
    metadata: dict[str, Any] | None = None

    def metadata_signal(self) -> MetadataSignal | None:
        """Return the signal that announces the metadata to a remote, None if there is no metadata."""
        if self.metadata is None:
            return None
        return MetadataSignal(self.track_id, self.metadata, self.kind, self.stream_id)

    def clear_signal(self) -> MetadataSignal:
        """Return the signal that makes a remote forget the metadata."""
        return MetadataSignal(self.track_id, None, self.kind, self.stream_id)


class Attachments:
    """The attached tracks, in the order of attachment. Tracks are compared by identity.

    `others` returns the attachments that some of the remotes are sent as well, whose ids are not used again.
    """

    def __init__(self, others: Callable[[], Iterable[Attachments]] = tuple) -> None:
        self._others = others
        self._by_track: dict[int, Attachment] = {}
        self._ids_on_the_wire: set[str] = set()

    def __iter__(self) -> Iterator[Attachment]:
        return iter(tuple(self._by_track.values()))

    def __len__(self) -> int:
        return len(self._by_track)

    def get(self, track: Any) -> Attachment | None:
        """Return the attachment of a track, None if it is not attached."""
        return self._by_track.get(id(track))

    def of_stream(self, stream: Any) -> list[Attachment]:
        """Return the attachments of a stream."""
        return [attachment for attachment in self if attachment.stream is stream]

    def prepare(self, track: Any, stream: Any | None, metadata: dict[str, Any] | None) -> Attachment | None:
        """Return an attachment for a track, None if it is already attached with this stream. Changes nothing.

        Raises:
            AlreadyAttachedError: the track is attached with another stream.
        """
        present = self.get(track)
        if present is not None:
            if present.stream is not stream:
                raise AlreadyAttachedError
            return None
        copied = dict(metadata) if metadata is not None else None
        stream_id = stream.id if stream is not None else None
        return Attachment(track, stream, self._free_id(track.id), stream_id, track.kind, copied)

    def add(self, attachment: Attachment) -> None:
        """Add an attachment that `prepare` returned."""
        self._by_track[id(attachment.track)] = attachment

    def remove(self, track: Any) -> Attachment | None:
        """Remove a track. Return its attachment, None if it was not attached."""
        return self._by_track.pop(id(track), None)

    def replacement(self, present: Attachment, new: Any) -> Attachment:
        """Return the attachment of a new track in the place of a present one. Changes nothing."""
        return replace(present, track=new, track_id=self._free_id(new.id))

    def swap(self, present: Attachment, attachment: Attachment) -> None:
        """Replace an attachment by one that `replacement` returned.

        Sections in use keep the old id in their msid, so no other track is given it any more.
        """
        del self._by_track[id(present.track)]
        self._ids_on_the_wire.add(present.track_id)
        self.add(attachment)

    @property
    def used_ids(self) -> set[str]:
        """The track ids that sections have, or may have."""
        return self._ids_on_the_wire | {attachment.track_id for attachment in self}

    def _free_id(self, track_id: str) -> str:
        used = self.used_ids.union(*(other.used_ids for other in self._others()))
        if track_id not in used:
            return track_id
        return next(name for count in itertools.count(2) if (name := f"{track_id}-{count}") not in used)
