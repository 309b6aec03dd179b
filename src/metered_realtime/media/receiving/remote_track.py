"""A track of a remote, bounded: what nobody reads is not decoded, and what is read does not pile up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakSet

from aiortc.mediastreams import MediaStreamTrack

from ...core.media.picture_limit import PictureLimit
from ...core.media.sender_clock import SenderClock
from ..codecs.encoded import EncodedFrame
from .frame_decoder import FrameDecoder
from .key_frames import KeyFrameRequests
from .mailbox import Tally
from .readers import MAX_WAITING_AUDIO, MAX_WAITING_VIDEO, DecodedTrack, EncodedTrack

__all__ = ["MAX_WAITING_AUDIO", "MAX_WAITING_VIDEO", "RemoteTrack"]

LINGER = 1.0
"""Seconds between looks for readers: after the last one is gone decoding stops within two of them. Whoever comes back
sooner needs no key frame."""

RECV_PAUSE = 5.0
"""Seconds after which a program that has called `recv` of the track itself counts as gone. It may be busy with a frame;
longer than this, what waits for it is old."""


class Upstream(Protocol):
    """What a track asks of its receiver."""

    def request_key_frame(self) -> bool:
        """Send a request for a key frame. False if there is nobody yet to send it to."""

    def set_wanted(self, wanted: bool) -> None:
        """Say whether frames are wanted. As long as they are not, they need only be counted."""


class RemoteTrack(MediaStreamTrack):
    """A track that a remote sends. `id` is the id that the sender gave it.

    Nothing is decoded before the first read, and then once for all readers. `recv()` serves one reader, or several that
    share the frames; `decoded()` gives a reader of its own that gets every frame, `encoded()` one that gets what the
    remote has encoded. A reader that is too slow drops its own: `frames_dropped` counts them.

    Pictures of more than `max_picture_pixels` are dropped before they are decoded, recorded or sent on, together with
    the pictures that depend on them. `pictures_refused` counts them, `PictureRefused` tells of the first one.

    The track ends when the remote stops sending it, leaves, or the connection is replaced; `recv()` then raises
    `MediaStreamError`.
    """

    def __init__(
        self,
        kind: str,
        track_id: str,
        *,
        upstream: Upstream | None = None,
        sender_clock: SenderClock | None = None,
    ) -> None:
        super().__init__()
        self.kind = kind
        self._id = track_id
        self.sender_clock = sender_clock if sender_clock is not None else SenderClock()
        """The clock of the sender over the time of the track, which is that of its packets and frames."""
        self.frames_received = 0
        self.frames_decoded = 0
        self.frames_unread = 0
        self.drops = Tally()
        self.on_refused: Callable[[RemoteTrack, int, int, int], None] | None = None
        """Called for the first picture that is too large, with its size and how many pixels it may have."""
        self._limit = PictureLimit()
        self._has_told_refused = False
        self._codec: Any = None
        self._upstream: Upstream = upstream if upstream is not None else _NoUpstream()
        self._is_wanted = False
        self._requests = KeyFrameRequests(self._upstream.request_key_frame)
        self._frame_readers: WeakSet[DecodedTrack] = WeakSet()
        self._packet_readers: WeakSet[EncodedTrack] = WeakSet()
        self._shared: DecodedTrack | None = None
        self._shared_at = 0.0  # when it was last read
        self._decoder: FrameDecoder | None = None
        self._look: asyncio.TimerHandle | None = None

    @property
    def codec(self) -> str | None:
        """The MIME type of what arrived last, `video/VP8` for instance. None before the first packet."""
        return self._codec.mimeType if self._codec is not None else None

    @property
    def is_decoding(self) -> bool:
        """Whether there is a decoder: while somebody reads frames, and a moment longer."""
        return self._decoder is not None

    @property
    def max_picture_pixels(self) -> int:
        """Pixels that a picture may have, 4096x4096 unless it is set. Decoded ones have 1.5 bytes each."""
        return self._limit.most

    @max_picture_pixels.setter
    def max_picture_pixels(self, pixels: int) -> None:
        if not isinstance(pixels, int) or isinstance(pixels, bool) or pixels < 1:
            raise ValueError(f"max_picture_pixels is a number of pixels, 1 or more, not {pixels!r}")
        self._limit.most = pixels
        if self._limit.refused:
            self.request_key_frame()

    @property
    def pictures_refused(self) -> int:
        """Pictures that were too large, and those after them up to a key frame that is not. All are among
        `frames_dropped`."""
        return self._limit.refused

    @property
    def frames_dropped(self) -> int:
        """Frames that were given up: `frames_unread`, those that came before a key frame, were broken or too large, and
        those that a reader was too slow for, once for each."""
        return self.frames_unread + self.drops.count

    @property
    def queue_length(self) -> int:
        """Decoded frames that wait for a reader; for the slowest one if there are several."""
        return max((it.queue_length for it in self._frame_readers), default=0)

    async def recv(self) -> Any:
        """Return the next frame as an `av.VideoFrame` or `av.AudioFrame`.

        Several readers share the frames, each getting some. Cancelling loses no frame.

        Raises:
            MediaStreamError: the track has ended.
        """
        loop = asyncio.get_running_loop()
        if self._shared is None:
            self._shared = DecodedTrack(self)
        self._shared_at = loop.time()
        try:
            return await self._shared.recv()
        finally:
            self._shared_at = loop.time()

    def decoded(self) -> DecodedTrack:
        """Return a reader of its own for the frames, from its first `recv()` on. Stop it when done."""
        return DecodedTrack(self)

    def encoded(self) -> EncodedTrack:
        """Return a reader of the encoded packets, from its first `recv()` on. Stop it when done."""
        return EncodedTrack(self)

    def request_key_frame(self) -> None:
        """Ask the remote for a key frame, now or as soon as the last request is half a second old.

        Does nothing while nobody reads.
        """
        if self.kind == "video" and self.readyState == "live" and self._update_wanted():
            self._requests.ask()

    def stop(self) -> None:
        """End the track at this end: readers get what waits for them and then the end, later frames are not kept."""
        super().stop()
        for reader in (*self._frame_readers, *self._packet_readers):
            reader.end()
        self._packet_readers.clear()
        self._stop_decoding()
        self._requests.stop()

    # --- what arrives

    def feed(self, frame: EncodedFrame) -> None:
        """Take an encoded frame."""
        if self.readyState != "live":
            return
        self.frames_received += 1
        self._codec = frame.codec
        if frame.is_key:
            self._requests.arrived()
        if not self._update_wanted():
            self.frames_unread += 1
            return
        if self.kind == "video" and not self._limit.passes(frame.codec.mimeType, frame.data, is_key=frame.is_key):
            self._refuse()
            return
        for reader in tuple(self._packet_readers):
            reader.take(frame)
        if self._decoder is not None:
            self._decoder.submit(frame)

    def _refuse(self) -> None:
        self.drops.add()
        if self._limit.largest is not None and not self._has_told_refused:
            self._has_told_refused = True
            if self.on_refused is not None:
                self.on_refused(self, *self._limit.largest, self._limit.most)

    def count_unread(self, frames: int) -> None:
        """Count frames that came while none was wanted."""
        if self.readyState == "live":
            self.frames_received += frames
            self.frames_unread += frames

    def note_codec(self, codec: Any) -> None:
        """Take note of what the remote sends while nobody reads it."""
        self._codec = codec

    def picture_lost(self) -> None:
        """Take note that a part of the video did not arrive. Without readers nobody misses it."""
        self.request_key_frame()

    def _update_wanted(self) -> bool:
        """Tell the receiver, if that has changed, whether anybody reads. Packet readers may just be forgotten."""
        wanted = self._decoder is not None or bool(self._packet_readers)
        if wanted != self._is_wanted:
            self._is_wanted = wanted
            self._upstream.set_wanted(wanted)
            if not wanted:
                self._requests.stop()
        return wanted

    # --- readers

    def add_frame_reader(self, reader: DecodedTrack) -> None:
        """Deliver frames to a reader, and decode if that was not done yet."""
        if self.readyState != "live":
            reader.end()
            return
        self._frame_readers.add(reader)
        if self._decoder is None:
            self._decoder = FrameDecoder(self.kind, self._deliver, self.request_key_frame, self.drops)
            self._look_later()
            self._update_wanted()
            self.request_key_frame()

    def add_packet_reader(self, reader: EncodedTrack) -> None:
        """Deliver packets to a reader."""
        if self.readyState != "live":
            reader.end()
            return
        self._packet_readers.add(reader)
        self._update_wanted()
        self.request_key_frame()

    def remove_frame_reader(self, reader: DecodedTrack) -> None:
        """Deliver nothing more to a reader."""
        self._frame_readers.discard(reader)
        self._update_wanted()

    def remove_packet_reader(self, reader: EncodedTrack) -> None:
        """Deliver nothing more to a reader."""
        self._packet_readers.discard(reader)
        self._update_wanted()

    def _deliver(self, frames: list[Any]) -> None:
        self.frames_decoded += len(frames)
        for reader in tuple(self._frame_readers):
            for frame in frames:
                reader.take(frame)

    def _look_later(self) -> None:
        self._look = asyncio.get_running_loop().call_later(LINGER, self._look_for_readers)

    def _look_for_readers(self) -> None:
        """Stop decoding when nobody is left who reads frames. Readers that were just forgotten are gone, too."""
        shared = self._shared
        idle = asyncio.get_running_loop().time() - self._shared_at
        if shared is not None and not shared.is_awaited and idle > RECV_PAUSE:
            shared.stop()
            self._shared = None
        if self._frame_readers:
            self._look_later()
        else:
            self._stop_decoding()

    def _stop_decoding(self) -> None:
        if self._look is not None:
            self._look.cancel()
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.close()
        self._update_wanted()


class _NoUpstream:
    """Stands for the receiver of a track that has none."""

    def request_key_frame(self) -> bool:
        return False

    def set_wanted(self, wanted: bool) -> None:
        """Do nothing."""
