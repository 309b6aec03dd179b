"""The audio format of the package (48 kHz stereo s16), and conversion to it."""

from __future__ import annotations

import math
from array import array
from fractions import Fraction
from typing import Literal

import av
from av import AudioFrame, AudioResampler

RATE = 48000
"""Samples per second, as in Opus."""

FRAME_SAMPLES = 960
"""Samples per channel in a frame: 20 ms, the packet duration of aiortc's encoders."""

SAMPLE_BYTES = 4
"""Bytes of one sample of both channels."""

FRAME_BYTES = FRAME_SAMPLES * SAMPLE_BYTES
FRAME_SECONDS = Fraction(FRAME_SAMPLES, RATE)
TIME_BASE = Fraction(1, RATE)

_FLOAT_CODES: dict[str, Literal["f", "d"]] = {"flt": "f", "dbl": "d"}

_Signature = tuple[str, str, int]


class PcmConverter:
    """Converts consecutive audio frames to 48 kHz stereo s16 bytes.

    The input may change its format, layout or rate between frames; the rest in the resampler then comes first. The
    frames are never changed. The resampler holds back up to a millisecond until `drain`.
    """

    def __init__(self) -> None:
        self._signature: _Signature | None = None
        self._resampler: AudioResampler | None = None

    def convert(self, frame: AudioFrame) -> bytes:
        """Return the frame as PCM.

        Raises:
            ValueError: the frame has no sample rate, or samples that are not finite.
            av.FFmpegError: its channels cannot be mixed to two.
        """
        if frame.sample_rate <= 0:
            raise ValueError(f"an audio frame needs a sample rate, not {frame.sample_rate!r}")
        _check_finite(frame)
        signature = (frame.format.name, frame.layout.name, frame.sample_rate)
        tail = b"" if signature == self._signature else self.drain()
        if self._resampler is None:
            self._signature = signature
            # Mono stays mono here and is doubled below: FFmpeg would make it 3 dB quieter.
            layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
            self._resampler = AudioResampler(format="s16", layout=layout, rate=RATE)
        try:
            return tail + self._bytes(self._resampler.resample(frame))
        except av.FFmpegError:
            self._resampler = self._signature = None  # it was never set up and holds nothing
            raise

    def drain(self) -> bytes:
        """Return the rest in the resampler and reset it."""
        if self._resampler is None:
            return b""
        rest = self._resampler.resample(None)
        self._resampler = self._signature = None
        return self._bytes([frame for frame in rest if frame is not None])  # a pass-through returns [None]

    @staticmethod
    def _bytes(frames: list[AudioFrame]) -> bytes:
        return b"".join(map(_stereo, frames))


def pcm_frame(data: bytes | bytearray | memoryview, pts: int) -> AudioFrame:
    """Return 48 kHz stereo s16 `data` as a frame whose `pts` counts samples."""
    frame = AudioFrame(format="s16", layout="stereo", samples=len(data) // SAMPLE_BYTES)
    frame.planes[0].update(bytes(data))
    frame.sample_rate = RATE
    frame.time_base = TIME_BASE
    frame.pts = pts
    return frame


def s16_frame(data: bytes, rate: int, layout: str) -> av.AudioFrame:
    """Return packed s16le `data` of any rate and layout as a frame. `data` holds whole samples."""
    channels = av.AudioLayout(layout).nb_channels
    frame = AudioFrame(format="s16", layout=layout, samples=len(data) // (2 * channels))
    frame.planes[0].update(data)
    frame.sample_rate = rate
    return frame


def _check_finite(frame: AudioFrame) -> None:
    """Reject NaN and infinity, which FFmpeg turns into clicks at full scale."""
    code = _FLOAT_CODES.get(frame.format.name.removesuffix("p"))
    if code is None:
        return
    channels = 1 if frame.format.is_planar else frame.layout.nb_channels
    for plane in frame.planes:
        total = sum(memoryview(plane).cast(code)[: frame.samples * channels])
        if not math.isfinite(total):
            raise ValueError(f"an audio frame has samples that are not finite: their sum is {total!r}")


def _plane(frame: AudioFrame, sample_bytes: int) -> bytes:
    return bytes(frame.planes[0])[: frame.samples * sample_bytes]  # planes are padded


def _stereo(frame: AudioFrame) -> bytes:
    if frame.layout.nb_channels == 2:
        return _plane(frame, SAMPLE_BYTES)
    mono = array("h", _plane(frame, 2))
    stereo = array("h", bytes(SAMPLE_BYTES * len(mono)))
    stereo[0::2] = mono
    stereo[1::2] = mono
    return stereo.tobytes()
