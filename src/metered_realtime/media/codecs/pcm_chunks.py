"""Audio frames as a continuous stream of samples, in chunks of one length."""

from __future__ import annotations

from collections.abc import Iterator

from av import AudioFrame, AudioResampler

from .pcm import RATE, SAMPLE_BYTES, PcmConverter, pcm_frame

MIN_GAP = 0.005
"""Seconds of the smallest gap: less is rounding. A lost packet usually leaves a gap of 0.02 s."""

MAX_SILENCE = 5.0
"""Seconds of silence that fill a gap at most: for losses, and for pauses in which a sender sends nothing. A longer gap
is a pause of the conversation or another source, and is skipped."""

LAYOUTS = {1: "mono", 2: "stereo"}


class PcmChunks:
    """Converts frames to s16le chunks of `samples` samples per channel. Gaps between timestamps become silence."""

    def __init__(self, rate: int, channels: int, samples: int) -> None:
        self._chunk_bytes = samples * channels * 2
        self._sample_bytes = channels * 2
        self._converter = PcmConverter()
        self._resampler = AudioResampler(format="s16", layout=LAYOUTS[channels], rate=rate)
        self._samples_in = 0
        self._due: float | None = None  # the track's time of the next frame
        self._pcm = bytearray()

    def push_frame(self, frame: AudioFrame) -> Iterator[bytes]:
        """Yield the chunks that a frame completes.

        Raises:
            ValueError: the frame has no sample rate.
        """
        pcm = self._converter.convert(frame)
        self._resample(bytes(self._gap(frame) * SAMPLE_BYTES) + pcm)
        while len(self._pcm) >= self._chunk_bytes:
            yield self._cut()

    def flush(self) -> Iterator[bytes]:
        """Yield the rest at the end, the last chunk padded with silence."""
        self._resample(self._converter.drain())
        self._append(self._resampler.resample(None))
        while self._pcm:
            yield self._cut()

    def _gap(self, frame: AudioFrame) -> int:
        """Return the samples of silence before a frame."""
        at, due = frame.time, self._due
        start = at if at is not None else due if due is not None else 0.0
        gap = start - due if due is not None else 0.0
        if abs(gap) < MIN_GAP and due is not None:
            start = due  # samples are more precise than rounded timestamps
        self._due = start + frame.samples / frame.sample_rate
        return round(gap * RATE) if MIN_GAP <= gap <= MAX_SILENCE else 0

    def _resample(self, pcm: bytes) -> None:
        if pcm:
            self._append(self._resampler.resample(pcm_frame(pcm, self._samples_in)))
            self._samples_in += len(pcm) // SAMPLE_BYTES

    def _append(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            if frame is not None:  # a pass-through resampler returns [None] at the end
                self._pcm += bytes(frame.planes[0])[: frame.samples * self._sample_bytes]  # planes are padded

    def _cut(self) -> bytes:
        chunk = bytes(self._pcm[: self._chunk_bytes])
        del self._pcm[: self._chunk_bytes]
        return chunk.ljust(self._chunk_bytes, b"\0")
