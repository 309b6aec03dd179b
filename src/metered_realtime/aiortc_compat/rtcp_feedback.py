"""Feedback of receivers to a sender: requests for key frames and lost packets, and estimates.

aiortc keeps it to itself when it does not encode.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

from aiortc import RTCDtlsTransport, RTCRtpSender
from aiortc.rtcdtlstransport import RtpRouter
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RTCP_PSFB_FIR,
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    RTP_HISTORY_SIZE,
    RtcpPsfbPacket,
    RtcpRtpfbPacket,
    unpack_remb_fci,
)

from ..core.media.rates import RateWindow
from ..core.media.retransmissions import Retransmissions
from .stats import FrameCounter
from .version import Guard, KnownPart

MAX_SANE_BITRATE = 10**10
"""Bits per second above which an estimate (REMB) is noise: the format holds up to 2^81."""

FIR_ENTRY = struct.Struct(">I4x")
"""The source that has to send a key frame; a sequence number and a reserved field follow (RFC 5104 section 4.3.1.1)."""


@runtime_checkable
class KeepsPackets(Protocol):
    """Keeps the packets that a sender has sent."""

    def kept(self, numbers: set[int]) -> list[tuple[int, int]]:
        """Return which of these packets are kept, the oldest first, with their sizes in bytes."""


class Feedback(Protocol):
    """Handles the feedback of a sender's receivers."""

    def request_key_frame(self) -> None: ...
    def take_estimate(self, bitrate: int) -> None: ...


ROUTER_GUARD = Guard(
    "using aiortc's own routing: full intra requests may not be heard",
    KnownPart(RtpRouter, "199bd7e279f1945a", "route_rtcp"),
)


def listen_to_feedback(sender: RTCRtpSender, feedback: Feedback) -> Retransmissions:
    """Pass each PLI and FIR (RFC 4585 section 6.3.1, RFC 5104 section 4.3.1) and each REMB for a sender to `feedback`.

    An estimate is shared equally among the senders that it names. Returns what decides on requests for lost packets.

    aiortc remembers PLI and FIR for the next frame that it encodes, and passes REMB to its encoder; a sender of encoded
    packets has neither.
    """
    hooked: Any = sender
    tap = hooked._handle_rtcp_packet = _FeedbackTap(hooked, feedback)
    return tap.retransmissions


def route_full_intra_requests(transport: RTCDtlsTransport) -> None:
    """Route each FIR to the senders that it names.

    aiortc reads them from the packet's header, which has zero there: FIR names them in its entries (RFC 5104 section
    4.3.1.1).
    """
    if not ROUTER_GUARD.holds():
        return
    router: Any = transport._rtp_router
    route: Callable[[Any], set[Any]] = router.route_rtcp

    def with_targets(packet: Any) -> set[Any]:
        recipients = route(packet)
        if isinstance(packet, RtcpPsfbPacket) and packet.fmt == RTCP_PSFB_FIR:
            whole = len(packet.fci) // FIR_ENTRY.size * FIR_ENTRY.size
            targets = {source for (source,) in FIR_ENTRY.iter_unpack(packet.fci[:whole])}
            recipients |= {router.senders[source] for source in targets & router.senders.keys()}
        return recipients

    router.route_rtcp = with_targets


class Loudness(Protocol):
    """Knows the loudness of the most recent packet of a sender."""

    @property
    def level(self) -> int | None: ...


def send_levels(sender: RTCRtpSender, loudness: Loudness) -> None:
    """Send the audio level (RFC 6464) with encoded packets as well: aiortc computes it only for what it encodes.

    Call it for a sender whose frames are counted (`count_frames`); others send the level that aiortc computes.
    """
    counter = getattr(sender, "_next_encoded_frame", None)
    if not isinstance(counter, FrameCounter):
        return
    pass_on: Callable[[Any], Awaitable[Any]] = counter.pass_on

    async def with_level(codec: Any) -> Any:
        frame = await pass_on(codec)
        if frame is not None:
            frame.audio_level = loudness.level
        return frame

    counter.pass_on = with_level


class _FeedbackTap:
    """Replaces the RTCP handler of a sender, and passes everything on to it."""

    def __init__(self, sender: Any, feedback: Feedback) -> None:
        self._sender = sender
        self._feedback = feedback
        self._pass_on: Callable[[Any], Awaitable[None]] = sender._handle_rtcp_packet
        self._rate = RateWindow(time.monotonic())
        self.retransmissions = Retransmissions()

    async def __call__(self, packet: Any) -> None:
        if isinstance(packet, RtcpPsfbPacket):
            if packet.fmt in (RTCP_PSFB_PLI, RTCP_PSFB_FIR):
                self._feedback.request_key_frame()
            elif packet.fmt == RTCP_PSFB_APP:
                self._take_estimate(packet.fci)
        elif isinstance(packet, RtcpRtpfbPacket) and packet.fmt == RTCP_RTPFB_NACK:
            packet.lost = self._admitted(packet.lost)
        await self._pass_on(packet)

    def _admitted(self, lost: list[int]) -> list[int]:
        """Return which sequence numbers of a request are sent again. aiortc does not wrap those of a bit mask."""
        now = time.monotonic()
        sender = self._sender
        octets: int = sender._RTCRtpSender__octet_count
        rate, round_trip = self._rate.rate(octets, now), sender._RTCRtpSender__rtt
        return [
            number
            for number, size in self._kept({number & 0xFFFF for number in lost})
            if self.retransmissions.admit(number, size, now, round_trip=round_trip, rate=rate)
        ]

    def _kept(self, numbers: set[int]) -> list[tuple[int, int]]:
        """Return the packets that the sender still keeps, with their sizes."""
        source = self._sender._next_encoded_frame
        if isinstance(source, KeepsPackets):
            return source.kept(numbers)
        history = self._sender._RTCRtpSender__rtp_history
        kept = [(number, history.get(number % RTP_HISTORY_SIZE)) for number in numbers]
        return [(number, len(it.payload)) for number, it in kept if it is not None and it.sequence_number == number]

    def _take_estimate(self, message: bytes) -> None:
        try:
            bitrate, sources = unpack_remb_fci(message)
        except ValueError:  # another application layer message
            return
        if self._sender._ssrc in sources:
            # The estimate is for the path. Chromium lists everything that it receives there, retransmissions included.
            known = self._sender.transport._rtp_router.senders
            shares = sum(source in known for source in set(sources))
            self._feedback.take_estimate(min(bitrate, MAX_SANE_BITRATE) // max(1, shares))
