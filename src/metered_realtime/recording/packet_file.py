"""Writing encoded media to a file as it arrives, so that it can be played at any time. Blocking; belongs to one thread.

The file has a stream of sound, always Opus, and one of pictures if any arrive in the first second. What does not fit a
file that has begun (first pictures, another codec, other H.264 parameters) goes into the next file, whose name has a
number, as far as `MIN_PART` and `MAX_PARTS` allow. VP8 may change its picture size within a file.
"""

from __future__ import annotations

import io
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any

import av
from av.container import OutputContainer

from ..core.media.coded_media import OPUS_RATE, OPUS_SILENCE, h264_parameters, opus_samples, vp8_size
from ..core.media.recording_names import numbered
from ..media.codecs.available import require_encoder
from ..media.codecs.pictures import mark_as_sent

CODECS = {
    "mp4": {"video/h264", "audio/opus"},
    "webm": {"video/vp8", "audio/opus"},
    "matroska": {"video/vp8", "video/h264", "audio/opus"},
}
"""The codecs that each format can hold, as MIME types in lower case."""

VIDEO_CLOCK = 90_000

HEADER_WAIT = 1.0
"""Seconds that a file waits for pictures, when there is no video track, before it begins without a stream for them."""

VIDEO_WAIT = 5.0
"""Seconds that it waits when there is a video track: a lost key frame is requested again after 0.5, 1 and 2 s."""

FLUSH = 500
"""Milliseconds of media between writes to the disk, which a crash may lose."""

MIN_PART = 1.0
"""Seconds from the start of one file to that of the next: a sender that changes its codec with every picture would
otherwise cause a file for each."""

QUICK_PARTS = 3
"""Files that may begin sooner: pictures may start right after sound, and adapt within the first second."""

MAX_PARTS = 500
"""Files of one recording at most. A sender that changes its H.264 every few minutes does not reach this in a day."""

SILENCE_LAG = 0.5
"""Seconds by which sound in an MP4 may be behind the pictures before silence is inserted: it may only be late."""

_FLUSH_OPTIONS = {
    # A delayed moov, written with the first fragment, keeps the offsets of tracks that do not begin together. An empty
    # moov would move all tracks to the beginning.
    "mp4": {"movflags": "frag_keyframe+delay_moov+default_base_moof", "frag_duration": str(FLUSH * 1_000)},
    "matroska": {"cluster_time_limit": str(FLUSH)},
}
_COMMON_OPTIONS = {
    "flush_packets": "1",
    # By default the muxer waits 10 s for a track that pauses, and a crash would lose them.
    "max_interleave_delta": str(FLUSH * 1_000),
}


@dataclass(frozen=True, slots=True)
class Unit:
    """An encoded picture or audio packet, and its second of the recording."""

    kind: str
    codec: str  # the MIME type in lower case
    data: bytes
    at: float
    is_key: bool


@dataclass(slots=True)
class _FileStream:
    av_stream: Any
    base: int
    last: int = -1  # the last pts
    end: float = 0.0  # end of the written media, in seconds of the file


class PacketFile:
    """Writes units to `path`, and to further files where one cannot continue.

    Set `expects_video` when there is a video track. `wants_key` is whether pictures are dropped until a key frame.
    `changes_refused` counts key frames that needed another file too early, or one too many: pictures are then dropped
    up to a key frame that fits, and sound continues.
    """

    def __init__(self, path: Path, format: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.path = path
        self.format = format
        self.files: list[Path] = []
        self.written = {"audio": 0, "video": 0}
        self.left_out = 0
        self.changes_refused = 0
        self.gaps = 0
        self.bytes_written = 0
        self.first: float | None = None  # second of the recording
        self.last = 0.0
        self.wants_key = False
        self.expects_video = False
        self._clock = clock
        self._began_at = -inf
        self._container: OutputContainer | None = None
        self._streams: dict[str, _FileStream] = {}
        self._origin = 0.0
        self._picture_at = -inf
        self._pending: list[Unit] = []
        self._key: Unit | None = None
        self._key_lost = False
        self._is_refused_for_good = False

    def write(self, unit: Unit) -> None:
        """Write a unit. Those of one kind come in order; a picture that would precede the last one is placed after it,
        because later pictures depend on both.

        Raises:
            OSError: the disk failed.
        """
        if unit.kind == "video" and not self._admits(unit):
            self.left_out += 1
            return
        if unit.kind == "video":
            if unit.at <= self._picture_at:
                unit = replace(unit, at=self._picture_at + 1 / VIDEO_CLOCK)
            self._picture_at = unit.at
        if self._container is not None:
            self._mux(unit)
            return
        self._pending.append(unit)
        if self._is_complete():
            self._begin()

    def close(self) -> None:
        """Write what is pending and finish the file."""
        if self._container is None and self._pending:
            self._begin()
        self._end()

    def skip_to_key(self) -> None:
        """Drop pictures until the next key frame, because one was lost. May be called from any thread."""
        self._key_lost = True

    # --- the choice of the file

    def _admits(self, unit: Unit) -> bool:
        """Return whether a picture can be decoded from the file. Begins another file if necessary."""
        if unit.is_key:
            self._take_key(unit)
        key = self._key
        is_admitted = key is not None and key.codec == unit.codec and not self._key_lost
        self.wants_key = not is_admitted and not self._is_refused_for_good
        return is_admitted

    def _take_key(self, key: Unit) -> None:
        if self._has_place_for(key):
            self._key, self._key_lost, self._is_refused_for_good = key, False, False
            return
        self.changes_refused += 1
        self._key_lost = True  # later pictures depend on this one
        self._is_refused_for_good = not self._has_parts_left

    def _has_place_for(self, key: Unit) -> bool:
        """Return whether a key frame fits the file or may begin another one. The file is then finished."""
        has_pictures = any(unit.kind == "video" for unit in self._pending)
        if (self._container is None and not has_pictures) or self._fits(key):
            return True
        if not self._has_parts_left or self._is_too_early:
            return False
        if self._container is None:
            self._begin()
        self._end()
        return True

    @property
    def _has_parts_left(self) -> bool:
        return len(self.files) < MAX_PARTS

    @property
    def _is_too_early(self) -> bool:
        return len(self.files) >= QUICK_PARTS and self._clock() - self._began_at < MIN_PART

    def _fits(self, key: Unit) -> bool:
        has_pictures = "video" in self._streams or self._container is None
        if not has_pictures or self._key is None or self._key.codec != key.codec:
            return False
        return key.codec != "video/h264" or h264_parameters(self._key.data) == h264_parameters(key.data)

    def _is_complete(self) -> bool:
        kinds = {unit.kind for unit in self._pending}
        if "video" in kinds and ("audio" in kinds or self.files):
            return True
        times = [unit.at for unit in self._pending]
        wait = VIDEO_WAIT if self.expects_video and "video" not in kinds else HEADER_WAIT
        return max(times) - min(times) > wait

    # --- the container

    def _begin(self) -> None:
        pending, self._pending = sorted(self._pending, key=lambda unit: unit.at), []
        path = self.path.with_name(numbered(self.path.name, len(self.files) + 1))
        options = _COMMON_OPTIONS | _FLUSH_OPTIONS["mp4" if self.format == "mp4" else "matroska"]
        self._container = container = av.open(str(path), "w", format=self.format, options=options)
        self.files.append(path)
        self._began_at = self._clock()
        self._origin = pending[0].at
        key = next((unit for unit in pending if unit.kind == "video"), None)
        if key is not None:
            self._streams["video"] = _FileStream(_picture_stream(container, key), VIDEO_CLOCK)
        self._streams["audio"] = _FileStream(_sound_stream(container), OPUS_RATE)
        for unit in pending:
            self._mux(unit)

    def _end(self) -> None:
        container, self._container = self._container, None
        self._streams = {}
        if container is not None:
            container.close()

    def _mux(self, unit: Unit) -> None:
        at = max(0.0, unit.at - self._origin)
        stream = self._streams[unit.kind]
        if self.format == "mp4":
            self._fill(at if unit.kind == "audio" else at - SILENCE_LAG)
        length = opus_samples(unit.data) / OPUS_RATE if unit.kind == "audio" else 0.0
        if length and at + length / 2 < stream.end:
            self.left_out += 1  # its place is taken: it is a duplicate, or came long after silence was inserted
            return
        if length and self.written["audio"] and at - stream.end > length / 2:
            self.gaps += 1
        self._put(stream, unit.data, at, unit.is_key, length)
        self.written[unit.kind] += 1
        self.first = unit.at if self.first is None else self.first
        self.last = max(self.last, unit.at)

    def _fill(self, until: float) -> None:
        """Fill gaps in the sound of an MP4 with silence: players of MP4 do not support gaps."""
        stream = self._streams["audio"]
        length = opus_samples(OPUS_SILENCE) / OPUS_RATE
        while until - stream.end >= length:
            self._put(stream, OPUS_SILENCE, stream.end, True, length)

    def _put(self, stream: _FileStream, data: bytes, at: float, is_key: bool, length: float = 0.0) -> None:
        assert self._container is not None
        packet: av.Packet[Any] = av.Packet(data)
        stream.last = packet.pts = packet.dts = max(stream.last + 1, round(at * stream.base))
        packet.time_base = Fraction(1, stream.base)
        packet.duration = round(length * stream.base)
        packet.is_keyframe = is_key
        packet.stream = stream.av_stream
        self._container.mux_one(packet)
        stream.end = stream.last / stream.base + length
        self.bytes_written += len(data)


def _sound_stream(container: OutputContainer) -> Any:
    stream: Any = container.add_stream(require_encoder(("libopus",)), rate=OPUS_RATE)
    stream.codec_context.layout = "stereo"
    return stream


def _picture_stream(container: OutputContainer, key: Unit) -> Any:
    """Add a stream with the parameters of a key frame, as FFmpeg reads them."""
    if key.codec == "video/vp8":
        data, format = _ivf(key.data), "ivf"
    else:
        data, format = key.data, "h264"
    with av.open(io.BytesIO(data), format=format) as source:
        stream: Any = container.add_stream_from_template(source.streams.video[0])
    if key.codec == "video/vp8":
        mark_as_sent(stream.codec_context)  # H.264 has them in its parameter sets
    return stream


def _ivf(key_frame: bytes) -> bytes:
    header = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, b"VP80", *vp8_size(key_frame), VIDEO_CLOCK, 1, 1, 0)
    return header + struct.pack("<IQ", len(key_frame), 0) + key_frame
