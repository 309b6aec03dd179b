"""Recording tracks of any origin into one file by encoding them.

Each track has a task on the event loop that reads it; one thread encodes all of them. The frames between them are
bounded for each track: when the thread cannot keep up, the newest are dropped and counted, and the call continues.

States: new -> recording (`start`) -> closed (`close`). Tracks may be added in the first two.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import queue
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError

from ..core.media.track_clock import TrackClock
from ..log import Logger, log_exception
from ..media.receiving.remote_track import RemoteTrack
from ..media.receiving.waiting import room_for
from .parts import AudioPart, Part, VideoPart, join
from .stats import RecorderStats

MAX_WAITING = {"audio": 500, "video": 60}
"""Frames of one track that may wait for the encoder: 10 s of sound, 2 s of pictures (84 MB at 720p), fewer of larger
ones."""

MAX_SKEW = 2.0
"""Seconds by which a track's timestamps may differ from the clock on arrival before they are anchored again.

More than a jitter buffer holds, less than a pause of a sender whose timestamps do not count pauses.
"""

DRAIN_TIMEOUT = 2.0
"""Seconds that `close` gives the encoder for waiting frames. The rest is dropped and counted."""

CANCEL_TIMEOUT = 1.0
"""Seconds that `close` waits for a track's `recv` to be cancelled."""


@dataclass(slots=True, eq=False)
class _Recorded:
    """The state of one track. The event loop writes the first group, the thread the second; both may read all."""

    track: Any
    part_path: Path
    task: asyncio.Task[None] | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    anchor: tuple[float, float] | None = None  # place in the recording, and the track's own time there
    clock: TrackClock = field(default_factory=lambda: TrackClock(math.inf))
    sent: int = 0
    refused: int = 0

    part: Part | None = None
    done: int = 0
    lost: int = 0
    failed: bool = False

    @property
    def waiting(self) -> int:
        """Frames that wait for the thread."""
        return self.sent - self.done

    @property
    def written(self) -> int:
        """Frames encoded."""
        return self.part.frames_written if self.part else 0

    @property
    def dropped(self) -> int:
        """Frames that arrived and were not encoded."""
        return self.refused + self.lost + (self.part.frames_dropped if self.part else 0)


class TrackRecorder:
    """Records audio and video tracks into `path`, in FFmpeg's format `mp4` or `matroska`.

    The first frame of a track is placed by its arrival, counted from `start`, the others by the track's timestamps.
    Gaps in the sound are filled with silence. Pictures have the size of the track's first one. The tracks are read, but
    not stopped: a track that is used elsewhere too needs a relay for each use.

    Encoded media goes into hidden part files next to `path`; `close` joins them, and replaces an existing file.
    `logger` is told which tracks cannot be recorded.
    """

    def __init__(self, path: Path, format: str, *, logger: Logger) -> None:
        self.path = path
        self._format = format
        self._token = uuid.uuid4().hex[:8]  # in the names of the part files: two recorders may have one path
        self._logger = logger
        self._recorded: list[_Recorded] = []
        self._errors: list[str] = []
        self._inbox: queue.SimpleQueue[tuple[_Recorded, Any, float] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._started_at = 0.0
        self._stopped_at: float | None = None
        self._drain_until = math.inf
        self._finished = asyncio.Event()
        self._failure: Exception | None = None
        self._closing: asyncio.Future[None] | None = None

    @property
    def frames_written(self) -> dict[str, int]:
        """Frames encoded so far, by kind."""
        return self._count(lambda recorded: recorded.written)

    @property
    def frames_dropped(self) -> dict[str, int]:
        """Frames lost so far, by kind: to a slow encoder, timestamps that went back, or an error."""
        return self._count(lambda recorded: recorded.dropped)

    async def start(self) -> None:
        """Start recording: this moment is second 0 of the file. Does nothing if it has started.

        Raises:
            RuntimeError: the recorder is closed.
        """
        self._check_open()
        if self._thread is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._started_at = self._loop.time()
        self._thread = threading.Thread(target=self._encode, name="metered-realtime-recorder", daemon=True)
        self._thread.start()
        for recorded in self._recorded:
            self._begin(recorded)

    def add_track(self, track: Any) -> None:
        """Record a track from now on, or from `start` on. Does nothing if it is being recorded.

        Raises:
            TypeError: `track` is neither an audio nor a video track.
            RuntimeError: the recorder is closed.
        """
        self._check_open()
        if getattr(track, "kind", None) not in MAX_WAITING:
            raise TypeError(f"a recorder takes audio and video tracks, not {track!r}")
        if any(recorded.track is track for recorded in self._recorded):
            return
        part = self.path.with_name(f".{self.path.name}.{self._token}-{len(self._recorded)}.nut")
        recorded = _Recorded(track, part)
        self._recorded.append(recorded)
        if self._thread is not None:
            self._begin(recorded)

    async def wait_ended(self) -> None:
        """Wait until every track added so far has ended."""
        for recorded in list(self._recorded):
            await recorded.ended.wait()

    def stats(self) -> RecorderStats:
        """Return the progress. Cheap enough to call every second."""
        now = self._loop.time() if self._loop else 0.0
        now = now if self._stopped_at is None else self._stopped_at
        finished = self._finished.is_set() and self._failure is None
        files = [self.path] if finished else [recorded.part_path for recorded in self._recorded]
        return RecorderStats(
            seconds=now - self._started_at,
            tracks=len(self._recorded),
            frames_written=self.frames_written,
            frames_dropped=self.frames_dropped,
            frames_waiting=sum(recorded.waiting for recorded in self._recorded),
            bytes_written=sum(file.stat().st_size for file in files if file.exists()),
            errors=tuple(self._errors),
        )

    async def close(self) -> None:
        """Stop recording and finish the file. Idempotent: every call waits for the end.

        Waiting frames are encoded for at most 2 s; joining the parts then takes as long as copying the file. Cancelling
        a call does not stop closing. If no track had a frame there is no file, which is logged as a warning.

        Raises:
            OSError: the file could not be written. The parts are kept and named in the text.
        """
        if self._closing is None:
            self._drain_until = time.monotonic() + DRAIN_TIMEOUT
            self._stopped_at = self._loop.time() if self._loop else 0.0
            # At once and not in the task, so that the thread finishes the file even if the event loop ends now.
            self._inbox.put(None)
            self._closing = asyncio.ensure_future(self._close())
        await asyncio.shield(self._closing)

    def _check_open(self) -> None:
        if self._closing is not None:
            raise RuntimeError("the recorder is closed")

    def _count(self, value: Callable[[_Recorded], int]) -> dict[str, int]:
        counts = dict.fromkeys(MAX_WAITING, 0)
        for recorded in self._recorded:
            counts[recorded.track.kind] += value(recorded)
        return counts

    def _begin(self, recorded: _Recorded) -> None:
        recorded.task = asyncio.get_running_loop().create_task(self._read(recorded))

    async def _read(self, recorded: _Recorded) -> None:
        try:
            while True:
                self._submit_frame(recorded, await recorded.track.recv())
        except MediaStreamError:
            pass
        except Exception as exc:
            self._report(recorded, exc)
        finally:
            recorded.ended.set()

    def _submit_frame(self, recorded: _Recorded, frame: Any) -> None:
        """Pass a frame to the thread, or drop it if the thread is too far behind."""
        expected = av.AudioFrame if recorded.track.kind == "audio" else av.VideoFrame
        if not isinstance(frame, expected):
            raise TypeError(f"a recorder takes decoded {recorded.track.kind} frames, not {frame!r}")
        if self._stopped_at is not None:
            return
        at = self._place(recorded, frame)
        if recorded.waiting >= room_for(frame, MAX_WAITING[recorded.track.kind]):
            recorded.refused += 1
            return
        recorded.sent += 1
        self._inbox.put((recorded, frame, at))

    def _place(self, recorded: _Recorded, frame: av.AudioFrame | av.VideoFrame) -> float:
        """Return the second of the recording at which a frame that has just arrived belongs."""
        assert self._loop is not None
        now, own = self._loop.time() - self._started_at, frame.time
        if own is None:
            return now
        recorded.clock.note_frame(own, now)
        lost = recorded.clock.take_lost_time()
        if recorded.anchor is not None:
            if not isinstance(recorded.track, RemoteTrack):  # frames of a remote may be delayed by the network
                recorded.anchor = recorded.anchor[0] + lost, recorded.anchor[1]
            at = recorded.anchor[0] + own - recorded.anchor[1]
            if abs(at - now) <= MAX_SKEW:
                return max(0.0, at)
        recorded.anchor = (now, own)
        return now

    async def _close(self) -> None:
        tasks = [recorded.task for recorded in self._recorded if recorded.task is not None]
        for task in tasks:
            task.cancel()
        for recorded in self._recorded:
            recorded.ended.set()
        if tasks:
            await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT)
        if self._thread is not None:
            await self._finished.wait()
            self._thread.join()
        if self._failure is not None:
            parts = ", ".join(str(recorded.part_path) for recorded in self._recorded if recorded.part)
            raise OSError(f"cannot finish {str(self.path)!r}: {self._failure}; encoded so far: {parts}")

    def _report(self, recorded: _Recorded, exc: Exception) -> None:
        track = recorded.track
        text = f"{track.kind} track {getattr(track, 'id', '?')}: {type(exc).__name__}: {exc}"
        self._errors.append(text)
        log_exception(self._logger, "recorder: a track cannot be recorded", exc, {"kind": track.kind})

    # --- in the thread

    def _encode(self) -> None:
        try:
            while (item := self._inbox.get()) is not None:
                self._write(*item)
            self._finish()
        except Exception as exc:
            self._failure = exc
        finally:
            self._on_loop(self._finished.set)

    def _write(self, recorded: _Recorded, frame: Any, at: float) -> None:
        if recorded.failed or time.monotonic() > self._drain_until:
            recorded.lost += 1
        else:
            try:
                if recorded.part is None:
                    make = AudioPart if recorded.track.kind == "audio" else VideoPart
                    recorded.part = make(recorded.part_path)
                recorded.part.write(frame, at)
            except Exception as exc:
                recorded.failed = True
                recorded.lost += 1
                self._on_loop(self._report, recorded, exc)
        recorded.done += 1

    def _finish(self) -> None:
        """Close the parts, join them, and replace the file in one step."""
        for recorded in self._recorded:
            if recorded.part is not None:
                try:
                    recorded.part.close()
                except Exception as exc:
                    self._on_loop(self._report, recorded, exc)
        parts = [recorded.part_path for recorded in self._recorded if recorded.written]
        if parts:
            joining = self.path.with_name(f".{self.path.name}.{self._token}.joining")
            try:
                join(parts, joining, self._format)
                joining.replace(self.path)
            finally:
                joining.unlink(missing_ok=True)
        else:
            self._on_loop(self._logger.warning, "recorder: nothing was recorded", {"path": str(self.path)})
        for recorded in self._recorded:
            recorded.part_path.unlink(missing_ok=True)

    def _on_loop(self, call: Callable[..., None], *args: Any) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the event loop has been closed
            self._loop.call_soon_threadsafe(call, *args)
