"""Transforming pictures of a file as a player shows them: rotated, mirrored, and with square pixels."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import av
from av.filter import Graph
from av.sidedata.sidedata import Type

from ..codecs.pictures import MAX_SIDE
from .stream_choice import MAX_PIXELS

_Turn = tuple[str, ...]
"""FFmpeg filters, with their arguments after a "="."""

_TURNS: dict[tuple[bool, bool, bool], _Turn] = {
    (False, False, False): (),
    (False, True, False): ("hflip",),
    (False, False, True): ("vflip",),
    (False, True, True): ("hflip", "vflip"),
    (True, False, False): ("transpose=cclock_flip",),
    (True, True, False): ("transpose=clock",),
    (True, False, True): ("transpose=cclock",),
    (True, True, True): ("transpose=clock_flip",),
}
"""Filters by whether the sides are swapped, and whether the result is mirrored horizontally and vertically."""


def turn_of(frame: av.VideoFrame) -> _Turn:
    """Return the filters that make a frame upright by its display matrix. Angles are rounded to quarter turns."""
    sides: Any = frame.side_data  # a mapping by type that is declared as one by name
    data = sides.get(Type.DISPLAYMATRIX)
    if data is None:
        return ()
    matrix = memoryview(bytes(data)).cast("i")
    # Points (x, y) are shown at (ax + cy, bx + dy); y points down.
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _TURNS[True, c < 0, b < 0]
    return _TURNS[False, a < 0, d < 0]


def stretched(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Return the size of a picture with square pixels. One side grows; sizes beyond the limits are scaled down."""
    if not aspect or aspect < 0 or aspect == 1:
        return width, height
    wide, high = (width * float(aspect), float(height)) if aspect > 1 else (float(width), height / float(aspect))
    scale = min(1.0, MAX_SIDE / wide, MAX_SIDE / high, math.sqrt(MAX_PIXELS / (wide * high)))
    wide, high = (max(2, round(side * scale) & ~1) for side in (wide, high))
    return wide, high


class Upright:
    """Makes the frames of a stream upright. `aspect` is that of its pixels, None if unknown."""

    def __init__(self, aspect: Fraction | None) -> None:
        self._aspect = aspect
        self._built: tuple[tuple[object, ...], Graph] | None = None

    def show(self, frame: av.VideoFrame) -> av.VideoFrame:
        """Return the frame as it is shown: itself if nothing changes."""
        size, turn = stretched(frame.width, frame.height, self._aspect), turn_of(frame)
        if not turn and size == (frame.width, frame.height):
            return frame
        key = (frame.width, frame.height, frame.format.name, frame.color_range, frame.colorspace, turn)
        if self._built is None or self._built[0] != key:
            self._built = key, _graph(frame, size, turn)
        graph = self._built[1]
        graph.vpush(frame)
        return graph.vpull()


def is_upright(frame: av.VideoFrame, aspect: Fraction | None) -> bool:
    """Return whether a frame is shown unchanged."""
    return not turn_of(frame) and stretched(frame.width, frame.height, aspect) == (frame.width, frame.height)


def _graph(frame: av.VideoFrame, size: tuple[int, int], turn: _Turn) -> Graph:
    graph = Graph()
    source = (
        f"video_size={frame.width}x{frame.height}:pix_fmt={frame.format.name}:time_base=1/90000"
        f":range={frame.color_range}:colorspace={frame.colorspace}"
    )
    nodes = [graph.add("buffer", source)]
    if size != (frame.width, frame.height):
        nodes.append(graph.add("scale", f"{size[0]}:{size[1]}"))
    for step in turn:
        name, _, arguments = step.partition("=")
        nodes.append(graph.add(name, arguments or None))
    graph.link_nodes(*nodes, graph.add("buffersink")).configure()
    return graph
