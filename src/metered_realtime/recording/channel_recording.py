"""Files of the participants of a channel, one or more for each."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from ..core.media.lip_sync import SyncGroup
from ..core.media.recording_names import file_name
from ..log import Logger
from .participant_recording import ParticipantRecording
from .stats import ParticipantFigures, RecordingError, Totals

MAX_LEFT = 1_000
"""Participants that have left whose stats are kept, about 1 KB each. Earlier ones are only in the sums."""

MAX_NAMES = 10_000
"""File names that are remembered, about 1 MB, so that none is used twice. All later names carry a number."""

MAX_ERRORS = 100
"""Errors whose texts are kept."""


class ParticipantFiles:
    """One file for each participant, and one more for each further track of a kind that it sends at the same time.

    `path` is the template of the names, `now` returns the second of the recording. `failed` is called with the error of
    a file that cannot be written; the other files go on. With `transcode` every track is encoded again.
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
        self._left: deque[int] = deque()  # the entries that are stats only, the oldest first
        self._begun = 0
        self._names: dict[str, int] = {}  # names in use, and the last number appended to each
        self._failures: deque[tuple[str, Path, str]] = deque(maxlen=MAX_ERRORS)
        self._failed_files = 0
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def participants(self) -> tuple[ParticipantFigures, ...]:
        """The state of each participant's recording, in the order of arrival."""
        return tuple(it if isinstance(it, ParticipantFigures) else it.stats for it in self._entries.values())

    def add_track(self, peer_id: str, track: Any) -> None:
        """Record a track where the last one of its kind ended, or in a file of its own. Do nothing for a known one."""
        own = self._present[peer_id].values()
        if any(it.records(track) for it in own):
            return
        for recording in own:
            if recording.has_room_for(track.kind):
                recording.add_track(track)
                return
        self._begin(peer_id).add_track(track)

    def remove_participant(self, peer_id: str) -> None:
        """Finish the files of a participant in the background. One that comes back gets another file."""
        self._groups.pop(peer_id, None)
        for number, recording in self._present.pop(peer_id, {}).items():
            task = asyncio.ensure_future(self._finish(number, recording))
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Finish all files.

        Raises:
            RecordingError: some could not be written. All others are finished.
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
        """Finish a file, and keep only its stats."""
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
        """Return a name that is not in use: different ids may become the same safe name."""
        path = file_name(self._path.name, peer_id, datetime.now())
        stem, _, extension = path.rpartition(".")
        if len(self._names) >= MAX_NAMES:
            return f"{stem}+{self._begun}.{extension}"  # no other name has a plus sign
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
