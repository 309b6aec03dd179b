"""Recording all participants of a channel into one file: a grid of pictures, and mixed sound."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import av

from ..core.media.lip_sync import SyncGroup
from ..log import Logger, log_exception
from ..media.receiving.mailbox import Tally
from .file_thread import FileThread
from .mix import Mix, MixItem, MixTick, Source
from .mix_feed import feed_track
from .packet_file import PacketFile
from .reencoding import PictureEncoder, SoundEncoder
from .stats import ParticipantFigures, RecordingError, RecordingState, Totals

WIDTH, HEIGHT, FPS = 1280, 720, 25
"""Size and rate of the mixed picture, whatever the participants send."""

MIX_DELAY = 1.0
"""Seconds after which a moment is mixed: half a second until a new track is placed, and the jitter buffers. What comes
later is left out."""

MAX_BEHIND = 1.0
"""Seconds by which mixing may be late before it skips pictures to catch up. Sound is always mixed."""

TICK = 0.1
"""Seconds between rounds of mixing."""

MIXED = "*"
"""The peer id in the stats of a mixed recording, which has one entry for all participants."""


class MixWriter(Mix):
    """Mixes and writes, in the thread of the file."""

    def __init__(self, path: Path, format: str, now: Callable[[], float]) -> None:
        super().__init__(WIDTH, HEIGHT, FPS)
        self.file = PacketFile(path, format)
        self.file.expects_video = True
        self.pictures_skipped = 0
        self._now = now
        self._pictures = PictureEncoder(format)
        self._sound = SoundEncoder()

    def close(self) -> None:
        self.file.close()

    def give_sound(self, frame: av.AudioFrame, at: float) -> None:
        for unit in self._sound.units(frame, at):
            self.file.write(unit)

    def give_picture(self, picture: av.VideoFrame, at: float) -> None:
        if self._now() - MIX_DELAY - at > MAX_BEHIND:
            self.pictures_skipped += 1
            return
        for unit in self._pictures.units(picture, at):
            self.file.write(unit)


class MixedRecording:
    """Records the tracks of all participants into one file, from second 0 on, with `FPS` pictures per second.

    `now` returns the second of the recording. `failed` is called with the error if the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        format: str,
        *,
        now: Callable[[], float],
        logger: Logger,
        failed: Callable[[RecordingError], None] | None = None,
    ) -> None:
        self.forgotten = Totals()  # always 0: there is one entry for all participants
        self._path = path
        self._now = now
        self._logger = logger
        self._on_failed = failed
        self._error: RecordingError | None = None
        self._mix = MixWriter(path, format, now)
        self._thread: FileThread[MixItem] = FileThread(self._mix, self._failed)
        self._unplaced = Tally()
        self._tracks: set[Any] = set()
        self._numbers = count(1)
        self._groups: defaultdict[str, SyncGroup] = defaultdict(SyncGroup)  # by participant
        self._tasks: set[asyncio.Task[None]] = set()
        self._ticking = asyncio.ensure_future(self._tick())
        self._closed = False

    @property
    def participants(self) -> tuple[ParticipantFigures, ...]:
        """The state of the recording: one entry for all participants."""
        file = self._mix.file
        return (
            ParticipantFigures(
                peer_id=MIXED,
                files=tuple(file.files),
                state=self._state,
                began=file.first,
                duration=file.last,
                bytes_written=file.bytes_written,
                packets=dict(file.written),
                lost=file.gaps,
                dropped=file.left_out + self._thread.dropped + self._mix.pictures_skipped + self._unplaced.count,
                waiting=self._thread.waiting,
                reencoded=("audio", "video"),
                error=str(self._error) if self._error is not None else None,
            ),
        )

    @property
    def _state(self) -> RecordingState:
        if self._error is not None:
            return "failed"
        if self._closed:
            return "closed"
        return "recording" if self._mix.file.files else "waiting"

    def add_track(self, peer_id: str, track: Any) -> None:
        """Mix in a track from now on. Do nothing for a known one."""
        if track in self._tracks:
            return
        self._tracks.add(track)
        task = asyncio.ensure_future(self._record((peer_id, next(self._numbers)), track))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def remove_participant(self, peer_id: str) -> None:
        """Forget the clock of a participant. The end of its tracks frees their tiles."""
        self._groups.pop(peer_id, None)

    async def close(self) -> None:
        """Mix what has arrived and finish the file.

        Raises:
            RecordingError: it could not be written.
        """
        tasks = [self._ticking, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        self._thread.put(MixTick(self._now()))
        self._thread.finish()
        await self._thread.wait_finished()
        self._closed = True
        if self._error is not None:
            raise self._error

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self._thread.put(MixTick(self._now() - MIX_DELAY))

    async def _record(self, source: Source, track: Any) -> None:
        def failed(error: Exception) -> None:
            log_exception(self._logger, "recorder: a track cannot be recorded", error, {"peer": source[0]})

        group, unplaced = self._groups[source[0]], self._unplaced
        try:
            await feed_track(self._thread, source, track, group=group, now=self._now, unplaced=unplaced, failed=failed)
        finally:
            self._tracks.discard(track)

    def _failed(self, error: Exception) -> None:
        self._error = RecordingError(f"cannot write {str(self._path)!r}: {error}", {MIXED: self._path})
        self._ticking.cancel()
        self._logger.error("recorder: a file cannot be written", {"path": str(self._path), "error": str(error)})
        if self._on_failed is not None:
            self._on_failed(self._error)
