"""A file that encoded media is written to as it comes, playable at any moment. Blocking; belongs to one thread.

The file has a lane for sound, always Opus, and one for pictures if there are any in the first second. What a file
cannot take once it has begun (pictures after all, another codec, other H.264 parameters) goes into the next one, whose
name has a number, as far as `MIN_PART` and `MAX_PARTS` allow. Pictures of VP8 may change their size in one file.
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
"""What each format takes as it comes, by MIME types in lower case."""

VIDEO_CLOCK = 90_000

HEADER_WAIT = 1.0
"""Seconds that a file waits for pictures of which nothing is known before it is one without."""

VIDEO_WAIT = 5.0
"""Seconds that it waits for those of a track that is there: key frames get lost, and are asked for after 0.5, 1 and
2 s."""

FLUSH = 500
"""Milliseconds of media after which it is written to the disk: what a crash costs."""

MIN_PART = 1.0
"""Seconds from the beginning of one file to that of the next: a sender that changes its codec with each picture would
cost a file, and opening and finishing it, for each of them."""

QUICK_PARTS = 3
"""Files that may begin sooner: pictures may come right after sound has begun, and adapt in the first second."""

MAX_PARTS = 500
"""Files of one recording. A sender that adapts its H.264 every few minutes does not reach it in a day."""

SILENCE_LAG = 0.5
"""Seconds that sound may be behind the pictures of an MP4 before silence is put there: it may only be late."""

_FLUSH_OPTIONS = {
    # A delayed moov, written with the first fragment, keeps the places of tracks that do not begin together. An empty
    # one moves them all to the beginning.
    "mp4": {"movflags": "frag_keyframe+delay_moov+default_base_moof", "frag_duration": str(FLUSH * 1_000)},
    "matroska": {"cluster_time_limit": str(FLUSH)},
}
_COMMON_OPTIONS = {
    "flush_packets": "1",
    # The muxer would wait 10 s for a track that pauses, and a crash would cost so much.
    "max_interleave_delta": str(FLUSH * 1_000),
}


@dataclass(frozen=True, slots=True)
class Unit:
    """An encoded picture, or packet of sound, and the second of the recording at which it belongs."""

    kind: str
    codec: str  # the MIME type in lower case
    data: bytes
    at: float
    is_key: bool


@dataclass(slots=True)
class _Lane:
    stream: Any
    base: int
    last: int = -1  # the last pts
    end: float = 0.0  # where what was written ends, in seconds of the file


class PacketFile:
    """Write units to `path`, or to several files of which it is the first.

    Set `expects_video` when there is a video track. `wants_key` is True while pictures are left out for want of a key
    frame. `changes_refused` counts key frames that needed another file too early, or one too many: pictures are left
    out from there to one that a file may take, sound goes on.
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
        self._lanes: dict[str, _Lane] = {}
        self._origin = 0.0
        self._picture_at = -inf
        self._pending: list[Unit] = []
        self._key: Unit | None = None
        self._key_lost = False
        self._is_refused_for_good = False

    def write(self, unit: Unit) -> None:
        """Take a unit; those of one kind come in order. A picture that would be before the last one is put behind it:
        others build on both.

        Raises:
            OSError: The disk failed.
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
        """Write what is left and finish the file."""
        if self._container is None and self._pending:
            self._begin()
        self._end()

    def skip_to_key(self) -> None:
        """Leave out pictures until the next key frame: one was lost on its way here. May be called from any thread."""
        self._key_lost = True

    # --- what goes into which file

    def _admits(self, unit: Unit) -> bool:
        """Return whether a picture can be decoded with what is in the file, beginning another file if it has to be."""
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
        self._key_lost = True  # what follows builds on this picture
        self._is_refused_for_good = not self._has_parts_left

    def _has_place_for(self, key: Unit) -> bool:
        """Return whether the file takes a key frame, or another one may begin: the file is finished then."""
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
        has_pictures = "video" in self._lanes or self._container is None
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
            self._lanes["video"] = _Lane(_picture_stream(container, key), VIDEO_CLOCK)
        self._lanes["audio"] = _Lane(_sound_stream(container), OPUS_RATE)
        for unit in pending:
            self._mux(unit)

    def _end(self) -> None:
        container, self._container = self._container, None
        self._lanes = {}
        if container is not None:
            container.close()

    def _mux(self, unit: Unit) -> None:
        at = max(0.0, unit.at - self._origin)
        lane = self._lanes[unit.kind]
        if self.format == "mp4":
            self._fill(at if unit.kind == "audio" else at - SILENCE_LAG)
        length = opus_samples(unit.data) / OPUS_RATE if unit.kind == "audio" else 0.0
        if length and at + length / 2 < lane.end:
            self.left_out += 1  # its place is taken: it came twice, or long after silence was put there
            return
        if length and self.written["audio"] and at - lane.end > length / 2:
            self.gaps += 1
        self._put(lane, unit.data, at, unit.is_key, length)
        self.written[unit.kind] += 1
        self.first = unit.at if self.first is None else self.first
        self.last = max(self.last, unit.at)

    def _fill(self, until: float) -> None:
        """Put silence where an MP4 has no sound: its players know no holes."""
        lane = self._lanes["audio"]
        length = opus_samples(OPUS_SILENCE) / OPUS_RATE
        while until - lane.end >= length:
            self._put(lane, OPUS_SILENCE, lane.end, True, length)

    def _put(self, lane: _Lane, data: bytes, at: float, is_key: bool, length: float = 0.0) -> None:
        assert self._container is not None
        packet: av.Packet[Any] = av.Packet(data)
        lane.last = packet.pts = packet.dts = max(lane.last + 1, round(at * lane.base))
        packet.time_base = Fraction(1, lane.base)
        packet.duration = round(length * lane.base)
        packet.is_keyframe = is_key
        packet.stream = lane.stream
        self._container.mux_one(packet)
        lane.end = lane.last / lane.base + length
        self.bytes_written += len(data)


def _sound_stream(container: OutputContainer) -> Any:
    stream: Any = container.add_stream(require_encoder(("libopus",)), rate=OPUS_RATE)
    stream.codec_context.layout = "stereo"
    return stream


def _picture_stream(container: OutputContainer, key: Unit) -> Any:
    """Add a stream with the parameters that a key frame has, as FFmpeg reads them from a file of it."""
    if key.codec == "video/vp8":
        data, format = _ivf(key.data), "ivf"
    else:
        data, format = key.data, "h264"
    with av.open(io.BytesIO(data), format=format) as source:
        stream: Any = container.add_stream_from_template(source.streams.video[0])
    if key.codec == "video/vp8":
        mark_as_sent(stream.codec_context)  # of H.264 the parameter sets say it
    return stream


def _ivf(key_frame: bytes) -> bytes:
    header = struct.pack("<4sHH4sHHIIII", b"DKIF", 0, 32, b"VP80", *vp8_size(key_frame), VIDEO_CLOCK, 1, 1, 0)
    return header + struct.pack("<IQ", len(key_frame), 0) + key_frame
