"""Recording one participant. What the format can hold is written as it was encoded by the sender."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError

from ..core.media.lip_sync import SyncGroup
from ..log import Logger, log_exception
from ..media.receiving.mailbox import Tally
from ..media.receiving.waiting import room_for
from .file_thread import MAX_FRAMES, MAX_WAITING, FileThread
from .packet_file import CODECS, PacketFile, Unit
from .reencoding import PictureEncoder, SoundEncoder
from .stats import ParticipantFigures, RecordingState

SETTLING = 100
"""Frames of a track that may wait until it is placed, which takes half a second, or one second at most."""


@dataclass(frozen=True, slots=True)
class FrameToEncode:
    """A decoded frame and its second of the recording."""

    frame: Any
    at: float


class ParticipantWriter:
    """Encodes where necessary and writes, in the thread of the file."""

    def __init__(self, path: Path, format: str, need_key: Callable[[], None], logger: Logger) -> None:
        self.packets = PacketFile(path, format)
        self._need_key = need_key
        self._logger = logger
        self._is_told = False
        self._pictures: PictureEncoder | None = None
        self._sound: SoundEncoder | None = None

    def write(self, item: Unit | FrameToEncode) -> None:
        if isinstance(item, Unit):
            self._write(item)
        elif isinstance(item.frame, av.VideoFrame):
            self._pictures = self._pictures or PictureEncoder(self.packets.format)
            for unit in self._pictures.units(item.frame, item.at):
                self._write(unit)
        else:
            self._sound = self._sound or SoundEncoder()
            for unit in self._sound.units(item.frame, item.at):
                self._write(unit)

    def close(self) -> None:
        self.packets.close()

    def _write(self, unit: Unit) -> None:
        self.packets.write(unit)
        if self.packets.wants_key and unit.kind == "video":
            self._need_key()
        if self.packets.changes_refused and not self._is_told:
            self._is_told = True  # once: the stats keep counting
            self._logger.warning("recorder: pictures change too often", {"path": str(self.packets.path)})


class ParticipantRecording:
    """Records a participant's sound and pictures into `path`, and into further files where one cannot continue.

    One track of each kind at a time; another one continues where the last one ended. `now` returns the second of the
    recording; `group` holds all tracks of the participant, in whatever file. `failed` is called with the recording and
    the error if a file cannot be written.
    """

    def __init__(
        self,
        peer_id: str,
        path: Path,
        format: str,
        *,
        now: Callable[[], float],
        group: SyncGroup,
        logger: Logger,
        failed: Callable[[ParticipantRecording, Exception], None],
        transcode: bool = False,
    ) -> None:
        self.peer_id = peer_id
        self.path = path
        self.error: Exception | None = None
        self.reencoded: set[str] = set()
        self._format = format
        self._now = now
        self._group = group
        self._logger = logger
        self._on_failed = failed
        self._transcode = transcode
        self._unplaced = Tally()
        self._tracks: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._file = ParticipantWriter(path, format, self._need_key, logger)
        self._thread: FileThread[Unit | FrameToEncode] = FileThread(self._file, self._failed)
        self._closing: asyncio.Future[None] | None = None

    @property
    def stats(self) -> ParticipantFigures:
        """The state of the recording. Cheap: nothing is read from the disk."""
        packets = self._file.packets
        return ParticipantFigures(
            self.peer_id,
            tuple(packets.files),
            self._state,
            max(0.0, packets.first) if packets.first is not None else None,
            packets.last - packets.first if packets.first is not None else 0.0,
            packets.bytes_written,
            dict(packets.written),
            packets.gaps,
            packets.left_out + self._thread.dropped + self._unplaced.count,
            self._thread.waiting,
            tuple(sorted(self.reencoded)),
            str(self.error) if self.error is not None else None,
            packets.changes_refused,
        )

    @property
    def _state(self) -> RecordingState:
        if self.error is not None:
            return "failed"
        if self._closing is not None and self._closing.done():
            return "closed"
        return "recording" if self._file.packets.first is not None else "waiting"

    def has_room_for(self, kind: str) -> bool:
        """Return whether no track of this kind is being recorded."""
        track = self._tracks.get(kind)
        return self._closing is None and (track is None or track.readyState != "live")

    def records(self, track: Any) -> bool:
        """Return whether this track is recorded here, or was the last one of its kind."""
        return track in self._tracks.values()

    def add_track(self, track: Any) -> None:
        """Record a remote track from its next key frame on, after the last one of its kind."""
        self._tracks[track.kind] = track
        self._file.packets.expects_video |= track.kind == "video"
        task = self._loop.create_task(self._record(track))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Finish the files. Idempotent; errors are in `error`."""
        if self._closing is None:
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        self._thread.finish()
        await self._thread.wait_finished()

    # --- reading

    async def _record(self, track: Any) -> None:
        try:
            if self._transcode or not await self._record_packets(track):
                self.reencoded.add(track.kind)
                await self._record_frames(track)
        except MediaStreamError:
            pass
        except Exception as error:
            log_exception(self._logger, "recorder: a track cannot be recorded", error, {"peer": self.peer_id})

    async def _record_packets(self, track: Any) -> bool:
        """Record packets until the track ends. Return False at the first one that the format cannot hold."""
        placed, reader = PlacedTrack(track, self._group, self._now, self._put, self._unplaced), track.encoded()
        try:
            while True:
                packet = await reader.recv()
                codec = (reader.codec or "").lower()
                if codec not in CODECS[self._format]:
                    return False
                unit = Unit(track.kind, codec, bytes(packet), 0.0, bool(packet.is_keyframe))
                placed.push_frame(float(packet.pts * packet.time_base), unit)
        finally:
            placed.end()
            reader.stop()

    async def _record_frames(self, track: Any) -> None:
        """Record frames until the track ends."""
        placed, reader = PlacedTrack(track, self._group, self._now, self._put, self._unplaced), track.decoded()
        try:
            while True:
                frame = await reader.recv()
                placed.push_frame(float(frame.pts * frame.time_base), FrameToEncode(frame, 0.0))
        finally:
            placed.end()
            reader.stop()

    def _put(self, item: Unit | FrameToEncode) -> None:
        limit = MAX_WAITING if isinstance(item, Unit) else room_for(item.frame, MAX_FRAMES)
        if not self._thread.put(item, limit) and self.error is None and isinstance(item, Unit) and item.kind == "video":
            self._file.packets.skip_to_key()

    def _need_key(self) -> None:
        """Request a key frame, from the thread of the file."""
        with suppress(RuntimeError):  # the event loop has been closed
            self._loop.call_soon_threadsafe(self._request_key)

    def _request_key(self) -> None:
        track = self._tracks.get("video")
        if track is not None:
            track.request_key_frame()

    def _failed(self, error: Exception) -> None:
        self.error = error
        for task in self._tasks:
            task.cancel()
        self._logger.error("recorder: a file cannot be written", {"peer": self.peer_id, "error": str(error)})
        self._on_failed(self, error)


class PlacedTrack:
    """Sets the second of the recording (`at`) of each frame of a track, and passes the frames to `put`.

    Frames wait until the track is placed. `group` holds the other tracks of the participant, with which it stays in
    sync. `drops` counts frames beyond those that may wait.
    """

    def __init__(
        self, track: Any, group: SyncGroup, now: Callable[[], float], put: Callable[[Any], object], drops: Tally
    ) -> None:
        self._place = group.join(track.kind, track.sender_clock)
        self._now = now
        self._put = put
        self._drops = drops
        self._waiting: deque[tuple[float, Any]] = deque()

    def push_frame(self, own: float, frame: Any) -> None:
        """Add a frame that has just arrived, with its time on the track."""
        self._place.note_frame(own, self._now())
        limit = SETTLING if isinstance(frame, Unit) else room_for(frame.frame, SETTLING)
        while len(self._waiting) >= limit:
            self._waiting.popleft()
            self._drops.add()
        self._waiting.append((own, frame))
        if self._place.is_settled:
            self._flush()

    def end(self) -> None:
        """Pass on the waiting frames, and leave the group."""
        self._flush()
        self._place.leave()

    def _flush(self) -> None:
        while self._waiting:
            own, frame = self._waiting.popleft()
            self._put(replace(frame, at=self._place.place_frame(own)))
