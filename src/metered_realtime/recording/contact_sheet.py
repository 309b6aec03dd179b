"""A contact sheet: an overview of a stream of any length in one picture."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import av
from av import VideoFrame

MAX_CELLS = 400
MAX_WIDTH = 1920
MAX_SHAPE = 4
"""Height of a cell at most, in widths. A first picture of one by thousands of pixels would make huge cells."""

SPARE = 2
"""Thumbnails kept per cell: after thinning out, there are still enough for a full sheet."""


class ContactSheet:
    """Collects thumbnails spread evenly over a stream of unknown length, and writes them as a grid.

    `width` is the width of one cell in pixels; its height follows the first frame's aspect ratio, up to four times the
    width, and frames of another shape are fitted into it. Memory is bounded by `2 * columns * rows` thumbnails: when
    there are that many, every second one is dropped, and from then on half as many frames are taken.

    Raises:
        ValueError: there are no cells or more than 400, or the width is outside 16 to 1920.
    """

    def __init__(self, columns: int = 4, rows: int = 3, width: int = 320) -> None:
        if columns < 1 or rows < 1 or columns * rows > MAX_CELLS:
            raise ValueError(f"a sheet must have from 1 to {MAX_CELLS} cells, not {columns!r} by {rows!r}")
        if not 16 <= width <= MAX_WIDTH:
            raise ValueError(f"width must be from 16 to {MAX_WIDTH} pixels, not {width!r}")
        self.columns, self.rows, self.width = columns, rows, width
        self.frames_seen = 0
        self._height = 0
        self._stride = 1
        self._kept: list[VideoFrame] = []

    @property
    def frames_kept(self) -> int:
        """The number of thumbnails."""
        return len(self._kept)

    def add(self, frame: VideoFrame) -> None:
        """Add the next frame of the stream. If it is used it is copied and scaled; it is never changed.

        Raises:
            TypeError: `frame` is not a video frame.
        """
        if not isinstance(frame, VideoFrame):
            raise TypeError(f"a contact sheet takes an av.VideoFrame, not {frame!r}")
        if self.frames_seen % self._stride == 0:
            self._keep(frame)
        self.frames_seen += 1

    def write_png(self, path: str | os.PathLike[str]) -> Path:
        """Write the sheet as a PNG and return its path. Empty cells are black.

        Raises:
            ValueError: no frame has been added.
        """
        shown = self._shown()
        if not shown:
            raise ValueError("a contact sheet needs at least one frame")
        rows = -(-len(shown) // self.columns)
        sheet = VideoFrame(self.columns * self.width, rows * self._height, "rgb24")
        pixels, stride = memoryview(sheet.planes[0]), sheet.planes[0].line_size
        pixels[:] = bytes(len(pixels))
        for index, thumbnail in enumerate(shown):
            row, column = divmod(index, self.columns)
            left = column * self.width + (self.width - thumbnail.width) // 2
            top = row * self._height + (self._height - thumbnail.height) // 2
            _paste(thumbnail, pixels, stride, left, top)
        target = Path(path)
        target.write_bytes(_png(sheet))
        return target

    def _keep(self, frame: VideoFrame) -> None:
        if not self._kept:
            self._height = max(2, min(MAX_SHAPE * self.width, round(self.width * frame.height / frame.width)))
        if len(self._kept) == SPARE * self.columns * self.rows:
            del self._kept[1::2]
            self._stride *= 2
            if self.frames_seen % self._stride:
                return
        scale = min(self.width / frame.width, self._height / frame.height)
        width, height = max(1, round(frame.width * scale)), max(1, round(frame.height * scale))
        self._kept.append(frame.reformat(width=width, height=height, format="rgb24"))

    def _shown(self) -> list[VideoFrame]:
        """Return the thumbnails to show: the first, the last, and evenly spaced ones between them."""
        cells, last = self.columns * self.rows, len(self._kept) - 1
        if last < cells:
            return list(self._kept)
        if cells == 1:
            return [self._kept[last // 2]]
        return [self._kept[index * last // (cells - 1)] for index in range(cells)]


def _paste(thumbnail: VideoFrame, pixels: memoryview, stride: int, left: int, top: int) -> None:
    source, line = memoryview(thumbnail.planes[0]), thumbnail.planes[0].line_size
    length = 3 * thumbnail.width
    for y in range(thumbnail.height):
        start = (top + y) * stride + 3 * left
        pixels[start : start + length] = source[y * line : y * line + length]


def _png(frame: VideoFrame) -> bytes:
    encoder = av.CodecContext.create("png", "w")
    assert isinstance(encoder, av.VideoCodecContext)
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, "rgb24"
    encoder.framerate = Fraction(1)
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    return b"".join(bytes(packet) for packet in packets)
