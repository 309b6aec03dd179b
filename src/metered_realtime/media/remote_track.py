"""A track of a remote, bounded: what nobody reads does not pile up."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

MAX_WAITING_VIDEO = 4
"""Decoded pictures that wait for a reader. A slow reader gets the newest, so its delay stays under 4 frames."""

MAX_WAITING_AUDIO = 50
"""Decoded audio frames that wait for a reader: one second at 20 ms each."""


class RemoteTrack(MediaStreamTrack):
    """A track that a remote sends. `id` is the id that the sender gave it.

    When frames come faster than they are read, the oldest are dropped and `frames_dropped` counts them. The track ends
    when the remote stops sending it, leaves, or the connection is replaced; `recv()` then raises `MediaStreamError`.
    """

    def __init__(self, kind: str, track_id: str) -> None:
        super().__init__()
        self.kind = kind
        self._id = track_id
        self.frames_received = 0
        self.frames_dropped = 0
        self._frames: deque[Any] = deque(maxlen=MAX_WAITING_VIDEO if kind == "video" else MAX_WAITING_AUDIO)
        self._readers: deque[asyncio.Future[None]] = deque()

    async def recv(self) -> Any:
        """Return the next frame as an `av.VideoFrame` or `av.AudioFrame`.

        Several readers share the frames, each getting some. Cancelling loses no frame.

        Raises:
            MediaStreamError: the track has ended.
        """
        while not self._frames:
            if self.readyState != "live":
                raise MediaStreamError
            reader = asyncio.get_running_loop().create_future()
            self._readers.append(reader)
            try:
                await reader
            except asyncio.CancelledError:
                if reader.done() and not reader.cancelled():
                    self._wake_one()
                raise
        return self._frames.popleft()

    def stop(self) -> None:
        """End the track at this end: readers are released, later frames are not kept."""
        super().stop()
        while self._readers:
            self._wake_one()

    def feed(self, frame: Any) -> None:
        """Take a decoded frame."""
        if self.readyState != "live":
            return
        self.frames_received += 1
        if len(self._frames) == self._frames.maxlen:
            self.frames_dropped += 1
        self._frames.append(frame)
        self._wake_one()

    def _wake_one(self) -> None:
        while self._readers:
            reader = self._readers.popleft()
            if not reader.done():
                reader.set_result(None)
                return
