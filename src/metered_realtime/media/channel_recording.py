"""Following a participant, or everybody in a channel: who comes, goes, and what they send meanwhile."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from ..core.lip_sync import SyncGroup
from ..core.recording_names import file_name
from ..events import PeerJoined, PeerLeft, Track
from ..log import Logger
from .participant_recording import ParticipantRecording
from .recorder_stats import ParticipantFigures, RecordingError


class Takes(Protocol):
    """Where the tracks of participants go."""

    @property
    def figures(self) -> tuple[ParticipantFigures, ...]:
        """How it stands, of each participant in the order of arrival."""

    def add_track(self, peer_id: str, track: Any) -> None:
        """Record a track from now on."""

    def left(self, peer_id: str) -> None:
        """Take note that a participant is gone."""

    async def close(self) -> None:
        """Finish the files."""


class Followed:
    """Gives `takes` every track that a `RemotePeer`, or everybody in the channel of a `MeteredPeer`, sends."""

    def __init__(self, source: Any, takes: Takes) -> None:
        self.takes = takes
        self._handlers: list[tuple[Any, type, Callable[[Any], None]]] = []
        if hasattr(source, "remote_peers"):
            self._on(source, PeerJoined, lambda event: self._watch(event.peer))
            self._on(source, PeerLeft, lambda event: takes.left(event.peer.id))
            for remote in source.remote_peers:
                self._watch(remote)
        else:
            self._watch(source)

    async def close(self) -> None:
        """Follow nobody any more, and finish the files."""
        for emitter, event_type, handler in self._handlers:
            emitter.off(event_type, handler)
        self._handlers.clear()
        await self.takes.close()

    def _watch(self, remote: Any) -> None:
        self._on(remote, Track, lambda event: self.takes.add_track(remote.id, event.track))
        for incoming in remote._media.incoming:  # also those that belong to no stream
            self.takes.add_track(remote.id, incoming.track)

    def _on(self, emitter: Any, event_type: type, handler: Callable[[Any], None]) -> None:
        self._handlers.append((emitter, event_type, handler))
        emitter.on(event_type, handler)


class FilesOfParticipants:
    """A file for each participant, and another one for each further track of a kind that it sends at the same time.

    Names come from `path`. `failed` hears of files that cannot be written; the others go on.
    """

    def __init__(
        self,
        path: Path,
        format: str,
        *,
        now: Callable[[], float],
        logger: Logger,
        failed: Callable[[RecordingError], None] | None = None,
        transcode: bool = False,
    ) -> None:
        self._path = path
        self._format = format
        self._now = now
        self._logger = logger
        self._failed = failed
        self._transcode = transcode
        self._recordings: list[ParticipantRecording] = []
        self._groups: defaultdict[str, SyncGroup] = defaultdict(SyncGroup)  # by participant
        self._names: set[str] = set()
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def figures(self) -> tuple[ParticipantFigures, ...]:
        """How it stands, of each participant in the order of arrival."""
        return tuple(it.figures for it in self._recordings)

    def add_track(self, peer_id: str, track: Any) -> None:
        """Record a track in the place of the last one of its kind, or in a file of its own."""
        own = [it for it in self._recordings if it.peer_id == peer_id]
        if any(it.records(track) for it in own):
            return
        for recording in own:
            if recording.has_room_for(track.kind):
                recording.add_track(track)
                return
        self._begin(peer_id).add_track(track)

    def left(self, peer_id: str) -> None:
        """Finish the files of a participant. If it comes back it gets another one."""
        for recording in self._recordings:
            if recording.peer_id == peer_id:
                task = asyncio.ensure_future(recording.close())
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Finish all files.

        Raises:
            RecordingError: Some could not be written. All others are finished.
        """
        await asyncio.gather(*(it.close() for it in self._recordings))
        broken = {it.peer_id: it.path for it in self._recordings if it.error is not None}
        if broken:
            texts = "; ".join(f"{it.path}: {it.error}" for it in self._recordings if it.error is not None)
            raise RecordingError(f"files that could not be written: {texts}", broken)

    def _begin(self, peer_id: str) -> ParticipantRecording:
        recording = ParticipantRecording(
            peer_id,
            self._path.with_name(self._name(peer_id)),
            self._format,
            now=self._now,
            group=self._groups[peer_id],
            logger=self._logger,
            failed=self._report,
            transcode=self._transcode,
        )
        self._recordings.append(recording)
        return recording

    def _name(self, peer_id: str) -> str:
        """Return a name that no other participant has: another id may look the same when it is made safe."""
        name = path = file_name(self._path.name, peer_id, datetime.now())
        number = 1
        while name in self._names:
            number += 1
            stem, _, extension = path.rpartition(".")
            name = f"{stem}-{number}.{extension}"
        self._names.add(name)
        return name

    def _report(self, recording: ParticipantRecording, error: Exception) -> None:
        if self._failed is not None:
            text = f"cannot write {str(recording.path)!r}: {error}"
            self._failed(RecordingError(text, {recording.peer_id: recording.path}))
