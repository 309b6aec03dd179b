"""Playing a file, stream or device in real time, from a decoder thread into tracks.

Invariants:
- The thread runs while a track that has been read is live, and ends soon after the last of them stops. Only the thread
  uses the container while it runs. The thread of a live source also ends after `LIVE_IDLE` without a reader.
- Queues are bounded. A file is decoded at most `AHEAD` seconds ahead, and decoding pauses without a reader; a reader
  that falls behind while the other continues loses its oldest frames. A live source never waits: its oldest frames are
  dropped.
- Both tracks of a file follow one clock. It moves only when the whole player has stalled.
- A track of packets never drops single packets, only all up to the next key frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Protocol, TypeAlias

import av
from aiortc.contrib.media import MediaPlayer
from aiortc.mediastreams import MediaStreamError

from ..receiving.waiting import room_for
from .decoding import Decoded, Kind, Wanted
from .passthrough import Packet, Passthrough
from .source_track import SourceTrack

AHEAD = 0.5  # seconds decoded ahead of a file's reader: enough for a slow disk or a large key frame
MAX_QUEUED = 3.0  # seconds; files interleave coarsely, so one queue may have to grow past AHEAD
LIVE_QUEUED = 0.5  # seconds; older frames are not live
LIVE_IDLE = 5.0  # seconds without a reader after which decoding of a live source stops until one comes back
LATE = 0.25  # seconds behind the clock from which a file's frame is skipped
STALLED = 0.5  # seconds behind the clock from which, for the newest frame, the clock moves instead

CLOSE_TIMEOUT = 2.0
"""Seconds that `close` waits for a blocking read. FFmpeg cannot be interrupted: the thread ends when the read does."""

THREAD_NAME = "metered-realtime-player"

_Unit: TypeAlias = "av.AudioFrame | av.VideoFrame | Packet"


class Reader(Protocol):
    """The source of a player's media. Used by one thread at a time."""

    ended: bool
    has_audio: bool
    has_video: bool
    passed: dict[Kind, Passthrough]
    reopened: int

    @property
    def errors(self) -> int:
        """Packets that could not be decoded."""

    def frames(self, wanted: Wanted) -> Iterator[Decoded]:
        """Yield frames, as `FrameReader.frames` does."""

    def holds(self, kind: Kind) -> bool:
        """Return whether there is something for a late reader of this kind."""

    def close(self) -> None:
        """Release the source."""


class PlayerTrack(SourceTrack):
    """The audio or video track of a `Player`. `frames_dropped` counts frames that a slow reader missed.

    `codec` is None, or the media type ("video/H264") of the packets that `recv` then returns instead of frames.
    """

    def __init__(self, player: Player, kind: Kind, codec: str | None) -> None:
        super().__init__()
        self.kind: Kind = kind
        self.codec = codec
        self.frames_dropped = 0
        self.needs_key = False  # packets were dropped: nothing can be decoded before the next key frame
        self.read_at = 0.0  # time of the last read, on the monotonic clock; infinite while a reader waits
        self.reading = False  # guarded by the player's lock, like the two below
        self.finished = False
        self.queue: deque[Decoded] = deque()
        self._player = player
        self._wake = asyncio.Event()

    async def recv(self) -> _Unit:
        """Return the next frame or packet. That of a file is returned when it is due.

        Raises:
            MediaStreamError: the source has ended or the track has been stopped.
        """
        self._attach()
        while self.readyState == "live":
            self._wake.clear()
            frame, delay = self._player.take_frame(self)
            if frame is not None:
                return frame
            if self.finished and not self.queue:
                self.stop()
                break
            await self._wait(delay)
        raise MediaStreamError(f"the {self.kind} track has ended") from self._player.error

    async def _wait(self, delay: float | None) -> None:
        self.read_at = math.inf
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()
        finally:
            self.read_at = time.monotonic()

    def _release(self) -> None:
        """Release the player, whose thread ends with its last track that is being read."""
        self._player.release_track(self)
        self._wake.set()

    def wake(self) -> None:
        """Make a waiting `recv` check again. Called on the event loop."""
        self._wake.set()

    @property
    def queued_seconds(self) -> float:
        """Seconds of media in the queue."""
        return self.queue[-1].time - self.queue[0].time if self.queue else 0.0


class Player(MediaPlayer):
    """Plays a source on the tracks `audio` and `video`. Either is None if the source has no such stream.

    It is an aiortc `MediaPlayer` with a decoder of its own. That of aiortc queues frames of an unread track without
    bound, sends looped video with timestamps that go back, and blocks the event loop while it stops.

    `live` sources are not paced. Reading begins with the first `recv` of a track. `error` is the exception with which
    the source failed, if it did; `describe` turns FFmpeg's exceptions, which may contain credentials, into public ones.
    """

    def __init__(
        self, reader: Reader, *, live: bool = False, describe: Callable[[Exception], Exception] | None = None
    ) -> None:
        self.error: Exception | None = None
        self._reader = reader
        self._live = live
        self._describe = describe
        self._audio = PlayerTrack(self, "audio", _codec(reader, "audio")) if reader.has_audio else None
        self._video = PlayerTrack(self, "video", _codec(reader, "video")) if reader.has_video else None
        self._tracks = [track for track in (self._audio, self._video) if track is not None]
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._done: Future[threading.Thread] | None = None  # set to the thread when it ends
        self._loop: asyncio.AbstractEventLoop | None = None
        self._origin: float | None = None  # the loop's time at the media's time 0

    @property
    def audio(self) -> PlayerTrack | None:
        """The audio track, None if there is none."""
        return self._audio

    @property
    def video(self) -> PlayerTrack | None:
        """The video track, None if there is none."""
        return self._video

    @property
    def reopened(self) -> int:
        """How often a live source was opened again after it failed or fell silent."""
        return self._reader.reopened

    @property
    def packets_failed(self) -> int:
        """Packets that could not be played: broken ones, pictures of more than 8192x4320 pixels, and sound that cannot
        be mixed to stereo."""
        return self._reader.errors

    async def close(self) -> None:
        """Stop both tracks and wait for the end of the decoder thread, at most 2 s if a read blocks.

        May be awaited at any time, on any event loop, more than once.
        """
        for track in self._tracks:
            track.stop()
        done = self._done
        if done is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_TIMEOUT):
                    (await asyncio.wrap_future(done)).join()

    def take_frame(self, track: PlayerTrack) -> tuple[_Unit | None, float | None]:
        """Return the track's next frame if it is due, else None and the seconds to wait (None: until woken)."""
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

    def release_track(self, track: PlayerTrack) -> None:
        """Release a track that has stopped. The last one closes the source."""
        with self._changed:
            track.queue.clear()
            self._changed.notify_all()
            self._close_if_unused()

    def _begin(self, track: PlayerTrack) -> None:
        track.reading = True
        track.read_at = time.monotonic()
        self._loop = asyncio.get_running_loop()
        if self._thread is None and not track.finished:
            if self._live and self._done is not None:  # frames from before a pause without readers
                track.queue.clear()
            self._done = Future()
            self._done.set_running_or_notify_cancel()  # a cancelled `close` must not cancel it for others
            # A daemon thread, so that a program that does not stop a track can still exit.
            self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
            self._thread.start()

    def _delay(self, track: PlayerTrack) -> float:
        """Return the seconds until the head of the queue is due, after moving the clock or skipping late frames."""
        now = asyncio.get_running_loop().time()
        newest = max(each.queue[-1].time for each in self._tracks if each.queue)
        if self._origin is None or now - (self._origin + newest) > STALLED:
            self._origin = now - track.queue[0].time
        while track.queue and track.codec is None and now - (self._origin + track.queue[0].time) > LATE:
            self._shed(track)
        return self._origin + track.queue[0].time - now if track.queue else 0.0

    def _wanted(self) -> set[str]:
        since = time.monotonic() - LIVE_IDLE if self._live else -math.inf
        return {
            track.kind
            for track in self._tracks
            if track.reading and track.read_at >= since and track.readyState == "live"
        }

    def _run(self) -> None:
        """Decode until the source ends or no track is read any more. Runs in the thread."""
        done = self._done
        assert done is not None
        while True:
            try:
                for decoded in self._reader.frames(self._wanted):
                    self._offer(decoded)
            except Exception as exc:
                self.error = exc if self._describe is None else self._describe(exc)
            with self._changed:
                for track in self._tracks:
                    track.finished = self.error is not None or (
                        self._reader.ended and not self._reader.holds(track.kind)
                    )
                if any(track.kind in self._wanted() and not track.finished for track in self._tracks):
                    continue  # a reader has just come
                self._thread = None
                self._close_if_unused()
            self._wake_all()
            done.set_result(threading.current_thread())
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
                self._shed(track)
            if track.needs_key and not decoded.key:
                track.frames_dropped += 1
                return
            track.needs_key = False
            track.queue.append(decoded)
        self._wake_all()

    def _shed(self, track: PlayerTrack) -> None:
        """Drop the oldest frame, or all packets up to the next key frame."""
        while True:
            track.queue.popleft()
            track.frames_dropped += 1
            if not track.queue or track.queue[0].key:
                break
        track.needs_key = track.codec is not None and not track.queue

    def _pause(self) -> float:
        """Return the seconds until more of a file has to be decoded; infinite until a reader takes a frame.

        The queue of one track may fill up while that of the other runs dry (a coarsely interleaved file, or a track
        that ends early), but frames that are still on time are not dropped for that.
        """
        reading = [track for track in self._tracks if track.kind in self._wanted()]
        if reading and all(track.queued_seconds >= AHEAD for track in reading):
            return math.inf
        return max((self._slack(track) for track in reading if self._is_full(track)), default=0.0)

    def _slack(self, track: PlayerTrack) -> float:
        """Return the seconds until the head of the queue is late enough to be dropped."""
        assert self._loop is not None
        if self._origin is None:
            return LATE
        return self._origin + track.queue[0].time + LATE - self._loop.time()

    def _is_full(self, track: PlayerTrack) -> bool:
        if len(track.queue) < 2:
            return False
        limit = LIVE_QUEUED if self._live else MAX_QUEUED
        newest = track.queue[-1].frame
        return track.queued_seconds >= limit or len(track.queue) >= room_for(newest, len(track.queue) + 1)

    def _wake_all(self) -> None:
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):  # the event loop has been closed
            for track in self._tracks:
                self._loop.call_soon_threadsafe(track.wake)

    def _close_if_unused(self) -> None:
        if self._thread is None and all(track.readyState == "ended" for track in self._tracks):
            self._reader.close()


def _codec(reader: Reader, kind: Kind) -> str | None:
    return reader.passed[kind].codec if kind in reader.passed else None
