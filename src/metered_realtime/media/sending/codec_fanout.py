"""One codec of one local track: encoded once for everybody who negotiated it, or passed through.

There is a full rendition for all, and a low one while somebody is slow (`core.media.renditions` has the rule).
Packets that come in this codec already are the full rendition as they are.
"""

from __future__ import annotations

import asyncio
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
"""Seconds between two looks at the estimates. Receivers send one a second, or when it falls."""

SHRINK = 2
"""By what the low rendition divides width and height: a quarter of the pixels for half of the bits and less."""

SMALL = 320
"""Pixels of width below which the low rendition keeps the size: less would show nothing."""


Rendition = Literal["full", "low"]


MAX_KEPT_BYTES = 2 * 1024 * 1024
MAX_KEPT_PACKETS = 300
"""Packets since the last key frame that are kept of a source which cannot be asked for one, so that a newcomer sees
something at once: 10 s at 30 fps, as far as that makes 1.6 Mbit/s. With rarer key frames he waits for the next one.
They are there twice, as packets and as what these were cut into."""


@dataclass(slots=True)
class _Place:
    """Which rendition a forward track gets, and which one it is to get from that one's next key frame on."""

    current: Rendition = "full"
    wanted: Rendition = "full"


class CodecOwner(Protocol):
    """What a `CodecFanout` needs of the fan-out of its track."""

    @property
    def makes_key_frames(self) -> bool:
        """Whether the track can be asked for a key frame."""

    def ask_for_key_frame(self) -> bool:
        """Ask the track for a key frame. Return whether it can be asked."""

    def end_encoder(self, encoder: SharedEncoder) -> None:
        """Close an encoder that is not needed any more."""


class CodecFanout:
    """The forward tracks that negotiated one codec."""

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

    # --- who gets it

    @property
    def forwards(self) -> tuple[ForwardTrack, ...]:
        """Return everybody who gets it."""
        return tuple(self._places)

    def add(self, forward: ForwardTrack) -> None:
        """Send to a forward track, from a key frame on."""
        self._places[forward] = _Place()
        if self._renditions is not None:
            self._renditions.add(forward)
            if forward.estimate is not None:
                self._renditions.estimate(forward, forward.estimate)
        if self._kept:
            forward.catch_up(self._kept)
        else:
            self.request_key_frame(forward)

    def remove(self, forward: ForwardTrack) -> None:
        """Send nothing more to a forward track."""
        self._places.pop(forward, None)
        if self._renditions is not None:
            self._renditions.remove(forward)
        if not self._places:
            self._upstream.stop()
            self._end_full()
            self._end_low()

    def request_key_frame(self, forward: ForwardTrack) -> None:
        """Have a key frame made of what a forward track gets."""
        if self._kind == "video" and forward in self._places:
            self._request(self._places[forward].current)

    @property
    def wants_key_frame(self) -> bool:
        """Tell whether somebody waits for a key frame that an encoder has to make."""
        if self._full is None and not self.passes:
            return bool(self._places)
        return any(it is not None and it.wants_key_frame for it in (self._full, self._low))

    def estimate_changed(self, forward: ForwardTrack) -> None:
        """Take what a remote says it can take."""
        if self._renditions is not None and forward.estimate is not None:
            self._renditions.estimate(forward, forward.estimate)
            self._adapt()

    # --- what it gets

    @property
    def needs_frames(self) -> bool:
        """Tell whether frames are needed, also while the source gives packets."""
        return not self.passes or self._decision.low is not None or self._low is not None

    def frame(self, frame: Any, at: Fraction) -> None:
        """Take a frame that stands at a time in seconds, later than the one before."""
        self._adapt()
        if not self.passes:
            if self._full is None:
                self._full = self._start("full", 1, self._decision.full)
            self._full.feed(frame, at)
        if self._low is None and self._decision.low is not None:
            shrink = SHRINK if getattr(frame, "width", 0) >= SMALL else 1
            self._low = self._start("low", shrink, self._decision.low)
        if self._low is not None:
            self._low.feed(frame, at)

    def packet(self, packet: Packet) -> None:
        """Take a packet in this codec, its `pts` in the codec's clock."""
        self._adapt()
        self._passed_bytes += packet.size
        if packet.is_keyframe:
            self._upstream.arrived()
        shared = SharedPacket(packet)
        self.deliver("full", shared)
        self._keep(shared)

    def pass_through(self, passes: bool) -> None:
        """Note whether packets in this codec come, or something that has to be encoded."""
        if passes == self.passes:
            return
        self.passes = passes
        self._end_full()
        self._upstream.stop()
        self._kept.clear()
        for forward in self._places:
            forward.begin_anew()
        if passes:
            self._request("full")

    def receivers(self, rendition: Rendition) -> list[ForwardTrack]:
        """Return who gets a rendition."""
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

    def _encoder_of(self, forward: ForwardTrack) -> SharedEncoder | None:
        place = self._places.get(forward)
        return self._low if place is not None and place.current == "low" else self._full

    def _request(self, rendition: Rendition) -> None:
        encoder = self._low if rendition == "low" else self._full
        if encoder is not None:
            encoder.request_key_frame()
        elif rendition == "full" and self.passes:
            self._upstream.ask()

    def _keep(self, shared: SharedPacket) -> None:
        """Keep what a newcomer needs, of video whose source makes no key frames when it is asked."""
        if shared.is_keyframe:
            self._kept.clear()
            self._kept_bytes = 0
            self._keeps = self._kind == "video" and not self._owner.makes_key_frames
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

    def deliver(self, rendition: Rendition, shared: SharedPacket) -> None:
        """Hand out a packet of a rendition."""
        for forward, place in tuple(self._places.items()):
            if place.current != rendition and place.wanted == rendition and shared.is_keyframe:
                place.current = rendition
                forward.feed_other_rendition(shared)
            elif place.current == rendition:
                forward.feed(shared)

    def _adapt(self) -> None:
        """Follow the estimates."""
        now = self._loop.time()
        if self._renditions is None or now - self._adapted_at < ADAPT_INTERVAL:
            return
        self._adapted_at = now
        carried = [encoder.carries() if encoder is not None else 0.0 for encoder in (self._full, self._low)]
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
    """Takes what the encoder of a rendition makes."""

    fanout: CodecFanout
    rendition: Rendition

    def packet(self, packet: Packet) -> None:
        self.fanout.deliver(self.rendition, SharedPacket(packet))

    def frame_dropped(self) -> None:
        for forward in self.fanout.receivers(self.rendition):
            forward.frame_dropped()

    def frame_failed(self) -> None:
        for forward in self.fanout.receivers(self.rendition):
            forward.frame_failed()
