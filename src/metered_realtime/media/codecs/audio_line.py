"""Placing decoded sound on a time line, and cutting it into frames of 20 ms."""

from __future__ import annotations

from collections.abc import Iterator

import av

from .pcm import FRAME_BYTES, FRAME_SAMPLES, RATE, SAMPLE_BYTES, PcmConverter, pcm_frame

GAP = 0.1
"""Seconds that audio may be off its timestamps before it is moved. Less is rounding and jitter."""

MAX_FIX = 1.0
"""Seconds of silence inserted or sound skipped at most. A larger distance is a gap, or a clock that was set."""


class AudioLine:
    """Converts the frames of one stream to 48 kHz stereo s16 on a time line. `pts` counts samples.

    Samples follow each other without gaps. They are moved onto their timestamps where a pass through the source begins,
    so that the rounding of many passes does not add up, and within a pass where they are off by more than `GAP`.
    """

    def __init__(self) -> None:
        self._converter = PcmConverter()
        self._pcm = bytearray()
        self._next: int | None = None  # the place of the first sample of `_pcm`
        self._skip = 0  # samples still to be skipped
        self._begins = True  # whether a pass begins

    @property
    def position(self) -> float:
        """The second of the time line up to which there is sound."""
        return 0.0 if self._next is None else (self._next + self._waiting) / RATE

    def add_frame(self, frame: av.AudioFrame, at: float | None, *, begins: float) -> None:
        """Add a frame at its time in seconds, None if it has none. Sound before `begins` (seconds) is skipped."""
        pcm = self._converter.convert(frame)
        earliest = round(begins * RATE)
        if at is not None or self._begins:
            self._move_to(earliest if at is None else round(at * RATE), earliest)
        self._begins = False
        skipped = min(self._skip, len(pcm) // SAMPLE_BYTES)
        self._skip -= skipped
        self._pcm += pcm[skipped * SAMPLE_BYTES :]

    def end_pass(self) -> None:
        """End a pass: the next frame does not follow the previous one in the source."""
        self._pcm += self._converter.drain()
        self._begins, self._skip = True, 0

    def frames(self, *, last: bool = False) -> Iterator[av.AudioFrame]:
        """Yield the complete frames, and with `last` also the incomplete one, padded with silence."""
        if last:
            self._pcm += bytes(-len(self._pcm) % FRAME_BYTES)
        while len(self._pcm) >= FRAME_BYTES:
            assert self._next is not None
            frame = pcm_frame(self._pcm[:FRAME_BYTES], self._next)
            del self._pcm[:FRAME_BYTES]
            self._next += FRAME_SAMPLES
            yield frame

    @property
    def _waiting(self) -> int:
        return len(self._pcm) // SAMPLE_BYTES

    def _move_to(self, start: int, earliest: int) -> None:
        """Move the next sample to `start` if it is too far off. Time never goes back."""
        if self._next is None:
            self._next = max(start, earliest)
        off = start - (self._next + self._waiting)
        if not self._begins and abs(off) <= GAP * RATE:
            return
        if off > MAX_FIX * RATE or (off > 0 and not self._begins):
            self._next += off
        elif off > 0:
            self._pcm += bytes(off * SAMPLE_BYTES)
        elif off >= -MAX_FIX * RATE or start < earliest:
            self._skip = -off
