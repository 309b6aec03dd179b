"""Following a participant, or everybody in a channel: who comes, goes, and what they send meanwhile."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from ..core.media.lip_sync import SyncGroup
from ..core.media.recording_names import file_name
from ..events import PeerJoined, PeerLeft, Track
from ..log import Logger
from .participant_recording import ParticipantRecording
from .stats import ParticipantFigures, RecordingError, Totals

MAX_LEFT = 1_000
"""Participants who have left whose stats are kept, about 1 KB each. Of those before them only the sums are."""

MAX_NAMES = 10_000
"""File names that are remembered, about 1 MB, so that none is used twice. Later names all carry a number."""

MAX_ERRORS = 100
"""Failures whose texts are kept."""


class Takes(Protocol):
    """Where the tracks of participants go."""

    @property
    def participants(self) -> tuple[ParticipantFigures, ...]:
        """How it stands, of each participant in the order of arrival."""

    @property
    def forgotten(self) -> Totals:
        """The sums of participants who are no longer among `participants`."""

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
        self._handlers: dict[Any, list[tuple[type, Callable[[Any], None]]]] = defaultdict(list)  # by emitter
        if hasattr(source, "remote_peers"):
            self._on(source, PeerJoined, lambda event: self._watch(event.peer))
            self._on(source, PeerLeft, lambda event: self._left(event.peer))
            for remote in source.remote_peers:
                self._watch(remote)
        else:
            self._watch(source)

    async def close(self) -> None:
        """Follow nobody any more, and finish the files."""
        for emitter in list(self._handlers):
            self._forget(emitter)
        await self.takes.close()

    def _watch(self, remote: Any) -> None:
        self._on(remote, Track, lambda event: self.takes.add_track(remote.id, event.track))
        for incoming in remote._media.incoming:  # also those that belong to no stream
            self.takes.add_track(remote.id, incoming.track)

    def _left(self, remote: Any) -> None:
        self._forget(remote)
        self.takes.left(remote.id)

    def _on(self, emitter: Any, event_type: type, handler: Callable[[Any], None]) -> None:
        self._handlers[emitter].append((event_type, handler))
        emitter.on(event_type, handler)

    def _forget(self, emitter: Any) -> None:
        for event_type, handler in self._handlers.pop(emitter, ()):
            emitter.off(event_type, handler)


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
        self.forgotten = Totals()
        self._entries: dict[int, ParticipantRecording | ParticipantFigures] = {}  # in the order of arrival
        self._present: defaultdict[str, dict[int, ParticipantRecording]] = defaultdict(dict)  # by participant
        self._groups: defaultdict[str, SyncGroup] = defaultdict(SyncGroup)  # by participant
        self._left: deque[int] = deque()  # the entries of which only stats are left, the oldest first
        self._begun = 0
        self._names: dict[str, int] = {}  # names that are taken, and the last number that was put to each
        self._failures: deque[tuple[str, Path, str]] = deque(maxlen=MAX_ERRORS)
        self._failed_files = 0
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def participants(self) -> tuple[ParticipantFigures, ...]:
        """How it stands, of each participant in the order of arrival."""
        return tuple(it if isinstance(it, ParticipantFigures) else it.stats for it in self._entries.values())

    def add_track(self, peer_id: str, track: Any) -> None:
        """Record a track in the place of the last one of its kind, or in a file of its own."""
        own = self._present[peer_id].values()
        if any(it.records(track) for it in own):
            return
        for recording in own:
            if recording.has_room_for(track.kind):
                recording.add_track(track)
                return
        self._begin(peer_id).add_track(track)

    def left(self, peer_id: str) -> None:
        """Finish the files of a participant. If it comes back it gets another one."""
        self._groups.pop(peer_id, None)
        for number, recording in self._present.pop(peer_id, {}).items():
            task = asyncio.ensure_future(self._finish(number, recording))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Finish all files.

        Raises:
            RecordingError: Some could not be written. All others are finished.
        """
        open_files = (it.close() for it in self._entries.values() if isinstance(it, ParticipantRecording))
        await asyncio.gather(*open_files, *self._closing)
        if self._failures:
            texts = "; ".join(f"{path}: {error}" for _, path, error in self._failures)
            more = self._failed_files - len(self._failures)
            texts += f"; and {more} before them" if more else ""
            broken = {peer_id: path for peer_id, path, _ in self._failures}
            raise RecordingError(f"files that could not be written: {texts}", broken)

    async def _finish(self, number: int, recording: ParticipantRecording) -> None:
        """Finish a file, and keep its stats only."""
        await recording.close()
        self._entries[number] = recording.stats
        self._left.append(number)
        while len(self._left) > MAX_LEFT:
            oldest = self._entries.pop(self._left.popleft())
            assert isinstance(oldest, ParticipantFigures)
            self.forgotten.add(oldest)

    def _begin(self, peer_id: str) -> ParticipantRecording:
        self._begun += 1
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
        self._entries[self._begun] = recording
        self._present[peer_id][self._begun] = recording
        return recording

    def _name(self, peer_id: str) -> str:
        """Return a name that no other participant has: another id may look the same when it is made safe."""
        path = file_name(self._path.name, peer_id, datetime.now())
        stem, _, extension = path.rpartition(".")
        if len(self._names) >= MAX_NAMES:
            return f"{stem}+{self._begun}.{extension}"  # no other name has a plus sign from here
        name, number = path, self._names.get(path, 1)
        while name in self._names:
            number += 1
            name = f"{stem}-{number}.{extension}"
        self._names[path], self._names[name] = number, 1
        return name

    def _report(self, recording: ParticipantRecording, error: Exception) -> None:
        self._failures.append((recording.peer_id, recording.path, str(error)))
        self._failed_files += 1
        if self._failed is not None:
            text = f"cannot write {str(recording.path)!r}: {error}"
            self._failed(RecordingError(text, {recording.peer_id: recording.path}))
