"""Encoded media as it arrives: whole frames, and their RTP timestamps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

from aiortc.rtcrtpparameters import RTCRtpCodecParameters

MAX_LEAP = 10.0
"""Seconds by which timestamps may differ from the clock between two frames before they count as another source's."""

_H264_SLICE_TYPES = range(1, 6)
_H264_IDR = 5


@dataclass(frozen=True, slots=True, eq=False)
class EncodedFrame:
    """A whole picture or an audio packet, as the remote encoded it.

    `timestamp` counts in the clock of the codec and never wraps.
    """

    codec: RTCRtpCodecParameters
    data: bytes
    timestamp: int
    is_key: bool


def is_key_frame(codec: RTCRtpCodecParameters, data: bytes) -> bool:
    """Return whether decoding can start with a frame. Audio and unknown codecs always can."""
    name = codec.mimeType.lower()
    if name == "video/vp8":
        # RFC 6386 section 9.1. The start code tells a key frame from a picture whose first packets are missing.
        return data[3:6] == b"\x9d\x01\x2a" and data[0] & 1 == 0
    if name == "video/h264":
        return _first_slice(data) == _H264_IDR
    return True


def _first_slice(data: bytes) -> int | None:
    """Return the NAL unit type of the first slice in an Annex B stream, None if there is none."""
    at = data.find(b"\0\0\1")
    while at >= 0 and at + 3 < len(data):
        kind = data[at + 3] & 0x1F
        if kind in _H264_SLICE_TYPES:
            return kind
        at = data.find(b"\0\0\1", at + 3)
    return None


class RtpTimeline:
    """Turns the 32-bit timestamps of RTP into a count that starts at 0 and does not wrap.

    When another source continues in the same section, its timestamps are unrelated to the previous ones (RFC 3550
    section 5.1): the count then advances by the time that has passed.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self.leaps = 0
        """How often the count advanced by the time that had passed."""
        self._clock = clock
        self._rate = 1
        self._last: tuple[int, float] | None = None
        self._place = 0

    def place_frame(self, timestamp: int, clock_rate: int) -> int:
        """Return the place of a frame that has just arrived."""
        now = self._clock()
        self._rate = clock_rate
        if self._last is not None:
            step = self._step(timestamp, now)
            if step is None:
                self.leaps += 1
                step = max(1, round((now - self._last[1]) * clock_rate))
            self._place += step
        self._last = timestamp, now
        return self._place

    def second_of(self, timestamp: int) -> float | None:
        """Return the second of the count that a timestamp means, without advancing the count.

        None before the first frame, and if the timestamp belongs to another source than the last frame.
        """
        step = self._step(timestamp, self._clock()) if self._last is not None else None
        return None if step is None else (self._place + step) / self._rate

    def _step(self, timestamp: int, now: float) -> int | None:
        """Return the distance from the last frame's timestamp, None if the clock rules out the same source."""
        assert self._last is not None
        last, since = self._last
        step = (timestamp - last + (1 << 31)) % (1 << 32) - (1 << 31)
        passed = round((now - since) * self._rate)
        return step if abs(step - passed) <= MAX_LEAP * self._rate else None
