"""One codec of one local track: encoded once for all receivers that negotiated it, or passed through.

There is a full rendition, and a low one while any receiver is slow (`core.media.renditions` has the rule). Packets of a
source that are in this codec already serve as the full rendition.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol

from ...core.media.rates import RateWindow
from ...core.media.renditions import Decision, Renditions
from ...log import Logger
from ..codecs.encoders import Packet, SendCodec, make_encoder, video_limits
from ..receiving.key_frames import KeyFrameRequests
from .forward_track import ForwardTrack
from .shared_encoder import SharedEncoder
from .shared_packet import SharedPacket

ADAPT_INTERVAL = 0.25
"""Seconds between two checks of the estimates. Receivers send one per second, or when it falls."""

SHRINK = 2
"""Divisor of width and height in the low rendition: a quarter of the pixels for half of the bits or less."""

SMALL = 320
"""Pixels of width below which the low rendition keeps the full size: a smaller picture would be useless."""


Rendition = Literal["full", "low"]


MAX_KEPT_BYTES = 2 * 1024 * 1024
MAX_KEPT_PACKETS = 300
"""Packets since the last key frame that are kept of a source that cannot be asked for one, so that a new receiver has a
picture at once: 10 s at 30 fps and 1.6 Mbit/s. With rarer key frames a new receiver waits for the next one. They are in
memory twice, as packets and as RTP payloads."""


@dataclass(slots=True)
class _Place:
    """The rendition that a forward track gets, and the one that it gets from that one's next key frame on."""

    current: Rendition = "full"
    wanted: Rendition = "full"


class CodecOwner(Protocol):
    """What a `CodecFanout` needs of the fan-out of its track."""

    @property
    def keeps_pictures(self) -> bool:
        """Whether new receivers get the pictures since the last key frame."""

    def ask_for_key_frame(self) -> bool:
        """Ask the track for a key frame. Return whether it can be asked."""

    def end_encoder(self, encoder: SharedEncoder) -> None:
        """Close an encoder that is not needed any more."""


class CodecFanout:
    """Sends one codec of a track to the forward tracks that negotiated it."""

    def __init__(self, codec: SendCodec, kind: str, owner: CodecOwner, logger: Logger) -> None:
        self.codec = codec
        self.passes = False
        self._kind = kind
        self._owner = owner
        self._logger = logger
        self._loop = asyncio.get_running_loop()
        self._places: dict[ForwardTrack, _Place] = {}
        self._full: SharedEncoder | None = None
        self._low: SharedEncoder | None = None
        self._upstream = KeyFrameRequests(owner.ask_for_key_frame)
        self._keeps = False
        self._kept: list[SharedPacket] = []
        self._kept_bytes = 0
        limits = video_limits(codec)
        self._renditions: Renditions[ForwardTrack] | None = Renditions(limits) if limits is not None else None
        self._decision: Decision[ForwardTrack] = Decision(limits.start if limits is not None else 0, None, frozenset())
        self._adapted_at = self._loop.time()
        self._passed_bytes = 0
        self._passed_rate = RateWindow(self._adapted_at)

    # --- receivers

    @property
    def forwards(self) -> tuple[ForwardTrack, ...]:
        """The forward tracks, in the order in which they were added."""
        return tuple(self._places)

    def add(self, forward: ForwardTrack) -> None:
        """Send to a forward track, beginning with a key frame."""
        self._places[forward] = _Place()
        if self._renditions is not None:
            self._renditions.add_receiver(forward)
            if forward.estimate is not None:
                self._renditions.set_estimate(forward, forward.estimate)
        if self._kept:
            forward.catch_up(self._kept)
        else:
            self.request_key_frame(forward)

    def remove(self, forward: ForwardTrack) -> None:
        """Send nothing more to a forward track."""
        self._places.pop(forward, None)
        if self._renditions is not None:
            self._renditions.remove_receiver(forward)
        if not self._places:
            self._upstream.stop()
            self._end_full()
            self._end_low()

    def request_key_frame(self, forward: ForwardTrack) -> None:
        """Request a key frame in the rendition of a forward track."""
        if self._kind == "video" and forward in self._places:
            self._request(self._places[forward].current)

    @property
    def wants_key_frame(self) -> bool:
        """Whether a receiver waits for a key frame that an encoder has to make."""
        if self._full is None and not self.passes:
            return bool(self._places)
        return any(it is not None and it.wants_key_frame for it in (self._full, self._low))

    def update_estimate(self, forward: ForwardTrack) -> None:
        """Follow the estimate of a forward track's receiver."""
        if self._renditions is not None and forward.estimate is not None:
            self._renditions.set_estimate(forward, forward.estimate)
            self._adapt()

    # --- what arrives

    @property
    def needs_frames(self) -> bool:
        """Whether frames are needed, even while the source gives packets in this codec."""
        return not self.passes or self._decision.low is not None or self._low is not None

    def push_frame(self, frame: Any, at: Fraction) -> None:
        """Encode a frame at a time in seconds, later than the previous one."""
        self._adapt()
        if not self.passes:
            if self._full is None:
                self._full = self._start("full", 1, self._decision.full)
            self._full.push_frame(frame, at)
        if self._low is None and self._decision.low is not None:
            shrink = SHRINK if getattr(frame, "width", 0) >= SMALL else 1
            self._low = self._start("low", shrink, self._decision.low)
        if self._low is not None:
            self._low.push_frame(frame, at)

    def push_packet(self, packet: Packet) -> None:
        """Send a packet in this codec, its `pts` in the codec's clock."""
        self._adapt()
        self._passed_bytes += packet.size
        if packet.is_keyframe:
            self._upstream.key_frame_arrived()
        shared = SharedPacket(packet)
        self.deliver_packet("full", shared)
        self._keep(shared)

    def set_passing(self, passes: bool) -> None:
        """Set whether the source gives packets in this codec. A change restarts all receivers with a key frame."""
        if passes == self.passes:
            return
        self.passes = passes
        self._end_full()
        self._upstream.stop()
        self._kept.clear()
        for forward in self._places:
            forward.require_key_frame()
        if passes:
            self._request("full")

    def receivers(self, rendition: Rendition) -> list[ForwardTrack]:
        """Return the forward tracks that get a rendition."""
        return [forward for forward, place in self._places.items() if place.current == rendition]

    # --- stats

    def target_bitrate(self, forward: ForwardTrack) -> int | None:
        """Return the bits per second that the encoder for a forward track aims at, None if it has no target."""
        encoder = self._encoder_of(forward)
        return encoder.bitrate if encoder is not None and self._renditions is not None else None

    def queue_length(self, forward: ForwardTrack) -> int:
        """Return how many frames wait for the encoder of a forward track."""
        encoder = self._encoder_of(forward)
        return encoder.queue_length if encoder is not None else 0

    # --- inside

    @property
    def kept(self) -> Sequence[SharedPacket]:
        """The packets since the last key frame, if they are kept, with the latest one."""
        return self._kept

    def _encoder_of(self, forward: ForwardTrack) -> SharedEncoder | None:
        place = self._places.get(forward)
        return self._low if place is not None and place.current == "low" else self._full

    def _request(self, rendition: Rendition) -> None:
        encoder = self._low if rendition == "low" else self._full
        if encoder is not None:
            encoder.request_key_frame()
        elif rendition == "full" and self.passes:
            self._upstream.request_key_frame()

    def _keep(self, shared: SharedPacket) -> None:
        """Keep what a new receiver needs, for video whose source cannot be asked for key frames."""
        if shared.is_keyframe or not self._owner.keeps_pictures:
            self._kept.clear()
            self._kept_bytes = 0
            self._keeps = self._kind == "video" and self._owner.keeps_pictures
        if self._keeps:
            self._kept.append(shared)
            self._kept_bytes += shared.packet.size
        if len(self._kept) > MAX_KEPT_PACKETS or self._kept_bytes > MAX_KEPT_BYTES:
            self._kept.clear()
            self._keeps = False

    def _start(self, rendition: Rendition, shrink: int, bitrate: int) -> SharedEncoder:
        encoder = make_encoder(self.codec, shrink)
        return SharedEncoder(encoder, self._kind, bitrate, _Outlet(self, rendition), self._logger)

    def _end_full(self) -> None:
        if self._full is not None:
            self._owner.end_encoder(self._full)
            self._full = None

    def _end_low(self) -> None:
        if self._low is not None:
            self._owner.end_encoder(self._low)
            self._low = None

    def deliver_packet(self, rendition: Rendition, shared: SharedPacket) -> None:
        """Send a packet of a rendition to the forward tracks that get it, or switch to it with this key frame."""
        for forward, place in tuple(self._places.items()):
            if place.current != rendition and place.wanted == rendition and shared.is_keyframe:
                place.current = rendition
                forward.push_new_rendition(shared)
            elif place.current == rendition:
                forward.push_packet(shared)

    def _adapt(self) -> None:
        """Follow the estimates, at most every `ADAPT_INTERVAL`."""
        now = self._loop.time()
        if self._renditions is None or now - self._adapted_at < ADAPT_INTERVAL:
            return
        self._adapted_at = now
        carried = [encoder.output_bitrate() if encoder is not None else 0.0 for encoder in (self._full, self._low)]
        if self.passes:
            carried[0] = 8 * (self._passed_rate.rate(self._passed_bytes, now) or 0.0)
        decision = self._decision = self._renditions.decide(now, *carried)
        if self._full is not None:
            self._full.bitrate = decision.full
        if self._low is not None and decision.low is not None:
            self._low.bitrate = decision.low
        for forward, place in self._places.items():
            self._move(place, "low" if forward in decision.slow else "full")
        if self._low is not None and all("low" not in (it.current, it.wanted) for it in self._places.values()):
            self._end_low()

    def _move(self, place: _Place, wanted: Rendition) -> None:
        if place.wanted != wanted:
            place.wanted = wanted
            if place.current != wanted:
                self._request(wanted)


@dataclass(frozen=True, slots=True)
class _Outlet:
    """Passes the packets of one rendition's encoder on."""

    fanout: CodecFanout
    rendition: Rendition

    def push_packet(self, packet: Packet) -> None:
        self.fanout.deliver_packet(self.rendition, SharedPacket(packet))

    def count_dropped_frame(self) -> None:
        for forward in self.fanout.receivers(self.rendition):
            forward.count_dropped_frame()

    def count_failed_frame(self) -> None:
        for forward in self.fanout.receivers(self.rendition):
            forward.count_failed_frame()
