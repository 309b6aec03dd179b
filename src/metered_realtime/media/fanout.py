"""One reader for each local track, one forward track for each remote that receives it.

A local track is pulled by a single task, and only while somebody receives it. Every remote has a `ForwardTrack` of its
own, which lives as long as the sender that reads it: its source can be switched at any time, also to nothing. aiortc
ends a sender for good when its track ends, so a forward track whose source ends just falls silent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from ..log import Logger

MAX_WAITING_VIDEO = 2
"""Frames that wait for a slow video encoder. Late pictures are worthless: the newest win."""

MAX_WAITING_AUDIO = 25
"""Frames that wait for a slow audio encoder: half a second at 20 ms each."""


class ForwardTrack(MediaStreamTrack):
    """What one remote is sent in place of a local track. `recv()` waits while there is no source."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.frames_dropped = 0
        self._source: TrackFanout | None = None
        self._reading = False
        self._frames: deque[Any] = deque(maxlen=MAX_WAITING_VIDEO if kind == "video" else MAX_WAITING_AUDIO)
        self._arrived = asyncio.Event()

    def switch(self, source: TrackFanout | None) -> None:
        """Take frames from another source, or from none, starting with its next frame.

        Nothing is pulled before the first `recv()`: a file does not play to a connection that is still being made.
        """
        if source is self._source:
            return
        if self._source is not None:
            self._source._remove(self)
        self._source = source
        self._frames.clear()
        if source is not None and self._reading and self.readyState == "live":
            source._add(self)

    async def recv(self) -> Any:
        """Return the next frame.

        Raises:
            MediaStreamError: the sender that owns this track was stopped.
        """
        if not self._reading:
            self._reading = True
            if self._source is not None and self.readyState == "live":
                self._source._add(self)
        while not self._frames:
            if self.readyState != "live":
                raise MediaStreamError
            self._arrived.clear()
            await self._arrived.wait()
        return self._frames.popleft()

    def stop(self) -> None:
        """End this forward track. The local track goes on."""
        self.switch(None)
        super().stop()
        self._arrived.set()

    def _feed(self, frame: Any) -> None:
        if len(self._frames) == self._frames.maxlen:
            self.frames_dropped += 1
        self._frames.append(frame)
        self._arrived.set()


class TrackFanout:
    """Pulls one local track while there are forward tracks, and hands each frame to all of them."""

    def __init__(self, track: MediaStreamTrack, logger: Logger) -> None:
        self.track = track
        self._logger = logger
        self._forwards: list[ForwardTrack] = []
        self._reader: asyncio.Task[None] | None = None

    def _add(self, forward: ForwardTrack) -> None:
        self._forwards.append(forward)
        if self._reader is None or self._reader.done():
            self._reader = asyncio.ensure_future(self._read())

    def _remove(self, forward: ForwardTrack) -> None:
        if forward in self._forwards:
            self._forwards.remove(forward)
        if not self._forwards and self._reader is not None:
            self._reader.cancel()
            self._reader = None

    async def close(self) -> None:
        """Stop pulling. The local track belongs to the caller and stays as it is."""
        reader, self._reader = self._reader, None
        for forward in tuple(self._forwards):
            forward.switch(None)
        if reader is not None:
            reader.cancel()
            await asyncio.wait([reader])

    async def _read(self) -> None:
        try:
            while True:
                frame = await self.track.recv()
                for forward in self._forwards:
                    forward._feed(frame)
                await asyncio.sleep(0)  # a track that never waits must not keep everybody else from running
        except MediaStreamError:
            self._logger.debug("local track ended", {"track": self.track.id})
        except Exception as error:
            self._logger.error(
                "local track failed", {"track": self.track.id, "error": f"{type(error).__name__}: {error}"}
            )
