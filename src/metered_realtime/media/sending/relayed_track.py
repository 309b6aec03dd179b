"""A track that passes the packets of another one on as they are, and outlives it: its source may be switched."""

from __future__ import annotations

import asyncio
from typing import Any
from weakref import WeakSet

from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from ...core.media.key_frame_answers import KeyFrameAnswers
from ...core.media.relay_sync import RelayedClock, RelaySync
from ..receiving.readers import EncodedTrack
from ..receiving.remote_track import RemoteTrack


class RelayedTrack(MediaStreamTrack):
    """The packets of a `RemoteTrack` without transcoding, for any number of connections, through one fan-out.

    `group` holds the tracks of its sender, with which it stays in sync by the sender's reports: its pictures may have
    been longer on their way than its sound. `expected` is the MIME type of its first packets, if known. With
    `reads_ahead` it is read from the first use on, whether or not somebody receives it, so that the pictures since the
    last key frame are there for the first receiver: an encoder that makes key frames rarely, and not on request, would
    leave it waiting.
    """

    def __init__(
        self,
        kind: str,
        track_id: str,
        *,
        group: RelaySync | None = None,
        expected: str | None = None,
        reads_ahead: bool = False,
    ) -> None:
        super().__init__()
        self.kind = kind
        self.reads_ahead = reads_ahead
        self.group = group if group is not None else RelaySync()
        self._id = track_id
        self._source: RemoteTrack | None = None
        self._expected = expected
        self._flowing = asyncio.Event()
        self._readers: WeakSet[RelayReader] = WeakSet()

    @property
    def codec(self) -> str | None:
        """The MIME type of what the source receives, before its first packet the one that was expected."""
        return (self._source.codec if self._source is not None else None) or self._expected

    async def wait_flowing(self) -> None:
        """Return once a packet of the current source has been read."""
        await self._flowing.wait()

    def note_packet(self) -> None:
        """Handle a packet being read."""
        self._flowing.set()

    @property
    def source(self) -> RemoteTrack | None:
        """The track that is passed on."""
        return self._source

    def switch(self, source: RemoteTrack | None) -> None:
        """Pass another track on, beginning with its next key frame, or none."""
        if source is not self._source:
            self._source = source
            self._flowing.clear()
            for reader in tuple(self._readers):
                reader.switch(source)

    def encoded(self) -> RelayReader:
        """Return an independent reader of the packets. Stop it when done."""
        reader = RelayReader(self)
        self._readers.add(reader)
        return reader

    async def recv(self) -> Any:
        """Raise: a relayed track is read through `encoded`, as fan-outs do."""
        raise MediaStreamError

    def stop(self) -> None:
        """End this track. Its source continues."""
        super().stop()
        for reader in tuple(self._readers):
            reader.stop()


class RelayReader(MediaStreamTrack):
    """Reads the packets of whatever a `RelayedTrack` passes on."""

    def __init__(self, track: RelayedTrack) -> None:
        super().__init__()
        self.kind = track.kind
        self._track = track
        self._reader: EncodedTrack | None = None
        self._synced: RelayedClock | None = None
        self._answers = KeyFrameAnswers()
        self._changed = asyncio.Event()
        self.switch(track.source)
        if track.readyState != "live":
            self.stop()

    @property
    def codec(self) -> str | None:
        """The MIME type of the last packet."""
        return (self._reader.codec if self._reader is not None else None) or self._track.codec

    @property
    def keeps_pictures(self) -> bool:
        """Whether new receivers need what came since the last key frame, because none comes on request."""
        return self._answers.answers is not True

    @property
    def correction(self) -> float:
        """Seconds by which frames belong later than they arrive, to be in sync with the sender's other tracks."""
        return self._synced.correction if self._synced is not None else 0.0

    def request_key_frame(self) -> None:
        """Request a key frame from the source."""
        if self._reader is not None:
            self._answers.asked(asyncio.get_running_loop().time())
            self._reader.request_key_frame()

    async def recv(self) -> Any:
        """Return the next packet of the current source. Waits while there is none.

        Raises:
            MediaStreamError: the relayed track, or this reader, was stopped.
        """
        while self.readyState == "live":
            reader = self._reader
            if reader is None:
                self._changed.clear()
                await self._changed.wait()
                continue
            try:
                packet = await reader.recv()
            except MediaStreamError:
                if self._reader is reader:
                    self._reader = None
                continue
            self._note(packet)
            return packet
        raise MediaStreamError

    def switch(self, source: RemoteTrack | None) -> None:
        """Read another source, or none."""
        if self._reader is not None:
            self._reader.stop()  # wakes its `recv`
        if self._synced is not None:
            self._synced.leave()
        is_live = source is not None and self.readyState == "live"
        self._synced = (
            self._track.group.join(self.kind, source.sender_clock) if source is not None and is_live else None
        )
        self._answers = KeyFrameAnswers()
        self._reader = source.encoded() if source is not None and is_live else None
        self._changed.set()

    def stop(self) -> None:
        """Stop reading. The relayed track continues."""
        super().stop()
        self.switch(None)

    def _note(self, packet: Any) -> None:
        now = asyncio.get_running_loop().time()
        self._track.note_packet()
        if self._synced is not None:
            self._synced.note_frame(float(packet.pts * packet.time_base), now)
        if self.kind == "video" and self._answers.picture(now, is_key=packet.is_keyframe):
            self.request_key_frame()
