"""What one remote is sent in place of a local track: packets, ready to be packed.

aiortc's sender packs an `av.Packet` that `recv()` returns, without encoding it. It ends for good when its track ends or
raises, so a forward track outlives its sources, and whatever it returns can be packed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

import av
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack

from ..codecs.encoders import Packet, SendCodec
from .shared_packet import PlacedPacket, SharedPacket

MAX_WAITING_VIDEO = 60
"""Packets of video that wait for a sender: two seconds at 30 fps. Sending does not wait for the network, so they pile
up only while the event loop is stuck, and what is older than that is not worth sending."""

MAX_WAITING_AUDIO = 50
"""Packets of audio that wait for a sender: one second at 20 ms each."""


CATCH_UP_PAUSE = 0.002
"""Seconds between the pictures that bring a newcomer up to date: sent at once they would overflow his socket."""

CATCH_UP_STEP = 90
"""Ticks between their timestamps, a millisecond: a receiver hurries through them instead of showing them in their time
and lagging behind by as much for ever."""


class PacketSource(Protocol):
    """What forward tracks need of the source of their packets: `TrackFanout`."""

    def add(self, forward: ForwardTrack) -> None:
        """Send to a forward track that knows its codec, from the next key frame on."""

    def remove(self, forward: ForwardTrack) -> None:
        """Send nothing more to a forward track."""

    def request_key_frame(self, forward: ForwardTrack) -> None:
        """Have a key frame made for a forward track."""

    def estimate_changed(self, forward: ForwardTrack) -> None:
        """Follow the estimate of a forward track's receiver."""

    def target_bitrate(self, forward: ForwardTrack) -> int | None:
        """Return the bits per second that the encoder for a forward track aims at, None if it has no target."""

    def queue_length(self, forward: ForwardTrack) -> int:
        """Return how many frames wait for the encoder of a forward track."""

    def taken_at(self, at: float) -> float:
        """Return when, on the event loop's clock, the source gave what stands at this second of its time line."""


class ForwardTrack(MediaStreamTrack):
    """The packets of a local track for one remote, in the codec of its section.

    `recv()` waits while there is no source.

    Video begins with a key frame, and again after a switch and after packets were dropped. RTP timestamps go on over a
    switch by the time that has passed between the frames, however long the encoders took for them: sound and picture
    stay together.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.codec: SendCodec | None = None
        self.estimate: int | None = None
        self.level: int | None = None
        self.frames_dropped = 0
        self.frames_failed = 0
        self._source: PacketSource | None = None
        self._reading = False
        self._behind = 0
        self._joined = False
        self._queue: deque[PlacedPacket] = deque()
        self._bound = MAX_WAITING_VIDEO if kind == "video" else MAX_WAITING_AUDIO
        self._arrived = asyncio.Event()
        self._needs_key_frame = kind == "video"
        self._shift: int | None = None  # from the pts of the source to those that are sent
        self._placed: tuple[int, float] | None = None  # the last pts, and the second for which it stands

    # --- what the section says

    def negotiated(self, codec: SendCodec) -> None:
        """Take what the section sends, in all its time: a sender keeps its payload type."""
        if self.codec is None:
            self.codec = codec
            self._join()

    def switch(self, source: PacketSource | None) -> None:
        """Take packets of another source, or of none, starting with its next key frame.

        Nothing is pulled before the first `recv()`: a file does not play to a connection that is still being made.
        """
        if source is self._source:
            return
        self._leave()
        self._source = source
        self._queue.clear()
        self._behind = 0
        self._shift = None
        self.begin_anew()
        self._join()

    def request_key_frame(self) -> None:
        """Have a key frame sent soon: the remote cannot go on without."""
        if self._joined and self._source is not None:
            self._source.request_key_frame(self)

    def take_estimate(self, bitrate: int) -> None:
        """Note the bits per second that the remote says it can take."""
        self.estimate = bitrate
        if self._joined and self._source is not None:
            self._source.estimate_changed(self)

    # --- stats

    @property
    def target_bitrate(self) -> int | None:
        """Tell the bits per second that the encoder aims at, None if its rate is fixed."""
        return self._source.target_bitrate(self) if self._source is not None else None

    @property
    def queue_length(self) -> int:
        """Tell how many frames wait, for the encoder and for the sender."""
        return len(self._queue) + (self._source.queue_length(self) if self._source is not None else 0)

    # --- the sender's side

    async def recv(self) -> Packet:
        """Return the next packet. Others may get the very same one: it is not to be changed.

        Raises:
            MediaStreamError: the sender that owns this track was stopped.
        """
        shared, pts, _ = await self.next_shared_packet()
        self.level = shared.level
        return shared.packet if pts == shared.pts else moved(shared.packet, pts)

    async def next_shared_packet(self) -> PlacedPacket:
        """Return what `recv()` would, without a copy: the packet that all get, and the pts under which to send it.

        Raises:
            MediaStreamError: the sender that owns this track was stopped.
        """
        if not self._reading:
            self._reading = True
            self._join()
        await self._available()
        if self._behind:
            self._behind -= 1
            await asyncio.sleep(CATCH_UP_PAUSE)
            await self._available()  # a switch may have cleared the queue
        return self._queue.popleft()

    def stop(self) -> None:
        """End this forward track. The local track goes on."""
        self.switch(None)
        super().stop()
        self._arrived.set()

    # --- the fan-out's side

    def feed(self, shared: SharedPacket) -> None:
        """Take a packet of the source, whose pts are in the clock of the codec."""
        if self._needs_key_frame and not shared.is_keyframe:
            return
        self._needs_key_frame = False
        if len(self._queue) - self._behind >= self._bound:
            self._overflow(shared)
            if self._needs_key_frame:
                return
        self._queue.append(self._place(shared, shared.pts))
        self._arrived.set()

    def feed_other_rendition(self, shared: SharedPacket) -> None:
        """Take the key frame with which another rendition of the same source begins.

        That encoder may be some pictures behind: from then on its packets come that much later.
        """
        if self._shift is not None and self._placed is not None:
            self._shift = max(self._shift, self._placed[0] + 1 - shared.pts)
        self.feed(shared)

    def catch_up(self, packets: Sequence[SharedPacket]) -> None:
        """Take what has come since the last key frame, with which it begins, as fast as it can be sent."""
        self._needs_key_frame = False
        self._behind = len(packets)
        for place, shared in enumerate(packets, 1 - len(packets)):
            self._queue.append(self._place(shared, packets[-1].pts + place * CATCH_UP_STEP))
        self._arrived.set()

    def begin_anew(self) -> None:
        """Take nothing before the next key frame: what comes does not build on what came."""
        self._needs_key_frame = self.kind == "video"

    def frame_dropped(self) -> None:
        """Count a frame that the encoder was too slow for."""
        self.frames_dropped += 1

    def frame_failed(self) -> None:
        """Count a frame that could not be encoded."""
        self.frames_failed += 1

    async def _available(self) -> None:
        while not self._queue:
            if self.readyState != "live":
                raise MediaStreamError
            self._arrived.clear()
            await self._arrived.wait()

    def _overflow(self, shared: SharedPacket) -> None:
        """Make room: sound goes on with the newest, pictures with a key frame, since the others build on it."""
        if self.kind == "audio":
            self._queue.popleft()
            self.frames_dropped += 1
            return
        self.frames_dropped += len(self._queue)
        self._queue.clear()
        self._behind = 0
        if not shared.is_keyframe:
            self.frames_dropped += 1
            self._needs_key_frame = True
            self.request_key_frame()

    def _place(self, shared: SharedPacket, pts: int) -> PlacedPacket:
        """Give a packet, which has these pts from its source, those under which it is sent."""
        assert self.codec is not None
        if self._source is not None:
            taken_at = self._source.taken_at(pts / self.codec.clock_rate)
        else:
            taken_at = asyncio.get_running_loop().time()
        if self._shift is None:
            self._shift = 0
            if self._placed is not None:
                last, since = self._placed
                self._shift = last + max(1, round((taken_at - since) * self.codec.clock_rate)) - pts
        pts += self._shift
        if self._placed is None or pts > self._placed[0]:
            self._placed = pts, taken_at
        return PlacedPacket(shared, pts, taken_at)

    def _join(self) -> None:
        ready = self._reading and self.codec is not None and self.readyState == "live"
        if self._source is not None and ready and not self._joined:
            self._joined = True
            self._source.add(self)

    def _leave(self) -> None:
        if self._source is not None and self._joined:
            self._joined = False
            self._source.remove(self)


def moved(packet: Packet, pts: int) -> Packet:
    """Return a copy of a packet that stands elsewhere."""
    copy: Packet = av.Packet(memoryview(packet))  # type: ignore[arg-type]  # it takes any buffer
    copy.pts = copy.dts = pts
    copy.time_base = packet.time_base
    copy.is_keyframe = packet.is_keyframe
    copy.opaque = packet.opaque
    return copy
