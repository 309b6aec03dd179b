"""Reading what a peer sends."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import av
from aiortc.mediastreams import MediaStreamError


async def iter_frames(track: Any) -> AsyncIterator[av.AudioFrame | av.VideoFrame]:
    """Yield the track's frames until it ends.

    Never stops the track: leaving the loop, cancelling it or closing the generator only stops reading. A
    track has one reader at a time; give a second one its own relay.
    """
    while True:
        try:
            frame = await track.recv()
        except MediaStreamError:
            return
        yield frame
