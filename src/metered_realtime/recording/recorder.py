"""The recorder: tracks of any origin, one participant, or everybody in a channel."""

from __future__ import annotations

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from aiortc import MediaStreamTrack

from ..core.media.recording_names import check_template, file_name, is_per_participant
from ..log import Logger, NoopLogger, log_exception
from .channel_recording import MAX_ERRORS, ParticipantFiles
from .following import Follower, Participant, ParticipantChannel, RecordingTarget
from .mixed_recording import MixedRecording
from .stats import ParticipantFigures, RecorderStats, RecordingError
from .track_recorder import TrackRecorder

FORMATS = {".mp4": "mp4", ".mkv": "matroska", ".webm": "webm"}


class Recorder:
    """Records into `path`: MP4, Matroska or WebM by its extension.

    There are two ways. `add_track` takes tracks of any origin, which are encoded into one MP4 or Matroska file that is
    complete when `close` returns. `follow` takes a participant or a whole channel; media is written as it arrives, and
    can be played even if the program is killed. If the name contains `{peer}`, each participant gets a file, with the
    media as the participant encoded it as far as the format can hold that. Otherwise a channel is mixed into one file:
    a grid of pictures, and the mixed sound. `{start}` is the local time, as in 20260131T235959.

    An existing file is replaced. `logger` is told what cannot be recorded. `on_error` is called with a `RecordingError`
    as soon as a file of `follow` cannot be written; other files continue.

    Raises:
        ValueError: `path` ends in none of .mp4, .mkv and .webm, or has an unknown field.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        logger: Logger | None = None,
        on_error: Callable[[RecordingError], None] | None = None,
    ) -> None:
        self.path = Path(path)
        check_template(self.path.name)
        self._format = FORMATS.get(self.path.suffix.lower(), "")
        if not self._format:
            raise ValueError(f"a recording's name must end in {', '.join(FORMATS)}, not {str(self.path)!r}")
        self._logger: Logger = logger if logger is not None else NoopLogger()
        self._on_error = on_error
        self._encoded = TrackRecorder(self.path, self._format, logger=self._logger)
        self._has_tracks = False
        self._source: tuple[Participant | ParticipantChannel, bool] | None = None  # and whether to transcode
        self._follower: Follower | None = None
        self._errors: deque[str] = deque(maxlen=MAX_ERRORS)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started_at = 0.0
        self._stopped_at: float | None = None
        self._closing: asyncio.Future[None] | None = None

    @property
    def frames_written(self) -> dict[str, int]:
        """Frames written so far, by kind ("audio", "video")."""
        return self.stats().frames_written

    @property
    def frames_dropped(self) -> dict[str, int]:
        """Frames lost so far, by kind: to a slow encoder or disk, timestamps that went back, or an error."""
        return self.stats().frames_dropped

    @property
    def participants(self) -> Mapping[str, tuple[ParticipantFigures, ...]]:
        """The figures of each participant by peer id, in the order of arrival: those of `stats().participants`.

        A participant that came back has one entry for each time, the latest last. Empty without `follow`.
        """
        found: dict[str, tuple[ParticipantFigures, ...]] = {}
        for it in self._follower.target.participants if self._follower is not None else ():
            found[it.peer_id] = (*found.get(it.peer_id, ()), it)
        return MappingProxyType(found)

    async def start(self) -> None:
        """Start recording: this moment is second 0. Does nothing if it has started.

        Raises:
            OSError: the directory of `path` is missing or not writable.
            RuntimeError: the recorder is closed.
        """
        self._check_open()
        if self._loop is not None:
            return
        _check_directory(self.path.parent)
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        if self._source is not None:
            self._follower = self._begin(*self._source)
        elif not is_per_participant(self.path.name):
            await self._encoded.start()

    def follow(self, source: Participant | ParticipantChannel, *, transcode: bool = False) -> None:
        """Record a `RemotePeer`, or everybody in the channel of a `MeteredPeer` now and later, from `start` on.

        Further tracks of one kind at the same time get files of their own, and so does a participant that comes back.
        With `transcode` everything is encoded again, in the first codec of the format.

        Raises:
            TypeError: `source` is neither a `MeteredPeer` nor a `RemotePeer`.
            RuntimeError: the recorder already follows a source, has tracks of its own, has started or is closed.
        """
        self._check_open()
        if not isinstance(source, Participant | ParticipantChannel):
            raise TypeError(f"a recorder follows a MeteredPeer or a RemotePeer, not {source!r}")
        if self._source is not None or self._has_tracks or self._loop is not None:
            raise RuntimeError("a recorder follows one source from its start, and then has no tracks of its own")
        self._source = source, transcode

    def add_track(self, track: MediaStreamTrack) -> None:
        """Record a track from now on, or from `start` on. Does nothing if it is being recorded.

        Its first frame is placed by its arrival, the others by their timestamps; see `TrackRecorder`.

        Raises:
            TypeError: `track` is neither an audio nor a video track.
            ValueError: the format is WebM, or `path` is a template for several files.
            RuntimeError: the recorder is closed, or follows a source.
        """
        self._check_open()
        if self._source is not None:
            raise RuntimeError("a recorder that follows has no tracks of its own")
        if self._format == "webm" or is_per_participant(self.path.name):
            raise ValueError(f"tracks are added to one MP4 or Matroska file, not {str(self.path)!r}")
        self._encoded.add_track(track)
        self._has_tracks = True

    async def wait_ended(self) -> None:
        """Wait until every track added so far has ended."""
        await self._encoded.wait_ended()

    def stats(self) -> RecorderStats:
        """Return the progress. Cheap enough to call every second."""
        if self._follower is None:
            return self._encoded.stats()
        target = self._follower.target
        participants, totals = target.participants, replace(target.forgotten)
        for it in participants:
            totals.add(it)
        assert self._loop is not None
        now = self._loop.time() if self._stopped_at is None else self._stopped_at
        return RecorderStats(
            seconds=now - self._started_at,
            tracks=totals.tracks,
            frames_written={"audio": totals.audio, "video": totals.video},
            frames_dropped={"audio": totals.lost, "video": totals.dropped},
            frames_waiting=totals.waiting,
            bytes_written=totals.bytes_written,
            errors=tuple(self._errors),
            participants=participants,
            participants_forgotten=target.forgotten.participants,
        )

    async def close(self) -> None:
        """Stop recording and finish the files. Idempotent: every call waits for the end.

        Cancelling a call does not stop closing. If nothing was recorded there is no file, which is logged as a warning.

        Raises:
            RecordingError: files of `follow` could not be written. All others are finished.
            OSError: the file of added tracks could not be written. Its parts are kept and named in the text.
        """
        if self._closing is None:
            self._stopped_at = self._loop.time() if self._loop else 0.0
            ending = self._encoded.close() if self._follower is None else self._follower.close()
            self._closing = asyncio.ensure_future(ending)
        await asyncio.shield(self._closing)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _begin(self, source: Participant | ParticipantChannel, transcode: bool) -> Follower:
        target: RecordingTarget
        if is_per_participant(self.path.name) or not isinstance(source, ParticipantChannel):
            target = ParticipantFiles(
                self.path,
                self._format,
                now=self._now,
                logger=self._logger,
                failed=self._report,
                transcode=transcode,
            )
        else:
            path = self.path.with_name(file_name(self.path.name, "", datetime.now()))
            target = MixedRecording(path, self._format, now=self._now, logger=self._logger, failed=self._report)
        return Follower(source, target)

    def _now(self) -> float:
        assert self._loop is not None
        return self._loop.time() - self._started_at

    def _report(self, error: RecordingError) -> None:
        self._errors.append(str(error))
        if self._on_error is not None:
            try:
                self._on_error(error)
            except Exception as mistake:
                log_exception(self._logger, "recorder: on_error failed", mistake)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise RuntimeError("the recorder is closed")


def _check_directory(directory: Path) -> None:
    if not directory.is_dir():
        raise FileNotFoundError(errno.ENOENT, "no such directory to record into", str(directory))
    if not os.access(directory, os.W_OK):
        raise PermissionError(errno.EACCES, "the directory to record into is not writable", str(directory))
