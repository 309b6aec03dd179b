"""Encoding each track into a part file, and joining the parts at the end. Blocking; belongs to one thread.

Neither MP4 nor Matroska accepts a new track once the file has begun, and tracks come and go. So each track is encoded
into a part of its own (NUT, which keeps any time base and can be read even if truncated), with timestamps on the common
time line of the recording. `join` copies the parts into the final file without encoding again.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.filter import Graph

from ..media.codecs.available import AUDIO_ENCODERS, H264_ENCODERS, encoder_options, require_encoder
from ..media.codecs.pcm import FRAME_BYTES, RATE, SAMPLE_BYTES, PcmConverter, pcm_frame
from ..media.codecs.pictures import as_sent, mark_as_sent

VIDEO_CLOCK = 90_000
KEY_FRAME_SECONDS = 2  # between the places to which a player can seek
VIDEO_THREADS = 2  # encoder threads of one track; more would starve other work on a small machine

BIAS = 1
"""Seconds added to every timestamp in a part and subtracted by `join`.

Encoders put priming samples before time 0. A muxer shifts a file with negative timestamps, each part by its own amount,
and the tracks would lose sync.
"""

JITTER = 0.06
"""Seconds by which sound may be off without being moved: three packets."""

SILENCE_CHUNK = RATE * SAMPLE_BYTES  # one second, so that a long gap is not filled in one allocation


class AudioPart:
    """Encodes one audio track. Gaps become silence; overlapping sound is dropped."""

    kind = "audio"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames_written = 0
        self.frames_dropped = 0
        self._container = av.open(str(path), "w", format="nut")
        stream = self._container.add_stream(require_encoder(AUDIO_ENCODERS), rate=RATE)
        assert isinstance(stream, av.AudioStream)
        stream.codec_context.layout = "stereo"
        self._stream = stream
        self._converter = PcmConverter()
        self._pcm = bytearray()
        self._next: int | None = None  # the place of the next sample

    def write(self, frame: av.AudioFrame, at: float) -> None:
        """Add a frame that begins `at` seconds into the recording."""
        start = round(at * RATE)
        if self._next is None:
            self._next = start
        if start - self._next > JITTER * RATE:
            self._fill(start)
        elif self._next - start > JITTER * RATE:
            self.frames_dropped += 1
            return
        self._add(self._converter.convert(frame))
        self.frames_written += 1

    def close(self) -> None:
        """Write what is pending and finish the part."""
        try:
            if self._next is not None:
                self._add(self._converter.drain())
                self._encode(len(self._pcm))
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()

    def _fill(self, until: int) -> None:
        self._add(self._converter.drain())
        assert self._next is not None
        missing = (until - self._next) * SAMPLE_BYTES
        while missing > 0:
            chunk = min(missing, SILENCE_CHUNK)
            self._add(bytes(chunk))
            missing -= chunk

    def _add(self, pcm: bytes) -> None:
        assert self._next is not None
        self._pcm += pcm
        self._next += len(pcm) // SAMPLE_BYTES
        self._encode(len(self._pcm) - len(self._pcm) % FRAME_BYTES)

    def _encode(self, length: int) -> None:
        if not length:
            return
        assert self._next is not None
        first = self._next - len(self._pcm) // SAMPLE_BYTES
        frame = pcm_frame(self._pcm[:length], first + BIAS * RATE)
        del self._pcm[:length]
        self._container.mux(self._stream.encode(frame))


class VideoPart:
    """Encodes one video track at the size of its first frame. Others are fitted into it, with black bars."""

    kind = "video"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.frames_written = 0
        self.frames_dropped = 0
        self._container = av.open(str(path), "w", format="nut")
        self._stream: av.VideoStream | None = None
        self._fit: tuple[tuple[int, int, str], Graph] | None = None
        self._last = -1

    def write(self, frame: av.VideoFrame, at: float) -> None:
        """Add a frame that is shown from `at` seconds into the recording. The frame is not changed."""
        pts = round(at * VIDEO_CLOCK) + BIAS * VIDEO_CLOCK
        if pts <= self._last:
            self.frames_dropped += 1
            return
        self._last = pts
        if self._stream is None:
            self._stream = self._open(frame)
        fitted = self._fitted(as_sent(frame, frame.width, frame.height), self._stream)
        fitted.pts, fitted.time_base = pts, Fraction(1, VIDEO_CLOCK)
        fitted.pict_type = 0  # key frames of the sender must not force key frames here
        self._container.mux(self._stream.encode(fitted))
        self.frames_written += 1

    def close(self) -> None:
        """Write what is pending and finish the part."""
        try:
            if self._stream is not None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()

    def _open(self, frame: av.VideoFrame) -> av.VideoStream:
        name = require_encoder(H264_ENCODERS)
        stream = self._container.add_stream(name, rate=30, options=encoder_options(name))
        assert isinstance(stream, av.VideoStream)
        # 4:2:0 needs even sides.
        stream.width, stream.height = max(2, frame.width & ~1), max(2, frame.height & ~1)
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = _time_base(name)
        stream.codec_context.gop_size = KEY_FRAME_SECONDS * 30
        stream.codec_context.thread_count = VIDEO_THREADS
        mark_as_sent(stream.codec_context)
        return stream

    def _fitted(self, frame: av.VideoFrame, stream: av.VideoStream) -> av.VideoFrame:
        """Return the frame in the size and format of the recording, always as a new object."""
        shape = (frame.width, frame.height, frame.format.name)
        if self._fit is None or self._fit[0] != shape:
            self._fit = (shape, _fit_graph(frame, stream.width, stream.height))
        graph = self._fit[1]
        graph.vpush(frame)
        return graph.vpull()


Part = AudioPart | VideoPart


def join(parts: Sequence[Path], path: Path, format: str) -> None:
    """Copy the parts into one file of `format`, in the order of time. Parts without a track are skipped.

    Raises:
        ValueError: no part has a track.
        av.FFmpegError: a file cannot be read or written.
    """
    with ExitStack() as stack:
        sources = []
        for part in parts:
            try:
                source = stack.enter_context(av.open(str(part), "r"))
            except (av.InvalidDataError, av.EOFError, av.FileNotFoundError):
                continue  # it ended before its first frame
            if source.streams:
                sources.append(source)
        if not sources:
            raise ValueError("nothing was recorded")
        output = stack.enter_context(av.open(str(path), "w", format=format))
        streams = [output.add_stream_from_template(source.streams[0]) for source in sources]
        merged = heapq.merge(*(_packets(source, index) for index, source in enumerate(sources)), key=_order)
        for _, index, packet in merged:
            packet.stream = streams[index]
            output.mux_one(packet)


def _packets(source: InputContainer, index: int) -> Iterator[tuple[Fraction, int, Any]]:
    for packet in source.demux(source.streams[0]):
        if packet.dts is None or packet.pts is None:  # the end marker
            continue
        base = Fraction(packet.time_base)
        shift = round(BIAS / base)
        packet.pts -= shift
        packet.dts -= shift
        yield packet.dts * base, index, packet


def _order(item: tuple[Fraction, int, Any]) -> tuple[Fraction, int]:
    return item[:2]


def _time_base(encoder: str) -> Fraction:
    # MPEG-4 Part 2 counts time in 16 bits.
    return Fraction(1, 1000) if encoder == "mpeg4" else Fraction(1, VIDEO_CLOCK)


def _fit_graph(frame: av.VideoFrame, width: int, height: int) -> Graph:
    graph = Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, VIDEO_CLOCK)
    )
    nodes = [source]
    if (frame.width, frame.height) != (width, height):
        # Not "scale then pad": `force_original_aspect_ratio` may give odd sides, which `pad` then refuses.
        scale = min(width / frame.width, height / frame.height)
        inner = f"{max(2, int(frame.width * scale) & ~1)}:{max(2, int(frame.height * scale) & ~1)}"
        nodes += [graph.add("scale", inner), graph.add("pad", f"{width}:{height}:(ow-iw)/2:(oh-ih)/2")]
    nodes += [graph.add("format", "yuv420p"), graph.add("buffersink")]
    graph.link_nodes(*nodes).configure()
    return graph
