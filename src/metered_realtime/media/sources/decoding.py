"""Reading a file, stream or device as frames ready to send. Blocking and unpaced: the player paces."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from aiortc.mediastreams import VIDEO_TIME_BASE
from av.container import InputContainer

from ..codecs.audio_line import MAX_FIX, AudioLine
from ..codecs.pcm import FRAME_SECONDS, RATE, TIME_BASE
from .held_packets import HeldPackets
from .pass_start import TOLERANCE, PassStart
from .passthrough import Packet, Passthrough
from .stream_choice import Kind, chosen_streams
from .upright import Upright

__all__ = ["Decoded", "FrameReader", "Kind", "Wanted"]

Wanted = Callable[[], Collection[str]]

MAX_SOUND = 10.0
"""Seconds of one audio frame at most. A file may declare one sample per second, each of which would become 48,000."""

RETRY_AFTER = 0.01
"""Seconds until a device without data (EAGAIN) is read again: FFmpeg offers nothing to wait for."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A frame and its place on the player's time line, in seconds from the start. It never goes back.

    With a `Passthrough` it is a packet; `key` is whether decoding can begin with it.
    """

    kind: Kind
    time: float
    frame: av.AudioFrame | av.VideoFrame | Packet
    key: bool = True


class FrameReader:
    """Decodes the audio and the video stream of a container that a player would play.

    Audio is 48 kHz stereo s16 with 20 ms per frame; video is upright, with `pts` in 1/90000 s. With `loop` the time
    line continues where the file starts over, for sound and picture at the same place. Unwanted kinds are not decoded.
    Each pass begins `start` seconds into the file. The kinds in `passed` are not decoded at all; if video is among
    them, a pass begins at the key frame before `start`. The time line begins at `offset`. `read` holds packets that
    were read from the container before.

    Raises:
        av.FFmpegError: the container cannot be moved to `start`.
    """

    def __init__(
        self,
        container: InputContainer,
        *,
        loop: bool = False,
        start: float = 0.0,
        passed: dict[Kind, Passthrough] | None = None,
        offset: float = 0.0,
        read: Sequence[Packet] = (),
    ) -> None:
        chosen = chosen_streams(container)
        video: Any = chosen.get("video")
        self.has_audio = "audio" in chosen
        self.has_video = video is not None
        self.passed: dict[Kind, Passthrough] = passed or {}
        self.reopened = 0  # a container is opened once
        self.errors = 0  # packets that could not be decoded
        self.ended = False  # nothing is left to read; packets may still be held
        self._container = container
        self._streams = list(chosen.values())
        self._upright = Upright(video.sample_aspect_ratio if video is not None else None)
        self._loop = loop
        starts = [_start(stream) for stream in self._streams]
        self._base: float | None = min((start for start in starts if start is not None), default=None)
        self._offset = offset  # where this pass begins
        self._end = offset  # where it ends, as far as known
        self._wait_for_key = True
        self._held: dict[Kind, HeldPackets] = {"audio": HeldPackets(), "video": HeldPackets()}
        self._last: dict[Kind, int] = {"audio": -1, "video": -1}  # newest pts, except of audio frames
        self._audio = AudioLine()
        self._from = start  # where each pass begins, in seconds of the file
        self._read = [] if start else list(read)
        self._passes = PassStart(container, video)
        if start:
            self._base = self._base or 0.0
            key = self._passes.find(self._base, start)
            if key is not None and "video" in self.passed:
                self._from = max(0.0, key)  # packets cannot begin anywhere else

    @property
    def position(self) -> float:
        """The end of what has been placed on the time line, in seconds."""
        return max(self._end, self._audio.position)

    def close(self) -> None:
        """Close the container. Must not be called while `frames` runs."""
        self._container.close()

    def frames(self, wanted: Wanted) -> Iterator[Decoded]:
        """Yield frames until the end, or until `wanted` returns no kind. Only wanted kinds are decoded.

        In the latter case another call continues from there.

        Raises:
            av.FFmpegError: the source failed.
        """
        while True:
            before = self._end
            yield from self._one_pass(wanted)
            yield from self._release(wanted())
            if not wanted():
                return
            self._audio.end_pass()
            if not self._loop or self._end <= before:
                yield from self._audio_frames(last=True)
                self.ended = True
                return
            self._start_over()

    def holds(self, kind: Kind) -> bool:
        """Return whether packets are held for a late reader of this kind."""
        return bool(self._held[kind])

    def _start_over(self) -> None:
        self._passes.seek()
        self._offset, self._wait_for_key = self._end, True
        for held in self._held.values():
            held.clear()
        for passthrough in self.passed.values():
            passthrough.rewind()

    def _one_pass(self, wanted: Wanted) -> Iterator[Decoded]:
        packets = self._packets()
        while kinds := wanted():
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.BlockingIOError:
                time.sleep(RETRY_AFTER)
                packets = self._packets()
                continue
            self._passes.note_packet(packet)
            if packet.stream.type in kinds:
                yield from self._release(kinds)
                yield from self._take(packet)
            else:
                self._held[_kind(packet)].add(packet)

    def _packets(self) -> Iterator[Packet]:
        while self._read:
            yield self._read.pop(0)
        yield from self._container.demux(*self._streams)

    def _release(self, kinds: Collection[str]) -> Iterator[Decoded]:
        """Decode held packets of kinds that are now wanted."""
        for kind, held in self._held.items():
            while kind in kinds and held:
                yield from self._take(held.pop())

    def _take(self, packet: Packet) -> Iterator[Decoded]:
        if _kind(packet) == "video" and packet.size:
            if self._wait_for_key and not packet.is_keyframe:
                return
            self._wait_for_key = False
        if _kind(packet) in self.passed:
            yield from self._pass_on(packet)
        else:
            yield from self._decode(packet)

    def _pass_on(self, packet: Packet) -> Iterator[Decoded]:
        kind = _kind(packet)
        base = VIDEO_TIME_BASE if kind == "video" else TIME_BASE
        for unit in self.passed[kind].packets(packet):
            at = self._place_of(unit, packet.stream)
            if at is None:
                continue
            length = (
                float(unit.duration * unit.time_base) if unit.duration and unit.time_base else _length(packet.stream)
            )
            pts = max(self._last[kind] + 1, round(at * base.denominator))
            self._last[kind], self._end = pts, max(self._end, at + length)
            key = kind == "audio" or unit.is_keyframe
            unit.pts, unit.dts, unit.time_base = pts, pts, base
            yield Decoded(kind, at, unit, key)

    def _decode(self, packet: Packet) -> Iterator[Decoded]:
        try:
            frames = packet.decode()
        except av.FFmpegError:  # what follows a broken packet or a picture that is too large may still be shown
            self.errors += 1
            return
        for frame in frames:
            if isinstance(frame, av.VideoFrame):
                yield from self._video(frame, packet.stream)
            elif isinstance(frame, av.AudioFrame):
                yield from self._sound(frame)

    def _video(self, frame: av.VideoFrame, stream: av.stream.Stream) -> Iterator[Decoded]:
        at = self._place_of(frame, stream)
        if at is None:
            return
        pts = round(at * VIDEO_TIME_BASE.denominator)
        if pts <= self._last["video"]:
            return
        self._last["video"] = pts
        self._end = max(self._end, at + _length(stream))
        frame = self._upright.show(frame)
        frame.pts, frame.time_base = pts, VIDEO_TIME_BASE
        # Key frames of the file must not force key frames of the encoder.
        frame.pict_type = 0
        yield Decoded("video", at, frame)

    def _sound(self, frame: av.AudioFrame) -> Iterator[Decoded]:
        if frame.samples > MAX_SOUND * frame.sample_rate:
            self.errors += 1
            return
        since = self._since_start(frame)
        if since is not None and not self._from and since < -MAX_FIX:
            since = 0.0  # not the preroll of a decoder, but a clock that was set back
        at = None if since is None else self._offset + since
        try:
            self._audio.add_frame(frame, at, begins=self._offset)
        except (av.FFmpegError, ValueError):  # channels that cannot be mixed, samples that are not finite
            self.errors += 1
            return
        if at is not None:
            self._end = max(self._end, at + frame.samples / frame.sample_rate)
        yield from self._audio_frames()

    def _audio_frames(self, *, last: bool = False) -> Iterator[Decoded]:
        for frame in self._audio.frames(last=last):
            assert frame.pts is not None
            yield Decoded("audio", frame.pts / RATE, frame)

    def _place_of(self, unit: av.VideoFrame | Packet, stream: av.stream.Stream) -> float | None:
        """Return the place on the time line, None if it is before the start of the pass."""
        if unit.pts is None:
            return self._following(stream)
        since = self._since_start(unit)
        if since is None or (self._from and since < -TOLERANCE):
            return None
        return self._offset + max(0.0, since)

    def _following(self, stream: av.stream.Stream) -> float:
        """Return the place of a unit without a time: raw H.264 has none, and continues at its frame rate."""
        last, base = (
            (self._last["video"], VIDEO_TIME_BASE) if stream.type == "video" else (self._last["audio"], TIME_BASE)
        )
        return self._offset if last < 0 else max(self._offset, float(last * base) + _length(stream))

    def _since_start(self, unit: av.AudioFrame | av.VideoFrame | Packet) -> float | None:
        if unit.pts is None or unit.time_base is None:
            return None
        at = float(unit.pts * unit.time_base)
        if self._base is None:
            self._base = at
        return at - self._base - self._from


def _kind(packet: Packet) -> Kind:
    return "video" if packet.stream.type == "video" else "audio"


def _length(stream: av.stream.Stream) -> float:
    """Return the duration of a picture or audio packet without one, in seconds."""
    if isinstance(stream, av.VideoStream):
        return float(1 / (stream.average_rate or Fraction(30)))
    return float(FRAME_SECONDS)


def _start(stream: av.stream.Stream) -> float | None:
    if stream.start_time is None or stream.time_base is None:
        return None
    return float(stream.start_time * stream.time_base)
