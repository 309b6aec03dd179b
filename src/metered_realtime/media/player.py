"""Playing a file, stream or device in real time, from a decoder thread into tracks.

Invariants:
- The thread runs while a track that has been read is live, and ends soon after the last of them stops. It
  alone touches the container while it runs.
- A queue is bounded. A file is decoded at most `AHEAD` seconds ahead, and pauses while nobody reads; a reader
  that falls behind while the other goes on loses its oldest frames. A live source never waits: its oldest
  frames go.
- Both tracks of a file follow one clock. It moves only when the whole player has stalled.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable

import av
from aiortc.contrib.media import MediaPlayer
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from metered_realtime.media.decoding import Decoded, FrameReader, Kind

AHEAD = 0.5  # seconds decoded ahead of a file's reader: covers a slow disk or a large key frame
MAX_QUEUED = 3.0  # seconds; files interleave coarsely, so one queue may have to grow past AHEAD
MAX_QUEUED_BYTES = 128 * 1024 * 1024  # raw 4K pictures are 12 MB each
LIVE_QUEUED = 0.5  # seconds; what is older than this is not live
LATE = 0.25  # seconds behind the clock from which a file's frame is skipped
STALLED = 0.5  # seconds behind the clock of the newest frame, from which the clock moves instead

THREAD_NAME = "metered-realtime-player"


class PlayerTrack(MediaStreamTrack):
    """One kind of a `Player`'s media. `frames_dropped` counts what a slow reader missed."""

    def __init__(self, player: Player, kind: Kind) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.frames_dropped = 0
        self.reading = False  # this and what follows is guarded by the player's lock
        self.finished = False
        self.queue: deque[Decoded] = deque()
        self._player = player
        self._wake = asyncio.Event()

    async def recv(self) -> av.AudioFrame | av.VideoFrame:
        """Return the next frame; of a file, when it is due.

        Raises:
            MediaStreamError: The source has ended or the track has been stopped.
        """
        while self.readyState == "live":
            self._wake.clear()
            frame, delay = self._player.take(self)
            if frame is not None:
                return frame
            if self.finished and not self.queue:
                self.stop()
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()
        raise MediaStreamError(f"the {self.kind} track has ended")

    def stop(self) -> None:
        """End the track. The player's thread ends with its last track that is being read."""
        super().stop()
        self._player.release(self)
        self._wake.set()

    def wake(self) -> None:
        """Make a waiting `recv` look again. Call it on the event loop."""
        self._wake.set()

    @property
    def queued_seconds(self) -> float:
        """How much media the queue spans."""
        return self.queue[-1].time - self.queue[0].time if self.queue else 0.0


class Player(MediaPlayer):
    """Play `file` on `.audio` and `.video`; either is None if the source has none.

    An aiortc `MediaPlayer` to its users, with a decoder of its own. aiortc's queues without bound what is
    decoded for a track that nobody reads, sends looped video with timestamps that go back, and blocks the
    event loop while it stops.

    Opening blocks until the source answers. `timeout` (seconds) bounds that and each later read. `live`
    sources are not paced. Frames begin with the first `recv` of a track.

    Raises:
        av.FFmpegError: The source cannot be opened or read.
        ValueError: It has neither audio nor video, or `loop` is asked of one that cannot be rewound.
    """

    def __init__(
        self,
        file: str,
        *,
        format: str | None = None,
        options: dict[str, str] | None = None,
        timeout: float | None = None,
        loop: bool = False,
        live: bool = False,
    ) -> None:
        self._container = av.open(file, "r", format=format, options=options, timeout=timeout)
        try:
            if loop and self._container.duration is None:
                raise ValueError(f"{file!r} cannot be looped: its length is not known")
            self._reader = FrameReader(self._container, loop=loop)
            if not (self._reader.has_audio or self._reader.has_video):
                raise ValueError(f"{file!r} has neither audio nor video")
        except BaseException:
            self._container.close()
            raise
        self.error: Exception | None = None
        self._live = live
        self._audio = PlayerTrack(self, "audio") if self._reader.has_audio else None
        self._video = PlayerTrack(self, "video") if self._reader.has_video else None
        self._tracks = [track for track in (self._audio, self._video) if track is not None]
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._idle = asyncio.Event()  # the thread has nothing left to do
        self._loop: asyncio.AbstractEventLoop | None = None
        self._origin: float | None = None  # the loop's time at the media's time 0

    @property
    def audio(self) -> PlayerTrack | None:
        """The audio track, if there is one."""
        return self._audio

    @property
    def video(self) -> PlayerTrack | None:
        """The video track, if there is one."""
        return self._video

    async def close(self) -> None:
        """Stop both tracks and wait until the decoder thread has ended: at most one read's timeout."""
        thread = self._thread
        for track in self._tracks:
            track.stop()
        if thread is not None:
            await self._idle.wait()
            thread.join()

    def take(self, track: PlayerTrack) -> tuple[av.AudioFrame | av.VideoFrame | None, float | None]:
        """Return the track's next frame if it is due, or None and how long to wait (None: until woken)."""
        with self._changed:
            self._begin(track)
            self._changed.notify_all()
            if not track.queue:
                return None, None
            if not self._live:
                delay = self._delay(track)
                if not track.queue or delay > 0:
                    return None, delay if track.queue else None
            return track.queue.popleft().frame, None

    def release(self, track: PlayerTrack) -> None:
        """Forget a track that has stopped; close the source after the last one."""
        with self._changed:
            track.queue.clear()
            self._changed.notify_all()
            self._close_if_unused()

    def _begin(self, track: PlayerTrack) -> None:
        track.reading = True
        if self._thread is None and not track.finished:
            self._loop = asyncio.get_running_loop()
            self._idle.clear()
            # A daemon, so that a program that forgot to stop a track can still exit.
            self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            self._thread.start()

    def _delay(self, track: PlayerTrack) -> float:
        """Move the clock or skip late frames if need be, and return seconds until the queue's head is due."""
        now = asyncio.get_running_loop().time()
        newest = max(each.queue[-1].time for each in self._tracks if each.queue)
        if self._origin is None or now - (self._origin + newest) > STALLED:
            self._origin = now - track.queue[0].time
        while track.queue and now - (self._origin + track.queue[0].time) > LATE:
            track.queue.popleft()
            track.frames_dropped += 1
        return self._origin + track.queue[0].time - now if track.queue else 0.0

    def _wanted(self) -> set[str]:
        return {track.kind for track in self._tracks if track.reading and track.readyState == "live"}

    def _run(self) -> None:
        """Decode until the source or the interest in it ends. Runs in the thread."""
        while True:
            try:
                for decoded in self._reader.frames(self._wanted):
                    self._offer(decoded)
            except Exception as exc:
                self.error = exc
            with self._changed:
                for track in self._tracks:
                    track.finished = self.error is not None or (
                        self._reader.ended and not self._reader.holds(track.kind)
                    )
                if any(track.kind in self._wanted() and not track.finished for track in self._tracks):
                    continue  # a track began to be read just now
                self._thread = None
                self._close_if_unused()
            self._wake_all(self._idle.set)
            return

    def _offer(self, decoded: Decoded) -> None:
        track = self._audio if decoded.kind == "audio" else self._video
        assert track is not None
        with self._changed:
            while not self._live and (pause := self._pause()) > 0:
                self._changed.wait(None if pause == math.inf else pause)
            if decoded.kind not in self._wanted():
                return
            while self._is_full(track):
                track.queue.popleft()
                track.frames_dropped += 1
            track.queue.append(decoded)
        self._wake_all()

    def _pause(self) -> float:
        """Return seconds until more of a file should be decoded; infinite until a reader takes a frame.

        While one track's queue runs dry the other's may fill up (a coarsely interleaved file, or a track that
        ends early), but frames that are still on time are not given up for that.
        """
        reading = [track for track in self._tracks if track.kind in self._wanted()]
        if reading and all(track.queued_seconds >= AHEAD for track in reading):
            return math.inf
        return max((self._slack(track) for track in reading if self._is_full(track)), default=0.0)

    def _slack(self, track: PlayerTrack) -> float:
        """Return seconds until the head of the queue is so late that it may be dropped."""
        assert self._loop is not None
        if self._origin is None:
            return LATE
        return self._origin + track.queue[0].time + LATE - self._loop.time()

    def _is_full(self, track: PlayerTrack) -> bool:
        if len(track.queue) < 2:
            return False
        limit = LIVE_QUEUED if self._live else MAX_QUEUED
        return track.queued_seconds >= limit or len(track.queue) * _size(track.queue[-1]) >= MAX_QUEUED_BYTES

    def _wake_all(self, *also: Callable[[], None]) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the loop has been closed: nobody is waiting any more
            for wake in (*(track.wake for track in self._tracks), *also):
                self._loop.call_soon_threadsafe(wake)

    def _close_if_unused(self) -> None:
        if self._thread is None and all(track.readyState == "ended" for track in self._tracks):
            self._container.close()


def _size(decoded: Decoded) -> int:
    return sum(plane.buffer_size for plane in decoded.frame.planes)
