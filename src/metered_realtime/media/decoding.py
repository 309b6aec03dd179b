"""Reading a file, stream or device as frames ready to send. Blocking, without a clock: the player paces."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import av
from aiortc.mediastreams import VIDEO_TIME_BASE
from av.container import InputContainer

from metered_realtime.media.pcm import FRAME_BYTES, FRAME_SAMPLES, RATE, PcmConverter, pcm_frame

Kind = Literal["audio", "video"]
Packet: TypeAlias = "av.Packet[Any]"

GAP = 0.1
"""Seconds that audio may be off its timestamps before it is moved onto them; less is rounding and jitter."""

RETRY_AFTER = 0.01
"""Seconds until a device that had nothing yet (EAGAIN) is asked again: FFmpeg gives nothing to wait on."""


HELD = 1.0
"""Seconds of packets kept for a reader that has not come yet: what a file is decoded ahead, and some more."""

MAX_HELD = 600
"""Packets kept at most, for video whose key frames are far apart (20 s at 30 fps)."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame and its place on the player's time line, in seconds from the start; it never goes back."""

    kind: Kind
    time: float
    frame: av.AudioFrame | av.VideoFrame


class FrameReader:
    """Decode the first audio and the first video stream of a container.

    Audio comes out as 48 kHz stereo s16, 20 ms per frame, video as it is, with `pts` in 1/90000 s. With
    `loop` the time line goes on where the file starts over. What nobody wants is not decoded.
    """

    def __init__(self, container: InputContainer, *, loop: bool = False) -> None:
        self.has_audio = bool(container.streams.audio)
        self.has_video = bool(container.streams.video)
        self.errors = 0  # packets that could not be decoded
        self.ended = False  # there is no more to read; packets may still be held
        self._container = container
        self._streams = [*container.streams.audio[:1], *container.streams.video[:1]]
        self._loop = loop
        starts = [_start(stream) for stream in self._streams]
        self._base: float | None = min((start for start in starts if start is not None), default=None)
        self._offset = 0.0  # where this pass through the file starts
        self._end = 0.0  # where it ends, as far as is known
        self._wait_for_key = True
        self._held: dict[Kind, deque[Packet]] = {"audio": deque(), "video": deque()}
        self._last_video = -1
        self._converter = PcmConverter()
        self._pcm = bytearray()
        self._next_sample: int | None = None

    def frames(self, wanted: Callable[[], Collection[str]]) -> Iterator[Decoded]:
        """Yield frames until the end, or until `wanted` (the kinds that somebody reads) comes back empty.

        Can be called again after the latter, and goes on from there.

        Raises:
            av.FFmpegError: The source failed.
        """
        while True:
            before = self._end
            yield from self._one_pass(wanted)
            yield from self._release(wanted())
            if not wanted():
                return
            if not self._loop or self._end <= before:
                yield from self._last_audio()
                self.ended = True
                return
            self._container.seek(0)
            self._offset, self._wait_for_key = self._end, True
            for held in self._held.values():
                held.clear()

    def holds(self, kind: Kind) -> bool:
        """Say whether there is something to decode for a reader of this kind who comes late."""
        return bool(self._held[kind])

    def _one_pass(self, wanted: Callable[[], Collection[str]]) -> Iterator[Decoded]:
        packets = self._container.demux(*self._streams)
        while kinds := wanted():
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.BlockingIOError:
                time.sleep(RETRY_AFTER)
                packets = self._container.demux(*self._streams)
                continue
            if packet.stream.type in kinds:
                yield from self._release(kinds)
                yield from self._decode(packet)
            else:
                self._hold(packet)

    def _hold(self, packet: Packet) -> None:
        """Keep, encoded, what a reader needs who comes late: back to the key frame `HELD` seconds ago."""
        held = self._held["video" if packet.stream.type == "video" else "audio"]
        if len(held) >= MAX_HELD:
            held.clear()
        if held or packet.is_keyframe:  # of sound, every packet is one
            held.append(packet)
        if packet.is_keyframe:
            old = [n for n, each in enumerate(held) if each.is_keyframe and _seconds(each, packet) >= HELD]
            for _ in range(old[-1] if old else 0):
                held.popleft()

    def _release(self, kinds: Collection[str]) -> Iterator[Decoded]:
        """Decode what was held of kinds that are wanted by now."""
        for kind, held in self._held.items():
            while kind in kinds and held:
                yield from self._decode(held.popleft())

    def _decode(self, packet: Packet) -> Iterator[Decoded]:
        if packet.stream.type == "video" and packet.size:
            if self._wait_for_key and not packet.is_keyframe:
                return
            self._wait_for_key = False
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            self.errors += 1
            return
        for frame in frames:
            if isinstance(frame, av.VideoFrame):
                yield from self._video(frame, packet.stream)
            elif isinstance(frame, av.AudioFrame):
                yield from self._audio(frame)

    def _time(self, frame: av.AudioFrame | av.VideoFrame) -> float | None:
        if frame.pts is None or frame.time_base is None:
            return None
        at = float(frame.pts * frame.time_base)
        if self._base is None:
            self._base = at
        return self._offset + max(0.0, at - self._base)

    def _video(self, frame: av.VideoFrame, stream: av.stream.Stream) -> Iterator[Decoded]:
        at = self._time(frame)
        if at is None:
            return
        pts = round(at * VIDEO_TIME_BASE.denominator)
        if pts <= self._last_video:
            return
        self._last_video = pts
        rate = stream.average_rate if isinstance(stream, av.VideoStream) else None
        self._end = max(self._end, at + float(1 / (rate or Fraction(30))))
        frame.pts, frame.time_base = pts, VIDEO_TIME_BASE
        # A file's own key frames must not become key frames of the encoder that sends it.
        frame.pict_type = 0
        yield Decoded("video", at, frame)

    def _audio(self, frame: av.AudioFrame) -> Iterator[Decoded]:
        at, length = self._time(frame), frame.samples / frame.sample_rate
        pcm = self._converter.convert(frame)
        self._place_audio(at)
        self._pcm += pcm
        if at is not None:
            self._end = max(self._end, at + length)
        while len(self._pcm) >= FRAME_BYTES:
            yield self._audio_frame()

    def _place_audio(self, at: float | None) -> None:
        """Move the next sample onto its timestamp when it is off by more than `GAP`. Time never goes back."""
        start = 0 if at is None else round(at * RATE)
        if self._next_sample is None:
            self._next_sample = start
            return
        ahead = start - (self._next_sample + len(self._pcm) // 4)
        if at is not None and ahead > GAP * RATE:
            self._next_sample += ahead

    def _last_audio(self) -> Iterator[Decoded]:
        self._pcm += self._converter.drain()
        if self._pcm and self._next_sample is not None:
            self._pcm += bytes(-len(self._pcm) % FRAME_BYTES)
            while self._pcm:
                yield self._audio_frame()

    def _audio_frame(self) -> Decoded:
        assert self._next_sample is not None
        frame = pcm_frame(self._pcm[:FRAME_BYTES], self._next_sample)
        del self._pcm[:FRAME_BYTES]
        at = self._next_sample / RATE
        self._next_sample += FRAME_SAMPLES
        return Decoded("audio", at, frame)


def _start(stream: av.stream.Stream) -> float | None:
    if stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)


def _seconds(first: Packet, last: Packet) -> float:
    """Return the time from one packet of a stream to another, 0 if it is not known."""
    if first.dts is None or last.dts is None or last.time_base is None:
        return 0.0
    return float((last.dts - first.dts) * last.time_base)
