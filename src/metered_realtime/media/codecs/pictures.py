"""Converting pictures for encoders: arrays of bytes or frames of any format in, even-sized yuv420p out.

Arrays are read through the buffer protocol, so that numpy is neither needed nor imported.
"""

from __future__ import annotations

from typing import Any

import av
from av.video.reformatter import ColorRange

FULL_RANGE = int(ColorRange.JPEG)
LIMITED_RANGE = int(ColorRange.MPEG)

BT601 = 6
"""AVColorSpace of SMPTE 170M: the matrix of BT.601."""

_OTHER_MATRICES = {1, 4, 7, 9, 10}
"""AVColorSpace of BT.709, FCC, SMPTE 240M and both of BT.2020."""

CHANNELS = {"rgb24": 3, "bgr24": 3}
"""Bytes per pixel of the formats of three-dimensional arrays. A two-dimensional array is grey."""

MIN_SIDE, MAX_SIDE = 2, 16_383
"""Pixels of a side: yuv420p halves both sides, and VP8 stores them in 14 bits (RFC 6386 section 9.1)."""


def to_yuv420p(picture: Any, format: str, width: int | None, height: int | None) -> av.VideoFrame:
    """Return the picture as a new frame, scaled to `width` and `height` where they are given.

    The last row or column of an odd-sized array is cut off; an odd-sized frame is scaled by that one pixel. The picture
    itself is neither changed nor kept.

    Raises:
        TypeError: it is neither a frame nor an array.
        ValueError: its shape, type or size is not supported.
    """
    frame = picture if isinstance(picture, av.VideoFrame) else _from_array(picture, format)
    _check_sides(frame.width, frame.height)
    size = width or frame.width & ~1, height or frame.height & ~1
    sent = as_sent(frame, *size)
    return copied(sent) if sent is frame else sent


def as_sent(frame: av.VideoFrame, width: int, height: int) -> av.VideoFrame:
    """Return the picture in yuv420p at this size, in the colours that receivers assume: BT.601 in limited range.

    VP8 has no others (RFC 6386 section 9.2). A frame without colour information counts as BT.601 in limited range. The
    frame itself is returned if it already complies, and is never changed.
    """
    changes: dict[str, Any] = {}
    if frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj"):
        changes["dst_color_range"] = LIMITED_RANGE
    if frame.colorspace in _OTHER_MATRICES:
        changes["dst_colorspace"] = "ITU601"
    return frame.reformat(width=width, height=height, format="yuv420p", **changes)


def mark_as_sent(context: Any) -> None:
    """Make an encoder write the colour information into its stream, as far as the format has it."""
    context.color_range, context.colorspace = LIMITED_RANGE, BT601


def copied(frame: av.VideoFrame) -> av.VideoFrame:
    """Return a copy of a yuv420p frame, without a timestamp."""
    copy = av.VideoFrame(frame.width, frame.height, frame.format.name)
    for source, target in zip(frame.planes, copy.planes, strict=True):
        if source.line_size == target.line_size and source.buffer_size == target.buffer_size:
            memoryview(target)[:] = memoryview(source)
        else:
            _copy_rows(memoryview(source), source.line_size, target, target.width)
    return copy


def _from_array(picture: Any, format: str) -> av.VideoFrame:
    try:
        view = memoryview(picture)
    except TypeError:
        raise TypeError(
            f"push takes an array of bytes or an av.VideoFrame, not {type(picture).__name__!r}; "
            "numpy.asarray() makes an array of most pictures"
        ) from None
    if view.format != "B":
        raise ValueError(f"a picture must be an array of uint8, not of {getattr(picture, 'dtype', view.format)}")
    shape = view.shape or ()
    if len(shape) == 2:
        format, channels = "gray", 1
    else:
        channels = CHANNELS[format]
        if len(shape) != 3 or shape[2] != channels:
            wanted = f"(height, width, {channels}) for {format} or (height, width) for grey"
            raise ValueError(f"a picture must have the shape {wanted}, not {shape}")
    height, width = shape[:2]
    _check_sides(width, height)
    frame = av.VideoFrame(width & ~1, height & ~1, format)
    pixels = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
    _copy_rows(pixels, width * channels, frame.planes[0], frame.width * channels)
    return frame


def _copy_rows(source: memoryview, stride: int, plane: av.video.plane.VideoPlane, length: int) -> None:
    target, line = memoryview(plane), plane.line_size
    if stride == line == length:
        target[: line * plane.height] = source[: line * plane.height]
        return
    for row in range(plane.height):
        target[row * line : row * line + length] = source[row * stride : row * stride + length]


def _check_sides(width: int, height: int) -> None:
    for name, side in (("wide", width), ("high", height)):
        if not MIN_SIDE <= side <= MAX_SIDE:
            raise ValueError(f"a picture must be from {MIN_SIDE} to {MAX_SIDE} pixels {name}, not {side}")
