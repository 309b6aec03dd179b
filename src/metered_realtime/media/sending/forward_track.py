"""The track that an RTP sender reads in place of a local track: encoded packets for one remote.

aiortc's sender packetizes an `av.Packet` that `recv()` returns, without encoding it. The sender ends for good when its
track ends or raises, so a forward track outlives its sources and returns only packets that can be packetized.
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
"""Video packets that wait for a sender: two seconds at 30 fps. Sending does not wait for the network, so packets pile
up only while the event loop is blocked, and older ones are not worth sending."""

MAX_WAITING_AUDIO = 50
"""Audio packets that wait for a sender: one second at 20 ms each."""


CATCH_UP_PAUSE = 0.002
"""Seconds between the pictures that bring a new receiver up to date: a single burst would overflow its socket."""

CATCH_UP_STEP = 90
"""Ticks between their timestamps, one millisecond: a receiver shows them as fast as it can, instead of at their
original pace and with that delay from then on."""


class PacketSource(Protocol):
    """What forward tracks need of the source of their packets: `TrackFanout`."""

    def add(self, forward: ForwardTrack) -> None:
        """Send to a forward track that knows its codec, from the next key frame on."""

    def remove(self, forward: ForwardTrack) -> None:
        """Send nothing more to a forward track."""

    def request_key_frame(self, forward: ForwardTrack) -> None:
        """Have a key frame made for a forward track."""

    def update_estimate(self, forward: ForwardTrack) -> None:
        """Follow the estimate of a forward track's receiver."""

    def target_bitrate(self, forward: ForwardTrack) -> int | None:
        """Return the bits per second that the encoder for a forward track aims at, None if it has no target."""

    def queue_length(self, forward: ForwardTrack) -> int:
        """Return how many frames wait for the encoder of a forward track."""

    def taken_at(self, at: float) -> float:
        """Return when the source gave the frame at this second of its time line, on the event loop's clock."""


class ForwardTrack(MediaStreamTrack):
    """The packets of a local track for one remote, in the codec of its section.

    `recv()` waits while there is no source.

    Video begins with a key frame, also after a switch and after dropped packets. Across a switch, RTP timestamps
    advance by the time between the frames, however long their encoders took: sound and picture stay in sync.
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
        self._shift: int | None = None  # from the pts of the source to those sent
        self._placed: tuple[int, float] | None = None  # the last pts, and when its frame was taken

    # --- for the section

    def negotiated(self, codec: SendCodec) -> None:
        """Set the codec of the section. Only the first call counts: a sender keeps its payload type."""
        if self.codec is None:
            self.codec = codec
            self._join()

    def switch(self, source: PacketSource | None) -> None:
        """Switch to another source, or to none, beginning with its next key frame.

        The source is not read before the first `recv()`: a file does not play before the connection is up.
        """
        if source is self._source:
            return
        self._leave()
        self._source = source
        self._queue.clear()
        self._behind = 0
        self._shift = None
        self.require_key_frame()
        self._join()

    def request_key_frame(self) -> None:
        """Have a key frame sent soon, because the remote cannot decode without one."""
        if self._joined and self._source is not None:
            self._source.request_key_frame(self)

    def take_estimate(self, bitrate: int) -> None:
        """Record the remote's estimate of what it can receive, in bits per second."""
        self.estimate = bitrate
        if self._joined and self._source is not None:
            self._source.update_estimate(self)

    # --- stats

    @property
    def target_bitrate(self) -> int | None:
        """The bits per second that the encoder aims at, None if its bitrate is fixed."""
        return self._source.target_bitrate(self) if self._source is not None else None

    @property
    def queue_length(self) -> int:
        """Frames that wait for the encoder, and packets that wait for the sender."""
        return len(self._queue) + (self._source.queue_length(self) if self._source is not None else 0)

    # --- for the sender

    async def recv(self) -> Packet:
        """Return the next packet. It may be shared with other receivers and must not be changed.

        Raises:
            MediaStreamError: the sender that owns this track was stopped.
        """
        shared, pts, _ = await self.next_shared_packet()
        self.level = shared.level
        return shared.packet if pts == shared.pts else moved(shared.packet, pts)

    async def next_shared_packet(self) -> PlacedPacket:
        """Return the next packet as shared by all receivers, with its `pts` for this one.

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
        """End this forward track. The local track continues."""
        self.switch(None)
        super().stop()
        self._arrived.set()

    # --- for the source

    def push_packet(self, shared: SharedPacket) -> None:
        """Queue a packet of the source, its pts in the codec's clock. A full queue drops packets."""
        if self._needs_key_frame and not shared.is_keyframe:
            return
        self._needs_key_frame = False
        if len(self._queue) - self._behind >= self._bound:
            self._overflow(shared)
            if self._needs_key_frame:
                return
        self._queue.append(self._place(shared, shared.pts))
        self._arrived.set()

    def push_new_rendition(self, shared: SharedPacket) -> None:
        """Queue the key frame with which another rendition of the same source begins.

        Its encoder may be some pictures behind; from then on timestamps are that much later.
        """
        if self._shift is not None and self._placed is not None:
            self._shift = max(self._shift, self._placed[0] + 1 - shared.pts)
        self.push_packet(shared)

    def catch_up(self, packets: Sequence[SharedPacket]) -> None:
        """Queue the packets since the last key frame, which is the first of them, to be sent as fast as possible."""
        self._needs_key_frame = False
        self._behind = len(packets)
        for place, shared in enumerate(packets, 1 - len(packets)):
            self._queue.append(self._place(shared, packets[-1].pts + place * CATCH_UP_STEP))
        self._arrived.set()

    def require_key_frame(self) -> None:
        """Drop everything before the next key frame, because it does not continue what was sent."""
        self._needs_key_frame = self.kind == "video"

    def count_dropped_frame(self) -> None:
        """Count a frame that was dropped because the encoder was too slow."""
        self.frames_dropped += 1

    def count_failed_frame(self) -> None:
        """Count a frame that could not be encoded."""
        self.frames_failed += 1

    async def _available(self) -> None:
        while not self._queue:
            if self.readyState != "live":
                raise MediaStreamError
            self._arrived.clear()
            await self._arrived.wait()

    def _overflow(self, shared: SharedPacket) -> None:
        """Make room: audio drops its oldest packet, video everything up to the next key frame."""
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
        """Return a packet with the pts under which it is sent, given those of its source."""
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
    """Return a copy of a packet with other `pts`."""
    copy: Packet = av.Packet(memoryview(packet))  # type: ignore[arg-type]  # it takes any buffer
    copy.pts = copy.dts = pts
    copy.time_base = packet.time_base
    copy.is_keyframe = packet.is_keyframe
    copy.opaque = packet.opaque
    return copy
