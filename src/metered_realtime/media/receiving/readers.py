"""The readers of a remote track. Each has a queue of its own, and drops its own frames when it is too slow."""

from __future__ import annotations

from abc import abstractmethod
from fractions import Fraction
from typing import Any, Protocol

import av
from aiortc.mediastreams import MediaStreamTrack

from ..codecs.encoded import EncodedFrame
from .mailbox import Mailbox, Tally
from .waiting import room_for

MAX_WAITING_VIDEO = 4
"""Decoded pictures that wait for a reader, enough for a burst. A reader further behind skips to the newest."""

MAX_WAITING_AUDIO = 50
"""Decoded audio frames that wait for a reader: one second at 20 ms each."""

MAX_WAITING_PACKETS = {"video": 90, "audio": 50}
"""Encoded frames that wait for a reader: 3 s of video, enough for a slow disk, and 1 s of audio."""


class ReadableTrack(Protocol):
    """What readers need of the track that they read: `RemoteTrack`."""

    kind: str
    drops: Tally

    @property
    def id(self) -> str:
        """The id that the sender gave the track."""

    @property
    def readyState(self) -> str:
        """`live` or `ended`."""

    @property
    def codec(self) -> str | None:
        """The MIME type of the last packet that arrived."""

    def add_frame_reader(self, reader: DecodedTrack) -> None:
        """Deliver decoded frames to a reader."""

    def remove_frame_reader(self, reader: DecodedTrack) -> None:
        """Deliver nothing more to a reader."""

    def add_packet_reader(self, reader: EncodedTrack) -> None:
        """Deliver encoded frames to a reader."""

    def remove_packet_reader(self, reader: EncodedTrack) -> None:
        """Deliver nothing more to a reader."""

    def request_key_frame(self) -> None:
        """Request a key frame from the remote."""


class _TrackReader(MediaStreamTrack):
    """A reader of a remote track. It starts with the first `recv`, and ends with the track or `stop`."""

    def __init__(self, track: ReadableTrack, limit: int, *, newest: bool = False) -> None:
        super().__init__()
        self.kind = track.kind
        self._id = track.id
        self._track = track
        self._drops = Tally(track.drops)
        self._mailbox: Mailbox[Any] = Mailbox(limit, self._drops, newest=newest)
        self._started = False
        if track.readyState != "live":
            self.end()

    @property
    def frames_dropped(self) -> int:
        """Frames that this reader was too slow for, and packets before the first key frame."""
        return self._drops.count

    @property
    def queue_length(self) -> int:
        """Frames that wait to be read."""
        return len(self._mailbox)

    @property
    def is_awaited(self) -> bool:
        """Whether a call of `recv` is waiting."""
        return self._mailbox.is_awaited

    def end(self) -> None:
        """End with the track. Queued frames can still be read."""
        self._mailbox.end()
        super().stop()

    def stop(self) -> None:
        """Stop reading. The remote track continues."""
        self._mailbox.clear()
        self.end()
        self._leave_track()

    @abstractmethod
    def _leave_track(self) -> None: ...


class DecodedTrack(_TrackReader):
    """The decoded frames of a remote track, from the next key frame on.

    The readers of a track share the frame objects: copy a frame before changing it.
    """

    def __init__(self, track: ReadableTrack) -> None:
        is_video = track.kind == "video"
        limit = MAX_WAITING_VIDEO if is_video else MAX_WAITING_AUDIO
        super().__init__(track, limit, newest=is_video)

    async def recv(self) -> av.AudioFrame | av.VideoFrame:
        """Return the next frame as an `av.VideoFrame` or `av.AudioFrame`. Cancellation loses no frame.

        Raises:
            MediaStreamError: the track has ended, or `stop` was called.
        """
        if not self._started and self.readyState == "live":
            self._started = True
            self._track.add_frame_reader(self)
        frame: av.AudioFrame | av.VideoFrame = await self._mailbox.get()
        return frame

    def push_frame(self, frame: Any) -> None:
        """Queue a decoded frame."""
        self._mailbox.put(frame, room_for(frame, MAX_WAITING_AUDIO))

    def _leave_track(self) -> None:
        self._track.remove_frame_reader(self)


class EncodedTrack(_TrackReader):
    """The packets of a remote track as the remote encoded them, from a key frame on, to forward or write to a file.

    H.264 is an Annex B stream with its parameter sets before each key frame. A reader that is too slow continues with
    the next key frame.
    """

    def __init__(self, track: ReadableTrack) -> None:
        super().__init__(track, MAX_WAITING_PACKETS[track.kind])
        self._waits_for_key = track.kind == "video"
        self._codec: str | None = None

    @property
    def codec(self) -> str | None:
        """The MIME type of the packet that `recv` returned last, `video/VP8` for instance.

        Before that, the type of what the track receives; None before its first packet.
        """
        return self._codec if self._codec is not None else self._track.codec

    async def recv(self) -> av.Packet[Any]:
        """Return the next packet, with `pts` and `dts` in the clock of the codec. It belongs to the caller.

        The first video packet is a key frame. Cancellation loses no packet.

        Raises:
            MediaStreamError: the track has ended, or `stop` was called.
        """
        if not self._started and self.readyState == "live":
            self._started = True
            self._track.add_packet_reader(self)
        elif self._waits_for_key and not self._mailbox:
            self.request_key_frame()
        frame: EncodedFrame = await self._mailbox.get()
        self._codec = frame.codec.mimeType
        return _packet(frame)

    def request_key_frame(self) -> None:
        """Request a key frame from the remote, now or as soon as the last request is half a second old."""
        self._track.request_key_frame()

    def push_frame(self, frame: EncodedFrame) -> None:
        """Queue an encoded frame. Video is dropped until a key frame after the queue was full."""
        if self.kind == "video" and self._mailbox.is_full:
            self._mailbox.clear()
            self._waits_for_key = True
        if self._waits_for_key and not frame.is_key:
            self._drops.add()
            if self.is_awaited:
                self.request_key_frame()
            return
        self._waits_for_key = False
        self._mailbox.put(frame)

    def _leave_track(self) -> None:
        self._track.remove_packet_reader(self)


def _packet(frame: EncodedFrame) -> av.Packet[Any]:
    packet: av.Packet[Any] = av.Packet(frame.data)
    packet.pts = packet.dts = frame.timestamp
    packet.time_base = Fraction(1, frame.codec.clockRate)
    packet.is_keyframe = frame.is_key
    return packet
