"""Bounding queued frames by their size in bytes: a large picture has a thousand times that of a small one."""

from __future__ import annotations

from typing import Any

import av

MAX_WAITING_BYTES = 128 * 1024 * 1024
"""Bytes of decoded frames in one queue: 3 s of pictures at 720p, or five pictures of 16 million pixels."""


def size_of(unit: Any) -> int:
    """Return the size of a frame or packet in bytes."""
    if isinstance(unit, av.AudioFrame | av.VideoFrame):
        return sum(plane.buffer_size for plane in unit.planes)
    return int(unit.size)


def room_for(frame: Any, most: int) -> int:
    """Return how many frames of this size may wait: `most`, or fewer if they exceed `MAX_WAITING_BYTES`; at least 1."""
    return max(1, min(most, MAX_WAITING_BYTES // max(1, size_of(frame))))
