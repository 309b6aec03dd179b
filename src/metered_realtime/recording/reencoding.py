"""Encoding frames for a format that cannot hold what the remote encoded. Blocking; belongs to one thread."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av

from ..media.codecs.available import encoder_options, require_encoder
from ..media.codecs.pcm import FRAME_BYTES, RATE, SAMPLE_BYTES, PcmConverter, pcm_frame
from ..media.codecs.pictures import as_sent, copied, mark_as_sent
from .packet_file import VIDEO_CLOCK, Unit

KEY_FRAME_INTERVAL = 30
"""Pictures between key frames: one or two seconds, which a crash may lose in a fragmented file."""

MAX_SHIFT = 0.01
"""Seconds by which sound may be off without being moved: half a packet, so that a missing packet leaves a gap."""

VIDEO_ENCODERS = {
    "mp4": ("video/h264", ("libx264", "libopenh264")),
    "webm": ("video/vp8", ("libvpx",)),
    "matroska": ("video/vp8", ("libvpx",)),
}
"""The codec of each format, and its encoders, best first."""

# A positive `cpu-used` gives libvpx a share of the time to use; a negative one is a fixed speed.
_VP8_OPTIONS = {"deadline": "realtime", "cpu-used": "-10", "lag-in-frames": "0"}
_VP8_BITRATE = 1_500_000


class PictureEncoder:
    """Encodes pictures of any size.

    A new size opens a new encoder and begins with a key frame, at most once per `KEY_FRAME_INTERVAL` pictures: opening
    one costs as much as a dozen pictures. Until then pictures are scaled.
    """

    def __init__(self, format: str) -> None:
        self._codec, self._names = VIDEO_ENCODERS[format]
        self._context: Any = None
        self._last = -1
        self._number = 0

    def units(self, frame: av.VideoFrame, at: float) -> Iterator[Unit]:
        """Encode a frame. The frame is not changed."""
        width, height = max(2, frame.width & ~1), max(2, frame.height & ~1)
        is_other = self._context is None or (self._context.width, self._context.height) != (width, height)
        if self._context is None or (is_other and self._number >= KEY_FRAME_INTERVAL):
            self._context = self._open(width, height)
            self._number = 0
        copy = as_sent(frame, self._context.width, self._context.height)
        if copy is frame:
            copy = copied(frame)
        self._last = copy.pts = max(self._last + 1, round(at * VIDEO_CLOCK))
        copy.time_base = Fraction(1, VIDEO_CLOCK)
        copy.pict_type = 1 if self._number % KEY_FRAME_INTERVAL == 0 else 0
        self._number += 1
        for packet in self._context.encode(copy):
            yield Unit("video", self._codec, bytes(packet), at, bool(packet.is_keyframe))

    def _open(self, width: int, height: int) -> Any:
        name = require_encoder(self._names)
        context: Any = av.CodecContext.create(name, "w")
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.time_base, context.framerate = Fraction(1, VIDEO_CLOCK), Fraction(30)
        context.options = _VP8_OPTIONS if name == "libvpx" else encoder_options(name)
        if name == "libvpx":
            context.bit_rate = _VP8_BITRATE
        mark_as_sent(context)
        context.thread_count = 2  # more would starve other work on a small machine
        return context


class SoundEncoder:
    """Encodes sound as Opus, continuously while nothing is missing."""

    def __init__(self) -> None:
        context: Any = av.CodecContext.create(require_encoder(("libopus",)), "w")
        context.sample_rate, context.layout, context.format = RATE, "stereo", "s16"
        self._context = context
        self._converter = PcmConverter()
        self._pcm = bytearray()
        self._next: int | None = None  # the place of the next sample
        self._count = 0  # samples encoded so far

    def units(self, frame: av.AudioFrame, at: float) -> Iterator[Unit]:
        """Encode a frame. The frame is not changed."""
        start = round(at * RATE)
        if self._next is None or abs(start - self._next) > MAX_SHIFT * RATE:
            self._pcm.clear()
            self._next = start
        pcm = self._converter.convert(frame)
        self._pcm += pcm
        self._next += len(pcm) // SAMPLE_BYTES
        while len(self._pcm) >= FRAME_BYTES:
            yield from self._encode()

    def _encode(self) -> Iterator[Unit]:
        assert self._next is not None
        at = (self._next - len(self._pcm) // SAMPLE_BYTES) / RATE
        sound = pcm_frame(self._pcm[:FRAME_BYTES], self._count)
        self._count += sound.samples
        del self._pcm[:FRAME_BYTES]
        for packet in self._context.encode(sound):
            yield Unit("audio", "audio/opus", bytes(packet), at, True)
