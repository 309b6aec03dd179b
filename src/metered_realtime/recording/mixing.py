"""Combining several pictures in one, and mixing sound. Blocking; belongs to one thread."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import av
from av.filter import Graph

from ..core.media.grid import Tile, fitted, tiles
from ..media.codecs.pcm import FRAME_BYTES, FRAME_SAMPLES, RATE, SAMPLE_BYTES, TIME_BASE, PcmConverter, pcm_frame
from ..media.codecs.pictures import as_sent

MAX_SHIFT = round(0.01 * RATE)
"""Samples by which sound may be off without being moved: half a packet, so that a missing packet leaves a gap at once.
Clock drift is followed in steps of this size."""

MAX_AHEAD = 10 * RATE
"""Samples of one source that wait at most: 10 s."""

LIMIT = 0.95
"""Level at which the limiter begins, relative to full scale, so that many voices do not clip."""

BLACK = (16, 128, 128)


class Grid:
    """A picture with one tile for each source."""

    def __init__(self, width: int, height: int) -> None:
        self._frames: dict[Hashable, av.VideoFrame] = {}
        self._canvas = av.VideoFrame(width, height, "yuv420p")
        self._tiles: dict[Hashable, Tile] = {}
        self._clear()

    @property
    def picture(self) -> av.VideoFrame:
        """The current picture. It changes with the next `show_picture`."""
        return self._canvas

    def show_picture(self, source: Hashable, frame: av.VideoFrame) -> None:
        """Show the next picture of a source in its tile. The frame is not changed."""
        before = self._frames.get(source)
        self._frames[source] = frame
        if before is None or (before.width, before.height) != (frame.width, frame.height):
            self._arrange()
        else:
            self._draw(source)

    def remove_source(self, source: Hashable) -> None:
        """Remove a source and share its tile among the others."""
        if self._frames.pop(source, None) is not None:
            self._arrange()

    def _arrange(self) -> None:
        self._clear()
        places = tiles(len(self._frames), self._canvas.width, self._canvas.height)
        self._tiles = dict(zip(self._frames, places, strict=True))
        for source in self._frames:
            self._draw(source)

    def _clear(self) -> None:
        for plane, value in zip(self._canvas.planes, BLACK, strict=True):
            plane.update(bytes([value]) * plane.buffer_size)

    def _draw(self, source: Hashable) -> None:
        frame = self._frames[source]
        place = fitted(self._tiles[source], frame.width, frame.height)
        small = as_sent(frame, place.width, place.height)
        for index, (target, plane) in enumerate(zip(self._canvas.planes, small.planes, strict=True)):
            _paste(target, plane, place, 1 if index == 0 else 2)


def reduced(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """Return the picture scaled down to this size at most: the frame itself if it fits."""
    if frame.width <= width and frame.height <= height:
        return frame
    place = fitted(Tile(0, 0, width, height), frame.width, frame.height)
    return as_sent(frame, place.width, place.height)


def _paste(target: Any, plane: Any, place: Tile, share: int) -> None:
    """Copy a plane of a small picture to its place. Chroma planes have half the resolution: `share` is 2."""
    to, source, width = memoryview(target), memoryview(plane), place.width // share
    start = place.top // share * target.line_size + place.left // share
    for row in range(place.height // share):
        at, from_ = start + row * target.line_size, row * plane.line_size
        to[at : at + width] = source[from_ : from_ + width]


class SoundLine:
    """The sound of one source, each sample in its place. Missing sound is silence."""

    def __init__(self) -> None:
        self._converter = PcmConverter()
        self._pcm = bytearray()
        self._start = 0  # the place of the first sample

    def add_frame(self, frame: av.AudioFrame, at: float) -> None:
        """Add a frame that begins at a second. A late frame is dropped."""
        pcm, place = self._converter.convert(frame), round(at * RATE)
        end = self._start + len(self._pcm) // SAMPLE_BYTES
        if not self._pcm:
            self._start = end = max(self._start, place)
        if place - end > MAX_SHIFT:
            self._pcm += bytes(min(place - end, MAX_AHEAD) * SAMPLE_BYTES)
        elif end - place > MAX_SHIFT:
            return
        if len(self._pcm) < MAX_AHEAD * SAMPLE_BYTES:
            self._pcm += pcm

    def take_frame(self, start: int) -> bytes:
        """Return the 20 ms that begin at a sample, and drop everything up to their end."""
        late = (start - self._start) * SAMPLE_BYTES
        if late > 0:
            del self._pcm[:late]
            self._start = start
        lead = min(FRAME_BYTES, max(0, self._start - start) * SAMPLE_BYTES) if self._pcm else 0
        sound = bytes(lead) + bytes(self._pcm[: FRAME_BYTES - lead])
        del self._pcm[: FRAME_BYTES - lead]
        self._start = max(self._start, start + FRAME_SAMPLES)
        return sound.ljust(FRAME_BYTES, b"\0")


class SoundMixer:
    """Mixes the sound of sources, 20 ms at a time, without clipping."""

    def __init__(self) -> None:
        self._lines: dict[Hashable, SoundLine] = {}
        self._graph: Graph | None = None
        self._inputs: list[Any] = []
        self._pcm = bytearray()
        self._next = 0

    def add_frame(self, source: Hashable, frame: av.AudioFrame, at: float) -> None:
        """Add a frame of a source that begins at a second."""
        if source not in self._lines:
            self._lines[source] = SoundLine()
            self._graph = None
        self._lines[source].add_frame(frame, at)

    def remove_source(self, source: Hashable) -> None:
        """Remove a source."""
        if self._lines.pop(source, None) is not None:
            self._graph = None

    def mix(self) -> av.AudioFrame:
        """Return the next 20 ms of all sources, mixed."""
        start, self._next = self._next, self._next + FRAME_SAMPLES
        if self._lines:
            self._sum([line.take_frame(start) for line in self._lines.values()], start)
        pcm = bytes(self._pcm[:FRAME_BYTES]).rjust(FRAME_BYTES, b"\0")
        del self._pcm[:FRAME_BYTES]
        return pcm_frame(pcm, start)

    def _sum(self, sounds: list[bytes], start: int) -> None:
        if self._graph is None:
            self._graph, self._inputs = _mixing_graph(len(sounds))
        for source, sound in zip(self._inputs, sounds, strict=True):
            source.push(pcm_frame(sound, start))
        while True:
            try:
                frame = self._graph.pull()
            except (av.BlockingIOError, av.EOFError):
                return
            assert isinstance(frame, av.AudioFrame)
            self._pcm += bytes(frame.planes[0])[: frame.samples * SAMPLE_BYTES]


def _mixing_graph(count: int) -> tuple[Graph, list[Any]]:
    graph = Graph()
    inputs = [
        graph.add_abuffer(sample_rate=RATE, format="s16", layout="stereo", time_base=TIME_BASE, name=f"in{index}")
        for index in range(count)
    ]
    last: Any = inputs[0]
    if count > 1:
        last = graph.add("amix", f"inputs={count}:normalize=0:dropout_transition=0")
        for index, source in enumerate(inputs):
            source.link_to(last, 0, index)
    # `latency` compensates the look-ahead of 5 ms, so that sound keeps its place.
    chain = [graph.add("alimiter", f"limit={LIMIT}:level=0:latency=1"), graph.add("aformat", "sample_fmts=s16")]
    for node in (*chain, graph.add("abuffersink")):
        last.link_to(node)
        last = node
    graph.configure()
    return graph, inputs
