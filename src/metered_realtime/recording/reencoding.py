"""Frames made into units for a file that does not take what the remote encoded. Blocking; belongs to one thread."""

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
"""Pictures between key frames: a second or two, what a crash of the fragmented file may cost."""

MAX_SHIFT = 0.01
"""Seconds that sound may be away from its place without being moved: half a packet, so that a missing one shows."""

VIDEO_ENCODERS = {
    "mp4": ("video/h264", ("libx264", "libopenh264")),
    "webm": ("video/vp8", ("libvpx",)),
    "matroska": ("video/vp8", ("libvpx",)),
}
"""What each format is encoded in, and with what."""

# libvpx takes a positive `cpu-used` for a share of the time that it may fill; a negative one is a fixed speed.
_VP8_OPTIONS = {"deadline": "realtime", "cpu-used": "-10", "lag-in-frames": "0"}
_VP8_BITRATE = 1_500_000


class PictureEncoder:
    """Encode pictures of any size. Another size begins another stream, with a key frame, once in `KEY_FRAME_INTERVAL`
    pictures at most: opening an encoder costs as much as a dozen of them. Until then pictures are scaled."""

    def __init__(self, format: str) -> None:
        self._codec, self._names = VIDEO_ENCODERS[format]
        self._context: Any = None
        self._last = -1
        self._number = 0

    def units(self, frame: av.VideoFrame, at: float) -> Iterator[Unit]:
        """Encode a frame, which is not changed."""
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
        context.thread_count = 2  # more would starve the rest of a small machine
        return context


class SoundEncoder:
    """Encode sound as Opus, continuous as long as nothing is missing."""

    def __init__(self) -> None:
        context: Any = av.CodecContext.create(require_encoder(("libopus",)), "w")
        context.sample_rate, context.layout, context.format = RATE, "stereo", "s16"
        self._context = context
        self._converter = PcmConverter()
        self._pcm = bytearray()
        self._next: int | None = None  # the sample at which the next one to be added belongs
        self._count = 0  # samples that the encoder has had

    def units(self, frame: av.AudioFrame, at: float) -> Iterator[Unit]:
        """Encode a frame, which is not changed."""
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
