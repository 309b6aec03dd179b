"""The tracks that one connection sends, each with its share in the fan-out that all connections of the track have."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from typing import Any

from ...log import Logger
from ...media.sending.fanout import EndedFn
from ...media.sending.shared_fanouts import FanoutLease
from ...media.stream import MediaStream
from ..sections import Outgoing


class LocalTracks:
    """The tracks of one connection. They are in one stream, and belong to the program.

    `outgoing` has how each is sent, by a key of its own. `ended` is called when a track has ended by itself.
    """

    def __init__(self, stream: MediaStream | None, logger: Logger, ended: EndedFn) -> None:
        self.outgoing: dict[int, Outgoing] = {}
        self._stream_id = stream.id if stream is not None else uuid.uuid4().hex
        self._leases: dict[int, FanoutLease] = {}
        self._releases: set[asyncio.Future[None]] = set()
        self._logger = logger
        self._ended = ended

    def __len__(self) -> int:
        return len(self.outgoing)

    def __contains__(self, track: object) -> bool:
        return id(track) in self.outgoing

    def add(self, track: Any) -> None:
        """Add a track. Does nothing if it is there already."""
        if track not in self:
            self._enter(track, track.id)

    def remove(self, track: Any) -> bool:
        """Remove a track. Return whether it was there."""
        if self.outgoing.pop(id(track), None) is None:
            return False
        self._release(id(track))
        return True

    def replace(self, old: Any, new: Any) -> tuple[Outgoing, Outgoing]:
        """Put a track in the place of another, under the id that the other end knows. Return how both are sent.

        Raises:
            ValueError: the kinds differ, `old` is not there, or `new` is there already.
        """
        if old not in self or new in self or old.kind != new.kind:
            raise ValueError(f"{new!r} cannot be sent in the place of {old!r}")
        before = self.outgoing.pop(id(old))
        self._release(id(old))
        return before, self._enter(new, before.track_id)

    async def close(self) -> None:
        """Remove all tracks, and wait until they are no longer read."""
        for key in tuple(self.outgoing):
            del self.outgoing[key]
            self._release(key)
        if self._releases:
            await asyncio.wait(self._releases)

    def _enter(self, track: Any, track_id: str) -> Outgoing:
        lease = self._leases[id(track)] = FanoutLease(track, self._logger, self._ended)
        outgoing = self.outgoing[id(track)] = Outgoing(track.kind, track_id, self._stream_id, lease.fanout)
        return outgoing

    def _release(self, key: int) -> None:
        release = asyncio.ensure_future(self._leases.pop(key).release())
        self._releases.add(release)
        release.add_done_callback(self._releases.discard)


def checked_tracks(tracks: Iterable[Any] | MediaStream) -> list[Any]:
    """Return the tracks of a list or stream.

    Raises:
        TypeError: something in it is not a track.
    """
    chosen = tracks.get_tracks() if isinstance(tracks, MediaStream) else list(tracks)
    for track in chosen:
        if getattr(track, "kind", None) not in ("audio", "video") or not callable(getattr(track, "recv", None)):
            raise TypeError(f"an aiortc MediaStreamTrack of kind audio or video is needed, not {track!r}")
    return chosen
