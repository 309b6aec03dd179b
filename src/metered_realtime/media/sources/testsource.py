"""Generated media: live tracks that take hardly any CPU, and a test clip."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from aiortc.mediastreams import VIDEO_TIME_BASE, MediaStreamError
from av.container import OutputContainer

from ..codecs.available import (
    AUDIO_ENCODERS,
    H264_ENCODERS,
    encoder_options,
    first_encoder,
    require_encoder,
)
from ..codecs.pcm import (
    FRAME_BYTES,
    FRAME_SAMPLES,
    FRAME_SECONDS,
    RATE,
    SAMPLE_BYTES,
    pcm_frame,
)
from ..pacing import Pacer
from .pattern import Pattern
from .source_track import SourceTrack

MAX_FPS = 120
TONE_LEVEL, CLICK_LEVEL = 0.2, 0.8  # of full scale: the click stands out, and neither clips
CLICK_SAMPLES = RATE // 200  # 5 ms


class PatternTrack(SourceTrack):
    """A video track of numbered test pictures (`Pattern`) in real time. `pts` counts 1/90000 s.

    Raises:
        ValueError: `width` or `height` is odd or outside 64 to 4096, or `fps` is outside 1 to 120.
    """

    kind = "video"

    def __init__(self, *, width: int = 640, height: int = 480, fps: int = 30) -> None:
        super().__init__()
        _check_fps(fps)
        self.fps = fps
        self._pattern = Pattern(width, height)
        self._pacer = Pacer(Fraction(1, fps))
        self._number = 0

    async def recv(self) -> av.VideoFrame:
        """Return the next picture when it is due.

        Raises:
            MediaStreamError: the track has been stopped.
        """
        due = await _paced(self, self._pacer)
        frame = self._pattern.frame(self._number)
        frame.pts = due * VIDEO_TIME_BASE.denominator // self.fps
        frame.time_base = VIDEO_TIME_BASE
        self._number += 1
        return frame


class ToneTrack(SourceTrack):
    """An audio track of a sine of `frequency` hertz with a click each second; 48 kHz stereo s16, 20 ms per frame.

    Raises:
        ValueError: `frequency` is not an int from 1 to 20000.
    """

    kind = "audio"

    def __init__(self, *, frequency: int = 440, click: bool = True) -> None:
        super().__init__()
        self._second = memoryview(_tone_second(frequency, click))
        self._pacer = Pacer(FRAME_SECONDS)

    async def recv(self) -> av.AudioFrame:
        """Return the next 20 ms when they are due.

        Raises:
            MediaStreamError: the track has been stopped.
        """
        pts = await _paced(self, self._pacer) * FRAME_SAMPLES
        start = pts % RATE * SAMPLE_BYTES
        return pcm_frame(self._second[start : start + FRAME_BYTES], pts)


@dataclass(frozen=True, slots=True)
class Clip:
    """The properties of a written test clip. `audio_codec` is None if PyAV has no audio encoder."""

    path: Path
    seconds: float
    frames: int
    video_codec: str
    audio_codec: str | None


def write_test_clip(
    path: str | os.PathLike[str],
    *,
    seconds: float = 5.0,
    width: int = 640,
    height: int = 360,
    fps: int = 25,
    progress: Callable[[float], None] | None = None,
) -> Clip:
    """Write an MP4 (H.264 and AAC) with the numbered test picture and a 440 Hz tone that clicks each second.

    Blocks, at about 40 times real time at the default size. Without those encoders the next best ones of this PyAV are
    used. `progress` is called with a fraction from 0 to 1, once per frame, the last time with 1.0. An existing file is
    replaced; one that could not be finished is removed.

    Raises:
        ValueError: a size, rate or length is out of range.
        RuntimeError: PyAV has no video encoder for MP4.
    """
    _check_fps(fps)
    if not (math.isfinite(seconds) and 0 < seconds <= 3600):
        raise ValueError(f"seconds must be above 0 and at most 3600, not {seconds!r}")
    pattern = Pattern(width, height)
    video_codec, audio_codec = require_encoder(H264_ENCODERS), first_encoder(AUDIO_ENCODERS)
    clip = Clip(Path(path), seconds, max(1, round(seconds * fps)), video_codec, audio_codec)
    try:
        with av.open(os.fspath(path), "w", format="mp4") as container:
            _write(container, clip, pattern, fps, progress)
    except BaseException:
        clip.path.unlink(missing_ok=True)
        raise
    return clip


def _write(
    container: OutputContainer, clip: Clip, pattern: Pattern, fps: int, progress: Callable[[float], None] | None
) -> None:
    video = container.add_stream(clip.video_codec, rate=fps, options=encoder_options(clip.video_codec))
    assert isinstance(video, av.VideoStream)
    video.width, video.height, video.pix_fmt = pattern.width, pattern.height, "yuv420p"
    audio = container.add_stream(clip.audio_codec, rate=RATE) if clip.audio_codec else None
    assert audio is None or isinstance(audio, av.AudioStream)
    if audio is not None:
        audio.codec_context.layout = "stereo"
    second, samples = _tone_second(440, True), 0
    for number in range(clip.frames):
        frame = pattern.frame(number)
        frame.pts, frame.time_base = number, Fraction(1, fps)
        container.mux(video.encode(frame))
        while audio is not None and samples * fps < (number + 1) * RATE:
            start = samples % RATE * SAMPLE_BYTES
            container.mux(audio.encode(pcm_frame(second[start : start + FRAME_BYTES], samples)))
            samples += FRAME_SAMPLES
        if progress is not None:
            progress((number + 1) / clip.frames)
    container.mux(video.encode(None))
    if audio is not None:
        container.mux(audio.encode(None))


async def _paced(track: SourceTrack, pacer: Pacer) -> int:
    due = -1
    for wait in (True, False):  # the track may be stopped before the wait or during it
        if track.readyState != "live":
            raise MediaStreamError("the track has been stopped")
        if wait:
            due = await pacer.wait()
    return due


def _tone_second(frequency: int, click: bool) -> bytes:
    """Return one second of 48 kHz stereo s16. A whole number of hertz makes it repeat seamlessly."""
    if not isinstance(frequency, int) or not 1 <= frequency <= 20_000:
        raise ValueError(f"frequency must be an int from 1 to 20000 Hz, not {frequency!r}")
    step = 2 * math.pi * frequency / RATE
    mono = array("h", (round(32767 * TONE_LEVEL * math.sin(step * n)) for n in range(RATE)))
    if click:
        high, low = round(32767 * CLICK_LEVEL), -round(32767 * CLICK_LEVEL)
        mono[:CLICK_SAMPLES] = array("h", (high if n % 48 < 24 else low for n in range(CLICK_SAMPLES)))
    stereo = array("h", bytes(2 * mono.itemsize * RATE))
    stereo[0::2] = mono
    stereo[1::2] = mono
    return stereo.tobytes()


def _check_fps(fps: int) -> None:
    if not isinstance(fps, int) or isinstance(fps, bool) or not 1 <= fps <= MAX_FPS:
        raise ValueError(f"fps must be an int from 1 to {MAX_FPS}, not {fps!r}")
