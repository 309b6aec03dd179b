"""Bounding waiting frames by their bytes: a large picture has a thousand times those of a small one."""

from __future__ import annotations

from typing import Any

import av

MAX_WAITING_BYTES = 128 * 1024 * 1024
"""Bytes of decoded frames that wait in one place: 3 s of pictures at 720p, five pictures of 16 million pixels."""


def size_of(unit: Any) -> int:
    """Return the bytes of a frame or a packet."""
    if isinstance(unit, av.AudioFrame | av.VideoFrame):
        return sum(plane.buffer_size for plane in unit.planes)
    return int(unit.size)


def room_for(frame: Any, most: int) -> int:
    """Return how many frames of this size may wait: at most `most`, and as many as `MAX_WAITING_BYTES` hold."""
    return max(1, min(most, MAX_WAITING_BYTES // max(1, size_of(frame))))
