"""A track of pictures that the application pushes: the newest one is sent.

Invariants:
- At most one picture waits to be read. A push replaces it and never waits; `_lock` guards it, so that any thread may
  push, and is held only to swap a reference.
- `pts` counts 1/90000 s of the event loop's clock from the first picture read, and always rises.
- A picture that has been read is repeated while nothing is pushed: a receiver that joins, or that lost the end of the
  last picture, needs another frame for its key frame, and a lost packet is only noticed when another one follows.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from typing import Any

import av
from aiortc.mediastreams import VIDEO_TIME_BASE, MediaStreamError

from ..codecs.pictures import CHANNELS, MAX_SIDE, MIN_SIDE, copied, to_yuv420p
from .source_track import SourceTrack, call_on

MAX_FPS = 120

STILL_SECONDS = 0.25
"""Seconds after which an unchanged picture is sent again: the longest that a receiver waits for its key frame.

Encoding an unchanged picture takes about 2 ms at 640 x 480 and a few dozen bytes.
"""


class VideoSource(SourceTrack):
    """A track that shows pushed pictures: the newest one, at most `fps` per second, repeated while none are pushed.

    `format` ("rgb24" or "bgr24") is the colour order of pushed arrays of three dimensions. `width` and `height` scale
    every picture; without them each keeps its own size, which may change at any time. Odd sizes lose a row or column.
    `frames_pushed` counts pictures, `frames_dropped` those that a newer one replaced before they were read.

    Raises:
        ValueError: a size, rate or format is not supported.
    """

    kind = "video"

    def __init__(
        self, *, width: int | None = None, height: int | None = None, fps: float = 30, format: str = "rgb24"
    ) -> None:
        super().__init__()
        _check_side("width", width)
        _check_side("height", height)
        _check_fps(fps)
        _check_format(format)
        self.frames_pushed = 0
        self.frames_dropped = 0
        self._width, self._height, self._format = width, height, format
        self._period = 1 / fps
        self._lock = threading.Lock()
        self._next: av.VideoFrame | None = None
        self._last: av.VideoFrame | None = None
        self._ending = False
        self._wake = asyncio.Event()
        self._due = -math.inf  # when the next picture may be sent, and when the last one is repeated
        self._still_due = math.inf
        self._origin: float | None = None
        self._pts = -1

    def push(self, picture: Any, *, format: str | None = None) -> None:
        """Show a picture: an array of uint8, (height, width, 3) or grey (height, width), or an `av.VideoFrame`.

        May be called from any thread. Never waits; converts in the calling thread, in 1 ms at 640 x 480 and 6 ms at
        1920 x 1080. The picture is copied. Does nothing after `end` or `stop`.

        Raises:
            TypeError: `picture` is neither an array nor a frame.
            ValueError: its shape, type or size is not supported, or `format` is unknown.
        """
        if self._ending or self.readyState != "live":
            return
        frame = to_yuv420p(picture, _check_format(format or self._format), self._width, self._height)
        with self._lock:
            if self._ending or self.readyState != "live":
                return
            self.frames_pushed += 1
            self.frames_dropped += self._next is not None
            self._next = frame
        call_on(self._loop, self._wake.set)

    def end(self) -> None:
        """End the track once the last picture has been read. Later pushes do nothing. May be called from any thread."""
        self._ending = True
        call_on(self._loop, self._wake.set)

    async def recv(self) -> av.VideoFrame:
        """Return the next picture when it is due: a new one, or the last one again.

        Raises:
            MediaStreamError: the track has ended.
        """
        loop = self._attach()
        while self.readyState == "live":
            self._wake.clear()
            frame, delay = self._take_due(loop.time())
            if frame is not None:
                return frame
            if self._ending and self._next is None:
                self.stop()
                break
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()
        raise MediaStreamError("the video source has ended")

    def _release(self) -> None:
        with self._lock:
            self._next = self._last = None
        self._wake.set()

    def _take_due(self, now: float) -> tuple[av.VideoFrame | None, float | None]:
        """Return the picture that is due, else None and the seconds to wait, None to wait until woken."""
        with self._lock:
            fresh = self._next is not None
            due = max(self._due, self._still_due if not fresh else -math.inf)
            if now < due or not (fresh or self._may_repeat()):
                return None, due - now if math.isfinite(due) else None
            if fresh:
                self._last, self._next = self._next, None
            assert self._last is not None
            frame = self._last if fresh else copied(self._last)  # the original may still be encoding
        # A picture that is up to a period early or late does not displace its neighbours, and the rate stays bounded.
        self._due = max(self._due + self._period, now)
        self._still_due = now + max(STILL_SECONDS, self._period)
        return self._stamped(frame, now), None

    def _may_repeat(self) -> bool:
        return self._last is not None and not self._ending

    def _stamped(self, frame: av.VideoFrame, now: float) -> av.VideoFrame:
        if self._origin is None:
            self._origin = now
        self._pts = max(self._pts + 1, round((now - self._origin) * VIDEO_TIME_BASE.denominator))
        frame.pts, frame.time_base = self._pts, VIDEO_TIME_BASE
        return frame


def _check_side(name: str, side: int | None) -> None:
    if side is not None and (type(side) is not int or side % 2 or not MIN_SIDE <= side <= MAX_SIDE):
        raise ValueError(f"{name} must be an even int from {MIN_SIDE} to {MAX_SIDE}, or None, not {side!r}")


def _check_fps(fps: float) -> None:
    if not isinstance(fps, int | float) or isinstance(fps, bool) or not 0 < fps <= MAX_FPS:
        raise ValueError(f"fps must be a number above 0 and at most {MAX_FPS}, not {fps!r}")


def _check_format(format: str) -> str:
    if format not in CHANNELS:
        raise ValueError(f"format must be one of {', '.join(CHANNELS)}, not {format!r}")
    return format
