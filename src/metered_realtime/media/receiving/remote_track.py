"""A track of a remote with bounded cost: without readers nothing is decoded, and slow readers drop frames."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol
from weakref import WeakSet

import av
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
"""Seconds between checks for readers: decoding stops within two of them after the last reader is gone. A reader that
comes back sooner needs no key frame."""

RECV_PAUSE = 5.0
"""Seconds after which a program that called `recv` of the track itself counts as gone. It may be busy with a frame, but
after this long what waits for it is out of date."""


class Upstream(Protocol):
    """What a track needs of its receiver."""

    def request_key_frame(self) -> bool:
        """Send a request for a key frame. Return whether it could be sent: before the first packet it cannot."""

    def set_wanted(self, wanted: bool) -> None:
        """Set whether frames are wanted. While they are not, they need only be counted."""


class RemoteTrack(MediaStreamTrack):
    """A track that a remote sends. `id` is the id that the sender gave it.

    Nothing is decoded before the first read, and then once for all readers. `recv()` serves one reader, or several that
    share the frames. `decoded()` returns an independent reader that gets every frame, `encoded()` one of the packets as
    the remote encoded them. A reader that is too slow drops its own frames, which `frames_dropped` counts.

    Pictures of more than `max_picture_pixels` are dropped before they are decoded, recorded or forwarded, together with
    the pictures that depend on them. `pictures_refused` counts them, and a `PictureRefused` event reports the first.

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
        """The sender's clock in relation to the time of the track, which is that of its packets and frames."""
        self.frames_received = 0
        self.frames_decoded = 0
        self.frames_unread = 0
        self.drops = Tally()
        self.on_refused: Callable[[RemoteTrack, int, int, int], None] | None = None
        """Called for the first picture that is too large: with the track, width, height and the limit in pixels."""
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
        self._check: asyncio.TimerHandle | None = None

    @property
    def codec(self) -> str | None:
        """The MIME type of the last packet that arrived, `video/VP8` for instance. None before the first packet."""
        return self._codec.mimeType if self._codec is not None else None

    @property
    def is_decoding(self) -> bool:
        """Whether there is a decoder: while there are readers of frames, and a moment longer."""
        return self._decoder is not None

    @property
    def max_picture_pixels(self) -> int:
        """Pixels that a picture may have, 4096x4096 by default. A decoded pixel takes 1.5 bytes."""
        return self._limit.max_pixels

    @max_picture_pixels.setter
    def max_picture_pixels(self, pixels: int) -> None:
        if not isinstance(pixels, int) or isinstance(pixels, bool) or pixels < 1:
            raise ValueError(f"max_picture_pixels must be an int, 1 or more, not {pixels!r}")
        self._limit.max_pixels = pixels
        if self._limit.refused:
            self.request_key_frame()

    @property
    def pictures_refused(self) -> int:
        """Pictures that were too large, and those after them up to a smaller key frame. Part of `frames_dropped`."""
        return self._limit.refused

    @property
    def frames_dropped(self) -> int:
        """Dropped frames: `frames_unread`, those before a key frame, broken and too large ones, and those that a reader
        was too slow for, once for each reader."""
        return self.frames_unread + self.drops.count

    @property
    def queue_length(self) -> int:
        """Decoded frames that wait for a reader, for the slowest one if there are several."""
        return max((it.queue_length for it in self._frame_readers), default=0)

    @property
    def frames_undecoded(self) -> int:
        """Encoded frames that wait for the decoder."""
        return self._decoder.queue_length if self._decoder is not None else 0

    async def recv(self) -> av.AudioFrame | av.VideoFrame:
        """Return the next frame as an `av.VideoFrame` or `av.AudioFrame`.

        Concurrent calls share the frames, each frame going to one of them. Cancellation loses no frame.

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
        """Return an independent reader of the frames, which starts with its first `recv()`. Stop it when done."""
        return DecodedTrack(self)

    def encoded(self) -> EncodedTrack:
        """Return an independent reader of the packets, which starts with its first `recv()`. Stop it when done."""
        return EncodedTrack(self)

    def request_key_frame(self) -> None:
        """Request a key frame from the remote, now or as soon as the last request is half a second old.

        Does nothing while the track has no readers.
        """
        if self.kind == "video" and self.readyState == "live" and self._update_wanted():
            self._requests.request_key_frame()

    def stop(self) -> None:
        """End the track at this end. Readers get what is queued for them, then `MediaStreamError`."""
        super().stop()
        for reader in (*self._frame_readers, *self._packet_readers):
            reader.end()
        self._packet_readers.clear()
        self._stop_decoding()
        self._requests.stop()

    # --- what arrives

    def push_frame(self, frame: EncodedFrame) -> None:
        """Pass an encoded frame to the decoder and the readers, or count it if there are none."""
        if self.readyState != "live":
            return
        self.frames_received += 1
        self._codec = frame.codec
        if frame.is_key:
            self._requests.key_frame_arrived()
        if not self._update_wanted():
            self.frames_unread += 1
            return
        if self.kind == "video" and not self._limit.passes(frame.codec.mimeType, frame.data, is_key=frame.is_key):
            self._refuse()
            return
        for reader in tuple(self._packet_readers):
            reader.push_frame(frame)
        if self._decoder is not None:
            self._decoder.push_frame(frame)

    def _refuse(self) -> None:
        self.drops.add()
        if self._limit.largest is not None and not self._has_told_refused:
            self._has_told_refused = True
            if self.on_refused is not None:
                self.on_refused(self, *self._limit.largest, self._limit.max_pixels)

    def count_unread(self, frames: int) -> None:
        """Count frames that arrived while none were wanted."""
        if self.readyState == "live":
            self.frames_received += frames
            self.frames_unread += frames

    def note_codec(self, codec: Any) -> None:
        """Record the codec of packets that arrive while none are wanted."""
        self._codec = codec

    def picture_lost(self) -> None:
        """Handle the loss of a part of the video: request a key frame, unless there are no readers."""
        self.request_key_frame()

    def _update_wanted(self) -> bool:
        """Tell the receiver whether there are readers, if that has changed. They may vanish without `stop`."""
        wanted = self._decoder is not None or bool(self._packet_readers)
        if wanted != self._is_wanted:
            self._is_wanted = wanted
            self._upstream.set_wanted(wanted)
            if not wanted:
                self._requests.stop()
        return wanted

    # --- readers

    def add_frame_reader(self, reader: DecodedTrack) -> None:
        """Deliver frames to a reader. Starts decoding for the first one."""
        if self.readyState != "live":
            reader.end()
            return
        self._frame_readers.add(reader)
        if self._decoder is None:
            self._decoder = FrameDecoder(self.kind, self.deliver_frames, self.request_key_frame, self.drops)
            self._check_later()
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

    def deliver_frames(self, frames: list[Any]) -> None:
        """Deliver decoded frames to all readers of frames."""
        self.frames_decoded += len(frames)
        for reader in tuple(self._frame_readers):
            for frame in frames:
                reader.push_frame(frame)

    def _check_later(self) -> None:
        self._check = asyncio.get_running_loop().call_later(LINGER, self._check_repeatedly)

    def _check_repeatedly(self) -> None:
        self.check_readers()
        if self._decoder is not None:
            self._check_later()

    def check_readers(self) -> None:
        """Stop decoding when no reader of frames is left. Readers may be dropped without `stop`."""
        shared = self._shared
        idle = asyncio.get_running_loop().time() - self._shared_at
        if shared is not None and not shared.is_awaited and idle > RECV_PAUSE:
            shared.stop()
            self._shared = None
        if not self._frame_readers:
            self._stop_decoding()

    def _stop_decoding(self) -> None:
        if self._check is not None:
            self._check.cancel()
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            decoder.close()
        self._update_wanted()


class _NoUpstream:
    """The upstream of a track without a receiver."""

    def request_key_frame(self) -> bool:
        return False

    def set_wanted(self, wanted: bool) -> None:
        """Do nothing."""
